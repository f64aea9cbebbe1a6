"""What every node of the explorer's models is needed for: counted once, kept beside the code.

    counts("add_d5_l2_h3", 0).facts()        # {Node: share of questions that turn wrong}

A scan (`mi_lab.scan`) on the same number of questions of every class, every node replaced by its mean. It
takes 5 to 60 s a model; `python -m mi_lab.studies.arithmetic.live_scans [NAME ...]` writes those of the explorer's
published models. What is kept names the weights it was counted from; for others it is counted anew.
"""

from __future__ import annotations

import functools
import json
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from mi_lab import zoo
from mi_lab.ablate import all_nodes
from mi_lab.live import export
from mi_lab.model import Transformer
from mi_lab.node_table import NodeTable, fingerprint
from mi_lab.run import Node
from mi_lab.scan import scan
from mi_lab.studies.arithmetic import classes
from mi_lab.studies.arithmetic.live_state import TEXTS, labels, task_of

SCANS = Path(__file__).parent / "scans"
MEAN_QUESTIONS = 1000
PER_CLASS = 50


class Counts(NamedTuple):
    """hits Int[node, 1 + answer + class]: of `questions`, all answered right without it, how many turn wrong when
    a node is replaced; at how many is each answer token wrong; how many of each class. Nodes as `all_nodes`.

    asked: questions of each class. dropped: questions that the model gets wrong anyway, not counted.
    """

    hits: Tensor
    questions: int
    dropped: int
    asked: dict[str, int]
    nodes: tuple[Node, ...]

    def facts(self) -> dict[Node, float]:
        """Share of questions that turn wrong, for `mi_lab.nodemap`."""
        return {node: count / self.questions for node, count in zip(self.nodes, self.hits[:, 0].tolist())}


def stored(name: str, seed: int) -> Transformer:
    """A published model with the weights of the page, rounded to half precision. Treat it as read-only."""
    return _stored(name, seed, zoo.sha256(f"arithmetic/{name}"))


@functools.lru_cache(maxsize=32)
def _stored(name: str, seed: int, sha256: str) -> Transformer:
    return export.as_stored(zoo.load(f"arithmetic/{name}", seed))


@functools.lru_cache(maxsize=32)
def reference(name: str) -> Tensor:
    """Int[1000, n_ctx]: the questions over which "mean" is taken, drawn as in training."""
    return task_of(name).sample(MEAN_QUESTIONS, generator=torch.Generator().manual_seed(71))


def scanned(name: str, seed: int) -> NodeTable:
    """The scan itself."""
    task, generator = task_of(name), torch.Generator().manual_seed(72)
    names = [one for one in classes.names(task) if "_" not in one]
    tokens = torch.cat([classes.sample(task, one, PER_CLASS, generator=generator) for one in names])
    by = [kind for kind in "SMN" if any(one[0] == kind for one in names)]
    return scan(stored(name, seed), task, tokens, by=by, labels=labels(task), reference=reference(name))


@functools.lru_cache(maxsize=32)
def counts(name: str, seed: int) -> Counts:
    """What is kept of a model's scan, or a new one."""
    return _kept(name, seed) or _counted(scanned(name, seed))


def _kept(name: str, seed: int) -> Counts | None:
    """The counts on disk, if they are of these very weights."""
    model, path = stored(name, seed), SCANS / f"{name}.npz"
    if not path.exists():
        return None
    with np.load(path) as kept:
        about = json.loads(str(kept["about"])).get(str(seed))
        if not about or about["model"] != fingerprint(model):
            return None
        hits = torch.from_numpy(kept[f"seed-{seed}"].astype(np.int64))
    return Counts(hits, about["questions"], about["dropped"], about["asked"], all_nodes(model.config))


def _counted(table: NodeTable) -> Counts:
    rows = [
        [row.fail.hits, *(round(x * table.questions) for x in row.impact), *(c.hits for c in row.classes.values())]
        for row in table.rows
    ]  # fmt: skip
    asked = {name: count.n for name, count in table.rows[0].classes.items()}
    return Counts(torch.tensor(rows), table.questions, table.dropped, asked, table.nodes)


def write(name: str) -> None:
    """Scan every published seed of a model and keep what was counted; what is known already stays."""
    arrays, about = {}, {}
    for seed in zoo.read(f"arithmetic/{name}").labels:
        found = counts(name, seed)
        arrays[f"seed-{seed}"] = found.hits.numpy().astype(np.int16)
        plain = {"questions": found.questions, "dropped": found.dropped, "asked": found.asked}
        about[str(seed)] = {"model": fingerprint(stored(name, seed)), **plain}
    SCANS.mkdir(exist_ok=True)
    np.savez_compressed(SCANS / f"{name}.npz", about=np.array(json.dumps(about)), **arrays)  # type: ignore[arg-type]


if __name__ == "__main__":
    torch.set_num_threads(1)
    for published in sys.argv[1:] or TEXTS:
        if f"arithmetic/{published}" in zoo.names():
            write(published)
            print(published, flush=True)
