"""The sorting study's measurements, on sorters whose division of work was written down by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from mi_lab.circuits import direct_logit_attribution, head_outputs
from mi_lab.metrics import score_logits
from mi_lab.model import Block, Transformer, TransformerConfig
from mi_lab.run import run
from mi_lab.studies.base import targets
from mi_lab.studies.sorting import measure as m
from mi_lab.studies.sorting.circuit import (
    attribution,
    copying_margin,
    hand_made_sorter,
    structure,
    untrained_twin,
)
from mi_lab.studies.sorting.claims import S4, S6
from mi_lab.studies.sorting.task import SortingTask

TASK = SortingTask(length=4, n_numbers=12)
CONFIG = TransformerConfig(n_layers=1, n_heads=1, d_model=16, d_head=14, n_ctx=9, d_vocab=13)
HALVES = torch.tensor([0] * 6 + [1] * 6)


def two_heads(first: Tensor, second: Tensor, *, a: float = 20.0, task: SortingTask = TASK) -> Transformer:
    """Two heads that look at the same source; head h copies number k with strength (first, second)[h][k]."""
    n = task.n_numbers
    shape = replace(CONFIG, d_model=n + 4, d_head=n + 2, n_ctx=task.n_ctx, d_vocab=n + 1)
    alone = hand_made_sorter(task, shape, a=a, b=5.0)
    model = Transformer(replace(shape, n_heads=2)).eval()
    source, target = alone.blocks[0], model.blocks[0]
    assert isinstance(source, Block)
    assert isinstance(target, Block)
    for name, parameter in model.named_parameters():
        value = alone.get_parameter(name)
        parameter.data.copy_(value.expand_as(parameter) if ".attn." in name else value)
    for head, strength in enumerate((first, second)):
        target.attn.W_O.data[head, :, :n] *= strength
    return model


@pytest.fixture
def splitter() -> Transformer:
    """Head 0 copies the numbers 0..5, head 1 the numbers 6..11."""
    return two_heads((HALVES == 0).float(), (HALVES == 1).float())


@pytest.fixture
def suppressor() -> Transformer:
    """Head 0 copies everything; head 1 writes against it at 40 % of that strength."""
    return two_heads(torch.ones(12), torch.full((12,), -0.4), a=12.0)


# Evaluation data and accuracy -----------------------------------------------------------------------
def test_evaluation_lists_are_the_same_every_time_and_differ_between_seeds():
    assert m.lists(TASK, 50).equal(m.lists(TASK, 50))
    assert not m.lists(TASK, 50).equal(m.lists(TASK, 50, seed=1))


def test_evaluation_lists_are_none_that_training_draws():
    from mi_lab.train import DATA_SEED

    task = SortingTask()
    trained = {
        tuple(x)
        for seed in range(8)
        for x in task.sample(200, generator=torch.Generator().manual_seed(DATA_SEED + seed)).tolist()
    }
    assert not trained & {tuple(x) for s in (0, 11, 12, 21, 31) for x in m.lists(task, 200, seed=s).tolist()}


def test_accuracy_of_a_sorter_is_full_and_of_its_controls_chance(splitter):
    assert m.accuracy(splitter, TASK, 300) == (1.0, 1.0, 1.0)
    shuffled = m.accuracy(splitter, TASK, 600, shuffled=True)
    assert shuffled.token == pytest.approx(1 / 4, abs=0.04)  # one of four numbers, by chance in place
    assert shuffled.list == pytest.approx(1 / 24, abs=0.03)
    assert m.accuracy(untrained_twin(splitter), TASK, 300).list < 0.02


def test_one_skipped_number_spoils_the_rest_of_a_generated_list_but_not_of_a_forced_one(splitter):
    splitter.unembed.b_U.data[5] = -100.0  # 5 is never said
    found = m.accuracy(splitter, TASK, 500)
    assert found.token == pytest.approx(1 - 1 / 12, abs=0.02)
    assert found.token_generated < found.token - 0.05
    assert found.list == pytest.approx(1 - 4 / 12, abs=0.06)  # lists without a 5


# Removing a head ------------------------------------------------------------------------------------
@pytest.mark.parametrize("how", ["zero", "mean", "resample"])
def test_removing_a_head_equals_replacing_its_write(how):
    model = untrained_twin(two_heads(torch.ones(12), torch.ones(12)))
    tokens = m.lists(TASK, 20)
    out = run(model, tokens, record=("blocks.0.attn.z", "blocks.0.resid_post"))
    written = head_outputs(model, out["blocks.0.attn.z"])[:, :, 1]
    instead = {
        "zero": torch.zeros_like(written),
        "mean": written.mean(0, keepdim=True),
        "resample": written[[19, *range(19)]],
    }[how]
    resid = out["blocks.0.resid_post"] - written + instead
    expected = (model.ln_final(resid) @ model.unembed.W_U + model.unembed.b_U)[:, TASK.answer]
    torch.testing.assert_close(
        m.removed(model, TASK, tokens, 1, how), expected.detach(), atol=1e-5, rtol=1e-5
    )


def test_an_unknown_way_of_removing_is_refused(splitter):
    with pytest.raises(ValueError, match="how must be 'zero', 'mean' or 'resample', not 'noise'"):
        m.removed(splitter, TASK, m.lists(TASK, 4), 0, "noise")


def test_a_splitter_dissociates_exactly(splitter):
    found = m.dissociation(splitter, TASK, HALVES, m.lists(TASK, 500), "zero")
    assert found == ((0.0, 0.0), (1.0, 1.0))


def test_mean_ablation_leaves_what_the_position_alone_tells(splitter):
    tokens = m.lists(TASK, 2000)
    found = m.dissociation(splitter, TASK, HALVES, tokens, "mean")
    assert found.other == (1.0, 1.0)
    # the best guess by position alone: the most frequent number of each sorted position
    right = targets(TASK, tokens)
    for head in range(2):
        mine = HALVES[right] == head
        guess = torch.stack([right[:, i][mine[:, i]].bincount(minlength=12).argmax() for i in range(4)])
        best = float((right == guess)[mine].float().mean())
        assert 0.05 < found.own[head] <= best + 0.1


def test_swapped_owners_turn_the_dissociation_round(splitter):
    found = m.dissociation(splitter, TASK, 1 - HALVES, m.lists(TASK, 500), "zero")
    assert found.own == (1.0, 1.0)
    assert found.other == (0.0, 0.0)


def test_a_head_that_owns_nothing_has_no_accuracy_of_its_own(splitter):
    found = m.dissociation(splitter, TASK, torch.zeros(12, dtype=torch.long), m.lists(TASK, 50), "zero")
    assert math.isnan(found.own[1])
    assert math.isnan(found.other[0])


def test_attribution_names_the_heads_that_were_given_the_numbers(splitter):
    found = attribution(splitter, TASK, m.lists(TASK, 500))
    assert found.owner.equal(HALVES)
    assert found.share > 0.99


def test_the_causal_claim_holds_for_a_splitter_and_for_none_of_its_controls():
    task = SortingTask()
    first = (torch.arange(51) // 13 % 2).float()  # four stretches, alternating
    model = two_heads(first, 1 - first, task=task)
    rows = {how: m.causal_summary(model, task, n=300, relabel=how) for how in ("own", "swapped", "random")}
    assert rows["own"]["runs"] == 4
    assert rows["own"]["owner_share"] > 0.99
    assert rows["own"]["own_zero"] == 0.0
    assert rows["own"]["other_zero"] == rows["own"]["other_mean"] == 1.0
    accepted = {how: S4.accept.test(row) for how, row in rows.items()}
    assert accepted == {"own": True, "swapped": False, "random": False}


def test_the_causal_claim_fails_for_two_heads_that_both_copy_everything_and_for_an_untrained_twin(splitter):
    both = two_heads(torch.ones(12), torch.full((12,), 0.9))
    for model in (both, untrained_twin(splitter)):
        assert not S4.accept.test(m.causal_summary(model, TASK, n=300))


def test_random_owners_keep_the_sizes_in_contiguous_ranges():
    owner = torch.tensor([0, 1] * 10 + [1] * 31)
    for seed in range(10):
        found = m.random_contiguous_owner(owner, seed)
        assert found.bincount().equal(owner.bincount())
        assert int((found.diff() != 0).sum()) <= 2
    assert not m.random_contiguous_owner(owner, 0).equal(m.random_contiguous_owner(owner, 1))


def test_ov_rows_point_at_themselves_on_own_numbers_only(splitter):
    for own, other in m.copies_itself(splitter, TASK, HALVES):
        assert own == 1.0
        assert other < 0.4  # rows of rounding noise


# Roles ----------------------------------------------------------------------------------------------
def test_roles_name_the_suppressor_its_copier_and_where():
    margin = torch.zeros(3, 30)
    margin[2, :20] = 5.0
    margin[0, 20:] = 5.0
    margin[1, 5:15] = -3.0
    who = m.roles(margin)
    assert (who.suppressor, who.copier) == (1, 2)
    assert who.region.nonzero().flatten().tolist() == list(range(4, 16))  # smoothing adds one at each end


def test_writing_against_a_number_that_nobody_copies_is_no_suppression():
    margin = torch.zeros(2, 30)
    margin[0, :10] = 5.0
    margin[1, 20:] = -5.0
    assert not m.roles(margin).region.any()


def test_the_region_of_roles_is_what_structure_calls_suppressed():
    for seed in range(10):
        margin = torch.randn(2, 51, generator=torch.Generator().manual_seed(seed))
        share = [float(m.roles(x).region.float().mean()) for x in (margin, margin.flip(0))]
        assert share[0] == share[1] <= structure(margin).suppress


# Copy-suppression -----------------------------------------------------------------------------------
def test_a_suppressor_is_found_and_its_part_measured(suppressor):
    margin = copying_margin(suppressor, TASK)
    assert structure(margin).suppress == 1.0
    who = m.roles(margin)
    assert (who.suppressor, who.copier, bool(who.region.all())) == (1, 0, True)
    found = m.suppression_role(suppressor, TASK, margin, n=400)
    assert found["region"] == 1.0
    assert found["accuracy"] == 1.0
    assert found["written"] == pytest.approx(-0.4, abs=1e-4)
    assert found["ratio"] > 50
    assert found["d_accuracy"] == found["d_accuracy_zero"] == 0.0


def test_suppression_measured_from_data_is_what_was_written_down(suppressor, splitter):
    fraction, inside = m.suppressed_directly(suppressor, TASK, 400)
    assert fraction == 1.0
    assert inside == pytest.approx(-0.4 * 12 * 12 / 13, rel=1e-2)
    fraction, inside = m.suppressed_directly(splitter, TASK, 400)
    assert fraction == 0.0
    assert math.isnan(inside)


def test_changes_on_removal_equal_those_of_running_the_model_without_the_head(suppressor):
    margin, tokens = copying_margin(suppressor, TASK), m.lists(TASK, 400, seed=21)
    found = m.suppression_role(suppressor, TASK, margin, n=400)
    right = targets(TASK, tokens)
    clean = score_logits(run(suppressor, tokens).logits[:, TASK.answer], right)
    for how, suffix in (("mean", ""), ("zero", "_zero"), ("resample", "_resample")):
        without = score_logits(m.removed(suppressor, TASK, tokens, 1, how), right)
        for name in ("entropy", "nll"):
            change = float((getattr(without, name) - getattr(clean, name)).mean())
            assert found[f"d_{name}{suffix}"] == pytest.approx(change, abs=2e-5), (how, name)


def test_a_random_direction_in_the_suppressors_place_is_not_accepted(suppressor):
    margin = copying_margin(suppressor, TASK)
    found = m.suppression_role(suppressor, TASK, margin, n=400, control="random")
    assert abs(found["written"]) < 0.3
    assert found["ratio"] == pytest.approx(1.0, abs=0.15)  # attention shuffled over the list
    assert not S6.accept.test(found)


def test_without_a_suppressor_the_role_is_undefined_and_not_accepted(splitter, suppressor):
    found = m.suppression_role(splitter, TASK, copying_margin(splitter, TASK), n=200)
    assert found["region"] == 0.0
    assert math.isnan(found["d_entropy"])
    assert not S6.accept.test(found)
    # the same numbers as for a model that has one: seeds of both kinds stand in one table
    other = m.suppression_role(suppressor, TASK, copying_margin(suppressor, TASK), n=200)
    assert found.keys() == other.keys()


def test_unembedding_a_residual_stream_gives_the_models_logits_and_a_frozen_scale_only_its_scale():
    model = untrained_twin(hand_made_sorter(TASK, CONFIG))
    out = run(model, m.lists(TASK, 5), record="blocks.0.resid_post")
    resid = out["blocks.0.resid_post"]
    torch.testing.assert_close(m._unembed(model, resid).detach(), out.logits)
    torch.testing.assert_close(m._unembed(model, resid, scale_of=resid).detach(), out.logits)
    # a stream twice as large is the same to LayerNorm, and twice as large to a frozen scale (b = 0 here)
    torch.testing.assert_close(m._unembed(model, 2 * resid).detach(), out.logits, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(m._unembed(model, 2 * resid, scale_of=resid).detach(), 2 * out.logits)


# Self-repair ----------------------------------------------------------------------------------------
def test_in_one_layer_a_pattern_cannot_see_another_head_removed_and_in_two_it_can(splitter):
    tokens = m.lists(TASK, 20)
    assert m.pattern_change(splitter, tokens, layer=0, head=1, removed_head=0) == 0.0
    deep = Transformer(replace(splitter.config, n_layers=2))
    assert m.pattern_change(deep, tokens, layer=1, head=1, removed_head=0) > 1e-4


def test_published_development_can_be_read_and_its_axes_agree():
    curves = m.development("paper")
    steps, seeds = len(curves["steps"]), len(curves["seeds"])
    assert curves["margin"].shape == (seeds, steps, 2, 51)
    for name in ("loss", "token", "list", "owner_share", "dla_runs", "own", "other", "norm"):
        assert curves[name].shape == (seeds, steps), name
    assert curves["token"][:, 0].max() < 0.2
    assert curves["token"][:, -1].min() > 0.99


def test_direct_attribution_of_a_splitter_is_zero_where_it_does_not_copy(splitter):
    tokens = m.lists(TASK, 100)
    z = run(splitter, tokens, record="blocks.0.attn.z")["blocks.0.attn.z"][:, TASK.answer]
    right = targets(TASK, tokens)
    effect = direct_logit_attribution(splitter, head_outputs(splitter, z), right)
    for head in range(2):
        assert float(effect[..., head][HALVES[right] != head].max()) < 1.0
        assert float(effect[..., head][HALVES[right] == head].min()) > 15.0
