"""A small built page with the arithmetic explorers, for tests and for the benchmark of the page."""

from __future__ import annotations

from pathlib import Path

from mi_lab.live import live_explorer
from mi_lab.live.live_explorer import Live
from mi_lab.studies.arithmetic import algorithm_live

ROOT = Path(__file__).resolve().parents[2]


def explorers() -> list[Live]:
    """Those of the page, in order."""
    return [
        algorithm_live.describe(),
        algorithm_live.describe(
            name="mi-long",
            question="909990099909999+090009900090001",
            algorithm="look_back_2",
            position=47,
        ),
    ]


def write(folder: Path, name: str = "page.html") -> Path:
    """The page, the script and some of the models, below `folder`."""
    bodies = [live_explorer.page_html(one, dict(one.state)) for one in explorers()]
    live_explorer.write_script(folder / "_static")
    css = (ROOT / "book/assets/book.css").read_text("utf8")
    css = css.split("@font-face")[0] + "html {" + css.split("\nhtml {", 1)[1]  # without the fonts
    page = folder / name
    page.write_text(
        '<!doctype html><html lang="en" data-theme="light" data-content_root="./"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1"><link rel="icon" href="data:,">'
        f"<title>Arithmetic</title><style>{css}</style><style>body {{ font: 16px/1.6 sans-serif; margin: 1rem auto; "
        "max-width: 46rem; padding: 0 0.6rem; background: var(--mi-paper); color: var(--mi-ink) }</style></head>"
        f"<body><main><h1>Arithmetic</h1>{'<p>Further down.</p>'.join(bodies)}</main></body></html>",
        "utf8",
    )
    return page
