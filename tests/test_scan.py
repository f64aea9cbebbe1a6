"""A scan finds the planted circuit and nothing else, and its table is data."""

import json

import pytest
import torch

from mi_lab.node_table import Count, NodeTable, fingerprint
from mi_lab.run import Node, run
from mi_lab.scan import scan
from mi_lab.studies import sorting
from mi_lab.studies.base import targets
from tests.planted import CIRCUIT, TWINS, CopyTask, planted

LABELS = ("^", "x0", "x1", "x2", "=", "y0", "y1", "y2")


@pytest.fixture(scope="module")
def tokens():
    return CopyTask().sample(200, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def table(tokens):
    return scan(planted(), CopyTask(), tokens, by=("first", "big"), labels=LABELS)


# What it finds --------------------------------------------------------------------------------------
def test_the_planted_nodes_are_found_except_those_that_double_one_another(table):
    assert {*table.where().nodes} == {*CIRCUIT} - {*TWINS}
    assert table.useful_positions == (4, 5, 6)
    assert table.questions == 200
    assert table.dropped == 0


def test_each_node_hits_its_own_answer_token_and_looks_where_it_was_wired(table):
    for name, token, key in (("P4L0H0", "y0", "x0"), ("P4L0H1", "y2", "x2"), ("P6L1H0", "y2", "=")):
        row = table[name]
        assert table.impact_text(row) == token
        assert [LABELS[p] for p, _ in row.attends] == [key]
        assert row.attends[0][1] == pytest.approx(1.0)
    assert (
        table["P5"].fail.hits > table["P5L0H0"].fail.hits == 0
    )  # the position is useful, neither head alone


def test_failures_are_those_of_a_full_ablation(table, tokens):
    model, task = planted(), CopyTask()
    z = run(model, tokens, record="blocks.0.attn.z")["blocks.0.attn.z"].mean(0)[4, 0]
    logits = run(model, tokens, edit={Node(0, 0, 4): z}).logits[:, task.answer]
    wrong = logits.argmax(-1) != targets(task, tokens)
    row = table["P4L0H0"]
    assert row.fail == Count(int(wrong.any(1).sum()), 200)
    assert row.impact == pytest.approx(wrong.double().mean(0).tolist())
    first = task.variables(tokens)["first"]
    for digit in range(5):
        where = first == digit
        assert row.classes[f"first{digit}"] == Count(int(wrong[where].any(1).sum()), int(where.sum()))


def test_a_class_below_zero_does_not_apply(table):
    assert [name for name in table["P4L0H0"].classes if name.startswith("big")] == ["big3", "big4"]


def test_questions_answered_wrong_are_left_out(tokens):
    model = planted()
    model.unembed.W_U[:, 4] = 0.0  # digit 4 is never written any more
    found = scan(model, CopyTask(), tokens)
    four = (CopyTask().variables(tokens)["x"] == 4).any(1)
    assert found.dropped == int(four.sum())
    assert found.questions == 200 - found.dropped


def test_the_sorting_models_heads_work_at_the_answer_positions():
    task, model = sorting.task(), sorting.load("paper", 0)
    found = scan(model, task, sorting.lists(task, 100))
    assert found.useful_positions == tuple(range(10, 20))
    useful = found.where().nodes
    assert {node.position for node in useful} == set(range(10, 20))
    assert {node.head for node in useful} == {0, 1}
    for row in found.where():  # one layer: a head can only spoil the token that it predicts
        assert found.impact_text(row) == str(row.position + 1)


# Filters --------------------------------------------------------------------------------------------
def test_filters_can_be_put_together(table):
    assert table.where(layer=1).nodes == (Node(1, 0, 6),)
    assert {*table.where(attends="x2").nodes} == {Node(0, 1, 4)}
    assert {*table.where(impacts="y2").nodes} == {Node(0, 1, 4), Node(1, 0, 6)}
    assert table.where(impacts=("y0", "y2")).nodes == ()
    assert {*table.where(positions=range(4, 5), impacts=("y2",)).nodes} == {Node(0, 1, 4)}
    assert len(table.where(kind="head", above=-1)) == len(table) == 48
    assert table.where(kind="mlp", above=-1).nodes == ()
    assert Node(0, 0, 4) in table.where(fails="first0").nodes
    silent = table.where(above=-1, test=lambda row: row.fail.hits == 0)
    assert {*silent.nodes} >= {*TWINS}


def test_filters_name_what_is_not_there(table):
    with pytest.raises(ValueError, match="no position is labelled 'A3'; there are \\^, x0"):
        table.where(attends="A3")
    with pytest.raises(ValueError, match=r"position 9 is outside 0..7"):
        table.where(positions=[9])
    with pytest.raises(ValueError, match="x1 is no answer token; those are y0 to y2"):
        table.where(impacts="x1")
    with pytest.raises(ValueError, match="no class 'S3'"):
        table.where(fails="S3")
    with pytest.raises(ValueError, match="not 'heads'"):
        table.where(kind="heads")
    with pytest.raises(KeyError, match="P9L0H0 is not in this table"):
        table["P9L0H0"]


# Data -----------------------------------------------------------------------------------------------
def test_json_round_trip(table, tmp_path):
    assert NodeTable.from_dict(json.loads(json.dumps(table.to_dict()))) == table
    table.save(tmp_path / "nodes.json")
    assert NodeTable.load(tmp_path / "nodes.json") == table
    with pytest.raises(ValueError, match="format 'mi_lab nodes/1', not None"):
        NodeTable.from_dict({})


def test_a_table_of_another_model_is_refused(table):
    assert table.check(planted()) is table
    other = planted()
    other.unembed.b_U[0] += 1e-6
    with pytest.raises(
        ValueError, match=f"from model {table.model}, the model given is {fingerprint(other)}"
    ):
        table.check(other)


def test_fingerprint_tells_shapes_with_the_same_weights_apart(make_model):
    assert fingerprint(make_model(n_heads=2, d_head=3)) != fingerprint(
        make_model(n_heads=2, d_head=3, eps=1e-6)
    )
    assert fingerprint(make_model(seed=1)) == fingerprint(make_model(seed=1))


def test_markdown_has_a_row_for_each_node(table):
    text = table.where().to_markdown()
    assert len(text.splitlines()) == 2 + 3
    assert "| P4L0H0 |" in text
    assert "| y0 |" in text
    assert table.to_markdown(5).endswith("43 more rows.")
    assert "useful positions 4-6" in repr(table)


def test_facts_are_numbers_per_node(table):
    assert table.facts()[Node(0, 0, 4)] == table["P4L0H0"].fail.rate
    assert table.facts("first1")[Node(1, 0, 6)] == table["P6L1H0"].classes["first1"].rate
    assert table.facts("loss")[Node(0, 0, 4)] > 0.5 > table.facts("loss")[TWINS[0]]
    with pytest.raises(ValueError, match="no fact 'S9'"):
        table.facts("S9")


def test_bad_input_is_named(tokens):
    with pytest.raises(ValueError, match="8 different texts"):
        scan(planted(), CopyTask(), tokens, labels=["a"] * 8)
    with pytest.raises(
        ValueError, match="'x' is no variable with one value per question; there are: first, big"
    ):
        scan(planted(), CopyTask(), tokens, by="x")
    mute = planted()
    mute.unembed.W_U.zero_()
    mute.unembed.b_U[-1] = 5.0
    with pytest.raises(ValueError, match="none of the 200 questions right"):
        scan(mute, CopyTask(), tokens)


def test_counts_have_intervals():
    assert Count(0, 0).rate == 0.0
    assert Count(0, 0).interval.high == 1.0
    assert Count(5, 10).interval.low < 0.5 < Count(5, 10).interval.high
