"""The zoo: names, nearest names, copies, and folders of one's own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from mi_lab import checkpoint, publish, zoo
from mi_lab.checkpoint import CheckpointError
from mi_lab.model import TransformerConfig
from mi_lab.stack import Stack

CONFIG = TransformerConfig(n_layers=1, n_heads=2, d_model=8, d_head=4, n_ctx=5, d_vocab=7)


def forget() -> None:
    zoo.read.cache_clear()
    zoo.sha256.cache_clear()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of one's own with a file mine/tiny of seeds 3 and 5."""
    monkeypatch.setenv("MI_LAB_CHECKPOINTS", str(tmp_path))
    forget()
    stack = Stack.init(CONFIG, seeds=(3, 5))
    checkpoint.save(tmp_path / "mine" / "tiny.safetensors", stack, labels=(3, 5), provenance={"why": "test"})
    yield tmp_path
    forget()


def test_a_folder_of_ones_own_is_found_beside_what_is_published(folder):
    assert "mine/tiny" in zoo.names()
    assert "sorting/paper" in zoo.names()
    assert zoo.find("mine/tiny") == folder / "mine" / "tiny.safetensors"
    assert list(zoo.names()) == sorted(zoo.names())


def test_a_folder_of_ones_own_goes_before_the_published_one(folder):
    stack = Stack.init(CONFIG, seeds=(0,))
    checkpoint.save(folder / "sorting" / "paper.safetensors", stack, labels=(0,), provenance={})
    assert zoo.load("sorting/paper").config == CONFIG


def test_a_folder_that_does_not_exist_is_no_error(tmp_path, monkeypatch):
    monkeypatch.setenv("MI_LAB_CHECKPOINTS", str(tmp_path / "nowhere"))
    assert "sorting/paper" in zoo.names()


def test_models_are_loaded_by_label_and_the_first_by_default(folder):
    first, second = zoo.load("mine/tiny"), zoo.load("mine/tiny", 5)
    expected = Stack.init(CONFIG, seeds=(3, 5))
    for model, reference in ((first, expected.model(0)), (second, expected.model(1))):
        for name, parameter in model.named_parameters():
            torch.testing.assert_close(parameter, reference.get_parameter(name), atol=1e-3, rtol=1e-3)  # fp16


def test_a_loaded_model_is_a_copy(folder):
    with torch.no_grad():
        zoo.load("mine/tiny").embed.W_E.fill_(7.0)
    assert float(zoo.load("mine/tiny").embed.W_E.detach().abs().max()) < 5


def test_entries_tell_labels_identity_and_provenance(folder):
    entry = next(e for e in zoo.entries() if e.name == "mine/tiny")
    assert entry.labels == (3, 5)
    assert entry.sha256 == checkpoint.sha256(entry.path) == zoo.sha256("mine/tiny")
    assert entry.provenance["why"] == "test"


@pytest.mark.parametrize(
    ("name", "suggested"),
    [("sorting/papr", "sorting/paper"), ("paper", "sorting/paper"), ("mine/tinny", "mine/tiny")],
)
def test_an_unknown_name_suggests_the_nearest(folder, name, suggested):
    message = rf"there is no published checkpoint '{name}'; did you mean '{suggested}'\? `mi-lab zoo` lists"
    with pytest.raises(ValueError, match=message):
        zoo.load(name)


def test_a_name_like_no_other_gets_no_suggestion():
    with pytest.raises(
        ValueError, match=r"no published checkpoint 'xxxxxx'\. `mi-lab zoo` lists all of them"
    ):
        zoo.load("xxxxxx")


def test_a_seed_that_is_not_there_names_those_that_are(folder):
    with pytest.raises(ValueError, match=r"this checkpoint holds \[3, 5\], not 4"):
        zoo.load("mine/tiny", 4)


def test_a_damaged_file_is_named(folder):
    path = folder / "mine" / "tiny.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match=r"tiny\.safetensors is truncated"):
        zoo.load("mine/tiny")


@pytest.fixture
def package(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder in the place of the package's published files."""
    monkeypatch.setattr(publish, "PUBLISHED", folder)
    monkeypatch.setattr(zoo, "NOT_SHIPPED", folder / "not_shipped.json")
    zoo.not_shipped.cache_clear()
    yield folder
    zoo.not_shipped.cache_clear()


def test_weights_that_are_not_shipped_keep_their_hash_and_say_how_they_are_made(package):
    about = {"study": "toy", "command": "mi-lab train toy/big", "seconds": [90.0, 150.0]}
    path = package / "toy" / "big.safetensors"
    checkpoint.save(path, Stack.init(CONFIG, seeds=(0, 1)), labels=(0, 1), provenance=about)
    was, size = zoo.sha256("toy/big"), path.stat().st_size
    publish.unship("toy/big")
    forget()
    assert not path.exists()
    assert "toy/big" not in zoo.names()
    assert zoo.sha256("toy/big") == was
    entry = zoo.not_shipped()["toy/big"]
    assert (entry["labels"], entry["bytes"]) == ([0, 1], size)
    assert entry["provenance"].items() >= about.items()
    with pytest.raises(zoo.NotShipped, match=r"mi-lab train toy/big trains it again \(it took 4 minutes\)"):
        zoo.load("toy/big")
    with pytest.raises(ValueError, match="there is no published checkpoint 'toy/bog'"):
        zoo.load("toy/bog")
    found = Stack.init(CONFIG, seeds=(0, 1)).flat
    assert entry["weights"] == [checkpoint.sha256_of(flat) for flat in found]
    publish.unship("mine/tiny")
    assert list(zoo.not_shipped()) == ["mine/tiny", "toy/big"]


def test_models_that_were_left_out_before_are_not_forgotten(package):
    path = package / "toy" / "big.safetensors"
    about = {"study": "toy", "command": "mi-lab train toy/big", "seconds": [90.0]}
    for seeds, fits in (((0, 1), True), ((1, 2), False), ((0, 1, 2), True)):
        checkpoint.save(path, Stack.init(CONFIG, seeds=seeds), labels=seeds, provenance=about)
        forget()
        if fits:
            publish.unship("toy/big")
            assert zoo.not_shipped()["toy/big"]["labels"] == list(seeds)
        else:
            with pytest.raises(ValueError, match=r"'toy/big' was left out with \[0\] too, which .*big"):
                publish.unship("toy/big")
            assert path.exists()


def test_weights_made_again_are_the_ones_that_count(package):
    publish.unship("mine/tiny")
    forget()
    checkpoint.save(
        package / "mine" / "tiny.safetensors", Stack.init(CONFIG, seeds=(7,)), labels=(7,), provenance={}
    )
    assert zoo.read("mine/tiny").labels == (7,)
    assert zoo.sha256("mine/tiny") == checkpoint.sha256(zoo.find("mine/tiny"))
    assert zoo.sha256("mine/tiny") != zoo.not_shipped()["mine/tiny"]["sha256"]


def test_only_a_file_of_the_package_can_be_left_out(folder, monkeypatch):
    with pytest.raises(ValueError, match="'mine/tiny' is no file of"):
        publish.unship("mine/tiny")
    assert zoo.find("mine/tiny").exists()
