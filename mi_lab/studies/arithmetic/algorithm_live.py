"""The algorithms, live: an explorer without a model, and the same steps in Python.

study.live.algorithm()                                   # in a notebook a widget, in the book a figure
study.live.step("1999+8001", algorithm="look_back_2")

The page runs programs of its own (`mi_lab/live/js/explorers/algorithm_steps.js`), tested against
`algorithms` and `stepping` on many questions.
"""

from __future__ import annotations

import html
from collections.abc import Mapping
from typing import Any, NamedTuple

from mi_lab.live.live_explorer import Live, live_explorer
from mi_lab.studies.arithmetic import classes
from mi_lab.studies.arithmetic.algorithms import ALGORITHMS
from mi_lab.studies.arithmetic.rates import error_rate
from mi_lab.studies.arithmetic.stepping import steps
from mi_lab.studies.arithmetic.task import ArithmeticTask
from mi_lab.studies.arithmetic.trace import TraceStep

MOST = 15  # digits of the paper's longest numbers
TEXTS = {
    "st_sv": "ST, TriAdd, SV (the paper's)",
    "look_back_2": "look-back 2 (one layer)",
    "three_heads": "three heads of one layer",
    "sc_only": "next column only (SC)",
    "boolean_expansion": "boolean expansion",
    "t_cascade": "T cascade",
    "ripple": "ripple, as at school",
    "two_pass": "two passes, negated",
    "misprinted_nd": "ND as misprinted",
}
STATE: dict[str, Any] = {"question": "1999+8001", "digits": 4, "algorithm": "st_sv", "position": 7}


class Stepped(NamedTuple):
    """One question, one algorithm.

    answer, right: sign and digits; first_error: index of the first wrong token (0 is the sign), -1 if
    all are right; kind: the question's class, such as "S3"; error_rate: share of the uniform questions
    of this size and operation that the algorithm answers wrongly, exact; steps: see `trace.TraceStep`.
    """

    answer: str
    right: str
    first_error: int
    kind: str
    error_rate: float
    steps: tuple[TraceStep, ...]


def step(question: str = "1999+8001", *, algorithm: str = "st_sv", digits: int | None = None) -> Stepped:
    """The explorer's content in Python. digits: default those of the longer number.

    Raises ValueError for what is no question, more than 15 digits, an unknown algorithm and an
    operator that it can't do.
    """
    state = check({**STATE, "question": question, "digits": digits or 1, "algorithm": algorithm})
    text, name = state["question"] + "=", state["algorithm"]
    minus = "-" in text
    task = ArithmeticTask(state["digits"], "-" if minus else "+")
    tokens = task.encode(text)
    found = steps(task, text, name)
    answer = "".join(one.writes[1] for one in found if one.writes)
    right = task.decode(tokens[2 * task.digits + 2 :])
    wrong = [i for i, (a, b) in enumerate(zip(answer, right)) if a != b]
    values = {k: int(v[0]) for k, v in task.variables(tokens[None]).items() if k in ("S", "M", "N")}
    kind = next(f"{k}{v}" for k, v in values.items() if v >= 0)
    rate = float(error_rate(name, task.digits, "-" if minus else "+"))
    return Stepped(answer, right, wrong[0] if wrong else -1, kind, rate, found)


def check(state: Mapping[str, Any]) -> dict[str, Any]:
    """A whole and possible state: as `checkAlgorithm` in the page. Raises ValueError with one sentence."""
    name = state["algorithm"]
    if name not in ALGORITHMS:
        raise ValueError(f"there is no algorithm {name!r}; there are {', '.join(ALGORITHMS)}")
    question = str(state["question"]).partition("=")[0]
    task = ArithmeticTask(MOST, "+-")
    typed = task.decode(task.encode(question + "="))[: 2 * MOST + 1]
    operator = typed[MOST]
    if operator not in ALGORITHMS[name].operations:
        raise ValueError(
            f"{name!r} has the operations {ALGORITHMS[name].operations!r}, the question is {question!r}"
        )
    for field, low, high in (("digits", 1, MOST), ("position", 0, 3 * MOST + 2)):
        if not isinstance(state[field], int) or not low <= state[field] <= high:
            raise ValueError(f"{field} must be a whole number from {low} to {high}, not {state[field]!r}")
    long = max(len("".join(x.split())) for x in question.replace("\u2212", "-").split(operator))
    digits = max(state["digits"], long)
    cut = [number[MOST - digits :] for number in typed.split(operator)]
    position = min(state["position"], 3 * digits + 2)
    return {"question": operator.join(cut), "digits": digits, "algorithm": name, "position": position}


def _spec(title: str, try_this: str) -> dict[str, Any]:
    sizes = range(1, MOST + 1)
    algorithms = [
        {
            "name": name, "text": text, "description": ALGORITHMS[name].description, "role": ALGORITHMS[name].role,
            "rates": {o: [float(error_rate(name, n, o)) for n in sizes] for o in ALGORITHMS[name].operations},
        }
        for name, text in TEXTS.items()
    ]  # fmt: skip
    shares = {kind: [[float(p) for p in classes.frequencies(n, kind)] for n in sizes] for kind in "SMN"}
    return {
        "algorithms": algorithms,
        "classes": shares,
        "most": MOST,
        "title": title,
        "tryThis": try_this,
    }


class _Still:
    """The steps so far as text, until the page's script is there."""

    def __init__(self, state: Mapping[str, Any]) -> None:
        found = step(state["question"], algorithm=state["algorithm"])
        self.lines = [str(one) for one in found.steps[: state["position"] + 1]]

    def _repr_html_(self) -> str:
        look = 'class="mi-live-steps" style="overflow:auto;max-height:24rem" tabindex="0"'
        return f"<pre {look}>{html.escape(chr(10).join(self.lines))}</pre>"


def algorithm(**options: Any) -> Any:
    """The explorer of the algorithms; options as `describe`.

    In a notebook the result is a widget: every field is a trait that can be observed, set and linked;
    `look()` gives its steps in Python. In the book it is HTML.
    """
    return live_explorer(describe(**options))


def describe(
    *,
    name: str = "mi-algorithm",
    title: str = "Algorithms that add and subtract",
    try_this: str = "step back to P6, choose look-back 2 and step on: which carry does it call settled too early?",
    **state: Any,
) -> Live:
    """What the explorer needs.

    name: its name in links; give each explorer of one page its own. try_this: what to do first.
    state: fields to begin with: question, digits, algorithm, position. Raises ValueError.
    """
    if unknown := sorted(state.keys() - STATE.keys()):
        raise ValueError(f"there is no field {unknown[0]!r}; there are {', '.join(STATE)}")
    first = {**STATE, **({"digits": 1} if "question" in state else {}), **state}

    def no_model(key: str) -> bytes:
        raise ValueError(f"there is no model {key!r} in this explorer: it runs programs")

    return Live(
        kind="algorithm",
        name=name,
        spec=_spec(title, try_this),
        state=check(first),
        check=check,
        model_file=no_model,
        look=lambda at: step(at["question"], algorithm=at["algorithm"], digits=at["digits"]),
        still=_Still,
    )
