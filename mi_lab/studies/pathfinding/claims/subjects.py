"""What the claims about the residual stream are asked of: a model or its untrained twin, and its clean run."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from mi_lab.model import Transformer
from mi_lab.probe import ProbeResult
from mi_lab.run import Edit, run
from mi_lab.sites import untrained_twin
from mi_lab.stack import fast_matmul
from mi_lab.studies.pathfinding import measure as m
from mi_lab.studies.pathfinding.claims.common import Asked, Row, by_model
from mi_lab.studies.pathfinding.task import PathfindingTask

N_TEST = 1000  # trees for what an edit costs


class Subject(NamedTuple):
    """A published model, or its untrained twin: what the measures below are remembered by."""

    recipe: str
    seed: int
    twin: bool = False

    @property
    def model(self) -> Transformer:
        """The model itself."""
        found = m.model(self.recipe, self.seed)
        return untrained_twin(found, self.seed) if self.twin else found

    def some(self, n: int) -> int:
        """n examples, or a quarter of them for a twin: chance needs no precision."""
        return n // 4 if self.twin else n


def by_seed(row: Callable[[Subject], Row], headline: str, *, sample: str, twin: bool = False) -> Asked:
    """A measure with one row per published seed of the paper's configuration, from `row(subject)`."""
    return by_model(lambda name, seed: row(Subject(name, seed, twin)), headline, sample=sample)


@torch.no_grad()
def graded(
    model: Transformer, some: m.Trees, *, edit: Edit | None = None, record: str | None = None
) -> tuple[Tensor, Tensor]:
    """Bool[n]: whole path and stop right under an edit; and an activation [n, answer, d], empty if none."""
    answer = some.task.answer
    right, seen = [], []
    with fast_matmul(model.device):
        for rows in some.tokens.split(64):
            out = run(model, rows[:, : answer.stop], edit=edit, record=[record] if record else [])
            right.append(m.right_tokens(some.task, rows, out.logits[:, answer]).all(1))
            seen += [x[:, answer] for x in out.recorded.values()]
    return torch.cat(right), torch.cat(seen) if seen else torch.empty(0)


def middle_lengths(task: PathfindingTask) -> PathfindingTask:
    """P from 2 to n - 3 (13 for 16 nodes): where there is something to find out."""
    return replace(task, shortest=2, longest=task.n_nodes - 3)


@functools.lru_cache(maxsize=8)
def clean(s: Subject) -> tuple[m.Trees, Tensor, Tensor]:
    """Test trees with P = 2..13, which of them are right Bool[n], and their last resid_mid [n, answer, d]."""
    some = m.trees(middle_lengths(m.task_of(s.recipe)), s.some(N_TEST), seed=1)
    model = s.model
    return some, *graded(model, some, record=f"blocks.{model.config.n_layers - 1}.resid_mid")


def control(result: ProbeResult) -> ProbeResult:
    """The same probe fitted to shuffled labels."""
    assert result.control is not None
    return result.control


def renamed(row: Mapping[str, float], **names: str) -> Row:
    """A row in which some numbers stand in the place of others: what a control's acceptance reads."""
    return {**row, **{to.replace("__", ", ").replace("_", " "): row[by] for to, by in names.items()}}
