"""The same tree in other words: the edges of a prompt in another order.

A token sees what stands before it. So the order of the edges decides what an edge's tokens can know: of the path
from the root to the goal listed from the goal up, an edge stands behind the ones below it; listed from the root
down, behind the ones above it. Nothing else about the question changes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mi_lab.studies.pathfinding.measure import Trees


def relisted(some: Trees, *, deepest_first: bool, other: bool = False) -> Tensor:
    """The same prompts, the edges of the path (or of the other side of the root) in another order.

    They share the places that they have out among themselves, from the goal up or from the root down; all other
    edges stay where they are. Int[n, n_ctx].
    """
    task, truth = some.task, some.truth
    end = 3 * task.n_edges
    edges = some.tokens[:, :end].unflatten(1, (task.n_edges, 3))
    target = edges[:, :, 1] - task.first_target
    depth = truth["depth"].gather(1, target)
    if other:
        chosen = (_below_root(truth) == truth["other"][:, :1]).gather(1, target)
    else:
        chosen = (target[:, :, None] == truth["ancestor"][:, None]).any(2)
    away = len(truth["depth"][0])  # deeper than any: what isn't chosen is sorted behind, in its order
    rank = torch.where(chosen, -depth if deepest_first else depth, away).argsort(dim=1, stable=True)
    place = torch.where(chosen, 0, 1).argsort(dim=1, stable=True)
    source = torch.empty_like(rank).scatter(1, place, rank)  # which edge comes to each place
    words = edges[:, :, :2].gather(1, source[:, :, None].expand(-1, -1, 2))
    prompt = torch.cat([words, edges[:, :, 2:]], 2).flatten(1)
    return torch.cat([prompt, some.tokens[:, end:]], 1)


def _below_root(truth: dict[str, Tensor]) -> Tensor:
    """Int[n, node]: the child of the root that each node descends from, or is; -1 for the root."""
    parent, root = truth["parent"], truth["root"][:, None]
    at = torch.arange(parent.shape[1], device=parent.device).expand_as(parent)
    at = torch.where(parent < 0, -1, at)
    for _ in range(parent.shape[1]):
        up = parent.gather(1, at.clamp(min=0))
        at = torch.where((up == root) | (at < 0), at, up)
    return at
