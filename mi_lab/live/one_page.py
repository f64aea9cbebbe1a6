"""One self-contained file with an explorer for any model of the lab, to send to a colleague."""

from __future__ import annotations

import html
from collections.abc import Sequence

from torch import Tensor

from mi_lab.live import generic, scripts
from mi_lab.live.live_explorer import page_html
from mi_lab.model import Transformer

_LIGHT = {
    "ink": "#1c232e", "paper": "#ffffff", "shade": "#f5f6f8", "rule": "#dde1e7", "quiet": "#566070",
    "accent": "#005a8e", "neutral": "#6b7280", "good": "#006b4e", "bad": "#a63c00",
    "head-0": "#0072b2", "head-1": "#d55e00", "head-2": "#009e73", "head-3": "#b0558a",
}  # fmt: skip
_DARK = {
    "ink": "#dfe4ec", "paper": "#14181f", "shade": "#1d232d", "rule": "#343c49", "quiet": "#a3adbb",
    "accent": "#7cc4f2", "neutral": "#9aa3b2", "good": "#4fd1a5", "bad": "#ff9d66",
    "head-0": "#56b4e9", "head-1": "#f0894a", "head-2": "#3cc49a", "head-3": "#dc98bd",
}  # fmt: skip
_STYLE = """
body { font: 16px/1.6 system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif; color: var(--mi-ink);
  background: var(--mi-paper); max-width: 52rem; margin: 1rem auto; padding: 0 0.7rem; }
h1 { font-size: 1.4rem; line-height: 1.25; overflow-wrap: anywhere; } p { margin: 0.5rem 0; }
small { color: var(--mi-quiet); overflow-wrap: anywhere; }
"""


def _style() -> str:
    """The book's colours, light and dark, and a plain page."""
    light, dark = ("".join(f"--mi-{k}: {v};" for k, v in x.items()) for x in (_LIGHT, _DARK))
    night = f"@media (prefers-color-scheme: dark) {{ :root {{ {dark} }} }}"
    return f":root {{ color-scheme: light dark; {light} }} {night} {_STYLE}"


def one_page(
    model: Transformer,
    *,
    title: str,
    tokens: Tensor | Sequence[int] | None = None,
    position: int | None = None,
    vocab: Sequence[str] | None = None,
    python: Sequence[str] = (),
    about: str = "",
    dtype: str = "float16",
) -> str:
    """A whole HTML page that runs this model: tokens in, nodes on and off, attention, what comes next.

    tokens: what it begins with; default one token 0. position: which one is looked at; default the
    last. vocab: a word for each token; default their numbers. python: lines that make `model` in
    Python. about: a line on where the model comes from. dtype: "float16" or "float32", how weights
    are stored. The page asks for nothing outside. Raises ValueError for two equal words and for
    tokens that don't fit.
    """
    live = generic.describe(
        model,
        title=title,
        tokens=[0] if tokens is None else tokens,
        position=position,
        vocab=vocab,
        python=python,
        dtype=dtype,
    )
    script = scripts.file_script("generic").replace("</script", "<\\/script")
    body = page_html(live, live.state, inline_script=script)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f'<link rel="icon" href="data:,"><title>{html.escape(title)}</title><style>{_style()}</style></head>'
        f"<body><main><h1>{html.escape(title)}</h1>{body}<p><small>{html.escape(about)}</small></p></main></body></html>\n"
    )
