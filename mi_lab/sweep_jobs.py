"""What a sweep is made of: a `Job`, the name and file of its `Result`, and `work`, which makes it.

A result is content-addressed: its file's name ends in a key made of the recipe's digest, the seed and
the measure's name and version. The file carries a checksum of itself and is written atomically, so
that it is whole or not there. `mi_lab.sweep` hands jobs to workers and collects what they leave.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import inspect
import json
import math
import os
import pickle
import platform
import threading
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, is_dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from safetensors import SafetensorError, safe_open

from mi_lab.checkpoint import CheckpointError, versions, write_atomically
from mi_lab.model import Transformer
from mi_lab.stack import layout
from mi_lab.train import FolderInUse, Recipe, fit, held

Measure = Callable[[Transformer], Any]


@dataclass(frozen=True, eq=False)
class Job:
    """One seed of a recipe to train, and what to measure on the trained model.

    measure(model) -> JSON: a function at the top level of a module, a `functools.partial` of one with
    plain arguments, or a dataclass with `__call__`; None keeps only loss and accuracy. Raises ValueError
    for a measure that can't be sent to a worker or told from another one. Jobs with one key are equal.
    """

    recipe: Recipe
    seed: int
    measure: Measure | None = None

    def __post_init__(self) -> None:
        _ = self.key  # now, where the source of the measure can be read: a worker may not have it

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Job) and self.key == other.key

    def __hash__(self) -> int:
        return hash(self.key)

    @functools.cached_property
    def measure_identity(self) -> Any:
        """See `identity`."""
        return identity(self.measure)

    @functools.cached_property
    def key(self) -> str:
        """Sixteen hex digits: another recipe, seed or measure has another key."""
        return digest([self.recipe.digest, self.seed, self.measure_identity])

    @property
    def name(self) -> str:
        """For people, e.g. "paper-seed-3-exact_match"."""
        what = "" if self.measure is None else f"-{measure_name(self.measure).rpartition('.')[2]}"
        return f"{self.recipe.name}-seed-{self.seed}{what}"

    @functools.cached_property
    def cost(self) -> float:
        """About how long it takes, in weights times tokens: only good for putting jobs in order."""
        weights = sum(math.prod(shape) for shape in layout(self.recipe.config).values())
        return float(self.recipe.steps) * self.recipe.batch * self.recipe.task.n_ctx * weights

    def folder(self, out: Path) -> Path:
        """Where `fit` keeps this run; jobs that differ only in their measure share it."""
        return out / self.recipe.name / f"seed-{self.seed}"

    def path(self, out: Path) -> Path:
        """The result's file."""
        return out / "results" / f"{self.name.replace(os.sep, '-')}-{self.key}.json"


class Result(NamedTuple):
    """What one job gave.

    value: what its measure returned (None without a measure, and for a run that diverged). loss and
    accuracy: of the last training batch. diverged: the step at which the loss stopped being finite.
    weights: SHA-256 of the trained weights. seconds: of training. path: the file.
    """

    job: Job
    value: Any
    loss: float
    accuracy: float
    diverged: int | None
    weights: str
    seconds: float
    device: str
    path: Path

    def model(self) -> Transformer:
        """The trained model, read back from its run's folder."""
        out = self.path.parents[1]
        device = "cpu" if self.device.startswith("cpu") else "auto"
        history = fit(self.job.recipe, seeds=(self.job.seed,), out=out, device=device, progress=False)
        return history.model()


class Outcome(NamedTuple):
    """What a worker says of a job. why: of a failure, for people. fatal: no other job can do better."""

    state: Literal["done", "busy", "failed"]
    why: str = ""
    fatal: bool = False


def digest(what: Any) -> str:
    """Sixteen hex digits of anything JSON."""
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:16]


def measure_name(measure: Any) -> str:
    """module.function or module.Class."""
    if isinstance(measure, functools.partial):
        return measure_name(measure.func)
    what = measure if hasattr(measure, "__qualname__") else type(measure)
    return f"{what.__module__}.{what.__qualname__}"


def identity(measure: Any) -> Any:
    """What a value depends on besides the model, as JSON: the measure's name, version and arguments.

    The version is its attribute `version`; without one, its source code (not that of what it calls).
    """
    if measure is None:
        return None
    name = measure_name(measure)
    try:
        pickle.dumps(measure)
    except Exception as error:
        raise ValueError(
            f"measure {name} can't be sent to a worker ({error}): define it at the top level of a module, "
            "and give it its arguments with functools.partial"
        ) from error
    try:
        if isinstance(measure, functools.partial):
            arguments: Any = [identity(measure.func), measure.args, measure.keywords]
        elif hasattr(measure, "__qualname__"):
            arguments = [asdict(measure.__self__)] if hasattr(measure, "__self__") else []
        else:
            arguments = (
                vars(measure) if not is_dataclass(measure) or isinstance(measure, type) else asdict(measure)
            )
        arguments = json.loads(json.dumps(arguments, sort_keys=True))
    except TypeError as error:
        raise ValueError(f"the arguments of measure {name} must be plain JSON: {error}") from error
    version = getattr(measure, "version", None)
    if version is None and not isinstance(measure, functools.partial):
        try:
            what: Any = measure if hasattr(measure, "__qualname__") else type(measure)
            source = inspect.getsource(what)
        except (OSError, TypeError) as error:
            raise ValueError(
                f"measure {name} has no source code by which a change of it could be seen: give it an "
                "attribute `version`"
            ) from error
        version = digest(source)
    return {"name": name, "version": version, "arguments": arguments}


def read_result(job: Job, out: Path) -> Result | None:
    """The result of a job if it is there. Raises CheckpointError if its file is damaged."""
    path = job.path(out)
    try:
        whole = json.loads(path.read_bytes())
        body = whole["result"]
        if digest(body) != whole["checksum"] or body["key"] != job.key:
            raise ValueError("its checksum is wrong")
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path} is damaged ({error}); remove it to have it measured again") from error
    kept = {name: body[name] for name in Result._fields if name not in ("job", "path")}
    return Result(job=job, path=path, **kept)


def write_result(job: Job, out: Path, **measured: Any) -> None:
    """Write a result's file; the fields are those of `Result`."""
    about = {
        "key": job.key,
        "recipe": job.recipe.to_dict(),
        "digest": job.recipe.digest,
        "seed": job.seed,
        "measure": job.measure_identity,
        "versions": versions(),
    }
    body = json.loads(json.dumps(about | measured))
    text = json.dumps({"checksum": digest(body), "result": body}, indent=1, sort_keys=True)
    write_atomically(job.path(out), text.encode())


def pack(job: Job) -> bytes:
    """A job to be sent; what a script or notebook defines goes by value where cloudpickle is there."""
    data = pickle.dumps(job)
    if b"__main__" in data:
        with contextlib.suppress(ImportError):
            import cloudpickle  # pyright: ignore[reportMissingImports]

            return cloudpickle.dumps(job)
    return data


@contextlib.contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """Hold a run for one worker, training and measuring; raises FolderInUse if another one has it.

    The claim is a lock that the kernel (or the file server) drops when its process dies: it can't go
    stale. `claim/who.json` stands beside it as long as the job runs, and stays if the worker is killed.
    """
    with held(folder / "claim"):
        who = folder / "claim" / "who.json"
        write_atomically(who, json.dumps({"host": platform.node(), "pid": os.getpid()}).encode())
        try:
            yield
        finally:
            who.unlink(missing_ok=True)


def steps_done(job: Job, out: Path) -> int:
    """Steps that the run's folder says are done; 0 where there is no state yet."""
    try:
        with safe_open(str(job.folder(out) / "state.safetensors"), framework="pt") as file:
            meta = json.loads((file.metadata() or {}).get("mi_lab", "{}"))
    except (OSError, SafetensorError):
        return 0
    return int(meta.get("step", 0)) if meta.get("digest") == job.recipe.digest else 0


def begun(job: Job, out: Path) -> bool:
    """Is a worker at the job, or was one killed at it?"""
    return (job.folder(out) / "claim" / "who.json").exists()


def one_thread() -> None:
    """For a process that only works: small models lose by a second thread."""
    torch.set_num_threads(1)


_ONE_AT_A_TIME = threading.Lock()  # matrix precision and thread count belong to the process


def work(payload: bytes, out: str, device: str, attempt: int) -> Outcome:
    """Do one job: what a worker is sent. Says what went wrong instead of raising, whatever it is.

    attempt: makes a second try a different call (Dask hands out the old result of an equal one).
    """
    del attempt
    try:
        job: Job = pickle.loads(payload)
    except Exception as error:
        why = f"a worker can't load the job ({error!r}); what a notebook defines needs cloudpickle installed"
        return Outcome("failed", why, fatal=True)
    with _ONE_AT_A_TIME:
        threads = torch.get_num_threads()
        one_thread()
        try:
            with claimed(job.folder(Path(out))):
                _train_and_measure(job, Path(out), device)
            return Outcome("done")
        except FolderInUse as error:
            return Outcome("busy", str(error))
        except Exception as error:
            return Outcome("failed", explain(error), fatal=_stops_all(error))
        finally:
            torch.set_num_threads(threads)


def _train_and_measure(job: Job, out: Path, device: str) -> None:
    if job.path(out).exists():  # another sweep was faster
        return
    history = fit(job.recipe, seeds=(job.seed,), device=device, out=out, progress=False)
    value = None
    if job.measure is not None and not history.diverged:
        value = job.measure(history.model())
        try:
            value = json.loads(json.dumps(value))
        except TypeError as error:
            raise TypeError(f"measure {measure_name(job.measure)} must return plain JSON: {error}") from error
    write_result(
        job,
        out,
        value=value,
        loss=history.loss[0, -1].item(),
        accuracy=history.accuracy[0, -1].item(),
        diverged=history.diverged.get(job.seed),
        weights=hashlib.sha256(history.stack.flat.cpu().numpy().tobytes()).hexdigest(),
        seconds=history.seconds,
        device=history.device,
    )


def explain(error: BaseException) -> str:
    """One line for people; out of memory says what to do."""
    text = f"{type(error).__name__}: {error}".splitlines()[0]
    memory = ("not enough memory", "can't allocate memory", "out of memory")
    if isinstance(error, MemoryError) or any(words in str(error) for words in memory):
        return f"out of memory ({text}); use fewer workers at a time, or a smaller batch"
    return text


def _stops_all(error: BaseException | None) -> bool:
    """Is it a full or read-only disk, which every other job would meet too?"""
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
            return True
        error = error.__cause__
    return False
