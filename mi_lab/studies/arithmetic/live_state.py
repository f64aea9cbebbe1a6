"""The state of the arithmetic explorer: its models, first values, and what is possible."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from mi_lab.model import Transformer
from mi_lab.run import Node, run
from mi_lab.studies.arithmetic import classes, interchanges
from mi_lab.studies.arithmetic.recipes import recipes
from mi_lab.studies.arithmetic.task import ArithmeticTask

TEXTS = {  # the first one that is published is shown first
    "add_d5_l2_h3": "addition, 5 digits",
    "add_d3_l2_h3": "addition, 3 digits",
    "add_d6_l2_h3": "addition, 6 digits",
    "add_d5_l1_h3": "addition, 5 digits, one layer",
    "sub_d3_l2_h3": "subtraction, 3 digits",
    "sub_d6_l2_h3": "subtraction, 6 digits",
    "mix_d3_l2_h3": "both, 3 digits",
    "ins1_mix_d3_l2_h3": "both, 3 digits, started from addition",
    "mix_d6_l3_h4": "both, 6 digits, three layers",
    "ins1_mix_d6_l3_h4": "both, 6 digits, started from addition",
}
# Long cascades, whose ends are cut off for shorter numbers; the second question has none of them.
PAIRS = {"+": ("245678+354322", "312345+154321"), "-": ("645678-145679", "312345-154321")}
MODES = ("zero", "mean", "other")
FACTS = ("fail", "impact", "classes", "question")  # and the names of the classes
MOVED = ("base", "tri", "sure", "passes", "carry")


def task_of(name: str) -> ArithmeticTask:
    """What a model was trained on."""
    task = recipes[name].task
    assert isinstance(task, ArithmeticTask)
    return task


def labels(task: ArithmeticTask) -> list[str]:
    """A name for each position: D2 D1 D0 OPR D'2 .. = SGN A3 .. A0."""
    n = task.digits
    question = [*(f"D{k}" for k in reversed(range(n))), "OPR", *(f"D'{k}" for k in reversed(range(n)))]
    return [*question, "=", "SGN", *(f"A{k}" for k in range(n, -1, -1))]


def first_state(published: Mapping[str, tuple[int, ...]], model: str | None = None) -> dict[str, Any]:
    """The first values of all fields, for this model or the first one. Raises ValueError without any."""
    if not published:
        raise ValueError(f"none of the explorer's models is published: {', '.join(TEXTS)}")
    name = model if model is not None and model in published else next(iter(published))
    task = task_of(name)
    n, operator = task.digits, task.operations[0]
    pair = [operator.join(x[-n:] for x in text.split(operator)) for text in PAIRS[operator]]
    return {
        "question": pair[0], "other": pair[1], "model": name, "seed": published[name][0],
        "node": f"P{2 * n + 1}L0H0", "edits": [], "mode": "mean", "fact": "fail", "move": "",
    }  # fmt: skip


def checked(state: Mapping[str, Any], published: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """A whole and possible state: as `checkArithmetic` in the page. Raises ValueError with one sentence."""
    name = state["model"]
    if name not in published:
        raise ValueError(f"there is no model {name!r}; there are {', '.join(published)}")
    if state["seed"] not in published[name]:
        raise ValueError(f"seed must be one of {', '.join(map(str, published[name]))}, not {state['seed']!r}")
    task, out = task_of(name), dict(state)
    for field in ("question", "other"):
        text = str(state[field]).partition("=")[0]
        out[field] = task.decode(task.encode(text + "=")).partition("=")[0]
    out["node"] = _node(name, str(state["node"]))
    edits = {}
    for edit in state["edits"]:
        node, _, mode = str(edit).partition(":")
        if mode not in MODES:
            raise ValueError(f"an edit is a node and {', '.join(MODES)}, such as 'P3L0H1:mean', not {edit!r}")
        edits[_node(name, node)] = mode
    out["edits"] = [f"{node}:{mode}" for node, mode in edits.items()]
    if state["mode"] not in MODES:
        raise ValueError(f"mode must be one of {', '.join(MODES)}, not {state['mode']!r}")
    facts = [*FACTS, *(c for c in classes.names(task) if "_" not in c)]
    known = {*FACTS, *(f"{kind}{level}" for kind in "SMN" for level in range(6))}
    if state["fact"] not in known:
        raise ValueError(f"fact must be one of {', '.join(facts)}, not {state['fact']!r}")
    out["fact"] = state["fact"] if state["fact"] in facts else "fail"
    if not re.fullmatch(r"|[A-Z]{2,3}\d+", str(state["move"])):
        raise ValueError(f"move must be empty or a sub-task such as 'ST2', not {state['move']!r}")
    out["move"] = state["move"] if state["move"] in moves(task, out["question"], out["other"]) else ""
    return out


def _node(model: str, text: str) -> str:
    """A node of this model with a position. Raises ValueError."""
    node = Node.parse(text).check(recipes[model].config, task_of(model).n_ctx - 1)
    if node.position is None:
        raise ValueError(f"{text} needs a position, such as P7{text}")
    return node.name


def moves(task: ArithmeticTask, question: str, other: str) -> list[str]:
    """Sub-tasks whose value can be taken from the other question: both must be of one kind."""
    values = task.variables(torch.stack([task.encode(text + "=") for text in (question, other)]))
    one, two = ("N" if s else "M" if o else "S" for s, o in zip(values["SGN"], values["OPR"]))
    families = [interchanges.ENDINGS[what]["SMN".index(one)] for what in MOVED] if one == two else []
    if one != "N" and task.operations == "+-":
        families.append("OPR")
    if "S" not in (one, two):
        families.append("SGN")
    return list(interchanges.names(task, *families)) if families else []


def answers(network: Transformer, task: ArithmeticTask, solved: Tensor, edit: Mapping[str, Any]) -> Tensor:
    """Int[n_ctx]: a question with the answer that the model writes, one token after the other."""
    tokens = solved[None].clone()
    for p in range(task.answer.start, task.answer.stop):
        tokens[0, p + 1] = run(network, tokens, edit=edit).logits[0, p].argmax()
    return tokens[0]
