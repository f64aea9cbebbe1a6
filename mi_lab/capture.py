"""How training steps are run: one by one, or many as one CUDA graph.

What a GPU waits for with models this small is Python: a step is some hundreds of kernels of a few
microseconds. A CUDA graph is recorded once and then launched as a whole: data, forward and backward
pass, optimiser and log of `POOL` steps, with nothing read back to the host in between.

**No GPU has run this file yet.** Everything but the recording itself is what runs on a CPU, and is
tested there; the recording is tested with a stand-in that keeps the operations of one call and repeats
them without Python, as a graph does (tests/test_capture.py).

1. The first steps run one by one (`OneByOne`): they warm up the libraries and make the optimiser's
   buffers. They are steps of the training like any other.
2. At the start of the next pool `Captured` records two graphs: one step, and a whole pool (draw the data,
   POOL steps). A sampler that talks to the host (`talks_to_host`) is left outside and called before.
3. From then on whole pools are launched wherever nothing is due within, single steps elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from mi_lab.forward import causal_mask
from mi_lab.step import POOL, Step

WARM_UP = 3  # steps that run one by one before anything is recorded
# Operations whose result's shape or value goes through the host: a graph can't hold them.
HOST = (
    "_local_scalar_dense", "nonzero", "masked_select", "unique", "unique_dim", "unique_consecutive", "_unique",
    "_unique2", "is_nonzero", "equal", "item", "bincount", "multinomial", "lift_fresh", "repeat_interleave",
)  # fmt: skip

Recorder = Callable[[Callable[[], None], list[torch.Generator]], Callable[[], None]]
"""Record one call of a function that draws from these generators; gives what replays it."""


class OneByOne:
    """Each step by itself, from Python."""

    waits = False  # is reading a number from the device to be avoided?

    def __init__(self, step: Step, log_every: int) -> None:
        self.step, self.log_every = step, log_every
        self.drawn_from: list[Tensor] = []  # states of the generators before the pool in use was drawn

    def advance(self, at: int, limit: int) -> int:
        """Do some steps, at most `limit`, after `at` finished ones; returns how many."""
        if at % POOL == 0 or not self.drawn_from:
            self.draw()
        self.step(note=self.wanted(at + 1))
        return 1

    def wanted(self, step: int) -> bool:
        """Do loss and accuracy of this step go into the log?"""
        return step % self.log_every == 0 or step == self.step.recipe.steps

    def draw(self) -> None:
        """The next pool; where it came from is remembered, for the resumable state."""
        self.drawn_from = self.states()
        self.step.draw()

    def states(self) -> list[Tensor]:
        """The generators' states as they are."""
        return [generator.get_state() for generator in self.step.generators]

    def states_at(self, at: int) -> list[Tensor]:
        """The states from which a run that goes on after `at` steps must draw."""
        return self.states() if at % POOL == 0 else self.drawn_from


class Captured(OneByOne):
    """Whole pools as one graph, once a few steps have run one by one. No GPU has run it yet."""

    waits = True

    def __init__(self, step: Step, log_every: int, record: Recorder | None = None) -> None:
        super().__init__(step, log_every)
        self.record = record or cuda_graph
        self.warm = 0
        self.masks: list[Tensor] = []
        self.one: Callable[[], None] | None = None
        self.pool: Callable[[], None] | None = None
        self.draws_inside = False

    def advance(self, at: int, limit: int) -> int:
        """A pool if that is not too much, else a step; see `OneByOne`."""
        start = at % POOL == 0
        worth_it = start and self.warm >= WARM_UP and self.step.recipe.steps - at >= POOL
        if self.pool is None and worth_it:
            self._capture()
        if self.one is None or self.pool is None:
            self.warm += 1
            return super().advance(at, limit)
        if start and limit >= POOL:
            if self.draws_inside:
                self.drawn_from = self.states()
            else:
                self.draw()
            self.pool()
            return POOL
        if start:
            self.draw()
        self.one()
        return 1

    def _capture(self) -> None:
        before = self.states()
        self.draws_inside = talks_to_host(self.step.draw) is None
        for generator, state in zip(self.step.generators, before, strict=True):
            generator.set_state(state)
        # the graphs read the attention masks where they are: the cache must not drop them
        self.masks = _masks(self.step)
        self.one = self.record(self.step, [])
        generators = self.step.generators if self.draws_inside else []
        self.pool = self.record(self._whole_pool, generators)

    def _whole_pool(self) -> None:
        if self.draws_inside:
            self.step.draw()
        for _ in range(POOL):
            self.step()


def _masks(step: Step) -> list[Tensor]:
    """The cached attention masks of this step's forward pass."""
    recipe, answer = step.recipe, step.recipe.task.answer
    kind = torch.bfloat16 if recipe.precision == "bf16" else torch.float32
    device = step.stack.device
    return [causal_mask(answer.stop - f, answer.stop, f, device, kind) for f in (0, answer.start)]


def cuda_graph(function: Callable[[], None], generators: list[torch.Generator]) -> Callable[[], None]:
    """Record one call as a CUDA graph. No GPU has run it yet."""
    graph: Any = torch.cuda.CUDAGraph()
    for generator in generators:
        graph.register_generator_state(generator)
    with torch.cuda.graph(graph):
        function()
    return graph.replay


def talks_to_host(function: Callable[[], Any]) -> str | None:
    """The first operation of one call for which the device has to wait for the host, or None.

    Values read by Python (`.item()`, an `if` on a tensor), shapes that depend on values (a Boolean index,
    `unique`), tensors made from Python numbers, copies between devices.
    """
    with _Listening() as listening:
        function()
    return listening.heard


class _Listening(TorchDispatchMode):
    heard: str | None = None

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        name = func._schema.name.split("::")[1]
        if self.heard is None and (_by_value(name, out) or _masked(name, args) or _crosses(name, args, out)):
            self.heard = name
        return out


def _by_value(name: str, out: Any) -> bool:
    """An operation of HOST; a single number from Python travels with the kernel that uses it."""
    return name in HOST and not (name == "lift_fresh" and out.ndim == 0)


def _masked(name: str, args: Any) -> bool:
    """Indexing by a mask, whose number of hits the host has to know."""
    if name not in ("index", "index_put", "index_put_", "_unsafe_index", "_index_put_impl_"):
        return False
    return any(isinstance(i, Tensor) and i.dtype in (torch.bool, torch.uint8) for i in args[1])


def _crosses(name: str, args: Any, out: Any) -> bool:
    """A copy from one device to another; a number beside a tensor of another device is none."""
    copies = name in ("_to_copy", "copy_")
    devices = {x.device.type for x in (*args, out) if isinstance(x, Tensor) and (x.ndim or copies)}
    return len(devices) > 1
