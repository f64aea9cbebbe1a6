"""Visible checks for the chapter's exercises. Each raises AssertionError with a hint, or says that it holds.

A check compares a reader's function with an independent computation on models and trees that the
reader didn't see.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise

import torch
from torch import Tensor

from mi_lab.model import Transformer
from mi_lab.run import run
from mi_lab.studies.pathfinding import measure
from mi_lab.studies.pathfinding.baselines import success
from mi_lab.studies.pathfinding.listing import relisted
from mi_lab.studies.pathfinding.task import PathfindingTask
from mi_lab.studies.pathfinding.taught import Taught


def _said(text: str) -> str:
    print(text)
    return text


def check_path(path: Callable[[list[tuple[int, int]], int], Sequence[int]]) -> str:
    """`path(edges, goal)`: the nodes from the root to the goal, edges as (source, target) pairs."""
    task = PathfindingTask(order="random")
    some = measure.trees(task, 40, 71)
    for row, right, length in zip(some.tokens, some.truth["path"], some.truth["length"], strict=True):
        pairs = [
            (int(row[3 * i]) - task.first_bare, int(row[3 * i + 1]) - task.first_target)
            for i in range(task.n_edges)
        ]
        goal = int(row[task.goal_position]) - task.first_bare
        mine, expected = list(path(pairs, goal)), right[: int(length) + 1].tolist()
        assert mine == expected, (
            f"for {task.decode(row).split(':')[0]} the path is {expected}, you say {mine}. "
            "Hint: every node but the root is the target of exactly one edge; climb."
        )
    return _said("Right: forty paths found by climbing from the goal.")


def check_random_descent(chance: Callable[[Tensor], Tensor]) -> str:
    """`chance(branch)`: probability that a random descent is right, from Bool[n, step] "is there a choice"."""
    truth = measure.trees(PathfindingTask(), 3000, 72).truth
    mine, right = torch.as_tensor(chance(truth["branch"])).float(), success(truth, "random")
    assert mine.shape == right.shape, (
        f"one probability per tree: shape {list(right.shape)}, not {list(mine.shape)}"
    )
    gap = float((mine - right).abs().max())
    assert gap < 1e-5, f"off by up to {gap:.3g}. Hint: a half for every real choice, 1 where there is none"
    return _said(f"Right: {float(right.mean()):.1%} of whole paths, without looking at the goal.")


def check_positions(positions: Callable[[int], tuple[int, int, int]]) -> str:
    """`positions(n)`: where the last target, the goal and the root stand in a prompt of n nodes."""
    for n in (6, 8, 16):
        task = PathfindingTask(n_nodes=n)
        right = (3 * (task.n_edges - 1) + 1, task.goal_position, task.root_position)
        mine = tuple(positions(n))
        assert mine == right, f"for n = {n} they stand at {right}, you say {mine}. Hint: edge i begins at 3i"
    return _said("Right: (3n - 5, 3n - 3, 3n - 1).")


def check_attention(attended: Callable[[Tensor, dict, int], Tensor]) -> str:
    """`attended(pattern, truth, k)`: mean attention of the root token to `>anc_k`, [layer].

    pattern [n, layer, key]; only trees whose path has more than k edges count.
    """
    model, some = measure.model("quick", 1), measure.trees(measure.task_of("quick"), 200, 73)
    root = some.task.root_position
    seen = run(model, some.tokens[:, : root + 1], record="blocks.*.attn.pattern").recorded.values()
    pattern = torch.stack([p[:, 0, root] for p in seen], 1)
    for k in (0, 1, 2):
        right = measure.ancestors_attended(model, some, count=k + 1)[:, :, k].nanmean(0)
        mine = torch.as_tensor(attended(pattern, dict(some.truth), k))
        assert mine.shape == right.shape, f"one number per layer, not {list(mine.shape)}"
        gap = float((mine - right).abs().max())
        assert gap < 1e-4, (
            f"k = {k}: differs by up to {gap:.3g}. Hint: `truth['ancestor'][:, k]` names the node, "
            "`truth['position']` says where its target token stands; leave out trees where it is the root"
        )
    return _said("Right. Small numbers: this model has no deduction heads.")


def check_block(blocked: Callable[[Transformer, Tensor, list[int], list[int]], Tensor]) -> str:
    """`blocked(model, tokens, queries, keys)`: logits when, in layers 1.., queries can't see keys."""
    model, some = measure.model("quick", 0), measure.trees(measure.task_of("quick"), 30, 74)
    task = some.task
    queries, keys = measure.positions(task, "path"), measure.positions(task, "targets")

    def edit(scores: Tensor) -> Tensor:
        scores = scores.clone()
        scores[:, :, torch.tensor(queries)[:, None], torch.tensor(keys)] = -torch.inf
        return scores

    tokens = some.tokens[:, : task.answer.stop]
    right = run(model, tokens, edit={f"blocks.{i}.attn.scores": edit for i in range(1, 3)}).logits
    mine = blocked(model, tokens, queries, keys)
    assert mine.shape == right.shape, (
        f"logits of shape {list(right.shape)} are wanted, not {list(mine.shape)}"
    )
    gap = float((mine - right)[:, task.answer].abs().max())
    assert gap < 1e-3, (
        f"differs by up to {gap:.3g}. Hint: -inf before the softmax ('attn.scores'), layers 1 and up, all heads"
    )
    return _said("Right: a knock-out before the softmax, so that attention goes elsewhere.")


def check_donors(donors: Callable[[Tensor, Tensor], Tensor]) -> str:
    """`donors(key, pool_key)`: for each question the index of a random donor with the same key."""
    generator = torch.Generator().manual_seed(75)
    key, pool = (torch.randint(12, (size,), generator=generator) for size in (400, 900))
    first, second = torch.as_tensor(donors(key, pool)), torch.as_tensor(donors(key, pool))
    assert first.shape == key.shape, f"one donor for each of {len(key)} questions, not {list(first.shape)}"
    assert (pool[first] == key).all(), "some donor has another key than its question"
    used = len(set(first.tolist()) | set(second.tolist()))
    assert used > 200, (
        f"only {used} of 900 donors are ever drawn: a test needs *random* donors among the equals"
    )
    return _said("Right: equal keys, and chosen at random among the equals.")


def check_beat_the_shortcut(prompt: Callable[[], str]) -> str:
    """`prompt()`: a tree of 16 nodes on which "climb five levels, else go deeper" can go wrong."""
    task = PathfindingTask()
    tokens = task.encode(prompt())[None]
    chance = float(success(task.variables(tokens), "chain", climb=5, otherwise="deeper")[0])
    assert chance < 1, (
        "the shortcut always finds this path. Hint: the goal must be seven steps away and the other side of the "
        "root as deep"
    )
    model = measure.model("paper", 0)
    found = bool(task.grade(model, tokens)[0])
    return _said(
        f"The shortcut is right with probability {chance:.2f}; the model is {'right' if found else 'wrong'}."
    )


def check_relabel(relabel: Callable[[str, dict[int, int]], str]) -> str:
    """`relabel(prompt, name)`: the prompt with every node k renamed name[k]."""
    task = replace(PathfindingTask(), n_nodes=8)
    some = measure.trees(task, 20, 76)
    generator = torch.Generator().manual_seed(76)
    for row in some.tokens:
        name = torch.randperm(8, generator=generator).tolist()
        text = task.decode(row).split(":")[0]
        mine = relabel(text, dict(enumerate(name)))
        new = task.encode(mine)[None]
        truth, old = task.variables(new), task.variables(row[None])
        path = [name[k] for k in old["path"][0].tolist() if k >= 0]
        assert [k for k in truth["path"][0].tolist() if k >= 0] == path, f"{text} became {mine}: another path"
        edges = [tuple(map(int, e.split(">"))) for e in text.split("|")[0].split(",")]
        renamed = [tuple(map(int, e.split(">"))) for e in mine.split("|")[0].split(",")]
        assert renamed == [(name[a], name[b]) for a, b in edges], "the edges must keep their places"
    return _said("Right: same shape, same places, other names. That is all a donor of the road test is.")


def check_relist(relist: Callable[[list[tuple[int, int]], list[int]], list[tuple[int, int]]]) -> str:
    """`relist(edges, path)`: the edges, those of the path from the goal up in the places that they share."""
    task = PathfindingTask(order="random", shortest=3, longest=6)
    some = measure.trees(task, 200, 77)
    right = relisted(some, deepest_first=True)
    mine = right.clone()
    for row, tokens in enumerate(some.tokens):
        words = task.decode(tokens).split("|")[0].split(",")
        edges = [(int(a), int(b)) for a, b in (word.split(">") for word in words)]
        path = [k for k in some.truth["path"][row].tolist() if k >= 0]
        answer = [tuple(map(int, edge)) for edge in relist(list(edges), list(path))]
        assert sorted(answer) == sorted(edges), f"the same {len(edges)} edges are wanted, not {answer}"
        on_path = set(pairwise(path))
        for before, after in zip(edges, answer, strict=True):
            assert before == after or before in on_path, (
                f"{before} is not on the path {path}, it stays where it is"
            )
        listed = [edge for edge in answer if edge in on_path]
        wanted = [*pairwise(path)][::-1]
        assert listed == wanted, f"the path {path} from the goal up is {wanted}, not {listed}"
        for i, (a, b) in enumerate(answer):
            mine[row, 3 * i], mine[row, 3 * i + 1] = a + task.first_bare, b + task.first_target
    root, model = task.root_position, measure.model("paper", 0)
    shares = []
    for tokens in (some.tokens, mine):
        found = measure.logits(model, tokens, slice(root, root + 1))[:, 0].argmax(-1)
        shares.append(float((found == tokens[:, root + 1]).float().mean()))
    return _said(
        f"Right. First steps of `paper` on these trees: {shares[0]:.0%} as they were drawn, {shares[1]:.0%} listed so."
    )


def check_lesson(lesson: Callable[[list[int], int], Sequence[int]]) -> str:
    """`lesson(path, layer)`: the node that this layer is to name at each node of the path but the goal."""
    task = Taught(n_nodes=10, order="random")
    some, model = measure.trees(task, 200, 78), measure.model("taught", 0)
    aims = task.aims(some.tokens, model.config.n_layers - 1)
    for layer, rows in enumerate(aims):
        for row, way in zip(rows, some.truth["path"].tolist(), strict=True):
            path = [k for k in way if k >= 0]
            mine = list(lesson(list(path), layer))
            right = (row[: len(path) - 1] - task.first_target).tolist()
            assert mine == right, (
                f"path {path}, layer {layer}: {mine}, but the lesson says {right}. Count from the goal up, one level a "
                "layer, and never past the next step"
            )
    *earlier, _ = measure.said_by_layer(model, some)
    there = torch.arange(aims.shape[2]) < some.truth["length"][:, None]
    learned = [float((x == aim)[there].float().mean()) for x, aim in zip(earlier, aims, strict=True)]
    said = ", ".join(f"L{layer} {share:.0%}" for layer, share in enumerate(learned))
    return _said(f"Right. How often `taught` (seed 0) names it: {said}.")
