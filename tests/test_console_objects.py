"""What people do with objects in the console: every kind of preview, uploads, edits, versions, copies."""

from __future__ import annotations

import asyncio
import io
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest
from playwright.async_api import Route

from tests.console_host import App, console_host
from tests.console_page import Console, browsing, expect, used


@pytest.fixture(scope="module")
async def app(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[App]:
    async with console_host(tmp_path_factory.mktemp("console-objects")) as app:
        yield app


@pytest.fixture(scope="module")
async def browser(app: App) -> AsyncIterator[Console]:
    async with browsing(app.url) as console:
        yield console


@pytest.fixture
async def console(browser: Console) -> AsyncIterator[Console]:
    async with used(browser) as console:
        yield console


async def put(app: App, key: str, body: bytes, kind: str) -> None:
    await app.ask("PUT", f"objects/{key}", body, **{"Content-Type": kind})


async def test_json_is_a_tree_that_can_be_searched(app: App, console: Console) -> None:
    value = {"model": "large", "tools": [{"name": "search"}, {"name": "mail", "limit": 17}], "on": None}
    await app.ask("PUT", "objects/seen/config.json", value)
    await console.open("#/objects?key=seen/config.json")
    tree = console.detail.locator(".json")
    await expect(tree.get_by_text('"large"')).to_be_visible()
    find = tree.get_by_label("Search names and values")
    await find.fill("LIMIT")
    await expect(tree.get_by_text("17")).to_be_visible()
    await expect(tree.get_by_text('"large"')).to_have_count(0)
    await expect(tree.get_by_text('"search"')).to_have_count(0)
    await find.fill("nowhere")
    await expect(tree.get_by_text("Nothing matches.")).to_be_visible()
    await find.fill("")
    await tree.locator("summary").first.click()
    await expect(tree.get_by_text('"large"')).to_have_count(0)
    await console.press("Text", console.detail)
    await expect(console.detail.locator("pre")).to_have_text(json.dumps(value))


async def test_text_markdown_and_rows_are_shown_as_what_they_are(app: App, console: Console) -> None:
    await put(app, "seen/notes.txt", "one\ntwo é".encode(), "text/plain; charset=utf-8")
    await put(
        app,
        "seen/page.md",
        b"# Title\n\n- **bold** and `code`\n\n| a | b |\n|---|--:|\n| 1 | **2** |\n",
        "text/markdown",
    )
    await put(app, "seen/rows.csv", b'name,n\n"a, b",1\nc,2\n', "text/csv")
    await put(app, "seen/rows.tsv", b"name\tn\nx\t3\n", "text/tab-separated-values")
    detail = console.detail
    await console.open("#/objects?key=seen/notes.txt")
    await expect(detail.locator("pre")).to_have_text("one\ntwo é")
    await console.open("#/objects?key=seen/page.md")
    await expect(detail.get_by_role("heading", name="Title")).to_be_visible()
    await expect(detail.get_by_role("listitem").locator("strong, b")).to_have_text("bold")
    await expect(detail.get_by_role("columnheader")).to_have_text(["a", "b"])
    await expect(detail.get_by_role("cell")).to_have_text(["1", "2"])
    await console.open("#/objects?key=seen/rows.csv")
    await expect(detail.get_by_role("columnheader")).to_have_text(["name", "n"])
    await expect(detail.get_by_role("cell")).to_have_text(["a, b", "1", "c", "2"])
    await console.open("#/objects?key=seen/rows.tsv")
    await expect(detail.get_by_role("cell")).to_have_text(["x", "3"])


async def test_parquet_is_a_table(app: App, console: Console, tmp_path: Path) -> None:
    rows = "select i as number, 'agent ' || i as name from range(3) rows(i)"
    duckdb.sql(f"copy ({rows}) to '{tmp_path / 'rows.parquet'}'")
    kind = "application/vnd.apache.parquet"
    await put(app, "seen/rows.parquet", (tmp_path / "rows.parquet").read_bytes(), kind)
    await console.open("#/objects?key=seen/rows.parquet")
    await expect(console.detail.get_by_role("columnheader")).to_have_text(["number", "name"])
    await expect(console.detail.get_by_role("cell")).to_have_text(
        ["0", "agent 0", "1", "agent 1", "2", "agent 2"]
    )
    # What says that it is a table and is none is told so, and its bytes can still be seen.
    await put(app, "seen/broken.parquet", b"PAR1 no more", kind)
    await console.open("#/objects?key=seen/broken.parquet")
    await expect(console.detail.get_by_role("alert")).to_be_visible()
    await console.press("Bytes", console.detail)
    await expect(console.detail.get_by_text("50 41 52 31")).to_be_visible()


async def test_images_arrays_and_bytes_are_shown(app: App, console: Console) -> None:
    page, detail = console.page, console.detail
    await put(app, "seen/picture.png", await page.screenshot(), "image/png")
    await console.open("#/objects?key=seen/picture.png")
    picture = detail.get_by_role("img", name="seen/picture.png")
    await expect(picture).to_be_visible()
    await expect(picture).to_have_js_property("naturalWidth", 1280)
    array = io.BytesIO()
    np.save(array, np.array([[1, 2, 3], [4, 5, np.nan]], dtype="<f4"))
    await put(app, "seen/array.npy", array.getvalue(), "application/octet-stream")
    await console.open("#/objects?key=seen/array.npy")
    for name, value in {
        "shape": "2 \N{MULTIPLICATION SIGN} 3",
        "dtype": "<f4",
        "min": "1",
        "max": "5",
        "mean": "3",
    }.items():
        row = detail.get_by_role("row").filter(has=page.get_by_text(name, exact=True))
        await expect(row.get_by_role("cell").last).to_have_text(value)
    await put(app, "seen/bytes.bin", bytes(range(256)), "application/octet-stream")
    await console.open("#/objects?key=seen/bytes.bin")
    await expect(detail.get_by_text("00000040  40 41 42")).to_be_visible()
    await expect(detail.get_by_text("@ABCDEFGHIJKLMNO")).to_be_visible()
    await put(app, "seen/empty", b"", "application/octet-stream")
    await console.open("#/objects?key=seen/empty&tab=details")
    await expect(detail.get_by_text("0 bytes (0)")).to_be_visible()


DROP = """([name, text]) => {
    const dropped = new DataTransfer();
    dropped.items.add(new File([text], name, { type: 'application/json' }));
    return dropped;
}"""


async def test_files_that_are_dropped_are_uploaded(app: App, console: Console) -> None:
    page = console.page
    await console.open("#/objects?prefix=dropped/")
    await expect(page.get_by_text("There is nothing here yet", exact=False)).to_be_visible()
    for text in ('{"n": 1}', '{"n": 2}'):
        dropped = await page.evaluate_handle(DROP, ["a b.json", text])
        await page.dispatch_event("section.list", "dragover", {"dataTransfer": dropped})
        await expect(page.get_by_text("Drop files to save them below dropped/")).to_be_visible()
        await page.dispatch_event("section.list", "drop", {"dataTransfer": dropped})
        if text == '{"n": 2}':
            # What is there already is replaced only when that is wanted.
            await expect(console.dialog).to_contain_text("dropped/a b.json exists already")
            assert json.loads(await app.ask("GET", "objects/dropped/a%20b.json")) == {"n": 1}
            await console.press("Replace", console.dialog)
        await expect(page.get_by_text("dropped/a b.json was saved").last).to_be_visible()
        await expect(console.rows).to_have_count(1)
        await page.get_by_role("status").get_by_role("button", name="Close").first.click()
    assert json.loads(await app.ask("GET", "objects/dropped/a%20b.json")) == {"n": 2}


async def test_a_large_upload_tells_how_far_it_is_and_can_be_stopped(
    app: App, console: Console, tmp_path: Path
) -> None:
    page = console.page
    large = tmp_path / "large.bin"
    large.write_bytes(bytes(17 * 1024 * 1024))
    held: asyncio.Queue[Route] = asyncio.Queue()
    await page.route("**/api/uploads?*part=2*", held.put)
    await console.open("#/objects?prefix=parts/")
    await page.locator("input[type=file]").set_input_files(large)
    await asyncio.wait_for(held.get(), 120)
    await expect(page.get_by_text("parts/large.bin: 94 %")).to_be_visible()
    bar = page.get_by_role("progressbar", name="parts/large.bin")
    assert 0.9 < float(await bar.get_attribute("value") or 0) < 1
    async with page.expect_response(lambda each: each.request.method == "DELETE") as given_up:
        await console.press("Stop")
    assert (await given_up.value).ok
    await expect(page.get_by_text("parts/large.bin: stopped")).to_be_visible()
    await expect(bar).to_have_count(0)
    await page.unroute("**/api/uploads?*part=2*")
    assert await app.missing("parts/large.bin")


async def test_an_object_is_downloaded_as_it_is(app: App, console: Console) -> None:
    content = bytes(range(256)) * 3000
    await put(app, "down/the bytes.bin", content, "application/octet-stream")
    await console.open("#/objects?prefix=down/")
    await console.choose("the bytes.bin", exact=False)
    async with console.page.expect_download() as downloading:
        await console.press("Download", console.detail)
    downloaded = await downloading.value
    assert downloaded.suggested_filename == "the bytes.bin"
    assert (await downloaded.path()).read_bytes() == content


async def test_a_conflict_shows_theirs_and_what_is_no_json_is_not_saved(app: App, console: Console) -> None:
    page = console.page
    await app.ask("PUT", "objects/edited.json", {"model": "first"})
    await console.open("#/objects?key=edited.json")
    await console.press("Edit", console.detail)
    text = page.get_by_label("edited.json")
    await text.fill('{"model": ')
    await console.press("Save")
    await expect(page.get_by_text("This is not JSON", exact=False)).to_be_visible()
    await text.fill('{"model": "mine"}')
    await app.ask("PUT", "objects/edited.json", {"model": "theirs"})
    await console.press("Save")
    await expect(page.get_by_text("Somebody else has changed")).to_be_visible()
    await expect(text).to_have_value('{"model": "mine"}')
    await console.press("Show theirs")
    await expect(console.detail.get_by_text('"theirs"')).to_be_visible()
    await console.press("Edit", console.detail)
    await page.get_by_label("edited.json").fill('{"model": "agreed"}')
    await console.press("Save")
    await expect(console.detail.get_by_text('"agreed"')).to_be_visible()
    assert json.loads(await app.ask("GET", "objects/edited.json")) == {"model": "agreed"}


async def test_metadata_and_the_end_of_life_are_edited(app: App, console: Console) -> None:
    page, dialog = console.page, console.dialog
    await app.ask("PUT", "objects/kept.json", {"n": 1}, **{"x-meta-owner": "ceo", "x-ttl-seconds": "3600"})
    await console.open("#/objects?key=kept.json&tab=details")
    await expect(console.detail.get_by_text("ceo", exact=True)).to_be_visible()
    edit = console.detail.get_by_role("button", name="Edit", exact=True).last
    await edit.click()
    await dialog.get_by_label("Metadata").fill("no colon")
    await console.press("Save", dialog)
    await expect(dialog.get_by_text("“no colon” is not “name: value”.")).to_be_visible()
    await dialog.get_by_label("Metadata").fill("owner: cfo\nwhere: Zürich: main")
    await dialog.get_by_label("Time to live").fill("")
    await console.press("Save", dialog)
    await expect(dialog).to_have_count(0)
    await expect(console.detail.get_by_text("Zürich: main")).to_be_visible()
    await expect(console.detail.get_by_text("never", exact=True)).to_be_visible()
    async with app.session.get(f"{app.url}/api/objects/kept.json") as answer:
        assert (answer.headers["x-meta-owner"], "x-expires-at" in answer.headers) == ("cfo", False)
        assert await answer.json() == {"n": 1}
    # Somebody else's change meanwhile is not undone.
    await edit.click()
    await app.ask("PUT", "objects/kept.json", {"n": 2})
    await console.press("Save", dialog)
    await expect(dialog.get_by_role("alert")).to_be_visible()
    await console.press("Cancel", dialog)
    await expect(page.get_by_role("dialog")).to_have_count(0)


async def test_one_object_is_copied_moved_and_deleted(app: App, console: Console) -> None:
    page, dialog = console.page, console.dialog
    about = {"Content-Type": "text/plain", "x-meta-owner": "ceo"}
    await app.ask("PUT", "objects/one/here.txt", b"text", **about)
    await console.open("#/objects?prefix=one/&key=one/here.txt")
    await console.press("Copy", console.detail)
    await dialog.get_by_label("New key").fill("two/copy.txt")
    await console.press("Copy", dialog)
    await expect(console.detail.get_by_role("heading", name="two/copy.txt")).to_be_visible()
    await expect(page).to_have_url(re.compile("key=two%2Fcopy.txt"))
    await console.press("Move", console.detail)
    await dialog.get_by_label("New key").fill("two/moved.txt")
    await console.press("Move", dialog)
    await expect(console.detail.get_by_role("heading", name="two/moved.txt")).to_be_visible()
    await expect(console.detail.locator("pre")).to_have_text("text")
    assert await app.missing("two/copy.txt")
    assert not await app.missing("one/here.txt")
    async with app.session.get(f"{app.url}/api/objects/two/moved.txt") as answer:
        assert (answer.headers["x-meta-owner"], await answer.read()) == ("ceo", b"text")
    await console.press("Delete", console.detail)
    await expect(dialog).to_contain_text("Delete two/moved.txt?")
    await console.press("Cancel", dialog)
    assert not await app.missing("two/moved.txt")
    await console.press("Delete", console.detail)
    await console.press("Delete", dialog)
    await expect(page.get_by_text("two/moved.txt was deleted")).to_be_visible()
    assert await app.missing("two/moved.txt")


@pytest.mark.parametrize("work", ["Copy", "Delete"])
async def test_a_folder_is_counted_before_it_is_changed(app: App, console: Console, work: str) -> None:
    source, target = f"whole-{work.lower()}/", f"made-{work.lower()}/"
    for n in range(3):
        await app.ask("PUT", f"objects/{source}{n}.json", n)
    await console.open(f"#/objects?prefix={source}")
    await console.press(f"{work} folder")
    if work == "Copy":
        await console.dialog.get_by_label("New prefix").fill(target)
    await console.press("Count first", console.dialog)
    await expect(console.dialog.get_by_text("3 objects would be affected")).to_be_visible()
    assert await app.missing(f"{target}0.json")
    assert not await app.missing(f"{source}0.json")
    await console.press(work, console.dialog)
    await expect(console.page.get_by_text("3 objects done")).to_be_visible()
    assert await app.missing(f"{target}2.json") == (work == "Delete")
    assert await app.missing(f"{source}2.json") == (work == "Delete")
    await expect(console.rows).to_have_count(0 if work == "Delete" else 3)


async def test_folders_of_many_names_have_few_rows_in_the_page(console: Console) -> None:
    """Those in sight are in the page, wherever it is scrolled to; more are asked for when they are needed."""
    page = console.page
    asked: list[str] = []

    async def answer(route: Route) -> None:
        url = route.request.url
        asked.append(url)
        begin = int((re.findall(r"cursor=(\d+)", url) or ["0"])[0])
        about: dict[str, Any] = {"size": 5, "etag": "x", "last_modified": "2026-01-01T00:00:00Z"}
        listed = [{"key": f"many/{n:06}.json", **about} for n in range(begin, begin + 1000)]
        folders = ["many/000000-folder/"] if begin == 0 else []
        following = str(begin + 1000) if begin + 1000 < 20_000 else None
        await route.fulfill(json={"objects": listed, "prefixes": folders, "cursor": following})

    await page.route("**/api/objects?*", answer)
    try:
        await console.open("#/objects?prefix=many/")
        await expect(page.get_by_role("option", name="000000-folder/")).to_be_visible()
        assert len(asked) == 1
        names = page.get_by_role("listbox")
        for pages in range(1, 20):
            await names.press("End")
            await expect(page.get_by_text(re.compile(f"^{pages * 1000 + 1001:,} entries"))).to_be_visible()
        assert len(asked) == 20
        await names.press("End")
        await expect(page.get_by_title("many/019999.json")).to_be_visible()
        for key in ("Home", "PageDown", "End", "PageUp"):
            await names.press(key)
            await expect(page.locator(".virtual [aria-selected=true]")).to_be_visible()
            assert await console.rows.count() < 80
    finally:
        await page.unroute("**/api/objects?*")


async def test_every_place_has_an_address(app: App, console: Console) -> None:
    """What was chosen by hand is there again after a reload, and the way back leads through it."""
    page = console.page
    await app.ask("POST", "versions/linked/deep/one.json", {"n": 1})
    await app.ask("PUT", "objects/linked/deep/one.json", {"n": 1})
    await console.open()
    await page.get_by_role("link", name="Objects", exact=True).click()
    await console.choose("linked/ Folder")
    await console.choose("deep/ Folder")
    await page.get_by_title("linked/deep/one.json").click()
    await expect(console.detail.get_by_role("heading", name="linked/deep/one.json")).to_be_visible()
    await console.choose("Versions")
    await expect(console.detail.get_by_text("current", exact=True)).to_be_visible()
    await page.reload()
    await expect(console.detail.get_by_text("current", exact=True)).to_be_visible()
    await expect(page.get_by_role("navigation", name="Folder").get_by_role("link")).to_have_text(
        ["All objects", "linked", "deep"]
    )
    await page.go_back()
    await expect(console.detail.get_by_text("n: ", exact=False)).to_be_visible()
    await page.go_back()
    await expect(page.get_by_text("Choose an object to see it.")).to_be_visible()
    await page.go_back()
    await expect(console.rows.get_by_text("deep/")).to_be_visible()
