"""The paper's models as data: every row of its tables, and the GrokFast twins of the authors' code.

The tables stand in a revision of arXiv 2402.02619 later than v9. Columns: thousands of training steps,
seed, final loss, failures per million additions and subtractions, useful heads and MLPs, and for the
models that start from an addition model its steps and seed (it has as many digits, 2 layers, 3 heads).
None stands for what is not known. `remark` holds what the authors' notebooks say otherwise.

The paper counts 44 models (16 + 2 + 8 + 14 is 40); the tables hold 46 rows, with subtraction and
mixed rows added after v9. Which four complete the 44 is not known; the GrokFast twins would fit.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

Kind = Literal["add", "sub", "mix", "ins1", "ins2", "ins3"]


class PaperRow(NamedTuple):
    """One model of the paper; see the module's text for the columns."""

    kind: Kind
    digits: int
    layers: int
    heads: int
    kilosteps: int | None
    seed: int | None
    loss: float | None
    add_failures: int | None
    sub_failures: int | None
    useful_heads: int | None
    useful_mlps: int | None
    donor: tuple[int, int] | None = None  # kilosteps and seed
    grokfast: bool = False
    remark: str = ""

    @property
    def cell(self) -> str:
        """What our compact zoo varies: kind, digits, layers, heads, GrokFast: "ins1_mix_d6_l3_h4"."""
        kind = f"{self.kind}_mix" if self.kind.startswith("ins") else self.kind
        return f"{kind}_d{self.digits}_l{self.layers}_h{self.heads}" + "_gf" * self.grokfast

    @property
    def name(self) -> str:
        """The authors' name, where steps and seed are known: "add_d6_l2_h3_t15K_s372001"."""
        if self.kilosteps is None:
            return self.cell
        return f"{self.cell}_t{self.kilosteps}K_s{self.seed}"

    @property
    def donor_cell(self) -> str | None:
        """The cell of the addition model that this one starts from, None for the others."""
        return f"add_d{self.digits}_l2_h3" if self.kind.startswith("ins") else None


_A, _B, _C, _D = 372001, 173289, 572091, 371793  # the authors' seeds

ADDITION = (
    PaperRow(
        "add", 5, 1, 3, 30, _A, 9.4e-2, 12621, None, 15, 6, remark="the one-layer model of the predecessor"
    ),
    PaperRow("add", 5, 2, 3, 15, _A, 1.6e-8, 0, None, 30, 16),
    PaperRow("add", 5, 2, 3, 40, _A, 2.0e-9, 0, None, 22, 15, remark="fewest nodes; appendix figure"),
    PaperRow("add", 6, 2, 3, 15, _A, 1.7e-8, 2, None, 31, 17, remark="main focus"),
    PaperRow("add", 6, 2, 3, 20, _B, 1.5e-8, 0, None, 28, 17),
    PaperRow("add", 6, 2, 3, 20, _C, 7.0e-9, 0, None, 35, 17),
    PaperRow("add", 6, 2, 3, 40, _A, 2.0e-9, 0, None, 29, 17),
    PaperRow("add", 7, 2, 3, 45, _B, 3.0e-9, 0, None, 31, 20),
    PaperRow("add", 8, 2, 3, 45, _B, 3.0e-9, 0, None, 35, 22),
    PaperRow("add", 9, 2, 3, 45, _B, 3.0e-9, 0, None, 54, 27),
    PaperRow("add", 10, 2, 3, 40, _C, 7.0e-9, 0, None, 44, 28, remark="notebook: 1 failure"),
    PaperRow("add", 11, 2, 3, 50, _B, 8.0e-9, 2, None, 56, 29, remark="notebook: seed 572091"),
    PaperRow("add", 12, 2, 3, 50, _B, 5.0e-9, 3, None, 50, 33, remark="notebook: seed 572091"),
    PaperRow("add", 13, 2, 3, 50, _B, 6.3e-8, 1, None, 66, 31, remark="notebook: seed 572091"),
    PaperRow("add", 14, 2, 3, 60, _B, 5.5e-6, 199, None, 68, 35, remark="notebook: seed 572091, loss 5.6e-6"),
    PaperRow("add", 15, 2, 3, 80, _C, 8.6e-8, 10, None, 93, 58),
)
SUBTRACTION = (
    PaperRow("sub", 5, 2, 3, 30, _A, 1.0e-3, None, 3689, 57, 20),
    PaperRow("sub", 6, 2, 3, 30, _A, 5.8e-6, None, 2, 37, 21),
    PaperRow("sub", 6, 2, 3, 30, _C, 5.8e-4, None, 3889, 58, 21),
    PaperRow("sub", 8, 2, 3, 50, _B, 4.0e-9, None, 1, 65, 26),
    PaperRow("sub", 8, 2, 3, 50, _D, 2.5e-5, None, 487, 71, 28),
    PaperRow("sub", 10, 2, 3, 75, _B, 2.0e-3, None, 6672, 101, 37),
    PaperRow("sub", 12, 2, 3, 75, _D, 3.4e-4, None, 2175, 96, 32),
)
MIXED = (
    PaperRow("mix", 5, 3, 4, 40, _A, 9.0e-9, 0, 0, 45, 21),
    PaperRow("mix", 6, 3, 4, 40, _A, 5.0e-9, 1, 0, 54, 26),
    PaperRow("mix", 7, 3, 4, 50, _A, 2.0e-8, 2, 6, 108, 40),
    PaperRow("mix", 8, 3, 4, 60, _B, 4.7e-8, 0, 7, 123, 45),
    PaperRow("mix", 9, 3, 4, 60, _B, 3.2e-7, 1, 33, 140, 46),
    PaperRow("mix", 10, 3, 4, 75, _B, 1.1e-6, 2, 295, 143, 53),
    PaperRow("mix", 11, 3, 4, 80, _C, 3.9e-8, 0, 13, 138, 50),
    PaperRow("mix", 12, 3, 4, 85, _C, 1.7e-8, 2, 10, 167, 55),
    PaperRow("mix", 13, 3, 4, 85, _C, 9.5e-6, 399, 4164, 197, 64),
)
INITIALISED = (
    PaperRow("ins1", 5, 2, 3, 40, _C, 2.5e-7, 1, 52, 49, 20, (15, _A)),
    PaperRow("ins1", 6, 2, 3, 40, _C, 2.4e-8, 0, 5, 57, 21, (20, _B)),
    PaperRow("ins1", 6, 3, 3, 40, _C, 1.8e-8, 0, 3, 70, 35, (20, _B)),
    PaperRow("ins1", 6, 3, 3, 80, _C, 1.6e-8, 0, 3, 75, 35, (40, _A)),
    PaperRow("ins1", 6, 3, 4, 40, _A, 8.0e-9, 0, 0, 72, 26, (15, _A), remark="main focus"),
    PaperRow("ins1", 6, 3, 4, 40, _B, 1.4e-8, 3, 2, 60, 29, (20, _B)),
    PaperRow("ins1", 6, 3, 4, 50, _C, 2.9e-8, 0, 4, 79, 29, (20, _B)),
    PaperRow("ins1", 7, 3, 4, 50, _C, 1.8e-8, 4, 1, 104, 38, (45, _B), remark="notebook: loss 1.3e-8"),
    PaperRow("ins1", 8, 3, 4, 70, _C, 4.3e-5, 50, 1196, 116, 42, (45, _B), remark="notebook: loss 7.2e-6"),
    PaperRow("ins1", 9, 3, 4, 70, _C, 5.4e-8, 1, 4, 160, 50, (45, _B)),
    PaperRow("ins1", 10, 3, 3, 50, _C, 6.3e-7, 6, 7, 90, 45, (40, _C)),
    PaperRow("ins1", 11, 3, 4, 75, _C, 5.9e-5, 11066, 1120, 141, 47, (50, _B)),
    PaperRow("ins2", 6, 4, 4, 40, _A, 1.7e-8, 3, 8, 51, 30, remark="useful heads reset every 100 steps"),
    PaperRow(
        "ins3", 6, 4, 3, 40, _A, 3.0e-4, 17, 3120, 115, 53, remark="heads and MLPs reset every 100 steps"
    ),
)
GROKFAST = (
    PaperRow("add", 10, 2, 3, None, None, 3.5e-9, None, None, None, None, grokfast=True),
    PaperRow("sub", 10, 2, 3, None, None, 1.197e-3, None, 5246, None, None, grokfast=True),
    PaperRow("mix", 10, 3, 4, None, None, 8.85e-7, 1, 294, None, None, grokfast=True),
    PaperRow("ins1", 10, 3, 3, None, None, 4.0e-6, 2, 1196, None, None, grokfast=True),
)
ROWS = (*ADDITION, *SUBTRACTION, *MIXED, *INITIALISED, *GROKFAST)
