"""The map of nodes of the arithmetic explorer: its facts and the scan in the page, beside torch's."""

from __future__ import annotations

import pytest
import torch

from mi_lab.ablate import node_values, sweep_nodes
from mi_lab.live import export
from mi_lab.run import run
from mi_lab.studies.arithmetic import live, live_scans, live_state
from mi_lab.studies.base import targets
from tests.live.arithmetic_page import (
    BOX,
    CAPTION,
    EXPLORER,
    FIRST,
    SMALL,
    cell,
    headline,
    refit,
    scan,
    set_,
    state_of,
    written,
)
from tests.live.conftest import served

pytestmark = [pytest.mark.browser, pytest.mark.timeout(900)]


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """A small built page."""
    return written(tmp_path_factory.getbasetemp())


@pytest.fixture(scope="session")
def address(folder):
    """It, on 127.0.0.1."""
    with served(folder) as host:
        yield f"{host}/page.html"


@pytest.fixture
def open_page(open_at, address):
    """Opens the page with its first explorer alive."""
    return lambda url=address, **options: open_at(url, f"{BOX}[data-mi-live=ready]", **options)


def test_the_first_map_is_the_scan_of_python(open_page):
    page = open_page()
    found = live_scans.counts(FIRST["model"], FIRST["seed"])
    shown = page.evaluate(
        f"[...document.querySelectorAll('{BOX} td[role=gridcell]')].map((td) => [td.dataset.node, td.textContent])"
    )
    facts = {node.name: share for node, share in found.facts().items()}
    assert len(shown) == len(facts) - len(facts) // live_state.task_of(FIRST["model"]).n_ctx
    for node, text in shown:
        share = facts[node]
        assert text == ("" if share == 0 else "<1" if share < 0.0095 else f"{100 * share + 1e-9:.0f}"), node
    asked = found.asked["S1"]
    row = page.locator(f"{BOX} .mi-x-classes tr", has_text="S1").inner_text()
    index = [node.name for node in found.nodes].index(FIRST["node"])
    column = found.hits.shape[1] - len(found.asked) + list(found.asked).index("S1")
    assert f"{int(found.hits[index, column]) or 'none'} of {asked}" in row


def test_every_fact_of_the_map(open_page):
    page = open_page()
    found = live_scans.counts(FIRST["model"], FIRST["seed"])
    n = live_state.task_of(FIRST["model"]).digits
    hits = dict(zip((node.name for node in found.nodes), found.hits.tolist()))
    set_(page, fact="impact")
    tokens = ["SGN", *(f"A{k}" for k in range(n, -1, -1))]
    for node, row in hits.items():
        if int(node[1:].split("L")[0]) > 3 * n + 2 or not row[0]:
            continue
        said = cell(page, node).get_attribute("aria-label")
        wrong = [token for token, count in zip(tokens, row[1 : n + 3]) if count]
        assert f"in {', '.join(wrong)};" in said
    set_(page, fact="classes")
    assert cell(page, FIRST["node"]).text_content() == next(
        name for name, c in zip(found.asked, hits[FIRST["node"]][n + 3 :]) if c
    )
    set_(page, fact="S2")
    share = hits[FIRST["node"]][n + 3 + list(found.asked).index("S2")] / found.asked["S2"]
    assert cell(page, FIRST["node"]).text_content() == f"{100 * share:.0f}"


def wrong_tokens(model, seed, tokens, value):
    """Bool[node, question, answer] by torch, in the page's order of nodes."""
    task = live_state.task_of(model)

    def reduce(logits, rows):
        return logits.argmax(-1) != targets(task, rows)

    sweep = sweep_nodes(
        live_scans.stored(model, seed), tokens, answer=task.answer, value=value, reduce=reduce
    )
    return sweep.changed


@pytest.mark.parametrize("mode", ["mean", "zero", "other"])
def test_this_question_in_the_map(mode, open_page):
    page = open_page()
    set_(page, fact="question", mode=mode)
    page.wait_for_function(
        f"document.querySelector('{BOX} td[role=gridcell]').ariaLabel.indexOf('not counted') < 0"
    )
    task = live_state.task_of(FIRST["model"])
    tokens = task.encode(FIRST["question"] + "=")[None]
    value = "zero"
    if mode == "mean":
        value = live._means(FIRST["model"], FIRST["seed"])
    if mode == "other":
        value = node_values(
            live_scans.stored(FIRST["model"], FIRST["seed"]), task.encode(FIRST["other"] + "=")[None]
        )
    want = wrong_tokens(FIRST["model"], FIRST["seed"], tokens, value)[:, 0]
    names = ["SGN", *(f"A{k}" for k in range(task.digits, -1, -1))]
    said = page.evaluate(
        f"[...document.querySelectorAll('{BOX} td[role=gridcell]')].map((td) => [td.dataset.node, td.ariaLabel])"
    )
    order = {node.name: i for i, node in enumerate(live_scans.counts(FIRST["model"], FIRST["seed"]).nodes)}
    for node, words in said:
        wrong = [name for name, bad in zip(names, want[order[node]]) if bad]
        assert words.split(": ", 1)[1] == (f"turns {', '.join(wrong)} wrong" if wrong else "changes nothing")
    assert want.any()


def test_a_scan_in_the_page_counts_as_torch_does(open_page):
    page = open_page()
    assert refit(page, {"model": SMALL})
    set_(page, edits=["P7L0H0:zero"])
    scan(page)
    got = page.evaluate(
        f"""() => {{
            const counts = {EXPLORER}.counts;
            return {{ hits: [...counts.hits], width: counts.width, questions: counts.questions, dropped: counts.dropped,
                     tested: counts.tested }};
        }}"""
    )
    task = live_state.task_of(SMALL)
    tokens = torch.stack([task.encode(text + "=") for text in got["tested"]])
    assert got["questions"] + got["dropped"] == len(tokens) == 16
    network, means = live_scans.stored(SMALL, 0), live._means(SMALL, 0)
    held = live.edits_of(["P7L0H0:zero"], tokens[0])
    nodes = live_scans.counts(SMALL, 0).nodes[: -len(live_scans.counts(SMALL, 0).nodes) // task.n_ctx]

    def wrong(edits):
        edit = export.to_run(network, edits, means=means)
        logits = run(network, tokens, edit=edit).logits[:, task.answer]
        return logits.argmax(-1) != targets(task, tokens)

    kept = ~wrong(held).any(1)
    assert int((~kept).sum()) == got["dropped"]
    hits = torch.tensor(got["hits"]).view(-1, got["width"])
    assert len(hits) == len(nodes)
    for i, node in enumerate(nodes):
        found = wrong([*held, {"node": node.name, "value": "mean"}])[kept]
        assert hits[i, 0] == found.any(1).sum(), node
        assert hits[i, 1 : task.digits + 3].tolist() == found.sum(0).tolist(), node
    assert hits[:, 0].max() > 0
    assert "beside P7 L0 H0" in page.locator(CAPTION).first.inner_text()


def test_failing_questions_fail_and_can_be_opened(open_page):
    page = open_page()
    assert refit(page, {"model": SMALL})
    scan(page)
    worst = page.evaluate(
        f"""() => {{
            const c = {EXPLORER}.counts;
            const names = [...document.querySelectorAll('{BOX} td[role=gridcell]')].map((td) => td.dataset.node);
            const hits = (name) => c.count(c.index(name));
            return names.sort((a, b) => hits(b) - hits(a))[0];
        }}"""
    )
    cell(page, worst).click()
    example = page.locator(f"{BOX} .mi-x-classes .mi-x-link").first
    text = example.inner_text()
    example.click()
    assert state_of(page)["question"] == text
    assert "which is right" in headline(page)
    cell(page, worst).dblclick()
    assert "is right. Wrong:" in headline(page) or "Without that" in headline(page)
    page.get_by_role("button", name="Back to the first count").click()
    assert "before this page was made" in page.locator(CAPTION).first.inner_text()


def test_a_scan_can_be_stopped(open_page):
    page = open_page()
    page.locator(f"{BOX} [id$=-each]").select_option("40")
    page.get_by_role("button", name="Scan all nodes").first.click()
    page.get_by_role("button", name="Stop").click()
    assert page.locator(f"{BOX} .mi-x-scan + .mi-x-error + .mi-x-busy").is_hidden()
    assert page.get_by_role("button", name="Scan all nodes").first.is_enabled()
    scan(page)
    assert page.evaluate(f"{EXPLORER}.counts.here")
