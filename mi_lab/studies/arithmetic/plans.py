"""The paper's algorithms, and rivals, as sub-tasks with rules about where they stand: what `explain` is scored on.

    score(addition(task), found.located)      # Score: 18 of 19 mandatory clauses hold ..

Mandatory clauses of the paper: SA_k where A_k is predicted, every k; ST_k by the sign's position, k = 2 up to
the top; MD_k where A_k is predicted. Optional: SC_k where A_{k+1} is predicted. Ours: the carry out of every
column (SV_k) is delivered where A_{k+1} is predicted; and, since no model keeps all copies of ST_k early,
the paper's clause on ST stands beside one that asks only that its copies are found.

The rivals are those that the authors considered and gave up, and look-back 2. They share clauses with the
paper's algorithm; what tells them apart is where the values are. That a rival scores lower is the control.
"""

from __future__ import annotations

from collections.abc import Sequence

from mi_lab.algorithm import Algorithm, Clause, Places, before, carried
from mi_lab.studies.arithmetic.interchanges import names, predicting
from mi_lab.studies.arithmetic.task import ArithmeticTask
from mi_lab.subtask import Evidence


def addition(task: ArithmeticTask) -> Algorithm:
    """ST/SV: tri-states by the sign, carries delivered to each digit, sums just in time."""
    n, sign = task.digits, task.position("SGN")
    clauses = [
        *just_in_time(task, "SA"),
        *(carried(f"ST{k}", by=sign) for k in range(2, n)),
        *(carried(f"SC{k}", at=predicting(task, f"A{k + 1}"), mandatory=False) for k in range(n)),
        *delivered(task, "SC", "SV"),
    ]
    return _algorithm("ST/SV", clauses, task, "SA", "SC", "SV", "ST")


def copies(task: ArithmeticTask) -> Algorithm:
    """As `addition`, with the tri-states wherever they are: formed after the first models were seen."""
    clauses = [
        *just_in_time(task, "SA"),
        *(carried(f"ST{k}") for k in range(task.digits)),
        *delivered(task, "SC", "SV"),
    ]
    return _algorithm("ST/SV, copies anywhere", clauses, task, "SA", "SC", "SV", "ST")


def look_back_2(task: ArithmeticTask) -> Algorithm:
    """One layer's way: sums and carries by heads of the first layer that look at the columns themselves."""
    n = task.digits
    clauses = [*just_in_time(task, "SA")]
    for k in range(n):
        place = predicting(task, f"A{k + 1}")
        clauses.append(_in_layer_0(f"SC{k}", place))
        if k:
            clauses.append(_in_layer_0(f"SU{k}", place))
    return _algorithm("look-back 2", clauses, task, "SA", "SC", "SU")


def all_ready(task: ArithmeticTask) -> Algorithm:
    """H2, the T cascade: every digit is finished at "="; nothing is left to do later."""
    ready = task.position("=")
    clauses = [carried(f"SA{k}", by=ready) for k in range(task.digits)]
    return _algorithm("T cascade (H2)", clauses, task, "SA")


def boolean(task: ArithmeticTask) -> Algorithm:
    """H1: each carry as SC_{k-1} or SS_{k-1} & SC_{k-2} ..: the two-valued SC and SS stand early."""
    sign = task.position("SGN")
    clauses = [carried(f"{x}{k}", by=sign) for k in range(1, task.digits) for x in ("SC", "SS")]
    return _algorithm("boolean expansion (H1)", [*just_in_time(task, "SA"), *clauses], task, "SA", "SC", "SS")


def subtraction(task: ArithmeticTask) -> Algorithm:
    """MD and ND just in time, tri-states by the sign in strict order, the highest column first, borrows delivered."""
    n, sign = task.digits, task.position("SGN")
    clauses = [
        *just_in_time(task, "MD"),
        *just_in_time(task, "ND"),
        *(carried(f"GT{k}", by=sign) for k in range(n)),
        *(before(f"GT{k}", f"GT{k - 1}") for k in range(n - 1, 0, -1)),
        *delivered(task, "MB", "MV"),
        *delivered(task, "NB", "NV"),
    ]
    return _algorithm("MT/MV", clauses, task, "MD", "ND", "MB", "NB", "MV", "NV", "GT")


def mixed(task: ArithmeticTask) -> Algorithm:
    """Addition and subtraction as peers: one group of heads emits SA, MD and ND of a column together."""
    clauses = [shared((f"SA{k}", f"MD{k}", f"ND{k}")) for k in range(task.digits)]
    parts = (addition(task), subtraction(task))
    needs = {name: sources for part in parts for name, sources in part.needs.items()}
    optional = frozenset().union(*(part.optional for part in parts))
    rules = tuple(clause for part in parts for clause in part.clauses)
    return Algorithm("three peers", needs, (*rules, *clauses), optional)


def just_in_time(task: ArithmeticTask, family: str) -> list[Clause]:
    """Each column's own digit where the answer's digit is predicted."""
    return [carried(f"{family}{k}", at=predicting(task, f"A{k}")) for k in range(task.digits)]


def delivered(task: ArithmeticTask, sure: str, carry: str) -> list[Clause]:
    """The carry out of each column where the next digit is predicted: as such, or of the column by itself."""
    return [
        _either(
            (f"{carry}{name[len(carry) :]}", f"{sure}{name[len(carry) :]}"), predicting(task, f"A{k + 1}")
        )
        for name in names(task, carry)
        for k in [int(name[len(carry) :])]
    ]


def shared(subtasks: Sequence[str]) -> Clause:
    """Some heads belong to the evidence of all of these."""

    def test(places: Places) -> tuple[bool, str]:
        sets = [{node for e in places.get(name, ()) for node in e.nodes} for name in subtasks]
        common = set.intersection(*sets) if sets else set()
        words = ", ".join(sorted(node.name for node in common)) or "none"
        return bool(common), f"in common: {words}"

    return Clause(f"{', '.join(subtasks)} share a head", tuple(subtasks), test)


def _either(subtasks: Sequence[str], at: int) -> Clause:
    def test(places: Places) -> tuple[bool, str]:
        good = [e for name in subtasks for e in places.get(name, ()) if e.position == at]
        return bool(good), _words(good)

    return Clause(f"{' or '.join(subtasks)} is carried at P{at}", tuple(subtasks), test)


def _in_layer_0(subtask: str, at: int) -> Clause:
    def test(places: Places) -> tuple[bool, str]:
        found = places.get(subtask, ())
        good = [e for e in found if e.position == at and all(node.layer == 0 for node in e.nodes)]
        return bool(good), _words(good or found)

    return Clause(f"{subtask} is carried at P{at} by layer 0", (subtask,), test)


def _words(evidence: Sequence[Evidence]) -> str:
    return ", ".join(f"{e.subtask} at {e.name}" for e in evidence) or "not found"


def _algorithm(name: str, clauses: Sequence[Clause], task: ArithmeticTask, *families: str) -> Algorithm:
    """Sub-tasks of these families; each delivered carry needs the tri-states at and below its column."""
    there = names(task, *families)
    needs: dict[str, tuple[str, ...]] = dict.fromkeys(there, ())
    for carry, tri in (("SV", "ST"), ("MV", "GT"), ("NV", "GT")):
        for k in range(task.digits):
            if f"{carry}{k}" in needs:
                needs[f"{carry}{k}"] = tuple(f"{tri}{j}" for j in range(k + 1) if f"{tri}{j}" in needs)
    # copies of a tri-state may be complete only where the last digit reads it: arrows stand beside the score
    beside = frozenset(x for x in there if x.startswith(("ST", "GT")))
    return Algorithm(name, needs, tuple(clauses), beside)


RIVALS = (look_back_2, all_ready, boolean)
