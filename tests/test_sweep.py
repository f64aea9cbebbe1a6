"""Sweeps: the same results from any executor, once each, whatever dies on the way."""

import errno
import functools
import json
import os
import pickle
import signal
import subprocess
import sys
import warnings
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch

from mi_lab import step, sweep_jobs, sweep_run, train
from mi_lab.checkpoint import CheckpointError
from mi_lab.model import TransformerConfig
from mi_lab.studies.sorting.task import SortingTask
from mi_lab.sweep import Job, SweepError, grid, processes, sweep
from mi_lab.sweep_jobs import claimed, read_result, steps_done
from mi_lab.train import Recipe, fit

CONFIG = TransformerConfig(n_layers=1, n_heads=1, d_model=4, d_head=4, n_ctx=7, d_vocab=9)
LONG = Recipe("long", SortingTask(length=3, n_numbers=8), CONFIG, lr=1e-2, batch=4, steps=40)
SHORT = replace(LONG, name="short", steps=20)


def norm_of_embedding(model):
    return {"norm": model.embed.W_E.norm().item(), "shape": list(model.embed.W_E.shape)}


def scaled(model, factor):
    return factor * model.embed.W_E.norm().item()


def breaks_for_long(model):
    if model.embed.W_E[0, 0] != 0 and os.environ.get("MI_LAB_TEST_BREAKS", "1") == "1":
        raise MemoryError("can't allocate memory")


def returns_a_tensor(model):
    return model.embed.W_E


@dataclass(frozen=True)
class Deadly(SortingTask):
    """Kills the process that draws batches for the second time, once; notes every draw.

    The state is written after each step, as it would be after half a minute.
    """

    notes: str = ""
    times: int = 1

    def sample(self, n, *, generator, device="cpu"):
        train.STATE_SECONDS = -1.0
        notes = Path(self.notes)
        drawn = notes.read_text().split() if notes.exists() else []
        if len(drawn) % 2 == 1 and drawn.count("killed") < self.times:
            notes.write_text(" ".join([*drawn, "killed"]))
            os.kill(os.getpid(), signal.SIGKILL)
        notes.write_text(" ".join([*drawn, "drawn"]))
        return super().sample(n, generator=generator, device=device)


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(sweep_run, "POLL", 0.05)
    monkeypatch.setattr(sweep_run, "RETRY", 0.05)
    monkeypatch.setattr(train, "STATE_SECONDS", train.STATE_SECONDS)


JOBS = grid([SHORT, LONG], seeds=(0, 1), measure=norm_of_embedding)


@pytest.fixture(scope="module")
def serial(tmp_path_factory):
    return sweep(JOBS, out=tmp_path_factory.mktemp("serial"), device="cpu", progress=False)


def quiet(jobs, executor=None, **options):
    return sweep(jobs, executor, device="cpu", progress=False, **options)


def same(ours, theirs):
    """Bit for bit, in order; only when and where may differ."""
    assert [r.job.name for r in ours] == [r.job.name for r in theirs]
    for mine, other in zip(ours, theirs, strict=True):
        for name in ("value", "loss", "accuracy", "diverged", "weights"):
            assert getattr(mine, name) == getattr(other, name)


def test_a_sweep_trains_and_measures(serial):
    assert [r.job for r in serial] == JOBS
    assert serial.made == 4
    history = fit(LONG, seeds=(1,), device="cpu", progress=False)
    assert serial[3].value == norm_of_embedding(history.model())
    assert serial[3].loss == history.loss[0, -1].item()
    assert torch.equal(serial[3].model().embed.W_E, history.model().embed.W_E)
    assert len({r.weights for r in serial}) == 4
    assert serial.rows()[0] | {"norm": 0, "loss": 0, "accuracy": 0} == {
        "recipe": "short", "seed": 0, "diverged": None, "shape": [9, 4], "norm": 0, "loss": 0, "accuracy": 0,
    }  # fmt: skip


@pytest.mark.slow
def test_processes_give_the_same_bit_for_bit(tmp_path, serial):
    arrived = []
    with processes(2) as pool:
        results = quiet(JOBS, pool, out=tmp_path, on_result=lambda r: arrived.append(r.job))
    same(results, serial)
    assert sorted(arrived, key=JOBS.index) == JOBS


def test_threads_take_turns(tmp_path, serial):
    before = torch.get_num_threads()
    with ThreadPoolExecutor(2) as threads:
        same(quiet(JOBS, threads, out=tmp_path), serial)
    assert torch.get_num_threads() == before


def test_long_jobs_begin_first(tmp_path):
    order = []
    quiet(JOBS, out=tmp_path, on_result=lambda r: order.append(r.job.recipe.name))
    assert order == ["long", "long", "short", "short"]


def test_a_restart_does_only_what_is_missing(tmp_path, monkeypatch, serial):
    quiet(JOBS[:3], out=tmp_path)
    trained, real = [], sweep_jobs.fit
    monkeypatch.setattr(
        sweep_jobs, "fit", lambda r, **k: trained.append((r.name, k["seeds"])) or real(r, **k)
    )
    arrived = []
    results = quiet(JOBS, out=tmp_path, on_result=lambda r: arrived.append(r.job.name))
    assert trained == [("long", (1,))]
    assert results.made == 1
    assert len(arrived) == len(set(arrived)) == 4
    same(results, serial)
    assert quiet(JOBS, out=tmp_path).made == 0


def test_another_measure_needs_no_training(tmp_path, monkeypatch):
    recipe = replace(SHORT, steps=2)
    quiet([Job(recipe, 0, norm_of_embedding)], out=tmp_path)
    monkeypatch.setattr(step.Step, "__call__", lambda *_: pytest.fail("trained again"))
    jobs = [Job(recipe, 0, functools.partial(scaled, factor=x)) for x in (1, 2)]
    one, two = quiet(jobs, out=tmp_path)
    assert two.value == 2 * one.value


def test_a_job_has_a_key_of_its_own(monkeypatch):
    job = Job(SHORT, 0, norm_of_embedding)
    others = [
        Job(SHORT, 1, norm_of_embedding),
        Job(replace(SHORT, lr=0.5), 0, norm_of_embedding),
        Job(SHORT, 0, functools.partial(scaled, factor=1)),
        Job(SHORT, 0, functools.partial(scaled, factor=2)),
        Job(SHORT, 0),
    ]
    assert len({x.key for x in [job, *others]}) == 6
    assert pickle.loads(pickle.dumps(job)).key == Job(SHORT, 0, norm_of_embedding).key == job.key
    monkeypatch.setattr(norm_of_embedding, "version", 2, raising=False)
    assert Job(SHORT, 0, norm_of_embedding).key != job.key


def test_a_measure_that_cannot_travel_is_named():
    with pytest.raises(ValueError, match=r"measure .*test_sweep.*<lambda> can't be sent to a worker"):
        Job(SHORT, 0, lambda model: 1)
    with pytest.raises(ValueError, match=r"arguments of measure .*scaled must be plain JSON"):
        Job(SHORT, 0, functools.partial(scaled, factor=torch.ones(1)))
    with pytest.raises(ValueError, match=r"measure math.floor|plain JSON"):
        Job(SHORT, 0, __import__("math").floor)


def test_what_a_notebook_defines_goes_by_value(tmp_path, monkeypatch):
    import __main__

    exec("def here(model): return 7\nhere.version = 1", vars(__main__))
    there = Job(replace(SHORT, steps=1), 0, __main__.here)
    payload, plain = sweep_jobs.pack(there), pickle.dumps(there)
    del __main__.here
    monkeypatch.setattr(sweep_jobs, "identity", lambda _: pytest.fail("a worker has no source"))
    assert sweep_jobs.work(payload, str(tmp_path), "cpu", 0) == sweep_jobs.Outcome("done")
    assert read_result(there, tmp_path).value == 7
    failed = sweep_jobs.work(plain, str(tmp_path), "cpu", 0)
    assert failed.fatal
    assert "can't load the job" in failed.why


def test_a_measure_must_return_json(tmp_path):
    with pytest.raises(
        SweepError, match=r"short-seed-0-returns_a_tensor: .*returns_a_tensor must return plain"
    ):
        quiet([Job(SHORT, 0, returns_a_tensor)], out=tmp_path)


def test_jobs_that_collide_are_refused(tmp_path):
    with pytest.raises(ValueError, match="short-seed-0 stands twice"):
        quiet([Job(SHORT, 0), Job(SHORT, 0)], out=tmp_path)
    with pytest.raises(ValueError, match="two different recipes are called 'short'"):
        quiet([Job(SHORT, 0), Job(replace(SHORT, lr=0.5), 0)], out=tmp_path)
    with pytest.raises(ValueError, match="can't be called 'results'"):
        quiet([Job(replace(SHORT, name="results"), 0)], out=tmp_path)
    with pytest.raises(ValueError, match="at least one job"):
        quiet([], out=tmp_path)
    with pytest.raises(ValueError, match="at least 1 process, not 0"):
        quiet(JOBS, 0, out=tmp_path)
    with pytest.raises(TypeError, match=r"executor must be None, .* not 'dask'"):
        quiet(JOBS, "dask", out=tmp_path)


@pytest.mark.parametrize("harm", ["truncate", "change"])
def test_a_damaged_result_is_named(tmp_path, harm):
    job = Job(replace(SHORT, steps=1), 0)
    path = quiet([job], out=tmp_path)[0].path
    text = path.read_text()
    path.write_text(text[:-40] if harm == "truncate" else text.replace('"seconds": ', '"seconds": 1'))
    with pytest.raises(
        CheckpointError, match=rf"{path.name} is damaged .* remove it to have it measured again"
    ):
        quiet([job], out=tmp_path)


def test_a_failing_job_is_named_and_the_others_are_done(tmp_path, monkeypatch):
    jobs = [Job(LONG, 0, breaks_for_long), Job(SHORT, 0), Job(SHORT, 1)]
    with pytest.raises(SweepError, match="1 of 3 jobs failed") as caught:
        quiet(jobs, out=tmp_path)
    assert "long-seed-0-breaks_for_long: out of memory" in str(caught.value)
    assert "2 of 3 results are kept" in str(caught.value)
    assert [r.job for r in caught.value.results] == jobs[1:]
    assert list(caught.value.failures) == jobs[:1]
    monkeypatch.setenv("MI_LAB_TEST_BREAKS", "0")
    assert quiet(jobs, out=tmp_path).made == 1


def test_a_full_disk_stops_the_sweep_and_keeps_what_is_done(tmp_path, monkeypatch, serial):
    real, results = os.replace, []

    def full(source, target):
        if len(results) == 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        results.extend([target] * (Path(target).parent.name == "results"))
        return real(source, target)

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(SweepError, match="no space is left") as caught:
        quiet(JOBS, out=tmp_path)
    assert len(caught.value.results) == 2
    monkeypatch.setattr(os, "replace", real)
    again = quiet(JOBS, out=tmp_path)
    assert again.made == 2
    same(again, serial)


def test_a_job_that_another_sweep_is_doing_is_waited_for(tmp_path, serial):
    """The other one gives up without a result: the claim is free at once, and the job is done here."""
    claim = claimed(JOBS[0].folder(tmp_path))
    claim.__enter__()
    arrived = []

    def release(result):
        arrived.append(result.job)
        if len(arrived) == 3:
            assert JOBS[0] not in arrived
            claim.__exit__(None, None, None)

    with ThreadPoolExecutor(2) as threads:
        same(quiet(JOBS, threads, out=tmp_path, on_result=release), serial)


# what `claimed` does, without the seconds that importing torch takes
HOLDER = """
import fcntl, pathlib, sys, time
folder = pathlib.Path(sys.argv[1]) / "claim"
folder.mkdir(parents=True)
lock = open(folder / ".lock", "w")
fcntl.flock(lock, fcntl.LOCK_EX)
(folder / "who.json").write_text("{}")
print("held", flush=True)
time.sleep(600)
"""


def test_the_claim_of_a_dead_worker_is_free(tmp_path):
    job = Job(SHORT, 0)
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(job.folder(tmp_path))], stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout.readline() == "held\n"
    payload = (sweep_jobs.pack(job), str(tmp_path), "cpu", 0)
    busy = sweep_jobs.work(*payload)
    assert busy.state == "busy"
    assert "in use by another run" in busy.why
    holder.kill()
    holder.communicate()
    assert (job.folder(tmp_path) / "claim" / "who.json").exists()
    assert sweep_jobs.work(*payload).state == "done"
    assert not (job.folder(tmp_path) / "claim" / "who.json").exists()


def deadly(tmp_path, **options):
    task = Deadly(length=3, n_numbers=8, notes=str(tmp_path / "notes"), **options)
    return replace(LONG, name="deadly", task=task, steps=80)


@pytest.mark.slow
def test_a_pool_that_loses_a_worker_is_replaced(tmp_path):
    jobs = [Job(deadly(tmp_path), 0, norm_of_embedding), Job(SHORT, 0)]
    results = quiet(jobs, 1, out=tmp_path / "pool")
    assert (tmp_path / "notes").read_text().split() == ["drawn", "killed", "drawn", "drawn"]
    same(results, quiet(jobs, out=tmp_path / "serial"))


class Breaking(ProcessPoolExecutor):
    """Every job kills its worker at once."""

    made = 0

    def __init__(self):
        Breaking.made += 1
        super().__init__(1)

    def submit(self, *args, **kwargs):
        future = super().submit(os._exit, 1)
        with pytest.raises(Exception, match="terminated abruptly"):
            future.result()
        return future


def test_workers_that_die_again_and_again_end_the_sweep(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of fork in a process with threads
        with pytest.raises(SweepError, match="broke 3 times before any job began"):
            quiet([Job(SHORT, 0)], Breaking, out=tmp_path, tries=2)
        assert Breaking.made == 3
        with pytest.raises(SweepError, match="given as a number of processes"):
            quiet([Job(SHORT, 0)], Breaking(), out=tmp_path)


def test_a_job_that_kills_its_workers_is_given_up(tmp_path):
    from concurrent.futures import Executor, Future

    job = Job(SHORT, 0)

    class Killing(Executor):
        sent = 0

        def submit(self, fn, *args, **kwargs):
            self.sent += 1
            future = Future()
            future.set_exception(ConnectionError("lost"))
            return future

    killing = Killing()
    with pytest.raises(SweepError, match=r"short-seed-0: its worker was lost 3 times in a row.*lost"):
        quiet([job], killing, out=tmp_path, tries=2)
    assert killing.sent == 3


@pytest.mark.slow
def test_a_dask_worker_is_killed_in_mid_run_and_nothing_is_lost(tmp_path, serial):
    import dask
    from dask.distributed import Client, LocalCluster

    recipe = deadly(tmp_path)
    jobs = [Job(recipe, 0, norm_of_embedding), *JOBS]
    arrived = []
    quick = {
        "distributed.comm.timeouts.connect": "60s",
        "distributed.nanny.environ.MALLOC_TRIM_THRESHOLD_": "0",
    }
    with (
        dask.config.set(quick),
        LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None, silence_logs=50
        ) as cluster,
        Client(cluster) as client,
    ):
        pids = set(client.run(os.getpid).values())
        results = quiet(
            jobs, client.get_executor(), out=tmp_path / "dask", on_result=lambda r: arrived.append(r.job)
        )
        assert len(pids) == 2
    notes = (tmp_path / "notes").read_text().split()
    assert notes == ["drawn", "killed", "drawn", "drawn"]  # it went on from where it was
    assert sorted(arrived, key=jobs.index) == jobs
    assert results.made == 5
    same(results[1:], serial)
    same(results[:1], quiet(jobs[:1], out=tmp_path / "serial"))
    assert quiet(jobs, out=tmp_path / "dask").made == 0


def test_the_bar_counts_jobs_and_steps(tmp_path, capsys):
    sweep(JOBS, out=tmp_path, device="cpu")
    shown = capsys.readouterr().err
    assert "4/4 jobs" in shown
    assert "120/120" in shown


def test_a_result_is_read_only_as_its_own(tmp_path):
    job = Job(replace(SHORT, steps=1), 0)
    assert read_result(job, tmp_path) is None
    assert steps_done(job, tmp_path) == 0
    path = quiet([job], out=tmp_path)[0].path
    assert steps_done(job, tmp_path) == 1
    other = Job(replace(SHORT, steps=1), 1)
    other.path(tmp_path).write_bytes(path.read_bytes())
    with pytest.raises(CheckpointError, match="damaged"):
        read_result(other, tmp_path)
    assert json.loads(path.read_text())["result"]["digest"] == job.recipe.digest
