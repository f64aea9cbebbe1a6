"""Checkpoints: safetensors weights plus everything needed to know where they came from.

One file holds S models of one shape (seeds of one recipe, or steps of one run): each tensor has
`Transformer`'s name and a leading `model` axis. The provenance stands in the file's metadata as
JSON: config, task, recipe, labels of the models, device, seconds, library versions, metrics.
Nothing in a file is ever executed on loading.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor

from mi_lab.model import Transformer, TransformerConfig
from mi_lab.stack import Stack, to_reference

FORMAT = "mi_lab/1"


class CheckpointError(ValueError):
    """A file that is not a whole `mi_lab` checkpoint, or one that can't be written."""


class Checkpoint(NamedTuple):
    """stack: the models. labels: one per model (seed or step). provenance: where they came from."""

    stack: Stack
    labels: tuple[int, ...]
    provenance: dict[str, Any]

    def model(self, label: int | None = None) -> Transformer:
        """The model with this label (seed or step); the first one if None."""
        if label is None:
            label = self.labels[0]
        if label not in self.labels:
            raise ValueError(f"this checkpoint holds {list(self.labels)}, not {label!r}")
        return self.stack.model(self.labels.index(label))


def versions() -> dict[str, str]:
    """Versions that decide a number: Python, torch, numpy, mi_lab and the machine."""
    import mi_lab

    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "mi_lab": mi_lab.__version__,
        "machine": f"{platform.system()} {platform.machine()}",
    }


def device_name(device: torch.device | str) -> str:
    """What a person would call the device, e.g. "NVIDIA H200" or "cpu (1 thread)"."""
    device = torch.device(device)
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type} ({torch.get_num_threads()} thread{'s' * (torch.get_num_threads() != 1)})"


def check_writable(path: Path) -> None:
    """Raises ValueError if no file can be written there: for before minutes of work, not after."""
    probe = path.with_name(f".{path.name}.{os.getpid()}.probe")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            raise IsADirectoryError(0, "it is a folder")
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise ValueError(f"{path} could not be written: {error.strerror}") from error


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file so that at every moment either the old or the new one is whole.

    Raises CheckpointError, with the old file kept, if the folder can't be written or the disk is full.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        why = "no space is left on the disk" if full else (error.strerror or str(error))
        raise CheckpointError(
            f"{path} could not be written: {why}; what stood there before is kept"
        ) from error


def save_tensors(path: Path | str, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
    """Any named tensors with JSON metadata, written atomically."""
    whole = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    write_atomically(Path(path), to_bytes(whole, {"mi_lab": json.dumps(meta)}))


def load_tensors(path: Path | str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The way back from `save_tensors`. Raises CheckpointError on a truncated or foreign file."""
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"there is no checkpoint file {path}")
    try:
        with safe_open(str(path), framework="pt") as file:
            meta = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is truncated or not a safetensors file ({error})") from error
    if "mi_lab" not in meta:
        raise CheckpointError(f"{path} is a safetensors file, but not one that mi_lab wrote")
    return tensors, json.loads(meta["mi_lab"])


def save(
    path: Path | str,
    stack: Stack,
    *,
    labels: Sequence[int],
    provenance: Mapping[str, Any],
    dtype: torch.dtype = torch.float16,
) -> None:
    """Publish the models of `stack` in one file; `dtype` float16 halves it and rounds to 1e-3 relative."""
    if len(labels) != len(stack):
        raise ValueError(f"{len(stack)} models need as many labels, not {len(labels)}")
    references = [to_reference(stack.params(i), stack.config) for i in range(len(stack))]
    tensors = {name: torch.stack([r[name] for r in references]).to(dtype) for name in references[0]}
    meta = {"format": FORMAT, "config": stack.config.to_dict(), "labels": list(labels), **provenance}
    save_tensors(path, tensors, meta)


def load(path: Path | str, *, device: torch.device | str = "cpu") -> Checkpoint:
    """Read a published checkpoint into float32. Raises CheckpointError if it is not one."""
    tensors, meta = load_tensors(path)
    if meta.get("format") != FORMAT:
        raise CheckpointError(f"{path} has format {meta.get('format')!r}, this version reads {FORMAT!r}")
    try:
        config = TransformerConfig(**meta["config"])
        stack = Stack.empty(config, len(meta["labels"]), device)
        for i in range(len(stack)):
            stack.copy_in(i, {name: value[i] for name, value in tensors.items()})
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise CheckpointError(f"{path} is damaged: {error}") from error
    return Checkpoint(stack, tuple(meta["labels"]), meta)


def sha256(path: Path | str) -> str:
    """The file's SHA-256 in hex: the checkpoint's identity in every published number."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def sha256_of(flat: Tensor) -> str:
    """SHA-256 in hex of weights Float[..] as published, in fp16: one model's identity, whatever file it is in."""
    return hashlib.sha256(flat.half().contiguous().numpy().tobytes()).hexdigest()
