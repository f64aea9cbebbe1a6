"""Growing: positions line up at the root, donors in their order, errors."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from mi_lab.model import Transformer
from mi_lab.recipe import Recipe
from mi_lab.studies import arithmetic
from mi_lab.studies.pathfinding.growth import Grown, take_over
from mi_lab.studies.pathfinding.recipes import config
from mi_lab.studies.pathfinding.task import PathfindingTask
from mi_lab.train import fit

SHAPE = {"n_layers": 2, "d_model": 8, "d_head": 8, "d_mlp": 16}


def model_of(n_nodes, seed):
    task = PathfindingTask(n_nodes=n_nodes, names=8)
    return Transformer(config(task, **SHAPE), generator=torch.Generator().manual_seed(seed))


def recipe_of(n_nodes, **changes):
    task = PathfindingTask(n_nodes=n_nodes, names=8)
    base = Recipe(
        name=f"tiny_{n_nodes}", task=task, config=config(task, **SHAPE), batch=4, steps=2, checkpoints=(0,)
    )
    return replace(base, **changes)


@pytest.mark.parametrize(("old", "new"), [(6, 8), (8, 6)])
def test_positions_line_up_at_the_root(old, new):
    donor, target = model_of(old, 1), model_of(new, 2)
    fresh = target.pos_embed.W_pos.detach().clone()
    take_over(target, donor)
    mine, theirs = target.pos_embed.W_pos, donor.pos_embed.W_pos
    a, b = PathfindingTask(n_nodes=old), PathfindingTask(n_nodes=new)
    # root, goal, first step and the last edge's source
    for here, there in ((b.root_position, a.root_position), (b.goal_position, a.goal_position)):
        assert torch.equal(mine[here], theirs[there])
    assert torch.equal(mine[b.root_position + 1], theirs[a.root_position + 1])
    assert torch.equal(mine[3 * b.n_edges - 3], theirs[3 * a.n_edges - 3])
    if new > old:  # new edges in front, a new step behind: as they were
        assert torch.equal(mine[:6], fresh[:6])
        assert torch.equal(mine[-2:], fresh[-2:])
    for name, value in target.named_parameters():
        if name != "pos_embed.W_pos":
            assert torch.equal(value, dict(donor.named_parameters())[name])


def test_a_shrunken_model_reads_a_small_tree_as_the_large_one_reads_the_end_of_a_prompt():
    """With attention to the first two edges cut, the large model gives the small one's logits."""
    donor, target = model_of(8, 1), model_of(6, 2)
    take_over(target, donor)
    tokens = target_task().sample(5, generator=torch.Generator().manual_seed(0))
    long = torch.cat([torch.zeros(5, 6, dtype=torch.long), tokens, torch.zeros(5, 2, dtype=torch.long)], 1)

    def blind(name, value):
        return value.index_fill(-1, torch.arange(6), -torch.inf) if name.endswith("scores") else value

    def tap(name, value):
        if not name.endswith("scores"):
            return value
        return torch.cat([value[..., :6, :], blind(name, value[..., 6:, :])], -2)

    assert torch.allclose(donor(long, tap)[:, 6:-2], target(tokens), atol=1e-5)


def target_task():
    return PathfindingTask(n_nodes=6, names=8)


def test_a_run_starts_from_its_donors_the_last_one_counts(tmp_path):
    small = recipe_of(6)
    first = recipe_of(8)
    second = recipe_of(6, name="tiny_back", start=Grown((first, small)))
    third = recipe_of(8, name="tiny_grown", start=Grown((first, second)))
    begun = fit(third, out=tmp_path, progress=False).model(step=0)
    large = fit(first, out=tmp_path, progress=False).model()
    grown = fit(second, out=tmp_path, progress=False).model()
    assert torch.equal(begun.pos_embed.W_pos[:6], large.pos_embed.W_pos[:6])
    assert torch.equal(begun.pos_embed.W_pos[6:-2], grown.pos_embed.W_pos)
    assert torch.equal(begun.embed.W_E, grown.embed.W_E)
    again = fit(replace(third, steps=3), out=tmp_path / "b", progress=False).model()
    assert not torch.equal(again.embed.W_E, begun.embed.W_E)  # the donor is not put back


def test_a_digest_knows_the_donors():
    one, other = recipe_of(6), recipe_of(6, lr=0.5)
    a, b = (recipe_of(8, start=Grown((donor,))).digest for donor in (one, other))
    assert a != b != recipe_of(8).digest


def test_what_does_not_fit_is_named():
    with pytest.raises(ValueError, match="d_vocab 19, the model 15"):
        take_over(
            Transformer(config(PathfindingTask(n_nodes=6), **SHAPE)),
            Transformer(config(PathfindingTask(n_nodes=8), **SHAPE)),
        )
    odd = replace(config(target_task(), **SHAPE), n_ctx=25)
    with pytest.raises(ValueError, match="n_ctx = 4n, not 24 and 25"):
        take_over(Transformer(odd), model_of(6, 0))
    sums = arithmetic.recipes["add_d3_l2_h3"]
    with pytest.raises(ValueError, match="reads trees, 'add_d3_l2_h3' reads ArithmeticTask"):
        Grown((sums,))
