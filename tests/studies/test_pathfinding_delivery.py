"""Which state tells the root token the goal: found in the full-size model, absent where it can't be."""

from __future__ import annotations

import pytest
import torch

from mi_lab.model import Transformer
from mi_lab.studies import pathfinding as study
from mi_lab.studies.pathfinding import measure as m
from mi_lab.studies.pathfinding.delivery import told, two_goals


@pytest.fixture(scope="module")
def some():
    return two_goals(m.trees(m.task_of("paper"), 200, 21))


def test_the_other_goal_is_a_leaf_below_the_roots_other_child(some):
    task = study.task()
    for tokens, other, step, other_step in zip(*some, strict=True):
        text = task.decode(task.solve(torch.nn.functional.pad(other, (0, 16))[None])[0])
        walked = text.split(":")[1].split(">")
        assert int(walked[1]) + task.first_target == other_step != step
        changed = (tokens != other).nonzero().flatten().tolist()
        assert changed == [task.goal_position]


def test_trees_without_a_choice_are_refused():
    task = study.task(n_nodes=4, longest=3, shortest=3)
    only = m.trees(task, 20)
    with pytest.raises(ValueError, match="none of these trees has a leaf"):
        two_goals(only)


def test_the_root_tokens_own_state_tells_everything(some):
    """After the last layer the root token's own state is the answer, and nobody else's is."""
    model = m.model("paper", 0)
    moved, kept = told(model, some, position=47, layer=5)
    assert (moved.value, kept.value) == (1.0, 0.0)
    for position in (44, 45, 46):
        moved, kept = told(model, some, position=position, layer=5)
        assert (moved.value, kept.value) == (0.0, 1.0)


def test_the_states_of_several_layers_tell_at_least_what_the_last_of_them_tells(some):
    model = m.model("waves", 0)
    one, both = (told(model, some, position=46, layer=layer) for layer in (4, (3, 4)))
    assert both[0].value == one[0].value  # what the fifth layer read is overwritten by its own state
    early, _ = told(model, some, position=46, layer=range(5))
    assert early.value >= one[0].value > 0.9


def test_a_model_that_knows_nothing_is_refused(some):
    blank = Transformer(m.model("paper", 0).config)
    with torch.no_grad():
        for value in blank.parameters():
            value.zero_()
    with pytest.raises(ValueError, match="finds both first steps in none"):
        told(blank, some, position=46, layer=4)
