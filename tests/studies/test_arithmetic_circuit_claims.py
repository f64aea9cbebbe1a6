"""The claims about circuits on a model written down by hand: what is planted passes, what is not there fails."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from mi_lab import once
from mi_lab.model import Transformer
from mi_lab.node_table import Count, Row
from mi_lab.run import Node
from mi_lab.studies.arithmetic import circuit, plans, ripple
from mi_lab.studies.arithmetic.claims import CLAIMS, deliveries, digits, peers, seen, shared, tristates
from mi_lab.studies.arithmetic.columns import digits_of, question
from mi_lab.studies.arithmetic.handmade import hand_made_adder
from mi_lab.studies.arithmetic.interchanges import whole_column
from mi_lab.studies.arithmetic.task import ArithmeticTask
from mi_lab.studies.base import targets
from mi_lab.subtask import draw_pairs

TASK = ArithmeticTask(3)
NAME = "add_d3_l2_h3"  # a recipe of the same task; its model is replaced
BY_ID = {claim.id: claim for claim in CLAIMS}
MODULES = (seen, tristates, deliveries, shared, peers)


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def adder():
    return hand_made_adder(TASK, look_back=3)


@pytest.fixture
def planted(adder, monkeypatch):
    """The hand-made adder in the place of every published model, asked little."""
    put(monkeypatch, adder)
    monkeypatch.setattr(seen, "PAIRS", 40)
    return adder


def put(monkeypatch, network):
    for module in MODULES:
        monkeypatch.setattr(module, "model", lambda recipe, seed: network)


def written(answer):
    return "".join(TASK.vocab[x] for x in answer)


def passes(id, row):
    return bool(BY_ID[id].accept.test(row))


# What is shared -------------------------------------------------------------------------------------
def test_a_search_is_made_once_for_the_same_weights(planted, monkeypatch):
    calls = []
    real = circuit.explain
    monkeypatch.setattr(circuit, "explain", lambda *a, **k: calls.append(k["families"]) or real(*a, **k))
    monkeypatch.setattr(once, "_made", {})
    first = seen.evidence(NAME, 0, "SA")
    assert seen.evidence(NAME, 1, "SA").evidence == first.evidence
    assert calls == [("SA",)]
    put(monkeypatch, hand_made_adder(TASK, look_back=2))
    seen.evidence(NAME, 0, "SA")
    assert len(calls) == 2


def test_a_part_of_the_digits_can_be_asked_for(adder):
    found = circuit.explain(adder, TASK, families=("SA",), indices=(1,), n=40, keep=1)
    assert {e.subtask for e in found.located} == {"SA1"}
    assert len(found.located) == 1


def test_moving_the_right_head_moves_the_answer_and_moving_none_does_not(adder):
    subtask = whole_column(TASK, 0)
    every = [Node.parse(x) for x in ("P11L0H0", "P10L0H1", "P9L0H2", "P8L0H3")]
    assert seen.moved(adder, subtask, every, 40) == 1
    assert seen.moved(adder, subtask, every[:1], 40) < 0.7
    assert seen.moved(adder, subtask, (), 40) == 0


# Whole columns --------------------------------------------------------------------------------------
def test_a_whole_column_gives_the_answer_with_the_other_column_in_it():
    pairs, _ = draw_pairs(whole_column(TASK, 1), 60, torch.Generator().manual_seed(1))
    mine, other = digits_of(TASK, pairs.clean), digits_of(TASK, pairs.store)
    for x, y in zip(mine, other):
        x[:, 1] = y[:, 1]
    assert torch.equal(targets(TASK, question(TASK, mine, False)), pairs.expected)


def test_whole_columns_are_of_additions_that_have_them():
    with pytest.raises(ValueError, match="k from 0 to 2, not 3"):
        whole_column(TASK, 3)
    with pytest.raises(ValueError, match="are of additions"):
        whole_column(ArithmeticTask(3, "-"), 0)


def test_nothing_is_kept_early_in_a_model_that_looks_columns_up_late(adder):
    assert (
        len(circuit.early(adder, TASK, ("SA", "SC"), n=20).located) == 1
    )  # SC2, written at the sign's position
    assert circuit.early(adder, TASK, ("SC",), n=20).located.evidence[0].subtask == "SC2"


# A7, A8, A21 ----------------------------------------------------------------------------------------
def test_places_of_the_hand_made_model(planted):
    row = digits.places_row(NAME, 0)
    assert row["one digit"] == 1
    assert row["first useful position"] == 8  # the sign, where the leading digit is written
    assert row["late operand head"] > 0.3
    assert passes("A7", row)
    assert not passes("A7", {**row, "one digit": 0.94})
    assert not passes("A7", {**row, "first useful position": 3})
    early = digits.places_row(NAME, 0, before=True)
    assert early["nodes"] == 0
    assert not passes("A7", early)


def test_a_node_that_turns_two_tokens_wrong_does_not_serve_one_digit():
    one, two = (
        Row(None, 9, Count(1, 2), impact, {}, 0.0) for impact in ((0, 0.5, 0, 0, 0), (0, 0.5, 0.5, 0, 0))
    )
    assert digits.one_digit([one]) == 1
    assert digits.one_digit([one, two]) == 0.5
    assert digits.one_digit([]) == 0


def test_sums_of_the_hand_made_model_and_of_a_twin(planted, monkeypatch):
    row = digits.sums_row(NAME, 0)
    assert (row["digits"], row["worst digit"], row["most heads"]) == (3, 1, 1)
    assert passes("A8", row)
    for control in ("wrong index", "wrong position", "wrong head"):
        assert not passes("A8", digits.sums_row(NAME, 0, control=control)), control
    twin = Transformer(replace(planted.config, norm="LN"), generator=torch.Generator().manual_seed(0)).eval()
    monkeypatch.setattr(seen, "untrained", lambda recipe, seed: twin)
    assert not passes("A8", digits.sums_row(NAME, 0, twin=True))


def test_a_digit_without_its_head_is_missed(adder, monkeypatch):
    lame = hand_made_adder(TASK, look_back=3)
    with torch.no_grad():  # the head of A_1 looks nowhere in particular
        lame.blocks[0].attn.W_Q[0, 1 + TASK.position("A1") - 1] = 0
    put(monkeypatch, lame)
    monkeypatch.setattr(seen, "PAIRS", 40)
    row = digits.sums_row(NAME, 0)
    assert row["digits"] < 3  # an answer with one wrong digit is as predicted in no pair
    assert not passes("A8", row)


def test_the_same_circuit_needs_all_three_claims():
    row = {
        "tags": 9,
        "one digit": 1.0,
        "first useful": 2,
        "sums": 1.0,
        "strong, shown": 0.75,
        "strong, alone": 0,
    }
    assert passes("A21", row)
    for name, value in (("one digit", 0.9), ("first useful", 0), ("sums", 0.8), ("strong, shown", 0.5)):
        assert not passes("A21", {**row, name: value}), name


# A9, A12 --------------------------------------------------------------------------------------------
def test_a_model_without_early_heads_passes_no_strong_test(planted):
    row = tristates.authors_row(NAME, 0)
    assert (row["strong, shown"], row["strong, alone"], row["of"]) == (0, 0, 2)
    assert not passes("A9", row)
    assert not passes("A9d", row)


def test_each_copy_of_a_tri_state_serves_one_digit_and_the_ripple_needs_both(adder):
    heads = tuple(Node.parse(x) for x in ("P9L0H1", "P8L0H2"))  # all copies of column 1
    found = ripple.strong_test(adder, TASK, 1, heads)
    assert written(found.expected) == "+1099"
    assert written(found.right) == "+0999"
    assert [written(x) for x in found.shown] == ["+0099", "+1999"]
    assert found.exact(found.shown) == found.exact(found.alone) == ()
    assert len(found.weak) == 2


def test_heads_that_do_not_look_at_the_column_change_nothing(adder):
    found = ripple.strong_test(adder, TASK, 1, (Node.parse("P5L0H1"),))
    assert found.weak == ()


def test_three_states_are_seen_and_permuted_labels_are_not(planted, monkeypatch):
    points = torch.eye(3)

    def outputs(network, task, k, heads):
        labels = torch.arange(60) % 3
        noise = 0.05 * torch.randn((60, 3), generator=torch.Generator().manual_seed(k))
        return labels, {Node(0, 0, 8): points[labels] + noise}

    monkeypatch.setattr(tristates, "_outputs", outputs)
    row = tristates.clusters_row(NAME, 0)
    assert (row["worst column"], row["columns"], row["heads"]) == (1, 1, 2)
    assert passes("A12", row)
    assert not passes("A12", tristates.clusters_row(NAME, 0, shuffled=True))
    points[2] = points[1]  # a perfect split in two is not three states
    assert not passes("A12", tristates.clusters_row(NAME, 0))


# A10, A11 -------------------------------------------------------------------------------------------
def test_deliveries_of_the_hand_made_model(planted):
    row = deliveries.late_row(NAME, 0)
    assert (row["delivered"], row["U-test, worst"], row["U-tests"]) == (1, 0, 2)
    assert passes("A10", row)
    control = deliveries.late_row(NAME, 0, other=True, last_mlp=True)
    assert control["U-test, worst"] == 1
    assert not passes("A10", control)
    assert not passes("A10", {**row, "delivered": 2 / 3})


def test_the_last_mlp_of_the_hand_made_model_resolves_and_other_nodes_do_not(planted):
    row = deliveries.resolves_row(NAME, 0)
    assert (row["flip"], row["definite change"], row["filler"]) == (1, 0, 0)
    assert passes("A11", row)
    assert not passes("A11", {**row, "definite change": 0.06})
    assert not passes("A11", deliveries.resolves_row(NAME, 0, filler=True))
    assert not passes("A11", deliveries.resolves_row(NAME, 0, step=1))


# A13, A14 -------------------------------------------------------------------------------------------
def test_the_rivals_are_told_apart_on_the_hand_made_model(planted):
    row = shared.score_row(NAME, 0, plans.addition, plans.RIVALS, rescan=False)
    assert row["clauses"] == 1
    assert row["look-back 2"] == row["best rival"] == 1  # which is what it was made to do
    assert not passes("A13", row)
    assert passes("A13", {**row, "best rival": 0.9})
    assert not passes("A13", {**row, "best rival": 0.9, "changed on rescan": 0.3})
    assert shared.score_row(NAME, 0, plans.boolean, (plans.addition,), rescan=False)["clauses"] < 1


def test_a_rescan_of_the_same_model_keeps_its_nodes(planted):
    assert shared.changed(NAME, 0) <= 0.2


def test_the_heads_of_a_column_carry_it_whole(planted):
    row = shared.column_row(NAME, 0)
    assert row["all its heads"] == 1
    assert passes("A13c", row)
    assert not passes("A13c", shared.column_row(NAME, 0, shift=1))


def test_the_planted_circuit_is_enough_and_a_random_one_is_not(planted):
    row = shared.enough_row(NAME, 0)
    assert (row["accuracy"], row["heads missing"], row["intact"]) == (1, 0, 1)
    assert row["without MLPs"] < 0.1
    assert passes("A14", row)
    assert not passes("A14", shared.enough_row(NAME, 0, random=True))


# A18, A19 -------------------------------------------------------------------------------------------
def served(**hits):
    classes = {f"{kind}{i}": Count(hits.get(kind, 0) * i, 10) for kind in "SMN" for i in (0, 1)}
    return Row(Node(0, 0, 9), 9, Count(1, 10), (0.1,), classes, 0.0)


def test_what_nodes_serve_is_counted_by_kind():
    rows = [served(S=1), served(S=1, M=1), served(M=1, N=1), served(S=1, M=1, N=1), served(N=1), served()]
    found = peers.served_row(rows)
    assert found["nodes"] == 5  # the last is of no use to any
    assert found["two kinds or three"] == pytest.approx(3 / 5)
    assert found["both operations"] == pytest.approx(2 / 5)
    assert (found["S"], found["M only"], found["N only"]) == (pytest.approx(3 / 5), 0, 1)
    assert passes("A18", found)
    assert not passes("A18", peers.served_row(rows[:1]))
    assert peers.served_row([])["both operations"] == 0


def test_two_models_of_one_operation_each_share_nothing():
    found = peers._side_by_side(True)
    assert found.values["both operations"] == (0,)
    assert found.values["nodes"][0] > 20
    assert not passes("A18", found.row(0))


def test_the_shuffled_donor_in_its_own_place_gains_nothing(monkeypatch):
    share = {peers.STARTED: 0.5, peers.SCRATCH: 0.4, peers.SHUFFLED: 0.45}
    monkeypatch.setattr(peers, "_served", lambda recipe, seed: {"both operations": share[recipe]})
    assert passes("A18b", peers._beside(peers.STARTED)(True).row(0))
    for control in (peers.SHUFFLED, peers.SCRATCH):
        assert not passes("A18b", peers._beside(control)(True).row(0))


def test_peers_need_every_digit_and_the_sign():
    row = {"digits": 3, "of": 3, "sign from the top column": 0.95}
    assert passes("A19", row)
    for name, value in (("digits", 2), ("sign from the top column", 0.5)):
        assert not passes("A19", {**row, name: value}), name
    assert passes("A19b", peers.served_row([served(M=1)]))
    assert not passes("A19b", peers.served_row([served(S=1, M=1), served(N=1)]))


def test_every_new_claim_fails_on_rows_of_nothing():
    for id in (
        "A7",
        "A8",
        "A9",
        "A9d",
        "A10",
        "A11",
        "A12",
        "A13",
        "A13b",
        "A13c",
        "A14",
        "A18",
        "A18b",
        "A19",
        "A21",
    ):
        claim = BY_ID[id]
        assert claim.measure is not None, id
        names = {"of": 3.0, "first useful position": math.inf, "operator": 3.0}
        row = dict.fromkeys(ROWS[id], 0.0)
        assert not claim.accept.test(row | {k: v for k, v in names.items() if k in row}), id


ROWS = {
    "A7": ("one digit", "first useful position", "operator"),
    "A8": ("digits", "of", "largest control"),
    "A9": ("strong, shown", "of"),
    "A9d": ("strong, alone", "of"),
    "A10": ("delivered", "U-test, worst"),
    "A11": ("flip", "U change", "definite change"),
    "A12": ("columns",),
    "A13": ("clauses", "best rival", "changed on rescan"),
    "A13b": ("clauses", "best rival", "changed on rescan"),
    "A13c": ("all its heads",),
    "A14": ("accuracy",),
    "A18": ("two kinds or three", "both operations"),
    "A18b": ("more than scratch", "more than shuffled donor"),
    "A19": ("digits", "of", "sign from the top column"),
    "A19b": ("M only",),
    "A21": ("one digit", "first useful", "sums", "strong, shown"),
}
