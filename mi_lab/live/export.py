"""Models, edits and golden cases on their way into a page. Its scripts: `mi_lab.live.scripts`.

    data = to_bytes([model], vocab=task.vocab)           # the page's model file: fp16, checked by SHA-256
    text = to_script(data)                               # the same for pages opened from a folder
    cases = golden(model, tokens, edits={"L0H1 off": [{"node": "L0H1", "value": 0}]})

Edits of the page are plain JSON, a list of

    {"node": "P14L2H3", "value": V}
    {"activation": "blocks.0.attn.z", "value": V, "positions": [..], "heads": [..]}
    {"knockOut": {"layer": 0, "queries": [..], "keys": [..], "heads": [..], "renormalise": true}}

with V a number, numbers, "mean" or {"run": tokens}. `to_run` turns them into the `edit` of
`mi_lab.run`; the page's engine gives the same logits to 1e-4 (tested).
"""

from __future__ import annotations

import base64
import copy
import hashlib
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mi_lab.ablate import Values
from mi_lab.model import Transformer, TransformerConfig
from mi_lab.run import Node, knock_out, run

MAGIC = b"MILABJS1"
SOURCES = Path(__file__).parent / "js"
TYPES = {"float16": torch.float16, "float32": torch.float32}

Edits = Sequence[Mapping[str, Any]]
"""Edits of the page, as plain JSON."""


# ---- model files ----------------------------------------------------------------------------------


def layout(config: TransformerConfig) -> dict[str, tuple[int, ...]]:
    """Name and shape of every weight in a model file, in order."""
    d, heads, d_head, norm = config.d_model, config.n_heads, config.d_head, config.norm is not None
    shapes: dict[str, tuple[int, ...]] = {
        "embed.W_E": (config.d_vocab, d),
        "pos_embed.W_pos": (config.n_ctx, d),
    }
    for layer in range(config.n_layers):
        b = f"blocks.{layer}."
        if norm:
            shapes |= {f"{b}ln1.w": (d,), f"{b}ln1.b": (d,)}
        for x in "QKV":
            shapes |= {f"{b}attn.W_{x}": (heads, d, d_head), f"{b}attn.b_{x}": (heads, d_head)}
        shapes |= {f"{b}attn.W_O": (heads, d_head, d), f"{b}attn.b_O": (d,)}
        if config.d_mlp:
            if norm:
                shapes |= {f"{b}ln2.w": (d,), f"{b}ln2.b": (d,)}
            shapes |= {f"{b}mlp.W_in": (d, config.d_mlp), f"{b}mlp.b_in": (config.d_mlp,)}
            shapes |= {f"{b}mlp.W_out": (config.d_mlp, d), f"{b}mlp.b_out": (d,)}
    if norm:
        shapes |= {"ln_final.w": (d,), "ln_final.b": (d,)}
    return shapes | {"unembed.W_U": (d, config.vocab_out), "unembed.b_U": (config.vocab_out,)}


def to_bytes(
    models: Sequence[Transformer],
    *,
    labels: Sequence[int] = (0,),
    dtype: str = "float16",
    vocab: Sequence[str] | None = None,
    means: Sequence[Values] = (),
    extras: Mapping[str, Tensor] | None = None,
    provenance: Mapping[str, Any] | None = None,
) -> bytes:
    """One file with these models of one shape, for `readModel` in the page.

    labels: one per model, a seed or a step. means: what "mean" stands for in edits of each model, as
    `ablate.mean_values` gives them; none or one per model. extras: further tensors. provenance:
    JSON, shown to the reader. Size: 2 bytes a weight with float16. Raises ValueError for models of
    different shapes and for values that float16 can't hold.
    """
    if dtype not in TYPES:
        raise ValueError(f"dtype must be 'float16' or 'float32', not {dtype!r}")
    if not models or len(labels) != len(models) or len(set(labels)) != len(labels):
        raise ValueError(f"{len(models)} models need as many different labels, not {list(labels)}")
    config = models[0].config
    if any(model.config.to_dict() != config.to_dict() for model in models):
        raise ValueError("the models of one file must have one config")
    if vocab is not None and len(vocab) < config.d_vocab:
        raise ValueError(f"vocab must name {config.d_vocab} tokens, not {len(vocab)}")
    if means and len(means) != len(models):
        raise ValueError(f"{len(models)} models need as many means, not {len(means)}")
    further = dict(extras or {})
    for label, some in zip(labels, means):
        further |= _mean_extras(some, label, config)
    tensors = [model.state_dict()[name] for model in models for name in layout(config)]
    body = b"".join(_raw(tensor, dtype) for tensor in [*tensors, *further.values()])
    header = {
        "config": config.to_dict(),
        "dtype": dtype,
        "labels": list(labels),
        "vocab": None if vocab is None else list(vocab),
        "extras": [[name, list(tensor.shape)] for name, tensor in further.items()],
        "provenance": dict(provenance or {}),
    }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(len(text) + 44) % 8)
    rest = len(text).to_bytes(4, "little") + text + body
    return MAGIC + hashlib.sha256(rest).digest() + rest


def _mean_extras(means: Values, label: int, config: TransformerConfig) -> dict[str, Tensor]:
    if means.z.shape[1] != 1 or means.z.shape[2] != config.n_ctx:
        raise ValueError(f"means must be one row over all {config.n_ctx} positions (ablate.mean_values)")
    out = {f"mean.{label}.blocks.{i}.attn.z": z[0] for i, z in enumerate(means.z)}
    if config.d_mlp:
        out |= {f"mean.{label}.blocks.{i}.mlp.post": post[0] for i, post in enumerate(means.post)}
    return out


def _raw(tensor: Tensor, dtype: str) -> bytes:
    """Little-endian bytes."""
    stored = tensor.detach().cpu().to(TYPES[dtype])
    if not torch.isfinite(stored).all():
        raise ValueError(f"a value is not finite in {dtype}: the page could not run this model")
    return stored.contiguous().numpy().astype("<f2" if dtype == "float16" else "<f4").tobytes()


def as_stored(model: Transformer, dtype: str = "float16") -> Transformer:
    """A copy of the model with the very weights that its file holds: what the page runs."""
    copy = Transformer(model.config)
    state = {name: value.cpu().to(TYPES[dtype]).float() for name, value in model.state_dict().items()}
    copy.load_state_dict(state)
    return copy


def file_sha256(data: bytes) -> str:
    """The hash that a file names itself by, for `load({url, sha256})` in the page."""
    if data[:8] != MAGIC:
        raise ValueError("this is not a model file of the page")
    return data[8:40].hex()


def to_script(data: bytes) -> str:
    """A model file as a script, which a page opened from a folder may load where `fetch` is refused."""
    return f'globalThis.miLabModel("{base64.b64encode(data).decode()}");\n'


# ---- edits and golden cases -----------------------------------------------------------------------


def to_run(
    model: Transformer, edits: Edits, *, means: Values | None = None
) -> dict[str, Callable[[Tensor], Tensor]]:
    """The page's edits as the `edit` of `mi_lab.run.run`. Raises ValueError for what it does not know."""
    steps: dict[str, list[Callable[[Tensor], Tensor]]] = {}
    for edit in sorted(edits, key=lambda edit: "knockOut" in edit):  # values first, then what is forbidden
        if "knockOut" in edit:
            spec = edit["knockOut"]
            renormalise = spec.get("renormalise", True)
            name = f"blocks.{spec['layer']}.attn." + ("scores" if renormalise else "pattern")
            heads = spec.get("heads", slice(None))
            step = knock_out(spec["queries"], spec["keys"], heads=heads, renormalise=renormalise)
        else:
            if "node" in edit:
                node = Node.parse(edit["node"]).check(model.config)
                name = node.activation
                positions = None if node.position is None else [node.position]
                heads = None if node.head is None else [node.head]
            else:
                name, positions, heads = edit["activation"], edit.get("positions"), edit.get("heads")
            step = _overwrite(name, positions, heads, _value(model, edit["value"], name, means), model.config)
        steps.setdefault(name, []).append(step)
    return {
        name: lambda x, todo=todo: reduce(lambda y, step: step(y), todo, x) for name, todo in steps.items()
    }


def _value(model: Transformer, value: Any, name: str, means: Values | None) -> Tensor | float:
    """A number, numbers, or a whole activation [1, ...]."""
    if value == "mean":
        if means is None:
            raise ValueError('the value "mean" needs means')
        layer = int(name.split(".")[1])
        return (means.z if name.endswith("attn.z") else means.post)[layer]
    if isinstance(value, Mapping):
        inner = to_run(model, value.get("edits", ()), means=means)
        return run(model, torch.tensor([value["run"]]), record=name, edit=inner)[name]
    return float(value) if isinstance(value, int | float) else torch.tensor(value)


def _overwrite(
    name: str,
    positions: Sequence[int] | None,
    heads: Sequence[int] | None,
    value: Tensor | float,
    config: TransformerConfig,
) -> Callable[[Tensor], Tensor]:
    """Put `value` at some positions and heads of an activation."""
    pattern = name.endswith("attn.pattern")
    by_head = bool(re.search(r"attn\.[qkvz]$", name))

    def step(x: Tensor) -> Tensor:
        seen = x.transpose(1, 2) if pattern else x if by_head else x.unsqueeze(2)  # [batch, pos, head, width]
        where = torch.arange(seen.shape[1]) if positions is None else torch.tensor(positions)
        which = torch.arange(seen.shape[2]) if heads is None else torch.tensor(heads)
        out = seen.clone()
        part = (slice(None), where[:, None], which)
        if isinstance(value, Tensor) and value.ndim > 1:  # a whole activation
            whole = value.transpose(1, 2) if pattern else value if by_head else value.unsqueeze(2)
            out[part] = whole[part].to(x)
        elif isinstance(value, Tensor):
            width = seen.shape[-1]
            shapes = [(len(where), len(which), width), (len(which), width), (width,)]
            fits = [shape for shape in shapes if math.prod(shape) == len(value)]
            if not fits:
                raise ValueError(f"the value of {name} has {len(value)} numbers, which fit none of {shapes}")
            out[part] = value.reshape(fits[0]).to(x)
        else:
            out[part] = value
        return out.transpose(1, 2) if pattern else out if by_head else out.squeeze(2)

    return step


def golden(
    model: Transformer,
    tokens: Tensor,
    edits: Mapping[str, Edits] | None = None,
    *,
    means: Values | None = None,
    record: Sequence[str] = (),
    dtype: str = "float16",
) -> dict[str, Any]:
    """What torch says, as JSON: the model file and, for each question and set of edits, the logits.

    tokens Int[question, pos]. The model is rounded to `dtype` first, so that the page is compared
    with the same weights; torch computes in double precision, so that only the page's own rounding counts.
    record: further activations to keep. "rounding": how far torch's own float32 logits are off.
    """
    single = as_stored(model, dtype)
    stored = copy.deepcopy(single).double()
    short = None if means is None else Values(*(x.to(TYPES[dtype]).float() for x in means))
    means = None if short is None else Values(*(x.double() for x in short))
    data = to_bytes([model], dtype=dtype, means=[] if means is None else [means])
    cases = []
    rounding = 0.0
    for name, some in {"clean": (), **(edits or {})}.items():
        for question in tokens:
            got = run(stored, question[None], record=record, edit=to_run(stored, some, means=means))
            own = run(single, question[None], edit=to_run(single, some, means=short)).logits
            rounding = max(rounding, float((own - got.logits).abs().max()))
            cases.append(
                {
                    "name": name,
                    "tokens": question.tolist(),
                    "edits": list(some),
                    "logits": _packed(got.logits),
                    "activations": {key: _packed(value) for key, value in got.recorded.items()},
                }
            )
    return {
        "model": base64.b64encode(data).decode(), "sha256": file_sha256(data), "rounding": rounding, "cases": cases,
    }  # fmt: skip


def _packed(x: Tensor) -> dict[str, Any]:
    return {"shape": list(x.shape), "base64": base64.b64encode(_raw(x, "float32")).decode()}
