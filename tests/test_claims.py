"""The claims framework: verdicts, controls that can't be left out, ledgers that read back."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mi_lab.checkpoint import CheckpointError
from mi_lab.claims import (
    Accept,
    Claim,
    Control,
    Measurement,
    Verdict,
    outcome,
    read_ledger,
    verify,
    write_ledger,
)
from mi_lab.metrics import Interval, bootstrap


def measurement(*scores: float, **more) -> Measurement:
    return Measurement(tuple(f"seed {i}" for i in range(len(scores))), {"score": scores}, "score", **more)


def measuring(*scores: float):
    """A measure with these scores; the first only if `fast`."""
    return lambda fast: measurement(*scores[: 1 if fast else None])


POSITIVE = Accept("score > 0", lambda r: r["score"] > 0)
FAILING = Control("nothing there", measuring(-1.0, -1.0))


def claim(*scores: float, controls=(FAILING,), accept=POSITIVE) -> Claim:
    return Claim("T1", "A test", "nowhere", "It is so.", "unknown", accept, measuring(*scores), controls)


# Verdicts -----------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("passed", "units", "quorum", "expected"),
    [
        (8, 8, 0.75, "reproduced"),
        (6, 8, 0.75, "reproduced"),
        (5, 8, 0.75, "seed-dependent"),
        (1, 8, 0.75, "seed-dependent"),
        (0, 8, 0.75, "not reproduced"),
        (7, 8, 1.0, "seed-dependent"),
        (8, 8, 1.0, "reproduced"),
        (11, 20, 0.55, "reproduced"),  # 0.55 * 20 is a little more than 11 in binary
        (1, 1, 1.0, "reproduced"),
        (0, 1, 1.0, "not reproduced"),
    ],
)
def test_the_verdict_follows_from_the_share_of_units_that_pass(passed, units, quorum, expected):
    assert outcome(passed, units, quorum) == expected


@pytest.mark.parametrize(
    ("scores", "expected", "passed"),
    [
        ((1.0, 2.0, 3.0, 4.0), "reproduced", 4),
        ((1.0, 2.0, 3.0, -4.0), "reproduced", 3),
        ((1.0, 2.0, -3.0, -4.0), "seed-dependent", 2),
        ((-1.0, -2.0, -3.0, -4.0), "not reproduced", 0),
        ((float("nan"),) * 4, "not reproduced", 0),
    ],
)
def test_verify_counts_units_by_the_acceptance(scores, expected, passed):
    found = verify(claim(*scores))
    assert (found.outcome, found.passed, found.units, found.sound) == (expected, passed, 4, True)
    assert found.values == {"score": pytest.approx(scores, nan_ok=True)}
    assert found.unit_names == ["seed 0", "seed 1", "seed 2", "seed 3"]


def test_the_value_of_a_verdict_is_the_bootstrapped_mean_of_the_headline():
    found = verify(claim(1.0, 2.0, 6.0))
    assert found.value == pytest.approx(bootstrap([1.0, 2.0, 6.0]), rel=1e-5)
    given = Claim(**{**vars(claim(1.0)), "measure": lambda _: measurement(1.0, interval=Interval(1, 0.5, 2))})
    assert verify(given).value == (1.0, 0.5, 2.0)


def test_a_control_that_passes_makes_the_verdict_unsound_whatever_it_is():
    passing = Control("passes too", measuring(1.0, 1.0))
    for scores in ((1.0, 1.0), (-1.0, -1.0)):
        found = verify(claim(*scores, controls=(FAILING, passing)))
        assert not found.sound
        assert [c["fails"] for c in found.controls] == [True, False]


def test_a_control_passes_by_the_same_quorum_as_the_claim():
    def with_passing(k: int) -> bool:
        scores = [1.0] * k + [-1.0] * (4 - k)
        return verify(claim(1.0, controls=(Control("partly", measuring(*scores)),))).sound

    assert [with_passing(k) for k in range(5)] == [True, True, True, False, False]  # quorum: 3 of 4


def test_a_claim_that_passes_no_more_often_than_its_control_is_not_reproduced():
    def beside(*scores: float) -> str:
        return verify(
            claim(1.0, -1.0, -1.0, controls=(FAILING, Control("partly", measuring(*scores))))
        ).outcome

    assert beside(-1.0, -1.0, -1.0) == "seed-dependent"
    assert beside(1.0, -1.0, -1.0, -1.0) == "seed-dependent"  # 1 of 4, the claim 1 of 3
    assert beside(1.0, -1.0, -1.0) == "not reproduced"
    assert beside(1.0, 1.0, -1.0) == "not reproduced"


def test_whether_a_control_fails_is_the_other_side_of_whether_a_claim_is_reproduced():
    # 0.55 * 20 > 11 in binary: 11 of 20 are "reproduced", so a control with as many must not count as failing
    accept = Accept("score > 0", lambda r: r["score"] > 0, quorum=0.55)
    scores = [1.0] * 11 + [-1.0] * 9
    found = verify(claim(*scores, controls=(Control("same", measuring(*scores)),), accept=accept))
    assert found.outcome == "reproduced"
    assert not found.sound


def test_a_ledger_from_before_there_was_a_quorum_can_be_read():
    row = verify(claim(1.0, 2.0)).to_dict()
    del row["quorum"]
    assert Verdict.from_dict(row).quorum == 0.75


def test_a_claim_that_cannot_be_tested_says_so_and_why():
    found = verify(Claim("T2", "t", "s", "s", "r", POSITIVE, None, limits="no weights here"))
    assert (found.outcome, found.sound, found.value, found.units) == ("not testable", True, None, 0)
    assert found.limits == "no weights here"


# What is refused ----------------------------------------------------------------------------------
def test_a_claim_without_a_control_is_refused():
    with pytest.raises(ValueError, match=r"claim T1 has no control; a test that can't fail is none"):
        claim(1.0, controls=())


def test_an_untestable_claim_without_a_reason_is_refused():
    with pytest.raises(ValueError, match=r"claim T2 is not testable; `limits` must say why"):
        Claim("T2", "t", "s", "s", "r", POSITIVE, None)


def test_a_measurement_whose_headline_is_not_among_its_values_is_refused():
    with pytest.raises(ValueError, match=r"headline 'loss' is none of \['accuracy'\]"):
        Measurement(("a",), {"accuracy": (1.0,)}, "loss")


def test_a_measurement_with_too_few_numbers_is_refused():
    with pytest.raises(ValueError, match="score has 1 numbers for 2 units"):
        Measurement(("a", "b"), {"score": (1.0,)}, "score")


# Running and keeping -------------------------------------------------------------------------------
def test_fast_reaches_the_measure_and_its_controls():
    found = verify(claim(1.0, 2.0), fast=True)
    assert found.units == 1
    assert found.controls[0]["units"] == 1


def test_verifying_twice_gives_the_same_verdict():
    def noisy(fast: bool) -> Measurement:
        generator = torch.Generator().manual_seed(0)
        return measurement(*torch.randn(8, generator=generator).tolist())

    one = Claim("T", "t", "s", "s", "r", POSITIVE, noisy, (FAILING,))
    assert replace(verify(one), seconds=0) == replace(verify(one), seconds=0)


def test_a_verdict_survives_json():
    sources = {"sorting/paper": "ab12"}
    details = {"curve": [[0, 1.5]]}
    measure = lambda _: measurement(0.1 + 0.2, 2.0, sample="2 lists", sources=sources, details=details)  # noqa: E731
    found = verify(Claim(**{**vars(claim(1.0)), "measure": measure}))
    assert Verdict.from_dict(json.loads(json.dumps(found.to_dict()))) == found
    assert (found.sources, found.details, found.sample) == (sources, details, "2 lists")


def test_a_ledger_reads_back_and_says_what_made_it(tmp_path: Path):
    untestable = Claim("T2", "t", "s", "s", "r", POSITIVE, None, limits="why")
    verdicts = {"sorting": [verify(one) for one in (claim(1.0, -2.0), untestable)]}
    path = tmp_path / "deep" / "ledger.json"
    write_ledger(path, verdicts, command="mi-lab claims sorting")
    assert read_ledger(path) == verdicts
    raw = json.loads(path.read_text())
    assert raw["format"] == "mi_lab ledger/1"
    assert raw["command"] == "mi-lab claims sorting"
    assert raw["versions"]["torch"] == torch.__version__
    assert len(raw["date"]) == 10


def test_numbers_are_rounded_to_six_digits_so_that_a_ledger_can_be_compared():
    assert verify(claim(1 / 3)).values == {"score": [0.333333]}


def test_a_ledger_that_cannot_be_written_keeps_the_old_one(tmp_path: Path):
    blocked = tmp_path / "file"
    blocked.write_text("old")
    with pytest.raises(CheckpointError, match="could not be written"):
        write_ledger(blocked / "ledger.json", {}, command="")
    assert blocked.read_text() == "old"


def test_a_unit_without_the_thing_measured_fails_and_is_left_out_of_the_mean():
    found = verify(claim(float("nan"), 1.0, 2.0))
    assert (found.passed, found.units) == (2, 3)
    assert found.value == pytest.approx(bootstrap([1.0, 2.0]), rel=1e-5)


def test_a_ledger_is_strict_json_even_with_numbers_that_are_none(tmp_path: Path):
    # NaN (a head that suppresses nothing) is not JSON: a browser would refuse the whole file
    nothing = Control("nothing", measuring(float("nan")))
    path = tmp_path / "ledger.json"
    write_ledger(path, {"sorting": [verify(claim(float("nan"), 1.0, controls=(nothing,)))]}, command="")

    def refuse(constant: str):
        raise AssertionError(f"{constant} is not JSON")

    raw = json.loads(path.read_text(), parse_constant=refuse)["studies"]["sorting"][0]
    assert raw["values"] == {"score": [None, 1.0]}
    assert raw["controls"][0]["value"] == [None, None, None]
    assert read_ledger(path)["sorting"][0].values["score"] == pytest.approx([math.nan, 1.0], nan_ok=True)
