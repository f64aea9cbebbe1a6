"""The chapter's checks: the right solutions pass (they are in the chapter, tested there), usual mistakes fail."""

from itertools import pairwise

import pytest
import torch

from mi_lab.run import run
from mi_lab.studies.pathfinding import exercises as ex


def path_from_the_goal(edges, goal):
    parent = {target: source for source, target in edges}
    way = [goal]
    while way[-1] in parent:
        way.append(parent[way[-1]])
    return way


def every_step_is_a_choice(branch):
    return 0.5 ** torch.full((len(branch),), branch.shape[1])


def one_number(branch):
    return torch.tensor(0.355)


def counted_from_one(n):
    return 3 * n - 4, 3 * n - 2, 3 * n


def place_is_the_node(pattern, truth, k):
    return pattern[torch.arange(len(pattern)), :, truth["ancestor"][:, k].clamp(min=0)].mean(0)


def with_the_root(pattern, truth, k):
    """-1, "none", is taken for the last position."""
    place = truth["position"].gather(1, truth["ancestor"][:, k].clamp(min=0)[:, None])[:, 0]
    return pattern[torch.arange(len(pattern)), :, place].mean(0)


def only_one_layer(model, tokens, queries, keys):
    def edit(scores):
        scores = scores.clone()
        scores[:, :, torch.tensor(queries)[:, None], torch.tensor(keys)] = -torch.inf
        return scores

    return run(model, tokens, edit={"blocks.1.attn.scores": edit}).logits


def nothing_blocked(model, tokens, queries, keys):
    return run(model, tokens).logits


def first_of_the_equals(key, pool_key):
    return (key[:, None] == pool_key).float().argmax(1)


def any_donor(key, pool_key):
    return torch.randint(len(pool_key), key.shape)


def short_tree():
    return "0>1,1>2,2>3,3>4,4>5,0>6,6>7,7>8,8>9,9>10,10>11,11>12,12>13,13>14,14>15|5"


def goal_not_renamed(prompt, name):
    edges, goal = prompt.split("|")
    renamed = ",".join(">".join(str(name[int(k)]) for k in edge.split(">")) for edge in edges.split(","))
    return f"{renamed}|{goal}"


def edges_sorted(prompt, name):
    edges, goal = prompt.split("|")
    renamed = sorted(">".join(str(name[int(k)]) for k in edge.split(">")) for edge in edges.split(","))
    return f"{','.join(renamed)}|{name[int(goal)]}"


def from_the_root(edges, path):
    way = list(pairwise(path))
    downwards = iter(way)
    return [next(downwards) if edge in way else edge for edge in edges]


def all_edges_move(edges, path):
    way = list(pairwise(path))[::-1]
    return way + [edge for edge in edges if edge not in way]


def one_is_lost(edges, path):
    return edges[:-1]


def as_it_is(edges, path):
    return edges


def past_the_next_step(path, layer):
    return [path[max(len(path) - 1 - layer, 0)]] * (len(path) - 1)


def from_the_wrong_end(path, layer):
    return [path[min(i + 1 + layer, len(path) - 1)] for i in range(len(path) - 1)]


@pytest.mark.parametrize(
    ("check", "answer", "hint"),
    [
        (ex.check_path, path_from_the_goal, "climb"),
        (ex.check_random_descent, every_step_is_a_choice, "a half for every real choice"),
        (ex.check_random_descent, one_number, "one probability per tree"),
        (ex.check_positions, counted_from_one, "edge i begins at 3i"),
        (ex.check_attention, place_is_the_node, "says where its target token stands"),
        (ex.check_attention, with_the_root, "leave out trees"),
        (ex.check_block, only_one_layer, "layers 1 and up"),
        (ex.check_block, nothing_blocked, "before the softmax"),
        (ex.check_donors, first_of_the_equals, "ever drawn"),
        (ex.check_donors, any_donor, "another key"),
        (ex.check_beat_the_shortcut, short_tree, "seven steps away"),
        (ex.check_relabel, goal_not_renamed, "another path|must be a leaf"),
        (ex.check_relabel, edges_sorted, "keep their places"),
        (ex.check_relist, from_the_root, "from the goal up is"),
        (ex.check_relist, all_edges_move, "stays where it is"),
        (ex.check_relist, one_is_lost, "the same 15 edges"),
        (ex.check_relist, as_it_is, "from the goal up is"),
        (ex.check_lesson, past_the_next_step, "never past the next step"),
        (ex.check_lesson, from_the_wrong_end, "Count from the goal up"),
    ],
)
def test_a_usual_mistake_gets_a_hint(check, answer, hint):
    with pytest.raises((AssertionError, ValueError), match=hint):
        check(answer)


def test_the_right_listing_passes(capsys):
    def relist(edges, path):
        way = list(pairwise(path))
        upwards = iter(way[::-1])
        return [next(upwards) if edge in way else edge for edge in edges]

    ex.check_relist(relist)
    assert "as they were drawn" in capsys.readouterr().out


def test_the_right_lesson_passes(capsys):
    ex.check_lesson(
        lambda path, layer: [path[max(len(path) - 1 - layer, i + 1)] for i in range(len(path) - 1)]
    )
    assert "How often `taught` (seed 0) names it: L0 100%" in capsys.readouterr().out
