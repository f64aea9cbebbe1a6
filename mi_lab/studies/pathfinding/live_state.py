"""The live explorer's state: what can be chosen, and what is possible. As `pathfinding_state.js` in the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mi_lab.studies.pathfinding import measure
from mi_lab.studies.pathfinding.circuit import CLASSES
from mi_lab.studies.pathfinding.recipes import recipes

TEXTS = {
    "middle": "10 nodes, four layers",
    "taught": "10 nodes, taught",
    "quick": "8 nodes, three layers",
    "paper": "16 nodes, six layers (paper)",
    "settled": "16 nodes, longest (settled)",
}
EXAMPLES = {  # a question and a second tree by size: both sides of the root are deep
    8: ("2>3,1>0,7>2,4>5,4>1,6>7,6>4|0", "4>0,7>6,7>5,3>4,1>7,2>3,2>1|5"),
    10: ("4>6,2>9,7>4,3>2,3>0,8>7,5>3,1>8,1>5|6", "4>9,6>0,3>4,8>6,8>2,7>3,5>8,1>7,1>5|9"),
    16: (
        "2>1,2>0,6>14,6>4,3>2,11>6,10>3,12>13,12>11,5>10,15>12,9>7,9>5,8>15,8>9|4",
        "4>5,7>4,14>8,1>13,6>7,12>14,12>1,15>10,15>6,3>12,2>15,2>9,0>3,11>2,11>0|13",
    ),
}
CHOICES = {
    "show": ("arrows", "gathered"),
    "rows": ("source", "target", "comma"),
    "who": ("path", "edges", "own", "tail", "all"),
    "closing": ("moved", "lost"),
    "donor": ("none", "other", "renamed"),
    "part": ("all", "source", "target", "comma"),
    "rule": ("none", "edge", "up", "down"),
}
STATE: dict[str, Any] = {
    "text": "", "model": "middle", "seed": 0, "position": -1, "layer": 1, "show": "arrows", "rows": "target",
    "closed": [], "who": "path", "where": "1+", "closing": "moved", "nodes": [],
    "donor": "none", "other": "", "site": "edges", "part": "all", "after": 1, "rule": "down", "draw": 0,
}  # fmt: skip


def models() -> list[tuple[str, int]]:
    """(name, seed) of every model in the explorer: those of TEXTS that are published."""
    return [(n, seed) for n in TEXTS if measure.published(n) for seed in measure.seeds_of(n)]


def check(state: Mapping[str, Any]) -> dict[str, Any]:
    """A whole and possible state: as `checkPathfinding` in the page. Raises ValueError with one sentence.

    An empty text or second tree stands for an example of the model's size, position -1 for the root token.
    """
    name, out = state["model"], dict(state)
    if (name, state["seed"]) not in models():
        known = ", ".join(f"{n} seed {s}" for n, s in models())
        raise ValueError(f"there is no model {name!r} with seed {state['seed']!r}; there are {known}")
    task, layers = measure.task_of(name), recipes[name].config.n_layers
    for field, example in zip(("text", "other"), EXAMPLES[task.n_nodes]):
        tokens = task.encode(state[field] or example)
        out[field] = task.decode(tokens).partition(":")[0]
    truth = task.variables(task.encode(out["text"])[None])
    for field, options in CHOICES.items():
        if state[field] not in options:
            raise ValueError(f"{field} must be one of {', '.join(options)}, not {state[field]!r}")
    for field, low, high in (("position", -1, 999), ("layer", 0, 99), ("after", 0, 99), ("draw", 0, 9999)):
        if not isinstance(state[field], int) or not low <= state[field] <= high:
            raise ValueError(f"{field} must be a whole number from {low} to {high}, not {state[field]!r}")
    last = task.root_position + int(truth["length"])
    out["position"] = task.root_position if state["position"] < 0 else min(state["position"], last)
    out["layer"], out["after"] = min(state["layer"], layers - 1), min(state["after"], layers - 1)
    if wrong := [kind for kind in state["closed"] if kind not in CLASSES]:
        raise ValueError(f"closed takes {', '.join(CLASSES)}, not {wrong[0]!r}")
    out["closed"] = [kind for kind in CLASSES if kind in state["closed"]]
    out["nodes"] = _nodes(state["nodes"], layers)
    wheres = ["all", *(f"{i}+" for i in range(1, layers - 1)), *map(str, range(layers))]
    out["where"] = state["where"] if state["where"] in wheres else "all"
    lower = [str(k) for k, above in enumerate(truth["parent"][0].tolist()) if above >= 0]
    site = str(state["site"])
    if site not in ("edges", "root") and not (site.isdecimal() and len(site) < 3):
        raise ValueError(f"site must be 'edges', 'root' or the lower end of an edge, not {state['site']!r}")
    out["site"] = site if site in ("edges", "root", *lower) else "edges"
    if out["site"] == "root" and state["rule"] == "down":
        out["rule"] = "up"
    return out


def _nodes(words: Sequence[str], layers: int) -> list[str]:
    parts = [f"L{i}{what}" for i in range(layers) for what in ("H0", "MLP")]
    known = [f"{part}-{mode}" for part in parts for mode in ("zero", "mean")]
    for word in words:
        node, _, mode = str(word).partition("-")
        if mode not in ("zero", "mean") or not node.startswith("L") or not node.endswith(("H0", "MLP")):
            raise ValueError(
                f"a part that is off is written such as 'L1H0-zero' or 'L2MLP-mean', not {word!r}"
            )
    found = [word for word in known if word in words]
    return [
        next(w for w in found if w.startswith(f"{p}-"))
        for p in parts
        if any(w.startswith(f"{p}-") for w in found)
    ]
