"""Evaluation as a stream: questions are drawn, graded, counted and forgotten, a batch at a time.

When to use it: "right on a million questions", or a class so rare that a million must be asked to meet it.
The memory is that of one batch, whatever the number of questions. When not: `mi_lab.metrics.score` keeps
every example's scores, for up to some ten thousand of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from mi_lab.metrics import Interval, clopper_pearson
from mi_lab.model import Transformer
from mi_lab.studies.base import Task


class Evaluation(NamedTuple):
    """What a stream of questions showed.

    n: questions asked. exact: the fraction whose whole answer is right, with its exact 95 % interval.
    by_class: the same for every class that came up. wrong: Int[<= keep, n_ctx], the first questions answered
    wrongly, with the right answer filled in.
    """

    n: int
    exact: Interval
    by_class: dict[int, Interval]
    wrong: Tensor


@torch.no_grad()
def evaluate(
    model: Transformer,
    task: Task,
    n: int,
    *,
    classes: str | Callable[[Tensor], Tensor] | None = None,
    free_running: bool = True,
    seed: int = 0,
    batch: int = 512,
    keep: int = 100,
) -> Evaluation:
    """Ask a model n fresh questions and grade the whole answers.

    classes: Int[n] of each question by which to count too: a function of tokens [n, n_ctx], or the name of
        one of `task.variables`. free_running: the model answers token by token, else it is shown the right
        answer so far. seed and batch decide which questions are asked: another batch asks others.
    Raises ValueError if n, batch or keep is out of range or the task has no such variable.
    """
    for name, value, least in (("n", n, 1), ("batch", batch, 1), ("keep", keep, 0)):
        if value < least:
            raise ValueError(f"{name} must be at least {least}, not {value}")
    device = model.device
    generator = torch.Generator(device).manual_seed(seed)
    asked: Counter[int] = Counter()
    right: Counter[int] = Counter()
    wrong: list[Tensor] = []
    hits = kept = 0
    for first in range(0, n, batch):
        tokens = task.sample(min(batch, n - first), generator=generator, device=device)
        correct = task.grade(model, tokens, free_running=free_running)
        hits += int(correct.sum())
        if kept < keep:
            wrong.append(tokens[~correct][: keep - kept].cpu())
            kept += len(wrong[-1])
        if classes is not None:
            which = _classes(task, classes, tokens)
            for count, part in ((asked, which), (right, which[correct])):
                values, times = part.unique(return_counts=True)
                count.update(dict(zip(values.tolist(), times.tolist(), strict=True)))
    by_class = {c: clopper_pearson(right[c], asked[c]) for c in sorted(asked)}
    mistakes = torch.cat(wrong) if wrong else torch.empty(0, task.n_ctx, dtype=torch.long)
    return Evaluation(n, clopper_pearson(hits, n), by_class, mistakes)


def _classes(task: Task, classes: str | Callable[[Tensor], Tensor], tokens: Tensor) -> Tensor:
    if callable(classes):
        which, name = classes(tokens), getattr(classes, "__name__", "classes")
    else:
        there, name = task.variables(tokens), classes
        if name not in there:
            raise ValueError(f"the task has no variable {name!r}; it has {', '.join(there)}")
        which = there[name]
    if which.shape != (len(tokens),):
        raise ValueError(f"{name} must give one class per question, not shape {list(which.shape)}")
    return which
