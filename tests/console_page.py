"""The console in a browser, as the tests drive it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from playwright.async_api import BrowserContext, Locator, Page, async_playwright, expect

from tests.client_tools import chromium

__all__ = ["Console", "browsing", "expect", "used"]

ARGUMENTS = ["--no-sandbox", "--disable-gpu"]
TIMEOUT_MS = 300_000
expect.set_options(timeout=TIMEOUT_MS)


@dataclass
class Console:
    """A tab with the console, and what it has reported."""

    page: Page
    url: str
    complaints: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def watch(self) -> None:
        """Keep what the browser says is wrong: errors of scripts, and what the page's policy forbids."""
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("console", lambda said: self._said(said.type, said.text))
        self.page.on("request", lambda request: self.requests.append(request.url))

    def _said(self, kind: str, text: str) -> None:
        # A refused call is told by the browser too; the page shows it to its user.
        if kind == "error" and "Failed to load resource" not in text:
            self.complaints.append(text)

    @property
    def elsewhere(self) -> list[str]:
        """What was asked of others than the app."""
        own = (self.url, "data:", "blob:", "about:")
        return [each for each in self.requests if not each.startswith(own)]

    @property
    def detail(self) -> Locator:
        """What is beside the list."""
        return self.page.locator("section.detail")

    @property
    def dialog(self) -> Locator:
        return self.page.get_by_role("dialog")

    async def press(self, name: str, within: Locator | None = None) -> None:
        """Click on a button of this very name."""
        await (within or self.page).get_by_role("button", name=name, exact=True).click()

    @property
    def rows(self) -> Locator:
        """Those of the list that are in sight."""
        return self.page.locator(".virtual").get_by_role("option")

    async def open(self, place: str = "") -> None:
        await self.page.goto(f"{self.url}/api/console{place}")

    async def choose(self, name: str, *, exact: bool = True) -> None:
        """Click on what has this name for people: a button, a link or a row."""
        button, link, row = (
            self.page.get_by_role(role, name=name, exact=exact)  # type: ignore[arg-type]
            for role in ("button", "link", "option")
        )
        await button.or_(link).or_(row).first.click()


@asynccontextmanager
async def browsing(url: str, *, arguments: tuple[str, ...] = (), **options: Any) -> AsyncIterator[Console]:
    """A browser of its own, with one tab.

    :param arguments: of the command line of Chromium, besides the usual ones.
    :param options: of `playwright.async_api.Browser.new_context`.
    """
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=str(chromium() / "chromium"), args=[*ARGUMENTS, *arguments], timeout=TIMEOUT_MS
        )
        try:
            context: BrowserContext = await browser.new_context(
                viewport={"width": 1280, "height": 800}, locale="en-GB", **options
            )
            context.set_default_timeout(TIMEOUT_MS)
            console = Console(await context.new_page(), url)
            console.watch()
            yield console
        finally:
            await browser.close()


@asynccontextmanager
async def used(browser: Console) -> AsyncIterator[Console]:
    """The one tab of a module, for one test, at whose end it must have nothing to complain about."""
    browser.complaints.clear()
    browser.requests.clear()
    await browser.page.goto("about:blank")
    yield browser
    assert browser.complaints == []
    assert browser.elsewhere == []
    assert "ran" not in await browser.page.title()
