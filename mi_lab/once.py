"""Work that several measurements need, done once: in this process, and among the workers of one run.

    table = once((fingerprint(model), "scan"), lambda: scan(model, task, questions))

A claim asks for a scan; the next claim that asks for the same scan gets what is there. Inside
`among_workers()` the processes started there share what they make, through files in a folder of their
own that is deleted at the end: what one makes the other waits for, and reads. Nothing outlives the run, so
nothing in it can be stale. What is shared between processes is pickled.

When not to use it: for anything a reader should be able to find again. That belongs into a checkpoint, a
ledger or a file with its provenance.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import hashlib
import os
import pickle
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from mi_lab.checkpoint import write_atomically

Made = TypeVar("Made")
FOLDER = "MI_LAB_ONCE"  # environment variable: where the workers of this run put what they share
_made: dict[tuple[Any, ...], Any] = {}


def once(key: tuple[Any, ...], make: Callable[[], Made]) -> Made:
    """`make()`, or what it gave before for the same key.

    key: of strings and numbers, and tuples of them; its `repr` is what processes compare. If `make` raises,
    nothing is kept, and whoever waits makes it anew.
    """
    if key not in _made:
        folder = os.environ.get(FOLDER)
        _made[key] = make() if folder is None else _from(Path(folder), key, make)
    return _made[key]


def shared(function: Callable[..., Made]) -> Callable[..., Made]:
    """A function whose results the workers of a run share; outside of one it is as it was.

    For functions of names and numbers that always give the same, such as measurements on a published model.
    """

    @functools.wraps(function)
    def wrapper(*args: Any, **options: Any) -> Made:
        if FOLDER not in os.environ:
            return function(*args, **options)
        key = (function.__module__, function.__qualname__, args, tuple(sorted(options.items())))
        return once(key, lambda: function(*args, **options))

    return wrapper


def _from(folder: Path, key: tuple[Any, ...], make: Callable[[], Made]) -> Made:
    """From the run's folder; made, and put there, by the first who asks."""
    path = folder / hashlib.sha256(repr(key).encode()).hexdigest()
    with open(path.with_suffix(".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # until the file is closed, or its holder has died
        if path.exists():
            return pickle.loads(path.read_bytes())
        value = make()
        write_atomically(path, pickle.dumps(value))
        return value


@contextlib.contextmanager
def among_workers() -> Iterator[None]:
    """Processes started inside share what `once` makes."""
    with tempfile.TemporaryDirectory(prefix="mi-lab-") as folder:
        before = os.environ.get(FOLDER)
        os.environ[FOLDER] = folder
        try:
            yield
        finally:
            if before is None:
                del os.environ[FOLDER]
            else:
                os.environ[FOLDER] = before
