"""The engine in headless Chromium: as modules, in a worker, and as one file opened from a folder."""

from __future__ import annotations

import base64
import json

import pytest

from mi_lab.live import export, scripts
from tests.book.test_pages import is_foreign
from tests.live.goldens import NAMES

pytestmark = [pytest.mark.browser, pytest.mark.timeout(900)]


@pytest.fixture
def allowed() -> list[str]:
    """What the console may say: a test adds what it provokes."""
    return []


@pytest.fixture
def page(chromium, allowed):
    """A page; at the end nothing else may have gone wrong in it."""
    context = chromium.new_context()
    context.set_default_timeout(300_000)
    page = context.new_page()
    wrong: list[str] = []
    page.on("pageerror", lambda error: wrong.append(f"exception: {error}"))
    page.on("console", lambda m: wrong.append(f"console: {m.text}") if m.type == "error" else None)
    page.on("request", lambda r: wrong.append(f"foreign: {r.url}") if is_foreign(r.url) else None)
    yield page
    assert [w for w in wrong if not any(some in w for some in allowed)] == []
    context.close()


@pytest.mark.parametrize("kernel", ["wasm", "js"])
@pytest.mark.parametrize("name", NAMES)
def test_golden_cases_in_the_page(name, kernel, page, site):
    page.goto(f"{site}/blank.html")
    result = page.evaluate(
        """async ([name, kernel]) => {
            const { check } = await import("/tests/live/tools.mjs");
            return check(await (await fetch(`/golden/${name}.json`)).json(), kernel);
        }""",
        [name, kernel],
    )
    assert result["wrong"] == []
    assert result["kernel"] == kernel
    assert result["cases"] >= 20


IN_WORKER = """
async ([lab, golden, where, unpack]) => {
    const client = await lab.connect({ where });
    const loaded = await client.load({ base64: golden.model, sha256: golden.sha256 });
    let worst = 0;
    for (const item of golden.cases) {
        const { logits } = await client.run({ tokens: item.tokens, edits: item.edits });
        const want = new Float32Array(Uint8Array.from(atob(item.logits.base64), (c) => c.charCodeAt(0)).buffer);
        if (want.length !== logits.length) return { worst: "another length" };
        logits.forEach((x, i) => (worst = Math.max(worst, Math.abs(x - want[i]))));
    }
    const broken = await client.load({ base64: golden.model.slice(0, 400) }).catch((error) => error.message);
    client.close();
    return { worst, broken, where: client.where, kernel: loaded.kernel };
}
"""


@pytest.mark.parametrize("name", ["sorting_paper", "pathfinding"])
def test_golden_cases_in_a_worker(name, page, site):
    page.goto(f"{site}/blank.html")
    result = page.evaluate(
        f"""async (name) => {{
            const lab = await import("/mi_lab/live/js/index.js");
            const golden = await (await fetch(`/golden/${{name}}.json`)).json();
            return ({IN_WORKER})([lab, golden, "worker"]);
        }}""",
        name,
    )
    assert result["worst"] <= 1e-4
    assert (result["where"], result["kernel"]) == ("worker", "wasm")
    assert "damaged or cut short" in result["broken"]


@pytest.mark.parametrize("where", ["worker", "page"])
def test_one_file_opened_from_a_folder(where, page, allowed, golden_folder, tmp_path):
    allowed.append("ERR_FILE_NOT_FOUND")  # it asks for a model that is not there
    golden = json.loads((golden_folder / "arithmetic.json").read_text())
    (tmp_path / "lab.js").write_text(scripts.bundle())
    (tmp_path / "golden.js").write_text(f"globalThis.golden = {json.dumps(golden)};")
    (tmp_path / "model.js").write_text(export.to_script(base64.b64decode(golden["model"])))
    (tmp_path / "page.html").write_text(
        '<!doctype html><meta charset="utf-8"><title>one file</title><script src="lab.js"></script>'
        '<script src="golden.js"></script>'
    )
    page.goto((tmp_path / "page.html").as_uri())
    result = page.evaluate(f"(where) => ({IN_WORKER})([miLab, golden, where])", where)
    assert result["worst"] <= 1e-4
    assert (result["where"], result["kernel"]) == (where, "wasm")
    remote = page.evaluate(
        """async () => {
            const load = (script, sha256) => miLab.loadModel({ url: "model.bin", script, sha256 });
            const [one, two] = await Promise.all([load("model.js", golden.sha256), load("model.js")]);
            const missing = await load("nowhere.js").catch((error) => error.message);
            const other = await load("model.js", "0".repeat(64)).catch((error) => error.message);
            return { hashes: [one.sha256, two.sha256], missing, other };
        }"""
    )
    assert remote["hashes"] == [golden["sha256"]] * 2
    assert "could not be read" in remote["missing"]
    assert "not the one that this page was made for" in remote["other"]


def test_page_that_forbids_workers_and_webassembly_still_runs(page, allowed, golden_folder, tmp_path):
    """A strict content security policy: the plain kernel, in the page itself."""
    allowed.append("Content Security Policy")
    golden = (golden_folder / "sorting_paper.json").read_text()
    policy = "default-src 'none'; script-src 'unsafe-inline'; worker-src 'none'"
    (tmp_path / "page.html").write_text(
        f'<!doctype html><meta charset="utf-8"><title>strict</title>'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        f"<script>{scripts.bundle()}</script><script>globalThis.golden = {golden};</script>"
    )
    page.goto((tmp_path / "page.html").as_uri())
    result = page.evaluate(f"() => ({IN_WORKER})([miLab, golden, 'auto'])")
    assert result["worst"] <= 1e-4
    assert (result["where"], result["kernel"]) == ("page", "js")
