"""Recording LLC curves: every estimator and step, the falsifier, what was there before, and where it came from."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from mi_lab import zoo
from mi_lab.llc import SGLD
from mi_lab.model import Transformer, TransformerConfig
from mi_lab.studies.sorting import measure, record_llc
from mi_lab.studies.sorting.task import SortingTask

TASK = SortingTask(length=3, n_numbers=8)
CONFIG = TransformerConfig(n_layers=1, n_heads=2, d_model=8, d_head=4, n_ctx=7, d_vocab=9)
CHAIN = SGLD(nbeta=100.0, step_size=1e-5, draws=8, burn_in=2, chains=2)


@pytest.fixture
def out(tmp_path, monkeypatch):
    """Where the curves go; tiny models stand in for the published ones, a model for each seed and step."""
    path = tmp_path / "llc.json"
    estimators = {
        "isotropic": CHAIN,
        "rms": replace(CHAIN, preconditioner="rms"),
        "rms_l2": replace(CHAIN, preconditioner="rms", l2=0.01),
    }

    def model_at(recipe: str, seed: int, step: int) -> Transformer:
        assert recipe == "paper"
        return Transformer(CONFIG, generator=torch.Generator().manual_seed(seed * 10_000 + step)).eval()

    monkeypatch.setattr(record_llc, "OUT", path)
    monkeypatch.setattr(record_llc, "ESTIMATORS", estimators)
    monkeypatch.setattr(record_llc, "STEPS", (500, 6000))
    monkeypatch.setattr(record_llc, "EXAMPLES", 128)
    monkeypatch.setattr(measure, "task_of", lambda recipe: TASK)
    monkeypatch.setattr(measure, "model_at", model_at)
    monkeypatch.setattr(measure, "model", lambda recipe, seed: model_at(recipe, seed, 6000))
    return path


def test_every_seed_gets_every_estimator_at_every_step(out):
    record_llc.main([0, 1])
    found = json.loads(out.read_text())
    assert {name: sorted(seeds) for name, seeds in found["estimators"].items()} == {
        "isotropic": ["0", "1"],
        "rms": ["0", "1"],
        "rms_l2": ["0", "1"],
    }
    for seeds in found["estimators"].values():
        for points in seeds.values():
            assert [p["step"] for p in points] == [500, 6000]
            for p in points:
                assert len(p["trace"]) == 10  # burn-in is in the trace
                assert isinstance(p["warnings"], list)


def test_the_curves_say_what_made_them(out):
    record_llc.main([1])
    found = json.loads(out.read_text())
    assert found["checkpoint"] == zoo.sha256("sorting/paper")
    assert found["settings"]["rms_l2"]["batch"] == record_llc.BATCH
    assert found["settings"]["rms"]["text"] == "2 chains, 2 + 8 draws, batch 64, 128 lists"
    assert found["factor"] == 2.0
    assert {"command", "device", "versions"} <= found.keys()


def test_the_falsifier_moves_the_isotropic_estimate_and_not_the_rms_one(out):
    record_llc.main([0])
    found = json.loads(out.read_text())["rescaled"]
    assert found["rms"]["0"]["ratio"] == pytest.approx(1.0, abs=0.02)
    assert abs(found["isotropic"]["0"]["ratio"] - 1) > 0.05


def test_recording_again_gives_the_same_bytes(out):
    record_llc.main([1])
    first = out.read_bytes()
    record_llc.main([1])
    assert out.read_bytes() == first


def test_seeds_recorded_before_are_kept_and_only_missing_ones_are_measured(out, monkeypatch):
    record_llc.main([0])
    before = json.loads(out.read_text())
    measured = []
    monkeypatch.setattr(
        record_llc,
        "record",
        lambda seed: (
            measured.append(seed) or {"estimators": {"rms_l2": []}, "rescaled": {"rms_l2": {"ratio": 1.0}}}
        ),
    )
    record_llc.main([])
    assert measured == [s for s in zoo.read("sorting/paper").labels if s != 0]
    after = json.loads(out.read_text())
    assert after["estimators"]["rms_l2"]["0"] == before["estimators"]["rms_l2"]["0"]
    assert set(after["estimators"]["rms_l2"]) == {str(s) for s in zoo.read("sorting/paper").labels}
