"""Sorters written down by hand, as models of the live explorer: each sharpness, with and without LayerNorm."""

from __future__ import annotations

from dataclasses import replace

from mi_lab.model import Transformer
from mi_lab.studies.sorting.circuit import hand_made_sorter
from mi_lab.studies.sorting.recipes import PAPER

COPYING = 20.0
SHARPNESS = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
NORMS = {"LN": "LayerNorm", "plain": "no LayerNorm"}
NAMES = tuple(f"hand_{norm}_{b:g}" for norm in NORMS for b in SHARPNESS)


def parts(name: str) -> tuple[str, float]:
    """Norm and sharpness of a name. Raises ValueError for another one."""
    if name not in NAMES:
        raise ValueError(f"there is no hand-made sorter {name!r}; there are {', '.join(NAMES)}")
    _, norm, b = name.split("_")
    return norm, float(b)


def text(name: str) -> str:
    """As a reader sees it: "sharpness 0.5, LayerNorm"."""
    norm, b = parts(name)
    return f"sharpness {b:g}, {NORMS[norm]}"


def model(name: str) -> Transformer:
    """The sorter: copying strength 20."""
    norm, b = parts(name)
    config = replace(PAPER.config, norm="LN" if norm == "LN" else None)
    return hand_made_sorter(PAPER.task, config, a=COPYING, b=b)  # type: ignore[arg-type]


def families() -> list[dict[str, object]]:
    """A slider over the sharpness for each norm."""
    return [
        {"label": f"sharpness b, {what}", "values": {f"hand_{norm}_{b:g}": b for b in SHARPNESS}}
        for norm, what in NORMS.items()
    ]
