"""The same no-op tasks with Celery.

On its filesystem transport with results kept as files, which waits for no disk; and on its SQLite transport
with results in SQLite, which does, as ours.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

TASKS = 600
TRANSPORTS = {
    "filesystem": """
app = Celery("bench_celery", broker="filesystem://", backend="file://{folder}/results")
app.conf.broker_transport_options = {{
    "data_folder_in": "{folder}/queue", "data_folder_out": "{folder}/queue",
    "control_folder": "{folder}/control", "store_processed": False,
}}
""",
    "SQLite": """
from kombu.transport.sqlalchemy import Transport

app = Celery("bench_celery", broker="sqla+sqlite:///{folder}/queue.db", backend="db+sqlite:///{folder}/results.db")
# It asks for messages once a second otherwise; no option says so.
Transport.polling_interval = 0.02
""",
}
APP = """
from celery import Celery
{transport}
app.conf.task_acks_late = True

@app.task
def no_op():
    return None
"""
SUBMIT = """
import time
from bench_celery import no_op
started = time.perf_counter()
results = [no_op.delay() for _ in range({tasks})]
for result in results:
    result.get(timeout=120, interval=0.02)
print({tasks} / (time.perf_counter() - started))
"""


def rate(transport: str) -> float:
    """Tasks a second, from the first submission to the last result."""
    with tempfile.TemporaryDirectory() as folder:
        for name in ("queue", "control", "results"):
            (Path(folder) / name).mkdir()
        broker = TRANSPORTS[transport].format(folder=folder)
        (Path(folder) / "bench_celery.py").write_text(APP.format(transport=broker))
        environment = os.environ | {"PYTHONPATH": folder, "C_FORCE_ROOT": "1"}
        log = Path(folder) / "worker.log"
        worker = subprocess.Popen(
            [
                *(sys.executable, "-m", "celery", "-A", "bench_celery", "worker"),
                *("--pool", "threads", "-c", "8", "-l", "INFO", "-f", str(log)),
            ],
            env=environment,
            cwd=folder,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            until = time.monotonic() + 60
            while not (log.exists() and " ready." in log.read_text()):
                assert worker.poll() is None, "the Celery worker ended"
                assert time.monotonic() < until, "the Celery worker does not become ready"
                time.sleep(0.1)
            submit = subprocess.run(
                [sys.executable, "-c", SUBMIT.format(tasks=TASKS)],
                env=environment,
                cwd=folder,
                capture_output=True,
                text=True,
                check=True,
            )
            return float(submit.stdout)
        finally:
            worker.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                worker.wait(20)
            if worker.poll() is None:
                worker.kill()
