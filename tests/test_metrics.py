"""Metrics against brute force, published tables and cases worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from mi_lab.metrics import (
    Interval,
    Scores,
    auc,
    bootstrap,
    by_class,
    clopper_pearson,
    expected_calibration_error,
    pearson,
    ranks,
    score,
    score_logits,
    spearman,
    wilson,
)
from mi_lab.model import Transformer, TransformerConfig
from mi_lab.studies.base import targets
from mi_lab.studies.sorting.task import SortingTask

# Newcombe 1998, Statistics in Medicine 17, table I: hits, n, Wilson, Clopper-Pearson (four decimals)
NEWCOMBE = (
    (81, 263, (0.2553, 0.3662), (0.2527, 0.3676)),
    (15, 148, (0.0624, 0.1605), (0.0578, 0.1617)),
    (0, 20, (0.0000, 0.1611), (0.0000, 0.1684)),
    (1, 29, (0.0061, 0.1718), (0.0009, 0.1776)),
)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def binomial(k: int, n: int, p: float) -> float:
    return math.comb(n, k) * p**k * (1 - p) ** (n - k)


# Intervals of counts ------------------------------------------------------------------------------
@pytest.mark.parametrize(("hits", "n", "score_interval", "exact"), NEWCOMBE)
def test_intervals_equal_newcombes_published_table(hits, n, score_interval, exact):
    assert wilson(hits, n)[1:] == pytest.approx(score_interval, abs=6e-5)
    assert clopper_pearson(hits, n)[1:] == pytest.approx(exact, abs=6e-5)
    assert wilson(hits, n).value == clopper_pearson(hits, n).value == hits / n


@pytest.mark.parametrize("n", [1, 7, 60])
@pytest.mark.parametrize("confidence", [0.8, 0.95, 0.999])
def test_clopper_pearson_leaves_exactly_half_the_error_in_each_binomial_tail(n, confidence):
    tail = (1 - confidence) / 2
    for hits in range(n + 1):
        found = clopper_pearson(hits, n, confidence)
        if hits:
            above = sum(binomial(k, n, found.low) for k in range(hits, n + 1))
            assert above == pytest.approx(tail, rel=1e-8)
        if hits < n:
            below = sum(binomial(k, n, found.high) for k in range(hits + 1))
            assert below == pytest.approx(tail, rel=1e-8)


def test_clopper_pearson_has_its_closed_form_when_nothing_or_everything_hits():
    for n in (1, 10, 1_000_000):
        bound = 1 - 0.025 ** (1 / n)
        assert clopper_pearson(0, n) == pytest.approx((0.0, 0.0, bound), rel=1e-7)
        assert clopper_pearson(n, n) == pytest.approx((1.0, 1 - bound, 1.0), rel=1e-7)


def test_clopper_pearson_never_covers_less_than_it_says_and_wilson_does():
    n, grid = 30, [i / 500 for i in range(1, 500)]

    def lowest_coverage(interval) -> float:
        found = [interval(k, n) for k in range(n + 1)]
        return min(
            sum(binomial(k, n, p) for k, (_, low, high) in enumerate(found) if low <= p <= high) for p in grid
        )

    assert lowest_coverage(clopper_pearson) >= 0.95
    assert 0.80 < lowest_coverage(wilson) < 0.95  # the price of its good mean coverage


def test_wilsons_ends_solve_its_defining_equation():
    # |p_hat - p| = z sqrt(p (1 - p) / n) at both ends, with z = 1.959964
    for hits, n in ((3, 10), (50, 51), (500, 10_000)):
        found = wilson(hits, n)
        for p in found[1:]:
            assert abs(found.value - p) == pytest.approx(1.959963985 * math.sqrt(p * (1 - p) / n), rel=1e-7)


def test_a_wider_confidence_gives_a_wider_interval():
    for interval in (wilson, clopper_pearson):
        narrow, wide = interval(7, 20, 0.5), interval(7, 20, 0.99)
        assert wide.low < narrow.low < 7 / 20 < narrow.high < wide.high


@pytest.mark.parametrize("interval", [wilson, clopper_pearson])
@pytest.mark.parametrize(("hits", "n"), [(-1, 5), (6, 5), (0, 0)])
def test_impossible_counts_are_refused(interval, hits, n):
    with pytest.raises(ValueError, match=rf"hits must be between 0 and n >= 1, not {hits} of {n}"):
        interval(hits, n)


def test_an_interval_prints_value_and_ends():
    assert str(Interval(0.123456, 0.1, 0.2)) == "0.1235 [0.1, 0.2]"


# Bootstrap ----------------------------------------------------------------------------------------
def test_bootstrap_of_a_mean_agrees_with_normal_theory():
    values = random(200).double()
    found = bootstrap(values.tolist())
    half = 1.959964 * float(values.std(correction=0)) / math.sqrt(200)
    assert found.value == pytest.approx(float(values.mean()))
    assert found.low == pytest.approx(found.value - half, abs=0.08 * half)
    assert found.high == pytest.approx(found.value + half, abs=0.08 * half)


def test_bootstrap_of_three_values_equals_enumeration_of_all_27_resamples():
    values = [0.0, 1.0, 5.0]
    means = torch.tensor([(a + b + c) / 3 for a in values for b in values for c in values])
    expected = torch.quantile(means.double(), torch.tensor([0.1, 0.9], dtype=torch.float64))
    found = bootstrap(values, confidence=0.8)
    assert found[1:] == pytest.approx(tuple(expected.tolist()), abs=1e-6)


def test_bootstrap_covers_the_truth_about_as_often_as_it_says():
    draws = random(300, 40, seed=1)
    hits = sum(low <= 0 <= high for _, low, high in (bootstrap(x.tolist(), resamples=400) for x in draws))
    assert 0.90 <= hits / 300 <= 0.98


def test_bootstrap_takes_any_statistic_over_the_last_axis():
    found = bootstrap([1.0, 2.0, 3.0, 4.0, 100.0], lambda x: x.median(-1).values)
    assert found.value == 3.0
    assert set(found[1:]) <= {1.0, 2.0, 3.0, 4.0, 100.0}


def test_bootstrap_is_deterministic_in_its_seed():
    values = random(9).tolist()
    assert bootstrap(values) == bootstrap(values)
    assert bootstrap(values, seed=1) != bootstrap(values, seed=2)


def test_one_value_has_an_interval_of_no_width():
    assert bootstrap([0.25]) == (0.25, 0.25, 0.25)


# Rank statistics ----------------------------------------------------------------------------------
def test_ranks_share_their_mean_among_ties():
    assert ranks(torch.tensor([10.0, 20.0, 10.0, 5.0])).tolist() == [1.5, 3.0, 1.5, 0.0]


def test_pearson_equals_torch_corrcoef_along_the_last_axis():
    x, y = random(3, 4, 20).double(), random(3, 4, 20, seed=1).double()
    found = pearson(x, y)
    for i in range(3):
        for j in range(4):
            expected = torch.corrcoef(torch.stack([x[i, j], y[i, j]]))[0, 1]
            assert float(found[i, j]) == pytest.approx(float(expected), abs=1e-12)


def test_spearman_without_ties_equals_the_formula_of_squared_rank_differences():
    for seed in range(5):
        x, y = random(15, seed=seed), random(15, seed=100 + seed)
        d = ranks(x) - ranks(y)
        expected = 1 - 6 * float(d.pow(2).sum()) / (15 * (15**2 - 1))
        assert float(spearman(x, y)) == pytest.approx(expected, abs=1e-12)


def test_spearman_sees_order_only_and_pearson_does_not():
    x = torch.arange(12.0)
    assert float(spearman(x, x.exp())) == pytest.approx(1.0)
    assert float(spearman(x, -(x**3))) == pytest.approx(-1.0)
    assert float(pearson(x, x.exp())) < 0.9


def test_a_constant_side_has_no_correlation():
    flat = torch.full((5,), 3.0)
    assert float(pearson(flat, torch.arange(5.0))) == 0.0
    assert float(spearman(torch.arange(5.0), flat)) == 0.0


@pytest.mark.parametrize("levels", [3, 1000])  # many ties, hardly any
def test_auc_equals_the_count_over_all_pairs(levels):
    generator = torch.Generator().manual_seed(levels)
    scores = torch.randint(levels, (60,), generator=generator).float()
    positive = torch.rand(60, generator=generator) < 0.3
    pairs = [
        1.0 if a > b else 0.5 if a == b else 0.0
        for a in scores[positive].tolist()
        for b in scores[~positive].tolist()
    ]
    assert auc(scores, positive) == pytest.approx(sum(pairs) / len(pairs), abs=1e-12)


def test_auc_is_one_for_perfect_order_and_zero_for_reversed_order():
    positive = torch.tensor([False, False, True])
    assert auc(torch.tensor([0.0, 1.0, 2.0]), positive) == 1.0
    assert auc(torch.tensor([2.0, 1.0, 0.0]), positive) == 0.0


@pytest.mark.parametrize("value", [True, False])
def test_auc_of_one_class_alone_is_refused(value):
    with pytest.raises(ValueError, match="auc needs positives and negatives"):
        auc(torch.arange(4.0), torch.full((4,), value))


# Scores -------------------------------------------------------------------------------------------
def test_scores_of_logits_worked_out_by_hand():
    p = torch.tensor([[0.7, 0.2, 0.1], [0.25, 0.25, 0.5]])
    found = score_logits(p.log() + 3.0, torch.tensor([0, 1]))  # a shift of all logits changes nothing
    assert found.nll.tolist() == pytest.approx([-math.log(0.7), -math.log(0.25)], rel=1e-5)
    assert found.correct.tolist() == [True, False]
    assert found.probability.tolist() == pytest.approx([0.7, 0.25], rel=1e-5)
    assert found.confidence.tolist() == pytest.approx([0.7, 0.5], rel=1e-5)
    entropy = [-sum(x * math.log(x) for x in row) for row in p.tolist()]
    assert found.entropy.tolist() == pytest.approx(entropy, rel=1e-5)


def test_a_forbidden_token_does_not_spoil_the_entropy():
    found = score_logits(torch.tensor([[0.0, 0.0, -torch.inf]]), torch.tensor([0]))
    assert float(found.entropy) == pytest.approx(math.log(2), rel=1e-6)


def test_score_reads_the_answer_positions_teacher_forced_and_in_any_batch_size():
    task = SortingTask(length=4, n_numbers=9)
    config = TransformerConfig(n_layers=1, n_heads=2, d_model=8, d_head=4, n_ctx=task.n_ctx, d_vocab=10)
    model = Transformer(config)
    tokens = task.sample(30, generator=torch.Generator().manual_seed(0))
    found = score(model, task, tokens)
    with torch.no_grad():
        logp = model(tokens).log_softmax(-1)
    for i in (0, 29):
        for j in range(4):  # position 4 + j predicts token 5 + j
            right = int(tokens[i, 5 + j])
            assert float(found.nll[i, j]) == pytest.approx(-float(logp[i, 4 + j, right]), abs=1e-5)
            assert bool(found.correct[i, j]) == (int(logp[i, 4 + j].argmax()) == right)
    for a, b in zip(found, score(model, task, tokens, batch=7)):
        assert a.shape == targets(task, tokens).shape
        torch.testing.assert_close(a, b)
    assert isinstance(found, Scores)


def test_by_class_gives_mean_and_count_of_every_class():
    classes = torch.tensor([[0, 2, 2], [0, 5, 2]])
    values = torch.tensor([[1.0, 1.0, 0.0], [0.0, 3.0, 2.0]])
    assert by_class(values, classes) == {0: (0.5, 2), 2: (1.0, 3), 5: (3.0, 1)}


def test_by_class_shows_the_rare_class_that_the_mean_hides():
    correct = torch.tensor([True] * 99 + [False])
    rare = torch.tensor([0] * 99 + [1])
    assert float(correct.float().mean()) == pytest.approx(0.99)
    assert by_class(correct, rare)[1] == (0.0, 1)


def test_by_class_refuses_shapes_that_differ():
    with pytest.raises(ValueError, match=r"values \[3\] and classes \[2\] must match"):
        by_class(torch.zeros(3), torch.zeros(2))


# Calibration --------------------------------------------------------------------------------------
def test_calibration_error_equals_a_loop_over_bins():
    generator = torch.Generator().manual_seed(0)
    confidence = torch.rand(500, generator=generator)
    correct = torch.rand(500, generator=generator) < confidence**2
    total = 0.0
    for b in range(10):
        inside = [i for i in range(500) if b / 10 <= float(confidence[i]) < (b + 1) / 10]
        if inside:
            accuracy = sum(bool(correct[i]) for i in inside) / len(inside)
            mean = sum(float(confidence[i]) for i in inside) / len(inside)
            total += len(inside) / 500 * abs(accuracy - mean)
    assert expected_calibration_error(confidence, correct, bins=10) == pytest.approx(total, abs=1e-6)


def test_calibration_error_is_zero_when_calibrated_and_the_gap_when_overconfident():
    correct = torch.tensor([True, True, True, False])
    assert expected_calibration_error(torch.full((4,), 0.75), correct) == pytest.approx(0.0)
    assert expected_calibration_error(torch.full((4,), 0.95), correct) == pytest.approx(0.2, abs=1e-6)


def test_full_confidence_falls_into_the_last_bin():
    assert expected_calibration_error(torch.ones(4), torch.tensor([True] * 4)) == 0.0
    assert expected_calibration_error(torch.ones(4), torch.tensor([False] * 4)) == 1.0
