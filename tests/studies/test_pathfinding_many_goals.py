"""Many goals for one tree: every question is what it would be alone, and what is trained is right."""

from dataclasses import replace

import pytest
import torch

from mi_lab.forward import Layout, exits, forward
from mi_lab.model import Transformer
from mi_lab.recipe import Recipe
from mi_lab.stack import Stack, backward
from mi_lab.step import Step
from mi_lab.studies import base
from mi_lab.studies.pathfinding.many_goals import QUESTION, ManyGoals
from mi_lab.studies.pathfinding.recipes import config
from mi_lab.studies.pathfinding.task import PathfindingTask

TREES = PathfindingTask(n_nodes=6)
TASK = ManyGoals(TREES, goals=4)
CONFIG = config(TREES, n_layers=3, d_model=16, d_head=16, d_mlp=32)


def sample(n: int = 40, task: ManyGoals = TASK) -> torch.Tensor:
    return task.sample(n, generator=torch.Generator().manual_seed(1))


def alone(tokens: torch.Tensor, k: int, task: ManyGoals = TASK) -> torch.Tensor:
    """The k-th question as a sequence of its own."""
    start = task.trees.n_ctx + QUESTION * k
    return torch.cat([tokens[:, : task.trees.goal_position], tokens[:, start : start + QUESTION]], 1)


def model(double: bool = False) -> Transformer:
    made = Transformer(replace(CONFIG, init_std=0.5), generator=torch.Generator().manual_seed(0))
    return made.double() if double else made


def test_it_is_a_task():
    assert isinstance(TASK, base.Task)
    assert TASK.vocab == TREES.vocab
    tokens = sample()
    assert tokens.shape == (40, TASK.n_ctx)
    assert TASK.weights(tokens).shape == (40, TASK.answer.stop - TASK.answer.start)
    assert TASK.solve(tokens).equal(tokens)
    assert TASK.decode(tokens[0]).split()[0] == TREES.decode(tokens[0, : TREES.n_ctx])
    assert TASK.grade(model(), tokens).shape == (40,)


def test_the_trees_follow_the_law():
    tokens = sample(4000)
    plain = TREES.sample(4000, generator=torch.Generator().manual_seed(1))
    assert tokens[:, : TREES.n_ctx].equal(plain)


def test_questions_are_right():
    """First steps against the path that the plain task finds for the same goal; goals differ and are below the root."""
    for tokens in sample(60):
        truth = TREES.variables(tokens[None, : TREES.n_ctx])
        parent, root = truth["parent"][0].tolist(), int(truth["root"])
        asked = tokens[TREES.n_ctx :].view(TASK.goals, QUESTION)
        goals = (asked[:, 0] - TREES.first_bare).tolist()
        assert len({root, *goals}) == 1 + TASK.goals
        for goal, colon, at, step in asked.tolist():
            node = goal - TREES.first_bare
            while parent[node] != root:
                node = parent[node]
            assert (colon, at, step) == (1, root + TREES.first_bare, node + TREES.first_target)


def test_every_node_is_asked_for_equally_often():
    asked = sample(6000)[:, TREES.n_ctx :].view(-1, TASK.goals, QUESTION)[:, :, 0] - TREES.first_bare
    share = torch.bincount(asked.flatten(), minlength=6) / asked.numel()
    assert (share - 1 / 6).abs().max() < 0.01


@pytest.mark.parametrize("n_layers", [1, 3])
@pytest.mark.parametrize("batch", [8, 40])  # 40 would be enough rows for the table of the first layer
def test_a_question_is_what_it_is_alone(n_layers: int, batch: int):
    made = Transformer(
        replace(CONFIG, n_layers=n_layers, init_std=0.5), generator=torch.Generator().manual_seed(0)
    )
    tokens, params = sample(batch), Stack.from_models([made]).params(0)
    first = TASK.answer.start
    with torch.no_grad():
        together = forward(params, made.config, tokens, TASK.answer, TASK.layout)
        own = made(tokens[:, : TREES.n_ctx])[:, TREES.answer]
        torch.testing.assert_close(together[:, : own.shape[1]], own, rtol=1e-4, atol=1e-4)
        for k in range(TASK.goals):
            root = TREES.n_ctx + QUESTION * k + 2 - first
            right = made(alone(tokens, k))[:, TREES.root_position]
            torch.testing.assert_close(together[:, root], right, rtol=1e-4, atol=1e-4)


def test_without_the_layout_it_is_something_else():
    made, tokens = model(), sample()
    wide = Transformer(replace(made.config, n_ctx=TASK.n_ctx), generator=torch.Generator().manual_seed(0))
    params = Stack.from_models([wide]).params(0)
    with torch.no_grad():
        plain = forward(params, wide.config, tokens, TASK.answer)
        laid = forward(params, wide.config, tokens, TASK.answer, TASK.layout)
    assert (plain - laid)[:, -1].abs().max() > 0.1


def test_a_causal_layout_changes_nothing():
    made, tokens = model(), sample()[:, : TREES.n_ctx]
    n = TREES.n_ctx
    causal = Layout(torch.arange(n), torch.full((n, n), -torch.inf).triu(1))
    for stack in (Stack.from_models([made]).params(0), Stack.from_models([made, made]).params()):
        rows = tokens if stack["W_E"].ndim == 2 else tokens.expand(2, -1, -1)
        a = exits(stack, made.config, rows, TREES.answer, causal)
        b = exits(stack, made.config, rows, TREES.answer)
        for x, y in zip(a, b, strict=True):
            torch.testing.assert_close(x, y, rtol=1e-4, atol=1e-4)


def test_a_step_trains_on_the_sum_of_its_questions():
    """Loss and gradient are those of a plain loop: each path and each question as a sequence of its own."""
    recipe = Recipe("many", TASK, CONFIG, batch=8, steps=1, exits=0.5)
    stack = Stack.from_models([model()])
    step = Step(recipe, stack, [torch.Generator().manual_seed(3)])
    step.draw()
    tokens = step.pool[0, 0]
    loss, _ = step._backward(step.pool[:, 0])
    plain = Stack.from_models([model()])
    grad = torch.zeros_like(plain.flat)
    leaves = plain.leaves(grad)

    def losses(logits: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.cross_entropy(logits.flatten(0, 1), right.flatten(), reduction="none")

    def total(layer: int) -> torch.Tensor:
        own = tokens[:, : TREES.n_ctx]
        weights = TREES.weights(own)
        assert weights is not None
        found = exits(leaves, CONFIG, own, TREES.answer)[layer]
        sums, counts = (losses(found, base.targets(TREES, own)) * weights.flatten()).sum(), weights.sum()
        for k in range(TASK.goals):
            question, root = alone(tokens, k), TREES.root_position
            found = exits(leaves, CONFIG, question, slice(root, root + 1))[layer]
            sums = sums + losses(found, question[:, root + 1]).sum()
            counts = counts + len(tokens)
        return sums / counts

    last = total(2)
    backward(last + 0.5 * (total(0) + total(1)) / 2, leaves)
    torch.testing.assert_close(loss[0], last.detach(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(step.grad, grad, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("goals", [0, 6])
def test_a_tree_has_so_many_nodes(goals: int):
    with pytest.raises(ValueError, match=f"goals must be between 1 and 5, not {goals}"):
        ManyGoals(TREES, goals)


@pytest.mark.parametrize("knob", [{"hide_goal": True}, {"padding": True}])
def test_trees_that_it_cannot_ask(knob: dict[str, bool]):
    with pytest.raises(ValueError, match="goal is shown"):
        ManyGoals(replace(TREES, **knob), goals=4)


def test_the_model_needs_no_more_positions_than_a_tree():
    Recipe("many", TASK, CONFIG)
    with pytest.raises(ValueError, match="needs n_ctx >= 24"):
        Recipe("many", TASK, replace(CONFIG, n_ctx=23))
