"""Path patching: what one node tells another, and nothing else.

Patching a node from a donor run changes everything that reads it. Path patching asks about one route:
what would the receiver compute if it alone saw the sender as it is on the donor?

1. One run on the questions and one on the donors; the sender's write into the residual stream differs
   by `delta` between them.
2. Carry `delta` up to the receiver's layer. All heads between keep what they computed on the question
   (so no detour through attention). MLPs between keep it too (`mlps="frozen"`: the direct path), or
   are computed anew (`mlps="recomputed"`: paths through MLPs count as part of the route).
3. The receiver reads resid + delta through its own LayerNorm: a head's q, k or v, an MLP, or the logits.
4. Run the question once more with only the receiver's input changed; everything after it follows.

When to use it: after single nodes were found that matter, to see who listens to whom. When not: to find
nodes (`mi_lab.ablate.patch_nodes` does all of them at once). Cost: three forward passes and the layers
between, whatever the number of receivers. Error: exact, equal to `run` with everything else frozen by
edits to 1e-5 (tested). Source: Wang et al. 2022 (IOI circuit), who recompute MLPs; Goldowsky-Dill
et al. 2023.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from mi_lab.model import Transformer
from mi_lab.run import Change, Node, run

Into = Literal["q", "k", "v", "mlp", "logits"]


@dataclass(frozen=True)
class Receiver:
    """What reads the changed residual stream.

    into: "q", "k" or "v" of one head, "mlp" of a layer, or "logits". layer, head: of what reads (None
    for "logits"; no head for "mlp"). position: where it reads; None means everywhere.

        >>> Receiver("k", 2, 0).name, Receiver("mlp", 1, position=3).name, Receiver("logits").name
        ('L2H0.k', 'P3L1MLP', 'logits')
    """

    into: Into
    layer: int | None = None
    head: int | None = None
    position: int | None = None

    def __post_init__(self) -> None:
        if self.into not in ("q", "k", "v", "mlp", "logits"):
            raise ValueError(f"a receiver's `into` must be q, k, v, mlp or logits, not {self.into!r}")
        if (self.layer is None) != (self.into == "logits"):
            raise ValueError(f"a receiver of {self.into!r} can't have layer {self.layer!r}")
        if (self.head is None) != (self.into in ("mlp", "logits")):
            raise ValueError(f"a receiver of {self.into!r} can't have head {self.head!r}")

    @property
    def name(self) -> str:
        """Such as L2H0.k, P3L1MLP or logits."""
        at = "" if self.position is None else f"P{self.position}"
        if self.layer is None:
            return at + "logits"
        return str(Node(self.layer, self.head, self.position)) + (
            "" if self.head is None else f".{self.into}"
        )


def path_patch(
    model: Transformer,
    tokens: Tensor,
    donors: Tensor,
    sender: Node | Iterable[Node],
    receivers: Receiver | Iterable[Receiver],
    *,
    mlps: Literal["frozen", "recomputed"] = "frozen",
) -> Tensor:
    """Logits[question, pos, vocab] if only `receivers` see `sender` as it is on the donors.

    donors: Int[question, pos], as many as tokens. sender: a node, or several that are changed together.
    With `mlps="recomputed"` and the receiver "logits", MLPs between are computed anew and heads are not.
    Raises ValueError for a receiver that can't read the sender (it stands before it), and for "logits"
    beside other receivers.

        >>> from mi_lab.model import TransformerConfig
        >>> config = TransformerConfig(n_layers=2, n_heads=1, d_model=8, d_head=4, n_ctx=5, d_vocab=7)
        >>> a, b = torch.randint(7, (2, 3, 5), generator=torch.Generator().manual_seed(0))
        >>> path_patch(Transformer(config), a, b, Node(0, 0), Receiver("q", 1, 0)).shape
        torch.Size([3, 5, 7])
    """
    if donors.shape != tokens.shape:
        raise ValueError(
            f"donors must have the shape of tokens {list(tokens.shape)}, not {list(donors.shape)}"
        )
    if mlps not in ("frozen", "recomputed"):
        raise ValueError(f"mlps must be 'frozen' or 'recomputed', not {mlps!r}")
    senders = (sender,) if isinstance(sender, Node) else tuple(sender)
    readers = (receivers,) if isinstance(receivers, Receiver) else tuple(receivers)
    _check(model, tokens, senders, readers)
    wanted = ["blocks.*.resid_*", *sorted({node.activation for node in senders})]
    if mlps == "recomputed" and model.config.d_mlp:
        wanted.append("blocks.*.mlp.out")
    here, there = run(model, tokens, record=wanted), run(model, donors, record=wanted)
    seen = _carried(model, here.recorded, there.recorded, senders, recompute=mlps == "recomputed")
    if readers[0].into == "logits":
        stream = here[f"blocks.{model.config.n_layers - 1}.resid_post"]
        moved = _at(readers[0].position, seen["logits"])
        with torch.no_grad():
            return model.ln_final(stream + moved) @ model.unembed.W_U + model.unembed.b_U
    edit: dict[str, Change] = {}
    for reader in readers:
        name, change = _reading(model, here.recorded, seen, reader)
        before = edit.get(name)
        edit[name] = change if before is None else _both(before, change)
    return run(model, tokens, edit=edit).logits


def _check(
    model: Transformer, tokens: Tensor, senders: tuple[Node, ...], readers: tuple[Receiver, ...]
) -> None:
    if not senders or not readers:
        raise ValueError("path patching needs at least one sender and one receiver")
    if len(readers) > 1 and any(reader.into == "logits" for reader in readers):
        raise ValueError(
            "the receiver 'logits' stands alone: what other receivers compute would reach it too"
        )
    for node in senders:
        node.check(model.config, tokens.shape[1])
    for reader in readers:
        if reader.layer is None:
            continue
        Node(reader.layer, reader.head, reader.position).check(model.config, tokens.shape[1])
        for node in senders:
            if not _before(node, reader):
                raise ValueError(f"{reader.name} can't read {node}, which stands beside or after it")


def _before(node: Node, reader: Receiver) -> bool:
    """Does what the node writes reach the reader without a detour?"""
    assert reader.layer is not None
    same = node.layer == reader.layer and node.head is not None and reader.into == "mlp"
    behind = node.position is not None and reader.position is not None and node.position != reader.position
    return (node.layer < reader.layer or same) and not behind


def _carried(
    model: Transformer,
    here: dict[str, Tensor],
    there: dict[str, Tensor],
    senders: tuple[Node, ...],
    *,
    recompute: bool,
) -> dict[str, Tensor]:
    """Step 2: the difference [question, pos, d_model] that reaches each layer's heads ("0.attn"), its
    MLP ("0.mlp") and the logits."""
    delta = torch.zeros_like(here["blocks.0.resid_pre"])
    out = {}
    with torch.no_grad():
        for layer, block in enumerate(model.blocks):
            out[f"{layer}.attn"] = delta
            for node in senders:
                if node.layer == layer and node.head is not None:
                    z = there[node.activation] - here[node.activation]
                    write = z[:, :, node.head] @ block.attn.W_O[node.head]
                    delta = delta + _at(node.position, write)
            out[f"{layer}.mlp"] = delta
            if not block.has_mlp:
                continue
            mine = [node for node in senders if node.layer == layer and node.head is None]
            whole = any(node.position is None for node in mine)
            if recompute and not whole:
                mid = here[f"blocks.{layer}.resid_mid"] + delta
                after = block.mlp(block.ln2(mid), lambda _, value: value)
                change = after - here[f"blocks.{layer}.mlp.out"]
                for node in mine:  # a sender is the donor's, not computed anew
                    change[:, node.position] = 0
                delta = delta + change
            for node in mine:
                post = there[node.activation] - here[node.activation]
                delta = delta + _at(node.position, post @ block.mlp.W_out)
        out["logits"] = delta
    return out


def _at(position: int | None, value: Tensor) -> Tensor:
    """`value` at one position, 0 elsewhere; all of it for None."""
    return _placed(torch.zeros_like(value), value, position)


def _reading(
    model: Transformer, here: dict[str, Tensor], seen: dict[str, Tensor], reader: Receiver
) -> tuple[str, Change]:
    """Steps 3 and 4: the activation to edit, and how."""
    assert reader.layer is not None
    block, layer = model.blocks[reader.layer], reader.layer
    with torch.no_grad():
        if reader.into == "mlp":
            moved = here[f"blocks.{layer}.resid_mid"] + _at(reader.position, seen[f"{layer}.mlp"])
            new = block.mlp(block.ln2(moved), lambda _, value: value)
            return f"blocks.{layer}.mlp.out", lambda value: _placed(value, new, reader.position)
        moved = here[f"blocks.{layer}.resid_pre"] + _at(reader.position, seen[f"{layer}.attn"])
        name, head = reader.into.upper(), reader.head
        assert head is not None
        weight, bias = getattr(block.attn, f"W_{name}")[head], getattr(block.attn, f"b_{name}")[head]
        new = block.ln1(moved) @ weight + bias

    def change(value: Tensor) -> Tensor:
        value = value.clone()
        value[:, :, head] = _placed(value[:, :, head], new, reader.position)
        return value

    return f"blocks.{layer}.attn.{reader.into}", change


def _placed(value: Tensor, new: Tensor, position: int | None) -> Tensor:
    """`new` in value's place, at one position or at all."""
    if position is None:
        return new
    out = value.clone()
    out[:, position] = new[:, position]
    return out


def _both(first: Change, second: Change) -> Change:
    """Two edits of one activation (two heads of a layer), one after the other."""
    assert callable(first)
    assert callable(second)
    return lambda value: second(first(value))
