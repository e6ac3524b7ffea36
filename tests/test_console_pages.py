"""Conversations, queues, tables and the overview in the console; all of it by keyboard, dark and narrow."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Locator, Page, Route

from storage_lib import StorageConfig, StorageManager
from tests.console_host import SCRIPT, App, console_host
from tests.console_page import Console, browsing, expect, used


@pytest.fixture(scope="module")
async def app(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[App]:
    async with console_host(tmp_path_factory.mktemp("console-pages")) as app:
        yield app


@pytest.fixture(scope="module")
async def browser(app: App) -> AsyncIterator[Console]:
    async with browsing(app.url) as console:
        yield console


@pytest.fixture
async def console(browser: Console) -> AsyncIterator[Console]:
    async with used(browser) as console:
        yield console


async def talk(app: App, key: str, *said: Any, **about: Any) -> None:
    messages = [{"role": "user", "content": each} if isinstance(each, str) else each for each in said]
    await app.ask("POST", f"conversations?key={key}", {"messages": messages, **about})


async def test_conversations_are_found_and_are_live(app: App, console: Console) -> None:
    page = console.page
    await talk(app, "found/1", "hello", participants=["ann"], topic="Plans")
    await talk(app, "found/2", "hello", participants=["ben"], topic="Plans")
    await talk(app, "other/3", "hello", participants=["ann"], topic="Budget")
    await console.open("#/conversations?prefix=found/")
    await expect(console.rows).to_have_count(2)
    await page.get_by_label("Participant").fill("ann")
    await expect(console.rows).to_have_count(1)
    await page.get_by_label("Id begins with").fill("")
    await expect(console.rows).to_have_count(2)
    await page.get_by_label("Topic").fill("Budget")
    await expect(console.rows).to_have_count(1)
    await console.rows.first.click()
    await expect(page).to_have_url(re.compile("participant=ann&topic=Budget&id=other%2F3"))
    chat = console.detail.get_by_role("listitem")
    await expect(chat).to_have_count(1)
    call = {"role": "assistant", "tool_calls": [{"name": "search", "arguments": {"q": SCRIPT}}]}
    await talk(app, "other/3", "**now**", call)
    await expect(chat).to_have_count(3)
    await expect(chat.nth(1).locator("strong, b").last).to_have_text("now")
    await expect(chat.nth(2)).to_contain_text("tool_calls")


async def test_a_conversation_is_forked_up_to_a_message_and_deleted(app: App, console: Console) -> None:
    await talk(app, "forked/1", "one", "two", "three")
    await console.open("#/conversations?id=forked/1")
    await console.press("Fork", console.detail)
    await console.dialog.get_by_label("New id").fill("forked/2")
    await console.dialog.get_by_label("Up to message").fill("two")
    await console.press("Fork", console.dialog)
    await expect(console.dialog.get_by_role("alert")).to_contain_text("must be a number")
    await console.dialog.get_by_label("Up to message").fill("2")
    await console.press("Fork", console.dialog)
    await expect(console.page).to_have_url(re.compile("id=forked%2F2"))
    await expect(console.detail.get_by_role("listitem")).to_have_count(2)
    await console.press("Delete", console.detail)
    await expect(console.dialog).to_contain_text("Delete forked/2 with all its messages?")
    await console.press("Delete", console.dialog)
    await expect(console.page.get_by_text("forked/2 was deleted")).to_be_visible()
    await expect(console.page.get_by_text("Choose a conversation to read it.")).to_be_visible()
    assert (await app.json("conversations?key=forked/1"))["conversation"]["count"] == 3


async def test_a_queue_tells_its_length_its_age_and_its_next_messages(app: App, console: Console) -> None:
    page, detail = console.page, console.detail
    bodies = (json.dumps({"n": 1}), "plain text", SCRIPT)
    for body in bodies:
        await app.ask("POST", "queues/lines/messages", {"body": body})
    await console.open("#/queues")
    await page.get_by_label("Filter names").fill("LINE")
    names = page.get_by_role("navigation", name="Queues").get_by_role("link")
    await expect(names).to_have_count(1)
    await expect(names).to_contain_text("3 messages")
    await names.click()
    facts = detail.locator(".facts > div")
    await expect(facts.filter(has_text="Messages").locator("dd")).to_have_text("3")
    await expect(facts.filter(has_text="Oldest").locator("dd")).to_contain_text(re.compile("ago|now"))
    shown = detail.locator(".messages > li")
    for n, text in enumerate(("n: 1", "plain text", SCRIPT)):
        await expect(shown.nth(n)).to_contain_text(text)
        await expect(shown.nth(n)).to_contain_text("received 0 times")
    await console.press("Send a message")
    await console.dialog.get_by_label("Text", exact=True).fill("by hand")
    await console.dialog.get_by_label("Time to live").fill("never")
    await console.press("Send a message", console.dialog)
    await expect(console.dialog.get_by_role("alert")).to_contain_text("must be a number")
    await console.dialog.get_by_label("Time to live").fill("3600")
    await console.press("Send a message", console.dialog)
    await expect(shown).to_have_count(4)
    # Looking takes nothing, and what comes from elsewhere is seen.
    await app.ask("POST", "queues/lines/messages", {"body": "from elsewhere"})
    await expect(shown).to_have_count(5)
    await expect(facts.filter(has_text="Messages").locator("dd")).to_have_text("5")
    assert (await app.json("queues/lines"))["length"] == 5


async def test_entities_come_in_pages_and_are_filtered(app: App, console: Console) -> None:
    page, detail = console.page, console.detail
    async with StorageManager(StorageConfig(storage_type="file", base_path=str(app.data))) as storage:
        for n in range(250):
            entity = {"PartitionKey": "p", "RowKey": f"{n:03}", "n": n, "text": f"number {n}"}
            await storage.backend.insert_entity("paged", entity)
    await console.open("#/tables")
    await page.get_by_role("link", name="paged").click()
    rows = detail.locator("tbody tr")
    await expect(rows).to_have_count(200)
    await console.press("Load more")
    await expect(rows).to_have_count(250)
    await expect(page.get_by_role("button", name="Load more")).to_have_count(0)
    await page.get_by_label("Filter (OData)").fill("n ge 248")
    await page.get_by_label("Properties").fill("text")
    await console.press("Query")
    await expect(rows).to_have_count(2)
    await expect(detail.get_by_role("columnheader")).to_have_text(
        ["PartitionKey", "RowKey", "Timestamp", "text"]
    )
    await page.reload()
    await expect(rows).to_have_count(2)
    await page.get_by_label("Filter (OData)").fill("n nearly 3")
    await console.press("Query")
    await expect(detail.get_by_role("alert")).to_contain_text("filter")


async def test_an_entity_has_an_address_and_is_changed_or_deleted(app: App, console: Console) -> None:
    page, dialog = console.page, console.dialog
    for row in ("a b", ""):
        await app.ask("POST", "tables/kept", {"PartitionKey": "p q", "RowKey": row, "n": 1})
    await console.open("#/tables?table=kept")
    await console.detail.get_by_role("row", name="a b").get_by_role("button").click()
    await expect(dialog.get_by_role("heading")).to_have_text("p q / a b")
    await page.reload()
    await expect(dialog.locator(".json")).to_contain_text("n: 1")
    await console.press("Edit", dialog)
    await dialog.locator("textarea").fill('{"n": 2}')
    await app.ask("PUT", "tables/kept?partition=p%20q&row=a%20b", {"n": 3})
    await console.press("Save", dialog)
    await expect(dialog.get_by_role("alert")).to_contain_text("Somebody else has changed")
    await console.press("Cancel", dialog)
    await expect(page).to_have_url(re.compile(r"#/tables\?table=kept$"))
    await page.go_back()
    await expect(dialog.locator(".json")).to_contain_text("n: 3")
    await console.press("Delete", dialog)
    await console.press("Delete the entity p q / a b?", dialog)
    await expect(page.get_by_text("The entity was deleted")).to_be_visible()
    await expect(console.detail.locator("tbody tr")).to_have_count(1)
    await console.detail.locator("tbody button").click()
    await expect(dialog.get_by_role("heading")).to_have_text("p q /")
    await expect(dialog.locator(".json")).to_contain_text("n: 1")


def metrics(round_: int) -> str:
    """As the app tells them: in each round ten operations, half of them within 10 ms, and one that failed."""
    n = 10 * round_
    duration = "db_client_operation_duration_seconds_bucket"
    lines = [
        f'agent_storage_operations_total{{operation="load"}} {n}',
        f'agent_storage_errors_total{{operation="load"}} {n // 10}',
        f"agent_storage_cache_hits_total {3 * n}",
        f"agent_storage_cache_misses_total {n}",
        f'agent_task_ended_total{{status="succeeded"}} {n}',
        f'{duration}{{le="0.01"}} {n // 2}',
        f'{duration}{{le="0.02"}} {n}',
        f'{duration}{{le="+Inf"}} {n}',
    ]
    return "\n".join(lines) + "\n"


async def test_the_overview_draws_what_the_metrics_say(app: App, console: Console) -> None:
    page = console.page
    rounds = 0

    async def answer(route: Route) -> None:
        nonlocal rounds
        rounds += 1
        await route.fulfill(body=metrics(rounds), content_type="text/plain")

    await page.route("**/api/metrics", answer)
    try:
        await console.open("#/overview")
        for name in (
            "Storage operations a second. all: [0-9]",
            "Their latency in ms: median, 95 % and 99 %. 50 %: 10.0, 95 %: 19.0, 99 %: 19.8",
            "Failed operations a second. all: [0-9]",
            "Tasks a minute. all: [0-9]",
            "Cache hits in %. all: 75.0",
        ):
            await expect(page.get_by_role("img", name=re.compile(name))).to_be_visible()
    finally:
        await page.unroute("**/api/metrics")


async def test_a_banner_says_what_needs_a_person_and_what_mends_it(app: App, console: Console) -> None:
    page = console.page
    quota = {"rule": "agents", "prefix": "agents/", "bytes": 95, "objects": 1, "quota_bytes": 100}
    health = {
        "status": "degraded",
        "storage": "file",
        "tasks": "unavailable",
        "fallback": {"answers": "secondary", "pending": 7},
        "quotas": [{**quota, "quota_objects": None, "is_high": True}],
    }
    problem = {"type": "urn:agent-storage:problem:storage-unavailable", "status": 503, "detail": "no answer"}
    answers = [problem, health]

    async def answer(route: Route) -> None:
        told = answers.pop() if len(answers) > 1 else answers[0]
        await route.fulfill(status=told["status"] if told is problem else 200, json=told)

    await page.route("**/api/health/ready", answer)
    try:
        await console.open("#/overview")
        for text in (
            "The second store answers, the first does not.",
            "Tables and queues do not answer; tasks wait.",
            "7 objects wait to be brought back to the first store.",
            "agents/ is nearly full.",
        ):
            await expect(page.locator(".banner").filter(has_text=text)).to_be_visible()
        full = page.locator(".banner").filter(has_text="nearly full").get_by_role("link")
        await expect(full).to_have_attribute("href", "#/objects?prefix=agents%2F")
        # The next look finds nothing at all.
        await expect(page.locator(".banner").filter(has_text="no answer")).to_contain_text(
            "agent-storage doctor"
        )
    finally:
        await page.unroute("**/api/health/ready")
    await console.press("Try again")
    await expect(page.get_by_text("The storage answers. (file)")).to_be_visible()


async def test_colours_are_chosen_and_remembered(console: Console) -> None:
    page = console.page
    back = "getComputedStyle(document.body).backgroundColor"
    await page.emulate_media(color_scheme="light")
    try:
        await console.open("#/objects")
        light = await page.evaluate(back)
        await page.get_by_label("Colours").select_option("Dark")
        await expect(page.locator("html")).to_have_attribute("data-theme", "dark")
        dark = await page.evaluate(back)
        assert light != dark
        await page.reload()
        await expect(page.get_by_label("Colours")).to_have_value("dark")
        assert await page.evaluate(back) == dark
        await page.get_by_label("Colours").select_option("As the system")
        assert await page.evaluate(back) == light
        await page.emulate_media(color_scheme="dark")
        assert await page.evaluate(back) == dark
    finally:
        await page.emulate_media(color_scheme="light")


async def test_narrow_screens_show_one_thing_at_a_time(app: App, console: Console) -> None:
    page = console.page
    await app.ask("PUT", "objects/narrow/one.json", {"n": 1})
    await talk(app, "narrow", "hello")
    task = await app.submit("tell", 1, correlation_id="narrow")
    await app.settled(task)
    await app.ask("POST", "queues/narrow/messages", {"body": "hello"})
    await app.ask("POST", "tables/narrow", {"PartitionKey": "p", "RowKey": "r"})
    await page.set_viewport_size({"width": 380, "height": 700})
    try:
        for place, name in (
            ("#/objects?prefix=narrow/", "one.json"),
            ("#/conversations?prefix=narrow", "narrow"),
            ("#/tasks?correlation_id=narrow", "tell"),
            ("#/queues", "narrow"),
            ("#/tables", "narrow"),
        ):
            await console.open(place)
            row = page.locator("section.list").locator(".row, .entry.named").filter(has_text=name).first
            await row.click()
            await expect(console.detail.get_by_role("heading").first).to_be_visible()
            await expect(row).to_be_hidden()
            assert await page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0, place
            await console.press("Close", console.detail)
            await expect(row).to_be_visible()
            await expect(console.detail).to_be_hidden()
    finally:
        await page.set_viewport_size({"width": 1280, "height": 800})


@pytest.fixture
def reach(console: Console) -> Callable[[Locator], Any]:
    """Tab until this has the focus, as those do who have no mouse."""
    page: Page = console.page

    async def tab_to(wanted: Locator) -> None:
        await expect(wanted).to_be_visible()
        for _ in range(80):
            if await wanted.evaluate("element => element === document.activeElement"):
                return
            await page.keyboard.press("Tab")
        raise AssertionError(f"no Tab leads to {wanted}")

    return tab_to


async def test_objects_need_no_mouse(app: App, console: Console, reach: Any, tmp_path: Path) -> None:
    page, detail, dialog = console.page, console.detail, console.dialog
    press = page.keyboard.press
    await app.ask("POST", "versions/keys/a.json", {"n": 1})
    await app.ask("POST", "versions/keys/a.json", {"n": 2})
    await app.ask("PUT", "objects/typed/one.json", {"n": 1})
    (tmp_path / "two.json").write_text("2")
    # Before the page is there, so that its chooser of files cannot be missed.
    page.once("filechooser", lambda chooser: chooser.set_files(tmp_path / "two.json"))
    await console.open()
    await reach(page.get_by_role("link", name="Skip to content"))
    await press("Enter")
    await expect(page.locator("main")).to_be_focused()
    await console.open("#/objects?prefix=typed/")
    await reach(page.get_by_role("button", name="Upload"))
    await press("Enter")
    await expect(console.rows).to_have_count(2)
    await reach(page.get_by_label("Search names"))
    await page.keyboard.type("one")
    await expect(console.rows).to_have_count(1)
    await reach(page.get_by_role("listbox"))
    await press("ArrowDown")
    await press("Enter")
    await reach(detail.get_by_role("button", name="Edit", exact=True))
    await press("Enter")
    await reach(detail.locator("textarea"))
    await press("Control+a")
    await page.keyboard.type('{"n": 3}')
    await reach(page.get_by_role("button", name="Save"))
    await press("Enter")
    await expect(detail.locator(".json")).to_contain_text("n: 3")
    await reach(detail.get_by_role("button", name="Copy"))
    await press("Enter")
    await expect(dialog.get_by_label("New key")).to_be_focused()
    await press("End")
    await page.keyboard.type(".bak")
    await press("Enter")
    await expect(detail.get_by_role("heading", name="typed/one.json.bak")).to_be_visible()
    await reach(detail.get_by_role("button", name="Delete"))
    await press("Enter")
    await reach(dialog.get_by_role("button", name="Delete"))
    await press("Enter")
    await expect(page.get_by_text("typed/one.json.bak was deleted")).to_be_visible()
    await reach(page.get_by_role("button", name="Delete folder"))
    await press("Enter")
    await reach(dialog.get_by_role("button", name="Count first"))
    await press("Enter")
    await expect(dialog).to_contain_text("2 objects would be affected")
    await reach(dialog.get_by_role("button", name="Delete"))
    await press("Enter")
    await expect(page.get_by_text("2 objects done")).to_be_visible()
    await app.ask("PUT", "objects/keys/a.json", {"n": 2})
    await console.open("#/objects?key=keys/a.json")
    await reach(detail.get_by_role("link", name="Versions"))
    await press("Enter")
    await reach(detail.get_by_role("button", name="Changes since the one before"))
    await press("Enter")
    await expect(detail.locator(".difference")).to_contain_text("/n")
    await reach(detail.get_by_role("button", name="Make current"))
    await press("Enter")
    await expect(page.get_by_text("Version 1 is the current one")).to_be_visible()


async def test_tasks_need_no_mouse(app: App, console: Console, reach: Any) -> None:
    page, detail, dialog = console.page, console.detail, console.dialog
    press = page.keyboard.press
    await app.settled(await app.submit("fail", {"why": "x"}, correlation_id="typed"))
    await console.open("#/objects")
    await reach(page.get_by_role("navigation", name="Views").get_by_role("link", name="Tasks"))
    await press("Enter")
    await reach(page.get_by_role("button", name="Submit a task"))
    await press("Enter")
    action = detail.get_by_label("Action")
    await reach(action)
    await page.keyboard.type("letter")
    await expect(action).to_have_value("letter")
    await reach(detail.get_by_label(re.compile(r"^to \*")))
    await page.keyboard.type("Ada")
    await press("Enter")
    await expect(detail.locator("p > .chip")).to_have_text("succeeded")
    await reach(page.get_by_label("Correlation"))
    await page.keyboard.type("typed")
    await expect(console.rows).to_have_count(1)
    await reach(page.get_by_role("button", name="Save this view"))
    await press("Enter")
    await expect(dialog.get_by_label("Name of the view")).to_be_focused()
    await page.keyboard.type("Mine")
    await press("Enter")
    await expect(page.get_by_label("Saved views")).to_have_value("Mine")
    await reach(page.get_by_role("button", name="Retry all of these"))
    await press("Enter")
    await expect(dialog).to_be_visible()
    await press("Escape")
    await expect(dialog).to_have_count(0)
    await reach(page.get_by_role("listbox"))
    await press("Home")
    await press("Enter")
    await expect(detail.get_by_role("heading", level=2)).to_have_text("fail")
    await reach(detail.get_by_role("button", name="Edit and retry"))
    await press("Enter")
    await reach(detail.get_by_role("button", name="Cancel"))
    await press("Enter")
    await reach(detail.get_by_role("button", name="Delete record"))
    await press("Enter")
    await expect(page.get_by_text("The record was deleted")).to_be_visible()
    await expect(page.get_by_role("listbox")).to_be_focused()


async def test_conversations_queues_and_tables_need_no_mouse(app: App, console: Console, reach: Any) -> None:
    page, detail, dialog = console.page, console.detail, console.dialog
    press = page.keyboard.press
    await talk(app, "typed", "hello", "you")
    await app.ask("POST", "queues/typed/messages", {"body": "hello"})
    await app.ask("POST", "tables/typed", {"PartitionKey": "p", "RowKey": "r", "n": 1})
    await console.open("#/conversations?prefix=typed")
    await reach(page.get_by_role("listbox"))
    await press("ArrowDown")
    await press("Enter")
    await reach(detail.get_by_role("button", name="Fork"))
    await press("Enter")
    await expect(dialog.get_by_label("New id")).to_be_focused()
    await press("Enter")
    await expect(page.get_by_text("typed-fork was made")).to_be_visible()
    await reach(detail.get_by_role("button", name="Export"))
    async with page.expect_download():
        await press("Enter")
    await reach(page.get_by_role("link", name="Queues"))
    await press("Enter")
    await reach(page.get_by_role("link", name=re.compile("^typed")))
    await press("Enter")
    await reach(page.get_by_role("button", name="Send a message"))
    await press("Enter")
    await expect(dialog.get_by_label("Text", exact=True)).to_be_focused()
    await page.keyboard.type("typed text")
    await press("Tab")
    await press("Enter")
    await expect(detail.get_by_text("typed text")).to_be_visible()
    await reach(page.get_by_role("link", name="Tables"))
    await press("Enter")
    await reach(page.get_by_role("link", name="typed"))
    await press("Enter")
    await reach(page.get_by_label("Filter (OData)"))
    await page.keyboard.type("n eq 1")
    await press("Enter")
    await expect(page).to_have_url(re.compile("filter=n"))
    await reach(detail.locator("tbody button"))
    await press("Enter")
    await reach(dialog.get_by_role("button", name="Edit"))
    await press("Enter")
    await expect(dialog.locator("textarea")).to_be_visible()
    await press("Escape")
    await expect(dialog).to_have_count(0)
    await expect(detail.locator("tbody button")).to_be_focused()
