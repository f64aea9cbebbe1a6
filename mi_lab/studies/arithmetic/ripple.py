"""The authors' pair for a tri-state, judged by the whole answer: shown the clean one, and written alone.

The authors put a carry into column k of 333+666 and count any change. What ST_k stands for is a ripple:
every digit above k turns over. A model that reads the clean answer while it writes is told, digit by digit,
that no carry came; one that writes for itself is not. Both are asked here, of early heads that look at the
column, singly and with their neighbours.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from mi_lab.groups import Group, co_located
from mi_lab.model import Transformer
from mi_lab.studies.arithmetic.carries import lookers
from mi_lab.studies.arithmetic.circuit import questions
from mi_lab.studies.arithmetic.interchanges import authors_pair
from mi_lab.studies.arithmetic.task import ArithmeticTask
from mi_lab.studies.base import targets
from mi_lab.subtask import Pairs, answers_with


class Ripple(NamedTuple):
    """For one column: groups of heads, and the answers with each taken from the store question.

    shown, alone Int16[group, answer]: the model reads the clean answer, or its own. expected, right Int[answer]:
    the ripple of ST_k, and the clean answer. A row of `alone` is what the model writes up to its first token that
    is not as expected; up to there both runs read the same.
    """

    groups: tuple[Group, ...]
    shown: Tensor
    alone: Tensor
    expected: Tensor
    right: Tensor

    def exact(self, answers: Tensor) -> tuple[Group, ...]:
        """The groups whose answer is the whole ripple."""
        return tuple(g for g, hit in zip(self.groups, (answers == self.expected).all(-1).tolist()) if hit)

    @property
    def weak(self) -> tuple[Group, ...]:
        """The groups that change any token: the authors' test."""
        return tuple(g for g, hit in zip(self.groups, (self.shown != self.right).any(-1).tolist()) if hit)


def early_heads(network: Transformer, task: ArithmeticTask) -> dict[int, Group]:
    """Column -> heads that look at both of its digits, from the second number up to the sign, in any layer."""
    sign = task.position("SGN")
    found = lookers(network, task, questions(task, 256))
    return {k: tuple(x for x in group if (x.position or 0) <= sign) for k, group in found.items()}


def strong_test(network: Transformer, task: ArithmeticTask, k: int, heads: Group) -> Ripple:
    """The authors' pair for column k with these heads patched, singly and two or three in one place."""
    clean, store, expected = authors_pair(task, k)
    right = targets(task, clean).long()
    groups = tuple([(node,) for node in heads] + [g for size in (2, 3) for g in co_located(heads, size)])
    told = clean.clone()
    told[:, task.answer.start + 1 : task.answer.stop + 1] = expected  # a free run: see `SubTask.free_running`
    shown, alone = (
        answers_with(network, Pairs(tokens, store, expected.long(), right), groups, task.answer)[:, 0]
        for tokens in (clean, told)
    )
    return Ripple(groups, shown, alone, expected[0], right[0])
