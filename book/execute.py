"""Execute chapters side by side: `python book/execute.py FOLDER NOTEBOOK..`.

jupyter-book executes one chapter after the other. Here every core has a chapter, and the outputs go into the
cache from which jupyter-book (myst-nb, `execute_notebooks: cache`) takes them: a cached chapter is one with
the same code cells, and is not executed. FOLDER is that cache. A chapter that fails ends the run, with the
traceback of its cell; the chapters that were through before stay in the cache.
"""

from __future__ import annotations

import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

import nbformat
import yaml
from jupyter_cache import get_cache
from jupyter_cache.base import CacheBundleIn
from jupyter_cache.cache.main import JupyterCacheBase
from jupyter_cache.executors.utils import ExecutionResult, single_nb_execution

CONFIG = Path(__file__).parents[1] / "_config.yml"
MOST_AT_ONCE = 4  # a chapter's kernel takes about 1 GiB


def length(path: Path) -> int:
    """How long a chapter is: a longer one begins sooner, so that no core waits for the last one."""
    return path.stat().st_size


def execute(path: Path) -> tuple[nbformat.NotebookNode, ExecutionResult]:
    """Run one notebook in its own folder; the outputs are written into the notebook that is returned."""
    notebook = nbformat.read(path, as_version=4)
    seconds = yaml.safe_load(CONFIG.read_text())["execute"]["timeout"]  # for a cell
    result = single_nb_execution(
        notebook, cwd=str(path.parent), timeout=seconds, allow_errors=False,
        extra_arguments=["--log-level=ERROR"],  # the kernel's; its warnings are about how it is run, not what it runs
    )  # fmt: skip
    return notebook, result


def cached(cache: JupyterCacheBase, path: Path) -> bool:
    """Are this notebook's outputs in the cache?"""
    try:
        cache.match_cache_notebook(nbformat.read(path, as_version=4))
    except KeyError:
        return False
    return True


def main(folder: Path, notebooks: list[Path]) -> int:
    """Execute those that are not cached; returns 1 as soon as one has failed."""
    cache = get_cache(folder)
    start = time.monotonic()
    missing = sorted((path for path in notebooks if not cached(cache, path)), key=length, reverse=True)
    workers = max(1, min(os.cpu_count() or 1, MOST_AT_ONCE))
    with ThreadPoolExecutor(workers) as pool:  # the work is done in the kernels, which are processes
        running = {pool.submit(execute, path): path for path in missing}
        for done, future in enumerate(as_completed(running), 1):
            path = running[future]
            notebook, result = future.result()
            if result.err is not None:
                print(f"{path} failed:\n{result.exc_string}", file=sys.stderr, flush=True)
                pool.shutdown(cancel_futures=True)
                return 1
            bundle = CacheBundleIn(notebook, str(path.resolve()), data={"execution_seconds": result.time})
            cache.cache_notebook_bundle(bundle, check_validity=False, overwrite=True)
            so_far = time.monotonic() - start
            print(
                f"executed {done} of {len(running)} ({so_far:.0f} s): {path.name}, {result.time:.0f} s",
                flush=True,
            )
    return 0


if __name__ == "__main__":
    raise SystemExit(main(Path(sys.argv[1]), [Path(name) for name in sys.argv[2:]]))
