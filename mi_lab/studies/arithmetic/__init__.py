"""The arithmetic study: "Arithmetic in Transformers Explained" (arXiv 2402.02619).

Small transformers learn to add and subtract numbers of 5 to 15 digits almost without error. The study
asks by which algorithm: one layer looks back two columns for a carry and fails where a cascade is
longer; two layers collect tri-states (carries, does not, depends on the column below) while the second
number is read, fold them into carries and write each digit when it is due.

    from mi_lab.studies import arithmetic as study
    task, model = study.task(digits=6), study.load("add_d6_l2_h3")
    study.by_class(model, task)

Terms: D_k, D'_k, A_k, digit k (0 = units) of the numbers and the answer; the sub-tasks SA, SC, ST, SV ..
and the complexity classes S, M, N stand in `subtasks`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from mi_lab import zoo
from mi_lab.claims import Claim
from mi_lab.model import Transformer
from mi_lab.studies.arithmetic import classes, edges, paper_table, transfer
from mi_lab.studies.arithmetic.algorithms import ALGORITHMS, Algorithm
from mi_lab.studies.arithmetic.claims import CLAIMS
from mi_lab.studies.arithmetic.measure import (
    Failures,
    all_wrong,
    by_class,
    by_edge,
    development,
    right,
    uniform,
)
from mi_lab.studies.arithmetic.recipes import recipes
from mi_lab.studies.arithmetic.task import ArithmeticTask
from mi_lab.studies.arithmetic.trace import trace
from mi_lab.studies.arithmetic.zoo_rows import zoo_table

if TYPE_CHECKING:
    from mi_lab.studies.arithmetic import carries, circuit, exercises, figures, live

__all__ = [
    "ALGORITHMS", "Algorithm", "ArithmeticTask", "Failures", "all_wrong", "by_class", "by_edge", "carries",
    "circuit", "claims", "classes", "development", "edges", "exercises", "figures", "live", "load", "paper_table",
    "recipes", "right", "task", "trace", "transfer", "uniform", "zoo_table",
]  # fmt: skip

claims: tuple[Claim, ...] = CLAIMS


def task(**knobs: Any) -> ArithmeticTask:
    """6-digit addition, or a variant: `task(digits=10, operations="+-")`."""
    return ArithmeticTask(**knobs)


def load(name: str = "add_d6_l2_h3", seed: int = 0) -> Transformer:
    """A published model: `load("add_d5_l2_h3", seed=1)`. Names: keys of `recipes`. ValueError for others."""
    return zoo.load(f"arithmetic/{name}", seed)


def __getattr__(name: str) -> Any:
    if name in ("carries", "circuit", "exercises", "figures", "live"):
        return import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
