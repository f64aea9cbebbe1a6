"""What page_engine.py measures of explorers in pages of the built book: programs, bars, weights."""

from __future__ import annotations

import functools
import gzip
import http.server
import json
import threading
from pathlib import Path
from typing import Any, NamedTuple

SORTING = """
async (runs) => {
  const { frame } = document.querySelector("[data-mi-live]").miLive;
  const input = document.querySelector("[data-mi-live] input[type=text]");
  const list = (k) => Array.from({ length: 10 }, (_, i) => (i * 7 + k * 5 + 3) % 51).join(",");
  const lists = Array.from({ length: 13 }, (_, k) => list(k));
  const picture = [];
  const painted = [];
  for (let i = 0; i < runs + 20; i++) {
    input.value = lists[i % lists.length];
    await new Promise((resolve) => setTimeout(resolve, 7 * (i % 5)));
    const begun = performance.now();
    input.dispatchEvent(new Event("input", { bubbles: true }));
    const drawn = performance.now() - begun;
    await new Promise((resolve) => requestAnimationFrame(() => {
      const line = new MessageChannel();
      line.port1.onmessage = resolve;
      line.port2.postMessage(0);
    }));
    if (frame.state.list !== input.value) throw new Error("the state did not follow");
    if (i < 20) continue;
    picture.push(drawn);
    painted.push(performance.now() - begun);
  }
  return { "keystroke to picture": picture, "keystroke to painted frame": painted };
}
"""

PATHFINDING = """
async (runs) => {
  const explorer = document.querySelector("[data-mi-live]").miLive;
  const { frame, spec } = explorer;
  const input = document.querySelector("[data-mi-live] input[type=text]");
  const frameDone = () => new Promise((resolve) => requestAnimationFrame(() => {
    const line = new MessageChannel();
    line.port1.onmessage = resolve;
    line.port2.postMessage(0);
  }));
  const out = {};
  const time = async (name, act) => {
    const [picture, painted, engine] = [[], [], []];
    for (let i = 0; i < runs + 20; i++) {
      await new Promise((resolve) => setTimeout(resolve, 7 * (i % 5)));
      const begun = performance.now();
      act(i);
      await explorer.settled();
      const drawn = performance.now() - begun;
      await frameDone();
      if (explorer.result.state !== frame.state) throw new Error("the picture did not follow");
      if (i < 20) continue;
      picture.push(drawn);
      painted.push(performance.now() - begun);
      engine.push(explorer.result.ms);
    }
    out[`${name} to picture`] = picture;
    out[`${name} to painted frame`] = painted;
    out[`${name}, engine`] = engine;
  };
  const typed = (text, n) => (i) => {
    input.value = text.replace(/\\d+/g, (k) => (Number(k) + i) % n); // every label another one: nothing can be reused
    input.dispatchEvent(new Event("input", { bubbles: true }));
  };
  await time("keystroke", typed(frame.state.text, 10));
  const { name, seed } = spec.models.find(({ nodes }) => nodes === 16);
  frame.set({ model: name, seed, ...spec.examples[16], position: 47 });
  await explorer.settled();
  const { text } = frame.state;
  await time("full size, keystroke", typed(text, 16));
  frame.set({ text });
  await explorer.settled();
  await time("full size, other goal", (i) => frame.set({ text: text.replace(/\\d+$/, i % 2 ? "4" : "0") }));
  frame.set({ text });
  await explorer.settled();
  const onOff = (on, off) => (i) => frame.set(i % 2 ? off : on);
  await time("full size, head of layer 3 off and on", onOff({ nodes: ["L3H0-zero"] }, { nodes: [] }));
  await time("full size, commas closed from layer 3 on", onOff({ closed: ["comma"], where: "3+" }, { closed: [] }));
  frame.set({ closed: [] });
  await explorer.settled();
  const donor = { donor: "renamed", site: "root", rule: "edge", after: 2 };
  await time("full size, root's state replaced", onOff(donor, { donor: "none" }));
  return out;
}
"""

ARITHMETIC = """
async (runs) => {
  const explorer = document.querySelector("[data-mi-live]").miLive;
  const { frame } = explorer;
  const { model } = explorer.result;
  const input = document.querySelector("[data-mi-live] input[type=text]");
  const frameDone = () => new Promise((resolve) => requestAnimationFrame(() => {
    const line = new MessageChannel();
    line.port1.onmessage = resolve;
    line.port2.postMessage(0);
  }));
  const out = {};
  const time = async (name, act) => {
    const [picture, painted] = [[], []];
    for (let i = 0; i < runs + 20; i++) {
      await new Promise((resolve) => setTimeout(resolve, 7 * (i % 5)));
      const begun = performance.now();
      act(i);
      const drawn = performance.now() - begun;
      await frameDone();
      if (explorer.result.state !== frame.state) throw new Error("the picture did not follow");
      if (i < 20) continue;
      picture.push(drawn);
      painted.push(performance.now() - begun);
    }
    out[`${name} to picture`] = picture;
    out[`${name} to painted frame`] = painted;
  };
  const digits = (i, k) => Array.from({ length: model.digits }, (_, j) => (i * 3 + j * 7 + k) % 10).join("");
  await time("keystroke", (i) => {
    input.value = `${digits(i, 1)}+${digits(i, 5)}`; // every digit another one: nothing can be reused
    input.dispatchEvent(new Event("input", { bubbles: true }));
  });
  const last = 3 * model.digits + 2;
  await time("another node chosen", (i) => frame.set({ node: `P${i % last}L1H${i % 3}` }));
  await time("node replaced and put back", (i) => frame.set({ edits: i % 2 ? [] : [`P${last}L0MLP:mean`] }));
  const sweeps = [];
  frame.set({ fact: "question", edits: [] });
  for (let i = 0; i < 60; i++) {
    const cell = document.querySelector("[data-mi-live] td[role=gridcell]");
    const begun = performance.now();
    frame.set({ question: `${digits(i, 2)}+${digits(i, 8)}` });
    while (cell.ariaLabel.includes("not counted")) await new Promise((resolve) => setTimeout(resolve, 1));
    sweeps.push(performance.now() - begun);
  }
  out["every node in this question, worker"] = sweeps.slice(10);
  return out;
}
"""


TYPING = """
async (runs) => {
  const place = document.querySelector("PLACE");
  const { frame } = place.miLive;
  const input = place.querySelector("input[type=text]");
  const texts = TEXTS;
  const picture = [];
  const painted = [];
  for (let i = 0; i < runs + 20; i++) {
    input.value = texts[i % texts.length];
    await new Promise((resolve) => setTimeout(resolve, 7 * (i % 5)));
    const before = frame.state;
    const begun = performance.now();
    input.dispatchEvent(new Event("input", { bubbles: true }));
    const drawn = performance.now() - begun;
    await new Promise((resolve) => requestAnimationFrame(() => {
      const line = new MessageChannel();
      line.port1.onmessage = resolve;
      line.port2.postMessage(0);
    }));
    if (frame.state === before) throw new Error("the state did not follow");
    if (i < 20) continue;
    picture.push(drawn);
    painted.push(performance.now() - begun);
  }
  return { "keystroke to picture": picture, "keystroke to painted frame": painted };
}
"""


def typing(place: str, texts: list[str]) -> str:
    """The program for an explorer that draws in the same task: these texts, typed in turn.

    The first must not be what stands there already: that would change nothing.
    """
    return TYPING.replace("PLACE", place).replace("TEXTS", json.dumps(texts))


class Measured(NamedTuple):
    """An explorer: its page, a program (runs) -> {name: milliseconds of each run}, bars of medians and bytes.

    place: the explorer's element, if it is not the first of its page. loads: cold starts.
    """

    page: str
    program: str
    bars: dict[str, float]
    place: str = ""
    loads: int = 50


TYPED_BARS = {"keystroke to picture": 50.0, "keystroke to painted frame": 50.0}
PAGE_BARS = {"cold start to live explorer": 1500.0, "page without model weights, gzip": 700_000}
EXPLORERS = {
    "sorting": Measured(
        "book/sorting.html",
        SORTING,
        {
            "keystroke to picture": 50.0,
            "keystroke to painted frame": 50.0,
            **PAGE_BARS,
            "model weights at first": 300_000,
        },
    ),
    "start": Measured(
        "book/start.html",
        SORTING,
        {**TYPED_BARS, **PAGE_BARS, "model weights at first": 300_000},
    ),
    "toolbox": Measured(
        "book/toolbox.html",
        typing("#mi-toolbox", ["cedf", "acebac", "fdbf", "eabce", "bdafb"]),
        {**TYPED_BARS, **PAGE_BARS},
    ),
    "own_study": Measured(
        "book/own_study.html",
        typing("#mi-model", ["3 1 4 1 5 2 SEP 2 5", "7 0 0 2 6 1 SEP 1", "1 2 3 4 5 6 SEP 6 5 4"]),
        {**TYPED_BARS, "page without model weights, gzip": 700_000},
        "#mi-model",
        1,
    ),
    "algorithm": Measured(
        "book/arithmetic.html",
        typing("#mi-algorithm", ["445+555", "12345+67899", "999+1", "5006+4994"]),
        TYPED_BARS,
        "#mi-algorithm",
        1,
    ),
    "arithmetic": Measured(
        "book/arithmetic.html",
        ARITHMETIC,
        {
            "keystroke to picture": 50.0,
            "keystroke to painted frame": 50.0,
            "another node chosen to painted frame": 50.0,
            "node replaced and put back to painted frame": 50.0,
            **PAGE_BARS,
            "model weights at first": 600_000,
        },
    ),
    "pathfinding": Measured(
        "book/pathfinding.html",
        PATHFINDING,
        {
            "keystroke to picture": 100.0,
            "keystroke to painted frame": 100.0,
            "full size, keystroke to picture": 100.0,
            "full size, keystroke to painted frame": 100.0,
            "full size, keystroke, engine": 40.0,
            "full size, other goal, engine": 10.0,
            "full size, head of layer 3 off and on, engine": 10.0,
            "full size, commas closed from layer 3 on, engine": 10.0,
            "full size, root's state replaced, engine": 10.0,
            **PAGE_BARS,
            "model weights at first": 2_500_000,
        },
    ),
}


class Handler(http.server.SimpleHTTPRequestHandler):
    """The repository, isolated from other origins, which gives the page a clock of 5 microseconds."""

    def end_headers(self) -> None:
        """Add the two headers."""
        self.send_header("Cross-Origin-Opener-Policy", "same-origin")
        self.send_header("Cross-Origin-Embedder-Policy", "require-corp")
        super().end_headers()

    def do_GET(self) -> None:
        """A blank page at /blank.html."""
        if self.path != "/blank.html":
            super().do_GET()
            return
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(b'<!doctype html><title>blank</title><link rel="icon" href="data:,">')

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


def measure_explorer(
    browser: Any, site: Path, name: str, runs: int, *, page_name: str | None = None
) -> dict[str, Any]:
    """One explorer in its page of a built site."""
    asked = EXPLORERS[name]
    page_name = page_name or asked.page
    handler = functools.partial(Handler, directory=str(site))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as httpd:
        threading.Thread(target=httpd.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{httpd.server_port}/{page_name}"
        cold: list[float] = []
        weights: dict[str, int] = {}
        times: dict[str, list[float]] = {}
        for i in range(min(runs, asked.loads)):
            context = browser.new_context(viewport={"width": 1280, "height": 900})  # its cache is empty
            page = context.new_page()
            page.set_default_timeout(120_000)
            page.add_init_script(
                "addEventListener('mi-live-ready', () => (window.miReady ??= performance.now()))"
            )
            bodies: list[Any] = []
            if i == 0:
                page.on("response", lambda r, into=bodies: into.append(r))
            page.goto(address, wait_until="load")
            if asked.place:  # it starts when it comes near
                page.locator(asked.place).scroll_into_view_if_needed()
                page.wait_for_selector(f"{asked.place}[data-mi-live=ready]")
            page.wait_for_function("window.miReady")
            cold.append(page.evaluate("miReady"))
            if i == 0:
                page.wait_for_load_state("networkidle")
                weights = weigh(bodies)
                times = page.evaluate(asked.program, max(runs, 50))
            context.close()
        httpd.shutdown()
    milliseconds = {what: summary(some) for what, some in times.items()}
    if not asked.place:  # one further down starts when the reader comes there
        milliseconds["cold start to live explorer"] = summary(cold)
    return {"page": page_name, "milliseconds": milliseconds, "bytes": weights}


def weigh(responses: list[Any]) -> dict[str, int]:
    """Bytes of a page: as files, and as a server sends them that compresses text."""
    out = {
        "page without model weights, files": 0,
        "page without model weights, gzip": 0,
        "model weights at first": 0,
    }
    for response in responses:
        if response.url.startswith("blob:"):
            continue  # the worker's text, which is the script's own
        body = response.body()
        if response.url.endswith(".bin"):
            out["model weights at first"] += len(body)
            continue
        packed = response.url.split("?")[0].endswith((".woff2", ".woff", ".png"))
        out["page without model weights, files"] += len(body)
        out["page without model weights, gzip"] += len(body) if packed else len(gzip.compress(body, 6))
    return out


def summary(times: list[float]) -> dict[str, float | int]:
    ordered = sorted(times)
    pick = {"median": 0.5, "p10": 0.1, "p90": 0.9}
    out: dict[str, float | int] = {
        name: round(ordered[int(at * (len(ordered) - 1))], 3) for name, at in pick.items()
    }
    return out | {"runs": len(ordered)}


def explorer_report(name: str, found: dict[str, Any]) -> dict[str, Any]:
    """What was measured of an explorer, beside its bars."""
    values = {what: times["median"] for what, times in found["milliseconds"].items()} | found["bytes"]
    bars = {
        what: {"value": values[what], "bar": bar, "met": values[what] <= bar}
        for what, bar in EXPLORERS[name].bars.items()
    }
    return {"bars": bars, **found}
