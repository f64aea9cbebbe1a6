"""A18, A19: what nodes of mixed models serve, and whether the three kinds of question are peers."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from mi_lab.claims import Accept, Claim, Control, Measurement
from mi_lab.groups import Group
from mi_lab.node_table import Row as Found
from mi_lab.studies.arithmetic import circuit
from mi_lab.studies.arithmetic.claims.common import (
    PAPER,
    Row,
    model,
    needing,
    per_unit,
    seeds,
    sources,
    table,
)
from mi_lab.studies.arithmetic.claims.seen import PAIRS, SCANNED, best, evidence, heads_at, moved, nodes, once
from mi_lab.studies.arithmetic.claims.starts import SCRATCH, SHUFFLED, STARTED
from mi_lab.studies.arithmetic.counts import task_of
from mi_lab.studies.arithmetic.interchanges import declare, predicting
from mi_lab.subtask import mean_attention

LARGE, LARGE_SCRATCH = "ins1_mix_d6_l3_h4", "mix_d6_l3_h4"
KINDS = ("S", "M", "N")


# ---- A18 ----
def serves(row: Found) -> frozenset[str]:
    """The kinds of question, S, M and N, some of which turn wrong without this node."""
    return frozenset(name[0] for name, count in row.classes.items() if count.hits)


def served_row(rows: Iterable[Found]) -> Row:
    """Over the useful nodes: shares that serve each kind, two kinds or more, and both operations."""
    found = [kinds for row in rows if (kinds := serves(row))]

    def share(test: Callable[[frozenset[str]], bool]) -> float:
        return sum(map(test, found)) / len(found) if found else 0.0

    return {
        "both operations": share(lambda kinds: "S" in kinds and len(kinds) > 1),
        "two kinds or three": share(lambda kinds: len(kinds) > 1),
        **{kind: share(lambda kinds, kind=kind: kind in kinds) for kind in KINDS},
        "M only": sum(kinds == {"M"} for kinds in found),
        "N only": sum(kinds == {"N"} for kinds in found),
        "nodes": len(found),
    }


def _served(recipe: str, seed: int) -> Row:
    return served_row(nodes(recipe, seed))


def _side_by_side(fast: bool) -> Measurement:
    """An addition model and a subtraction model taken for one model."""
    rows = [row for name in ("add_d3_l2_h3", "sub_d3_l2_h3") for row in nodes(name, 0)]
    return table(
        ["one model that adds and one that subtracts"], [served_row(rows)], "both operations", sample=SCANNED
    )


A18 = needing(
    Claim(
        "A18",
        "Features become polysemantic",
        f"{PAPER}, abstract; shares from the authors' code",
        "In a mixed model that starts from an addition model most useful nodes serve more than one kind of question, "
        "additions (S), differences (M), negative differences (N), and many serve both operations.",
        "S 64 %, M 73 %, N 55 %; 61 % serve two or three kinds, 48 % both operations; of inserted nodes 81 % (d6)",
        Accept(
            "of the useful nodes >= 55 % serve two kinds or more, >= 38 % both operations (the reported share less ten "
            "points)",
            lambda r: r["two kinds or three"] >= 0.55 and r["both operations"] >= 0.38,
        ),
        per_unit((STARTED, LARGE), _served, "both operations", sample=SCANNED),
        (Control("an addition and a subtraction model side by side", _side_by_side),),
        "A node serves a kind if one of its questions turns wrong when it writes its mean: the more questions, the "
        "more kinds. Whether it comes from the transfer: A18b.",
    ),
    {STARTED: 3, LARGE: 1, "add_d3_l2_h3": 1, "sub_d3_l2_h3": 1},
)


def _beside(started: str) -> Callable[[bool], Measurement]:
    """Polysemantic shares from the donor, from scratch and from a shuffled donor, seed by seed."""

    def run(fast: bool) -> Measurement:
        common = sorted({*seeds(SCRATCH)} & {*seeds(started)} & {*seeds(SHUFFLED)})[: 1 if fast else None]
        rows = []
        for seed in common:
            share = {
                name: _served(recipe, seed)["both operations"]
                for name, recipe in (("started", started), ("scratch", SCRATCH), ("shuffled donor", SHUFFLED))
            }
            gains = {f"more than {x}": share["started"] - share[x] for x in ("scratch", "shuffled donor")}
            rows.append(gains | share)
        used = sources(*dict.fromkeys((started, SCRATCH, SHUFFLED)))
        return table([f"seed {s}" for s in common], rows, "more than scratch", sample=SCANNED, sources=used)

    return run


A18B = needing(
    Claim(
        "A18b",
        "Nodes become polysemantic because the model starts from one that adds",
        f"{PAPER}, abstract, where shared features raise the accuracy of subtraction; the comparison is the dossier's",
        "More of the useful nodes serve both operations than in a model from scratch, and than in one that starts from "
        "the donor's weights in random order.",
        "no comparison in the paper",
        Accept(
            "a larger share than both, of the same seed",
            lambda r: r["more than scratch"] > 0 and r["more than shuffled donor"] > 0,
        ),
        _beside(STARTED),
        (
            Control("the shuffled donor in the place of the true one", _beside(SHUFFLED)),
            Control("from scratch in its place", _beside(SCRATCH)),
        ),
        "Three digits, 80 % subtraction in all three. The interval is a bootstrap over seeds of the difference.",
    ),
    {SCRATCH: 3, STARTED: 3, SHUFFLED: 3},
)

# ---- A19 ----
PEERS = (STARTED, LARGE, LARGE_SCRATCH)


def _sums(recipe: str, seed: int, k: int) -> Group:
    """The heads that carry SA_k where A_k is predicted; all of layer 0 there if none was found."""
    task = task_of(recipe)
    place = predicting(task, f"A{k}")
    found = best(evidence(recipe, seed, "SA").of(f"SA{k}"), place)
    return found.nodes if found is not None else heads_at(model(recipe, seed), 0, place)


def peers_row(recipe: str, seed: int, *, step: int = 0, others: bool = False) -> Row:
    """A19's numbers; step: the pairs of the digit so many places on; others: the other heads at the place."""
    network, task = model(recipe, seed), task_of(recipe)
    worst, operator, sign = [], [], []
    some = circuit.questions(task, 256)
    for k in range(task.digits):
        group = _sums(recipe, seed, (k + step) % task.digits)
        if others:
            group = tuple(x for x in heads_at(network, 0, predicting(task, f"A{k}")) if x not in group)
        rates = [moved(network, declare(task, f"{x}{k}"), group) for x in ("SA", "MD", "ND")]
        worst.append(min(rates))
        every = [
            x
            for layer in range(network.config.n_layers)
            for x in heads_at(network, layer, predicting(task, f"A{k}"))
        ]
        looks = once(network, ("looks", k), lambda every=every: mean_attention(network, some, every))
        for token, rates_of in (("OPR", operator), ("SGN", sign)):
            seen = [x for x in every if float(looks[x][task.position(token)]) >= 0.1]
            rates_of.append(moved(network, declare(task, f"{token}{k}"), seen))
    top = task.digits - 1
    signs = once(
        network, ("top sign",),
        lambda: circuit.explain(network, task, families=("GT",), indices=(top,), n=PAIRS).located,
    )  # fmt: skip
    row = best(signs.of(f"GT{top}", held=False))
    return {
        "worst digit": min(worst),
        "digits": sum(rate >= 0.9 for rate in worst),
        "of": task.digits,
        "sign from the top column": 0.0 if row is None else row.match.rate,
        "operator moved": sum(operator) / len(operator),
        "sign moved": sum(sign) / len(sign),
    }


def _peers(names: tuple[str, ...], **options: Any) -> Callable[[bool], Measurement]:
    return per_unit(
        names, lambda r, s: peers_row(r, s, **options), "worst digit",
        sample=f"{PAIRS} random pairs of each kind for every digit; {SCANNED}",
    )  # fmt: skip


A19 = needing(
    Claim(
        "A19",
        "Mixed models: three peers at each digit, and the sign from the top column",
        f"{PAPER}; the interchange is the dossier's",
        "At each digit one group of heads emits SA, MD and ND together, and the sign comes from the top column.",
        "12, 11 and 11 pairs of tags share heads (d6); the operator and the sign are facts of attention in the "
        "authors' tests",
        Accept(
            "every k: the heads that carry SA_k carry MD_k and ND_k too, each in >= .9 of pairs; the top column moves "
            "the sign in >= .9",
            lambda r: r["digits"] == r["of"] and r["sign from the top column"] >= 0.9,
        ),
        _peers(PEERS),
        (
            Control("the heads of the next digit", _peers(PEERS[:1], step=1)),
            Control("the other heads of the first layer at the place", _peers(PEERS[:1], others=True)),
        ),
        "`operator moved`, `sign moved`: how often a digit becomes that of the other operation or sign when all heads "
        "that look at this token where the digit is predicted are moved; mean over digits, without a bar. That one "
        "group emits all three would be so in two passes as well: see A19b.",
    ),
    {STARTED: 3, LARGE: 1, LARGE_SCRATCH: 1},
)


def _late(recipe: str, seed: int) -> Row:
    """What the useful nodes from the sign on serve."""
    sign = task_of(recipe).position("SGN")
    return served_row(row for row in nodes(recipe, seed) if row.position >= sign)


A19B = needing(
    Claim(
        "A19b",
        "Negative differences are no second pass over differences",
        f"{PAPER}: 15 nodes for M only and 7 for N only, against A - B = -(B - A); acceptance ours",
        "Some late nodes serve differences (M) only; a model that makes a negative difference from a difference would "
        "need all of them for both.",
        "15 nodes serve M only, 7 N only (d6)",
        Accept("at least one useful node from the sign on serves M only", lambda r: r["M only"] >= 1),
        per_unit(PEERS, _late, "M only", sample=SCANNED),
        (
            Control(
                "models that only add",
                per_unit(("add_d3_l2_h3",), _late, "M only", sample=SCANNED),
            ),
        ),
        "Split from A19 after one model of 3 digits had been seen. A weak test: one question of 500 that turns wrong "
        "makes a node serve a kind, and the operator's and the sign's own nodes count.",
    ),
    {STARTED: 3, LARGE: 1, LARGE_SCRATCH: 1, "add_d3_l2_h3": 1},
)
CLAIMS: tuple[Claim, ...] = (A18, A18B, A19, A19B)
