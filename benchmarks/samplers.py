"""Making training data: the vectorised samplers against generators of the kind that the authors used.

The other side is written here from descriptions of the authors' data (the dossiers in words, not their
code): a loop over digits in tensors of one batch (addition), a tree grown node by node in networkx, its
path found by breadth-first search, written as text and split into tokens (pathfinding), a Python list per
example (sorting). Both sides make the same kind of example; gate before the clock: every example of either
side obeys the law of the task, and two statistics of the samples agree within 4 standard errors.

Times are per example: addition and trees in batches of 4,096 against the authors' way at its own size (64
questions; one tree at a time), lists in batches of 4,096 against one at a time.
"""

from __future__ import annotations

import math
import random
import sys
from pathlib import Path
from typing import Any

import networkx
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1]))

from common import arguments, gate, interleave, machine, ratio, report, row

from mi_lab.studies.arithmetic.task import EQUALS, NINES, PLUS, ArithmeticTask
from mi_lab.studies.pathfinding.task import PathfindingTask
from mi_lab.studies.sorting.task import SortingTask

BATCH = 4096
ADDITION = ArithmeticTask(6, "+")
TREES = PathfindingTask(order="random", second_chain=True)
LISTS = SortingTask()


def digit_loop(n: int, generator: torch.Generator, whole: bool = False) -> Tensor:
    """Addition questions, a batch of n: answers one column at a time, one coin per batch.

    whole: a column of all questions at a time; else question by question, which comes nearer to the 80 us
    that the authors' generator takes (PERFORMANCE.md).
    """
    digits = ADDITION.digits
    tokens = torch.zeros(n, ADDITION.n_ctx, dtype=torch.long)
    x = torch.randint(0, 10, (n, digits), generator=generator)
    y = torch.randint(0, 10, (n, digits), generator=generator)
    if torch.rand(1, generator=generator).item() < 0.4:
        nine = torch.rand(n, digits, generator=generator) < NINES
        if torch.rand(1, generator=generator).item() < 0.5:
            x = torch.where(nine, 9 - y, x)
        else:
            y = torch.where(nine, 9 - x, y)
    tokens[:, :digits] = x
    tokens[:, digits] = PLUS
    tokens[:, digits + 1 : 2 * digits + 1] = y
    tokens[:, 2 * digits + 1] = EQUALS
    tokens[:, 2 * digits + 2] = PLUS
    if whole:
        columns(tokens, x, y)
    else:
        for i in range(n):
            columns(tokens[i : i + 1], x[i : i + 1], y[i : i + 1])
    return tokens


def columns(tokens: Tensor, x: Tensor, y: Tensor) -> None:
    """The answer, from the last column to the first, a column of all these questions at a time."""
    digits = ADDITION.digits
    carry = torch.zeros(len(x), dtype=torch.long)
    for k in range(digits):
        total = x[:, digits - 1 - k] + y[:, digits - 1 - k] + carry
        carry = (total >= 10).long()
        tokens[:, 3 * digits + 3 - k] = total % 10
    tokens[:, 2 * digits + 3] = carry


def tree_of_networkx(rng: random.Random) -> Tensor:
    """One tree with permuted labels, a second chain and edges in random order, as text and then as tokens."""
    nodes = TREES.n_nodes
    length = rng.randint(1, nodes - 1)
    room = nodes - 1 - length
    second = min(int(rng.random() * room) + 1, room)
    name = rng.sample(range(nodes), nodes)
    graph: Any = networkx.DiGraph()
    graph.add_nodes_from(name)
    for slot in range(1, nodes):
        if slot <= length:
            parent = slot - 1
        elif slot <= length + second:
            parent = 0 if slot == length + 1 else slot - 1
        else:
            open_ = [k for k in range(slot) if k != length and graph.out_degree(name[k]) < 2]
            parent = rng.choice(open_)
        graph.add_edge(name[parent], name[slot])
    edges = list(graph.edges)
    rng.shuffle(edges)
    path = networkx.shortest_path(graph, name[0], name[length])
    words = [w for a, b in edges for w in (str(a), f">{b}", ",")][:-1]
    words += ["|", str(name[length]), ":", str(path[0]), *(f">{k}" for k in path[1:])]
    words += [","] * (TREES.n_ctx - len(words))
    index = {word: i for i, word in enumerate(TREES.vocab)}
    return torch.tensor([index[word] for word in words])


def list_of_python(rng: random.Random) -> Tensor:
    """One list of different numbers, sorted by Python."""
    numbers = rng.sample(range(LISTS.n_numbers), LISTS.length)
    return torch.tensor([*numbers, LISTS.separator, *sorted(numbers)])


def agree(a: Tensor, b: Tensor) -> float:
    """Difference of two means in standard errors."""
    a, b = a.double(), b.double()
    error = math.sqrt(float(a.var() / len(a) + b.var() / len(b)))
    return abs(float(a.mean() - b.mean())) / max(error, 1e-12)


def laws(task: Any, ours: Tensor, theirs: Tensor) -> float:
    """The share of wrong examples: `solve` fills in the right answer, which must already be there."""
    wrong = [(task.solve(x) != x).any(1).float().mean() for x in (ours, theirs)]
    return float(max(wrong))


def checks(generator: torch.Generator, rng: random.Random) -> dict[str, Any]:
    sums = (
        ADDITION.sample(20_000, generator=generator),
        torch.cat([digit_loop(16, generator) for _ in range(200)]),
    )
    n = ADDITION.digits
    # enrichment is by question here and by batch there: of its statistics only means are the same
    nines = [(x[:, :n] + x[:, n + 1 : 2 * n + 1] == 9).float().mean(1) for x in sums]
    nines[1] = nines[1].view(200, 16).mean(1)  # questions of one batch are not independent
    trees = TREES.sample(4000, generator=generator), torch.stack([tree_of_networkx(rng) for _ in range(1000)])
    truth = [TREES.variables(x) for x in trees]
    lists = LISTS.sample(4000, generator=generator), torch.stack([list_of_python(rng) for _ in range(4000)])
    limit = {"wrong": 0.0, "first_statistic": 4.0, "second_statistic": 4.0}
    found = {
        "addition": {
            "wrong": laws(ADDITION, *sums),
            "first_statistic": agree(*nines),
            "second_statistic": agree(
                sums[0][:, 2 * n + 3].float(), sums[1][:, 2 * n + 3].float().view(200, 16).mean(1)
            ),
        },
        "trees": {
            "wrong": laws(TREES, *trees),
            "first_statistic": agree(*(t["length"].float() for t in truth)),
            "second_statistic": agree(*(t["leaf"].float().sum(1) for t in truth)),
        },
        "lists": {
            "wrong": laws(LISTS, *lists),
            "first_statistic": agree(*(x[:, 0].float() for x in lists)),
            "second_statistic": agree(*(x[:, -1].float() for x in lists)),
        },
    }
    return {name: gate(name, values, limit) for name, values in found.items()}


def main() -> None:
    args = arguments(__doc__, rounds=5)
    generator, rng = torch.Generator().manual_seed(0), random.Random(0)
    checked = checks(generator, rng)
    variants = {
        "addition, digit loop, batch 64": (lambda: digit_loop(64, generator), 64),
        "addition, columns of a batch of 64": (lambda: digit_loop(64, generator, whole=True), 64),
        "addition, ours": (lambda: ADDITION.sample(BATCH, generator=generator), BATCH),
        "trees, networkx": (lambda: [tree_of_networkx(rng) for _ in range(100)], 100),
        "trees, ours": (lambda: TREES.sample(BATCH, generator=generator), BATCH),
        "lists, Python": (lambda: [list_of_python(rng) for _ in range(1000)], 1000),
        "lists, ours": (lambda: LISTS.sample(BATCH, generator=generator), BATCH),
    }
    times = interleave({name: run for name, (run, _) in variants.items()}, args.rounds)
    times = {name: [x / variants[name][1] for x in values] for name, values in times.items()}
    pairs = [
        ("addition: against a digit loop", "addition, digit loop, batch 64", "addition, ours", 80.0),
        (
            "addition: against columns of a whole batch",
            "addition, columns of a batch of 64",
            "addition, ours",
            None,
        ),
        ("trees: against networkx and text", "trees, networkx", "trees, ours", 150.0),
        ("lists: against Python lists", "lists, Python", "lists, ours", 7.0),
    ]
    report(
        {
            "title": "Making training data, per example",
            "rows": [row(what, ratio(times, slow, fast), ask) for what, slow, fast, ask in pairs],
            "microseconds": {name: round(1e6 * sorted(x)[len(x) // 2], 3) for name, x in times.items()},
            "checks": checked,
            "batch": BATCH,
            "machine": machine("networkx"),
        },
        args.json,
    )


if __name__ == "__main__":
    main()
