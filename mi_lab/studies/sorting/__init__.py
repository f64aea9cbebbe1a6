"""The sorting study: "Structure Development in List-Sorting Transformers" (arXiv 2501.18666).

A one-layer attention-only transformer with two heads learns to sort lists of ten numbers from
0..50. The study asks how its heads divide the work: *vocabulary-splitting* (every number is copied
by one head, in contiguous ranges) or *copy-suppression* (one head copies, the other writes against
it), how that division develops, and what in the data and the optimiser decides it.

    from mi_lab.studies import sorting as study
    task, model = study.task(), study.load("paper", seed=0)
    study.structure(study.copying_margin(model, task))

Terms: *gap*, the difference between neighbours in the sorted list; *OV diagonal* and *copying
margin*, how strongly attending to a number raises that number; *owner*, the head that copies it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mi_lab import zoo
from mi_lab.model import Transformer
from mi_lab.studies.sorting.circuit import (
    Attention,
    Attribution,
    Structure,
    attention_order,
    attribution,
    copying_margin,
    count_runs,
    hand_made_sorter,
    qk_similarity,
    runs_null,
    smooth,
    structure,
    untrained_twin,
)
from mi_lab.studies.sorting.claims import CLAIMS as claims  # not lazy: it would become the submodule
from mi_lab.studies.sorting.measure import (
    accuracy,
    causal_summary,
    development,
    dissociation,
    lists,
    llc_curves,
    model_at,
    removed,
    roles,
    suppression_role,
)
from mi_lab.studies.sorting.recipes import recipes
from mi_lab.studies.sorting.task import SortingTask

if TYPE_CHECKING:  # loaded when first used: they bring matplotlib and widgets
    from mi_lab.studies.sorting import exercises, explorers, figures, gpt2, live

__all__ = [
    "Attention", "Attribution", "SortingTask", "Structure", "accuracy", "attention_order", "attribution",
    "causal_summary", "claims", "copying_margin", "count_runs", "development", "dissociation", "exercises",
    "explorers", "figures", "gpt2", "hand_made_sorter", "lists", "live", "llc_curves", "load", "model_at",
    "qk_similarity", "recipes", "removed", "roles", "runs_null", "smooth", "structure", "suppression_role",
    "task", "untrained_twin",
]  # fmt: skip


def task(**knobs: Any) -> SortingTask:
    """The paper's task, or a variant: `task(length=6, n_numbers=31)`, `task(window=14)`."""
    return SortingTask(**knobs)


def load(name: str = "paper", seed: int = 0) -> Transformer:
    """A published model: `load("paper", seed=3)`. Names: keys of `recipes`. ValueError for others."""
    return zoo.load(f"sorting/{name}", seed)


def __getattr__(name: str) -> Any:
    if name in ("explorers", "exercises", "figures", "gpt2", "live"):
        import importlib

        return importlib.import_module(f"mi_lab.studies.sorting.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
