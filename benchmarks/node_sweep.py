"""The effect of every node, one at a time: the sparse exact sweep against `run_with_hooks` for each node.

z of every (layer, head, position) is replaced by its mean over the questions. The other side is what one
writes with TransformerLens 3.9: one pass that caches z, then one hooked forward pass per node, keeping the
logits at the answer positions. Random weights: the time does not depend on them. Both sides run at torch's
default precision or on the route that `mi_lab.fast` takes, whichever that is.

Gate: the changed logits of every seventh node before the clock, and those of all nodes in the last round,
equal to 1e-5.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1]))

from common import arguments, gate, interleave, median_and_spread, ratio, report_cases, row
from hooked import hooked

from mi_lab.ablate import Node, sweep_nodes
from mi_lab.fast import fast_matmul
from mi_lab.model import Transformer
from mi_lab.recipe import Recipe
from mi_lab.studies.arithmetic.recipes import recipes as arithmetic
from mi_lab.studies.pathfinding.recipes import recipes as pathfinding
from mi_lab.studies.sorting.recipes import recipes as sorting

# recipe, questions, (ask, stretch), repetitions a round
CASES: dict[str, tuple[Recipe, int, tuple[float, float], int]] = {
    "addition": (arithmetic["paper"], 32, (12.0, 20.0), 1),
    "pathfinding": (pathfinding["waves"], 8, (7.0, 12.0), 1),
    "sorting": (sorting["paper"], 64, (36.0, 50.0), 40),
}


def by_hooks(twin: Any, tokens: Tensor, nodes: list[Node], answer: slice) -> Tensor:
    """Logits [node, question, answer, vocab], one hooked pass per node."""
    names = sorted({f"blocks.{node.layer}.attn.hook_z" for node in nodes})
    with torch.no_grad():
        _, cache = twin.run_with_cache(tokens, names_filter=lambda name: name in names)
        means = {name: cache[name].mean(0) for name in names}
        out = []
        for node in nodes:
            name = f"blocks.{node.layer}.attn.hook_z"

            def replace_it(z: Tensor, hook: Any, node: Node = node, name: str = name) -> Tensor:
                z[:, node.position, node.head] = means[name][node.position, node.head]
                return z

            out.append(twin.run_with_hooks(tokens, fwd_hooks=[(name, replace_it)])[:, answer])
    return torch.stack(out)


def measure(name: str, rounds: int) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    recipe, questions, (ask, stretch), repeat = CASES[name]
    task, config = recipe.task, recipe.config
    model = Transformer(config, generator=torch.Generator().manual_seed(0)).eval()
    twin = hooked(model).eval()
    tokens = task.sample(questions, generator=torch.Generator().manual_seed(1))
    last = task.answer.stop
    tokens = tokens[:, :last]
    nodes = [
        Node(l, h, p) for l in range(config.n_layers) for h in range(config.n_heads) for p in range(last)
    ]

    kept: dict[str, Tensor] = {}

    def ours(some: list[Node] = nodes) -> Tensor:
        return sweep_nodes(model, tokens, some, answer=task.answer).changed

    def theirs(some: list[Node] = nodes) -> Tensor:
        with fast_matmul():
            return by_hooks(twin, tokens, some, task.answer)

    def off(a: Tensor, b: Tensor) -> dict[str, float]:
        return {"logits": float((a - b).abs().max())}

    gate(name, off(ours(nodes[::7]), theirs(nodes[::7])), {"logits": 1e-5})

    def repeated() -> None:
        for _ in range(repeat):
            kept["ours"] = ours()

    def once() -> None:
        kept["theirs"] = theirs()

    times = interleave({"mi_lab": repeated, "run_with_hooks": once}, rounds, warm_up=False)
    checked = gate(name, off(kept["ours"], kept["theirs"]), {"logits": 1e-5})
    times["mi_lab"] = [x / repeat for x in times["mi_lab"]]
    what = f"{name}: {len(nodes)} nodes, {questions} questions"
    about = {"largest_differences": checked, "ms": {k: median_and_spread(v) for k, v in times.items()}}
    return [row(what, ratio(times, "run_with_hooks", "mi_lab"), ask, stretch=stretch)], about


def main() -> None:
    args = arguments(__doc__, rounds=5)
    report_cases("The effect of every node, one at a time", CASES, measure, args, "transformer-lens")


if __name__ == "__main__":
    main()
