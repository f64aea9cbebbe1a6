"""The sorting paper's claims S1..S12 as measurements with acceptance and controls.

Acceptance numbers are the dossier's, written down before the models here were trained; a claim that
was formed after seeing results says so. Where the paper's own number or metric is not known,
`reported` says so. Numbering and wording: ours.
"""

from mi_lab.claims import Claim
from mi_lab.studies.sorting.claims.complexity import S9, S9B, S9C
from mi_lab.studies.sorting.claims.data import S11, S11B, S11C, S11D, S12
from mi_lab.studies.sorting.claims.development import S3, S8, S10, S10B
from mi_lab.studies.sorting.claims.mechanism import S1, S1B, S2, S2B, S4
from mi_lab.studies.sorting.claims.suppression import S5, S5B, S6, S6B, S7, S7B

CLAIMS: tuple[Claim, ...] = (
    S1,
    S1B,
    S2,
    S2B,
    S3,
    S4,
    S5,
    S5B,
    S6,
    S6B,
    S7,
    S7B,
    S8,
    S9,
    S9B,
    S9C,
    S10,
    S10B,
    S11,
    S11B,
    S11C,
    S11D,
    S12,
)

__all__ = [
    "CLAIMS",
    "S1",
    "S1B",
    "S2",
    "S2B",
    "S3",
    "S4",
    "S5",
    "S5B",
    "S6",
    "S6B",
    "S7",
    "S7B",
    "S8",
    "S9",
    "S9B",
    "S9C",
    "S10",
    "S10B",
    "S11",
    "S11B",
    "S11C",
    "S11D",
    "S12",
]
