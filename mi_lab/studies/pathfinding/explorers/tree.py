"""The main stage: one tree, the model's way through it, and what one token looks at, layer by layer."""

from __future__ import annotations

import functools
import html
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mi_lab import charts
from mi_lab.charts import Drawing, colour
from mi_lab.live import Choice, Slider, Text
from mi_lab.live.baked import Baked
from mi_lab.model import Transformer
from mi_lab.run import run
from mi_lab.studies.base import generate
from mi_lab.studies.pathfinding.circuit import CLASSES, token_class
from mi_lab.studies.pathfinding.drawing import TOKEN_COLOURS, Arrow, Spot, draw_tree
from mi_lab.studies.pathfinding.explorers.prompts import ORDERS, examples, rearranged
from mi_lab.studies.pathfinding.layout import Tree
from mi_lab.studies.pathfinding.task import COMMA, PathfindingTask

Lens = Callable[[Tensor, int], Tensor]
"""(resid_post [pos, d_model] of a layer, layer) -> logits [pos, vocab]."""

QUERIES = ("root", "second", "third", "comma near root", "comma near goal", "target near goal")
QUERY_NAMES = (
    "root (decides step 1)", "second path token (step 2)", "third path token (step 3)",
    "comma after the path's first edge", "comma after the goal's edge", "target of the goal's edge",
)  # fmt: skip
SHOWN = 0.04  # weakest attention that is drawn


class Decision(NamedTuple):
    """One step of the model: where it stands, what it chose and how sure it was."""

    at: str
    choice: str
    right: str
    probability: float
    rival: str
    rival_probability: float


class Look(NamedTuple):
    """One prompt with the model's own path, and everything a picture of it needs.

    tokens Int[pos]; pattern [layer, query, key], heads added up and divided by their number; lens
    [layer, pos, node]: probability of `>node`; walked: nodes of the model's path.
    """

    tree: Tree
    tokens: Tensor
    words: list[str]
    walked: list[int]
    decisions: list[Decision]
    pattern: Tensor
    lens: Tensor


class Scene(NamedTuple):
    """A `Look` from one token in one layer."""

    look: Look
    task: PathfindingTask
    layer: int
    query: str
    position: int
    lens: bool


@torch.no_grad()
def look(model: Transformer, task: PathfindingTask, text: str, lens: Lens | None = None) -> Look:
    """Let the model write its path to a typed question, and record attention and lens in all layers.

    lens: default the logit lens. Raises ValueError for text that is no question of this task, or a model
    of another shape.
    """
    if model.config.d_vocab != len(task.vocab):
        raise ValueError(
            f"the model has {model.config.d_vocab} tokens, a tree of {task.n_nodes} nodes needs {len(task.vocab)}"
        )
    tokens = task.encode(text)[None]
    tree = Tree.read(task, tokens[0])
    written = task.solve(tokens)  # if the model is right, its own path is this one
    if (
        model(written)[0, task.root_position : task.root_position + len(tree.path())].argmax(-1)
        != written[0, task.root_position + 1 : task.root_position + 1 + len(tree.path())]
    ).any():
        written = generate(model, task, tokens)
    layers = range(model.config.n_layers)
    names = [f"blocks.{layer}.{what}" for layer in layers for what in ("attn.pattern", "resid_post")]
    out = run(model, written, record=names)
    pattern = torch.stack([out[f"blocks.{i}.attn.pattern"][0].mean(0) for i in layers])
    see = lens or (lambda resid, _: model.ln_final(resid) @ model.unembed.W_U + model.unembed.b_U)
    nodes = slice(task.first_target, task.first_target + task.n_nodes)
    seen = torch.stack([see(out[f"blocks.{i}.resid_post"][0], i).softmax(-1)[:, nodes] for i in layers])
    words = [task.vocab[t] for t in written[0].tolist()]
    decisions, walked = _decisions(task, tree, written[0], out.logits[0].softmax(-1))
    return Look(tree, written[0], words, walked, decisions, pattern, seen)


def _decisions(
    task: PathfindingTask, tree: Tree, tokens: Tensor, probability: Tensor
) -> tuple[list[Decision], list[int]]:
    """Steps of the model's path to its stop or its first mistake; all its nodes."""
    way, walked, out = tree.path(), [tree.root], []
    for i in range(len(way)):
        position = task.root_position + i
        right = task.vocab[int(way[i + 1]) + task.first_target] if i + 1 < len(way) else "stop"
        token = int(tokens[position + 1]) if position + 1 < len(tokens) else COMMA
        choice = "stop" if token == COMMA else task.vocab[token]
        at = task.vocab[int(tokens[position])].strip(">")
        siblings = [k for k in tree.children(way[i]) if i + 1 < len(way) and k != way[i + 1]]
        p = probability[position]
        rival = task.vocab[siblings[0] + task.first_target] if siblings else ""
        rival_p = float(p[siblings[0] + task.first_target]) if siblings else 0.0
        right_token = COMMA if right == "stop" else way[i + 1] + task.first_target
        out.append(Decision(at, choice, right, float(p[right_token]), rival, rival_p))
        if choice != right:
            break
        if i + 1 < len(way):
            walked.append(token - task.first_target)
    at = task.root_position + len(walked)
    while at < len(tokens) and task.first_target <= int(tokens[at]) < task.first_bare:  # behind a mistake
        walked.append(int(tokens[at]) - task.first_target)
        at += 1
    return out, walked


def query_position(task: PathfindingTask, seen: Look, query: str) -> int:
    """Where a token of QUERIES stands. Raises ValueError if the path is too short to have it."""
    way = seen.tree.path()
    if query in QUERIES[:3]:
        step = QUERIES.index(query)
        if step >= len(way):
            raise ValueError(
                f"the right path has {len(way) - 1} step(s): it has no {query} token that decides"
            )
        return task.root_position + step
    target = task.first_target + (way[1] if query.endswith("root") else way[-1])
    where = int((seen.tokens[: 3 * task.n_edges] == target).nonzero()[0])
    return where + query.startswith("comma")


def query_spot(task: PathfindingTask, seen: Look, position: int) -> Spot:
    """Where a token stands in the drawing."""
    token = int(seen.tokens[position])
    if position >= task.root_position:
        if position == task.root_position:
            return Spot("node", seen.tree.root)
        return Spot("node", token - task.first_target if token >= task.first_target else seen.walked[-1])
    edge = int(seen.tokens[position - position % 3 + 1]) - task.first_target
    return Spot(("source", "target", "comma")[position % 3], edge)


def arrows(task: PathfindingTask, seen: Look, layer: int, position: int, least: float = SHOWN) -> list[Arrow]:
    """Attention of one token to tokens of edges, the weak ones left out."""
    start, out = query_spot(task, seen, position), []
    last = min(3 * task.n_edges - 1, position + 1)
    for key in range(last):
        weight = float(seen.pattern[layer, position, key])
        if weight >= least:
            out.append(Arrow(start, query_spot(task, seen, key), weight))
    return out


def elsewhere(task: PathfindingTask, seen: Look, layer: int, position: int) -> dict[str, float]:
    """Attention of one token to what is on no edge: {name: weight}."""
    weights = seen.pattern[layer, position, : position + 1]
    goal = task.goal_position
    out = {}
    for name, at in (("|", goal - 1), (f"goal {seen.words[goal]}", goal), (":", goal + 1)):
        if at <= position:
            out[name] = float(weights[at])
    path = float(weights[task.root_position : position].sum())
    if position > task.root_position:
        out["root and path so far"] = path
    if position >= task.root_position:
        out["itself"] = float(weights[position])
    return out


def chips(weights: dict[str, float]) -> str:
    """Attention to tokens that aren't on the tree, as boxes filled by weight."""
    boxes = "".join(
        f'<span class="mi-tok" style="--c:{colour("neutral")};--w:{w:.2f}">{html.escape(name)} '
        f"<b>{w:.2f}</b></span>"
        for name, w in weights.items()
        if w >= 0.005
    )
    return f'<div class="mi-strip"><span>off the edges:</span>{boxes or "nothing"}</div>' if weights else ""


def key_to_beads() -> str:
    """What the beads on an edge A>B are."""
    marks = {
        "source": '<circle cx="6" cy="6" r="5" fill="{}"/>',
        "comma": '<path d="M6 0l6 6l-6 6l-6-6z" fill="{}"/>',
        "target": '<rect x="1" y="1" width="10" height="10" fill="{}"/>',
    }
    names = {"source": "source A", "comma": "comma after A>B", "target": "target >B"}
    items = "".join(
        f'<li><svg viewBox="0 0 12 12" style="width:12px" aria-hidden="true">'
        f"{mark.format(colour(TOKEN_COLOURS[kind]))}</svg>{html.escape(names[kind])}</li>"
        for kind, mark in marks.items()
    )
    return f'<ul class="mi-key">{items}</ul>'


def draw_scene(scene: Scene) -> Drawing:
    """The tree with arrows and shading beside the table of decisions."""
    seen, task, layer, position = scene.look, scene.task, scene.layer, scene.position
    shade = {}
    if scene.lens and position >= task.root_position:  # other tokens answer nothing
        shade = {k: float(p) for k, p in enumerate(seen.lens[layer, position]) if p >= 0.01}
    kind = "root" if position == task.root_position else CLASSES[int(token_class(task)[position])]
    own = "".join(seen.words[position - position % 3 :][:2])
    name = f"{kind} of {own}" if position < 3 * task.n_edges else f"{kind} token {seen.words[position]}"
    drawn = draw_tree(
        seen.tree, shade=shade, arrows=arrows(task, seen, layer, position), walked=seen.walked,
        start=query_spot(task, seen, position),
        title=f"Layer {layer}: attention of the {name}", scale=1.12,
    )  # fmt: skip
    beside = chips(elsewhere(task, seen, layer, position)) + key_to_beads() + _table(seen)
    wrong = next((d for d in seen.decisions if d.choice != d.right), None)
    verdict = "The model's path is right." if wrong is None else (
        f"The model goes wrong at {wrong.at}: {wrong.choice} instead of {wrong.right}."
    )  # fmt: skip
    best = max(shade, key=lambda k: shade[k]) if shade else None
    lens = (
        f" Shaded: what it would answer after this layer (most: {best}, {shade[best]:.0%})."
        if best is not None
        else ""
    )
    body = charts.row(charts.panel(drawn), charts.panel(beside + prompt(task, seen, layer, position)))
    return Drawing(body, f"Layer {layer}, arrows from the {name}, wider for more attention.{lens} {verdict}")


def _table(seen: Look) -> str:
    """Each decision: where, what, how sure; only steps with a sibling are real choices."""
    rows = []
    for d in seen.decisions:
        good = d.choice == d.right
        mark = f'<span class="mi-{"yes" if good else "no"}">{html.escape(d.choice)} {"✓" if good else "✗"}</span>'
        rival = f"{html.escape(d.rival)} {d.rival_probability:.0%}" if d.rival else "no choice"
        rows.append(
            f"<tr><td>{html.escape(d.at)}</td><td>{mark}</td><td>{html.escape(d.right)} {d.probability:.0%}</td>"
            f"<td>{rival}</td></tr>"
        )
    if seen.walked[len(seen.decisions) :] and seen.decisions[-1].choice != seen.decisions[-1].right:
        rest = " ".join(f"&gt;{k}" for k in seen.walked[len(seen.decisions) + 1 :])
        rows.append(f'<tr><td colspan="4">then: {rest or "stop"}</td></tr>')
    head = "<tr><th>at</th><th>writes</th><th>p(right)</th><th>p(sibling)</th></tr>"
    return f'<div class="mi-scroll"><table>{head}{"".join(rows)}</table></div>'


def prompt(task: PathfindingTask, seen: Look, layer: int, position: int) -> str:
    """The tokens in reading order, filled by the attention they get."""
    weights = seen.pattern[layer, position]
    end = task.root_position + len(seen.walked)
    words, kinds = [], token_class(task)
    for at in range(end):
        kind = CLASSES[int(kinds[at])]
        ink = colour(TOKEN_COLOURS.get(kind, "neutral"))
        weight = float(weights[at]) if at <= position else 0.0
        own = " mi-own" if at == position else ""
        said = f";--w:{round(weight * 20) / 20:g}"  # in steps of 5 %: shorter pages
        words.append(
            f'<span class="mi-tok{own}" style="--c:{ink}{said}">{html.escape(seen.words[at])}</span>'
        )
    edges = 3 * task.n_edges
    starts = [*range(0, edges, 3), *range(edges, end)]
    groups = [
        f'<span class="mi-word">{"".join(words[a:b])}</span>' for a, b in zip(starts, [*starts[1:], end])
    ]
    return f'<b>The prompt, shaded by attention</b><div class="mi-strip">{"".join(groups)}</div>'


class TreeExplorer(Baked):
    """Choosing an example writes it into the text field; typing makes the tree yours."""

    def __init__(self, texts: Sequence[str], *args: Any, **options: Any) -> None:
        self.texts = tuple(texts)
        super().__init__(*args, **options)

    def linked(self, changes: dict[str, Any]) -> dict[str, Any]:
        """The changes with what they entail."""
        if changes.get("example", 0) and "text" not in changes:
            return changes | {"text": self.texts[changes["example"] - 1]}
        if "text" in changes and "example" not in changes:
            known = changes["text"] in self.texts
            return changes | {"example": self.texts.index(changes["text"]) + 1 if known else 0}
        return changes

    def resolve(self, **changes: Any) -> dict[str, Any]:
        """As `set` would make it from the default."""
        return super().resolve(**self.linked(changes))

    def set(self, **changes: Any) -> Any:
        """As Explorer.set; "example" and "text" follow each other."""
        return super().set(**self.linked(changes))


def tree_explorer(
    model: Transformer,
    task: PathfindingTask,
    *,
    texts: Sequence[str] = (),
    lens: Lens | None = None,
    baked: int = 3,
) -> TreeExplorer:
    """Edit the tree, the goal, the order of the edges; see what a token looks at in each layer, and the path.

    texts: questions to begin with ("edges|goal"); default some of different lengths. lens: in place of
    the logit lens. baked: so many of the texts go into the page that has no kernel.
    """
    texts = tuple(texts) or tuple(examples(task))
    seen = functools.lru_cache(maxsize=256)(lambda *q: look(model, task, rearranged(task, *q), lens))
    layers = tuple(range(model.config.n_layers))

    def compute(
        text: str, example: int, order: str, goal: int, query: str, layer: int, shading: str
    ) -> Scene:
        found = seen(text, order, goal)
        return Scene(found, task, layer, query, query_position(task, found, query), shading == "lens")

    trees = [f"tree {i + 1}" for i in range(len(texts))]
    return TreeExplorer(
        texts,
        "One tree, layer by layer",
        {
            "text": texts[0], "example": 1, "order": "random", "goal": 0, "query": "root",
            "layer": min(1, layers[-1]), "shading": "lens",
        },
        {
            "text": Text("your own tree|goal"),
            "example": Choice("tree", tuple(range(len(texts) + 1)), ("yours", *trees)),
            "order": Choice("edges", ORDERS),
            "goal": Choice("goal", (0, 1, 2, 3), ("as given", "next leaf", "the leaf after", "and after that")),
            "query": Choice("attention of", QUERIES, QUERY_NAMES),
            "layer": Slider("layer", layers),
            "shading": Choice("shade nodes by", ("lens", "nothing")),
        },
        compute,
        draw_scene,
        "Drag the layer from left to right: do the arrows climb from the goal to the root, or does the root look "
        "elsewhere? Then change the goal.",
        grid={
            "example": tuple(range(1, min(baked, len(texts)) + 1)),
            "goal": (0, 1),
            "order": ("backward", "random"),
            "query": ("root", "second", "comma near root"),
            "layer": None,
        },
    )  # fmt: skip
