"""Training: the only training loop, `fit`, of a frozen `Recipe`.

`fit(recipe, seeds=..., out=DIR)` trains every seed, shows a progress bar with loss, accuracy and
remaining time, keeps log-spaced checkpoints, and can be killed at any moment: called again with
the same recipe and folder it goes on from its last state and ends at the same weights, bit for
bit on the same device. Which library computes the products on a CPU (`mi_lab.fast`) is part of "the
same device": it is noted in the state, and a run that goes on keeps it. A seed whose loss stops being
finite is reported by name and left where it was; the others go on.

What a step does, and in which order, is `mi_lab.step`; how steps are run, one by one or many as one
CUDA graph, is `mi_lab.capture`. Here is what surrounds them: seeds in groups, the log, checkpoints, the
resumable state. No GPU has run this yet.
"""

from __future__ import annotations

import contextlib
import fcntl
import math
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from mi_lab.capture import Captured, OneByOne
from mi_lab.checkpoint import device_name, load_tensors, save_tensors, versions
from mi_lab.fast import fast_matmul
from mi_lab.model import Transformer
from mi_lab.recipe import Recipe as Recipe
from mi_lab.recipe import Start as Start
from mi_lab.recipe import describe as describe
from mi_lab.recipe import log_steps as log_steps
from mi_lab.stack import Stack, onednn_pays, stacking_pays
from mi_lab.step import LOG, Step
from mi_lab.step import POOL as POOL

# A seed's data generator starts at DATA_SEED + seed, its weights at seed. torch's CPU generator drops the
# high bits, so on a CPU both start alike (normal and uniform draws from one stream: no effect was found).
# Kept as it is because the published checkpoints were trained so, and are to come out again.
DATA_SEED = 0x5EED << 32
STATE = "state.safetensors"
STATE_SECONDS = 30.0  # how often the resumable state is written
SHOW_SECONDS = 0.5  # how often the progress bar is drawn


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


def runner(step: Step, log_every: int, device: torch.device) -> OneByOne:
    """What runs the steps: one by one on a CPU, as CUDA graphs on a GPU."""
    return OneByOne(step, log_every) if device.type == "cpu" else Captured(step, log_every)


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
    with bar, warnings.catch_warnings():
        # a view into the stack's buffer has the strides it has; gradients are added in place all the same
        warnings.filterwarnings("ignore", message="grad and param do not obey the gradient layout")
        for group in groups:
            name = "-".join(map(str, group)) if len(group) < 4 else f"{group[0]}-to-{group[-1]}"
            folder = None if out is None else Path(out) / recipe.name / f"seed-{name}"
            with held(folder), _arithmetic(recipe, size, chosen, folder) as onednn:
                histories.append(_Group(recipe, group, chosen, folder, onednn).run(bar, callback))
    return merge(histories)


def _arithmetic(
    recipe: Recipe, models: int, device: torch.device, folder: Path | None
) -> contextlib.AbstractContextManager[bool]:
    """The arithmetic of one group: the fastest that is accurate, or what the run in this folder began with."""
    config, tokens, tf32 = recipe.config, recipe.batch * recipe.task.n_ctx, recipe.precision == "tf32"
    path = None if folder is None else folder / STATE
    begun = load_tensors(path)[1].get("onednn") if path is not None and path.exists() else None
    if begun is not None:
        return fast_matmul(device, onednn=begun, tf32=tf32, size=None)
    size = (tokens, config.d_model, max(config.d_mlp, config.n_heads * config.d_head))
    return fast_matmul(device, onednn=onednn_pays(config, tokens, models), tf32=tf32, size=size)


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
        self,
        recipe: Recipe,
        seeds: tuple[int, ...],
        device: torch.device,
        folder: Path | None,
        onednn: bool = False,
    ) -> None:
        self.recipe, self.seeds, self.device, self.folder = recipe, seeds, device, folder
        self.onednn = onednn
        self.stack = Stack.init(recipe.config, seeds, device)
        generators = [torch.Generator(device).manual_seed(DATA_SEED + recipe.data + seed) for seed in seeds]
        self.one_step = Step(recipe, self.stack, generators)
        self.log_every = max(1, recipe.steps // 500)
        self.runner = runner(self.one_step, self.log_every, device)
        self.donors: list[Transformer | None] = []
        self.step = self.read = 0  # finished steps, and those whose numbers have been read
        self.diverged: dict[int, int] = {}
        self.log: list[tuple[int, list[float], list[float]]] = []
        self.seconds = 0.0

    def run(self, bar: tqdm, callback: Callable[[int, Stack], None] | None) -> History:
        recipe = self.recipe
        keep = set(recipe.kept)
        kept: dict[int, Stack] = {}
        if self.folder is not None and (self.folder / STATE).exists():
            self._load_state()  # with whatever came from the donors up to then
            kept = {s: self._load_checkpoint(s) for s in keep if s <= self.step}
        else:
            self._from_donors()
        base = bar.n
        bar.update(self.step)
        begun = saved = shown = time.monotonic()
        if self.step == 0 and 0 in keep:
            kept[0] = self._keep(0, callback)
        while self.step < recipe.steps and len(self.diverged) < len(self.seeds):
            self.step += self.runner.advance(self.step, self._free_steps(keep))
            self._from_donors()
            now = time.monotonic()
            over = self.step == recipe.steps
            show = now - shown > SHOW_SECONDS or over
            save = self.folder is not None and (now - saved > STATE_SECONDS or over)
            # reading waits for the device: on a GPU only when something is due
            if (
                not self.runner.waits
                or show
                or save
                or self.step in keep
                or self.step - self.read > LOG - POOL
            ):
                self._note()
            if show:
                self.seconds, begun = self.seconds + now - begun, now
                bar.update(base + self.step - bar.n)
                shown = now
                if self.log:
                    bar.set_postfix_str(self._summary(), refresh=False)
            if self.step in keep:
                kept[self.step] = self._keep(self.step, callback)
            if save:
                self._save_state()
                saved = now
        for step in keep - kept.keys():  # every seed of the group diverged: what is left stands for the rest
            kept[step] = Stack(recipe.config, self.stack.flat.detach().clone())
        nan = [math.nan] * len(self.seeds)
        self.log += [(s, nan, nan) for s in range(self.step + 1, recipe.steps + 1) if self.runner.wanted(s)]
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

    def _free_steps(self, keep: set[int]) -> int:
        """How many steps may run before something has to be done in between."""
        due = min(step for step in keep if step > self.step)
        every = self.recipe.start.every if self.recipe.start is not None else None
        return min(due - self.step, every - self.step % every) if every else due - self.step

    def _from_donors(self) -> None:
        """Overwrite what comes from the donors, if something is due now; the optimiser's state stays.

        The donors are fetched when first needed: a run that is only read back needs none.
        """
        start = self.recipe.start
        if start is None or (self.step and (start.every is None or self.step % start.every)):
            return
        if not self.donors:
            runs = None if self.folder is None else self.folder.parents[1]
            found = [start.model(seed, runs) for seed in self.seeds]
            self.donors = [None if donor is None else donor.to(self.device) for donor in found]
        for i, donor in enumerate(self.donors):
            model = self.stack.model(i)
            with torch.no_grad():
                start.apply(model, donor, step=self.step)
            self.stack.copy_in(i, dict(model.state_dict()))

    def _note(self) -> None:
        """Read the numbers of the steps since the last time, those that are wanted."""
        steps = [s for s in range(self.read + 1, self.step + 1) if self.runner.wanted(s)]
        self.read = self.step
        if not steps:
            return
        for step, loss, accuracy in zip(steps, *self.one_step.noted(steps), strict=True):
            self.log.append((step, loss, accuracy))
            for seed, value in zip(self.seeds, loss, strict=True):
                if not math.isfinite(value) and seed not in self.diverged:
                    self.diverged[seed] = step
                    warnings.warn(f"{self.recipe.name}: seed {seed} diverged at step {step}", stacklevel=2)

    def _summary(self) -> str:
        _, loss, accuracy = self.log[-1]
        fine = [i for i, x in enumerate(loss) if math.isfinite(x)] or [0]
        mean = [sum(x[i] for i in fine) / len(fine) for x in (loss, accuracy)]
        which = f"seed {self.seeds[0]}" if len(self.seeds) == 1 else f"{len(self.seeds)} seeds"
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
        tensors = {"flat": self.stack.flat, **self.one_step.moments()}
        states = self.runner.states_at(self.step)
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
            "onednn": self.onednn,
            "versions": versions(),
        }
        save_tensors(self.folder / STATE, tensors, meta)

    def _load_state(self) -> None:
        assert self.folder is not None
        tensors, meta = load_tensors(self.folder / STATE)
        if meta["digest"] != self.recipe.digest or tuple(meta["seeds"]) != self.seeds:
            raise ValueError(
                f"{self.folder} holds a run of another recipe (digest {meta['digest']}, this one is "
                f"{self.recipe.digest}); choose another out= or remove the folder"
            )
        self.stack.flat.copy_(tensors["flat"])
        self.step = self.read = meta["step"]
        self.one_step.set(self.step, tensors["exp_avg"], tensors["exp_avg_sq"], tensors.get("slow"))
        self.seconds = meta["seconds"]
        self.log = [tuple(entry) for entry in meta["log"]]
        self.diverged = {int(k): v for k, v in meta["diverged"]}
        for i, generator in enumerate(self.one_step.generators):
            generator.set_state(tensors[f"generator.{i}"])
