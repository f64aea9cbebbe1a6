from collections import Counter
from itertools import combinations, pairwise
from math import comb, sqrt

import pytest
import torch

from mi_lab.studies.sorting.task import SortingTask, tilted_spans

TASKS = {
    "paper": SortingTask(),
    "repeats": SortingTask(6, 20, repeats=True),
    "window": SortingTask(10, 51, window=14),
    "mean gap": SortingTask(10, 51, mean_gap=2.5),
    "two numbers, tilted": SortingTask(2, 30, mean_gap=4.0),
    "whole window": SortingTask(5, 12, window=12),
    "permutations": SortingTask(5, 5),
}


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def gaps(task, tokens):
    return tokens[:, task.length + 1 :].diff(dim=1)


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
def test_every_example_obeys_the_law(task):
    tokens = task.sample(3000, generator=seeded())
    lists, middle, answer = tokens.split([task.length, 1, task.length], dim=1)
    assert tokens.shape == (3000, task.n_ctx)
    assert tokens.dtype == torch.int64
    assert lists.min() >= 0
    assert lists.max() < task.n_numbers
    assert (middle == task.separator).all()
    assert torch.equal(answer, lists.sort(1).values)
    assert task.repeats or (gaps(task, tokens) > 0).all()
    if task.window is not None:
        assert (answer[:, -1] - answer[:, 0]).max() < task.window
    assert torch.equal(task.solve(tokens), tokens)


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
def test_the_expected_gap_is_exact(task):
    means = gaps(task, task.sample(40_000, generator=seeded(1))).double().mean(1)
    error = means.std() / sqrt(len(means))
    assert abs(means.mean() - task.expected_gap) <= 4 * error + 1e-12


def test_repeats_occur_exactly_where_they_may():
    assert (gaps(TASKS["repeats"], TASKS["repeats"].sample(500, generator=seeded())) == 0).any()


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
def test_every_order_is_equally_likely(task):
    tokens = task.sample(20_000, generator=seeded(2))
    smallest = tokens[:, : task.length].argmin(1)
    if task.repeats:  # argmin takes the first of equals
        return
    share = torch.bincount(smallest, minlength=task.length) / len(tokens)
    p = 1 / task.length
    assert (share - p).abs().max() < 4.5 * sqrt(p * (1 - p) / len(tokens))


def law(task):
    """Probability of every set of numbers, by enumeration."""
    length, numbers = task.length, task.n_numbers
    out = Counter()
    if task.mean_gap is not None:
        spans, weights = tilted_spans(length, numbers, task.mean_gap)
        for chosen in combinations(range(numbers), length):
            span = chosen[-1] - chosen[0]
            places = comb(span - 1, length - 2) * (numbers - span)
            out[chosen] = weights[spans.index(span)] / places
    else:
        window = task.window or numbers
        offsets = numbers - window + 1
        for offset in range(offsets):
            for chosen in combinations(range(offset, offset + window), length):
                out[chosen] += 1 / offsets / comb(window, length)
    assert abs(sum(out.values()) - 1) < 1e-9
    return out


@pytest.mark.parametrize(
    "task",
    [
        SortingTask(3, 7),
        SortingTask(3, 8, window=5),
        SortingTask(3, 7, mean_gap=1.6),
        SortingTask(3, 7, mean_gap=2.6),
        SortingTask(2, 6, mean_gap=2.0),
    ],
    ids=str,
)
def test_every_set_comes_as_often_as_enumeration_says(task):
    n, wanted = 60_000, law(task)
    tokens = task.sample(n, generator=seeded(3))
    seen = Counter(map(tuple, tokens[:, task.length + 1 :].tolist()))
    assert seen.keys() <= wanted.keys()
    for chosen, p in wanted.items():
        assert abs(seen[chosen] - n * p) <= 5 * sqrt(n * p * (1 - p)), chosen


@pytest.mark.parametrize(
    ("length", "numbers", "gap"), [(3, 7, 1.6), (10, 51, 2.0), (10, 51, 5.0), (2, 9, 3.3)]
)
def test_spans_are_tilted_binomials_with_the_right_mean(length, numbers, gap):
    spans, weights = tilted_spans(length, numbers, gap)
    assert spans == range(length - 1, numbers)
    assert sum(w * s for s, w in zip(spans, weights)) == pytest.approx((length - 1) * gap, abs=1e-9)
    ratio = [w / comb(s - 1, length - 2) for s, w in zip(spans, weights)]
    steps = [b / a for a, b in pairwise(ratio)]
    assert steps == pytest.approx([steps[0]] * len(steps), rel=1e-6)  # theta


def test_the_generator_decides_the_sample():
    task = TASKS["mean gap"]
    a, b, c = (task.sample(50, generator=seeded(s)) for s in (1, 1, 2))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


def test_text_goes_in_and_out():
    task = SortingTask(4, 12)
    tokens = task.encode("7,2,9,0")
    assert tokens.tolist() == [7, 2, 9, 0, 12, 0, 2, 7, 9]
    assert task.decode(tokens) == "7,2,9,0,SEP,0,2,7,9"
    for text in ("[7, 2, 9, 0]", "7 2 9 0", "7;2;9;0", task.decode(tokens), " 7,2,9,0,SEP"):
        assert torch.equal(task.encode(text), tokens)
    assert SortingTask(3, 5, repeats=True).encode("4,4,1").tolist() == [4, 4, 1, 5, 1, 4, 4]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("7,2,9", "the list must have 4 numbers, it has 3"),
        ("", "the list must have 4 numbers, it has 0"),
        ("7,2,9,0,1", "the list must have 4 numbers, it has 5"),
        ("7,2,12,0", "12 is outside the vocabulary 0..11"),
        ("7,2,x,0", "'x' is not a number from 0 to 11"),
        ("7,2,-1,0", "'-1' is not a number"),
        ("7,2,1.5,0", "'1.5' is not a number"),
        ("7,2,9,7", "7 stands twice in the list; this task has no repeats"),
    ],
)
def test_a_bad_list_is_named(text, message):
    with pytest.raises(ValueError, match=message.replace(".", r"\.")):
        SortingTask(4, 12).encode(text)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"length": 1}, "length must be at least 2, not 1"),
        ({"n_numbers": 9}, "10 different numbers need n_numbers >= 10, not 9"),
        ({"window": 20, "repeats": True}, "exclude one another"),
        ({"window": 20, "mean_gap": 2.0}, "exclude one another"),
        ({"window": 11}, "window must be between length \\+ 2 = 12"),
        ({"window": 52}, "and n_numbers = 51, not 52"),
        ({"mean_gap": 1.0}, "mean_gap must lie between 1 and 5.556, not 1.0"),
        ({"mean_gap": 5.6}, "mean_gap must lie between 1 and 5.556, not 5.6"),
    ],
)
def test_an_impossible_task_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        SortingTask(**options)


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
def test_variables_equal_brute_force(task):
    tokens = task.sample(50, generator=seeded(4))
    variables = {name: value.tolist() for name, value in task.variables(tokens).items()}
    for i, row in enumerate(tokens.tolist()):
        numbers, right = row[: task.length], sorted(row[: task.length])
        assert variables["target"][i] == right
        assert variables["current"][i] == [task.separator, *right[:-1]]
        assert [numbers[j] for j in variables["source"][i]] == right
        assert sorted(variables["source"][i]) == list(range(task.length))
        assert [right[rank] for rank in variables["rank"][i]] == numbers
        assert variables["gap"][i] == [b - a for a, b in pairwise(right)]
        assert variables["span"][i] == right[-1] - right[0]


def test_the_answer_starts_at_the_separator():
    task = SortingTask(4, 12)
    tokens = task.sample(5, generator=seeded())
    assert (tokens[:, task.answer.start] == task.separator).all()
    assert task.answer == slice(4, 8)
    assert (task.n_ctx, len(task.vocab), task.vocab[-1]) == (9, 13, "SEP")
    assert task.weights(tokens) is None


def test_solve_repairs_a_wrong_answer():
    task = SortingTask(4, 12)
    tokens = task.sample(5, generator=seeded())
    broken = tokens.clone()
    broken[:, 5:] = 0
    assert torch.equal(task.solve(broken), tokens)
