"""Sweeps that outgrow one machine: many recipes and seeds over any `concurrent.futures.Executor`.

    jobs = grid([small, large], seeds=range(8), measure=exact_match)
    results = sweep(jobs, out="runs")                        # here, one after the other
    results = sweep(jobs, 4, out="runs")                     # four processes
    results = sweep(jobs, client.get_executor(), out="runs")   # Dask Distributed, on any machines

A measure is a function at the top level of a module: it takes the trained model and returns JSON.
`out` must be a folder that all workers see, by the same path.

What can be relied on, whatever happens to workers, this process or the machine:

1. Every job gives one result. It is a file of its own in `out/results`, named by recipe, seed and
   measure (`mi_lab.sweep_jobs`): the same call again does only what is missing.
2. A job whose worker dies is sent again, and goes on from the last state that `fit` wrote (every 30 s).
   A job that fails by itself, e.g. out of memory, is named at the end; the others are done first.
3. Sweeps may share a folder, also from several machines: what one is doing the others leave alone, and
   take over at once if its process dies. That rests on file locks (`flock`); where a cluster's file
   system keeps locks to one machine, work may be done twice, never wrongly.
4. The result is the same, bit for bit, from any number of workers of one kind of machine.

Slurm, with dask-jobqueue (any of its clusters works alike; `cores=1`: one thread per worker):

    cluster = dask_jobqueue.SLURMCluster(cores=1, processes=1, memory="4GB", walltime="04:00:00")
    cluster.adapt(maximum_jobs=100)
    with dask.distributed.Client(cluster) as client:
        results = sweep(jobs, client.get_executor(), out="/shared/runs")

A worker that reaches its wall time dies, and rule 2 does the rest.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from mi_lab.sweep_jobs import Job, Measure, Result, one_thread
from mi_lab.sweep_run import Dispatcher, Here, Results, SweepError
from mi_lab.train import Recipe

__all__ = ["Job", "Result", "Results", "SweepError", "grid", "processes", "sweep"]


def grid(
    recipes: Iterable[Recipe], seeds: Iterable[int] | None = None, measure: Measure | None = None
) -> list[Job]:
    """Every recipe with every seed (default: each recipe's own seeds)."""
    seeds = None if seeds is None else tuple(seeds)
    return [
        Job(recipe, seed, measure)
        for recipe in recipes
        for seed in (recipe.seeds if seeds is None else seeds)
    ]


def processes(workers: int) -> ProcessPoolExecutor:
    """So many processes on this machine, one thread each, started afresh ("spawn")."""
    return ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=one_thread)


def sweep(
    jobs: Iterable[Job],
    executor: Executor | Callable[[], Executor] | int | None = None,
    *,
    out: Path | str,
    device: str = "auto",
    progress: bool = True,
    tries: int = 3,
    on_result: Callable[[Result], None] | None = None,
) -> Results:
    """Train and measure every job that has no result in `out` yet, longest first.

    executor: None for this process; a number of processes; an Executor, which is left open; or a function
        that makes one, so that it can be replaced when it breaks (a process pool that lost a worker does).
    tries: how often a job is sent again that loses its workers and gets no step further between.
    on_result: called once with each result as it arrives, those found in the folder first.
    Raises ValueError for jobs that can't be told apart, CheckpointError if a result's file is damaged,
    SweepError, with all results so far, if some jobs could not be done.
    """
    jobs = list(jobs)
    _check(jobs)
    maker = executor if isinstance(executor, Executor) else _maker(executor)
    return Dispatcher(jobs, maker, Path(out), device, tries, on_result).run(progress)


def _check(jobs: Sequence[Job]) -> None:
    """Raises ValueError for jobs that would write to the same place."""
    if not jobs:
        raise ValueError("a sweep needs at least one job")
    digests: dict[str, str] = {}
    keys: set[str] = set()
    for job in jobs:
        if job.key in keys:
            raise ValueError(f"the job {job.name} stands twice in the sweep")
        keys.add(job.key)
        if digests.setdefault(job.recipe.name, job.recipe.digest) != job.recipe.digest:
            raise ValueError(f"two different recipes are called {job.recipe.name!r}: give each its own name")
    if "results" in digests:
        raise ValueError("a recipe of a sweep can't be called 'results': that folder is taken")


def _maker(executor: Callable[[], Executor] | int | None) -> Callable[[], Executor]:
    if executor is None:
        return Here
    if isinstance(executor, int):
        if executor < 1:
            raise ValueError(f"a sweep needs at least 1 process, not {executor}")
        return functools.partial(processes, executor)
    if not callable(executor):
        raise TypeError(
            f"executor must be None, a number of processes, a concurrent.futures.Executor or a function "
            f"that makes one, not {executor!r}"
        )
    return executor
