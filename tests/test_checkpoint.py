import errno
import json
import os

import pytest
import torch
from safetensors.torch import save_file

from mi_lab import checkpoint
from mi_lab.checkpoint import CheckpointError, load_tensors, save_tensors
from mi_lab.stack import Stack


@pytest.fixture
def stack(make_model):
    return Stack.from_models([make_model(0, d_mlp=12), make_model(1, d_mlp=12)])


@pytest.fixture
def saved(tmp_path, stack):
    path = tmp_path / "zoo" / "a.safetensors"
    checkpoint.save(path, stack, labels=(3, 5), provenance={"seed": 7}, dtype=torch.float32)
    return path


def test_models_and_provenance_come_back(saved, stack):
    loaded = checkpoint.load(saved)
    assert torch.equal(loaded.stack.flat, stack.flat)
    assert loaded.stack.config == stack.config
    assert loaded.labels == (3, 5)
    assert loaded.provenance["seed"] == 7
    assert torch.equal(loaded.model(5).unembed.W_U, stack.model(1).unembed.W_U)
    assert torch.equal(loaded.model().unembed.W_U, stack.model(0).unembed.W_U)


def test_half_precision_rounds_to_a_thousandth(tmp_path, stack):
    checkpoint.save(tmp_path / "a", stack, labels=(0, 1), provenance={})
    loaded = checkpoint.load(tmp_path / "a").stack.flat
    assert loaded.dtype == torch.float32
    torch.testing.assert_close(loaded, stack.flat, rtol=1e-3, atol=1e-6)


def test_an_unknown_label_is_refused(saved):
    with pytest.raises(ValueError, match=r"holds \[3, 5\], not 4"):
        checkpoint.load(saved).model(4)


def test_every_model_needs_a_label(tmp_path, stack):
    with pytest.raises(ValueError, match="2 models need as many labels, not 1"):
        checkpoint.save(tmp_path / "a", stack, labels=(0,), provenance={})


@pytest.mark.parametrize("keep", [0, 5, 100, -1])
def test_a_truncated_file_is_named(saved, keep):
    saved.write_bytes(saved.read_bytes()[:keep])
    with pytest.raises(CheckpointError, match=r"a.safetensors is truncated or not a safetensors file"):
        checkpoint.load(saved)


def test_foreign_files_are_named(tmp_path):
    path = tmp_path / "b.safetensors"
    with pytest.raises(CheckpointError, match="no checkpoint file"):
        checkpoint.load(path)
    path.write_text("hello")
    with pytest.raises(CheckpointError, match="truncated or not a safetensors"):
        checkpoint.load(path)
    save_file({"x": torch.zeros(2)}, path)
    with pytest.raises(CheckpointError, match="not one that mi_lab wrote"):
        checkpoint.load(path)
    save_tensors(path, {"flat": torch.zeros(2)}, {"format": "mi_lab/99"})
    with pytest.raises(CheckpointError, match="format 'mi_lab/99', this version reads 'mi_lab/1'"):
        checkpoint.load(path)


@pytest.mark.parametrize("damage", ["tensor", "config", "size", "labels"])
def test_a_damaged_file_is_refused(saved, damage):
    tensors, meta = load_tensors(saved)
    if damage == "tensor":
        del tensors["unembed.W_U"]
    elif damage == "config":
        meta["config"]["wings"] = 2
    elif damage == "size":
        meta["config"]["d_model"] = 9
    else:
        meta["labels"] = [1, 2, 3]
    save_tensors(saved, tensors, meta)
    with pytest.raises(CheckpointError, match="is damaged"):
        checkpoint.load(saved)


@pytest.mark.parametrize("broken", ["open", "replace"])
def test_a_full_disk_keeps_what_stood_there(monkeypatch, saved, broken):
    before = saved.read_bytes()

    def full(*args, **options):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(checkpoint, "open", full, raising=False) if broken == "open" else None
    monkeypatch.setattr(os, "replace", full) if broken == "replace" else None
    with pytest.raises(
        CheckpointError, match="no space is left on the disk; what stood there before is kept"
    ):
        save_tensors(saved, {"x": torch.zeros(2)}, {})
    assert saved.read_bytes() == before
    assert [path.name for path in saved.parent.iterdir()] == [saved.name]  # no temporary file is left


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match=r"file/a could not be written"):
        save_tensors(tmp_path / "file" / "a", {"x": torch.zeros(2)}, {})


def test_the_digest_is_the_files(saved):
    before = checkpoint.sha256(saved)
    assert len(before) == 64
    saved.write_bytes(saved.read_bytes() + b" ")
    assert checkpoint.sha256(saved) != before


def test_versions_are_plain_json():
    assert {"python", "torch", "mi_lab"} <= json.loads(json.dumps(checkpoint.versions())).keys()
    assert checkpoint.device_name("cpu").startswith("cpu (")
