"""Import of what AgentOperatingSystem's own file backend stored.

It kept one JSON file for each key, all in one folder: ``KEY.json``, with each ``/`` and ``\\`` of the key as
``_``: ``agents_ceo_1.json`` may be ``agents/ceo_1`` or ``agents/ceo/1``. Its manager wrapped values in an
envelope ``{agent_id, data, stored_at, version}``, whose id tells the key. Without one, the name of a file
is its key only if it has no ``_``; all others are reported, not guessed.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, cast

import msgspec

from storage_lib import threads, values
from storage_lib.arguments import mapping, whole
from storage_lib.errors import (
    InvalidArgumentError,
    KeyNotFoundError,
    ObjectExistsError,
    SerializationError,
)
from storage_lib.keys import validate_prefix, validate_user_key
from storage_lib.manager import StorageManager
from storage_lib.several import Several, surviving

FOLDERS = {
    "agent_id": "agents",
    "workflow_id": "workflows",
    "config_name": "config",
    "decision_id": "decisions",
    "message_id": "messages",
}
"""What a key begins with, by the field of the envelope that has the id."""
STORED_AT = "stored-at"
"""The metadata that say when a value was stored there."""
MAX_FILE_BYTES = 64 * 1024 * 1024

_SUFFIX = ".json"


class Imported(msgspec.Struct, kw_only=True):
    """What has become of the files of a folder, by their names.

    ``imported`` and ``unchanged`` (they were there already) have their keys; ``kept`` have the keys of
    objects that are there, differ and were not replaced. ``ambiguous`` may be several keys, some of which
    are given: say which in ``names``. ``failed`` could not be read or stored, ``ignored`` are not of that
    layout; both with the reason.
    """

    imported: dict[str, str] = {}
    unchanged: dict[str, str] = {}
    kept: dict[str, str] = {}
    ambiguous: dict[str, list[str]] = {}
    failed: dict[str, str] = {}
    ignored: dict[str, str] = {}

    @property
    def ok(self) -> bool:
        """Whether the store has all of the values now."""
        return not (self.kept or self.ambiguous or self.failed)


class _Value(NamedTuple):
    keys: list[str]
    """The keys that it may have."""
    value: Any
    metadata: dict[str, str]


async def import_aos(
    storage: StorageManager,
    folder: str | os.PathLike[str],
    *,
    names: Mapping[str, str] | None = None,
    prefix: str = "",
    unwrap: bool = True,
    overwrite: bool = False,
    dry_run: bool = False,
    concurrency: int = 16,
) -> Imported:
    """Save what AgentOperatingSystem's file backend stored in ``folder``; the files stay.

    It may be run again: what is there already, just the same, is left alone.

    :param storage: where to save it.
    :param folder: what was its ``base_path``.
    :param names: keys of files whose names are ambiguous, such as ``{"a_b.json": "a/b"}``.
    :param prefix: what is put before all keys.
    :param unwrap: save the ``data`` of an envelope, with when it was stored as metadata (``stored-at``);
        otherwise the envelope as it is.
    :param overwrite: replace objects that are there and differ.
    :param dry_run: save nothing, and report what would be done.
    :param concurrency: how many files at a time.
    :raises KeyNotFoundError: there is no such folder.
    :raises InvalidArgumentError: a key of ``names`` does not belong to its file.
    :raises StorageUnavailableError: the store cannot be reached; what was saved stays.
    """
    concurrency = whole("concurrency", concurrency, 1)
    validate_prefix(prefix)
    chosen = _checked(mapping("names", names or {}))
    report = Imported()
    try:
        files = await threads.waiting.run(_files, Path(folder), report)
    except FileNotFoundError as error:
        raise KeyNotFoundError(f"there is no folder {os.fspath(folder)!r}", field="folder") from error
    except NotADirectoryError as error:
        raise InvalidArgumentError(f"{os.fspath(folder)!r} is not a folder", field="folder") from error

    async def one(file: Path) -> None:
        def failed(error: Exception) -> None:
            report.failed[file.name] = str(error)

        with surviving(failed, OSError):
            found = await threads.waiting.run(_read, file, chosen.get(file.name), unwrap)
            if len(found.keys) != 1:
                report.ambiguous[file.name] = found.keys
                return
            key = validate_user_key(prefix + found.keys[0])
            outcome = await _save(storage, key, found, overwrite, dry_run)
            cast("dict[str, str]", getattr(report, outcome))[file.name] = key

    async with Several(concurrency) as running:
        for file in files:
            await running.start(one(file))
    return report


def _checked(names: dict[str, str]) -> dict[str, str]:
    chosen: dict[str, str] = {}
    for name, key in names.items():
        file = name if name.endswith(_SUFFIX) else name + _SUFFIX
        validate_user_key(key)
        if _file_of(key) != file:
            raise InvalidArgumentError(
                f"the key {key!r} was not stored in {file!r}, but in {_file_of(key)!r}",
                field="names",
                remedy="give a key that becomes the file's name when each '/' becomes '_'",
            )
        chosen[file] = key
    return chosen


def _file_of(key: str) -> str:
    """The file in which that backend stored a key."""
    return key.replace("/", "_").replace("\\", "_") + _SUFFIX


def _files(folder: Path, report: Imported) -> list[Path]:
    found: list[Path] = []
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        if entry.is_symlink():
            report.ignored[entry.name] = "a symbolic link"
        elif not entry.is_file():
            report.ignored[entry.name] = "not a file: that backend made no folders"
        elif not entry.name.endswith(_SUFFIX):
            report.ignored[entry.name] = f"not named {_SUFFIX}"
        else:
            found.append(Path(entry.path))
    return found


def _read(file: Path, chosen: str | None, unwrap: bool) -> _Value:
    # Without following what may have become a link since, or waiting for what may have become a pipe.
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    with os.fdopen(os.open(file, flags), "rb") as opened:
        info = os.fstat(opened.fileno())
        if not stat.S_ISREG(info.st_mode):
            raise SerializationError("it is not a file")
        data = opened.read(MAX_FILE_BYTES + 1)
    if len(data) > MAX_FILE_BYTES:
        raise SerializationError(f"it has more than {MAX_FILE_BYTES} bytes", limit=f"{MAX_FILE_BYTES} bytes")
    try:
        value = json.loads(data.decode())
    except (ValueError, RecursionError) as error:
        raise SerializationError(f"it is not JSON, or was cut off: {error}") from error
    told = _told(value, file.name)
    keys = [chosen] if chosen is not None else told or _possible(file.name)
    metadata: dict[str, str] = {}
    if told and unwrap:
        if isinstance(value["stored_at"], str) and value["stored_at"].isprintable():
            metadata[STORED_AT] = value["stored_at"][:100]
        value = value["data"]
    return _Value(keys, value, metadata)


def _told(value: Any, name: str) -> list[str]:
    """The key that the envelope tells, if it agrees with the file's name."""
    if not isinstance(value, dict) or len(cast("dict[str, Any]", value)) != 4:
        return []
    envelope = cast("dict[str, Any]", value)
    if not envelope.keys() >= {"data", "stored_at", "version"}:
        return []
    for field, folder in FOLDERS.items():
        if isinstance(envelope.get(field), str):
            key = f"{folder}/{envelope[field]}"
            return [key] if _file_of(key) == name else []
    return []


def _possible(name: str) -> list[str]:
    """Keys that may have had this file: the only one, or examples of several."""
    stem = name.removesuffix(_SUFFIX)
    if "_" not in stem:
        return [stem]
    return sorted({stem, stem.replace("_", "/", 1), stem.replace("_", "/")})


async def _save(storage: StorageManager, key: str, found: _Value, overwrite: bool, dry_run: bool) -> str:
    """Save a value; the field of the report that tells what was done."""
    encoded = values.encode(found.value)
    try:
        info = await storage.info(key, fresh=True)
    except KeyNotFoundError:
        info = None
    if info is not None:
        same = (info.sha256, info.content_type, dict(info.metadata)) == (
            hashlib.sha256(encoded.data).hexdigest(),
            encoded.content_type,
            found.metadata,
        )
        if same or not overwrite:
            return "unchanged" if same else "kept"
    if not dry_run:
        try:
            await storage.save(key, found.value, metadata=found.metadata, if_absent=not overwrite)
        except ObjectExistsError:
            return "kept"
    return "imported"
