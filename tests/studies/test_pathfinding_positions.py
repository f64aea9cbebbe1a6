"""Positions that begin as waves: neighbours are one rotation apart, everything else stays as fresh weights are."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from mi_lab.model import Transformer
from mi_lab.studies.pathfinding.positions import Scaled, Waves, waves
from mi_lab.studies.pathfinding.recipes import recipes
from mi_lab.train import fit


def test_one_rotation_leads_from_every_place_to_the_next():
    table = waves(64, 128)
    sines, cosines = table.chunk(2, 1)
    rate = 200.0 ** (-torch.arange(64) / 64)

    def turned(sines, cosines):  # every pair by its own angle, the same at every place
        return torch.cat(
            [sines * rate.cos() + cosines * rate.sin(), cosines * rate.cos() - sines * rate.sin()], 1
        )

    assert (turned(sines[:-1], cosines[:-1]) - table[1:]).abs().max() < 1e-4
    # the same vectors in another order
    order = torch.randperm(64, generator=torch.Generator().manual_seed(0))
    assert (turned(sines[order][:-1], cosines[order][:-1]) - table[order][1:]).abs().max() > 0.1


def test_waves_have_the_length_that_is_said():
    table = waves(32, 64)
    assert table.shape == (32, 64)
    assert table.square().mean().sqrt() == pytest.approx(0.5**0.5, abs=1e-3)
    assert torch.equal(table[0], torch.cat([torch.zeros(32), torch.ones(32)]))


@pytest.mark.parametrize("start", [Waves(0.2), Scaled(2.5)])
def test_only_positions_differ_from_fresh_weights(start):
    recipe = replace(recipes["quick"], start=start, steps=1, horizon=3000, checkpoints=(0, 1))
    begun = fit(recipe, seeds=(3,), progress=False).model(step=0)
    fresh = Transformer(recipe.config, generator=torch.Generator().manual_seed(3))
    for name, value in begun.named_parameters():
        plain = fresh.get_parameter(name)
        if name != "pos_embed.W_pos":
            assert torch.equal(value, plain), name
        elif isinstance(start, Waves):
            assert torch.equal(value, 0.2 * waves(*value.shape))
        else:
            assert torch.equal(value, 2.5 * plain)


def test_a_run_that_goes_on_does_not_begin_again(tmp_path):
    """Called again when it is done, it is read back and not begun again."""
    recipe = replace(
        recipes["quick"], start=Waves(0.2), steps=4, batch=8, warmup=1, horizon=None, checkpoints=(0, 4)
    )

    whole = fit(recipe, seeds=(0,), progress=False, out=tmp_path / "whole").model()
    again = fit(recipe, seeds=(0,), progress=False, out=tmp_path / "whole").model()
    for name, value in again.named_parameters():
        assert torch.equal(value, whole.get_parameter(name))
    assert not torch.equal(whole.get_parameter("pos_embed.W_pos"), 0.2 * waves(32, 64))


def test_what_is_impossible_is_said():
    with pytest.raises(ValueError, match="scale must be positive"):
        Waves(0.0)
    with pytest.raises(ValueError, match="base above 1"):
        Waves(0.1, base=1.0)
    with pytest.raises(ValueError, match="factor must be positive, not -1"):
        Scaled(-1)
    odd = replace(recipes["quick"].config, d_model=63)
    with pytest.raises(ValueError, match="d_model must be even, not 63"):
        Waves(0.2).apply(Transformer(odd), None, step=0)


def test_starts_have_digests_of_their_own():
    digests = {recipes[name].digest for name in ("quick", "quick_waves", "quick_scaled")}
    assert len(digests) == 3
    assert recipes["paper"].digest != recipes["plateau"].digest
