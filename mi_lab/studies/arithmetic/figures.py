"""Static figures of the arithmetic chapter. Functions take a model and questions, or numbers; Drawings out.

Letters keep their colours: what belongs to the first number, the second, the answer; classes S, M, N.
"""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from mi_lab import charts
from mi_lab.charts import Drawing, Series, colour
from mi_lab.claims import Verdict
from mi_lab.model import Transformer
from mi_lab.run import Node, run
from mi_lab.studies.arithmetic import classes
from mi_lab.studies.arithmetic.carries import ReadBack, Route
from mi_lab.studies.arithmetic.circuit import Explanation, labels
from mi_lab.studies.arithmetic.claims import CLAIMS
from mi_lab.studies.arithmetic.measure import Failures
from mi_lab.studies.arithmetic.ripple import Ripple
from mi_lab.studies.arithmetic.task import ENRICHED, VOCAB, ArithmeticTask
from mi_lab.studies.arithmetic.trace import trace

ROLES: dict[str, int | str] = {"D": 0, "D'": 1, "answer": "positive"}


def token_name(task: ArithmeticTask, position: int) -> str:
    """Such as D2, OPR, D'0, =, SGN, A3."""
    return labels(task)[position]


def token_strip(task: ArithmeticTask, text: str, caption: str = "") -> Drawing:
    """A question with its answer: each token, its name, and what is predicted where it stands."""
    tokens = task.encode(text)
    cells = []
    for position, token in enumerate(tokens.tolist()):
        name = token_name(task, position)
        role = "answer" if position > 2 * task.digits + 1 else name.rstrip("0123456789")
        ink = colour(ROLES.get(role, "neutral"))
        predicts = token_name(task, position + 1) if task.answer.start <= position < task.answer.stop else ""
        below = f"→ {predicts}" if predicts else "&nbsp;"
        cells.append(
            f'<span style="display:inline-grid;justify-items:center;gap:1px;font-size:.8rem">'
            f"<span>{html.escape(name)}</span>"
            f'<span class="mi-tok" style="--c:{ink};--w:.2;font-size:1.05rem" title="position {position}">'
            f"{html.escape(VOCAB[token])}</span><span>{below}</span></span>"
        )
    usual = (
        f"{task.n_ctx} tokens, one a character. Above: the name of the digit, 0 for the units. Below: the token whose "
        "value is written at this place, one position before it stands. Sign and leading digit are always there."
    )
    return Drawing(f'<div class="mi-strip">{"".join(cells)}</div>', caption or usual)


def trace_table(task: ArithmeticTask, text: str, caption: str = "") -> Drawing:
    """The paper's algorithm on one question, a row for each token from the first complete column on."""
    rows = []
    for step in trace(task, text):
        if step.column is None and step.writes is None:
            continue
        states = ", ".join(f"{k} {v}" for k, v in step.states.items()) if step.column is not None else ""
        reading = step.column is not None or step.position == 2 * task.digits + 1
        carries = ", ".join(f"{k} {v}" for k, v in step.carries.items()) if reading else ""
        wrote = "{} = {} ({})".format(*step.writes) if step.writes else ""
        rows.append((f"P{step.position}", step.token, states, carries, wrote))
    usual = (
        "Read downwards, as the model reads. With each digit of the second number one column is complete and gets its "
        "tri-state; every carry that waited for it (U) is settled. At = nothing is open any more."
    )
    return table(("", "token", "tri-states", "carries", "writes"), rows, caption or usual)


def class_table(task: ArithmeticTask, caption: str = "") -> Drawing:
    """Every class of the task: an example, its share of uniform and of training questions."""
    rows = []
    for kind in dict.fromkeys(name.rstrip("0123456789") for name in classes.names(task)):
        uniform = classes.frequencies(task.digits, kind)
        sampled = classes.sampled_frequencies(task, kind)
        for level, (share, trained) in enumerate(zip(uniform, sampled, strict=True)):
            name = f"{kind}{level}"
            if share:
                example = _example(task, name)
                rows.append((name, example, _percent(float(share)), _percent(float(trained))))
    usual = (
        f"Share of {task.digits}-digit questions by class, exactly (from enumeration, not from a sample). "
        f"Training questions: {ENRICHED[task.enrichment]:.0%} of them are enriched with columns that sum to 9."
    )
    return table(("class", "for example", "uniform", "in training"), rows, caption or usual)


def _example(task: ArithmeticTask, name: str) -> str:
    return task.decode(classes.sample(task, name, 1, generator=torch.Generator().manual_seed(5))[0])


def _percent(share: float) -> str:
    return f"{share:.2%}" if share >= 0.001 else f"{share * 1e6:,.0f} in a million"


def failures_table(
    columns: Mapping[str, Mapping[str, Failures | float | None]], caption: str, *, unit: str = "of class"
) -> Drawing:
    """Failures by class. columns: title -> class -> counted Failures, a predicted fraction, or None."""
    names = list(dict.fromkeys(name for column in columns.values() for name in column))
    rows = [(name, *(_failed(column.get(name)) for column in columns.values())) for name in names]
    return table((unit, *columns), rows, caption)


def _failed(value: Failures | float | None) -> str:
    if value is None:
        return "–"
    if isinstance(value, Failures):
        if not value.wrong:
            return f"0 of {value.n:,}"
        return (
            f"{value.wrong / value.n:.2%}"
            if value.wrong / value.n >= 1e-3
            else f"{value.wrong} of {value.n:,}"
        )
    return f"{value:.2%}" if value else "0"


def table(
    heads: Sequence[str], rows: Sequence[Sequence[str]], caption: str, *, note: Sequence[str] = ()
) -> Drawing:
    """Text in rows, scrolling sideways where there is no room."""
    top = "".join(f'<th scope="col">{html.escape(h)}</th>' for h in heads)
    body = "".join(
        f'<tr><th scope="row">{html.escape(row[0])}</th>'
        + "".join(f"<td>{html.escape(cell)}</td>" for cell in row[1:])
        + "</tr>"
        for row in rows
    )
    below = "".join(f'<p style="font-size:.85rem;margin:.2rem 0">{html.escape(line)}</p>' for line in note)
    return Drawing(
        f'<div class="mi-scroll" tabindex="0" role="region" aria-label="table"><table><thead><tr>{top}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>{below}",
        caption,
    )


def attention_map(
    model: Transformer,
    task: ArithmeticTask,
    tokens: Tensor,
    layer: int,
    caption: str,
    *,
    first: int | None = None,
) -> Drawing:
    """Mean attention of each head of a layer, rows the positions that write the answer, columns all tokens.

    tokens Int[n, n_ctx]: solved questions. first: the first row; default "=".
    """
    name = f"blocks.{layer}.attn.pattern"
    pattern = run(model, tokens, record=(name,)).recorded[name].mean(0)
    start = task.answer.start if first is None else first
    rows = [
        f"→{token_name(task, p + 1)}" if p >= task.answer.start else token_name(task, p)
        for p in range(start, task.answer.stop)
    ]
    columns = [token_name(task, p) for p in range(task.answer.stop)]
    panels = [
        charts.panel(
            charts.heat_map(
                _below(pattern[head, start : task.answer.stop, : task.answer.stop].numpy(), start),
                rows, columns, title=f"Head {head} of layer {layer}", numbers=False, look=head, x="attends to",
            ),
            f"Head {head}",
        )
        for head in range(model.config.n_heads)
    ]  # fmt: skip
    return Drawing(charts.row(*panels), caption)


def _below(pattern: np.ndarray, start: int) -> np.ndarray:
    """NaN where a row can't look."""
    rows, columns = np.indices(pattern.shape)
    return np.where(columns <= rows + start, pattern, np.nan)


def digit_curves(
    steps: ArrayLike, loss: ArrayLike, task: ArithmeticTask, caption: str, *, title: str = "loss by digit"
) -> Drawing:
    """Development: loss of every answer token, log scale. loss [step, n + 2], nats."""
    values = np.log10(np.maximum(np.asarray(loss, dtype=float), 1e-8))
    names = [token_name(task, p + 1) for p in range(task.answer.start, task.answer.stop)]
    series = [Series(name, np.asarray(steps), values[:, i], i) for i, name in enumerate(names)]
    drawn = charts.line_chart(
        series,
        x="training step",
        y="loss, powers of ten",
        title=title,
        span=(-8, 1),
        percent=False,
        height=260,
    )
    return Drawing(charts.row(charts.panel(drawn)) + charts.legend(series), caption)


def class_curves(
    steps: ArrayLike, right: Mapping[str, ArrayLike], caption: str, *, title: str = "right answers by class"
) -> Drawing:
    """Development: share of right answers of every class, class -> [step]."""
    series = [
        Series(name, np.asarray(steps), np.asarray(values), i)
        for i, (name, values) in enumerate(right.items())
    ]
    drawn = charts.line_chart(series, x="training step", y="whole answers right", title=title, height=260)
    return Drawing(charts.row(charts.panel(drawn)) + charts.legend(series), caption)


def tag_table(found: Explanation, caption: str) -> Drawing:
    """The best evidence for every sub-task that was found: nodes, match, and the largest of its controls."""
    rows = []
    for name, evidence in found.found().items():
        best = max(evidence, key=lambda e: e.match.rate)
        most = max(best.controls.values(), key=lambda count: count.rate)
        rows.append((name, best.name.replace("+", " + "), f"{best.match.rate:.2f}", f"{most.rate:.2f}"))
    return table(("value", "moved by", "whole answer as predicted", "largest control"), rows, caption)


def ripple_table(
    found: Mapping[int, Ripple], task: ArithmeticTask, caption: str, *, most: int = 3
) -> Drawing:
    """Answers to the authors' pair with early heads patched; found: column -> `ripple.strong_test`.

    Up to `most` groups of a column, those first that come closest to the ripple in a free run.
    """

    def write(answer: Tensor) -> str:
        return "".join(task.vocab[x] for x in answer.tolist())

    rows = []
    for k, row in found.items():
        near = (row.alone == row.expected).sum(-1)
        for i in sorted(range(len(row.groups)), key=lambda i: (-int(near[i]), len(row.groups[i])))[:most]:
            group = " + ".join(node.name for node in row.groups[i])
            rows.append((f"ST{k}", group, write(row.expected), write(row.shown[i]), write(row.alone[i])))
    return table(("value", "patched", "the ripple", "shown the clean answer", "alone"), rows, caption)


def verdict_grid(verdicts: Sequence[Verdict], caption: str) -> Drawing:
    """Which model meets which claim: a row for every unit, a column for every claim; a dash where it was not asked."""
    tests = {claim.id: claim.accept.test for claim in CLAIMS}
    units = list(dict.fromkeys(name for v in verdicts for name in v.unit_names))
    rows = []
    for unit in units:
        cells = []
        for v in verdicts:
            if unit not in v.unit_names:
                cells.append("–")
                continue
            i = v.unit_names.index(unit)
            met = tests[v.id]({name: row[i] for name, row in v.values.items()})
            cells.append("yes" if met else "no")
        rows.append((unit, *cells))
    return table(("model", *(v.id for v in verdicts)), rows, caption)


def read_back_table(rows: Sequence[ReadBack], caption: str) -> Drawing:
    """What a digit does when the one before it was written wrongly, by digit and by columns that sum to 9."""
    runs = sorted({row.run for row in rows})
    lines = []
    for k in sorted({row.k for row in rows}, reverse=True):
        mine = {row.run: row for row in rows if row.k == k}
        cells = [f"{mine[run].passes.rate:.2f}" if run in mine else "" for run in runs]
        lines.append((f"A{k}", *cells, f"{max(row.definite.rate for row in mine.values()):.2f}"))
    return table(("digit", *(f"{run} × 9" for run in runs), "no 9 (control)"), lines, caption)


def rates_map(
    rates: Mapping[Node, Mapping[str, float]],
    caption: str,
    *,
    title: str = "interchange",
    least: float = 0.05,
) -> Drawing:
    """Nodes against effects: node -> {digit or test: rate}; rows that never reach `least` are left out."""
    kept = {node: row for node, row in rates.items() if max(row.values(), default=0) >= least}
    columns = list(dict.fromkeys(name for row in kept.values() for name in row))
    values = [[row.get(name, np.nan) for name in columns] for row in kept.values()]
    drawn = charts.heat_map(values, [node.name for node in kept], columns, title=title, percent=True)
    return Drawing(charts.row(charts.panel(drawn)), caption)


def route_map(routes: Sequence[Route], task: ArithmeticTask, caption: str) -> Drawing:
    """By which copies of column k digit A_j gets its carry: early ones (orange), late ones (purple)."""
    top = max(route.j for route in routes)
    rows, columns = [f"A{j}" for j in range(top, 0, -1)], [f"column {k}" for k in range(top - 1, -1, -1)]
    values = np.full((len(rows), len(columns)), np.nan)
    for route in routes:
        values[top - route.j, top - 1 - route.k] = route.early.rate - route.late.rate
    drawn = charts.heat_map(
        values, rows, columns, title="early minus late", x="the carry begins in", look=1, width=400
    )
    return Drawing(charts.row(charts.panel(drawn)), caption)
