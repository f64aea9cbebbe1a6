"""`mi-lab claims`: measure many claims in several processes and write the ledger.

The longest claims (by the seconds in the published ledger) are begun first, so that no worker ends with a
long one alone; what several claims need is made once (`mi_lab.once`). After each verdict the ledger so far
stands in FILE.partial, so that neither a claim that raises nor a key pressed too early loses the others'
minutes; FILE is replaced when every claim has its verdict. Where a claim needs weights that are not shipped
(`mi_lab.zoo.NotShipped`), the published verdict is kept.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

from mi_lab import ledger
from mi_lab.checkpoint import check_writable
from mi_lab.claims import Claim, Verdict, read_ledger, verify, write_ledger
from mi_lab.once import among_workers
from mi_lab.zoo import NotShipped


class Kept(NamedTuple):
    """The published verdict on a claim that can't be measured here, and why."""

    verdict: Verdict
    why: str


Job = tuple[str, Claim]  # study, claim
Done = Verdict | Kept | Exception


def measure(jobs: Sequence[Job], *, fast: bool, workers: int) -> Iterator[tuple[Job, Done]]:
    """Each job with its verdict, or with what its measure raised, as they are done."""
    if workers < 2 or len(jobs) < 2:
        one_thread()
        for job in jobs:
            yield job, _tried(lambda claim=job[1]: verify(claim, fast=fast))
        return
    with (
        among_workers(),
        ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=one_thread) as pool,
    ):
        futures = {
            pool.submit(verify_one, name, claim.id, fast): (name, claim)
            for name, claim in _longest_first(jobs)
        }
        try:
            for future in as_completed(futures):
                yield futures[future], _tried(future.result)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def run(
    jobs: Sequence[Job],
    *,
    fast: bool = False,
    workers: int = 1,
    json: Path | None = None,
    kept: Mapping[tuple[str, str], Verdict] | None = None,
    command: str,
    on_done: Callable[[str, Claim, Done], None],
) -> dict[str, list[Verdict]]:
    """Measure `jobs` and write the ledger `json`, if one is named, in the order of the jobs.

    kept: verdicts (of `prepare`) on other claims, which stay in the ledger. on_done: called for each job as it is
    done. A claim whose measure raises leaves the others alone; then `json` stays as it was, and what was found is
    in `json`.partial.
    """
    order = [(name, claim.id) for name, claim in jobs]
    old = dict(kept or {})
    verdicts = {key: verdict for key, verdict in old.items() if key not in order}
    order = [*old, *(key for key in order if key not in old)]
    partial = None if json is None else json.with_name(json.name + ".partial")
    failed = False
    for (name, claim), done in measure(jobs, fast=fast, workers=workers):
        if isinstance(done, NotShipped):
            done = _published(name, claim.id, done)
        on_done(name, claim, done)
        if isinstance(done, Exception):
            failed = True
            continue
        verdicts[name, claim.id] = done.verdict if isinstance(done, Kept) else done
        if partial is not None:
            write_ledger(partial, _by_study(order, verdicts), command=command)
    found = _by_study(order, verdicts)
    if json is not None and not failed:
        write_ledger(json, found, command=command)
        if partial is not None:
            partial.unlink(missing_ok=True)
    return found


def verify_one(study: str, claim_id: str, fast: bool) -> Verdict:
    """Verify a claim by name: what a worker process is sent, since claims hold closures."""
    claims: Sequence[Claim] = importlib.import_module(f"mi_lab.studies.{study}").claims
    return verify(next(claim for claim in claims if claim.id == claim_id), fast=fast)


def one_thread() -> None:
    """Small models: threads would wait for one another."""
    import torch

    torch.set_num_threads(1)


def _tried(measured: Callable[[], Verdict]) -> Done:
    try:
        return measured()
    except Exception as error:
        return error


def _published(study: str, claim_id: str, error: NotShipped) -> Done:
    """The published verdict on a claim, or the error if there is none."""
    found = [verdict for verdict in _recorded(study) if verdict.id == claim_id]
    return Kept(found[0], str(error)) if found else error


def _recorded(study: str) -> list[Verdict]:
    """The published verdicts of a study; none for a study of one's own."""
    try:
        return ledger.recorded(study)
    except ValueError:
        return []


def _longest_first(jobs: Sequence[Job]) -> list[Job]:
    """By the published ledgers' seconds; claims that are in none come first."""
    seconds: dict[tuple[str, str], float] = {}
    for study in {name for name, _ in jobs}:
        seconds |= {(study, verdict.id): verdict.seconds for verdict in _recorded(study)}
    return sorted(jobs, key=lambda job: -seconds.get((job[0], job[1].id), float("inf")))


def _by_study(
    order: Sequence[tuple[str, str]], verdicts: Mapping[tuple[str, str], Verdict]
) -> dict[str, list[Verdict]]:
    found: dict[str, list[Verdict]] = {}
    for study, id in order:
        found.setdefault(study, [])
        if (study, id) in verdicts:
            found[study].append(verdicts[study, id])
    return found


def prepare(path: Path, studies: Sequence[str], *, keep: bool = False) -> dict[tuple[str, str], Verdict]:
    """What has to be said before minutes of measuring: can the ledger be written, and what stays of it?

    Raises ValueError if it can't be written, or (keep) is no ledger of these studies.
    """
    check_writable(path)
    if not keep:
        return {}
    if not path.exists():
        raise ValueError(f"--keep keeps the other verdicts of {path}, and there is no such file")
    try:
        old = read_ledger(path)
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is no ledger: {error}") from error
    if missing := sorted({*studies} - old.keys()):
        raise ValueError(f"{path} is a ledger of {', '.join(old)}, not of {', '.join(missing)}")
    return {(study, verdict.id): verdict for study, found in old.items() for verdict in found}
