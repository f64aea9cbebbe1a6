"""An explorer in a page that is still on its way: it waits for its own state, and for nothing else."""

from __future__ import annotations

import functools
import http.server
import threading

import pytest

from tests.live import live_site

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]

PLACE = "#mi-sorting"


class _InParts(http.server.SimpleHTTPRequestHandler):
    """Serves /page.html up to the next cut whenever its gate opens; everything else at once."""

    def __init__(self, *args, cuts: list[int], gates: list[threading.Event], **options) -> None:
        self.cuts, self.gates = cuts, gates
        super().__init__(*args, **options)

    def do_GET(self) -> None:
        """The page in parts."""
        if self.path != "/page.html":
            super().do_GET()
            return
        with open(self.translate_path(self.path), "rb") as file:
            text = file.read()
        self.send_response(200)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.end_headers()
        for begin, end, gate in zip([0, *self.cuts], [*self.cuts, len(text)], self.gates, strict=True):
            gate.wait(120)
            self.wfile.write(text[begin:end])
            self.wfile.flush()

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


def test_an_explorer_begins_before_the_page_is_whole(chromium, tmp_path):
    """The script comes when half of the place is there; the chapter's end comes when the explorer is in use."""
    path = live_site.write(tmp_path)
    script = '<script async src="_static/mi-lab-live.js"></script></head>'  # where a page of the book has it
    text = path.read_text("utf8").replace("</head>", script, 1)
    path.write_text(text, "utf8")
    whole = text.encode()
    state = whole.index(b'<script type="application/json">')
    after = whole.index(b"Further down.")
    gates = [threading.Event() for _ in range(3)]
    gates[0].set()
    handler = functools.partial(_InParts, directory=str(tmp_path), cuts=[state + 200, after], gates=gates)
    wrong: list[str] = []
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as httpd:
        threading.Thread(target=httpd.serve_forever, daemon=True).start()
        page = chromium.new_page(viewport={"width": 860, "height": 900})
        page.set_default_timeout(60_000)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.goto(f"http://127.0.0.1:{httpd.server_port}/page.html", wait_until="commit")
        page.wait_for_function("window.miLab")
        page.wait_for_selector(PLACE, state="attached")
        assert page.get_attribute(PLACE, "data-mi-live") == "waiting"  # its state is not all there
        gates[1].set()
        page.wait_for_selector(f"{PLACE}[data-mi-live=ready]")
        assert page.evaluate("document.readyState") == "loading"
        assert page.locator("#mi-second").count() == 0
        page.fill(f"{PLACE} input[type=text]", "5,4,3,2,1,9,8,7,6,0")
        page.wait_for_function(
            "document.querySelector('#mi-sorting').miLive.frame.state.list.startsWith('5,4')"
        )
        gates[2].set()
        page.wait_for_load_state("load")
        page.locator("#mi-second").scroll_into_view_if_needed()
        page.wait_for_selector("#mi-second[data-mi-live=ready]")
        page.close()
        httpd.shutdown()
    assert wrong == []
