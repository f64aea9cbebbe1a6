"""The pathfinding ledger: it holds the claims as they are written, and measuring again gives what it says.

To write it again: mi-lab claims pathfinding --json mi_lab/studies/pathfinding/ledger.json
"""

from __future__ import annotations

import functools
import json
from pathlib import Path

import pytest
import torch

import mi_lab.studies.pathfinding
from mi_lab import zoo
from mi_lab.claims import Verdict, read_ledger, verify
from mi_lab.studies.pathfinding import claims as CLAIMS

LEDGER = Path(mi_lab.studies.pathfinding.__file__).parent / "ledger.json"
BY_ID = {claim.id: claim for claim in CLAIMS}
AGAIN = ("P4", "P5", "P9", "P15", "P17", "P17B", "P18", "P19")  # seconds each
NAMES = ("title", "statement", "source", "reported", "limits")


@functools.lru_cache(maxsize=1)
def recorded() -> dict[str, Verdict]:
    assert LEDGER.exists(), f"{LEDGER} is missing: mi-lab claims pathfinding --json {LEDGER}"
    return {v.id: v for v in read_ledger(LEDGER)["pathfinding"]}


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_the_ledger_holds_every_claim_as_it_is_written_now():
    assert list(recorded()) == list(BY_ID), "claims were added, removed or moved: write the ledger again"
    for id, verdict in recorded().items():
        claim = BY_ID[id]
        now = [getattr(claim, name) for name in NAMES] + [claim.accept.text]
        then = [getattr(verdict, name) for name in NAMES] + [verdict.accept]
        assert then == now, f"{id} was reworded since the ledger was written"


def test_the_ledger_was_measured_in_full_by_the_command_it_names():
    assert json.loads(LEDGER.read_text())["command"] == "mi-lab claims pathfinding"


def test_every_recorded_control_failed():
    wrong = {id: [c["name"] for c in v.controls if not c["fails"]] for id, v in recorded().items()}
    assert {id: names for id, names in wrong.items() if names} == {}


def test_every_recorded_verdict_follows_from_its_numbers():
    for id, verdict in recorded().items():
        rows = [dict(zip(verdict.values, row)) for row in zip(*verdict.values.values())]
        assert len(rows) == verdict.units == len(verdict.unit_names)
        assert sum(BY_ID[id].accept.test(row) for row in rows) == verdict.passed, id


def test_every_recorded_verdict_rests_on_the_checkpoints_that_are_published():
    for id, verdict in recorded().items():
        assert verdict.sources, id
        for name, sha in verdict.sources.items():
            assert zoo.sha256(f"pathfinding/{name}") == sha, (
                f"{id} was measured on another pathfinding/{name}"
            )


@pytest.mark.slow
@pytest.mark.parametrize("id", AGAIN)
def test_measuring_again_gives_what_is_recorded(id):
    found, then = verify(BY_ID[id]), recorded()[id]
    assert found.sound, f"a control of {id} passed: {[c['name'] for c in found.controls if not c['fails']]}"
    assert (found.outcome, found.passed, found.unit_names) == (then.outcome, then.passed, then.unit_names)
    # a share of a difference that isn't there (models wrong on the trees asked about) is noise: left out
    right = then.values.get("clean, correct", [1.0] * found.units)
    for name, row in found.values.items():
        pairs = [(x, y) for x, y, share in zip(row, then.values[name], right) if share >= 0.8]
        for x, y in pairs:
            assert x == pytest.approx(y, rel=2e-2, abs=2e-2, nan_ok=True), name
