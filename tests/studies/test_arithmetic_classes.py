from fractions import Fraction
from math import sqrt

import pytest
import torch

from mi_lab.studies.arithmetic import classes, edges
from mi_lab.studies.arithmetic.measure import every_question
from mi_lab.studies.arithmetic.task import ArithmeticTask


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def plain(digits, operations="+"):
    return ArithmeticTask(digits, operations, enrichment="none")


# Per cent of all questions, by enumeration: the tables of the arithmetic dossier.
UNIFORM = {
    ("S", 3): (16.6375, 74.3625, 8.55, 0.45),
    ("S", 5): (5.0328, 77.5747, 16.0425, 1.26, 0.0855, 0.0045),
    ("S", 6): (2.7681, 75.9378, 19.4961, 1.663, 0.126, 0.009),
    ("S", 8): (0.8373, 70.6094, 25.8654, 2.4629, 0.207, 0.018),
    ("S", 10): (0.2533, 64.6039, 31.5731, 3.2548, 0.2879, 0.027),
    ("M", 3): (16.6375, 31.3875, 2.025),
    ("M", 5): (5.0328, 38.5585, 5.9839, 0.405, 0.0202),
    ("M", 6): (2.7681, 38.7644, 7.8175, 0.6075, 0.0425),
    ("N", 3): (0, 43.4295, 6.1155, 0.405),
    ("N", 5): (0, 39.43, 9.6902, 0.8141, 0.0652),
    ("N", 6): (0, 37.5677, 11.3296, 1.0148, 0.0879),
}
ENRICHED = {
    3: (38.90, 36.26, 19.13, 5.71),
    5: (20.73, 34.22, 27.91, 11.88, 4.05, 1.21),
    6: (15.13, 31.83, 30.51, 14.64, 5.47, 2.42),
    10: (4.30, 20.76, 34.06, 22.90, 10.74, 7.24),
}


@pytest.mark.parametrize(("kind", "digits"), UNIFORM)
def test_frequencies_equal_the_tables_to_every_digit(kind, digits):
    table = UNIFORM[kind, digits]
    exact = classes.frequencies(digits, kind)
    for printed, p in zip(table, exact, strict=False):
        assert abs(float(100 * p) - printed) <= 0.5001e-4
    assert not any(exact[len(table) :])


@pytest.mark.parametrize("digits", ENRICHED)
def test_frequencies_of_enriched_columns_equal_the_table(digits):
    exact = classes.frequencies(digits, "S", classes.enriched_columns("+"))
    for printed, p in zip(ENRICHED[digits], exact, strict=False):
        assert abs(float(100 * p) - printed) <= 0.5001e-2


@pytest.mark.parametrize(("digits", "percent"), [(3, 0.45), (5, 1.35), (6, 1.798), (8, 2.6879), (10, 3.5697)])
def test_look_back_2_must_fail_on_this_share(digits, percent):
    assert abs(float(100 * sum(classes.frequencies(digits, "S")[3:])) - percent) <= 0.5001e-4


@pytest.mark.parametrize("digits", [1, 3, 7, 18])
def test_shares_add_up_to_one_and_swapped_negatives_mirror_positives(digits):
    s, m, n, swapped = (classes.frequencies(digits, kind) for kind in classes.OPERATION)
    assert sum(s) == 1
    assert s[0] == Fraction(55, 100) ** digits
    assert sum(m) + sum(n) == sum(m) + sum(swapped) == 1
    equal = Fraction(1, 10) ** digits
    assert swapped == (m[0] - equal, *m[1:])


def test_frequencies_equal_a_count_of_all_questions():
    for operator in "+-":
        task = plain(2, operator)
        truth = task.variables(torch.cat(list(every_question(task, operator))))
        for kind, wanted in classes.OPERATION.items():
            if wanted == operator:
                count = [int((truth[kind] == level).sum()) for level in range(classes.CAPS[kind] + 1)]
                assert tuple(Fraction(c, 10_000) for c in count) == classes.frequencies(2, kind)


@pytest.mark.parametrize("digits", [1, 3, 5, 18])
def test_every_class_is_drawn_as_asked(digits):
    task = plain(digits, "+-")
    for name in classes.names(task):
        kind, level = classes.parse(name)
        tokens = classes.sample(task, name, 500, generator=seeded(digits))
        assert torch.equal(task.solve(tokens), tokens)
        assert (task.variables(tokens)[kind] == level).all(), name


@pytest.mark.parametrize("name", ["S1", "S2", "M1", "N1", "N2", "N_swapped0"])
def test_every_question_of_a_class_is_equally_likely(name):
    kind, level = classes.parse(name)
    task = plain(2, classes.OPERATION[kind])
    everything = torch.cat(list(every_question(task, classes.OPERATION[kind])))
    belongs = task.variables(everything)[kind] == level
    tokens = classes.sample(task, name, 40_000, generator=seeded(1))
    count = torch.bincount(
        (tokens[:, [0, 1, 3, 4]] * torch.tensor([1000, 100, 10, 1])).sum(1), minlength=10_000
    )
    assert not count[~belongs].any()
    expected = 40_000 / int(belongs.sum())
    freedom = int(belongs.sum()) - 1
    statistic = float(((count[belongs] - expected) ** 2 / expected).sum())
    assert abs(statistic - freedom) < 5 * sqrt(2 * freedom)


def test_the_same_generator_gives_the_same_questions():
    a, b = (classes.sample(plain(6), "S4", 20, generator=seeded(2)) for _ in range(2))
    assert torch.equal(a, b)


def test_enriched_subtractions_have_their_own_law():
    exact = classes.sampled_frequencies(ArithmeticTask(3, "-", enrichment="as_described"), "M")
    plain_law = classes.sampled_frequencies(plain(3, "-"), "M")
    assert sum(exact) < sum(plain_law) == Fraction(1, 2) + Fraction(1, 2000)


@pytest.mark.parametrize("name", ["S6", "M5", "X1", "S", "N_swapped9"])
def test_an_unknown_class_is_refused(name):
    with pytest.raises(ValueError, match=f"there is no class '{name}'"):
        classes.sample(plain(6, "+-"), name, 1, generator=seeded())


def test_a_class_that_the_task_lacks_is_refused():
    with pytest.raises(ValueError, match="M1 is a class of '-', this task has '\\+'"):
        classes.sample(plain(3), "M1", 1, generator=seeded())
    with pytest.raises(ValueError, match="no question of 3 digits is in class S4"):
        classes.sample(plain(3), "S4", 1, generator=seeded())
    with pytest.raises(ValueError, match="no question of 6 digits is in class N0"):
        classes.sample(plain(6, "-"), "N0", 1, generator=seeded())
    with pytest.raises(ValueError, match="no kind of class 'T'"):
        classes.frequencies(3, "T")


# ---- edge sets ----


def numbers(task, tokens):
    x, y, _ = task.operands(tokens)
    powers = 10 ** torch.arange(task.digits - 1, -1, -1)
    return (x * powers).sum(1), (y * powers).sum(1)


HOLDS = {
    "equal": lambda t, a, b: a == b,
    "nines": lambda t, a, b: (a == 10**t.digits - 1) | (b == 10**t.digits - 1),
    "zero": lambda t, a, b: (a == 0) | (b == 0),
    "sum_of_nines": lambda t, a, b: a + b == 10**t.digits - 1,
    "short": lambda t, a, b: torch.maximum(a, b) < 10 ** (t.digits // 2),
} | {f"difference_{k}": (lambda t, a, b, k=k: (a - b).abs() == k) for k in range(1, 10)}


@pytest.mark.parametrize("name", edges.EDGES)
@pytest.mark.parametrize("digits", [2, 6, 18])
def test_edge_sets_hold_what_they_promise(name, digits):
    task = plain(digits, "+-")
    for operator in edges.EDGES[name].operations:
        tokens = edges.sample(task, name, 300, operator=operator, generator=seeded(3))
        assert torch.equal(task.solve(tokens), tokens)
        assert (tokens[:, digits] == "0123456789+-".index(operator)).all()
        truth = task.variables(tokens)
        if name == "full_carry":
            assert truth["SV"].all()
            assert truth["SS"][:, 1:].all()
        elif name == "full_borrow":
            assert not truth["SGN"].any()
            assert truth["MV"][:, :-1].all()
            assert truth["MZ"][:, 1:-1].all()
        else:
            assert HOLDS[name](task, *numbers(task, tokens)).all()


def test_both_signs_occur_among_small_differences():
    tokens = edges.sample(plain(6, "-"), "difference_6", 200, generator=seeded(4))
    assert 0.3 < plain(6, "-").variables(tokens)["SGN"].float().mean() < 0.7


def test_a_mixed_task_draws_both_operators_where_both_make_sense():
    tokens = edges.sample(plain(4, "+-"), "equal", 200, generator=seeded(5))
    assert set(tokens[:, 4].tolist()) == {10, 11}


def test_edge_sets_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="no edge set 'odd'"):
        edges.sample(plain(4), "odd", 1, generator=seeded())
    with pytest.raises(ValueError, match="'full_borrow' is about '-'"):
        edges.sample(plain(4), "full_borrow", 1, generator=seeded())
    with pytest.raises(ValueError, match="asked for is '-' in a task with '\\+'"):
        edges.sample(plain(4), "equal", 1, operator="-", generator=seeded())
    with pytest.raises(ValueError, match="needs at least 2 digits, this task has 1"):
        edges.sample(plain(1, "-"), "full_borrow", 1, generator=seeded())
    assert "full_borrow" not in edges.names(plain(1, "-"))
    assert "full_carry" not in edges.names(plain(4, "-"))


@pytest.mark.parametrize(("digits", "operator"), [(2, "+"), (3, "-"), (5, "-"), (7, "+"), (7, "-")])
def test_rates_by_class_make_up_the_rate_of_all(digits, operator):
    """Wrong wherever the lowest digits are equal, say: in a tenth of all questions, in other shares of the classes."""
    task = plain(digits, operator)
    generator = torch.Generator().manual_seed(5)

    def rate(tokens):
        return float((tokens[:, digits - 1] == tokens[:, 2 * digits]).float().mean())

    rates = {n: rate(classes.sample(task, n, 20_000, generator=generator)) for n in classes.names(task)}
    assert classes.weighted(digits, operator, rates) == pytest.approx(0.1, abs=0.004)
    with pytest.raises(KeyError):
        classes.weighted(digits, operator, {k: v for k, v in rates.items() if k[-1] != "1"})
