"""Headless Chromium for the tests of the page, and what every page is held to."""

from __future__ import annotations

import os
import pathlib
import shutil
from typing import Any

import pytest
from playwright.sync_api import Browser, Page

from dechaff.viewer import render_page

NAMES = ("chromium", "chromium-browser", "google-chrome")
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


def find_chromium() -> str:
    """The path of Chromium; the test is skipped where there is none, but not on CI."""
    for name in NAMES:
        path = shutil.which(name)
        if path is not None:
            return path
    message = "no Chromium: install Debian's package chromium to test the viewer's page"
    if os.environ.get("CI") == "true":
        pytest.fail(message)
    pytest.skip(message)


class Pages:
    """Opens pages from files, and remembers what they complain of and ask for."""

    def __init__(self, browser: Browser, folder: pathlib.Path) -> None:
        self._browser = browser
        self._folder = folder
        self._contexts: list[Any] = []
        self.complaints: list[str] = []
        self.requests: list[str] = []

    def write(self, trace: dict[str, Any]) -> str:
        """The address of a file with the trace's page."""
        path = self._folder / f"page-{len(list(self._folder.iterdir()))}.html"
        path.write_text(render_page(trace), encoding="utf-8")
        return path.as_uri()

    def open(
        self,
        trace: dict[str, Any] | str,
        link: str = "",
        *,
        width: int = 1280,
        height: int = 800,
        **options: Any,
    ) -> Page:
        """A window with the page of a trace (or a file's address), once it can be used."""
        address = trace if isinstance(trace, str) else self.write(trace)
        viewport = {"width": width, "height": height}
        context = self._browser.new_context(viewport=viewport, **options)  # type: ignore[arg-type]
        self._contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(15_000)
        page.on("console", lambda message: self._hear(message.type, message.text))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("request", lambda request: self.requests.append(request.url))
        page.goto(f"{address}#{link}")
        page.wait_for_selector("#details h2")  # drawn last; the policy forbids to wait for more
        return page

    def _hear(self, kind: str, text: str) -> None:
        if kind in ("error", "warning"):
            self.complaints.append(text)

    def close(self) -> None:
        """Close every window; a page that complained or asked for anything else has failed."""
        for context in self._contexts:
            context.close()
        assert self.complaints == []
        beyond = [url for url in self.requests if not url.startswith(("file://", "blob:", "data:"))]
        assert beyond == []
        asked = {url.partition("#")[0] for url in self.requests if url.startswith("file://")}
        assert len(asked) <= len(self._contexts)


def leaves(page: Page, pane: str = ".pane.after") -> list[str]:
    """Ids of the operators and graph inputs that a pane shows as present."""
    found: list[str] = page.eval_on_selector_all(
        f"{pane} .leaf:not(.ghost)", "all => all.map(one => one.dataset.id)"
    )
    return found


def details(page: Page) -> str:
    """The text of the panel on the right."""
    return page.locator("#details").inner_text()


def choose(page: Page, name: str, pane: str = ".pane.after") -> None:
    """Click an operator or a closed module."""
    page.locator(f"{pane} [data-id={name!r}]").first.click()
