"""An interchange finds the nodes that carry a value, alone, in pairs or spread, and its controls stay at zero."""

import dataclasses
import json

import pytest
import torch

from mi_lab.locate import Located, search
from mi_lab.model import Transformer
from mi_lab.run import Node
from mi_lab.studies import sorting
from mi_lab.studies.base import targets
from mi_lab.subtask import Evidence, SubTask, draw_pairs, interchange
from tests.planted import TWINS, CopyTask, copies, planted


@pytest.fixture(scope="module")
def found():
    return search(planted(), [copies(0), copies(1), copies(2)])


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


# Search ---------------------------------------------------------------------------------------------
def test_search_finds_the_planted_circuit_and_only_that(found):
    assert [e.nodes for e in found.of("COPY0")] == [(Node(0, 0, 4),)]
    assert [e.nodes for e in found.of("COPY1")] == [TWINS]  # two heads in one place, neither alone
    assert {e.nodes for e in found.of("COPY2")} == {(Node(0, 1, 4),), (Node(1, 0, 6),)}
    assert {e.nodes for e in found.of("COPY1", held=False)} == {TWINS, TWINS[:1], TWINS[1:]}


def test_controls_are_at_zero_wherever_it_holds(found):
    kinds = {"same value", "wrong index", "wrong position", "wrong head"}
    for e in (e for e in found if e.holds()):
        assert e.match.rate == 1.0
        assert e.match.interval.low > 0.95
        assert {kind for kind in kinds for name in e.controls if name.startswith(kind)} == kinds
        assert all(count.hits == 0 for count in e.controls.values()), e


def test_nothing_is_found_in_an_untrained_twin():
    twin = Transformer(planted().config)
    located = search(twin, [copies(0), copies(1), copies(2)])
    assert not any(e.holds() for e in located)
    assert located.nodes() == ()


def test_operands_are_asked_for_only_if_they_are_part_of_the_claim():
    model = planted()
    early, late = (interchange(model, copies(2, operand=3), [Node.parse(n)]) for n in ("P4L0H1", "P6L1H0"))
    assert early.holds()
    assert early.attends[3] == pytest.approx(1.0)
    assert late.match.rate == 1.0
    assert not late.holds()  # it carries the digit, but looks at "="
    assert late.holds(attention=0.0)
    tried = search(model, [copies(2, operand=3)], attention=0.5)
    assert [e.nodes for e in tried] == [(Node(0, 1, 4),)]


def test_a_value_spread_over_places_is_found_by_growing():
    """Take y0 from x0 at P4, where one head reads it, and y1 from x1: no single place carries both."""
    task = CopyTask()

    def predict(clean, store):
        return torch.cat([store[:, 1:3], targets(task, clean)[:, 2:]], 1)

    both = dataclasses.replace(copies(0), family="BOTH", index=None, predict=predict)
    assert not any(e.holds() for e in search(planted(), [both]))
    grown = search(planted(), [both], spread=4).of("BOTH")
    assert [{*e.nodes} for e in grown] == [{Node(0, 0, 4), *TWINS}]
    assert grown[0].position == 5


def test_chosen_nodes_are_the_only_ones_tried():
    located = search(planted(), [copies(0)], nodes=[Node(1, 0, 6), Node(0, 0, 4)])
    assert located.tested == 2
    assert located.nodes() == (Node(0, 0, 4),)


def test_no_node_to_try_is_nothing_found():
    assert len(search(planted(), [copies(0)], nodes=[], spread=3)) == 0
    assert len(search(planted(), [copies(0, operand=1)], attention=1.1)) == 0


def test_the_sorting_models_first_number_is_carried_by_its_two_heads_together():
    """Works on any model: 'the next number' at SEP, where no current number interferes."""
    task, model = sorting.task(), sorting.load("paper", 0)

    def next_number(i):
        def draw(n, generator):
            return task.sample(n, generator=generator), task.sample(n, generator=generator)

        def predict(clean, store):
            answer = targets(task, clean).clone()
            answer[:, i] = targets(task, store)[:, i]
            return answer

        return SubTask("NEXT", draw, predict, task, index=i)

    located = search(model, [next_number(0), next_number(9)], n=100)
    pair = (Node(0, 0, 10), Node(0, 1, 10))
    assert located.of("NEXT0")[0].nodes == pair
    assert not any(e.holds() for e in located.of("NEXT0", held=False) if len(e.nodes) == 1)
    # at SEP the pair is right; as NEXT9, or one position off, it does nothing
    controls = located.of("NEXT0")[0].controls
    assert controls["wrong index: NEXT9"].rate == controls["wrong position: +1"].rate == 0.0


# One interchange ------------------------------------------------------------------------------------
def test_one_of_two_equal_heads_moves_the_value_half_the_time():
    e = interchange(planted(), copies(1), TWINS[:1], siblings=[copies(0)])
    assert 0.3 < e.match.rate < 0.7  # two logits of the same height
    assert e.weak.rate == e.changed.rate == e.match.rate
    assert e.controls["wrong index: COPY0"].rate == 0.0
    assert not e.holds()


def test_a_decoy_shares_no_node_with_the_group():
    e = interchange(planted(), copies(0), [Node(0, 0, 4), Node(0, 0, 5)])
    assert not any(name.startswith("wrong position") for name in e.controls)
    assert "wrong head: all others" in e.controls


def test_free_running_gives_the_same_where_no_answer_token_is_read_again():
    for nodes in ([Node(0, 0, 4)], TWINS):
        one, two = (
            interchange(planted(), copies(0), nodes, n=50, free_running=free) for free in (False, True)
        )
        assert one.match == two.match


def test_pairs_are_split_into_those_that_matter_and_those_that_do_not():
    moving, still = draw_pairs(copies(1), 100, generator())
    assert len(moving.clean) == 100
    assert (moving.expected != moving.right).any(1).all()
    assert torch.equal(still.expected, still.right)
    assert (still.clean[:, 2] == still.store[:, 2]).all()
    assert 5 < len(still.clean) <= 100


def test_the_same_generator_gives_the_same_evidence(found):
    again = search(planted(), [copies(0), copies(1), copies(2)], generator=generator())
    assert again == found


# Data and errors ------------------------------------------------------------------------------------
def test_json_round_trip(found):
    assert Located.from_dict(json.loads(json.dumps(found.to_dict()))) == found
    one = found.evidence[0]
    assert Evidence.from_dict(one.to_dict()) == one


def test_names_and_tables_are_readable(found):
    pair = found.of("COPY1")[0]
    assert pair.name == "P5L0H0+H2"
    assert "| COPY1 | P5L0H0+H2 | 1.00 [0.98, 1.00] | yes |" in found.to_markdown()
    assert str(pair).startswith("COPY1 holds at P5L0H0+H2: 1 [")
    assert dataclasses.replace(pair, nodes=(Node(0, 0, 4), Node(1, 0, 6))).name == "P4L0H0+P6L1H0"
    assert found.tags() == {
        Node(0, 0, 4): "COPY0",
        **dict.fromkeys(TWINS, "COPY1"),
        Node(0, 1, 4): "COPY2",
        Node(1, 0, 6): "COPY2",
    }
    assert "candidates of" in repr(found)


def test_bad_input_is_named():
    model, good = planted(), copies(0)
    with pytest.raises(ValueError, match="COPY0: an interchange needs at least one node"):
        interchange(model, good, [])
    with pytest.raises(ValueError, match="COPY0: node L0H1 needs a position, such as P7L0H1"):
        interchange(model, good, [Node(0, 1)])
    with pytest.raises(ValueError, match=r"heads are 0..2"):
        interchange(model, good, [Node(0, 7, 4)])
    with pytest.raises(ValueError, match="different names, not COPY0, COPY0"):
        search(model, [good, good])
    with pytest.raises(ValueError, match="at least 1, not 0 and 8"):
        search(model, [good], largest=0)
    wrong = dataclasses.replace(good, predict=lambda clean, store: store[:, :2])
    with pytest.raises(ValueError, match=r"must give whole answers \[200, 3\], not \[200, 2\]"):
        interchange(model, wrong, [Node(0, 0, 4)])
    idle = dataclasses.replace(good, predict=lambda clean, store: clean[:, 1:4])
    with pytest.raises(ValueError, match="in only 0 of 4000 pairs drawn does the value matter"):
        interchange(model, idle, [Node(0, 0, 4)])
