"""What goes wrong in the console is told and takes nothing that was typed: bad input, lost calls, others."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator

import pytest
from playwright.async_api import Route

from tests.console_host import App, console_host
from tests.console_page import Console, browsing, expect, used


@pytest.fixture(scope="module")
async def app(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[App]:
    async with console_host(tmp_path_factory.mktemp("console-faults")) as app:
        yield app


@pytest.fixture(scope="module")
async def browser(app: App) -> AsyncIterator[Console]:
    async with browsing(app.url) as console:
        yield console


@pytest.fixture
async def console(browser: Console) -> AsyncIterator[Console]:
    async with used(browser) as console:
        yield console


async def test_a_pattern_that_is_none_is_told_and_can_be_corrected(app: App, console: Console) -> None:
    await app.ask("PUT", "objects/patterns/one.json", {"n": 1})
    await console.open("#/objects?prefix=patterns/&q=[z-a]")
    await expect(console.page.get_by_role("alert")).to_contain_text("[z-a]")
    await console.page.get_by_label("Search names").fill("[a-z]*.json")
    await expect(console.rows).to_have_count(1)
    await expect(console.page.get_by_role("alert")).to_have_count(0)


async def test_a_search_keeps_what_is_typed_while_it_is_carried_out(app: App, console: Console) -> None:
    await console.open("#/conversations")
    field = console.page.get_by_label("Topic")
    await field.press_sequentially("first ")
    await expect(console.page).to_have_url(re.compile("topic=first$"))
    await field.press_sequentially("second")
    await expect(console.page).to_have_url(re.compile(r"topic=first\+second$"))
    await expect(field).to_have_value("first second")
    # What the address says is what it holds, when another leads there.
    await console.open("#/conversations?topic=other")
    await expect(field).to_have_value("other")


async def test_what_is_out_of_date_says_so_until_it_no_longer_is(app: App, console: Console) -> None:
    page = console.page
    await app.ask("POST", "queues/late/messages", {"body": "one"})
    await console.open("#/queues?queue=late")
    await expect(console.detail.locator(".messages > li")).to_have_count(1)

    async def lost(route: Route) -> None:
        await route.abort()

    await page.route("**/api/queues/late/messages*", lost)
    late = page.get_by_text("What is shown may be out of date: The app does not answer.")
    try:
        await expect(late).to_be_visible()
    finally:
        await page.unroute("**/api/queues/late/messages*")
    await expect(late).to_be_hidden()


async def test_an_answer_without_a_reason_comes_with_a_remedy(app: App, console: Console) -> None:
    page = console.page
    given = [200]

    async def answer(route: Route) -> None:
        await route.fulfill(status=given[0], body="<html>a proxy's page</html>")

    for status, remedy in ((429, "try again in a moment"), (503, "log says why"), (403, "may not do this")):
        given[0] = status
        await page.route("**/api/objects?*", answer)
        try:
            await console.open(f"#/objects?prefix=refused/{status}/")
            await expect(page.get_by_role("alert")).to_contain_text(f"answered with {status}")
            await expect(page.get_by_role("alert")).to_contain_text(remedy)
        finally:
            await page.unroute("**/api/objects?*")


async def test_a_key_that_no_header_can_carry_is_refused_by_its_form(app: App, console: Console) -> None:
    await console.open("#/objects")
    await console.press("Key")
    await console.dialog.get_by_label("Key").fill("schlüssel…")
    await console.press("Use this key", console.dialog)
    await expect(console.dialog.get_by_role("alert")).to_contain_text("This is no key")


async def test_forms_and_differences_have_addresses(app: App, console: Console) -> None:
    page, detail = console.page, console.detail
    for n in (1, 2):
        await app.ask("POST", "versions/placed/one.json", {"n": n})
    await app.ask("PUT", "objects/placed/one.json", {"n": 2})
    await console.open("#/objects?key=placed/one.json&tab=versions")
    await console.press("Changes since the one before", detail)
    await expect(page).to_have_url(re.compile("diff=2"))
    await page.reload()
    await expect(detail.locator(".difference")).to_contain_text("/n")
    await page.go_back()
    await expect(detail.locator(".difference")).to_have_count(0)
    await console.open("#/tasks?submit=letter")
    action = detail.get_by_label("Action")
    await expect(action).to_have_value("letter")
    await action.select_option("tell")
    await expect(page).to_have_url(re.compile("submit=tell$"))
    await console.press("Cancel", detail)
    await expect(page).to_have_url(re.compile("#/tasks$"))
    task = await app.submit("fail", {"why": "x"})
    await app.settled(task)
    await console.open(f"#/tasks?task={task}&edit=1")
    await expect(detail.get_by_role("heading", name="Edit and retry")).to_be_visible()
    await console.press("Cancel", detail)
    await expect(detail.get_by_role("button", name="Edit and retry")).to_be_visible()


async def test_a_conversation_is_deleted_as_it_was_read(app: App, console: Console) -> None:
    said = {"messages": [{"role": "user", "content": "one"}]}
    await app.ask("POST", "conversations?key=read/1", said)
    await console.open("#/conversations?id=read/1")
    await console.press("Delete", console.detail)
    await expect(console.dialog).to_be_visible()
    await app.ask("POST", "conversations?key=read/1", said)
    await expect(console.detail.get_by_role("listitem")).to_have_count(2)
    await console.press("Delete", console.dialog)
    await expect(console.dialog.get_by_role("alert")).to_be_visible()
    assert (await app.json("conversations?key=read/1"))["conversation"]["count"] == 2


async def test_entities_with_many_properties_are_cut_and_say_so(app: App, console: Console) -> None:
    wide = {"PartitionKey": "p", "RowKey": "r", **{f"n{each:03}": each for each in range(100)}}
    await app.ask("POST", "tables/wide", wide)
    await console.open("#/tables?table=wide")
    await expect(console.detail).to_contain_text("The first 60 of 103 properties are shown")
    await expect(console.detail.get_by_role("columnheader")).to_have_count(60)
    await console.page.get_by_label("Properties").fill("n099")
    await console.press("Query")
    await expect(console.detail.get_by_role("columnheader", name="n099")).to_be_visible()


async def test_many_files_are_sent_a_few_at_a_time(app: App, console: Console) -> None:
    page = console.page
    sent: list[str] = []
    is_full, is_released = asyncio.Event(), asyncio.Event()

    async def held(route: Route) -> None:
        if route.request.method == "PUT":
            sent.append(route.request.url)
            if len(sent) == 3:
                is_full.set()
            await is_released.wait()
        await route.continue_()

    await page.route("**/api/objects?*", held)
    try:
        await console.open("#/objects?prefix=sent/")
        files = [{"name": f"{n}.txt", "mimeType": "text/plain", "buffer": b"x"} for n in range(9)]
        await page.locator("input[type=file]").set_input_files(files)  # type: ignore[arg-type]
        async with asyncio.timeout(300):
            await is_full.wait()
        await expect(page.locator(".upload")).to_have_count(9)
        assert len(sent) == 3
        is_released.set()
        await expect(console.rows).to_have_count(9)
    finally:
        is_released.set()
        await page.unroute("**/api/objects?*")


async def test_an_upload_without_an_answer_says_so(app: App, console: Console) -> None:
    page = console.page

    async def lost(route: Route) -> None:
        await (route.abort() if route.request.method == "PUT" else route.continue_())

    await page.route("**/api/objects?*", lost)
    try:
        await console.open("#/objects?prefix=lost/")
        file = {"name": "a.txt", "mimeType": "text/plain", "buffer": b"x"}
        await page.locator("input[type=file]").set_input_files([file])  # type: ignore[list-item]
        await expect(page.get_by_text("lost/a.txt: The app does not answer.")).to_be_visible()
    finally:
        await page.unroute("**/api/objects?*")
