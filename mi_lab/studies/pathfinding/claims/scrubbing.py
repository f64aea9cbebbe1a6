"""P7, P11: what attention at the root depends on, by resampling."""

from __future__ import annotations

import functools

from mi_lab.claims import Accept, Claim, Control
from mi_lab.once import shared
from mi_lab.studies.pathfinding import measure as m
from mi_lab.studies.pathfinding.circuit import untrained_twin
from mi_lab.studies.pathfinding.claims.common import FIGURES, Asked, Row, by_model
from mi_lab.studies.pathfinding.scrubbing import HYPOTHESES, Figure, figure

SAMPLE = "150 backward trees for each P = 1..14, donors from 4,000"


@functools.lru_cache(maxsize=8)
@shared
def scrub_figure(recipe: str, seed: int, *, twin: bool = False) -> Figure:
    """The figure of one published model (or its untrained twin), once per process."""
    model = m.model(recipe, seed)
    return figure(untrained_twin(model, seed) if twin else model, recipe)


def _h1(found: Figure, donor: int = 0) -> Row:
    """P7's numbers; donor 1: random donors in the place of the matched."""
    h1, gap = found.recovered[0], found.difference[0]
    low, other = h1[donor], h1[1]
    matched = gap[donor, 1:3, 1:] - gap[1, 1:3, 1:]
    return {
        "L0-L2, worst P": float(low[:3].min()),
        "all layers, P <= 4, worst": float(low[:, :4].min()),
        "L4-L5, P >= 7, best": float(low[4:, 6:].max()),
        "matched - random, L1-L2": float(matched.mean()),
        "random donors, L1-L2, mean": float(other[1:3].mean()),
    }


def _per_seed(donor: int = 0, twin: bool = False) -> Asked:
    return by_model(
        lambda name, seed: _h1(scrub_figure(name, seed, twin=twin), donor), "L0-L2, worst P", sample=SAMPLE
    )


P7 = Claim(
    "P7",
    "Attention output at the root depends only on one ancestor (H1)",
    FIGURES,
    "In layer l the attention output at the root is that of any tree with the same goal ancestor at distance l; "
    "beyond the depth bound this fails.",
    "L0-L2 99-100 % of the loss recovered at all P; L4, L5 fail for P >= 7 (down to -190 %)",
    Accept(
        "matched donors: L0-L2 >= .95 at all P; all layers >= .90 for P <= 4; L4, L5 <= .50 for P >= 7; matched "
        "minus random >= .4 of the logit difference at L1-L2",
        lambda r: (
            r["L0-L2, worst P"] >= 0.95
            and r["all layers, P <= 4, worst"] >= 0.90
            and r["L4-L5, P >= 7, best"] <= 0.50
            and r["matched - random, L1-L2"] >= 0.40
        ),
    ),
    _per_seed(),
    (Control("random donors", _per_seed(donor=1)), Control("untrained twin", _per_seed(twin=True))),
    "Where random donors do no harm either, the layer is not used at this token and H1 says nothing.",
)


def _h2(found: Figure, keep: str = "H2") -> Row:
    which = HYPOTHESES.index(keep)
    gain = (found.recovered[which, 0] - found.recovered[0, 0])[4:, 5:]
    null = (found.recovered[3, 0] - found.recovered[0, 0])[4:, 5:]
    layer = int(gain.mean(1).argmax())
    return {
        "gain": float(gain[layer].mean()),
        "gain of seven random keys": float(null[layer].mean()),
        "H1 there": float(found.recovered[0, 0, 4:, 5:][layer].mean()),
        "H3, worst": float(found.recovered[2, 0].min()),
    }


def _merging(keep: str = "H2", twin: bool = False) -> Asked:
    return by_model(lambda name, seed: _h2(scrub_figure(name, seed, twin=twin), keep), "gain", sample=SAMPLE)


P11 = Claim(
    "P11",
    "Path merging: in L4-L5 the root reads registers (H2)",
    FIGURES,
    "Keeping the root's own share from the seven register positions repairs what H1 loses in the last layers.",
    "H2 barely helps in L4, L5 (-30..-190 % at P >= 6); H3, which also keeps all targets, >= 82 % everywhere",
    Accept(
        "H2 recovers >= .30 more than H1 in L4 or L5 at P >= 6, and more than seven random other keys",
        lambda r: r["gain"] >= 0.30 and r["gain"] > r["gain of seven random keys"],
    ),
    _merging(),
    (
        Control("seven random keys that are no targets", _merging("seven random keys")),
        Control("untrained twin", _merging(twin=True)),
    ),
    "The seven positions are the authors'; registers of another model may lie elsewhere: P10 and P17 look everywhere.",
)
