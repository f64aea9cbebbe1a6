"""The sorting model, live: the explorer of page and notebook, its models, and the same numbers by torch.

study.live.explorer()                        # in a notebook a widget, in the book a page figure
study.live.look("46,11,27,5,39,8,30,19,2,33", output=3, heads=("on", "mean"))
study.live.hand_made()                       # the same with the sorters written down by hand
"""

from __future__ import annotations

import functools
import hashlib
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
from mi_lab.model import LayerNorm, Transformer
from mi_lab.run import run
from mi_lab.studies.sorting import circuit, hand_models, measure
from mi_lab.studies.sorting.recipes import recipes
from mi_lab.studies.sorting.task import SortingTask

EXAMPLE = "46,11,27,5,39,8,30,19,2,33"
OTHER = "12,40,3,25,50,7,18,36,29,44"
TEXTS = {
    "paper": "baseline, mean gap 4.7",
    "window_30": "mean gap 2.8",
    "window_20": "mean gap 1.9",
    "window_14": "mean gap 1.4",
    "window_12": "mean gap 1.2",
    "no_decay": "no weight decay",
}
MODES = ("on", "zero", "mean", "patch")
FOLDER = "sorting"  # below MODELS
MEAN_LISTS = 400
VIEWS = ("ov", "qk")
LAST = 10**6  # a step behind all others: the end of training


@functools.cache
def steps_of(name: str) -> dict[int, tuple[int, ...]]:
    """Published training steps of a model by seed; the last one is the end. A hand-made one has step 0."""
    if name in hand_models.NAMES:
        return {0: (0,)}
    known = zoo.names()
    out = {}
    for seed in measure.seeds_of(name):
        file = f"sorting/{name}_steps/seed-{seed}"
        steps = set(zoo.read(file).labels) if file in known else set()
        out[seed] = tuple(sorted(steps | {recipes[name].steps}))
    return out


def keys() -> list[str]:
    """The models of the page, as NAME-SEED-STEP."""
    return [
        f"{name}-{seed}-{step}"
        for name in (*TEXTS, *hand_models.NAMES)
        for seed, steps in steps_of(name).items()
        for step in steps
    ]


def model_at(name: str, seed: int, step: int) -> Transformer:
    """A published model, trained to the end or not, or a hand-made one."""
    if name in hand_models.NAMES:
        return hand_models.model(name)
    if step == recipes[name].steps:
        return measure.model(name, seed)
    return measure.model_at(name, seed, step)


@functools.lru_cache(maxsize=16)
def _means(name: str, seed: int, step: int) -> Values:
    return mean_values(model_at(name, seed, step), measure.lists(_task(name), MEAN_LISTS, seed=71))


def _task(name: str) -> SortingTask:
    return measure.task_of("paper" if name in hand_models.NAMES else name)


def model_file(key: str) -> bytes:
    """A model for the page, with what "mean" stands for. Raises ValueError for an unknown key."""
    if key not in keys():
        raise ValueError(f"there is no model {key!r} in this explorer")
    name, seed, step = key.split("-")
    args = (name, int(seed), int(step))
    return export.to_bytes(
        [model_at(*args)],
        means=[_means(*args)],
        vocab=_task(name).vocab,
        provenance={"name": f"sorting/{name}", "seed": args[1], "step": args[2]},
    )


def write(folder: Path) -> int:
    """All models of the page into FOLDER (a book's `_static/mi-lab-models`); how many were written."""
    sources = [
        Path(__file__),
        Path(hand_models.__file__),
        Path(circuit.__file__),
        Path(export.__file__),
        *_checkpoints(),
    ]
    total = hashlib.sha256()
    for path in sources:
        total.update(path.read_bytes())
    return write_models(folder / FOLDER, keys(), model_file, total.hexdigest())


def _checkpoints() -> list[Path]:
    names = [
        n
        for n in zoo.names()
        for name in TEXTS
        if n.startswith((f"sorting/{name}_steps/", f"sorting/{name}"))
    ]
    return sorted({zoo.find(name) for name in names})


class Look(NamedTuple):
    """One list, one output.

    written: all outputs of the model, each written after those before; right: the sorted list;
    logits, probability [vocab] of the chosen output; attention [head, key]; direct [head, vocab]:
    direct effect of each head on each logit, the final LayerNorm's scale held, mean over vocab 0.
    """

    written: list[int]
    right: list[int]
    logits: Tensor
    probability: Tensor
    attention: Tensor
    direct: Tensor


def edits_of(heads: Sequence[str], other: str, task: Any) -> list[dict[str, Any]]:
    """What is done to the heads, in the page's terms."""
    edits = []
    for head, mode in enumerate(heads):
        value: Any = {"zero": 0, "mean": "mean"}.get(mode)
        if mode == "patch":
            value = {"run": task.encode(other).tolist()}
        if mode != "on":
            edits.append({"node": f"L0H{head}", "value": value})
    return edits


@torch.no_grad()
def look(
    list: str = EXAMPLE,
    *,
    output: int = 3,
    heads: Sequence[str] = (),
    other: str = OTHER,
    model: str = "paper",
    seed: int = 0,
    step: int | None = None,
) -> Look:
    """The explorer's numbers, by torch: what the model writes for a list, and how.

    heads: "on", "zero", "mean" or "patch" (its output in the run on `other`) for each; all on if
    empty. step: None for the end of training. The weights are those of the page, rounded to half
    precision. Raises ValueError for a state that the explorer would not take either.
    """
    state = check({**STATE, "list": list, "output": output, "heads": heads, "other": other, "model": model,
                   "seed": seed, "step": LAST if step is None else step})  # fmt: skip
    args = (state["model"], state["seed"], state["step"])
    task = _task(state["model"])
    network = export.as_stored(model_at(*args))
    means = Values(*(x.half().float() for x in _means(*args)))
    edit = export.to_run(network, edits_of(state["heads"], state["other"], task), means=means)
    tokens = task.encode(state["list"])[None]
    pattern, z, last = "blocks.0.attn.pattern", "blocks.0.attn.z", "blocks.0.resid_post"
    right = tokens[0, task.length + 1 :].tolist()
    for p in range(task.length, 2 * task.length):
        tokens[0, p + 1] = run(network, tokens, edit=edit).logits[0, p].argmax()
    found = run(network, tokens, record=(pattern, z, last), edit=edit)
    row = task.length + state["output"] - 1
    wrote = head_outputs(network, found[z])[0, row]
    wrote = wrote - wrote.mean(-1, keepdim=True) if network.config.norm else wrote
    final = network.ln_final
    if isinstance(final, LayerNorm):
        stream = found[last][0, row]
        wrote = wrote * final.w / (stream.var(unbiased=False) + network.config.eps).sqrt()
    direct = wrote @ network.unembed.W_U
    logits = found.logits[0, row]
    return Look(
        tokens[0, task.length + 1 :].tolist(), right, logits, logits.softmax(-1),
        found[pattern][0, :, row, : row + 1], direct - direct.mean(-1, keepdim=True),
    )  # fmt: skip


STATE: dict[str, Any] = {
    "list": EXAMPLE, "output": 3, "heads": ["on", "on"], "other": OTHER, "model": "paper", "seed": 0, "step": 6000,
    "node": "", "view": "ov", "row": 8, "column": 8,
}  # fmt: skip


def check(state: Mapping[str, Any]) -> dict[str, Any]:
    """A whole and possible state: as `checkSorting` in the page. Raises ValueError with one sentence."""
    name = state["model"]
    if name not in (*TEXTS, *hand_models.NAMES):
        raise ValueError(f"there is no model {name!r}; there are {', '.join((*TEXTS, *hand_models.NAMES))}")
    task = _task(name)
    out = dict(state)
    for field in ("list", "other"):
        out[field] = ",".join(map(str, task.encode(state[field])[: task.length].tolist()))
    seeds = steps_of(name)
    if state["seed"] not in seeds:
        raise ValueError(f"seed must be one of {', '.join(map(str, seeds))}, not {state['seed']!r}")
    step = state["step"]
    if not isinstance(step, int) or step < 0:
        raise ValueError(f"step must be a whole number, not {step!r}")
    out["step"] = min(seeds[state["seed"]], key=lambda one: abs(one - step))
    modes = tuple(state["heads"])
    if wrong := [mode for mode in modes if mode not in MODES]:
        raise ValueError(f"a head is {', '.join(MODES)}, not {wrong[0]!r}")
    count = _heads(name)
    out["heads"] = [*modes, *["on"] * count][:count]
    nodes = ["", *(f"L0H{head}" for head in range(count))]
    if state["node"] not in nodes:
        raise ValueError(f"node must be empty or one of {', '.join(nodes[1:])}, not {state['node']!r}")
    if state["view"] not in VIEWS:
        raise ValueError(f"view must be 'ov' or 'qk', not {state['view']!r}")
    for field, low, high in (
        ("output", 1, task.length),
        ("row", 0, task.n_numbers - 1),
        ("column", 0, task.n_numbers - 1),
    ):
        if not isinstance(state[field], int) or not low <= state[field] <= high:
            raise ValueError(f"{field} must be a whole number from {low} to {high}, not {state[field]!r}")
    return out


def _heads(name: str) -> int:
    return 2 if name in hand_models.NAMES else recipes[name].config.n_heads


def _spec(title: str, try_this: str, by_hand: bool) -> dict[str, Any]:
    task = measure.task_of("paper")
    texts = {name: hand_models.text(name) for name in hand_models.NAMES} if by_hand else TEXTS
    gaps = {name: round(measure.task_of(name).expected_gap, 1) for name in TEXTS if name != "no_decay"}
    models = [
        {
            "name": name,
            "text": text,
            "heads": _heads(name),
            "window": _task(name).window or task.n_numbers,
            "seeds": {str(seed): [*steps] for seed, steps in steps_of(name).items()},
        }
        for name, text in texts.items()
    ]
    return {
        "task": {"length": task.length, "numbers": task.n_numbers},
        "models": models,
        "families": hand_models.families() if by_hand else [{"label": "mean gap", "values": gaps}],
        "weights": {"folder": f"{MODELS}/{FOLDER}", "bytes": len(model_file("paper-0-6000"))},
        "title": title,
        "tryThis": try_this,
    }


def _still(state: Mapping[str, Any]) -> Any:
    from mi_lab.studies.sorting.explorers import draw_step, step_through

    heads = tuple(mode != "zero" for mode in state["heads"])
    network = model_at(state["model"], state["seed"], state["step"])
    return draw_step(step_through(state["list"], state["output"], heads, network, _task(state["model"])))


def explorer(**options: Any) -> Any:
    """The live explorer of the sorting models.

    options: as `describe`. In a notebook the result is a widget: every field is a trait that
    can be observed, set and linked; `look()` gives its numbers by torch. In the book it is HTML.
    """
    return live_explorer(describe(**options))


def hand_made(**options: Any) -> Any:
    """The live explorer of the sorters written down by hand. options: as `describe`. Chapter: Start here."""
    first = {
        "name": "mi-hand-made",
        "title": "A sorter written by hand",
        "try_this": "blunt the attention (b down to 0.02) until it makes its first mistake, then set a head to zero.",
    }
    return live_explorer(describe(by_hand=True, **{**first, **options}))


def describe(
    *,
    name: str = "mi-sorting",
    title: str = "The sorting model, live",
    try_this: str = "set head 1 to zero and step on: which numbers go wrong?",
    by_hand: bool = False,
    **state: Any,
) -> Live:
    """What the explorer needs.

    name: its name in links; give each explorer of one page its own. try_this: what to do first.
    by_hand: the sorters of `hand_models` instead of the trained ones. state: fields to begin with, e.g.
    `heads=("on", "zero"), seed=3, step=250`. Raises ValueError.
    """
    if unknown := sorted(state.keys() - STATE.keys()):
        raise ValueError(f"there is no field {unknown[0]!r}; there are {', '.join(STATE)}")
    if by_hand:
        state = {"model": "hand_LN_1", "step": 0, "output": 4, **state}
    first = check({**STATE, **state})
    fields = ("list", "output", "heads", "other", "model", "seed", "step")
    return Live(
        kind="sorting",
        name=name,
        spec=_spec(title, try_this, by_hand),
        state=first,
        check=check,
        model_file=model_file,
        look=lambda at: look(**{field: at[field] for field in fields}),
        still=_still,
    )
