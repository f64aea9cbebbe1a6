"""The order of a path's edges: relisted trees are the same trees, and the measure sees what is planted."""

import pytest
import torch

from mi_lab.studies.pathfinding import measure as m
from mi_lab.studies.pathfinding.claims import order
from mi_lab.studies.pathfinding.listing import relisted
from mi_lab.studies.pathfinding.task import PathfindingTask

TASK = PathfindingTask(n_nodes=10, order="random", shortest=3, longest=4)


@pytest.fixture(scope="module")
def some() -> m.Trees:
    return m.trees(TASK, 300, 5)


def edges(tokens: torch.Tensor) -> list[tuple[int, int]]:
    words = tokens[: 3 * TASK.n_edges].view(-1, 3)
    return [(int(a) - TASK.first_bare, int(b) - TASK.first_target) for a, b, _ in words]


@pytest.mark.parametrize("other", [False, True])
@pytest.mark.parametrize("deepest_first", [False, True])
def test_only_the_chosen_edges_move_and_they_are_sorted(some: m.Trees, other: bool, deepest_first: bool):
    found = relisted(some, deepest_first=deepest_first, other=other)
    assert found[:, TASK.goal_position :].equal(some.tokens[:, TASK.goal_position :])
    assert TASK.fingerprint(found).equal(TASK.fingerprint(some.tokens))
    for i in range(len(found)):
        before, after = edges(some.tokens[i]), edges(found[i])
        parent, depth = some.truth["parent"][i].tolist(), some.truth["depth"][i].tolist()
        root, sibling = int(some.truth["root"][i]), int(some.truth["other"][i, 0])

        def side(node: int, parent: list[int] = parent, root: int = root) -> int:
            while parent[node] != root:
                node = parent[node]
            return node

        path = {int(node) for node in some.truth["path"][i] if node >= 0} - {root}
        chosen = {b for _, b in before if (side(b) == sibling if other else b in path)}
        for old, new in zip(before, after, strict=True):
            assert old == new or (old[1] in chosen and new[1] in chosen)
        depths = [depth[b] for _, b in after if b in chosen]
        assert depths == sorted(depths, reverse=deepest_first)


def test_punctuation_stays(some: m.Trees):
    found = relisted(some, deepest_first=True)
    end = 3 * TASK.n_edges
    assert found[:, 2:end:3].equal(some.tokens[:, 2:end:3])


def test_a_model_that_sees_only_what_stands_before_it_gains(some: m.Trees, monkeypatch: pytest.MonkeyPatch):
    """A stand-in that is right exactly where every edge of the path stands behind the one below it."""
    monkeypatch.setattr(m, "task_of", lambda recipe, **knobs: PathfindingTask(n_nodes=16, **knobs))
    monkeypatch.setattr(order, "N", 60)

    def first_right(model: object, trees: m.Trees, tokens: torch.Tensor) -> float:
        truth = trees.task.variables(tokens)
        place = truth["position"].gather(1, truth["ancestor"].clamp(min=0))
        there = torch.arange(place.shape[1] - 1) < truth["length"][:, None] - 1
        return float(((place.diff(dim=1) > 0) | ~there).all(1).float().mean())

    monkeypatch.setattr(order, "first_right", first_right)
    row = order._ordered(None)  # type: ignore[arg-type]
    assert row["goal first"] == pytest.approx(1.0)
    assert row["root first"] == 0.0
    assert row["gain"] == pytest.approx(1.0)
    assert order.P24.accept.test(row)
    assert not order.P25.accept.test(row)
    other = order._ordered(None, other=True)  # type: ignore[arg-type]
    assert abs(other["gain"]) < 1e-9
    assert not order.P24.accept.test(other)
