import pytest
import torch
from torch.nn.functional import cross_entropy

from mi_lab import ablate_engine
from mi_lab.ablate import (
    Values,
    ablate_group,
    all_nodes,
    mean_values,
    node_values,
    patch_nodes,
    sweep_nodes,
)
from mi_lab.run import Node, run

SHAPES = {
    "attention only": {"n_layers": 2},
    "one layer": {"n_layers": 1, "n_heads": 3},
    "one layer with MLP": {"n_layers": 1, "d_mlp": 12},
    "MLP": {"n_layers": 2, "d_mlp": 12},
    "gelu, one head": {"n_layers": 2, "n_heads": 1, "d_head": 8, "d_mlp": 12, "act": "gelu"},
    "no norm": {"n_layers": 2, "d_mlp": 12, "norm": None, "init_std": 0.15},
    "three layers": {"n_layers": 3, "d_mlp": 12},
    "three layers, attention only, no norm": {"n_layers": 3, "norm": None, "d_vocab_out": 4},
    "four layers": {"n_layers": 4, "n_heads": 1, "d_mlp": 5},
}
ANSWERS = [slice(4, 7), slice(7, 8), slice(2, 3), slice(0, 8)]


def worst(sweep, model, tokens, values, answer):
    """Largest difference from one full forward pass per node."""
    return max(
        (run(model, tokens, edit={node: values.of(node)}).logits[:, answer] - changed).abs().max().item()
        for node, changed in zip(sweep.nodes, sweep.changed)
    )


@pytest.mark.parametrize("answer", ANSWERS, ids=str)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_sweep_equals_full_recomputation(make_model, make_tokens, shape, answer):
    model, tokens = make_model(**shape), make_tokens()
    sweep = sweep_nodes(model, tokens, answer=answer)
    assert sweep.nodes == all_nodes(model.config)
    assert worst(sweep, model, tokens, mean_values(model, tokens), answer) <= 1e-5
    torch.testing.assert_close(sweep.clean, run(model, tokens).logits[:, answer], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_patching_equals_full_recomputation(make_model, make_tokens, shape):
    model, tokens, donors = make_model(**shape), make_tokens(), make_tokens(seed=1)
    sweep = patch_nodes(model, tokens, donors, answer=slice(3, 7), chunk=2)
    assert worst(sweep, model, tokens, node_values(model, donors), slice(3, 7)) <= 1e-5


def test_float64_sweep_equals_full_recomputation(make_model, make_tokens):
    model, tokens = make_model(d_mlp=12, n_layers=3).double(), make_tokens()
    sweep = sweep_nodes(model, tokens, answer=slice(4, 7))
    assert sweep.changed.dtype == torch.float64
    assert worst(sweep, model, tokens, mean_values(model, tokens), slice(4, 7)) <= 1e-12


def test_nodes_are_swept_in_the_order_asked_for(make_model, make_tokens):
    model, tokens = make_model(d_mlp=12), make_tokens()
    nodes = [Node.parse(n) for n in ("P6L1H0", "P2L0MLP", "P7L1MLP", "P2L0H1", "P2L0H1", "P0L1H0", "P6L0H0")]
    sweep = sweep_nodes(model, tokens, nodes, answer=slice(4, 7))
    assert sweep.nodes == tuple(nodes)
    assert worst(sweep, model, tokens, mean_values(model, tokens), slice(4, 7)) <= 1e-5
    torch.testing.assert_close(sweep.of(nodes[3]), sweep.changed[4])


def test_a_node_that_no_answer_can_read_has_no_effect(make_model, make_tokens):
    sweep = sweep_nodes(make_model(d_mlp=12), make_tokens(), answer=slice(4, 6), value="zero")
    for node, effect in zip(sweep.nodes, sweep.effect):
        blind = node.position > 5 or (node.layer == 1 and node.position < 4)
        assert (effect == 0).all() == blind, node


def test_patching_a_question_with_itself_changes_nothing(make_model, make_tokens):
    tokens = make_tokens()
    sweep = patch_nodes(make_model(d_mlp=12), tokens, tokens, answer=slice(4, 7))
    torch.testing.assert_close(sweep.effect, torch.zeros_like(sweep.effect), rtol=0, atol=1e-5)


@pytest.mark.parametrize("chunk", [1, 2, 5, 100])
def test_groups_of_questions_do_not_change_the_result(make_model, make_tokens, chunk):
    model, tokens = make_model(d_mlp=12), make_tokens()
    whole = sweep_nodes(model, tokens, answer=slice(4, 7)).changed
    parts = sweep_nodes(model, tokens, answer=slice(4, 7), chunk=chunk).changed
    torch.testing.assert_close(parts, whole, rtol=1e-5, atol=1e-5)


def test_memory_decides_the_groups(make_model, make_tokens, monkeypatch):
    model, tokens = make_model(d_mlp=12), make_tokens()
    seen = []
    clean = ablate_engine.Engine.clean
    monkeypatch.setattr(
        ablate_engine.Engine, "clean", lambda self, rows: seen.append(len(rows)) or clean(self, rows)
    )
    for floats, most in ((2000, 1), (20_000, len(tokens))):
        monkeypatch.setattr(ablate_engine, "CHUNK_FLOATS", floats)
        engine = ablate_engine.Engine(model, tokens, slice(4, 7), None)
        assert torch.equal(torch.cat([rows for _, rows in engine.chunks(engine.whole)]), tokens)
        seen.clear()
        parts = sweep_nodes(model, tokens, answer=slice(4, 7), value="zero")
        assert max(seen) <= most
        assert sum(seen) == len(tokens)
        wanted = sweep_nodes(model, tokens, answer=slice(4, 7), value="zero", chunk=len(tokens))
        torch.testing.assert_close(parts.changed, wanted.changed, rtol=1e-5, atol=1e-5)


def test_positions_that_are_taken_together():
    assert ablate_engine._blocks([0, 1, 2, 3, 4, 7], 3, 9) == [range(3), range(3, 5), range(7, 8)]
    assert ablate_engine._blocks([0, 1, 2, 3, 4, 5], 4, 2) == [range(2), range(2, 4), range(4, 6)]
    assert ablate_engine._blocks([], 4, 2) == []
    assert ablate_engine._blocks([5, 9], 1, 0) == [range(5, 6), range(9, 10)]


@pytest.mark.parametrize("abreast", [1, 2, 3, 8])
def test_how_many_positions_are_taken_together_is_nothing_to_the_result(
    make_model, make_tokens, monkeypatch, abreast
):
    model, tokens = make_model(d_mlp=12, n_layers=3), make_tokens()
    monkeypatch.setattr(ablate_engine, "ABREAST", abreast)
    sweep = sweep_nodes(model, tokens, answer=slice(4, 7))
    monkeypatch.setattr(ablate_engine, "ABREAST", 4)
    wanted = sweep_nodes(model, tokens, answer=slice(4, 7))
    torch.testing.assert_close(sweep.changed, wanted.changed, rtol=1e-5, atol=1e-5)
    before = torch.tensor([[answer < (node.position or 0) for answer in range(4, 7)] for node in sweep.nodes])
    assert before.any()
    assert (sweep.effect.abs().amax((1, 3))[before] == 0).all()  # to the last bit


def test_the_mean_is_over_the_reference(make_model, make_tokens):
    model, tokens, reference = make_model(d_mlp=12), make_tokens(), make_tokens(7, seed=3)
    sweep = sweep_nodes(model, tokens, answer=slice(4, 7), reference=reference, chunk=2)
    z = run(model, reference, record="blocks.1.attn.z")["blocks.1.attn.z"].mean(0)
    wanted = run(model, tokens, edit={"P4L1H0": z[4, 0]}).logits[:, 4:7]
    torch.testing.assert_close(sweep.of(Node(1, 0, 4)), wanted, rtol=1e-5, atol=1e-5)


def test_zero_is_zero(make_model, make_tokens):
    model, tokens = make_model(d_mlp=12), make_tokens()
    sweep = sweep_nodes(model, tokens, answer=slice(4, 7), value="zero")
    for name in ("P3L0H1", "P3L0MLP", "P5L1H0"):
        wanted = run(model, tokens, edit={name: 0.0}).logits[:, 4:7]
        torch.testing.assert_close(sweep.of(Node.parse(name)), wanted, rtol=1e-5, atol=1e-5)


def test_resampling_takes_another_questions_value(make_model, make_tokens):
    model, tokens = make_model(d_mlp=12), make_tokens(4)
    generator = torch.Generator().manual_seed(0)
    sweep = sweep_nodes(model, tokens, answer=slice(4, 7), value="resample", generator=generator)
    values, node = node_values(model, tokens), Node(0, 1, 2)
    for row in range(4):
        candidates = run(model, tokens[[row] * 4], edit={node: values.of(node)}).logits[:, 4:7]
        near = (candidates - sweep.of(node)[row]).abs().amax((1, 2)) < 1e-5
        assert near.sum() == 1
        assert not near[row]  # never its own


def test_resampling_is_decided_by_the_generator(make_model, make_tokens):
    def sweep(seed, **options):
        generator = torch.Generator().manual_seed(seed)
        options |= {"value": "resample", "generator": generator}
        return sweep_nodes(make_model(), make_tokens(), answer=slice(4, 7), **options).changed

    reference = make_tokens(9, seed=4)
    assert torch.equal(sweep(1), sweep(1))
    assert not torch.equal(sweep(1), sweep(2))
    assert not torch.equal(sweep(1, reference=reference), sweep(1))


def test_loss_and_correct_are_of_the_next_token(make_model, make_tokens):
    model, tokens, answer = make_model(), make_tokens(), slice(4, 7)
    full = sweep_nodes(model, tokens, answer=answer)
    loss = sweep_nodes(model, tokens, answer=answer, reduce="loss")
    correct = sweep_nodes(model, tokens, answer=answer, reduce="correct")
    right = tokens[:, 5:8]
    wanted = cross_entropy(full.clean.flatten(0, 1), right.flatten(), reduction="none").view(5, 3)
    torch.testing.assert_close(loss.clean, wanted)
    assert loss.effect.shape == (32, 5, 3)
    assert torch.equal(correct.changed, full.changed.argmax(-1) == right)


def test_any_function_can_reduce(make_model, make_tokens):
    model, tokens = make_model(), make_tokens()
    sweep = sweep_nodes(model, tokens, answer=slice(4, 7), reduce=lambda logits, tokens: logits[..., 0, 2])
    full = sweep_nodes(model, tokens, answer=slice(4, 7))
    torch.testing.assert_close(sweep.changed, full.changed[..., 0, 2])


def test_a_group_is_replaced_at_once(make_model, make_tokens):
    model, tokens = make_model(d_mlp=12), make_tokens()
    nodes, mean = [Node(0, 0), Node(1, None, 5), Node(1, 1, 4)], mean_values(model, tokens)
    wanted = run(model, tokens, edit={node: mean.of(node) for node in nodes}).logits[:, 4:7]
    got = ablate_group(model, tokens, nodes, answer=slice(4, 7))
    torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-5)
    one = ablate_group(model, tokens, nodes[1:2], answer=slice(4, 7), reduce="loss")
    sweep = sweep_nodes(model, tokens, nodes[1:2], answer=slice(4, 7), reduce="loss")
    torch.testing.assert_close(one, sweep.changed[0], rtol=1e-5, atol=1e-5)


def test_an_empty_group_is_the_clean_model(make_model, make_tokens):
    model, tokens = make_model(), make_tokens()
    torch.testing.assert_close(ablate_group(model, tokens, []), model(tokens).detach())


def test_values_of_ones_own_can_be_given(make_model, make_tokens):
    model, tokens = make_model(d_mlp=12), make_tokens()
    mean = mean_values(model, tokens)
    twice = Values(mean.z * 2, mean.post * 2)
    sweep = sweep_nodes(model, tokens, answer=slice(4, 7), value=twice)
    assert worst(sweep, model, tokens, twice, slice(4, 7)) <= 1e-5


def test_a_known_copying_head_is_found_and_an_idle_one_is_not(make_model, make_tokens):
    """A model by hand: head 0 looks at itself and copies the token, head 1 writes nothing."""
    model = make_model(n_layers=1, d_model=6, d_head=6, norm=None).requires_grad_(False)
    for parameter in model.parameters():
        parameter.zero_()
    attn = model.blocks[0].attn
    model.embed.W_E.copy_(torch.eye(6))
    attn.W_Q[0], attn.W_K[0], attn.W_V[0], attn.W_O[0] = (torch.eye(6) * x for x in (30, 30, 1, 1))
    model.unembed.W_U.copy_(torch.eye(6))
    tokens = make_tokens()
    sweep = sweep_nodes(model, tokens, answer=slice(0, 8), value="zero")
    own = sweep.changed.gather(-1, tokens.expand(16, 5, 8).unsqueeze(-1)).squeeze(-1)
    for node, logit in zip(sweep.nodes, own):
        wanted = torch.full((5, 8), 2.0)
        if node.head == 0:
            wanted[:, node.position] = 1.0  # what the embedding alone says
        torch.testing.assert_close(logit, wanted)


def test_a_grid_has_a_place_for_every_node(make_model, make_tokens):
    sweep = sweep_nodes(make_model(d_mlp=12), make_tokens(), answer=slice(4, 7), reduce="loss")
    grid = sweep.grid(sweep.effect.mean((1, 2)))
    assert grid.shape == (2, 3, 8)
    assert grid[0, 2, 3] == sweep.effect[sweep.nodes.index(Node(0, None, 3))].mean()
    assert not grid.isnan().any()
    some = sweep_nodes(make_model(), make_tokens(), [Node(0, 1, 2)], answer=slice(4, 7), reduce="loss")
    assert some.grid(torch.ones(1)).isnan().sum() == 2 * 3 - 1
    with pytest.raises(ValueError, match=r"one number for each of 1 nodes is needed, not \[2\]"):
        some.grid(torch.ones(2))
    with pytest.raises(ValueError, match="node L0H0 is not in this sweep of 1 nodes"):
        some.of(Node(0, 0))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"nodes": [Node(2, 0, 0)]}, "node P0L2H0: the model's layers are 0..1"),
        ({"nodes": [Node(0, 0)]}, "node L0H0 is at all positions: use ablate_group"),
        ({"answer": slice(5, 5)}, "answer .* picks no run of positions"),
        ({"answer": slice(0, 8, 2)}, "picks no run of positions"),
        ({"value": "median"}, "value must be 'mean', 'zero', 'resample' or Values, not 'median'"),
        ({"value": "resample"}, "value='resample' draws at random: give it generator="),
        ({"reduce": "accuracy"}, "reduce must be None, 'loss', 'correct' or a function, not 'accuracy'"),
        (
            {"reduce": "loss", "answer": slice(4, 8)},
            "position 7 predicts token 8, which the sequences do not",
        ),
        ({"reference": torch.zeros(2, 5, dtype=torch.long)}, r"reference must be Int\[n, 8\] as the tokens"),
        ({"chunk": 0}, "chunk must be at least 1 question, not 0"),
        (
            {"value": Values(torch.zeros(2, 1, 8, 2, 4), torch.zeros(2, 1, 8, 0))},
            r"values.z must have shape \[2, 5, 8, 2, 3\], not \[2, 1, 8, 2, 4\]",
        ),
    ],
)
def test_what_cannot_be_swept_is_refused(make_model, make_tokens, options, message):
    options = {"answer": slice(4, 7)} | options
    with pytest.raises(ValueError, match=message):
        sweep_nodes(make_model(), make_tokens(), **options)


def test_donors_must_match_the_questions(make_model, make_tokens):
    with pytest.raises(ValueError, match=r"donors must have the shape of tokens \[5, 8\], not \[4, 8\]"):
        patch_nodes(make_model(), make_tokens(), make_tokens(4), answer=slice(4, 7))
    with pytest.raises(ValueError, match="token 9 is outside"):
        patch_nodes(make_model(), make_tokens(), make_tokens() * 0 + 9, answer=slice(4, 7))


def test_a_lone_question_has_nothing_to_be_resampled_from(make_model, make_tokens):
    generator = torch.Generator()
    with pytest.raises(ValueError, match="needs a second question, or a reference"):
        sweep_nodes(make_model(), make_tokens(1), answer=slice(4, 7), value="resample", generator=generator)
