"""The hand-made model's explorer from Python: numbers, checks, the widget's traits, the page form."""

from __future__ import annotations

import json
import re

import pytest
import torch

from mi_lab import handmade as hm
from mi_lab import toolbox
from mi_lab.ablate import ablate_group
from mi_lab.run import run
from mi_lab.toolbox import live

FULL = {"suppress": 4.0, "backup": 8.0, "lean": 40.0}


def test_look_is_a_plain_run_of_the_model():
    model = hm.repeater(**FULL)
    tokens = hm.RepeatTask().encode("bdaf")[None]
    out = run(model, tokens, record="blocks.*.attn.pattern")
    for position in (3, 5, 8):
        found = live.look("bdafb", position=position)
        assert found.written == "daf"
        torch.testing.assert_close(found.logits, out.logits[0, position])
        for layer in range(3):
            want = out[f"blocks.{layer}.attn.pattern"][0, :, position, : position + 1]
            torch.testing.assert_close(found.attention[layer], want)
    assert found.direct.shape == (3, 2, 7)


def test_direct_effects_add_up_to_the_logits():
    found = live.look()
    torch.testing.assert_close(found.direct.sum((0, 1))[:6], found.logits[:6], atol=1e-5, rtol=0)
    assert found.direct[1, 0, 3] == pytest.approx(12.0, abs=1e-4)
    assert found.direct[2, 1, 3] == pytest.approx(-4.0, abs=1e-4)


def test_an_undecided_model_writes_nothing_and_the_last_position_is_looked_at():
    found = live.look("bda", position=8)
    assert found.written == ""
    assert found.attention.shape == (3, 2, 4)


@pytest.mark.parametrize("role", hm.HEADS)
def test_zero_and_mean_are_those_of_the_library(role):
    model, task = hm.repeater(**FULL), hm.RepeatTask()
    row = task.encode("bdaf")[None]
    for mode in ("zero", "mean"):
        want = ablate_group(model, row, [hm.HEADS[role]], value=mode, reference=task.every())[0, 7]
        got = live.look("bdafbdaf", position=7, heads={role: mode}).logits
        torch.testing.assert_close(got, want, atol=1e-4, rtol=0)


def test_a_patched_head_takes_its_output_from_the_second_text():
    found = live.look("bdafbdaf", position=5, heads={"match": "patch"}, other="bead")
    assert found.probability.argmax() == hm.LETTERS.index("e")


def test_strengths_and_cells_are_those_of_the_builder():
    found = live.look("bdaf", cells={"L1H0.ov.b.c": 5.0}, copy=10, suppress=0, seek=25)
    model = hm.repeater(seek=25, copy=10, backup=8, lean=40, cells={"L1H0.ov.b.c": 5.0})
    torch.testing.assert_close(found.logits, run(model, hm.read("bdaf")[None]).logits[0, -1])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"text": ""}, "1 to 8 letters"),
        ({"text": "abcabcabc"}, "1 to 8 letters, not 9"),
        ({"text": "<b>"}, "'<' is not one of"),
        ({"other": "abca"}, "four different letters"),
        ({"position": 9}, "position must be a whole number from 0 to 8"),
        ({"copy": 21}, "copy must be a whole number from 0 to 20"),
        ({"seek": 2.5}, "seek must be a whole number"),
        ({"heads": ["off"]}, "a head is on, zero, mean, patch"),
        ({"table": "L5H0.qk"}, "there is no table"),
        ({"row": -1}, "row must be"),
        ({"cells": ["L1H0.ov.b.g=1"]}, "there is no 'g'"),
        ({"cells": ["L1H0.ov.b.c=100"]}, "from -99 to 99"),
        ({"cells": ["L1H0.ov.b.c=1e1"]}, "from -99 to 99"),
        ({"cells": ["L1H0.ov.b.c"]}, "from -99 to 99"),
        ({"colour": 1}, "there is no field"),
    ],
)
def test_what_cannot_be_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        live.describe(**changes)


def test_unknown_heads_and_strengths_are_refused():
    with pytest.raises(ValueError, match="there is no head 'copier'"):
        live.look(heads={"copier": "zero"})
    with pytest.raises(ValueError, match="there is no strength 'lean'"):
        live.look(lean=3)


def test_a_state_has_one_form():
    state = live.describe(
        text="^ b, d", cells=["L2H0.ov.a.a=3", "L1H0.ov.b.c=-0.5", "L2H0.ov.a.a=4", "L1H0.ov.b.b=12"],
        heads=["zero"], table="L0H1.ov", column=5,
    ).state  # fmt: skip
    assert state["text"] == "bd"
    assert state["cells"] == ["L1H0.ov.b.c=-0.5", "L2H0.ov.a.a=4"]  # in order; 12 is no change
    assert state["heads"] == ["zero", *["on"] * 5]
    assert state["column"] == 0
    assert live.check(state) == state


def test_the_page_form_holds_the_model_and_every_table():
    explorer = live.live_explorer(live.describe())
    text = live_html(explorer)
    data = json.loads(re.search(r'<script type="application/json">(.*?)</script>', text, re.S)[1])
    assert 'data-mi-kind="toolbox"' in text
    assert [one["key"] for one in data["spec"]["tables"]] == list(hm.TABLES)
    assert len(text) < 60_000


def live_html(explorer) -> str:
    bundle = explorer._repr_mimebundle_()
    return (bundle[0] if isinstance(bundle, tuple) else bundle)["text/html"]


def test_offsets_in_the_page_are_those_of_the_weights():
    model = live.build(live.STATE)
    for one in live._spec("", "")["tables"]:
        flat, table = model.state_dict()[one["tensor"]].flatten(), hm.TABLES[one["key"]]
        index = one["offset"] + torch.arange(len(table.rows))[:, None] * one["stride"]
        values = flat[index + torch.arange(len(table.columns))] / one["scale"]
        torch.testing.assert_close(values, table.values(model))


def test_as_a_widget(monkeypatch):
    pytest.importorskip("anywidget")
    monkeypatch.delenv("MI_LAB_STATIC", raising=False)
    widget = toolbox.explorer(backup=0)
    assert widget.backup == 0
    widget.cells = ["L1H0.ov.b.c=5"]
    widget.set(copy=7, heads=["on", "on", "zero"])
    assert widget.heads == ["on", "on", "zero", "on", "on", "on"]
    assert widget.look().written == ""
    with pytest.raises(Exception, match="at most two decimals"):
        widget.cells = ["L1H0.ov.b.c=x"]
    widget.reset()
    assert widget.state == {**live.STATE, "backup": 0}
