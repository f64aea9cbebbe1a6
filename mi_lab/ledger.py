"""The ledger as a reader sees it: one row a claim, verdict, number, controls, and how to get it again.

`table(verdicts)` is HTML for the book and for Jupyter; colours and badges come from the book's style
sheet and degrade to plain text without it.
"""

from __future__ import annotations

import html
import math
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mi_lab import zoo
from mi_lab.claims import Verdict, read_ledger

STUDIES = Path(__file__).parent / "studies"


def recorded(study: str) -> list[Verdict]:
    """The published verdicts of a study. Raises ValueError where there are none."""
    path = STUDIES / study / "ledger.json"
    if not path.exists():
        there = sorted(p.parent.name for p in STUDIES.glob("*/ledger.json"))
        raise ValueError(f"study {study!r} has no published ledger; these have: {', '.join(there)}")
    return next(iter(read_ledger(path).values()))


class Table:
    """Verdicts as an HTML table; each row opens to statement, acceptance, numbers per unit and controls."""

    def __init__(self, verdicts: Iterable[Verdict], caption: str = "") -> None:
        self.verdicts, self.caption = tuple(verdicts), caption

    def __repr__(self) -> str:
        lines = [f"{v.id:5} {v.outcome:15} {v.passed}/{v.units} {v.title}" for v in self.verdicts]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        rows = "".join(_row(v) for v in self.verdicts)
        caption = f"<figcaption>{html.escape(self.caption)}</figcaption>" if self.caption else ""
        return f'<figure class="mi-ledger mi-live">{rows}{caption}</figure>'


def table(verdicts: Iterable[Verdict], only: Iterable[str] = (), caption: str = "") -> Table:
    """A `Table`, of the claims named in `only` if given. ValueError for an id that is not among them."""
    by_id, only = {v.id: v for v in verdicts}, tuple(only)
    if unknown := [i for i in only if i not in by_id]:
        raise ValueError(f"there is no verdict on {', '.join(unknown)}; there are: {', '.join(by_id)}")
    return Table([by_id[i] for i in only] or by_id.values(), caption)


def number(x: float | None) -> str:
    """Three significant digits, plain.

    >>> number(0.98765), number(12345.6), number(float("nan"))
    ('0.988', '12346', 'not defined')
    """
    if x is None or math.isnan(x):
        return "not defined"
    if math.isinf(x):
        return "infinite" if x > 0 else "-infinite"
    return f"{x:.0f}" if abs(x) >= 999.5 else f"{x:.3g}"


def prose(text: str) -> str:
    """Words of a verdict as HTML: what stands between backticks is code.

    >>> prose("weights of `fit` < 1")
    'weights of <code>fit</code> &lt; 1'
    """
    return re.sub("`([^`]+)`", r"<code>\1</code>", html.escape(text))


def _quorum(v: Verdict) -> str:
    if v.units < 2:
        return ""
    enough = math.ceil(v.quorum * v.units - 1e-9)
    how_many = f"all {v.units}" if enough == v.units else f"at least {enough} of {v.units}"
    return f"{how_many} pass; seed-dependent if fewer do, but a larger share than of any control"


def _control(c: dict[str, Any], v: Verdict) -> str:
    how = f"passes {c['passed']} of {c['units']}"
    if not c["fails"]:
        how += ": <strong>the test is broken</strong>"
    elif c["passed"] and c["passed"] * v.units >= v.passed * c["units"]:
        how += ", as often as the claim, which is therefore not reproduced"
    elif c["passed"]:
        how += ", too few to count"
    else:
        how += ", as it must"
    return f"<li>{prose(c['name'])}: {number(c['value'][0])}, {how}</li>"


def _value(v: Verdict) -> str:
    if v.value is None:
        return ""
    mean, low, high = v.value
    return f"{html.escape(v.headline)} {number(mean)} [{number(low)}, {number(high)}]"


def _row(v: Verdict) -> str:
    e = html.escape
    css = v.outcome.replace(" ", "-")
    units = f"{v.passed} of {v.units}" if v.units else ""
    control = ""
    if v.controls:
        held = sum(c["fails"] for c in v.controls)
        what = "control fails as it must" if len(v.controls) == 1 else "controls fail as they must"
        control = f"{held} of {len(v.controls)} {what}"
    unsound = "" if v.sound else ' <strong class="mi-unsound">unsound: a control passes</strong>'
    head = (
        f'<summary><span class="mi-ledger-id">{e(v.id)}</span> <span class="mi-ledger-title">{e(v.title)}</span> '
        f'<span class="mi-verdict {css}">{e(v.outcome)}</span>{unsound} '
        f'<span class="mi-ledger-number">{_value(v)}{" · " if units else ""}{units}</span></summary>'
    )
    parts = [
        ("Claim", prose(v.statement)),
        ("Source", prose(v.source)),
        ("Reported", prose(v.reported)),
        ("Accepted if", prose(v.accept)),
        ("Reproduced if", _quorum(v)),
        ("Measured on", prose(v.sample)),
        ("Limits", prose(v.limits)),
    ]
    items = "".join(f"<dt>{name}</dt><dd>{text}</dd>" for name, text in parts if text)
    return (
        f'<details class="mi-ledger-row">{head}<dl>{items}</dl>{_units(v)}{_controls(v, control)}</details>'
    )


def _units(v: Verdict) -> str:
    if not v.values:
        return ""
    e = html.escape
    names = list(v.values)
    head = "".join(f'<th scope="col">{e(n)}</th>' for n in names)
    rows = "".join(
        f'<tr><th scope="row">{e(unit)}</th>'
        + "".join(f"<td>{number(v.values[n][i])}</td>" for n in names)
        + "</tr>"
        for i, unit in enumerate(v.unit_names)
    )
    label = f"numbers of {e(v.id)}"
    table = f"<table><tr><th></th>{head}</tr>{rows}</table>"
    return f'<div class="mi-ledger-scroll" tabindex="0" role="region" aria-label="{label}">{table}</div>'


def _missing(sha256: str) -> str:
    left_out = {about["sha256"] for about in zoo.not_shipped().values()}
    return " (not shipped)" if sha256 in left_out else ""


def _controls(v: Verdict, summary: str) -> str:
    if not v.controls:
        return ""
    e = html.escape
    items = "".join(_control(c, v) for c in v.controls)
    sources = ", ".join(f"{e(n)} {e(h[:12])}{_missing(h)}" for n, h in v.sources.items())
    hashes = f"<p>Checkpoints (SHA-256): {sources}</p>" if sources else ""
    return f"<p>{summary}:</p><ul>{items}</ul>{hashes}"
