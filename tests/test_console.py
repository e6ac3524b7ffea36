"""The console, driven in a browser against the local host, as people use it."""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, urlencode, urlsplit

import aiohttp
import numpy as np
import pytest
from aiohttp import web
from multidict import CIMultiDict
from playwright.async_api import Page, Route
from yarl import URL

from devhost.keys import FILE_NAME
from tests.client_tools import axe, console_build
from tests.conftest import PROJECT
from tests.console_host import SCRIPT, App, console_host
from tests.console_page import Console, browsing, expect, used
from tests.effort import SOAK
from tests.test_end_to_end import devhost


@pytest.fixture(scope="module")
async def app(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[App]:
    async with console_host(tmp_path_factory.mktemp("console")) as app:
        yield app


@pytest.fixture(scope="module")
async def browser(app: App) -> AsyncIterator[Console]:
    async with browsing(app.url) as console:
        yield console


@pytest.fixture
async def console(browser: Console) -> AsyncIterator[Console]:
    """The one tab, which must have nothing to complain about at the end."""
    async with used(browser) as console:
        yield console


async def test_objects_are_found_by_folder_and_by_name(app: App, console: Console) -> None:
    for key in ("find/agents/ceo.json", "find/agents/cfo.json", "find/notes.md"):
        await app.ask("PUT", f"objects/{key}", {"key": key})
    await console.open("#/objects?prefix=find/")
    page = console.page
    await expect(console.rows).to_have_count(2)
    await console.choose("agents/ Folder")
    await expect(console.rows).to_have_count(2)
    await console.choose("All objects")
    await page.get_by_label("Search names").fill("find/**/*.json")
    await expect(page.get_by_text(re.compile("2 matches among"))).to_be_visible()
    await page.get_by_label("Search names").fill("NOTES")
    await expect(console.rows).to_have_count(1)


async def test_what_is_stored_is_shown_and_never_runs(app: App, console: Console) -> None:
    array = io.BytesIO()
    np.save(array, np.array([[1.0, 2.0], [3.0, 6.0]]))
    wanted = {
        "tree.json": (json.dumps({"name": SCRIPT, "deep": {"er": [1, None]}}), "application/json", "deep"),
        "page.md": (f"# A title\n\n- **bold**\n\n{SCRIPT}", "text/markdown", "A title"),
        "rows.csv": (f'a,b\n1,"x, {SCRIPT}"\n', "text/csv", "x, <script>"),
        "page.html": (SCRIPT, "text/html", "<script>"),
        "array.npy": (array.getvalue(), "application/octet-stream", "2 \N{MULTIPLICATION SIGN} 2"),
        "bytes.bin": (bytes(range(256)), "application/octet-stream", "00000000  00 01 02"),
        "lines.jsonl": ('{"n": 17}\n{"n": 18}\n', "application/jsonl", "n:"),
        "picture.svg": (
            "<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'>"
            "<script>parent.document.title='ran'</script></svg>",
            "image/svg+xml",
            None,
        ),
    }
    for name, (body, kind, shown) in wanted.items():
        content = body.encode() if isinstance(body, str) else body
        await app.ask("PUT", f"objects?key=shown/{name}", content, **{"Content-Type": kind})
        await console.open(f"#/objects?prefix=shown/&key=shown/{name}")
        detail = console.page.get_by_role("region", name="Details")
        if shown is None:
            await expect(detail.get_by_role("img")).to_be_visible()
        else:
            await expect(detail.get_by_text(shown).first).to_be_visible()


async def test_files_are_uploaded_edited_and_deleted(app: App, console: Console, tmp_path: Path) -> None:
    page = console.page
    small, large = tmp_path / "small.json", tmp_path / "large.bin"
    small.write_text('{"model": "small"}')
    large.write_bytes(hashlib.sha256(b"").digest() * (17 * 1024 * 1024 // 32))
    await console.open("#/objects?prefix=up/")
    await page.locator("input[type=file]").set_input_files([small, large])
    await expect(console.rows).to_have_count(2)
    assert await app.ask("GET", "objects/up/large.bin") == large.read_bytes()

    await console.open("#/objects?prefix=up/&key=up/small.json")
    await console.choose("Edit")
    await page.get_by_label("up/small.json").fill('{"model": "mine"}')
    await app.ask("PUT", "objects/up/small.json", {"model": "theirs"})
    await console.choose("Save")
    await expect(page.get_by_text("Somebody else has changed")).to_be_visible()
    assert json.loads(await app.ask("GET", "objects/up/small.json")) == {"model": "theirs"}
    await console.choose("Save mine over theirs")
    await expect(page.get_by_text('"mine"')).to_be_visible()
    assert json.loads(await app.ask("GET", "objects/up/small.json")) == {"model": "mine"}

    await console.choose("Delete")
    await page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    await expect(console.rows).to_have_count(1)
    assert await app.missing("up/small.json")


async def test_a_folder_is_moved_after_it_was_counted(app: App, console: Console) -> None:
    for n in range(3):
        await app.ask("PUT", f"objects/old/{n}", n)
    page = console.page
    await console.open("#/objects?prefix=old/")
    await console.choose("Move folder")
    dialog = page.get_by_role("dialog")
    await dialog.get_by_label("New prefix").fill("new/")
    await dialog.get_by_role("button", name="Count first").click()
    await expect(dialog.get_by_text("3 objects would be affected")).to_be_visible()
    assert not await app.missing("old/0")
    await dialog.get_by_role("button", name="Move").click()
    await expect(page.get_by_text("3 objects done")).to_be_visible()
    assert await app.missing("old/0")
    assert await app.ask("GET", "objects/new/2") == b"2"


async def test_versions_are_compared_and_brought_back(app: App, console: Console) -> None:
    for model in ("first", "second"):
        await app.ask("POST", "versions/versioned", {"model": model})
    page = console.page
    await console.open("#/objects?key=versioned&tab=versions")
    await console.choose("Changes since the one before")
    await expect(page.get_by_text('"second"')).to_be_visible()
    await console.choose("Make current")
    await expect(page.get_by_text("Version 1 is the current one")).to_be_visible()
    assert json.loads(await app.ask("GET", "versions/versioned"))["current"] == 1


async def test_tasks_are_submitted_by_a_form_and_retried(app: App, console: Console) -> None:
    await app.ask("PUT", "objects/report.csv", b"a,b\n1,2\n", **{"Content-Type": "text/csv"})
    page = console.page
    await console.open("#/tasks")
    await console.choose("Submit a task")
    await page.get_by_role("region", name="Facts").get_by_label("Action").select_option("analyze_report")
    await page.get_by_label(re.compile("^report")).fill("report.csv")
    await page.get_by_role("region", name="Facts").get_by_role("button", name="Submit a task").click()
    await expect(page.get_by_text("succeeded").last).to_be_visible()
    await expect(page.get_by_role("heading", name="Result")).to_be_visible()

    failing = {"action": "fail", "agent_id": "ceo", "payload": {"why": SCRIPT}}
    made = json.loads(await app.ask("POST", "tasks", failing, Prefer="wait=20"))
    await console.open(f"#/tasks?task={made['task_id']}")
    detail = page.get_by_role("region", name="Facts")
    await expect(detail.get_by_text("ValueError").first).to_be_visible()
    await expect(detail.get_by_text("<script>").first).to_be_visible()
    await console.choose("Cancel" if made["status"] == "queued" else "Edit and retry")
    if made["status"] != "queued":
        await expect(page.get_by_label("Payload")).to_be_visible()


async def test_queues_and_tables_are_looked_into(app: App, console: Console) -> None:
    await app.ask("POST", "queues/reviews/messages", {"body": json.dumps({"text": SCRIPT})})
    entity = {"PartitionKey": "day", "RowKey": "1", "tokens": 12, "note": SCRIPT}
    await app.ask("POST", "tables/runs", entity)
    page = console.page
    await console.open("#/queues")
    await page.get_by_role("link", name=re.compile("reviews")).click()
    await expect(page.get_by_text("<script>").first).to_be_visible()
    await console.open("#/tables?table=runs")
    await page.get_by_label("Filter (OData)").fill("tokens gt 11")
    await console.choose("Query")
    await console.choose("day")
    await console.choose("Edit")
    await page.get_by_role("dialog").locator("textarea").fill('{"tokens": 13}')
    await console.choose("Save")
    await expect(page.get_by_text("The entity was saved")).to_be_visible()
    assert json.loads(await app.ask("GET", "tables/runs/day/1"))["tokens"] == 13


async def test_conversations_are_read_as_a_chat_and_forked(app: App, console: Console) -> None:
    said = [{"role": "user", "content": f"number {n} {SCRIPT if n == 149 else ''}"} for n in range(150)]
    told = {"messages": said, "participants": ["ceo"], "topic": "Numbers"}
    await app.ask("POST", "conversations?key=talks/1", told)
    page = console.page
    await console.open("#/conversations?participant=ceo")
    await console.choose("Numbers — talks/1", exact=False)
    await expect(page.get_by_text("number 149")).to_be_visible()
    await expect(page.get_by_text("number 0 ", exact=False)).to_have_count(0)
    await console.choose("Load earlier messages")
    await expect(page.get_by_text("number 0", exact=True)).to_have_count(1)
    await page.get_by_label("Search messages").fill("number 77")
    await expect(page.get_by_text("1 message found among 150")).to_be_visible()
    async with page.expect_download() as downloading:
        await console.choose("Export")
    exported = (await (await downloading.value).path()).read_text().splitlines()
    assert [json.loads(line)["message"] for line in exported] == said
    await console.choose("Fork")
    await page.get_by_role("dialog").get_by_label("New id").fill("talks/2")
    await page.get_by_role("dialog").get_by_role("button", name="Fork").click()
    await expect(page.get_by_text("talks/2 was made")).to_be_visible()
    forked = json.loads(await app.ask("GET", "conversations?key=talks/2&last=1"))
    assert forked["entries"][0]["message"] == said[-1]


async def test_the_overview_says_how_the_app_is(app: App, console: Console) -> None:
    await app.ask("POST", "tasks", {"action": "fail", "agent_id": "ceo", "payload": {"why": "x"}})
    await console.open("#/overview")
    page = console.page
    await expect(page.get_by_text("The storage answers. (file)")).to_be_visible()
    await expect(page.locator(".charts canvas")).to_have_count(4)
    shown = page.get_by_role("img", name=re.compile("Storage operations a second. all: [0-9]"))
    await expect(shown).to_be_visible()


@pytest.mark.parametrize("place", ["overview", "tasks", "queues?queue=turns", "conversations?id=turns"])
async def test_an_open_console_asks_at_most_once_in_two_seconds(app: App, place: str) -> None:
    """By the page's own clock, which the test moves on: it is no matter of how fast anything is."""
    seconds = 60 if SOAK else 12
    await app.ask("POST", "queues/turns/messages", {"body": "x"})
    said = {"messages": [{"role": "user", "content": "x"}]}
    await app.ask("PUT", "objects/turns.json", 1)
    await app.ask("POST", "conversations?key=turns", said)
    async with browsing(app.url) as console:
        page = console.page
        await page.clock.install()
        await console.open(f"#/{place}")
        await expect(page.locator("main h2, main .row, main .chip").first).to_be_visible()
        await page.wait_for_load_state("networkidle")
        began = await page.evaluate("performance.now()")
        console.requests.clear()
        asked = list[str]()
        # A turn begins two seconds after the answer of the one before, however long that takes.
        while len(asked) < seconds // 2:
            await page.clock.run_for(250)
            asked = [url for url in console.requests if "/api/" in url]
            # It goes on by itself, too, while the test is kept waiting.
            passed = await page.evaluate("performance.now()") - began
            assert len(asked) <= passed / 2000 + 1, asked
        assert console.complaints == []


async def test_the_first_view_is_small(app: App, record_property: pytest.RecordProperty) -> None:
    sizes = {}
    for path in ("console", "console/console.js", "console/console.css"):
        async with (
            aiohttp.ClientSession(auto_decompress=False) as session,
            session.get(f"{app.url}/api/{path}", headers={"Accept-Encoding": "gzip"}) as answer,
        ):
            sizes[path] = len(await answer.read())
    assert sum(sizes.values()) < 100_000
    record_property("measured", f"first view of the console: {sum(sizes.values()) / 1000:.0f} kB")


HOST_KEY, MASTER_KEY = "the-key-of-a-confined-caller", "the-key-of-whoever-may-do-all"


@pytest.fixture(scope="module")
async def guarded(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[App]:
    """An app that asks for keys, and lets one caller use a prefix alone."""
    folder = tmp_path_factory.mktemp("guarded")
    data = folder / "data"
    data.mkdir(mode=0o700)
    keys = data / FILE_NAME
    keys.write_text(json.dumps({"host": HOST_KEY, "master": MASTER_KEY}))
    keys.chmod(0o600)
    confined = {"load": ["agents/ceo"], "list": ["agents/ceo"], "save": ["agents/ceo"]}
    policy = {
        "keys": {
            "ceo": hashlib.sha256(HOST_KEY.encode()).hexdigest(),
            "all": hashlib.sha256(MASTER_KEY.encode()).hexdigest(),
        },
        "principals": {"key:ceo": {"may": confined}, "key:all": {"may": {"*": [""]}}},
    }
    (folder / "policy.json").write_text(json.dumps(policy))
    variables = {"AGENT_STORAGE_ACCESS_POLICY": str(folder / "policy.json")}
    async with devhost(None, data, "--require-keys", **variables) as host:
        app = App(host.url, host.session, data)
        for key in ("agents/ceo/a.json", "agents/cfo/secret.json"):
            await app.ask("PUT", f"objects/{key}", {"key": key}, **{"x-functions-key": MASTER_KEY})
        yield app


async def test_a_confined_caller_sees_and_is_offered_nothing_outside_its_rights(guarded: App) -> None:
    async with browsing(guarded.url) as console:
        page = console.page
        await console.open("#/objects?prefix=agents/ceo/&key=agents/ceo/a.json")
        dialog = page.get_by_role("dialog")
        await dialog.get_by_label("Key").fill("another key")
        await dialog.get_by_role("button", name="Use this key").click()
        await expect(dialog.get_by_text("The app did not accept the key.")).to_be_visible()
        await dialog.get_by_label("Key").fill(HOST_KEY)
        await dialog.get_by_role("button", name="Use this key").click()
        await expect(page.get_by_text("key:ceo")).to_be_visible()
        await expect(console.rows).to_have_count(1)
        for name in ("Download", "Edit"):
            await expect(page.get_by_role("button", name=name, exact=True)).to_be_visible()
        for name in ("Delete", "Move", "Delete folder"):
            await expect(page.get_by_role("button", name=name, exact=True)).to_have_count(0)
        await expect(page.get_by_role("link", name="Tables")).to_have_count(0)
        for place in (
            "#/objects?prefix=agents/cfo/&key=agents/cfo/secret.json",
            "#/objects?q=secret",
            "#/tables?table=tasks",
            "#/queues?queue=agent-tasks",
        ):
            await console.open(place)
            await page.wait_for_load_state("networkidle")
            shown = await page.locator("main pre, main .json, .virtual, table").all_inner_texts()
            assert "secret" not in " ".join(shown)
            await expect(page.get_by_text('"key"')).to_have_count(0)
        # The key is this tab's alone.
        assert HOST_KEY not in json.dumps(await page.evaluate("({...localStorage})"))
        assert all(HOST_KEY not in url for url in console.requests)
        assert console.complaints == []


async def test_with_a_key_files_are_sent_and_fetched(guarded: App, tmp_path: Path) -> None:
    """Small ones, those in parts, and downloads, which a browser fetches without the key."""
    small, large = tmp_path / "small.txt", tmp_path / "large.bin"
    small.write_text("small")
    large.write_bytes(bytes(range(256)) * (17 * 4096))
    key = {"x-functions-key": MASTER_KEY}
    async with browsing(guarded.url) as console:
        page = console.page
        await console.open("#/objects?prefix=keyed/")
        await console.dialog.get_by_label("Key").fill(MASTER_KEY)
        await console.press("Use this key", console.dialog)
        await expect(page.get_by_text("key:all")).to_be_visible()
        await page.locator("input[type=file]").set_input_files([small, large])
        for file in (small, large):
            await console.rows.get_by_text(file.name).click()
            async with page.expect_download() as downloading:
                await console.press("Download", console.detail)
            assert (await (await downloading.value).path()).read_bytes() == file.read_bytes()
            assert await guarded.ask("GET", f"objects/keyed/{file.name}", **key) == file.read_bytes()
        assert all(MASTER_KEY not in url for url in console.requests)
        assert console.complaints == []


NAME = "odd/<script>document.title='ran'<\N{DIVISION SLASH}script> #1 100% a?b ü\N{GRINNING FACE}.json"
PAGES = (
    "#/overview",
    "#/objects?prefix=odd/",
    "#/objects?q=*.json",
    f"#/objects?{urlencode({'prefix': 'odd/', 'key': NAME})}",
    f"#/objects?{urlencode({'key': NAME, 'tab': 'details'})}",
    f"#/objects?{urlencode({'key': NAME, 'tab': 'versions'})}",
    "#/objects?key=odd/page.md",
    "#/objects?key=odd/bytes.bin",
    "#/conversations?id=odd/talk",
    "#/tasks",
    "#/tasks?task={task}",
    "#/queues?queue=odd",
    "#/tables?table=odd",
)
DIALOGS = {
    "#/objects?prefix=odd/": ("Copy folder", "Move folder", "Delete folder"),
    PAGES[3]: ("Copy", "Move", "Delete", "Edit", "Key"),
    PAGES[4]: ("Edit",),
    "#/conversations?id=odd/talk": ("Fork", "Delete"),
    "#/tasks?action=tell": ("Save this view", "Retry all of these", "Cancel all of these", "Submit a task"),
    "#/tasks?task={task}": ("Edit and retry",),
    "#/queues?queue=odd": ("Send a message",),
    f"#/tables?{urlencode({'table': 'odd', 'entity': json.dumps(['<b>', '<img src=x>'])})}": (
        "Edit",
        "Delete",
    ),
}
"""What is asked where, before something is done: of several buttons of a name the last one."""


@pytest.fixture(scope="module")
async def odd(app: App) -> list[str]:
    """Pages of what holds scripts wherever something can."""
    meta = {"x-meta-note": quote(SCRIPT)}
    await app.ask("POST", f"versions?{urlencode({'key': NAME})}", {SCRIPT: SCRIPT}, **meta)
    await app.ask("POST", f"versions?{urlencode({'key': NAME})}", {SCRIPT: 2}, **meta)
    await app.ask("PUT", f"objects?{urlencode({'key': NAME})}", {SCRIPT: SCRIPT}, **meta)
    page = f"# {SCRIPT}\n\n[a]({SCRIPT}) [b](javascript:document.title='ran')"
    await app.ask("PUT", "objects/odd/page.md", page.encode(), **{"Content-Type": "text/markdown"})
    await app.ask("PUT", "objects/odd/bytes.bin", bytes(range(256)), **{"Content-Type": "image/bmp"})
    said = {"messages": [{"role": SCRIPT, "content": SCRIPT}], "topic": SCRIPT, "participants": [SCRIPT]}
    await app.ask("POST", "conversations?key=odd/talk", said)
    await app.ask("POST", "queues/odd/messages", {"body": json.dumps({SCRIPT: SCRIPT})})
    await app.ask("POST", "tables/odd", {"PartitionKey": "<b>", "RowKey": "<img src=x>", "note": SCRIPT})
    given = {"action": "tell", "agent_id": "ceo", "payload": {"why": SCRIPT}, "correlation_id": "<script>"}
    made = json.loads(await app.ask("POST", "tasks", given, Prefer="wait=20"))
    return [each.replace("{task}", made["task_id"]) for each in PAGES]


async def test_no_script_of_a_header_or_an_address_becomes_a_part_of_the_page(app: App) -> None:
    """Not even one that the page's policy would keep from running."""
    about = {
        "Content-Type": "application/json",
        "Content-Disposition": 'attachment; filename="<img src=x>"',
        "Cache-Control": "max-age=1",
        "x-meta-note": quote(SCRIPT),
    }
    await app.ask("PUT", "objects/headed/one.json", {"n": 1}, **about)
    failed = await app.submit("fail", {"why": SCRIPT}, correlation_id=SCRIPT[:30])
    await app.settled(failed)
    script = quote(SCRIPT, safe="")
    places = (
        "#/objects?key=headed/one.json&tab=details",
        f"#/tasks?task={failed}",
        f"#/objects?prefix={script}&q={script}",
        f"#/objects?key={script}&tab={script}&diff={script}",
        f"#/conversations?id={script}&topic={script}&at={script}",
        f"#/tasks?status={script}&action={script}&correlation_id={script}",
        f"#/tasks?task={script}",
        f"#/tasks?submit={script}",
        f"#/queues?queue={script}",
        f"#/tables?table={script}&filter={script}&entity={script}",
        f"#/{script}",
    )
    async with browsing(app.url) as console:
        page = console.page
        me = {"principal": SCRIPT, "rights": None}
        await page.route("**/api/me", lambda route: route.fulfill(json=me))
        for place in places:
            await page.goto("about:blank")
            await console.open(place)
            await expect(page.locator("main")).to_be_visible()
            await expect(page.get_by_role("banner").get_by_text("<script>")).to_be_visible()
            await page.wait_for_load_state("networkidle")
            assert await page.locator("body script, img[src=x], [onerror]").count() == 0, place
            assert await page.title() == "Agent storage"
        assert console.complaints == []


@dataclass
class Checked:
    """What axe finds serious, and what is wider than the screen."""

    page: Page
    found: list[str] = field(default_factory=list)

    async def check(self, place: str) -> None:
        if not await self.page.evaluate("'axe' in window"):
            await self.page.evaluate(axe().read_text())
        result = await self.page.evaluate("axe.run({resultTypes: ['violations']})")
        for each in result["violations"]:
            if each["impact"] in ("serious", "critical"):
                self.found.extend(f"{place}: {each['id']}: {node['html'][:200]}" for node in each["nodes"])
        wide = await self.page.evaluate("document.documentElement.scrollWidth - innerWidth")
        assert wide <= 0, (place, "does not fit", wide)


@pytest.fixture(params=[("light", 1280), ("dark", 400)], ids=["light-1280", "dark-400"])
async def checked(request: pytest.FixtureRequest, console: Console) -> AsyncIterator[Checked]:
    scheme, width = request.param
    page = console.page
    await page.emulate_media(color_scheme=scheme)
    await page.set_viewport_size({"width": width, "height": 800})
    checked = Checked(page)
    try:
        yield checked
    finally:
        await page.emulate_media(color_scheme="light")
        await page.set_viewport_size({"width": 1280, "height": 800})
    assert not checked.found, "\n".join(dict.fromkeys(checked.found))


async def test_nothing_serious_keeps_people_out_and_no_script_runs(
    odd: list[str], console: Console, checked: Checked
) -> None:
    for place in odd:
        await console.open(place)
        await expect(console.page.locator("main h2, main .row").locator("visible=true").first).to_be_visible()
        await checked.check(place)


async def test_nothing_serious_keeps_people_from_answering(
    odd: list[str], console: Console, checked: Checked
) -> None:
    page = console.page
    task = next(each for each in odd if "task=" in each).partition("task=")[2]
    for place, buttons in DIALOGS.items():
        await page.goto("about:blank")
        for button in buttons:
            await console.open(place.replace("{task}", task))
            await page.get_by_role("button", name=button, exact=True).last.click()
            await checked.check(f"{place}: {button}")
            await page.keyboard.press("Escape")


async def test_the_keyboard_opens_and_closes(app: App, odd: list[str], console: Console) -> None:
    page = console.page
    await console.open("#/objects?prefix=odd/")
    rows = page.get_by_role("listbox")
    await expect(console.rows).to_have_count(4)
    await rows.focus()
    for key in ("Home", "End", "ArrowUp", "ArrowDown", "Enter"):
        await rows.press(key)
    await expect(page.get_by_role("heading", level=2)).to_be_visible()
    remove = page.get_by_role("button", name="Delete", exact=True)
    await expect(remove).to_be_enabled()
    await remove.focus()
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("dialog")).to_be_visible()
    await page.keyboard.press("Escape")
    await expect(remove).to_be_focused()
    await page.get_by_role("button", name="Close").focus()
    await page.keyboard.press("Enter")
    await expect(rows).to_be_focused()
    await console.open("#/tasks")
    await page.get_by_role("button", name=re.compile("^dead")).focus()
    await page.keyboard.press("Space")
    await expect(page).to_have_url(re.compile("status=dead"))


async def test_a_hundred_thousand_names_scroll(console: Console, record_property: Any) -> None:
    """In steps of a frame, through all of them, and the slowest frame counts."""
    page = console.page

    async def answer(route: Route) -> None:
        begin = int(parse_qs(urlsplit(route.request.url).query).get("cursor", ["0"])[0])
        about = {"size": 5, "etag": "x", "last_modified": "2026-01-01T00:00:00Z"}
        listed = [{"key": f"many/{n:06}.json", **about} for n in range(begin, begin + 1000)]
        following = str(begin + 1000) if begin + 1000 < 100_000 else None
        await route.fulfill(json={"objects": listed, "prefixes": [], "cursor": following})

    await page.route("**/api/objects?*", answer)
    try:
        await console.open("#/objects?prefix=many/&q=*.json")
        await expect(page.get_by_text("100,000 matches among 100,000 names", exact=False)).to_be_visible()
        slowest = await page.evaluate(
            """async () => {
                const list = document.querySelector('.virtual');
                const frame = () => new Promise(requestAnimationFrame);
                const times = [];
                await frame();
                for (let step = 0; step < 60; step += 1) {
                    const before = performance.now();
                    list.scrollTop = step < 30 ? step * 200 : (step - 29) * 108000;
                    await frame();
                    times.push(performance.now() - before);
                }
                return Math.max(...times);
            }"""
        )
        await expect(page.get_by_title("many/099999.json")).to_be_visible()
        assert await console.rows.count() < 80
    finally:
        await page.unroute("**/api/objects?*")
    record_property("measured", f"slowest frame of 100,000 names: {slowest:.0f} ms")
    assert slowest < 50 or not SOAK


async def test_an_edit_changes_nothing_else(app: App, console: Console) -> None:
    page = console.page
    digits = '{"n": 12345678901234567890, "x": 1.0, "small": 1E-7, "twice": 1, "twice": 2}'
    about = {"Content-Type": "application/json", "Content-Disposition": "inline", "x-meta-who": "J%C3%BCrg"}
    await app.ask("PUT", "objects/exact.json", digits.encode(), **about)
    await console.open("#/objects?key=exact.json")
    await expect(page.get_by_text("12345678901234567890")).to_be_visible()
    await console.choose("Edit")
    await page.get_by_label("exact.json").press("End")
    await console.choose("Save")
    await expect(page.get_by_text("exact.json was saved")).to_be_visible()
    assert (await app.ask("GET", "objects/exact.json")).decode() == digits
    await console.choose("Details")
    await expect(page.get_by_text("Jürg")).to_be_visible()
    await console.choose("Edit")  # the object's
    await page.get_by_role("button", name="Cancel").click()
    await page.get_by_role("button", name="Edit", exact=True).last.click()
    dialog = page.get_by_role("dialog")
    await dialog.get_by_label("Time to live in seconds").fill("an hour")
    await dialog.get_by_role("button", name="Save").click()
    await expect(dialog.get_by_text("must be a number")).to_be_visible()
    await dialog.get_by_label("Time to live in seconds").fill("3600")
    await dialog.get_by_role("button", name="Save").click()
    await expect(dialog).to_have_count(0)
    async with app.session.get(f"{app.url}/api/objects/exact.json") as answer:
        assert answer.headers["x-meta-who"] == "J%C3%BCrg"
        assert answer.headers["Content-Disposition"] == "inline"
        assert "x-expires-at" in answer.headers

    await app.ask("PUT", "objects/lines.txt", b"one\r\ntwo\r\n", **{"Content-Type": "text/plain"})
    await console.open("#/objects?key=lines.txt")
    await console.choose("Edit")
    await page.get_by_label("lines.txt").fill("one\nthree\n")
    await console.choose("Save")
    await expect(page.get_by_text("lines.txt was saved")).to_be_visible()
    assert await app.ask("GET", "objects/lines.txt") == b"one\r\nthree\r\n"

    await app.ask(
        "PUT",
        "objects/latin.txt",
        "é".encode("latin-1"),
        **{"Content-Type": "text/plain; charset=iso-8859-1"},
    )
    await console.open("#/objects?key=latin.txt")
    await expect(page.get_by_text("00000000  e9")).to_be_visible()
    await expect(page.get_by_role("button", name="Edit", exact=True)).to_have_count(0)

    await console.choose("Copy")
    await dialog.get_by_label("New key").fill("lines.txt")
    await dialog.get_by_role("button", name="Copy").click()
    await expect(dialog.get_by_text("exists already")).to_be_visible()
    assert await app.ask("GET", "objects/lines.txt") == b"one\r\nthree\r\n"

    await app.ask("POST", "tables/whole", {"PartitionKey": "p", "RowKey": "r", "a": 1.5, "b": "kept"})
    await console.open("#/tables?table=whole&select=a")
    await console.choose("p")
    await console.choose("Edit")
    text = dialog.locator("textarea")
    await text.fill((await text.input_value()).replace("1.5", "2.5"))
    await console.choose("Save")
    await expect(page.get_by_text("The entity was saved")).to_be_visible()
    entity = json.loads(await app.ask("GET", "tables/whole/p/r"))
    assert (entity["a"], entity["b"]) == (2.5, "kept")
    await app.settled(await app.submit("tell", 1))
    await console.open("#/tables?table=tasks")
    await expect(page.get_by_role("table")).to_be_visible()
    await page.locator("table .link").first.click()
    await expect(dialog.locator(".json")).to_be_visible()
    await expect(dialog.get_by_role("button", name="Edit", exact=True)).to_have_count(0)


async def test_what_was_asked_for_before_is_not_shown_late(app: App, console: Console) -> None:
    """A page of another filter, and a broken page in the middle of a listing."""
    page = console.page
    held: list[Route] = []

    def task(name: str) -> dict[str, Any]:
        moment = "2026-01-01T00:00:00Z"
        about = {"agent_id": "ceo", "status": "queued", "attempts": 0, "created_at": moment}
        return {"task_id": name, "action": name, "started_at": None, "finished_at": None, **about}

    async def answer(route: Route) -> None:
        query = parse_qs(urlsplit(route.request.url).query)
        if "cursor" in query:
            held.append(route)
        else:
            of = query.get("agent_id", ["everyone"])[0]
            await route.fulfill(json={"tasks": [task(of)], "cursor": None if of == "cfo" else "more"})

    await page.route("**/api/tasks?*", answer)
    await console.open("#/tasks")
    await expect(page.get_by_text("everyone")).to_be_visible()
    await page.get_by_label("Agent").fill("cfo")
    await expect(console.rows.get_by_text("cfo", exact=True)).to_be_visible()
    async with page.expect_event("requestfinished", lambda request: "cursor=" in request.url):
        await held[0].fulfill(json={"tasks": [task("late")], "cursor": None})
    await page.evaluate("new Promise(requestAnimationFrame)")
    await expect(page.get_by_text("late")).to_have_count(0)
    await page.unroute("**/api/tasks?*")

    failures = [500]

    async def broken(route: Route) -> None:
        about = {"size": 5, "etag": "x", "last_modified": "2026-01-01T00:00:00Z"}
        if "cursor=" not in route.request.url:
            listed = [{"key": "first", **about}]
            await route.fulfill(json={"objects": listed, "prefixes": [], "cursor": "more"})
        elif failures:
            await route.fulfill(status=failures.pop(), body="")
        else:
            await route.fulfill(
                json={"objects": [{"key": "second", **about}], "prefixes": [], "cursor": None}
            )

    await page.route("**/api/objects?*", broken)
    await console.open("#/objects")
    await expect(page.get_by_text("answered with 500")).to_be_visible()
    await expect(page.get_by_text("first")).to_be_visible()
    await console.choose("Try again")
    await expect(page.get_by_text("second")).to_be_visible()
    await page.unroute("**/api/objects?*")


SIGNED_IN = {"X-MS-CLIENT-PRINCIPAL-IDP": "aad", "X-MS-CLIENT-PRINCIPAL-ID": "ada"}
ROUTES = "/agents/storage"


@asynccontextmanager
async def platform(url: str) -> AsyncIterator[str]:
    """What is in front of the app: a path of its own, and a sign-in whose session is a cookie."""
    async with aiohttp.ClientSession(auto_decompress=False) as session:

        async def passed_on(request: web.Request) -> web.Response:
            if request.path.endswith("/.auth/login/aad"):
                back = web.Response(
                    status=302, headers={"Location": request.query["post_login_redirect_uri"]}
                )
                back.set_cookie("session", "ada", path="/")
                return back
            is_open = "/console" in request.path or "/signed" in request.path
            if not is_open and "session" not in request.cookies:
                return web.Response(status=401)
            kept = {k: v for k, v in request.headers.items() if k.lower() != "connection"}
            at = f"{url}{request.raw_path.removeprefix(ROUTES)}"
            sent = session.request(
                request.method,
                URL(at, encoded=True),
                headers={**kept, **(SIGNED_IN if "session" in request.cookies else {})},
                data=await request.read(),
            )
            async with sent as answer:
                hop = ("transfer-encoding", "connection", "content-length")
                headers = [(k, v) for k, v in answer.headers.items() if k.lower() not in hop]
                return web.Response(
                    status=answer.status, headers=CIMultiDict(headers), body=await answer.read()
                )

        app = web.Application()
        app.router.add_route("*", f"{ROUTES}/{{rest:.*}}", passed_on)
        runner = web.AppRunner(app)
        await runner.setup()
        try:
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            yield f"http://127.0.0.1:{runner.addresses[0][1]}{ROUTES}"
        finally:
            await runner.cleanup()


async def test_it_works_signed_in_by_the_platform_behind_a_path(tmp_path: Path) -> None:
    """With a root, rights to one agent's tasks, one table and no queue; and nothing is asked of elsewhere."""
    data = tmp_path / "data"
    may = {"*": [""], "tasks": ["ceo"], "tables": ["mine"]}
    tenant = {"may": may, "root": "tenants/ada/"}
    policy = {"principals": {"aad:ada": tenant, "anonymous": {"may": {"*": [""], "tables": ["*"]}}}}
    (tmp_path / "policy.json").write_text(json.dumps(policy))
    variables = {"AGENT_STORAGE_ACCESS_POLICY": str(tmp_path / "policy.json"), "WEBSITE_AUTH_ENABLED": "true"}
    async with devhost(None, data, **variables) as host, platform(host.url) as url, browsing(url) as console:
        app = App(host.url, host.session, data)
        await app.ask("PUT", "objects/tenants/ada/a%20b.json", {"mine": True})
        await app.ask("PUT", "objects/tenants/bob/c.json", {"mine": False})
        await app.ask("POST", "tables/mine", {"PartitionKey": "p", "RowKey": "r"})
        page = console.page
        await page.goto(f"{url}/api/console/#/objects?key=a+b.json")
        dialog = page.get_by_role("dialog")
        await dialog.get_by_role("link", name="Sign in").click()
        await expect(page.get_by_text("aad:ada")).to_be_visible()
        await expect(page.get_by_text("mine:")).to_be_visible()
        await expect(dialog).to_have_count(0)
        await expect(console.rows).to_have_count(1)
        async with page.expect_download() as downloading:
            await console.choose("Download")
        assert json.loads((await (await downloading.value).path()).read_text()) == {"mine": True}
        await expect(page.get_by_role("navigation", name="Views").get_by_role("link")).to_have_text(
            ["Overview", "Objects", "Conversations", "Tasks", "Tables"]
        )
        await console.choose("Tasks")
        await console.choose("Submit a task")
        await expect(page.get_by_label("Agent").last).to_have_value("ceo")
        await console.choose("Tables")
        await expect(page.get_by_role("navigation", name="Tables").get_by_role("link")).to_have_count(1)
        await page.goto(f"{url}/api/Console#/tables?table=mine")
        await expect(page.get_by_role("table")).to_be_visible()
        assert [each for each in console.requests if not each.startswith(url) and each[:5] != "data:"] == []
        assert console.complaints == []


def test_the_built_page_is_what_its_source_gives(tmp_path: Path) -> None:
    """With the versions of console/package-lock.json."""
    built = console_build(tmp_path)
    assets = PROJECT / "functions" / "console" / "assets"
    assert {path.name for path in built.iterdir()} == {path.name for path in assets.iterdir()}
    for path in built.iterdir():
        assert path.read_bytes() == (assets / path.name).read_bytes(), (
            f"{path.name} is not what console/src gives: make console"
        )
