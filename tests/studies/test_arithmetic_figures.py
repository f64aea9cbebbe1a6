"""Figures say what they are given: names, numbers, and nothing that could be read as markup."""

import re
from dataclasses import replace

import numpy as np
import pytest
import torch

from mi_lab.claims import verify
from mi_lab.model import Transformer
from mi_lab.node_table import Count
from mi_lab.run import Node
from mi_lab.studies.arithmetic import classes, figures, ripple
from mi_lab.studies.arithmetic.carries import ReadBack, Route
from mi_lab.studies.arithmetic.claims import CLAIMS
from mi_lab.studies.arithmetic.handmade import hand_made_adder
from mi_lab.studies.arithmetic.measure import Failures
from mi_lab.studies.arithmetic.recipes import config
from mi_lab.studies.arithmetic.task import ArithmeticTask

TASK = ArithmeticTask(3)


def text_of(drawing):
    return re.sub(r"<[^>]+>", " ", drawing.inner())


def test_every_token_has_the_name_that_the_task_gives_it():
    for digits in (1, 3, 10):
        task = ArithmeticTask(digits)
        for position in range(task.n_ctx):
            assert task.position(figures.token_name(task, position)) == position


def test_strip_shows_what_is_predicted_where():
    strip = text_of(figures.token_strip(TASK, "199+802="))
    tokens = re.findall(r"→ (\w+)", strip)
    assert tokens == ["SGN", "A3", "A2", "A1", "A0"]
    assert re.findall(r"A\d\s+(\d)", strip.replace("→ ", "")) == ["1", "0", "0", "1"]


def test_strip_refuses_what_is_no_question():
    with pytest.raises(ValueError, match="no token of a question"):
        figures.token_strip(TASK, "<b>1</b>")


def test_trace_starts_at_the_first_complete_column_and_ends_with_the_units():
    rows = text_of(figures.trace_table(TASK, "199+802="))
    assert "ST2 U" in rows
    assert "A0 = 1" in rows
    assert "P3 " not in rows  # the operator completes no column


def test_shares_in_the_class_table_are_the_exact_ones():
    rows = text_of(figures.class_table(TASK))
    share = classes.frequencies(3, "S")
    for level in range(4):
        assert f"{float(share[level]):.2%}" in rows


def test_failures_are_counts_where_counted_and_shares_where_predicted():
    drawn = text_of(
        figures.failures_table(
            {
                "theory": {"S3": 1.0, "S0": 0.0},
                "model": {"S3": Failures(3, 20_000), "S0": Failures(0, 500)},
                "x": {},
            },
            "caption",
        )
    )
    for part in ("100.00%", "3 of 20,000", "0 of 500", "–"):
        assert part in drawn


def test_attention_leaves_out_what_a_row_can_not_see():
    model = Transformer(config(TASK, layers=1), generator=torch.Generator().manual_seed(0)).eval()
    tokens = TASK.sample(5, generator=torch.Generator().manual_seed(1))
    drawn = figures.attention_map(model, TASK, tokens, 0, "caption").inner()
    assert drawn.count('role="img"') == 3
    assert "→SGN, D2" in drawn
    assert "→SGN, A3" not in drawn


def test_curves_are_powers_of_ten_and_keep_zero_finite():
    steps = [0, 1000, 2000]
    loss = np.array([[1.0] * 5, [0.01] * 5, [0.0] * 5])
    drawn = figures.digit_curves(steps, loss, TASK, "caption").inner()
    assert "nan" not in drawn
    assert "inf" not in drawn
    assert "A0" in drawn


def test_route_map_shows_early_minus_late():
    count = {True: Count(64, 64), False: Count(0, 64)}
    routes = [
        Route(0, 1, count[False], count[True], count[True], count[False], count[False]),
        Route(0, 2, count[True], count[False], count[True], count[False], count[False]),
        Route(1, 2, count[False], count[True], count[True], count[False], count[False]),
    ]
    drawn = figures.route_map(routes, TASK, "caption").inner()
    assert "A2, column 0: 1.00" in drawn
    assert "A1, column 0: −1.00" in drawn


def test_read_back_table_has_a_row_for_each_digit():
    rows = [ReadBack(2, run, Count(run, 4), Count(0, 4), Count(0, 0)) for run in (1, 2)]
    drawn = " ".join(text_of(figures.read_back_table(rows, "caption")).split())
    assert "A2 0.25 0.50 0.00" in drawn


def test_ripples_are_shown_beside_what_the_model_writes_nearest_first():
    adder = hand_made_adder(TASK, look_back=3)
    heads = tuple(Node.parse(x) for x in ("P9L0H1", "P8L0H2"))
    rows = text_of(figures.ripple_table({1: ripple.strong_test(adder, TASK, 1, heads)}, TASK, "", most=1))
    assert rows.split("alone", 1)[1].split() == ["ST1", "P9L0H1", "+1099", "+0099", "+0099"]


def test_the_grid_says_which_model_meets_which_claim():
    claims = {claim.id: claim for claim in CLAIMS if claim.id in ("A9", "A14")}
    rows = {
        "A9": {"strong, shown": [2.0, 0.0], "of": [2.0, 2.0]},
        "A14": {"accuracy": [1.0]},
    }
    units = {"A9": ["one", "two"], "A14": ["two"]}
    verdicts = [
        replace(verify(replace(c, measure=None, limits="x")), values=rows[id], unit_names=units[id])
        for id, c in claims.items()
    ]
    grid = text_of(figures.verdict_grid(verdicts, "")).split()
    assert grid == ["model", "A9", "A14", "one", "yes", "–", "two", "no", "yes"]
