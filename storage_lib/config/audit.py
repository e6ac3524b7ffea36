"""The options of the audit layer."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Literal, get_args

import msgspec

from storage_lib.config.settings import Settings
from storage_lib.errors import ConfigurationError

AuditSink = Literal["file", "table", "log"]
MIN_KEY_BYTES = 16
MAX_SYNC_MS = 60_000
MIN_ROTATE_BYTES = 4096


class AuditOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How the audit layer records who did what. Its repr does not show the key.

    :param sink: ``file`` (JSON Lines), ``table`` (entities of the store's own tables) or ``log`` (the logger
        ``AOS.Audit``).
    :param path: the folder of the files; a relative one is below the working directory of now.
    :param heads: the folder of the sealed heads; None is ``heads`` in ``path``.
    :param table: the table of the entries. The heads are in another, whose name ends in ``heads``.
    :param key: the secret that seals entries and heads, at least 16 bytes. None chains them with SHA-256.
    :param operations: ``writes``, or ``all`` to record reads, too.
    :param prefixes: record only what begins with one of these, such as ``objects/configs/`` or ``queues/``;
        empty for everything.
    :param exclude: do not record what begins with one of these.
    :param on_failure: if the sink fails: ``continue``, and record later how many entries are missing, or
        ``refuse`` the operation.
    :param sync_ms: milliseconds after which an entry is durable at the latest, which is what a crash of the
        machine may lose; 0 makes each operation wait for it.
    :param rotate_bytes: the size at which a new file begins.
    :param rotate_daily: whether a new file begins at midnight UTC.
    """

    sink: AuditSink = "file"
    path: str = "audit"
    heads: str | None = None
    table: str = "audit"
    key: str | bytes | None = None
    operations: Literal["writes", "all"] = "writes"
    prefixes: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    on_failure: Literal["continue", "refuse"] = "continue"
    sync_ms: int = 1000
    rotate_bytes: int = 64 * 1024 * 1024
    rotate_daily: bool = True

    def __post_init__(self) -> None:
        _choice("sink", self.sink, get_args(AuditSink))
        _choice("operations", self.operations, ("writes", "all"))
        _choice("on_failure", self.on_failure, ("continue", "refuse"))
        _whole("sync_ms", self.sync_ms, 0, MAX_SYNC_MS)
        _whole("rotate_bytes", self.rotate_bytes, MIN_ROTATE_BYTES, 2**40)
        if type(self.rotate_daily) is not bool:
            raise _refused("rotate_daily", repr(self.rotate_daily), "true or false")
        for name in ("path", "heads"):
            folder: Any = getattr(self, name)
            if folder is None and name == "heads":
                continue
            if not isinstance(folder, str | os.PathLike) or not str(folder):  # pyright: ignore[reportUnknownArgumentType]
                raise _refused(name, repr(folder), "the path of a folder")
            # It means the same in any working directory, and in another process.
            msgspec.structs.force_setattr(self, name, os.path.abspath(folder))  # pyright: ignore[reportUnknownArgumentType]
        for name in ("prefixes", "exclude"):
            _texts(name, getattr(self, name))
        self._check_table()
        self._check_key()

    def __repr__(self) -> str:
        return f"AuditOptions({', '.join(f'{name}={value!r}' for name, value in self.__rich_repr__())})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        shown = [(name, getattr(self, name)) for name in self.__struct_fields__ if name != "key"]
        return [*shown, ("key", None if self.key is None else "…")]

    def _check_table(self) -> None:
        from storage_lib.names import table_name

        if not isinstance(self.table, str) or not self.table or len(self.table) > 200:  # pyright: ignore[reportUnnecessaryIsInstance]
            raise _refused("table", repr(self.table), "the name of a table, 1 to 200 characters")
        table_name(self.table)

    def _check_key(self) -> None:
        key: Any = self.key
        if key is None:
            return
        if not isinstance(key, str | bytes):
            raise ConfigurationError(
                "the audit key is neither str nor bytes", field="key", limit="str or bytes"
            )
        if len(key.encode() if isinstance(key, str) else key) < MIN_KEY_BYTES:
            raise ConfigurationError(
                f"the audit key is shorter than {MIN_KEY_BYTES} bytes",
                field="key",
                limit=f"at least {MIN_KEY_BYTES} bytes",
                remedy="set AGENT_STORAGE_AUDIT_KEY to a secret of your own, such as what"
                " python -c 'import secrets; print(secrets.token_hex(32))' prints",
            )


def from_env(env: Mapping[str, str]) -> AuditOptions | None:
    """Read ``AGENT_STORAGE_AUDIT`` and the settings that begin with it; None if it is off."""
    settings = Settings(env, "AGENT_STORAGE_AUDIT")
    sink = settings.switch(*get_args(AuditSink))
    if sink is None:
        return None
    given: dict[str, Any] = {"sink": sink, **settings.options(AuditOptions, "sink")}
    for name in ("prefixes", "exclude"):
        if name in given:
            given[name] = tuple(part.strip() for part in given[name].split(",") if part.strip())
    try:
        return AuditOptions(**given)
    except ConfigurationError as error:
        error.field = f"AGENT_STORAGE_AUDIT_{(error.field or 'KEY').upper()}"
        raise


def _choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise _refused(name, repr(value)[:40], " or ".join(choices))


def _whole(name: str, value: object, least: int, most: int) -> None:
    if type(value) is not int or not least <= value <= most:
        raise _refused(name, repr(value)[:40], f"a whole number from {least} to {most}")


def _texts(name: str, value: object) -> None:
    if not isinstance(value, tuple) or not all(
        isinstance(each, str) and each.startswith(("objects/", "tables/", "queues/"))
        for each in value  # pyright: ignore[reportUnknownVariableType]
    ):
        raise _refused(
            name, repr(value)[:80], "texts that begin with objects/, tables/ or queues/, in a tuple"
        )


def _refused(name: str, shown: str, limit: str) -> ConfigurationError:
    return ConfigurationError(f"{name} is {shown}", field=name, limit=limit, remedy="set it to one of these")
