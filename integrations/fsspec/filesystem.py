"""The file system of fsspec, and its files."""

# fsspec has no types: what it hands over is checked where it comes in.
# pyright: reportMissingParameterType=false, reportUnknownParameterType=false
# pyright: reportIncompatibleMethodOverride=false, reportIncompatibleVariableOverride=false

from __future__ import annotations

import asyncio
import errno
import hashlib
import inspect
import io
import os
import pickle
import sys
import uuid
import weakref
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, suppress
from typing import Any, cast

from fsspec.asyn import AbstractAsyncStreamedFile, AsyncFileSystem, sync, sync_wrapper
from fsspec.callbacks import DEFAULT_CALLBACK
from fsspec.compression import compr
from fsspec.core import get_compression, has_magic
from fsspec.spec import AbstractBufferedFile

from integrations.fsspec.whole_files import WholeFile
from storage_lib import (
    ByteRange,
    IntegrityError,
    InvalidKeyError,
    KeyNotFoundError,
    ListEntry,
    ObjectInfo,
    RangeNotSatisfiableError,
    StorageConfig,
    StorageManager,
    config_of,
)
from storage_lib.keys import validate_user_key

_CHUNK_BYTES = 1024 * 1024
_CLOSING_SECONDS = 5
_TEXT_OPTIONS = ("encoding", "errors", "newline")
_SAVE_OPTIONS = ("content_type", "metadata", "headers", "ttl")


class _Instances(type(AsyncFileSystem)):
    """Instances are shared by those who mean the same store, as fsspec does it. It compares how arguments are
    shown, and a configuration shows no secrets; so what tells stores apart is given beside them."""

    def __call__(cls, storage: str | StorageConfig | StorageManager | None = None, **options: Any) -> Any:
        told = f"{id(storage)}".encode()  # The instance keeps it, so that no other gets the same.
        if not isinstance(storage, StorageManager):
            with suppress(Exception):  # A rule may name a model that cannot be pickled.
                told = pickle.dumps(_config(storage))
        options["identity"] = hashlib.sha256(told).hexdigest()
        return super().__call__(storage, **options)


class AgentStorageFileSystem(AsyncFileSystem, metaclass=_Instances):
    """The objects of a store as files.

    :param storage: a URL of the store, its configuration, or a manager, which its creator closes; None takes
        the store of the environment.
    :param identity: of the store, for those who share this instance; it is set by itself.
    """

    protocol = "agentstorage"
    root_marker = ""
    cachable = True

    def __init__(
        self,
        storage: str | StorageConfig | StorageManager | None = None,
        *,
        identity: str = "",
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self._identity = identity
        if isinstance(storage, StorageManager):
            self.storage = storage
        else:
            self.storage = StorageManager(_config(storage))
            weakref.finalize(self, _close, self._loop, self.storage)

    @property
    def fsid(self) -> str:
        return f"agentstorage-{self._identity}"

    @classmethod
    def _strip_protocol(cls, path: Any) -> Any:
        stripped = super()._strip_protocol(path)
        return [each.lstrip("/") for each in stripped] if isinstance(stripped, list) else stripped.lstrip("/")

    # -- what is there

    async def _info(self, path: str, **_: Any) -> dict[str, Any]:
        path = self._strip_protocol(path)
        if path:
            with suppress(KeyNotFoundError, InvalidKeyError):  # There is no object whose key is not valid.
                return _file(await self.storage.info(path))
        if not path or await self._has_any(path):
            return _folder(path)
        raise _missing(path)

    async def _has_any(self, path: str) -> bool:
        try:
            return bool((await self.storage.list_page(f"{path}/", limit=1)).entries)
        except InvalidKeyError:
            return False

    async def _ls(self, path: str, detail: bool = True, **_: Any) -> list[Any]:
        path = self._strip_protocol(path)
        found = [each async for each in self._below(path, delimiter="/")]
        if not found and path:
            info = await self._info(path)
            found = [info] if info["type"] == "file" else []
        found.sort(key=lambda each: each["name"])
        return found if detail else [each["name"] for each in found]

    async def _find(
        self,
        path: str,
        maxdepth: int | None = None,
        withdirs: bool = False,
        detail: bool = False,
        prefix: str = "",
        **_: Any,
    ) -> Any:
        path = self._strip_protocol(path)
        if maxdepth is not None and maxdepth != 1:
            return await super()._find(path, maxdepth=maxdepth, withdirs=withdirs, detail=detail)
        found: dict[str, dict[str, Any]] = {}
        async for each in self._below(path, prefix, delimiter="/" if maxdepth == 1 else None):
            if each["type"] == "file" or withdirs:
                found[each["name"]] = each
            if withdirs:
                found |= {above: _folder(above) for above in _between(path, each["name"])}
        if path and not prefix and (withdirs or not found):
            with suppress(FileNotFoundError):
                found[path] = await self._info(path)
            if not withdirs and found.get(path, {}).get("type") == "directory":
                del found[path]
        return {name: found[name] for name in sorted(found)} if detail else sorted(found)

    async def _du(
        self, path: str, total: bool = True, maxdepth: int | None = None, withdirs: bool = False, **_: Any
    ) -> Any:
        found = await self._find(path, maxdepth=maxdepth, withdirs=withdirs, detail=True)
        sizes = {name: each["size"] or 0 for name, each in found.items()}
        return sum(sizes.values()) if total else sizes

    async def _below(
        self, path: str, prefix: str = "", *, delimiter: str | None
    ) -> AsyncGenerator[dict[str, Any]]:
        """The files below a folder and, with a delimiter, the folders right below it."""
        cursor = None
        while True:
            try:
                page = await self.storage.list_page(
                    (f"{path}/" if path else "") + prefix,
                    delimiter=delimiter,
                    cursor=cursor,
                    details=True,
                    cheap=True,
                )
            except InvalidKeyError:
                return
            for each in [*map(_listed, await self._sized(page.entries)), *map(_folder, page.prefixes)]:
                yield each
            if (cursor := page.cursor) is None:
                return

    async def _sized(self, entries: list[ListEntry]) -> list[ListEntry | ObjectInfo]:
        """The entries; those whose size the listing does not tell, asked for."""
        unknown = [entry.key for entry in entries if entry.size is None]
        if not unknown:
            return list(entries)
        told = await self.storage.info_many(unknown)
        sized: list[ListEntry | ObjectInfo] = []
        for entry in entries:
            match told.get(entry.key, entry):
                case KeyNotFoundError():
                    continue  # Deleted meanwhile.
                case IntegrityError():
                    sized.append(entry)
                case ListEntry() | ObjectInfo() as info:
                    sized.append(info)
                case error:
                    raise error
        return sized

    def modified(self, path: str) -> Any:
        """When a file was last changed."""
        info = self.info(path)
        if info["type"] == "directory":
            raise _is_folder(path)
        return info["last_modified"]

    def ukey(self, path: str) -> str:
        """What changes with each change of a file: its ETag."""
        info = self.info(path)
        return hashlib.sha256(str(info.get("etag") or info).encode()).hexdigest()

    async def _sign(self, path: str, expiration: float = 100, **options: Any) -> str:
        """A URL by which others load a file, or with ``method="PUT"`` save it, without credentials."""
        return (await self.storage.link(self._strip_protocol(path), expires_in=expiration, **options)).url

    # -- reading

    async def _cat_file(
        self, path: str, start: int | None = None, end: int | None = None, **options: Any
    ) -> bytes:
        path = self._strip_protocol(path)
        if_match: str | None = options.get("if_match")
        if start is None and end is None:
            return (await self.storage.read(path, if_match=if_match)).data
        first, last = start or 0, end
        if first < 0 or (last is not None and (last < 0 or last <= first)):
            info = await self.storage.info(path)
            first, last, _ = slice(start, end).indices(info.size)
            if first >= last:
                return b""
            if_match = if_match or info.etag
        try:
            found = await self.storage.read(path, byte_range=ByteRange(first, last), if_match=if_match)
        except RangeNotSatisfiableError:
            return b""
        return found.data

    async def _get_file(self, rpath: str, lpath: Any, callback: Any = DEFAULT_CALLBACK, **_: Any) -> None:
        if hasattr(lpath, "write"):
            return await self._read_into(lpath, rpath, callback)
        if await asyncio.to_thread(os.path.isdir, lpath):
            return None
        # Beside its place first, so that a file is there as a whole or not at all.
        beside = f"{lpath}.{uuid.uuid4().hex}.part"
        try:
            with await asyncio.to_thread(open, beside, "wb") as file:
                await self._read_into(file, rpath, callback)
            await asyncio.to_thread(os.replace, beside, lpath)
        except BaseException:
            with suppress(OSError):
                os.unlink(beside)
            raise
        return None

    async def _read_into(self, file: Any, path: str, callback: Any) -> None:
        async with self.storage.open_reader(self._strip_protocol(path)) as reader:
            callback.set_size(reader.info.size)
            async for chunk in reader:
                await asyncio.to_thread(file.write, chunk)
                callback.relative_update(len(chunk))

    # -- writing

    async def _pipe_file(self, path: str, value: Any, mode: str = "overwrite", **options: Any) -> None:
        await self.storage.write(
            self._strip_protocol(path), value, if_absent=mode == "create", **_saving(options)
        )

    async def _put_file(
        self,
        lpath: Any,
        rpath: str,
        mode: str = "overwrite",
        callback: Any = DEFAULT_CALLBACK,
        **options: Any,
    ) -> None:
        if await asyncio.to_thread(os.path.isdir, lpath):
            return
        with await asyncio.to_thread(open, lpath, "rb") as file:
            callback.set_size(os.fstat(file.fileno()).st_size)

            async def chunks() -> AsyncIterator[bytes]:
                while chunk := await asyncio.to_thread(file.read, _CHUNK_BYTES):
                    yield chunk
                    callback.relative_update(len(chunk))

            async with aclosing(cast("AsyncGenerator[bytes]", chunks())) as source:
                await self.storage.write_stream(
                    self._strip_protocol(rpath), source, if_absent=mode == "create", **_saving(options)
                )

    async def _cp_file(self, path1: str, path2: str, move: bool = False, **_: Any) -> None:
        source, target = self._strip_protocol(path1), self._strip_protocol(path2)
        try:
            if source == target:
                await self.storage.info(source)
            elif move:
                await self.storage.move(source, target)
            else:
                await self.storage.copy(source, target)
        except KeyNotFoundError:
            # Of a folder there is nothing to copy but what is below it, which may have been moved just now.
            if not await self._has_any(source) and not (move and await self._has_any(target)):
                raise

    async def _copy(self, path1: Any, path2: Any, **options: Any) -> None:
        if isinstance(path2, str):
            into = path2.endswith("/") or await self._isdir(path2)
            path2 = await self._within(path1, path2, into, options)
        await super()._copy(path1, path2, **options)

    async def _get(self, rpath: Any, lpath: Any, **options: Any) -> Any:
        if isinstance(lpath, str | os.PathLike):
            lpath = os.fspath(cast("str", lpath))
            into = lpath.endswith(("/", os.sep)) or await asyncio.to_thread(os.path.isdir, lpath)
            lpath = await self._within(rpath, lpath, into, options)
        return await super()._get(rpath, lpath, **options)

    async def _within(self, source: Any, target: str, into: bool, options: dict[str, Any]) -> str:
        """Where a source goes that is in no folder itself: fsspec takes its name for the folder's, and would
        give the target's name to the file instead of putting it there.

        :param into: whether the target is a folder.
        """
        name = self._strip_protocol(source) if isinstance(source, str) else "/"
        if "/" in name or cast("str", source).endswith("/"):
            return target
        if has_magic(name):
            found = await self._expand_path(
                name, recursive=options.get("recursive", False), maxdepth=options.get("maxdepth")
            )
            into, name = len(found) == 1 and "/" not in found[0], found[0]
        return f"{target.rstrip('/')}/{name}" if into else target

    async def _mv(
        self, path1: Any, path2: Any, recursive: bool = False, maxdepth: int | None = None, **_: Any
    ) -> None:
        """Move files. Each is moved by itself: at any moment it is whole at one place or at both, and one
        that is changed meanwhile stays."""
        await self._copy(path1, path2, recursive=recursive, maxdepth=maxdepth, on_error="raise", move=True)

    async def _rm(self, path: Any, recursive: bool = False, maxdepth: int | None = None, **_: Any) -> None:
        paths = await self._expand_path(path, recursive=recursive, maxdepth=maxdepth)
        if not recursive:
            for each in paths:
                if (await self._info(each))["type"] == "directory":
                    raise _is_folder(each)
        await self.storage.delete_many(filter(None, paths), missing_ok=True, raise_errors=True)

    async def _rm_file(self, path: str, **_: Any) -> None:
        await self.storage.delete(self._strip_protocol(path))

    async def _touch(self, path: str, truncate: bool = True, **options: Any) -> None:
        """Make an empty file; without ``truncate``, one that is there only counts as changed now."""
        path = self._strip_protocol(path)
        if not truncate:
            with suppress(KeyNotFoundError):
                await self.storage.touch(path)
                return
        await self.storage.write(path, b"", if_absent=not truncate, **_saving(options))

    # -- folders

    async def _mkdir(self, path: str, create_parents: bool = True, **_: Any) -> None:
        """Check that there is nothing: a folder needs not be made."""
        if await self._exists(path):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), path)

    async def _makedirs(self, path: str, exist_ok: bool = False) -> None:
        if not exist_ok:
            await self._mkdir(path)

    async def _rmdir(self, path: str) -> None:
        """Check that there is nothing in a folder: then there is none."""
        if await self._isfile(path):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), path)
        if await self._exists(path):
            raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY), path)

    # -- open files

    def open(self, path: str, mode: str = "rb", **options: Any) -> Any:
        if "b" not in mode:
            text = {name: options.pop(name) for name in _TEXT_OPTIONS if name in options}
            return _TextFile(self.open(path, mode.replace("t", "") + "b", **options), **text)
        compression = get_compression(path, options.pop("compression", None))
        if compression is None or mode == "rb":
            return super().open(path, mode, compression=compression, **options)
        stored: Any = super().open(path, mode, **options)
        return _CompressedFile(stored, compression)

    def _open(self, path: str, mode: str = "rb", **options: Any) -> AgentStorageFile:
        return AgentStorageFile(self, path, mode, **options)

    async def open_async(self, path: str, mode: str = "rb", **options: Any) -> _StreamedFile:
        """Open a file whose ``read``, ``write`` and ``close`` are awaited."""
        if "b" not in mode or options.get("compression"):
            raise ValueError("an asynchronous file is binary, and not compressed")
        path = self._strip_protocol(path)
        info = await self.version(path, mode)
        return _StreamedFile(self, path, mode, details=info, **options)

    async def version(self, path: str, mode: str) -> dict[str, Any]:
        """The version of a file that is opened, of which there is none yet if ``size`` is None."""
        if mode == "wb":
            return {"size": None}
        try:
            info = await self._info(path)
        except FileNotFoundError:
            if mode == "rb":
                raise
            return {"size": None}
        if info["type"] == "directory":
            if mode == "rb":
                raise _is_folder(path)
            return {"size": None}
        if mode == "xb":
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), path)
        return info

    mv = sync_wrapper(_mv)
    touch = sync_wrapper(_touch)
    rmdir = sync_wrapper(_rmdir)
    sign = sync_wrapper(_sign)


class AgentStorageFile(AbstractBufferedFile):
    """An open file. When its block raises, or its transaction is given up, nothing is stored."""

    def __init__(self, fs: AgentStorageFileSystem, path: str, mode: str = "rb", **options: Any) -> None:
        found: dict[str, Any] = {"size": options.pop("size", None)}
        if mode != "rb":
            validate_user_key(path)
        if found["size"] is None and mode != "wb":
            found = cast("dict[str, Any]", sync(fs.loop, fs.version, path, mode))
        super().__init__(fs, path, mode, size=found["size"], **options)
        if mode == "rb":
            if "etag" in found:
                self.details = found
        else:
            self._upload = WholeFile(fs.storage, path, mode, found, _saving(self.kwargs))
            self.loc = found["size"] or 0

    def _fetch_range(self, start: int, end: int) -> bytes:
        return self.fs.cat_file(self.path, start=start, end=end, if_match=self.details["etag"])

    def _upload_chunk(self, final: bool = False) -> bool:
        sync(self.fs.loop, self._upload.send, self.buffer.getvalue(), final and self.autocommit)
        return True

    def commit(self) -> None:
        """Store what was written in a transaction."""
        sync(self.fs.loop, self._upload.finish)

    def discard(self) -> None:
        """Store nothing of it."""
        self.closed = True
        if not sys.is_finalizing():  # The thread that would do it has ended: sweeps remove what is there.
            sync(self.fs.loop, self._upload.abandon)

    def close(self) -> None:
        """Store what was written; nothing if the block that it was opened for has raised, or Python ends."""
        if not self.closed and self.writable() and (sys.is_finalizing() or _is_given_up(self)):
            self.discard()
        super().close()

    def __exit__(self, kind: Any = None, *_: Any) -> None:
        if kind is not None and self.writable():
            self.discard()
        self.close()

    def __del__(self) -> None:
        # pyarrow drops its file when it cannot begin to write.
        if not self.closed and self.writable():
            self.discard()
        super().__del__()


class _CompressedFile(io.BufferedIOBase):
    """A file that is compressed while it is written. Those that compress do not close or discard it."""

    def __init__(self, stored: AgentStorageFile, compression: str) -> None:
        self._stored = stored
        self._packed: Any = cast("dict[str, Any]", compr)[compression](stored, mode=stored.mode[0])

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        return self._packed.write(data)

    def seekable(self) -> bool:
        return self._packed.seekable()

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._packed.seek(offset, whence)

    def tell(self) -> int:
        return self._packed.tell()

    def close(self) -> None:
        if not self.closed:
            super().close()
            try:
                self._packed.close()
            except BaseException:
                self._stored.discard()
                raise
            self._stored.close()

    def discard(self) -> None:
        """Store nothing of it."""
        super().close()
        with suppress(Exception):  # Else it would close itself later, and write its end to a closed file.
            self._packed.close()
        self._stored.discard()

    def __exit__(self, kind: Any = None, *_: Any) -> None:
        if kind is not None:
            self.discard()
        self.close()


class _TextFile(io.TextIOWrapper):
    def __exit__(self, kind: Any = None, *_: Any) -> None:
        if kind is not None:
            cast("io.BufferedIOBase", self.buffer).__exit__(kind, None, None)
        self.close()


class _StreamedFile(AbstractAsyncStreamedFile):
    def __init__(
        self, fs: AgentStorageFileSystem, path: str, mode: str, *, details: dict[str, Any], **options: Any
    ) -> None:
        super().__init__(fs, path, mode, size=details["size"], **options)
        if mode == "rb":
            self.details = details
        else:
            self._upload = WholeFile(fs.storage, path, mode, details, _saving(self.kwargs))
            self.loc = details["size"] or 0

    async def _fetch_range(self, start: int, end: int) -> bytes:
        return await self.fs._cat_file(self.path, start=start, end=end, if_match=self.details["etag"])

    async def _upload_chunk(self, final: bool = False) -> bool:
        await self._upload.send(self.buffer.getvalue(), final)
        return True

    async def __aexit__(self, kind: Any, *_: Any) -> None:
        if kind is not None and self.writable():
            await self._upload.abandon()
            self.closed = True
        await self.close()


_BLOCKS = {
    ("fsspec.core", "OpenFile.__exit__"): "fobjects",
    ("pandas.io.common", "IOHandles.__exit__"): "created_handles",
    ("pyarrow.parquet.core", "ParquetWriter.__exit__"): None,
}
"""What closes files at the end of a block, and where it has them; None if it has just one, in a wrapper."""


def _is_given_up(file: AgentStorageFile) -> bool:
    """Whether the file is being closed because a block of `fsspec.open`, pandas or pyarrow has raised: they
    close their files without a word of it, so it is read from their frames."""
    frame = inspect.currentframe()
    while frame is not None:
        block = (frame.f_globals.get("__name__", ""), frame.f_code.co_qualname)
        files = _BLOCKS.get(block)
        closed = getattr(frame.f_locals["self"], files) if files else [file]
        if block in _BLOCKS and any(each is file for each in closed):
            given = frame.f_locals
            return any(isinstance(each, BaseException) for each in (*given.get("args", ()), *given.values()))
        frame = frame.f_back
    return False


def _config(storage: str | StorageConfig | None) -> StorageConfig:
    if isinstance(storage, StorageConfig):
        return storage
    return StorageConfig.from_env() if storage is None else config_of(storage)


def _close(loop: Any, storage: StorageManager) -> None:
    if loop is not None and loop.is_running():
        with suppress(Exception):  # At the end of a process there may be nobody left to close it.
            sync(loop, storage.close, timeout=_CLOSING_SECONDS)


def _file(info: ObjectInfo) -> dict[str, Any]:
    return {
        "name": info.key,
        "size": info.size,
        "type": "file",
        "etag": info.etag,
        "last_modified": info.last_modified,
        "content_type": info.content_type,
        "metadata": dict(info.metadata),
        "expires_at": info.expires_at,
    }


def _listed(entry: ListEntry | ObjectInfo) -> dict[str, Any]:
    if isinstance(entry, ObjectInfo):
        return _file(entry)
    if entry.info is not None:
        return _file(entry.info)
    return {
        "name": entry.key,
        "size": entry.size,
        "type": "file",
        "etag": entry.etag,
        "last_modified": entry.last_modified,
    }


def _folder(path: str) -> dict[str, Any]:
    return {"name": path.rstrip("/"), "size": 0, "type": "directory"}


def _between(path: str, name: str) -> list[str]:
    """The folders below ``path`` that ``name`` is in."""
    start = len(path) + 1 if path else 0
    return [name[:end] for end in range(start, len(name)) if name[end] == "/"]


def _saving(options: dict[str, Any]) -> dict[str, Any]:
    return {name: options[name] for name in _SAVE_OPTIONS if options.get(name) is not None}


def _missing(path: str) -> FileNotFoundError:
    return FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)


def _is_folder(path: str) -> IsADirectoryError:
    return IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
