"""`mi-lab export CHECKPOINT --html FILE`: one file that runs any model, and says what it can't take."""

from __future__ import annotations

import pytest
import torch

from mi_lab import checkpoint, zoo
from mi_lab.cli import main
from mi_lab.live.one_page import one_page
from mi_lab.model import Transformer, TransformerConfig
from mi_lab.run import Node, run
from mi_lab.stack import Stack
from tests.book.test_pages import is_foreign

CONFIG = TransformerConfig(n_layers=2, n_heads=3, d_model=12, d_head=4, d_mlp=16, n_ctx=6, d_vocab=7)


def test_a_published_model_becomes_one_file(tmp_path, capsys):
    out = tmp_path / "deep/page.html"
    assert main(["export", "sorting/paper", "--label", "3", "--html", str(out)]) == 0
    assert "opens in any browser" in capsys.readouterr().out
    text = out.read_text()
    assert "sorting/paper, 3" in text
    assert zoo.sha256("sorting/paper") in text
    assert text.count("<script") == 2
    assert "src=" not in text.split("<script")[0]
    assert len(text) < 600_000


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["sorting/papr", "--html", "x.html"], "did you mean 'sorting/paper'"),
        (["sorting/paper", "--html", "x.html", "--label", "99"], "not 99"),
        (["nowhere.safetensors", "--html", "x.html"], "nowhere.safetensors"),
        (["sorting/paper", "--html", "taken"], "could not be written"),
    ],
)
def test_what_cannot_be_exported_is_one_clear_line(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "taken").mkdir()
    assert main(["export", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.strip().splitlines()) == 1


def test_pages_refuse_tokens_and_words_that_do_not_fit():
    model = Transformer(CONFIG)
    with pytest.raises(ValueError, match="1 to 6 tokens"):
        one_page(model, title="x", tokens=[0] * 7)
    with pytest.raises(ValueError, match="from 0 to 6"):
        one_page(model, title="x", tokens=[7])
    with pytest.raises(ValueError, match="same word"):
        one_page(model, title="x", vocab=["a"] * 7)
    assert "<b>" not in one_page(model, title="<b>", about="<b>").split("<script")[0]


@pytest.mark.browser
@pytest.mark.timeout(900)
def test_the_file_runs_a_checkpoint_of_ones_own(chromium, tools, tmp_path, monkeypatch):
    model = Transformer(CONFIG)
    monkeypatch.chdir(tmp_path)
    checkpoint.save(
        "mine.safetensors", Stack.from_models([model]), labels=[4], provenance={}, dtype=torch.float32
    )
    assert (
        main(["export", "mine.safetensors", "--html", "page.html", "--float32", "--title", "</script>Mine"])
        == 0
    )
    page = chromium.new_page(viewport={"width": 360, "height": 740}, color_scheme="dark")
    page.set_default_timeout(120_000)
    wrong: list[str] = []
    page.on("pageerror", lambda error: wrong.append(f"exception: {error}"))
    page.on("console", lambda m: wrong.append(f"console: {m.text}") if m.type == "error" else None)
    page.on("request", lambda r: wrong.append(f"foreign: {r.url}") if is_foreign(r.url) else None)
    page.goto((tmp_path / "page.html").as_uri())
    page.wait_for_selector("[data-mi-live=ready]")
    page.locator("input[type=text]").fill("1 4 0 6 2")
    page.get_by_role("button", name="H2 on").nth(0).click()
    page.get_by_role("button", name="MLP on").nth(1).click()
    page.get_by_label("position", exact=True).focus()
    for _ in range(3):
        page.keyboard.press("ArrowRight")
    got = page.evaluate(
        """() => {
            const { result, frame } = document.querySelector("[data-mi-live]").miLive;
            const { logits, pattern } = result;
            return { state: frame.state, logits: Array.from(logits), pattern: Array.from(pattern) };
        }"""
    )
    assert got["state"] == {"tokens": "1 4 0 6 2", "position": 3, "layer": 1, "off": ["L0H2", "L1MLP"]}
    name = "blocks.1.attn.pattern"
    found = run(model, torch.tensor([[1, 4, 0, 6, 2]]), record=(name,), edit={Node(0, 2): 0.0, Node(1): 0.0})
    torch.testing.assert_close(torch.tensor(got["logits"]), found.logits[0, 3], atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(torch.tensor(got["pattern"]), found[name][0].flatten(), atol=1e-4, rtol=1e-5)
    page.get_by_role("button", name="Python").click()
    space: dict = {}
    exec(page.locator("pre").inner_text().rsplit("\n", 1)[0], space)
    torch.testing.assert_close(space["found"].logits, found.logits)
    page.locator("input[type=text]").fill("1 4 nine")
    error = page.locator("[id$=-tokens-error]")
    error.wait_for(state="visible")
    assert "\u201cnine\u201d is no token of this model" in error.inner_text()
    page.add_script_tag(path=str(tools / "axe-core/axe.min.js"))
    found = page.evaluate(
        "async () => (await axe.run()).violations.map((v) => [v.id, v.impact, v.nodes[0].html])"
    )
    assert [v for v in found if v[1] in ("serious", "critical")] == []
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert page.title() == "</script>Mine"
    assert wrong == []
    page.context.close()
