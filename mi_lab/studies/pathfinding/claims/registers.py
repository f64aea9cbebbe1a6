"""P8, P10: what the path tokens lose when they can't look at registers."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch

from mi_lab.claims import Accept, Claim, Control
from mi_lab.model import Transformer
from mi_lab.studies.pathfinding import measure as m
from mi_lab.studies.pathfinding.claims.common import ABSTRACT, CODE, Asked, Row, per_seed

N = 500
STRATA = ("P <= 4", "P >= 7", "hard")


@functools.lru_cache(maxsize=4)
def strata(order: str = "mixed") -> dict[str, m.Trees]:
    """Trees with P <= 4, with P >= 7, and the hard stratum: P = 5..7, other side at least as deep."""
    short = m.trees(m.task_of("paper", order=order, longest=4), N)
    long = m.trees(m.task_of("paper", order=order, shortest=7, longest=14), N)
    hard = m.trees(m.task_of("paper", order=order, shortest=5, longest=7), 4 * N)
    return {"P <= 4": short, "P >= 7": long, "hard": hard.where(hard.truth["hard"], N)}


def damage(model: Transformer, keys: list[int], layers: range | list[int]) -> Row:
    """Exact match by stratum (first step for `hard`) when path tokens can't look at these keys."""
    path = m.positions(m.task_of("paper"), "path")
    out: Row = {}
    for name, some in strata().items():
        right = m.blocked(model, some, path, keys, layers=layers)
        out[name] = float((right[:, 0] if name == "hard" else right.all(1)).float().mean())
    return out


@functools.lru_cache(maxsize=4)
def clean(model: Transformer) -> Row:
    """The same without knock-out."""
    out: Row = {}
    for name, some in strata().items():
        right = m.right_tokens(some.task, some.tokens, m.logits(model, some.tokens, some.task.answer))
        out[name] = float((right[:, 0] if name == "hard" else right.all(1)).float().mean())
    return out


def random_keys(n: int, avoid: list[int], seed: int = 0) -> list[int]:
    """n positions of edges that are not among these."""
    free = [p for p in range(3 * m.task_of("paper").n_edges) if p not in avoid]
    order = torch.randperm(len(free), generator=torch.Generator().manual_seed(m.EVALUATION + seed))
    return sorted(free[i] for i in order[:n].tolist())


def _measure(
    keys_of: Callable[[], list[int]], layers: Callable[[Transformer], range], *, twin: bool = False
) -> Asked:
    def row(model: Transformer) -> Row:
        before, after = clean(model), damage(model, keys_of(), layers(model))
        null = damage(model, random_keys(len(keys_of()), keys_of()), layers(model))
        found = {f"{name}, clean": before[name] for name in STRATA}
        found |= {f"{name}, blocked": after[name] for name in STRATA}
        return found | {f"{name}, random keys": null[name] for name in STRATA}

    return per_seed("paper", row, "hard, blocked", sample=f"{N} trees per stratum", twin=twin)


def _scratch() -> list[int]:
    task = m.task_of("paper")
    return sorted({*m.positions(task, "registers"), *m.positions(task, "commas")})


def _seven() -> list[int]:
    return m.positions(m.task_of("paper"), "registers")


def _late(model: Transformer) -> range:
    return range(model.config.n_layers - 2, model.config.n_layers)


def _after_first(model: Transformer) -> range:
    return range(1, model.config.n_layers)


P8 = Claim(
    "P8",
    "Depth bound: without registers only short paths are found",
    f"{ABSTRACT} ('bounded in depth'); a forum post by the authors; acceptance ours",
    "If the path tokens can't read registers and commas from layer 1 on, the first step falls towards chance "
    "where the goal is far (hard stratum), and stays right for P <= 4.",
    "scrubbing fails beyond five steps; numbers of a knock-out not known",
    Accept(
        "P <= 4: exact loses < .05; hard stratum: first step <= .70",
        lambda r: (
            r["P <= 4, clean"] >= 0.9
            and r["P <= 4, clean"] - r["P <= 4, blocked"] < 0.05
            and r["hard, blocked"] <= 0.70
        ),
    ),
    _measure(_scratch, _after_first),
    (
        Control(
            "as many random other positions",
            _measure(lambda: random_keys(len(_scratch()), _scratch()), _after_first),
        ),
        Control("untrained twin", _measure(_scratch, _after_first, twin=True)),
    ),
    "P >= 8 is no test: the path's side is then the deeper one. A model whose registers serve short paths too "
    "loses both, which is a finding about the model, not noise.",
)
P10 = Claim(
    "P10",
    "Registers matter for long paths only",
    CODE,
    "Knocking out what the path tokens read at the seven registers in the last two layers harms long paths and "
    "the hard stratum, more than seven random positions do, and short paths hardly at all.",
    "numbers not saved",
    Accept(
        "P <= 4 loses < .02; P >= 7 and the hard stratum lose more than with random positions, by >= .05",
        lambda r: (
            r["P <= 4, clean"] - r["P <= 4, blocked"] < 0.02
            and r["P >= 7, random keys"] - r["P >= 7, blocked"] >= 0.05
            and r["hard, random keys"] - r["hard, blocked"] >= 0.05
        ),
    ),
    _measure(_seven, _late),
    (
        Control("seven random positions", _measure(lambda: random_keys(7, _seven(), 1), _late)),
        Control("untrained twin", _measure(_seven, _late, twin=True)),
    ),
    "The seven positions are the authors' model's.",
)
