"""Lenses and attribution against the model's own logits."""

import pytest
import torch

from mi_lab.lens import attribute_keys, attribute_logits, label_lens, logit_lens, tuned_lens
from mi_lab.run import Node, run
from mi_lab.sites import untrained_twin
from mi_lab.studies import sorting

SHAPES = {
    "attention only": {},
    "MLP": {"d_mlp": 12},
    "no norm": {"d_mlp": 12, "norm": None},
    "one layer, other outputs": {"n_layers": 1, "d_vocab_out": 4},
    "gelu, three layers": {"n_layers": 3, "d_mlp": 12, "act": "gelu"},
}


@pytest.fixture(scope="module")
def sorter():
    task = sorting.task()
    return sorting.load(), task, task.sample(800, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_on_the_last_layer_the_logit_lens_is_the_model(make_model, make_tokens, shape):
    model, tokens = make_model(**shape), make_tokens()
    out = run(model, tokens, record="*.resid_post")
    last = out[f"blocks.{model.config.n_layers - 1}.resid_post"]
    torch.testing.assert_close(logit_lens(model, last), out.logits)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_the_parts_sum_to_the_logits(make_model, make_tokens, shape):
    model, tokens = make_model(**shape), make_tokens()
    attribution = attribute_logits(model, tokens)
    torch.testing.assert_close(attribution.value.sum(0), run(model, tokens).logits, rtol=0, atol=1e-4)
    some = attribute_logits(model, tokens, [7, 2], outputs=[3, 1])
    torch.testing.assert_close(some.value, attribution.value[:, :, [7, 2]][..., [3, 1]])


def test_the_parts_sum_to_the_logits_of_a_trained_model(sorter):
    model, task, tokens = sorter
    attribution = attribute_logits(model, tokens[:50], task.answer)
    logits = run(model, tokens[:50]).logits[:, task.answer]
    torch.testing.assert_close(attribution.value.sum(0), logits, rtol=0, atol=1e-4)
    # which head copies: what the two heads add to the right logit decides the answer
    right = tokens[:50, task.answer.start + 1 :].unsqueeze(-1)
    heads = (attribution.of("L0H0") + attribution.of(Node(0, 1))).gather(-1, right)
    assert (heads > 0).double().mean() > 0.95


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_a_part_is_what_its_removal_takes_away_without_a_layernorm(make_model, make_tokens, shape):
    """Direct effect and total effect agree for the last layer's heads when nothing rescales them."""
    model, tokens = make_model(**(shape | {"norm": None, "d_mlp": 0})), make_tokens()
    last = model.config.n_layers - 1
    removed = run(model, tokens).logits - run(model, tokens, edit={Node(last, 1): 0.0}).logits
    torch.testing.assert_close(attribute_logits(model, tokens).of(Node(last, 1)), removed)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_keys_sum_to_their_head(make_model, make_tokens, shape):
    model, tokens = make_model(**shape), make_tokens()
    attribution = attribute_logits(model, tokens, [5])
    for layer in range(model.config.n_layers):
        keys = attribute_keys(model, tokens, layer, 5)
        assert keys.shape == (5, 2, 6, model.config.vocab_out)
        for head, part in enumerate(keys.sum(2).unbind(1)):
            torch.testing.assert_close(part, attribution.of(Node(layer, head))[:, 0])


def test_clipping_caps_the_attention(make_model, make_tokens):
    model, tokens = make_model(), make_tokens()
    whole, capped = (attribute_keys(model, tokens, 0, 6, clip=clip, outputs=[2]) for clip in (None, 0.05))
    pattern = run(model, tokens, record="blocks.0.attn.pattern")["blocks.0.attn.pattern"][:, :, 6, :7]
    torch.testing.assert_close(capped[..., 0], whole[..., 0] * (0.05 / pattern).clamp(max=1))


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_the_tuned_lens_is_exact_at_the_last_layer_and_better_than_the_logit_lens_before(
    make_model, make_tokens, shape
):
    model, tokens = make_model(**shape), make_tokens(400)
    lens = tuned_lens(model, tokens, [3, 5, 7])
    measured = lens.held_out
    assert measured["r2"][-1] == pytest.approx(1, abs=1e-5)
    assert measured["kl"][-1] == pytest.approx(0, abs=1e-5)
    assert measured["agreement"][-1] == 1
    assert (measured["kl"][:-1] < measured["logit_kl"][:-1]).all()
    assert measured["r2"].diff().min() > -0.05  # nearer layer by layer
    logits = run(model, tokens[:9]).logits[:, [3, 5, 7]]
    torch.testing.assert_close(lens.read(model, tokens[:9])[-1], logits, rtol=1e-3, atol=1e-3)
    assert lens.read(model, tokens[:9], [0]).shape == (
        model.config.n_layers + 1,
        9,
        1,
        model.config.vocab_out,
    )


def test_memory_does_not_change_a_tuned_lens(make_model, make_tokens):
    model, tokens = make_model(), make_tokens(200)
    whole, parts = tuned_lens(model, tokens), tuned_lens(model, tokens, memory=1)
    for name in whole.held_out:
        torch.testing.assert_close(whole.held_out[name], parts.held_out[name])


def test_a_label_lens_sees_the_answer_come_up(sorter):
    model, task, tokens = sorter
    right = tokens[:, task.answer.start + 1 : task.answer.stop + 1]
    lens = label_lens(model, tokens, right, task.answer)
    assert list(lens.sites) == ["embed", "L0"]
    assert (lens.map.bias == 0).all()
    before, after = lens.held_out["f1"].tolist()
    assert after > before + 0.2
    twin = label_lens(untrained_twin(model), tokens, right, task.answer)
    assert after > float(twin.held_out["f1"][1]) + 0.2
    assert lens.probes["L0"].control.f1 < before + 0.05
    seen = lens.read(model, tokens[:100])
    assert seen.shape == (2, 100, 10, 51)
    held = lens.held_out["accuracy"][1]
    assert (seen[1].argmax(-1) == right[:100]).double().mean() == pytest.approx(float(held), abs=0.1)


def test_what_is_not_there_is_refused(make_model, make_tokens):
    model, tokens = make_model(), make_tokens(60)
    with pytest.raises(ValueError, match="residual vectors have d_model = 8 entries, not 7"):
        logit_lens(model, torch.zeros(2, 7))
    with pytest.raises(ValueError, match=r"60 sequences can't be divided with held_out = 1\.5"):
        tuned_lens(model, tokens, held_out=1.5)
    with pytest.raises(ValueError, match="a lens is linear: kind must be 'ridge' or 'logistic', not 'mlp'"):
        label_lens(model, tokens, tokens[:, 0], intercept=True, kind="mlp", steps=2)
    lens = label_lens(model, tokens, tokens[:, 0])
    with pytest.raises(ValueError, match="'L9' is no site of this lens; sites: embed, L0, L1"):
        lens(torch.zeros(2, 8), "L9")
    with pytest.raises(ValueError, match="'L5H0' is no part of the logits; parts: embed"):
        attribute_logits(model, tokens).of("L5H0")
    with pytest.raises(ValueError, match=r"output 6 is outside 0..5"):
        attribute_logits(model, tokens, outputs=[6])
    with pytest.raises(ValueError, match=r"attribute_logits: position 8 is outside 0..7"):
        attribute_logits(model, tokens, [8])
    with pytest.raises(ValueError, match=r"the model's layers are 0..1, not 2"):
        attribute_keys(model, tokens, 2, 0)
    with pytest.raises(ValueError, match=r"clip must be an attention between 0 and 1, not 2\.0"):
        attribute_keys(model, tokens, 0, 0, clip=2.0)
