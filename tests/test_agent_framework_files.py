"""The files of agents of Microsoft Agent Framework: its own stores and ours, by the same calls."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from agent_framework import AgentFileStore, FileSystemAgentFileStore, InMemoryAgentFileStore
from hypothesis import given, settings
from hypothesis import strategies as st

from integrations.agent_framework import StorageFiles
from storage_lib import BackendClosedError, MemoryBackend, StorageConfig, StorageManager
from tests.framework_stores import Place, on, storage_on

# The framework's own are experimental and say so.
pytestmark = pytest.mark.filterwarnings("ignore:.*is experimental:FutureWarning")


@pytest.fixture(params=["memory", "file", "moto", "azurite"])
def place(request: pytest.FixtureRequest) -> Place:
    return on(request)


@pytest.fixture(params=["InMemory", "FileSystem", "memory", "file", "moto", "azurite"])
def any_place(request: pytest.FixtureRequest) -> Place:
    return on(request)


@pytest.fixture
async def files(any_place: Place, tmp_path: Path) -> AsyncIterator[AgentFileStore]:
    match any_place[0]:
        case "InMemory":
            yield InMemoryAgentFileStore()
        case "FileSystem":
            yield FileSystemAgentFileStore(tmp_path)
        case _:
            async with storage_on(any_place, tmp_path) as storage:
                yield StorageFiles(storage)


@pytest.fixture
async def storage(place: Place, tmp_path: Path) -> AsyncIterator[StorageManager]:
    async with storage_on(place, tmp_path) as storage:
        yield storage


async def children(files: AgentFileStore, directory: str = "") -> list[tuple[str, str]]:
    listed = [(each.type, each.name) for each in await files.list_children(directory)]
    assert [kind for kind, _ in listed] == sorted((kind for kind, _ in listed)), "folders first"
    return sorted(listed)


async def test_a_file_is_written_read_and_deleted(files: AgentFileStore) -> None:
    assert await files.read("notes/plan.md") is None
    assert await files.file_exists("notes/plan.md") is False
    await files.write("notes/plan.md", "# Plan\r\nä 🎉\n")
    assert await files.read("notes/plan.md") == "# Plan\r\nä 🎉\n"
    assert await files.read(" notes\\plan.md ") == "# Plan\r\nä 🎉\n"
    assert await files.file_exists("notes/plan.md") is True
    assert await files.file_exists("notes") is False
    await files.write("notes//plan.md", "")
    assert await files.read("notes/plan.md") == ""
    with pytest.raises(FileExistsError):
        await files.write("notes/plan.md", "other", overwrite=False)
    assert await files.read("notes/plan.md") == ""
    await files.write("new", "new", overwrite=False)
    assert await files.delete("notes/plan.md") is True
    assert await files.delete("notes/plan.md") is False
    assert await files.read("notes/plan.md") is None


async def test_only_one_of_many_creates_a_file(files: AgentFileStore) -> None:
    async def create(n: int) -> bool:
        try:
            await files.write("lock", str(n), overwrite=False)
        except FileExistsError:
            return False
        return True

    created = await asyncio.gather(*map(create, range(8)))
    assert created.count(True) == 1
    assert await files.read("lock") == str(created.index(True))


async def test_folders_are_listed_before_files(files: AgentFileStore) -> None:
    assert await children(files) == []
    assert await children(files, "nowhere") == []
    for path in ("b.md", "a/one.md", "a/two.md", "a/deep/three.md", "c d/ü.md"):
        await files.write(path, path)
    assert await children(files) == [("directory", "a"), ("directory", "c d"), ("file", "b.md")]
    expected = [("directory", "deep"), ("file", "one.md"), ("file", "two.md")]
    for spelled in ("a", "a/", " a// ", "a\\"):
        assert await children(files, spelled) == expected
    assert await children(files, "c d") == [("file", "ü.md")]
    assert await children(files, "b.md") == []
    await files.create_directory("a")
    await files.create_directory("")
    assert await children(files, "a") == expected


OUTSIDE = ["/etc/passwd", "../up", "a/../../up", "./a", "a/.", "C:/x", "C:\\x", "\\x", "c:x"]


async def test_paths_that_lead_outside_are_refused(files: AgentFileStore) -> None:
    for path in OUTSIDE:
        for call in (files.write(path, ""), files.read(path), files.delete(path), files.file_exists(path)):
            with pytest.raises(ValueError, match="Invalid path"):
                await call
        with pytest.raises(ValueError, match="Invalid path"):
            await files.list_children(path)
    for path in ("", "  ", "a/", "a\\"):
        with pytest.raises(ValueError, match=r"(?i)path"):
            await files.write(path, "")


NAMES = [
    "a b",
    ".hidden",
    "..x",
    "dots...",
    "ü",
    "u\u0308",
    "漢字🎉",
    "a%2Fb",
    "x=2Fy",
    "=",
    "q?*#&+",
    "t\tn",
    "A",
    "a",
]


async def test_names_are_any_text(place: Place, storage: StorageManager, tmp_path: Path) -> None:
    for files in (StorageFiles(storage), FileSystemAgentFileStore(tmp_path / "theirs")):
        for name in NAMES:
            await files.write(name, f"1 {name}")
            await files.write(f"in/{name}/{name}", f"2 {name}")
        for name in NAMES:
            assert await files.read(name) == f"1 {name}"
            assert await files.read(f"in/{name}/{name}") == f"2 {name}"
            assert await children(files, f"in/{name}") == [("file", name)]
        assert await children(files, "in") == sorted(("directory", name) for name in NAMES)
        found = await files.search("in", "2 ", recursive=True)
        assert sorted(each.file_name for each in found) == sorted(f"{name}/{name}" for name in NAMES)


async def test_the_objects_have_the_names_of_the_files(storage: StorageManager) -> None:
    files = StorageFiles(storage, prefix="agents/ceo/")
    await files.write("reports/q4 2026.md", "# Q4")
    assert await storage.list_keys() == ["agents/ceo/reports/q4 2026.md"]
    assert await storage.load("agents/ceo/reports/q4 2026.md") == "# Q4"
    await storage.save("agents/ceo/data.json", {"n": 1})
    await storage.save("agents/cfo/secret", "s")
    assert await children(files) == [("directory", "reports"), ("file", "data.json")]
    assert await files.read("data.json") == '{"n":1}'
    await storage.write("agents/ceo/image.png", b"\x89PNG\xff")
    with pytest.raises(ValueError, match="utf-8"):
        await files.read("image.png")
    # What cannot be read is left out of a search.
    assert [each.file_name for each in await files.search("", "n|q4", recursive=True)] == [
        "data.json",
        "reports/q4 2026.md",
    ]


async def test_a_search_is_that_of_the_framework_s_own(files: AgentFileStore) -> None:
    texts = {
        "a.md": "first line\r\nERROR here\nlast",
        "b.txt": "no match",
        "logs/one.md": "error\nerror\n",
        "logs/deep/two.md": "an Error",
        "logs/deep/three.txt": "error",
    }
    for path, text in texts.items():
        await files.write(path, text)

    async def found(*arguments: Any, **named: Any) -> list[dict[str, Any]]:
        results = await files.search(*arguments, **named)
        return sorted((each.to_dict() for each in results), key=lambda each: each["file_name"])

    assert [each["file_name"] for each in await found("", "error")] == ["a.md"]
    everywhere = await found("", "error", recursive=True)
    assert [each["file_name"] for each in everywhere] == [
        "a.md",
        "logs/deep/three.txt",
        "logs/deep/two.md",
        "logs/one.md",
    ]
    assert everywhere[0]["matching_lines"] == [{"line_number": 2, "line": "ERROR here\n"}]
    below = await found("logs", "error", "*.md", recursive=True)
    assert [each["file_name"] for each in below] == ["deep/two.md", "one.md"]
    assert await found("logs", "^no such$", recursive=True) == []


async def test_an_agent_uses_the_tools_on_them(storage: StorageManager) -> None:
    from agent_framework import FileAccessProvider, SessionContext

    provider = FileAccessProvider(store=StorageFiles(storage), disable_write_tool_approval=True)
    context = SessionContext(input_messages=[])
    await provider.before_run(agent=None, session=None, context=context, state={})  # type: ignore[arg-type]
    tools = {tool.name: tool for tool in context.tools}
    write, read = tools["file_access_write"], tools["file_access_read"]
    assert "written" in await write.func(file_name="a/b.md", content="one\ntwo\n")
    assert "already exists" in await write.func(file_name="a/b.md", content="")
    assert "Could not write" in await write.func(file_name="../b.md", content="")
    assert await read.func(file_name="a/b.md") == "one\ntwo\n"
    assert "Replaced 1" in await tools["file_access_replace"].func(
        file_name="a/b.md", old_string="two", new_string="2"
    )
    assert await tools["file_access_ls"].func(directory="a") == [{"name": "b.md", "type": "file"}]
    (hit,) = await tools["file_access_grep"].func(regex_pattern="2")
    assert hit["file_name"] == "a/b.md"
    assert "deleted" in await tools["file_access_delete"].func(file_name="a/b.md")


async def test_large_files_and_time_to_live() -> None:
    now = [1_000_000.0]
    async with StorageManager(backend=MemoryBackend(clock=lambda: now[0])) as storage:
        files = StorageFiles(storage, ttl=60)
        await files.write("large", large := "ä" * 5_000_000)
        assert await files.read("large") == large
        now[0] += 61
        assert await files.read("large") is None
        assert await children(files) == []
        await files.write("large", "again", overwrite=False)


async def test_text_that_is_not_unicode_is_refused(storage: StorageManager) -> None:
    with pytest.raises(ValueError, match="surrogate"):
        await StorageFiles(storage).write("a", "\ud800")
    assert await StorageFiles(storage).read("a") is None


async def test_a_closed_storage_says_so(tmp_path: Path) -> None:
    storage = StorageManager(StorageConfig(storage_type="file", base_path=tmp_path))
    files = StorageFiles(storage)
    await files.write("a", "")
    await storage.close()
    for call in (
        files.read("a"),
        files.write("a", ""),
        files.delete("a"),
        files.file_exists("a"),
        files.list_children(),
    ):
        with pytest.raises(BackendClosedError):
            await call


PATHS = st.text(st.sampled_from("ab/\\. :cC~=%"), max_size=8)


@settings(max_examples=300, deadline=None)
@given(PATHS)
def test_any_path_means_what_it_means_to_the_framework_s_own(path: str) -> None:
    async def outcome(files: AgentFileStore) -> Any:
        try:
            await files.write(path, "x")
        except ValueError:
            return "refused"
        written = [entry.name for entry in await files.list_children()]
        return written, await files.read(path), await files.file_exists(path), await files.delete(path)

    async def compare() -> None:
        async with StorageManager(StorageConfig(storage_type="memory")) as storage:
            assert await outcome(StorageFiles(storage)) == await outcome(InMemoryAgentFileStore())

    asyncio.run(compare())


@settings(max_examples=150, deadline=None)
@given(st.text(max_size=6).map(lambda name: name.replace("/", "").replace("\\", "").strip()))
def test_any_name_is_listed_as_it_was_written(name: str) -> None:
    async def check() -> None:
        async with StorageManager(StorageConfig(storage_type="memory")) as storage:
            files = StorageFiles(storage)
            try:
                await files.write(name, "x")
            except ValueError:
                assert name in ("", ".", "..") or name[1:2] == ":"
                return
            assert [entry.name for entry in await files.list_children()] == [name]
            assert await files.find_matching_files("", "x", recursive=True) == [name]
            assert await files.read(name) == "x"

    asyncio.run(check())
