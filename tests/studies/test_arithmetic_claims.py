"""The arithmetic claims on behaviour: planted answers pass, planted faults fail, what is missing is said."""

from __future__ import annotations

import math
import re
from dataclasses import replace

import numpy as np
import pytest
import torch

from mi_lab import zoo
from mi_lab.claims import verify
from mi_lab.studies.arithmetic import classes
from mi_lab.studies.arithmetic import counts as counting
from mi_lab.studies.arithmetic.algorithms import ALGORITHMS
from mi_lab.studies.arithmetic.claims import CLAIMS, algorithms, common, mixed, solved, starts, training
from mi_lab.studies.arithmetic.measure import Development, Failures, uniform_questions
from mi_lab.studies.arithmetic.recipes import compact, config, recipes
from mi_lab.studies.arithmetic.task import ArithmeticTask
from mi_lab.train import fit

BY_ID = {claim.id: claim for claim in CLAIMS}


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_claims_stand_in_the_dossiers_order():
    numbers = [(int(re.findall(r"\d+", c.id)[0]), c.id) for c in CLAIMS]
    assert numbers == sorted(numbers)
    assert len(BY_ID) == len(CLAIMS)


# A1, A2 ---------------------------------------------------------------------------------------------
@pytest.fixture
def short(monkeypatch):
    """Fewer lengths and questions; three digits in full all the same."""
    monkeypatch.setattr(algorithms, "LONGEST", 5)
    monkeypatch.setattr(algorithms, "N", 2_000)


@pytest.mark.parametrize("id", ["A1", "A2"])
def test_the_papers_algorithm_is_arithmetic_and_its_rivals_are_not(short, id):
    found = verify(BY_ID[id])
    assert (found.outcome, found.passed, found.sound) == ("reproduced", 5, True)
    assert found.values["asked"][:3] == [100, 10_000, 1_000_000]


def test_look_back_2_is_wrong_on_exactly_as_many_as_the_theory_says(short):
    control = verify(BY_ID["A1"]).controls[0]
    assert control["values"]["wrong"][:3] == [0, 0, 4_500]


@pytest.mark.parametrize(("id", "fault"), [("A1", "look_back_2"), ("A2", "misprinted_nd")])
def test_a_faulty_algorithm_is_not_reproduced(short, monkeypatch, id, fault):
    monkeypatch.setitem(ALGORITHMS, "st_sv", ALGORITHMS[fault])
    assert verify(replace(BY_ID[id], measure=algorithms._answers("st_sv", "+-"["A1A2".index(id) // 2]))).outcome in (
        "seed-dependent", "not reproduced",
    )  # fmt: skip


# A3 ---------------------------------------------------------------------------------------------------
FIVE = ArithmeticTask(5)


def row_of(wrong_by: str | None) -> dict[str, float]:
    tokens = uniform_questions(FIVE, "+", 40_000, seed=1)
    bad = torch.zeros(len(tokens), dtype=torch.bool)
    if wrong_by:
        bad = ALGORITHMS[wrong_by].first_error(FIVE, tokens) >= 0
    return solved.cascade_row(bad, FIVE, tokens)


def test_a_model_that_looks_back_two_columns_would_be_recognised():
    found = row_of("look_back_2")
    assert found["total"] == found["look-back 2"] == pytest.approx(0.0135, abs=0.002)
    assert found["failures in S3+"] == found["S3+"] == found["as look-back 2"] == 1
    assert solved._look_back(0.010, 0.016)(found)
    assert not BY_ID["A3c"].accept.test(found)


@pytest.mark.parametrize("other", ["sc_only", None])
def test_a_model_that_does_something_else_would_not(other):
    found = row_of(other)
    assert not BY_ID["A3"].accept.test(found)
    assert found["failures in S3+"] < 0.2


def test_wrong_answers_outside_cascades_count_against_it():
    found = row_of("look_back_2")
    assert not BY_ID["A3"].accept.test({**found, "S1": 0.01})
    assert not BY_ID["A3"].accept.test({**found, "failures in S3+": 0.9})


# What is missing ----------------------------------------------------------------------------------------
def test_a_claim_without_its_models_is_not_testable_and_says_what_is_missing(monkeypatch):
    there = {"add_d5_l2_h3": (0, 1), "add_d5_l1_h3": (0,)}
    monkeypatch.setattr(common, "seeds", lambda name: there.get(name, ()))
    claim = BY_ID["A22"]
    assert common.needing(claim, {"add_d5_l2_h3": 2}) is claim
    missing = common.needing(claim, {"add_d5_l2_h3": 3, "add_d5_l1_h3": 1})
    assert missing.measure is None
    assert missing.limits.startswith("Not trained yet: add_d5_l2_h3 has 2 of 3 seeds. ")
    assert verify(missing).outcome == "not testable"
    few = common.needing(claim, dict.fromkeys(there, 0), together=4)
    assert few.limits.startswith("Not trained yet: 3 of 4 models of add_d5_l2_h3, add_d5_l1_h3. ")
    assert common.needing(claim, dict.fromkeys(there, 0), together=3) is claim


def test_claims_are_testable_or_say_what_is_not_trained():
    for claim in CLAIMS:
        if claim.measure is None:
            assert claim.limits.startswith("Not trained yet: "), claim.id


def test_published_seeds_are_read_from_the_head_of_the_file():
    for name in ("add_d3_l2_h3", "add_d5_l2_h3"):
        assert common.seeds(name) == zoo.read(f"arithmetic/{name}").labels
    assert common.seeds("nothing") == ()


# Counts -------------------------------------------------------------------------------------------------
@pytest.fixture
def counts(monkeypatch):
    """Call it with wrong answers per million, {recipe: {"+": one per seed, ..}}; classes and edges are all right."""

    def put(rates: dict[str, dict[str, list[int]]], worst: dict[str, int] | None = None) -> None:
        def counted(recipe: str, seed: int) -> dict[str, Failures]:
            task = counting.task_of(recipe)
            found = {f"uniform {o}": Failures(wrong[seed], 10**6) for o, wrong in rates[recipe].items()}
            found |= {f"class {name}": Failures(0, 100_000) for name in classes.names(task)}
            found |= {"edge equal +": Failures(0, 10_000)}
            found |= {key: Failures(n, 100_000) for key, n in (worst or {}).items()}
            return found

        def seeds(recipe: str) -> tuple[int, ...]:
            return tuple(range(len(next(iter(rates[recipe].values()))))) if recipe in rates else ()

        for module in (common, mixed, solved):
            monkeypatch.setattr(module, "counted", counted)
            monkeypatch.setattr(module, "seeds", seeds, raising=False)
        monkeypatch.setattr(common, "sources", lambda *names: {})

    return put


def sub(*wrong: int) -> dict[str, list[int]]:
    return {"+": [0] * len(wrong), "-": list(wrong)}


def donors(scratch, started, shuffled):
    return {starts.SCRATCH: sub(*scratch), starts.STARTED: sub(*started), starts.SHUFFLED: sub(*shuffled)}


def verdict_of_transfer():
    claim = BY_ID["A17"]
    shuffled = starts.Control("shuffled", starts._transfer(starts._no_transfer(starts.SMALL_TRANSFER)))
    return verify(replace(claim, measure=starts._transfer(starts.SMALL_TRANSFER), controls=(shuffled,)))


def test_transfer_counts_only_if_the_true_donor_beats_the_shuffled_one(counts):
    counts(donors((500, 800, 600), (10, 20, 0), (500, 400, 700)))
    found = verdict_of_transfer()
    assert (found.outcome, found.sound) == ("reproduced", True)
    assert found.values["gain"] == [490, 780, 600]
    assert found.values["gain over shuffled"] == [490, 380, 700]
    assert found.value[1] > 0
    counts(donors((500, 800, 600), (10, 20, 0), (5, 0, 0)))
    assert verdict_of_transfer().outcome == "not reproduced", "norms alone did it"
    counts(donors((50, 0, 60), (10, 20, 0), (500, 400, 700)))
    assert verdict_of_transfer().outcome == "seed-dependent"


def test_subtraction_is_compared_with_addition_seed_by_seed(counts):
    claim = BY_ID["A15"]
    control = mixed.Control("addition", mixed._alone("add_d3_l2_h3"))
    for wrong, outcome in (
        ((5, 7, 1), "reproduced"),
        ((5, 0, 0), "seed-dependent"),
        ((0, 0, 0), "not reproduced"),
    ):
        counts({"sub_d3_l2_h3": {"-": list(wrong)}, "add_d3_l2_h3": {"+": [0, 0, 0]}})
        found = verify(replace(claim, measure=mixed._alone("sub_d3_l2_h3"), controls=(control,)))
        assert (found.outcome, found.sound) == (outcome, True)


@pytest.mark.parametrize(
    ("add", "minus", "accepted"), [(5, 10, True), (6, 0, False), (0, 11, False), (0, 0, True)]
)
def test_both_operations_have_their_own_bar(counts, add, minus, accepted):
    counts({"mix_d6_l3_h4": {"+": [add], "-": [minus]}}, {"class M3": 700, "class N_swapped3": 900})
    row = mixed._both("mix_d6_l3_h4", 0)
    assert mixed.LEARNED.test(row) is accepted
    assert row["worst M"] == pytest.approx(0.007)
    assert row["worst N"] == 0, "the swapped classes are another kind"


def test_transfer_at_five_digits_weighs_the_classes(counts):
    names = dict(zip(starts.TRANSFER, ((0, 0), (0, 0), (0, 0))))
    counts({name: sub(*wrong) for name, wrong in names.items()}, {"class M4": 700, "class N_swapped3": 900})
    row = starts._transfer(starts.TRANSFER, **starts.EXACT)(False).row(1)
    share = float(classes.frequencies(5, "M")[4])
    assert row["started"] == pytest.approx(1e6 * share * 0.007), (
        "uniform counts are 0; swapped classes are others"
    )
    assert row["gain"] == row["gain over shuffled"] == 0
    assert not BY_ID["A17b"].accept.test(row)


def test_resets_are_judged_by_their_ratio(counts):
    names = starts.RESETS
    claim = BY_ID["A20"]
    for wrong, passes in (((2, 8, 3120), True), ((2, 3120, 8), False), ((2, 8, 20), False)):
        counts({name: sub(w) for name, w in zip(names, wrong)})
        found = starts._resets(*starts.RESETS)(False)
        assert claim.accept.test(found.row(0)) is passes


def test_bars_of_addition_are_by_length():
    assert [solved.bar(n) for n in (3, 5, 10, 12)] == [0, 10, 10, 20]
    accept = BY_ID["A4"].accept.test
    assert accept({"per million": 10, "bar": 10, "live wrong": 2})
    assert not accept({"per million": 11, "bar": 10, "live wrong": 0})
    assert not accept({"per million": 0, "bar": 10, "live wrong": 3})
    assert {counting.task_of(name).digits for name in solved.SCORED} == {3, 5, 6, 7, 8, 9, 10, 12, 13}


def test_a_rare_class_that_fails_or_was_not_asked_enough_is_not_accepted():
    accept = BY_ID["A5"].accept.test
    fine = {"worst class": 1e-5, "asked": 100_000, "live worst class": 0}
    assert accept(fine)
    assert not accept({**fine, "worst class": 2e-5})
    assert not accept({**fine, "asked": 20_000})
    assert not accept({**fine, "live worst class": 0.001})


def test_counts_that_are_not_complete_are_asked_for(monkeypatch):
    monkeypatch.setattr(counting, "failures_of", lambda recipe, seed: {"uniform +": Failures(0, 100_000)})
    with pytest.raises(
        RuntimeError, match=r"add_d3_l2_h3 seed 0 has not been counted in full \(class S0 is missing\)"
    ):
        common.counted("add_d3_l2_h3", 0)


# A6 -----------------------------------------------------------------------------------------------------
STEPS = np.array([0, 10, 100, 1000])


def curves(token: dict[str, int], by_class: dict[str, int]) -> Development:
    """Each token and class is right from the kept step of the given place on."""
    names = ["SGN", "A2", "A1", "A0"]
    shares = np.array([[[float(i >= token[n]) for n in names] for i in range(4)]])
    kinds = ["uniform", *by_class]
    right = np.array([[[float(i >= by_class.get(k, 0)) for k in kinds] for i in range(4)]])
    empty = np.zeros((1, 4))
    return Development(STEPS, np.array([0]), np.array(kinds), 1 - shares, shares, right, STEPS, empty)


def test_sign_and_leading_digit_first_is_accepted_only_then():
    rights = {"S0": 1, "S1": 1, "S2": 2, "S3": 3}
    first = curves({"SGN": 1, "A2": 2, "A1": 2, "A0": 3}, rights)
    row = training.tokens_row(first, 0)
    assert row == {
        "SGN": 10,
        "leading digit": 100,
        "first other digit": 100,
        "last digit": 1000,
        "units": 1000,
    }
    accept = BY_ID["A6"].accept.test
    assert accept(row)
    assert not accept(training.tokens_row(first, 0, backwards=True))
    assert not accept(training.tokens_row(curves({"SGN": 1, "A2": 2, "A1": 2, "A0": 1}, rights), 0))


def test_classes_in_order_are_accepted_and_a_class_never_mastered_is_not():
    token = {"SGN": 1, "A2": 1, "A1": 1, "A0": 1}
    accept = BY_ID["A6b"].accept.test
    row = training.classes_row(curves(token, {"S0": 1, "S1": 1, "S2": 2, "S3": 3, "S4": 3}), 0)
    assert row == {"S3+": 1000, "S0": 10, "S1": 10, "S2": 100, "S3": 1000}
    assert accept(row)
    never = training.classes_row(curves(token, {"S0": 1, "S1": 1, "S2": 2, "S3": 3, "S4": 4}), 0)
    assert never["S3+"] == math.inf
    assert not accept(never)
    assert not accept(training.classes_row(curves(token, {"S0": 2, "S1": 1, "S2": 2, "S3": 3}), 0))


# A22 ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("operator", "kind"), [("+", "S"), ("-", "M"), ("-", "N_swapped")])
def test_the_histogram_knows_the_law_and_another_one(operator, kind):
    task = ArithmeticTask(4, operator)
    assert training.histogram_row(task, task, kind, 20_000)["largest deviation"] < 4
    plain = replace(task, enrichment="none")
    assert training.histogram_row(plain, task, kind, 20_000)["largest deviation"] > 6


def test_the_trend_is_earlier_mastery(monkeypatch):
    token = {"SGN": 1, "A2": 1, "A1": 1, "A0": 1}
    place = {training.SHARES[0]: 4, training.SHARES[1]: 3, training.SHARES[2]: 2}
    monkeypatch.setattr(
        training, "development", lambda name: curves(token, {"S0": 1, "S1": 1, "S2": 1, "S3": place[name]})
    )
    monkeypatch.setattr(training, "sources", lambda *names: {})
    found = training._trend(training.SHARES)(False)
    assert found.row(0) == {"none": 2000, "40 %": 1000, "60 %": 100, "saved": 1000}
    accept = BY_ID["A22b"].accept.test
    assert accept(found.row(0))
    same = training._trend((training.SHARES[0], training.SHARES[0], training.SHARES[2]))(False)
    assert not accept(same.row(0))


# A23 ----------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def half_trained():
    recipe = compact("mix", 1, 1, 2, steps=150, batch=64)
    recipe = replace(recipe, name="tiny", config=config(recipe.task, 1, 2, width=24), lr=3e-3)
    return recipe, fit(recipe, seeds=(0,), device="cpu", progress=False).model()


def test_free_and_shown_runs_fail_on_the_same_questions(half_trained, monkeypatch):
    recipe, model = half_trained
    monkeypatch.setitem(recipes, "tiny", recipe)
    monkeypatch.setattr(solved, "model", lambda name, seed: model)
    row = solved._free("tiny", 0)
    assert row["questions that differ"] == 0
    assert row["wrong when shown"] == row["wrong alone"] > 0
    assert row["asked"] == 100 * len(["S0", "S1", "M0", "N1"])
    assert solved._free("tiny", 0, other=True)["asked"] == row["asked"]


def test_a_model_that_copies_what_it_is_shown_parts_from_itself(half_trained, monkeypatch):
    """Right only if the answer so far is: shown another's it fails on what it can do alone."""
    recipe, model = half_trained
    task = recipe.task
    monkeypatch.setitem(recipes, "tiny", recipe)
    monkeypatch.setattr(solved, "model", lambda name, seed: model)

    def shown(found, task, tokens):
        answer = task.solve(tokens)[:, task.answer.start + 1 :].clone()
        given = tokens[:, task.answer.start + 1 :]
        answer[:, 1:] = torch.where(given[:, :-1] == answer[:, :-1], answer[:, 1:], 10)
        return answer

    monkeypatch.setattr(solved, "predict", shown)
    monkeypatch.setattr(solved, "generate", lambda found, task, tokens: task.solve(tokens))
    assert solved._free("tiny", 0)["questions that differ"] == 0
    assert solved._free("tiny", 0, other=True)["questions that differ"] > 100
    assert task.answer.stop - task.answer.start == 3
