import pytest
import torch
from torch.nn.functional import cross_entropy

from mi_lab import stack as module
from mi_lab.model import Transformer
from mi_lab.stack import Stack, fast_matmul, forward, to_reference

SHAPES = [
    {"n_layers": 1},
    {"n_layers": 1, "norm": None, "d_mlp": 12},
    {"n_layers": 2, "d_mlp": 12, "act": "gelu"},
    {"n_layers": 3, "n_heads": 1, "d_head": 8, "d_mlp": 12, "d_vocab_out": 4},
]
ANSWERS = [slice(None), slice(4, 7), slice(6, 7), slice(0, 3)]
BATCHES = [3, 20]  # without and with the first layer's table, which begins at 2 * 6 tokens


@pytest.mark.parametrize("answer", ANSWERS)
@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("shape", SHAPES)
def test_fast_logits_equal_the_reference(make_model, make_tokens, shape, batch, answer):
    models, tokens = [make_model(seed, **shape) for seed in range(3)], make_tokens(batch)
    wanted = torch.stack([model(tokens)[:, answer] for model in models])
    stack = Stack.from_models(models)
    torch.testing.assert_close(stack.forward(tokens, answer), wanted, rtol=1e-5, atol=1e-5)
    for i in range(3):
        single = forward(stack.params(i), stack.config, tokens, answer)
        torch.testing.assert_close(single, wanted[i], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("stacked", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_float64_gradients_equal_the_reference(make_model, make_tokens, shape, stacked, batch):
    model, tokens, answer = make_model(**shape).double(), make_tokens(batch, vocab=4), slice(4, 7)
    loss = cross_entropy(model(tokens)[:, answer].flatten(0, 1), tokens[:, 5:8].flatten())
    loss.backward()
    stack = Stack(model.config, Stack.empty(model.config, 2).flat.double())
    for i in range(2):
        stack.copy_in(i, dict(model.state_dict()))
    flat = stack.flat.requires_grad_()
    if stacked:
        logits = forward(stack.views(flat), model.config, tokens.expand(2, -1, -1), answer)
        right = tokens[:, 5:8].expand(2, -1, -1)
    else:
        logits, right = forward(stack.views(flat[1]), model.config, tokens, answer), tokens[:, 5:8]
    each = cross_entropy(logits.flatten(0, -2), right.flatten(), reduction="none")
    each.view(-1, batch * 3).mean(1).sum().backward()
    assert flat.grad is not None
    mine = to_reference(stack.views(flat.grad[1]), model.config)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(mine[name], parameter.grad, rtol=1e-10, atol=1e-13)


def test_models_of_a_stack_may_read_different_tokens(make_model, make_tokens):
    stack = Stack.from_models([make_model(0), make_model(1)])
    tokens = torch.stack([make_tokens(seed=0), make_tokens(seed=1)])
    for i in range(2):
        torch.testing.assert_close(stack.forward(tokens)[i], stack.model(i)(tokens[i]), rtol=1e-5, atol=1e-5)


def test_models_come_out_as_they_went_in(make_model):
    models = [make_model(seed, d_mlp=12) for seed in range(2)]
    stack = Stack.from_models(models)
    assert len(stack) == 2
    for i, model in enumerate(models):
        for name, value in stack.model(i).state_dict().items():
            assert torch.equal(value, model.state_dict()[name])


def test_a_fresh_stack_holds_the_seeds_models(make_model):
    config = make_model().config
    stack = Stack.init(config, (5, 6))
    wanted = Transformer(config, generator=torch.Generator().manual_seed(6))
    assert torch.equal(stack.model(1).blocks[1].attn.W_O, wanted.blocks[1].attn.W_O)


def test_params_are_views_of_the_buffer(make_model):
    stack = Stack.from_models([make_model()])
    stack.flat.zero_()
    assert all(not value.any() for value in stack.params(0).values())


def test_stacks_refuse_what_does_not_fit(make_model):
    model = make_model()
    with pytest.raises(ValueError, match="at least one model"):
        Stack.from_models([])
    with pytest.raises(ValueError, match="must share one config"):
        Stack.from_models([model, make_model(n_layers=1)])
    with pytest.raises(ValueError, match=r"shape \[models, \d+\] for this config, not \[2, 3\]"):
        Stack(model.config, torch.zeros(2, 3))
    state = dict(model.state_dict())
    with pytest.raises(ValueError, match=r"unembed.b_U has shape"):
        Stack.empty(model.config, 1).copy_in(0, state | {"unembed.b_U": torch.zeros(2)})
    del state["unembed.b_U"]
    with pytest.raises(ValueError, match=r"weights are missing: unembed.b_U"):
        Stack.empty(model.config, 1).copy_in(0, state)


@pytest.mark.parametrize("accurate", [True, False])
def test_fast_matmul_is_gated_and_leaves_the_setting(monkeypatch, accurate):
    monkeypatch.setattr(module, "medium_is_accurate", lambda: accurate)
    before = torch.get_float32_matmul_precision()
    with fast_matmul() as used:
        assert used is accurate
        assert torch.get_float32_matmul_precision() == ("medium" if accurate else before)
    assert torch.get_float32_matmul_precision() == before


def test_fast_matmul_inside_fast_matmul_ends_with_the_outer_one():
    tiny = torch.full((4,), 1e-40)
    with fast_matmul():
        with fast_matmul():
            pass
        assert not (tiny * 1.0).any()
    assert (tiny * 1.0).all()


def test_the_gate_measures_an_error():
    module.medium_is_accurate.cache_clear()
    assert module.medium_is_accurate() in (True, False)
