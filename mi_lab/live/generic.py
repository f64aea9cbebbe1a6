"""A live explorer for any model of the lab: tokens in, nodes on and off, attention, what comes next.

generic.explorer(model, tokens=[3, 1, 4], vocab=task.vocab)   # in a notebook a widget, in a book a page figure
generic.look(model, [3, 1, 4], off=("L0H1",))                 # the same numbers, by torch

`mi-lab export CHECKPOINT --html FILE` puts this explorer and a model into one file
(`mi_lab.live.one_page`). A study with pictures of its own describes its own `Live`.
"""

from __future__ import annotations

import base64
import functools
import html
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mi_lab.live import export
from mi_lab.live.live_explorer import Live, live_explorer
from mi_lab.model import Transformer
from mi_lab.run import Node, run

KEY = "model"
LISTED = 5  # next tokens of the still picture


class Look(NamedTuple):
    """One position of one sequence.

    logits, probability [vocab]: what is expected after the position; attention [head, key]: where each
    head of the chosen layer looks from there.
    """

    logits: Tensor
    probability: Tensor
    attention: Tensor


@torch.no_grad()
def look(
    model: Transformer,
    tokens: Tensor | Sequence[int],
    *,
    position: int | None = None,
    layer: int | None = None,
    off: Sequence[str] = (),
    dtype: str = "float16",
) -> Look:
    """The explorer's numbers, by torch. Chapter: Bring your own study.

    position: default the last. layer: whose attention; default the last. off: nodes set to zero at
    every position, e.g. "L0H1" or "L0MLP". dtype: how the page stores weights. Raises ValueError for
    what the model does not have.
    """
    row = torch.as_tensor(tokens)
    position = len(row) - 1 if position is None else position
    layer = model.config.n_layers - 1 if layer is None else layer
    name = f"blocks.{layer}.attn.pattern"
    edit = {Node.parse(node).check(model.config): 0.0 for node in off}
    found = run(export.as_stored(model, dtype), row[None], record=(name,), edit=edit)
    logits = found.logits[0, position]
    return Look(logits, logits.softmax(-1), found[name][0, :, position, : len(row)])


def words_of(model: Transformer, vocab: Sequence[str] | None = None) -> list[str]:
    """A word for each token that can be typed between spaces; numbers for those without one.

    "\u2423" stands for white space, "\u2205" for nothing. Raises ValueError for two equal words.
    """
    size = max(model.config.d_vocab, model.config.vocab_out)
    words = list(map(str, range(size))) if vocab is None else list(vocab)
    words += list(map(str, range(len(words), size)))
    words = ["".join("\u2423" if c.isspace() else c for c in word) or "\u2205" for word in words]
    if len(set(words)) < len(words):
        raise ValueError("two tokens have the same word")
    return words


def nodes_of(model: Transformer) -> list[str]:
    """The nodes that can be switched: every head, and every MLP."""
    config = model.config
    inside = [*(f"H{head}" for head in range(config.n_heads)), *(["MLP"] if config.d_mlp else [])]
    return [f"L{layer}{node}" for layer in range(config.n_layers) for node in inside]


def _read(text: str, model: Transformer, words: Sequence[str]) -> list[int]:
    """Tokens of a text, as `readTokens` in the page."""
    between = r"\s+" if any("," in word for word in words) else r"[\s,]+"
    tokens = []
    for word in filter(None, re.split(between, str(text).strip())):
        token = words.index(word) if word in words else -1
        if not 0 <= token < model.config.d_vocab:
            raise ValueError(f"{word[:12]!r} is no token of this model; it knows {' '.join(words[:8])} ...")
        tokens.append(token)
    if not 1 <= len(tokens) <= model.config.n_ctx:
        raise ValueError(f"the model takes 1 to {model.config.n_ctx} tokens, not {len(tokens)}")
    return tokens


def _check(state: Mapping[str, Any], model: Transformer, words: Sequence[str]) -> dict[str, Any]:
    """A whole and possible state: as `checkGeneric` in the page. Raises ValueError with one sentence."""
    tokens = _read(state["tokens"], model, words)
    layers = model.config.n_layers
    if not isinstance(state["position"], int) or state["position"] < 0:
        raise ValueError(f"the position must be a whole number, not {state['position']!r}")
    if not isinstance(state["layer"], int) or not 0 <= state["layer"] < layers:
        raise ValueError(f"the layers go from 0 to {layers - 1}, there is no {state['layer']!r}")
    known = nodes_of(model)
    if wrong := [node for node in state["off"] if node not in known]:
        raise ValueError(f"this model has no node {wrong[0]!r}; it has {', '.join(known)}")
    return {
        "tokens": " ".join(words[t] for t in tokens),
        "position": min(state["position"], len(tokens) - 1),
        "layer": state["layer"],
        "off": [node for node in known if node in state["off"]],
    }


class _Still:
    """What stands in the page until the explorer is there: the state's answer in words."""

    def __init__(self, state: Mapping[str, Any], found: Look, words: Sequence[str]) -> None:
        self.state, self.found, self.words = state, found, words

    def _repr_html_(self) -> str:
        best = self.found.probability.topk(min(LISTED, len(self.found.probability)))
        items = "".join(
            f"<li>{html.escape(str(self.words[token]))}: {100 * float(p):.1f} %</li>"
            for p, token in zip(best.values, best.indices.tolist())
        )
        return (
            f"<p>Tokens: {html.escape(self.state['tokens'])}. What the model expects after position "
            f"{self.state['position']}; the live figure comes when the page is loaded.</p><ol>{items}</ol>"
        )


def describe(
    model: Transformer,
    *,
    tokens: Tensor | Sequence[int] = (0,),
    vocab: Sequence[str] | None = None,
    title: str = "The model, live",
    try_this: str = "",
    name: str = "mi-model",
    python: Sequence[str] = (),
    dtype: str = "float16",
    position: int | None = None,
    layer: int | None = None,
    off: Sequence[str] = (),
) -> Live:
    """What the explorer needs.

    tokens: what it begins with. vocab: a word for each token; default their numbers. name: its name in
    links; give each explorer of one page its own. python: lines that make `model` in Python. position,
    layer, off: what it begins with; default the last position and layer, everything on. dtype: how the
    page stores weights. Raises ValueError for what can't be.

    Cost: the weights stand in the page, 2.7 bytes each (float16).
    """
    config = model.config
    words = words_of(model, vocab)
    first = torch.as_tensor(tokens).tolist()
    if not 1 <= len(first) <= config.n_ctx or not all(0 <= t < config.d_vocab for t in first):
        raise ValueError(f"the page begins with 1 to {config.n_ctx} tokens from 0 to {config.d_vocab - 1}")
    data = export.to_bytes([model], dtype=dtype, vocab=words)
    check = functools.partial(_check, model=model, words=words)

    def file(key: str) -> bytes:
        if key != KEY:
            raise ValueError(f"there is no model {key!r} in this explorer")
        return data

    def look_at(state: Mapping[str, Any]) -> Look:
        tokens = _read(state["tokens"], model, words)
        rest = {field: state[field] for field in ("position", "layer", "off")}
        return look(model, tokens, dtype=dtype, **rest)

    state = {
        "tokens": " ".join(words[t] for t in first),
        "position": len(first) - 1 if position is None else position,
        "layer": config.n_layers - 1 if layer is None else layer,
        "off": list(off),
    }
    spec = {
        "config": config.to_dict(),
        "vocab": words,
        "python": list(python),
        "weights": {"inline": {KEY: base64.b64encode(data).decode()}},
        "title": title,
    }
    return Live(
        kind="generic",
        name=name,
        spec=spec | ({"note": try_this} if try_this else {}),
        state=check(state),
        check=check,
        model_file=file,
        look=look_at,
        still=lambda at: _Still(at, look_at(at), words),
    )


def explorer(model: Transformer, **options: Any) -> Any:
    """The live explorer of a model. options: as `describe`. Chapter: Bring your own study.

    In a notebook the result is a widget: tokens, position, layer and off are traits that can be observed,
    set and linked; `look()` gives the numbers by torch. In the book it is HTML.
    """
    return live_explorer(describe(model, **options))
