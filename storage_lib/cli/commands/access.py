"""``access``: the policy that says who may do what."""

import sys
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from storage_lib.cli.command import Run, command, group
from storage_lib.cli.interrupts import interruptible
from storage_lib.cli.local_files import all_of_stdin

app = group("access", "The access policy.")

_FILE = typer.Argument(metavar="FILE", help="The policy; - for stdin.")


@command(app, "check", store=False)
async def check(run: Run, file: Annotated[str, _FILE]) -> None:
    """Check a policy, and say what is wrong with it."""
    from storage_lib.access import Policy

    Policy.parse(_read(file))
    run.note("The policy is valid.")


@command(app, "set", yes=True)
async def set_(run: Run, file: Annotated[str, _FILE]) -> None:
    """Keep a policy in the store.

    Apps with AGENT_STORAGE_ACCESS_POLICY=store follow it within 10 seconds.
    """
    from storage_lib.access import Policy
    from storage_lib.access.source import POLICY_KEY
    from storage_lib.errors import ObjectExistsError

    document = _read(file)
    Policy.parse(document)
    async with run.open(creating=True) as storage:
        put = partial(storage.backend.objects.put, POLICY_KEY, document, content_type="application/json")
        try:
            await put(if_absent=True)
        except ObjectExistsError:
            run.confirm("Replace the access policy in the store?")
            await put()
    run.note("Saved the policy.")


@command(app, "show")
async def show(run: Run) -> None:
    """Write the policy that is kept in the store."""
    from storage_lib.access.source import POLICY_KEY

    async with run.open() as storage:
        found = await storage.backend.objects.get(POLICY_KEY)
    assert found is not None  # noqa: S101 - only a get with if_none_match answers None
    run.out.line(found.data.decode().rstrip("\n"))


@command(app, "digest", store=False)
async def digest(run: Run) -> None:
    """Read a function key from stdin, and write what stands for it in a policy."""
    import hashlib

    with interruptible():
        key = sys.stdin.readline()
    run.out.line(hashlib.sha256(key.rstrip("\r\n").encode()).hexdigest())


def _read(file: str) -> bytes:
    return all_of_stdin() if file == "-" else Path(file).read_bytes()
