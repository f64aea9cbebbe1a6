"""The pathfinding task against brute force: laws of the trees, truth, text, hashes, baselines."""

from __future__ import annotations

import random
from collections import Counter, deque
from dataclasses import replace

import pytest
import torch

from mi_lab.model import Transformer, TransformerConfig
from mi_lab.recipe import describe
from mi_lab.studies import base
from mi_lab.studies.pathfinding.baselines import by_length, success
from mi_lab.studies.pathfinding.task import PathfindingTask

PROMPT = "5>3,0>5,1>2,4>1,4>0|3"


def draw(task, n, seed=0):
    return task.sample(n, generator=torch.Generator().manual_seed(seed))


def edges_of(task, row):
    pairs = row[: 3 * task.n_edges].tolist()
    return [
        (pairs[3 * i] - task.first_bare, pairs[3 * i + 1] - task.first_target) for i in range(task.n_edges)
    ]


def breadth_first(edges):
    """Edges in the forward order, by a queue."""
    children = {}
    for a, b in edges:
        children.setdefault(a, []).append(b)
    root = next(a for a, _ in edges if a not in {b for _, b in edges})
    out, queue = [], deque([root])
    while queue:
        node = queue.popleft()
        for child in sorted(children.get(node, [])):
            out.append((node, child))
            queue.append(child)
    return out


def slow_leaves(rng, n=16):
    """One tree by the law, step by step; returns its number of leaves."""
    length = rng.randint(1, n - 1)
    children = Counter(range(length))  # nodes 0..length are the path
    size = length + 1
    if size < n:
        chain = rng.randint(1, n - size)
        children[0] += 1
        for k in range(chain - 1):
            children[size + k] += 1
        size += chain
    while size < n:
        parent = rng.choice([k for k in range(size) if children[k] < 2 and k != length])
        children[parent] += 1
        size += 1
    return sum(1 for k in range(n) if not children[k])


@pytest.mark.parametrize("n", [6, 8, 16])
def test_every_sample_is_a_tree_with_a_leaf_for_goal_and_the_right_path(n):
    task = PathfindingTask(n_nodes=n)
    tokens = draw(task, 300)
    for row in tokens:
        assert torch.equal(task.encode(task.decode(row).split(":")[0]), row)  # encode checks tree and goal
        assert max(Counter(a for a, _ in edges_of(task, row)).values()) <= 2


def test_the_papers_own_examples():
    small = PathfindingTask(n_nodes=6)
    for text in ("5>3,0>5,1>2,4>1,4>0|3:4>0>5>3", "1>4,2>5,2>1,4>0,5>3|0:2>1>4>0"):
        assert small.decode(small.encode(text)) == text
    task = PathfindingTask()
    text = "5>14,5>3,7>5,7>4,9>7,1>9,1>2,0>11,0>13,12>15,12>1,6>0,6>10,8>12,8>6|3:8>12>1>9>7>5>3"
    tokens = task.encode(text)
    assert task.decode(tokens) == text
    assert len(tokens) == 64
    assert (task.goal_position, task.root_position, task.answer) == (45, 47, slice(47, 63))
    assert len(task.vocab) == 35


def test_path_lengths_are_uniform_and_the_root_has_two_children_as_often_as_the_law_says():
    task = PathfindingTask(order="random")
    truth = task.variables(draw(task, 30_000))
    counts = torch.bincount(truth["length"], minlength=16)[1:].float()
    assert ((counts - 2000).square() / 2000).sum() < 36  # chi-square, 14 degrees of freedom, p < .001
    two = (truth["other"][:, 0] >= 0).float().mean()
    assert abs(two - 14 / 15) < 0.006  # all but P = 15: the second chain hangs off the root


def test_leaves_are_as_many_as_a_slow_generator_makes():
    rng = random.Random(0)
    slow = torch.tensor([slow_leaves(rng) for _ in range(4000)]).float()
    fast = PathfindingTask().variables(draw(PathfindingTask(), 20_000))["leaf"].sum(1).float()
    assert abs(slow.mean() - fast.mean()) < 0.12
    assert abs(slow.std() - fast.std()) < 0.1


def test_orders_are_exact():
    for n in (7, 16):
        forward = PathfindingTask(n_nodes=n, order="forward")
        for row in draw(forward, 150):
            assert edges_of(forward, row) == breadth_first(edges_of(forward, row))
        mixed = PathfindingTask(n_nodes=n)
        tokens = draw(mixed, 200)
        backward = [edges_of(mixed, row) == breadth_first(edges_of(mixed, row))[::-1] for row in tokens]
        assert all(backward[::2])
        assert sum(backward[1::2]) < 5
    random_order = PathfindingTask(order="random")
    places = torch.stack([r[1:45:3].argmax() for r in draw(random_order, 3000)]).float()
    assert abs(places.mean() - 7) < 0.4


def test_random_ties_keep_depth_and_siblings_and_shuffle_the_rest():
    task = PathfindingTask(n_nodes=10, order="backward", ties="random")
    tokens = task.sample(2000, generator=torch.Generator().manual_seed(8))
    depth = task.variables(tokens)["depth"]
    source = tokens[:, 0 : 3 * task.n_edges : 3] - task.first_bare
    levels = depth.gather(1, source)
    assert (levels.diff(dim=1) <= 0).all()  # deepest first
    exact = 0
    for row, at in zip(tokens, source.tolist(), strict=True):
        runs = [node for i, node in enumerate(at) if i == 0 or at[i - 1] != node]
        assert len(runs) == len(set(runs))  # the edges of one source stand together
        exact += edges_of(task, row) == breadth_first(edges_of(task, row))[::-1]
    assert 0 < exact < 1000  # the exact order is one of many
    mixed = PathfindingTask(n_nodes=10, ties="random").sample(400, generator=torch.Generator().manual_seed(8))
    source = mixed[:, 0 : 3 * task.n_edges : 3] - task.first_bare
    sorted_rows = (task.variables(mixed)["depth"].gather(1, source).diff(dim=1) <= 0).all(1)
    assert sorted_rows[::2].all()
    assert sorted_rows[1::2].float().mean() < 0.2


def test_the_authors_label_bias_is_an_option():
    shares = {}
    for labels in ("permuted", "ascending"):
        task = PathfindingTask(labels=labels, order="random")
        truth = task.variables(draw(task, 8000))
        label = torch.arange(16)
        on_path = (truth["path"][:, :, None] == label).any(1)
        parent = truth["parent"]
        off = (parent >= 0) & ~on_path.gather(1, parent.clamp(min=0))  # edges that leave a node off the path
        shares[labels] = float((parent < label)[off].float().mean())
    assert abs(shares["permuted"] - 0.5) < 0.01
    assert 0.57 < shares["ascending"] < 0.595


def test_truth_agrees_with_walking_the_tree():
    task = PathfindingTask(n_nodes=10)
    tokens = draw(task, 120)
    truth = task.variables(tokens)
    for i, row in enumerate(tokens):
        edges = edges_of(task, row)
        parent = {b: a for a, b in edges}
        children = {}
        for a, b in edges:
            children.setdefault(a, []).append(b)
        goal = int(row[task.goal_position]) - task.first_bare
        path = [goal]
        while path[-1] in parent:
            path.append(parent[path[-1]])

        def height(node, children=children):
            return 1 + max(height(c) for c in children[node]) if node in children else 0

        def depth(node, parent=parent):
            return 1 + depth(parent[node]) if node in parent else 0

        assert truth["ancestor"][i, : len(path)].tolist() == path
        assert truth["path"][i, : len(path)].tolist() == path[::-1]
        assert (truth["ancestor"][i, len(path) :] == -1).all()
        assert int(truth["length"][i]) == len(path) - 1
        assert truth["height"][i].tolist() == [height(k) for k in range(10)]
        assert truth["depth"][i].tolist() == [depth(k) for k in range(10)]
        for k in range(10):
            kids = sorted(children.get(k, []))
            assert truth["child"][i, k].tolist() == [*kids, -1, -1][:2]
            assert bool(truth["leaf"][i, k]) == (not kids)
            if k in parent:
                assert int(row[truth["position"][i, k]]) == k + task.first_target
        for step, node in enumerate(path[::-1][:-1]):
            kids = children[node]
            right = path[::-1][step + 1]
            assert bool(truth["branch"][i, step]) == (len(kids) == 2)
            assert int(truth["other"][i, step]) == (sum(kids) - right if len(kids) == 2 else -1)
        first = path[::-1][1]
        other = [c for c in children[path[-1]] if c != first]
        if other:
            assert bool(truth["hard"][i]) == (height(other[0]) >= height(first))


def test_hashes_know_the_question_and_not_its_order():
    task = PathfindingTask(n_nodes=8, order="random")
    row = draw(task, 1)[0]
    edges = edges_of(task, row)
    goal = task.decode(row).split("|")[1].split(":")[0]
    shuffled = ",".join(f"{a}>{b}" for a, b in edges[::-1])
    again = task.encode(f"{shuffled}|{goal}")
    assert not torch.equal(again, row)
    assert torch.equal(task.fingerprint(again[None]), task.fingerprint(row[None]))
    big = PathfindingTask()
    many = big.fingerprint(draw(big, 100_000))
    assert len(many.unique()) > 99_990  # distinct questions, as good as always
    leaves = [k for k in task.variables(row[None])["leaf"][0].nonzero()[:, 0].tolist() if str(k) != goal]
    if leaves:
        other = task.encode(f"{shuffled}|{leaves[0]}")
        assert task.fingerprint(other[None]) != task.fingerprint(row[None])


def test_padding_hidden_goals_and_fixed_trees():
    padded = PathfindingTask(padding=True)
    assert draw(padded, 3).shape == (3, 66)
    assert padded.weights(draw(padded, 3)) is None
    hidden = PathfindingTask(hide_goal=True)
    tokens = draw(hidden, 50)
    assert (tokens[:, hidden.goal_position] == 0).all()
    assert torch.equal(hidden.solve(tokens), tokens)
    shown = PathfindingTask().variables(draw(PathfindingTask(), 50))
    assert torch.equal(hidden.variables(tokens)["goal"], shown["goal"])
    fixed = PathfindingTask(n_nodes=8, trees=64)
    assert len(set(fixed.fingerprint(draw(fixed, 4000)).tolist())) <= 64


def test_a_small_tree_can_be_told_in_the_words_of_a_large_one():
    task, plain = PathfindingTask(n_nodes=6, names=16), PathfindingTask(n_nodes=6)
    large = PathfindingTask()
    assert task.vocab == large.vocab
    assert task.n_ctx == plain.n_ctx == 24
    for order in ("backward", "random", "forward"):
        kind = replace(task, order=order)
        tokens, truth = (rows := draw(kind, 400)), kind.variables(rows)
        for i, row in enumerate(tokens):
            assert torch.equal(kind.encode(kind.decode(row).split(":")[0]), row)  # a tree, and the right path
            edges = edges_of(kind, row)
            used = {k for edge in edges for k in edge}
            assert len(used) == 6
            if order != "random":
                assert edges == (breadth_first(edges) if order == "forward" else breadth_first(edges)[::-1])
            leaves = {k for _, k in edges} - {k for k, _ in edges}
            assert {k for k in range(16) if truth["leaf"][i, k]} == leaves
            assert {k for k in range(16) if truth["parent"][i, k] >= 0} == {k for _, k in edges}
        assert torch.equal(kind.solve(tokens), tokens)
        assert torch.bincount((tokens[:, ::3][:, :5] - kind.first_bare).flatten(), minlength=16).min() > 60
    counts = Counter(truth["length"].tolist())
    assert all(abs(counts[p] - 80) < 45 for p in range(1, 6))
    # labels apart, the law is the plain one's: as many leaves on average
    wanted = plain.variables(draw(plain, 4000))["leaf"].sum(1).float().mean()
    got = task.variables(draw(task, 4000, 1))["leaf"].sum(1).float().mean()
    assert abs(wanted - got) < 0.07
    assert "names" not in describe(plain)
    assert describe(task)["names"] == 16


def test_weights_are_path_and_first_stop():
    task = PathfindingTask(n_nodes=6)
    tokens = task.encode(PROMPT)[None]
    assert task.weights(tokens)[0].tolist() == [1, 1, 1, 1, 0, 0]


def test_one_pass_grades_as_free_running_does():
    task = PathfindingTask(n_nodes=4, order="random")
    config = TransformerConfig(
        n_layers=1, n_heads=1, d_model=16, d_head=16, n_ctx=task.n_ctx, d_vocab=len(task.vocab), init_std=0.7
    )
    for seed in range(6):
        model = Transformer(config, generator=torch.Generator().manual_seed(seed))
        # make a model that is often right: add the right logits to some rows only
        tokens = draw(task, 60, seed)
        free = base.generate(model, task, tokens)
        weights = task.weights(tokens)
        right = ((free == tokens)[:, task.answer.start + 1 :] | (weights == 0)).all(1)
        assert torch.equal(task.grade(model, tokens), right)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("5>3,0>5,1>2,4>1,4>0", "no '|'"),
        ("5>3,0>5,1>2,4>1|3", "5 edges, not 4"),
        ("5>3,0-5,1>2,4>1,4>0|3", "'0-5' is not an edge"),
        ("5>3,0>5,1>2,4>1,4>9|3", "'9' is not a node label from 0 to 5"),
        ("5>3,0>5,1>2,4>1,4>0|x", "'x' is not a node label"),
        ("5>3,0>5,1>5,4>1,4>0|3", "5 has two parents, 0 and 1"),
        ("5>3,5>0,5>1,0>2,0>4|3", "5 has three children"),
        ("5>3,3>5,1>2,4>1,4>0|2", "its own ancestor"),
        ("5>3,0>5,1>2,4>1,4>4|3", "4>4 leads back to itself"),
        ("5>3,0>5,1>2,4>1,4>0|1", "goal must be a leaf, 1 has children"),
        ("5>3,0>5,1>2,4>1,4>0|3:1>2", "root of this tree is 4, not '1'"),
    ],
)
def test_bad_prompts_are_named(text, words):
    with pytest.raises(ValueError, match=words):
        PathfindingTask(n_nodes=6).encode(text)


def test_two_trees_and_a_goal_elsewhere_are_named():
    task = PathfindingTask(n_nodes=4, names=16)
    with pytest.raises(ValueError, match="1 and 7 both have no parent"):
        task.encode("1>2,2>3,7>8|3")
    with pytest.raises(ValueError, match="9 is not in this tree"):
        task.encode("1>2,2>3,1>8|9")


@pytest.mark.parametrize(
    ("knobs", "words"),
    [
        ({"n_nodes": 2}, "between 3 and 48"),
        ({"order": "sideways"}, "'sideways'"),
        ({"labels": "sorted"}, "'sorted'"),
        ({"longest": 16}, "longest = 16"),
        ({"shortest": 5, "longest": 4}, "shortest = 5"),
        ({"trees": 0}, "at least 1"),
        ({"ties": "even"}, "'even'"),
        ({"n_nodes": 6, "names": 5}, "between n_nodes = 6 and 48, not 5"),
    ],
)
def test_bad_knobs_are_named(knobs, words):
    with pytest.raises(ValueError, match=words):
        PathfindingTask(**knobs)


def test_baselines_are_the_dossiers():
    task = PathfindingTask(order="random")
    truth = task.variables(draw(task, 40_000, 5))

    def exact(**knobs):
        return success(truth, **knobs)

    for knobs, value in [
        ({"policy": "random"}, 0.355),
        ({"policy": "lookahead"}, 0.553),
        ({"policy": "deeper"}, 0.565),
        ({"policy": "chain", "climb": 5}, 0.698),
        ({"policy": "chain", "climb": 5, "otherwise": "lookahead"}, 0.803),
        ({"policy": "chain", "climb": 3, "otherwise": "deeper"}, 0.915),
        ({"policy": "chain", "climb": 5, "otherwise": "deeper"}, 0.987),
        ({"policy": "chain", "climb": 6, "otherwise": "deeper"}, 1.0),
    ]:
        assert abs(float(exact(**knobs).mean()) - value) < 0.008, knobs
    by_p = by_length(exact(policy="chain", climb=5, otherwise="deeper"), truth, 15)
    assert abs(by_p[6] - 0.79) < 0.02
    assert (by_p[torch.arange(15) != 6] > 0.999).all()
    with pytest.raises(ValueError, match="policies are"):
        success(truth, "deepest")


def test_random_descent_agrees_with_descending_at_random():
    task = PathfindingTask(n_nodes=8)
    truth = task.variables(draw(task, 500))
    generator = torch.Generator().manual_seed(3)
    right = torch.zeros(500)
    for _ in range(400):
        coin = torch.rand(truth["branch"].shape, generator=generator) < 0.5
        right += (~truth["branch"] | coin).all(1)
    assert (right / 400 - success(truth, "random")).abs().mean() < 0.02


def test_a_task_is_a_value():
    assert replace(PathfindingTask(), n_nodes=8) == PathfindingTask(n_nodes=8)
    assert hash(PathfindingTask()) == hash(PathfindingTask())
