"""How often a model is wrong: by class, on edge cases, and on every question there is.

Answers are judged as a whole, sign and all digits. One forward pass with the right answer in place is
enough: see `ArithmeticTask.grade`. It runs through `mi_lab.stack`, which computes the last layer at the
answer positions only and is several times as fast as the reference.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from mi_lab.metrics import Interval, clopper_pearson
from mi_lab.model import Transformer
from mi_lab.stack import Stack, fast_matmul, forward
from mi_lab.studies.arithmetic import classes, edges
from mi_lab.studies.arithmetic.task import ArithmeticTask
from mi_lab.studies.base import targets

HERE = Path(__file__).parent
BATCH = 512  # on a CPU larger ones leave the cache


class Failures(NamedTuple):
    """wrong of n questions were answered wrongly."""

    wrong: int
    n: int

    @property
    def rate(self) -> Interval:
        """The fraction with its Clopper-Pearson 95 % interval."""
        return clopper_pearson(self.wrong, self.n)

    @property
    def per_million(self) -> float:
        """As the paper counts."""
        return 1e6 * self.wrong / self.n

    def __str__(self) -> str:
        rate = self.rate
        return f"{self.wrong} of {self.n:,}: {1e6 * rate.value:.3g}/M [{1e6 * rate.low:.3g}, {1e6 * rate.high:.3g}]"


@torch.no_grad()
def right(model: Transformer, task: ArithmeticTask, tokens: Tensor, *, batch: int = BATCH) -> Tensor:
    """Bool[n]: is the whole answer to each solved question right? The fast form of `task.grade`."""
    stack = Stack.from_models([model])
    params = stack.params(0)

    out = []
    with fast_matmul(stack.device):
        for chunk in tokens.split(batch):
            logits = forward(params, stack.config, chunk.to(stack.device), task.answer)
            out.append((logits.argmax(-1) == targets(task, chunk).to(stack.device)).all(1))
    return torch.cat(out)


def uniform_questions(task: ArithmeticTask, operator: str, n: int, *, seed: int = 0) -> Tensor:
    """Int[n, n_ctx]: plain uniform questions of one operation of the task's length."""
    plain = ArithmeticTask(task.digits, operator, enrichment="none")  # type: ignore[arg-type]
    return plain.sample(n, generator=torch.Generator().manual_seed(seed))


def uniform(
    model: Transformer, task: ArithmeticTask, n: int = 200_000, *, seed: int = 0
) -> dict[str, Failures]:
    """Failures on plain uniform questions of each operation: {"+": .., "-": ..}."""
    out = {}
    for operator in task.operations:
        tokens = uniform_questions(task, operator, n, seed=seed)
        out[operator] = Failures(int((~right(model, task, tokens)).sum()), n)
    return out


def by_class(
    model: Transformer,
    task: ArithmeticTask,
    n: int = 100_000,
    *,
    names: Iterable[str] | None = None,
    seed: int = 0,
) -> dict[str, Failures]:
    """Failures on n questions of each complexity class, drawn uniformly within the class."""
    out = {}
    for name in classes.names(task) if names is None else names:
        tokens = classes.sample(task, name, n, generator=torch.Generator().manual_seed(seed))
        out[name] = Failures(int((~right(model, task, tokens)).sum()), n)
    return out


def by_edge(
    model: Transformer, task: ArithmeticTask, n: int = 10_000, *, seed: int = 0
) -> dict[str, Failures]:
    """Failures on n questions of each edge set and operation: keys like "equal -"."""
    out = {}
    for name in edges.names(task):
        for operator in edges.EDGES[name].operations:
            if operator in task.operations:
                generator = torch.Generator().manual_seed(seed)
                tokens = edges.sample(task, name, n, operator=operator, generator=generator)
                out[f"{name} {operator}"] = Failures(int((~right(model, task, tokens)).sum()), n)
    return out


def every_question(
    task: ArithmeticTask, operator: Literal["+", "-"], batch: int = 100_000
) -> Iterator[Tensor]:
    """All 100^digits questions of one operation, in batches. Raises ValueError above 4 digits."""
    if task.digits > 4:
        raise ValueError(f"{100**task.digits:.3g} questions of {task.digits} digits are too many to list")
    size = 10**task.digits
    for pairs in torch.arange(size**2).split(batch):
        yield task.questions(pairs // size, pairs % size, operator)


def all_wrong(model: Transformer, task: ArithmeticTask, *, batch: int = BATCH) -> dict[str, Tensor]:
    """Every question that the model gets wrong: {"+": Int[wrong, n_ctx], "-": ..}.

    Cost: 10^6 questions per operation at 3 digits, about a minute on one core for a compact model.
    """
    return {
        operator: torch.cat([q[~right(model, task, q, batch=batch)] for q in every_question(task, operator)])  # type: ignore[arg-type]
        for operator in task.operations
    }


class Development(NamedTuple):
    """A recipe's published curves over training, at the steps that a run keeps.

    steps [step], seeds [seed], classes [class], "uniform" first. loss, token [seed, step, token]: mean nats and
    share right of each answer token, SGN first; right [seed, step, class]: share of whole answers right.
    logged [n], train_loss [seed, n]: loss on the training batches.
    """

    steps: np.ndarray
    seeds: np.ndarray
    classes: np.ndarray
    loss: np.ndarray
    token: np.ndarray
    right: np.ndarray
    logged: np.ndarray
    train_loss: np.ndarray


@functools.lru_cache(maxsize=8)
def development(recipe: str) -> Development:
    """The curves of a recipe, as `publish` wrote them. Raises ValueError where there are none."""
    path = HERE / "curves" / f"{recipe}.npz"
    if not path.exists():
        there = ", ".join(sorted(p.stem for p in path.parent.glob("*.npz")))
        raise ValueError(f"the development of {recipe!r} is not published; there are {there}")
    with np.load(path) as data:
        return Development(*(data[name] for name in Development._fields))
