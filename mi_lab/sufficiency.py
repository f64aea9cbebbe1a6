"""Is a circuit the whole story? Keep it and ablate the rest; and find what only a group can show.

    found = sufficiency(model, task, tokens, keep=circuit)   # accuracy with all else replaced by means
    missing(model, task, tokens, keep=circuit, candidates=others, target=0.99)
    redundant(model, task, tokens, nodes=silent)             # silent alone, necessary together

Each node is replaced by its own mean (its layer, position and head). A circuit that keeps the accuracy
is only worth something if random circuits of the same make-up do not: `sufficiency` draws them.
Single ablations have false negatives: two nodes that write the same thing are each silent. `redundant`
tests pairs, and `minimal_group` boils a whole set of silent nodes down to a necessary core.
Accuracy is of whole answers, teacher-forced. Source: dossier, section 7; arithmetic claims A14, CE30.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mi_lab.ablate import Values, ablate_group, all_nodes, mean_values
from mi_lab.groups import Group, sweep_groups
from mi_lab.model import Transformer
from mi_lab.node_table import Count
from mi_lab.run import Node
from mi_lab.studies.base import Task, predict, targets


@dataclass(frozen=True)
class Sufficiency:
    """kept of total nodes; whole answers right in the intact model, with the circuit alone, with nothing
    kept, and with each random circuit of as many heads and MLPs per layer."""

    kept: int
    total: int
    intact: Count
    circuit: Count
    nothing: Count
    random: tuple[Count, ...]

    @property
    def best_random(self) -> float:
        """Accuracy of the best random circuit; 0 if none was drawn."""
        return max((count.rate for count in self.random), default=0.0)

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON."""
        counts = {name: list(getattr(self, name)) for name in ("intact", "circuit", "nothing")}
        return {"kept": self.kept, "total": self.total, **counts, "random": [list(c) for c in self.random]}

    def __str__(self) -> str:
        return (
            f"{self.kept} of {self.total} nodes kept: {self.circuit.interval} of whole answers right "
            f"(intact {self.intact.rate:.4g}, nothing kept {self.nothing.rate:.4g}, best of {len(self.random)} "
            f"random circuits {self.best_random:.4g})"
        )

    __repr__ = __str__


def sufficiency(
    model: Transformer,
    task: Task,
    tokens: Tensor,
    keep: Sequence[Node],
    *,
    reference: Tensor | None = None,
    among: Sequence[Node] | None = None,
    randoms: int = 10,
    generator: torch.Generator | None = None,
) -> Sufficiency:
    """Accuracy with only the nodes `keep` at work, all others at their mean over `reference`.

    tokens: Int[n, n_ctx]. among: where random circuits are drawn from, with as many heads and MLPs of
    each layer as in `keep`; default all nodes that can matter. Taking the scan's useful nodes makes
    the control harder. Raises ValueError if `among` is too small for that, and for foreign nodes.
    """
    lab = _Lab(model, task, tokens, reference)
    pool = lab.nodes if among is None else tuple(among)
    keep = lab.checked(keep)
    generator = generator or torch.Generator().manual_seed(0)
    wanted = Counter(map(_kind, keep))
    have = Counter(map(_kind, pool))
    for kind, count in wanted.items():
        if have[kind] < count:
            what = "MLPs" if kind[1] else "heads"
            raise ValueError(
                f"`among` has {have[kind]} {what} of layer {kind[0]}, random circuits need {count}"
            )
    drawn = []
    for _ in range(randoms):
        order = [pool[i] for i in torch.randperm(len(pool), generator=generator).tolist()]
        circuit = [node for kind, n in wanted.items() for node in [x for x in order if _kind(x) == kind][:n]]
        drawn.append(lab.only(circuit))
    return Sufficiency(len(keep), len(lab.nodes), lab.without([]), lab.only(keep), lab.only([]), tuple(drawn))


def missing(
    model: Transformer,
    task: Task,
    tokens: Tensor,
    keep: Sequence[Node],
    candidates: Sequence[Node],
    *,
    target: float = 0.99,
    reference: Tensor | None = None,
) -> tuple[Node, ...]:
    """Nodes that, added to the circuit `keep`, bring its accuracy to `target`; () if it is there already.

    candidates: in the order to try them, e.g. a scan's nodes with most failures first. They are added
    until the target is reached, and each that turns out not to be needed is taken back, last one first;
    so no node of the answer can be left out, though another answer may be smaller. Raises ValueError
    if all candidates together do not reach it. Cost: some two passes per candidate.
    """
    lab = _Lab(model, task, tokens, reference)
    keep = lab.checked(keep)
    others = [node for node in lab.checked(candidates) if node not in keep]
    low, high = 0, len(others)  # the shortest run of candidates that is enough, by bisection
    if lab.only([*keep, *others]).rate < target:
        rate = lab.only([*keep, *others]).rate
        raise ValueError(f"with all {high} candidates the accuracy is {rate:.4g}, below {target}")
    while low < high:
        middle = (low + high) // 2
        if lab.only([*keep, *others[:middle]]).rate >= target:
            high = middle
        else:
            low = middle + 1
    added = others[:low]
    for node in reversed(added[:]):
        fewer = [x for x in added if x != node]
        if lab.only([*keep, *fewer]).rate >= target:
            added = fewer
    return tuple(added)


@dataclass(frozen=True)
class Joint:
    """Questions that turn wrong when all these nodes are ablated, and when each is alone."""

    nodes: Group
    together: Count
    alone: tuple[Count, ...]

    @property
    def excess(self) -> float:
        """Failing share beyond the sum of the single ones."""
        return self.together.rate - sum(count.rate for count in self.alone)

    def __str__(self) -> str:
        alone = ", ".join(f"{count.rate:.3g}" for count in self.alone)
        return f"{' + '.join(n.name for n in self.nodes)}: {self.together.rate:.3g} together, {alone} alone"

    __repr__ = __str__


def redundant(
    model: Transformer,
    task: Task,
    tokens: Tensor,
    nodes: Sequence[Node],
    *,
    least: float = 0.05,
    screen: int = 64,
    reference: Tensor | None = None,
) -> tuple[Joint, ...]:
    """Pairs of these nodes that fail together by `least` more than the two do singly; worst first.

    nodes: e.g. those silent in a scan, `table.where(above=-1, test=lambda row: not row.fail.hits)`.
    Every pair is tried on the first `screen` questions, and what fails there on all of them. Cost: n^2/2
    pairs of n nodes, about 10 times cheaper than a pass each (`mi_lab.groups`).
    """
    lab = _Lab(model, task, tokens, reference)
    nodes = lab.checked(nodes)
    pairs = list(itertools.combinations(nodes, 2))
    first = lab.fails(pairs, lab.tokens[:screen])
    # what fails at half the rate asked for on few questions may do so on all
    likely = [pair for pair, count in zip(pairs, first) if count.rate >= least / 2]
    alone = dict(zip(nodes, lab.fails([(node,) for node in nodes])))
    found = [
        Joint(pair, count, tuple(alone[node] for node in pair))
        for pair, count in zip(likely, lab.fails(likely))
    ]
    return tuple(sorted((j for j in found if j.excess >= least), key=lambda joint: -joint.excess))


def minimal_group(
    model: Transformer,
    task: Task,
    tokens: Tensor,
    nodes: Sequence[Node],
    *,
    least: float = 0.05,
    reference: Tensor | None = None,
) -> Joint | None:
    """A group out of `nodes` that fails on `least` of the questions, none of which can be left out.

    None if even all of them together fail less. Nodes are dropped greedily, in the order given, so
    another group may be as good. Cost: one pass per node.
    """
    lab = _Lab(model, task, tokens, reference)
    group = list(lab.checked(nodes))
    if not group or lab.fails([tuple(group)])[0].rate < least:
        return None
    for node in tuple(group):
        fewer = tuple(x for x in group if x != node)
        if fewer and lab.fails([fewer])[0].rate >= least:
            group = list(fewer)
    together, *alone = lab.fails([tuple(group), *((node,) for node in group)])
    return Joint(tuple(group), together, tuple(alone))


class _Lab:
    """One model on one set of solved questions, with its means."""

    def __init__(self, model: Transformer, task: Task, tokens: Tensor, reference: Tensor | None) -> None:
        self.model, self.task, self.tokens = model, task, task.solve(tokens).to(model.device)
        self.means: Values = mean_values(
            model, self.tokens if reference is None else reference.to(model.device)
        )
        last = model.config.n_layers - 1
        self.nodes = tuple(  # those that an answer can depend on
            node
            for node in all_nodes(model.config, task.answer.stop)
            if node.layer < last or (node.position or 0) >= task.answer.start
        )

    def checked(self, nodes: Sequence[Node]) -> Group:
        """The nodes without repeats; raises ValueError for those outside the model or at all positions."""
        for node in nodes:
            if node.check(self.model.config, self.task.n_ctx).position is None:
                raise ValueError(f"node {node} is at all positions; a circuit's nodes need one each")
        return tuple(dict.fromkeys(nodes))

    def without(self, nodes: Sequence[Node]) -> Count:
        """Whole answers right with these nodes at their means."""
        answer = self.task.answer
        if not nodes:
            right = (predict(self.model, self.task, self.tokens) == targets(self.task, self.tokens)).all(1)
        else:
            right = ablate_group(
                self.model, self.tokens, nodes, answer=answer, value=self.means, reduce="correct"
            ).all(1)
        return Count(int(right.sum()), len(right))

    def only(self, nodes: Sequence[Node]) -> Count:
        """Whole answers right with all other nodes at their means."""
        kept = {*nodes}
        return self.without([node for node in self.nodes if node not in kept])

    def fails(self, groups: Sequence[Group], tokens: Tensor | None = None) -> list[Count]:
        """Questions answered right as a rule, wrong without the group."""
        tokens = self.tokens if tokens is None else tokens
        if not groups:
            return []
        sweep = sweep_groups(
            self.model, tokens, groups, answer=self.task.answer, value=self.means, reduce="correct"
        )
        right = sweep.clean.all(-1)
        wrong = ~sweep.changed.all(-1) & right
        return [Count(int(x), int(right.sum())) for x in wrong.sum(-1)]


def _kind(node: Node) -> tuple[int, bool]:
    """Layer, and is it an MLP: what a random circuit has to match."""
    return node.layer, node.head is None
