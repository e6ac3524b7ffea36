"""The console without a network, and without the app: it asks nobody else, and loses nothing typed."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.console_host import App
from tests.console_page import browsing, expect
from tests.test_end_to_end import devhost

ELSEWHERE = "https://elsewhere.example"
CUT_OFF = "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"


@pytest.fixture(scope="module")
async def app(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[App]:
    """All that a page can show, some of which names other servers."""
    data = tmp_path_factory.mktemp("console-offline") / "data"
    async with devhost(None, data, AGENT_STORAGE_METRICS="true") as host:
        app = App(host.url, host.session, data)
        page = f"![a picture]({ELSEWHERE}/a.png) <img src='{ELSEWHERE}/b.png'> [a link]({ELSEWHERE})"
        picture = f"<image href='{ELSEWHERE}/c.png'/>"
        drawn = f"<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'>{picture}</svg>"
        for name, kind, content in (
            ("page.md", "text/markdown", page),
            ("page.html", "text/html", page),
            ("drawn.svg", "image/svg+xml", drawn),
            ("value.json", "application/json", json.dumps({"page": page})),
            ("rows.csv", "text/csv", f'a,b\n1,"{page}"\n'),
            ("bytes.bin", "application/octet-stream", f"\xff{page}"),
        ):
            await app.ask("PUT", f"objects/cut/{name}", content.encode("latin-1"), **{"Content-Type": kind})
        for n in (1, 2):
            await app.ask("POST", "versions/cut/value.json", {"n": n})
        said = {"messages": [{"role": "user", "content": page}], "topic": "cut off"}
        await app.ask("POST", "conversations?key=cut/talk", said)
        await app.ask("POST", "queues/cut/messages", {"body": page})
        await app.ask("POST", "tables/cut", {"PartitionKey": "p", "RowKey": "r", "note": page})
        yield app


async def test_without_a_network_every_view_is_there(app: App) -> None:
    task = await app.submit("analyze_report", {"report": "cut/rows.csv"}, correlation_id="cut")
    await app.settled(task)
    async with browsing(app.url, arguments=(CUT_OFF,)) as console:
        page, detail = console.page, console.detail
        with pytest.raises(Exception, match="ERR_NAME_NOT_RESOLVED"):
            await (await page.context.new_page()).goto(ELSEWHERE)
        await console.open("#/overview")
        await expect(page.get_by_text("The storage answers. (file)")).to_be_visible()
        await expect(page.locator(".charts canvas").first).to_be_visible()
        await console.open("#/objects?prefix=cut/")
        await expect(console.rows.get_by_text("page.md")).to_be_visible()
        for name, shown in (
            ("page.md", "a picture"),
            ("page.html", "a picture"),
            ("value.json", "page"),
            ("rows.csv", "a picture"),
            ("bytes.bin", "00000000"),
        ):
            await console.open(f"#/objects?prefix=cut/&key=cut/{name}")
            await expect(detail.get_by_text(shown).first).to_be_visible()
        await console.open("#/objects?key=cut/drawn.svg")
        await expect(detail.get_by_role("img")).to_be_visible()
        await console.open("#/objects?key=cut/value.json&tab=versions&diff=2")
        await expect(detail.locator(".difference")).to_contain_text("/n")
        await console.open("#/conversations?id=cut/talk")
        await expect(detail.get_by_text("a picture")).to_be_visible()
        await console.open(f"#/tasks?correlation_id=cut&task={task}")
        await expect(detail.get_by_role("heading", name="Result")).to_be_visible()
        await console.open("#/tasks?submit=analyze_report")
        await expect(detail.get_by_label(re.compile("^report"))).to_be_visible()
        await console.open("#/queues?queue=cut")
        await expect(detail.get_by_text("a picture")).to_be_visible()
        await console.open("#/tables?table=cut")
        await expect(detail.get_by_text("a picture")).to_be_visible()
        assert console.complaints == []
        assert console.elsewhere == []


@dataclass
class Door:
    """Where the page finds the app, also when there is none: then nobody answers."""

    port: int = 0
    behind: int | None = None
    passing: set[asyncio.Task[None]] = field(default_factory=set)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def enter(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.passing.add(task)
        ends = [writer]
        try:
            if self.behind is not None:
                there, back = await asyncio.open_connection("127.0.0.1", self.behind)
                ends.append(back)
                done = await asyncio.wait(
                    [asyncio.ensure_future(_pass(reader, back)), asyncio.ensure_future(_pass(there, writer))],
                    return_when=asyncio.FIRST_COMPLETED,
                )
                for each in done[1]:
                    each.cancel()
        except OSError:
            pass
        finally:
            self.passing.discard(task)
            for each in ends:
                each.close()


async def _pass(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    except OSError:
        return


@asynccontextmanager
async def door() -> AsyncIterator[Door]:
    door = Door()
    server = await asyncio.start_server(door.enter, "127.0.0.1", 0)
    door.port = server.sockets[0].getsockname()[1]
    try:
        yield door
    finally:
        server.close()
        for each in list(door.passing):
            each.cancel()
        await asyncio.gather(*door.passing, return_exceptions=True)


@asynccontextmanager
async def behind(door: Door, data: Path) -> AsyncIterator[App]:
    async with devhost(None, data) as host:
        door.behind = int(host.url.rpartition(":")[2])
        try:
            yield App(host.url, host.session, data)
        finally:
            door.behind = None


async def test_while_the_app_is_away_the_page_says_so_and_loses_nothing(tmp_path: Path) -> None:
    large = tmp_path / "large.bin"
    large.write_bytes(bytes(range(256)) * (33 * 4096))
    async with AsyncExitStack() as stack:
        front = await stack.enter_async_context(door())
        first = await stack.enter_async_context(AsyncExitStack())
        app = await first.enter_async_context(behind(front, tmp_path / "data"))
        await app.ask("PUT", "objects/away/one.json", {"n": 1})
        await app.ask("PUT", "objects/away/two.json", {"n": 2})
        console = await stack.enter_async_context(browsing(front.url))
        page, detail = console.page, console.detail
        banner = page.get_by_role("status").get_by_text("The app does not answer. What is shown may be out")
        await console.open("#/objects?prefix=away/&key=away/one.json")
        await console.press("Edit", detail)
        text = page.get_by_label("away/one.json")
        await text.fill('{"n": "typed"}')
        # The first part is there, the second is on its way.
        async with page.expect_request(lambda each: "part=2" in each.url):
            await page.locator("input[type=file]").set_input_files(large)
        await first.aclose()
        await console.press("Save", detail)
        await expect(detail.get_by_role("alert")).to_contain_text("The app does not answer")
        await expect(banner).to_be_visible()
        await expect(text).to_have_value('{"n": "typed"}')

        app = await stack.enter_async_context(behind(front, tmp_path / "data"))
        await expect(banner).to_have_count(0)
        await expect(text).to_have_value('{"n": "typed"}')
        await console.press("Save", detail)
        await expect(page.get_by_text("away/one.json was saved")).to_be_visible()
        assert json.loads(await app.ask("GET", "objects/away/one.json")) == {"n": "typed"}
        await expect(console.rows.get_by_text("large.bin")).to_be_visible()
        assert await app.ask("GET", "objects/away/large.bin") == large.read_bytes()
        assert console.complaints == []


async def test_what_could_not_be_loaded_is_there_once_the_app_is_back(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        front = await stack.enter_async_context(door())
        first = await stack.enter_async_context(AsyncExitStack())
        app = await first.enter_async_context(behind(front, tmp_path / "data"))
        await app.ask("PUT", "objects/away/one.json", {"n": "shown"})
        await app.ask("POST", "queues/away/messages", {"body": "a message"})
        console = await stack.enter_async_context(browsing(front.url))
        page = console.page
        banner = page.get_by_role("status").get_by_text("The app does not answer. What is shown may be out")
        await console.open("#/tasks")
        await expect(page.get_by_role("listbox")).to_be_visible()
        await first.aclose()
        # Without a hand on it: what is live notices.
        await expect(banner).to_be_visible()
        await page.get_by_role("link", name="Queues").click()
        await expect(page.get_by_role("alert").first).to_contain_text("The app does not answer")
        await page.get_by_role("link", name="Objects").click()
        await expect(page.get_by_role("alert").first).to_contain_text("The app does not answer")

        await stack.enter_async_context(behind(front, tmp_path / "data"))
        await expect(console.rows.get_by_text("away/")).to_be_visible()
        await expect(page.get_by_role("alert")).to_have_count(0)
        await expect(banner).to_have_count(0)
        await page.get_by_role("link", name="Queues").click()
        await page.get_by_role("link", name=re.compile("away")).click()
        await expect(console.detail.locator("pre")).to_have_text("a message")
        assert console.complaints == []
