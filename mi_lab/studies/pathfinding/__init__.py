"""The pathfinding study: "A Mechanistic Analysis of a Transformer Trained on a Symbolic Multi-Step
Reasoning Task" (arXiv 2402.11917).

A six-layer transformer with one head per layer reads the edges of a binary tree and a goal, and
writes the path from the root to the goal. The paper finds *backward chaining*: deduction heads that
climb from the goal one level per layer, register tokens that climb in parallel, path merging and a
one-step lookahead. The study asks the same questions of models trained here, and tells such roads
from others that solve the same task.

    from mi_lab.studies import pathfinding as study
    task, model = study.task(), study.load("paper")
    task.decode(task.solve(task.encode("5>14,5>3,...|3")[None])[0])

Terms: anc_k, the goal's ancestor at distance k; P, the length of the path; *hard* trees, whose other
side is at least as deep, so that depth doesn't tell the first step.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mi_lab import zoo
from mi_lab.model import Transformer
from mi_lab.studies.pathfinding.baselines import POLICIES, by_length, success
from mi_lab.studies.pathfinding.circuit import (
    attention_by_relation,
    composition_matrix,
    mass_by_class,
    patterns,
    position_scores,
    relations,
    to_ancestors,
    token_class,
    untrained_twin,
)
from mi_lab.studies.pathfinding.claims import CLAIMS as claims  # not lazy: it would become the submodule
from mi_lab.studies.pathfinding.listing import relisted
from mi_lab.studies.pathfinding.measure import (
    Accuracy,
    Trees,
    accuracy,
    ancestors_attended,
    blocked,
    deduction,
    development,
    exact,
    exact_by_layer,
    positions,
    recorded_figures,
    trees,
)
from mi_lab.studies.pathfinding.recipes import recipes
from mi_lab.studies.pathfinding.roads import Recovery, memory_scrub, memory_test, pointer_test, relabelled
from mi_lab.studies.pathfinding.scrubbing import figure as scrub_figure
from mi_lab.studies.pathfinding.task import PathfindingTask

if TYPE_CHECKING:  # loaded when first used: they bring matplotlib and widgets
    from mi_lab.studies.pathfinding import exercises, explorers, figures, live

__all__ = [
    "POLICIES", "Accuracy", "PathfindingTask", "Recovery", "Trees", "accuracy", "ancestors_attended",
    "attention_by_relation", "blocked", "by_length", "claims", "composition_matrix", "deduction", "development",
    "exact", "exact_by_layer", "exercises", "explorers", "figures", "live", "load", "mass_by_class", "memory_scrub",
    "memory_test",
    "patterns", "pointer_test", "position_scores", "positions", "recipes", "recorded_figures", "relabelled",
    "relations", "relisted", "scrub_figure", "success", "task", "to_ancestors", "token_class", "trees",
    "untrained_twin",
]  # fmt: skip


def task(**knobs: Any) -> PathfindingTask:
    """The paper's task, or a variant: `task(n_nodes=8)`, `task(order="forward")`."""
    return PathfindingTask(**knobs)


def load(name: str = "paper", seed: int = 0) -> Transformer:
    """A published model: `load("quick", seed=1)`. Names: keys of `recipes`. ValueError for others."""
    return zoo.load(f"pathfinding/{name}", seed)


def __getattr__(name: str) -> Any:
    if name in ("explorers", "exercises", "figures", "live"):
        import importlib

        return importlib.import_module(f"mi_lab.studies.pathfinding.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
