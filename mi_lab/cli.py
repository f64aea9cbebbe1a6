"""The command `mi-lab`: train, list and check from a shell.

mi-lab zoo                         what is published, and how to train it again
mi-lab train sorting/paper --seeds 0-7 --out runs
mi-lab claims sorting --json ledger.json
mi-lab export sorting/paper --html page.html
mi-lab bench                       speed against what one would use instead
mi-lab new-study parity            a folder for a study of your own
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from mi_lab import studies

# A study is a folder with claims: a module `claims.py` or a package `claims/`.
STUDIES = tuple(sorted({path.parent.name for path in (Path(__file__).parent / "studies").glob("*/claims*")}))


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status. Wrong input is one line on stderr and status 2."""
    parser = argparse.ArgumentParser(prog="mi-lab", description=__doc__.split("\n")[0] if __doc__ else None)
    commands = parser.add_subparsers(dest="command", required=True)

    train = commands.add_parser("train", help="train a recipe, resumable")
    train.add_argument("name", help="study/recipe, e.g. sorting/paper")
    train.add_argument("--seeds", help="e.g. 0-7 or 0,3,5; default: the recipe's")
    train.add_argument("--device", default="auto", help="auto, cpu or cuda")
    train.add_argument("--out", default="runs", help="folder for state and checkpoints (default: runs)")
    train.add_argument(
        "--resume", action="store_true", help="accepted for clarity: a run in OUT always goes on where it was"
    )

    zoo = commands.add_parser("zoo", help="list published checkpoints")
    zoo.add_argument("--json", action="store_true", help="print as JSON")

    claims = commands.add_parser("claims", help="measure claims and their controls")
    claims.add_argument(
        "studies", nargs="*", metavar="STUDY", help=f"any of {', '.join(study_names())}; default: all"
    )
    claims.add_argument("--json", metavar="FILE", help="write the ledger")
    claims.add_argument(
        "--keep", action="store_true", help="keep the verdicts on other claims that stand in FILE"
    )
    claims.add_argument("--fast", action="store_true", help="fewer seeds and examples")
    claims.add_argument("--only", help="claim ids, e.g. S1,S4")
    claims.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes (default: cores)")

    export = commands.add_parser("export", help="write a model and an explorer for it as one HTML file")
    export.add_argument("checkpoint", help="a published name, e.g. sorting/paper, or a .safetensors file")
    export.add_argument("--html", metavar="FILE", required=True, help="the file to write")
    export.add_argument(
        "--label", type=int, help="which model of the checkpoint (seed or step); default: first"
    )
    export.add_argument("--title", help="heading of the page")
    export.add_argument(
        "--float32", action="store_true", help="weights in full precision: a file of twice the size"
    )

    bench = commands.add_parser("bench", help="run a benchmark of the repository's folder benchmarks/")
    bench.add_argument("name", nargs="?", help="its name; without one, the list and the recorded results")
    bench.add_argument(
        "--python", metavar="FILE", help="the Python of the peers' environment (default: this one)"
    )
    bench.add_argument("--rounds", type=int, help="interleaved rounds per variant (default: the script's)")
    bench.add_argument("--json", metavar="FILE", help="write the result there (default: print only)")

    new = commands.add_parser("new-study", help="make a folder for a study of your own")
    new.add_argument("name", help="a lower-case Python name, e.g. parity")
    new.add_argument(
        "--into",
        metavar="FOLDER",
        help="a folder of your own, outside the package; name it in MI_LAB_STUDIES",
    )

    args = parser.parse_args(argv)
    try:
        return COMMANDS[args.command](args)
    except (ValueError, RuntimeError) as error:
        print(f"mi-lab {args.command}: {error}", file=sys.stderr)
        return 2


def parse_seeds(text: str | None) -> tuple[int, ...] | None:
    """Seeds from "0-7" or "0,3,5-6"; None stays None.

    >>> parse_seeds("0,3,5-6")
    (0, 3, 5, 6)
    """
    if text is None:
        return None
    seeds: list[int] = []
    for part in text.split(","):
        low, dash, high = part.strip().partition("-")
        if not low.isdecimal() or (dash and not high.isdecimal()):
            raise ValueError(f"--seeds must look like 0-7 or 0,3,5, not {text!r}")
        seeds += range(int(low), int(high if dash else low) + 1)
    return tuple(seeds)


def study_names() -> tuple[str, ...]:
    """The package's studies and your own (`mi_lab.studies.add`, MI_LAB_STUDIES)."""
    return (*STUDIES, *(name for name in studies.own() if name not in STUDIES))


def study(name: str):
    """The module of a study. Raises ValueError with the names that exist."""
    if name not in study_names():
        raise ValueError(f"there is no study {name!r}; there are: {', '.join(study_names())}")
    return importlib.import_module(f"mi_lab.studies.{name}")


def _train(args: argparse.Namespace) -> int:
    import difflib

    import torch

    from mi_lab.train import fit

    name, slash, recipe = args.name.partition("/")
    recipes = study(name).recipes
    if not slash or recipe not in recipes:
        near = difflib.get_close_matches(recipe, recipes, n=1)
        hint = f"; did you mean {name}/{near[0]}?" if near else f"; there are: {', '.join(recipes)}"
        raise ValueError(f"there is no recipe {args.name!r}{hint}")
    torch.set_num_threads(1)  # small models: a second thread costs more than it gives
    out = Path(args.out)
    history = fit(recipes[recipe], seeds=parse_seeds(args.seeds), device=args.device, out=out)
    for seed, loss, accuracy in zip(history.seeds, history.loss, history.accuracy, strict=True):
        state = f"diverged at step {history.diverged[seed]}" if seed in history.diverged else "done"
        print(f"seed {seed}: loss {loss[-1]:.4f}, token accuracy {accuracy[-1]:.4f}, {state}")
    print(f"{history.seconds:.0f} s on {history.device}; in {out / recipe}")
    return 1 if history.diverged else 0


def _zoo(args: argparse.Namespace) -> int:
    from mi_lab import zoo

    rows = []
    for entry in zoo.entries():
        source = entry.provenance
        rows.append(
            {
                "name": entry.name,
                "labels": list(entry.labels),
                "description": source.get("description", ""),
                "retrain": source.get("command", ""),
                "metrics": source.get("metrics", {}),
                "sha256": entry.sha256,
            }
        )
    if args.json:
        print(json.dumps(rows, indent=1))
        return 0
    for row in rows:
        labels = row["labels"]
        which = f"{len(labels)} models" if len(labels) > 1 else "1 model"
        print(f"{row['name']:32} {which:10} {row['sha256'][:12]}  {row['description']}")
    there = {row["name"] for row in rows}
    for name, about in zoo.not_shipped().items():
        if name not in there:
            what = about["provenance"].get("description", "")
            print(f"{name:32} not shipped {about['sha256'][:12]}  {what}")
    print(f"{len(rows)} checkpoints. Train one again: mi-lab train NAME")
    return 0


def _claims(args: argparse.Namespace) -> int:
    from mi_lab import claims_run
    from mi_lab.claims import Claim

    failed: list[str] = []

    def show(name: str, claim: Claim, done: claims_run.Done) -> None:
        if isinstance(done, Exception):
            failed.append(f"{claim.id} could not be measured: {type(done).__name__}: {done}")
            print(failed[-1], flush=True)
            return
        if isinstance(done, claims_run.Kept):
            print(
                f"{claim.id:5} {done.verdict.outcome:15} as published, not measured: {done.why}", flush=True
            )
            return
        value = "" if done.value is None else "{:.4g} [{:.4g}, {:.4g}]".format(*done.value)
        units = f"{done.passed}/{done.units}" if done.units else ""
        sound = "" if done.sound else "  UNSOUND: a control passed"
        line = f"{done.id:5} {done.outcome:15} {units:6} {done.headline} {value}"
        print(f"{line:78} {done.seconds:6.1f} s  {done.title}{sound}", flush=True)

    names = args.studies or list(study_names())
    known = {name: [claim.id for claim in study(name).claims] for name in names}
    every = [claim for ids in known.values() for claim in ids]
    wanted = [x.strip() for x in args.only.split(",")] if args.only else every
    for claim in wanted:
        if claim not in every:
            there = "; ".join(f"{name} has {', '.join(ids)}" for name, ids in known.items())
            raise ValueError(f"there is no claim {claim!r}; {there}")
    if args.keep and not args.json:
        raise ValueError("--keep keeps the other verdicts of a ledger: name it with --json FILE")
    jobs = [(name, claim) for name in names for claim in study(name).claims if claim.id in wanted]
    ledger = Path(args.json) if args.json else None
    kept = claims_run.prepare(ledger, names, keep=args.keep) if ledger else {}
    measured = {name: sum(job[0] == name for job in jobs) for name in names}
    print(", ".join(f"{name}: {n} claims" for name, n in measured.items() if n), flush=True)
    found = claims_run.run(
        jobs, fast=args.fast, workers=args.workers, json=ledger, kept=kept,
        command=" ".join(["mi-lab claims", *names]) + " --fast" * args.fast, on_done=show,
    )  # fmt: skip
    if failed:
        partial = (
            f"; the other verdicts are in {args.json}.partial" if args.json and any(found.values()) else ""
        )
        raise ValueError("; ".join(failed) + partial)
    if args.json:
        print(f"ledger written to {args.json}")
    return 0 if all(v.sound for verdicts in found.values() for v in verdicts) else 1


def _export(args: argparse.Namespace) -> int:
    import torch

    from mi_lab import checkpoint, zoo
    from mi_lab.live.one_page import one_page

    path = Path(args.checkpoint)
    published = path.suffix != ".safetensors"
    out = Path(args.html)
    found = zoo.read(args.checkpoint) if published else checkpoint.load(path)
    checkpoint.check_writable(out)
    label = found.labels[0] if args.label is None else args.label
    model = found.model(label)
    source = found.provenance
    name = args.checkpoint if published else path.stem
    vocab = tokens = position = None
    with contextlib.suppress(ValueError, KeyError, AttributeError):  # a model of nobody's task has numbers
        task = study(source["study"]).recipes[source["recipe"]["name"]].task
        vocab, tokens = task.vocab, task.sample(1, generator=torch.Generator().manual_seed(1))[0]
        tokens, position = tokens[: model.config.n_ctx], task.answer.start
        if len(vocab) != model.config.d_vocab:
            vocab = tokens = position = None
    load = f'zoo.load("{name}", {label})' if published else f"checkpoint.load({str(path)!r}).model({label})"
    sha = checkpoint.sha256(zoo.find(args.checkpoint) if published else path)
    text = one_page(
        model,
        title=args.title or f"{name}, {label}",
        tokens=tokens,
        position=position,
        vocab=vocab,
        python=[f"from mi_lab import {'zoo' if published else 'checkpoint'}", f"model = {load}"],
        about=f"{name}, model {label}, {model.n_parameters:,} weights; checkpoint SHA-256 {sha}. Made by mi-lab.",
        dtype="float32" if args.float32 else "float16",
    )
    out.write_text(text, "utf8")
    print(f"{out}: {len(text.encode()) / 1000:,.0f} kB, opens in any browser")
    return 0


def _bench(args: argparse.Namespace) -> int:
    import subprocess

    from mi_lab import bench, checkpoint

    scripts = bench.scripts()
    if args.name is None:
        there = {record.name for record in bench.recorded()}
        print(bench.table())
        for name in scripts:
            if name not in there:
                print(f"\nno recorded result of this kind: {name}")
        print("\nbenchmarks/README.md says how to set up the peers' environment and to run one of these.")
        return 0
    if args.name not in scripts:
        raise ValueError(f"there is no benchmark {args.name!r}; there are: {', '.join(scripts)}")
    python = args.python or sys.executable
    command = [python, str(scripts[args.name])]
    if args.rounds is not None:
        command += ["--rounds", str(args.rounds)]
    if args.json:
        checkpoint.check_writable(Path(args.json))
        command += ["--json", args.json]
    try:
        return subprocess.run(command, check=False, env=os.environ | {"OMP_NUM_THREADS": "1"}).returncode
    except OSError as error:
        raise ValueError(f"{python} can't be run ({error.strerror}); see benchmarks/README.md") from error


def _new_study(args: argparse.Namespace) -> int:
    from mi_lab.new_study import create

    if args.into is None:
        target = create(args.name)
    else:
        target = create(args.name, Path(args.into))
        studies.add(args.into)
    print(f"{target}: a whole small study to start from.")
    if args.into is not None:
        print(f"export MI_LAB_STUDIES={Path(args.into).resolve()}")
    print(f"mi-lab train {args.name}/paper; mi-lab claims {args.name}; then edit task.py first.")
    return 0


COMMANDS = {
    "train": _train,
    "zoo": _zoo,
    "claims": _claims,
    "export": _export,
    "bench": _bench,
    "new-study": _new_study,
}


if __name__ == "__main__":
    sys.exit(main())
