"""Attention patterns through CircuitsVis, one script for the whole book and none before it is wanted.

CircuitsVis writes its 1.3 MB of JavaScript into every output, or a third-party address that needs a
network. Here a page holds the numbers and a plain drawing; the script, copied once into the built
book, is loaded from beside the page when the reader opens the view. In Jupyter and Colab the
library's own output is used.
"""

from __future__ import annotations

import hashlib
import html
import json
import os
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from mi_lab import plot
from mi_lab.plot import Picture

SCRIPT = "_static/circuitsvis/iife.js"

_LOADER = """
(function () {
  const details = document.getElementById("%(id)s");
  details.addEventListener("toggle", function () {
    const box = details.querySelector(".mi-circuitsvis-view");
    if (!details.open || box.dataset.done) return;
    box.dataset.done = "1";
    const props = JSON.parse(details.querySelector("script[type='application/json']").textContent);
    const draw = () => window.CircuitsVis.render(box.id, window.CircuitsVis.AttentionPatterns, props);
    if (window.CircuitsVis) return draw();
    const root = document.documentElement.dataset.content_root || "./";
    const script = document.createElement("script");
    const define = window.define;
    window.define = undefined;
    script.onload = () => { window.define = define; draw(); };
    script.onerror = () => { window.define = define; box.textContent = "The viewer could not be loaded."; };
    script.src = new URL(root + "%(script)s", document.baseURI).href;
    document.head.appendChild(script);
  });
})();
"""


class AttentionView:
    """Attention [head, query, key] of one sequence, with its tokens."""

    def __init__(self, words: Sequence[str], pattern: Tensor, caption: str) -> None:
        if pattern.ndim != 3 or pattern.shape[1] != len(words) or pattern.shape[2] != len(words):
            raise ValueError(
                f"pattern must be [head, {len(words)}, {len(words)}] for {len(words)} tokens, "
                f"not {list(pattern.shape)}"
            )
        self.words, self.pattern, self.caption = list(words), pattern.detach().cpu(), caption

    def __repr__(self) -> str:
        return f"AttentionView: {self.caption}"

    def picture(self) -> Picture:
        """The static drawing: one map a head."""
        heads = range(len(self.pattern))
        n = len(self.words)
        with plot.canvas(1, len(heads), width=7.6, height=7.6 / len(heads) + 0.2) as (figure, axes):
            for head in heads:
                ax = axes[0][head]
                ax.imshow(plot.unsigned_rgba(self.pattern[head].numpy(), plot.head_colour(head), 1.0))
                ax.set_xticks(range(n), self.words, rotation=90, fontsize=7)
                ax.set_yticks(range(n), self.words, fontsize=7)
                ax.set_title(f"head {head}", color=plot.head_colour(head))
            axes[0][0].set_ylabel("from")
            return plot.picture(figure, self.caption)

    def _repr_html_(self) -> str:
        pattern = [[[round(float(x), 4) for x in row] for row in head] for head in self.pattern]
        names = [f"head {h}" for h in range(len(pattern))]
        spaced = [f" {word} " for word in self.words]
        props = {"tokens": spaced, "attention": pattern, "headLabels": names}
        data = json.dumps(props).replace("<", "\\u003c")
        key = "mi-cv-" + hashlib.sha256(data.encode()).hexdigest()[:10]  # the same at every run
        return (
            f"{self.picture()._repr_html_()}"
            f'<details class="mi-circuitsvis" id="{key}"><summary>Open in CircuitsVis (hover a token)</summary>'
            f'<script type="application/json">{data}</script>'
            f'<div class="mi-circuitsvis-view" id="{key}-view" style="background:#fff;color:#111;padding:.5em"></div>'
            f"</details><script>{_LOADER % {'id': html.escape(key), 'script': SCRIPT}}</script>"
        )

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        if not os.environ.get("MI_LAB_STATIC"):
            try:
                from circuitsvis.attention import attention_patterns

                own = str(attention_patterns(tokens=self.words, attention=self.pattern))
                for word in map(json.dumps, self.words):  # it would let "</script>" end its script
                    own = own.replace(word, word.replace("<", "\\u003c"))
                return {"text/plain": repr(self), "text/html": self.picture()._repr_html_() + own}
            except ImportError:
                pass
        return {"text/plain": repr(self), "text/html": self._repr_html_()}
