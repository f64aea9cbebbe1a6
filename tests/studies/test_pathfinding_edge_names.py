"""Sets of names that an edge might carry, against their definitions, tree by tree; and what they leave of a model."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from mi_lab.studies.pathfinding import edge_names, roads
from mi_lab.studies.pathfinding import measure as m
from mi_lab.studies.pathfinding.claims import edges as claims
from tests.studies.test_pathfinding_circuit import TASK, tiny


@pytest.fixture(scope="module", params=["backward", "random", "forward"])
def some(request):
    return m.trees(replace(TASK, order=request.param), 30, 3)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def sets(names):
    """[question][edge] -> set of nodes."""
    return [[set(row.nonzero()[:, 0].tolist()) for row in edges] for edges in names]


def listed(some):
    source, target = roads.ends(some.task, some.tokens)
    return [list(zip(a.tolist(), b.tolist())) for a, b in zip(source, target)]


def test_every_set_is_what_it_says(some):
    task, tokens, truth = some.task, some.tokens, some.truth
    found = {
        "itself": edge_names.itself(task, tokens),
        "above": edge_names.above(task, tokens, truth),
        "below": edge_names.below(task, tokens, truth),
        "siblings": edge_names.siblings(task, tokens),
        "tops": edge_names.tops(task, tokens, truth),
        "neighbour": edge_names.neighbour(task, tokens),
        "fragment": edge_names.fragment(task, tokens),
        "line": edge_names.line(task, tokens),
    }
    found = {name: sets(value) for name, value in found.items()}
    for i, edges in enumerate(listed(some)):
        parent = {b: a for a, b in edges}
        assert len(parent) == task.n_edges
        root = int(truth["root"][i])

        def up(node, parent=parent):
            return {node} | (up(parent[node]) if node in parent else set())

        for k, (a, b) in enumerate(edges):
            assert found["itself"][i][k] == {a, b}
            assert found["above"][i][k] == {b} | up(a)
            assert found["below"][i][k] == {a} | {node for node in (*parent, root) if b in up(node)}
            assert found["siblings"][i][k] == {a, b} | {d for c, d in edges if c == a}
            assert found["tops"][i][k] == {a, b} | {d for c, d in edges if c == root}
            assert found["neighbour"][i][k] == {a, b} | (set(edges[k - 1]) if k else set())
            so_far = {d: c for c, d in edges[: k + 1]}

            def above(node, so_far=so_far):
                return {node} | (above(so_far[node]) if node in so_far else set())

            below = {node for node in (*so_far, *so_far.values()) if b in above(node)}
            assert found["line"][i][k] == above(a) | {b} | below
            piece = {a, b}
            for _ in edges:  # until nothing is added
                piece |= {node for c, d in edges[: k + 1] if {c, d} & piece for node in (c, d)}
            assert found["fragment"][i][k] == piece
            assert found["line"][i][k] <= piece


def test_pieces_are_as_large_as_p44_says():
    """On the 60 trees that it was formed on."""
    some = m.trees(replace(TASK, n_nodes=16, order="random"), 3000, 901)
    some = some.where(some.truth["hard"] & (some.truth["length"] >= 3), 60)
    own, size = edge_names.itself(some.task, some.tokens), lambda names: float(names.sum(-1).float().mean())
    known = own.cumsum(1) > 0
    assert f"{size(edge_names.fragment(some.task, some.tokens)):.1f}, {size(known):.1f}" == "5.4, 10.7"


def test_the_controls_are_of_the_right_kind_and_size(some):
    task, tokens = some.task, some.tokens
    family = edge_names.siblings(task, tokens) | edge_names.below(task, tokens, some.truth)
    many = edge_names.as_many(task, tokens, family, generator=seeded())
    assert torch.equal(many.sum(-1), family.sum(-1))
    assert (many & edge_names.itself(task, tokens)).sum(-1).eq(2).all()
    assert not torch.equal(many, family)
    assert not torch.equal(many, edge_names.as_many(task, tokens, family, generator=seeded(1)))
    drawn = set()
    for i, edges in enumerate(listed(some)):
        other = sets(edge_names.earlier(task, tokens, generator=seeded(2)))[i]
        for k, edge in enumerate(edges):
            before = [j for j in range(k - 1) if set(edges[j]) | set(edge) == other[k]]
            assert before or (k < 2 and other[k] == set(edge))
            drawn |= {(k, j) for j in before}
    assert {j for k, j in drawn if k == task.n_edges - 1} >= {0, task.n_edges - 3}, (
        "from the first to the last but one"
    )


def test_donors_that_share_all_names_change_nothing_and_a_local_model_needs_the_edge_alone(some):
    choice = some.where(roads.with_choice(some.truth))
    args = (choice.task, choice.tokens, choice.truth)
    everything = torch.ones_like(edge_names.itself(*args[:2]))
    for recovery in roads.memory_scrub(tiny(), *args, [0, 1], everything, generator=seeded()):
        assert torch.allclose(recovery.difference, recovery.clean, atol=1e-4)
    model = tiny()
    with torch.no_grad():
        model.blocks[0].attn.W_O.zero_()
    (own,) = roads.memory_scrub(model, *args, [0], edge_names.itself(*args[:2]), generator=seeded())
    assert torch.allclose(own.difference, own.clean, atol=1e-4)
    (none,) = roads.memory_scrub(model, *args, [0], ~everything, generator=seeded())
    assert (none.difference - none.clean).abs().max() > 1e-2


@pytest.mark.parametrize("name", claims.SETS)
def test_the_claims_sets_hold_what_their_bars_name(name):
    some = m.trees(replace(TASK, order="backward"), 6, 4)
    found = claims.SETS[name](some.task, some.tokens, some.truth, seeded())
    assert {"edge", "up", "down", "nothing"} < found.keys()
    assert not found["nothing"].any()
    for key, names in found.items():
        assert key == "nothing" or (names | ~found["edge"]).all(), "the edge itself is always shared"


def test_a_model_that_is_wrong_on_the_trees_says_nothing():
    row = {
        "memory tops": 1.0,
        "memory up": 0.1,
        "memory down": 0.1,
        "memory edge": 0.1,
        "memory as many": 0.1,
    }
    accept = claims.P39.accept.test
    assert accept({"clean, correct": 0.9, **row})
    assert not accept({"clean, correct": 0.5, **row})
    assert not accept({"clean, correct": 0.9, **row, "memory up": 0.75})
    assert not accept({"clean, correct": 0.9, **row, "memory tops": 0.75})
