"""Where in a model is each sub-task? The search, and what it found as data.

    located = search(model, subtasks, largest=2)      # single heads, then pairs in one place
    located.of("ST2"), located.nodes(), located.tags(), located.to_dict()

A *place* is a layer and a position. Heads in one place often share a value (a sum of two digits is
written by two heads, each looking at both), and some values are kept at several places at once, for
the readers of each: `spread` lets a group grow over places. Every number shown is from pairs that the
search itself has not seen, beside its controls (`mi_lab.subtask`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from mi_lab.ablate import all_nodes
from mi_lab.groups import Group, co_located
from mi_lab.model import Transformer
from mi_lab.run import Node
from mi_lab.subtask import (
    Evidence,
    Pairs,
    SubTask,
    answering,
    checked_nodes,
    draw_pairs,
    mean_attention,
    measure,
)

ALONE = 0.95  # from this share of matches on, a group does it alone: no larger one is tried


@dataclass(frozen=True)
class Located:
    """What a search found: evidence by sub-task, best first. tested: how many nodes and groups were tried."""

    evidence: tuple[Evidence, ...]
    tested: int

    def __iter__(self) -> Iterator[Evidence]:
        return iter(self.evidence)

    def __len__(self) -> int:
        return len(self.evidence)

    def of(self, subtask: str, *, held: bool = True, **criteria: float) -> tuple[Evidence, ...]:
        """The evidence for one sub-task; only what `Evidence.holds` under these criteria, unless not `held`."""
        return tuple(e for e in self if e.subtask == subtask and (not held or e.holds(**criteria)))

    def nodes(self, **criteria: float) -> tuple[Node, ...]:
        """All nodes of the evidence that holds: the circuit found."""
        return tuple(dict.fromkeys(node for e in self if e.holds(**criteria) for node in e.nodes))

    def tags(self, **criteria: float) -> dict[Node, str]:
        """Node -> the sub-tasks it carries, alone or with others, for `mi_lab.nodemap`."""
        out: dict[Node, list[str]] = {}
        for e in self:
            if e.holds(**criteria):
                for node in e.nodes:
                    out.setdefault(node, []).append(e.subtask)
        return {node: " ".join(dict.fromkeys(names)) for node, names in out.items()}

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON."""
        return {"tested": self.tested, "evidence": [e.to_dict() for e in self]}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Located:
        """The way back from `to_dict`."""
        return cls(tuple(map(Evidence.from_dict, data["evidence"])), data["tested"])

    def to_markdown(self) -> str:
        """A row for each piece of evidence; controls as their largest rate of a kind."""
        kinds = ("same value", "wrong index", "wrong position", "wrong head")
        head = [
            "sub-task",
            "nodes",
            "match [95 %]",
            "holds",
            "weak",
            "any change",
            *kinds,
            "attention to operands",
        ]
        lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
        for e in self:
            worst = [
                max(
                    (f"{count.rate:.2f}" for name, count in e.controls.items() if name.startswith(kind)),
                    default="",
                )
                for kind in kinds
            ]
            seen = ", ".join(f"P{key} {100 * weight:.0f} %" for key, weight in e.attends.items())
            value, low, high = e.match.interval
            rates = [f"{value:.2f} [{low:.2f}, {high:.2f}]", "yes" if e.holds() else "no"]
            cells = [e.subtask, e.name, *rates, f"{e.weak.rate:.2f}", f"{e.changed.rate:.2f}", *worst, seen]
            lines.append("| " + " | ".join(cells) + " |")
        return "\n".join(lines)

    def __repr__(self) -> str:
        return f"Located: {len(self)} candidates of {self.tested} nodes and groups\n{self.to_markdown()}"

    def _repr_markdown_(self) -> str:
        return self.to_markdown()


def search(
    model: Transformer,
    subtasks: Sequence[SubTask],
    *,
    nodes: Sequence[Node] | None = None,
    largest: int = 2,
    spread: int = 0,
    n: int = 200,
    screen: int = 32,
    promising: float = 0.3,
    keep: int = 8,
    attention: float = 0.0,
    siblings: Sequence[SubTask] = (),
    generator: torch.Generator | None = None,
) -> Located:
    """The nodes that carry each sub-task: single ones, then groups of heads in one place, ranked.

    nodes: default every head at every position that can matter; give MLPs or a scan's useful nodes to
    try those. largest: size of the largest group of heads in one place; a group with a member that does
    it alone is not tried. spread: where nothing does it, let the best group grow to at most so many
    nodes, anywhere, each the one that helps most (heads that look at the operands, if there are any).
    attention: a node is tried only if each operand gets this share of it (in a group: of one head's).

    screen: pairs on which everything is tried. What matches on at least `promising` of them (at most
    `keep` per sub-task, the best in any case) is measured again, with controls, on n *fresh* pairs, so
    that the luck of the winner is not in its number. Sub-tasks of one family are one another's control
    "wrong index", the two nearest; `siblings` are more of them, not searched for. Cost: two sweeps and a
    few more per sub-task, whatever is found.
    """
    names = [subtask.name for subtask in subtasks]
    if len({*names}) != len(names):
        raise ValueError(f"sub-tasks need different names, not {', '.join(names)}")
    if largest < 1 or keep < 1:
        raise ValueError(f"largest and keep must be at least 1, not {largest} and {keep}")
    generator = generator or torch.Generator().manual_seed(0)
    evidence: list[Evidence] = []
    tested = 0
    for subtask in subtasks:
        trial = _Trial(model, subtask, nodes, draw_pairs(subtask, screen, generator, model.device)[0])
        for size in range(1, largest + 1):
            trial.place_groups(size, attention)
        if spread > 1 and max(trial.rates.values(), default=1.0) < ALONE:
            trial.grow(spread, attention)
        tested += trial.tested
        ranked = trial.ranked()[:keep]
        chosen = [g for i, g in enumerate(ranked) if i == 0 or trial.rates[g] >= promising]
        others = nearest(subtask, [*subtasks, *siblings])
        here = measure(model, subtask, chosen, others, n, generator, False)
        evidence += sorted(here, key=lambda e: (not e.holds(), -e.match.rate, len(e.nodes)))
    return Located(tuple(evidence), tested)


def smallest(
    model: Transformer,
    subtask: SubTask,
    nodes: Sequence[Node],
    *,
    siblings: Sequence[SubTask] = (),
    n: int = 200,
    screen: int = 64,
    generator: torch.Generator | None = None,
) -> Evidence:
    """All of these nodes together, without those that do not help: the copies of a value that count.

    For values that are kept in several places: begin with every node that could hold one, patch all,
    and leave out, one at a time, the node that is missed least, as long as no pair is lost. `search`
    grows a group instead and stops where no single node helps. The `screen` pairs decide, n fresh ones
    give the numbers. Cost: about len(nodes)^2 / 2 groups on the screen. Raises ValueError without nodes.
    """
    group = checked_nodes(model, subtask, nodes)
    generator = generator or torch.Generator().manual_seed(0)
    trial = _Trial(model, subtask, group, draw_pairs(subtask, screen, generator, model.device)[0])
    best = trial.measure([group])[group]
    while len(group) > 1:
        rates = trial.measure([tuple(x for x in group if x is not left) for left in group])
        fewer = max(rates, key=lambda smaller: rates[smaller])
        if rates[fewer] < best:
            break
        group, best = fewer, rates[fewer]
    return measure(model, subtask, [group], siblings, n, generator, False)[0]


def nearest(subtask: SubTask, subtasks: Sequence[SubTask], most: int = 2) -> list[SubTask]:
    """The other sub-tasks of its family with the nearest indices, for the control "wrong index"."""
    family = (s for s in subtasks if s.family == subtask.family and s is not subtask)
    return sorted(family, key=lambda s: abs((s.index or 0) - (subtask.index or 0)))[:most]


class _Trial:
    """One sub-task on a few pairs, on which many groups are tried. rates: group -> share that matches."""

    def __init__(
        self, model: Transformer, subtask: SubTask, nodes: Sequence[Node] | None, pairs: Pairs
    ) -> None:
        self.model, self.subtask, self.pairs = model, subtask, pairs
        self.answers = answering(model, pairs, subtask.task.answer)
        if nodes is None:
            every = all_nodes(model.config, subtask.task.answer.stop)
            self.nodes = tuple(node for node in every if node.head is not None)
        else:
            self.nodes = checked_nodes(model, subtask, nodes) if nodes else ()
        self.looks = mean_attention(model, pairs.clean, self.nodes) if subtask.operands else {}
        self.rates: dict[Group, float] = {}
        self.tested = 0

    def sees(self, group: Group, least: float) -> bool:
        """Does each operand get this much attention from some head of the group? True without heads."""
        heads = [self.looks[node] for node in group if node in self.looks]
        return not heads or all(max(float(x[p]) for x in heads) >= least for p in self.subtask.operands)

    def place_groups(self, size: int, attention: float) -> None:
        """Try every node, or every group of heads in one place."""
        done = [{*group} for group, rate in self.rates.items() if rate >= ALONE]
        groups = [(node,) for node in self.nodes] if size == 1 else co_located(self.nodes, size)
        groups = [g for g in groups if self.sees(g, attention) and not any(d <= {*g} for d in done)]
        self.rates |= self.measure(groups)

    def grow(self, most: int, attention: float) -> None:
        """Add the node that helps most to the best group, as long as one more pair in twenty matches."""
        pool = [node for node in self.nodes if self.sees((node,), max(attention, 0.1))]
        best = max(self.rates, key=lambda group: self.rates[group])
        while len(best) < most and self.rates[best] < 1.0:
            bigger = [(*best, node) for node in pool if node not in best]
            rates = self.measure(bigger)
            better = max(bigger, key=lambda group: rates[group], default=best)
            if better is best or rates[better] < self.rates[best] + 0.05:
                return
            best = better
            self.rates[best] = rates[best]  # only the way up is a candidate

    def ranked(self) -> list[Group]:
        """Best first, smaller first; without groups that do no better than a part of them."""
        tried = [({*group}, rate) for group, rate in self.rates.items()]
        worth = [
            g for g, rate in self.rates.items() if not any(part < {*g} and r >= rate for part, r in tried)
        ]
        return sorted(worth, key=lambda group: (-self.rates[group], len(group)))

    def measure(self, groups: Sequence[Group]) -> dict[Group, float]:
        """The share of pairs that each group matches."""
        found = self.answers(groups)
        matches = (found == self.pairs.expected).all(-1).double().mean(-1).tolist()
        self.tested += len(groups)
        return dict(zip(groups, matches))
