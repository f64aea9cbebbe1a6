"""What a task and a study are. A study is one paper: a task, recipes, circuits, claims.

`Task` is a Protocol: any object with these members can be trained on, graded and taken apart.
The book's three tasks are frozen dataclasses, so that a task is a value: it compares, hashes
and goes into a checkpoint's provenance as plain JSON.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from mi_lab.model import Transformer


@runtime_checkable
class Task(Protocol):
    """A family of token sequences of one length, of which some positions are an answer.

    vocab: the text of each token. n_ctx: tokens per sequence.
    answer: positions whose *prediction* is graded and trained: `logits[:, answer]` is scored
        against `tokens[:, answer.start + 1 : answer.stop + 1]`.

    A task may have a `layout` too (`mi_lab.forward.Layout`) if a sequence is several texts with one beginning;
    the training step reads it.
    """

    @property
    def vocab(self) -> tuple[str, ...]:
        """The text of each token."""
        ...

    @property
    def n_ctx(self) -> int:
        """Tokens per sequence."""
        ...

    @property
    def answer(self) -> slice:
        """Positions whose prediction is graded."""
        ...

    def sample(self, n: int, *, generator: torch.Generator, device: torch.device | str = "cpu") -> Tensor:
        """Int[n, n_ctx]: fresh examples with the right answer filled in."""
        ...

    def encode(self, text: str) -> Tensor:
        """Int[n_ctx]: the tokens of one question in the paper's own text form."""
        ...

    def decode(self, tokens: Tensor) -> str:
        """The text of one sequence."""
        ...

    def solve(self, tokens: Tensor) -> Tensor:
        """Int[n, n_ctx]: the same questions with the right answer filled in."""
        ...

    def variables(self, tokens: Tensor) -> dict[str, Tensor]:
        """Ground truth of every sub-task and class, a tensor with leading axis n each."""
        ...

    def weights(self, tokens: Tensor) -> Tensor | None:
        """Float[n, answer]: how much each answer position counts in the loss; None means equally."""
        ...

    def grade(self, model: Transformer, tokens: Tensor, *, free_running: bool = True) -> Tensor:
        """Bool[n]: is the whole answer right?"""
        ...


def targets(task: Task, tokens: Tensor) -> Tensor:
    """Int[n, answer]: the token that each graded position should predict."""
    return tokens[:, task.answer.start + 1 : task.answer.stop + 1]


@torch.no_grad()
def generate(model: Callable[[Tensor], Tensor], task: Task, tokens: Tensor, *, batch: int = 2048) -> Tensor:
    """Int[n, n_ctx]: the sequences with every answer token chosen by the model itself (greedy).

    model: a Transformer, or anything that maps tokens [n, pos] to logits whose last position counts.
    Cost: one forward pass per answer token; only tokens up to the position in question are read.
    """
    out = []
    for chunk in tokens.split(batch):
        chunk = chunk.clone()
        for position in range(task.answer.start, task.answer.stop):
            logits = model(chunk[:, : position + 1])[:, -1]
            chunk[:, position + 1] = logits.argmax(-1)
        out.append(chunk)
    return torch.cat(out)


@torch.no_grad()
def predict(model: Transformer, task: Task, tokens: Tensor, *, batch: int = 4096) -> Tensor:
    """Int[n, answer]: greedy prediction at each answer position, teacher-forced."""
    return torch.cat([model(chunk)[:, task.answer].argmax(-1) for chunk in tokens.split(batch)])


def grade(
    model: Transformer, task: Task, tokens: Tensor, *, free_running: bool = True, batch: int = 2048
) -> Tensor:
    """Bool[n]: exact match of the whole answer with `task.solve`."""
    solved = task.solve(tokens)
    if free_running:
        return (generate(model, task, solved, batch=batch) == solved).all(1)
    return (predict(model, task, solved, batch=batch) == targets(task, solved)).all(1)
