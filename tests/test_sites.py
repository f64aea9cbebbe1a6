import pytest
import torch

from mi_lab import sites as module
from mi_lab.run import run
from mi_lab.sites import Site, capture, captures, residual_sites, truncated, untrained_twin


def test_what_is_captured_is_what_run_records(make_model, make_tokens):
    model, tokens = make_model(d_mlp=12), make_tokens(7)
    sites = {
        "a": (0, "resid_mid", [1, 4]),
        "b": (1, "attn.z", 3),
        "c": Site(1, "mlp.post"),
        "d": (0, "attn.q", slice(2, 4)),
    }
    out, wanted = capture(model, tokens, sites, batch=3), run(model, tokens, record="*")
    torch.testing.assert_close(out["a"], wanted["blocks.0.resid_mid"][:, [1, 4]])
    torch.testing.assert_close(out["b"], wanted["blocks.1.attn.z"][:, 3:4].flatten(2))
    torch.testing.assert_close(out["c"], wanted["blocks.1.mlp.post"])
    torch.testing.assert_close(out["d"], wanted["blocks.0.attn.q"][:, 2:4].flatten(2))


def test_every_sequence_may_have_positions_of_its_own(make_model, make_tokens):
    model, tokens = make_model(), make_tokens(5)
    positions = torch.tensor([[0, 1], [2, 2], [7, 0], [3, 4], [5, 6]])
    x = capture(model, tokens, {"own": (1, "resid_post", positions)}, batch=2)["own"]
    full = run(model, tokens, record="blocks.1.resid_post")["blocks.1.resid_post"]
    for row, which in enumerate(positions):
        torch.testing.assert_close(x[row], full[row, which])


def test_groups_hold_every_site_once_within_the_bound(make_model, make_tokens):
    model, tokens = make_model(n_layers=3), make_tokens(10)
    sites = residual_sites(model)
    whole = capture(model, tokens, sites)
    groups = list(captures(model, tokens, sites, memory=2 * 4 * 10 * 8 * 8))
    assert [list(group) for group in groups] == [["embed", "L0"], ["L1", "L2"]]
    for group in groups:
        for name, x in group.items():
            torch.testing.assert_close(x, whole[name])


def test_only_the_layers_needed_are_run(make_model, make_tokens, monkeypatch):
    seen = []
    monkeypatch.setattr(
        module, "run", lambda model, *a, **k: seen.append(len(model.blocks)) or run(model, *a, **k)
    )
    model, tokens = make_model(n_layers=3), make_tokens()
    capture(model, tokens, {"early": (0, "resid_mid")})
    capture(model, tokens, {"early": (0, "resid_mid")}, edit={"L2H0": 0.0})
    assert seen == [1, 3]
    assert len(model.blocks) == model.config.n_layers == 3  # the model itself is whole


def test_a_truncated_model_shares_its_weights(make_model):
    model = make_model(n_layers=3)
    short = truncated(model, 2)
    assert short.blocks[1].attn.W_Q is model.blocks[1].attn.W_Q
    assert truncated(model, 3) is model


def test_edits_are_seen(make_model, make_tokens):
    model, tokens = make_model(), make_tokens()
    x = capture(model, tokens, {"a": (0, "resid_post", [2])}, edit={"embed": 0.0, "pos_embed": 0.0})["a"]
    assert x.std(0).max() < 1e-6


def test_a_twin_has_the_shape_and_nothing_else(make_model):
    model = make_model(d_mlp=12)
    twin = untrained_twin(model)
    assert twin.config == model.config
    assert not torch.allclose(twin.embed.W_E, model.embed.W_E)
    assert torch.equal(untrained_twin(model).embed.W_E, twin.embed.W_E)
    assert not torch.equal(untrained_twin(model, 1).embed.W_E, twin.embed.W_E)


@pytest.mark.parametrize(
    ("sites", "message"),
    [
        ({}, "no sites: name at least one"),
        ({"a": (0,)}, r"site 'a' must be \(layer, where, positions\)"),
        ({"a": (2, "resid_mid", [0])}, r"site 'a': the model's layers are 0..1, not 2"),
        ({"a": (0, "residmid", [0])}, r"did you mean 'blocks\.0\.resid_mid'"),
        ({"a": (0, "attn.pattern", [0])}, "attn.pattern is no vector at a position"),
        ({"a": (0, "resid_mid", [8])}, r"site 'a': position 8 is outside 0..7"),
        ({"a": (0, "resid_mid", -1)}, r"site 'a': position -1 is outside 0..7"),
        ({"a": (0, "resid_mid", [])}, r"positions must be Int\[p\] or Int\[n, p\], not \[0\]"),
        ({"a": (0, "resid_mid", torch.zeros(3, 1).long())}, "are for 3 sequences, not 5"),
    ],
)
def test_what_is_no_site_is_refused(make_model, make_tokens, sites, message):
    with pytest.raises(ValueError, match=message):
        capture(make_model(), make_tokens(), sites)
