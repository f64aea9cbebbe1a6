"""Live explorers: a trained model that a reader operates, in the built page and in Jupyter.

One component (`mi_lab/live/js/explorers`) has two homes:

- in Jupyter and Colab it is a real widget (anywidget) whose traits are the fields of its state:
  observe them, set them, link them with ipywidgets. Models come from the kernel when they are wanted.
- in the built book the same object is HTML: a still picture, the state as JSON and a few lines that
  load the book's one script, `_static/mi-lab-live.js`, and beside it this explorer's part. It needs no
  kernel and no network; models are files beside the page, loaded when they
  are wanted, and it works opened from a folder.

A study describes its explorer by a `Live` and passes it to `live_explorer`.
"""

from __future__ import annotations

import functools
import html
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mi_lab.live import export, scripts

SCRIPT = "_static/mi-lab-live.js"
MODELS = "_static/mi-lab-models"

_LOADER = """
(function () {
  if (window.miLab) return window.miLab.upgradeAll();
  if (document.querySelector("script[src*='%(script)s']")) return;
  const script = document.createElement("script");
  script.src = new URL((document.documentElement.dataset.content_root || "./") + "%(script)s", document.baseURI).href;
  document.head.appendChild(script);
})();
"""


@dataclass(frozen=True)
class Live:
    """What an explorer needs.

    kind: the component, one of `scripts.KINDS`. name: of the explorer in links, the
    same at every run. spec: JSON for the component. state: the first state, by field. check(state)
    returns a whole and possible state or raises ValueError with one sentence; it may move fields
    that depend on others. model_file(key): a model for the page (`export.to_bytes`), ValueError for an
    unknown key. look(state): the numbers of a state, computed by torch. still(state): a drawing
    with `_repr_html_` that stands in the page until the component is there.
    """

    kind: str
    name: str
    spec: Mapping[str, Any]
    state: Mapping[str, Any]
    check: Callable[[Mapping[str, Any]], dict[str, Any]]
    model_file: Callable[[str], bytes]
    look: Callable[[Mapping[str, Any]], Any]
    still: Callable[[Mapping[str, Any]], Any]


def page_html(live: Live, state: Mapping[str, Any], *, inline_script: str | None = None) -> str:
    """The explorer in a static page. inline_script: the script itself, for one-file pages."""
    data = {"id": live.name, "spec": live.spec, "state": state}
    text = json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")
    loader = _LOADER % {"script": SCRIPT} if inline_script is None else inline_script
    still = live.still(state)._repr_html_()
    return (
        f'<div class="mi-live mi-live-place" data-mi-live="waiting" data-mi-kind="{live.kind}" '
        f'id="{html.escape(live.name)}">'
        f'<div class="mi-live-still">{still}</div>'
        f'<script type="application/json">{text}</script></div><script>{loader}</script>'
    )


def write_script(folder: Path) -> Path:
    """The script of a book's explorers, as FOLDER/mi-lab-live.js, and beside it a part for each kind."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / Path(SCRIPT).name
    path.write_text(scripts.page_script(), "utf8")
    for kind in scripts.KINDS:
        path.with_stem(f"{path.stem}-{kind}").write_text(scripts.part_script(kind), "utf8")
    return path


def write_models(folder: Path, keys: list[str], model_file: Callable[[str], bytes], stamp: str) -> int:
    """Every model as KEY.bin and KEY.js; nothing if the folder already bears this stamp.

    Returns the number of models written.
    """
    mark = folder / "stamp.txt"
    if mark.exists() and mark.read_text("utf8") == stamp:
        return 0
    folder.mkdir(parents=True, exist_ok=True)
    mark.unlink(missing_ok=True)
    for key in keys:
        data = model_file(key)
        (folder / f"{key}.bin").write_bytes(data)
        (folder / f"{key}.js").write_text(export.to_script(data), "utf8")
    mark.write_text(stamp, "utf8")
    return len(keys)


class StaticExplorer:
    """A live explorer where there is no anywidget: its page form, and the numbers of its state."""

    def __init__(self, live: Live) -> None:
        self.live = live
        self._state = live.check(live.state)

    @property
    def state(self) -> dict[str, Any]:
        """All fields."""
        return dict(self._state)

    def set(self, **changes: Any) -> None:
        """Change fields together. Raises ValueError, and changes nothing, for what can't be."""
        self._state = _changed(self.live, self._state, changes)

    def reset(self) -> None:
        """Back to the first state."""
        self.set(**self.live.state)

    def look(self) -> Any:
        """The numbers of the present state, computed by torch."""
        return self.live.look(self.state)

    def __repr__(self) -> str:
        return f"LiveExplorer: {self.live.name}"

    def _repr_html_(self) -> str:
        return page_html(self.live, self.state)

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:
        return {"text/plain": repr(self), "text/html": self._repr_html_()}


def live_explorer(live: Live) -> Any:
    """The explorer as a Jupyter widget; without anywidget, or while a book is built, its static form.

    Both have `state`, `set(**changes)`, `reset()` and `look()`; the widget has a trait per field too.
    """
    if os.environ.get("MI_LAB_STATIC"):
        return StaticExplorer(live)
    try:
        fields = tuple((name, type(value).__name__) for name, value in live.state.items())
        return _widget_class(live.kind, fields)(live)
    except ImportError:
        return StaticExplorer(live)


def _for_kernel(spec: Mapping[str, Any]) -> dict[str, Any]:
    """A spec without the models in it: a widget asks the kernel for them, and its state stays small."""
    if "weights" not in spec:
        return dict(spec)
    return {**spec, "weights": {name: x for name, x in spec["weights"].items() if name != "inline"}}


def _changed(live: Live, state: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    if unknown := sorted(changes.keys() - state.keys()):
        raise ValueError(f"there is no field {unknown[0]!r}; there are {', '.join(state)}")
    return live.check({**state, **changes})


@functools.cache
def _widget_class(kind: str, kinds: tuple[tuple[str, str], ...]) -> type:
    """An anywidget of this kind with a synchronised trait for every (field, type of its first value)."""
    import anywidget
    import traitlets

    fields = [name for name, _ in kinds]

    class LiveExplorer(anywidget.AnyWidget):
        _esm = scripts.widget_module(kind)
        _live = traitlets.Dict().tag(sync=True)

        def __init__(self, live: Live) -> None:
            self.live = live
            self._settling = True
            shown = {
                "kind": live.kind,
                "id": live.name,
                "spec": _for_kernel(live.spec),
                "fields": list(fields),
            }
            super().__init__(_live=shown, **live.check(live.state))
            self._settling = False
            self.observe(self._settle, names=list(fields))
            self.on_msg(self._answer)

        @property
        def state(self) -> dict[str, Any]:
            """All fields."""
            return {name: getattr(self, name) for name in fields}

        def set(self, **changes: Any) -> None:
            """Change fields together. Raises ValueError, and changes nothing, for what can't be."""
            self._become(_changed(self.live, self.state, changes))

        def reset(self) -> None:
            """Back to the first state."""
            self.set(**self.live.state)

        def look(self) -> Any:
            """The numbers of the present state, computed by torch."""
            return self.live.look(self.state)

        @traitlets.validate(*fields)
        def _possible(self, proposal: Any) -> Any:
            name = proposal["trait"].name
            if self._settling:
                return proposal["value"]
            try:
                return self.live.check({**self.state, name: proposal["value"]})[name]
            except ValueError as error:
                raise traitlets.TraitError(str(error)) from None

        def _settle(self, _: Any) -> None:
            """One field has changed: those that depend on it follow."""
            if not self._settling:
                self._become(self.live.check(self.state))

        def _become(self, state: dict[str, Any]) -> None:
            self._settling = True
            try:
                with self.hold_sync():
                    for name, value in state.items():
                        setattr(self, name, value)
            finally:
                self._settling = False

        def _answer(self, _: Any, message: Any, buffers: Any) -> None:
            if not isinstance(message, dict) or message.get("want") != "model":
                return
            key = str(message.get("key"))
            try:
                self.send({"key": key}, buffers=[self.live.model_file(key)])
            except ValueError as error:
                self.send({"key": key, "error": str(error)})

        def __repr__(self) -> str:
            return f"LiveExplorer: {self.live.name}"

        def _repr_mimebundle_(self, **kwargs: Any) -> Any:
            found = super()._repr_mimebundle_(**kwargs)
            data, metadata = found if isinstance(found, tuple) else (found or {}, {})
            html_form = page_html(self.live, self.state)
            return {**data, "text/plain": repr(self), "text/html": html_form}, metadata

    trait_of = {"int": traitlets.Int, "list": traitlets.List, "str": traitlets.Unicode}
    traits = {name: trait_of[type_]().tag(sync=True) for name, type_ in kinds}
    # the traits come first, so that the validator above finds them
    base = type("Fields", (anywidget.AnyWidget,), {**traits, "_esm": "export default {}"})
    return type("LiveExplorer", (LiveExplorer, base), {"__module__": __name__})
