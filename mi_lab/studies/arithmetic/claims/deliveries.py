"""A10, A11: how the carry reaches the digit above, and who resolves a column that sums to 9."""

from __future__ import annotations

from mi_lab.claims import Accept, Claim, Control
from mi_lab.run import Node
from mi_lab.studies.arithmetic.carries import change, u_test
from mi_lab.studies.arithmetic.claims.common import PAPER, Row, model, needing, per_unit
from mi_lab.studies.arithmetic.claims.seen import ADDERS, MOVED, best, evidence, heads_at, once, wrong
from mi_lab.studies.arithmetic.counts import task_of
from mi_lab.studies.arithmetic.interchanges import predicting

TOGGLED = "200 random pairs for every column that can pass a carry on"
QUIET = 0.05  # what counts as no effect, from the dossier's bar for definite columns


# ---- A10 ----
def late_row(recipe: str, seed: int, *, other: bool = False, last_mlp: bool = False) -> Row:
    """A10's numbers; other: with the prediction of another column; last_mlp: with the last MLP for the SC heads."""
    network, task = model(recipe, seed), task_of(recipe)
    found = evidence(recipe, seed, "SC", "SV")
    delivered, sums, flips = [], 0, []
    for k in range(task.digits):
        place = predicting(task, f"A{k + 1}")
        rows = [
            e for x in ("SC", "SV") for e in found.of(f"{x}{k}", held=other is False) if e.position == place
        ]
        delivered.append(any(wrong(e, "wrong index") >= 0.9 for e in rows) if other else bool(rows))
        sure = best(found.of(f"SC{k}"), place)
        sums += sure is not None
        if k and sure is not None:
            last = (Node(network.config.n_layers - 1, None, place),)
            flips.append(u_test(network, task, k, [last if last_mlp else sure.nodes])[0].flip.rate)
    return {
        "delivered": sum(delivered) / len(delivered),
        "by SC heads": sums / task.digits,
        "U-test, worst": max(flips, default=0.0),
        "U-tests": len(flips),
    }


A10 = needing(
    Claim(
        "A10",
        "Late carry heads are binary and optional",
        f"{PAPER}, and the authors' later notes (CE3)",
        "Where A_{k+1} is predicted, heads carry SC_k or the whole carry SV_k. Those of SC_k know whether the column "
        "makes a carry, and nothing of a carry that comes through it.",
        "interchange flips A_{k+1} 1.00, a toggle of the tri-state .00 (authors' later notes, large models)",
        Accept(
            "SC_k or SV_k is delivered for every k; in the U-test heads of SC_k flip A_{k+1} in <= .05 of pairs",
            lambda r: r["delivered"] == 1 and r["U-test, worst"] <= QUIET,
        ),
        per_unit(ADDERS, late_row, "U-test, worst", sample=f"{MOVED}; {TOGGLED}"),
        (
            Control(
                "the last MLP in the place of the SC heads, and the prediction of another column",
                per_unit(
                    ADDERS, lambda r, s: late_row(r, s, other=True, last_mlp=True), "U-test, worst",
                    sample=f"{MOVED}; {TOGGLED}",
                ),
            ),
        ),
        "U-test: column k sums to 9 and the carry of column k - 1 is toggled, all else random. Optional: `by SC heads` "
        "is the share of columns that have them.",
    ),
    {"add_d3_l2_h3": 1, "add_d5_l2_h3": 1},
)  # fmt: skip


# ---- A11 ----
def resolves_row(recipe: str, seed: int, *, filler: bool = False, step: int = 0) -> Row:
    """A11's numbers; filler: pairs whose state is the same; step: nodes that many positions on."""
    row = once(model(recipe, seed), ("resolves", step), lambda: _resolves(recipe, seed, step))
    return row | {"flip": row["filler"]} if filler else row


def _resolves(recipe: str, seed: int, step: int) -> Row:
    network, task = model(recipe, seed), task_of(recipe)
    last = network.config.n_layers - 1
    rows, moves, single = [], [], []
    for k in range(1, task.digits):
        place = predicting(task, f"A{k + 1}") + step
        mlp, heads = Node(last, None, place), heads_at(network, last, place)
        tested = u_test(network, task, k, [(mlp,), heads, *((x,) for x in heads)])
        rows.append(tested)
        moves.append(change(network, task, k, mlp))
        single.append(max(x.flip.rate for x in tested[2:]))
    return {
        "flip": min(tested[0].flip.rate for tested in rows),
        "U change": min(moved.passes for moved in moves),
        "definite change": max(moved.definite for moved in moves),
        "filler": max(tested[0].filler.rate for tested in rows),
        "heads of its layer, together": min(tested[1].flip.rate for tested in rows),
        "best of them alone": min(single),
    }


A11 = needing(
    Claim(
        "A11",
        "The last MLP resolves a column that sums to 9",
        "the authors' later notes (CE5, CE14, CE15); the paper attributes the folds to MLPs without a test",
        "Where A_{k+1} is predicted, what the last MLP writes decides which carry comes through a column that sums to "
        "9, and does not change with that carry where the column decides by itself.",
        "relative change .004 where the column is definite, 1.18 and 1.31 at U (d5, d6)",
        Accept(
            "every k: flips A_{k+1} in >= .99 of pairs; its output changes by >= .5 of its spread at U, by <= .05 "
            "where column k is definite",
            lambda r: r["flip"] >= 0.99 and r["U change"] >= 0.5 and r["definite change"] <= QUIET,
        ),
        per_unit(ADDERS, resolves_row, "definite change", sample=TOGGLED),
        (
            Control(
                "other digits of the same state",
                per_unit(ADDERS, lambda r, s: resolves_row(r, s, filler=True), "flip", sample=TOGGLED),
            ),
            Control(
                "the last MLP one position on",
                per_unit(ADDERS[:1], lambda r, s: resolves_row(r, s, step=1), "flip", sample=TOGGLED),
            ),
        ),
        "That the last node before the read-out flips the digit is partly a matter of course; the invariance is not. "
        "`heads of its layer`: whether layer 1 delivers the carry, all of its heads together and the best one alone.",
    ),
    {"add_d3_l2_h3": 1, "add_d5_l2_h3": 1},
)  # fmt: skip
CLAIMS: tuple[Claim, ...] = (A10, A11)
