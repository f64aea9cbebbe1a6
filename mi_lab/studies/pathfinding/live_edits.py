"""What the live explorer does to a run, as the page's edits (`mi_lab.live.export.to_run`).

The twin of `tree_donor.js`: attention closed, parts switched off, states put in from another question.
Donors are drawn by the same generator from the same number, so that page and Python test one thing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from mi_lab.studies.pathfinding.circuit import CLASSES, token_class
from mi_lab.studies.pathfinding.roads import ancestors_within, descendants_within
from mi_lab.studies.pathfinding.task import PathfindingTask

WORD = 0xFFFF_FFFF


def drawn_numbers(draw: int, part: int) -> Callable[[int], int]:
    """A source of whole numbers below a bound: Marsaglia's xorshift on 32 bits, as in the page."""
    x = (((draw + 1) * 0x9E3779B1) ^ ((part + 1) * 0x85EBCA6B)) & WORD or 1

    def step() -> int:
        nonlocal x
        x ^= (x << 13) & WORD
        x ^= x >> 17
        x ^= (x << 5) & WORD
        return x

    for _ in range(8):
        step()
    return lambda below: step() % below


def shared_names(truth: Mapping[str, Tensor], site: int | str, rule: str) -> set[int]:
    """The names that a donor keeps: F of `roads`, without a bound on levels.

    site: the lower end of an edge, or "root". rule: "none", "edge" (of the root token: the root, its
    children and the goal), "up" (and ancestors), "down" (and descendants, edges only).
    """
    if rule == "none":
        return set()
    parent, far = truth["parent"], truth["parent"].shape[1]
    node = truth["goal"] if site == "root" else torch.tensor([int(site)])
    kept = ancestors_within(parent, node, 0 if site == "root" else 1)
    if site == "root":
        kept = kept | descendants_within(parent, truth["root"], 1)
    if rule == "up":
        kept = kept | ancestors_within(parent, node, far)
    if rule == "down" and site != "root":
        kept = kept | descendants_within(parent, node, far)
    return set(kept[0].nonzero()[:, 0].tolist())


def renamed_donor(task: PathfindingTask, tokens: Tensor, shared: set[int], draw: int, part: int) -> list[int]:
    """Tokens of the same question with all names outside `shared` exchanged at random, its path too."""
    free = [k for k in range(task.n_nodes) if k not in shared]
    to, below = list(free), drawn_numbers(draw, part)
    for i in range(len(to) - 1, 0, -1):
        j = below(i + 1)
        to[i], to[j] = to[j], to[i]
    name = torch.arange(task.n_nodes)
    name[free] = torch.tensor(to, dtype=torch.long)
    bare, target = task.first_bare, task.first_target
    renamed = torch.where(
        tokens >= bare,
        name[(tokens - bare).clamp(0)] + bare,
        name[(tokens - target).clamp(0, task.n_nodes - 1)] + target,
    )
    return torch.where(tokens >= target, renamed, tokens).tolist()


def replaced_positions(
    task: PathfindingTask, tokens: Tensor, site: str, part: str
) -> list[tuple[int | None, list[int]]]:
    """(edge, positions) that are replaced; edge None is the root token. The last edge has no comma."""
    if site == "root":
        return [(None, [task.root_position])]
    offsets = (0, 1, 2) if part == "all" else (CLASSES.index(part),)
    lower = (tokens[1 : 3 * task.n_edges : 3] - task.first_target).tolist()
    edges = [i for i, node in enumerate(lower) if site == "edges" or int(site) == node]
    found = [(i, [3 * i + k for k in offsets if 3 * i + k < 3 * task.n_edges - 1]) for i in edges]
    return [(i, positions) for i, positions in found if positions]


def layers_named(where: str, layers: int) -> range:
    """Layers of "all", "2" or "2+"."""
    if where == "all":
        return range(layers)
    first = int(where.rstrip("+"))
    return range(first, layers if where.endswith("+") else first + 1)


def closed_keys(task: PathfindingTask, query: int, classes: Sequence[str], who: str) -> list[int]:
    """What a query may not look at; a token never loses sight of itself.

    who: "path" (root and path tokens), "edges" (tokens of edges, outside their own), "own" (in their own),
    "tail" (bar, goal, colon) or "all".
    """
    kinds, bar = token_class(task), 3 * task.n_edges - 1
    kind, in_edge = CLASSES[int(kinds[query])], query < bar
    asked = {
        "all": True,
        "path": kind == "path",
        "tail": kind in ("bar", "goal", "colon"),
        "edges": in_edge,
        "own": in_edge,
    }
    if not asked[who]:
        return []
    keys = []
    for key in range(task.n_ctx):
        same = in_edge and key < bar and key // 3 == query // 3
        if key == query or CLASSES[int(kinds[key])] not in classes:
            continue
        if (who == "edges" and same) or (who == "own" and not same):
            continue
        keys.append(key)
    return keys


def closed_edits(
    task: PathfindingTask, layers: range, classes: Sequence[str], who: str, renormalise: bool
) -> list[dict[str, Any]]:
    """Knock-outs, as few as there are different sets of keys."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for query in range(task.n_ctx):
        if keys := closed_keys(task, query, classes, who):
            groups.setdefault(tuple(keys), []).append(query)
    return [
        {"knockOut": {"layer": layer, "queries": queries, "keys": list(keys), "renormalise": renormalise}}
        for layer in layers
        for keys, queries in groups.items()
    ]


def edits_of(state: Mapping[str, Any], task: PathfindingTask, layers: int) -> list[dict[str, Any]]:
    """All edits of a checked state of the explorer."""
    edits: list[dict[str, Any]] = []
    for word in state["nodes"]:
        node, mode = word.split("-")
        edits.append({"node": node, "value": "mean" if mode == "mean" else 0})
    tokens = task.encode(state["text"])
    name = f"blocks.{state['after']}.resid_post"
    places = replaced_positions(task, tokens, state["site"], state["part"])
    if state["donor"] == "other":
        donor = task.encode(state["other"]).tolist()
        positions = [p for _, some in places for p in some]
        edits.append({"activation": name, "positions": positions, "value": {"run": donor}})
    elif state["donor"] == "renamed":
        truth = task.variables(tokens[None])
        for edge, positions in places:
            site = "root" if edge is None else int(tokens[3 * edge + 1]) - task.first_target
            kept = shared_names(truth, site, state["rule"])
            donor = renamed_donor(task, tokens, kept, state["draw"], edge or 0)
            edits.append({"activation": name, "positions": positions, "value": {"run": donor}})
    if state["closed"]:
        where = layers_named(state["where"], layers)
        edits += closed_edits(task, where, state["closed"], state["who"], state["closing"] == "moved")
    return edits
