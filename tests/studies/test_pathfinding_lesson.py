"""The claims on a model that was taught: which numbers they take, from whom, and that the bars tell."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch

from mi_lab.studies.pathfinding import measure as m
from mi_lab.studies.pathfinding.claims import lesson
from mi_lab.studies.pathfinding.claims.common import by_model


def test_a_measure_asks_whom_it_is_told_to(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(m, "seeds_of", lambda recipe, fast=False: (0, 3) if recipe == "b" else (0,))
    monkeypatch.setattr(m, "sources", lambda *names: dict.fromkeys(names, "hash"))
    asked = by_model(lambda name, seed: {"x": len(name) + seed / 10}, "x", sample="none")
    assert asked(False).units == ("paper seed 0",)
    found = asked.of("b", "taught")(False)
    assert found.units == ("b seed 0", "b seed 3", "taught seed 0")
    assert found.values["x"] == pytest.approx((1.0, 1.3, 6.0))
    assert set(found.sources) == {"b", "taught"}
    assert asked(False).units == ("paper seed 0",)  # the first one is as it was


def test_the_worst_order_counts(monkeypatch: pytest.MonkeyPatch):
    names = ("memory edge", "pointer up", "clean, correct", "memory nothing", "pointer nothing")
    found = {
        "backward": dict(zip(names, (0.99, 0.5, 0.9, 0.1, -1.0), strict=True)),
        "random": dict(zip(names, (0.7, 0.8, 0.85, 0.3, -2.0), strict=True)),
    }
    monkeypatch.setattr(lesson, "roads", lambda name, seed, order, twin=False: found[order])
    row = lesson.both_roads.__wrapped__("x", 0)
    assert [row[f"worst {k}"] for k in ("memory edge", "pointer up", "clean, correct")] == pytest.approx(
        [0.7, 0.5, 0.85]
    )
    assert [row[f"worst {k}"] for k in ("memory nothing", "pointer nothing")] == pytest.approx([0.3, -1.0])
    assert row["memory edge, backward"] == 0.99
    assert not lesson._chains(row)
    found["backward"]["memory edge"] = math.nan  # a number that isn't there is not a good one
    assert math.isnan(lesson.both_roads.__wrapped__("x", 0)["worst memory edge"])
    good = {"worst clean, correct": 0.81, "worst memory edge": 0.9, "worst pointer up": 0.95}
    assert lesson._chains(good)
    for key, value in (
        ("worst clean, correct", 0.79),
        ("worst memory edge", 0.89),
        ("worst pointer up", 0.89),
    ):
        assert not lesson._chains({**good, key: value})
        assert not lesson._chains({**good, key: math.nan})


def test_scrubbing_is_asked_where_there_is_something_to_climb(monkeypatch: pytest.MonkeyPatch):
    recovered = torch.full((4, 2, 4, 8), 0.2)
    recovered[0, 0] = 1.0
    recovered[0, 0, 2, 1] = -3.0  # layer 2 of a path of two edges: the climb is over
    recovered[0, 0, 1, 4] = 0.93
    recovered[0, 0, 3, 2] = -5.0  # the last layer was taught nothing
    recovered[0, 1, 1] = -1.0
    monkeypatch.setattr(lesson, "scrub_figure", lambda *a, **k: SimpleNamespace(recovered=recovered))
    row = lesson.scrubbed.__wrapped__("x", 0)
    assert row["matched, worst"] == pytest.approx(0.93)
    assert row["matched, last layer, worst"] == pytest.approx(-5.0)
    assert row["random, L1 and L2, mean"] == pytest.approx((7 * -1.0 + 6 * 0.2) / 13)
    assert lesson.P29.accept.test(row)
    assert not lesson.P29.accept.test({**row, "random, L1 and L2, mean": 0.6})


@pytest.mark.parametrize(
    ("near", "far", "bounded"), [(0.99, 0.5, True), (0.99, 0.8, False), (0.9, 0.5, False)]
)
def test_a_bound_needs_both_sides(near: float, far: float, bounded: bool):
    row = {"P = 3, root first": near, "P = 4, root first": far}
    assert lesson.P31.accept.test(row) is bounded


def test_every_control_asks_another_model_or_changes_the_question():
    for claim in (
        lesson.P27,
        lesson.P28,
        lesson.P29,
        lesson.P30,
        lesson.P31,
        lesson.P32,
        lesson.P33,
        lesson.P34,
    ):
        assert claim.measure is not None
        mine = claim.measure
        for control in claim.controls:
            assert control.measure != mine
            assert (
                "untrained" in control.name
                or "renamed" in control.name
                or "place of" in control.name
                or "donors" in control.name
                or (
                    control.measure.recipes != mine.recipes  # type: ignore[attr-defined]
                )
            )
