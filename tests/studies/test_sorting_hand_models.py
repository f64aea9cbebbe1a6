"""The hand-made sorters as models of the live explorer: names, numbers, and the start page's promises."""

from __future__ import annotations

import pytest
import torch

from mi_lab.live import export
from mi_lab.studies.sorting import hand_models, live, measure


def test_names_say_what_the_models_are():
    assert len(set(hand_models.NAMES)) == 16
    assert hand_models.text("hand_LN_0.5") == "sharpness 0.5, LayerNorm"
    assert hand_models.model("hand_LN_1").config.norm == "LN"
    assert hand_models.model("hand_plain_1").config.norm is None
    along = [name for family in hand_models.families() for name in family["values"]]  # type: ignore[attr-defined]
    assert along == list(hand_models.NAMES)
    with pytest.raises(ValueError, match="there is no hand-made sorter 'hand_LN_3'"):
        hand_models.model("hand_LN_3")


def test_a_sharp_one_sorts_and_a_blunt_one_does_not_as_the_page_stores_them():
    task = measure.task_of("paper")
    lists = measure.lists(task, 200, seed=5)
    right = {}
    for name in ("hand_LN_1", "hand_plain_1", "hand_LN_0.02"):
        stored = export.as_stored(hand_models.model(name))
        right[name] = float(task.grade(stored, lists).float().mean())
    assert right["hand_LN_1"] > 0.99
    assert right["hand_plain_1"] > 0.99
    assert right["hand_LN_0.02"] < 0.5


def test_the_explorer_of_the_start_page(monkeypatch):
    monkeypatch.setenv("MI_LAB_STATIC", "1")
    one = live.hand_made()
    assert one.state["model"] == "hand_LN_1"
    assert one.look().written == one.look().right
    one.set(model="hand_LN_0.02")
    assert one.look().written != one.look().right
    without = live.look(model="hand_LN_1", heads=("zero", "on"), output=4)
    assert without.written != without.right
    assert torch.isfinite(live.look(model="hand_plain_5", heads=("mean", "on")).logits).all()
    with pytest.raises(ValueError, match="seed must be one of 0"):
        one.set(seed=1)
    page = one._repr_html_()
    assert 'id="mi-hand-made"' in page
    assert "sharpness b, no LayerNorm" in page


def test_the_page_has_a_file_for_each_and_the_gap_has_a_slider():
    keys = live.keys()
    assert {f"{name}-0-0" for name in hand_models.NAMES} <= set(keys)
    assert len(live.model_file("hand_LN_0.5-0-0")) <= 300_000
    spec = live.describe().spec
    assert [one["name"] for one in spec["models"]] == list(live.TEXTS)
    (gap,) = spec["families"]
    assert gap["label"] == "mean gap"
    assert sorted(gap["values"].values()) == [1.2, 1.4, 1.9, 2.8, 4.7]
    assert len(live.describe(by_hand=True).spec["models"]) == 16
