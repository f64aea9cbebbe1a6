"""The circuit tools of the arithmetic study on a model written down by hand, whose tags are known."""

import json
from dataclasses import replace

import pytest
import torch

from mi_lab.algorithm import score
from mi_lab.locate import nearest, smallest
from mi_lab.model import Transformer
from mi_lab.run import Node
from mi_lab.studies.arithmetic import plans
from mi_lab.studies.arithmetic.algorithms import ALGORITHMS
from mi_lab.studies.arithmetic.carries import change, lookers, read_back, routes, table, u_pairs, u_test
from mi_lab.studies.arithmetic.circuit import Explanation, explain, labels, map_of, questions, writes_at
from mi_lab.studies.arithmetic.columns import ANY, KINDS, SURE, column, digits_of, question, random_digits
from mi_lab.studies.arithmetic.handmade import hand_made_adder
from mi_lab.studies.arithmetic.interchanges import (
    FAMILIES,
    authors_pair,
    declare,
    declared,
    names,
    predicting,
)
from mi_lab.studies.arithmetic.measure import right
from mi_lab.studies.arithmetic.task import ArithmeticTask
from mi_lab.studies.base import targets
from mi_lab.subtask import draw_pairs, interchange

TASK = ArithmeticTask(3)
BOTH = ArithmeticTask(4, "+-")


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def nodes(*parts):
    return {Node.parse(part) for part in parts}


@pytest.fixture(scope="module")
def adder():
    return hand_made_adder(TASK, look_back=3)


@pytest.fixture(scope="module")
def found(adder):
    return explain(adder, TASK, n=100)


# The hand-made model ---------------------------------------------------------------------------------
@pytest.mark.parametrize(("digits", "back"), [(1, 1), (2, 2), (3, 3), (3, 2), (4, 1), (5, 5)])
def test_the_hand_made_adder_is_wrong_exactly_where_look_back_is(digits, back):
    task = ArithmeticTask(digits)
    tokens = task.sample(4000, generator=rng())
    wrong = ~right(hand_made_adder(task, back), task, tokens)
    program = {1: "sc_only", 2: "look_back_2"}.get(back, "st_sv")
    assert torch.equal(wrong, ALGORITHMS[program].first_error(task, tokens) >= 0)
    assert bool(wrong.any()) == (back < digits)


def test_a_hand_made_adder_that_can_not_be_is_named():
    with pytest.raises(ValueError, match=r"only adds, this task has '\+-'"):
        hand_made_adder(BOTH)
    with pytest.raises(ValueError, match="between 1 and 5, not 6"):
        hand_made_adder(ArithmeticTask(8), 6)


# Declarations -----------------------------------------------------------------------------------------
def test_every_sub_task_moves_its_own_digits_and_no_others():
    """Written out from the definitions, question by question, for all families of a mixed task."""
    for subtask in declared(BOTH):
        kind, what = FAMILIES[subtask.family]
        k = subtask.index
        pairs, still = draw_pairs(subtask, 40, rng(1))
        places = {"base": {k}, "operator": {k}, "signed": {k}, "sign": {"SGN"}}.get(what, {k + 1})
        if what == "tri":
            places = set(range(k + 1, BOTH.digits + 1))
        moved = (pairs.expected != pairs.right).any(0)
        where = [x if x == "SGN" else int(x[1:]) for x in labels(BOTH)[-BOTH.digits - 2 :]]
        assert {place for place, m in zip(where, moved) if m} <= places, subtask.name
        assert torch.equal(still.expected, still.right)
        sign = {"M": 10, "N": 11}.get(kind)
        if sign and what not in ("sign", "signed"):
            for tokens in (pairs.clean, pairs.store):
                assert (tokens[:, BOTH.position("SGN")] == sign).all(), subtask.name


def test_predictions_are_those_of_a_question_made_to_order():
    """Where the store's value is carried over by hand, the answer to the new question is the prediction."""
    for name, k in (("SA1", 1), ("MD1", 1), ("ND1", 1)):  # exchange a column for one of the same carry
        subtask = declare(BOTH, name)
        kind = KINDS[FAMILIES[subtask.family][0]]
        pairs, _ = draw_pairs(subtask, 300, rng(2))
        mine, other = digits_of(BOTH, pairs.clean), digits_of(BOTH, pairs.store)
        alike = (kind.sure(*mine) == kind.sure(*other)) & (kind.passes(*mine) == kind.passes(*other))
        rows = alike[:, k]
        assert int(rows.sum()) > 40
        for x, y in zip(mine, other):
            x[:, k] = y[:, k]
        made = question(BOTH, mine, kind is not KINDS["S"])
        assert torch.equal(targets(BOTH, made)[rows], pairs.expected[rows])
    for name in ("ST1", "MT1", "NT1"):  # exchange the column, then take back its own digit
        subtask = declare(BOTH, name)
        kind = KINDS[FAMILIES[subtask.family][0]]
        pairs, _ = draw_pairs(subtask, 300, rng(3))
        assert subtask.free_running
        assert torch.equal(pairs.clean[:, BOTH.position("SGN") :], pairs.expected)  # the model reads this
        mine, other = digits_of(BOTH, pairs.clean), digits_of(BOTH, pairs.store)
        for x, y in zip(mine, other):
            x[:, 1] = y[:, 1]
        made = targets(BOTH, question(BOTH, mine, kind is not KINDS["S"]))
        above = slice(0, BOTH.digits)  # sign, A_4, A_3, A_2
        assert torch.equal(made[:, above], pairs.expected[:, above])
        assert torch.equal(pairs.expected[:, BOTH.digits :], pairs.right[:, BOTH.digits :])


def test_operator_and_sign_write_what_the_other_operation_would():
    pairs, same = draw_pairs(declare(BOTH, "OPR2"), 100, rng())
    assert len(same.clean) > 50  # both questions may have the same operator: then nothing should change
    plus = pairs.clean[:, BOTH.position("OPR")] == 10
    x, y, _ = BOTH.operands(pairs.clean)
    other = targets(BOTH, BOTH.complete(x, y, plus[:, None]))
    place = BOTH.digits + 1 - 2
    assert torch.equal(pairs.expected[:, place], other[:, place])
    pairs, _ = draw_pairs(declare(BOTH, "SGN0"), 100, rng())
    assert {10, 11} == {*pairs.clean[:, BOTH.position("SGN")].tolist()}
    digit = (pairs.clean[:, BOTH.position("D0")] - pairs.clean[:, BOTH.position("D'0")]) % 10
    flipped = torch.where(pairs.store[:, BOTH.position("SGN")] == 11, (-digit) % 10, digit)
    assert torch.equal(pairs.expected[:, -1], flipped)


def test_with_the_same_fillers_only_one_column_differs():
    for name, where in (("ST2", 2), ("SU2", 1), ("MB1", 1), ("SA0", 0)):
        clean, store = declare(BOTH, name, fillers="same").draw(50, rng())
        differ = [(a != b).any(0) for a, b in zip(digits_of(BOTH, clean), digits_of(BOTH, store))]
        assert (differ[0] | differ[1]).nonzero().flatten().tolist() == [where]


def test_the_authors_pair_and_the_ripple_that_we_ask_for():
    task = ArithmeticTask(5)
    clean, store, expected = authors_pair(task, 2)
    assert task.decode(clean[0]) == "33333+66666=+099999"
    assert task.decode(store[0]) == "22222+77977=+100199"
    assert "".join(task.vocab[x] for x in expected[0]) == "+100999"  # the dossier's, section 7


def test_unknown_sub_tasks_are_named():
    assert names(ArithmeticTask(3, "-"), "SA", "MB", "GT") == ("MB0", "MB1", "GT0", "GT1", "GT2")
    with pytest.raises(ValueError, match="'ST3' is no sub-task of this task; there are SA0, SA1, SA2"):
        declare(TASK, "ST3")
    with pytest.raises(ValueError, match="there is no family 'XY'"):
        names(TASK, "XY")
    with pytest.raises(ValueError, match="fillers must be 'random' or 'same', not 'none'"):
        declare(TASK, "ST1", fillers="none")
    with pytest.raises(ValueError, match="there is no family 'XY'"):
        explain(hand_made_adder(TASK), TASK, families=["XY"])


def test_columns_are_in_the_states_asked_for():
    pairs = column("M", (SURE,), 100, rng())
    assert (pairs[:, 0] < pairs[:, 1]).all()
    digits = random_digits(BOTH, "N", 200, rng(), states={1: ("pass",)}, passing=0.0)
    assert (digits[0][:, 1] == digits[1][:, 1]).all()
    assert (digits[0][:, 3] < digits[1][:, 3]).all()  # the top column decides the sign
    free = random_digits(BOTH, "N", 200, rng(), states={3: ANY})
    assert not (free[0][:, 3] < free[1][:, 3]).all()


# What is found in the hand-made model -----------------------------------------------------------------
PLANTED = {
    "SA0": ["P11L0H0"], "SA1": ["P10L0H0"], "SA2": ["P9L0H0"],
    "SC0": ["P10L0H1"], "SC1": ["P9L0H1"], "SC2": ["P8L0H1"],
    "SU1": ["P9L0H2"], "SU2": ["P8L0H2", "P8L0H3"],
    "SV0": ["P10L0H1"], "SV1": ["P9L0H1", "P9L0H2"],
    "ST0": ["P10L0H1", "P9L0H2", "P8L0H3"], "ST1": ["P9L0H1", "P8L0H2"], "ST2": ["P8L0H1"],
}  # fmt: skip


@pytest.mark.parametrize("name", PLANTED)
def test_every_planted_tag_is_found_exactly(found, name):
    best = found.best(name)
    assert {*best.nodes} == nodes(*PLANTED[name])
    assert best.match.rate == 1.0
    assert best.holds()


def test_controls_stay_down(found):
    for e in found.located:
        if e.holds():
            assert e.controls["same value"].rate <= 0.1
            assert max(count.rate for count in e.controls.values()) <= 0.2


def test_nothing_is_tagged_in_a_twin_with_fresh_weights(adder):
    twin = Transformer(replace(adder.config, norm="LN"), generator=rng()).eval()
    assert explain(twin, TASK, n=50, spread=1).tags() == {}


def test_copies_that_are_not_needed_are_left_out(adder):
    subtask = declare(TASK, "ST1")
    pool = [Node.parse(x) for x in ("P9L0H1", "P5L0H0", "P8L0H2", "P8L0H3", "P6L0H1")]
    others = nearest(subtask, declared(TASK, "ST"))
    found = smallest(adder, subtask, pool, siblings=others, n=50)
    assert {*found.nodes} == nodes("P9L0H1", "P8L0H2")
    assert {f"wrong index: {s.name}" for s in others} <= {*found.controls}
    assert found.match.rate == 1.0
    incomplete = smallest(adder, subtask, pool[:1], n=50)
    assert incomplete.match.rate < 0.9  # one of two copies: the longer ripples do not follow


def test_a_free_running_match_is_that_of_a_real_free_run(adder):
    subtask = declare(TASK, "ST0")
    group = [Node.parse(x) for x in ("P10L0H1", "P9L0H2")]  # not all copies
    fast, slow = (interchange(adder, subtask, group, n=80, free_running=free) for free in (False, True))
    assert fast.match == slow.match
    assert 0.1 < fast.match.rate < 0.9


def test_routes_are_those_of_the_heads_that_look_back(adder):
    for row in routes(adder, TASK, n=20):
        # at the sign's position, early by definition, the leading digit is written
        assert (row.early.rate, row.late.rate) == ((1.0, 0.0) if row.j == 3 else (0.0, 1.0))
        assert row.all.rate == 1.0
        assert row.same.hits == row.other.hits == 0
    short = {(r.k, r.j): r.all.rate for r in routes(hand_made_adder(TASK, 2), TASK, n=20)}
    assert short == {(k, j): float(j - k <= 2) for k in range(3) for j in range(k + 1, 4)}


def test_lookers_look_at_both_digits_and_not_from_where_the_digit_is_due(adder):
    tokens = TASK.sample(20, generator=rng())
    assert {*lookers(adder, TASK, tokens)[1]} == nodes("P9L0H1", "P8L0H2")  # not P10L0H0, for A_1 itself
    assert lookers(adder, TASK, tokens, both=False) == lookers(
        adder, TASK, tokens
    )  # idle heads look everywhere
    assert lookers(adder, TASK, tokens, least=0.9)[1] == ()


def test_the_hand_made_model_reads_nothing_back(adder):
    rows = read_back(adder, TASK, n=20)
    assert [(r.k, r.run) for r in rows] == [(1, 1), (2, 1), (2, 2)]
    assert all(count.hits == 0 for r in rows for count in r[2:])
    assert rows[-1].other.n == 0  # there is no A_4


def test_a_model_that_reads_back_is_seen_to():
    """Layer 0 looks at the digit just written instead of the columns: a carry where it is not the sum's own."""
    model = reading_adder()
    (row,) = read_back(model, ArithmeticTask(2), n=50)
    assert row.passes.rate == 1.0
    assert row.other.n == 0


def reading_adder():
    """A 2-digit adder whose A_1 takes its carry from A_2 (1 or 0), right where column 1 passes."""
    task = ArithmeticTask(2)
    model = hand_made_adder(task, 1)
    attn = model.blocks[0].attn
    query = 1 + task.position("A1") - 1
    with torch.no_grad():
        attn.W_Q[1, query] = 0.0
        attn.W_Q[1, query, task.position("A2")] = 200.0 * task.n_ctx**0.5
        attn.W_V[1, 0, 0] = 20.0  # a written 1 counts as 10 or more: it carries
    return model


def test_the_u_test_moves_what_comes_through_and_nothing_else(adder):
    rows = u_test(adder, TASK, 1, [[Node.parse(x)] for x in ("P9L0H2", "P9L0H1", "P9L1MLP", "P10L0H1")], n=50)
    assert [(r.flip.rate, r.definite.rate, r.filler.rate) for r in rows] == [
        (1, 0, 0),
        (0, 0, 0),
        (1, 0, 0),
        (0, 0, 0),
    ]
    combiner = change(adder, TASK, 1, Node.parse("P9L1MLP"), n=50)
    assert combiner.passes > 0.5
    assert combiner.definite == 0.0
    clean, store, same = u_pairs(TASK, 1, n=30)[0]
    assert not same
    assert (targets(TASK, clean)[:, 2] != targets(TASK, store)[:, 2]).all()  # A_1 differs, and so does A_2
    with pytest.raises(ValueError, match="a column from 1 to 2, not 0"):
        u_test(adder, TASK, 0, [])
    assert "| 1.00 |" in table(rows, {"flip": "flip"})


# Plans ------------------------------------------------------------------------------------------------
def test_the_hand_made_model_follows_look_back_and_not_the_papers_plan(found):
    scores = {
        plan: score(plan(TASK), found.located) for plan in (plans.copies, plans.addition, *plans.RIVALS)
    }
    assert scores[plans.look_back_2].failed == ()
    assert scores[plans.copies].failed == ()
    assert scores[plans.all_ready].held == 0
    assert {r.text for r in scores[plans.boolean].failed} >= {"SC1 is carried by P8"}
    # ST2 is at the sign's own position: early enough
    assert scores[plans.addition].failed == ()


def test_plans_exist_for_every_task_and_name_real_sub_tasks():
    for task in (TASK, ArithmeticTask(3, "-"), BOTH):
        made = [plans.addition, plans.copies] if "+" in task.operations else []
        made += [plans.subtraction] if "-" in task.operations else []
        made += [plans.mixed] if task.operations == "+-" else []
        for plan in made:
            algorithm = plan(task)
            assert {*algorithm.needs} <= {*names(task)}
            assert algorithm.order


def test_peers_must_share_a_head():
    clause = plans.shared(("SA0", "MD0"))
    subtask = declare(TASK, "SA0")
    one = interchange(hand_made_adder(TASK), subtask, [Node.parse("P11L0H0")], n=20)
    assert clause.test({"SA0": [one], "MD0": [one]}) == (True, "in common: P11L0H0")
    assert not clause.test({"SA0": [one], "MD0": []})[0]


# Maps -------------------------------------------------------------------------------------------------
def test_the_map_has_the_papers_names_and_knows_what_each_node_is_for(adder):
    nodes_ = map_of(adder, TASK, n=200)
    row = nodes_["P10L0H1"]
    assert nodes_.impact_text(row) == "A1"
    assert {nodes_.labels[p] for p, w in row.attends if w > 0.3} == {"D0", "D'0"}
    assert [r.name for r in nodes_.where(attends="D'2", impacts="A3")] == ["P8L0H1"]
    assert nodes_.where(fails="S3", above=0.1).nodes
    assert set(nodes_.rows[0].classes) == {"S0", "S1", "S2", "S3"}


def test_questions_hold_every_class():
    task = ArithmeticTask(4, "+-")
    truth = task.variables(questions(task, 300))
    assert {*truth["S"].tolist()} == {-1, 0, 1, 2, 3, 4}
    assert {*truth["N"].tolist()} == {-1, 1, 2, 3, 4}
    assert len(questions(task, 300)) == 300


def test_an_explanation_is_data_and_a_picture(found, adder):
    again = Explanation.from_dict(json.loads(json.dumps(found.to_dict())))
    assert again.located == found.located
    assert again.labels == labels(TASK)
    picture = found.picture("Tags", map_of(adder, TASK, n=100))
    assert 'data-node="P10L0H1"' in picture.svg
    assert "SC0" in picture.svg
    assert "SA0" in found.picture("Tags").svg
    assert set(found.found("SC")) == {"SC0", "SC1", "SC2"}
    assert found.best("MD0") is None
    assert predicting(TASK, "A3") == writes_at(TASK, declare(TASK, "SC2")) == 8


# The control task -------------------------------------------------------------------------------------
def test_shuffled_answers_are_those_of_other_questions():
    task = ArithmeticTask(3, answers="shuffled")
    tokens = task.sample(500, generator=rng())
    plain = ArithmeticTask(3).sample(500, generator=rng())
    assert torch.equal(tokens[:, :8], plain[:, :8])
    assert torch.equal(task.solve(tokens), plain)
    assert (tokens == plain).all(1).double().mean() < 0.05
    assert sorted(map(tuple, tokens[:, 8:].tolist())) == sorted(map(tuple, plain[:, 8:].tolist()))
    with pytest.raises(ValueError, match="'own' or 'shuffled', not 'none'"):
        ArithmeticTask(3, answers="none")
