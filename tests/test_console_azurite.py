"""The main flows of the console on Azurite, as on Azure: its stores answer in other ways than files do."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.console_host import SCRIPT, App, console_host
from tests.console_page import Console, browsing, expect, used


@pytest.fixture(scope="module")
async def app(tmp_path_factory: pytest.TempPathFactory, azurite: object) -> AsyncIterator[App]:
    """:param azurite: installs it; the host starts one of its own."""
    async with console_host(tmp_path_factory.mktemp("console-azurite"), backend="azurite") as app:
        yield app


@pytest.fixture(scope="module")
async def browser(app: App) -> AsyncIterator[Console]:
    async with browsing(app.url) as console:
        yield console


@pytest.fixture
async def console(browser: Console) -> AsyncIterator[Console]:
    async with used(browser) as console:
        yield console


DROP = """([name, text]) => {
    const dropped = new DataTransfer();
    dropped.items.add(new File([text], name, { type: 'application/json' }));
    return dropped;
}"""


async def test_objects_are_saved_listed_shown_edited_and_deleted(app: App, console: Console) -> None:
    page, detail = console.page, console.detail
    await console.open("#/objects?prefix=agents/")
    await expect(page.get_by_text("There is nothing here yet", exact=False)).to_be_visible()
    dropped = await page.evaluate_handle(DROP, ["ceo é.json", json.dumps({"model": "large", "x": SCRIPT})])
    await page.dispatch_event("section.list", "drop", {"dataTransfer": dropped})
    await console.rows.get_by_text("ceo é.json").click()
    await expect(detail.get_by_text('"large"')).to_be_visible()
    await console.press("Edit", detail)
    await detail.locator("textarea").fill('{"model": "mine"}')
    key = "objects?key=agents/ceo%20%C3%A9.json"
    await app.ask("PUT", key, {"model": "theirs"})
    await console.press("Save")
    await expect(page.get_by_text("Somebody else has changed")).to_be_visible()
    await console.press("Save mine over theirs")
    await expect(detail.get_by_text('"mine"')).to_be_visible()
    assert await app.json(key) == {"model": "mine"}
    await detail.get_by_role("link", name="Details").click()
    await console.press("Edit", detail.locator("div").filter(has_text="Metadata").last)
    await console.dialog.get_by_label("Metadata").fill("owner: Zürich")
    await console.press("Save", console.dialog)
    await expect(detail.get_by_text("Zürich")).to_be_visible()
    async with page.expect_download() as downloading:
        await console.press("Download", detail)
    assert json.loads((await (await downloading.value).path()).read_text()) == {"model": "mine"}
    await console.press("Delete", detail)
    await console.press("Delete", console.dialog)
    await expect(console.rows).to_have_count(0)
    assert await app.missing("agents/ceo é.json")


async def test_a_large_file_has_all_that_a_small_one_has(app: App, console: Console, tmp_path: Path) -> None:
    """Its type, a checksum, no silent overwriting: as no link of the store could promise."""
    page = console.page
    large = tmp_path / "large.csv"
    for content in (b"a,b\n" * (17 << 18), b"c,d\n" * (17 << 18)):
        large.write_bytes(content)
        await page.goto("about:blank")
        await console.open("#/objects?prefix=large/")
        await page.locator("input[type=file]").set_input_files(large)
        if content.startswith(b"c"):
            await expect(console.dialog).to_contain_text("large/large.csv exists already")
            assert (await app.ask("GET", "objects/large/large.csv")).startswith(b"a,b")
            await console.press("Replace", console.dialog)
        await expect(page.get_by_text("large/large.csv was saved").last).to_be_visible()
        async with app.session.get(f"{app.url}/api/objects/large/large.csv") as answer:
            assert await answer.read() == content
            assert answer.headers["Content-Type"].startswith("text/csv")
            digest = base64.b64encode(hashlib.sha256(content).digest()).decode()
            assert answer.headers["Repr-Digest"] == f"sha-256=:{digest}:"


async def test_versions_are_compared_and_brought_back(app: App, console: Console) -> None:
    for model in ("first", "second"):
        await app.ask("POST", "versions/versioned", {"model": model})
    await console.open("#/objects?key=versioned&tab=versions")
    await console.press("Changes since the one before")
    await expect(console.page.get_by_text('"second"')).to_be_visible()
    await console.press("Make current")
    await expect(console.page.get_by_text("Version 1 is the current one")).to_be_visible()
    assert (await app.json("versions/versioned"))["current"] == 1


async def test_a_folder_is_moved_after_it_was_counted(app: App, console: Console) -> None:
    for n in range(3):
        await app.ask("PUT", f"objects/old/{n}", n)
    await console.open("#/objects?prefix=old/")
    await console.press("Move folder")
    await console.dialog.get_by_label("New prefix").fill("new/")
    await console.press("Count first", console.dialog)
    await expect(console.dialog.get_by_text("3 objects would be affected")).to_be_visible()
    await console.press("Move", console.dialog)
    await expect(console.page.get_by_text("3 objects done")).to_be_visible()
    await expect(console.rows).to_have_count(0)
    assert await app.ask("GET", "objects/new/2") == b"2"


async def test_a_conversation_is_read_and_forked(app: App, console: Console) -> None:
    said = [{"role": "user", "content": f"**number** {n} {SCRIPT}"} for n in range(3)]
    await app.ask("POST", "conversations?key=talks/1", {"messages": said, "participants": ["ceo"]})
    await console.open("#/conversations?participant=ceo")
    await console.rows.first.click()
    await expect(console.detail.get_by_role("listitem")).to_have_count(3)
    await console.press("Fork", console.detail)
    await console.press("Fork", console.dialog)
    await expect(console.page).to_have_url(re.compile("id=talks%2F1-fork"))
    await expect(console.detail.get_by_role("listitem")).to_have_count(3)


async def test_a_task_is_submitted_succeeds_and_one_is_cancelled(app: App, console: Console) -> None:
    form = console.detail
    await console.open("#/tasks")
    await console.press("Submit a task")
    await form.get_by_label("Action").select_option("letter")
    await form.get_by_label(re.compile(r"^to \*")).fill("Ada")
    await console.press("Submit a task", form)
    await expect(form.locator("p > .chip")).to_have_text("succeeded")
    await expect(form).to_contain_text('to: "Ada"')
    await expect(console.rows.get_by_text("succeeded")).to_have_count(1)
    held = await app.submit("hold", {"until": "never"})
    await app.settled(held, "running")
    await console.open(f"#/tasks?task={held}")
    await console.press("Cancel", form)
    await expect(form.locator("p > .chip")).to_have_text("cancelled")


async def test_a_queue_is_peeked_and_a_table_is_queried(app: App, console: Console) -> None:
    page, detail = console.page, console.detail
    await app.ask("POST", "queues/reviews/messages", {"body": json.dumps({"text": SCRIPT})})
    await console.open("#/queues")
    await page.get_by_role("link", name=re.compile("^reviews")).click()
    await expect(detail.locator(".messages")).to_contain_text(SCRIPT)
    await expect(detail.locator(".facts > div").filter(has_text="Messages").locator("dd")).to_have_text("1")
    for n in range(3):
        await app.ask("POST", "tables/runs", {"PartitionKey": "day 1", "RowKey": str(n), "tokens": n})
    await console.open("#/tables?table=runs")
    await page.get_by_label("Filter (OData)").fill("tokens ge 2")
    await console.press("Query")
    await expect(detail.locator("tbody tr")).to_have_count(1)
    await detail.locator("tbody button").click()
    await console.press("Edit", console.dialog)
    await console.dialog.locator("textarea").fill('{"tokens": 20}')
    await console.press("Save", console.dialog)
    await expect(page.get_by_text("The entity was saved")).to_be_visible()
    assert (await app.json("tables/runs/day%201/2"))["tokens"] == 20


async def test_the_overview_says_what_it_is_on(app: App, console: Console) -> None:
    await console.open("#/overview")
    await expect(console.page.get_by_text("The storage answers. (azure)")).to_be_visible()
    await expect(console.page.locator(".charts canvas")).to_have_count(4)
