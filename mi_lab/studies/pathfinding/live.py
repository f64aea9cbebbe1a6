"""The pathfinding models, live: the explorer of page and notebook, its models, and the same numbers by torch.

study.live.explorer()                        # in a notebook a widget, in the book a page figure
study.live.look("4>3,0>1,4>0,7>8,9>2,5>9,8>6,3>5,0>7|6", closed=("target",), who="path", where="1+")
"""

from __future__ import annotations

import base64
import functools
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mi_lab import zoo
from mi_lab.ablate import Values, mean_values
from mi_lab.live import export
from mi_lab.live.live_explorer import MODELS, Live, live_explorer, write_models
from mi_lab.model import Transformer
from mi_lab.run import run
from mi_lab.studies.pathfinding import live_edits, measure, roads
from mi_lab.studies.pathfinding.circuit import CLASSES
from mi_lab.studies.pathfinding.recipes import recipes
from mi_lab.studies.pathfinding.task import COMMA, PathfindingTask

TEXTS = {
    "middle": "10 nodes, four layers",
    "quick": "8 nodes, three layers",
    "paper": "16 nodes, six layers (paper)",
}
EXAMPLES = {  # a question and a second tree by size: both sides of the root are deep
    8: ("2>3,1>0,7>2,4>5,4>1,6>7,6>4|0", "4>0,7>6,7>5,3>4,1>7,2>3,2>1|5"),
    10: ("4>6,2>9,7>4,3>2,3>0,8>7,5>3,1>8,1>5|6", "4>9,6>0,3>4,8>6,8>2,7>3,5>8,1>7,1>5|9"),
    16: (
        "2>1,2>0,6>14,6>4,3>2,11>6,10>3,12>13,12>11,5>10,15>12,9>7,9>5,8>15,8>9|4",
        "4>5,7>4,14>8,1>13,6>7,12>14,12>1,15>10,15>6,3>12,2>15,2>9,0>3,11>2,11>0|13",
    ),
}
FOLDER = "pathfinding"  # below MODELS
MEAN_TREES = 64
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


# ---- models ---------------------------------------------------------------------------------------


def models() -> list[tuple[str, int]]:
    """(name, seed) of every model in the explorer: those of TEXTS that are published."""
    return [(n, seed) for n in TEXTS if measure.published(n) for seed in measure.seeds_of(n)]


def keys() -> list[str]:
    """The models of the page, as NAME-SEED."""
    return [f"{name}-{seed}" for name, seed in models()]


def model_file(key: str) -> bytes:
    """A model for the page. Raises ValueError for an unknown key."""
    if key not in keys():
        raise ValueError(f"there is no model {key!r} in this explorer")
    name, seed = key.split("-")
    return export.to_bytes(
        [measure.model(name, int(seed))],
        vocab=measure.task_of(name).vocab,
        provenance={"name": f"pathfinding/{name}", "seed": int(seed)},
    )


def write(folder: Path) -> int:
    """All models of the page into FOLDER (a book's `_static/mi-lab-models`); how many were written."""
    total = hashlib.sha256()
    checkpoints = sorted({zoo.find(f"pathfinding/{name}") for name, _ in models()})
    for path in (Path(__file__), Path(export.__file__), *checkpoints):
        total.update(path.read_bytes())
    return write_models(folder / FOLDER, keys(), model_file, total.hexdigest())


def mean_trees(n_nodes: int) -> Tensor:
    """Int[tree, pos]: fresh trees of the training law over which "mean" averages."""
    return measure.trees(PathfindingTask(n_nodes=n_nodes), MEAN_TREES, 71).tokens


@functools.lru_cache(maxsize=8)
def _stored(name: str, seed: int) -> Transformer:
    return export.as_stored(measure.model(name, seed))


@functools.lru_cache(maxsize=8)
def _means(name: str, seed: int) -> Values:
    return mean_values(_stored(name, seed), mean_trees(measure.task_of(name).n_nodes))


# ---- numbers --------------------------------------------------------------------------------------


class Look(NamedTuple):
    """One question, one run.

    tokens Int[pos]: with the path that the model writes; path: its nodes, root first, as far as it writes
    nodes; right: the right path; good: are path and stop right? logits [step, vocab]: from the root token on.
    difference: logit(x1) - logit(its sibling) of the first step, clean: the same without changes (NaN
    where the root has one child). pattern [layer, query, key], mean over heads; lens [layer, pos,
    node]: probability of `>node` by the logit lens after each layer.
    """

    tokens: Tensor
    path: list[int]
    right: list[int]
    good: bool
    logits: Tensor
    difference: float
    clean: float
    pattern: Tensor
    lens: Tensor


@torch.no_grad()
def look(text: str = "", *, model: str = "middle", seed: int = 0, **changes: Any) -> Look:
    """The explorer's numbers, by torch: the path that a model writes for a question, and how.

    text: "A>B,..|goal", default an example. changes: what is done to the run, as fields of the explorer:
    `closed=("target", "comma"), who="path", where="1+", closing="moved"` closes attention to token classes
    from root and path in layers 1 and later ("moved": before the softmax, "lost": after it);
    `nodes=("L0H0-zero", "L2MLP-mean")` switches parts off; `donor="renamed", site="edges", part="all",
    after=1, rule="down", draw=0` puts in states of the same tree with other names, those kept that the
    rule says (`roads`), `donor="other", other="A>B,..|goal"` those of a second tree. The weights are those
    of the page, rounded to half precision. Raises ValueError for what the explorer would not take.
    """
    if unknown := sorted(changes.keys() - STATE.keys()):
        raise ValueError(f"there is no field {unknown[0]!r}; there are {', '.join(STATE)}")
    state = check({**STATE, "text": text, "model": model, "seed": seed, **changes})
    task, network = measure.task_of(model), _stored(model, seed)
    tokens = task.encode(state["text"])
    truth = task.variables(tokens[None])
    layers = range(network.config.n_layers)
    some = live_edits.edits_of(state, task, len(layers))
    means = _means(model, seed) if any(word.endswith("mean") for word in state["nodes"]) else None
    edit = export.to_run(network, some, means=means)
    written = _answer(network, task, tokens, edit)
    names = [f"blocks.{i}.{what}" for i in layers for what in ("attn.pattern", "resid_post")]
    out = run(network, written[None], record=names, edit=edit)
    clean = run(network, tokens[None]).logits if some else out.logits
    seen = [network.ln_final(out[f"blocks.{i}.resid_post"][0]) @ network.unembed.W_U for i in layers]
    nodes = slice(task.first_target, task.first_target + task.n_nodes)
    root = task.root_position

    def difference(logits: Tensor) -> float:
        if int(truth["other"][0, 0]) < 0:
            return float("nan")
        return float(roads.first_step(task, truth, logits[:, root])[0])

    walked = [int(truth["root"][0])]
    for token in written[root + 1 :].tolist():
        if not task.first_target <= token < task.first_bare:
            break
        walked.append(token - task.first_target)
    return Look(
        written, walked, [k for k in truth["path"][0].tolist() if k >= 0], bool((written == tokens).all()),
        out.logits[0, root:], difference(out.logits), difference(clean),
        torch.stack([out[f"blocks.{i}.attn.pattern"][0].mean(0) for i in layers]),
        torch.stack([(x + network.unembed.b_U).softmax(-1)[:, nodes] for x in seen]),
    )  # fmt: skip


def _answer(model: Transformer, task: PathfindingTask, tokens: Tensor, edit: Any) -> Tensor:
    """The tokens with the model's own path: each step after those before, up to its stop."""
    out = tokens.clone()
    logits = run(model, out[None], edit=edit).logits[0]
    for p in range(task.answer.start, task.answer.stop):
        token = int(logits[p].argmax())
        if token == COMMA:
            out[p + 1 :] = COMMA
            break
        if token != int(out[p + 1]):
            out[p + 1] = token
            logits = run(model, out[None], edit=edit).logits[0]
    return out


# ---- state ----------------------------------------------------------------------------------------


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


# ---- the explorer ---------------------------------------------------------------------------------


def _spec(title: str, try_this: str) -> dict[str, Any]:
    sizes = {measure.task_of(name).n_nodes for name, _ in models()}
    tokens = {n: bytes(mean_trees(n).flatten().tolist()) for n in sizes}
    several = {name for name, seed in models() if seed > 0}
    return {
        "models": [
            {
                "name": name,
                "seed": seed,
                "text": TEXTS[name] + (f", seed {seed}" if name in several else ""),
                "nodes": measure.task_of(name).n_nodes,
                "layers": recipes[name].config.n_layers,
            }
            for name, seed in models()
        ],
        "examples": {str(n): dict(zip(("text", "other"), EXAMPLES[n])) for n in sorted(sizes)},
        "means": {str(n): base64.b64encode(tokens[n]).decode() for n in sorted(sizes)},
        "weights": {"folder": f"{MODELS}/{FOLDER}"},
        "title": title,
        "tryThis": try_this,
    }


def _still(state: Mapping[str, Any]) -> Any:
    from mi_lab.studies.pathfinding.explorers.tree import Scene, draw_scene
    from mi_lab.studies.pathfinding.explorers.tree import look as look_at

    task = measure.task_of(state["model"])
    seen = look_at(measure.model(state["model"], state["seed"]), task, state["text"])
    at = state["position"]
    at = at if at < 3 * task.n_edges - 1 else max(at, task.root_position)  # `|`, goal and colon aren't drawn
    return draw_scene(Scene(seen, task, state["layer"], "", at, True))


def explorer(**options: Any) -> Any:
    """The live explorer of the pathfinding models.

    options: as `describe`. In a notebook the result is a widget: every field is a trait that
    can be observed, set and linked; `look()` gives its numbers by torch. In the book it is HTML.
    """
    return live_explorer(describe(**options))


def describe(
    *,
    name: str = "mi-pathfinding",
    title: str = "The pathfinding model, live",
    try_this: str = "move the layer from left to right, then press another leaf to make it the goal.",
    **state: Any,
) -> Live:
    """What the explorer needs.

    name: its name in links; give each explorer of one page its own. try_this: what to do first.
    state: fields to begin with, e.g. `model="quick", seed=1, layer=2, closed=["target"]`. Raises ValueError.
    """
    if unknown := sorted(state.keys() - STATE.keys()):
        raise ValueError(f"there is no field {unknown[0]!r}; there are {', '.join(STATE)}")
    hidden = ("position", "layer", "show", "rows")
    return Live(
        kind="pathfinding",
        name=name,
        spec=_spec(title, try_this),
        state=check({**STATE, **state}),
        check=check,
        model_file=model_file,
        look=lambda at: look(**{field: value for field, value in at.items() if field not in hidden}),
        still=_still,
    )
