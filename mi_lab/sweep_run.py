"""The dispatcher behind `mi_lab.sweep`: what waits, what a worker has, what has arrived.

It trusts no worker: a job counts as done when its result's file can be read, and a job whose worker
was lost goes back to those that wait. It knows nothing of what a job does (`mi_lab.sweep_jobs`).
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import BrokenExecutor, CancelledError, Executor, Future, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

from tqdm import tqdm

from mi_lab.checkpoint import CheckpointError
from mi_lab.sweep_jobs import Job, Outcome, Result, begun, pack, read_result, steps_done, work

POLL = 1.0  # seconds between two looks at the folder
RETRY = 3.0  # seconds until a job that another sweep is doing is tried again


@dataclass(frozen=True)
class Results(Sequence[Result]):
    """The results of a sweep, in the order of its jobs.

    made: how many of them this call computed; the others were in the folder or came from another sweep.
    """

    all: tuple[Result, ...]
    made: int
    seconds: float

    def __len__(self) -> int:
        return len(self.all)

    @overload
    def __getitem__(self, index: int) -> Result: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Result, ...]: ...
    def __getitem__(self, index: int | slice) -> Result | tuple[Result, ...]:
        return self.all[index]

    def rows(self) -> list[dict[str, Any]]:
        """One plain dict per result, e.g. for `pandas.DataFrame`; a value that is a dict is spread."""
        out = []
        for result in self.all:
            value = result.value if isinstance(result.value, dict) else {"value": result.value}
            row = {"recipe": result.job.recipe.name, "seed": result.job.seed, "loss": result.loss}
            out.append(row | {"accuracy": result.accuracy, "diverged": result.diverged} | value)
        return out


class SweepError(RuntimeError):
    """Some jobs could not be done. results: of the others. failures: what went wrong, by job."""

    def __init__(self, message: str, results: Results, failures: dict[Job, str]) -> None:
        super().__init__(message)
        self.results, self.failures = results, failures


class Here(Executor):
    """This process: submitting is doing."""

    def submit(self, fn: Callable, /, *args: Any, **kwargs: Any) -> Future:
        """A future that is done."""
        future: Future = Future()
        future.set_result(fn(*args, **kwargs))
        return future


class Dispatcher:
    """One call of `sweep`: jobs that wait, jobs that a worker has, results that have arrived."""

    def __init__(
        self,
        jobs: list[Job],
        executor: Executor | Callable[[], Executor],
        out: Path,
        device: str,
        tries: int,
        on_result: Callable[[Result], None] | None,
    ) -> None:
        self.jobs, self.out, self.device, self.tries = jobs, out, device, tries
        self.on_result = on_result or (lambda _: None)
        given = isinstance(executor, Executor)
        self.executor: Executor | None = executor if given else None
        self.make: Callable[[], Executor] | None = None if given else executor
        self.window = 1 if executor is Here else len(jobs)  # here, results are to arrive one by one
        self.waiting = dict.fromkeys(sorted(jobs, key=lambda job: -job.cost))
        self.sent: set[Job] = set()
        self.flying: dict[Future, Job] = {}
        self.landed: queue.SimpleQueue[Future] = queue.SimpleQueue()
        self.busy: set[tuple[str, int]] = set()  # training runs that a job in flight belongs to
        self.not_before: dict[Job, float] = {}
        self.lost: dict[Job, tuple[int, int]] = {}  # times in a row without a step forward, step reached
        self.vain = 0  # broken executors in a row on which no job had begun
        self.results: dict[Job, Result] = {}
        self.failures: dict[Job, str] = {}
        self.made = 0
        self.start = time.monotonic()

    def run(self, progress: bool) -> Results:
        """All results. Raises CheckpointError or SweepError: see `mi_lab.sweep.sweep`."""
        self._find()
        try:
            with watching(self._progress, sum(job.recipe.steps for job in self.jobs), progress):
                while self.waiting or self.flying:
                    self._send()
                    self._collect()
        finally:
            for future in self.flying:
                future.cancel()
            self._close()
        if self.failures:
            raise self._error(f"{len(self.failures)} of {len(self.jobs)} jobs failed")
        return self._so_far()

    def _find(self) -> None:
        """Take what is in the folder already. All damaged files are named at once."""
        damaged = []
        for job in list(self.waiting):
            try:
                self._take(job)
            except CheckpointError as error:
                damaged.append(str(error))
        if damaged:
            raise CheckpointError("\n".join(damaged))

    def _take(self, job: Job) -> bool:
        """Is the result of a waiting job there? Then it has arrived."""
        result = read_result(job, self.out)
        if result is not None:
            del self.waiting[job]
            self.results[job] = result
            self.on_result(result)
        return result is not None

    def _send(self) -> None:
        """Submit what may run now: of a training run one job at a time."""
        for job in list(self.waiting):
            run, later = (job.recipe.name, job.seed), self.not_before.get(job)
            if len(self.flying) >= self.window:
                return
            if run in self.busy or (later is not None and (later > time.monotonic() or self._take(job))):
                continue
            executor = self._ready()
            self.sent.add(job)
            try:
                attempt = time.monotonic_ns()
                future = executor.submit(work, pack(job), str(self.out), self.device, attempt)
            except BrokenExecutor as error:
                self._broken(error)
                return
            except RuntimeError as error:
                raise self._error(f"the executor takes no jobs ({error})") from error
            self.busy.add(run)
            del self.waiting[job]
            self.flying[future] = job
            future.add_done_callback(self.landed.put)

    def _ready(self) -> Executor:
        """The executor; a new one if it is ours to make and there is none, or no longer."""
        if self.executor is None:
            make = self.make
            assert make is not None
            self.executor = make()
        return self.executor

    def _collect(self) -> None:
        """Wait a moment and deal with what has landed."""
        if not self.flying:
            time.sleep(POLL if self.waiting else 0)  # what is left is with another sweep
            return
        with contextlib.suppress(queue.Empty):
            future = self.landed.get(timeout=POLL)
            error = self._land(future) if future in self.flying else None
            if isinstance(error, BrokenExecutor):
                self._broken(error)

    def _land(self, future: Future) -> BaseException | None:
        """Deal with one future that is done; the error, if it is the executor's and not the job's."""
        job = self.flying.pop(future)
        self.sent.discard(job)
        self.busy.discard((job.recipe.name, job.seed))
        self.waiting[job] = None
        error = CancelledError("it was cancelled") if future.cancelled() else future.exception()
        if error is not None:
            self._worker_lost(job, error)
            return error
        self.vain = 0
        outcome: Outcome = future.result()
        if outcome.state == "busy":
            self.not_before[job] = time.monotonic() + RETRY
        elif outcome.state == "failed":
            self._fail(job, outcome.why)
            if outcome.fatal:
                raise self._error("the sweep was stopped")
        elif self._take(job):
            self.made += 1
        else:
            path = job.path(self.out)
            raise self._error(
                f"a worker has written {path}, and it is not there: all workers must see `out` by one path"
            )
        return None

    def _worker_lost(self, job: Job, error: BaseException) -> None:
        """Have a job sent again, unless that happened too often without a step forward."""
        if self._take(job):
            self.made += 1
            return
        times, before = self.lost.get(job, (0, 0))
        reached = steps_done(job, self.out)
        # a broken pool fails all its jobs: only one that had begun can be the reason
        guilty = begun(job, self.out) or not isinstance(error, BrokenExecutor)
        self.lost[job] = times, _ = (times + guilty if reached == before else guilty, reached)
        self.vain = 0 if guilty else self.vain
        if times > self.tries:
            self._fail(
                job, f"its worker was lost {times} times in a row, often for want of memory ({error!r})"
            )

    def _broken(self, error: BaseException) -> None:
        """The executor has failed all its jobs: take them back and replace it, if that can be done."""
        self.vain += 1
        for future in wait(self.flying, timeout=60).done:
            self._land(future)
        self._close()
        if self.make is None:
            raise self._error(
                f"the executor broke ({error}); given as a number of processes, or as a function that makes "
                "it, it is replaced"
            ) from error
        if self.vain > self.tries:
            raise self._error(
                f"the executor broke {self.vain} times before any job began ({error}); a script that starts "
                'processes needs `if __name__ == "__main__":`'
            ) from error

    def _fail(self, job: Job, why: str) -> None:
        del self.waiting[job]
        self.failures[job] = why

    def _close(self) -> None:
        """Shut down an executor that is ours."""
        if self.make is not None and self.executor is not None:
            self.executor.shutdown(wait=not self.flying, cancel_futures=True)
            self.executor = None

    def _progress(self) -> tuple[int, str]:
        """Steps done by all workers, and a line about the jobs."""
        finished, sent = list(self.results) + list(self.failures), list(self.sent)
        at_work = [job for job in sent if begun(job, self.out)]
        steps = sum(job.recipe.steps for job in finished) + sum(steps_done(j, self.out) for j in at_work)
        failed = f", {len(self.failures)} failed" if self.failures else ""
        return steps, f"{len(self.results)}/{len(self.jobs)} jobs, {len(at_work)} at work{failed}"

    def _so_far(self) -> Results:
        there = tuple(self.results[job] for job in self.jobs if job in self.results)
        return Results(there, self.made, time.monotonic() - self.start)

    def _error(self, what: str) -> SweepError:
        lines = [f"{job.name}: {why}" for job, why in self.failures.items()]
        kept = f"{len(self.results)} of {len(self.jobs)} results are kept in {self.out / 'results'}"
        last = f"{kept}, and the state of unfinished runs; the same call again does only what is missing"
        return SweepError("\n".join([what, *lines, last]), self._so_far(), dict(self.failures))


@contextlib.contextmanager
def watching(look: Callable[[], tuple[int, str]], total: int, progress: bool) -> Iterator[None]:
    """One bar over all workers, drawn by a thread of its own from what stands in the folder."""
    steps, line = look() if progress else (0, "")
    options = {"unit": "step", "unit_scale": True, "dynamic_ncols": True}
    bar = tqdm(total=total, initial=steps, desc=line, disable=not progress, **options)
    over = threading.Event()

    def draw() -> None:
        steps, line = look()
        bar.set_description(line, refresh=False)
        bar.update(steps - bar.n)

    def watch() -> None:
        pause = POLL
        while not over.wait(pause):
            began = time.monotonic()
            draw()
            pause = max(POLL, 20 * (time.monotonic() - began))  # thousands of runs on a slow file server

    thread = threading.Thread(target=watch, daemon=True)
    try:
        if progress:
            thread.start()
        yield
    finally:
        over.set()
        if progress:
            thread.join()
            draw()
        bar.close()
