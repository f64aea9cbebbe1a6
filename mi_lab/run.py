"""Run a model once, look at named activations, change some of them. The one hook mechanism.

    out = run(model, tokens, record=("blocks.0.attn.pattern",), edit={Node(0, 1): 0.0})
    out.logits, out["blocks.0.attn.pattern"]

Everything belongs to the call: no hook, flag or cache is left in the model. Names are those of
`Transformer.activations()`; patterns such as "blocks.*.attn.pattern" name several. What is recorded
is what went on through the model, that is, after any edit of the same activation.

When to use it: to see inside a model, or to test a few interventions. When not: for the effect of
every single node, `mi_lab.ablate.sweep_nodes` is exact too and ten times as fast.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
from torch import Tensor

from mi_lab.model import Transformer, TransformerConfig

Change = Tensor | float | Callable[[Tensor], Tensor]
"""What to put in an activation's place: a tensor or number that broadcasts to it, or a function of it."""

_NODE = re.compile(r"(?:P(\d+))?L(\d+)(?:H(\d+)|MLP)")


@dataclass(frozen=True)
class Node:
    """One head or one MLP, at one position or at all of them: what is ablated and patched.

    layer, head, position: counted from 0; head None means the layer's MLP, position None all
    positions. Changing a head's node changes its z, changing an MLP's its hidden layer after the
    non-linearity (`mlp.post`).

        >>> Node(2, 3, position=14).name, Node(0, 1).name, Node(1, None, position=3).name
        ('P14L2H3', 'L0H1', 'P3L1MLP')
    """

    layer: int
    head: int | None = None
    position: int | None = None

    def __post_init__(self) -> None:
        for field, value in vars(self).items():
            allowed = isinstance(value, int) and not isinstance(value, bool) and value >= 0
            if not allowed and (value is not None or field == "layer"):
                raise ValueError(f"a node's {field} must be a whole number from 0 on, not {value!r}")

    @property
    def name(self) -> str:
        """Such as P14L2H3, L0H1 (all positions) or P3L1MLP."""
        position = "" if self.position is None else f"P{self.position}"
        return f"{position}L{self.layer}" + ("MLP" if self.head is None else f"H{self.head}")

    def __str__(self) -> str:
        return self.name

    @classmethod
    def parse(cls, name: str) -> Node:
        """The node with this name.

        >>> Node.parse("P14L2H3")
        Node(layer=2, head=3, position=14)
        """
        match = _NODE.fullmatch(name)
        if match is None:
            raise ValueError(
                f"{name!r} is not a node: write P14L2H3 (position, layer, head), L2H3 or P3L1MLP"
            )
        position, layer, head = (None if part is None else int(part) for part in match.groups())
        assert layer is not None
        return cls(layer, head, position)

    def check(self, config: TransformerConfig, n_ctx: int | None = None) -> Node:
        """This node; raises ValueError if such a model, on sequences of `n_ctx` tokens, has no such node."""
        n_ctx = config.n_ctx if n_ctx is None else n_ctx
        if self.layer >= config.n_layers:
            raise ValueError(f"node {self}: the model's layers are 0..{config.n_layers - 1}")
        if self.head is None and not config.d_mlp:
            raise ValueError(f"node {self}: the model has no MLP (attention only)")
        if self.head is not None and self.head >= config.n_heads:
            raise ValueError(f"node {self}: the model's heads are 0..{config.n_heads - 1}")
        if self.position is not None and self.position >= n_ctx:
            raise ValueError(f"node {self}: the positions are 0..{n_ctx - 1}")
        return self

    @property
    def activation(self) -> str:
        """The activation it is a part of."""
        return f"blocks.{self.layer}." + ("mlp.post" if self.head is None else "attn.z")

    @property
    def index(self) -> tuple[slice | int, ...]:
        """Its place in that activation: [batch, pos, d_mlp] or [batch, pos, head, d_head]."""
        position = slice(None) if self.position is None else self.position
        return (slice(None), position) if self.head is None else (slice(None), position, self.head)


Edit = Mapping[str, Change] | Mapping[Node, Change] | Mapping[str | Node, Change]


@dataclass(frozen=True, eq=False)
class Run:
    """One forward pass. logits [batch, pos, vocab]; recorded: name -> activation, also as `run[name]`."""

    logits: Tensor
    recorded: dict[str, Tensor]

    def __getitem__(self, name: str) -> Tensor:
        if name not in self.recorded:
            raise KeyError(f"{name!r} was not recorded; recorded: {', '.join(self.recorded) or 'nothing'}")
        return self.recorded[name]


def run(
    model: Transformer,
    tokens: Tensor,
    *,
    record: str | Iterable[str] = (),
    edit: Edit | None = None,
    grad: bool = False,
) -> Run:
    """Logits of one forward pass with the named activations recorded and edited.

    record: names or patterns of activations. edit: activation (name or pattern) or node (`Node` or
    its name) -> tensor or number that broadcasts to it, or a function of it; edits of one
    activation are made in the order given. grad: keep the graph, for gradients with respect to
    recorded activations. Raises ValueError for unknown names, nodes outside the model and shapes
    that do not fit.

        >>> config = TransformerConfig(n_layers=1, n_heads=2, d_model=8, d_head=4, n_ctx=5, d_vocab=7)
        >>> tokens = torch.zeros(3, 5, dtype=torch.long)
        >>> out = run(Transformer(config), tokens, record="blocks.*.attn.pattern", edit={"P4L0H1": 0.0})
        >>> out["blocks.0.attn.pattern"].shape
        torch.Size([3, 2, 5, 5])
    """
    names = model.activations()
    wanted = set(resolve((record,) if isinstance(record, str) else record, names))
    edits: dict[str, list[tuple[str | Node, Change]]] = {}
    for key, change in (edit or {}).items():
        if isinstance(key, str) and _NODE.fullmatch(key):
            key = Node.parse(key)
        if isinstance(key, Node):
            key.check(model.config, tokens.shape[-1])
        for name in [key.activation] if isinstance(key, Node) else resolve([key], names):
            edits.setdefault(name, []).append((key, change))
    recorded: dict[str, Tensor] = {}

    def tap(name: str, value: Tensor) -> Tensor:
        for key, change in edits.get(name, ()):
            if isinstance(key, Node):
                part = value[key.index]
                value = value.clone()
                value[key.index] = changed(part, change, key.name)
            else:
                value = changed(value, change, name)
        if name in wanted:
            recorded[name] = value
        return value

    with torch.set_grad_enabled(grad):
        logits = model(tokens, tap)
    return Run(logits, {name: recorded[name] for name in names if name in recorded})


def changed(value: Tensor, change: Change, name: str) -> Tensor:
    """`change` applied to `value`, in its shape; raises ValueError that names the expected shape."""
    new = change(value) if callable(change) else change
    if not isinstance(new, Tensor):
        if not isinstance(new, (int, float)):
            raise ValueError(f"the edit of {name} must give a tensor or a number, not {type(new).__name__}")
        return torch.full_like(value, float(new))
    try:
        return new.to(value).expand(value.shape)
    except RuntimeError as error:
        raise ValueError(
            f"the edit of {name} has shape {list(new.shape)}, which doesn't broadcast to {list(value.shape)}"
        ) from error


def resolve(patterns: Iterable[str], names: Iterable[str]) -> list[str]:
    """The names that the patterns match; raises ValueError, with the nearest name, for one that fits none.

    >>> resolve(["b.*"], ["a.x", "b.x", "b.y"])
    ['b.x', 'b.y']
    """
    names, found = list(names), []
    for pattern in patterns:
        matches = [name for name in names if fnmatchcase(name, pattern)]
        if not matches:
            near = difflib.get_close_matches(pattern, names, 1, 0.0)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ValueError(
                f"there is no activation {pattern!r}{hint} (Transformer.activations() lists all)"
            )
        found += matches
    return found


def knock_out(
    queries: int | slice | list[int],
    keys: int | slice | list[int],
    *,
    heads: int | slice | list[int] = slice(None),
    renormalise: bool = True,
) -> Callable[[Tensor], Tensor]:
    """An edit that forbids some queries to look at some keys (attention knock-out).

    renormalise True: for "blocks.i.attn.scores", before the softmax, so that the attention goes to
    the other keys. False: for "blocks.i.attn.pattern", where the attention is lost.

        >>> edit = {"blocks.0.attn.scores": knock_out(queries=[3, 4], keys=0)}
    """

    def edit(value: Tensor) -> Tensor:
        is_scores = bool(value.isneginf().any()) or value.shape[-1] == 1
        if renormalise != is_scores and value.shape[-1] > 1:
            right = "scores" if renormalise else "pattern"
            raise ValueError(f"knock_out(renormalise={renormalise}) edits attn.{right}, not this activation")
        hit = torch.zeros(value.shape[1:], dtype=torch.bool, device=value.device)
        rows = [_chosen(n, which) for n, which in zip(hit.shape, (heads, queries, keys), strict=True)]
        hit[torch.meshgrid(*rows, indexing="ij")] = True
        out = value.masked_fill(hit, -torch.inf if renormalise else 0.0)
        if renormalise and (blind := out.isneginf().all(-1)).any():
            query = int(blind.nonzero()[0, -1])
            raise ValueError(f"query {query} would have no key left to look at; use renormalise=False")
        return out

    return edit


def _chosen(n: int, which: int | slice | list[int]) -> Tensor:
    try:
        return torch.arange(n)[which].reshape(-1)
    except IndexError as error:
        raise ValueError(f"knock_out: {which} is outside 0..{n - 1}") from error
