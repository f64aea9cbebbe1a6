"""Live explorers from Python: numbers, checks, the widget's traits, the page form."""

from __future__ import annotations

import json
import re

import pytest
import torch

from mi_lab.live import export, live_explorer
from mi_lab.run import run
from mi_lab.studies import sorting as study
from mi_lab.studies.sorting import live

LIST = "12,3,45,7,50,22,31,18,0,9"


@pytest.fixture
def widget(monkeypatch):
    """The explorer as a notebook has it."""
    monkeypatch.delenv("MI_LAB_STATIC", raising=False)
    pytest.importorskip("anywidget")
    return live.explorer()


def test_look_is_a_plain_run_of_the_model():
    task, model = study.task(), export.as_stored(study.load("paper", 0))
    tokens = task.encode(LIST)[None]
    found = live.look(LIST, output=4)
    out = run(model, tokens, record=("blocks.0.attn.pattern",))
    torch.testing.assert_close(found.logits, out.logits[0, 13])
    torch.testing.assert_close(found.attention, out["blocks.0.attn.pattern"][0, :, 13, :14])
    assert found.written == found.right == sorted(map(int, LIST.split(",")))
    assert found.probability.argmax() == 9


def test_direct_effects_and_the_rest_are_the_logits():
    """Zeroing a head removes its direct effect, up to the final scale, which changes too."""
    found, without = live.look(LIST, output=2), live.look(LIST, output=2, heads=("on", "zero"))
    assert without.direct[1].abs().max() < 1e-4
    assert found.direct[1].abs().max() > 1
    assert found.direct.mean(-1).abs().max() < 1e-4


@pytest.mark.parametrize("mode", ["zero", "mean", "patch"])
def test_an_edited_head_gets_its_value(mode):
    task, model = study.task(), export.as_stored(study.load("paper", 0))
    tokens = task.encode(LIST)[None]
    name = "blocks.0.attn.z"
    values = {
        "zero": 0.0,
        "mean": live._means("paper", 0, 6000).z[0].half().float(),
        "patch": run(model, task.encode(live.OTHER)[None], record=name)[name],
    }

    def edit(z):
        z = z.clone()
        z[:, :, 1] = values[mode] if mode == "zero" else values[mode][:, :, 1]
        return z

    want = run(model, tokens, edit={name: edit}).logits[0, 10]
    torch.testing.assert_close(live.look(LIST, output=1, heads=("on", mode)).logits, want)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"list": "1,2,3"}, "must have 10 numbers"),
        ({"list": LIST.replace("50", "51")}, "outside the vocabulary"),
        ({"list": LIST.replace("50", "3")}, "stands twice"),
        ({"list": "<b>1</b>"}, "is not a number"),
        ({"output": 11}, "whole number from 1 to 10"),
        ({"model": "gpt"}, "there is no model"),
        ({"seed": 8}, "seed must be one of"),
        ({"step": -1}, "whole number"),
        ({"heads": ["off"]}, "a head is"),
        ({"node": "L1H0"}, "node must be"),
        ({"view": "ov2"}, "view must be"),
        ({"colour": 1}, "there is no field"),
    ],
)
def test_what_cannot_be_is_refused_and_nothing_changes(changes, message, widget):
    before = widget.state
    with pytest.raises(ValueError, match=message):
        widget.set(**changes)
    assert widget.state == before


def test_traits_can_be_observed_set_and_linked(widget):
    widgets = pytest.importorskip("ipywidgets")
    traitlets = pytest.importorskip("traitlets")
    seen = []
    widget.observe(lambda change: seen.append(change["new"]), names="output")
    slider = widgets.IntSlider(min=1, max=10)
    link = widgets.link((slider, "value"), (widget, "output"))
    slider.value = 7
    assert widget.output == 7
    widget.output = 2
    assert slider.value == 2
    assert seen[-2:] == [7, 2]
    with pytest.raises(traitlets.TraitError, match="whole number from 1 to 10"):
        widget.output = 99
    assert widget.output == 2
    link.unlink()


def test_fields_that_depend_on_others_follow(widget):
    widget.step = 30
    assert widget.step == 50
    widget.seed = 3
    assert (widget.seed, widget.step) == (3, 250)
    widget.set(model="window_20", heads=["zero", "on"])
    assert (widget.step, widget.heads) == (6000, ["zero", "on"])
    assert widget.look().written == live.look(model="window_20", seed=3, heads=("zero", "on")).written
    widget.reset()
    assert widget.state == live.describe().state


def test_models_are_sent_when_they_are_wanted(widget, monkeypatch):
    sent = []
    monkeypatch.setattr(widget, "send", lambda content, buffers=None: sent.append((content, buffers)))
    widget._answer(widget, {"want": "model", "key": "paper-0-250"}, [])
    widget._answer(widget, {"want": "model", "key": "../secret"}, [])
    widget._answer(widget, {"else": 1}, [])
    assert sent[0][0] == {"key": "paper-0-250"}
    assert sent[0][1][0][:8] == export.MAGIC
    assert "there is no model" in sent[1][0]["error"]
    assert len(sent) == 2


def test_the_widget_carries_its_page_form(widget):
    data, _ = widget._repr_mimebundle_()
    assert {"text/html", "text/plain", "application/vnd.jupyter.widget-view+json"} <= data.keys()
    assert data["text/plain"] == "LiveExplorer: mi-sorting"
    assert len(json.dumps({name: widget.get_state()[name] for name in widget.state})) < 1000


def test_the_page_form_is_stable_and_holds_no_markup_of_the_state(monkeypatch):
    monkeypatch.setenv("MI_LAB_STATIC", "1")
    one, two = (live.explorer(title="</script><b>x") for _ in range(2))
    data = one._repr_mimebundle_()
    assert data == two._repr_mimebundle_()
    assert set(data) == {"text/plain", "text/html"}
    text = re.search(r'<script type="application/json">(.*?)</script>', data["text/html"])
    assert text is not None
    assert json.loads(text.group(1))["spec"]["title"] == "</script><b>x"
    assert "http" not in data["text/html"].replace("http://www.w3.org/", "")
    assert len(data["text/html"]) < 40_000
    one.set(output=5)
    assert one.state["output"] == 5
    assert one.look().right == sorted(one.look().right)
    one.reset()
    assert one.state == two.state


def test_models_of_a_page_are_written_once(tmp_path):
    keys = ["paper-0-6000", "no_decay-1-6000"]
    assert live_explorer.write_models(tmp_path, keys, live.model_file, "a") == 2
    assert live_explorer.write_models(tmp_path, keys, live.model_file, "a") == 0
    assert live_explorer.write_models(tmp_path, keys[:1], live.model_file, "b") == 1
    data = (tmp_path / "paper-0-6000.bin").read_bytes()
    assert len(data) <= 300_000
    assert (tmp_path / "paper-0-6000.js").read_text() == export.to_script(data)
    assert len(live.keys()) == len(set(live.keys())) > 60
    with pytest.raises(ValueError, match="there is no model"):
        live.model_file("paper-0-1")
