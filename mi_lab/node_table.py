"""The table of a model's nodes: what each one does, as data with filters.

    table.where(kind="head", attends="D'2", impacts="A3")     # a smaller table
    table["P14L2H3"].fail.interval
    table.save("nodes.json"); NodeTable.load("nodes.json").check(model)

`mi_lab.scan.scan` makes it. Conditions compare positions, not their text, so P1 is not found in P12,
and an impact on "A11" is not one on "A1" (both went wrong in the authors' code: dossier, E6).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

from mi_lab.checkpoint import write_atomically
from mi_lab.metrics import Interval, wilson
from mi_lab.model import Transformer
from mi_lab.run import Node

FORMAT = "mi_lab nodes/1"
Place = int | str
"""A position: its number, or its label such as "D'2" in a table that has labels."""


class Count(NamedTuple):
    """hits of n."""

    hits: int
    n: int

    @property
    def rate(self) -> float:
        """hits / n; 0 of 0 is 0."""
        return self.hits / self.n if self.n else 0.0

    @property
    def interval(self) -> Interval:
        """The rate with Wilson's 95 % interval."""
        return wilson(self.hits, self.n) if self.n else Interval(0.0, 0.0, 1.0)


@dataclass(frozen=True)
class Row:
    """What replacing one node (or, with node None, one position) does.

    position: where it is. fail: questions that turn wrong. impact: share of questions whose answer
    token i turns wrong, for each i. classes: the same as fail, within each class. loss: rise of the
    mean loss per answer token, in nats; it tells nodes apart that turn no question wrong. attends:
    keys with the largest mean attention, ((position, weight), ..), for a head.
    """

    node: Node | None
    position: int
    fail: Count
    impact: tuple[float, ...]
    classes: Mapping[str, Count]
    loss: float
    attends: tuple[tuple[int, float], ...] = ()

    @property
    def name(self) -> str:
        """P14L2H3, P14L2MLP, or P14 for a position."""
        return f"P{self.position}" if self.node is None else self.node.name

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON."""
        classes = {name: list(count) for name, count in self.classes.items()}
        attends = [list(pair) for pair in self.attends]
        own = {"fail": list(self.fail), "impact": list(self.impact), "classes": classes}
        return {"name": self.name, **own, "loss": self.loss, "attends": attends}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Row:
        """The way back from `to_dict`."""
        name = data["name"]
        node = Node.parse(name) if "L" in name else None
        position = int(name[1:]) if node is None else node.position
        return cls(
            node,
            position,  # type: ignore[arg-type]
            Count(*data["fail"]),
            tuple(data["impact"]),
            {key: Count(*value) for key, value in data["classes"].items()},
            data["loss"],
            tuple((int(key), weight) for key, weight in data["attends"]),
        )


@dataclass(frozen=True)
class NodeTable:
    """The nodes of one model with what they do, as data.

    rows: nodes. positions: the same facts for whole positions. labels: text of each position. answer:
    (first, stop) of the answer positions; token `first + 1 + i` is answer token i. questions: tested;
    dropped: not tested, since the model answers them wrong anyway. model: its `fingerprint`.

    Iterates over its rows; `table["P14L2H3"]` or `table[Node(2, 3, 14)]` is one of them.
    """

    rows: tuple[Row, ...]
    positions: tuple[Row, ...]
    labels: tuple[str, ...]
    answer: tuple[int, int]
    questions: int
    dropped: int
    model: str

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)

    def __getitem__(self, node: Node | str) -> Row:
        name = node if isinstance(node, str) else node.name
        for row in (*self.rows, *self.positions):
            if row.name == name:
                return row
        raise KeyError(f"{name} is not in this table of {len(self)} nodes")

    @property
    def nodes(self) -> tuple[Node, ...]:
        """The nodes, in the table's order."""
        return tuple(row.node for row in self.rows if row.node is not None)

    @property
    def useful_positions(self) -> tuple[int, ...]:
        """Positions whose replacement turns some question wrong."""
        return tuple(row.position for row in self.positions if row.fail.hits)

    def place(self, where: Place) -> int:
        """The number of a position; raises ValueError for one that the sequences do not have."""
        if isinstance(where, str):
            if where not in self.labels:
                raise ValueError(f"no position is labelled {where!r}; there are {', '.join(self.labels)}")
            return self.labels.index(where)
        if not 0 <= where < len(self.labels):
            raise ValueError(f"position {where} is outside 0..{len(self.labels) - 1}")
        return where

    def where(
        self,
        *,
        kind: Literal["head", "mlp"] | None = None,
        layer: int | None = None,
        positions: range | Sequence[Place] | None = None,
        attends: Place | Sequence[Place] | None = None,
        weight: float = 0.1,
        impacts: Place | Sequence[Place] | None = None,
        fails: str | None = None,
        above: float = 0.0,
        test: Callable[[Row], bool] | None = None,
    ) -> NodeTable:
        """The nodes that meet every condition given, most failures first.

        attends: gives each of these keys at least `weight` of its attention. impacts: turns each of
        these answer tokens wrong in some question. above: more than this share of questions turns
        wrong; of the class `fails`, if one is named. So `where()` are the useful nodes, and
        `where(above=-1)` all. Raises ValueError for labels and classes that the table does not have.
        """
        if kind not in (None, "head", "mlp"):
            raise ValueError(f"kind must be 'head', 'mlp' or None, not {kind!r}")
        known = self.rows[0].classes if self.rows else {}
        if self.rows and fails is not None and fails not in known:
            raise ValueError(f"there is no class {fails!r}; this table has {', '.join(known) or 'none'}")
        among = None if positions is None else {self.place(p) for p in positions}
        keys, tokens = self._places(attends), [self._token(p) for p in self._places(impacts)]

        def keep(row: Row) -> bool:
            node = row.node
            assert node is not None
            seen = dict(row.attends)
            return (
                (kind is None or (node.head is None) == (kind == "mlp"))
                and (layer is None or node.layer == layer)
                and (among is None or row.position in among)
                and all(seen.get(key, 0.0) >= weight for key in keys)
                and all(row.impact[i] > 0 for i in tokens)
                and (row.classes[fails] if fails else row.fail).rate > above
                and (test is None or test(row))
            )

        rows = sorted(filter(keep, self.rows), key=lambda row: (-row.fail.hits, -row.loss))
        return replace(self, rows=tuple(rows))

    def facts(self, name: str = "fail") -> dict[Node, float]:
        """One number per node, for `mi_lab.nodemap`: "fail", "loss", or the failing share of a class."""
        out = {}
        for row in self.rows:
            if name in ("fail", "loss"):
                value = row.fail.rate if name == "fail" else row.loss
            elif name in row.classes:
                value = row.classes[name].rate
            else:
                known = ", ".join(["fail", "loss", *row.classes])
                raise ValueError(f"there is no fact {name!r} in this table; there are {known}")
            out[row.node] = value
        return out

    def impact_text(self, row: Row) -> str:
        """The answer tokens that turn wrong, such as "A4 A3"; a space between them, so "A11" is one."""
        first = self.answer[0] + 1
        return " ".join(self.labels[first + i] for i, share in enumerate(row.impact) if share > 0)

    def to_markdown(self, limit: int | None = None) -> str:
        """The table for a page; at most `limit` rows."""
        classes = list(self.rows[0].classes) if self.rows else []
        head = ["node", "fail % [95 %]", "impact", *(f"{name} %" for name in classes), "attends to"]
        lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
        for row in self.rows[:limit]:
            value, low, high = (100 * x for x in row.fail.interval)
            keys = ", ".join(f"{self.labels[key]} {100 * weight:.0f}" for key, weight in row.attends)
            shares = [f"{100 * row.classes[name].rate:.3g}" for name in classes]
            cells = [row.name, f"{value:.3g} [{low:.2g}, {high:.2g}]", self.impact_text(row), *shares, keys]
            lines.append("| " + " | ".join(cells) + " |")
        if limit is not None and len(self) > limit:
            lines.append(f"\n{len(self) - limit} more rows.")
        return "\n".join(lines)

    def __repr__(self) -> str:
        heads = sum(node.head is not None for node in self.nodes)
        return (
            f"NodeTable of model {self.model}: {heads} heads and {len(self) - heads} MLPs, "
            f"{self.questions} questions ({self.dropped} more answered wrong anyway); "
            f"useful positions {_ranges(self.useful_positions)}. The most useful nodes:\n"
            f"{self.where().to_markdown(20)}"
        )

    def _repr_markdown_(self) -> str:
        return self.where().to_markdown(60)

    def check(self, model: Transformer) -> NodeTable:
        """This table, if it was made from this very model; raises ValueError for any other."""
        mine = fingerprint(model)
        if mine != self.model:
            raise ValueError(f"this table was made from model {self.model}, the model given is {mine}")
        return self

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON."""
        rows = {name: [row.to_dict() for row in getattr(self, name)] for name in ("rows", "positions")}
        plain = {name: getattr(self, name) for name in ("questions", "dropped", "model")}
        return {"format": FORMAT, **plain, "labels": list(self.labels), "answer": list(self.answer), **rows}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> NodeTable:
        """The way back from `to_dict`. Raises ValueError if it is no such table."""
        if data.get("format") != FORMAT:
            raise ValueError(f"a node table has the format {FORMAT!r}, not {data.get('format')!r}")
        rows = {name: tuple(map(Row.from_dict, data[name])) for name in ("rows", "positions")}
        plain = {name: data[name] for name in ("questions", "dropped", "model")}
        return cls(**rows, labels=tuple(data["labels"]), answer=tuple(data["answer"]), **plain)

    def save(self, path: Path | str) -> None:
        """Write it as JSON."""
        write_atomically(Path(path), (json.dumps(self.to_dict(), allow_nan=False) + "\n").encode())

    @classmethod
    def load(cls, path: Path | str) -> NodeTable:
        """Read what `save` wrote."""
        return cls.from_dict(json.loads(Path(path).read_text()))

    def _places(self, where: Place | Sequence[Place] | None) -> list[int]:
        if where is None:
            return []
        return [self.place(p) for p in ([where] if isinstance(where, int | str) else where)]

    def _token(self, position: int) -> int:
        """Which answer token stands at this position."""
        first, stop = self.answer
        if not first < position <= stop:
            raise ValueError(
                f"{self.labels[position]} is no answer token; those are {self.labels[first + 1]} to "
                f"{self.labels[stop]}"
            )
        return position - first - 1


def fingerprint(model: Transformer) -> str:
    """16 hex digits of a SHA-256 over shape and weights: two models that share it are the same one."""
    digest = hashlib.sha256(json.dumps(model.config.to_dict(), sort_keys=True).encode())
    for name, value in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def _ranges(numbers: Sequence[int]) -> str:
    """(6, 9, 10, 11) as "6, 9-11".

    >>> _ranges((6, 9, 10, 11))
    '6, 9-11'
    """
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(str(r[0]) if len(r) == 1 else f"{r[0]}-{r[-1]}" for r in runs) or "none"
