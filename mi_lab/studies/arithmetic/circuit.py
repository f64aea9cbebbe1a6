"""Taking an arithmetic model apart: which nodes it uses, and which sub-task each of them carries.

    nodes = map_of(model, task)             # NodeTable with the paper's names: P14L0H1, D'2, A3
    found = explain(model, task)            # tags with effects and controls; about ten seconds
    found.located.to_markdown(); found.picture("Sub-tasks"); found.tags()

`explain` asks for each sub-task where the paper's algorithm has it. A value for one digit (SA, SC, SU, ..)
is searched among the heads at the position that predicts this digit: singly, in groups of one layer, and
as a group grown over layers. A tri-state may be kept in several copies, each for other digits: all heads
that look at both of its digits are patched together and those that do not help are left out
(`mi_lab.locate.smallest`). Every tag has its match on fresh random pairs, and the controls of
`mi_lab.subtask` beside it. Source: arithmetic claims A7-A10 and A19; the dossier's section 7.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mi_lab.ablate import all_nodes
from mi_lab.groups import Group
from mi_lab.locate import Located, nearest, search, smallest
from mi_lab.model import Transformer
from mi_lab.node_table import NodeTable
from mi_lab.nodemap import node_map
from mi_lab.plot import Picture
from mi_lab.run import Node
from mi_lab.scan import scan
from mi_lab.studies.arithmetic import classes
from mi_lab.studies.arithmetic.carries import lookers
from mi_lab.studies.arithmetic.columns import kinds
from mi_lab.studies.arithmetic.interchanges import FAMILIES, declared, predicting
from mi_lab.studies.arithmetic.task import ArithmeticTask
from mi_lab.subtask import Evidence, SubTask, interchange

SEED = 0xA7
BASE = ("SA", "MD", "ND")
TRI = ("ST", "MT", "NT")
DIGITWISE = tuple(family for family in FAMILIES if family not in (*TRI, "GT", "SS", "MZ", "NZ"))
DEFAULT = (*DIGITWISE, *TRI, "GT")


def labels(task: ArithmeticTask) -> tuple[str, ...]:
    """The token at each position: D2 D1 D0 OPR D'2 D'1 D'0 = SGN A3 A2 A1 A0.

    >>> labels(ArithmeticTask(1))
    ('D0', 'OPR', "D'0", '=', 'SGN', 'A1', 'A0')
    """
    down = range(task.digits - 1, -1, -1)
    answer = [f"A{k}" for k in range(task.digits, -1, -1)]
    return (*(f"D{k}" for k in down), "OPR", *(f"D'{k}" for k in down), "=", "SGN", *answer)


def questions(task: ArithmeticTask, n: int = 500, *, seed: int = SEED) -> Tensor:
    """Int[n, n_ctx] for scans: half as in training, half in equal parts from every complexity class.

    Rare classes are in it on purpose, so shares over all of them are of this mixture, not of uniform questions.
    """
    generator = torch.Generator().manual_seed(seed)
    names = [name for name in classes.names(task) if not name.startswith("N_swapped")]
    each = max(1, n // 2 // len(names))
    parts = [classes.sample(task, name, each, generator=generator) for name in names]
    return torch.cat([task.sample(max(1, n - each * len(names)), generator=generator), *parts])[:n]


def map_of(model: Transformer, task: ArithmeticTask, *, n: int = 500, seed: int = SEED) -> NodeTable:
    """Every node: questions that turn wrong without it, of which class, which digits, and where it looks.

    Classes: S of additions, M and N of subtractions. Cost: 3 s of one core for 3 digits, 2 layers; 7 s for 5.
    """
    by = [kind for kind in ("S", "M", "N") if kind in kinds(task)]
    return scan(model, task, questions(task, n, seed=seed), by=by, labels=labels(task))


@dataclass(frozen=True)
class Explanation:
    """What `explain` found. located: evidence for every sub-task. labels: of the positions."""

    located: Located
    labels: tuple[str, ...]

    def tags(self, **criteria: float) -> dict[Node, str]:
        """Node -> the sub-tasks it carries, alone or with others."""
        return self.located.tags(**criteria)

    def found(self, *families: str, **criteria: float) -> dict[str, tuple[Evidence, ...]]:
        """Sub-task -> the evidence that holds; of these families, or all. Those without any are left out."""
        out: dict[str, list[Evidence]] = {}
        for e in self.located:
            if e.holds(**criteria) and (not families or e.subtask.rstrip("0123456789") in families):
                out.setdefault(e.subtask, []).append(e)
        return {name: tuple(rows) for name, rows in out.items()}

    def best(self, subtask: str) -> Evidence | None:
        """The evidence with the highest match, whether it holds or not."""
        rows = self.located.of(subtask, held=False)
        return max(rows, key=lambda e: e.match.rate, default=None)

    def picture(self, caption: str, table: NodeTable | None = None, **options: Any) -> Picture:
        """The map of tags; over the failures of a scan, if one is given."""
        facts = table.where().facts() if table is not None else {}
        plain = dict(self.tags())
        options = {"labels": self.labels, "percent": True, "numbers": False} | options
        return node_map({**plain, **facts}, caption, tags=plain if table is not None else None, **options)

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON."""
        return {"located": self.located.to_dict(), "labels": list(self.labels)}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Explanation:
        """The way back from `to_dict`."""
        return cls(Located.from_dict(data["located"]), tuple(data["labels"]))

    def _repr_markdown_(self) -> str:
        return self.located.to_markdown()


def explain(
    model: Transformer,
    task: ArithmeticTask,
    *,
    families: Sequence[str] = DEFAULT,
    n: int = 200,
    largest: int = 3,
    spread: int = 6,
    keep: int = 3,
    indices: Collection[int] | None = None,
    seed: int = SEED,
) -> Explanation:
    """Which nodes carry which sub-task: see the module's text.

    families: keys of `interchanges.FAMILIES`; those that the task does not have are left out. indices: of these
    digits only. n: pairs behind each number. largest: heads in one group of one layer; spread: over layers (1: none).
    keep: how many groups are measured with all controls for each value of one digit.
    Raises ValueError for unknown families.
    """
    if unknown := [family for family in families if family not in FAMILIES]:
        raise ValueError(f"there is no family {unknown[0]!r}; there are {', '.join(FAMILIES)}")
    some = questions(task, 256, seed=seed).to(model.device)
    heads = {both: lookers(model, task, some, both=both) for both in (True, False)}
    evidence: list[Evidence] = []
    tested = 0
    for family in families:
        subtasks = declared(task, family)
        for i, subtask in enumerate(subtasks):
            if indices is not None and subtask.index not in indices:
                continue
            generator = torch.Generator().manual_seed(seed + 1000 * i)
            siblings = nearest(subtask, subtasks)
            if family in (*TRI, "GT"):
                # numbers are compared by heads that look at one of them, too
                group = heads[family == "ST"][subtask.index or 0]
                if family == "GT":  # the sign is written at "="
                    group = tuple(x for x in group if (x.position or 0) <= predicting(task, "SGN"))
                tested += len(group)
                evidence += _copies(model, subtask, group, siblings, n, generator)
                continue
            nodes = [x for x in all_nodes(model.config, [writes_at(task, subtask)]) if x.head is not None]
            located = search(
                model, [subtask], siblings=siblings, nodes=nodes,
                largest=min(largest, model.config.n_heads), spread=spread if family not in BASE else 0,
                n=n, screen=64, keep=keep, generator=generator,
            )  # fmt: skip
            evidence += located
            tested += located.tested
    return Explanation(Located(tuple(evidence), tested), labels(task))


def _copies(
    model: Transformer,
    subtask: SubTask,
    group: Group,
    siblings: Sequence[SubTask],
    n: int,
    generator: torch.Generator,
) -> list[Evidence]:
    """The copies in layer 0, where columns are read; in all layers if those do not do."""
    first = tuple(x for x in group if x.layer == 0)
    out = []
    for nodes in (first, group if group != first else ()):
        if nodes and not any(e.holds() for e in out):
            out.append(smallest(model, subtask, nodes, siblings=siblings, n=n, generator=generator))
    return out


def early(
    model: Transformer,
    task: ArithmeticTask,
    families: Sequence[str],
    *,
    n: int = 200,
    least: float = 0.8,
    seed: int = SEED,
) -> Explanation:
    """Where these values of a column are kept before the first digit is written, if they are.

    For each sub-task, all heads of layer 0 that look at both digits of its column, up to the position of the sign,
    are patched together; if the answer comes out as predicted in `least` of 64 pairs, those that do not help are
    left out. What the paper's rejected rivals need, and `explain` does not look for.
    """
    some = questions(task, 256, seed=seed).to(model.device)
    heads, sign = lookers(model, task, some), task.position("SGN")
    evidence: list[Evidence] = []
    for family in families:
        subtasks = declared(task, family)
        for i, subtask in enumerate(subtasks):
            group = tuple(x for x in heads[subtask.index or 0] if x.layer == 0 and (x.position or 0) <= sign)
            generator = torch.Generator().manual_seed(seed + 1000 * i)
            if group and interchange(model, subtask, group, n=64, generator=generator).match.rate >= least:
                siblings = nearest(subtask, subtasks)
                evidence.append(smallest(model, subtask, group, siblings=siblings, n=n, generator=generator))
    return Explanation(Located(tuple(evidence), len(families) * task.digits), labels(task))


def writes_at(task: ArithmeticTask, subtask: SubTask) -> int:
    """The position that predicts the digit which a digitwise sub-task changes."""
    k = subtask.index or 0
    above = FAMILIES[subtask.family][1] in ("sure", "passes", "carry", "through")
    return predicting(task, f"A{k + above}")
