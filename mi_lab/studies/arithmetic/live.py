"""The arithmetic models, live: the explorer of page and notebook, its models, and the same numbers by torch.

study.live.explorer()                        # in a notebook a widget, in the book a page figure
study.live.look("45678+54322", edits=("P10L0H1:mean",), node="P12L1H0")
study.live.algorithm()                       # the algorithms, without a model: see `algorithm_live`
"""

from __future__ import annotations

import functools
import hashlib
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mi_lab import zoo
from mi_lab.ablate import Values, mean_values
from mi_lab.circuits import head_outputs
from mi_lab.live import export
from mi_lab.live.live_explorer import MODELS, Live, live_explorer, write_models
from mi_lab.model import LayerNorm
from mi_lab.nodemap import node_map
from mi_lab.run import Node, run
from mi_lab.studies.arithmetic import interchanges, live_scans
from mi_lab.studies.arithmetic.algorithm_live import Stepped, algorithm, step
from mi_lab.studies.arithmetic.live_scans import counts, reference, stored
from mi_lab.studies.arithmetic.live_state import TEXTS, answers, checked, first_state, labels, task_of
from mi_lab.studies.arithmetic.recipes import recipes

__all__ = [
    "Look", "Stepped", "algorithm", "check", "describe", "explorer", "keys", "look", "model_file", "step",
    "write",
]  # fmt: skip

FOLDER = "arithmetic"  # below MODELS


# ---- models ----


def published() -> dict[str, tuple[int, ...]]:
    """Seeds of every model in the explorer: those of `TEXTS` that are published."""
    known = zoo.names()
    return {name: zoo.read(f"arithmetic/{name}").labels for name in TEXTS if f"arithmetic/{name}" in known}


def keys() -> list[str]:
    """The models of the page, as NAME-SEED."""
    return [f"{name}-{seed}" for name, seeds in published().items() for seed in seeds]


@functools.lru_cache(maxsize=32)
def _means(name: str, seed: int) -> Values:
    return Values(*(x.half().float() for x in mean_values(stored(name, seed), reference(name))))


def model_file(key: str) -> bytes:
    """A model for the page, with what "mean" stands for and its scan. Raises ValueError for an unknown key."""
    if key not in keys():
        raise ValueError(f"there is no model {key!r} in this explorer")
    name, seed = key.rsplit("-", 1)
    found = counts(name, int(seed))
    about = {
        "name": f"arithmetic/{name}",
        "seed": int(seed),
        "scan": {"questions": found.questions, "dropped": found.dropped, "classes": found.asked},
    }
    return export.to_bytes(
        [stored(name, int(seed))],
        means=[_means(name, int(seed))],
        vocab=task_of(name).vocab,
        extras={"scan": found.hits.float()},
        provenance=about,
    )


def write(folder: Path) -> int:
    """All models of the page into FOLDER (a book's `_static/mi-lab-models`); how many were written."""
    sources = [Path(__file__), Path(live_scans.__file__), Path(export.__file__)]
    sources += sorted({zoo.find(f"arithmetic/{name}") for name in published()})
    total = hashlib.sha256()
    for path in sources:
        total.update(path.read_bytes())
    return write_models(folder / FOLDER, keys(), model_file, total.hexdigest())


# ---- numbers ----


class Look(NamedTuple):
    """One question.

    written: what the model writes, each token after those before; right: the right answer; clean: what
    it writes with every node in place; predicted: what it must write if the nodes taken from the second
    question carry the sub-task `move`, None without one. Of the written answer: logits, probability
    [answer, vocab]; attention [key] of the chosen head, None for an MLP; direct [part, answer]: direct
    effect of each of `parts` on the logit of the right token, the final LayerNorm's scale held, less
    the mean over the vocabulary.
    """

    written: str
    right: str
    clean: str
    predicted: str | None
    logits: Tensor
    probability: Tensor
    attention: Tensor | None
    parts: tuple[str, ...]
    direct: Tensor


@torch.no_grad()
def look(
    question: str | None = None,
    *,
    other: str | None = None,
    model: str | None = None,
    seed: int = 0,
    edits: Sequence[str] = (),
    node: str | None = None,
    move: str = "",
) -> Look:
    """The explorer's numbers, by torch: what the model answers, and how.

    edits: nodes and what stands in their place, "P10L0H1:mean", ":zero" or ":other", the same node's
    output in the run on the question `other`. node: whose attention is wanted. move: a sub-task of
    `interchanges`, "ST2". The weights and means are those of the page, rounded to half precision.
    Raises ValueError for a state that the explorer would not take either.
    """
    given = {"question": question, "other": other, "model": model, "node": node}
    first = _first(model)
    state = check({**first, **{k: v for k, v in given.items() if v is not None},
                   "seed": seed, "edits": list(edits), "move": move})  # fmt: skip
    name, task = state["model"], task_of(state["model"])
    network, means = stored(name, seed), _means(name, seed)
    solved, store = (task.encode(state[field] + "=") for field in ("question", "other"))
    edit = export.to_run(network, edits_of(state["edits"], store), means=means)
    clean = answers(network, task, solved, {})
    tokens = answers(network, task, solved, edit)
    chosen = Node.parse(state["node"])
    layers = range(network.config.n_layers)
    record = [f"blocks.{i}.{leaf}" for i in layers for leaf in ("attn.pattern", "attn.z", "mlp.out")]
    last = f"blocks.{layers[-1]}.resid_post"
    found = run(network, tokens[None], record=(*record, last), edit=edit)
    parts, wrote = [], []
    for i in layers:
        heads = head_outputs(network, found[f"blocks.{i}.attn.z"], i)[0, task.answer]
        parts += [f"L{i}H{h}" for h in range(network.config.n_heads)] + [f"L{i}MLP"]
        wrote += [*heads.unbind(1), found[f"blocks.{i}.mlp.out"][0, task.answer]]
    final, stream = network.ln_final, found[last][0, task.answer]
    assert isinstance(final, LayerNorm)
    scale = final.w / (stream.var(-1, unbiased=False, keepdim=True) + network.config.eps).sqrt()
    W_U = network.unembed.W_U
    right = solved[task.answer.start + 1 : task.answer.stop + 1]
    direction = (W_U - W_U.mean(1, keepdim=True)).T[right]
    direct = torch.stack([((x - x.mean(-1, keepdim=True)) * scale * direction).sum(-1) for x in wrote])
    logits = found.logits[0, task.answer]
    attention = None
    if chosen.head is not None:
        assert chosen.position is not None
        attention = found[f"blocks.{chosen.layer}.attn.pattern"][0, chosen.head, chosen.position]
        attention = attention[: chosen.position + 1]
    predicted = None
    if state["move"]:
        moved = interchanges.declare(task, state["move"]).predict(solved[None], store[None])
        predicted = task.decode(moved[0])
    texts = [task.decode(x[task.answer.start + 1 :]) for x in (tokens, solved, clean)]
    return Look(
        texts[0], texts[1], texts[2], predicted, logits, logits.softmax(-1), attention, tuple(parts), direct
    )


def edits_of(edits: Sequence[str], store: Tensor) -> list[dict[str, Any]]:
    """What is done to the nodes, in the page's terms."""
    values: dict[str, Any] = {"zero": 0, "mean": "mean", "other": {"run": store.tolist()}}
    return [{"node": node, "value": values[mode]} for node, mode in (edit.split(":") for edit in edits)]


# ---- the explorer ----


def check(state: Mapping[str, Any]) -> dict[str, Any]:
    """A whole and possible state: as `checkArithmetic` in the page. Raises ValueError with one sentence."""
    return checked(state, published())


def _first(model: str | None, seed: int | None = None) -> dict[str, Any]:
    """The first values of all fields; the node is the head that most questions need."""
    first = first_state(published(), model)
    if seed in published()[first["model"]]:
        first["seed"] = seed
    facts = counts(first["model"], first["seed"]).facts()
    return {
        **first,
        "node": max((node for node in facts if node.head is not None), key=facts.__getitem__).name,
    }


def _spec(title: str, try_this: str) -> dict[str, Any]:
    def described(name: str, seeds: tuple[int, ...]) -> dict[str, Any]:
        config, task = recipes[name].config, task_of(name)
        shape = {"digits": task.digits, "operations": task.operations, "layers": config.n_layers}
        return {"name": name, "text": TEXTS[name], "seeds": list(seeds), "heads": config.n_heads, **shape}

    models = [described(name, seeds) for name, seeds in published().items()]
    shapes = [export.layout(recipes[name].config).values() for name in published()]
    size = 2 * max((sum(map(math.prod, shape)) for shape in shapes), default=0)
    return {
        "models": models,
        "weights": {"folder": f"{MODELS}/{FOLDER}", "bytes": size},
        "title": title,
        "tryThis": try_this,
    }


def _still(state: Mapping[str, Any]) -> Any:
    facts = counts(state["model"], state["seed"]).facts()
    text = "Share of questions that turn wrong when a node is replaced by its mean, as many of each class."
    return node_map(facts, text, labels=labels(task_of(state["model"])), percent=True)


def explorer(**options: Any) -> Any:
    """The live explorer of the arithmetic models; options as `describe`.

    In a notebook the result is a widget: every field is a trait that can be observed, set and linked;
    `look()` gives its numbers by torch. In the book it is HTML.
    """
    return live_explorer(describe(**options))


def describe(
    *,
    name: str = "mi-arithmetic",
    title: str = "The arithmetic model, live",
    try_this: str = "choose the darkest node of the map and press Enter: which digits does the model now get wrong?",
    **state: Any,
) -> Live:
    """What the explorer needs.

    name: its name in links; give each explorer of one page its own. try_this: what to do first.
    state: fields to begin with, e.g. `model="add_d3_l2_h3", question="456+544"`. Raises ValueError.
    """
    first = _first(state.get("model"), state.get("seed"))
    if unknown := sorted(state.keys() - first.keys()):
        raise ValueError(f"there is no field {unknown[0]!r}; there are {', '.join(first)}")
    fields = ("question", "other", "model", "seed", "edits", "node", "move")
    return Live(
        kind="arithmetic",
        name=name,
        spec=_spec(title, try_this),
        state=check({**first, **state}),
        check=check,
        model_file=model_file,
        look=lambda at: look(**{field: at[field] for field in fields}),
        still=_still,
    )
