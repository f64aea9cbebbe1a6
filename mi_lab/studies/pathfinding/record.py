"""Measurements that take longer than a page should: `python -m mi_lab.studies.pathfinding.record`.

Writes `curves/figures.json`: for the full-size model and the small ones the scrubbing figure, what
edge tokens look at, exact match by path length and the effect of closing pathways, with the hash of
the weights that each was measured on. The chapter draws them; the claims measure for themselves.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import torch

from mi_lab.checkpoint import versions, write_atomically
from mi_lab.model import Transformer
from mi_lab.studies.pathfinding import measure as m
from mi_lab.studies.pathfinding.circuit import attention_by_relation, patterns, relations
from mi_lab.studies.pathfinding.explorers.knockout import record_knockouts
from mi_lab.studies.pathfinding.scrubbing import HYPOTHESES, figure

FILE = m.HERE / "curves" / "figures.json"
MODELS = (("paper", 0), ("middle", 0), ("quick", 0), ("quick", 1))
QUERIES = ("target", "comma", "source")


def relation_table(
    model: Transformer, recipe: str, order: str, n: int = 250
) -> dict[str, dict[str, list[float]]]:
    """Mean attention {query class: {relation: [layer]}} over n trees of one order (NaN-free: 0 where there is none)."""
    some = m.trees(m.task_of(recipe, order=order), n, 11)
    end = 3 * some.task.n_edges
    relation = relations(some.task, some.tokens, some.truth)
    pattern = patterns(model, some.tokens[:, :end])
    out = {}
    for query in QUERIES:
        found = attention_by_relation(some.task, pattern, relation, query=query)
        out[query] = {
            name: [round(float(x), 4) for x in value.nanmean(0).sum(-1).nan_to_num(0)]
            for name, value in found.items()
        }
    return out


def lengths(model: Transformer, recipe: str, order: str, n: int = 3000) -> dict[str, list[int]]:
    """{"right": [P], "count": [P]}: whole paths right, by path length."""
    some = m.trees(m.task_of(recipe, order=order), n, 12)
    right = m.exact(model, some)
    size = some.task.longest_path + 1
    length = some.truth["length"]
    return {
        "right": torch.bincount(length[right], minlength=size)[1:].tolist(),
        "count": torch.bincount(length, minlength=size)[1:].tolist(),
    }


def record(recipe: str, seed: int) -> dict[str, Any]:
    """Everything for one model."""
    model = m.model(recipe, seed)
    begun = time.perf_counter()
    scrubbed = figure(model, recipe)
    names = ("recovered", "difference", "correct")
    arrays = {name: _rounded(getattr(scrubbed, name).tolist()) for name in names}
    return {
        "sha256": m.sources(recipe)[recipe],
        "scrub": {"hypotheses": HYPOTHESES, **arrays, "clean": scrubbed.clean.tolist(), "n": scrubbed.n},
        "relations": {order: relation_table(model, recipe, order) for order in ("backward", "random")},
        "lengths": {order: lengths(model, recipe, order) for order in ("backward", "random", "forward")},
        "knockouts": record_knockouts(model, m.task_of(recipe), n=300),
        "seconds": round(time.perf_counter() - begun, 1),
    }


def _rounded(value: Any) -> Any:
    return [_rounded(x) for x in value] if isinstance(value, list) else round(value, 4)


def main(names: list[str]) -> None:
    """Record the models given as recipe:seed (default MODELS), leaving the others as they are."""
    torch.set_num_threads(1)
    wanted = [(n.partition(":")[0], int(n.partition(":")[2] or 0)) for n in names] or MODELS
    found = json.loads(FILE.read_text())["models"] if FILE.exists() else {}
    for recipe, seed in wanted:
        found[f"{recipe}:{seed}"] = record(recipe, seed)
        about = {
            "command": "python -m mi_lab.studies.pathfinding.record",
            "versions": versions(),
            "models": found,
        }
        write_atomically(FILE, (json.dumps(about, separators=(",", ":")) + "\n").encode())
        print(recipe, seed, found[f"{recipe}:{seed}"]["seconds"], "s", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
