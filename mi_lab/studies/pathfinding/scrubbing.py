"""The paper's scrubbing figure: what does attention at the root token depend on, layer by layer?

H1: in layer l the attention output at the root depends only on anc_l, the goal's ancestor at
distance l (x1 where the path is shorter). H2: and on what it reads at the registers, whose share
stays the run's own. H3: and at all edge targets. Each is tested by putting in the output of a
donor, another backward tree that has the same anc_l, against a random donor. Claims P7 and P11.

The authors' number is the loss recovered against a uniform guess, on which a coin flip between two
children already scores 80 %. Beside it stands the logit difference of x1 and its sibling.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from mi_lab.model import Transformer
from mi_lab.scrub import Swap, match, remember, scrub_all
from mi_lab.studies.pathfinding import measure as m
from mi_lab.studies.pathfinding.roads import first_step

HYPOTHESES = ("H1", "H2", "H3", "seven random keys")


class Figure(NamedTuple):
    """recovered, difference, correct: Float[hypothesis, donor, layer, P - 1] with donor 0 matched and 1 random.

    recovered: loss recovered (1: nothing lost; 0: as bad as a uniform guess), ratio of means, true label x1.
    difference: logit(x1) - logit(sibling), mean over trees with a choice at the root, divided by the clean
    mean. correct: share of those with the right sign. clean [P - 1]: that share without donors. n: trees per P.
    """

    recovered: Tensor
    difference: Tensor
    correct: Tensor
    clean: Tensor
    n: int


def keys_kept(
    task_edges: int, hypothesis: str, registers: list[int], generator: torch.Generator
) -> tuple[int, ...]:
    """The keys whose share stays the run's own, sorted."""
    if hypothesis == "H1":
        return ()
    if hypothesis == "H2":
        return tuple(registers)
    targets = [3 * i + 1 for i in range(task_edges)]
    if hypothesis == "H3":
        return tuple(sorted({*registers, *targets}))
    others = [p for p in range(3 * task_edges - 1) if p % 3 != 1 and p not in registers]
    order = torch.randperm(len(others), generator=generator)[: len(registers)]
    return tuple(sorted(others[i] for i in order))


@torch.no_grad()
def figure(
    model: Transformer,
    recipe: str = "paper",
    *,
    n: int = 150,
    pool: int = 4000,
    registers: list[int] | None = None,
    renormalise: bool = True,
    hypotheses: tuple[str, ...] = HYPOTHESES,
    seed: int = 7,
) -> Figure:
    """Every layer, hypothesis and path length, with matched and random donors.

    n: trees for each P; pool: donors, P uniform. registers: default the authors' seven positions.
    Cost: one forward pass per tree and donor; everything else is a single position.
    """
    task = m.task_of(recipe, order="backward")
    longest = task.longest_path - 1  # P = n - 1 is a single chain, never a choice
    parts = [
        m.trees(m.task_of(recipe, order="backward", shortest=p, longest=p), n) for p in range(1, longest + 1)
    ]
    tokens = torch.cat([part.tokens for part in parts])
    truth = {name: torch.cat([part.truth[name] for part in parts]) for name in parts[0].truth}
    donors = m.trees(task, pool, seed)
    generator = torch.Generator().manual_seed(m.EVALUATION + seed)
    registers = m.positions(task, "registers") if registers is None else registers
    answer = slice(task.root_position, task.root_position + 1)
    layers = range(model.config.n_layers)
    swaps = {
        (name, layer): Swap(
            layer,
            (task.root_position,),
            keep=keys_kept(task.n_edges, name, registers, torch.Generator().manual_seed(seed)),
            renormalise=renormalise,
        )
        for name in hypotheses
        for layer in layers
    }
    remembered = remember(model, donors.tokens, list(dict.fromkeys(swaps.values())), answer=answer)
    choices = []
    for layer in layers:
        matched = match(_key(truth, layer), _key(donors.truth, layer, clip=False), generator=generator)
        anyone = torch.randint(pool, (len(tokens),), generator=generator)
        choices.append((torch.where(matched >= 0, matched, anyone), anyone))
    asked = [
        (choices[layer][donor], [swaps[name, layer]])
        for name in hypotheses
        for donor in (0, 1)
        for layer in layers
    ]
    found = scrub_all(model, tokens, remembered, asked, answer=answer)
    right = truth["correct"][:, 0] + task.first_target
    length = truth["length"]
    clean_loss = _loss(found[0].clean[:, 0], right)
    clean_gap = first_step(task, truth, found[0].clean[:, 0])
    branch = truth["other"][:, 0] >= 0
    uniform = math.log(len(task.vocab))
    rows = []
    for out in found:
        loss, gap = _loss(out.logits[:, 0], right), first_step(task, truth, out.logits[:, 0])
        for p in range(1, longest + 1):
            here = length == p
            some = here & branch
            rows.append(
                [
                    float((uniform - loss[here].mean()) / (uniform - clean_loss[here].mean())),
                    float(gap[some].mean() / clean_gap[some].mean()),
                    float((gap[some] > 0).float().mean()),
                ]
            )
    shape = (len(hypotheses), 2, len(layers), longest)
    recovered, difference, correct = torch.tensor(rows).T.reshape(3, *shape)
    clean = torch.tensor(
        [float((clean_gap[(length == p) & branch] > 0).float().mean()) for p in range(1, longest + 1)]
    )
    return Figure(recovered, difference, correct, clean, n)


def _key(truth: m.Truth, layer: int, *, clip: bool = True) -> Tensor:
    """Int[n]: anc_layer, x1 where the path is shorter (questions), -1 there (donors: never matched)."""
    length, ancestor = truth["length"], truth["ancestor"]
    index = torch.full_like(length, layer)
    key = ancestor.gather(1, (torch.minimum(index, length - 1) if clip else index)[:, None])[:, 0]
    return key if clip else torch.where(length > layer, key, -1)


def _loss(logits: Tensor, right: Tensor) -> Tensor:
    return -logits.log_softmax(-1).gather(1, right[:, None])[:, 0]
