"""Which road does a model take? Resampling tests that tell the algorithms apart.

A donor here is the question itself with labels exchanged: same tree shape, same positions, same
goal position, but all nodes outside a set F are renamed among themselves. "What this state carries
depends only on the names of F" is then a hypothesis about *which nodes* a state knows of, tested by
putting the donor's state in its place. Two states, two directions:

- *memory*: everything that the three tokens of an edge A>B hold after a layer, each edge from its own
  donor. F = {A, B} and the ancestors of A up to k levels ("up"), or the descendants of B ("down").
- *pointer*: what the root token, where the first step is decided, holds after a layer. F = the root,
  its children, the goal, and the goal's ancestors up to k levels ("up"), or the descendants of the
  root ("down").

Roads: **chaining** at the path token (the paper's deduction heads): the memory holds edges only (k = 0
suffices in every layer), the pointer climbs. **Pointer jumping**: the memory needs ancestors. **Forward
reachability**: it needs descendants. What the test can't see: whether shape (depth, leafness) is used,
since donors share it. Source: ours, after section 6C of the dossier.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from mi_lab.model import Transformer
from mi_lab.scrub import Swap, remember, scrub_all
from mi_lab.studies.pathfinding.task import PathfindingTask

Direction = Literal["up", "down", "both", "none"]


class Recovery(NamedTuple):
    """Of the first step, x1 against its sibling, over questions with a choice at the root.

    difference [n], clean [n]: logit(x1) - logit(sibling) with and without donors. recovered: ratio of
    their means (1: the hypothesis loses nothing). correct, clean_correct: share above 0.
    """

    difference: Tensor
    clean: Tensor

    @property
    def recovered(self) -> float:
        """mean difference / mean clean difference."""
        return float(self.difference.mean() / self.clean.mean())

    @property
    def correct(self) -> float:
        """Share of questions whose first step is still right."""
        return float((self.difference > 0).float().mean())

    @property
    def clean_correct(self) -> float:
        """The same without donors."""
        return float((self.clean > 0).float().mean())


def relabelled(task: PathfindingTask, tokens: Tensor, fixed: Tensor, *, generator: torch.Generator) -> Tensor:
    """Int[n, pos]: the same prompts with the labels outside `fixed` Bool[n, node] permuted among themselves."""
    n, nodes = fixed.shape
    noise = torch.rand((n, nodes), generator=generator)
    # ranks of the free labels in label order and in random order: the i-th goes to the i-th
    ordered = torch.arange(nodes).expand(n, -1).masked_fill(fixed, nodes).sort(1).values
    shuffled = noise.masked_fill(fixed, 2.0).argsort(1)
    name = torch.arange(nodes).expand(n, -1).clone()
    name = torch.cat([name, name.new_zeros(n, 1)], 1).scatter(1, ordered, shuffled)[:, :nodes]
    bare, target = task.first_bare, task.first_target
    node = torch.where(tokens >= bare, tokens - bare, tokens - target).clamp(min=0)
    renamed = name.gather(1, node)
    return torch.where(
        tokens >= bare, renamed + bare, torch.where(tokens >= target, renamed + target, tokens)
    )


def ancestors_within(parent: Tensor, nodes: Tensor, k: int) -> Tensor:
    """Bool[n, .., node]: the given nodes Int[n, ..] and their ancestors up to k levels above."""
    n = len(parent)
    flat = nodes.reshape(n, -1)
    out = torch.zeros(n, flat.shape[1], parent.shape[1] + 1, dtype=torch.bool)
    for _ in range(k + 1):
        out.scatter_(2, torch.where(flat >= 0, flat, parent.shape[1]).unsqueeze(-1), True)
        flat = torch.where(flat >= 0, parent.gather(1, flat.clamp(min=0)), -1)
    return out[:, :, :-1].view(*nodes.shape, -1)


def descendants_within(parent: Tensor, nodes: Tensor, k: int) -> Tensor:
    """Bool[n, .., node]: the given nodes and their descendants up to k levels below."""
    n, size = parent.shape
    everyone = torch.arange(size).expand(n, -1)
    up = ancestors_within(parent, everyone, k)  # [n, node, its ancestors]
    return up.transpose(1, 2)[torch.arange(n).view(-1, *(1,) * (nodes.ndim - 1)), nodes.clamp(min=0)]


def ends(task: PathfindingTask, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Nodes (source, target), Int[n, edge] each, of the edges in the order in which they are listed."""
    width = 3 * task.n_edges
    return tokens[:, 0:width:3] - task.first_bare, tokens[:, 1:width:3] - task.first_target


def relatives(task: PathfindingTask, tokens: Tensor, parent: Tensor, direction: Direction, k: int) -> Tensor:
    """Bool[n, edge, node]: the set F of every edge; see the module's text, and `memory_test` for the directions."""
    source, target = ends(task, tokens)
    fixed = torch.zeros(*target.shape, task.n_labels, dtype=torch.bool)
    if direction != "none":
        fixed |= ancestors_within(parent, target, 1)  # the edge itself
    if direction in ("up", "both"):
        fixed |= ancestors_within(parent, source, k)
    if direction in ("down", "both"):
        fixed |= descendants_within(parent, target, k)
    return fixed


def first_step(task: PathfindingTask, truth: Mapping[str, Tensor], logits: Tensor) -> Tensor:
    """Float[n]: logit(x1) - logit(its sibling) from logits [n, vocab] at the root token."""
    right = truth["correct"][:, 0] + task.first_target
    other = truth["other"][:, 0] + task.first_target
    return (logits.gather(1, right[:, None]) - logits.gather(1, other[:, None]))[:, 0]


def with_choice(truth: Mapping[str, Tensor], *, shortest: int = 2) -> Tensor:
    """Bool[n]: the root has two children and the path at least `shortest` steps."""
    return (truth["other"][:, 0] >= 0) & (truth["length"] >= shortest)


def memory_test(
    model: Transformer,
    task: PathfindingTask,
    tokens: Tensor,
    truth: Mapping[str, Tensor],
    layers: Sequence[int],
    direction: Direction,
    k: int,
    *,
    generator: torch.Generator,
    chunk: int = 32,
) -> list[Recovery]:
    """Every edge's three tokens after each of `layers`, from a donor of its own that shares only F.

    F: see the module's text; direction "none": F is empty, even the edge itself is renamed, the control
    that must fail; "both": up and down. One pass over the donors (one per question and edge) serves
    all layers; in each test one layer is replaced. Returns a `Recovery` for each layer.
    """
    fixed = relatives(task, tokens, truth["parent"], direction, k)
    return memory_scrub(model, task, tokens, truth, layers, fixed, generator=generator, chunk=chunk)


def memory_scrub(
    model: Transformer,
    task: PathfindingTask,
    tokens: Tensor,
    truth: Mapping[str, Tensor],
    layers: Sequence[int],
    fixed: Tensor,
    *,
    generator: torch.Generator,
    chunk: int = 32,
) -> list[Recovery]:
    """As `memory_test`, for any set of names: fixed Bool[n, edge, node], those that each edge's donor shares."""
    edges = task.n_edges
    answer = slice(task.root_position, task.root_position + 1)
    width = 3 * edges - 1  # what stands behind the edges is not read: causality
    swaps = [Swap(layer, tuple(range(width)), "resid") for layer in layers]
    donor_of = torch.arange(width) // 3
    found: list[list[Tensor]] = [[] for _ in layers]
    clean: list[Tensor] = []
    for start in range(0, len(tokens), chunk):
        rows = tokens[start : start + chunk]
        many = rows.repeat_interleave(edges, 0)
        donors = relabelled(task, many, fixed[start : start + chunk].flatten(0, 1), generator=generator)
        pool = remember(model, donors[:, :width], swaps, answer=slice(0, width))
        index = torch.arange(len(rows))[:, None] * edges + donor_of
        outs = scrub_all(model, rows, pool, [(index, [swap]) for swap in swaps], answer=answer)
        some = {name: value[start : start + chunk] for name, value in truth.items()}
        for part, out in zip(found, outs, strict=True):
            part.append(first_step(task, some, out.logits[:, 0]))
        clean.append(first_step(task, some, outs[0].clean[:, 0]))
    return [Recovery(torch.cat(part), torch.cat(clean)) for part in found]


def pointer_test(
    model: Transformer,
    task: PathfindingTask,
    tokens: Tensor,
    truth: Mapping[str, Tensor],
    layers: Sequence[int],
    direction: Direction,
    k: int,
    *,
    generator: torch.Generator,
) -> list[Recovery]:
    """The root token after each of `layers` from a donor that shares only F (module text)."""
    parent = truth["parent"]
    fixed = torch.zeros_like(truth["leaf"])
    if direction != "none":
        fixed |= descendants_within(parent, truth["root"], 1)
        fixed |= ancestors_within(parent, truth["goal"], 0)
    if direction in ("up", "both"):
        fixed |= ancestors_within(parent, truth["goal"], k)
    if direction in ("down", "both"):
        fixed |= descendants_within(parent, truth["root"], k)
    donors = relabelled(task, tokens, fixed, generator=generator)
    answer = slice(task.root_position, task.root_position + 1)
    swaps = [Swap(layer, (task.root_position,), "resid") for layer in layers]
    pool = remember(model, donors, swaps, answer=answer)
    every = torch.arange(len(tokens))
    outs = scrub_all(model, tokens, pool, [(every, [swap]) for swap in swaps], answer=answer)
    clean = first_step(task, truth, outs[0].clean[:, 0])
    return [Recovery(first_step(task, truth, out.logits[:, 0]), clean) for out in outs]
