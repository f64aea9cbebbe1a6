"""A stand-in for a CUDA graph: the operations of one call, kept and repeated without Python.

As with a graph, recording leaves no trace (what was changed is put back), and a replay runs the same
operations on the same tensors: whatever Python decided while recording stays as it was decided.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from mi_lab.step import Step


class Tape(TorchDispatchMode):
    """Keeps every operation with its arguments and results."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, Any, Any, list[Tensor]]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.calls.append((func, args, kwargs or {}, _tensors(out)))
        return out

    @torch.no_grad()
    def replay(self) -> None:
        """Once more; what an operation made anew goes where it was when it was recorded."""
        for func, args, kwargs, outs in self.calls:
            given = {x.untyped_storage().data_ptr() for x in _tensors((args, kwargs))}
            for old, new in zip(outs, _tensors(func(*args, **kwargs)), strict=True):
                if new.untyped_storage().data_ptr() not in given:
                    old.copy_(new)


def _tensors(tree: Any) -> list[Tensor]:
    return [x for x in tree_leaves(tree) if isinstance(x, Tensor)]


def recorder(step: Step, recorded: list[Tape] | None = None) -> Callable:
    """For `Captured`: records one call of a function on a tape and puts the step's tensors back."""

    def record(function: Callable[[], None], generators: list[torch.Generator]) -> Callable[[], None]:
        kept = [*(x for x in vars(step).values() if isinstance(x, Tensor)), step.stack.flat]
        kept += list(step.optimiser.state[step.parameter].values())
        copies = [x.detach().clone() for x in kept]
        states = [g.get_state() for g in step.generators]
        tape = Tape()
        with tape:
            function()
        drawn = any(not torch.equal(g.get_state(), s) for g, s in zip(step.generators, states, strict=True))
        assert drawn == bool(generators), "a graph must know the generators it draws from, and no others"
        with torch.no_grad():
            for x, copy in zip(kept, copies, strict=True):
                x.copy_(copy)
        for generator, state in zip(step.generators, states, strict=True):
            generator.set_state(state)
        if recorded is not None:
            recorded.append(tape)
        return tape.replay

    return record
