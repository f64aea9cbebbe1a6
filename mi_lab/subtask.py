"""Sub-tasks as declarations, and the interchange that finds the nodes which carry them.

A model that adds must know, somewhere, what D2 + D'2 is. A `SubTask` says so without naming a node: how
to draw pairs of questions, *clean* and *store*, and which **whole answer** to the clean question is right
once the sub-task's value, and nothing else, has been taken from the store question.

    carry = SubTask("ST", draw, predict, task, index=1, operands=(1, 5))
    interchange(model, carry, [Node(0, 0, position=7)])

`mi_lab.locate.search` tries all nodes, and groups of them.

The node's output is taken from the run on the store question while the model answers the clean one; if
the whole answer comes out as predicted, at (nearly) every pair, the node carries that value. Questions
should be random, all fillers included: with digits all alike a node passes for many reasons
(dossier, section 7). Four controls that have to stay at zero stand beside every hit:

- *same value*: pairs whose predicted answer is the clean one, although the fillers differ. Nothing may change;
- *wrong index*: the pairs and predictions of the sub-task's siblings (of another digit);
- *wrong position*: the same heads, one position earlier or later;
- *wrong head*: all other heads at the same place.

Source: "Arithmetic in Transformers Explained"; the whole-answer test on random pairs and the controls
are ours. When not to use it: to see that a value is *there*; that is what a probe tells. An interchange
shows that the rest of the model reads it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mi_lab.ablate import node_values, patch_nodes
from mi_lab.groups import Group, Prepared
from mi_lab.model import Transformer
from mi_lab.node_table import Count
from mi_lab.run import Node, run
from mi_lab.studies.base import Task, targets

ROUNDS = 20  # how often pairs are drawn anew until there are enough that should change the answer
Draw = Callable[[int, torch.Generator], tuple[Tensor, Tensor]]
"""(n, generator) -> clean, store, Int[n, n_ctx] each."""
Predict = Callable[[Tensor, Tensor], Tensor]
"""(clean, store) -> Int[n, answer]: the answer to `clean` with this sub-task's value taken from `store`."""
Answers = Callable[[Sequence[Group]], Tensor]
"""groups -> Int16[group, pair, answer]"""
MANY = 24  # from so many single nodes on the sweep over nodes is the faster one


@dataclass(frozen=True)
class SubTask:
    """A value that the model may compute on the way, and what moving it must do.

    family and index make the name: "ST" and 2 are ST2. operands: positions that a head must look at
    to compute it, if that is part of the claim. text: what it is, for tables.

    free_running: the model reads the predicted answer instead of the clean one. Then `match` is exactly
    that of a free run, in which the model reads what it has written itself: up to the first token that
    is not as predicted both read the same. Needed where several tokens change and later ones are made
    from earlier ones: the clean answer would tell them that nothing has changed.
    """

    family: str
    draw: Draw
    predict: Predict
    task: Task
    index: int | None = None
    operands: tuple[int, ...] = ()
    text: str = ""
    free_running: bool = False

    @property
    def name(self) -> str:
        """Such as ST2."""
        return self.family + ("" if self.index is None else str(self.index))


class Pairs(NamedTuple):
    """clean, store Int[n, n_ctx] solved; expected, right Int[n, answer]: predicted, and the clean answer.

    In `clean` stands the answer that the model is to read: of a free-running sub-task, the predicted one.
    """

    clean: Tensor
    store: Tensor
    expected: Tensor
    right: Tensor

    def rows(self, index: Tensor | slice) -> Pairs:
        """Some of the pairs."""
        return Pairs(*(x[index] for x in self))


def draw_pairs(
    subtask: SubTask, n: int, generator: torch.Generator, device: torch.device | str = "cpu"
) -> tuple[Pairs, Pairs]:
    """n pairs whose predicted answer differs from the clean one, and up to n where it does not.

    Raises ValueError if the sub-task draws too few of the first kind, or predictions of another shape.
    """
    task, found = subtask.task, []
    moving = 0
    for _ in range(ROUNDS):
        clean, store = (task.solve(x) for x in subtask.draw(n, generator))
        right, expected = targets(task, clean).long(), subtask.predict(clean, store).long()
        if expected.shape != right.shape:
            raise ValueError(
                f"{subtask.name}.predict must give whole answers {list(right.shape)}, not {list(expected.shape)}"
            )
        if subtask.free_running:
            clean = clean.clone()
            clean[:, task.answer.start + 1 : task.answer.stop + 1] = expected
        found.append(Pairs(clean, store, expected, right))
        moving += int((expected != right).any(1).sum())
        if moving >= n:
            break
    pairs = Pairs(*(torch.cat(parts).to(device) for parts in zip(*found)))
    moves = (pairs.expected != pairs.right).any(1)
    if moving < n:
        raise ValueError(
            f"{subtask.name}: in only {moving} of {len(moves)} pairs drawn does the value matter, {n} are "
            "needed; draw clean and store so that the predicted answer differs from the clean one"
        )
    return pairs.rows(moves.nonzero()[:n, 0]), pairs.rows((~moves).nonzero()[:n, 0])


@dataclass(frozen=True)
class Evidence:
    """What an interchange of `nodes` showed for one sub-task.

    match: the whole answer is as predicted. weak: the answer tokens that change are those that should
    (the paper's weak test). changed: some answer token changes. controls: name -> how often the answer is
    what the sub-task would make of it, or for "same value" how often it changes; all should be 0.
    attends: mean attention to each operand, by the head of the group that looks there most.
    """

    subtask: str
    nodes: Group
    match: Count
    weak: Count
    changed: Count
    controls: Mapping[str, Count]
    attends: Mapping[int, float]

    @property
    def name(self) -> str:
        """P12L0H0, or P12L0H0+H2 for heads that share a place."""
        first, *more = self.nodes
        together = all((node.position, node.layer) == (first.position, first.layer) for node in more)
        parts = [f"H{node.head}" if together else node.name for node in more]
        return "+".join([first.name, *parts])

    @property
    def position(self) -> int:
        """Where the value is complete: the last position of the group."""
        return max(node.position or 0 for node in self.nodes)

    @property
    def layer(self) -> int:
        """The layer in which it is complete."""
        return max(node.layer for node in self.nodes)

    def holds(self, least: float = 0.9, control: float = 0.2, attention: float = 0.1) -> bool:
        """Do matches reach `least`, no control exceed `control`, and all operands get `attention`?

        control is not 0: a decoy that spoils one digit has one chance in ten to spoil it as predicted.
        An MLP looks nowhere: for it the operands are not asked for.
        """
        seen = all(weight >= attention for weight in self.attends.values())
        quiet = all(count.rate <= control for count in self.controls.values())
        return self.match.rate >= least and quiet and seen

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON."""
        counts = {key: list(getattr(self, key)) for key in ("match", "weak", "changed")}
        return {
            "subtask": self.subtask,
            "nodes": [node.name for node in self.nodes],
            **counts,
            "controls": {name: list(count) for name, count in self.controls.items()},
            "attends": {str(key): round(weight, 6) for key, weight in self.attends.items()},
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Evidence:
        """The way back from `to_dict`."""
        counts = {key: Count(*data[key]) for key in ("match", "weak", "changed")}
        return cls(
            data["subtask"],
            tuple(map(Node.parse, data["nodes"])),
            **counts,
            controls={name: Count(*count) for name, count in data["controls"].items()},
            attends={int(key): weight for key, weight in data["attends"].items()},
        )

    def __str__(self) -> str:
        controls = ", ".join(f"{name} {count.rate:.2f}" for name, count in self.controls.items())
        held = "holds" if self.holds() else "does not hold"
        return f"{self.subtask} {held} at {self.name}: {self.match.interval}; {controls}"


def interchange(
    model: Transformer,
    subtask: SubTask,
    nodes: Sequence[Node],
    *,
    siblings: Sequence[SubTask] = (),
    n: int = 200,
    generator: torch.Generator | None = None,
    free_running: bool = False,
) -> Evidence:
    """Does this node, or these nodes together, carry the sub-task's value?

    siblings: sub-tasks for the control "wrong index". n: pairs. generator: default seed 0.
    free_running: let the model write the answer itself, token by token, with the nodes replaced all
    along, one pass per token; otherwise it reads the clean answer (or what the sub-task says) and every
    token is predicted at once, as in the paper.
    Raises ValueError for nodes without a position or outside the model, and without any node.
    """
    group = checked_nodes(model, subtask, nodes)
    generator = generator or torch.Generator().manual_seed(0)
    return measure(model, subtask, [group], siblings, n, generator, free_running)[0]


def checked_nodes(model: Transformer, subtask: SubTask, nodes: Sequence[Node]) -> Group:
    """The nodes, if they are nodes of this model with a position."""
    if not nodes:
        raise ValueError(f"{subtask.name}: an interchange needs at least one node")
    for node in nodes:
        if node.check(model.config, subtask.task.n_ctx).position is None:
            raise ValueError(f"{subtask.name}: node {node} needs a position, such as P7{node}")
    return tuple(nodes)


def answering(model: Transformer, pairs: Pairs, answer: slice) -> Answers:
    """What gives Int16[group, pair, answer]: the answers with each group taken from the store run.

    For asking again and again: the runs of these pairs are made once (`mi_lab.groups.Prepared`).
    """
    prepared: Prepared | None = None

    def tokens(logits: Tensor, rows: Tensor) -> Tensor:
        return logits.argmax(-1).to(torch.int16)

    def answers(groups: Sequence[Group]) -> Tensor:
        nonlocal prepared
        if not groups or not len(pairs.clean):
            return pairs.right.new_empty(len(groups), *pairs.right.shape, dtype=torch.int16)
        if len(groups) >= MANY and all(
            len(group) == 1 for group in groups
        ):  # the same numbers, a little faster
            nodes = [group[0] for group in groups]
            return patch_nodes(model, pairs.clean, pairs.store, nodes, answer=answer, reduce=tokens).changed
        if prepared is None:
            prepared = Prepared(model, pairs.clean, donors=pairs.store, answer=answer)
        return prepared.sweep(groups, reduce=tokens).changed

    return answers


def answers_with(model: Transformer, pairs: Pairs, groups: Sequence[Group], answer: slice) -> Tensor:
    """Int16[group, pair, answer]: the answers with each group taken from the store run."""
    return answering(model, pairs, answer)(groups)


def _generating(model: Transformer, pairs: Pairs, answer: slice) -> Answers:
    """As `answering`, with every answer token chosen and then read by the model itself."""

    values = node_values(model, pairs.store)

    def answers(groups: Sequence[Group]) -> Tensor:
        out = []
        for group in groups:
            rows = pairs.clean.clone()
            for position in range(answer.start, answer.stop):
                edit = {node: values.of(node) for node in group if (node.position or 0) <= position}
                rows[:, position + 1] = (
                    run(model, rows[:, : position + 1], edit=edit).logits[:, -1].argmax(-1)
                )
            out.append(rows[:, answer.start + 1 : answer.stop + 1].to(torch.int16))
        return torch.stack(out)

    return answers


def measure(
    model: Transformer,
    subtask: SubTask,
    groups: Sequence[Group],
    siblings: Sequence[SubTask],
    n: int,
    generator: torch.Generator,
    free_running: bool,
) -> list[Evidence]:
    """Every group on the same fresh pairs, with its controls: a sweep for each kind of pair."""
    how, answer = _generating if free_running else answering, subtask.task.answer
    pairs, still = draw_pairs(subtask, n, generator, model.device)
    answers = how(model, pairs, answer)
    found = answers(groups)
    unmoved = how(model, still, answer)(groups) if len(still.clean) else None
    others = [(s, draw_pairs(s, n, generator, model.device)[0]) for s in siblings]
    foreign = [(s, (how(model, p, answer)(groups) == p.expected).all(-1)) for s, p in others]
    places = [_elsewhere(model, group, answer.stop) for group in groups]
    decoys = list(dict.fromkeys(group for named in places for group in named.values()))
    away = dict(zip(decoys, (answers(decoys) == pairs.expected).all(-1))) if decoys else {}
    looks = mean_attention(model, pairs.clean, [node for group in groups for node in group])
    should = pairs.expected != pairs.right
    out = []
    for i, group in enumerate(groups):
        does = found[i] != pairs.right
        controls: dict[str, Count] = {}
        if unmoved is not None:
            controls["same value"] = _count((unmoved[i] != still.right).any(-1))
        controls |= {f"wrong index: {s.name}": _count(hit[i]) for s, hit in foreign}
        controls |= {name: _count(away[decoy]) for name, decoy in places[i].items()}
        heads = [looks[node] for node in group if node in looks]
        attends = {p: max(float(look[p]) for look in heads) for p in subtask.operands} if heads else {}
        match = _count((found[i] == pairs.expected).all(-1))
        weak, changed = _count((does == should).all(-1)), _count(does.any(-1))
        out.append(Evidence(subtask.name, group, match, weak, changed, controls, attends))
    return out


def _elsewhere(model: Transformer, group: Group, stop: int) -> dict[str, Group]:
    """The decoys of a group: one position off, and the other heads at its place."""
    out: dict[str, Group] = {}
    for step in (-1, 1):
        places = [(node.position or 0) + step for node in group]
        if all(0 <= place < stop for place in places):
            shifted = tuple(Node(node.layer, node.head, place) for node, place in zip(group, places))
            if not {*shifted} & {*group}:  # a spread group may stand in its own way
                out[f"wrong position: {step:+d}"] = shifted
    sites = {(x.layer, x.position) for x in group if x.head is not None}
    heads = [Node(layer, h, position) for layer, position in sites for h in range(model.config.n_heads)]
    rest = tuple(node for node in heads if node not in group)
    if rest:
        out["wrong head: all others"] = rest
    return out


@torch.no_grad()
def mean_attention(model: Transformer, tokens: Tensor, nodes: Sequence[Node]) -> dict[Node, Tensor]:
    """Mean attention [key] of each head among these nodes."""
    names = {node.layer: f"blocks.{node.layer}.attn.pattern" for node in nodes if node.head is not None}
    out = run(model, tokens, record=names.values())
    mean = {layer: out[name].mean(0) for layer, name in names.items()}
    return {node: mean[node.layer][node.head, node.position] for node in nodes if node.head is not None}


def _count(hits: Tensor) -> Count:
    return Count(int(hits.sum()), hits.numel())
