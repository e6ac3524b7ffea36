"""No event loop of the synchronous twin is left open, however a program or a process ends."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import PROJECT

PROGRAM = """
import asyncio, gc, os, sys, threading
from storage_lib import StorageConfig
from storage_lib.blocking import Blocking
from storage_lib.sync import SyncStorageManager

def opened():
    return SyncStorageManager(StorageConfig(storage_type="file", base_path=sys.argv[2]))

def use(storage):
    storage.save("a", 1)
    storage.write("large", bytes(2_000_000))  # In a thread, which wakes the loop.
    assert storage.load("a") == 1

def forked(work):
    if (child := os.fork()) == 0:
        work()
        sys.exit(0)
    assert os.waitpid(child, 0)[1] == 0
    use(storage)
    print("parent")

async def notebook(work):
    work()

def dropped():
    global storage
    use(storage)
    storage = None
    gc.collect()

def on_threads():
    threads = [threading.Thread(target=use, args=(storage,)) for _ in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()

def on_a_daemon():
    done = threading.Event()
    def work():
        use(storage)
        done.set()
        threading.Event().wait()
    threading.Thread(target=work, daemon=True).start()
    done.wait()

def from_memory():
    other = SyncStorageManager(StorageConfig(storage_type="memory"))
    other.save("a", 1)
    forked(lambda: (other.save("b", 2), gc.collect()))

def fork_on_a_thread():
    thread = threading.Thread(target=lambda: forked(lambda: None))
    thread.start()
    thread.join()

def in_a_call(pause):
    async def call():
        await asyncio.sleep(pause)
        fork_on_a_thread()
    async def at_once():
        fork_on_a_thread()
    Blocking().call(call() if pause else at_once())

storage = opened()
use(storage)
match sys.argv[1]:
    case "left": pass
    case "closed": storage.close()
    case "dropped": dropped()
    case "threads": on_threads()
    case "daemon": on_a_daemon()
    case "iteration": kept = iter(storage.list_keys("")); next(kept)
    case "notebook": asyncio.run(notebook(lambda: use(storage)))
    case "dropped in a notebook": asyncio.run(notebook(dropped))
    case "exit of a notebook": asyncio.run(notebook(lambda: (use(storage), sys.exit(0))))
    case "fork": forked(lambda: None)
    case "fork that closes": forked(storage.close)
    case "fork that opens": forked(lambda: use(opened()))
    case "fork that goes on": from_memory()
    case "fork as a call begins": in_a_call(0)
    case "fork during a call": in_a_call(0.001)
    case "fork of a notebook": asyncio.run(notebook(lambda: forked(lambda: None)))
print("end")
"""
CASES = [line.split('"')[1] for line in PROGRAM.splitlines() if line.lstrip().startswith("case ")]


@pytest.mark.parametrize("case", CASES)
def test_no_loop_is_left_open(case: str, tmp_path: Path) -> None:
    # That a process with threads is forked is no matter here.
    warned = ["-W", "always::ResourceWarning", "-W", "ignore::DeprecationWarning"]
    run = subprocess.run(
        [sys.executable, *warned, "-c", PROGRAM, case, str(tmp_path)],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert run.returncode == 0, run.stderr
    assert run.stderr == ""
    assert ("end" in run.stdout) != ("exit" in case)
    assert ("parent" in run.stdout) == ("fork" in case)
