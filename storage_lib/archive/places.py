"""Where an archive is: a file, a binary stream such as standard output, or an object of a store."""

from __future__ import annotations

import os
import secrets
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, suppress
from dataclasses import dataclass
from inspect import isawaitable
from pathlib import Path
from typing import Any, BinaryIO

from storage_lib import threads
from storage_lib.errors import (
    InvalidArgumentError,
    KeyNotFoundError,
    ObjectExistsError,
    RangeNotSatisfiableError,
    StorageError,
)
from storage_lib.manager import StorageManager
from storage_lib.ports.object_model import ByteRange

CONTENT_TYPE = "application/zstd"
_CHUNK_BYTES = 1024 * 1024
_REMEDY = "give a path, a file object that is open in binary mode, or StoredArchive(storage, key)"


@dataclass(frozen=True)
class StoredArchive:
    """An archive that is an object of a store."""

    storage: StorageManager
    key: str


type Place = str | os.PathLike[str] | BinaryIO | StoredArchive


async def write_to(target: Place, chunks: AsyncGenerator[bytes], overwrite: bool) -> None:
    """Write an archive; a file or an object appears only when it is complete.

    :raises ObjectExistsError: there is one already, and ``overwrite`` is not set.
    """
    async with aclosing(chunks):
        if isinstance(target, StoredArchive):
            await target.storage.write_stream(
                target.key, chunks, content_type=CONTENT_TYPE, if_absent=not overwrite
            )
        elif isinstance(target, str | os.PathLike):
            await _write_file(Path(target), chunks, overwrite)
        elif hasattr(target, "write"):
            async for chunk in chunks:
                await _write_all(target, chunk)
            if hasattr(target, "flush"):
                await threads.waiting.run(target.flush)
        else:
            raise _no_place("target", target)


def check_target(target: Any, overwrite: bool) -> None:
    """:raises ObjectExistsError: a file is there; said before the store is read, not after."""
    if isinstance(target, str | os.PathLike):
        path = Path(target)
        if path.exists() and not overwrite:
            raise _exists(path)
        if path.is_dir() or not path.parent.is_dir():
            raise InvalidArgumentError(
                f"an archive cannot be written to {str(path)!r}",
                field="target",
                remedy="name a file in a folder that exists",
            )
    elif not (isinstance(target, StoredArchive) or hasattr(target, "write")):
        raise _no_place("target", target)


async def _write_file(path: Path, chunks: AsyncIterator[bytes], overwrite: bool) -> None:
    temporary = path.with_name(f".{path.name[:200]}.{secrets.token_hex(8)}.tmp")
    # An archive has all that the store keeps from others.
    opened = await _os(os.open, temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(opened, "wb", buffering=0) as file:
            async for chunk in chunks:
                await _write_all(file, chunk)
            await _os(os.fsync, file.fileno())
        if overwrite:
            await _os(os.replace, temporary, path)
        else:
            try:
                await threads.waiting.run(os.link, temporary, path)
            except FileExistsError as error:
                raise _exists(path) from error
            except OSError:  # A file system without links.
                if await threads.waiting.run(path.exists):
                    raise _exists(path) from None
                await _os(os.replace, temporary, path)
        await threads.waiting.run(_sync_folder, path.parent)
    finally:
        with suppress(FileNotFoundError):
            os.unlink(temporary)


def _sync_folder(folder: Path) -> None:
    if os.name == "nt":
        return  # A folder cannot be opened there.
    opened = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


async def _write_all(file: Any, chunk: bytes) -> None:
    left = memoryview(chunk)
    while left:
        # An unbuffered file may take less than it is given.
        left = left[await _os(file.write, left) :]


async def read_from(source: Place) -> AsyncGenerator[bytes]:
    """The bytes of an archive.

    :raises KeyNotFoundError: there is none.
    """
    if isinstance(source, StoredArchive):
        # A range is not verified: the reader of the archive does that, entry by entry.
        with suppress(RangeNotSatisfiableError):  # An empty object.
            async with source.storage.open_reader(source.key, byte_range=ByteRange(0), fresh=True) as reader:
                async for chunk in reader:
                    yield chunk
    elif isinstance(source, str | os.PathLike):
        try:
            file = await _os(open, source, "rb", 0)
        except FileNotFoundError as error:
            raise KeyNotFoundError(f"there is no archive {os.fspath(source)!r}", field="source") from error
        with file:
            while chunk := await _os(file.read, _CHUNK_BYTES):
                yield chunk
    elif hasattr(source, "read"):
        while True:
            chunk = await _os(source.read, _CHUNK_BYTES)
            if isawaitable(chunk):
                chunk = await chunk
            if not isinstance(chunk, bytes | bytearray | memoryview):
                raise InvalidArgumentError(
                    f"the source gives {type(chunk).__name__}", field="source", limit="bytes", remedy=_REMEDY
                )
            if not chunk:
                return
            yield bytes(chunk)
    else:
        raise _no_place("source", source)


async def _os(function: Any, *arguments: Any) -> Any:
    try:
        return await threads.waiting.run(function, *arguments)
    except FileNotFoundError:
        raise
    except OSError as error:
        if isinstance(error, StorageError):
            raise
        raise StorageError(
            f"the archive cannot be read or written: {error}", remedy="see that there is room, and access"
        ) from error


def _exists(path: Path) -> ObjectExistsError:
    return ObjectExistsError(
        f"there is a file {str(path)!r} already",
        field="target",
        remedy="choose another name, or set overwrite=True",
    )


def _no_place(field: str, place: object) -> InvalidArgumentError:
    return InvalidArgumentError(f"{field} is a {type(place).__name__}", field=field, remedy=_REMEDY)
