"""Baked: an Explorer whose static form works too, from drawings made when the page is built.

With a kernel it is an Explorer like any other. In the built book it carries a grid of states: every
combination of the options in `grid`, computed, drawn, compressed (neighbouring drawings are nearly
alike, so a hundred weigh what five would) and shown by thirty lines of script. Controls that are not in the grid
stay at their default and are named in the note. Without JavaScript the default drawing stands there.
"""

from __future__ import annotations

import base64
import hashlib
import html
import itertools
import json
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mi_lab.charts import STYLE, Drawing
from mi_lab.live.explorer import Choice, Control, Explorer, Slider, Text, Toggles

LIMIT = 250_000  # bytes of one explorer in a page

CONTROLS = """
.mi-baked .mi-controls{display:flex;flex-wrap:wrap;gap:.35rem 1.1rem;align-items:center;font-size:.95rem;
font-family:var(--mi-sans,system-ui,sans-serif);margin:.2rem 0 .5rem}
.mi-baked label{display:flex;flex-wrap:wrap;gap:.4rem;align-items:center;margin:0;max-width:100%}
.mi-baked select,.mi-baked button{font:inherit;max-width:100%;min-height:2.1rem;color:inherit;
background:var(--mi-paper,Canvas);border:1px solid var(--mi-quiet,#888);border-radius:5px;padding:.1rem .5rem}
.mi-baked input[type=range]{width:9rem;min-height:2.1rem;accent-color:var(--mi-accent,#005a8e)}
.mi-baked output{min-width:2.2em;font-weight:650}
.mi-baked [role=alert]{color:var(--mi-bad,#a63c00);margin:.2rem 0}
.mi-baked .mi-said{position:absolute;width:1px;height:1px;overflow:hidden;clip-path:inset(50%)}
""".replace("\n", "")

SCRIPT = """
(async () => {
  for (const box of document.querySelectorAll('.mi-baked[data-key="%(key)s"]:not([data-live])')) {
    box.dataset.live = "";
    if (!window.DecompressionStream) return;
    const packed = box.querySelector('script[type="text/plain"]').textContent.trim();
    const bytes = Uint8Array.from(atob(packed), c => c.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
    const { controls, states } = JSON.parse(await new Response(stream).text());
    const [panel, view, alert, said] =
      [".mi-controls", ".mi-view", "[role=alert]", ".mi-said"].map(q => box.querySelector(q));
    const at = controls.map(c => c.start);
    const inputs = controls.map((c, i) => {
      const label = panel.appendChild(document.createElement("label"));
      label.append(c.label);
      const slider = c.kind === "slider";
      const input = label.appendChild(document.createElement(slider ? "input" : "select"));
      const output = slider ? label.appendChild(document.createElement("output")) : null;
      if (slider) Object.assign(input, { type: "range", min: 0, max: c.names.length - 1, step: 1 });
      else for (const name of c.names) input.add(new Option(name));
      const put = () => {
        if (!slider) { input.selectedIndex = at[i]; return; }
        input.value = at[i];
        output.textContent = c.names[at[i]];
        input.setAttribute("aria-valuetext", c.names[at[i]]);
      };
      put();
      input.addEventListener("input", () => { at[i] = slider ? +input.value : input.selectedIndex; put(); show(); });
      return put;
    });
    const reset = panel.appendChild(document.createElement("button"));
    reset.type = "button"; reset.textContent = "reset";
    reset.addEventListener("click", () => { controls.forEach((c, i) => { at[i] = c.start; inputs[i](); }); show(); });
    const show = () => {
      const state = states[controls.reduce((n, c, i) => n * c.names.length + at[i], 0)];
      alert.textContent = state.error || "";
      if (state.error) return;
      view.innerHTML = state;
      said.textContent = (view.querySelector("figcaption") || view).textContent;
    };
  }
})();
"""


class Baked(Explorer):
    """An Explorer with a grid of states for the page without a kernel.

    grid: control -> the options it has there (a subset of its options; default all of them). Text can't
    be baked; leave it out. draw must return a `Drawing`.
    """

    def __init__(
        self,
        title: str,
        state: Mapping[str, Any],
        controls: Mapping[str, Control],
        compute: Callable[..., Any],
        draw: Callable[[Any], Drawing],
        try_this: str = "",
        *,
        grid: Mapping[str, Sequence[Any] | None],
    ) -> None:
        super().__init__(title, state, controls, compute, draw, try_this)
        self.grid: dict[str, tuple[Any, ...]] = {}
        for name, options in grid.items():
            control = self.controls.get(name)
            if control is None or isinstance(control, Text):
                raise ValueError(f"{name!r} can't be baked: it is no choice of {self.title}")
            if options is None and isinstance(control, Toggles):
                raise ValueError(f"{name!r}: say which of the combinations to bake")
            chosen = tuple(options) if options is not None else control.options  # type: ignore[union-attr]
            for option in chosen:
                self._check(name, option)
            if self.default[name] not in chosen:
                raise ValueError(
                    f"{name!r}: the default {self.default[name]!r} is not among the baked options"
                )
            self.grid[name] = chosen

    def resolve(self, **changes: Any) -> dict[str, Any]:
        """The whole state after these changes of the default; a subclass may let one control set another."""
        return self.default | changes

    def states(self) -> list[str | dict[str, str]]:
        """The drawings of the grid, the last control fastest; {"error": message} where a state is refused."""
        out: list[str | dict[str, str]] = []
        for values in itertools.product(*self.grid.values()):
            try:
                result = self.compute(**self.resolve(**dict(zip(self.grid, values))))
            except ValueError as error:
                out.append({"error": str(error)})
            else:
                out.append(self.draw(result).inner())
        return out

    def payload(self) -> str:
        """Controls and states, compressed, as base64."""
        controls = [
            {
                "label": self.controls[name].label,
                "kind": "slider" if isinstance(self.controls[name], Slider) else "select",
                "names": [self._name(name, option) for option in options],
                "start": options.index(self.default[name]),
            }
            for name, options in self.grid.items()
            if len(options) > 1
        ]
        data = json.dumps(
            {"controls": controls, "states": self.states()}, separators=(",", ":"), ensure_ascii=False
        )
        return base64.b64encode(zlib.compress(data.encode(), 9)).decode()

    def _name(self, name: str, option: Any) -> str:
        """What the reader sees of one option."""
        control = self.controls[name]
        if isinstance(control, Choice) and control.labels:
            return control.labels[control.options.index(option)]
        if isinstance(control, Toggles):
            return ", ".join(n for n, on in zip(control.names, option) if on) or "none"
        return str(option)

    def _repr_html_(self) -> str:
        packed = self.payload()
        key = "mi-" + hashlib.sha256(packed.encode()).hexdigest()[:12]  # the same at every run
        others = [control.label for name, control in self.controls.items() if name not in self.grid]
        if any(len(o) < len(getattr(self.controls[n], "options", o)) for n, o in self.grid.items()):
            others.append("more of each choice")
        also = f" With a kernel also: {', '.join(others)}." if others else ""
        hint = html.escape(f"{self.try_this}{also}".strip())
        return (
            f'<div class="mi-explorer mi-baked" data-key="{key}"><style>{STYLE}{CONTROLS}</style>'
            f'<p class="mi-explorer-note"><strong>{html.escape(self.title)}.</strong> {hint}</p>'
            f'<div class="mi-controls"></div><p role="alert"></p>'
            f'<figure class="mi-view mi-figure mi-live mi-charts" style="margin:.3em 0">'
            f"{self.draw(self.compute(**self.default)).inner()}</figure>"
            f'<span class="mi-said" aria-live="polite"></span>'
            f'<script type="text/plain">{packed}</script><script>{SCRIPT % {"key": key}}</script></div>'
        )
