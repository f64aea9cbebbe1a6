"""The lesson: what each layer is to name, and that a step trains it so."""

from dataclasses import replace

import pytest
import torch
from torch.nn.functional import cross_entropy

from mi_lab.forward import exits
from mi_lab.model import TransformerConfig
from mi_lab.recipe import Recipe
from mi_lab.stack import Stack
from mi_lab.step import Step
from mi_lab.studies.pathfinding import measure as m
from mi_lab.studies.pathfinding.many_goals import plain
from mi_lab.studies.pathfinding.task import PathfindingTask
from mi_lab.studies.pathfinding.taught import Taught

TASK = Taught(n_nodes=8)


def drawn(n: int, seed: int = 0) -> torch.Tensor:
    return TASK.sample(n, generator=torch.Generator().manual_seed(seed))


def test_each_layer_names_the_ancestor_one_level_further_up_and_then_the_next_step():
    tokens = drawn(60)
    aims = TASK.aims(tokens, 5)
    for i, row in enumerate(tokens):
        edges, _, answer = TASK.decode(row).partition(":")
        parent = {b: a for a, b in (edge.split(">") for edge in edges.split("|")[0].split(","))}
        path = answer.split(">")
        for place, node in enumerate(path[:-1]):
            for layer in range(5):
                up = path[-1]  # the goal, then layer by layer its parent, as far as the child of where we are
                for _ in range(layer):
                    up = up if parent[up] == node else parent[up]
                assert TASK.vocab[int(aims[layer, i, place])] == f">{up}"
        rest = tokens[i, TASK.answer.start + len(path) : TASK.answer.stop + 1]
        assert aims[:, i, len(path) - 1 :].equal(rest.expand(5, -1))


def test_the_lesson_changes_what_the_earlier_layers_are_trained_on_and_nothing_else():
    config = TransformerConfig(
        n_layers=3, n_heads=1, d_model=16, d_head=16, d_mlp=32, n_ctx=TASK.n_ctx, d_vocab=len(TASK.vocab)
    )
    recipe = Recipe("x", TASK, config, batch=5, steps=3, exits=0.7, clip=None)

    def gradient(recipe: Recipe) -> tuple[torch.Tensor, float, torch.Tensor]:
        stack = Stack.init(config, [0])
        step = Step(recipe, stack, [torch.Generator().manual_seed(1)])
        step.draw()
        tokens = step.pool[:, 0]
        loss, _ = step._backward(tokens)
        return step.grad.clone(), float(loss), tokens[0]

    taught, loss, tokens = gradient(recipe)
    plainly, same, _ = gradient(replace(recipe, task=plain(TASK)))
    assert loss == pytest.approx(same)
    assert not torch.allclose(taught, plainly, atol=1e-5)

    stack = Stack.init(config, [0])
    flat = stack.flat.clone().requires_grad_()
    params = {name: x[0] for name, x in stack.views(flat).items()}
    *earlier, last = exits(params, config, tokens, TASK.answer)
    weights = TASK.weights(tokens)
    assert weights is not None

    def mean(logits: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        each = cross_entropy(logits.flatten(0, 1), right.flatten(), reduction="none")
        return (each * weights.flatten()).sum() / weights.sum()

    aims = TASK.aims(tokens, 2)
    right = tokens[:, TASK.answer.start + 1 : TASK.answer.stop + 1]
    before = mean(earlier[0], aims[0]) + mean(earlier[1], aims[1])
    (mean(last, right) + 0.7 * before / 2).backward()
    assert flat.grad is not None
    torch.testing.assert_close(taught, flat.grad, rtol=1e-4, atol=1e-6)


def test_it_is_judged_by_the_task_without_the_lesson():
    assert plain(TASK) == PathfindingTask(n_nodes=8)
    assert type(plain(TASK)) is PathfindingTask
    tokens = drawn(4)
    assert TASK.fingerprint(tokens).equal(plain(TASK).fingerprint(tokens))
    assert type(m.task_of("paper", order="random")) is PathfindingTask


@pytest.mark.parametrize("knobs", [{"hide_goal": True}, {"padding": True}])
def test_what_cannot_be_taught_is_refused(knobs: dict[str, bool]):
    with pytest.raises(ValueError, match="chaining is taught on trees whose goal is shown"):
        Taught(n_nodes=8, **knobs)
