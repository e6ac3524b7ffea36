"""The adapter of fsspec: fsspec's own abstract suite, and what users of adlfs and s3fs expect."""

from __future__ import annotations

import gc
import json
import os
import pickle
import subprocess
import sys
import tomllib
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import duckdb
import fsspec
import pandas
import pytest
import zarr
from fsspec.core import OpenFile
from fsspec.implementations.memory import MemoryFileSystem
from fsspec.tests.abstract import (
    AbstractCopyTests,
    AbstractFixtures,
    AbstractGetTests,
    AbstractOpenTests,
    AbstractPipeTests,
    AbstractPutTests,
)
from hypothesis import given
from hypothesis import strategies as st
from zarr.storage import FsspecStore

from integrations.fsspec import AgentStorageFileSystem
from storage_lib import (
    CompressionOptions,
    ConfigurationError,
    EncryptionOptions,
    IntegrityError,
    InvalidKeyError,
    PreconditionFailedError,
    StorageConfig,
    StorageManager,
)
from tests.conftest import PROJECT
from tests.http_app import config_of

SOAK = os.environ.get("SOAK") == "1"


@pytest.fixture
async def config(kind: tuple[str, Any], tmp_path: Path) -> StorageConfig:
    return await config_of(*kind, tmp_path)


@pytest.fixture
def fs(config: StorageConfig) -> AgentStorageFileSystem:
    return AgentStorageFileSystem(config)


class Fixtures(AbstractFixtures):
    @pytest.fixture(params=["memory", "file", "azurite", "moto"] if SOAK else ["memory", "file"])
    def kind(self, request: pytest.FixtureRequest) -> tuple[str, Any]:
        name: str = request.param
        return name, request.getfixturevalue(name) if name in ("azurite", "moto") else None

    @pytest.fixture
    def fs(self, config: StorageConfig) -> AgentStorageFileSystem:
        return AgentStorageFileSystem(config)

    @pytest.fixture
    def fs_path(self) -> str:
        return uuid.uuid4().hex

    @pytest.fixture
    def fs_join(self) -> Any:
        return lambda *parts: "/".join(parts)

    @pytest.fixture
    def supports_empty_directories(self) -> bool:
        return False


class TestCopy(AbstractCopyTests, Fixtures): ...


class TestGet(AbstractGetTests, Fixtures): ...


class TestPut(AbstractPutTests, Fixtures): ...


class TestOpen(AbstractOpenTests, Fixtures): ...


class TestPipe(AbstractPipeTests, Fixtures): ...


# -- what users of adlfs and s3fs expect


everywhere = pytest.mark.parametrize("kind", ["memory", "file", "azurite", "moto"], indirect=True)
here = pytest.mark.parametrize("kind", ["memory", "file"], indirect=True)
on_files = pytest.mark.parametrize("kind", ["file"], indirect=True)


@here
def test_a_name_that_cannot_be_is_refused_when_it_is_opened(fs: AgentStorageFileSystem) -> None:
    for path in ("a/../b", ".system/x", "x" * 2000):
        for mode in ("wb", "ab", "xb"):
            with pytest.raises(InvalidKeyError):
                fs.open(path, mode)
    assert fs.find("") == []


@everywhere
def test_a_file_and_what_is_known_of_it(fs: AgentStorageFileSystem) -> None:
    fs.pipe("runs/1.csv", b"a,b\n1,2\n", content_type="text/csv", metadata={"author": "ann"})
    info = fs.info("agentstorage://runs/1.csv")
    assert info["name"] == "runs/1.csv"
    assert (info["type"], info["size"], info["content_type"]) == ("file", 8, "text/csv")
    assert info["metadata"] == {"author": "ann"}
    assert info["last_modified"] == fs.modified("runs/1.csv")
    etag, key = info["etag"], fs.ukey("runs/1.csv")
    fs.pipe("runs/1.csv", b"a,b\n3,4\n")
    assert fs.info("runs/1.csv")["etag"] != etag
    assert fs.ukey("runs/1.csv") != key
    assert fs.size("runs/1.csv") == 8
    assert fs.isfile("runs/1.csv")
    assert not fs.isdir("runs/1.csv")
    assert fs.info("runs") == fs.info("runs/") == {"name": "runs", "size": 0, "type": "directory"}
    assert fs.isdir("runs")
    assert fs.isdir("")
    assert fs.isdir("agentstorage://")
    assert fs.exists("/runs/1.csv")
    assert not fs.exists("run")
    assert not fs.exists("runs/1")
    for path in ("nothing", "runs/1.csv/x", "a//b", "../x", "ends.", ".system/x", "x" * 300):
        assert not fs.exists(path)
        assert not fs.isfile(path)
        assert not fs.isdir(path)
        assert fs.find(path) == []
        with pytest.raises(FileNotFoundError):
            fs.info(path)
        with pytest.raises(FileNotFoundError):
            fs.ls(path)
    with pytest.raises(IsADirectoryError):
        fs.modified("runs")


@everywhere
def test_listings(fs: AgentStorageFileSystem) -> None:
    files = ["a/1.txt", "a/2.csv", "a/b/3.txt", "a/b/c/4.txt", "ab/5.txt", "top.txt"]
    for index, path in enumerate(files):
        fs.pipe(path, b"x" * index)
    assert fs.ls("", detail=False) == ["a", "ab", "top.txt"]
    assert fs.ls("a/", detail=False) == ["a/1.txt", "a/2.csv", "a/b"]
    assert [(each["type"], each["size"]) for each in fs.ls("a")] == [
        ("file", 0),
        ("file", 1),
        ("directory", 0),
    ]
    assert fs.ls("a/1.txt", detail=False) == ["a/1.txt"]
    assert fs.find("") == files
    assert fs.find("a") == files[:4]
    assert fs.find("a", maxdepth=1) == files[:2]
    assert fs.find("a", maxdepth=2) == files[:3]
    assert fs.find("a", withdirs=True) == sorted([*files[:4], "a", "a/b", "a/b/c"])
    assert fs.find("a", maxdepth=1, withdirs=True) == ["a", *files[:2], "a/b"]
    assert fs.find("a/1.txt") == ["a/1.txt"]
    assert fs.find("a", prefix="b/") == files[2:4]
    assert {name: each["size"] for name, each in fs.find("a/b", detail=True).items()} == {
        "a/b/3.txt": 2,
        "a/b/c/4.txt": 3,
    }
    assert fs.glob("a/*.txt") == ["a/1.txt"]
    assert fs.glob("a/*") == ["a/1.txt", "a/2.csv", "a/b"]
    assert fs.glob("a*/*.txt") == ["a/1.txt", "ab/5.txt"]
    assert fs.glob("a/**/*.txt") == ["a/1.txt", "a/b/3.txt", "a/b/c/4.txt"]
    assert fs.glob("**/[34].txt") == ["a/b/3.txt", "a/b/c/4.txt"]
    assert fs.glob("nothing/*") == []
    assert list(fs.walk("a")) == [
        ("a", ["b"], ["1.txt", "2.csv"]),
        ("a/b", ["c"], ["3.txt"]),
        ("a/b/c", [], ["4.txt"]),
    ]
    assert fs.du("a") == 6
    assert fs.du("a", total=False)["a/b/c/4.txt"] == 3
    assert fs.du("", maxdepth=1) == 5


SEGMENTS = st.sampled_from(["a", "b", "ab", "c.txt"])
PATHS = st.lists(SEGMENTS, min_size=1, max_size=4).map("/".join)


@given(
    paths=st.sets(PATHS, min_size=1, max_size=8),
    looked_at=st.one_of(st.just(""), PATHS),
    pattern=st.sampled_from(["*", "**", "a*", "*/b", "a/**", "**/c.txt", "?", "[ab]/*", "*b/*/c.txt"]),
    maxdepth=st.sampled_from([None, 1, 2, 3]),
)
def test_listings_are_those_of_the_reference(
    paths: set[str], looked_at: str, pattern: str, maxdepth: int | None
) -> None:
    """Of fsspec's own file system in memory, where no name is of a file and of a folder."""
    files = {path for path in paths if not any(other.startswith(f"{path}/") for other in paths)}
    theirs = MemoryFileSystem(skip_instance_cache=True)
    theirs.store, theirs.pseudo_dirs = {}, [""]
    ours = AgentStorageFileSystem(StorageConfig(storage_type="memory"), skip_instance_cache=True)
    for fs in (theirs, ours):
        fs.pipe({path: path.encode() for path in sorted(files)})

    def told(fs: Any) -> Any:
        root = f"/{looked_at}" if fs is theirs else looked_at
        walked = [(where, sorted(dirs), sorted(names)) for where, dirs, names in fs.walk(root, maxdepth)]
        found = [
            fs.find(root, maxdepth),
            fs.find(root, maxdepth, withdirs=True),
            fs.glob(pattern),
            fs.du(root, maxdepth=maxdepth),
            fs.exists(root),
            fs.isdir(root),
            fs.isfile(root),
            sorted(walked) if fs.isdir(root) else None,  # fsspec's two kinds differ in what is no folder.
        ]
        return json.loads(json.dumps(found).replace('"/', '"'))

    assert told(ours) == told(theirs)


@everywhere
def test_sizes_are_those_of_the_files_behind_layers(config: StorageConfig) -> None:
    """Though what is stored is compressed and encrypted, and S3 tells its size alone."""
    layers: dict[str, Any] = {
        "compression": CompressionOptions(min_bytes=1),
        "encryption": EncryptionOptions(keys={"now": bytes(range(32))}),
    }
    fs = AgentStorageFileSystem(replace(config, **layers))
    with fs.open("d/streamed", "wb", block_size=10_000) as file:
        for _ in range(30):
            file.write(b"x" * 1000)
    fs.pipe({"d/1": b"y" * 5000, "d/e/2": b""})
    assert [each["size"] for each in fs.ls("d")] == [5000, 0, 30_000]
    assert fs.du("d") == 35_000
    assert fs.size("d/streamed") == 30_000
    assert fs.cat_file("d/streamed", 29_990) == b"x" * 10
    with fs.open("d/1") as file:
        file.seek(4990)
        assert file.read() == b"y" * 10
    with fs.open("d/1", "ab") as file:
        file.write(b"z")
    assert fs.tail("d/1", 2) == b"yz"


@pytest.mark.parametrize("kind", ["memory"], indirect=True)
def test_listings_of_several_pages(fs: AgentStorageFileSystem) -> None:
    names = [f"many/{number:04}/file" for number in range(1100)]
    fs.pipe(dict.fromkeys(names, b"1"))
    assert fs.find("many") == names
    assert fs.du("many") == 1100
    assert len(fs.ls("many", detail=False)) == 1100
    assert len(fs.glob("many/1*/file")) == 100
    fs.rm("many", recursive=True)
    assert fs.find("") == []


@everywhere
def test_ranges(fs: AgentStorageFileSystem) -> None:
    content = bytes(range(100))
    fs.pipe("f", content)
    fs.pipe("empty", b"")
    spans = [(None, None), (0, 10), (10, None), (None, 7), (-5, None), (-20, -10), (5, -5), (90, 500)]
    spans += [(50, 50), (60, 50), (200, 300), (100, None), (0, 0), (-500, None), (-500, 3)]
    for start, end in spans:
        assert fs.cat_file("f", start, end) == content[start:end], (start, end)
        assert fs.cat_file("empty", start, end) == b""
        with pytest.raises(FileNotFoundError):
            fs.cat_file("nothing", start, end)
    assert fs.cat_ranges(["f", "f", "empty"], [0, 10, 0], [5, 12, 1]) == [content[:5], content[10:12], b""]
    failed = fs.cat_ranges(["f", "no"], [0, 0], [1, 1], on_error="return")
    assert failed[0] == content[:1]
    assert isinstance(failed[1], FileNotFoundError)
    assert fs.cat(["f", "empty"]) == {"f": content, "empty": b""}
    assert fs.head("f", 3) == content[:3]
    assert fs.tail("f", 3) == content[-3:]
    assert fs.read_block("f", 10, 5) == content[10:15]


@everywhere
def test_files_that_are_open(fs: AgentStorageFileSystem) -> None:
    with fs.open("big", "wb", block_size=64 * 1024, content_type="text/csv") as file:
        for index in range(40):
            assert file.write(bytes([index]) * 10_000) == 10_000
        assert file.tell() == 400_000
        assert not fs.exists("big")
    assert fs.info("big")["content_type"] == "text/csv"
    with fs.open("big", block_size=1000) as file:
        assert file.read(5) == b"\0" * 5
        file.seek(-3, 2)
        assert file.read() == b"\x27" * 3
        file.seek(10_000)
        assert file.read(10_000) == b"\1" * 10_000
        assert file.size == 400_000
    with fs.open("text", "w", encoding="utf-16-le") as file:
        file.write("ä\nö")
    with fs.open("text", "r", encoding="utf-16-le") as file:
        assert file.readlines() == ["ä\n", "ö"]
    with fs.open("packed", "wb", compression="gzip") as file:
        file.write(b"x" * 1000)
    assert fs.size("packed") < 100
    with fs.open("packed", compression="gzip") as file:
        assert file.read() == b"x" * 1000
    with fs.open("nothing in it", "wb"):
        pass
    assert fs.cat("nothing in it") == b""
    for mode in ("wb", "w", "ab", "xb"):
        with pytest.raises(RuntimeError), fs.open("given up", mode, block_size=10) as file:  # noqa: PT012
            file.write("x" * 100 if mode == "w" else b"x" * 100)
            raise RuntimeError
        assert not fs.exists("given up")
    for wrong, error in (("nothing", FileNotFoundError), ("", IsADirectoryError)):
        with pytest.raises(error):
            fs.open(wrong)
    with pytest.raises(FileExistsError):
        fs.open("big", "xb")
    first, second = fs.open("race", "xb"), fs.open("race", "xb")
    first.write(b"1")
    second.write(b"2")
    first.close()
    with pytest.raises(FileExistsError):
        second.close()
    assert fs.cat("race") == b"1"


@pytest.mark.parametrize("kind", [("memory", None), ("file", None)], ids=["memory", "file"])
@pytest.mark.parametrize(
    ("mode", "written"),
    [("wb", 4), ("w", 4), ("wt", 4), ("xb", 4), ("ab", 4), ("wb", 6_000_000)],  # More than a block.
)
@pytest.mark.parametrize("compression", [None, "gzip"])
def test_what_fsspec_opens_is_not_stored_if_its_block_raises(
    fs: AgentStorageFileSystem, mode: str, compression: str | None, written: int
) -> None:
    there = mode in ("wb", "ab")
    if there:
        fs.pipe("opened", b"old")

    def opened(path: str = "opened") -> OpenFile:
        return OpenFile(fs, path, mode, compression=compression)

    text: Any = os.urandom(written // 2).hex() if "b" not in mode else os.urandom(written)
    for error in (RuntimeError, KeyboardInterrupt):
        with pytest.raises(error), opened() as file:  # noqa: PT012
            file.write(text)
            raise error
        assert fs.exists("opened") is there
    if there:
        assert fs.cat("opened") == b"old"
    # What is written where an error is dealt with is stored.
    with opened("report") as outer:
        try:
            raise RuntimeError
        except RuntimeError:
            with opened("inner") as inner:
                inner.write(text[:2])
            outer.write(text[:2])
            outer.close()
    for name in ("report", "inner"):
        with OpenFile(fs, name, "r" if "b" not in mode else "rb", compression=compression) as file:
            assert file.read() == text[:2]


@pytest.mark.parametrize("kind", [("file", None)], ids=["file"])
@pytest.mark.parametrize("name", ["frame.csv", "frame.csv.gz", "frame.json"])
def test_what_pandas_writes_is_not_stored_if_it_raises(options: dict[str, Any], name: str) -> None:
    class Unprintable:
        def __str__(self) -> str:
            raise RuntimeError("no text")

    def write(values: list[Any]) -> None:
        frame = pandas.DataFrame({"n": pandas.Series(values, dtype=object)})
        if name.endswith("json"):
            # Its bytes are written in one piece: only a block of the caller can raise in between.
            with fsspec.open(f"agentstorage://{name}", "w", **options) as file:
                file.write(frame[:5].to_json())
                file.write(str(values[-1]))
        else:
            frame.to_csv(f"agentstorage://{name}", storage_options=options, chunksize=10)

    stored = AgentStorageFileSystem(**options)
    for values in ([*range(100), Unprintable()], [*range(100)], [*range(50), Unprintable()]):
        if values == [*range(100)]:
            write(values)
            kept = stored.cat(name)
            continue
        with pytest.raises(RuntimeError, match="no text"):
            write(values)
        assert stored.exists(name) is (len(values) == 51)
    assert stored.cat(name) == kept


@pytest.mark.parametrize("kind", [("memory", None), ("file", None)], ids=["memory", "file"])
@pytest.mark.parametrize("fails", ["when it begins", "in the middle", "not at all"])
def test_what_pyarrow_writes_is_not_stored_if_it_raises(fs: AgentStorageFileSystem, fails: str) -> None:
    """As `pandas.DataFrame.to_parquet` does it: by a writer that closes its file, whatever has happened, or,
    if it could not begin, leaves it alone. The writer is a model of pyarrow's, in a module of that name."""
    pyarrow: dict[str, Any] = {"__name__": "pyarrow.parquet.core"}
    exec(PARQUET_WRITER, pyarrow)  # noqa: S102 - it is read from the names of frames
    fs.pipe_file("frame.parquet", b"before")

    def write() -> None:
        with pyarrow["ParquetWriter"](fs, "frame.parquet", fails) as writer:
            writer.write_table(b"x" * 100)

    if fails == "not at all":
        write()
    else:
        with pytest.raises(RuntimeError):
            write()
    gc.collect()
    assert fs.cat_file("frame.parquet") == (b"PAR1" + b"x" * 100 if fails == "not at all" else b"before")


PARQUET_WRITER = """
class ParquetWriter:
    def __init__(self, fs, path, fails):
        self.is_open = False
        self.fails = fails
        self.sink = [fs.open(path, "wb")]
        if fails == "when it begins":
            raise RuntimeError
        self.is_open = True

    def write_table(self, data):
        self.sink[0].write(b"PAR1")
        self.sink[0].flush()
        if self.fails == "in the middle":
            raise RuntimeError
        self.sink[0].write(data)

    def __enter__(self):
        return self

    def close(self):
        if self.is_open:
            self.is_open = False
            self.sink[0].close()

    def __exit__(self, *args):
        self.close()
        return False
"""


def test_a_file_that_is_open_when_python_ends_is_not_stored_and_holds_nothing_up(tmp_path: Path) -> None:
    program = (
        "import sys\n"
        "from integrations.fsspec import AgentStorageFileSystem\n"
        "fs = AgentStorageFileSystem(storage=sys.argv[1])\n"
        "fs.pipe_file('kept', b'x')\n"
        "binary, text, large = fs.open('binary', 'wb'), fs.open('text', 'w'), fs.open('large', 'wb')\n"
        "binary.write(b'x'), text.write('x'), large.write(bytes(20_000_000))\n"
    )
    subprocess.run(
        [sys.executable, "-c", program, f"file:{tmp_path}/data"],
        env=os.environ | {"PYTHONPATH": str(PROJECT)},
        timeout=300,
        check=True,
    )
    assert AgentStorageFileSystem(storage=f"file:{tmp_path}/data").find("") == ["kept"]


@pytest.mark.parametrize("kind", [("memory", None), ("file", None)], ids=["memory", "file"])
@pytest.mark.parametrize("name", ["a.gz", "a.bz2", "a.xz", "a.zip"])
def test_a_compressed_file_whose_block_raises_is_not_stored(fs: AgentStorageFileSystem, name: str) -> None:
    for mode, text in (("wb", b"x" * 5000), ("w", "x" * 5000)):
        with pytest.raises(RuntimeError), fs.open(name, mode, compression="infer") as file:  # noqa: PT012
            file.write(text)
            raise RuntimeError
        assert not fs.exists(name)
    for mode, text in (("wb", b"x" * 5000), ("w", "x" * 5000)):
        file = fs.open(name, mode, compression="infer")
        with file:
            file.write(text)
        assert fs.size(name) != 5000  # Stored when it is closed, not when nobody has it any more.
        with fs.open(name, mode.replace("w", "r"), compression="infer") as file:
            assert file.read() == text


@pytest.mark.parametrize("kind", [("memory", None)], ids=["memory"])
def test_what_is_discarded_is_not_stored_when_it_is_closed(fs: AgentStorageFileSystem) -> None:
    for written in (b"", b"x"):
        file = fs.open("a", "wb")
        file.write(written)
        file.discard()
        file.close()
        del file
        assert not fs.exists("a")


@everywhere
def test_appending(fs: AgentStorageFileSystem) -> None:
    with fs.open("log", "ab", metadata={"of": "run"}, ttl=1000) as file:
        file.write(b"one\n")
    for line in (b"two\n", b"three\n"):
        with fs.open("log", "ab") as file:
            file.write(line)
    with fs.open("log", "a") as file:
        file.write("four\n")
    assert fs.cat("log") == b"one\ntwo\nthree\nfour\n"
    info = fs.info("log")
    assert info["metadata"] == {"of": "run"}
    assert info["expires_at"] is not None
    ours, theirs = fs.open("log", "ab"), fs.open("log", "ab")
    assert ours.tell() == 19
    ours.write(b"ours\n")
    theirs.write(b"theirs\n")
    ours.close()
    with pytest.raises(PreconditionFailedError):
        theirs.close()
    assert fs.cat("log") == b"one\ntwo\nthree\nfour\nours\n"


@here
def test_a_file_that_is_read_is_of_one_version(fs: AgentStorageFileSystem) -> None:
    fs.pipe("f", b"a" * 1000)
    with fs.open("f", block_size=10, cache_type="none") as file:
        assert file.read(10) == b"a" * 10
        fs.pipe("f", b"b" * 1000)
        with pytest.raises(PreconditionFailedError):
            file.read(10)


@everywhere
def test_a_transaction_is_stored_at_its_end(fs: AgentStorageFileSystem) -> None:
    fs.pipe("old", b"old")
    with fs.transaction:
        with fs.open("new", "wb", block_size=5) as file:
            file.write(b"new content")
        with fs.open("old", "wb") as file:
            file.write(b"changed")
        assert fs.cat("old") == b"old"
        assert not fs.exists("new")
    assert fs.cat(["new", "old"]) == {"new": b"new content", "old": b"changed"}
    with pytest.raises(RuntimeError), fs.transaction:  # noqa: PT012
        with fs.open("never", "wb", block_size=5) as file:
            file.write(b"new content")
        with fs.open("old", "ab") as file:
            file.write(b"changed")
        raise RuntimeError
    assert not fs.exists("never")
    assert fs.cat("old") == b"changed"


@everywhere
def test_copying_moving_and_removing(fs: AgentStorageFileSystem, tmp_path: Path) -> None:
    fs.pipe({"d/1": b"1", "d/e/2": b"2"}, metadata={"kept": "yes"})
    fs.copy("d/1", "copy")
    assert fs.cat("copy") == b"1"
    assert fs.info("copy")["metadata"] == {"kept": "yes"}
    fs.copy("copy", "copy")
    fs.copy("d/", "other", recursive=True)
    assert fs.find("other") == ["other/1", "other/e/2"]
    with pytest.raises(FileNotFoundError):
        fs.copy("nothing", "there")
    fs.mv("copy", "moved")
    assert not fs.exists("copy")
    assert fs.info("moved")["metadata"] == {"kept": "yes"}
    fs.mv("moved", "moved")
    fs.mv("moved", "other/")
    assert fs.cat("other/moved") == b"1"
    fs.mv("other", "third", recursive=True)
    assert fs.find("other") == []
    assert fs.find("third") == ["third/1", "third/e/2", "third/moved"]
    with pytest.raises(FileNotFoundError):
        fs.mv("nothing", "there")
    fs.get("third", str(tmp_path / "got"), recursive=True)
    assert (tmp_path / "got/e/2").read_bytes() == b"2"
    assert list(tmp_path.rglob("*.part")) == []
    with pytest.raises(FileNotFoundError):
        fs.get("nothing", str(tmp_path / "nothing"))
    assert not (tmp_path / "nothing").exists()
    fs.put(str(tmp_path / "got"), "put", recursive=True)
    assert fs.find("put") == ["put/1", "put/e/2", "put/moved"]
    with pytest.raises(IsADirectoryError):
        fs.rm("third")
    with pytest.raises(FileNotFoundError):
        fs.rm("nothing")
    with pytest.raises(FileNotFoundError):
        fs.rm("nothing", recursive=True)
    fs.rm("third/1")
    fs.rm("third/e/*")
    fs.rm(["put/1", "put/moved"])
    assert fs.find("") == ["d/1", "d/e/2", "put/e/2", "third/moved"]
    fs.rm("third", recursive=True)
    fs.rm_file("put/e/2")
    with pytest.raises(FileNotFoundError):
        fs.rm_file("put/e/2")
    fs.rm("", recursive=True)
    assert fs.find("") == []


@here
def test_a_name_may_be_of_a_file_and_of_a_folder(fs: AgentStorageFileSystem) -> None:
    fs.pipe({"d": b"file", "d/1": b"1"})
    assert fs.isfile("d")
    assert fs.cat("d") == b"file"
    assert fs.ls("d", detail=False) == ["d/1"]
    assert fs.find("") == ["d", "d/1"]
    fs.rm("d")
    assert fs.isdir("d")
    fs.pipe("d", b"again")
    fs.rm("d", recursive=True)
    assert fs.find("") == []


@here
@pytest.mark.parametrize("source", ["top.txt", "top*", "agentstorage://top.txt", "t[o]p.txt"])
def test_a_file_that_is_in_no_folder_goes_into_one(
    fs: AgentStorageFileSystem, source: str, tmp_path: Path
) -> None:
    fs.pipe({"top.txt": b"1", "d/x": b"", "dirs/a": b"2", "more/dirs/b": b""})
    for target in ("d", "d/"):
        fs.copy(source, target)
        assert fs.cat("d/top.txt") == b"1"
        fs.rm("d/top.txt")
        (tmp_path / "d").mkdir(exist_ok=True)
        fs.get(source, f"{tmp_path}/{target}")
        assert (tmp_path / "d/top.txt").read_bytes() == b"1"
        (tmp_path / "d/top.txt").unlink()
    fs.copy("top.txt", "renamed")
    fs.get("top.txt", f"{tmp_path}/renamed")
    assert fs.cat("renamed") == (tmp_path / "renamed").read_bytes() == b"1"
    fs.copy("dirs", "d", recursive=True)
    fs.copy("dirs/", "d", recursive=True)
    fs.copy("dirs", "more", recursive=True)
    assert fs.find("d") == ["d/a", "d/dirs/a", "d/x"]
    assert fs.find("more") == ["more/dirs/a", "more/dirs/b"]


@here
def test_folders_need_not_be_made(fs: AgentStorageFileSystem) -> None:
    fs.mkdir("new")
    fs.makedirs("new/deep")
    assert not fs.exists("new")
    fs.pipe("new/deep/file", b"")
    for path in ("new", "new/deep", "new/deep/file"):
        with pytest.raises(FileExistsError):
            fs.mkdir(path)
        with pytest.raises(FileExistsError):
            fs.makedirs(path)
        fs.makedirs(path, exist_ok=True)
    with pytest.raises(NotADirectoryError):
        fs.rmdir("new/deep/file")
    with pytest.raises(OSError, match="not empty"):
        fs.rmdir("new")
    fs.rm("new/deep/file")
    fs.rmdir("new")
    assert not fs.exists("new")


@everywhere
def test_touch_and_exclusive_writes(fs: AgentStorageFileSystem, tmp_path: Path) -> None:
    fs.touch("f")
    assert fs.cat("f") == b""
    fs.pipe("f", b"content")
    before = fs.info("f")["etag"]
    fs.touch("f", truncate=False)
    assert fs.cat("f") == b"content"
    assert fs.info("f")["etag"] != before
    fs.touch("f")
    assert fs.cat("f") == b""
    fs.touch("g", truncate=False)
    assert fs.cat("g") == b""
    (tmp_path / "local").write_bytes(b"x" * 3_000_000)
    fs.put_file(str(tmp_path / "local"), "big")
    assert fs.size("big") == 3_000_000
    for exclusive in (
        lambda: fs.pipe_file("big", b"", mode="create"),
        lambda: fs.put_file(str(tmp_path / "local"), "big", mode="create"),
    ):
        with pytest.raises(FileExistsError):
            exclusive()
    fs.get_file("big", str(tmp_path / "back"))
    assert (tmp_path / "back").read_bytes() == b"x" * 3_000_000
    with open(tmp_path / "handle", "wb") as handle:
        fs.get_file("big", handle)
    assert (tmp_path / "handle").stat().st_size == 3_000_000


@everywhere
def test_names_with_special_characters(fs: AgentStorageFileSystem) -> None:
    names = ["a b", "ä#ö?&=+%20", "日本語/🌍.txt", ".hidden", "x@y:z,;", "[1]", "star*", "~tilde", "q'\"<>|"]
    for name in names:
        fs.pipe_file(f"s/{name}", name.encode())
    assert fs.find("s") == sorted(f"s/{name}" for name in names)
    for name in names:
        assert fs.cat_file(f"agentstorage://s/{name}") == name.encode()
        assert fs.info(f"s/{name}")["name"] == f"s/{name}"
    for name in ("a//b", "../up", "back\\slash", "ends.", ".system/x", "new\nline", ""):
        with pytest.raises(InvalidKeyError):
            fs.pipe_file(name, b"")


@on_files
def test_errors_are_errors(fs: AgentStorageFileSystem, config: StorageConfig) -> None:
    fs.pipe("f", b"content")
    (stored,) = [path for path in Path(config.base_path).rglob("*") if path.name == "f.obj"]
    stored.write_bytes(stored.read_bytes()[:-1] + b"!")
    with pytest.raises(IntegrityError):
        fs.cat("f")
    assert fs.ls("", detail=False) == ["f"]


@pytest.mark.parametrize("kind", ["azurite", "moto"], indirect=True)
def test_a_link_is_signed(fs: AgentStorageFileSystem) -> None:
    fs.pipe("f", b"content")
    with urlopen(fs.sign("f", expiration=60)) as answer:  # noqa: S310 - the tests' own server
        assert answer.read() == b"content"
    with pytest.raises(FileNotFoundError):
        fs.sign("nothing")


@here
async def test_without_blocking(config: StorageConfig) -> None:
    async with StorageManager(config) as storage:
        fs = AgentStorageFileSystem(storage, asynchronous=True)
        await fs._pipe_file("a/1", b"one")
        assert await fs._cat_file("a/1") == b"one"
        assert await fs._find("") == ["a/1"]
        async with await fs.open_async("a/2", "wb", block_size=10) as file:
            await file.write(b"x" * 25)
            await file.write(b"y")
        async with await fs.open_async("a/2") as file:
            assert await file.read(3) == b"xxx"
            assert await file.read() == b"x" * 22 + b"y"
        async with await fs.open_async("a/2", "ab") as file:
            await file.write(b"z")
        assert (await storage.read("a/2")).data == b"x" * 25 + b"yz"
        with pytest.raises(RuntimeError):  # noqa: PT012
            async with await fs.open_async("a/3", "wb", block_size=1) as file:
                await file.write(b"x" * 25)
                raise RuntimeError
        with pytest.raises(FileNotFoundError):
            await fs.open_async("a/3")
        with pytest.raises(ValueError, match="binary"):
            await fs.open_async("a/2", "r")


def test_instances_are_of_one_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"file:{tmp_path}/one"
    fs = AgentStorageFileSystem(url)
    assert AgentStorageFileSystem(storage=url) is fs
    assert AgentStorageFileSystem(f"file:{tmp_path}/two") is not fs
    monkeypatch.setenv("AGENT_STORAGE_PATH", f"{tmp_path}/one")
    first = AgentStorageFileSystem()
    monkeypatch.setenv("AGENT_STORAGE_PATH", f"{tmp_path}/two")
    assert AgentStorageFileSystem() is not first
    # What differs in a secret alone is another store, too, though it is shown alike.
    connection = "DefaultEndpointsProtocol=https;AccountName=aaa;AccountKey="
    keys = [
        StorageConfig(storage_type="azure", connection_string=connection + key) for key in ("YQ==", "Yg==")
    ]
    assert repr(keys[0]) == repr(keys[1])
    assert AgentStorageFileSystem(keys[0]) is not AgentStorageFileSystem(keys[1])
    fs.pipe("f", b"content")
    again = pickle.loads(pickle.dumps(fs))  # noqa: S301
    assert again.cat("f") == b"content"
    with fs.open("f") as file:
        file.seek(3)
        other = pickle.loads(pickle.dumps(file))  # noqa: S301
    assert other.read() == b"tent"
    with pytest.raises(ConfigurationError):
        AgentStorageFileSystem("ftp://somewhere")


@on_files
def test_many_threads_share_an_instance(fs: AgentStorageFileSystem) -> None:
    def work(index: int) -> bytes:
        fs.pipe(f"t/{index}", bytes([index]))
        with fs.open(f"u/{index}", "wb") as file:
            file.write(bytes([index]))
        return fs.cat(f"t/{index}") + fs.cat(f"u/{index}")

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(work, range(32))) == [bytes([index]) * 2 for index in range(32)]


def test_it_is_found_by_its_name(tmp_path: Path) -> None:
    """By the entry point that an installation has, without an import of this project."""
    entry_points = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]["entry-points"]
    names = entry_points["fsspec.specs"]
    info = tmp_path / "agent_storage-0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: agent-storage\nVersion: 0\n")
    (info / "entry_points.txt").write_text(
        "[fsspec.specs]\n" + "".join(f"{name} = {target}\n" for name, target in names.items())
    )
    program = (
        "import sys, fsspec\n"
        "options = {'storage': sys.argv[1]}\n"
        "with fsspec.open('agentstorage://a/b.txt', 'w', **options) as file: file.write('hello')\n"
        "fs, path = fsspec.url_to_fs('agentstorage://a/b.txt', **options)\n"
        "print(fs.cat(path).decode(), fs.protocol, path)\n"
        "with fsspec.open('simplecache::agentstorage://a/b.txt', agentstorage=options) as file:\n"
        "    print(file.read().decode())\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program, f"file:{tmp_path}/data"],
        env=os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{PROJECT}"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (ran.stdout, ran.stderr) == ("hello agentstorage a/b.txt\nhello\n", "")


# -- those who read and write by it


@pytest.fixture
def options(config: StorageConfig, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    registered = sys.modules["fsspec.registry"]._registry
    monkeypatch.setitem(registered, "agentstorage", AgentStorageFileSystem)
    return {"storage": config}


@everywhere
def test_pandas(options: dict[str, Any]) -> None:
    frame = pandas.DataFrame({"a": [1, 2, 3], "b": ["x", "ü", None]})
    frame.to_csv("agentstorage://frames/1.csv", index=False, storage_options=options)
    frame.to_csv("agentstorage://frames/1.csv.gz", index=False, storage_options=options)
    frame.to_json("agentstorage://frames/1.json", orient="records", lines=True, storage_options=options)
    frame.to_pickle("agentstorage://frames/1.pickle", storage_options=options)
    for back in (
        pandas.read_csv("agentstorage://frames/1.csv", storage_options=options),
        pandas.read_csv("agentstorage://frames/1.csv.gz", storage_options=options),
        pandas.read_json("agentstorage://frames/1.json", lines=True, storage_options=options),
        pandas.read_pickle("agentstorage://frames/1.pickle", storage_options=options),  # noqa: S301
    ):
        pandas.testing.assert_frame_equal(back, frame, check_dtype=False)
    with pytest.raises(FileNotFoundError):
        pandas.read_csv("agentstorage://frames/2.csv", storage_options=options)


@everywhere
def test_duckdb(fs: AgentStorageFileSystem) -> None:
    with duckdb.connect() as connection:
        connection.register_filesystem(fs)
        connection.execute(
            "copy (select range as n, n % 3 as part from range(3000)) to 'agentstorage://t/n.parquet'"
        )
        connection.execute("copy (select 5000 as n, 1 as part) to 'agentstorage://t/more.parquet'")
        rows = connection.execute("select count(*), sum(n) from 'agentstorage://t/*.parquet'").fetchall()
        assert rows == [(3001, sum(range(3000)) + 5000)]
        connection.execute("copy (select 1 as a) to 'agentstorage://t/n.csv'")
        assert connection.execute("select a from 'agentstorage://t/n.csv'").fetchall() == [(1,)]
    assert fs.find("t") == ["t/more.parquet", "t/n.csv", "t/n.parquet"]
    assert fs.cat_file("t/n.parquet", 0, 4) == b"PAR1"


@everywhere
def test_zarr(options: dict[str, Any]) -> None:
    store = FsspecStore.from_url("agentstorage://arrays", storage_options=options)
    array = zarr.create_array(store, name="a", shape=(100, 100), chunks=(30, 30), dtype="f8", fill_value=0)
    array[10:20, 5] = 7
    again = zarr.open_array(
        FsspecStore.from_url("agentstorage://arrays", storage_options=options), path="a", mode="r"
    )
    assert again[:].sum() == 70
