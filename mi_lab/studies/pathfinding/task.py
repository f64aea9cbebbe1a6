"""The pathfinding task: find the way from the root of a binary tree to a goal.

    5>3,0>5,1>2,4>1,4>0|3:4>0>5>3

The edges of a tree as `A>B` (two tokens: the bare source `A` and the target `>B`) joined by commas,
then `|`, the goal, `:`, the root, and the path, which the model has to write; commas follow it. A
goal is a leaf, a node has at most two children. With n nodes, source, target and comma of edge i
stand at 3i, 3i+1, 3i+2; the goal at 3n-3 and the root, the first path token, at 3n-1: its
prediction is the first step. Source: pathfinding paper, sections on the task; n = 16 is its size.

Trees come from the authors' law: a path of uniform length P, a second chain from the root of
uniform length, and the other nodes attached one by one wherever there is room. Deviation, on by
default: labels are permuted at random. The authors attach the last nodes in ascending label order,
so that off the path a parent has the smaller label in 58 % of edges; `labels="ascending"` does so.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor

from mi_lab.model import Transformer
from mi_lab.studies import base
from mi_lab.studies.pathfinding.draw import key_type, nth_bit, places_in_order, shuffles, single_bits, take

COMMA, COLON, BAR = 0, 1, 2
Order = Literal["mixed", "every", "backward", "random", "forward"]


@dataclass(frozen=True)
class PathfindingTask:
    """Trees of `n_nodes` nodes labelled 0..n_nodes-1.

    order: of the edges in the prompt. "forward" lists sources breadth first and siblings by label,
        "backward" is its exact reverse, "random" a shuffle; "mixed", the training law, alternates
        backward (even examples of a batch) and random (odd ones); "every" goes round backward, forward and
        random.
    longest, shortest: bounds of the path length P, uniform between them; longest None means n_nodes-1.
    second_chain: whether a second chain hangs off the root (the training law) or not (most of the
        authors' analyses).
    labels: "permuted", or "ascending" for the authors' bias.
    padding: score every token after the path (the authors' loss) instead of path and first stop; the
        sequences are then two tokens longer, as theirs.
    hide_goal: the goal token is replaced by a comma, to ask what can be had without it.
    trees: draw from a fixed set of this many trees (the authors had 135,000) instead of fresh ones.
    names: labels are `n_nodes` of the numbers 0..names-1, so that a model of larger trees can read these;
        None means all of 0..n_nodes-1.
    ties: among sources of one depth, "listed" keeps the exact breadth-first order, "random" shuffles the
        sources and each pair of siblings, which stay adjacent: a wider law that contains the exact one.

        >>> task = PathfindingTask(n_nodes=6)
        >>> task.decode(task.encode("5>3,0>5,1>2,4>1,4>0|3"))
        '5>3,0>5,1>2,4>1,4>0|3:4>0>5>3'
    """

    n_nodes: int = 16
    order: Order = "mixed"
    longest: int | None = None
    shortest: int = 1
    second_chain: bool = True
    labels: Literal["permuted", "ascending"] = "permuted"
    padding: bool = False
    hide_goal: bool = False
    trees: int | None = field(default=None, metadata={"described": "if set"})
    ties: Literal["listed", "random"] = field(default="listed", metadata={"described": "if set"})
    names: int | None = field(default=None, metadata={"described": "if set"})

    def __post_init__(self) -> None:
        if not 3 <= self.n_nodes <= 48:
            raise ValueError(f"n_nodes must be between 3 and 48, not {self.n_nodes}")
        if self.order not in ("mixed", "every", "backward", "random", "forward"):
            raise ValueError(
                f"order must be 'mixed', 'every', 'backward', 'random' or 'forward', not {self.order!r}"
            )
        if self.labels not in ("permuted", "ascending"):
            raise ValueError(f"labels must be 'permuted' or 'ascending', not {self.labels!r}")
        if self.ties not in ("listed", "random"):
            raise ValueError(f"ties must be 'listed' or 'random', not {self.ties!r}")
        if self.names is not None and not self.n_nodes <= self.names <= 48:
            raise ValueError(
                f"names must be None or between n_nodes = {self.n_nodes} and 48, not {self.names!r}"
            )
        if self.trees is not None and self.trees < 1:
            raise ValueError(f"trees must be at least 1 or None, not {self.trees}")
        if not 1 <= self.shortest <= self.longest_path <= self.n_nodes - 1:
            raise ValueError(
                f"path lengths must satisfy 1 <= shortest <= longest <= {self.n_nodes - 1}, "
                f"not shortest = {self.shortest}, longest = {self.longest}"
            )

    @property
    def longest_path(self) -> int:
        """The largest P."""
        return self.n_nodes - 1 if self.longest is None else self.longest

    @property
    def n_edges(self) -> int:
        """Edges of every tree."""
        return self.n_nodes - 1

    @property
    def n_labels(self) -> int:
        """How many labels there are to draw from."""
        return self.n_nodes if self.names is None else self.names

    @property
    def vocab(self) -> tuple[str, ...]:
        """`,` (also after the path), `:`, `|`, the targets `>0`.., the bare nodes `0`.. (sources, goal, root)."""
        nodes = range(self.n_labels)
        return (",", ":", "|", *(f">{k}" for k in nodes), *(str(k) for k in nodes))

    @property
    def first_target(self) -> int:
        """Token of `>0`."""
        return 3

    @property
    def first_bare(self) -> int:
        """Token of bare `0`."""
        return 3 + self.n_labels

    @property
    def goal_position(self) -> int:
        """Where the goal stands: 45 for n = 16."""
        return 3 * self.n_edges

    @property
    def root_position(self) -> int:
        """Where the root, the first path token, stands: 47 for n = 16. Its prediction is the first step."""
        return 3 * self.n_edges + 2

    @property
    def n_ctx(self) -> int:
        """4 n: room for the longest path and its stop (two more with `padding`)."""
        return 4 * self.n_nodes + (2 if self.padding else 0)

    @property
    def answer(self) -> slice:
        """From the root on."""
        return slice(self.root_position, self.n_ctx - 1)

    # ---- data ----

    def sample(self, n: int, *, generator: torch.Generator, device: torch.device | str = "cpu") -> Tensor:
        """Int[n, n_ctx]: fresh trees with their paths; all trees of the batch grow together."""
        options = {"generator": generator, "device": device}
        if self.trees is not None:
            return _fixed_trees(self).to(device)[torch.randint(self.trees, (n,), **options)].long()
        parent, length, second = self._grow(n, options)
        label = shuffles(n, self.n_labels, options)[: self.n_nodes]
        if self.labels == "ascending":  # the nodes that were attached last take their labels in order
            last = torch.arange(self.n_nodes, device=label.device)[:, None] > length + second
            head = torch.arange(self.n_nodes, device=label.device)[:, None] - self.n_nodes
            key = torch.where(last, label, head)  # path and second chain stay in front, in their order
            label = label.gather(0, key.argsort(0))
        edges = shuffles(n, self.n_edges, options)
        if self.order == "mixed":
            edges[:, ::2] = self._by_depth(parent[:, ::2], label[:, ::2], generator).flip(0)
        elif self.order == "every":
            edges[:, ::3] = self._by_depth(parent[:, ::3], label[:, ::3], generator).flip(0)
            edges[:, 1::3] = self._by_depth(parent[:, 1::3], label[:, 1::3], generator)
        elif self.order != "random":
            edges = self._by_depth(parent, label, generator)
            edges = edges.flip(0) if self.order == "backward" else edges
        edges += 1  # slots of the targets in prompt order: an edge is named by its lower end
        source = take(label, take(parent, edges))
        return self._write(source.T, take(label, edges).T, label.T, length)

    def _grow(self, n: int, options: dict) -> tuple[Tensor, Tensor, Tensor]:
        """parent Int[slot, n], path length P and second chain S, Int[n].

        Slots 0..P are the path, P+1..P+S the second chain, the rest comes in order of attachment, each
        below a uniformly chosen earlier slot that has room: the r-th free one, found by counting.
        """
        nodes = self.n_nodes
        length = torch.randint(self.shortest, self.longest_path + 1, (n,), **options)
        room = nodes - 1 - length
        second = (torch.rand((n,), **options) * room).long() + 1
        second = second.clamp(max=room) if self.second_chain else torch.zeros_like(length)
        uniform = torch.rand((nodes, n), **options)
        bit = single_bits(nodes, length.device)  # [slot, word]
        below = bit.cumsum(0, dtype=torch.int32) - bit  # [slot, word]: the slots before it
        free = ~bit[length]  # [n, word]: which slots may take a child: not the goal, not a node with two
        single = torch.zeros_like(free)  # and which have one
        parent = torch.zeros((nodes, n), dtype=torch.int32, device=length.device)
        rows = torch.arange(nodes, dtype=torch.int32, device=length.device)[:, None]
        chained = rows <= (length + second).int()
        before = (rows - 1) * (rows != (length + 1).int())  # the second chain starts at the root
        for slot in range(1, nodes):
            chosen = nth_bit(free & below[slot], uniform[slot])
            hit = bit.index_select(0, torch.where(chained[slot], before[slot], chosen, out=parent[slot]))
            free &= ~(hit & single)
            single |= hit
        return parent, length, second

    def _by_depth(self, parent: Tensor, label: Tensor, generator: torch.Generator) -> Tensor:
        """Edges Int[edge, n] from the root down: `_breadth_first`, or with random ties."""
        if self.ties == "listed":
            return self._breadth_first(parent, label)
        depth = torch.zeros_like(parent)
        for slot in range(1, self.n_nodes):
            depth[slot] = take(depth, parent[slot]) + 1
        noise = torch.randint(1 << 24, parent.shape, generator=generator, device=parent.device)
        key = (depth.long() << 48) | (take(noise, parent) << 24) | noise
        return key[1:].T.argsort(1).T

    def _breadth_first(self, parent: Tensor, label: Tensor) -> Tensor:
        """Edges Int[edge, n] by (depth, place of the source, label of the target).

        A node's place among those of its depth is the binary number of its branch choices from the
        root (1 where it is the sibling with the larger label); one bit in front of it per level puts
        every node before those of the next depth.
        """
        nodes, n = parent.shape
        name = take(label, parent)
        least = label.new_full((self.n_labels, n), self.n_labels)
        least.scatter_reduce_(0, name[1:].long(), label[1:], "amin")
        larger = label > take(least, name)
        key = torch.ones((nodes, n), dtype=key_type(nodes), device=parent.device)
        above, flat = parent * n + torch.arange(n, dtype=parent.dtype, device=parent.device), key.view(-1)
        for slot in range(1, nodes):
            torch.add(larger[slot], flat.index_select(0, above[slot]), alpha=2, out=key[slot])
        return places_in_order(key[1:].T, nodes)

    def _write(self, source: Tensor, target: Tensor, path: Tensor, length: Tensor) -> Tensor:
        """Tokens from labels: source, target Int[n, edge], path Int[n, >= P+1] with x0 first."""
        tokens = torch.full((len(source), self.n_ctx), COMMA, dtype=torch.long, device=source.device)
        edge = 3 * self.n_edges
        tokens[:, 0:edge:3] = source + self.first_bare
        tokens[:, 1:edge:3] = target + self.first_target
        tokens[:, edge - 1] = BAR
        if not self.hide_goal:
            tokens[:, edge] = path.gather(1, length[:, None])[:, 0] + self.first_bare
        tokens[:, edge + 1] = COLON
        tokens[:, edge + 2] = path[:, 0] + self.first_bare
        steps = torch.arange(1, self.n_nodes, device=source.device)
        walked = (path[:, 1 : self.n_nodes] + self.first_target) * (steps <= length[:, None])
        tokens[:, edge + 3 : edge + 2 + self.n_nodes] = walked
        return tokens

    # ---- text ----

    def encode(self, text: str) -> Tensor:
        """Int[n_ctx] from "A>B,..|goal", with ":root>.." or without (the task fills the path in).

        Raises ValueError that names what is wrong: labels, number of edges, not a tree, three children,
        a goal that is not a leaf, another root.
        """
        prompt, bar, rest = text.strip().replace(" ", "").partition("|")
        if not bar:
            raise ValueError(f"a prompt is 'edges|goal', there is no '|' in {text!r}")
        goal_text, _, given = rest.partition(":")
        edges = []
        for word in prompt.split(","):
            if not re.fullmatch(r"\d+>\d+", word):
                raise ValueError(f"{word!r} is not an edge 'A>B'")
            a, b = word.split(">")
            edges.append((self._node(a), self._node(b)))
        goal = self._node(goal_text)
        parent = self._check_tree(edges)
        root = next(k for k in parent.values() if k not in parent)
        if goal in parent.values():
            raise ValueError(f"the goal must be a leaf, {goal} has children")
        if given and given.split(">")[0] != str(root):
            raise ValueError(f"the root of this tree is {root}, not {given.split('>')[0]!r}")
        if goal not in parent:
            raise ValueError(f"the goal must be a leaf, {goal} is not in this tree")
        path = [goal]
        while path[-1] != root:
            path.append(parent[path[-1]])
        way = torch.tensor([path[::-1] + [0] * (self.n_nodes - len(path))])
        source, target = torch.tensor(edges).T
        return self._write(source[None], target[None], way, torch.tensor([len(path) - 1]))[0]

    def _node(self, text: str) -> int:
        if not re.fullmatch(r"\d+", text) or int(text) >= self.n_labels:
            raise ValueError(f"{text!r} is not a node label from 0 to {self.n_labels - 1}")
        return int(text)

    def _check_tree(self, edges: list[tuple[int, int]]) -> dict[int, int]:
        """child -> parent. Raises ValueError unless the edges are a binary tree over all nodes."""
        if len(edges) != self.n_edges:
            raise ValueError(f"a tree of {self.n_nodes} nodes has {self.n_edges} edges, not {len(edges)}")
        parent: dict[int, int] = {}
        children: dict[int, int] = {}
        for a, b in edges:
            if a == b:
                raise ValueError(f"{a}>{b} leads back to itself")
            if b in parent:
                raise ValueError(f"not a tree: {b} has two parents, {parent[b]} and {a}")
            parent[b] = a
            children[a] = children.get(a, 0) + 1
            if children[a] > 2:
                raise ValueError(f"{a} has three children, a node has at most two")
        for start in parent:  # n-1 edges, one parent each: a tree unless some walk up never ends
            node, seen = start, {start}
            while node in parent:
                node = parent[node]
                if node in seen:
                    raise ValueError(f"not a tree: {node} is its own ancestor")
                seen.add(node)
        roots = sorted(set(parent.values()) - parent.keys())
        if len(roots) > 1:
            raise ValueError(f"not a tree: {roots[0]} and {roots[1]} both have no parent")
        return parent

    def decode(self, tokens: Tensor) -> str:
        """The text of one sequence, up to the end of its path."""
        words = [self.vocab[t] for t in tokens.tolist()]
        end = 3 * self.n_edges + 3
        while end < len(words) and words[end] != ",":
            end += 1
        edges = ",".join("".join(words[3 * i : 3 * i + 2]) for i in range(self.n_edges))
        return edges + "".join(words[3 * self.n_edges - 1 : end])

    # ---- truth ----

    def solve(self, tokens: Tensor) -> Tensor:
        """The same prompts with the right path. Prompts with a hidden goal keep the path they have."""
        if self.hide_goal:
            return tokens
        truth = self.variables(tokens)
        edge = 3 * self.n_edges
        source = tokens[:, 0:edge:3] - self.first_bare
        target = tokens[:, 1:edge:3] - self.first_target
        return self._write(source, target, truth["path"].clamp(min=0), truth["length"])

    def weights(self, tokens: Tensor) -> Tensor | None:
        """Float[n, answer]: 1 on the path and its first stop, 0 behind; None (all) with `padding`."""
        if self.padding:
            return None
        step = tokens[:, self.answer.start + 1 : self.answer.stop + 1] != COMMA
        first = torch.ones_like(step[:, :1])
        return (step | torch.cat([first, step[:, :-1]], 1)).float()

    def variables(self, tokens: Tensor) -> dict[str, Tensor]:
        """Ground truth of well-formed trees; nodes are labels, -1 stands for "none".

        `node` runs over all labels; one that a tree doesn't use is no leaf and has no parent.

        parent, depth, height [n, node]; leaf Bool[n, node]; child [n, node, 2], smaller label first;
        position [n, node]: where `>node` stands (-1 for the root); root, goal, length (P) [n];
        ancestor [n, node]: anc_k of the goal, anc_0 = goal, up to anc_P = root; path [n, node]: x0..xP;
        current [n, answer]: the node at each answer position, from the root on; correct [n, answer]: the
        next node; other [n, answer]: its sibling; branch Bool[n, answer]: is there a choice; side_gap [n]: how much
        deeper the subtree of x1 is than that of its sibling (length if there is none); hard Bool[n]:
        the other side is at least as deep, so that the first step can't be had by depth.
        """
        n, nodes, edge = len(tokens), self.n_labels, 3 * self.n_edges
        source = tokens[:, 0:edge:3] - self.first_bare
        target = tokens[:, 1:edge:3] - self.first_target
        rows = torch.arange(n, device=tokens.device)
        none = torch.full((n, nodes), -1, dtype=torch.long, device=tokens.device)
        parent = none.scatter(1, target, source)
        where = torch.arange(self.n_edges, device=tokens.device) * 3 + 1
        position = none.scatter(1, target, where.expand(n, -1))
        small = torch.full_like(none, nodes).scatter_reduce(1, source, target, "amin")
        large = none.scatter_reduce(1, source, target, "amax")
        childless = large < 0
        leaf = childless & (position >= 0)
        child = torch.stack([small.masked_fill(childless, -1), large.masked_fill(large == small, -1)], 2)
        root = tokens[:, self.root_position] - self.first_bare
        goal = self._goal(tokens)
        # walk all nodes up together: depth and height in at most n-1 steps
        depth, height = torch.zeros_like(none), torch.zeros_like(none)
        at = torch.arange(nodes, device=tokens.device).expand(n, -1)
        ancestor = none.clone()
        for step in range(nodes):
            ancestor[:, step] = torch.where(goal >= 0, at[rows, goal.clamp(min=0)], -1)
            up = torch.where(at >= 0, parent.gather(1, at.clamp(min=0)), -1)
            climbs = up >= 0
            if not climbs.any():
                break
            depth += climbs
            reach = torch.where(climbs, step + 1, 0)
            height.scatter_reduce_(1, up.clamp(min=0), reach, "amax")
            at = up
        length = torch.where(goal >= 0, depth[rows, goal.clamp(min=0)], 0)
        steps = torch.arange(nodes, device=tokens.device)
        back = length[:, None] - steps
        path = torch.where(back >= 0, ancestor.gather(1, back.clamp(min=0)), -1)
        width = self.answer.stop - self.answer.start
        current = path[:, :width] if width <= nodes else torch.cat([path, none[:, : width - nodes]], 1)
        correct = torch.cat([current[:, 1:], none[:, :1]], 1)
        kids = child.gather(1, current.clamp(min=0)[:, :, None].expand(-1, -1, 2))
        choice = (kids >= 0).all(2) & (current >= 0) & (correct >= 0)
        other = torch.where(choice, torch.where(kids[:, :, 0] == correct, kids[:, :, 1], kids[:, :, 0]), -1)
        there = other[:, 0] >= 0
        other_side = torch.where(there, 1 + height[rows, other[:, 0].clamp(min=0)], 0)
        own_side = torch.where(correct[:, 0] >= 0, 1 + height[rows, correct[:, 0].clamp(min=0)], 0)
        return {
            "parent": parent, "depth": depth, "height": height, "leaf": leaf, "child": child,
            "position": position, "root": root, "goal": goal, "length": length, "ancestor": ancestor,
            "path": path, "current": current, "correct": correct, "other": other, "branch": choice,
            "side_gap": own_side - other_side, "hard": there & (other_side >= own_side),
        }  # fmt: skip

    def _goal(self, tokens: Tensor) -> Tensor:
        """Int[n]: the goal as the prompt says, or as the path says where it is hidden."""
        goal = tokens[:, self.goal_position] - self.first_bare
        if (goal >= 0).all():
            return goal
        way = tokens[:, self.root_position + 1 :] - self.first_target
        last = (way >= 0).sum(1) - 1
        walked = torch.where(last >= 0, way.gather(1, last.clamp(min=0)[:, None])[:, 0], -1)
        return torch.where(goal >= 0, goal, walked)

    def fingerprint(self, tokens: Tensor) -> Tensor:
        """Int64[n]: a hash of the edge set and the goal, the same for every order of the edges.

        The sum of one random 64-bit number per edge and per goal: two different questions collide
        with probability 2^-64.
        """
        edge = 3 * self.n_edges
        source = tokens[:, 0:edge:3] - self.first_bare
        target = tokens[:, 1:edge:3] - self.first_target
        labels = self.n_labels
        table = _hash_table(labels).to(tokens.device)
        return table[source * labels + target].sum(1) + table[labels**2 + self._goal(tokens)]

    def grade(self, model: Transformer, tokens: Tensor, *, free_running: bool = True) -> Tensor:
        """Bool[n]: are the whole path and its stop right?

        One pass with the right path in place serves both modes: the first wrong token of a free run is
        also wrong here, and where all are right the two runs are one.
        """
        solved = self.solve(tokens)
        right = base.predict(model, self, solved) == base.targets(self, solved)
        weights = self.weights(solved)
        return (right if weights is None else right | (weights == 0)).all(1)


@functools.lru_cache(maxsize=2)
def _fixed_trees(task: PathfindingTask) -> Tensor:
    """UInt8[trees, n_ctx]: the fixed set of a task with `trees`; the same in every process."""
    generator = torch.Generator().manual_seed(0xF17ED)
    return replace(task, trees=None).sample(task.trees or 0, generator=generator).to(torch.uint8)


@functools.lru_cache(maxsize=8)
def _hash_table(nodes: int) -> Tensor:
    """A random 64-bit number per (source, target) and per goal, the same everywhere."""
    generator = torch.Generator().manual_seed(0x7EEE)
    halves = torch.randint(1 << 32, (2, nodes * nodes + nodes), generator=generator)
    return (halves[0] << 32) ^ halves[1]
