"""How often each algorithm is wrong on uniform questions, exactly.

`ALGORITHMS[name].wrong` says on which questions an algorithm fails; these are their shares, from the
frequencies of the classes where the theory is one of classes, else counted. At two and three digits
they are compared with running every question.
"""

from __future__ import annotations

from fractions import Fraction

from mi_lab.studies.arithmetic import classes
from mi_lab.studies.arithmetic.algorithms import ALGORITHMS

LOOKS_BACK = {"look_back_2": 2, "sc_only": 1}


def error_rate(algorithm: str, digits: int, operator: str) -> Fraction:
    """Share of the 100^digits questions of one operation that it answers wrongly.

    Raises ValueError for an unknown algorithm, an operator that it can't do, and fewer than one digit.

        >>> float(error_rate("look_back_2", 5, "+"))
        0.0135
    """
    if algorithm not in ALGORITHMS:
        raise ValueError(f"there is no algorithm {algorithm!r}; there are {', '.join(ALGORITHMS)}")
    if operator not in "+-" or operator not in ALGORITHMS[algorithm].operations:
        raise ValueError(
            f"{algorithm!r} has the operations {ALGORITHMS[algorithm].operations!r}, not {operator!r}"
        )
    if digits < 1:
        raise ValueError(f"digits must be at least 1, not {digits}")
    if columns := LOOKS_BACK.get(algorithm):
        kinds = ("S",) if operator == "+" else ("M", "N_swapped")
        return sum((_longer(digits, kind, columns) for kind in kinds), Fraction(0))
    if algorithm == "three_heads":  # the highest column has a head to spare, so those below it decide
        return _longer(digits - 1, "S", 2) if digits > 1 else Fraction(0)
    if algorithm == "misprinted_nd" and operator == "-":
        # half of the questions with a digit difference other than 0 and 5 are negative
        return (1 - Fraction(20, 100) ** digits) / 2
    return Fraction(0)


def _longer(digits: int, kind: str, columns: int) -> Fraction:
    """Share of questions with a cascade above `columns`."""
    return sum(classes.frequencies(digits, kind)[columns + 1 :], Fraction(0))
