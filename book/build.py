"""Build the book: `python book/build.py [--fresh]`, or `make book`.

jupyter-book keeps executed notebooks in a cache that looks at the notebook only: after a change in
the library it would go on showing old numbers. So, before it runs,

1. every chapter gets a key: its own cells, the lock file, and the part of `mi_lab` it can depend on
   (a study's folder counts only for the chapters whose code names that study, or names none);
2. a chapter whose key has changed loses its cached outputs;
3. chapters without cached outputs are executed, as many at once as there are cores (`execute.py`);
4. if the book's own machinery changed, or the last build did not finish clean, every page is read anew.

Warnings are errors. Output: `_build/html/index.html`.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
STUDIES = "mi_lab/studies"
# jupyter-book's own redirect has neither title nor icon.
FRONT_DOOR = """<!DOCTYPE html>
<html lang="en">
<meta charset="utf-8">
<title>Small Transformers, Taken Apart</title>
<link rel="icon" href="_static/favicon.svg">
<meta http-equiv="refresh" content="0; url=book/index.html">
<a href="book/index.html">Small Transformers, Taken Apart</a>
</html>
"""
ICON = re.compile(r"\bfa-[a-z0-9-]+")
ICON_RULE = re.compile(r'(?:\.fa-[a-z0-9-]+:before,?)+\{content:"(?:\\[0-9a-f]+ ?)+"\}')
CODE = (".py", ".json", ".npz", ".safetensors", ".js", ".css")


def digest(paths: list[Path], root: Path) -> str:
    """One hash of the names and contents of `paths`."""
    total = hashlib.sha256()
    for path in sorted(paths):
        total.update(str(path.relative_to(root)).encode() + b"\0")
        total.update(hashlib.sha256(path.read_bytes()).digest())
    return total.hexdigest()


def chapters(root: Path) -> list[Path]:
    """The notebooks that _toc.yml names."""
    names = re.findall(r"^\s*-?\s*(?:file|root):\s*(\S+)", (root / "_toc.yml").read_text("utf8"), re.M)
    return [path for name in names if (path := root / f"{name}.ipynb").exists()]


def code_of(notebook: Path) -> str:
    """The source of a notebook's code cells."""
    cells = json.loads(notebook.read_text("utf8"))["cells"]
    return "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")


def library_files(root: Path, code: str) -> list[Path]:
    """The files of mi_lab, and recorded benchmarks, that a chapter with this code may depend on."""
    files = [p for p in (root / "mi_lab").rglob("*") if p.suffix in CODE and "__pycache__" not in p.parts]
    studies = [p.name for p in (root / STUDIES).glob("*") if p.is_dir() and p.name != "__pycache__"]
    named = [study for study in studies if re.search(rf"\b{study}\b", code)]
    others = [f"{STUDIES}/{study}/" for study in studies if study not in named] if named else []
    files = [p for p in files if not p.relative_to(root).as_posix().startswith(tuple(others) or ("\0",))]
    return files + (sorted((root / "benchmarks").glob("*.json")) if re.search(r"\bbench\b", code) else [])


def chapter_key(root: Path, notebook: Path) -> str:
    """Changes when anything changes that the chapter's outputs may depend on."""
    code = code_of(notebook)
    parts = [
        hashlib.sha256(code.encode()).hexdigest(),
        digest([root / "requirements.lock", *library_files(root, code)], root),
        f"{sys.version_info.major}.{sys.version_info.minor}",
    ]
    return hashlib.sha256("".join(parts).encode()).hexdigest()


def machinery_key(root: Path) -> str:
    """Changes when every page must be written again."""
    files = [root / "_config.yml", root / "_toc.yml", root / "requirements.lock"]
    files += [path for path in (root / "book/_ext").rglob("*") if path.suffix in (".py", ".js")]
    return digest(files, root)


def forget(root: Path, notebooks: list[Path]) -> None:
    """Drop the cached outputs and the parsed pages of these chapters."""
    cache_path = root / "_build/.jupyter_cache"
    if cache_path.exists():
        from jupyter_cache import get_cache

        cache = get_cache(cache_path)
        stale = {str(path.resolve()) for path in notebooks}
        for record in cache.list_cache_records():
            if record.uri in stale:
                cache.remove_cache(int(record.pk))  # type: ignore[arg-type]
    for path in notebooks:
        page = path.relative_to(root).with_suffix(".doctree")
        (root / "_build/.doctrees" / page).unlink(missing_ok=True)


def environment(root: Path) -> dict[str, str]:
    """The environment in which jupyter-book and the kernels run."""
    path = os.pathsep.join(filter(None, [str(root), os.environ.get("PYTHONPATH", "")]))
    return os.environ | {
        "PYTHONPATH": path,
        "PYTHONHASHSEED": "0",
        "PYDEVD_DISABLE_FILE_VALIDATION": "1",
        "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": os.environ.get("HF_HUB_OFFLINE", "1"),
        "TQDM_MININTERVAL": "1",
        "MI_LAB_STATIC": "1",  # explorers show their default drawing, not a widget that nobody answers
    }


def write_state(path: Path, machinery: str | None, keys: dict[str, str]) -> None:
    """Record what the pages and the cache now stand for."""
    path.write_text(json.dumps({"machinery": machinery, "chapters": keys}, indent=1), "utf8")


def share_circuitsvis(folder: Path) -> None:
    """One copy of CircuitsVis' script for the whole book, from the installed package; loaded on demand."""
    spec = importlib.util.find_spec("circuitsvis")
    if spec is None or spec.origin is None:
        raise RuntimeError("circuitsvis is not installed; it is in requirements.lock")
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(Path(spec.origin).parent / "dist/cdn/iife.js", folder / "iife.js")


def share_live(root: Path, static: Path) -> int:
    """The one script of all live explorers, and the models of every study that has a `live.py`."""
    studies = sorted(p.parent.name for p in (root / STUDIES).glob("*/live.py"))
    program = "\n".join(
        [
            "import sys, importlib",
            "from pathlib import Path",
            "from mi_lab.live import live_explorer",
            "static = Path(sys.argv[1])",
            "live_explorer.write_script(static)",
            "for study in sys.argv[2:]:",
            "    live = importlib.import_module(f'mi_lab.studies.{study}.live')",
            "    live.write(static.parent / live_explorer.MODELS)",
        ]
    )
    command = [sys.executable, "-c", program, str(static), *studies]
    return subprocess.run(command, env=environment(root), check=False).returncode


def lighten_icons(html: Path) -> int:
    """Cut the theme's icon fonts down to the icons that pages, styles and scripts name: 274 kB to 4; their
    style sheet, too.

    Returns the number of icons kept. A style sheet that is light already stays as it is.
    """
    from fontTools import subset
    from fontTools.ttLib import TTFont

    sheets = list(html.glob("_static/vendor/fontawesome/*/css/all.min.css"))
    foreign = {"fontawesome", "katex", "circuitsvis", "mi-lab-models"}
    places = [*html.rglob("*.html"), *html.glob("_static/**/*.js"), *html.glob("_static/**/*.css")]
    texts = [p.read_text("utf8") for p in places if not foreign & set(p.parts)]
    named = {name for text in texts for name in ICON.findall(text)}
    codes = {int(code, 16) for text in texts for code in re.findall(r"\\(f[0-9a-f]{3})\b", text)}
    for sheet in sheets:
        css = sheet.read_text("utf8")
        for name, code in re.findall(r"\.(fa-[a-z0-9-]+):before(?=[^{}]*\{content:\"\\([0-9a-f]+)\")", css):
            if name in named:
                codes.add(int(code, 16))
        for font in sorted(set(re.findall(r"url\(\.\./webfonts/([\w-]+)\.woff2\)", css))):
            cut = subset.Subsetter()
            cut.populate(unicodes=codes)
            folder = sheet.parents[1] / "webfonts"
            drawn = TTFont(folder / f"{font}.ttf")
            cut.subset(drawn)
            drawn.flavor = "woff"
            drawn.save(folder / f"{font}.woff")
            both = rf'url\(\.\./webfonts/{font}\.woff2\) format\("woff2"\),url\([^)]*\) format\("truetype"\)'
            css = re.sub(both, f'url(../webfonts/{font}.woff) format("woff")', css)
        css = ICON_RULE.sub(lambda rule: rule[0] if named & set(ICON.findall(rule[0])) else "", css)
        sheet.write_text(css, "utf8")
    return len(codes)


def build(root: Path, *, fresh: bool = False) -> int:
    """Bring _build/html up to date; returns jupyter-book's exit code."""
    out = root / "_build"
    state_path = out / ".book-state.json"
    if fresh:
        for name in (".jupyter_cache", ".doctrees", "html"):
            shutil.rmtree(out / name, ignore_errors=True)
        state_path.unlink(missing_ok=True)
    before = json.loads(state_path.read_text("utf8")) if state_path.exists() else {}
    keys = {path.relative_to(root).as_posix(): chapter_key(root, path) for path in chapters(root)}
    machinery = machinery_key(root)

    stale = [root / name for name, key in keys.items() if before.get("chapters", {}).get(name) != key]
    forget(root, stale)
    for path in stale:
        print(f"to execute: {path.relative_to(root)}", flush=True)
    if before.get("machinery") != machinery:
        for name in (".doctrees", "html"):  # a page that has left the book must not stay behind
            shutil.rmtree(out / name, ignore_errors=True)
    # Until the build has come through, the machinery counts as changed: the next build reads every page
    # again, because an incremental one would not repeat the warnings of pages it skips. The chapters'
    # keys hold from here on: what is still cached is what these keys stand for.
    out.mkdir(exist_ok=True)
    write_state(state_path, None, keys)

    names = [str(path) for path in chapters(root)]
    command = [
        sys.executable,
        str(Path(__file__).with_name("execute.py")),
        str(out / ".jupyter_cache"),
        *names,
    ]
    code = subprocess.run(command, env=environment(root), check=False).returncode
    if code:
        return code
    run = "from jupyter_book.cli.main import main; main()"
    command = [sys.executable, "-c", run, "build", str(root), "-W", "--keep-going", "-q"]
    code = subprocess.run(command, env=environment(root), check=False).returncode
    if code == 0:
        (out / "html/index.html").write_text(FRONT_DOOR, "utf8")
        share_circuitsvis(out / "html/_static/circuitsvis")
        lighten_icons(out / "html")
        code = share_live(root, out / "html/_static")
    if code == 0:
        write_state(state_path, machinery, keys)
    return code


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description="Build the book into _build/html.")
    parser.add_argument("--fresh", action="store_true", help="forget every cached output first")
    start = time.monotonic()
    code = build(ROOT, fresh=parser.parse_args().fresh)
    took = f"{time.monotonic() - start:.0f} s"
    if code:
        print(f"The book did not build ({took}); the reasons are above.", file=sys.stderr)
    else:
        print(f"The book is built ({took}): {ROOT / '_build/html/index.html'}")
    return code


if __name__ == "__main__":
    raise SystemExit(main())
