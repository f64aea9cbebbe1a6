"""The pathfinding models, live: the explorer of page and notebook, its models, and the same numbers by torch.

study.live.explorer()                        # in a notebook a widget, in the book a page figure
study.live.look("4>3,0>1,4>0,7>8,9>2,5>9,8>6,3>5,0>7|6", closed=("target",), who="path", where="1+")
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping
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
from mi_lab.studies.pathfinding.live_state import CHOICES, EXAMPLES, STATE, TEXTS, check, models
from mi_lab.studies.pathfinding.recipes import recipes
from mi_lab.studies.pathfinding.task import COMMA, PathfindingTask

__all__ = [
    "CHOICES", "EXAMPLES", "FOLDER", "STATE", "TEXTS", "Look", "check", "describe", "explorer", "keys", "look",
    "mean_trees", "model_file", "models", "sizes", "write",
]  # fmt: skip
FOLDER = "pathfinding"  # below MODELS
MEAN_TREES = 64

# ---- models ---------------------------------------------------------------------------------------


def sizes() -> list[int]:
    """Nodes of the models' trees."""
    return sorted({measure.task_of(name).n_nodes for name, _ in models()})


def keys() -> list[str]:
    """Files of the page: models as NAME-SEED, and the trees over which "mean" averages as trees-NODES."""
    return [*(f"{name}-{seed}" for name, seed in models()), *(f"trees-{n}" for n in sizes())]


def model_file(key: str) -> bytes:
    """A model for the page, or trees (a byte a token). Raises ValueError for an unknown key."""
    if key not in keys():
        raise ValueError(f"there is no model {key!r} in this explorer")
    name, number = key.split("-")
    if name == "trees":
        return bytes(mean_trees(int(number)).flatten().tolist())
    return export.to_bytes(
        [measure.model(name, int(number))],
        vocab=measure.task_of(name).vocab,
        provenance={"name": f"pathfinding/{name}", "seed": int(number)},
    )


def write(folder: Path) -> int:
    """All models of the page into FOLDER (a book's `_static/mi-lab-models`); how many were written."""
    total = hashlib.sha256()
    checkpoints = sorted({zoo.find(f"pathfinding/{name}") for name, _ in models()})
    here = sorted(Path(__file__).parent.glob("live*.py"))
    for path in (*here, Path(export.__file__), *checkpoints):
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


# ---- the explorer ---------------------------------------------------------------------------------


def _spec(title: str, try_this: str) -> dict[str, Any]:
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
        "examples": {str(n): dict(zip(("text", "other"), EXAMPLES[n])) for n in sizes()},
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
