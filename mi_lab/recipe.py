"""Recipes: everything that decides a training run except the seed, as a value.

A `Recipe` compares, hashes into a `digest` by which published models are found, and varies with
`dataclasses.replace`. `mi_lab.train.fit` trains it.
"""

from __future__ import annotations

import hashlib
import json
import math
import operator
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from mi_lab.model import Transformer, TransformerConfig
from mi_lab.studies.base import Task


def log_steps(last: int, count: int = 25, first: int = 10) -> tuple[int, ...]:
    """About `count` whole steps from 0 to `last`, evenly spaced on a log axis from `first` on.

    >>> log_steps(1000, 5)
    (0, 10, 46, 215, 1000)
    """
    if last <= first:
        return tuple(range(last + 1))
    ratio = math.log(last / first) / max(count - 2, 1)
    return (0, *sorted({round(first * math.exp(ratio * i)) for i in range(count - 1)}))


class Start(Protocol):
    """What models start from instead of fresh weights; a value, like the recipe that holds it.

    every: `apply` is called before the first step and again after every so many steps (after the last
        one too, if it is due then, and before a checkpoint of that step is kept); None: only once.
    """

    @property
    def every(self) -> int | None:
        """Steps between two calls."""
        ...

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON, for the digest."""
        ...

    def model(self, seed: int, out: Path | str | None = None) -> Transformer | None:
        """The donor for one seed, None if there is none; `out` is the folder in which `fit` keeps its runs."""
        ...

    def apply(self, model: Transformer, donor: Any, *, step: int) -> None:
        """Overwrite what comes from the donor (what `model` gave) at this step, in place."""
        ...


@dataclass(frozen=True)
class Recipe:
    """Everything that decides a training run except the seed.

    optimiser: "adam" puts weight decay into the gradient (coupled, L2), "adamw" decays the weights
        directly (decoupled); both decay all weights, biases and LayerNorm included.
    lr, warmup, decay, decay_from, final_lr: the learning rate rises linearly over `warmup` steps to
        `lr`, stays until the fraction `decay_from` of `horizon`, then falls ("linear" or "cosine")
        to `final_lr * lr` at `horizon`. `horizon` None means `steps`; a larger one stops early.
    batch: examples per step. clip: largest gradient norm, or None.
    checkpoints: steps after which the weights are kept; `steps` itself is always kept.
    precision: "fp32"; "bf16" for matrix products in bfloat16 (weights, optimiser, LayerNorm, softmax
        and loss stay fp32): 1.6 times as fast on a CPU that has it, and not the same run; or "tf32" for
        products of numbers rounded to 10 bits on a GPU (a CPU has no such thing and computes in fp32).
    start: weights that come from a donor or a rule, at the beginning or again and again; None means fresh ones.
    exits: weight of the mean loss of the earlier layers, each read by the final LayerNorm and unembedding as the
        last one is (deep supervision, early exits): whatever can be had early is had early. 0 means the last alone.
        A task with a method `aims(tokens, layers)` says what the earlier layers are to name (Int[layers, n, answer]);
        without one it is the answer.
    grokfast: (alpha, lambda) of GrokFast-EMA (Lee et al., arXiv 2405.20233): the gradient plus lambda times its
        running mean, which keeps alpha of itself at each step and starts as the first gradient; before clipping. The
        running mean is one more number per weight. None: the gradient as it is.
    data: added to the seed of the data, so that a run which goes on from another one's weights, with the same
        seed, sees examples of its own.
    """

    name: str
    task: Task
    config: TransformerConfig
    optimiser: Literal["adam", "adamw"] = "adamw"
    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.0
    batch: int = 256
    steps: int = 1000
    warmup: int = 0
    decay: Literal["linear", "cosine", "constant"] = "linear"
    decay_from: float = 0.0
    final_lr: float = 0.01
    horizon: int | None = None
    clip: float | None = None
    seeds: tuple[int, ...] = (0,)
    checkpoints: tuple[int, ...] = field(default=())
    precision: Literal["fp32", "tf32", "bf16"] = "fp32"
    start: Start | None = None
    exits: float = 0.0
    grokfast: tuple[float, float] | None = None
    data: int = 0
    description: str = ""

    def __post_init__(self) -> None:
        every = self.start.every if self.start is not None else None
        checks = [
            ("optimiser", self.optimiser in ("adam", "adamw"), "'adam' or 'adamw'"),
            ("decay", self.decay in ("linear", "cosine", "constant"), "'linear', 'cosine' or 'constant'"),
            ("precision", self.precision in ("fp32", "tf32", "bf16"), "'fp32', 'tf32' or 'bf16'"),
            ("lr", self.lr > 0, "positive"),
            ("weight_decay", self.weight_decay >= 0, "0 or positive"),
            ("batch", self.batch >= 1, "at least 1"),
            ("steps", self.steps >= 1, "at least 1"),
            ("decay_from", 0 <= self.decay_from < 1, "in [0, 1)"),
            ("exits", self.exits >= 0, "0 or positive"),
            ("data", 0 <= self.data < 2**31, "in [0, 2^31)"),
            (
                "grokfast",
                self.grokfast is None or (0 <= self.grokfast[0] < 1 and self.grokfast[1] > 0),
                "None or (alpha in [0, 1), lambda > 0)",
            ),
            ("clip", self.clip is None or self.clip > 0, "positive or None"),
            ("start.every", every is None or every >= 1, "at least 1 or None"),
            ("horizon", self.horizon is None or self.horizon >= self.steps, f"at least steps = {self.steps}"),
        ]
        for name, ok, wanted in checks:
            if not ok:
                raise ValueError(f"{name} must be {wanted}, not {operator.attrgetter(name)(self)!r}")
        layout = getattr(self.task, "layout", None)
        n_ctx = self.task.n_ctx if layout is None else int(layout.positions.max()) + 1
        if n_ctx > self.config.n_ctx or len(self.task.vocab) > self.config.d_vocab:
            raise ValueError(
                f"the task needs n_ctx >= {n_ctx} and d_vocab >= {len(self.task.vocab)}, "
                f"the config has {self.config.n_ctx} and {self.config.d_vocab}"
            )

    @property
    def kept(self) -> tuple[int, ...]:
        """The steps whose weights a run keeps, in order."""
        return tuple(sorted({s for s in self.checkpoints if s <= self.steps} | {self.steps}))

    def lr_at(self, step: int) -> float:
        """Learning rate of the update that follows `step` finished ones."""
        horizon = self.horizon or self.steps
        if step < self.warmup:
            return self.lr * (step + 1) / self.warmup
        start = max(self.warmup, round(self.decay_from * horizon))
        if self.decay == "constant" or step < start:
            return self.lr
        part = min((step - start) / max(horizon - start, 1), 1.0)
        shape = 1 - part if self.decay == "linear" else 0.5 * (1 + math.cos(math.pi * part))
        return self.lr * (self.final_lr + (1 - self.final_lr) * shape)

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON, with the task as its class and fields."""
        out = {k: v for k, v in vars(self).items() if k not in ("task", "config", "description")}
        if self.precision == "fp32":  # the digests of models published before the choice existed stay
            del out["precision"]
        for name in ("exits", "data", "grokfast"):  # likewise
            if not out[name]:
                del out[name]
        if self.start is None:
            del out["start"]
        else:
            out["start"] = self.start.to_dict()
        return out | {"task": describe(self.task), "config": self.config.to_dict()}

    @property
    def digest(self) -> str:
        """Sixteen hex digits that change whenever a result of this recipe could."""
        what = {k: v for k, v in self.to_dict().items() if k not in ("name", "seeds", "checkpoints")}
        return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:16]


def describe(task: Task) -> dict[str, Any]:
    """A task as plain JSON: {"task": "module.Class", field: value, ...}.

    A field with the metadata {"described": "if set"} is left out at its default: so a task can get a new
    knob without a new digest for the models that were trained before it.
    """
    described: dict[str, Any] = {"task": f"{type(task).__module__}.{type(task).__qualname__}"}
    if is_dataclass(task) and not isinstance(task, type):
        late = {f.name: f.default for f in fields(task) if f.metadata.get("described") == "if set"}
        described |= {k: v for k, v in asdict(task).items() if k not in late or v != late[k]}
    return described
