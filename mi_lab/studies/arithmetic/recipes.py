"""Training recipes of the arithmetic study.

The *compact zoo* has a recipe for every configuration of the paper's tables (digits, layers, heads,
kind), at a width that one CPU core trains: d_model 96 and heads of 32 where the paper has 510 and
170. A name is the paper's without steps and seed: `add_d6_l2_h3`, `sub_d8_l2_h3`, `mix_d6_l3_h4`,
`ins1_mix_d6_l3_h4`. 3-digit models are ours: all of their questions can be checked.

The optimiser is the paper's (AdamW, betas 0.9 and 0.98, weight decay 0.1); batch, learning rate,
schedule and clipping are ours: 1e-3 and batch 128 instead of 8e-5 and 64, so that 2000 to 12,000
steps do what took 15,000 to 85,000. Cells of one operation, and those that start from a donor, that were not
trained when a shorter schedule had been found take that one (`brisk`); claims compare models of one schedule.
`paper` and `paper_mix` have the paper's width.

Models `ins*` start from an addition model: `Recipe.start` says from which and what is copied (see
`transfer`). Twins with GrokFast differ in nothing else (`_gf`). `live` is trained in the chapter.
"""

from __future__ import annotations

from dataclasses import replace

from mi_lab.model import TransformerConfig
from mi_lab.studies.arithmetic.paper_table import ROWS, PaperRow
from mi_lab.studies.arithmetic.task import ArithmeticTask
from mi_lab.studies.arithmetic.transfer import FromDonor
from mi_lab.train import Recipe, log_steps

SEEDS = (0, 1, 2)
# Share of subtraction: the authors' 66 of 100 in mixed models, 80 where addition is there from the start.
SHARE = {"mix": 0.66, "ins1": 0.80, "ins2": 0.80, "ins3": 0.80}
OPERATIONS = {"add": "+", "sub": "-"}


def config(task: ArithmeticTask, layers: int = 2, heads: int = 3, width: int = 96) -> TransformerConfig:
    """ReLU MLP of 4 d_model, pre-LayerNorm, heads of a third of d_model whatever their number: as in the paper."""
    return TransformerConfig(
        n_layers=layers, n_heads=heads, d_model=width, d_head=width // 3, d_mlp=4 * width,
        n_ctx=task.n_ctx, d_vocab=len(task.vocab),
    )  # fmt: skip


def steps(kind: str, digits: int, layers: int = 2) -> int:
    """How long a compact model trains: pilots for 3 and 5 digits, in proportion in between and beyond.

    One layer learns slower: after 2000 steps at 3 digits it fails on a tenth of class S2, which it can do.
    """
    base = 2000 if digits <= 3 else min(1000 * digits, 12_000)
    return base * (1 if kind == "add" else 2) * (3 if layers == 1 else 1)


def compact(kind: str, digits: int, layers: int, heads: int, **changes: object) -> Recipe:
    """The recipe of one configuration at compact width."""
    task = ArithmeticTask(digits, OPERATIONS.get(kind, "+-"), SHARE.get(kind, 0.66))  # type: ignore[arg-type]
    length = int(changes.pop("steps", steps(kind, digits, layers)))  # type: ignore[call-overload]
    recipe = Recipe(
        name=PaperRow(kind, digits, layers, heads, *[None] * 7).cell,  # type: ignore[arg-type]
        task=task,
        config=config(task, layers, heads),
        optimiser="adamw",
        lr=1e-3,
        betas=(0.9, 0.98),
        weight_decay=0.1,
        batch=128,
        steps=length,
        warmup=length // 10,
        decay="cosine",
        final_lr=0.0,
        clip=1.0,
        seeds=SEEDS if digits <= 6 else SEEDS[:1],
        checkpoints=log_steps(length, 20, first=50),
        description=f"{layers} layers of {heads} heads, {digits} digits, {WORDS[kind]}.",
    )
    return replace(recipe, **changes)  # type: ignore[arg-type]


def brisk(kind: str, digits: int, layers: int, heads: int, **changes: object) -> Recipe:
    """As `compact`, with half the batch at twice the rate and three quarters of the steps.

    Found for `live`, and too short for mixed models from scratch: three of mix_d5_l3_h4, trained so, failed on 20, 90
    and 1,000 subtractions in a million, and on up to two thirds of class N4, which is learned last.
    """
    length = 3 * steps(kind, digits, layers) // 4
    return compact(kind, digits, layers, heads, steps=length, batch=64, lr=2e-3, **changes)


WORDS = {
    "add": "addition",
    "sub": "subtraction",
    "mix": "addition and subtraction",
    "ins1": "both, started from an addition model",
    "ins2": "both, from an addition model whose heads are put back every 100 steps",
    "ins3": "both, from an addition model whose heads and MLPs are put back every 100 steps",
}
# Ours beside the paper's: small enough to check every question, and the twins that claims compare.
OURS = (
    ("add", 3, 2, 3), ("add", 3, 1, 3), ("sub", 3, 2, 3), ("mix", 3, 2, 3), ("mix", 3, 3, 4),
    ("ins1", 3, 2, 3), ("ins1", 3, 3, 4), ("sub", 5, 1, 3), ("mix", 5, 2, 3),
)  # fmt: skip
# Copies of `ins1` that differ in what is copied, to find out what helps.
VARIANTS = {
    "output": "As ins1, with the donor's W_O and b_O.",
    "whole": "As ins1, with everything: the addition circuit is whole at step 0.",
    "shuffled": "As ins1, from a donor whose entries are shuffled: same norms, no circuit.",
    "permuted": "As ins1, from a donor whose heads and neurons are renumbered: same function.",
    "subtraction": "As ins1, from a subtraction model.",
}
# Nothing put back, heads, heads and MLPs, in one shape (that of the paper's ins3), and the same with a shuffled donor.
PUT_BACK = (3, 4, 3)
# The paper's GrokFast models, and one small enough for all of its seeds.
GROKFAST = (
    *((row.kind, row.digits, row.layers, row.heads) for row in ROWS if row.grokfast), ("mix", 3, 2, 3),
)  # fmt: skip
CELLS = tuple(dict.fromkeys(
    [*OURS, *((row.kind, row.digits, row.layers, row.heads) for row in ROWS if not row.grokfast)]
))  # fmt: skip
# Trained with the first schedule (`compact`), as mixed models from scratch are; others take the shorter one (`brisk`).
FIRST = (
    *(("add", n, 2, 3) for n in (3, 5, 6, 7, 8, 9, 10)), ("add", 3, 1, 3), ("add", 5, 1, 3), ("sub", 3, 2, 3),
    ("ins1", 3, 2, 3), ("ins1", 6, 3, 4),
)  # fmt: skip


def cell(kind: str, digits: int, layers: int, heads: int) -> Recipe:
    """The recipe of a configuration, by the schedule that it was trained with."""
    first = kind == "mix" or (kind, digits, layers, heads) in FIRST
    return (compact if first else brisk)(kind, digits, layers, heads)


def grokfast(kind: str, digits: int, layers: int, heads: int) -> Recipe:
    """The twin of a configuration with the authors' GrokFast: alpha .98, lambda 2."""
    plain = cell(kind, digits, layers, heads)
    text = f"{plain.description[:-1]}, with GrokFast."
    return replace(plain, name=f"{plain.name}_gf", grokfast=(0.98, 2.0), description=text)


def wide(name: str, kind: str, layers: int, heads: int, description: str) -> Recipe:
    """Six digits at the paper's width."""
    recipe = compact(kind, 6, layers, heads)
    return replace(
        recipe,
        name=name,
        config=config(recipe.task, layers, heads, width=510),  # type: ignore[arg-type]
        lr=3e-4,
        precision="bf16",
        seeds=(0,),
        description=description,
    )


def equal_mix(name: str, kind: str, digits: int, layers: int, heads: int) -> Recipe:
    """A mixed model from scratch with the share of subtraction of those that start from a donor."""
    recipe = (compact if digits == 3 else brisk)(kind, digits, layers, heads)
    task = replace(recipe.task, subtraction=SHARE["ins1"])  # type: ignore[type-var]
    return replace(recipe, name=name, task=task, description=f"{recipe.description[:-1]}, 80 % subtraction.")


def enriched(name: str, enrichment: str, description: str) -> Recipe:
    """The 3-digit addition model with another share of enriched questions."""
    recipe = compact("add", 3, 2, 3)
    task = replace(recipe.task, enrichment=enrichment)  # type: ignore[type-var]
    return replace(recipe, name=name, task=task, description=f"{recipe.description[:-1]}, {description}.")


def shuffled_answers(name: str, digits: int, layers: int, heads: int) -> Recipe:
    """An addition model that learns the answers of other questions: a trained model without a circuit."""
    recipe = compact("add", digits, layers, heads)
    task = replace(recipe.task, answers="shuffled")  # type: ignore[type-var]
    text = f"{recipe.description[:-1]}, with the answers of other questions: a control."
    return replace(recipe, name=name, task=task, seeds=(0,), description=text)


# Three digits while you wait: half the batch at twice the rate. Seeds 7, 8, 9 and 100 were right on 50,000 uniform
# questions after 1500 steps; after 1000 seed 9 was still wrong in 2840 of a million.
LIVE = replace(
    compact("add", 3, 2, 3), name="live", lr=2e-3, batch=64, steps=1500, warmup=150, seeds=(7,),
    checkpoints=log_steps(1500, 9, first=100),
    description="For live training: 3-digit addition, learned in half a minute.",
)  # fmt: skip
PAPER = wide("paper", "add", 2, 3, "The paper's 6-digit addition model: d_model 510, our shorter schedule.")
PAPER_MIX = wide("paper_mix", "ins1", 3, 4, "The paper's 6-digit mixed model, started from `paper`.")
_all = [
    PAPER,
    PAPER_MIX,
    LIVE,
    *(cell(*shape) for shape in CELLS),
    enriched("add_d3_l2_h3_plain", "none", "uniform questions only"),
    enriched("add_d3_l2_h3_described", "as_described", "60 % of the questions enriched"),
    *(equal_mix(f"mix_d{n}_l2_h3_80", "mix", n, 2, 3) for n in (3, 5)),
    *(shuffled_answers(f"add_d{n}_l2_h3_shuffled_answers", n, 2, 3) for n in (3, 5)),
    *(
        replace(cell("ins1", n, 2, 3), name=f"ins1_mix_d{n}_l2_h3_{variant}", description=text)
        for n in (3, 5)
        for variant, text in VARIANTS.items()
    ),
    *(grokfast(*shape) for shape in GROKFAST),
    *(brisk(kind, *PUT_BACK) for kind in ("ins1", "ins2", "ins3")),
    *(
        brisk(
            kind,
            *PUT_BACK,
            name=f"{kind}_mix_d3_l4_h3_shuffled",
            description=f"As {kind}, from a shuffled donor.",
        )
        for kind in ("ins1", "ins2", "ins3")
    ),
]


def _start(name: str, digits: int) -> FromDonor:
    """What a model of this name starts from; the donor has the same width, 2 layers and 3 heads."""
    if name == PAPER_MIX.name:
        return FromDonor(PAPER)
    donor = FromDonor(cell("add", digits, 2, 3))
    if name.startswith("ins2"):
        donor = replace(donor, again="heads", every=100)
    if name.startswith("ins3"):
        donor = replace(donor, again="heads_and_mlps", every=100)
    ending = name.rsplit("_", 1)[-1]
    if ending in ("shuffled", "permuted"):
        return replace(donor, variant=ending)
    if ending in ("output", "whole"):
        return replace(donor, parts={"output": "with_output"}.get(ending, ending))
    if ending == "subtraction":
        return replace(donor, donor=cell("sub", digits, 2, 3))
    return donor


def _begun(recipe: Recipe) -> Recipe:
    """The recipe, with its donor if it has one."""
    if not recipe.name.startswith(("ins", PAPER_MIX.name)):
        return recipe
    return replace(recipe, start=_start(recipe.name, recipe.task.digits))  # type: ignore[attr-defined]


recipes: dict[str, Recipe] = {recipe.name: _begun(recipe) for recipe in _all}
# What the claims need with all their seeds; of the rest of the zoo, what has been trained is published.
BEHIND_CLAIMS = ("add_d3_l2_h3",)
# Asked a million questions by `zoo_results`, the others a hundred thousand.
COUNTED_IN_FULL = (
    "add_d3_l2_h3", *(f"add_d{n}_l2_h3" for n in range(5, 11)), "mix_d3_l3_h4",
    PAPER.name, PAPER_MIX.name,
)  # fmt: skip
# Models asked every question there is, 2,000,000, by class and on edge sets as the others: recipe -> seeds.
EVERY_QUESTION = {"ins1_mix_d3_l2_h3": (0,)}
UNPUBLISHED = tuple(name for name in recipes if name not in BEHIND_CLAIMS)
