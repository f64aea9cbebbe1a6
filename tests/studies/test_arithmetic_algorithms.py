import pytest
import torch

from mi_lab.studies.arithmetic import classes
from mi_lab.studies.arithmetic.algorithms import ALGORITHMS, Algorithm, adding, look_back
from mi_lab.studies.arithmetic.measure import every_question
from mi_lab.studies.arithmetic.task import ArithmeticTask
from mi_lab.studies.arithmetic.trace import trace

THREE = ArithmeticTask(3, "+-", enrichment="none")
# Wrong answers among all 10^6 questions of three digits: by theory, and the numbers of the dossier.
WRONG = {
    "+": {"look_back_2": 4_500, "sc_only": 90_000},
    "-": {"look_back_2": 0, "sc_only": 40_500, "misprinted_nd": 496_000},
}


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def doing(operator):
    return {name: a for name, a in ALGORITHMS.items() if operator in a.operations}


@pytest.mark.parametrize("operator", ["+", "-"])
def test_on_all_three_digit_questions_each_program_is_wrong_exactly_where_theory_says(operator):
    count = dict.fromkeys(doing(operator), 0)
    for questions in every_question(THREE, operator, batch=50_000):
        truth = THREE.variables(questions)
        for name, algorithm in doing(operator).items():
            wrong = algorithm.first_error(THREE, questions) >= 0
            assert torch.equal(wrong, algorithm.wrong(truth)), name
            count[name] += int(wrong.sum())
    assert count == dict.fromkeys(count, 0) | WRONG[operator]


@pytest.mark.parametrize("name", ALGORITHMS)
@pytest.mark.parametrize("digits", [1, 2, 5, 8, 18])
def test_on_long_numbers_too(name, digits):
    algorithm = ALGORITHMS[name]
    task = ArithmeticTask(digits, algorithm.operations)
    tokens = [task.sample(2000, generator=seeded(digits))]
    tokens += [classes.sample(task, c, 100, generator=seeded(digits)) for c in classes.names(task)]
    tokens = torch.cat(tokens)
    wrong = algorithm.first_error(task, tokens) >= 0
    assert torch.equal(wrong, algorithm.wrong(task.variables(tokens)))


@pytest.mark.parametrize("columns", [1, 2, 3, 4])
def test_looking_back_fails_on_every_longer_cascade_and_on_no_other(columns):
    task = ArithmeticTask(6, "+", enrichment="none")
    algorithm = Algorithm("", "control", adding(look_back(columns)), None, lambda v: v["S"] > columns)
    for level in range(6):
        tokens = classes.sample(task, f"S{level}", 500, generator=seeded(level))
        wrong = algorithm.first_error(task, tokens) >= 0
        assert wrong.all() if level > columns else not wrong.any()


@pytest.mark.parametrize("digits", [3, 4, 5, 6])
def test_three_heads_fail_as_often_as_look_back_2_does_with_one_digit_less(digits):
    # and at three digits not at all: the leading digit has a head to spare
    task = ArithmeticTask(digits, enrichment="none")
    expected = float(sum(classes.frequencies(digits - 1, "S")[3:]))
    seen = 0.0
    for level, p in enumerate(classes.frequencies(digits, "S")):
        if p:
            tokens = classes.sample(task, f"S{level}", 20_000, generator=seeded(level))
            wrong = ALGORITHMS["three_heads"].first_error(task, tokens) >= 0
            assert level >= 3 or not wrong.any()
            seen += float(p) * float(wrong.float().mean())
    assert seen == pytest.approx(expected, rel=0.03)


def test_first_error_is_the_highest_wrong_token():
    task = ArithmeticTask(3)
    tokens = torch.stack([task.encode(q) for q in ("499+501=", "149+051=", "444+333=")])
    assert ALGORITHMS["sc_only"].first_error(task, tokens).tolist() == [1, 2, -1]
    assert task.decode(ALGORITHMS["sc_only"].answers(task, tokens)[0]) == "+0900"


def test_an_algorithm_refuses_what_it_cannot_do():
    task = ArithmeticTask(3, "-")
    with pytest.raises(ValueError, match="has the operations '\\+', not '-'"):
        ALGORITHMS["ripple"].answers(task, task.sample(2, generator=seeded()))


# ---- the trace ----


@pytest.mark.parametrize("operations", ["+", "-"])
def test_a_trace_writes_the_right_answer_and_leaves_nothing_open(operations):
    task = ArithmeticTask(5, operations)
    for row in task.sample(60, generator=seeded(9)):
        text = task.decode(row)
        steps = trace(task, text)
        assert [s.position for s in steps] == list(range(task.n_ctx - 1))
        assert "".join(s.token for s in steps) == text[:-1]
        assert "".join(s.writes[1] for s in steps if s.writes) == text.partition("=")[2]
        assert "U" not in steps[-1].carries.values()
        assert [s.column for s in steps if s.column is not None] == [4, 3, 2, 1, 0]


def test_a_trace_folds_as_the_paper_does():
    steps = trace(ArithmeticTask(3), "199+802=")
    assert steps[3].states == {}
    assert steps[4].carries == {"SV2": "U"}
    assert steps[5].carries == {"SV2": "U", "SV1": "U"}
    assert steps[6].states == {"ST2": "U", "ST1": "U", "ST0": "1"}
    assert steps[6].carries == {"SV2": "1", "SV1": "1", "SV0": "1"}
    assert steps[8].writes == ("A3", "1", "SV2")
    assert steps[9].writes == ("A2", "0", "SA2 + SV1 = 9 + 1")
    assert str(steps[4]) == "P4  8  ST2=U  SV2=U"


def test_a_negative_difference_changes_to_the_swapped_numbers_at_the_sign():
    steps = trace(ArithmeticTask(3, "-"), "041-047=")
    assert steps[6].carries == {"MV2": "1", "MV1": "1", "MV0": "1"}
    assert steps[7].writes == ("SGN", "-", "MV2 = 1")
    assert steps[7].carries == {"NV2": "0", "NV1": "0", "NV0": "0"}
    assert steps[-1].writes == ("A0", "6", "ND0")
