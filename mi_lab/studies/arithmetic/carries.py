"""Where does a carry come from when a digit is written? Three tests beside the sub-tasks' interchanges.

- `routes`: the state of column k decides digit A_j through a run of columns that pass. Which copies of
  it does A_j use: those made by the time the sign is read (early), or those made later?
- `read_back`: a wrong digit A_{k+1} is put before the model. Where column k passes a carry on, the carry
  out of k, visible in A_{k+1}, is the carry into k: a model that writes from the left can read it there.
- `u_test`: toggle the carry of column k - 1 below a column k that passes (U), or does not. Which nodes
  make A_{k+1} take the toggled value, and does what they write stay the same where it does not matter?

Sources: the U-test is the authors' later one (claims CE3-CE15), with random digits. `routes` and
`read_back` are ours, made after the first results were seen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from mi_lab.ablate import all_nodes
from mi_lab.clusters import written
from mi_lab.groups import Group, sweep_groups
from mi_lab.model import Transformer
from mi_lab.node_table import Count
from mi_lab.run import Node
from mi_lab.studies.arithmetic.columns import (
    CLEAR,
    DEFINITE,
    KINDS,
    PASS,
    SURE,
    Digits,
    column,
    put,
    question,
    random_digits,
)
from mi_lab.studies.arithmetic.task import ArithmeticTask
from mi_lab.studies.base import predict, targets
from mi_lab.subtask import mean_attention

LOOKS = 0.1  # a head that looks at a column gives each of its digits at least so much of its attention,
EVEN = 1.5  # and so many times what it would get if all tokens got the same
SEED = 0xA41


def lookers(
    model: Transformer, task: ArithmeticTask, tokens: Tensor, *, least: float = LOOKS, both: bool = True
) -> dict[int, Group]:
    """Column k -> the heads, in any layer and place, that look at D_k and D'_k, or with both False at one of them.

    Without those where A_k itself is predicted: they look there for the column's own digit.
    """
    first = task.digits + 1 if both else 0
    nodes = [x for x in all_nodes(model.config, range(first, task.answer.stop)) if x.head is not None]
    looks = mean_attention(model, tokens, nodes)
    out = {}
    for k in range(task.digits):
        places = task.position(f"D{k}"), task.position(f"D'{k}")
        own = task.position(f"A{k}") - 1
        seen = {
            x: [float(looks[x][p]) >= max(least, EVEN / (1 + (x.position or 0))) for p in places]
            for x in nodes
            if x.position != own
        }
        out[k] = tuple(x for x, pair in seen.items() if (all if both else any)(pair))
    return out


# ---- routes ----


class Route(NamedTuple):
    """How the state of column k gets to A_j. early, late, all: share of pairs in which A_j, right before,
    takes the toggled value when those copies are patched; same: it changes though the state is the same; other: the
    copies of all other columns are patched instead."""

    k: int
    j: int
    early: Count
    late: Count
    all: Count
    same: Count
    other: Count


def routes(
    model: Transformer, task: ArithmeticTask, *, kind: str = "S", n: int = 64, seed: int = SEED
) -> tuple[Route, ...]:
    """Every k < j: n pairs whose columns between k and j pass; column k carries in one, not in the other.

    All other digits are random, in both questions by themselves. Early copies: heads that look at the
    column, up to the position of the sign. The clean answer is read, so that nothing can be read back.
    Cost: three groups of heads per column on n pairs per cell.
    """
    generator = torch.Generator().manual_seed(seed)
    top = task.digits if kind == "S" else task.digits - 1
    cells = [(k, j) for k in range(top) for j in range(k + 1, top + 1)]
    drawn = [_toggled(task, kind, k, j, n, generator) for k, j in cells]
    tokens = torch.cat([clean for clean, *_ in drawn]).to(model.device)
    heads = lookers(model, task, tokens, both=kind == "S")
    sign = task.position("SGN")
    out = []
    for (k, j), (clean, store, still) in zip(cells, drawn):
        early = tuple(x for x in heads[k] if (x.position or 0) <= sign)
        late = tuple(x for x in heads[k] if (x.position or 0) > sign)
        rest = tuple({x for i in heads if i != k for x in heads[i]} - {*heads[k]})
        place = task.digits + 1 - j  # the answer is the sign, A_n, .., A_0
        right, wanted = targets(task, clean)[:, place], _other_digit(task, kind, j, clean)
        found, before = _digit(model, task, clean, store, [early, late, heads[k], rest], place)
        kept = _digit(model, task, clean, still, [heads[k]], place)[0][0]
        moves = [Count(int(((x == wanted) & (before == right)).sum()), n) for x in found]
        same = Count(int((kept != before).sum()), n)
        out.append(Route(k, j, moves[0], moves[1], moves[2], same, moves[3]))
    return tuple(out)


def _toggled(
    task: ArithmeticTask, kind: str, k: int, j: int, n: int, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Clean questions, and others in which column k carries if it did not, and in which it is as it was."""
    states: dict[int, tuple[str, ...]] = {i: (PASS,) for i in range(k + 1, task.digits) if i < j}
    if j < task.digits:
        states[j] = (CLEAR,) if kind != "S" and j == task.digits - 1 else DEFINITE
    sure = torch.rand((n, 1), generator=generator) < 0.5
    out = []
    for toggled in (False, True, False):
        digits = random_digits(task, kind, n, generator, states=states)
        carries, not_ = (column(kind, (state,), n, generator) for state in (SURE, CLEAR))
        put(digits, k, torch.where(sure ^ toggled, carries, not_))
        out.append(question(task, digits, kind != "S"))
    return out[0], out[1], out[2]


def _other_digit(task: ArithmeticTask, kind: str, j: int, clean: Tensor) -> Tensor:
    """Int[n]: A_j with the other carry into it."""
    variables = task.variables(clean)
    carry = variables[{"S": "SV", "M": "MV", "N": "NV"}[kind]][:, j - 1]
    if j == task.digits:
        return 1 - carry
    base = variables[{"S": "SA", "M": "MD", "N": "ND"}[kind]][:, j]
    return (base + KINDS[kind].sign * (1 - carry)) % 10


def _digit(
    model: Transformer,
    task: ArithmeticTask,
    clean: Tensor,
    store: Tensor,
    groups: Sequence[Group],
    place: int,
) -> tuple[Tensor, Tensor]:
    """Int[group, n]: one token of the answer with each group patched; Int[n]: with none."""
    sweep = sweep_groups(
        model, clean.to(model.device), groups, donors=store.to(model.device), answer=task.answer,
        reduce=lambda logits, _: logits[..., place, :].argmax(-1),
    )  # fmt: skip
    return sweep.changed.cpu(), sweep.clean.cpu()


# ---- reading the carry off the digit just written ----


class ReadBack(NamedTuple):
    """What A_k does when the answer read so far has A_{k+1} with the other carry.

    run: columns that pass, from k downwards; the one below them does not. passes: A_k takes the other carry
    too. definite: column k does not pass, the `run` columns below it do, and A_k changes. other: columns
    as for `passes`, but the wrong digit is A_{k+2}, and A_k changes (0 of 0 if there is no such digit).
    """

    k: int
    run: int
    passes: Count
    definite: Count
    other: Count


def read_back(
    model: Transformer, task: ArithmeticTask, *, kind: str = "S", n: int = 100, seed: int = SEED
) -> tuple[ReadBack, ...]:
    """Every k from 1 to the highest with a carry into it, every run; n questions each way.

    Columns k + 1 and k + 2 do not pass, so that A_{k+1} alone tells. No node is changed: only the tokens
    that the model reads. Cost: six forward passes of n questions per row.
    """
    generator = torch.Generator().manual_seed(seed)
    top = task.digits if kind == "S" else task.digits - 1
    out = []
    for k in range(1, top):
        place = task.digits + 1 - k
        for run in range(1, k + 1):
            counts = []
            for first, step in ((PASS,), 1), (DEFINITE, 1), ((PASS,), 2):
                if k + step > top:
                    counts.append(Count(0, 0))
                    continue
                states = dict.fromkeys(range(k - run + 1, k), (PASS,)) | {k: first, k - run: DEFINITE}
                states |= {i: DEFINITE for i in (k + 1, k + 2) if i < top}
                tokens = question(task, random_digits(task, kind, n, generator, states=states), kind != "S")
                right, wanted = targets(task, tokens)[:, place].clone(), _other_digit(task, kind, k, tokens)
                before = predict(model, task, tokens.to(model.device))[:, place].cpu()
                tokens[:, task.position(f"A{k + step}")] = _other_digit(task, kind, k + step, tokens)
                found = predict(model, task, tokens.to(model.device))[:, place].cpu()
                hits = found != before if counts else (found == wanted) & (before == right)
                counts.append(Count(int(hits.sum()), n))
            out.append(ReadBack(k, run, *counts))
    return tuple(out)


# ---- U-test ----


class UTest(NamedTuple):
    """Toggling the carry of column k - 1. flip: column k passes, and A_{k+1} takes the toggled value.
    definite: column k does not pass, and A_{k+1} changes. filler: column k passes, column k - 1 has other digits of
    the same state, and A_{k+1} changes."""

    nodes: Group
    flip: Count
    definite: Count
    filler: Count


def u_test(
    model: Transformer,
    task: ArithmeticTask,
    k: int,
    groups: Sequence[Sequence[Node]],
    *,
    kind: str = "S",
    n: int = 200,
    seed: int = SEED,
) -> tuple[UTest, ...]:
    """For each group, patched from a question that differs in column k - 1 only; k from 1 on."""
    chosen = [tuple(group) for group in groups]
    place = task.digits - k
    counts = []
    for clean, store, same in u_pairs(task, k, kind=kind, n=n, seed=seed):
        right, wanted = targets(task, clean)[:, place], targets(task, store)[:, place]
        found, before = _digit(model, task, clean, store, chosen, place)
        flips = not same and bool((wanted != right).all())
        hits = (found == wanted) & (before == right) if flips else found != before
        counts.append([Count(int(x.sum()), n) for x in hits])
    return tuple(UTest(*row) for row in zip(chosen, *counts))


def u_pairs(
    task: ArithmeticTask, k: int, *, kind: str = "S", n: int = 200, seed: int = SEED
) -> tuple[tuple[Tensor, Tensor, bool], ...]:
    """(clean, toggled, is the state the same) for `UTest`'s flip, definite and filler, Int[n, n_ctx] each.

    Raises ValueError for a column that has none below it, or that no carry leaves.
    """
    top = task.digits if kind == "S" else task.digits - 1
    if not 1 <= k < top:
        raise ValueError(f"a U-test needs a column from 1 to {top - 1}, not {k}")
    generator = torch.Generator().manual_seed(seed + k)
    out = []
    for states, same in (((PASS,), False), (DEFINITE, False), ((PASS,), True)):
        fixed = {k: states} | ({k + 1: DEFINITE} if k + 1 < top else {})
        digits = random_digits(task, kind, n, generator, states=fixed)
        carries = [column(kind, (state,), n, generator) for state in (SURE, CLEAR, SURE, CLEAR)]
        coin = torch.rand((n, 1), generator=generator) < 0.5
        pair = []
        for toggled in (False, not same):
            new: Digits = (digits[0].clone(), digits[1].clone())
            put(new, k - 1, torch.where(coin ^ toggled, *carries[2 * len(pair) : 2 * len(pair) + 2]))
            pair.append(question(task, new, kind != "S"))
        out.append((pair[0], pair[1], same))
    return tuple(out)


class Change(NamedTuple):
    """How far a node's output moves when the carry of column k - 1 is toggled, in units of its spread.

    passes, definite: column k passes, or does not. Both: root mean square of the change over root mean
    square of the output's distance from its mean.
    """

    passes: float
    definite: float


@torch.no_grad()
def change(
    model: Transformer, task: ArithmeticTask, k: int, node: Node, *, kind: str = "S", n: int = 200
) -> Change:
    """`Change` of what a node writes, e.g. the last MLP where A_{k+1} is predicted."""
    moved, spread = [], []
    for clean, store, _ in u_pairs(task, k, kind=kind, n=n)[:2]:
        one, two = (written(model, x.to(model.device), node) for x in (clean, store))
        moved.append(float((two - one).square().sum(1).mean().sqrt()))
        spread.append(float((one - one.mean(0)).square().sum(1).mean().sqrt()))
    # a node that writes nothing has no spread
    return Change(*(m / s if s else 0.0 for m, s in zip(moved, spread)))


def table(rows: Sequence[NamedTuple], names: Mapping[str, str]) -> str:
    """Rows of counts as Markdown; names: field -> heading."""
    head = "| " + " | ".join(names.values()) + " |\n|" + "---|" * len(names)
    lines = []
    for row in rows:
        cells = [getattr(row, name) for name in names]
        lines.append(
            "| " + " | ".join(f"{c.rate:.2f}" if isinstance(c, Count) else str(c) for c in cells) + " |"
        )
    return "\n".join([head, *lines])
