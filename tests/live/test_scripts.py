"""The engine and the explorers as classic scripts: whole, light, in parts that fit together."""

from __future__ import annotations

import gzip
import json
import re
import subprocess

import pytest

from mi_lab.live import scripts

SOURCES = sorted(scripts.SOURCES.rglob("*.js"))


def test_bundle_is_one_script_that_can_stand_in_a_page():
    text = scripts.bundle()
    assert "</" not in text  # it would end the script that it stands in
    assert not re.search(r"^\s*(import|export)\b", text, re.M)
    assert "import.meta" not in text
    assert len(text.encode()) < 80_000
    with pytest.raises(FileNotFoundError):
        scripts.bundle([scripts.SOURCES / "not_there.js"])


def test_bundle_takes_further_modules_and_refuses_what_it_can_not_hold(tmp_path):
    more = tmp_path / "more.js"
    more.write_text("export function explorer() {\n  return argmax([1, 2]);\n}\n")
    assert re.search(r"return \{ .*\bexplorer\b.* \};", scripts.bundle([more]))
    more.write_text("export function softmax() {}\n")
    with pytest.raises(ValueError, match="both declare softmax"):
        scripts.bundle([more])
    more.write_text('import x from "elsewhere";\n')
    with pytest.raises(ValueError, match="import or export"):
        scripts.bundle([more])


PRINTED = """
const ts = require(process.argv[2]);
const fs = require("fs");
const printer = ts.createPrinter({ removeComments: true });
const read = (path) => ts.createSourceFile("x.js", fs.readFileSync(path, "utf8"), ts.ScriptTarget.Latest);
const printed = (path) => printer.printFile(read(path)).replace(/^[ \\t]+/gm, ""); // style sheets lose indents
for (const pair of JSON.parse(process.argv[3])) {
  const [source, light] = pair.map(printed);
  if (source !== light) console.log(pair[0]);
}
"""


def test_nothing_but_comments_and_white_space_is_left_out(tools, node, tmp_path):
    """The light text and the source are the same program to the TypeScript compiler."""
    pairs = []
    for i, path in enumerate(SOURCES):
        light = tmp_path / f"{i}.js"
        light.write_text(scripts._light(path.read_text("utf8")), "utf8")
        assert "/**" not in light.read_text("utf8")
        pairs.append([str(path), str(light)])
    program = tmp_path / "program.cjs"
    program.write_text(PRINTED)
    command = [node, str(program), str(tools / "typescript"), json.dumps(pairs)]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == ""
    changed = tmp_path / "0.js"  # and the comparison sees a word that is missing
    changed.write_text(changed.read_text("utf8").replace("export function", "function", 1))
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.split() == [
        str(SOURCES[0])
    ]


@pytest.mark.parametrize("kind", scripts.KINDS)
def test_a_part_takes_only_what_the_books_script_gives(kind):
    text = scripts.part_script(kind)
    assert "</script" not in text
    names = re.search(r"^const \{ (.*) \} = lab;$", text, re.M)
    parts = re.search(r"parts: \{ (.*?) \} \};", scripts.page_script())
    assert names is not None
    assert parts is not None
    assert set(names[1].split(", ")) <= set(parts[1].split(", "))


@pytest.mark.parametrize("kind", scripts.KINDS)
def test_parts_come_before_or_after_the_books_script(kind, node, tmp_path):
    """Both orders register the explorer's class; so does a whole script for one file."""
    page = "const document = { readyState: 'complete', querySelectorAll: () => [] };\n"
    ask = f"\nconsole.log(typeof miLab.kindKnown('{kind}'), miLabParts?.push instanceof Function);\n"
    orders = (
        [scripts.page_script(), scripts.part_script(kind)],
        [scripts.part_script(kind), scripts.page_script()],
    )
    for order in orders:
        program = tmp_path / "program.js"
        program.write_text(page + "".join(order) + ask)
        said = subprocess.run([node, str(program)], capture_output=True, text=True, check=True).stdout
        assert said.split() == ["function", "true"]
    program.write_text(
        page + scripts.file_script(kind) + f"\nconsole.log(typeof miLab.kindKnown('{kind}'));\n"
    )
    said = subprocess.run([node, str(program)], capture_output=True, text=True, check=True).stdout
    assert said.split() == ["function"]


def test_an_unknown_kind_is_refused():
    with pytest.raises(ValueError, match="there is no explorer 'chess'"):
        scripts.part_script("chess")


def test_a_page_loads_little():
    """Compressed: the shared script, and the largest part."""
    sizes = [len(gzip.compress(text.encode(), 6)) for text in map(scripts.part_script, scripts.KINDS)]
    assert len(gzip.compress(scripts.page_script().encode(), 6)) < 40_000
    assert max(sizes) < 30_000
