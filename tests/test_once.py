"""`mi_lab.once`: made once in a process, and once among the workers of a run."""

from __future__ import annotations

import os
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest

from mi_lab import once as module
from mi_lab.once import FOLDER, among_workers, once


@pytest.fixture(autouse=True)
def _fresh(monkeypatch):
    monkeypatch.setattr(module, "_made", {})


def test_it_is_made_once_for_each_key():
    calls = []

    def make(value):
        return lambda: calls.append(value) or value

    assert [once(("a", 1), make(1)), once(("a", 2), make(2)), once(("a", 1), make(3))] == [1, 2, 1]
    assert calls == [1, 2]


def test_what_raises_is_not_kept():
    with pytest.raises(ZeroDivisionError):
        once(("a",), lambda: 1 / 0)
    assert once(("a",), lambda: 5) == 5


def _slowly(log: str) -> str:
    """In a worker: make it, slowly, and write down who did."""

    def make() -> str:
        time.sleep(0.3)
        with open(log, "a") as file:
            file.write(f"{os.getpid()}\n")
        return "made"

    return once(("slow",), make)


def _breaks_at_first(log: str) -> str:
    """In a worker: the first who makes it dies of it."""

    def make() -> str:
        before = Path(log).exists()
        Path(log).touch()
        if not before:
            time.sleep(0.2)
            raise RuntimeError("the first")
        return "made"

    try:
        return once(("breaks",), make)
    except RuntimeError:
        return "raised"


@pytest.mark.parametrize("shared", [True, False])
def test_workers_of_a_run_share_what_one_of_them_makes(shared, tmp_path):
    log = str(tmp_path / "log")
    context = get_context("spawn")
    if shared:
        with among_workers(), ProcessPoolExecutor(2, mp_context=context) as pool:
            assert list(pool.map(_slowly, [log] * 4)) == ["made"] * 4
    else:  # the control: without it two workers that are busy at once make it twice
        with ProcessPoolExecutor(2, mp_context=context) as pool:
            assert list(pool.map(_slowly, [log] * 4)) == ["made"] * 4
    made = Path(log).read_text().split()
    assert len(made) == (1 if shared else len(set(made)))


def test_another_worker_makes_what_the_first_could_not(tmp_path):
    log = str(tmp_path / "log")
    with among_workers(), ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        assert sorted(pool.map(_breaks_at_first, [log] * 2)) == ["made", "raised"]


def test_nothing_outlives_the_run():
    with among_workers():
        folder = Path(os.environ[FOLDER])
        assert once(("x",), lambda: [1, 2]) == [1, 2]
        assert len(list(folder.iterdir())) == 2  # the value and its lock
        with among_workers():
            assert os.environ[FOLDER] != str(folder)
        assert os.environ[FOLDER] == str(folder)
    assert not folder.exists()
    assert FOLDER not in os.environ


def test_what_is_read_from_the_folder_is_what_was_made(monkeypatch):
    with among_workers():
        assert once(("x",), lambda: {"a": (1, 2.5)}) == {"a": (1, 2.5)}
        monkeypatch.setattr(module, "_made", {})  # as another process
        assert once(("x",), lambda: pytest.fail("made again")) == {"a": (1, 2.5)}


@module.shared
def doubled(x, *, log):
    log.append(x)
    return 2 * x


class Log(list):
    """A list that says the same of itself whatever is in it, as an argument of a shared function must."""

    def __repr__(self):
        return "Log"

    def __hash__(self):
        return 1

    def __eq__(self, other):
        return list(self) == list(other)


def test_a_shared_function_is_remembered_inside_a_run_only():
    log = Log()
    assert [doubled(1, log=log), doubled(1, log=log)] == [2, 2]
    assert log == [1, 1]
    with among_workers():
        log.clear()
        assert [doubled(2, log=log), doubled(2, log=log), doubled(3, log=log)] == [4, 4, 6]
        assert log == [2, 3]
