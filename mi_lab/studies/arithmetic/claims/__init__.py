"""The arithmetic paper's claims A1..A23 as measurements with acceptance and controls.

Acceptance numbers are the dossier's, written down before the models here were trained; a claim that was
formed after seeing results says so. Claims about models that are not published (yet) are listed as not
testable, with what is missing. Numbering and wording: ours.
"""

from __future__ import annotations

import re

from mi_lab.claims import Claim
from mi_lab.studies.arithmetic.claims import (
    algorithms,
    deliveries,
    digits,
    mixed,
    peers,
    place_value,
    roads,
    shared,
    solved,
    starts,
    training,
    tristates,
)

PARTS = (
    algorithms, solved, place_value, roads, training, mixed, starts, digits, tristates, deliveries, shared, peers,
)  # fmt: skip


def _place(claim: Claim) -> tuple[int, str]:
    """A3b after A3, before A4."""
    found = re.fullmatch(r"A(\d+)([a-z]?)", claim.id)
    if found is None:
        raise ValueError(f"{claim.id!r} is no id of this study's claims: A1, A3b, ..")
    return int(found[1]), found[2]


CLAIMS: tuple[Claim, ...] = tuple(sorted((c for part in PARTS for c in part.CLAIMS), key=_place))

__all__ = ["CLAIMS"]
