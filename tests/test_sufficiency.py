"""The planted circuit is enough, random ones are not, and what only a pair shows is found."""

import json

import pytest
import torch

from mi_lab.ablate import all_nodes
from mi_lab.run import Node
from mi_lab.sufficiency import minimal_group, missing, redundant, sufficiency
from tests.planted import CIRCUIT, TWINS, CopyTask, planted


@pytest.fixture(scope="module")
def model():
    return planted()


@pytest.fixture(scope="module")
def tokens():
    return CopyTask().sample(200, generator=torch.Generator().manual_seed(0))


EVERY = all_nodes(planted().config)
SILENT = [node for node in EVERY if node not in CIRCUIT or node in TWINS]


def test_the_circuit_is_enough_and_random_ones_of_its_make_are_not(model, tokens):
    found = sufficiency(model, CopyTask(), tokens, CIRCUIT)
    assert found.intact.rate == found.circuit.rate == 1.0
    assert found.kept == 5
    assert len(found.random) == 10
    assert found.nothing.rate < 0.1
    assert found.best_random < 0.5
    assert "5 of 33 nodes kept" in str(found) or f"5 of {found.total} nodes kept" in str(found)
    json.dumps(found.to_dict())


def test_leaving_out_any_node_but_one_of_the_twins_breaks_it(model, tokens):
    for node in CIRCUIT:
        rest = [x for x in CIRCUIT if x != node]
        rate = sufficiency(model, CopyTask(), tokens, rest, randoms=0).circuit.rate
        assert (rate == 1.0) == (node in TWINS), node


def test_random_circuits_are_drawn_from_among_the_nodes_given(model, tokens):
    only = sufficiency(model, CopyTask(), tokens, CIRCUIT, among=CIRCUIT, randoms=2)
    assert only.best_random == 1.0  # there is but one such circuit
    with pytest.raises(ValueError, match="`among` has 1 heads of layer 0, random circuits need 4"):
        sufficiency(model, CopyTask(), tokens, CIRCUIT, among=CIRCUIT[:1])


def test_missing_nodes_are_found_and_no_more(model, tokens):
    task = CopyTask()
    added = missing(model, task, tokens, [CIRCUIT[0]], EVERY)
    assert {*added} in ({CIRCUIT[1], CIRCUIT[4], twin} for twin in TWINS)
    assert missing(model, task, tokens, CIRCUIT, EVERY) == ()
    with pytest.raises(ValueError, match="with all 1 candidates the accuracy is 0"):
        missing(model, task, tokens, [], [CIRCUIT[0]])


def test_nodes_that_are_necessary_only_together_are_found(model, tokens):
    found = redundant(model, CopyTask(), tokens, SILENT)
    assert [{*joint.nodes} for joint in found] == [{*TWINS}]
    joint = found[0]
    assert [count.hits for count in joint.alone] == [0, 0]
    assert joint.excess == joint.together.rate > 0.5
    assert str(joint).startswith("P5L0H0 + P5L0H2: 0.")


def test_a_set_of_silent_nodes_is_boiled_down_to_its_core(model, tokens):
    core = minimal_group(model, CopyTask(), tokens, SILENT)
    assert core is not None
    assert {*core.nodes} == {*TWINS}
    assert minimal_group(model, CopyTask(), tokens, [x for x in SILENT if x not in TWINS]) is None
    assert minimal_group(model, CopyTask(), tokens, []) is None


def test_foreign_nodes_are_named(model, tokens):
    with pytest.raises(ValueError, match=r"layers are 0..1"):
        sufficiency(model, CopyTask(), tokens, [Node(2, 0, 4)])
    with pytest.raises(ValueError, match="node L0H0 is at all positions"):
        redundant(model, CopyTask(), tokens, [Node(0, 0)])
