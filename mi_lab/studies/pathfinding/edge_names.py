"""Which names might an edge's tokens carry? Sets of nodes for each edge, to be tried with `roads.memory_scrub`.

Every function gives Bool[n, edge, node], edges in the order in which the prompt lists them; the edge's own
two nodes are always among them. Source: ours.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from mi_lab.studies.pathfinding.roads import ancestors_within, descendants_within, ends, relatives
from mi_lab.studies.pathfinding.task import PathfindingTask


def itself(task: PathfindingTask, tokens: Tensor) -> Tensor:
    """The edge's own two nodes."""
    source, target = ends(task, tokens)
    return F.one_hot(source, task.n_labels).bool() | F.one_hot(target, task.n_labels).bool()


def above(task: PathfindingTask, tokens: Tensor, truth: Mapping[str, Tensor]) -> Tensor:
    """The edge and all ancestors of its nodes."""
    return relatives(task, tokens, truth["parent"], "up", task.n_labels)


def below(task: PathfindingTask, tokens: Tensor, truth: Mapping[str, Tensor]) -> Tensor:
    """The edge and all descendants of its target."""
    return relatives(task, tokens, truth["parent"], "down", task.n_labels)


def siblings(task: PathfindingTask, tokens: Tensor) -> Tensor:
    """The edge and the other child of its source, if there is one."""
    source, target = ends(task, tokens)
    same = (source[:, :, None] == source[:, None, :]).float()
    return itself(task, tokens) | (same @ F.one_hot(target, task.n_labels).float()).bool()


def tops(task: PathfindingTask, tokens: Tensor, truth: Mapping[str, Tensor]) -> Tensor:
    """The edge and the root's children."""
    child = truth["parent"] == truth["root"][:, None]
    return itself(task, tokens) | child[:, None, : task.n_labels]


def neighbour(task: PathfindingTask, tokens: Tensor) -> Tensor:
    """The edge and the one that is listed just before it."""
    own = itself(task, tokens)
    out = own.clone()
    out[:, 1:] |= own[:, :-1]
    return out


def earlier(task: PathfindingTask, tokens: Tensor, *, generator: torch.Generator) -> Tensor:
    """A control for `neighbour`: the edge and one at random of those listed before it, but not just before it."""
    own = itself(task, tokens)
    n, edges, _ = own.shape
    other = (torch.rand(n, edges, generator=generator) * (torch.arange(edges) - 1)).long().clamp(min=0)
    taken = own.gather(1, other[:, :, None].expand_as(own))
    return own | (taken & (torch.arange(edges) > 1)[:, None])


def fragment(task: PathfindingTask, tokens: Tensor) -> Tensor:
    """The edge and every node that the edges listed up to here tie to it: its piece of the tree so far."""
    source, target = (end.unsqueeze(-1) for end in ends(task, tokens))
    piece = (
        torch.arange(task.n_labels).expand(len(tokens), -1).clone()
    )  # of every node: the smallest node in it
    out = []
    for edge in range(task.n_edges):
        one, other = piece.gather(1, source[:, edge]), piece.gather(1, target[:, edge])
        joined = torch.minimum(one, other)
        piece = torch.where((piece == one) | (piece == other), joined, piece)
        out.append(piece == joined)
    return torch.stack(out, 1)


def line(task: PathfindingTask, tokens: Tensor) -> Tensor:
    """The edge, and what lies above and below it by way of edges listed up to here."""
    source, target = ends(task, tokens)
    parent = torch.full((len(tokens), task.n_labels), -1)
    out = []
    for edge in range(task.n_edges):
        a, b = source[:, edge, None], target[:, edge, None]
        parent = parent.scatter(1, b, a)
        out.append(ancestors_within(parent, a, task.n_labels) | descendants_within(parent, b, task.n_labels))
    return torch.cat(out, 1)


def as_many(task: PathfindingTask, tokens: Tensor, names: Tensor, *, generator: torch.Generator) -> Tensor:
    """A control for any set: the edge and as many other nodes as `names` has, drawn at random from all."""
    own = itself(task, tokens)
    count = names.sum(-1, keepdim=True) - own.sum(-1, keepdim=True)
    order = torch.rand(own.shape, generator=generator).masked_fill(own, 2.0).argsort(-1).argsort(-1)
    return own | (order < count)
