"""The hand-made model, live: letters to type, strengths and single weights to change, heads to switch.

toolbox.explorer()                                   # in a notebook a widget, in the book a page figure
toolbox.live.look("bdafb", position=5, cells={"L1H0.ov.d.e": 12.0})

The page holds one model file; a state's strengths and cells are written over its tables (`handmade.TABLES`)
in the page as `handmade.repeater` does it here, so that both run the same weights.
"""

from __future__ import annotations

import base64
import functools
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mi_lab import handmade
from mi_lab.ablate import Values, mean_values
from mi_lab.circuits import head_outputs
from mi_lab.handmade import HEADS, LETTERS, N_CTX, TABLES, RepeatTask, parse_cell, repeater
from mi_lab.live import export
from mi_lab.live.live_explorer import Live, live_explorer
from mi_lab.model import Transformer
from mi_lab.run import run

KEY = "repeater"
MODES = ("on", "zero", "mean", "patch")
STRENGTHS = {"seek": (30, 40), "copy": (12, 20), "suppress": (4, 20), "backup": (8, 20)}  # first, largest
LEAN = 40.0
LARGEST = 99.0  # of a cell
UNDECIDED = 0.05  # between the two best letters: less, and the model writes nothing more
_CELL = re.compile(r"[^=]+=-?\d{1,2}(?:\.\d{1,2})?")

STATE: dict[str, Any] = {
    "text": "bdafb", "position": 5, "heads": ["on"] * 6, "other": "face",
    **{name: first for name, (first, _) in STRENGTHS.items()},
    "table": "L1H0.ov", "row": 3, "column": 3, "cells": [],
}  # fmt: skip


def build(state: Mapping[str, Any]) -> Transformer:
    """The model of a state."""
    strengths = {name: float(state[name]) for name in STRENGTHS}
    return repeater(**strengths, lean=LEAN, cells=parse_cells(state["cells"]))  # type: ignore[arg-type]


def parse_cells(cells: Sequence[str]) -> dict[str, float]:
    """{"L1H0.ov.b.c": 5.0} from ["L1H0.ov.b.c=5"], in the tables' order; a later one wins.

    Raises ValueError for a cell that isn't there and for numbers beyond 99 or with over two decimals.
    """
    found: dict[tuple[int, int, int], tuple[str, float]] = {}
    order = list(TABLES)
    for text in cells:
        name, _, value = text.partition("=")
        table, row, column = parse_cell(name)
        if not _CELL.fullmatch(text):
            raise ValueError(
                f"a weight is a number from -99 to 99 with at most two decimals, not {value[:12]!r}"
            )
        found[order.index(table.key), row, column] = (name, float(value) + 0.0)
    return dict(found[place] for place in sorted(found))


def model_file(key: str) -> bytes:
    """The model for the page. Raises ValueError for another key than "repeater"."""
    if key != KEY:
        raise ValueError(f"there is no model {key!r} in this explorer")
    return export.to_bytes([build(STATE)], vocab=RepeatTask().vocab, provenance={"name": "handmade/repeater"})


class Look(NamedTuple):
    """One text, one position.

    written: the letters that the model adds to the text; it stops where its two best letters are within
    .05, or after eight. logits, probability [vocab] at the position; attention [layer, head, key]; direct
    [layer, head, vocab]: direct effect of each head on each logit, mean over vocab 0.
    """

    written: str
    logits: Tensor
    probability: Tensor
    attention: Tensor
    direct: Tensor


@functools.lru_cache(maxsize=8)
def _means(state: tuple[tuple[str, Any], ...]) -> Values:
    return mean_values(build(dict(state)), RepeatTask().every())


def edits_of(heads: Sequence[str], other: str) -> list[dict[str, Any]]:
    """What is done to the heads, in the page's terms."""
    run_on = {"run": RepeatTask().encode(other).tolist()} if "patch" in heads else None
    values = {"zero": 0, "mean": "mean", "patch": run_on}
    return [
        {"node": node.name, "value": values[mode]}
        for node, mode in zip(HEADS.values(), heads, strict=True)
        if mode != "on"
    ]


@torch.no_grad()
def look(
    text: str = STATE["text"],
    *,
    position: int | None = None,
    heads: Mapping[str, str] | None = None,
    other: str = STATE["other"],
    cells: Mapping[str, float] | None = None,
    **strengths: int,
) -> Look:
    """The explorer's numbers, by torch.

    position: default the last letter of the text; beyond what is written, the last one. heads: what
    is done to some of `handmade.HEADS`, "zero", "mean" (over all 360 sequences) or "patch" (from the run
    on `other` and its repetition). strengths: seek, copy, suppress, backup. cells: single weights.
    Raises ValueError for a state that the explorer would not take either.
    """
    if unknown := sorted((heads or {}).keys() - HEADS.keys()):
        raise ValueError(f"there is no head {unknown[0]!r}; there are {', '.join(HEADS)}")
    if unknown := sorted(strengths.keys() - STRENGTHS.keys()):
        raise ValueError(f"there is no strength {unknown[0]!r}; there are {', '.join(STRENGTHS)}")
    state = check(
        STATE | strengths | {
            "text": text, "other": other, "heads": [(heads or {}).get(role, "on") for role in HEADS],
            "position": len(handmade.read(text)) - 1 if position is None else position,
            "cells": [f"{name}={value:g}" for name, value in (cells or {}).items()],
        }
    )  # fmt: skip
    model = build(state)
    tokens = handmade.read(state["text"])
    weights = (
        (name, tuple(state[name]) if name == "cells" else state[name]) for name in (*STRENGTHS, "cells")
    )
    means = _means(tuple(weights)) if "mean" in state["heads"] else None
    edit = export.to_run(model, edits_of(state["heads"], state["other"]), means=means)
    given = len(tokens)
    while len(tokens) < N_CTX:
        best = run(model, tokens[None], edit=edit).logits[0, -1, : len(LETTERS)].topk(2)
        if best.values[0] - best.values[1] <= UNDECIDED:
            break
        tokens = torch.cat([tokens, best.indices[:1]])
    found = run(model, tokens[None], record=("blocks.*.attn.pattern", "blocks.*.attn.z"), edit=edit)
    row = min(state["position"], len(tokens) - 1)
    layers = range(model.config.n_layers)
    wrote = [head_outputs(model, found[f"blocks.{i}.attn.z"], i)[0, row] for i in layers]
    direct = torch.stack(wrote) @ model.unembed.W_U
    return Look(
        "".join(LETTERS[t] for t in tokens[given:].tolist()),
        found.logits[0, row],
        found.logits[0, row].softmax(-1),
        torch.stack([found[f"blocks.{i}.attn.pattern"][0, :, row, : row + 1] for i in layers]),
        direct,
    )


def check(state: Mapping[str, Any]) -> dict[str, Any]:
    """A whole and possible state: as `checkToolbox` in the page. Raises ValueError with one sentence."""
    out = dict(state)
    out["text"] = "".join(LETTERS[t] for t in handmade.read(state["text"])[1:].tolist())
    out["other"] = "".join(LETTERS[t] for t in RepeatTask().encode(state["other"])[1:5].tolist())
    modes = list(state["heads"])
    if wrong := [mode for mode in modes if mode not in MODES]:
        raise ValueError(f"a head is {', '.join(MODES)}, not {wrong[0]!r}")
    out["heads"] = [*modes, *["on"] * len(HEADS)][: len(HEADS)]
    if state["table"] not in TABLES:
        raise ValueError(f"there is no table {state['table']!r}; there are {', '.join(TABLES)}")
    table = TABLES[state["table"]]
    ranges = {name: (0, most) for name, (_, most) in STRENGTHS.items()} | {"position": (0, N_CTX - 1)}
    for field, (low, high) in ranges.items():
        if not isinstance(state[field], int) or not low <= state[field] <= high:
            raise ValueError(f"{field} must be a whole number from {low} to {high}, not {state[field]!r}")
    for field, size in (("row", len(table.rows)), ("column", len(table.columns))):
        if not isinstance(state[field], int) or state[field] < 0:
            raise ValueError(f"{field} must be a whole number from 0 on, not {state[field]!r}")
        out[field] = min(state[field], size - 1)
    start = build({**state, "cells": []})
    cells = parse_cells(state["cells"])
    for name in list(cells):
        mine, row, column = parse_cell(name)
        if abs(cells[name] - float(mine.values(start)[row, column])) < 1e-6:
            del cells[name]  # what the strengths give anyway is no change
    out["cells"] = [f"{name}={value:g}" for name, value in cells.items()]
    return out


TEXTS = {
    "previous": "looks one back, notes that letter",
    "first": "notes whether the first letter is early; writes a constant",
    "match": "finds where this letter stood before, copies what followed",
    "lookalike": "looks where the match head looks, writes nothing",
    "backup": "copies if nobody has",
    "suppressor": "writes against what is predicted",
}
READS = {"previous": ("this position", "position looked at"), "first": ("this position", "position looked at"),
         "suppressor": ("letter predicted", "letter looked at")}  # fmt: skip
WRITES = {"previous": "noted as previous", "first": "written"}


def _spec(title: str, try_this: str) -> dict[str, Any]:
    tables = []
    model = build(STATE)
    roles = {node: role for role, node in HEADS.items()}
    for key, (strength, pattern) in handmade.patterns().items():
        table = TABLES[key]
        role, head, (i, j) = roles[table.node], table.node.head or 0, table.corner
        name = f"blocks.{table.node.layer}.attn." + ("W_Q" if table.kind == "qk" else "W_O")
        _, high, wide = model.state_dict()[name].shape
        if table.kind == "qk":
            down, across = READS.get(role, ("this letter", "letter before the place looked at"))
        else:
            down, across = "letter looked at", WRITES.get(role, "letter written")
        tables.append(
            {
                "key": key, "tensor": name, "offset": (head * high + i) * wide + j, "stride": wide,
                "rows": list(table.rows), "columns": list(table.columns), "scale": table.scale,
                "strength": strength if strength in STRENGTHS else "", "down": down, "across": across,
                "pattern": [int(x) for x in pattern.flatten().tolist()],
            }
        )  # fmt: skip
    return {
        "letters": list(LETTERS),
        "context": N_CTX,
        "undecided": UNDECIDED,
        "largest": LARGEST,
        "heads": [{"node": n.name, "name": role, "text": TEXTS[role]} for role, n in HEADS.items()],
        "strengths": [{"name": name, "most": most} for name, (_, most) in STRENGTHS.items()],
        "tables": tables,
        "weights": {"inline": {KEY: base64.b64encode(model_file(KEY)).decode()}},
        "title": title,
        "tryThis": try_this,
    }


def _still(state: Mapping[str, Any]) -> Any:
    from mi_lab.toolbox.figures import attention

    model = build(state)
    tokens = handmade.read(state["text"])
    heads = list(HEADS.values())
    return attention(
        model, tokens, heads, "Where each head looks. The live figure comes when the page is loaded."
    )


def explorer(**options: Any) -> Any:
    """The live explorer of the hand-made model. options: as `describe`.

    In a notebook the result is a widget: every field is a trait that can be observed, set and linked;
    `look()` gives its numbers by torch. In the book it is HTML.
    """
    return live_explorer(describe(**options))


def _look_at(state: Mapping[str, Any]) -> Look:
    modes = {role: mode for role, mode in zip(HEADS, state["heads"]) if mode != "on"}
    return look(
        state["text"], position=state["position"], heads=modes, other=state["other"],
        cells=parse_cells(state["cells"]), **{name: state[name] for name in STRENGTHS},
    )  # fmt: skip


def describe(
    *,
    name: str = "mi-toolbox",
    title: str = "The hand-made model, live",
    try_this: str = "switch the match head to zero, then to mean. Why does only one of them do harm?",
    **state: Any,
) -> Live:
    """What the explorer needs.

    name: its name in links; give each explorer of one page its own. try_this: what to do first.
    state: fields to begin with, e.g. `backup=0, table="L1H1.ov"`. Raises ValueError.
    """
    if unknown := sorted(state.keys() - STATE.keys()):
        raise ValueError(f"there is no field {unknown[0]!r}; there are {', '.join(STATE)}")
    return Live(
        kind="toolbox",
        name=name,
        spec=_spec(title, try_this),
        state=check({**STATE, **state}),
        check=check,
        model_file=model_file,
        look=_look_at,
        still=_still,
    )
