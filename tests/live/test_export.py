"""Model files and the page's edits as torch's."""

from __future__ import annotations

import base64
import hashlib
import json
import re

import pytest
import torch

from mi_lab.ablate import mean_values
from mi_lab.live import export
from mi_lab.model import Transformer, TransformerConfig
from mi_lab.run import run
from mi_lab.zoo import load
from tests.live.goldens import ARITHMETIC, ODD, ODD_ATTENTION, PATHFINDING, random_model

SMALL = TransformerConfig(n_layers=2, n_heads=2, d_model=8, d_head=4, n_ctx=5, d_vocab=7, d_mlp=6)
TOKENS = torch.tensor([[1, 2, 3, 4, 5], [6, 5, 4, 3, 2]])


def header(data: bytes) -> dict:
    """The JSON of a file."""
    length = int.from_bytes(data[40:44], "little")
    return json.loads(data[44 : 44 + length])


def logits(model, edits, tokens=TOKENS, **options):
    return run(model, tokens, edit=export.to_run(model, edits, **options)).logits


@pytest.mark.parametrize(
    "config", [SMALL, ODD, ODD_ATTENTION, ARITHMETIC], ids=lambda c: f"{c.n_layers}x{c.d_model}"
)
def test_layout_is_the_state_dict(config):
    model = Transformer(config)
    assert export.layout(config) == {name: tuple(x.shape) for name, x in model.state_dict().items()}


def test_file_holds_every_weight_and_names_its_own_hash():
    models = [random_model(SMALL, seed) for seed in (0, 1)]
    data = export.to_bytes(
        models,
        labels=[0, 7],
        vocab=list("abcdefg"),
        extras={"x": torch.ones(2, 3)},
        provenance={"recipe": "<b>"},
    )
    found = header(data)
    assert data[:8] == export.MAGIC
    assert hashlib.sha256(data[40:]).hexdigest() == export.file_sha256(data) == data[8:40].hex()
    assert found["labels"] == [0, 7]
    assert found["vocab"] == list("abcdefg")
    assert found["extras"] == [["x", [2, 3]]]
    assert TransformerConfig(**found["config"]) == SMALL
    body = torch.frombuffer(
        bytearray(data[44 + int.from_bytes(data[40:44], "little") :]), dtype=torch.float16
    )
    assert len(body) == 2 * models[0].n_parameters + 6
    second = body[models[0].n_parameters :]
    assert torch.equal(second[:56].reshape(7, 8), models[1].embed.W_E.half())


def test_float32_keeps_every_bit():
    model = random_model(SMALL)
    assert len(export.to_bytes([model], dtype="float32")) > 4 * model.n_parameters
    stored = export.as_stored(model, "float32")
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), stored.parameters()))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dtype": "int8"}, "dtype must be"),
        ({"labels": [0, 1]}, "as many different labels"),
        ({"vocab": ["a"]}, "vocab must name 7 tokens"),
    ],
)
def test_bad_calls_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        export.to_bytes([Transformer(SMALL)], **change)


def test_what_a_file_can_not_hold_is_refused():
    model = Transformer(SMALL)
    with pytest.raises(ValueError, match="one config"):
        export.to_bytes([model, Transformer(ODD)], labels=[0, 1])
    with pytest.raises(ValueError, match="as many"):
        export.to_bytes([], labels=[])
    short = mean_values(model, TOKENS[:, :3])
    with pytest.raises(ValueError, match="all 5 positions"):
        export.to_bytes([model], means=[short])
    with pytest.raises(ValueError, match="as many means"):
        export.to_bytes([model], means=[short, short])
    with torch.no_grad():
        model.embed.W_E[0, 0] = 1e6
    with pytest.raises(ValueError, match="not finite in float16"):
        export.to_bytes([model])
    with pytest.raises(ValueError, match="not a model file"):
        export.file_sha256(b"something else" * 9)


@pytest.mark.parametrize(
    ("model", "limit"),
    [
        (lambda: load("sorting/paper", 0), 300_000),
        (lambda: Transformer(ARITHMETIC), 600_000),
        (lambda: Transformer(PATHFINDING), 2_500_000),
    ],
    ids=["sorting", "arithmetic", "pathfinding"],
)
def test_files_are_as_small_as_promised(model, limit):
    assert len(export.to_bytes([model()])) <= limit


def test_published_models_are_stored_exactly():
    model = load("sorting/paper", 0)
    stored = export.as_stored(model)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), stored.parameters()))


def test_script_carries_the_file():
    data = export.to_bytes([Transformer(SMALL)])
    found = re.fullmatch(r'globalThis\.miLabModel\("([\w+/=]+)"\);\n', export.to_script(data))
    assert found
    assert base64.b64decode(found[1]) == data


def test_page_edits_are_the_library_s():
    model = random_model(SMALL)
    means = mean_values(model, TOKENS)
    clean = logits(model, [])
    assert torch.equal(clean, model(TOKENS))
    same = [
        ([{"node": "L0H1", "value": 0}], {"L0H1": 0.0}),
        ([{"node": "P3L1MLP", "value": 0.5}], {"P3L1MLP": 0.5}),
        ([{"node": "P3L1H0", "value": [1, 2, 3, 4]}], {"P3L1H0": torch.tensor([1.0, 2, 3, 4])}),
        ([{"node": "L0H0", "value": "mean"}], {"L0H0": means.z[0, 0, :, 0]}),
        (
            [{"node": "P2L0H0", "value": {"run": TOKENS[1].tolist()}}],
            {"P2L0H0": run(model, TOKENS[1:], record="blocks.0.attn.z")["blocks.0.attn.z"][0, 2, 0]},
        ),
    ]
    for page, library in same:
        changed = logits(model, page, means=means)
        assert torch.allclose(changed, run(model, TOKENS, edit=library).logits, atol=1e-6)
        assert not torch.allclose(changed, clean, atol=1e-3)


def test_wrong_page_edits_are_refused():
    model = random_model(SMALL)
    with pytest.raises(ValueError, match="needs means"):
        logits(model, [{"node": "L0H0", "value": "mean"}])
    with pytest.raises(ValueError, match="fit none of"):
        logits(model, [{"node": "L0H0", "value": [1, 2, 3]}])
    with pytest.raises(ValueError, match=r"layers are 0\.\.1"):
        logits(model, [{"node": "L4H0", "value": 0}])
    with pytest.raises(ValueError, match="no key left"):
        logits(model, [{"knockOut": {"layer": 0, "queries": [0], "keys": [0]}}])


def test_golden_is_what_torch_says_of_the_stored_weights():
    model = random_model(SMALL)
    found = export.golden(model, TOKENS, {"off": [{"node": "L0H0", "value": 0}]}, record=["ln_final"])
    assert [case["name"] for case in found["cases"]] == ["clean", "clean", "off", "off"]
    case = found["cases"][2]
    data = torch.frombuffer(bytearray(base64.b64decode(case["logits"]["base64"])), dtype=torch.float32)
    want = logits(export.as_stored(model).double(), [{"node": "L0H0", "value": 0}], TOKENS[:1])
    assert torch.equal(data.reshape(case["logits"]["shape"]), want.float())  # worked out in double precision
    assert case["activations"]["ln_final"]["shape"] == [1, 5, 8]
    assert export.file_sha256(base64.b64decode(found["model"])) == found["sha256"]
