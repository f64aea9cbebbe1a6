"""The pathfinding paper's claims P1..P16 as measurements with acceptance and controls, and our own P17..P45.

Acceptance numbers are the dossier's, written down before the models here were trained; a claim that was
formed after seeing results says so. Numbering and wording: ours. "Reported" numbers were read off the
authors' stored figures: the paper's text was not available.
"""

from mi_lab.claims import Claim
from mi_lab.studies.pathfinding.claims.deep import P21, P23
from mi_lab.studies.pathfinding.claims.delivery import P20
from mi_lab.studies.pathfinding.claims.depth import P8B
from mi_lab.studies.pathfinding.claims.edges import P22, P26, P36, P37, P38, P39
from mi_lab.studies.pathfinding.claims.heads import P4, P5, P9, P15, P16
from mi_lab.studies.pathfinding.claims.lesson import P27, P28, P29, P30, P31, P32, P33, P34
from mi_lab.studies.pathfinding.claims.lookahead import P12
from mi_lab.studies.pathfinding.claims.order import P24, P25, P35
from mi_lab.studies.pathfinding.claims.probes import P2, P3
from mi_lab.studies.pathfinding.claims.registers import P8, P10
from mi_lab.studies.pathfinding.claims.roads import P17, P17B, P17C
from mi_lab.studies.pathfinding.claims.scrubbing import P7, P11
from mi_lab.studies.pathfinding.claims.settled import P40, P41, P42, P43, P44, P45
from mi_lab.studies.pathfinding.claims.solved import P1, P1B, P1C, P1D, P14
from mi_lab.studies.pathfinding.claims.stream import P6, P13
from mi_lab.studies.pathfinding.claims.switches import P18, P18B, P19

CLAIMS: tuple[Claim, ...] = (
    P1, P1B, P1C, P1D, P2, P3, P4, P5, P6, P7, P8, P8B, P9, P10, P11, P12, P13, P14, P15, P16, P17, P17B, P17C,
    P18, P18B, P19, P20, P21, P22, P23, P24, P25, P26, P27, P28, P29, P30, P31, P32, P33,
    P34, P35, P36, P37, P38, P39, P40, P41, P42, P43, P44, P45,
)  # fmt: skip

__all__ = [
    "CLAIMS", "P1", "P1B", "P1C", "P1D", "P2", "P3", "P4", "P5", "P6", "P7", "P8", "P8B", "P9", "P10", "P11", "P12",
    "P13", "P14", "P15", "P16", "P17", "P17B", "P17C", "P18", "P18B", "P19", "P20", "P21", "P22", "P23", "P24", "P25",
    "P26", "P27", "P28", "P29", "P30", "P31", "P32", "P33", "P34", "P35", "P36", "P37", "P38", "P39",
    "P40", "P41", "P42", "P43", "P44", "P45",
]  # fmt: skip
