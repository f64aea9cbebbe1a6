"""Does a node's output fall into clusters by class? PCA, two ways to count, and what luck would give.

    found = node_clusters(model, tokens, Node(0, 0, position=8), labels, twin=untrained)
    found.explained[0], found.agreement, found.null, found.twin.agreement

For values of a few states, such as the three of a carry (0, 1, unknown). Three clusters in a picture
are easily seen and prove little, so each number has its null: the same statistic with the labels
permuted, 99th percentile. Two statistics, both fractions of examples in classes of equal size:

- *agreement*: nearest class mean, means from one half of the examples and counted on the other, and
  the other way round. Tells whether the classes are linearly apart.
- *kmeans*: k-means without labels, clusters matched to classes in the best way. Tells whether the
  classes are the clusters, the main thing that this output varies by.

A clustered output is a hint; only an interchange (`mi_lab.subtask`) shows that anything reads it.
Source: dossier, section 7 (5) and claim A12; the held-out half and the nulls are ours.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from mi_lab.model import Transformer
from mi_lab.run import Node, run

STARTS = 10  # k-means from this many starting points; the tightest result counts


class Statistic(NamedTuple):
    """value, and the 99th percentile of the same with permuted labels."""

    value: float
    null: float

    @property
    def beats_null(self) -> bool:
        """Is it beyond what 99 of 100 shuffles of the labels give?"""
        return self.value > self.null


@dataclass(frozen=True)
class Clusters:
    """explained: share of the variance in each principal component, largest first. points [n, 2]: the
    first two components. labels [n]: 0, 1, .. in the order of `classes`. agreement, kmeans: see the
    module's text. chance: 1 / number of classes. twin: the same for another model, as a control."""

    explained: tuple[float, ...]
    points: Tensor
    labels: Tensor
    classes: tuple[int, ...]
    agreement: Statistic
    kmeans: Statistic
    twin: Clusters | None = None

    @property
    def chance(self) -> float:
        """What guessing gives."""
        return 1 / len(self.classes)

    def __repr__(self) -> str:
        twin = (
            ""
            if self.twin is None
            else f"; twin {self.twin.agreement.value:.2f}, {self.twin.kmeans.value:.2f}"
        )
        return (
            f"Clusters of {len(self.labels)} outputs in {len(self.classes)} classes: first components explain "
            f"{', '.join(f'{100 * x:.0f} %' for x in self.explained[:3])}; nearest mean "
            f"{self.agreement.value:.2f} (null {self.agreement.null:.2f}), k-means {self.kmeans.value:.2f} "
            f"(null {self.kmeans.null:.2f}){twin}"
        )


def clusters(outputs: Tensor, labels: Tensor, *, permutations: int = 1000, seed: int = 0) -> Clusters:
    """How far outputs [n, d] fall into clusters by labels Int[n].

    As many examples of each class are used as the rarest has, at random. Raises ValueError for fewer
    than two or more than six classes, or fewer than four examples of one.

        >>> x = torch.cat([torch.zeros(20, 2), torch.ones(20, 2)])
        >>> clusters(x, torch.arange(40) // 20).agreement.value
        1.0
    """
    if outputs.ndim != 2 or labels.shape != outputs.shape[:1]:
        raise ValueError(
            f"outputs [n, d] and labels [n] are needed, not {list(outputs.shape)} and {list(labels.shape)}"
        )
    labels = labels.cpu()
    classes, counts = labels.unique(return_counts=True)
    if not 2 <= len(classes) <= 6:
        raise ValueError(f"labels must have 2 to 6 classes, not {len(classes)}")
    if counts.min() < 4:
        rare = int(classes[counts.argmin()])
        raise ValueError(f"class {rare} has {int(counts.min())} examples, at least 4 are needed")
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(labels), generator=generator)
    each = int(counts.min()) // 2 * 2  # even, for two halves
    chosen = torch.stack([order[labels[order] == c][:each] for c in classes.tolist()], 1)  # [each, class]
    x = outputs.cpu()[chosen.flatten()].double()
    y = torch.arange(len(classes)).repeat(each)
    x = x - x.mean(0)
    _, spread, directions = torch.linalg.svd(x, full_matrices=False)
    variance = spread**2
    explained = variance / variance.sum().clamp(min=1e-300)
    # the same points in as few coordinates as they need: a head writes d_head of d_model directions
    x = x @ directions[explained > 1e-12].T
    # shuffled within each half, so that both halves hold all classes as the true labels do
    half = len(y) // 2
    keys = torch.rand(permutations, 2, half, generator=generator).argsort(-1)
    shuffled = torch.cat([y[:half][keys[:, 0]], y[half:][keys[:, 1]]], 1)  # [permutation, n]
    k = len(classes)
    group = kmeans(x, k, generator)
    return Clusters(
        tuple(explained.tolist()),
        torch.nn.functional.pad(x[:, :2], (0, max(0, 2 - x.shape[1]))).float(),
        y,
        tuple(classes.tolist()),
        _statistic(_nearest(x, y[None], k), _nearest(x, shuffled, k)),
        _statistic(_matched(group, y[None], k), _matched(group, shuffled, k)),
    )


def node_clusters(
    model: Transformer,
    tokens: Tensor,
    node: Node,
    labels: Tensor,
    *,
    twin: Transformer | None = None,
    permutations: int = 1000,
    seed: int = 0,
) -> Clusters:
    """`clusters` of what one node writes into the residual stream on tokens Int[n, pos].

    twin: a model of the same shape, e.g. with fresh weights, measured in the same way beside it.
    """
    if node.check(model.config, tokens.shape[1]).position is None:
        raise ValueError(f"node {node} needs a position, such as P7{node}")
    found = clusters(written(model, tokens, node), labels, permutations=permutations, seed=seed)
    if twin is None:
        return found
    if twin.config != model.config:
        raise ValueError("a twin must have the model's shape")
    other = clusters(written(twin, tokens, node), labels, permutations=permutations, seed=seed)
    return Clusters(**{**vars(found), "twin": other})


@torch.no_grad()
def written(model: Transformer, tokens: Tensor, node: Node) -> Tensor:
    """What a node adds to the residual stream, without the layer's bias: [n, d_model]."""
    block = model.blocks[node.layer]
    weight = block.mlp.W_out if node.head is None else block.attn.W_O[node.head]
    parts = [
        run(model, part, record=node.activation)[node.activation][node.index] for part in tokens.split(1024)
    ]
    return torch.cat(parts) @ weight


def kmeans(x: Tensor, k: int, generator: torch.Generator, *, steps: int = 100) -> Tensor:
    """Int[n]: the cluster of each row of x [n, d], by Lloyd's algorithm; the best of `STARTS` starts.

    Starting points are spread out: each is drawn with probability in proportion to its squared distance
    from those before (k-means++).
    """
    best, tightest = torch.zeros(len(x), dtype=torch.long), torch.inf
    for _ in range(STARTS):
        centres = x[torch.randint(len(x), (1,), generator=generator)]
        for _ in range(k - 1):
            far = torch.cdist(x, centres).amin(1) ** 2
            if not far.any():  # fewer different points than clusters
                break
            centres = torch.cat([centres, x[torch.multinomial(far, 1, generator=generator)]])
        group = torch.cdist(x, centres).argmin(1)
        for _ in range(steps):
            member = torch.nn.functional.one_hot(group, len(centres)).to(x)
            size = member.sum(0)[:, None]
            centres = torch.where(size > 0, member.T @ x / size.clamp(min=1), centres)
            new = torch.cdist(x, centres).argmin(1)
            if torch.equal(new, group):
                break
            group = new
        spread = float(((x - centres[group]) ** 2).sum())
        if spread < tightest:
            best, tightest = group, spread
    return best


def _nearest(x: Tensor, labels: Tensor, k: int) -> Tensor:
    """Held-out agreement with the nearest class mean for each row of labels [permutation, n]."""
    half = len(x) // 2
    hits = torch.zeros(len(labels), dtype=torch.float64)
    for fit, test in ((slice(0, half), slice(half, None)), (slice(half, None), slice(0, half))):
        member = torch.nn.functional.one_hot(labels[:, fit], k).to(x)  # [permutation, n, class]
        means = member.transpose(1, 2) @ x[fit] / member.sum(1)[..., None]
        # |x - m|^2 without |x|^2, which is the same for all means
        near = (means.pow(2).sum(-1)[:, None] - 2 * x[test] @ means.transpose(1, 2)).argmin(-1)
        hits += (near == labels[:, test]).double().sum(1)
    return hits / len(x)


def _matched(group: Tensor, labels: Tensor, k: int) -> Tensor:
    """Agreement of one clustering with each row of labels, under the best naming of the clusters."""
    names = torch.tensor(list(itertools.permutations(range(k))))
    table = torch.nn.functional.one_hot(group, k).double().T @ torch.nn.functional.one_hot(labels, k).double()
    hits = table[:, torch.arange(k), names]  # [permutation, naming, cluster]
    return hits.sum(-1).amax(1) / len(group)


def _statistic(value: Tensor, null: Tensor) -> Statistic:
    return Statistic(float(value[0]), float(null.quantile(0.99)) if len(null) else float("nan"))
