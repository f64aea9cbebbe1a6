"""The hand-made models do what the algebra says, to the digit: other tests and the toolbox rely on it."""

from __future__ import annotations

import math

import pytest
import torch

from mi_lab import handmade as hm
from mi_lab.ablate import ablate_group
from mi_lab.live.export import as_stored
from mi_lab.run import Node, run
from mi_lab.studies.base import Task, targets

TASK = hm.RepeatTask()
EVERY = TASK.every()
FULL = {"suppress": 4.0, "backup": 8.0, "lean": 40.0}
H = hm.HEADS


def answers(logits: torch.Tensor) -> torch.Tensor:
    """[n, 3, 7] at the answer."""
    return logits[:, TASK.answer]


def right(logits: torch.Tensor) -> torch.Tensor:
    """The right letters' logits [n, 3]."""
    return answers(logits).gather(-1, targets(TASK, EVERY)[..., None])[..., 0]


def others(logits: torch.Tensor) -> torch.Tensor:
    """The other five letters' logits [n, 3, 5]."""
    wrong = torch.nn.functional.one_hot(targets(TASK, EVERY), 7).bool()
    wrong[..., hm.START] = True
    return answers(logits)[~wrong].view(len(EVERY), 3, 5)


def test_the_task_is_what_it_says():
    assert isinstance(TASK, Task)
    assert EVERY.shape == (360, 9)
    assert len(EVERY.unique(dim=0)) == 360
    assert torch.equal(TASK.solve(EVERY), EVERY)
    truth = TASK.variables(EVERY)
    assert torch.equal(truth["target"], targets(TASK, EVERY))
    assert torch.equal(EVERY.gather(1, truth["source"]), truth["target"])
    row = TASK.encode("bdaf")
    assert TASK.decode(row) == "^bdafbdaf"
    assert torch.equal(TASK.encode(TASK.decode(row)), row)
    index = EVERY.tolist().index(row.tolist())
    assert truth["previous"][index].tolist() == [-1, -1, 1, 3, 0, 5, 1, 3, 0]
    assert truth["early"].float().mean() == 0.5
    drawn = TASK.sample(500, generator=torch.Generator().manual_seed(0))
    assert {tuple(r) for r in drawn.tolist()} <= {tuple(r) for r in EVERY.tolist()}


@pytest.mark.parametrize(
    ("text", "message"),
    [("bda", "four different letters"), ("bdab", "four different letters"), ("bdgx", "'g' is not one of")],
)
def test_a_bad_question_is_refused(text, message):
    with pytest.raises(ValueError, match=message):
        TASK.encode(text)


@pytest.mark.parametrize("text", ["", "abcabcabc"])
def test_too_few_or_too_many_letters_are_refused(text):
    with pytest.raises(ValueError, match="1 to 8 letters"):
        hm.read(text)


def test_it_is_small_and_mostly_empty():
    model = hm.repeater(**FULL)
    assert model.n_parameters == 7429
    assert sum(int((p != 0).sum()) for p in model.parameters()) == 195


@pytest.mark.parametrize(
    "strengths",
    [
        {},
        {"copy": 7.0},
        {"suppress": 4.0},
        FULL,
        {"suppress": 1.5, "backup": 30.0, "lean": 10.0, "note": 24.0, "volume": 9.0},
    ],
)
def test_logits_are_those_of_the_algebra(strengths):
    """The right letter has copy - suppress, the others 0 (the backup rests while the output is full)."""
    model = hm.repeater(**strengths)
    logits = run(model, EVERY).logits
    assert TASK.grade(model, EVERY).all()
    written = strengths.get("copy", 12.0)
    # the suppressor's score falls with what is written: softmax of it against rest
    score, rest = 30.0 * written / 12.0, 15.0
    attention = 1 / (1 + math.exp(rest - score))
    want = written - strengths.get("suppress", 0.0) * attention
    # a weak copy leaves the backup's gate ajar
    gate = 15.0 + hm.GATE * written / hm.FULL
    want += strengths.get("backup", 0.0) / (1 + math.exp(gate - 30.0))
    torch.testing.assert_close(right(logits), torch.full((360, 3), want), atol=1e-4, rtol=0)
    assert others(logits).abs().max() < 1e-4
    assert (answers(logits)[..., hm.START] == hm.SILENT).all()


def test_attention_is_where_the_text_says():
    model = hm.repeater(**FULL)
    names = [f"blocks.{layer}.attn.pattern" for layer in range(3)]
    found = run(model, EVERY, record=names)
    source = TASK.variables(EVERY)["source"]

    def looks(role: str) -> torch.Tensor:
        """Attention [n, query, key] of a head."""
        return found[names[H[role].layer]][:, H[role].head]

    for query in range(1, 9):
        assert looks("previous")[:, query, query - 1].min() > 1 - 1e-6
        assert looks("first")[:, query, 1].min() > 1 - 1e-6
    for role in ("match", "lookalike", "suppressor"):
        at = looks(role)[:, TASK.answer].gather(2, source[..., None])
        assert at.min() > 1 - 1e-6
    assert looks("backup")[:, TASK.answer, 0].min() > 1 - 1e-6
    first_half = looks("match")[:, 1:5, 0]  # nothing to match yet: rest
    assert first_half.min() > 1 - 1e-4
    assert (found[names[1]][:, 0] - found[names[1]][:, 1])[:, TASK.answer].abs().max() < 1e-6


@pytest.mark.parametrize(
    ("role", "value", "logit"),
    [
        # the backup steps in and there is nothing to suppress: 8 before, 8 after
        ("match", "zero", 8.0),
        # the gate sees a full output and stays shut: every letter has (12 - 4)/6 or so, no answer
        ("match", "mean", None),
        # the constant is gone and the match head and its backup score "^" 40 higher
        ("first", "zero", 0.0),
        ("first", "mean", 8.0),
        ("previous", "zero", 0.0),
        ("lookalike", "zero", 8.0),
        ("backup", "zero", 8.0),
        ("suppressor", "zero", 12.0),
    ],
)
def test_ablations_have_the_known_answer(role, value, logit):
    model = hm.repeater(**FULL)
    logits = ablate_group(model, EVERY, [H[role]], value=value)
    if logit is None:
        assert (answers(logits).argmax(-1) == targets(TASK, EVERY)).float().mean() < 0.2
    else:
        torch.testing.assert_close(right(logits), torch.full((360, 3), logit), atol=1e-4, rtol=0)
        assert others(logits).abs().max() < 1e-4


def test_a_volume_that_nothing_reads_changes_nothing_without_layer_norm():
    quiet, loud = (run(hm.repeater(volume=v), EVERY).logits for v in (0.0, 12.0))
    assert torch.equal(quiet, loud)


@pytest.mark.parametrize("volume", [0.0, 12.0])
def test_with_layer_norm_logits_are_what_was_written_over_the_lengths(volume):
    model = hm.repeater(norm="LN", seek=90.0, volume=volume)
    assert TASK.grade(model, EVERY).all()
    resid = run(model, EVERY, record="blocks.*.resid_pre")["blocks.0.resid_pre"]
    assert resid.mean(-1).abs().max() < 1e-6  # balanced: LayerNorm only divides
    d = model.config.d_model

    def length(**rooms: float) -> float:
        """LayerNorm's divisor for these entries and the balance that they need."""
        total = sum(rooms.values())
        return math.sqrt((sum(x * x for x in rooms.values()) + total * total) / d + 1e-5)

    start = {"token": 1.0, "position": 1.0}
    s0 = length(**start)
    for early, note in ((1, 1.0), (0, -1.0)):
        key = {**start, "previous": 1 / s0, "always": 1 / s0, "note": note / s0}
        s1 = length(**key)
        end = {**key, "note": note / s0 + volume / s1, "output": 12 / s1}
        want = 12 / s1 / length(**end)
        mine = TASK.variables(EVERY)["early"] == early
        got = right(run(model, EVERY).logits)[mine]
        torch.testing.assert_close(got, torch.full_like(got, want), atol=2e-4, rtol=0)


@pytest.mark.parametrize("what", ["suppress", "backup", "lean"])
def test_layer_norm_is_refused_beside_what_compares_sizes(what):
    with pytest.raises(ValueError, match="compare sizes"):
        hm.repeater(norm="LN", **{what: 1.0})


def test_tables_are_read_back_from_the_weights_and_cells_change_one_number():
    model = hm.repeater(**FULL, note=3.0)
    strengths = {"seek": 30.0, "copy": 12.0, "suppress": 4.0, "backup": 8.0, "note": 3.0, "one": 1.0}
    assert set(hm.patterns()) == set(hm.TABLES)
    for key, (name, pattern) in hm.patterns().items():
        assert hm.TABLES[key].values(model).shape == (len(hm.TABLES[key].rows), len(hm.TABLES[key].columns))
        torch.testing.assert_close(hm.TABLES[key].values(model), strengths[name] * pattern)
    changed = hm.repeater(**FULL, note=3.0, cells={"L1H0.ov.b.c": 5.0})
    before, after = model.state_dict(), changed.state_dict()
    differ = [name for name in before if not torch.equal(before[name], after[name])]
    assert differ == ["blocks.1.attn.W_O"]
    assert (before[differ[0]] != after[differ[0]]).sum() == 1
    # b is read, c is raised by 5, in the sequences whose answer is b
    logits = answers(run(changed, EVERY).logits)
    reads_b = targets(TASK, EVERY) == 1
    assert (logits[reads_b][:, 2] > 4.9).all()
    assert (logits[~reads_b & (targets(TASK, EVERY) != 2)][:, 2].abs() < 1e-4).all()


def test_a_score_in_a_table_is_the_score_that_the_head_gives():
    model = hm.repeater(cells={"L0H0.qk.5.2": 40.0, "L1H0.qk.b.d": 33.0})
    text = TASK.encode("bdaf")[None]
    found = run(model, text, record="blocks.*.attn.scores")
    scores = found["blocks.0.attn.scores"][0, 0]
    assert scores[5, 2] == pytest.approx(40.0, abs=1e-4)
    assert scores[5, 4] == pytest.approx(30.0, abs=1e-4)
    # at 5 stands b again; what comes before position 3 is d
    assert found["blocks.1.attn.scores"][0, 0, 5, 3] == pytest.approx(33.0, abs=1e-4)


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ("L1H0.ov.b", "a cell is named as in"),
        ("L3H0.ov.b.c", "a cell is named as in"),
        ("L1H0.ov.b.g", "columns a, b, c, d, e, f, there is no 'g'"),
        ("L0H0.qk.9.0", "rows 0, 1, 2"),
        ("L0H1.ov.a.a", "columns note, there is no 'a'"),
    ],
)
def test_a_cell_that_is_not_there_is_refused(cell, message):
    with pytest.raises(ValueError, match=message):
        hm.repeater(cells={cell: 1.0})


def test_weights_survive_storage_in_half_precision():
    model = hm.repeater(**FULL)
    for name, value in as_stored(model).state_dict().items():
        assert torch.equal(value, model.state_dict()[name]), name


def test_shorter_and_freer_text_runs_too():
    model = hm.repeater(**FULL)
    logits = run(model, hm.read("b d b")[None]).logits[0]
    assert logits[-1].argmax() == hm.LETTERS.index("d")
    assert logits[1, :6].abs().max() < 1e-4  # nothing seen before: no letter is preferred
    twice = run(model, hm.read("b d b a b")[None]).logits[0, -1]  # d and a have both followed b
    assert twice[0] == pytest.approx(float(twice[3]), abs=1e-4)
    assert twice[0] > twice[[1, 2, 4, 5]].max() + 1


def test_heads_have_the_names_of_the_text():
    assert list(H) == ["previous", "first", "match", "lookalike", "backup", "suppressor"]
    assert H["suppressor"] == Node(2, 1)
