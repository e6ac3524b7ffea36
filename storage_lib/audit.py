"""The audit log: entries of a program's own, on whose behalf it acts, and the search for tampering.

    with acting_as("agent:ceo", "order-17"):
        await storage.save("configs/ceo.json", config)
    await audit_log(action="approve", resource="orders/17", context={"level": 2})

``python -m storage_lib.audit verify PATH`` exits with 0 if it finds nothing, 1 if it does, and 2 if it cannot
be done. docs/layers.md tells what is recorded, and what `verify` can and cannot find.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec

from storage_lib.arguments import mapping
from storage_lib.callers import Caller, acting_as, caller
from storage_lib.config import StorageConfig
from storage_lib.errors import ConfigurationError, InvalidArgumentError, ObjectTooLargeError, StorageError
from storage_lib.layers.audit.entries import Entry
from storage_lib.layers.audit.findings import Finding, Report
from storage_lib.layers.audit.journal import AuditUnavailableError
from storage_lib.layers.audit.layer import AuditLayer, newest
from storage_lib.layers.audit.verification import verify_files
from storage_lib.layers.audit.verification import verify_table as _verify_table
from storage_lib.ports.backend import StorageBackend

__all__ = [
    "AuditUnavailableError",
    "Caller",
    "Finding",
    "Report",
    "acting_as",
    "audit_log",
    "caller",
    "verify",
    "verify_table",
]

MAX_TEXT = 1024
MAX_CONTEXT_BYTES = 16 * 1024


async def audit_log(
    *,
    action: str,
    resource: str,
    actor: str | None = None,
    outcome: str = "success",
    context: Mapping[str, Any] | None = None,
) -> None:
    """Write an entry of your own into the audit log: that of the newest backend in this process that has one;
    without any, into the log that the settings choose, by default the logger ``AOS.Audit``.

    :param action: what was done.
    :param resource: to what.
    :param actor: who did it; None takes the caller that `acting_as`, the HTTP functions and the task engine
        set, by default ``system``.
    :param outcome: ``success``, or what went wrong.
    :param context: more, as JSON of at most 16 KiB. Put no secrets there: it is stored in clear.
    :raises InvalidArgumentError: an argument is no text of 1 to 1,024 characters, or the context no JSON.
    :raises AuditUnavailableError: it cannot be written, and the options say ``refuse``.
    """
    who = caller()
    more = None if context is None else _checked_context(mapping("context", context))
    entry = Entry(
        time=datetime.now(UTC),
        actor=_text("actor", who.actor if actor is None else actor),
        action=_text("action", action),
        resource=_text("resource", resource),
        outcome=_text("outcome", outcome),
        correlation=who.correlation,
        context=more,
    )
    await (newest() or _from_settings()).log(entry)


def _text(name: str, value: object) -> str:
    if isinstance(value, str) and 0 < len(value) <= MAX_TEXT:
        try:
            value.encode()
        except UnicodeEncodeError:
            pass
        else:
            return value
    raise InvalidArgumentError(
        f"{name} is {ascii(value)[:80]}", field=name, limit=f"a text of 1 to {MAX_TEXT} characters"
    )


def _checked_context(context: Mapping[str, Any]) -> dict[str, Any]:
    try:
        text = msgspec.json.encode(dict(context))
        plain: Any = msgspec.json.decode(text)
    except (TypeError, ValueError, msgspec.MsgspecError, RecursionError) as error:
        raise InvalidArgumentError(f"the context is no JSON: {error}", field="context") from error
    if len(text) > MAX_CONTEXT_BYTES:
        raise ObjectTooLargeError(
            f"the context is {len(text)} bytes", field="context", limit=f"{MAX_CONTEXT_BYTES} bytes"
        )
    return plain


_of_settings: list[AuditLayer] = []


def _from_settings() -> AuditLayer:
    """Made once, and then the newest until a backend has a log of its own."""
    from storage_lib.config.audit import AuditOptions

    options = StorageConfig.from_env().audit or AuditOptions(sink="log")
    if options.sink == "table":
        raise ConfigurationError(
            "the audit log is a table, and no storage is open",
            field="AGENT_STORAGE_AUDIT",
            remedy="open a StorageManager first",
        )
    layer = AuditLayer(_Nowhere(), options)
    _of_settings[:] = [layer]
    return layer


class _Nowhere(StorageBackend):
    """No storage: there is only the log."""

    def __init__(self) -> None:
        from storage_lib.backends.memory import MemoryBackend

        memory = MemoryBackend()
        self.objects, self.tables, self.queues = memory.objects, memory.tables, memory.queues


def verify(
    path: str | os.PathLike[str],
    *,
    key: str | bytes | Sequence[str | bytes] | None = None,
    heads: str | os.PathLike[str] | None = None,
    allow_unsealed: bool = False,
) -> Report:
    """Look for edited, missing, reordered, inserted and cut-off entries in an audit log.

    :param path: the folder of the sink ``file``; one of its files, for its writer alone; or a text to which
        the logger ``AOS.Audit`` was written.
    :param key: the secret that it was sealed with; several if it was changed. None for logs without one.
    :param heads: the folder of the heads; None is ``heads`` in ``path``.
    :param allow_unsealed: accept chains without a key, too, from the time before there was one.
    :raises OSError: it cannot be read, or there is no log.
    """
    return verify_files(path, key=key, heads=heads, allow_unsealed=allow_unsealed)


async def verify_table(
    backend: StorageBackend,
    table: str = "audit",
    *,
    key: str | bytes | Sequence[str | bytes] | None = None,
    allow_unsealed: bool = False,
) -> Report:
    """Like `verify`, for the sink ``table``.

    :param backend: the store that has the table, such as ``StorageManager.backend``.
    :raises KeyNotFoundError: there is no such table.
    """
    inner = backend
    while isinstance(inner, AuditLayer):  # Reading the log is not to lengthen it.
        inner = inner.inner
    return await _verify_table(inner.tables, table, key=key, allow_unsealed=allow_unsealed)


# -- the command


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m storage_lib.audit",
        description="Look for tampering in an audit log. The key is read from AGENT_STORAGE_AUDIT_KEY."
        " Exit codes: 0 nothing found, 1 findings, 2 it could not be done.",
    )
    commands = parser.add_subparsers(dest="command", required=True)
    verifying = commands.add_parser("verify", help="verify files, or a table of the configured storage")
    place = verifying.add_mutually_exclusive_group(required=True)
    place.add_argument("path", nargs="?", metavar="PATH", help="a folder or a file")
    place.add_argument("--table", metavar="NAME", help="a table")
    verifying.add_argument("--heads", metavar="FOLDER", help="where the heads are, if not in PATH/heads")
    verifying.add_argument(
        "--old-key-from",
        metavar="VARIABLE",
        action="append",
        default=[],
        help="names a former key; may be given again",
    )
    verifying.add_argument(
        "--allow-unsealed", action="store_true", help="accept chains without a key although there is one"
    )
    given = parser.parse_args(arguments)
    names = ["AGENT_STORAGE_AUDIT_KEY", *given.old_key_from]
    if missing := [name for name in given.old_key_from if not os.environ.get(name)]:
        parser.error(f"{missing[0]} is not set")
    key = [os.environ[name] for name in names if os.environ.get(name)]
    try:
        if given.table is not None:
            verifying_it = verify_configured(StorageConfig.from_env(), given.table, key, given.allow_unsealed)
            report = asyncio.run(verifying_it)
        else:
            report = verify(given.path, key=key, heads=given.heads, allow_unsealed=given.allow_unsealed)
    except (OSError, StorageError) as error:
        print(f"cannot verify: {error}", file=sys.stderr)
        return 2
    for finding in report.findings:
        print(finding)
    for remark in report.remarks:
        print(f"note: {remark}")
    print(report.summary)
    return 0 if report.ok else 1


async def verify_configured(
    config: StorageConfig, table: str, key: Sequence[str], allow_unsealed: bool
) -> Report:
    """`verify_table`, of the store that is configured."""
    from dataclasses import replace

    from storage_lib.factory import build

    backend = build(replace(config, audit=None))
    try:
        return await verify_table(backend, table, key=key, allow_unsealed=allow_unsealed)
    finally:
        await backend.close()


if __name__ == "__main__":
    sys.exit(main())
