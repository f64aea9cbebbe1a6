"""What the tests of the built book share: the pages, a local server, a real browser."""

from __future__ import annotations

import functools
import http.server
import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.book.built import HTML

CHROMIUM = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
# Quiet and offline: whatever the browser asks for by itself must not be mistaken for the page's doing.
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--font-render-hinting=none",
)


def skip_or_fail(reason: str) -> None:
    """A missing browser or book is an excuse on a laptop, never in CI."""
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def html() -> Path:
    """The folder of the built book."""
    if not (HTML / "index.html").exists():
        skip_or_fail("the book is not built: run `make book`")
    return HTML


@pytest.fixture(scope="session")
def browser(html: Path) -> Iterator:
    """Headless Chromium as the system has it."""
    program = next(filter(None, map(shutil.which, CHROMIUM)), None)
    if program is None:
        skip_or_fail("Chromium is not installed (apt install chromium fonts-dejavu)")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=list(FLAGS))
        yield browser
        browser.close()


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture(scope="session")
def server(html: Path) -> Iterator[str]:
    """The book on 127.0.0.1; yields its address."""
    handler = functools.partial(_Quiet, directory=str(html))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as httpd:
        threading.Thread(target=httpd.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{httpd.server_port}"
        httpd.shutdown()
