"""Steps of every algorithm, and its exact error rate."""

import doctest
from fractions import Fraction

import pytest
import torch

from mi_lab.studies.arithmetic import classes, rates, stepping
from mi_lab.studies.arithmetic.algorithms import ALGORITHMS
from mi_lab.studies.arithmetic.measure import every_question
from mi_lab.studies.arithmetic.rates import error_rate
from mi_lab.studies.arithmetic.stepping import steps
from mi_lab.studies.arithmetic.task import ArithmeticTask
from mi_lab.studies.arithmetic.trace import trace

PAIRS = [(name, operator) for name, a in ALGORITHMS.items() for operator in a.operations]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def questions(digits, operator, each=3):
    task = ArithmeticTask(digits, operator)
    drawn = [classes.sample(task, c, each, generator=seeded(digits)) for c in classes.names(task)]
    return task, torch.cat([task.sample(20, generator=seeded(1)), *drawn])


@pytest.mark.parametrize("module", [rates, stepping])
def test_examples(module):
    assert doctest.testmod(module).failed == 0


# ---- steps ----


@pytest.mark.parametrize(("name", "operator"), PAIRS)
@pytest.mark.parametrize("digits", [1, 3, 6, 15])
def test_steps_write_what_the_program_answers(name, operator, digits):
    task, tokens = questions(digits, operator)
    answers = ALGORITHMS[name].answers(task, tokens)
    for row, answer in zip(tokens, answers):
        text = task.decode(row)
        found = steps(task, text, name)
        assert "".join(s.writes[1] for s in found if s.writes) == task.decode(answer)
        assert [s.writes[0] for s in found if s.writes] == ["SGN", *(f"A{k}" for k in range(digits, -1, -1))]
        assert "".join(s.token for s in found) == text.partition("=")[0] + "=" + task.decode(answer)[:-1]
        assert [s.column for s in found if s.column is not None] == [*range(digits - 1, -1, -1)]


@pytest.mark.parametrize("operator", ["+", "-"])
def test_many_two_digit_questions(operator):
    task = ArithmeticTask(2, operator)
    for batch in every_question(task, operator):
        for name in (name for name, a in ALGORITHMS.items() if operator in a.operations):
            answers = ALGORITHMS[name].answers(task, batch)
            for row, answer in zip(batch[::23], answers[::23]):
                found = steps(task, task.decode(row), name)
                assert "".join(s.writes[1] for s in found if s.writes) == task.decode(answer), name


@pytest.mark.parametrize("operator", ["+", "-"])
@pytest.mark.parametrize("digits", [1, 3, 7])
def test_the_steps_of_the_papers_algorithm_are_its_trace(operator, digits):
    task, tokens = questions(digits, operator)
    for row in tokens:
        text = task.decode(row)
        assert steps(task, text) == trace(task, text)


def test_who_knows_what_when():
    task, text = ArithmeticTask(4), "1999+8001="
    at = {
        name: steps(task, text, name)[8]
        for name in ("st_sv", "look_back_2", "sc_only", "t_cascade", "ripple")
    }
    assert at["st_sv"].carries == {"SV3": "1", "SV2": "1", "SV1": "1", "SV0": "1"}
    assert at["look_back_2"].carries == {"SV3": "0", "SV2": "0", "SV1": "1", "SV0": "1"}
    assert at["sc_only"].carries == {"SV3": "0", "SV2": "0", "SV1": "0", "SV0": "1"}
    assert at["t_cascade"].states == {"T3": "10", "T2": "10", "T1": "10", "T0": "10"}
    before = {name: steps(task, text, name)[7] for name in at}
    assert before["st_sv"].carries == {"SV3": "U", "SV2": "U", "SV1": "U"}
    assert before["look_back_2"].carries == {"SV3": "0", "SV2": "0", "SV1": "U"}  # wrong, and sure of it
    assert before["t_cascade"].states == {"T3": "9", "T2": "9", "T1": "9"}
    assert before["ripple"].carries == {}
    assert str(steps(task, text, "look_back_2")[9].writes) == "('SGN', '+', 'an addition')"


def test_the_second_pass_negates():
    found = steps(ArithmeticTask(3, "-"), "041-047=", "two_pass")
    assert found[6].carries == {"MV2": "1", "MV1": "1", "MV0": "1"}
    assert found[7].states == {"R2": "9", "R1": "9", "R0": "4"}
    assert found[-1].writes == ("A0", "6", "-R0 = -4")
    assert found[-2].writes == ("A1", "0", "-R1 - RV0 = -9 - 1")


def test_steps_refuse():
    with pytest.raises(ValueError, match="no algorithm 'abacus'"):
        steps(ArithmeticTask(2), "1+1=", "abacus")
    with pytest.raises(ValueError, match="'ripple' has the operations '\\+', not '-'"):
        steps(ArithmeticTask(2, "-"), "1-1=", "ripple")


# ---- rates ----


@pytest.mark.parametrize("digits", [1, 2])
def test_error_rates_are_what_running_every_question_gives(digits):
    for name, operator in PAIRS:
        task, wrong = ArithmeticTask(digits, operator), 0
        for batch in every_question(task, operator):
            wrong += int((ALGORITHMS[name].first_error(task, batch) >= 0).sum())
        assert error_rate(name, digits, operator) == Fraction(wrong, 100**digits), name


def test_error_rates_of_three_digits():
    """All 10^6 questions of each operation, counted in test_arithmetic_algorithms."""
    counted = {("look_back_2", "+"): 4_500, ("sc_only", "+"): 90_000,
               ("sc_only", "-"): 40_500, ("misprinted_nd", "-"): 496_000}  # fmt: skip
    for pair in PAIRS:
        assert error_rate(pair[0], 3, pair[1]) == Fraction(counted.get(pair, 0), 10**6), pair


def test_error_rates_of_the_dossier():
    found = [float(100 * error_rate("look_back_2", n, "+")) for n in (3, 5, 6, 8, 10)]
    assert found == pytest.approx([0.45, 1.35, 1.798, 2.6879, 3.5697], abs=6e-5)
    found = [float(100 * error_rate("sc_only", n, "+")) for n in (3, 5, 6, 8, 10)]
    assert found == pytest.approx([9.0, 17.393, 21.294, 28.553, 35.143], abs=6e-4)


def test_error_rates_agree_with_the_theory_on_longer_numbers():
    for name, operator in PAIRS:
        task = ArithmeticTask(6, operator, enrichment="none")
        tokens = task.sample(40_000, generator=seeded(3))
        share = float(ALGORITHMS[name].wrong(task.variables(tokens)).double().mean())
        rate = float(error_rate(name, 6, operator))
        assert abs(share - rate) <= 4 * (rate / 40_000) ** 0.5, name


@pytest.mark.parametrize(
    "bad", [("abacus", 3, "+"), ("ripple", 3, "-"), ("st_sv", 0, "+"), ("st_sv", 3, "*")]
)
def test_error_rates_refuse(bad):
    with pytest.raises(ValueError, match=r"no algorithm|has the operations|at least 1"):
        error_rate(*bad)
