import pytest
import torch
from torch.nn.functional import cross_entropy

from mi_lab.fast import fast_matmul, medium_is_accurate
from mi_lab.forward import exits, large
from mi_lab.model import Transformer, TransformerConfig
from mi_lab.stack import Stack, backward, forward, onednn_pays, stacking_pays, to_reference
from tests.reference import layer_outputs

SHAPES = [
    {"n_layers": 1},
    {"n_layers": 1, "norm": None, "d_mlp": 12},
    {"n_layers": 2, "d_mlp": 12, "act": "gelu"},
    {"n_layers": 3, "n_heads": 1, "d_head": 8, "d_mlp": 12, "d_vocab_out": 4},
]
ANSWERS = [slice(None), slice(4, 7), slice(6, 7), slice(0, 3)]
BATCHES = [3, 20, 100]  # without and with the first layer's table (from 2 * 6 on); with large products


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


@pytest.mark.parametrize("answer", ANSWERS)
@pytest.mark.parametrize("shape", SHAPES)
def test_every_layers_exit_is_its_stream_through_the_final_norm_and_unembedding(
    make_model, make_tokens, shape, answer
):
    models, tokens = [make_model(seed, **shape) for seed in range(2)], make_tokens(3)
    stack = Stack.from_models(models)
    stacked = exits(stack.params(), stack.config, tokens.expand(2, -1, -1), answer)
    assert len(stacked) == stack.config.n_layers
    for i, model in enumerate(models):
        single = exits(stack.params(i), stack.config, tokens, answer)
        for layer, stream in enumerate(layer_outputs(model, tokens)):
            wanted = model.ln_final(stream[:, answer]) @ model.unembed.W_U + model.unembed.b_U
            torch.testing.assert_close(single[layer], wanted, rtol=1e-5, atol=1e-5)
            torch.testing.assert_close(stacked[layer][i], wanted, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(single[-1], model(tokens)[:, answer], rtol=1e-5, atol=1e-5)


def test_the_largest_batch_has_large_products_and_the_others_do_not():
    weight = torch.zeros(8, 6)
    assert [large(torch.zeros(batch, 8, 8), weight) for batch in BATCHES] == [False, False, True]
    assert not large(torch.zeros(100, 8, 8), weight[None])  # a stack's products are batched
    with torch.autocast("cpu", torch.bfloat16):
        assert not large(torch.zeros(100, 8, 8), weight)


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


@pytest.mark.parametrize("medium", [False, True])
def test_a_stack_equals_its_models_on_either_route(make_model, make_tokens, medium):
    """oneDNN gets contiguous copies of the weights: gradients must come back to the buffer all the same."""
    models, tokens, answer = [make_model(seed, d_mlp=12) for seed in range(3)], make_tokens(20), slice(4, 7)
    stack = Stack.from_models(models)
    grad = torch.zeros_like(stack.flat)
    leaves = stack.leaves(grad)
    with fast_matmul(onednn=medium, size=None) as used:
        assert used is (medium and medium_is_accurate())
        logits = forward(leaves, stack.config, tokens.expand(3, -1, -1), answer)
        backward(logits.square().sum(), leaves)
    for i, model in enumerate(models):
        wanted = model(tokens)[:, answer]
        torch.testing.assert_close(logits[i].detach(), wanted.detach(), rtol=1e-5, atol=1e-5)
        wanted.square().sum().backward()
        mine = to_reference(stack.views(grad[i]), stack.config)
        for name, parameter in model.named_parameters():
            torch.testing.assert_close(mine[name], parameter.grad, rtol=1e-3, atol=1e-3)


def test_small_steps_are_stacked_and_large_ones_are_not():
    """The shapes that were measured: see the docstrings of both rules."""
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    sorting = TransformerConfig(n_layers=1, n_heads=2, d_model=96, d_head=48, n_ctx=21, d_vocab=52)
    trees = TransformerConfig(6, 1, 128, 128, n_ctx=64, d_vocab=35, d_mlp=512)
    for config, batch, together in [(sorting, 1, True), (sorting, 16, True), (sorting, 256, False),
                                    (trees, 1, True), (trees, 64, False)]:  # fmt: skip
        assert stacking_pays(config, batch * config.n_ctx, cpu) is together
        assert stacking_pays(config, batch * config.n_ctx, gpu)
    assert not onednn_pays(sorting, 21, 16)
    assert onednn_pays(sorting, 256 * 21, 1)
    assert onednn_pays(trees, 64, 8)
    assert not onednn_pays(trees, 64, 1)
    assert not onednn_pays(TransformerConfig(2, 3, 510, 170, n_ctx=22, d_vocab=15, d_mlp=2040), 22, 4)
