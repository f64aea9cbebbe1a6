"""Delete an edge and watch the logits of the next step move."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from mi_lab import charts
from mi_lab.charts import PAPER, Drawing, colour
from mi_lab.live import Choice, Slider
from mi_lab.live.baked import Baked
from mi_lab.model import Transformer
from mi_lab.studies.pathfinding.drawing import draw_tree
from mi_lab.studies.pathfinding.explorers.prompts import examples, rearranged
from mi_lab.studies.pathfinding.layout import Tree
from mi_lab.studies.pathfinding.task import COMMA, PathfindingTask


class Deleted(NamedTuple):
    """Logits of one step with and without an edge, less their mean over the nodes: [node]."""

    tree: Tree
    edge: tuple[int, int] | None
    step: int
    at: int
    right: int
    before: Tensor
    after: Tensor


@torch.no_grad()
def delete_edge(model: Transformer, task: PathfindingTask, text: str, edge: int, step: int = 1) -> Deleted:
    """Replace the tokens of the edge-th edge (1-based in the prompt; 0 none) by commas; logits of `step`.

    Raises ValueError for an edge or a step that the question hasn't.
    """
    tokens = task.encode(text)
    tree = Tree.read(task, tokens)
    way = tree.path()
    if not 0 <= edge <= task.n_edges:
        raise ValueError(f"the prompt has edges 1 to {task.n_edges}, not {edge}")
    if not 1 <= step < len(way):
        raise ValueError(f"the right path has {len(way) - 1} steps: there is no step {step}")
    both = tokens.repeat(2, 1)
    if edge:
        both[1, 3 * edge - 3 : 3 * edge - 1] = COMMA
    position = task.root_position + step - 1
    nodes = slice(task.first_target, task.first_target + task.n_nodes)
    logits = model(both[:, : position + 1])[:, -1, nodes]
    before, after = logits - logits.mean(1, keepdim=True)
    target = int(tokens[3 * edge - 2]) - task.first_target if edge else -1
    ends = (tree.parent[target], target) if edge else None
    return Deleted(tree, ends, step, way[step - 1], way[step], before, after)


def draw_deleted(result: Deleted) -> Drawing:
    """The tree with the edge crossed out beside the logits of all nodes, before and after."""
    target = result.edge[1] if result.edge else -1
    drawn = draw_tree(result.tree, cut=target, title=_said(result))
    marks = (
        '<ul class="mi-key"><li><svg viewBox="0 0 30 12" aria-hidden="true"><circle cx="15" cy="6" r="4.5" '
        f'fill="{PAPER}" stroke="currentColor"/></svg>with the edge</li><li><svg viewBox="0 0 30 12" '
        'aria-hidden="true"><circle cx="15" cy="6" r="5" fill="currentColor"/></svg>without it</li></ul>'
    )
    body = charts.row(charts.panel(drawn), charts.panel(_dumbbells(result) + marks))
    return Drawing(body, _said(result))


def _said(result: Deleted) -> str:
    best, now = int(result.before.argmax()), int(result.after.argmax())
    first = f"Step {result.step} from {result.at}: the model says {best} (right: {result.right})."
    if result.edge is None:
        return f"{first} Delete an edge."
    a, b = result.edge
    moves = [f"{float(change):+.1f}".replace("-", "−") for change in result.after - result.before]
    return (
        f"{first} Without {a}>{b} the logit of {a} moves by {moves[a]}, that of {b} by {moves[b]}; "
        f"the answer {'stays ' + str(now) if now == best else 'becomes ' + str(now)}."
    )


def _dumbbells(result: Deleted) -> str:
    """A row a node: hollow before, full after; ends of the edge in colour, children of the place marked."""
    kids = result.tree.children(result.at)
    low = min(float(result.before.min()), float(result.after.min()))
    high = max(float(result.before.max()), float(result.after.max()))
    left, right, tall = 92, 350, 20
    nodes = len(result.before)

    def px(value: float) -> float:
        return left + 8 + (value - low) / (high - low) * (right - left - 16)

    zero = px(min(max(0.0, low), high))
    parts = [f'<path d="M{zero:.1f} 0V{nodes * tall}" stroke="currentColor" stroke-opacity=".5"/>']
    for node in range(nodes):
        y = (node + 0.5) * tall
        a, b = float(result.before[node]), float(result.after[node])
        ink = "currentColor"
        if result.edge and node in result.edge:
            ink = colour("positive" if node == result.edge[0] else 1)
        role = "right ▸ " if node == result.right else "sibling ▸ " if node in kids else ""
        weight = ' font-weight="700"' if node in kids or (result.edge and node in result.edge) else ""
        parts.append(
            f"<g><title>{node}: {a:.2f} with the edge, {b:.2f} without</title>"
            f'<path d="M{left} {y}H{right}" stroke="currentColor" stroke-opacity=".12"/>'
            f'<text x="{left - 6}" y="{y + 4.5}" text-anchor="end"{weight}>{role}{node}</text>'
            f'<path d="M{px(a):.1f} {y}H{px(b):.1f}" stroke="{ink}" stroke-width="3"/>'
            f'<circle cx="{px(a):.1f}" cy="{y}" r="4.5" fill="{PAPER}" stroke="{ink}" stroke-width="1.5"/>'
            f'<circle cx="{px(b):.1f}" cy="{y}" r="4" fill="{ink}"/></g>'
        )
    bottom = nodes * tall
    for value in (low, high):
        said = f"{value:+.0f}".replace("-", "−")
        parts.append(f'<text x="{px(value):.1f}" y="{bottom + 15}" text-anchor="middle">{said}</text>')
    parts.append(
        f'<text x="{(left + right) / 2}" y="{bottom + 15}" text-anchor="middle">logit less mean</text>'
    )
    return (
        f'<svg viewBox="0 0 360 {bottom + 20}" role="img" aria-label="Logits with and without the edge" '
        f'font-size="13" style="width:100%;height:auto"><title>Logits with and without the edge</title>'
        f"{''.join(parts)}</svg>"
    )


def lookahead_explorer(model: Transformer, task: PathfindingTask, *, texts: Sequence[str] = ()) -> Baked:
    """Delete one edge of the prompt (its tokens become commas); see every node's logit for the next step."""
    texts = tuple(texts) or tuple(examples(task)[:3])

    @functools.lru_cache(maxsize=512)
    def compute(tree: int, order: str, edge: int, step: int) -> Deleted:
        return delete_edge(model, task, rearranged(task, texts[tree - 1], order), edge, step)

    return Baked(
        "Delete an edge",
        {"tree": 1, "order": "backward", "edge": _telling(task, rearranged(task, texts[0], "backward")), "step": 1},
        {
            "tree": Choice("tree", tuple(range(1, len(texts) + 1)), tuple(f"tree {i + 1}" for i in range(len(texts)))),
            "order": Choice("edges", ("backward", "random", "forward")),
            "edge": Slider("edge deleted", tuple(range(task.n_edges + 1))),
            "step": Slider("step of the path", tuple(range(1, 4))),
        },
        compute,
        draw_deleted,
        "Find an edge whose deletion changes the answer. Then take one below the sibling: does the model now think "
        "the sibling a dead end?",
        grid={"tree": None, "order": ("backward", "random"), "edge": None, "step": (1, 2)},
    )  # fmt: skip


def _telling(task: PathfindingTask, text: str) -> int:
    """The edge to begin with: one below the sibling of the first step, else one below the root."""
    tokens = task.encode(text)
    tree = Tree.read(task, tokens)
    way = tree.path()
    sources = (tokens[0 : 3 * task.n_edges : 3] - task.first_bare).tolist()
    siblings = [k for k in tree.children(tree.root) if k != way[1]]
    return 1 + next((sources.index(k) for k in siblings if k in sources), sources.index(tree.root))
