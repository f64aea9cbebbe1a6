"""Publishing: what readers load is what was trained, in fp16; running it again adds seeds and repeats nothing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from mi_lab import checkpoint
from mi_lab.checkpoint import CheckpointError
from mi_lab.studies.arithmetic import measure, recipes
from mi_lab.studies.arithmetic import publish as p
from mi_lab.studies.arithmetic.recipes import compact, config
from mi_lab.train import fit

TINY = compact("mix", 2, 1, 2, steps=22, batch=16)
TINY = replace(
    TINY, name="tiny", config=config(TINY.task, 1, 2, width=12), seeds=(0, 1, 2), checkpoints=(0, 10),
    description="For tests.",
)  # fmt: skip


@pytest.fixture
def published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where things are published, beside a folder `runs` with two of three seeds of a tiny recipe."""
    monkeypatch.setitem(recipes, "tiny", TINY)
    monkeypatch.setattr(p, "PUBLISHED", tmp_path / "published")
    monkeypatch.setattr(p, "CURVES", tmp_path / "curves")
    monkeypatch.setattr(p, "DEVELOPMENT", ("tiny",))
    monkeypatch.setattr(p, "ASKED", 300)
    monkeypatch.setattr(p, "PER_CLASS", 60)
    for seed in (0, 1):
        train(tmp_path, seed)
    return tmp_path / "published" / "tiny.safetensors"


def train(folder: Path, seed: int) -> None:
    fit(TINY, seeds=(seed,), device="cpu", out=folder / "runs", progress=False)


def test_publishing_writes_the_seeds_there_are_rounded_to_fp16(published, tmp_path):
    assert p.publish(tmp_path / "runs", TINY).startswith("tiny: 2 of 3 seeds, failures")
    found = checkpoint.load(published)
    trained = [fit(TINY, seeds=(s,), device="cpu", progress=False).stack.flat for s in (0, 1)]
    torch.testing.assert_close(found.stack.flat, torch.cat(trained).half().float(), atol=0, rtol=0)
    assert found.labels == (0, 1)
    assert found.provenance["digest"] == TINY.digest
    assert found.provenance["command"] == "mi-lab train arithmetic/tiny"


def test_published_failures_are_those_of_the_published_weights(published, tmp_path):
    p.publish(tmp_path / "runs", TINY)
    found = checkpoint.load(published)
    metrics = found.provenance["metrics"]
    assert metrics["sample"] == "300 uniform questions per operation and seed"
    for i in (0, 1):
        counted = measure.uniform(found.stack.model(i), TINY.task, 300)
        assert [metrics["failures +"][i], metrics["failures -"][i]] == [c.wrong for c in counted.values()]


def test_a_later_seed_is_added_and_the_earlier_ones_are_not_measured_again(published, tmp_path, monkeypatch):
    p.publish(tmp_path / "runs", TINY)
    before = checkpoint.load(published)
    train(tmp_path, 2)
    asked = []
    real = measure.uniform
    monkeypatch.setattr(measure, "uniform", lambda *args: asked.append(1) or real(*args))
    steps = []
    row = p.development_row
    monkeypatch.setattr(p, "development_row", lambda *args: steps.append(1) or row(*args))
    assert p.publish(tmp_path / "runs", TINY).startswith("tiny: 3 of 3 seeds")
    assert len(asked) == 1
    assert len(steps) == len(TINY.kept) == 3
    after = checkpoint.load(published)
    assert after.labels == (0, 1, 2)
    assert torch.equal(after.stack.flat[:2], before.stack.flat)
    for name in ("failures +", "failures -"):
        assert after.provenance["metrics"][name][:2] == before.provenance["metrics"][name]


def test_seeds_whose_runs_are_gone_stay_published_with_their_numbers_and_curves(published, tmp_path):
    p.publish(tmp_path / "runs", TINY)
    before = checkpoint.load(published)
    with np.load(tmp_path / "curves" / "tiny.npz") as old:
        curves = {name: old[name] for name in old}
    for seed in (1, 2):
        train(tmp_path / "later", seed)
    assert p.publish(tmp_path / "later" / "runs", TINY).startswith("tiny: 3 of 3 seeds")
    after = checkpoint.load(published)
    assert after.labels == (0, 1, 2)
    assert torch.equal(after.stack.flat[0], before.stack.flat[0])
    assert after.provenance["seconds"][0] == before.provenance["seconds"][0]
    assert len(after.provenance["seconds"]) == 3
    assert after.provenance["metrics"]["failures -"][0] == before.provenance["metrics"]["failures -"][0]
    with np.load(tmp_path / "curves" / "tiny.npz") as new:
        assert new["seeds"].tolist() == [0, 1, 2]
        for name in ("weights", "loss", "right", "train_loss"):
            np.testing.assert_array_equal(new[name][0], curves[name][0])


def test_seeds_of_another_version_of_the_recipe_do_not_stay(published, tmp_path):
    p.publish(tmp_path / "runs", TINY)
    other = replace(TINY, lr=0.5)
    fit(other, seeds=(2,), device="cpu", out=tmp_path / "later", progress=False)
    assert p.publish(tmp_path / "later", other).startswith("tiny: 1 of 3 seeds")
    assert checkpoint.load(published).labels == (2,)


def test_publishing_again_gives_the_same_file(published, tmp_path):
    p.publish(tmp_path / "runs", TINY)
    before = checkpoint.sha256(published)
    p.publish(tmp_path / "runs", TINY)
    assert checkpoint.sha256(published) == before


def test_other_weights_are_measured_again(published, tmp_path):
    p.publish(tmp_path / "runs", TINY)
    place = p.finished(tmp_path / "runs", TINY)[0]
    tensors, meta = checkpoint.load_tensors(place.folder / "step-0000022.safetensors")
    checkpoint.save_tensors(
        place.folder / "step-0000022.safetensors", {"flat": tensors["flat"] * 3}, {**meta}
    )
    p.publish(tmp_path / "runs", TINY)
    found = checkpoint.load(published)
    counted = measure.uniform(found.stack.model(0), TINY.task, 300)
    assert found.provenance["metrics"]["failures -"][0] == counted["-"].wrong


def test_curves_are_of_the_weights_that_readers_load(published, tmp_path):
    p.publish(tmp_path / "runs", TINY)
    model = checkpoint.load(published).model(1)
    with np.load(tmp_path / "curves" / "tiny.npz") as curves:
        assert curves["steps"].tolist() == [0, 10, 22]
        assert curves["seeds"].tolist() == [0, 1]
        assert curves["classes"].tolist()[:3] == ["uniform", "S0", "S1"]
        assert curves["loss"].shape == curves["token"].shape == (2, 3, TINY.task.digits + 2)
        row = p.development_row(model, p.development_questions(TINY.task), TINY.task)
        np.testing.assert_allclose(curves["loss"][1, -1], row["loss"], rtol=1e-4)
        np.testing.assert_allclose(curves["right"][1, -1], row["right"], atol=1e-6)
        assert curves["train_loss"].shape == (2, len(curves["logged"]))
        assert curves["logged"][-1] == 22
        history = fit(TINY, seeds=(1,), device="cpu", progress=False)
        np.testing.assert_allclose(curves["train_loss"][1], history.loss[0], rtol=1e-5)


def test_development_counts_whole_answers_and_single_tokens(published):
    task = TINY.task
    model = fit(TINY, seeds=(0,), device="cpu", progress=False).model()
    questions = p.development_questions(task)
    row = p.development_row(model, questions, task)
    assert list(questions) == [
        "uniform",
        "S0",
        "S1",
        "S2",
        "M0",
        "M1",
        "N1",
        "N2",
        "N_swapped0",
        "N_swapped1",
    ]
    for share, tokens in zip(row["right"], questions.values()):
        assert share == pytest.approx(float(task.grade(model, tokens).float().mean()), abs=1e-6)
    assert len(row["loss"]) == len(row["token"]) == 4
    assert min(row["token"]) >= row["right"][0]


def test_an_unfinished_seed_is_left_out_and_a_recipe_without_runs_writes_nothing(published, tmp_path):
    (tmp_path / "runs" / "tiny" / "seed-1" / "step-0000022.safetensors").unlink()
    assert p.publish(tmp_path / "elsewhere", TINY).startswith("tiny: no finished seed in")
    assert not published.exists()
    assert p.publish(tmp_path / "runs", TINY).startswith("tiny: 1 of 3 seeds")
    assert checkpoint.load(published).labels == (0,)


def test_runs_of_another_version_of_the_recipe_are_refused(published, tmp_path):
    with pytest.raises(CheckpointError, match="was trained by another version of recipe 'tiny'"):
        p.publish(tmp_path / "runs", replace(TINY, lr=0.5))
    assert not published.exists()
