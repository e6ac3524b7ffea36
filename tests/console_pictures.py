"""`make screenshots`: pictures of the console, in docs/pictures, of a store that is filled for them."""

from __future__ import annotations

import asyncio
import base64
import json
import struct
import sys
import tempfile
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

import numpy as np
from playwright.async_api import Error, Route

from tests.conftest import PROJECT
from tests.console_demo import ACTIONS, NOW, RULES, Times, fill, metrics, sizes
from tests.console_host import App, console_host
from tests.console_page import Console, browsing, expect

__all__ = ["FOLDER", "PICTURES", "Studio", "studio"]

FOLDER = PROJECT / "docs" / "pictures"
COLOURS = 256
SCALE = 1.5
POLLS = 120
SECONDS = 300
"""For one picture."""

Step = Callable[["Studio"], Awaitable[None]]


@dataclass(frozen=True)
class Picture:
    """One view.

    :param place: what follows the console's address; ``{name}`` is the id of the demo task ``name``.
    :param shows: a text in it that says that it is complete.
    """

    place: str
    shows: str
    step: Step | None = None
    scheme: Literal["light", "dark"] = "light"
    width: int = 1280
    height: int = 800


async def _difference(studio: Studio) -> None:
    buttons = studio.console.page.get_by_role("button", name="Changes since the one before")
    await buttons.first.click()
    await expect(studio.console.page.locator(".difference")).to_be_visible()


async def _conflict(studio: Studio) -> None:
    console = studio.console
    await console.press("Edit", console.detail)
    text = console.detail.locator("textarea")
    await text.fill((await text.input_value()).replace('"large"', '"small"'))
    key = "agents/researcher/config.json"
    theirs = await studio.app.json(f"objects/{key}")
    body = json.dumps({**theirs, "enabled": False}, indent=2).encode()
    await studio.app.ask("PUT", f"objects/{key}", body)
    await console.press("Save")
    await expect(console.page.get_by_text("Somebody else has changed")).to_be_visible()


async def _children(studio: Studio) -> None:
    await studio.console.detail.get_by_text("Children:").click()
    await expect(studio.console.detail.locator(".tree li")).to_have_count(5)


async def _form(studio: Studio) -> None:
    console = studio.console
    await console.press("Submit a task")
    await console.detail.get_by_label("Action").select_option("summarize")
    await console.detail.get_by_label("document *").fill("knowledge/pricing.md")


async def _dry_run(studio: Studio) -> None:
    console = studio.console
    await console.press("Move folder")
    await console.dialog.get_by_label("New prefix").fill("archive/2026/")
    await console.press("Count first", console.dialog)
    await expect(console.dialog.get_by_text("would be affected")).to_be_visible()


async def _drawn(studio: Studio) -> None:
    """As many looks at the metrics as fill the charts, at the pace of the page's own clock."""
    page = studio.console.page
    await page.clock.pause_at(NOW - timedelta(seconds=2 * POLLS))
    for _ in range(POLLS):
        asked = studio.asked
        await page.clock.fast_forward(2000)
        for _ in range(100):
            if studio.asked > asked and not studio.waiting:
                break
            await asyncio.sleep(0.005)
        # What it does with the answer, the next timer included, comes before what is asked of it now.
        await asyncio.sleep(0.02)
        await page.evaluate("0")
    await expect(page.locator(".charts canvas").first).to_be_visible()


PICTURES = {
    "overview": Picture("#/overview", "Storage by prefix", _drawn, height=1130),
    "overview-dark": Picture("#/overview", "Storage by prefix", _drawn, scheme="dark", height=1130),
    "objects": Picture("#/objects?prefix=agents/ceo/&key=agents/ceo/config.json", "temperature"),
    "search": Picture("#/objects?q=agents/**/*.json", "8 matches", scheme="dark"),
    "markdown": Picture("#/objects?key=handbook.md", "How we work", scheme="dark"),
    "array": Picture("#/objects?prefix=models/adapters/&key=models/adapters/ceo.npy", "shape"),
    "versions": Picture(
        "#/objects?prefix=agents/ceo/&key=agents/ceo/config.json&tab=versions", "approved", _difference
    ),
    "conflict": Picture(
        "#/objects?prefix=agents/researcher/&key=agents/researcher/config.json",
        "temperature",
        _conflict,
        height=1100,
    ),
    "folder": Picture("#/objects?prefix=reports/", "weather.csv", _dry_run),
    "conversation": Picture("#/conversations?id=talks/second-quarter", "Revenue is"),
    "tasks": Picture("#/tasks?task={demo-36}", "the model is busy"),
    "children": Picture("#/tasks?task={demo-35}", "Children:", _children, scheme="dark"),
    "submit": Picture("#/tasks", "summarize", _form),
    "queues": Picture("#/queues?queue=reviews", "2026-05.json"),
    "tables": Picture("#/tables?table=runs&filter=tokens+gt+1500", "run-0003"),
    "narrow": Picture("#/tasks?task={demo-36}", "the model is busy", scheme="dark", width=400),
    # The last, for it is read by a task, which would be in the other pictures.
    "parquet": Picture("#/objects?prefix=reports/&key=reports/runs.parquet", "tokens"),
}


@dataclass
class Studio:
    """A filled store, and a browser that shows it at the time of the pictures."""

    app: App
    console: Console
    times: Times
    asked: int = 0
    waiting: int = 0
    """Calls of the page: all, and those that are not yet answered."""

    async def take(self, name: str) -> bytes:
        """The picture, as PNG."""
        picture, browser, first = PICTURES[name], self.console.page.context.browser, self.console
        assert browser is not None
        context = await browser.new_context(
            viewport={"width": picture.width, "height": picture.height},
            color_scheme=picture.scheme,
            reduced_motion="reduce",
            device_scale_factor=SCALE,
            locale="en-GB",
            timezone_id="UTC",
        )
        try:
            await context.route("**/api/**", self._counted)
            self.console = Console(await context.new_page(), self.app.url)
            return await _packed(first, await self._shown(picture))
        finally:
            self.console = first
            await context.close()

    async def _shown(self, picture: Picture) -> bytes:
        page = self.console.page
        if picture.step is _drawn:
            await page.clock.install(time=NOW - timedelta(seconds=2 * POLLS + 60))
        else:
            await page.clock.set_fixed_time(NOW)
        place = picture.place
        if "{" in place:
            key = place[place.index("{") + 1 : place.index("}")]
            place = place.replace(f"{{{key}}}", self.times.id_of(key))
        await self.console.open(place)
        await expect(page.get_by_text(picture.shows).locator("visible=true").first).to_be_visible()
        await page.evaluate("document.fonts.ready.then(() => undefined)")
        await page.wait_for_load_state("networkidle")
        if picture.step:
            await picture.step(self)
        await page.mouse.move(0, 0)
        return await page.screenshot(animations="disabled", caret="hide")

    async def _counted(self, route: Route) -> None:
        self.asked += 1
        self.waiting += 1
        try:
            # The page may have gone on meanwhile.
            with suppress(Error):
                await self._told(route)
        finally:
            self.waiting -= 1

    async def _told(self, route: Route) -> None:
        """Answer as the app would at the time of the pictures."""
        url = urlsplit(route.request.url)
        if url.path.endswith("/metrics"):
            seconds = await self.console.page.evaluate("Date.now() / 1000") - NOW.timestamp()
            return await route.fulfill(body=metrics(seconds + 3600), content_type="text/plain")
        if url.path.endswith("/sizes"):
            return await route.fulfill(json=sizes())
        answer = await route.fetch(url=self.times.asked(route.request.url))
        if "last-modified" in answer.headers:
            # An object itself.
            headers = {**answer.headers, "last-modified": format_datetime(NOW, usegmt=True)}
            return await route.fulfill(response=answer, headers=headers)
        if "json" not in answer.headers.get("content-type", ""):
            return await route.fulfill(response=answer)
        return await route.fulfill(response=answer, body=self.times.told(await answer.text()))


@asynccontextmanager
async def studio(folder: Path) -> AsyncIterator[Studio]:
    """:param folder: for the store."""
    given = {"AGENT_STORAGE_VALIDATION": json.dumps(RULES)}
    async with console_host(folder, actions=ACTIONS, **given) as app:
        await fill(app, folder)
        times = Times()
        await times.learn(app)
        async with browsing(app.url) as console:
            yield Studio(app, console, times)
        # The host would wait for it.
        await app.ask("POST", "tasks/cancel", {"status": "running"})


PIXELS = """async (png) => {
    const bytes = Uint8Array.from(atob(png), (sign) => sign.charCodeAt(0));
    const picture = await createImageBitmap(new Blob([bytes], { type: 'image/png' }));
    const canvas = new OffscreenCanvas(picture.width, picture.height);
    const context = canvas.getContext('2d');
    context.drawImage(picture, 0, 0);
    const data = context.getImageData(0, 0, picture.width, picture.height).data;
    let text = '';
    for (let at = 0; at < data.length; at += 32768)
        text += String.fromCharCode(...data.subarray(at, at + 32768));
    return [picture.width, picture.height, btoa(text)];
}"""


async def _packed(console: Console, png: bytes) -> bytes:
    """A third of the size: with a palette of the colours that there are most of, and the nearest of them for
    the others."""
    context = console.page.context
    page = await context.new_page()
    try:
        width, height, text = await page.evaluate(PIXELS, base64.b64encode(png).decode())
    finally:
        await page.close()
    pixels = np.frombuffer(base64.b64decode(text), np.uint8).reshape(-1, 4)[:, :3].astype(np.int32)
    codes = (pixels[:, 0] << 16) | (pixels[:, 1] << 8) | pixels[:, 2]
    colours, inverse, counts = np.unique(codes, return_inverse=True, return_counts=True)
    parts = np.stack([colours >> 16, (colours >> 8) & 255, colours & 255], axis=1)
    chosen = np.sort(np.argsort(-counts, kind="stable")[:COLOURS])
    palette = parts[chosen]
    nearest = np.concatenate(
        [
            ((block[:, None, :] - palette[None]) ** 2).sum(axis=2).argmin(axis=1)
            for block in np.array_split(parts, max(1, len(parts) // 2000))
        ]
    )
    rows = nearest[inverse].astype(np.uint8).reshape(height, width)
    raw = np.concatenate([np.zeros((height, 1), np.uint8), rows], axis=1).tobytes()

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    return b"".join(
        (
            b"\x89PNG\r\n\x1a\n",
            chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)),
            chunk(b"PLTE", palette.astype(np.uint8).tobytes()),
            chunk(b"IDAT", zlib.compress(raw, 9)),
            chunk(b"IEND", b""),
        )
    )


async def main(names: list[str], target: Path = FOLDER) -> None:
    target.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        async with studio(Path(folder)) as opened:
            for name in names or PICTURES:
                async with asyncio.timeout(SECONDS):
                    content = await opened.take(name)
                (target / f"{name}.png").write_bytes(content)
                print(f"{name}.png: {len(content) / 1000:.0f} kB")


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1:]))
