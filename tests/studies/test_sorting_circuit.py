"""The measures of structure, on margins made by hand and on sorters whose circuit is known."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Literal

import pytest
import torch
from torch import Tensor

from mi_lab.circuits import ov_circuit, qk_circuit
from mi_lab.model import Block, Transformer, TransformerConfig
from mi_lab.studies.sorting.circuit import (
    attention_order,
    attribution,
    copying_margin,
    count_runs,
    hand_made_sorter,
    qk_similarity,
    runs_null,
    smooth,
    structure,
    untrained_twin,
)
from mi_lab.studies.sorting.claims.mechanism import _HAND
from mi_lab.studies.sorting.measure import accuracy, lists
from mi_lab.studies.sorting.recipes import recipes
from mi_lab.studies.sorting.task import SortingTask

PAPER, TASK = recipes["paper"].config, SortingTask()
SMALL = SortingTask(length=4, n_numbers=12)
ONE_HEAD = TransformerConfig(n_layers=1, n_heads=1, d_model=16, d_head=14, n_ctx=9, d_vocab=13)


def ranges(*parts: tuple[int, float, float]) -> Tensor:
    """Margins of two heads from (length, first head's, second head's) stretches."""
    return torch.cat([torch.tensor([[a], [b]]).expand(2, n) for n, a, b in parts], 1)


def brute_force(margin: list[list[float]]) -> tuple[float, float, float, int]:
    """overlap, single, suppress and runs as the dossier defines them, number by number."""
    heads, n = len(margin), len(margin[0])
    soft = []
    for row in margin:
        windows = [row[max(0, k - 1) : k + 2] for k in range(n)]
        soft.append([sum(w) / len(w) for w in windows])
    threshold = 0.15 * max(abs(x) for row in soft for x in row)
    above = [[soft[h][k] > threshold for h in range(heads)] for k in range(n)]
    below = [[soft[h][k] < -threshold for h in range(heads)] for k in range(n)]
    owner = [max(range(heads), key=lambda h: soft[h][k]) for k in range(n)]
    return (
        sum(sum(a) >= 2 for a in above) / n,
        sum(sum(a) == 1 for a in above) / n,
        sum(any(a) and any(b) for a, b in zip(above, below)) / n,
        1 + sum(a != b for a, b in itertools.pairwise(owner)),
    )


# Structure of margins -------------------------------------------------------------------------------
def test_pure_splitting_is_one_copier_per_number_in_two_runs():
    found = structure(ranges((20, 5.0, 0.0), (20, 0.0, 5.0)))
    # only the two numbers at the seam are blurred by the smoothing
    assert (found.overlap, found.single, found.suppress, found.runs) == pytest.approx((0.05, 0.95, 0.0, 2))
    assert found.owner.tolist() == [0] * 20 + [1] * 20


def test_pure_overlap_is_every_number_copied_twice():
    assert structure(ranges((30, 5.0, 4.0)))[:4] == (1.0, 0.0, 0.0, 1)


def test_pure_suppression_is_a_copier_with_its_opponent():
    assert structure(ranges((30, 5.0, -4.0)))[:4] == (1.0 - 1.0, 1.0, 1.0, 1)


def test_two_heads_that_both_write_against_a_number_are_no_suppression():
    assert structure(ranges((15, 5.0, 0.0), (15, -5.0, -5.0))).suppress == pytest.approx(1 / 30)  # the seam


def test_what_is_weak_beside_the_strongest_margin_counts_as_nothing():
    assert structure(ranges((20, 10.0, 1.4), (20, 10.0, -1.4)))[:3] == (0.0, 1.0, 0.0)
    assert structure(ranges((20, 10.0, 1.6), (20, 10.0, -1.6)))[:3] == pytest.approx((0.475, 0.525, 0.475))


@pytest.mark.parametrize(("heads", "n"), [(2, 51), (3, 21), (4, 6)])
def test_structure_equals_its_definition_number_by_number(heads, n):
    for seed in range(10):
        margin = torch.randn(heads, n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        assert structure(margin)[:4] == pytest.approx(brute_force(margin.tolist()), abs=1e-6)


def test_structure_does_not_depend_on_the_scale_or_the_order_of_heads():
    margin = torch.randn(3, 51, generator=torch.Generator().manual_seed(0))
    assert structure(margin)[:4] == structure(7 * margin)[:4] == structure(margin.flip(0))[:4]


def test_interior_leaves_out_both_ends_but_counts_runs_of_all():
    margin = ranges((10, 5.0, 5.0), (20, 5.0, 0.0), (10, 5.0, -5.0))
    assert structure(margin).overlap > 0.2
    found = structure(margin, interior=11)
    assert found[:3] == (0.0, 1.0, 0.0)
    assert len(found.owner) == 40


def test_smoothing_is_the_mean_of_three_and_of_two_at_the_ends():
    assert smooth(torch.tensor([[3.0, 0.0, 6.0, 9.0]])).tolist() == [[1.5, 3.0, 5.0, 7.5]]


@pytest.mark.parametrize(
    ("labels", "runs"), [([0], 1), ([1, 1, 1], 1), ([0, 1, 0, 1], 4), ([2, 2, 0, 0, 2], 3)]
)
def test_runs_are_counted(labels, runs):
    assert count_runs(torch.tensor(labels)) == runs


# The null of runs -----------------------------------------------------------------------------------
def test_the_null_has_the_mean_and_spread_of_randomly_ordered_labels():
    owner = torch.tensor([0] * 20 + [1] * 31)
    margin = torch.stack([(owner == h).float() for h in range(2)])
    null = runs_null(margin, permutations=20_000).double()
    n, pairs = 51, 20 * 31
    assert float(null.mean()) == pytest.approx(1 + 2 * pairs / n, abs=0.1)  # Wald and Wolfowitz 1940
    variance = 2 * pairs * (2 * pairs - n) / (n**2 * (n - 1))
    assert float(null.var()) == pytest.approx(variance, rel=0.05)


def test_contiguous_ranges_beat_the_null_and_shuffled_numbers_do_not():
    margin = ranges((13, 5.0, 0.0), (12, 0.0, 5.0), (13, 5.0, 0.0), (13, 0.0, 5.0))
    limit = float(runs_null(margin).float().quantile(0.01))
    assert count_runs(margin.argmax(0)) == 4 < limit
    shuffled = margin[:, torch.randperm(51, generator=torch.Generator().manual_seed(0))]
    assert count_runs(shuffled.argmax(0)) > limit


def test_the_null_is_deterministic_and_keeps_one_run_where_one_head_owns_all():
    margin = ranges((20, 5.0, 0.0), (20, 0.0, 5.0))
    assert runs_null(margin).equal(runs_null(margin))
    assert runs_null(ranges((20, 5.0, 0.0)), permutations=50).eq(1).all()


# The sorter written down by hand ---------------------------------------------------------------------
@pytest.mark.parametrize("norm", ["LN", None])
@pytest.mark.parametrize("strengths", list(_HAND.values()), ids=list(_HAND))
def test_the_hand_made_sorter_sorts_every_list_at_every_strength(strengths, norm):
    a, b = strengths
    found = accuracy(hand_made_sorter(TASK, replace(PAPER, norm=norm), a=a, b=b), TASK, 200)
    assert found == (1.0, 1.0, 1.0)


@pytest.mark.parametrize(("heads", "d_head"), [(1, 53), (2, 27), (3, 27), (4, 27)])
def test_the_hand_made_sorter_fits_any_number_of_heads_in_the_narrowest_shape(heads, d_head):
    model = hand_made_sorter(TASK, replace(PAPER, n_heads=heads, d_head=d_head))
    assert accuracy(model, TASK, 200).list == 1.0


def test_the_hand_made_sorter_sorts_lists_with_any_gap():
    for task in (SortingTask(window=12), SortingTask(mean_gap=2.0)):
        assert accuracy(hand_made_sorter(task, PAPER), task, 200).list == 1.0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_layers": 2}, "one attention-only layer"),
        ({"d_mlp": 8}, "one attention-only layer"),
        ({"d_model": 51}, r"51 numbers need d_model >= 52 and d_head >= 27 with 2 heads, not 51 and 48"),
        ({"d_head": 26}, r"51 numbers need d_model >= 52 and d_head >= 27 with 2 heads, not 96 and 26"),
        ({"n_heads": 4, "d_head": 26}, r"d_head >= 27 with 4 heads"),  # too few cosines to copy with
        ({"n_heads": 1}, r"51 numbers need d_model >= 52 and d_head >= 53 with 1 heads, not 96 and 48"),
    ],
)
def test_a_shape_that_cannot_hold_the_sorter_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        hand_made_sorter(TASK, replace(PAPER, **changes))


@pytest.mark.parametrize("norm", ["LN", None])
def test_copying_to_permuted_numbers_sorts_no_list(norm):
    model = hand_made_sorter(TASK, replace(PAPER, norm=norm))
    block = model.blocks[0]
    assert isinstance(block, Block)
    order = torch.randperm(51, generator=torch.Generator().manual_seed(0))
    block.attn.W_O.data[:, :, :51] = block.attn.W_O.data[:, :, order]
    found = accuracy(model, TASK, 200)
    assert found.list == 0.0
    assert found.token < 0.1


def test_the_reversed_order_sorts_no_list():
    assert accuracy(hand_made_sorter(TASK, PAPER, b=-2.0), TASK, 200).list == 0.0


# Margins, order and attribution of models -------------------------------------------------------------
def test_the_margin_is_the_diagonal_against_the_mean_of_its_row():
    model = untrained_twin(hand_made_sorter(SMALL, ONE_HEAD))
    table = ov_circuit(model).full()[0].tolist()
    for k in range(12):
        others = [table[k][j] for j in range(12) if j != k]  # numbers only: SEP is no output that counts
        assert float(copying_margin(model, SMALL)[0, k]) == pytest.approx(
            table[k][k] - sum(others) / 11, abs=1e-5
        )


def test_every_head_of_the_hand_made_sorter_copies_all_numbers():
    margin = copying_margin(hand_made_sorter(TASK, PAPER, a=5.0), TASK)
    assert margin.shape == (2, 51)
    assert structure(margin).overlap == 1.0  # it splits by current token, in QK, not by what is copied


def test_attention_order_scores_each_head_by_its_own_queries():
    # head 0 serves current numbers 0..25, head 1 the rest: elsewhere its row over numbers is flat
    first, second = attention_order(hand_made_sorter(TASK, replace(PAPER, norm=None)), TASK)
    assert first.rho == pytest.approx(-26 / 48)
    assert second.rho == pytest.approx(-22 / 48)
    assert first.auc == pytest.approx((26 + 24 / 2) / 50)


def test_an_untrained_twin_has_the_same_shape_other_weights_and_no_skill():
    model = hand_made_sorter(TASK, PAPER)
    twin = untrained_twin(model, 3)
    assert twin.config == model.config
    assert untrained_twin(model, 3).embed.W_E.equal(twin.embed.W_E)
    assert not untrained_twin(model, 4).embed.W_E.equal(twin.embed.W_E)
    assert accuracy(twin, TASK, 100).token < 0.2
    assert all(abs(x.rho) < 0.3 and x.auc < 0.7 for x in attention_order(twin, TASK))


def with_qk(first: Tensor, second: Tensor) -> Transformer:
    """A model without LayerNorm whose heads have these QK tables over 8 numbers and SEP."""
    config = TransformerConfig(n_layers=1, n_heads=2, d_model=9, d_head=9, n_ctx=9, d_vocab=9, norm=None)
    model = Transformer(config).eval()
    block = model.blocks[0]
    assert isinstance(block, Block)
    with torch.no_grad():
        model.embed.W_E.copy_(torch.eye(9))
        for head, table in enumerate((first, second)):
            block.attn.W_Q[head] = table * 3.0  # sqrt(d_head)
            block.attn.W_K[head] = torch.eye(9)
    torch.testing.assert_close(qk_circuit(model)[0], first)
    return model


def test_similarity_of_heads_is_full_for_equal_tables_and_only_a_trend_for_a_shared_trend():
    task = SortingTask(length=4, n_numbers=8)
    generator = torch.Generator().manual_seed(0)
    distance = (torch.arange(9)[None] - torch.arange(9)[:, None]).float()
    a, b = torch.randn(2, 9, 9, generator=generator)
    same = qk_similarity(with_qk(a, a), task)
    assert same == pytest.approx((1.0, 1.0), abs=1e-5)
    raw, detrended = qk_similarity(with_qk(-3 * distance + a, -3 * distance + b), task)
    assert raw > 0.9
    assert abs(detrended) < 0.5
    opposite = qk_similarity(with_qk(-3 * distance + a, -3 * distance - a), task)
    assert opposite[0] > 0.9
    assert opposite[1] == pytest.approx(-1.0, abs=1e-4)


def test_keys_at_or_below_the_query_play_no_part_in_similarity():
    task = SortingTask(length=4, n_numbers=8)
    a, b = torch.randn(2, 9, 9, generator=torch.Generator().manual_seed(1))
    assert qk_similarity(with_qk(a, a.triu(1) + b.tril()), task) == pytest.approx((1.0, 1.0), abs=1e-5)


@pytest.mark.parametrize("norm", ["LN", None])
def test_attribution_finds_how_strongly_each_head_writes_each_number(norm: Literal["LN"] | None):
    # one head that copies with strength 20: D(t) = 20 (1 - 1/13), where it looks at t alone
    model = hand_made_sorter(SMALL, replace(ONE_HEAD, norm=norm), a=20.0, b=30.0)
    found = attribution(model, SMALL, lists(SMALL, 300))
    torch.testing.assert_close(found.effect, torch.full((1, 12), 20 * 12 / 13), atol=1e-2, rtol=0)
    assert found.share == pytest.approx(1.0)
    assert int(found.count.sum()) == 300 * 4
    assert found.count.equal(torch.bincount(lists(SMALL, 300)[:, 5:].flatten(), minlength=12))


def test_attribution_leaves_numbers_that_never_occur_at_zero():
    model = hand_made_sorter(SMALL, ONE_HEAD)
    tokens = SMALL.complete(torch.tensor([[3, 1, 0, 2]]))
    found = attribution(model, SMALL, tokens)
    assert found.count.tolist() == [1] * 4 + [0] * 8
    assert found.effect[0, 4:].eq(0).all()
    assert found.share == pytest.approx(1.0)
