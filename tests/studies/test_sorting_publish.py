"""Publishing: what readers load is what was trained, in fp16, with everything that says where it came from."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from mi_lab import checkpoint
from mi_lab.checkpoint import CheckpointError
from mi_lab.model import TransformerConfig
from mi_lab.studies.sorting import publish as p
from mi_lab.studies.sorting import recipes
from mi_lab.studies.sorting.circuit import copying_margin
from mi_lab.studies.sorting.task import SortingTask
from mi_lab.train import Recipe, fit

TINY = Recipe(
    name="tiny",
    task=SortingTask(length=3, n_numbers=8),
    config=TransformerConfig(n_layers=1, n_heads=2, d_model=8, d_head=4, n_ctx=7, d_vocab=9),
    steps=22,
    batch=16,
    seeds=(0, 1),
    checkpoints=tuple(range(0, 22, 2)),
    description="For tests.",
)


@pytest.fixture
def published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where things are published, beside a folder `runs` with both seeds of a tiny recipe."""
    monkeypatch.setitem(recipes, "tiny", TINY)
    monkeypatch.setattr(p, "PUBLISHED", tmp_path / "published")
    monkeypatch.setattr(p, "CURVES", tmp_path / "curves")
    monkeypatch.setitem(p.KEPT_STEPS, "tiny", {1: (0, 10)})
    for seed in TINY.seeds:  # one run each, as long runs on a CPU are
        fit(TINY, seeds=(seed,), device="cpu", out=tmp_path / "runs", progress=False)
    return tmp_path / "published"


def test_publishing_writes_all_seeds_rounded_to_fp16(published, tmp_path):
    assert p.publish(tmp_path / "runs", TINY) == "tiny: 2 seeds"
    found = checkpoint.load(published / "tiny.safetensors")
    trained = [fit(TINY, seeds=(s,), device="cpu", progress=False).stack.flat for s in TINY.seeds]
    torch.testing.assert_close(found.stack.flat, torch.cat(trained).half().float(), atol=0, rtol=0)
    assert found.labels == (0, 1)
    assert found.provenance["digest"] == TINY.digest
    assert found.provenance["command"] == "mi-lab train sorting/tiny"
    assert len(found.provenance["metrics"]["loss"]) == len(found.provenance["seconds"]) == 2


def test_steps_in_mid_training_are_published_where_they_are_wanted(published, tmp_path):
    p.publish(tmp_path / "runs", TINY)
    assert [f.name for f in (published / "tiny_steps").iterdir()] == ["seed-1.safetensors"]
    found = checkpoint.load(published / "tiny_steps" / "seed-1.safetensors")
    history = fit(TINY, seeds=(1,), device="cpu", progress=False)
    assert found.labels == (0, 10)
    torch.testing.assert_close(
        found.stack.flat[1:], history.checkpoints[10].flat.half().float(), atol=0, rtol=0
    )


def test_curves_are_of_the_weights_that_readers_load(published, tmp_path):
    p.publish(tmp_path / "runs", TINY)
    with np.load(tmp_path / "curves" / "tiny.npz") as curves:
        assert curves["steps"].tolist() == list(TINY.checkpoints)
        assert curves["seeds"].tolist() == [0, 1]
        found = checkpoint.load(published / "tiny_steps" / "seed-1.safetensors").model(10)
        margin = copying_margin(found, SortingTask(length=3, n_numbers=8)).detach().numpy()
        np.testing.assert_allclose(curves["margin"][1, 5], margin, atol=1e-3)
        assert curves["loss"].shape == (2, 11)


def test_seeds_that_trained_as_one_stack_are_taken_apart(published, tmp_path, monkeypatch):
    p.publish(tmp_path / "runs", TINY)
    one_by_one = checkpoint.load(published / "tiny.safetensors")
    monkeypatch.setattr("mi_lab.train.group_size", lambda recipe, seeds, device: seeds)  # as on a GPU
    fit(TINY, device="cpu", out=tmp_path / "stacked", progress=False)
    assert p.publish(tmp_path / "stacked", TINY) == "tiny: 2 seeds"
    found = checkpoint.load(published / "tiny.safetensors")
    assert found.labels == (0, 1)
    torch.testing.assert_close(
        found.stack.flat, one_by_one.stack.flat, atol=1e-2, rtol=0
    )  # seeds differ by ten times that
    for name in ("loss", "token accuracy"):
        then = one_by_one.provenance["metrics"][name]
        assert found.provenance["metrics"][name] == pytest.approx(then, abs=2e-3)


def test_an_unfinished_seed_is_left_out(published, tmp_path):
    (tmp_path / "runs" / "tiny" / "seed-1" / "step-0000022.safetensors").unlink()
    assert p.publish(tmp_path / "runs", TINY) == "tiny: 1 seeds"
    assert checkpoint.load(published / "tiny.safetensors").labels == (0,)


def test_a_recipe_without_runs_writes_nothing(published, tmp_path):
    assert p.publish(tmp_path / "elsewhere", TINY).startswith("tiny: no finished seed in")
    assert not published.exists()


def test_runs_of_another_version_of_the_recipe_are_refused(published, tmp_path):
    with pytest.raises(CheckpointError, match="was trained by another version of recipe 'tiny'"):
        p.publish(tmp_path / "runs", replace(TINY, lr=0.5))
    assert not published.exists()
