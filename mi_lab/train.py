"""Training: a frozen `Recipe` and the only training loop, `fit`.

`fit(recipe, seeds=..., out=DIR)` trains every seed, shows a progress bar with loss, accuracy and
remaining time, keeps log-spaced checkpoints, and can be killed at any moment: called again with
the same recipe and folder it goes on from its last state and ends at the same weights, bit for
bit on the same device. A seed whose loss stops being finite is reported by name and left where it
was; the others go on.

The loop, in five numbered steps that the code repeats:

1. draw data: a pool of batches per seed, on the device, from that seed's own generator;
2. forward and backward on all models of the group at once (`mi_lab.stack`);
3. clip each model's gradient by its own norm;
4. one fused optimiser step on the one buffer that holds all weights;
5. note loss and accuracy, keep a checkpoint or the state when one is due.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import math
import operator
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from mi_lab.checkpoint import device_name, load_tensors, save_tensors, versions
from mi_lab.model import Transformer, TransformerConfig
from mi_lab.stack import Stack, backward, fast_matmul, forward, stacking_pays
from mi_lab.studies.base import Task, targets

# A seed's data generator starts at DATA_SEED + seed, its weights at seed. torch's CPU generator drops the
# high bits, so on a CPU both start alike (normal and uniform draws from one stream: no effect was found).
# Kept as it is because the published checkpoints were trained so, and are to come out again.
DATA_SEED = 0x5EED << 32
POOL = 32  # batches drawn at a time
STATE_SECONDS = 30.0  # how often the resumable state is written


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

    def model(self, seed: int, out: Path | str | None = None) -> Transformer:
        """The donor for one seed; `out` is the folder in which `fit` keeps its runs."""
        ...

    def apply(self, model: Transformer, donor: Transformer, *, step: int) -> None:
        """Overwrite what comes from the donor at this step, in place."""
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
    precision: "fp32", or "bf16" for matrix products in bfloat16 (weights, optimiser, LayerNorm, softmax
        and loss stay fp32): 1.6 times as fast on a CPU that has it, and not the same run.
    start: weights that come from a donor, at the beginning or again and again; None means fresh ones.
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
    precision: Literal["fp32", "bf16"] = "fp32"
    start: Start | None = None
    description: str = ""

    def __post_init__(self) -> None:
        every = self.start.every if self.start is not None else None
        checks = [
            ("optimiser", self.optimiser in ("adam", "adamw"), "'adam' or 'adamw'"),
            ("decay", self.decay in ("linear", "cosine", "constant"), "'linear', 'cosine' or 'constant'"),
            ("precision", self.precision in ("fp32", "bf16"), "'fp32' or 'bf16'"),
            ("lr", self.lr > 0, "positive"),
            ("weight_decay", self.weight_decay >= 0, "0 or positive"),
            ("batch", self.batch >= 1, "at least 1"),
            ("steps", self.steps >= 1, "at least 1"),
            ("decay_from", 0 <= self.decay_from < 1, "in [0, 1)"),
            ("clip", self.clip is None or self.clip > 0, "positive or None"),
            ("start.every", every is None or every >= 1, "at least 1 or None"),
            ("horizon", self.horizon is None or self.horizon >= self.steps, f"at least steps = {self.steps}"),
        ]
        for name, ok, wanted in checks:
            if not ok:
                raise ValueError(f"{name} must be {wanted}, not {operator.attrgetter(name)(self)!r}")
        if self.task.n_ctx > self.config.n_ctx or len(self.task.vocab) > self.config.d_vocab:
            raise ValueError(
                f"the task needs n_ctx >= {self.task.n_ctx} and d_vocab >= {len(self.task.vocab)}, "
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
        if self.start is None:  # likewise
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


class History(NamedTuple):
    """What a run of `fit` left.

    logged: steps [n] with loss and accuracy [seed, n] (nats per answer token; fraction of answer
    tokens, both on the training batch of that step). checkpoints: step -> Stack over seeds.
    diverged: seed -> step at which its loss stopped being finite. seconds: of training, all seeds.
    """

    recipe: Recipe
    seeds: tuple[int, ...]
    logged: Tensor
    loss: Tensor
    accuracy: Tensor
    checkpoints: dict[int, Stack]
    diverged: dict[int, int]
    seconds: float
    device: str

    @property
    def stack(self) -> Stack:
        """The trained models, one per seed."""
        return self.checkpoints[max(self.checkpoints)]

    def model(self, seed: int | None = None, step: int | None = None) -> Transformer:
        """The model of one seed at one kept step (defaults: first seed, last step)."""
        seed = self.seeds[0] if seed is None else seed
        step = max(self.checkpoints) if step is None else step
        if seed not in self.seeds:
            raise ValueError(f"this run has seeds {list(self.seeds)}, not {seed!r}")
        if step not in self.checkpoints:
            raise ValueError(f"this run kept steps {sorted(self.checkpoints)}, not {step!r}")
        return self.checkpoints[step].model(self.seeds.index(seed))

    def provenance(self) -> dict[str, Any]:
        """For `checkpoint.save`: what made these weights."""
        return {
            "recipe": self.recipe.to_dict(),
            "digest": self.recipe.digest,
            "task": describe(self.recipe.task),
            "device": self.device,
            "seconds": round(self.seconds, 1),
            "versions": versions(),
            "diverged": {str(k): v for k, v in self.diverged.items()},
        }


def pick_device(device: torch.device | str = "auto") -> torch.device:
    """ "auto" is the GPU if there is one. Raises ValueError if a GPU is asked for where there is none."""
    if str(device) == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise ValueError(f"device must be 'auto', 'cpu' or 'cuda', not {device!r}") from error
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(
            f"device {str(device)!r} was asked for, but torch sees no GPU here; use 'auto' or 'cpu'"
        )
    return chosen


def group_size(recipe: Recipe, seeds: int, device: torch.device) -> int:
    """How many seeds train as one stack: all on a GPU; on a CPU only when a step is mostly launches."""
    return seeds if stacking_pays(recipe.config, recipe.batch * recipe.task.n_ctx, device) else 1


def fit(
    recipe: Recipe,
    *,
    seeds: Sequence[int] | None = None,
    device: torch.device | str = "auto",
    out: Path | str | None = None,
    progress: bool = True,
    callback: Callable[[int, Stack], None] | None = None,
) -> History:
    """Train every seed of a recipe.

    seeds: defaults to the recipe's. out: folder for the resumable state and the checkpoints; None
    keeps everything in memory. callback(step, stack): called at every checkpoint of each group.
    Raises ValueError for an unknown device, CheckpointError if `out` can't be written or belongs to
    another recipe, FolderInUse (a RuntimeError) if another run is using it.
    """
    chosen = pick_device(device)
    seeds = tuple(recipe.seeds if seeds is None else seeds)
    if not seeds or len(set(seeds)) != len(seeds):
        raise ValueError(f"seeds must be different whole numbers, at least one, not {list(seeds)}")
    size = group_size(recipe, len(seeds), chosen)
    groups = [seeds[i : i + size] for i in range(0, len(seeds), size)]
    bar = tqdm(total=recipe.steps * len(groups), disable=not progress, unit="step", dynamic_ncols=True)
    histories = []
    with bar, fast_matmul(chosen), warnings.catch_warnings():
        # a view into the stack's buffer has the strides it has; gradients are added in place all the same
        warnings.filterwarnings("ignore", message="grad and param do not obey the gradient layout")
        for group in groups:
            name = "-".join(map(str, group)) if len(group) < 4 else f"{group[0]}-to-{group[-1]}"
            folder = None if out is None else Path(out) / recipe.name / f"seed-{name}"
            with held(folder):
                histories.append(_Group(recipe, group, chosen, folder).run(bar, callback))
    return merge(histories)


def merge(histories: Sequence[History]) -> History:
    """One History over the seeds of several."""
    first = histories[0]
    checkpoints = {
        step: Stack(first.recipe.config, torch.cat([h.checkpoints[step].flat for h in histories]))
        for step in first.checkpoints
    }
    return first._replace(
        seeds=tuple(seed for h in histories for seed in h.seeds),
        loss=torch.cat([h.loss for h in histories]),
        accuracy=torch.cat([h.accuracy for h in histories]),
        checkpoints=checkpoints,
        diverged={k: v for h in histories for k, v in h.diverged.items()},
        seconds=sum(h.seconds for h in histories),
    )


class FolderInUse(RuntimeError):
    """Another process is training in this folder."""


@contextlib.contextmanager
def held(folder: Path | None) -> Iterator[None]:
    """Hold a run's folder for this process; raises FolderInUse if another process has it."""
    if folder is None:
        yield
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = open(folder / ".lock", "w")  # noqa: SIM115 -- closed below, after the run
    except OSError as error:
        raise ValueError(f"the output folder {folder} can't be written: {error.strerror}") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise FolderInUse(
                f"{folder} is in use by another run; wait for it or choose another out="
            ) from error
        except OSError as error:
            raise ValueError(f"the output folder {folder} can't be locked: {error.strerror}") from error
        yield


class _Group:
    """The seeds that train as one stack, and their resumable state."""

    def __init__(
        self, recipe: Recipe, seeds: tuple[int, ...], device: torch.device, folder: Path | None
    ) -> None:
        self.recipe, self.seeds, self.device, self.folder = recipe, seeds, device, folder
        self.stack = Stack.init(recipe.config, seeds, device)
        self.single = len(seeds) == 1  # plain matrix products instead of batched ones
        self.grad = torch.zeros_like(self.stack.flat)
        self.leaves = self.stack.leaves(self.grad)
        parameter = torch.nn.Parameter(self.stack.flat)
        parameter.grad = self.grad
        kind = torch.optim.Adam if recipe.optimiser == "adam" else torch.optim.AdamW
        self.optimiser = kind(
            [parameter], lr=recipe.lr, betas=recipe.betas, weight_decay=recipe.weight_decay, fused=True
        )
        self.generators = [torch.Generator(device).manual_seed(DATA_SEED + seed) for seed in seeds]
        self.donors: list[Transformer] = []
        self.step = 0
        self.diverged: dict[int, int] = {}
        self.log: list[tuple[int, list[float], list[float]]] = []
        self.seconds = 0.0

    def run(self, bar: tqdm, callback: Callable[[int, Stack], None] | None) -> History:
        recipe = self.recipe
        keep = set(recipe.kept)
        kept: dict[int, Stack] = {}
        if self.folder is not None and (self.folder / "state.safetensors").exists():
            self._load_state()  # with whatever came from the donors up to then
            kept = {s: self._load_checkpoint(s) for s in keep if s <= self.step}
        else:
            self._from_donors()
        base = bar.n
        bar.update(self.step)
        log_every = max(1, recipe.steps // 500)
        begun = saved = shown = time.monotonic()
        if self.step == 0 and 0 in keep:
            kept[0] = self._keep(0, callback)
        while self.step < recipe.steps and len(self.diverged) < len(self.seeds):
            if self.step % POOL == 0 or not hasattr(self, "pool"):
                self._draw()  # 1
            tokens = self.pool[:, self.step % POOL]
            loss, logits = self._backward(tokens)  # 2
            if recipe.clip is not None:
                norm = self.grad.norm(dim=1, keepdim=True)
                self.grad.mul_((recipe.clip / norm).clamp(max=1.0))  # 3
            self.optimiser.param_groups[0]["lr"] = recipe.lr_at(self.step)
            self.optimiser.step()  # 4
            self.step += 1
            self._from_donors()
            if self.step % log_every == 0 or self.step == recipe.steps:  # 5
                self._note(loss, logits, tokens)
            now = time.monotonic()
            if now - shown > 0.5 or self.step == recipe.steps:
                self.seconds, begun = self.seconds + now - begun, now
                bar.update(base + self.step - bar.n)
                shown = now
                if self.log:
                    bar.set_postfix_str(self._summary(), refresh=False)
            if self.step in keep:
                kept[self.step] = self._keep(self.step, callback)
            if self.folder is not None and (now - saved > STATE_SECONDS or self.step == recipe.steps):
                self._save_state()
                saved = now
        for step in keep - kept.keys():  # every seed of the group diverged: what is left stands for the rest
            kept[step] = Stack(recipe.config, self.stack.flat.detach().clone())
        nan = [math.nan] * len(self.seeds)
        self.log += [
            (s, nan, nan)
            for s in range(self.step + 1, recipe.steps + 1)
            if s % log_every == 0 or s == recipe.steps
        ]
        columns = list(zip(*self.log, strict=True)) or [(), (), ()]
        return History(
            recipe,
            self.seeds,
            torch.tensor(columns[0], dtype=torch.long),
            torch.tensor(columns[1]).T,
            torch.tensor(columns[2]).T,
            dict(sorted(kept.items())),
            self.diverged,
            self.seconds,
            device_name(self.device),
        )

    def _from_donors(self) -> None:
        """Overwrite what comes from the donors, if something is due now; the optimiser's state stays.

        The donors are fetched when first needed: a run that is only read back needs none.
        """
        start = self.recipe.start
        if start is None or (self.step and (start.every is None or self.step % start.every)):
            return
        if not self.donors:
            runs = None if self.folder is None else self.folder.parents[1]
            self.donors = [start.model(seed, runs).to(self.device) for seed in self.seeds]
        for i, donor in enumerate(self.donors):
            model = self.stack.model(i)
            with torch.no_grad():
                start.apply(model, donor, step=self.step)
            self.stack.copy_in(i, dict(model.state_dict()))

    def _draw(self) -> None:
        """The next POOL batches of every seed: Int[model, pool, batch, n_ctx]."""
        self.drawn_from = [g.get_state() for g in self.generators]
        task, batch = self.recipe.task, self.recipe.batch
        self.pool = torch.stack(
            [
                task.sample(POOL * batch, generator=g, device=self.device).view(POOL, batch, task.n_ctx)
                for g in self.generators
            ]
        )

    def _backward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Loss[model] and logits; gradients go to `self.grad`."""
        task = self.recipe.task
        inputs = tokens[0] if self.single else tokens
        low = self.recipe.precision == "bf16"
        with torch.autocast(self.device.type, torch.bfloat16, enabled=low):
            logits = forward(self.leaves, self.recipe.config, inputs, task.answer)
        right = tokens[..., task.answer.start + 1 : task.answer.stop + 1]
        logits = logits.float()
        loss = F.cross_entropy(logits.reshape(-1, logits.shape[-1]), right.reshape(-1), reduction="none")
        loss = loss.view(right.shape)
        weights = task.weights(tokens.flatten(0, 1))
        if weights is None:
            loss = loss.mean((1, 2))
        else:
            weights = weights.view(right.shape).to(loss)
            loss = (loss * weights).sum((1, 2)) / weights.sum((1, 2))
        backward(loss.sum(), self.leaves)  # models share no weights, so the sum gives each its own gradient
        return loss.detach(), logits.detach()

    @torch.no_grad()
    def _note(self, loss: Tensor, logits: Tensor, tokens: Tensor) -> None:
        task = self.recipe.task
        flat = tokens.flatten(0, 1)
        right = (
            logits.reshape(*flat.shape[:1], -1, logits.shape[-1]).argmax(-1) == targets(task, flat)
        ).float()
        weights = task.weights(flat)
        weights = torch.ones_like(right) if weights is None else (weights > 0).to(right)
        right, weights = (x.view(len(self.seeds), -1).sum(1) for x in (right * weights, weights))
        self.log.append((self.step, loss.tolist(), (right / weights).tolist()))
        for seed, value in zip(self.seeds, loss.tolist(), strict=True):
            if not math.isfinite(value) and seed not in self.diverged:
                self.diverged[seed] = self.step
                warnings.warn(f"{self.recipe.name}: seed {seed} diverged at step {self.step}", stacklevel=2)

    def _summary(self) -> str:
        _, loss, accuracy = self.log[-1]
        fine = [i for i, x in enumerate(loss) if math.isfinite(x)] or [0]
        mean = [sum(x[i] for i in fine) / len(fine) for x in (loss, accuracy)]
        which = f"seed {self.seeds[0]}" if self.single else f"{len(self.seeds)} seeds"
        lost = f", diverged: {sorted(self.diverged)}" if self.diverged else ""
        return f"{which}, loss {mean[0]:.4f}, accuracy {mean[1]:.4f}{lost}"

    def _keep(self, step: int, callback: Callable[[int, Stack], None] | None) -> Stack:
        stack = Stack(self.recipe.config, self.stack.flat.detach().clone())
        if self.folder is not None:
            path = self.folder / f"step-{step:07d}.safetensors"
            save_tensors(path, {"flat": stack.flat}, {"digest": self.recipe.digest, "step": step})
        if callback is not None:
            callback(step, stack)
        return stack

    def _load_checkpoint(self, step: int) -> Stack:
        assert self.folder is not None
        tensors, _ = load_tensors(self.folder / f"step-{step:07d}.safetensors")
        return Stack(self.recipe.config, tensors["flat"].to(self.device))

    def _save_state(self) -> None:
        assert self.folder is not None
        state = self.optimiser.state[self.optimiser.param_groups[0]["params"][0]]
        tensors = {"flat": self.stack.flat, "exp_avg": state["exp_avg"], "exp_avg_sq": state["exp_avg_sq"]}
        between_pools = self.step % POOL == 0
        states = [g.get_state() for g in self.generators] if between_pools else self.drawn_from
        tensors |= {f"generator.{i}": state for i, state in enumerate(states)}
        meta = {
            "digest": self.recipe.digest,
            "recipe": self.recipe.to_dict(),
            "seeds": self.seeds,
            "step": self.step,
            "log": self.log,
            "diverged": list(self.diverged.items()),
            "seconds": self.seconds,
            "device": device_name(self.device),
            "versions": versions(),
        }
        save_tensors(self.folder / "state.safetensors", tensors, meta)

    def _load_state(self) -> None:
        assert self.folder is not None
        tensors, meta = load_tensors(self.folder / "state.safetensors")
        if meta["digest"] != self.recipe.digest or tuple(meta["seeds"]) != self.seeds:
            raise ValueError(
                f"{self.folder} holds a run of another recipe (digest {meta['digest']}, this one is "
                f"{self.recipe.digest}); choose another out= or remove the folder"
            )
        self.stack.flat.copy_(tensors["flat"])
        parameter = self.optimiser.param_groups[0]["params"][0]
        self.optimiser.state[parameter] = {
            "step": torch.tensor(float(meta["step"]), device=self.device),
            "exp_avg": tensors["exp_avg"].to(self.device),
            "exp_avg_sq": tensors["exp_avg_sq"].to(self.device),
        }
        self.step, self.seconds = meta["step"], meta["seconds"]
        self.log = [tuple(entry) for entry in meta["log"]]
        self.diverged = {int(k): v for k, v in meta["diverged"]}
        for i, generator in enumerate(self.generators):
            generator.set_state(tensors[f"generator.{i}"])
