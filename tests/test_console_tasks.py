"""What people do with tasks in the console: find, follow, submit, retry and cancel them, and the dead."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator

import pytest
from playwright.async_api import Locator

from storage_lib import StorageConfig, StorageManager
from tests.console_host import SCRIPT, App, console_host
from tests.console_page import Console, browsing, expect, used


@pytest.fixture(scope="module")
async def app(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[App]:
    async with console_host(tmp_path_factory.mktemp("console-tasks")) as app:
        yield app


@pytest.fixture(scope="module")
async def browser(app: App) -> AsyncIterator[Console]:
    async with browsing(app.url) as console:
        yield console


@pytest.fixture
async def console(browser: Console) -> AsyncIterator[Console]:
    async with used(browser) as console:
        yield console


def status(console: Console) -> Locator:
    """That of the task that is shown."""
    return console.detail.locator("p > .chip")


def section(console: Console, title: str) -> Locator:
    heading = console.page.get_by_role("heading", name=title, exact=True)
    return console.detail.locator("section").filter(has=heading)


async def test_the_list_is_live(app: App, console: Console) -> None:
    await console.open("#/tasks?correlation_id=live")
    await expect(console.page.get_by_text("There are no such tasks.")).to_be_visible()
    held = await app.submit("hold", {"until": "live/go"}, correlation_id="live")
    await expect(console.rows).to_have_count(1)
    await expect(console.rows.get_by_text("running")).to_be_visible()
    running = console.page.get_by_role("button", name=re.compile("^running"))
    await expect(running).to_have_text("running 1")
    await app.ask("PUT", "objects/live/go", "went")
    await expect(console.rows.get_by_text("succeeded")).to_be_visible()
    await expect(running).to_have_text("running 0")
    assert (await app.settled(held))["result"] == "went"


async def test_filters_are_kept_under_a_name(app: App, console: Console) -> None:
    page = console.page
    for agent in ("ann", "ben"):
        for why in ("a", "b"):
            task = await app.submit("fail", {"why": why}, agent_id=agent, correlation_id=f"kept-{why}")
            await app.settled(task)
    await app.settled(await app.submit("tell", 1, agent_id="ann"))
    await console.open("#/tasks")
    await page.get_by_label("Agent").fill("ann")
    await expect(console.rows).to_have_count(3)
    await page.get_by_role("button", name=re.compile("^failed")).click()
    await expect(console.rows).to_have_count(2)
    await page.get_by_label("Correlation").fill("kept-b")
    await expect(console.rows).to_have_count(1)
    await page.get_by_label("Correlation").fill("")
    await expect(console.rows).to_have_count(2)
    await console.press("Save this view")
    await console.dialog.get_by_label("Name of the view").fill("What Ann has broken")
    await console.press("Save", console.dialog)
    await page.get_by_label("Agent").fill("")
    await page.get_by_role("button", name=re.compile("^succeeded")).click()
    await page.get_by_label("Action").fill("fail")
    await expect(page).to_have_url(re.compile("action=fail"))
    await page.reload()
    await page.get_by_label("Saved views").select_option("What Ann has broken")
    await expect(page).to_have_url(re.compile(r"#/tasks\?status=failed&agent_id=ann$"))
    await expect(page.get_by_label("Action")).to_have_value("")
    await expect(console.rows).to_have_count(2)
    await console.press("Forget this view")
    await expect(page.get_by_label("Saved views")).to_have_count(0)


async def test_states_are_counted_over_time(app: App, console: Console) -> None:
    for n in range(3):
        await app.settled(await app.submit("tell", n, correlation_id="counted"))
    await app.settled(await app.submit("fail", {"why": "x"}, correlation_id="counted"))
    await console.open("#/tasks?correlation_id=counted")
    chart = console.page.get_by_role("img", name=re.compile("^Tasks by the time they were created"))
    await expect(chart).to_have_accessible_name(re.compile("succeeded 3, failed 1$"))
    await expect(chart.locator("rect.failed")).to_have_count(1)
    await app.settled(await app.submit("fail", {"why": "x"}, correlation_id="counted"))
    await expect(chart).to_have_accessible_name(re.compile("succeeded 3, failed 2$"))


async def test_a_timeline_has_attempts_and_waits(app: App, console: Console) -> None:
    task = await app.submit("flaky", {"succeeds_at": 3}, correlation_id="line")
    record = await app.settled(task)
    assert [each["outcome"] for each in record["history"]] == ["retry", "retry", "succeeded"]
    await console.open(f"#/tasks?task={task}")
    spans = console.detail.locator(".timeline .label")
    attempts = ["1: retry — retry-task: not yet", "2: retry — retry-task: not yet", "3: succeeded"]
    for each in attempts:
        await expect(spans.get_by_text(each, exact=True)).to_be_visible()
    await expect(spans.get_by_text("waits")).not_to_have_count(0)
    await expect(section(console, "Result")).to_contain_text('"at last"')
    await console.detail.get_by_role("link", name="line").click()
    await expect(console.page).to_have_url(re.compile(r"#/tasks\?correlation_id=line$"))
    await expect(console.rows).to_have_count(1)


async def test_children_are_a_tree(app: App, console: Console) -> None:
    leaf = {"action": "tell", "payload": {"n": 1}}
    broken = {"action": "fail", "payload": {"why": "of a child"}}
    inner = {"action": "family", "payload": {"children": [leaf]}}
    task = await app.submit("family", {"children": [leaf, broken, inner]})
    assert (await app.settled(task))["children"] == {"total": 3, "ended": 3, "failed": 1}
    await console.open(f"#/tasks?task={task}")
    summary = console.detail.get_by_text("Children: 3 of 3 ended, 1 failed")
    await summary.click()
    tree = console.detail.locator(".tree").first
    await expect(tree.locator("> li")).to_have_count(3)
    await tree.get_by_text("Children: 1 of 1 ended").click()
    await expect(tree.locator(".tree li")).to_contain_text("tell")
    await tree.get_by_role("link", name=re.compile("fail.*fail")).click()
    await expect(section(console, "Error")).to_contain_text("ValueError: of a child")
    await console.detail.get_by_role("link", name=task).click()
    await expect(summary).to_be_visible()


async def test_payload_result_error_and_progress_are_shown(app: App, console: Console) -> None:
    told = await app.submit("tell", {"done": 3, "of": 7})
    await app.settled(told)
    await console.open(f"#/tasks?task={told}")
    for title in ("Payload", "Progress", "Result"):
        await expect(section(console, title)).to_contain_text("done: 3")
    failed = await app.submit("fail", {"why": SCRIPT})
    await app.settled(failed)
    await console.open(f"#/tasks?task={failed}")
    error = section(console, "Error")
    await expect(error).to_contain_text(f"ValueError: {SCRIPT}")
    await error.get_by_text("Traceback").first.click()
    await expect(error.locator("pre")).to_contain_text('raise ValueError(payload["why"])')


async def test_a_form_is_made_of_the_schema(app: App, console: Console) -> None:
    page, form = console.page, console.detail
    await console.open("#/tasks")
    await console.press("Submit a task")
    await form.get_by_label("Action").select_option("letter")
    await expect(form.get_by_text("Writes a letter.")).to_be_visible()
    await console.press("Submit a task", form)
    await expect(form.get_by_text("to is required.")).to_be_visible()
    await form.get_by_label(re.compile(r"^to \*")).fill("Ada")
    copies = form.get_by_label(re.compile("^copies"))
    await copies.fill("many")
    await expect(copies).to_have_attribute("aria-invalid", "true")
    await copies.fill("2")
    await form.get_by_label(re.compile("^tone")).select_option("kind")
    await form.get_by_label(re.compile("signed")).check()
    for n, each in enumerate(("a", "b"), start=1):
        await console.press("Add to extra", form)
        await form.get_by_label(f"{n} *", exact=True).fill(each)
    await form.get_by_label("Delay in seconds").fill("soon")
    await console.press("Submit a task", form)
    await expect(form.get_by_text("“Delay in seconds” must be a number.")).to_be_visible()
    await form.get_by_label("Delay in seconds").fill("0")
    await form.get_by_label(re.compile("Priority")).check()
    await console.press("As JSON", form)
    shown = json.loads(await form.get_by_label("Payload").input_value())
    assert shown == {"to": "Ada", "copies": 2, "tone": "kind", "signed": True, "extra": ["a", "b"]}
    await form.get_by_label("Payload").fill(json.dumps({**shown, "to": "Bob"}))
    await console.press("As a form", form)
    await expect(form.get_by_label(re.compile(r"^to \*"))).to_have_value("Bob")
    await console.press("Submit a task", form)
    await expect(status(console)).to_have_text("succeeded")
    await expect(section(console, "Result")).to_contain_text('to: "Bob"')
    await expect(form.get_by_text("high", exact=True)).to_be_visible()
    # What the schema says nothing of is refused by the app, and nothing that was typed is lost.
    await page.get_by_role("region", name="Tasks").get_by_role("button", name="Submit a task").click()
    await form.get_by_label("Action").select_option("letter")
    await form.get_by_label(re.compile(r"^to \*")).fill("Ada")
    await form.get_by_label("Agent").fill("no/agent\u0001")
    await console.press("Submit a task", form)
    await expect(form.get_by_role("alert")).to_contain_text("agent_id")
    await expect(form.get_by_label(re.compile(r"^to \*"))).to_have_value("Ada")


async def test_a_failed_task_is_retried_and_edited(app: App, console: Console) -> None:
    task = await app.submit("needs", {"key": "retry/here"})
    await app.settled(task)
    await console.open(f"#/tasks?task={task}")
    await expect(section(console, "Error")).to_contain_text("key-not-found")
    await app.ask("PUT", "objects/retry/here", "here")
    await console.press("Retry", console.detail)
    await expect(status(console)).to_have_text("succeeded")
    assert (await app.settled(task))["result"] == "here"
    await app.ask("PUT", "objects/retry/there", "there")
    await console.press("Edit and retry", console.detail)
    await console.detail.get_by_label("Payload").fill('{"key": "retry/there"}')
    await console.press("Submit a task", console.detail)
    await expect(section(console, "Result")).to_contain_text('"there"')
    await expect(console.detail.get_by_text(task)).to_have_count(0)
    await console.press("Delete record", console.detail)
    await expect(console.page.get_by_text("The record was deleted")).to_be_visible()
    await expect(console.page.get_by_text("Choose a task to see it.")).to_be_visible()


async def test_a_running_task_is_cancelled(app: App, console: Console) -> None:
    task = await app.submit("hold", {"until": "never"})
    await app.settled(task, "running")
    await console.open(f"#/tasks?task={task}")
    await expect(section(console, "Progress")).to_contain_text('holds: "never"')
    await console.press("Cancel", console.detail)
    await expect(status(console)).to_have_text("cancelled")
    later = await app.submit("tell", 1, delay_seconds=3600)
    await console.open(f"#/tasks?task={later}")
    await expect(status(console)).to_have_text("queued")
    await expect(console.detail.get_by_text("Not before")).to_be_visible()
    await console.press("Cancel", console.detail)
    await expect(status(console)).to_have_text("cancelled")


async def test_all_that_the_filters_find_are_retried_or_cancelled(app: App, console: Console) -> None:
    page = console.page
    for _ in range(3):
        await app.settled(await app.submit("needs", {"key": "many/here"}, correlation_id="many"))
    others = await app.submit("needs", {"key": "many/here"}, correlation_id="others")
    await app.settled(others)
    await console.open("#/tasks")
    await expect(page.get_by_role("button", name="Retry all of these")).to_be_disabled()
    await console.open("#/tasks?correlation_id=many")
    await app.ask("PUT", "objects/many/here", 1)
    await console.press("Retry all of these")
    await expect(console.dialog).to_contain_text("correlation_id: many")
    await console.press("Count first", console.dialog)
    await expect(console.dialog).to_contain_text("3 tasks would be changed.")
    await expect(console.rows.get_by_text("failed")).to_have_count(3)
    await console.press("Retry all of these", console.dialog)
    await expect(page.get_by_text("3 tasks changed.")).to_be_visible()
    await expect(console.rows.get_by_text("succeeded")).to_have_count(3)
    assert (await app.settled(others))["status"] == "failed"

    for _ in range(2):
        await app.submit("tell", 1, correlation_id="waiting", delay_seconds=3600)
    await console.open("#/tasks?correlation_id=waiting")
    await console.press("Cancel all of these")
    await console.press("Count first", console.dialog)
    await expect(console.dialog).to_contain_text("2 tasks would be changed.")
    await console.press("Cancel all of these", console.dialog)
    await expect(console.rows.get_by_text("cancelled")).to_have_count(2)


async def test_what_nobody_could_read_is_found_and_sent_again(app: App, console: Console) -> None:
    """A message that is no task, from another program: the overview says so, and leads to it."""
    page = console.page
    async with StorageManager(StorageConfig(storage_type="file", base_path=str(app.data))) as storage:
        await storage.backend.send_message("agent-tasks", f"hello? {SCRIPT}")
    await console.open("#/overview")
    banner = page.get_by_role("alert").filter(has_text="1 task could not be run.")
    await banner.get_by_role("link", name="Look at them").click()
    await expect(console.rows).to_have_count(1)
    await console.rows.first.click()
    await expect(section(console, "The message, which nobody could read")).to_contain_text(SCRIPT)
    await expect(section(console, "Error")).to_contain_text("serialization-error")
    await console.press("Retry", console.detail)
    await expect(page.get_by_text("The task runs again")).to_be_visible()
    await expect(console.rows).to_have_count(2)
    # The queue where such messages end leads there too.
    await console.open("#/queues?queue=agent-tasks-poison")
    await console.detail.get_by_role("link", name="Show dead tasks").click()
    await expect(page).to_have_url(re.compile(r"#/tasks\?status=dead$"))
