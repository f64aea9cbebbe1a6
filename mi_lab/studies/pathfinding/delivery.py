"""Where the root token gets the goal from: the same tree with another goal, and one state taken from it.

    some = two_goals(trees)                      # trees with a leaf on each side of the root
    told(model, some, position=46, layer=4)      # share of first steps that follow the other goal

If the state at a position after a layer is all that tells the root token the goal, the first step follows the
state's tree; if the root token has the goal from elsewhere, or had it before, nothing changes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from mi_lab.metrics import Interval, wilson
from mi_lab.model import Transformer
from mi_lab.run import run
from mi_lab.studies.pathfinding.measure import Trees

CHUNK = 200  # trees at a time: more only wait for memory


class TwoGoals(NamedTuple):
    """Prompts Int[n, pos] up to the root token with one goal and with another, and the first step to each, Int[n],
    as the token that the model has to write."""

    tokens: Tensor
    other: Tensor
    step: Tensor
    other_step: Tensor


def two_goals(some: Trees) -> TwoGoals:
    """The trees that have a leaf below each child of the root, asked for their goal and for one on the other side.

    Of several such leaves the one with the smallest label. Raises ValueError if no tree has any.
    """
    truth, task = some.truth, some.task
    step = truth["path"][:, 1]
    side = torch.arange(truth["parent"].shape[1]).expand_as(
        truth["parent"]
    )  # the root's child above each node
    for _ in range(truth["parent"].shape[1]):
        above = truth["parent"].gather(1, side)
        climbs = (above >= 0) & (above != truth["root"][:, None])
        side = torch.where(climbs, above, side)
    there = truth["leaf"] & (side != step[:, None])
    keep = there.any(1)
    if not keep.any():
        raise ValueError("none of these trees has a leaf on the other side of the root")
    goal = there.long().argmax(1)
    width = task.root_position + 1
    tokens = some.tokens[keep, :width]
    other = tokens.clone()
    other[:, task.goal_position] = goal[keep] + task.first_bare
    other_step = side.gather(1, goal[:, None])[:, 0]
    return TwoGoals(tokens, other, step[keep] + task.first_target, other_step[keep] + task.first_target)


@torch.no_grad()
def told(
    model: Transformer, some: TwoGoals, *, position: int, layer: int | Sequence[int]
) -> tuple[Interval, Interval]:
    """Shares of first steps towards the other goal, and still towards the own one, with the state after `layer` at
    `position` taken from the run that was asked for the other goal; several layers: the states after all of them.

    Only prompts count whose first step is right for both goals. Raises ValueError if there are none.
    """
    layers = (layer,) if isinstance(layer, int) else tuple(layer)
    names = [f"blocks.{layer}.resid_post" for layer in layers]
    n = moved = kept = 0
    for rows in zip(*(x.split(CHUNK) for x in some), strict=True):
        tokens, other, step, other_step = rows
        there = run(model, other, record=names)
        alone = run(model, tokens).logits[:, -1].argmax(-1)
        both = (alone == step) & (there.logits[:, -1].argmax(-1) == other_step)
        edit = {name: _put(there[name][both, position], position) for name in names}
        found = run(model, tokens[both], edit=edit).logits[:, -1].argmax(-1)
        n += int(both.sum())
        moved += int((found == other_step[both]).sum())
        kept += int((found == step[both]).sum())
    if not n:
        raise ValueError("the model finds both first steps in none of these trees")
    return wilson(moved, n), wilson(kept, n)


def _put(state: Tensor, position: int) -> Callable[[Tensor], Tensor]:
    """An edit that writes this state at this position."""

    def into(x: Tensor) -> Tensor:
        x = x.clone()
        x[:, position] = state
        return x

    return into
