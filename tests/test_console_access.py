"""A caller that may use a part sees and can do nothing outside it, whatever is typed into the address."""

from __future__ import annotations

import hashlib
import json
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import pytest
from playwright.async_api import Error, Response

from devhost.keys import FILE_NAME
from tests.console_host import App, console_host
from tests.console_page import Console, browsing, expect, used

MINE, ALL = "the-key-of-a-confined-caller", "the-key-of-whoever-may-do-all"
HIDDEN = "hush-17"
"""In the content of whatever is not the caller's."""


@pytest.fixture(scope="module")
async def app(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[App]:
    folder = tmp_path_factory.mktemp("console-access")
    (folder / "data").mkdir(mode=0o700)
    keys = folder / "data" / FILE_NAME
    keys.write_text(json.dumps({"host": MINE, "master": ALL}))
    keys.chmod(0o600)
    own = {action: ["agents/ceo"] for action in ("load", "list", "save", "delete")}
    confined = {**own, "tasks": ["ceo"], "tables": ["mine"], "queues": ["mine"]}
    digests = {name: hashlib.sha256(key.encode()).hexdigest() for name, key in (("ceo", MINE), ("all", ALL))}
    every = {"*": [""], "tasks": ["*"], "tables": ["*"], "queues": ["*"]}
    policy = {"keys": digests, "principals": {"key:ceo": {"may": confined}, "key:all": {"may": every}}}
    (folder / "policy.json").write_text(json.dumps(policy))
    variables = {"AGENT_STORAGE_ACCESS_POLICY": str(folder / "policy.json")}
    async with console_host(folder, "--require-keys", **variables) as app:
        yield app


@pytest.fixture(scope="module")
async def tasks(app: App) -> dict[str, str]:
    """Something of the caller's, and something of others, of each kind is stored; the tasks' ids."""
    key: dict[str, Any] = {"x-functions-key": ALL}
    tasks: dict[str, str] = {}
    for agent, text in (("ceo", "shown"), ("cfo", HIDDEN)):
        await app.ask("PUT", f"objects/agents/{agent}/a.json", {"text": text}, **key)
        await app.ask("PUT", f"objects/agents/{agent}/named-{text}.json", {"text": text}, **key)
        await app.ask("POST", f"versions/agents/{agent}/versioned", {"text": text}, **key)
        said = {"messages": [{"role": "user", "content": text}], "topic": text, "participants": [agent]}
        await app.ask("POST", f"conversations?key=agents/{agent}/talk", said, **key)
        given = {"action": "tell", "agent_id": agent, "payload": {"text": text}, "correlation_id": text}
        made = json.loads(await app.ask("POST", "tasks", given, Prefer="wait=20", **key))
        tasks[agent] = made["task_id"]
    for name, text in (("mine", "shown"), ("other", HIDDEN)):
        entity = {"PartitionKey": "p", "RowKey": "r", "text": text}
        await app.ask("POST", f"tables/{name}", entity, **key)
        await app.ask("POST", f"queues/{name}/messages", {"body": text}, **key)
    return tasks


PLACES = {
    "objects": (
        "",
        "#/objects?prefix=agents/",
        "#/objects?prefix=agents/cfo/&key=agents/cfo/a.json",
        "#/objects?key=agents/cfo/a.json&tab=details",
        "#/objects?key=agents/cfo/versioned&tab=versions",
        "#/objects?q=**/named-*",
    ),
    "paths": (
        "#/objects?key=agents/ceo/../cfo/a.json",
        "#/objects?key=agents%2Fceo%2F%2E%2E%2Fcfo%2Fa.json",
        "#/objects?key=agents/ceo%2F..%2Fcfo%2Fa.json&prefix=agents/ceo/../cfo/",
        "#/objects?prefix=agents/ceo/../&q=*",
    ),
    "conversations": (
        "#/conversations?participant=cfo",
        "#/conversations?prefix=agents/cfo",
        "#/conversations?id=agents/cfo/talk",
    ),
    "tasks": (
        "#/tasks?agent_id=cfo",
        "#/tasks?task={cfo}",
        "#/tasks?task={ceo}%2F..%2F{cfo}",
        "#/tasks?parent_id={cfo}",
        "#/overview",
    ),
    "names": (
        '#/tables?table=other&entity=["p","r"]',
        "#/tables?table=mine%2F..%2Fother",
        "#/tables?table=tasks",
        "#/queues?queue=other",
        "#/queues?queue=agent-tasks",
    ),
}


@pytest.fixture(scope="module")
async def browser(app: App) -> AsyncIterator[Console]:
    """A tab in which the key of the confined caller has been given."""
    async with browsing(app.url) as console:
        await console.open("#/objects?prefix=agents/ceo/")
        await console.dialog.get_by_label("Key").fill(MINE)
        await console.press("Use this key", console.dialog)
        await expect(console.page.get_by_text("key:ceo")).to_be_visible()
        yield console


@pytest.fixture
async def console(browser: Console) -> AsyncIterator[Console]:
    async with used(browser) as console:
        yield console


async def test_its_own_it_sees(console: Console, tasks: dict[str, str]) -> None:
    """So that the next test would see what it must not."""
    for place, text in (
        ("#/objects?key=agents/ceo/a.json", '"shown"'),
        ("#/conversations?id=agents/ceo/talk", "shown"),
        (f"#/tasks?task={tasks['ceo']}", '"shown"'),
        ("#/tables?table=mine", "shown"),
        ("#/queues?queue=mine", "shown"),
    ):
        await console.open(place)
        await expect(console.detail.get_by_text(text).last).to_be_visible()


@pytest.mark.parametrize("kind", PLACES)
async def test_what_is_typed_into_the_address_shows_nothing_of_others(
    console: Console, tasks: dict[str, str], kind: str
) -> None:
    page = console.page
    answers: list[Response] = []

    def keep(answer: Response) -> None:
        answers.append(answer)

    page.on("response", keep)
    for place in PLACES[kind]:
        await page.goto("about:blank")
        await console.open(place.replace("{cfo}", tasks["cfo"]).replace("{ceo}", tasks["ceo"]))
        await expect(page.get_by_text("key:ceo")).to_be_visible()
        await page.wait_for_load_state("networkidle")
        assert HIDDEN not in await page.content(), place
        for answer in answers:
            # Of an answer that the page has given up there is nothing.
            with suppress(Error):
                assert HIDDEN.encode() not in await answer.body(), answer.url
        assert any("/api/" in each.url for each in answers)
        answers.clear()
    page.remove_listener("response", keep)
    assert all(MINE not in each for each in console.requests)


async def test_what_is_offered_changes_nothing_of_others(
    app: App, console: Console, tasks: dict[str, str]
) -> None:
    page, dialog = console.page, console.dialog
    await console.open("#/objects?prefix=agents/cfo/")
    for name in ("Upload", "Copy folder", "Move folder", "Delete folder"):
        await expect(page.get_by_role("button", name=name, exact=True)).to_have_count(0)
    await console.open("#/objects?key=agents/ceo/a.json")
    for work in ("Copy", "Move"):
        await console.press(work, console.detail)
        await dialog.get_by_label("New key").fill("agents/cfo/taken.json")
        await console.press(work, dialog)
        await expect(dialog.get_by_role("alert")).to_be_visible()
        await console.press("Cancel", dialog)
    await console.open("#/objects?prefix=agents/ceo/")
    await console.press("Move folder")
    await dialog.get_by_label("New prefix").fill("agents/cfo/")
    await console.press("Count first", dialog)
    await expect(dialog.get_by_text("0 objects would be affected")).to_be_visible()
    await expect(dialog.get_by_role("alert")).to_contain_text("4 objects could not be")
    await console.press("Move", dialog)
    await expect(page.get_by_text("0 objects done, 4 failures")).to_be_visible()
    await console.open("#/conversations?id=agents/ceo/talk")
    await console.press("Fork", console.detail)
    await dialog.get_by_label("New id").fill("agents/cfo/forked")
    await console.press("Fork", dialog)
    await expect(dialog.get_by_role("alert")).to_be_visible()
    await console.press("Cancel", dialog)
    await console.open("#/tasks")
    await console.press("Submit a task")
    await console.detail.get_by_label("Action").select_option("tell")
    await console.detail.get_by_label("Agent").fill("cfo")
    await console.press("Submit a task", console.detail)
    await expect(console.detail.get_by_role("alert")).to_be_visible()
    async with app.session.get(
        f"{app.url}/api/objects?prefix=agents/", headers={"x-functions-key": ALL}
    ) as answer:
        keys = {each["key"] for each in (await answer.json())["objects"]}
    assert {"agents/ceo/a.json", "agents/cfo/a.json"} <= keys
    assert not keys & {"agents/cfo/taken.json", "agents/cfo/forked"}
