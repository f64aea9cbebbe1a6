"""What can be had without searching: exact success probabilities of simple policies.

A policy walks down from the root and chooses at every node with two children. `success` gives, per
tree and without sampling, the probability that its whole path is right: the product over the
branches of the path. They are the yardsticks of claim P1: 89 % of tokens are right by descending at
random, and a model that climbs five levels and otherwise enters the deeper subtree is right on 98.7 %
of all trees of 16 nodes. Source: pathfinding dossier, section 2.5.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

POLICIES = ("random", "lookahead", "deeper", "chain")


def success(
    truth: Mapping[str, Tensor], policy: str = "random", *, climb: int = 0, otherwise: str = "random"
) -> Tensor:
    """Float[n]: probability that a policy walks the whole path.

    truth: `PathfindingTask.variables`. policy:
    "random": a child at random. "lookahead": never into a leaf that is not the goal, else at random.
    "deeper": into the deeper subtree, whatever the goal (ties at random). "chain": take the child
    that is an ancestor of the goal at distance <= `climb` (or the goal), where there is one, else do
    as `otherwise`.
    """
    if policy not in POLICIES or otherwise not in POLICIES[:3]:
        raise ValueError(f"policies are {', '.join(POLICIES)}, not {policy!r} (otherwise {otherwise!r})")
    if climb < 0:
        raise ValueError(f"climb must be 0 or more levels, not {climb}")
    correct, other, branch = truth["correct"], truth["other"], truth["branch"]
    height = truth["height"]
    rival = other.clamp(min=0)
    leaf = truth["leaf"].gather(1, rival)
    kind = otherwise if policy == "chain" else policy
    if kind == "random":
        right = torch.full(correct.shape, 0.5)
    elif kind == "lookahead":  # the rival is off the path, so it is never the goal
        right = torch.where(leaf, 1.0, 0.5)
    else:
        own, its = height.gather(1, correct.clamp(min=0)), height.gather(1, rival)
        right = 0.5 + 0.5 * (own - its).sign().float()
    if policy == "chain":
        steps = torch.arange(correct.shape[1], device=correct.device)
        distance = truth["length"][:, None] - steps - 1  # of the right child from the goal
        right = torch.where(distance <= climb, 1.0, right)
    return torch.where(branch, right, 1.0).prod(1)


def by_length(values: Tensor, truth: Mapping[str, Tensor], longest: int) -> Tensor:
    """Float[longest]: mean of `values` over trees of each path length 1.. (NaN where there are none)."""
    length = truth["length"]
    total = torch.zeros(longest + 1).index_add(0, length, values.float())
    return (total / torch.bincount(length, minlength=longest + 1))[1:]
