"""Questions to start from, and what a control does to one: another goal, another order of the edges."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

import torch

from mi_lab.studies.pathfinding import measure
from mi_lab.studies.pathfinding.layout import Tree
from mi_lab.studies.pathfinding.task import PathfindingTask

ORDERS = ("as typed", "backward", "random", "forward")


def examples(task: PathfindingTask, lengths: Sequence[int] = (), *, seed: int = 7) -> list[str]:
    """One question per path length, with at least three leaves where the law has such trees.

    lengths: default three short of half the nodes, then longer ones. The same at every run.
    """
    half = task.n_nodes // 2
    wanted = lengths or [p for p in (half - 1, half - 3, half, half + 2, 2) if 1 <= p <= task.longest_path]
    _, tokens, truth = measure.trees(replace(task, trees=None), 4000, seed)
    choices = truth["branch"].sum(1)
    found = []
    for length in dict.fromkeys(wanted):
        score = choices + 3 * truth["leaf"].sum(1).clamp(max=3) + 4 * truth["hard"]
        score = torch.where(truth["length"] == length, score, -1)
        if int(score.max()) >= 0:
            found.append(question(task, task.decode(tokens[int(score.argmax())])))
    return found


def question(task: PathfindingTask, text: str) -> str:
    """A prompt without its path: "edges|goal"."""
    return text.partition(":")[0]


def rearranged(task: PathfindingTask, text: str, order: str = "as typed", other_goal: int = 0) -> str:
    """The same tree with its edges in another order, or with the goal that many leaves further on.

    Raises ValueError for what `task.encode` refuses, and for a goal that is left out.
    """
    if order not in ORDERS:
        raise ValueError(f"order must be one of {', '.join(ORDERS)}, not {order!r}")
    tokens = task.encode(text)
    tree = Tree.read(task, tokens)
    leaves = tree.leaves()
    goal = leaves[(leaves.index(tree.goal) + other_goal) % len(leaves)]
    edges = question(task, text).replace(" ", "").partition("|")[0].split(",")
    if order != "as typed":
        level, edges = [tree.root], []
        while level:  # breadth first, siblings by label
            pairs = [(a, b) for a in level for b in tree.children(a)]
            edges += [f"{a}>{b}" for a, b in pairs]
            level = [b for _, b in pairs]
        if order == "backward":
            edges.reverse()
        elif order == "random":
            random.Random(task.n_nodes).shuffle(edges)
    return f"{','.join(edges)}|{goal}"
