"""A binary tree as SVG: the stage on which the pathfinding study is played.

Drawn by us, so that it weighs a few kilobytes, takes the page's colours, and is legible at 360 px.
A node is a circle, the root a rounded square, the goal a double ring; the way to the goal is a thick
line. Each edge A>B carries three beads for its three tokens, from A down: source (disc), comma
(diamond), target (square). Attention is an arrow to a bead, as wide and opaque as the weight.

    svg = draw_tree(Tree.read(task, tokens), shade={4: 0.9}, arrows=[Arrow(Spot("node", 8), Spot("target", 4), 0.7)])
"""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

from mi_lab.charts import PAPER, colour
from mi_lab.studies.pathfinding.layout import Tree, layout

RADIUS, SPACING, WIDTH, MARGIN, FONT = 15.0, 38.0, 250.0, 22.0, 14
BEADS = {"source": 0.24, "comma": 0.5, "target": 0.76}  # where on the visible part of an edge
TOKEN_COLOURS = {"source": 0, "target": 1, "comma": 2}  # a token class keeps its colour everywhere


class Spot(NamedTuple):
    """A place in the drawing: kind "node", or "source", "comma", "target" of the edge into `node`."""

    kind: str
    node: int


class Arrow(NamedTuple):
    """Attention of one spot to another, weight from 0 to 1."""

    start: Spot
    end: Spot
    weight: float


class Trail(NamedTuple):
    """A way up the tree that one token remembers: nodes from its lower end, `name` is written there."""

    nodes: tuple[int, ...]
    name: str


class Stage:
    """Places in pixels: of nodes, and of the beads on the edges above them."""

    def __init__(self, tree: Tree) -> None:
        places = layout(tree)
        depth = max(level for _, level in places)
        gap = min(max(560 / max(depth, 1), 50), 74)
        units = max(x for x, _ in places)
        spacing = min(max(WIDTH / max(units, 1), SPACING), 60)  # narrow trees get air
        wide = units * spacing
        self.tree = tree
        self.width, self.height = max(wide, 120) + 2 * MARGIN, depth * gap + 2 * MARGIN + 26
        left = MARGIN + max(0, 120 - wide) / 2
        self.node = [(left + x * spacing, MARGIN + 14 + level * gap) for x, level in places]

    def at(self, spot: Spot) -> tuple[float, float]:
        """Where a spot is. Raises ValueError for a token of an edge that isn't there."""
        if not 0 <= spot.node < len(self.node):
            raise ValueError(f"the tree has nodes 0..{len(self.node) - 1}, not {spot.node}")
        if spot.kind == "node":
            return self.node[spot.node]
        if spot.kind not in BEADS:
            raise ValueError(f"a spot is a node or one of {', '.join(BEADS)}, not {spot.kind!r}")
        above = self.tree.parent[spot.node]
        if above < 0:
            raise ValueError(f"{spot.node} is the root: there is no edge into it")
        (x0, y0), (x1, y1) = self.node[above], self.node[spot.node]
        rim = RADIUS / math.hypot(x1 - x0, y1 - y0)
        t = rim + (1 - 2 * rim) * BEADS[spot.kind]
        return x0 + (x1 - x0) * t, y0 + (y1 - y0) * t


def draw_tree(
    tree: Tree,
    *,
    shade: Mapping[int, float] | None = None,
    arrows: Sequence[Arrow] = (),
    trails: Sequence[Trail] = (),
    walked: Sequence[int] = (),
    start: Spot | None = None,
    cut: int = -1,
    title: str = "",
    scale: float = 1.0,
) -> str:
    """The tree as SVG.

    shade: node -> probability, as the node's fill. arrows: attention; beads are shown if there are any.
    trails: remembered ways up, in colour. walked: nodes of the model's own path, root first; steps off
    the right path are drawn dashed, as far as there are such edges. start: gets a ring.
    cut: the edge into this node is crossed out. title: read out instead
    of the drawing. scale: 1 for 14 px labels.
    """
    stage = Stage(tree)
    way = tree.path()
    parts = [_edge(stage, k, k in way and tree.parent[k] in way, k == cut) for k in range(len(tree.parent))]
    parts += [_trail(stage, trail, i) for i, trail in enumerate(trails)]
    parts += [_wrong_step(stage, a, b) for a, b in pairwise(walked) if b not in way and tree.parent[b] == a]
    if arrows:
        parts += [
            _bead(stage, Spot(kind, k), 0) for k, p in enumerate(tree.parent) if p >= 0 for kind in BEADS
        ]
    arrows = sorted(arrows, key=lambda a: a.weight)
    parts += [_arrow(stage, arrow) for arrow in arrows]  # behind the nodes, whose labels stay readable
    parts += [_node(stage, k, (shade or {}).get(k, 0.0)) for k in range(len(tree.parent))]
    parts += [_bead(stage, a.end, a.weight) for a in arrows if a.end.kind in BEADS]
    if start and start.kind in BEADS:
        x, y = stage.at(start)
        parts.append(
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="9" fill="none" stroke="currentColor" stroke-width="2"/>'
        )
    name = title or _describe(tree)
    full = html.escape(name, quote=True)
    return (
        f'<svg viewBox="0 0 {stage.width:.0f} {stage.height:.0f}" role="img" aria-label="{full}" font-size="{FONT}" '
        f'style="width:100%;max-width:{stage.width * scale:.0f}px;height:auto">'
        f"<title>{full}</title><desc>{html.escape(_describe(tree))}</desc>{''.join(parts)}</svg>"
    )


def _describe(tree: Tree) -> str:
    way = tree.path()
    goal = f", goal {tree.goal}, right path {' to '.join(map(str, way))}" if way else ""
    return f"Binary tree of {len(tree.parent)} nodes with root {tree.root}{goal}."


def _edge(stage: Stage, node: int, on_path: bool, cut: bool) -> str:
    above = stage.tree.parent[node]
    if above < 0:
        return ""
    (x0, y0), (x1, y1) = stage.node[above], stage.node[node]
    look = 'stroke-width="5" stroke-opacity=".55"' if on_path else 'stroke-width="1.5" stroke-opacity=".5"'
    look += ' stroke-dasharray="2 5"' if cut else ""
    line = f'<path d="M{x0:.1f} {y0:.1f}L{x1:.1f} {y1:.1f}" stroke="currentColor" {look}/>'
    if not cut:
        return line
    x, y = stage.at(Spot("comma", node))
    cross = f"M{x - 7:.1f} {y - 7:.1f}l14 14m0 -14l-14 14"
    return f'{line}<path d="{cross}" stroke="{colour(1)}" stroke-width="3" fill="none"/>'


def _wrong_step(stage: Stage, start: int, end: int) -> str:
    (x0, y0), (x1, y1) = stage.node[start], stage.node[end]
    title = f"<title>wrong step from {start} to {end}</title>"
    return (
        f'<path d="M{x0:.1f} {y0:.1f}L{x1:.1f} {y1:.1f}" stroke="{colour(1)}" stroke-width="5" '
        f'stroke-dasharray="7 5">{title}</path>'
    )


def _node(stage: Stage, node: int, shade: float) -> str:
    x, y = stage.node[node]
    tree = stage.tree
    role = "root" if node == tree.root else "goal" if node == tree.goal else ""
    if role == "root":
        shape = f'<rect x="{x - RADIUS:.1f}" y="{y - RADIUS:.1f}" width="30" height="30" rx="5" {{}}/>'
    else:
        shape = f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{RADIUS:.0f}" {{}}/>'
    ink = colour("positive") if role == "goal" else "currentColor"
    width = 2.5 if role else 1.3
    drawn = shape.format(f'fill="{PAPER}" stroke="{ink}" stroke-width="{width}"')
    if shade >= 0.01:
        drawn += shape.format(f'fill="{colour(3)}" fill-opacity="{min(shade, 1) * 0.6:.2f}"')
    if role == "goal":
        drawn += f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{RADIUS - 3.5}" fill="none" stroke="{ink}" stroke-width="1.3"/>'
    if role:
        above = y - RADIUS - 5 if role == "root" else y + RADIUS + 12
        drawn += f'<text class="mi-halo" x="{x:.1f}" y="{above:.1f}" font-size="12" text-anchor="middle">{role}</text>'
    kind = f"{role} {node}" if role else f"node {node}"
    probability = f", probability {shade:.0%}" if shade >= 0.01 else ""
    label = f'<text x="{x:.1f}" y="{y + 4.8:.1f}" text-anchor="middle" font-weight="600">{node}</text>'
    return f"<g><title>{kind}{probability}</title>{drawn}{label}</g>"


def _bead(stage: Stage, spot: Spot, weight: float) -> str:
    """A token on its edge; its size grows with the attention it gets, which its title says."""
    x, y = stage.at(spot)
    r = 2.2 + 4.5 * math.sqrt(weight)
    look = f'fill="{colour(TOKEN_COLOURS[spot.kind])}" stroke="{PAPER}" stroke-width="{0.8 if weight else 0}"'
    look += "" if weight else ' fill-opacity=".55"'
    if spot.kind == "source":
        drawn = f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{r:.1f}" {look}/>'
    elif spot.kind == "target":
        r *= 0.9
        drawn = f'<rect x="{x - r:.1f}" y="{y - r:.1f}" width="{2 * r:.1f}" height="{2 * r:.1f}" {look}/>'
    else:
        r *= 1.2
        drawn = f'<path d="M{x:.1f} {y - r:.1f}l{r:.1f} {r:.1f}l{-r:.1f} {r:.1f}l{-r:.1f} {-r:.1f}z" {look}/>'
    return f"<g>{_title(stage, spot, weight)}{drawn}</g>" if weight else drawn


def _title(stage: Stage, end: Spot, weight: float) -> str:
    edge = f"{stage.tree.parent[end.node]}>{end.node}"
    named = f"node {end.node}" if end.kind == "node" else f"{end.kind} of {edge}"
    return f"<title>attention {weight:.2f} to the {html.escape(named)}</title>"


def _arrow(stage: Stage, arrow: Arrow) -> str:
    """A bent arrow from spot to spot; none where the two touch."""
    (x0, y0), (x1, y1) = stage.at(arrow.start), stage.at(arrow.end)
    weight = min(max(arrow.weight, 0.0), 1.0)
    end = arrow.end
    ink = colour(TOKEN_COLOURS.get(end.kind, "neutral"))
    title = "" if end.kind in BEADS else _title(stage, end, weight)  # a bead says it itself
    far = math.hypot(x1 - x0, y1 - y0)
    if far < RADIUS:  # a neighbour, or the token itself: its bead says it
        return ""
    ux, uy = (x1 - x0) / far, (y1 - y0) / far
    outwards = 1 if (x0 + x1 >= stage.width) == (y1 >= y0) else -1
    bend = max(0.2 * far, 14) * outwards
    cx, cy = (x0 + x1) / 2 + uy * bend, (y0 + y1) / 2 - ux * bend
    start = RADIUS + 1 if arrow.start.kind == "node" else 4.0
    head = 5 + 5 * weight
    # directions at both ends of the curve
    ax, ay = _unit(cx - x0, cy - y0)
    bx, by = _unit(x1 - cx, y1 - cy)
    stop = (RADIUS if end.kind == "node" else 4 + 3 * weight) + 1
    tip = (x1 - bx * stop, y1 - by * stop)
    base = (tip[0] - bx * head, tip[1] - by * head)
    if far < start + stop + head:
        return ""
    line = f"M{x0 + ax * start:.0f} {y0 + ay * start:.0f}Q{cx:.0f} {cy:.0f} {base[0]:.1f} {base[1]:.1f}"
    side = head * 0.5
    wedge = (
        f"M{tip[0]:.1f} {tip[1]:.1f}L{base[0] - by * side:.1f} {base[1] + bx * side:.1f}"
        f"L{base[0] + by * side:.1f} {base[1] - bx * side:.1f}z"
    )
    return (
        f'<g opacity="{0.35 + 0.65 * weight:.2f}">{title}<path d="{line}" fill="none" stroke="{ink}" '
        f'stroke-width="{1.2 + 4.3 * weight:.1f}"/><path d="{wedge}" fill="{ink}"/></g>'
    )


def _unit(x: float, y: float) -> tuple[float, float]:
    size = math.hypot(x, y) or 1.0
    return x / size, y / size


def _trail(stage: Stage, trail: Trail, index: int) -> str:
    """A coloured band beside the edges it runs along, its name at the lower end."""
    shift = (index % 4 - 1.5) * 5
    points = [(stage.node[k][0] + shift, stage.node[k][1] + abs(shift) / 3) for k in trail.nodes]
    line = "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
    ink, dash = colour(index), ("" if index < 4 else ' stroke-dasharray="9 4"')
    x, y = points[0]
    side = -1 if index % 2 else 1
    return (
        f"<g><title>{html.escape(trail.name)}: {' to '.join(map(str, trail.nodes))}</title>"
        f'<path d="M{line}" fill="none" stroke="{ink}" stroke-width="4.5" stroke-opacity=".8" '
        f'stroke-linejoin="round" stroke-linecap="round"{dash}/>'
        f'<text class="mi-halo" x="{x + side * (RADIUS + 3):.1f}" y="{y + 16:.1f}" style="fill:{ink}" font-size="12" '
        f'font-weight="700" text-anchor="{"start" if side > 0 else "end"}">{html.escape(trail.name)}</text></g>'
    )
