"""What the engine's tests share: Node, the type checker, golden cases, Chromium on a local server."""

from __future__ import annotations

import contextlib
import fcntl
import functools
import http.server
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.book.conftest import CHROMIUM, FLAGS, skip_or_fail
from tests.book.test_pages import is_foreign
from tests.live import goldens

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).parent
OLDEST_NODE = 18


@pytest.fixture(scope="session")
def node() -> str:
    """The node program."""
    program = shutil.which("node")
    if program is None:
        skip_or_fail("node is not installed (apt install nodejs, or https://nodejs.org)")
    assert program is not None
    if node_version(program) < OLDEST_NODE:
        skip_or_fail(f"node has version {node_version(program)}, {OLDEST_NODE} or later is needed")
    return program


def node_version(program: str) -> int:
    """Its major version."""
    printed = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout
    return int(printed.strip().lstrip("v").split(".")[0])


@pytest.fixture(scope="session")
def tools(node: str) -> Path:
    """The folder of the development tools in package-lock.json, installed the first time."""
    folder = HERE / "node_modules"
    wanted = ("typescript", "assemblyscript", "axe-core")
    if not all((folder / name).is_dir() for name in wanted):
        npm = shutil.which("npm")
        if npm is None:
            skip_or_fail("the type checker is missing, and so is npm: run `npm ci --prefix tests/live`")
        command = [str(npm), "ci", "--no-audit", "--no-fund", "--prefix", str(HERE)]
        with open(HERE / ".npm.lock", "w") as lock:  # one of several test processes installs
            fcntl.flock(lock, fcntl.LOCK_EX)
            if all((folder / name).is_dir() for name in wanted):
                return folder
            done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:  # no way to the registry: what needs no tools is tested all the same
            pytest.skip(f"`npm ci --prefix tests/live` failed: {done.stderr.strip()[-300:]}")
    return folder


@pytest.fixture(scope="session")
def golden_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Golden cases, fresh from torch."""
    folder = Path(os.environ.get("MI_LAB_GOLDEN") or tmp_path_factory.mktemp("golden"))
    if not (folder / "gelu.table").exists():
        goldens.write(folder)
    return folder


@pytest.fixture(scope="session")
def chromium() -> Iterator:
    """Headless Chromium as the system has it."""
    program = next(filter(None, map(shutil.which, CHROMIUM)), None)
    if program is None:
        skip_or_fail("Chromium is not installed (apt install chromium fonts-dejavu)")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=list(FLAGS))
        yield browser
        browser.close()


@pytest.fixture
def allowed() -> list[str]:
    """What the console may say: a test adds what it provokes."""
    return []


@pytest.fixture
def open_at(chromium, allowed: list[str]) -> Iterator:
    """`open_at(url, ready, **options)` opens a page, waits for a selector; at the end nothing may have gone wrong."""
    contexts, wrong = [], []

    def open_(url: str, ready: str | None = None, **options):
        context = chromium.new_context(**{"viewport": {"width": 860, "height": 900}, **options})
        context.set_default_timeout(120_000)
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: wrong.append(f"exception: {error}"))
        page.on("console", lambda m: wrong.append(f"console: {m.text}") if m.type == "error" else None)
        page.on("request", lambda r: wrong.append(f"foreign: {r.url}") if is_foreign(r.url) else None)
        page.goto(url)
        if ready:
            page.wait_for_selector(ready)
        return page

    yield open_
    for context in contexts:
        context.close()
    assert [w for w in wrong if not any(some in w for some in allowed)] == []


@contextlib.contextmanager
def served(folder: Path) -> Iterator[str]:
    """A folder on 127.0.0.1."""
    handler = functools.partial(_Server, directory=str(folder), golden=folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as httpd:
        threading.Thread(target=httpd.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{httpd.server_port}"
        httpd.shutdown()


class _Server(http.server.SimpleHTTPRequestHandler):
    """Files of some folders: `/golden/...` from one, everything else from another."""

    def __init__(self, *args, golden: Path, **options) -> None:
        self.golden = golden
        super().__init__(*args, **options)

    def translate_path(self, path: str) -> str:
        """Where a request's file is."""
        if path.startswith("/golden/"):
            return str(self.golden / Path(path).name)
        return super().translate_path(path)

    def do_GET(self) -> None:
        """A blank page at /blank.html."""
        if self.path != "/blank.html":
            super().do_GET()
            return
        body = b'<!doctype html><html lang="en"><title>blank</title><link rel="icon" href="data:,">'
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture(scope="session")
def site(golden_folder: Path) -> Iterator[str]:
    """The repository and the golden cases on 127.0.0.1."""
    handler = functools.partial(_Server, directory=str(ROOT), golden=golden_folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as httpd:
        threading.Thread(target=httpd.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{httpd.server_port}"
        httpd.shutdown()
