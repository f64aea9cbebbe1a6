"""Explorer: a state that controls change, a computation on it, and a drawing of the result.

The three are kept apart: `controls` are plain declarations, `compute(state)` returns numbers,
`draw(result)` returns something with `_repr_html_`. With a kernel they become ipywidgets; in the
built book (`MI_LAB_STATIC=1`) the same object shows its default drawing and a label that says what
a kernel would add, so that no page has a dead slider.

Wrong input never destroys anything: the message of the ValueError stands beside the drawing of the
last good state.
"""

from __future__ import annotations

import contextlib
import html
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Choice:
    """One of several values, shown as a menu. labels: what the reader sees."""

    label: str
    options: tuple[Any, ...]
    labels: tuple[str, ...] = ()


@dataclass(frozen=True)
class Slider:
    """One of several ordered values, e.g. training steps."""

    label: str
    options: tuple[Any, ...]


@dataclass(frozen=True)
class Text:
    """Free text; `compute` must raise ValueError on what it can't read."""

    label: str


@dataclass(frozen=True)
class Toggles:
    """A tuple of booleans, a check box each."""

    label: str
    names: tuple[str, ...]


Control = Choice | Slider | Text | Toggles


class Explorer:
    """A live figure.

    state: default values by control name. controls: how each can be changed. observe(callback) is
    called with the new state after each change; `explorer.set(step=500)` changes it from Python.
    """

    def __init__(
        self,
        title: str,
        state: Mapping[str, Any],
        controls: Mapping[str, Control],
        compute: Callable[..., Any],
        draw: Callable[[Any], Any],
        try_this: str = "",
    ) -> None:
        if missing := sorted(controls.keys() ^ state.keys()):
            raise ValueError(f"state and controls must have the same names; only one has {missing}")
        self.title, self.controls, self.compute, self.draw = title, dict(controls), compute, draw
        self.try_this = try_this
        self.default = dict(state)
        self.state = dict(state)
        self.error = ""
        for name, value in self.state.items():
            self._check(name, value)
        self._result = compute(**self.state)
        self._callbacks: list[Callable[[dict[str, Any]], None]] = []
        self._widgets: dict[str, Any] = {}
        self._pending: dict[str, Any] = {}  # what a widget shows and the state could not take

    @property
    def result(self) -> Any:
        """The numbers behind the present drawing."""
        return self._result

    def set(self, **changes: Any) -> Any:
        """Change the state from Python; returns the new result. Raises ValueError and changes nothing on bad input."""
        if unknown := sorted(changes.keys() - self.state.keys()):
            raise ValueError(f"{self.title} has no {unknown[0]!r}; it has {', '.join(self.state)}")
        for name, value in changes.items():
            self._check(name, value)
        state = self.state | changes
        self._result = self.compute(**state)
        self.state = state
        self._pending = {name: value for name, value in self._pending.items() if name not in changes}
        if not self._pending:
            self.error = ""
        for name in changes:
            if name in self._widgets:
                self._widgets[name].value = self._to_widget(name)
        self._show()
        for callback in self._callbacks:
            callback(dict(self.state))
        return self._result

    def _check(self, name: str, value: Any) -> None:
        control = self.controls[name]
        if isinstance(control, Choice | Slider) and value not in control.options:
            raise ValueError(f"{name} must be one of {list(control.options)}, not {value!r}")
        if isinstance(control, Toggles) and len(value) != len(control.names):
            raise ValueError(
                f"{name} must be {len(control.names)} booleans ({', '.join(control.names)}), not {value!r}"
            )

    def observe(self, callback: Callable[[dict[str, Any]], None]) -> None:
        """Call `callback(state)` after every change."""
        self._callbacks.append(callback)

    def reset(self) -> Any:
        """Back to the default state."""
        return self.set(**self.default)

    # shown ------------------------------------------------------------------------------------
    def _repr_html_(self) -> str:
        """The static form: the default drawing and what a kernel would add."""
        drawing = self.draw(self._result)._repr_html_()
        names = ", ".join(c.label for c in self.controls.values())
        hint = f" {html.escape(self.try_this)}" if self.try_this else ""
        label = '<span class="mi-needs-kernel">needs a kernel</span>'
        note = f"{label} In Jupyter or Colab you can change: {html.escape(names)}.{hint}"
        return f'<div class="mi-explorer"><p class="mi-explorer-note">{note}</p>{drawing}</div>'

    def __repr__(self) -> str:
        return f"Explorer: {self.title}"

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:
        static = {"text/plain": repr(self), "text/html": self._repr_html_()}
        if os.environ.get("MI_LAB_STATIC"):
            return static
        try:
            return {**self.widget()._repr_mimebundle_(), "text/plain": repr(self)}
        except ImportError:  # no ipywidgets: the drawing alone
            return static

    def widget(self) -> Any:
        """The explorer as one ipywidgets box."""
        import ipywidgets as w

        self._widgets, self._pending, self.error = {}, {}, ""
        style = {"description_width": "initial"}
        for name, control in self.controls.items():
            value = self._to_widget(name)
            if isinstance(control, Slider):
                made = w.SelectionSlider(
                    options=list(control.options), value=value, description=control.label, style=style,
                    continuous_update=True, layout=w.Layout(width="95%", max_width="560px"),
                )  # fmt: skip
            elif isinstance(control, Choice):
                labels = control.labels or tuple(map(str, control.options))
                pairs = list(zip(labels, control.options, strict=True))
                made = w.Dropdown(options=pairs, value=value, description=control.label, style=style)
            elif isinstance(control, Text):
                made = w.Text(
                    value=value, description=control.label, style=style, continuous_update=False,
                    layout=w.Layout(width="95%", max_width="560px"),
                )  # fmt: skip
            else:
                made = _toggles(w, control, value)
            made.observe(lambda change, name=name: self._changed(name, change["new"]), names="value")
            self._widgets[name] = made
        reset = w.Button(description="reset", tooltip="back to the default state")
        reset.on_click(lambda _: self.reset())
        self._widgets["__out"] = w.HTML()
        self._widgets["__error"] = w.HTML()
        self._show()
        shown = [made for name, made in self._widgets.items() if not name.startswith("__")]
        return w.VBox([*shown, reset, self._widgets["__error"], self._widgets["__out"]])

    def _to_widget(self, name: str) -> Any:
        return self.state[name]

    def _changed(self, name: str, value: Any) -> None:
        """A reader moved a control: try it with whatever else was refused before, then alone."""
        if name not in self._pending and self.state[name] == value:
            return
        self._pending[name] = value
        try:
            self.set(**self._pending)
        except ValueError as error:
            self.error = str(error)
            if len(self._pending) > 1:
                with contextlib.suppress(ValueError):
                    self.set(**{name: value})
            self._show()

    def _show(self) -> None:
        if "__out" not in self._widgets:
            return
        message = f'<p role="alert" style="color:#a63c00">{html.escape(self.error)}</p>' if self.error else ""
        self._widgets["__error"].value = message
        self._widgets["__out"].value = self.draw(self._result)._repr_html_()


def _toggles(w: Any, control: Toggles, value: Sequence[bool]) -> Any:
    """A row of check boxes that behaves as one widget whose value is a tuple of booleans."""
    import traitlets

    class Row(w.HBox):
        value = traitlets.Tuple()

        def __init__(self) -> None:
            self.boxes = [
                w.Checkbox(value=v, description=n, indent=False, layout=w.Layout(width="auto"))
                for n, v in zip(control.names, value, strict=True)
            ]
            self.spreading = False
            super().__init__([w.Label(control.label), *self.boxes])
            self.value = tuple(value)
            for box in self.boxes:
                box.observe(self._collect, names="value")
            self.observe(self._spread, names="value")

        def _collect(self, _: Any) -> None:
            if not self.spreading:
                self.value = tuple(box.value for box in self.boxes)

        def _spread(self, change: Any) -> None:
            self.spreading = True  # several boxes are one change, not one each
            try:
                for box, v in zip(self.boxes, change["new"], strict=True):
                    box.value = v
            finally:
                self.spreading = False

    return Row()
