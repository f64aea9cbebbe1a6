"""A tree to be drawn, and where its nodes go."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from mi_lab.studies.pathfinding.task import PathfindingTask


@dataclass(frozen=True)
class Tree:
    """What is drawn. parent: of each node, -1 for the root. goal: -1 if there is none."""

    parent: tuple[int, ...]
    goal: int = -1

    @classmethod
    def read(cls, task: PathfindingTask, tokens: Tensor) -> Tree:
        """The tree of one prompt Int[pos]."""
        truth = task.variables(tokens[None])
        return cls(tuple(truth["parent"][0].tolist()), int(truth["goal"][0]))

    @property
    def root(self) -> int:
        """The node without a parent."""
        return self.parent.index(-1)

    def children(self, node: int) -> list[int]:
        """By label."""
        return [k for k, above in enumerate(self.parent) if above == node]

    def leaves(self) -> list[int]:
        """Nodes without children, by label."""
        return [k for k in range(len(self.parent)) if k not in self.parent]

    def path(self) -> list[int]:
        """From the root to the goal; empty if there is no goal."""
        way = [] if self.goal < 0 else [self.goal]
        while way and self.parent[way[-1]] >= 0:
            way.append(self.parent[way[-1]])
        return way[::-1]


def layout(tree: Tree) -> list[tuple[float, int]]:
    """(x, level) of each node: x in units of one node's room, from 0. A parent stands in the middle above
    its children; subtrees stand as close as their outlines allow (Reingold and Tilford's conditions)."""
    x = [0.0] * len(tree.parent)
    level = [0] * len(tree.parent)

    def place(node: int, depth: int) -> tuple[list[int], list[float], list[float]]:
        """Nodes below and the left and right outline by level, relative to `node` at 0."""
        level[node] = depth
        below = [place(child, depth + 1) for child in tree.children(node)]
        if len(below) == 2:
            shared = zip(below[0][2], below[1][1])
            apart = max(right - left for right, left in shared) + 1
            for (nodes, *outlines), move in zip(below, (-apart / 2, apart / 2)):
                for k in nodes:
                    x[k] += move
                for outline in outlines:
                    outline[:] = [value + move for value in outline]
        everyone = [node] + [k for nodes, *_ in below for k in nodes]
        return everyone, _outline(below, 1, min), _outline(below, 2, max)

    place(tree.root, 0)
    least = min(x)
    return [(value - least, depth) for value, depth in zip(x, level)]


def _outline(below: Sequence[tuple], side: int, extreme: Callable) -> list[float]:
    """The left (min) or right (max) outline of a node whose subtrees have been placed."""
    deepest = max((len(part[side]) for part in below), default=0)
    return [0.0] + [extreme(p[side][d] for p in below if d < len(p[side])) for d in range(deepest)]
