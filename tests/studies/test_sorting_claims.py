"""The sorting ledger: what its claims say, that each can fail, that measuring again gives what is recorded.

To write the ledger again: mi-lab claims sorting --json mi_lab/studies/sorting/ledger.json
"""

from __future__ import annotations

import functools
import json
import re
from pathlib import Path

import pytest
import torch

import mi_lab.studies.sorting
from mi_lab import zoo
from mi_lab.claims import Claim, Verdict, read_ledger, verify
from mi_lab.studies.sorting import claims as CLAIMS

LEDGER = Path(mi_lab.studies.sorting.__file__).parent / "ledger.json"
BY_ID = {claim.id: claim for claim in CLAIMS}
# Seconds each, all seeds: from weights, or from published curves, or with few lists.
CHEAP = ("S2", "S3", "S5", "S5b", "S6", "S6b", "S7", "S7b", "S8", "S9", "S9b", "S11", "S11b", "S11c", "S12")
DEAR = tuple(id for id in BY_ID if id not in CHEAP)

each_claim = pytest.mark.parametrize("claim", CLAIMS, ids=list(BY_ID))


@functools.lru_cache(maxsize=1)
def recorded() -> dict[str, Verdict]:
    assert LEDGER.exists(), f"{LEDGER} is missing: mi-lab claims sorting --json {LEDGER}"
    return {v.id: v for v in read_ledger(LEDGER)["sorting"]}


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


# What a claim says --------------------------------------------------------------------------------
def test_ids_are_the_dossiers_and_each_stands_once():
    ids = [claim.id for claim in CLAIMS]
    assert len(set(ids)) == len(ids)
    assert all(re.fullmatch(r"S\d+[a-z]?", id) for id in ids)
    assert {int(re.findall(r"\d+", id)[0]) for id in ids} == set(range(1, 13)), "S1 to S12, every one"


@each_claim
def test_a_claim_names_its_source_what_was_reported_and_what_would_count(claim: Claim):
    for field in ("title", "source", "statement", "reported"):
        assert getattr(claim, field).strip(), field
    assert claim.accept.text.strip()
    assert claim.statement.endswith("."), "a statement is a sentence"
    assert not claim.title.endswith("."), "a title is none"
    assert len(claim.title) <= 75, "a title fits into a table"
    if claim.limits:
        assert claim.limits.endswith("."), "limits are sentences"
    assert 0.5 < claim.accept.quorum <= 1


@each_claim
def test_a_claim_that_is_measured_has_controls_with_names_of_their_own(claim: Claim):
    if claim.measure is None:
        assert len(claim.limits) > 40
    else:
        names = [c.name for c in claim.controls]
        assert len(set(names)) == len(names) >= 1


# What is recorded ---------------------------------------------------------------------------------
def test_the_ledger_holds_every_claim_as_it_is_written_now():
    assert list(recorded()) == list(BY_ID), (
        "claims were added, removed or moved since: write the ledger again"
    )
    for id, verdict in recorded().items():
        claim = BY_ID[id]
        now = (claim.title, claim.statement, claim.source, claim.reported, claim.accept.text, claim.limits)
        then = (
            verdict.title,
            verdict.statement,
            verdict.source,
            verdict.reported,
            verdict.accept,
            verdict.limits,
        )
        assert then == now, f"{id} was reworded since the ledger was written"


def test_the_ledger_was_measured_in_full_by_the_command_it_names():
    assert json.loads(LEDGER.read_text())["command"] == "mi-lab claims sorting"


def test_every_recorded_control_failed():
    wrong = {id: [c["name"] for c in v.controls if not c["fails"]] for id, v in recorded().items()}
    assert {id: names for id, names in wrong.items() if names} == {}
    assert all(v.sound for v in recorded().values())


def test_every_recorded_verdict_follows_from_its_numbers():
    for id, verdict in recorded().items():
        claim = BY_ID[id]
        if claim.measure is None:
            assert verdict.outcome == "not testable"
            continue
        rows = [dict(zip(verdict.values, row)) for row in zip(*verdict.values.values())]
        assert len(rows) == verdict.units == len(verdict.unit_names)
        assert sum(claim.accept.test(row) for row in rows) == verdict.passed, id
        assert verdict.value is not None
        value, low, high = verdict.value
        assert low <= value <= high or value != value, id


def test_every_recorded_verdict_rests_on_the_checkpoints_that_are_published():
    for id, verdict in recorded().items():
        for name, sha in verdict.sources.items():
            assert zoo.sha256(f"sorting/{name}") == sha, f"{id} was measured on another sorting/{name}"


def test_a_verdict_over_seeds_used_all_that_are_published():
    for id, verdict in recorded().items():
        if len(verdict.sources) == 1 and all(re.fullmatch(r"seed \d+", unit) for unit in verdict.unit_names):
            (name,) = verdict.sources
            seeds = [int(unit.removeprefix("seed ")) for unit in verdict.unit_names]
            assert seeds == list(zoo.read(f"sorting/{name}").labels), id


# Measuring again ----------------------------------------------------------------------------------
def same(found: Verdict, then: Verdict) -> None:
    assert found.outcome == then.outcome
    assert (found.passed, found.units, found.sound) == (then.passed, then.units, then.sound)
    assert found.unit_names == then.unit_names
    assert found.values.keys() == then.values.keys()
    for name, row in found.values.items():
        assert row == pytest.approx(then.values[name], rel=2e-3, abs=2e-3, nan_ok=True), name
    assert found.sources == then.sources


@pytest.mark.slow
@pytest.mark.parametrize("id", [id for id in CHEAP if id in BY_ID])
def test_measuring_a_cheap_claim_again_gives_what_is_recorded(id):
    found = verify(BY_ID[id])
    assert found.sound, f"a control of {id} passed: {[c['name'] for c in found.controls if not c['fails']]}"
    same(found, recorded()[id])


@pytest.mark.slow
@pytest.mark.parametrize("id", DEAR)
def test_a_dear_claim_is_sound_on_three_seeds_and_gives_their_recorded_numbers(id):
    found = verify(BY_ID[id], fast=True)
    assert found.sound, f"a control of {id} passed: {[c['name'] for c in found.controls if not c['fails']]}"
    assert found.units > 0
    then = recorded()[id]
    if found.sample != then.sample or not all(unit in then.unit_names for unit in found.unit_names):
        return  # fast takes fewer lists here, so the numbers differ
    for name, row in found.values.items():
        for unit, value in zip(found.unit_names, row):
            recorded_value = then.values[name][then.unit_names.index(unit)]
            assert value == pytest.approx(recorded_value, rel=2e-2, abs=2e-2, nan_ok=True), (unit, name)


def test_every_claim_is_measured_again_by_one_of_the_two_tests():
    assert set(CHEAP) | set(DEAR) >= set(BY_ID)
    assert set(CHEAP) <= set(BY_ID), f"no such claims: {set(CHEAP) - set(BY_ID)}"
