"""A13, A14: do addition models share one algorithm, and is what was found of it enough to add?"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from mi_lab.ablate import all_nodes
from mi_lab.algorithm import Algorithm, score
from mi_lab.claims import Accept, Claim, Control, Measurement
from mi_lab.groups import Group
from mi_lab.locate import Located
from mi_lab.model import Transformer
from mi_lab.run import Node
from mi_lab.studies.arithmetic import circuit, plans
from mi_lab.studies.arithmetic.carries import LOOKS, lookers
from mi_lab.studies.arithmetic.claims.common import (
    OURS,
    PAPER,
    Row,
    label,
    model,
    needing,
    per_unit,
    seeded,
    sources,
    table,
    units,
)
from mi_lab.studies.arithmetic.claims.digits import TWIN, USEFUL
from mi_lab.studies.arithmetic.claims.seen import (
    ADDERS,
    MOVED,
    PAIRS,
    SCANNED,
    evidence,
    heads_at,
    kept_early,
    moved,
    nodes,
    once,
)
from mi_lab.studies.arithmetic.counts import task_of
from mi_lab.studies.arithmetic.interchanges import predicting, whole_column
from mi_lab.studies.arithmetic.task import ArithmeticTask
from mi_lab.subtask import mean_attention
from mi_lab.sufficiency import missing, sufficiency

FAMILIES = ("SA", "SC", "SV", "SU", "ST")
EARLY = ("SA", "SC", "SS")  # what the rejected algorithms need before the first digit
Plan = Callable[[ArithmeticTask], Algorithm]


def located(recipe: str, seed: int) -> Located:
    """All that the algorithms ask for: late values, copies of tri-states, and values kept early."""
    late, early = evidence(recipe, seed, *FAMILIES), kept_early(recipe, seed, *EARLY)
    return Located((*late, *early), late.tested + early.tested)


# ---- A13 ----
def changed(recipe: str, seed: int) -> float:
    """Share of the nodes that cost >= 1 % of questions in one scan or the other, but not in both."""
    one, two = (
        {row.node for row in nodes(recipe, seed, again=again) if row.fail.rate >= USEFUL} for again in (0, 1)
    )
    return len(one ^ two) / max(1, len(one | two))


def score_row(recipe: str, seed: int, plan: Plan, rivals: Sequence[Plan], *, rescan: bool = True) -> Row:
    """Mandatory clauses of an algorithm that hold, and those of the best of its rivals."""
    task, found = task_of(recipe), located(recipe, seed)
    mine, others = score(plan(task), found), [score(rival(task), found) for rival in rivals]
    shares = {x.algorithm: x.held / x.total for x in others}
    return {
        "clauses": mine.held / mine.total,
        "held": mine.held,
        "of": mine.total,
        "best rival": max(shares.values()),
        **shares,
        "changed on rescan": changed(recipe, seed) if rescan else 0.0,
    }


def _scored(plan: Plan, rivals: Sequence[Plan] = plans.RIVALS) -> Callable[[bool], Measurement]:
    return per_unit(
        ADDERS,
        lambda r, s: score_row(r, s, plan, rivals),
        "clauses",
        sample=f"{MOVED}; two scans of {SCANNED}",
    )


def _taught_nonsense(plan: Plan) -> Callable[[bool], Measurement]:
    def run(fast: bool) -> Measurement:
        there = units(TWIN, fast=fast)
        rows = [score_row(*unit, plan, plans.RIVALS, rescan=False) for unit in there]
        return table([label(u) for u in there], rows, "clauses", sample=MOVED, sources=sources(TWIN))

    return run


def _complete(r: Row) -> bool:
    return r["clauses"] == 1 and r["best rival"] < 1 and r["changed on rescan"] <= 0.2


def _one_algorithm(id: str, title: str, statement: str, plan: Plan, source: str, limits: str) -> Claim:
    rivals = {
        "look-back 2 in its place": plans.look_back_2,
        "the T cascade (H2)": plans.all_ready,
        "the boolean expansion (H1)": plans.boolean,
    }
    return needing(
        Claim(
            id,
            title,
            source,
            statement,
            "asserted for 16 models; rival hypotheses rejected by inspection",
            Accept(
                "every mandatory clause holds, no rival is complete, and a scan of other questions changes <= 20 % of "
                "the nodes that cost >= 1 %",
                _complete,
            ),
            _scored(plan),
            (
                *(Control(name, _scored(rival, (plan,))) for name, rival in rivals.items()),
                Control("trained on the answers of other questions", _taught_nonsense(plan)),
            ),
            limits,
        ),
        {"add_d3_l2_h3": 1, "add_d5_l2_h3": 1, TWIN: 1},
    )


A13 = _one_algorithm(
    "A13",
    "Addition models share one algorithm",
    "In every model: SA_k where A_k is predicted, ST_k (k >= 2) complete by the sign, and every carry delivered where "
    "the next digit is predicted.",
    plans.addition,
    f"{PAPER}; its clauses, with the delivery of carries (SV) added by the dossier",
    "A clause holds if an interchange on random pairs predicts the whole answer. Rivals are looked for where they "
    "would be: SA, SC and SS in all early heads together, too.",
)
A13B = _one_algorithm(
    "A13b",
    "Addition models share one algorithm, wherever tri-states are kept",
    "The same with ST_k in all copies of it, made early or where digits are written.",
    plans.copies,
    f"{OURS}, formed after the first models had shown copies in several places",
    "Copies of ST_k are all heads that look at both digits of column k, as far as they help.",
)


def _columns(network: Transformer, task: ArithmeticTask) -> dict[int, Group]:
    """Column -> heads of layer 0 that look at one of its digits, also where its own digit is predicted."""
    some = circuit.questions(task, 256)
    elsewhere = lookers(network, task, some, both=False)
    out = {}
    for k, group in elsewhere.items():
        here = heads_at(network, 0, predicting(task, f"A{k}"))
        looks = mean_attention(network, some, here)
        digits = (task.position(f"D{k}"), task.position(f"D'{k}"))
        own = tuple(x for x in here if any(float(looks[x][p]) >= LOOKS for p in digits))
        out[k] = (*(x for x in group if x.layer == 0), *own)
    return out


def column_row(recipe: str, seed: int, *, shift: int = 0) -> Row:
    """A13c's numbers; shift: heads of column k + shift in the place of those of column k."""
    network, task = model(recipe, seed), task_of(recipe)
    heads = once(network, ("columns",), lambda: _columns(network, task))
    sign = task.position("SGN")
    rates: dict[str, list[float]] = {"early": [], "late": [], "all": []}
    for k in range(task.digits):
        group = heads[(k + shift) % task.digits]
        early = tuple(x for x in group if (x.position or 0) <= sign)
        groups = {"early": early, "late": tuple(x for x in group if x not in early), "all": group}
        for name, chosen in groups.items():
            rates[name].append(moved(network, whole_column(task, k), chosen))
    return {
        "all its heads": min(rates["all"]),
        "early ones only": max(rates["early"]),
        "late ones only": max(rates["late"]),
    }


A13C = needing(
    Claim(
        "A13c",
        "All that is known of a column is in the heads that look at it",
        f"{OURS}, formed after one seed had shown sums that are in part kept early",
        "In every model, the heads of the first layer that look at column k, early and late, carry the whole column: "
        "moved together they give the answer with the other question's column in it.",
        "not tested in the paper, whose rejected T cascade keeps column sums early",
        Accept("every k: the whole answer as predicted in >= .9 of pairs", lambda r: r["all its heads"] >= 0.9),
        per_unit(ADDERS, column_row, "all its heads", sample=f"{PAIRS} random pairs for every column and group"),
        (
            Control(
                "heads of the next column",
                per_unit(
                    ADDERS, lambda r, s: column_row(r, s, shift=1), "all its heads",
                    sample=f"{PAIRS} random pairs for every column and group",
                ),
            ),
        ),
        "`early ones only`, `late ones only`: the best column of each. Near 0 both: the sum is read late, the "
        "tri-state is kept early, and neither is the whole. A T cascade needs 1 for the early ones.",
    ),
    {"add_d3_l2_h3": 1, "add_d5_l2_h3": 1},
)  # fmt: skip

# ---- A14 ----
ASKED = 200
RANDOM = 5  # circuits as large as the one found


def enough_row(recipe: str, seed: int, *, random: bool = False) -> Row:
    """A14's numbers; random: the best of five random circuits as large in the place of the one found."""
    row = once(model(recipe, seed), ("enough",), lambda: _enough(recipe, seed))
    return row | {"accuracy": row["best random"]} if random else row


def _enough(recipe: str, seed: int) -> Row:
    network, task = model(recipe, seed), task_of(recipe)
    tokens = circuit.questions(task, ASKED, seed=0xA14)
    heads = [x for x in located(recipe, seed).nodes() if x.head is not None]
    last = network.config.n_layers - 1
    mlps = [  # those that an answer can depend on
        x
        for x in all_nodes(network.config, task.answer.stop)
        if x.head is None and (x.layer < last or (x.position or 0) >= task.answer.start)
    ]
    found = sufficiency(network, task, tokens, [*heads, *mlps], randoms=RANDOM, generator=seeded(14))
    alone = sufficiency(network, task, tokens, heads, randoms=0)
    more: Sequence[Node] = ()
    if found.circuit.rate < 0.99:
        ranked = [
            row.node for row in nodes(recipe, seed).where(kind="head", above=-1) if row.node is not None
        ]
        more = missing(network, task, tokens, [*heads, *mlps], ranked)
    return {
        "accuracy": found.circuit.rate,
        "heads": len(heads),
        "heads missing": len(more),
        "without MLPs": alone.circuit.rate,
        "nothing kept": found.nothing.rate,
        "best random": found.best_random,
        "intact": found.intact.rate,
    }


A14 = needing(
    Claim(
        "A14",
        "The tagged circuit suffices",
        f"{PAPER}: 21 of 31 useful heads and no MLP tagged (d6); that they suffice is the dossier's question",
        "With every head that got no tag replaced by its mean, the model still adds.",
        "not tested in the paper",
        Accept("whole answers right: >= 99 %, half of the questions of rare classes", lambda r: r["accuracy"] >= 0.99),
        per_unit(ADDERS, enough_row, "accuracy", sample=f"{ASKED} questions, half as in training"),
        (
            Control(
                "the best of five random circuits of as many heads in each layer",
                per_unit(
                    ADDERS, lambda r, s: enough_row(r, s, random=True), "accuracy",
                    sample=f"{ASKED} questions, half as in training",
                ),
            ),
        ),
        "All MLPs are kept: tags are found for heads only, since an MLP looks nowhere. `without MLPs`: tagged heads "
        "alone. `heads missing`: how many more bring an incomplete circuit to 99 %, none of which can be left out.",
    ),
    {"add_d3_l2_h3": 1, "add_d5_l2_h3": 1},
)  # fmt: skip
CLAIMS: tuple[Claim, ...] = (A13, A13B, A13C, A14)
