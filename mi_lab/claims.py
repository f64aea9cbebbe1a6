"""Claims: what a paper says, made into a measurement that can come out either way.

A `Claim` has a measure, an acceptance written down before the measurement, and controls: cases
where the same measurement must *fail* the same acceptance (an untrained twin, shuffled labels, a
swapped head). `verify` runs all of them and gives one of four verdicts:

- reproduced: the share of units (seeds) that pass reaches the quorum;
- seed-dependent: some pass, but fewer than the quorum, and a larger share than of any control;
- not reproduced: none passes, or no larger share than of a control;
- not testable: nothing here can decide it, and the claim says why.

A control that passes is a broken test: the verdict is then marked unsound, whatever its value.
A ledger is the list of verdicts with everything needed to get the same numbers again.
"""

from __future__ import annotations

import datetime as dt
import json
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from mi_lab.checkpoint import versions, write_atomically
from mi_lab.metrics import Interval, bootstrap

Outcome = Literal["reproduced", "seed-dependent", "not reproduced", "not testable"]


@dataclass(frozen=True)
class Measurement:
    """Numbers per unit.

    units: what was measured, e.g. ("seed 0", "seed 1"). values: name -> one number per unit.
    headline: the name whose mean is shown. sample: how much data each number rests on.
    sources: checkpoint name -> SHA-256. details: anything else worth keeping, plain JSON.
    """

    units: tuple[str, ...]
    values: Mapping[str, tuple[float, ...]]
    headline: str
    sample: str = ""
    interval: Interval | None = None
    sources: Mapping[str, str] = field(default_factory=dict)
    details: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.headline not in self.values:
            raise ValueError(f"headline {self.headline!r} is none of {sorted(self.values)}")
        for name, numbers in self.values.items():
            if len(numbers) != len(self.units):
                raise ValueError(f"{name} has {len(numbers)} numbers for {len(self.units)} units")

    def row(self, unit: int) -> dict[str, float]:
        """All numbers of one unit."""
        return {name: numbers[unit] for name, numbers in self.values.items()}

    def summary(self) -> Interval:
        """Mean of the headline over units with its interval (given, or bootstrapped over units).

        A unit where it is NaN, since what it measures isn't there, is left out.
        """
        found = [x for x in self.values[self.headline] if not math.isnan(x)]
        return self.interval or (bootstrap(found) if found else Interval(math.nan, math.nan, math.nan))


@dataclass(frozen=True)
class Accept:
    """What would count. text: in words; test: on one unit's numbers; quorum: share of units to pass."""

    text: str
    test: Callable[[dict[str, float]], bool]
    quorum: float = 0.75

    def passes(self, measurement: Measurement) -> int:
        """How many units pass."""
        return sum(bool(self.test(measurement.row(i))) for i in range(len(measurement.units)))


Measure = Callable[[bool], Measurement]
"""measure(fast) -> Measurement; fast means fewer seeds or examples, for a quick look."""


@dataclass(frozen=True)
class Control:
    """A case that must fail the claim's acceptance."""

    name: str
    measure: Measure


@dataclass(frozen=True)
class Claim:
    """One claim of a paper.

    source: where in the paper or the material around it, with how sure we are that it says so.
    reported: the paper's number, or "unknown". limits: what the measurement doesn't show.
    measure None: not testable here, and `limits` says why.
    """

    id: str
    title: str
    source: str
    statement: str
    reported: str
    accept: Accept
    measure: Measure | None
    controls: tuple[Control, ...] = ()
    limits: str = ""

    def __post_init__(self) -> None:
        if self.measure is not None and not self.controls:
            raise ValueError(f"claim {self.id} has no control; a test that can't fail is none")
        if self.measure is None and not self.limits:
            raise ValueError(f"claim {self.id} is not testable; `limits` must say why")


@dataclass(frozen=True)
class Verdict:
    """What `verify` found. sound: no control is reproduced. quorum: share of units that must pass."""

    id: str
    title: str
    statement: str
    source: str
    reported: str
    accept: str
    outcome: Outcome
    sound: bool
    value: tuple[float, float, float] | None
    headline: str
    passed: int
    units: int
    sample: str
    values: dict[str, list[float]]
    unit_names: list[str]
    controls: list[dict[str, Any]]
    sources: dict[str, str]
    details: dict[str, Any]
    limits: str
    seconds: float
    quorum: float

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON; numbers that are none (NaN, infinities) are null."""
        return {name: _plain(value) for name, value in vars(self).items()}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Verdict:
        """The way back from `to_dict`; a ledger written before rows had a quorum has `Accept`'s."""
        value = data["value"]
        values = {name: _numbers(row) for name, row in data["values"].items()}
        whole = {"quorum": Accept.quorum, **data}
        return cls(**{**whole, "values": values, "value": tuple(_numbers(value)) if value else None})


def verify(claim: Claim, *, fast: bool = False) -> Verdict:
    """Measure a claim and its controls. Deterministic: every measure seeds its own generators."""
    begun = time.perf_counter()
    common = {
        "id": claim.id,
        "title": claim.title,
        "statement": claim.statement,
        "source": claim.source,
        "reported": claim.reported,
        "accept": claim.accept.text,
        "limits": claim.limits,
        "quorum": claim.accept.quorum,
    }
    if claim.measure is None:
        return Verdict(
            **common, outcome="not testable", sound=True, value=None, headline="", passed=0, units=0,
            sample="", values={}, unit_names=[], controls=[], sources={}, details={}, seconds=0.0,
        )  # fmt: skip
    found = claim.measure(fast)
    passed, units = claim.accept.passes(found), len(found.units)
    controls = []
    for control in claim.controls:
        result = control.measure(fast)
        n = claim.accept.passes(result)
        controls.append(
            {
                "name": control.name,
                "value": _rounded(result.summary()),
                "passed": n,
                "units": len(result.units),
                "fails": outcome(n, len(result.units), claim.accept.quorum) != "reproduced",
                "values": {k: _rounded(v) for k, v in result.values.items()},
            }
        )
    shares = [c["passed"] / c["units"] for c in controls]
    return Verdict(
        **common,
        outcome=outcome(passed, units, claim.accept.quorum, control=max(shares, default=0.0)),
        sound=all(c["fails"] for c in controls),
        value=tuple(_rounded(found.summary())),  # type: ignore[arg-type]
        headline=found.headline,
        passed=passed,
        units=units,
        sample=found.sample,
        values={k: _rounded(v) for k, v in found.values.items()},
        unit_names=list(found.units),
        controls=controls,
        sources=dict(found.sources),
        details=dict(found.details),
        seconds=round(time.perf_counter() - begun, 2),
    )


def outcome(passed: int, units: int, quorum: float, *, control: float = 0.0) -> Outcome:
    """The verdict that follows from how many units pass.

    control: the largest share of a control's units that pass. Where it is no smaller than the claim's, the claim is
    not reproduced: what some seeds do, the control does as often.

    >>> outcome(6, 8, 0.75), outcome(3, 8, 0.75), outcome(0, 8, 0.75), outcome(1, 3, 0.75, control=1 / 3)
    ('reproduced', 'seed-dependent', 'not reproduced', 'not reproduced')
    """
    if passed >= quorum * units - 1e-9:
        return "reproduced"
    return "seed-dependent" if passed / units > control + 1e-9 else "not reproduced"


def write_ledger(path: Path | str, verdicts: Mapping[str, Sequence[Verdict]], *, command: str) -> None:
    """Verdicts of one or more studies as JSON, with the command and versions that made them."""
    ledger = {
        "format": "mi_lab ledger/1",
        "command": command,
        "date": dt.datetime.now(dt.UTC).strftime("%Y-%m-%d"),
        "versions": versions(),
        "studies": {study: [v.to_dict() for v in found] for study, found in verdicts.items()},
    }
    write_atomically(Path(path), (json.dumps(ledger, indent=1, allow_nan=False) + "\n").encode())


def read_ledger(path: Path | str) -> dict[str, list[Verdict]]:
    """The verdicts of a ledger file, by study."""
    ledger = json.loads(Path(path).read_text())
    return {study: [Verdict.from_dict(v) for v in found] for study, found in ledger["studies"].items()}


def _rounded(numbers: Iterable[float]) -> list[float]:
    return [float(f"{x:.6g}") for x in numbers]


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {k: _plain(v) for k, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, list | tuple) else value


def _numbers(row: Iterable[float | None]) -> list[float]:
    return [math.nan if x is None else x for x in row]
