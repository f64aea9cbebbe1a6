"""The in-page engine in headless Chromium: milliseconds of a run, whole and with reuse.

Shapes of the three studies, random weights (speed does not depend on them). For each: the whole
run (the first token changes, so nothing can be reused) on the WebAssembly and on the plain
JavaScript kernel, on the page's own thread; for pathfinding also the round trip through the worker
and runs that reuse what has not changed. Then explorers in pages of the book (page_explorers.py): from a
keystroke to the finished picture and to the painted frame, from a cold start to a live explorer, and
what the page weighs; for pathfinding with the full-size model, and with edits. Medians over `--runs` runs;
cold starts over 50. 5 to 13 minutes by the machine, which should be idle, after `make book`:

    PYTHONPATH=. OMP_NUM_THREADS=1 .venv/bin/python benchmarks/page_engine.py --json benchmarks/page_engine.json

`--only sorting` (or another name of `page_explorers.EXPLORERS`, or engine) measures that part anew and keeps
the rest of the file.
`python -m tests.live.arithmetic_site DIR` makes a page of the arithmetic explorers alone, for
`--site DIR --page page.html`.
"""

from __future__ import annotations

import argparse
import base64
import functools
import http.server
import json
import os
import platform
import shutil
import threading
from pathlib import Path
from typing import Any

from page_explorers import EXPLORERS, Handler, explorer_report, measure_explorer, summary

from mi_lab.live import export
from mi_lab.model import Transformer, TransformerConfig

ROOT = Path(__file__).resolve().parents[1]
SHAPES = {
    "sorting": TransformerConfig(n_layers=1, n_heads=2, d_model=96, d_head=48, n_ctx=21, d_vocab=52),
    "arithmetic_compact": TransformerConfig(
        n_layers=2, n_heads=3, d_model=96, d_head=32, d_mlp=384, n_ctx=19, d_vocab=15
    ),
    "pathfinding": TransformerConfig(
        n_layers=6, n_heads=1, d_model=128, d_head=128, d_mlp=512, n_ctx=65, d_vocab=35, act="gelu"
    ),
}
BARS = {
    "sorting/whole": 1.5,
    "arithmetic_compact/whole": 4.0,
    "pathfinding/whole": 40.0,
    "pathfinding/worker whole": 40.0,
    "pathfinding/token 46 changed": 10.0,
    "pathfinding/head of layer 3 on and off": 10.0,
    "pathfinding/P47L1H0 on and off": 10.0,
    "pathfinding/knock-out in layer 2, last query": 10.0,
    "pathfinding/worker, P47L1H0 on and off": 10.0,
}
FILE_BARS = {"sorting": 300_000, "arithmetic_compact": 600_000, "pathfinding": 2_500_000}

PROGRAM = """
async ({ base64, runs, kernel, edits, worker }) => {
  const lab = await import("/mi_lab/live/js/index.js");
  const model = await lab.loadModel({ base64 });
  const { n_ctx, d_vocab } = model.config;
  const tokens = Int32Array.from({ length: n_ctx }, (_, i) => (i * 7) % d_vocab);
  const out = {};
  const time = async (name, act) => {
    for (let i = 0; i < 30; i++) await act(i);
    const all = [];
    let computed = 0;
    for (let i = 0; i < runs; i++) {
      const begun = performance.now();
      const got = await act(i);
      all.push(performance.now() - begun);
      computed = Math.max(computed, got.computed);
      if (i % 10 === 9) await new Promise((resolve) => setTimeout(resolve, 0));
    }
    out[name] = { all, computed };
  };
  const engine = await lab.createEngine(model, { kernel });
  const session = engine.session();
  const whole = (i) => ((tokens[0] = i % 2), session.forward(tokens));
  await time("whole", whole);
  if (edits) {
    await time("token 46 changed", (i) => ((tokens[46] = i % 2), session.forward(tokens)));
    const onOff = (edit) => (i) => session.forward(tokens, i % 2 ? [edit] : []);
    await time("head of layer 3 on and off", onOff({ node: "L3H0", value: 0 }));
    await time("P47L1H0 on and off", onOff({ node: "P47L1H0", value: 0 }));
    const knockOut = { layer: 2, queries: [n_ctx - 1], keys: [3] };
    await time("knock-out in layer 2, last query", onOff({ knockOut }));
  }
  if (worker) {
    const client = await lab.connect({ where: "worker" });
    await client.load({ base64 }, { kernel });
    const want = ["blocks.0.attn.pattern", "blocks.5.attn.pattern"];
    await time("worker whole", (i) => client.run({ tokens: [i % 2, ...tokens.slice(1)], want }));
    const edit = { node: "P47L1H0", value: 0 };
    const edits = (i) => (i % 2 ? [edit] : []);
    await time("worker, P47L1H0 on and off", (i) => client.run({ tokens: [...tokens], edits: edits(i), want }));
    client.close();
  }
  return { kernel: engine.kernel.name, times: out };
}
"""


def measure(browser: Any, address: str, runs: int) -> dict[str, Any]:
    results: dict[str, Any] = {}
    for name, config in SHAPES.items():
        data = export.to_bytes([Transformer(config)])
        results[name] = {"weights": Transformer(config).n_parameters, "file_bytes": len(data)}
        for kernel in ("wasm", "js"):
            page = browser.new_page()
            page.goto(f"{address}/blank.html")
            heavy = name == "pathfinding"
            options = {
                "base64": base64.b64encode(data).decode(),
                "runs": runs,
                "kernel": kernel,
                "edits": heavy,
                "worker": heavy,
            }
            got = page.evaluate(PROGRAM, options)
            assert got["kernel"] == kernel
            results[name][kernel] = {
                what: summary(timed["all"]) | {"rows_computed": timed["computed"]}
                for what, timed in got["times"].items()
            }
            page.close()
    return results


def cpu() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if "model name" in line]
    return names[0] if names else platform.machine()


def engine_report(results: dict[str, Any]) -> dict[str, Any]:
    """Milliseconds of the engine beside their bars."""
    bars = {}
    for name, bar in BARS.items():
        study, what = name.split("/")
        median = results[study]["wasm"][what]["median"]
        bars[name] = {"median_ms": median, "bar_ms": bar, "met": median <= bar}
    files = {
        name: {"bytes": results[name]["file_bytes"], "bar": bar, "met": results[name]["file_bytes"] <= bar}
        for name, bar in FILE_BARS.items()
    }
    return {"bars": bars, "files": files, "milliseconds": results}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--json", type=Path, help="write the result here (default: print only)")
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--only", choices=("engine", *EXPLORERS), help="default: everything")
    parser.add_argument("--site", type=Path, default=ROOT / "_build/html", help="the built book")
    parser.add_argument("--page", help="another page of it, with --only the explorer on that page")
    args = parser.parse_args()
    from playwright.sync_api import sync_playwright

    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    handler = functools.partial(Handler, directory=str(ROOT))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as httpd, sync_playwright() as playwright:
        threading.Thread(target=httpd.serve_forever, daemon=True).start()
        flags = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
        browser = playwright.chromium.launch(executable_path=program, args=flags)
        engine = None
        if args.only in (None, "engine"):
            engine = measure(browser, f"http://127.0.0.1:{httpd.server_port}", args.runs)
        explorers = {
            name: measure_explorer(browser, args.site, name, args.runs, page_name=args.page)
            for name in EXPLORERS
            if args.only in (None, name)
        }
        version = browser.version
        browser.close()
        httpd.shutdown()
    machine = {
        "cpu": cpu(),
        "cores": os.cpu_count(),
        "nice": os.nice(0),
        "load_average": [round(x, 2) for x in os.getloadavg()],
        "browser": f"Chromium {version}, headless",
        "clock": "performance.now in the page, wall time",
    }
    report = json.loads(args.json.read_text()) if args.json is not None and args.json.exists() else {}
    if engine is not None:
        report |= {"machine": machine, **engine_report(engine)}
    if explorers:
        report.setdefault("explorers", {})
    for name, found in explorers.items():
        report["explorers"][name] = {"machine": machine, **explorer_report(name, found)}
    text = json.dumps(report, indent=2) + "\n"
    print(text, end="")
    if args.json is not None:
        args.json.write_text(text)


if __name__ == "__main__":
    main()
