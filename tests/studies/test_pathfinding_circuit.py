"""Measures of the pathfinding study against brute force and planted answers."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from mi_lab.model import Transformer, TransformerConfig
from mi_lab.run import knock_out, run
from mi_lab.studies.pathfinding import circuit as c
from mi_lab.studies.pathfinding import measure as m
from mi_lab.studies.pathfinding import roads
from mi_lab.studies.pathfinding.growth import Grown
from mi_lab.studies.pathfinding.many_goals import ManyGoals
from mi_lab.studies.pathfinding.recipes import recipes
from mi_lab.studies.pathfinding.scrubbing import figure, keys_kept
from mi_lab.studies.pathfinding.task import PathfindingTask

TASK = PathfindingTask(n_nodes=7, order="random")


def tiny(layers=3, std=0.3):
    config = TransformerConfig(
        n_layers=layers, n_heads=1, d_model=24, d_head=24, d_mlp=32, act="gelu",
        n_ctx=TASK.n_ctx, d_vocab=len(TASK.vocab), init_std=std,
    )  # fmt: skip
    return Transformer(config, generator=torch.Generator().manual_seed(3)).eval()


@pytest.fixture(scope="module")
def some():
    return m.trees(TASK, 60)


def lines(some, i):
    """parent as a dict."""
    return {k: int(p) for k, p in enumerate(some.truth["parent"][i]) if p >= 0}


def up(parent, node):
    out = [node]
    while out[-1] in parent:
        out.append(parent[out[-1]])
    return out


def test_relations_are_those_of_the_tree(some):
    relation = c.relations(TASK, some.tokens, some.truth)
    for i in range(30):
        parent = lines(some, i)
        targets = (some.tokens[i, 1 : 3 * TASK.n_edges : 3] - TASK.first_target).tolist()
        for a, x in enumerate(targets):
            for b, y in enumerate(targets):
                if y in up(parent, x):
                    expected = up(parent, x).index(y)
                elif x in up(parent, y):
                    expected = -up(parent, y).index(x)
                else:
                    expected = c.UNRELATED
                assert int(relation[i, a, b]) == expected


def test_attention_by_relation_shares_out_all_attention(some):
    pattern = c.patterns(tiny(), some.tokens)
    relation = c.relations(TASK, some.tokens, some.truth)
    # put all attention of every target on its own source: the table must say so
    planted = torch.zeros_like(pattern)
    edges = torch.arange(TASK.n_edges)
    planted[:, :, :, 3 * edges + 1, 3 * edges] = 1
    found = c.attention_by_relation(TASK, planted, relation, query="target")
    assert torch.equal(found["own source"], torch.ones(60, 3, 1))
    assert found["other"].abs().max() < 1e-6
    assert float(found["parent source"].nan_to_num(0).max()) == 0
    found = c.attention_by_relation(TASK, pattern, relation, query="comma")
    assert (found["other"] >= -1e-5).all()
    assert (found["other"] <= 1 + 1e-5).all()


def test_classes_cover_every_token(some):
    pattern = c.patterns(tiny(), some.tokens, [TASK.root_position])
    mass = c.mass_by_class(TASK, pattern)
    assert torch.allclose(mass.sum(-1), torch.ones(60, 3, 1, 1), atol=1e-5)
    kinds = [c.CLASSES[k] for k in c.token_class(TASK)]
    words = TASK.decode(some.tokens[0])
    assert kinds[:3] == ["source", "target", "comma"]
    assert kinds[TASK.goal_position] == "goal"
    assert kinds[TASK.goal_position - 1 : TASK.root_position] == ["bar", "goal", "colon"]
    assert words.count("|") == 1


def test_attention_to_ancestors_reads_the_right_tokens(some):
    pattern = torch.zeros(60, 1, TASK.n_ctx)
    ancestor, position = some.truth["ancestor"], some.truth["position"]
    for i in range(60):
        if some.truth["length"][i] >= 2:
            pattern[i, 0, position[i, ancestor[i, 1]]] = 0.7
    found = c.to_ancestors(some.truth, pattern, count=3)[:, 0]
    deep = some.truth["length"] >= 2
    assert (found[deep, 1] == 0.7).all()
    assert found[~deep, 1].isnan().all()
    assert (found[:, 0] == 0).all()


def test_composition_finds_a_planted_identity():
    """Bare and target embeddings share directions, layer 0 passes them on: S is diagonal."""
    model = tiny(layers=2)
    with torch.no_grad():
        basis = torch.linalg.qr(torch.randn(24, 24, generator=torch.Generator().manual_seed(0)))[0][:7]
        model.embed.W_E[TASK.first_bare :] = basis
        model.embed.W_E[TASK.first_target : TASK.first_bare] = basis
        eye = torch.eye(24)[None]
        for block in model.blocks:
            for name in ("W_Q", "W_K", "W_V", "W_O"):
                getattr(block.attn, name).copy_(eye)
        model.blocks[0].mlp.W_out.zero_()
    assert torch.equal(c.composition_matrix(model, TASK).argmax(1), torch.arange(7))
    assert (c.composition_matrix(tiny(), TASK).argmax(1) == torch.arange(7)).sum() < 5


def test_masks_of_ancestors_and_descendants(some):
    parent = some.truth["parent"]
    nodes = torch.arange(7).expand(60, -1)
    for k in (0, 1, 3):
        above, below = (f(parent, nodes, k) for f in (roads.ancestors_within, roads.descendants_within))
        assert torch.equal(below, above.transpose(1, 2))
        for i in range(20):
            line = lines(some, i)
            for node in range(7):
                assert above[i, node].nonzero()[:, 0].tolist() == sorted(up(line, node)[: k + 1])


def test_renaming_keeps_shape_places_and_the_fixed(some):
    fixed = roads.ancestors_within(some.truth["parent"], some.truth["goal"], 1)
    other = roads.relabelled(TASK, some.tokens, fixed, generator=torch.Generator().manual_seed(0))
    assert torch.equal(TASK.solve(other), other)
    truth = TASK.variables(other)
    assert torch.equal(truth["length"], some.truth["length"])
    assert torch.equal(truth["goal"], some.truth["goal"])
    assert torch.equal(truth["ancestor"][:, 1], some.truth["ancestor"][:, 1])
    same = (truth["root"] == some.truth["root"])[some.truth["length"] > 1]
    assert same.float().mean() < 0.5
    everything = torch.ones_like(fixed)
    assert torch.equal(
        roads.relabelled(TASK, some.tokens, everything, generator=torch.Generator()), some.tokens
    )


def test_a_memory_of_one_chain_needs_nothing_but_what_stands_above_and_below():
    """In a tree that is one chain every node is an ancestor or descendant: donors equal the question."""
    chain = m.trees(PathfindingTask(n_nodes=7, order="backward", shortest=6), 4)
    found = roads.memory_test(
        tiny(),
        chain.task,
        chain.tokens,
        chain.truth,
        [0, 1],
        "both",
        9,
        generator=torch.Generator().manual_seed(0),
    )
    for recovery in found:
        assert torch.allclose(recovery.difference, recovery.clean, atol=1e-4)


def test_renaming_below_leaves_a_causal_model_unmoved_where_it_cannot_see(some):
    """Backward order, layer 0 replaced in a model whose attention is cut: edges know only themselves."""
    model = tiny()
    with torch.no_grad():
        for block in model.blocks[:2]:
            block.attn.W_O.zero_()
    choice = some.where(roads.with_choice(some.truth))
    generator = torch.Generator().manual_seed(1)
    # without attention in layers 0 and 1 a token holds its own name only, so the edge itself is enough
    for direction, k in (("up", 0), ("down", 9)):
        for recovery in roads.memory_test(
            model, TASK, choice.tokens, choice.truth, [0, 1], direction, k, generator=generator
        ):
            assert torch.allclose(recovery.difference, recovery.clean, atol=1e-4)
    (nothing,) = roads.memory_test(
        model, TASK, choice.tokens, choice.truth, [1], "none", 0, generator=generator
    )
    assert (nothing.difference - nothing.clean).abs().max() > 1e-2


def test_pointer_donors_that_share_everything_change_nothing(some):
    choice = some.where(roads.with_choice(some.truth))
    for recovery in roads.pointer_test(
        tiny(),
        TASK,
        choice.tokens,
        choice.truth,
        [0, 2],
        "down",
        9,
        generator=torch.Generator().manual_seed(0),
    ):
        assert torch.allclose(recovery.difference, recovery.clean, atol=1e-4)


def test_blocking_equals_a_knock_out(some):
    model = tiny()
    queries, keys = m.positions(TASK, "path"), m.positions(TASK, "commas")
    found = m.blocked(model, some, queries, keys, layers=[1, 2])
    tokens = some.tokens[:, : TASK.answer.stop]
    edits = {f"blocks.{i}.attn.scores": knock_out(queries, keys) for i in (1, 2)}
    logits = run(model, tokens, edit=edits).logits[:, TASK.answer]
    assert torch.equal(found, m.right_tokens(TASK, some.tokens, logits))


def test_position_classes_are_the_authors_for_sixteen_nodes():
    task = PathfindingTask()
    assert m.positions(task, "registers") == [36, 38, 39, 41, 42, 44, 45]
    assert m.positions(task, "tail") == [44, 45, 46]
    assert m.positions(task, "commas")[-1] == 44
    with pytest.raises(ValueError, match="token classes are"):
        m.positions(task, "leaves")


def test_evaluation_trees_are_found_among_training_trees_only_if_they_are():
    recipe = recipes["quick"]
    trained = m.training_fingerprints(recipe, 0)
    assert (
        0.5 * recipe.steps * recipe.batch < len(trained) <= recipe.steps * recipe.batch
    )  # small trees recur
    again = recipe.task.sample(32 * recipe.batch, generator=torch.Generator().manual_seed(m.DATA_SEED))
    assert m.among(recipe.task.fingerprint(again), trained).all()
    fresh = m.trees(m.task_of("paper"), 500)
    assert not m.among(fresh.task.fingerprint(fresh.tokens), trained).any()


def test_a_grown_model_was_trained_on_its_donors_trees_too():
    grown = recipes["grown"]
    names = [recipe.name for recipe in m.lineage(grown)]
    assert names[0] == "grown"
    assert {"plateau", "grow_6", "grow_14"} <= set(names)
    assert len(names) == len(set(names))
    short = replace(recipes["waves"], steps=4)
    small = replace(recipes["grow_14"], steps=3, start=None)
    last = replace(grown, steps=2, batch=8, start=Grown((short, small)))
    trained = m.training_fingerprints(last, 0)
    for recipe in (last, short):
        first = recipe.task.sample(32 * recipe.batch, generator=torch.Generator().manual_seed(m.DATA_SEED))
        assert m.among(recipe.task.fingerprint(first)[: recipe.steps * recipe.batch], trained).all()
    assert len(trained) == 4 * 64 + 2 * 8  # trees of 14 nodes are left out


def test_every_goal_of_a_tree_counts_as_trained_on():
    task = ManyGoals(PathfindingTask(n_nodes=8), goals=3)
    recipe = replace(recipes["quick"], task=task, steps=2, batch=8)
    trained = m.training_fingerprints(recipe, 0)
    tokens = task.sample(32 * 8, generator=torch.Generator().manual_seed(m.DATA_SEED))[:16]
    expected = set()
    for row in tokens:
        truth = task.trees.variables(row[None, : task.trees.n_ctx])
        questions = row[task.trees.n_ctx :].view(3, 4)[:, 0] - task.trees.first_bare
        for goal in {int(truth["goal"]), *questions.tolist()}:
            asked = row[None, : task.trees.n_ctx].clone()
            asked[0, task.trees.goal_position] = goal + task.trees.first_bare
            expected.add(int(task.trees.fingerprint(asked)))
    assert set(trained.tolist()) == expected


def test_a_run_with_trees_of_its_own_is_searched_among_those():
    recipe = replace(recipes["paper"], steps=2, batch=8, data=9, start=None)
    trained = m.training_fingerprints(recipe, 0)
    own, same = (
        recipe.task.fingerprint(
            recipe.task.sample(32 * 8, generator=torch.Generator().manual_seed(m.DATA_SEED + data))
        )[:16]
        for data in (9, 0)
    )
    assert m.among(own, trained).all()
    assert not m.among(same, trained).any()


def test_the_scrubbing_figure_has_its_shape_and_its_limits():
    model = m.model("quick", 1)
    found = figure(model, "quick", n=20, pool=400, registers=[15, 17, 18])
    assert found.recovered.shape == found.difference.shape == (4, 2, 3, 6)
    assert found.clean.min() > 0.6
    # keeping all targets and registers loses no more than keeping nothing, on average
    assert found.recovered[2].mean() > found.recovered[0].mean() - 0.05


def test_kept_keys():
    generator = torch.Generator().manual_seed(0)
    registers = [36, 38]
    assert keys_kept(15, "H1", registers, generator) == ()
    assert keys_kept(15, "H2", registers, generator) == (36, 38)
    assert set(keys_kept(15, "H3", registers, generator)) == {36, 38, *range(1, 45, 3)}
    other = keys_kept(15, "seven random keys", registers, generator)
    assert len(other) == 2
    assert not set(other) & {36, 38, *range(1, 45, 3)}


def test_what_each_layer_knows_ends_with_what_the_model_knows():
    model, some = m.model("quick", 1), m.trees(m.task_of("quick"), 300, 5)
    known = m.exact_by_layer(model, some, chunk=70)
    assert len(known) == model.config.n_layers
    assert known[-1] == pytest.approx(float(m.exact(model, some).float().mean()), abs=1e-6)
    assert known[0] < 0.1 < known[-1]  # one layer can't even walk
