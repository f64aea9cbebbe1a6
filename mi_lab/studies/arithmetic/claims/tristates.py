"""A9, A9d, A12: is the tri-state of a column computed early, and does it look like three states?"""

from __future__ import annotations

import torch
from torch import Tensor

from mi_lab.claims import Accept, Claim, Control
from mi_lab.clusters import Clusters, clusters, written
from mi_lab.groups import Group
from mi_lab.model import Transformer
from mi_lab.run import Node
from mi_lab.studies.arithmetic.claims.common import (
    OURS,
    PAPER,
    Row,
    model,
    needing,
    per_unit,
    seeded,
    untrained,
)
from mi_lab.studies.arithmetic.claims.seen import ADDERS, evidence, once
from mi_lab.studies.arithmetic.columns import ANY, question, random_digits
from mi_lab.studies.arithmetic.counts import task_of
from mi_lab.studies.arithmetic.ripple import early_heads, strong_test
from mi_lab.studies.arithmetic.task import ArithmeticTask


# ---- A9: the authors' stimuli, whole answers ----
def authors_row(recipe: str, seed: int, *, twin: bool = False, shift: int = 0) -> Row:
    """A9's numbers; shift: with the heads that look at column k + shift in the place of those that look at k."""
    network, task = untrained(recipe, seed) if twin else model(recipe, seed), task_of(recipe)
    heads = once(network, ("early heads",), lambda: early_heads(network, task))
    columns = range(task.digits - 1)  # above the top column nothing ripples
    found = [strong_test(network, task, k, heads[(k + shift) % task.digits]) for k in columns]
    sign = task.position("SGN")
    random = 0
    if not twin and not shift:
        held = {e.subtask for e in evidence(recipe, seed, "ST") if e.holds() and e.position <= sign}
        random = sum(f"ST{k}" in held for k in columns)
    return {
        "strong, shown": sum(bool(x.exact(x.shown)) for x in found),
        "strong, alone": sum(bool(x.exact(x.alone)) for x in found),
        "weak": sum(bool(x.weak) for x in found),
        "random pairs": random,
        "of": len(columns),
    }


def _claim(id: str, title: str, statement: str, name: str, says: str, source: str, limits: str) -> Claim:
    sample = (
        "the authors' pair for each column, every early head that looks at it, singly and with its neighbours"
    )
    return needing(
        Claim(
            id,
            title,
            source,
            statement,
            "every k; compact n = 5: ST_0 to ST_3 by single heads P8-P11, n = 3 none (dossier, one seed each)",
            Accept(
                f"{says}, for all columns but the top one and at most one more",
                lambda r: r[name] >= r["of"] - 1,
            ),
            per_unit(ADDERS, authors_row, name, sample=sample),
            (
                Control(
                    "heads of the next column",
                    per_unit(ADDERS, lambda r, s: authors_row(r, s, shift=1), name, sample=sample),
                ),
                Control(
                    "untrained twin",
                    per_unit(ADDERS, lambda r, s: authors_row(r, s, twin=True), name, sample=sample),
                ),
            ),
            limits,
        ),
        {"add_d3_l2_h3": 1, "add_d5_l2_h3": 1},
    )


ABOUT = (
    "`random pairs`: columns whose early heads, all together, move every digit above in >= .9 of 200 random pairs; "
    "`weak`: any change counts, the authors' own test. Which copies a digit uses: A9b, A9c."
)
A9 = _claim(
    "A9",
    "The tri-state of a column is computed early",
    "Some early head (or heads in one place) that reads both digits of column k moves the whole ripple of ST_k on the "
    "authors' pair, 333+666 with a carry put into column k, while the model reads the clean answer.",
    "strong, shown",
    "the exact ripple by an early head that gives both digits >= .1 of its attention",
    f"{PAPER}; the strong test is the dossier's, where the authors count any change",
    ABOUT,
)
A9D = _claim(
    "A9d",
    "The tri-state moves the ripple when the model writes for itself",
    "The same with the model reading the answer that it has written itself.",
    "strong, alone",
    "the exact ripple by such a head, in a free run",
    f"{OURS}, formed after seeing that patched heads are contradicted by the clean answer that the model reads",
    "A digit that sums to 9 can be read off the digit before it; the clean answer says that no carry came. "
    + ABOUT,
)

# ---- A12 ----
EXAMPLES = 300  # random additions for each column, its three states equally likely
SPLIT = 0.75  # agreement of a perfect split of three classes in two groups


def _outputs(
    network: Transformer, task: ArithmeticTask, k: int, heads: Group
) -> tuple[Tensor, dict[Node, Tensor]]:
    digits = random_digits(task, "S", EXAMPLES, seeded(120 + k), states={k: ANY})
    tokens = question(task, digits, False)
    return task.variables(tokens)["ST"][:, k], {node: written(network, tokens, node) for node in heads}


def _clusters(recipe: str, seed: int, *, twin: bool, shuffled: bool) -> dict[int, list[Clusters]]:
    """Column -> clusters of each early head of layer 0 that looks at it."""
    trained, task = model(recipe, seed), task_of(recipe)
    network = untrained(recipe, seed) if twin else trained
    heads = once(trained, ("early heads",), lambda: early_heads(trained, task))
    out = {}
    for k in range(1, task.digits):
        labels, outputs = _outputs(network, task, k, tuple(x for x in heads[k] if x.layer == 0))
        if shuffled:
            labels = labels[torch.randperm(len(labels), generator=seeded(12))]
        out[k] = [clusters(output, labels, permutations=200) for output in outputs.values()]
    return out


def clusters_row(recipe: str, seed: int, *, twin: bool = False, shuffled: bool = False) -> Row:
    """A12's numbers: over columns the worst of the best head, over heads the shares that meet a criterion."""
    found = _clusters(recipe, seed, twin=twin, shuffled=shuffled)
    heads = [c for column in found.values() for c in column]

    def share(test: list[bool]) -> float:
        return sum(test) / len(test) if test else 0.0

    return {
        "worst column": min(max((c.kmeans.value for c in column), default=0.0) for column in found.values()),
        "columns": share([any(c.kmeans.beats_null and c.kmeans.value > SPLIT for c in x) for x in found.values()]),
        "heads": len(heads),
        "heads in three": share([c.kmeans.beats_null and c.kmeans.value > SPLIT for c in heads]),
        "heads by the authors' rule": share([c.explained[0] > 0.3 and c.kmeans.value > 0.5 for c in heads]),
        "linear": share([c.agreement.value > 0.9 for c in heads]),
    }  # fmt: skip


A12 = needing(
    Claim(
        "A12",
        "A tri-state shows as three clusters",
        f"{PAPER}: figures of principal components; acceptance from the dossier's null",
        "What an early head of column k writes falls into three clusters, one for each value of ST_k.",
        "three clusters; accepted by the authors from 50 % agreement on, where a perfect split in two gives 75 %",
        Accept(
            "every column from k = 1 has an early head whose three k-means clusters agree with ST_k in more than .75 "
            "of cases and more than the 99th percentile of permuted labels",
            lambda r: r["columns"] == 1,
        ),
        per_unit(ADDERS, clusters_row, "worst column", sample=f"{EXAMPLES} random additions for each column"),
        (
            Control(
                "permuted labels",
                per_unit(
                    ADDERS[:1], lambda r, s: clusters_row(r, s, shuffled=True), "worst column",
                    sample=f"{EXAMPLES} random additions for each column",
                ),
            ),
            Control(
                "the same heads of an untrained twin",
                per_unit(
                    ADDERS[:1], lambda r, s: clusters_row(r, s, twin=True), "worst column",
                    sample=f"{EXAMPLES} random additions for each column",
                ),
            ),
        ),
        "`heads by the authors' rule`: how many of their tags survive without a null (first component > 30 %, "
        "agreement > 50 %; their two further indices are left out). `linear`: heads where the nearest class mean is "
        "right in more than .9 of held-out cases: the states are there, clustered or not.",
    ),
    {"add_d3_l2_h3": 1, "add_d5_l2_h3": 1},
)  # fmt: skip
CLAIMS: tuple[Claim, ...] = (A9, A9D, A12)
