"""A small built page with the sorting explorer, for tests and for the benchmark of the page."""

from __future__ import annotations

from pathlib import Path

from mi_lab.live import live_explorer
from mi_lab.studies.sorting import live

ROOT = Path(__file__).resolve().parents[2]
KEYS = (
    "paper-0-6000", "paper-0-5000", "paper-0-4000", "paper-0-1000", "paper-0-800", "paper-0-1250",
    "paper-0-0", "paper-3-1000", "paper-3-6000", "window_20-0-6000", "window_20-7-6000", "window_30-0-6000",
)  # fmt: skip


def write(folder: Path) -> Path:
    """page.html with two explorers, the script and some of the models, below `folder`."""
    explorers = [
        live.describe(),
        live.describe(name="mi-second", heads=("on", "zero"), output=5, title="A second one"),
    ]
    bodies = [live_explorer.page_html(one, dict(one.state)) for one in explorers]
    live_explorer.write_script(folder / "_static")
    live_explorer.write_models(
        folder / live_explorer.MODELS / live.FOLDER, list(KEYS), live.model_file, "test"
    )
    return write_page(
        folder, "Sorting", f'{bodies[0]}<p style="margin-top:200rem">Further down.</p>{bodies[1]}'
    )


def write_page(folder: Path, title: str, body: str) -> Path:
    """page.html with the book's colours."""
    css = (ROOT / "book/assets/book.css").read_text("utf8")
    css = css.split("@font-face")[0] + "html {" + css.split("\nhtml {", 1)[1]  # without the fonts
    page = folder / "page.html"
    page.write_text(
        '<!doctype html><html lang="en" data-theme="light" data-content_root="./"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1"><link rel="icon" href="data:,">'
        f"<title>{title}</title><style>{css}</style><style>body {{ font: 16px/1.6 sans-serif; margin: 1rem auto; "
        "max-width: 46rem; padding: 0 0.6rem; background: var(--mi-paper); color: var(--mi-ink) }</style></head>"
        f"<body><main><h1>{title}</h1>{body}</main></body></html>",
        "utf8",
    )
    return page
