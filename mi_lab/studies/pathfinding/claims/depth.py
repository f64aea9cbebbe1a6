"""P8B: what a layer less costs, near and far."""

from __future__ import annotations

import torch

from mi_lab.claims import Accept, Claim, Control
from mi_lab.model import Transformer
from mi_lab.run import run
from mi_lab.stack import fast_matmul
from mi_lab.studies.pathfinding import measure as m
from mi_lab.studies.pathfinding.claims.common import ABSTRACT, Row, per_seed

N = 400
SAMPLE = f"first step of {N} trees per stratum"


@torch.no_grad()
def first_steps(model: Transformer, some: m.Trees, without: int | None) -> float:
    """Share of first steps that are right with one layer's attention and MLP writing nothing."""
    end = some.task.root_position + 1
    edit = {} if without is None else {f"blocks.{without}.{part}.out": 0.0 for part in ("attn", "mlp")}
    right = []
    with fast_matmul(model.device):
        for rows in some.tokens.split(128):
            guess = run(model, rows[:, :end], edit=edit).logits[:, -1].argmax(-1)
            right.append(guess == rows[:, end])
    return float(torch.cat(right).float().mean())


def strata() -> dict[str, m.Trees]:
    """Trees with a choice at the root: the goal one or two edges away, and 5..7 with the other side as deep."""
    near = m.trees(m.task_of("paper", longest=2), 2 * N)
    far = m.trees(m.task_of("paper", shortest=5, longest=7), 4 * N)
    return {"near": near.where(near.truth["branch"][:, 0], N), "far": far.where(far.truth["hard"], N)}


def _removed(model: Transformer, *, nothing: bool = False) -> Row:
    row: Row = {}
    for name, some in strata().items():
        row[f"{name}, whole"] = first_steps(model, some, None)
        for layer in range(1, model.config.n_layers):
            row[f"{name}, without L{layer}"] = first_steps(model, some, None if nothing else layer)
    return row


def _far_first(row: Row) -> bool:
    layers = [name.removeprefix("far, ") for name in row if name.startswith("far, without")]
    loss = {
        name: [row[f"{where}, whole"] - row[f"{where}, {name}"] for where in ("near", "far")]
        for name in layers
    }
    whole = min(row["near, whole"], row["far, whole"]) >= 0.9
    return whole and any(far >= 0.10 and far >= 2 * near for near, far in loss.values())


P8B = Claim(
    "P8B",
    "Depth bound: a layer less costs the far goals first",
    f"{ABSTRACT} ('bounded in depth'); measure and acceptance ours",
    "There is an inner layer without which the first step towards a far goal (P = 5..7, other side as deep) suffers at "
    "least twice as much as towards a near one (P = 1, 2).",
    "not reported",
    Accept(
        "first steps right >= .90 with all layers; some layer's removal costs far goals >= .10 and twice what it costs "
        "near ones",
        _far_first,
    ),
    per_seed("paper", _removed, "far, whole", sample=SAMPLE),
    (
        Control(
            "no layer removed",
            per_seed("paper", lambda model: _removed(model, nothing=True), "far, whole", sample=SAMPLE),
        ),
        Control("untrained twin", per_seed("paper", _removed, "far, whole", sample=SAMPLE, twin=True)),
    ),
    "A removed layer writes nothing; the layers above never saw such a stream, so what is lost is an upper bound.",
)
