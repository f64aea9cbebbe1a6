"""Explorers and the attention view: state, controls, widgets operated as a reader does, and the static form."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from mi_lab.live import AttentionView, Choice, Explorer, Slider, Text, Toggles
from mi_lab.plot import Picture

w = pytest.importorskip("ipywidgets")


class Drawn:
    """Says what it was drawn from."""

    def __init__(self, result: Any) -> None:
        self.result = result

    def _repr_html_(self) -> str:
        return f"<b>drawn {self.result}</b>"


def total(number: str, factor: int, sign: str, on: tuple[bool, ...]) -> int:
    """The numbers behind the test's drawing; text that is none is refused."""
    if not number.isdigit():
        raise ValueError(f"<i>{number}</i> is not a number")
    return int(number) * factor * (1 if sign == "plus" else -1) * sum(on)


def example(**changes: Any) -> Explorer:
    given: dict[str, Any] = {
        "title": "Total",
        "state": {"number": "3", "factor": 2, "sign": "plus", "on": (True, True)},
        "controls": {
            "number": Text("a number"),
            "factor": Slider("factor", (1, 2, 5)),
            "sign": Choice("sign", ("plus", "minus"), ("+", "-")),
            "on": Toggles("heads", ("first", "second")),
        },
        "compute": total,
        "draw": Drawn,
        "try_this": "Set the factor to 5 & look.",
    }
    return Explorer(**(given | changes))


@pytest.fixture(autouse=True)
def kernel(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As in Jupyter, unless a test asks for the static book; no widget outlives its test."""
    monkeypatch.delenv("MI_LAB_STATIC", raising=False)
    yield
    w.Widget.close_all()


# State and computation ------------------------------------------------------------------------------
def test_an_explorer_has_computed_its_default():
    explorer = example()
    assert explorer.result == 12
    assert (
        explorer.state == explorer.default == {"number": "3", "factor": 2, "sign": "plus", "on": (True, True)}
    )
    assert repr(explorer) == "Explorer: Total"


@pytest.mark.parametrize(
    "state", [{"number": "3"}, {"number": "3", "factor": 1, "sign": "plus", "on": (), "x": 1}]
)
def test_state_and_controls_must_have_the_same_names(state):
    with pytest.raises(ValueError, match="same names; only one has"):
        example(state=state)


def test_a_default_that_cannot_be_computed_is_refused_at_once():
    with pytest.raises(ValueError, match="is not a number"):
        example(state={"number": "x", "factor": 2, "sign": "plus", "on": (True, True)})


@pytest.mark.parametrize(
    "control",
    [Slider("factor", (1, 5)), Choice("factor", (1, 5))],
)
def test_a_default_that_is_no_option_is_refused_at_once(control):
    with pytest.raises(ValueError, match=r"factor must be one of \[1, 5\], not 2"):
        example(controls=example().controls | {"factor": control})


def test_set_changes_what_is_named_and_gives_the_new_numbers():
    explorer = example()
    assert explorer.set(factor=5, sign="minus") == -30
    assert explorer.result == -30
    assert explorer.state == {"number": "3", "factor": 5, "sign": "minus", "on": (True, True)}


def test_an_unknown_name_is_refused_and_the_known_ones_listed():
    explorer = example()
    with pytest.raises(ValueError, match="Total has no 'faktor'; it has number, factor, sign, on"):
        explorer.set(faktor=3)
    assert explorer.state == explorer.default


@pytest.mark.parametrize(("name", "value"), [("factor", 3), ("sign", "+")])
def test_a_value_that_is_no_option_is_refused_and_the_options_listed(name, value):
    explorer = example()
    with pytest.raises(ValueError, match=rf"{name} must be one of \[.*\], not "):
        explorer.set(**{name: value})
    assert explorer.state == explorer.default


@pytest.mark.parametrize("value", [(True,), (True, False, True)])
def test_a_switch_too_few_or_too_many_is_refused(value):
    explorer = example()
    with pytest.raises(ValueError, match=r"on must be 2 booleans \(first, second\)"):
        explorer.set(on=value)
    assert explorer.state == explorer.default


def test_bad_input_keeps_state_and_numbers_and_calls_nobody():
    explorer, heard = example(), []
    explorer.observe(heard.append)
    explorer.set(number="4")
    with pytest.raises(ValueError, match="not a number"):
        explorer.set(number="four", factor=5)
    assert explorer.state == explorer.default | {"number": "4"}
    assert explorer.result == 16
    assert heard == [explorer.state]


def test_observers_hear_every_change_and_get_a_copy():
    explorer, first, second = example(), [], []
    explorer.observe(first.append)
    explorer.observe(second.append)
    explorer.set(factor=5)
    first[0]["factor"] = 99
    explorer.reset()
    assert [s["factor"] for s in second] == [5, 2]
    assert explorer.state["factor"] == 2


def test_reset_goes_back_to_the_default():
    explorer = example()
    explorer.set(number="7", factor=1, on=(False, True))
    assert explorer.reset() == 12
    assert explorer.state == explorer.default


# The static form ------------------------------------------------------------------------------------
def test_the_static_form_is_the_drawing_with_a_label_and_no_widget(monkeypatch):
    monkeypatch.setenv("MI_LAB_STATIC", "1")
    bundle = example()._repr_mimebundle_()
    assert set(bundle) == {"text/plain", "text/html"}
    shown = bundle["text/html"]
    assert "<b>drawn 12</b>" in shown
    assert "needs a kernel" in shown
    assert "a number, factor, sign, heads" in shown
    assert "Set the factor to 5 &amp; look." in shown
    assert "<input" not in shown
    assert "<script" not in shown


def test_labels_and_hints_cannot_break_out(monkeypatch):
    monkeypatch.setenv("MI_LAB_STATIC", "1")
    bad = "<script>x</script>"
    controls = example().controls | {"number": Text(bad)}
    shown = example(controls=controls, try_this=bad)._repr_html_()
    assert "<script" not in shown
    assert shown.count(html.escape(bad)) == 2


def test_without_a_hint_nothing_is_said():
    assert example(try_this="")._repr_html_().split("</p>")[0].endswith("heads.")


def test_in_a_kernel_the_bundle_holds_the_widget():
    bundle = example()._repr_mimebundle_()
    assert "application/vnd.jupyter.widget-view+json" in bundle
    assert bundle["text/plain"] == "Explorer: Total"


def test_without_ipywidgets_the_drawing_alone_is_shown(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    assert set(example()._repr_mimebundle_()) == {"text/plain", "text/html"}


# Widgets, operated ----------------------------------------------------------------------------------
class Operated:
    """An explorer's widgets by name."""

    def __init__(self, explorer: Explorer) -> None:
        self.explorer = explorer
        self.box = explorer.widget()
        self.number, self.factor, self.sign, self.on, self.reset, self.error, self.out = self.box.children


@pytest.fixture
def operated() -> Operated:
    return Operated(example())


def test_widgets_begin_at_the_state_with_their_labels(operated):
    assert (operated.number.value, operated.factor.value, operated.sign.value) == ("3", 2, "plus")
    assert [x.description for x in (operated.number, operated.factor, operated.sign)] == [
        "a number",
        "factor",
        "sign",
    ]
    assert operated.sign.options == (("+", "plus"), ("-", "minus"))
    assert tuple(operated.factor.options) == (1, 2, 5)
    label, first, second = operated.on.children
    assert (label.value, first.description, second.description) == ("heads", "first", "second")
    assert (first.value, second.value) == (True, True)
    assert operated.out.value == "<b>drawn 12</b>"
    assert operated.error.value == ""


def test_moving_each_control_computes_and_draws(operated):
    operated.factor.value = 5
    assert operated.out.value == "<b>drawn 30</b>"
    operated.sign.value = "minus"
    assert operated.out.value == "<b>drawn -30</b>"
    operated.number.value = "1"
    assert operated.out.value == "<b>drawn -10</b>"
    assert operated.explorer.state == {"number": "1", "factor": 5, "sign": "minus", "on": (True, True)}


def test_a_box_ticked_off_and_on_again(operated):
    _, first, second = operated.on.children
    second.value = False
    assert operated.explorer.state["on"] == (True, False)
    assert operated.on.value == (True, False)
    assert operated.out.value == "<b>drawn 6</b>"
    first.value = False
    assert operated.explorer.state["on"] == (False, False)
    second.value = True
    assert operated.explorer.state["on"] == (False, True)
    assert operated.out.value == "<b>drawn 6</b>"


def test_a_change_from_python_moves_the_widgets_and_computes_no_state_in_between():
    seen = []

    def compute(**state: Any) -> int:
        seen.append((state["number"], state["factor"], state["on"]))
        return total(**state)

    operated = Operated(example(compute=compute))
    seen.clear()
    operated.explorer.set(number="4", factor=5, on=(False, True))
    assert (operated.number.value, operated.factor.value, operated.on.value) == ("4", 5, (False, True))
    assert [x.value for x in operated.on.children[1:]] == [False, True]
    assert operated.out.value == "<b>drawn 20</b>"
    assert seen == [("4", 5, (False, True))]


def test_switching_both_boxes_from_python_is_one_change():
    heard: list[dict[str, Any]] = []
    operated = Operated(example())
    operated.explorer.observe(heard.append)
    operated.explorer.set(on=(False, False))
    assert [s["on"] for s in heard] == [(False, False)]
    assert [x.value for x in operated.on.children[1:]] == [False, False]


def test_bad_text_shows_the_message_escaped_beside_the_last_good_drawing(operated):
    operated.factor.value = 5
    operated.number.value = "four"
    assert "&lt;i&gt;four&lt;/i&gt; is not a number" in operated.error.value
    assert 'role="alert"' in operated.error.value
    assert "<i>" not in operated.error.value
    assert operated.out.value == "<b>drawn 30</b>"
    assert operated.explorer.state["number"] == "3"
    assert operated.number.value == "four", "what was typed stays, to be mended"


def test_the_message_goes_when_the_text_is_mended(operated):
    operated.number.value = "four"
    operated.number.value = "4"
    assert operated.error.value == ""
    assert operated.out.value == "<b>drawn 16</b>"


def test_the_message_goes_when_the_text_is_put_back_to_the_last_good_one(operated):
    operated.number.value = "four"
    operated.number.value = "3"
    assert operated.error.value == ""
    assert operated.out.value == "<b>drawn 12</b>"


def test_another_control_works_while_the_text_is_bad_and_nothing_typed_is_lost(operated):
    operated.number.value = "four"
    operated.factor.value = 5
    assert operated.explorer.state == operated.explorer.default | {"factor": 5}
    assert operated.out.value == "<b>drawn 30</b>"
    assert operated.number.value == "four"
    assert "four" in operated.error.value, "a drawing of 3 under the word four says so"
    operated.number.value = "4"
    assert operated.out.value == "<b>drawn 40</b>"
    assert operated.error.value == ""


def test_a_value_that_only_another_control_makes_possible_is_taken_up_when_that_one_moves():
    def compute(number: str, factor: int, sign: str, on: tuple[bool, ...]) -> int:
        if factor == 5 and sign == "plus":
            raise ValueError("5 goes with minus only")
        return total(number, factor, sign, on)

    operated = Operated(example(compute=compute))
    operated.factor.value = 5
    assert "minus only" in operated.error.value
    assert operated.explorer.state["factor"] == 2
    operated.sign.value = "minus"
    assert operated.explorer.state == operated.explorer.default | {"factor": 5, "sign": "minus"}
    assert operated.error.value == ""
    assert operated.out.value == "<b>drawn -30</b>"


def test_the_reset_button_brings_everything_back(operated):
    operated.number.value = "nine"
    operated.factor.value = 1
    operated.on.children[1].value = False
    operated.reset.click()
    assert operated.explorer.state == operated.explorer.default
    assert (operated.number.value, operated.factor.value, operated.on.value) == ("3", 2, (True, True))
    assert operated.error.value == ""
    assert operated.out.value == "<b>drawn 12</b>"


def test_a_widget_shown_again_begins_where_the_explorer_is(operated):
    operated.factor.value = 5
    again = Operated(operated.explorer)
    assert again.factor.value == 5
    assert again.out.value == "<b>drawn 30</b>"
    again.sign.value = "minus"
    assert again.out.value == "<b>drawn -30</b>"


def test_choices_without_labels_show_their_values():
    controls = example().controls | {"sign": Choice("sign", ("plus", "minus"))}
    assert Operated(example(controls=controls)).sign.options == (("plus", "plus"), ("minus", "minus"))


# Attention ------------------------------------------------------------------------------------------
WORDS = ["3", "</script><b>", "SEP", "&"]


def pattern(heads: int = 2, n: int = 4) -> torch.Tensor:
    return torch.rand(heads, n, n, generator=torch.Generator().manual_seed(0)).softmax(-1)


@pytest.fixture
def view() -> AttentionView:
    return AttentionView(WORDS, pattern(), "Look <here>.")


@pytest.mark.parametrize("shape", [(4, 4), (2, 4, 5), (2, 5, 4), (1, 2, 4, 4), (2, 3, 3)])
def test_a_pattern_of_another_shape_is_refused(shape):
    with pytest.raises(ValueError, match=r"pattern must be \[head, 4, 4\] for 4 tokens, not \["):
        AttentionView(WORDS, torch.zeros(shape), "c")


def test_the_pattern_is_detached():
    leaf = pattern().requires_grad_()
    assert not AttentionView(WORDS, leaf, "c").pattern.requires_grad


def test_the_page_carries_the_numbers_as_json_that_no_token_breaks_out_of(view):
    shown = view._repr_html_()
    data = re.findall(r'<script type="application/json">(.*?)</script>', shown, flags=re.S)
    assert len(data) == 1
    props = json.loads(data[0])
    assert [word.strip() for word in props["tokens"]] == WORDS
    torch.testing.assert_close(torch.tensor(props["attention"]), view.pattern, atol=5e-5, rtol=0)
    assert props["headLabels"] == ["head 0", "head 1"]
    assert shown.count("</script>") == 2
    assert "<b>" not in shown
    assert "<here>" not in shown


def test_the_id_is_the_same_at_every_run_and_another_for_other_numbers(view):
    def key(one: AttentionView) -> str:
        return re.findall(r'<details class="mi-circuitsvis" id="([^"]+)"', one._repr_html_())[0]

    assert key(view) == key(AttentionView(WORDS, pattern(), "other caption"))
    assert key(view) != key(AttentionView(WORDS, pattern().flip(0), "Look <here>."))
    assert view._repr_html_().count(key(view)) == 3  # the box, its view, its script
    assert view._repr_html_() == AttentionView(WORDS, pattern(), "Look <here>.")._repr_html_()


def test_the_script_is_loaded_from_beside_the_page_and_only_when_wanted(view):
    shown = view._repr_html_()
    assert "_static/circuitsvis/iife.js" in shown
    assert "<script src" not in shown
    assert not re.findall(r"https?://(?!www\.w3\.org)", shown)
    assert len(shown) < 60_000


def test_the_static_drawing_has_a_map_a_head(view):
    shown = view.picture()
    assert isinstance(shown, Picture)
    assert shown.svg.count("data:image/png") == 2
    assert shown.caption == "Look <here>."
    assert "head 1" in shown.svg
    one = AttentionView(["a"], pattern(1, 1), "c").picture()
    assert one.svg.count("data:image/png") == 1


def test_in_the_static_book_the_page_is_its_own(view, monkeypatch):
    monkeypatch.setenv("MI_LAB_STATIC", "1")
    bundle = view._repr_mimebundle_()
    assert bundle == {"text/plain": "AttentionView: Look <here>.", "text/html": view._repr_html_()}


def test_in_a_kernel_the_librarys_own_output_is_shown_below_the_drawing(view):
    shown = view._repr_mimebundle_()["text/html"]
    assert shown.startswith(view.picture()._repr_html_())
    assert "AttentionPatterns" in shown


def test_in_a_kernel_no_token_breaks_out_of_the_librarys_output(view):
    shown = view._repr_mimebundle_()["text/html"]
    assert "</script><b>" not in shown


def test_without_circuitsvis_the_page_is_its_own(view, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "circuitsvis.attention", None)
    assert view._repr_mimebundle_()["text/html"] == view._repr_html_()
