"""Groups of nodes: the same numbers as one full pass per group, whatever the group."""

import random

import pytest
import torch

from mi_lab import groups as engine
from mi_lab.ablate import ablate_group, all_nodes, mean_values, node_values, patch_nodes
from mi_lab.groups import co_located, sweep_groups, sweep_positions
from mi_lab.run import Node, run

SHAPES = {
    "MLP": {"n_layers": 2, "n_heads": 3, "d_mlp": 12},
    "three layers": {"n_layers": 3, "d_mlp": 12, "act": "gelu"},
    "attention only, no norm": {"n_layers": 3, "norm": None, "d_vocab_out": 4},
    "one layer": {"n_layers": 1, "n_heads": 3, "d_mlp": 5},
}
ANSWERS = [slice(4, 7), slice(7, 8), slice(0, 8)]


def some_groups(model, n=30):
    """Random groups of 0 to 5 nodes, anywhere, and all pairs of heads in one place."""
    rng, nodes = random.Random(0), all_nodes(model.config)
    return [tuple(rng.sample(nodes, i % 6)) for i in range(n)] + co_located(nodes, 2)


def worst(sweep, model, tokens, values, answer):
    return max(
        (run(model, tokens, edit={n: values.of(n) for n in group}).logits[:, answer] - changed)
        .abs()
        .max()
        .item()
        for group, changed in zip(sweep.groups, sweep.changed)
    )


@pytest.mark.parametrize("answer", ANSWERS, ids=str)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_interchange_equals_full_recomputation(make_model, make_tokens, shape, answer):
    model, tokens, donors = make_model(**shape), make_tokens(), make_tokens(seed=1)
    sweep = sweep_groups(model, tokens, some_groups(model), answer=answer, donors=donors)
    assert worst(sweep, model, tokens, node_values(model, donors), answer) <= 1e-5
    torch.testing.assert_close(sweep.clean, run(model, tokens).logits[:, answer], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_means_are_over_the_reference(make_model, make_tokens, shape):
    model, tokens, reference = make_model(**shape), make_tokens(), make_tokens(9, seed=2)
    chosen = some_groups(model)
    sweep = sweep_groups(model, tokens, chosen, answer=slice(3, 7), reference=reference)
    assert worst(sweep, model, tokens, mean_values(model, reference), slice(3, 7)) <= 1e-5
    own = sweep_groups(model, tokens, chosen, answer=slice(3, 7), value=mean_values(model, reference))
    torch.testing.assert_close(own.changed, sweep.changed)


def test_zero_and_reduce_are_those_of_ablate_group(make_model, make_tokens):
    model, tokens = make_model(d_mlp=12), make_tokens()
    chosen = some_groups(model, 12)
    sweep = sweep_groups(model, tokens, chosen, answer=slice(4, 7), value="zero", reduce="loss")
    wanted = [ablate_group(model, tokens, g, answer=slice(4, 7), value="zero", reduce="loss") for g in chosen]
    torch.testing.assert_close(sweep.changed, torch.stack(wanted), rtol=1e-5, atol=1e-5)
    assert sweep.effect.shape == sweep.changed.shape


def test_single_nodes_are_those_of_patch_nodes(make_model, make_tokens):
    model, tokens, donors = make_model(d_mlp=12), make_tokens(), make_tokens(seed=1)
    one = patch_nodes(model, tokens, donors, answer=slice(4, 7))
    many = sweep_groups(model, tokens, [(n,) for n in one.nodes], answer=slice(4, 7), donors=donors)
    torch.testing.assert_close(many.changed, one.changed, rtol=1e-5, atol=1e-5)


def test_memory_decides_the_batches_not_the_result(make_model, make_tokens, monkeypatch):
    model, tokens, donors = make_model(d_mlp=12), make_tokens(), make_tokens(seed=1)
    chosen = some_groups(model)
    whole = sweep_groups(model, tokens, chosen, answer=slice(4, 7), donors=donors).changed
    monkeypatch.setattr(engine, "CHUNK_FLOATS", 300)
    parts = sweep_groups(model, tokens, chosen, answer=slice(4, 7), donors=donors).changed
    torch.testing.assert_close(parts, whole, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("floats", [engine.CHUNK_FLOATS, 100])
def test_a_prepared_sweep_makes_its_runs_once_if_they_are_few(make_model, make_tokens, monkeypatch, floats):
    model, tokens, donors = make_model(d_mlp=12), make_tokens(6), make_tokens(6, seed=1)
    monkeypatch.setattr(engine, "CHUNK_FLOATS", floats)
    made = []
    clean = engine._Engine.clean
    monkeypatch.setattr(
        engine._Engine, "clean", lambda self, rows: made.append(len(rows)) or clean(self, rows)
    )
    chosen = some_groups(model)
    prepared = engine.Prepared(model, tokens, answer=slice(4, 7), donors=donors)
    first, second = prepared.sweep(chosen[:2]), prepared.sweep(chosen, reduce="loss")
    again = 1 if floats > 100 else 2  # too many chunks are not kept
    assert sum(made) == 2 * len(tokens) * again
    assert torch.equal(
        first.changed, sweep_groups(model, tokens, chosen[:2], answer=slice(4, 7), donors=donors).changed
    )
    wanted = sweep_groups(model, tokens, chosen, answer=slice(4, 7), donors=donors, reduce="loss")
    assert torch.equal(second.changed, wanted.changed)


def test_the_empty_group_and_one_behind_the_answer_change_nothing(make_model, make_tokens):
    model, tokens = make_model(), make_tokens()
    sweep = sweep_groups(
        model, tokens, [(), (Node(0, 0, 7), Node(1, 1, 6))], answer=slice(3, 5), value="zero"
    )
    assert torch.equal(sweep.changed[0], sweep.clean)
    assert torch.equal(sweep.changed[1], sweep.clean)


@pytest.mark.parametrize("answer", ANSWERS, ids=str)
def test_positions_equal_an_edit_of_every_layers_residual(make_model, make_tokens, answer):
    model, tokens, reference = make_model(n_layers=3, d_mlp=12), make_tokens(), make_tokens(9, seed=2)
    names = [f"blocks.{layer}.resid_post" for layer in range(3)]
    means = run(model, reference, record=names)

    def overwrite(name, p):
        def edit(x):
            x = x.clone()
            x[:, p] = means[name].mean(0)[p]
            return x

        return edit

    found = sweep_positions(model, tokens, answer=answer, reference=reference)
    for p in range(8):
        edit = {name: overwrite(name, p) for name in names}
        wanted = run(model, tokens, edit=edit).logits[:, answer]
        torch.testing.assert_close(found[p], wanted, rtol=1e-5, atol=1e-5)


def test_co_located_heads_are_in_order_and_leave_mlps_out():
    nodes = [Node(0, 2, 4), Node(0, 0, 4), Node(0, None, 4), Node(1, 0, 4), Node(0, 1, 5)]
    assert co_located(nodes, 2) == [(Node(0, 0, 4), Node(0, 2, 4))]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"groups": [(Node(0, 1),)]}, "P?L0H1 is at all positions"),
        ({"groups": [(Node(5, 1, 2),)]}, "layers are 0..1"),
        (
            {"groups": [(Node(0, 1, 2),)], "donors": torch.zeros(2, 8, dtype=torch.long)},
            "must have the shape",
        ),
        ({"groups": [(Node(0, 1, 2),)], "value": "median"}, "not 'median'"),
        ({"groups": [(Node(0, 1, 2),)], "answer": slice(5, 5)}, "picks no run of positions"),
    ],
)
def test_bad_input_is_named(make_model, make_tokens, options, message):
    with pytest.raises(ValueError, match=message):
        sweep_groups(make_model(), make_tokens(), **({"answer": slice(4, 7)} | options))


def test_a_position_that_is_not_there_is_named(make_model, make_tokens):
    with pytest.raises(ValueError, match=r"position 8 is outside 0..7"):
        sweep_positions(make_model(), make_tokens(), [8], answer=slice(4, 7))
