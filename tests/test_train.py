import errno
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, replace

import pytest
import torch
from torch.nn.functional import cross_entropy

from mi_lab import fast, train
from mi_lab.checkpoint import CheckpointError
from mi_lab.model import Transformer, TransformerConfig
from mi_lab.stack import Stack
from mi_lab.step import Step
from mi_lab.studies.sorting.task import SortingTask
from mi_lab.train import DATA_SEED, Recipe, fit, held, log_steps, pick_device
from tests.reference import layer_outputs

TASK = SortingTask(length=3, n_numbers=8)
RECIPE = Recipe(
    name="tiny",
    task=TASK,
    config=TransformerConfig(n_layers=1, n_heads=2, d_model=8, d_head=4, n_ctx=7, d_vocab=9),
    lr=1e-2,
    weight_decay=0.01,
    batch=16,
    steps=60,
    seeds=(0, 1),
    checkpoints=(0, 20, 40),
)


def quiet(recipe=RECIPE, **options):
    return fit(recipe, progress=False, device="cpu", **options)


@pytest.fixture(scope="module")
def history():
    return quiet()


@pytest.fixture
def eager_state(monkeypatch):
    """The state is written after every step."""
    monkeypatch.setattr(train, "STATE_SECONDS", -1.0)


@dataclass(frozen=True)
class WeightedTask(SortingTask):
    """Only the first answer token counts."""

    def weights(self, tokens):
        weights = torch.zeros(len(tokens), self.length)
        weights[:, 0] = 1
        return weights


class Power(Exception):
    """The power fails."""


def fail_at_40(step, stack):
    if step == 40:
        raise Power


@dataclass(frozen=True)
class Given:
    """Embeddings from a donor at the beginning, queries again every so many steps."""

    every: int | None = None
    trained: bool = False

    def to_dict(self):
        return {"given": "embeddings", "every": self.every}

    def model(self, seed, out=None):
        if self.trained:
            return quiet(DONOR, seeds=(seed,), out=out).model()
        return Transformer(RECIPE.config, generator=torch.Generator().manual_seed(100 + seed))

    def apply(self, model, donor, *, step):
        part = "blocks.0.attn.W_Q" if step else "embed.W_E"
        model.get_parameter(part).copy_(donor.get_parameter(part))


DONOR = replace(RECIPE, name="donor", steps=5, checkpoints=())


def test_the_loss_falls(history):
    assert history.loss.shape == history.accuracy.shape == (2, 60)
    assert (history.loss[:, -5:].mean(1) < history.loss[:, :5].mean(1) - 0.3).all()
    assert (history.accuracy[:, -5:].mean(1) > history.accuracy[:, :5].mean(1)).all()
    assert history.diverged == {}


def test_checkpoints_are_the_steps_asked_for_and_the_last(history):
    assert list(history.checkpoints) == [0, 20, 40, 60]
    start = Transformer(RECIPE.config, generator=torch.Generator().manual_seed(1))
    assert torch.equal(history.model(1, 0).unembed.W_U, start.unembed.W_U)
    assert torch.equal(history.model().unembed.W_U, history.stack.model(0).unembed.W_U)


def test_exits_learn_from_every_layer_and_show_the_last_ones_loss():
    config = replace(RECIPE.config, n_layers=3)
    recipe = replace(RECIPE, config=config, exits=0.5, steps=6, clip=None)
    model = Transformer(config, generator=torch.Generator().manual_seed(1))
    plain = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[recipe.optimiser](
        model.parameters(), weight_decay=recipe.weight_decay, betas=recipe.betas
    )
    generator = torch.Generator().manual_seed(DATA_SEED + 1)
    pool = TASK.sample(train.POOL * recipe.batch, generator=generator).split(recipe.batch)
    losses = []
    for step in range(recipe.steps):
        streams = layer_outputs(model, pool[step])
        logits = [
            (model.ln_final(x) @ model.unembed.W_U + model.unembed.b_U)[:, TASK.answer] for x in streams
        ]
        right = pool[step][:, 4:7].flatten()
        *earlier, last = [cross_entropy(x.flatten(0, 1), right) for x in logits]
        plain.zero_grad()
        (last + 0.5 * (earlier[0] + earlier[1]) / 2).backward()
        plain.param_groups[0]["lr"] = recipe.lr_at(step)
        plain.step()
        losses.append(last.item())
    fitted = quiet(recipe)
    torch.testing.assert_close(fitted.loss[1], torch.tensor(losses), rtol=1e-4, atol=1e-5)
    other = quiet(replace(recipe, exits=0.0))
    assert not torch.allclose(other.loss[1], torch.tensor(losses), rtol=1e-4, atol=1e-5)


def test_data_are_other_examples_for_the_same_seed():
    first = quiet(replace(RECIPE, steps=1, seeds=(1,)))
    again = quiet(replace(RECIPE, steps=1, seeds=(1,), data=5))
    generator = torch.Generator().manual_seed(DATA_SEED + 6)
    tokens = TASK.sample(train.POOL * RECIPE.batch, generator=generator)[: RECIPE.batch]
    model = Transformer(RECIPE.config, generator=torch.Generator().manual_seed(1))
    logits = model(tokens)[:, TASK.answer]
    loss = cross_entropy(logits.flatten(0, 1), tokens[:, 4:7].flatten())
    assert float(again.loss[0, 0]) == pytest.approx(loss.item(), abs=1e-5)
    assert float(first.loss[0, 0]) != pytest.approx(loss.item(), abs=1e-5)


@pytest.mark.parametrize(
    ("optimiser", "grokfast"), [("adam", None), ("adamw", None), ("adamw", (0.9, 2.0)), ("adam", (0.0, 1.0))]
)
def test_fit_equals_a_plain_loop_over_the_reference(optimiser, grokfast):
    recipe = replace(
        RECIPE, optimiser=optimiser, clip=0.5, warmup=3, steps=8, decay="cosine", grokfast=grokfast
    )
    model = Transformer(recipe.config, generator=torch.Generator().manual_seed(1))
    kind = torch.optim.Adam if optimiser == "adam" else torch.optim.AdamW
    plain = kind(model.parameters(), weight_decay=recipe.weight_decay)
    generator = torch.Generator().manual_seed(DATA_SEED + 1)
    pool = TASK.sample(train.POOL * recipe.batch, generator=generator).split(recipe.batch)
    losses, mean = [], {}
    for step in range(recipe.steps):
        logits = model(pool[step])[:, TASK.answer]
        loss = cross_entropy(logits.flatten(0, 1), pool[step][:, 4:7].flatten())
        plain.zero_grad()
        loss.backward()
        if grokfast is not None:
            alpha, strength = grokfast
            for i, weights in enumerate(model.parameters()):
                mean[i] = alpha * mean.get(i, weights.grad) + (1 - alpha) * weights.grad
                weights.grad = weights.grad + strength * mean[i]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        plain.param_groups[0]["lr"] = recipe.lr_at(step)
        plain.step()
        losses.append(loss.item())
    fitted = quiet(recipe)
    torch.testing.assert_close(fitted.loss[1], torch.tensor(losses), rtol=1e-4, atol=1e-5)
    for name, value in model.state_dict().items():
        if name.endswith("b_K"):
            continue  # softmax ignores it: its gradient is rounding noise, which Adam blows up to lr
        torch.testing.assert_close(fitted.model(1).state_dict()[name], value, rtol=1e-3, atol=1e-4)


def test_a_stack_of_seeds_equals_its_seeds_alone(history):
    for seed in (0, 1):
        alone = quiet(seeds=[seed]).loss[0]
        torch.testing.assert_close(history.loss[history.seeds.index(seed)], alone, rtol=1e-3, atol=1e-3)


def test_the_same_seed_gives_the_same_weights(history):
    assert torch.equal(quiet().stack.flat, history.stack.flat)
    assert not torch.equal(history.stack.flat[0], history.stack.flat[1])


def test_only_weighted_answers_are_learned():
    task = WeightedTask(length=3, n_numbers=8)
    weighted = quiet(replace(RECIPE, task=task, steps=1), seeds=[0])
    model = Transformer(RECIPE.config, generator=torch.Generator().manual_seed(0))
    tokens = task.sample(train.POOL * 16, generator=torch.Generator().manual_seed(DATA_SEED))[:16]
    wanted = cross_entropy(model(tokens)[:, 3], tokens[:, 4])
    torch.testing.assert_close(weighted.loss[0, 0], wanted.detach(), rtol=1e-5, atol=1e-6)


def test_an_interrupted_run_goes_on_bit_for_bit(tmp_path, history, eager_state):
    with pytest.raises(Power):
        quiet(out=tmp_path, callback=fail_at_40)
    seen = []
    resumed = quiet(out=tmp_path, callback=lambda step, stack: seen.append(step))
    assert seen == [40, 60]
    for step, stack in history.checkpoints.items():
        assert torch.equal(resumed.checkpoints[step].flat, stack.flat)
    assert torch.equal(resumed.loss, history.loss)


@pytest.mark.parametrize("began", [True, False])
def test_a_run_that_goes_on_keeps_its_route(tmp_path, monkeypatch, eager_state, began):
    """oneDNN and torch's default round differently, and the choice by speed could change in between."""
    routes = []
    monkeypatch.setattr(fast, "medium_is_accurate", lambda: True)
    monkeypatch.setattr(train, "onednn_pays", lambda *_: True)
    monkeypatch.setattr(fast, "medium_is_faster", lambda size: began)
    with pytest.raises(Power):
        quiet(out=tmp_path, callback=fail_at_40)
    monkeypatch.setattr(fast, "medium_is_faster", lambda size: not began)
    quiet(out=tmp_path, callback=lambda step, stack: routes.append(torch.get_float32_matmul_precision()))
    assert routes == ["medium" if began else "highest"] * 2


def test_a_start_overwrites_its_part_and_nothing_else(history):
    start = Given()
    begun = quiet(replace(RECIPE, start=start))
    for seed in (0, 1):
        donor, fresh, model = start.model(seed), history.model(seed, 0), begun.model(seed, 0)
        assert torch.equal(model.embed.W_E, donor.embed.W_E)
        for name, value in model.state_dict().items():
            assert name == "embed.W_E" or torch.equal(value, fresh.state_dict()[name])
        assert not torch.equal(begun.model(seed, 20).embed.W_E, donor.embed.W_E)  # it trains on
        assert not torch.equal(begun.model(seed, 40).blocks[0].attn.W_Q, donor.blocks[0].attn.W_Q)


def test_a_start_can_come_back_every_so_many_steps():
    start = Given(every=20)
    begun = quiet(replace(RECIPE, start=start))
    for seed in (0, 1):
        for step in (20, 40, 60):
            assert torch.equal(
                begun.model(seed, step).blocks[0].attn.W_Q, start.model(seed).blocks[0].attn.W_Q
            )
    assert not torch.equal(begun.model(0).embed.W_E, start.model(0).embed.W_E)


def test_grokfast_matters_and_its_mean_is_resumed(tmp_path, eager_state, monkeypatch):
    recipe = replace(RECIPE, grokfast=(0.98, 2.0), clip=None)
    whole = quiet(recipe)
    assert not torch.allclose(whole.stack.flat, quiet(replace(recipe, grokfast=None)).stack.flat, atol=1e-3)
    with pytest.raises(Power):
        quiet(recipe, out=tmp_path / "a", callback=fail_at_40)
    assert torch.equal(quiet(recipe, out=tmp_path / "a").stack.flat, whole.stack.flat)
    with pytest.raises(Power):
        quiet(recipe, out=tmp_path / "b", callback=fail_at_40)
    monkeypatch.setattr(Step, "set", lambda self, *args, set=Step.set: set(self, *args[:-1], args[-1] * 0))
    assert not torch.equal(quiet(recipe, out=tmp_path / "b").stack.flat, whole.stack.flat), "it is not read"


@pytest.mark.parametrize("every", [None, 7])
def test_a_run_with_a_start_goes_on_bit_for_bit(tmp_path, eager_state, monkeypatch, every):
    recipe = replace(RECIPE, start=Given(every))
    whole = quiet(recipe)
    with pytest.raises(Power):
        quiet(recipe, out=tmp_path, callback=fail_at_40)
    resumed = quiet(recipe, out=tmp_path)
    for step, stack in whole.checkpoints.items():
        assert torch.equal(resumed.checkpoints[step].flat, stack.flat)
    monkeypatch.setattr(Given, "model", lambda *_: pytest.fail("a finished run needs no donor"))
    assert torch.equal(quiet(recipe, out=tmp_path).stack.flat, whole.stack.flat)


def test_a_donor_may_be_trained_where_the_run_lies(tmp_path):
    recipe = replace(RECIPE, start=Given(trained=True), steps=3, checkpoints=(0,))
    begun = quiet(recipe, out=tmp_path, seeds=(1,))
    assert (tmp_path / "donor" / "seed-1" / "state.safetensors").exists()
    assert torch.equal(begun.model(1, 0).embed.W_E, quiet(DONOR, seeds=(1,)).model().embed.W_E)


def test_a_finished_run_is_read_back(tmp_path, history):
    quiet(out=tmp_path)
    seen = []
    again = quiet(out=tmp_path, callback=lambda step, stack: seen.append(step))
    assert seen == []
    assert torch.equal(again.stack.flat, history.stack.flat)


KILLED = """
import sys, time
from dataclasses import replace
from mi_lab import fast, train
from mi_lab.model import TransformerConfig
from mi_lab.studies.sorting.task import SortingTask
recipe = train.Recipe(
    "tiny", SortingTask(length=3, n_numbers=8),
    TransformerConfig(n_layers=1, n_heads=2, d_model=8, d_head=4, n_ctx=7, d_vocab=9),
    lr=1e-2, weight_decay=0.01, batch=16, steps=60, seeds=(0, 1), checkpoints=(0, 20, 40),
)
train.STATE_SECONDS = -1.0
slow = train._Group._save_state
train._Group._save_state = lambda self: (slow(self), time.sleep(0.02))
train.fit(recipe, out=sys.argv[1], progress=False, device="cpu")
"""


@pytest.mark.slow
def test_a_killed_run_goes_on_bit_for_bit(tmp_path, history):
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path)])
    folder = tmp_path / "tiny" / "seed-0-1"
    deadline = time.monotonic() + 60
    while not (folder / "step-0000020.safetensors").exists() and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not (folder / "step-0000060.safetensors").exists()
    resumed = quiet(out=tmp_path)
    for step, stack in history.checkpoints.items():
        assert torch.equal(resumed.checkpoints[step].flat, stack.flat)
    assert torch.equal(resumed.loss, history.loss)


def test_a_diverging_seed_is_named_and_the_others_go_on(monkeypatch, history):
    init = Stack.init.__func__

    def with_a_bad_seed(cls, config, seeds, device="cpu"):
        stack = init(cls, config, seeds, device)
        if 1 in seeds:
            stack.flat[seeds.index(1)] = 1e30
        return stack

    monkeypatch.setattr(Stack, "init", classmethod(with_a_bad_seed))
    with pytest.warns(UserWarning, match="tiny: seed 1 diverged at step 1"):
        mixed = quiet()
    assert mixed.diverged == {1: 1}
    assert mixed.provenance()["diverged"] == {"1": 1}
    assert torch.equal(mixed.stack.flat[0], history.stack.flat[0])


def test_a_huge_learning_rate_is_reported_and_ends_early(monkeypatch):
    monkeypatch.setattr(train, "group_size", lambda *_: 1)
    recipe = replace(RECIPE, lr=1e38, steps=1003, weight_decay=0.0, checkpoints=(0, 700))
    with pytest.warns(UserWarning, match="seed [01] diverged at step"):
        history = quiet(recipe)
    assert set(history.diverged) == {0, 1}
    assert max(history.diverged.values()) < 100
    assert history.loss.shape == (2, len(history.logged))
    assert history.logged[-1] == 1003
    assert list(history.checkpoints) == [0, 700, 1003]


@pytest.mark.slow
def test_groups_that_diverge_and_groups_that_do_not_are_merged(monkeypatch):
    monkeypatch.setattr(train, "group_size", lambda *_: 1)
    init = Stack.init.__func__
    monkeypatch.setattr(
        Stack,
        "init",
        classmethod(
            lambda cls, c, seeds, d: Stack(c, init(cls, c, seeds, d).flat * (1e30 if 1 in seeds else 1))
        ),
    )
    with pytest.warns(UserWarning, match="seed 1 diverged"):
        history = quiet(replace(RECIPE, steps=1003, batch=2))
    assert history.loss.shape == (2, len(history.logged))
    assert history.loss[0].isfinite().all()
    assert history.loss[1, -1].isnan()


def test_a_folder_in_use_is_refused(tmp_path):
    with held(tmp_path / "tiny" / "seed-0-1"), pytest.raises(RuntimeError, match="in use by another run"):
        quiet(out=tmp_path)


def test_an_unwritable_folder_is_named_before_training(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"file/tiny/seed-0-1 can't be written"):
        quiet(out=tmp_path / "file")


def test_a_folder_of_another_recipe_is_refused(tmp_path):
    quiet(replace(RECIPE, steps=2), out=tmp_path)
    with pytest.raises(ValueError, match="holds a run of another recipe"):
        quiet(replace(RECIPE, steps=2, lr=0.5), out=tmp_path)


def test_a_full_disk_loses_nothing(tmp_path, monkeypatch, history, eager_state):
    real, calls = os.replace, []

    def full(source, target):
        calls.append(target)
        if len(calls) > 30:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(source, target)

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(CheckpointError, match="no space is left"):
        quiet(out=tmp_path)
    monkeypatch.setattr(os, "replace", real)
    assert torch.equal(quiet(out=tmp_path).stack.flat, history.stack.flat)


def test_a_truncated_state_is_named(tmp_path):
    quiet(replace(RECIPE, steps=2), out=tmp_path)
    state = tmp_path / "tiny" / "seed-0-1" / "state.safetensors"
    state.write_bytes(state.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match=r"state.safetensors is truncated"):
        quiet(replace(RECIPE, steps=2), out=tmp_path)


def test_a_device_that_is_not_there_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert pick_device("auto") == torch.device("cpu")
    with pytest.raises(ValueError, match="'cuda' was asked for, but torch sees no GPU"):
        fit(RECIPE, device="cuda")
    with pytest.raises(ValueError, match="device must be 'auto', 'cpu' or 'cuda', not 'banana'"):
        fit(RECIPE, device="banana")


def test_seeds_must_differ():
    for seeds in ([], [1, 1]):
        with pytest.raises(ValueError, match="different whole numbers, at least one"):
            quiet(seeds=seeds)


def test_a_history_names_what_it_has(history):
    with pytest.raises(ValueError, match=r"seeds \[0, 1\], not 9"):
        history.model(9)
    with pytest.raises(ValueError, match=r"kept steps \[0, 20, 40, 60\], not 7"):
        history.model(0, 7)


def test_a_progress_bar_shows_loss_and_accuracy(capsys):
    fit(replace(RECIPE, steps=5), device="cpu")
    shown = capsys.readouterr().err
    assert "2 seeds, loss" in shown
    assert "accuracy" in shown


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optimiser": "sgd"}, "optimiser must be 'adam' or 'adamw', not 'sgd'"),
        ({"decay": "exp"}, "decay must be"),
        ({"lr": 0}, "lr must be positive"),
        ({"weight_decay": -1}, "weight_decay must be 0 or positive"),
        ({"batch": 0}, "batch must be at least 1"),
        ({"steps": 0}, "steps must be at least 1"),
        ({"decay_from": 1.0}, r"decay_from must be in \[0, 1\)"),
        ({"clip": 0.0}, "clip must be positive or None"),
        ({"exits": -0.5}, "exits must be 0 or positive, not -0.5"),
        (
            {"grokfast": (1.0, 2.0)},
            r"grokfast must be None or \(alpha in \[0, 1\), lambda > 0\), not \(1.0, 2.0\)",
        ),
        ({"grokfast": (0.98, 0.0)}, "grokfast must be"),
        ({"data": -1}, r"data must be in \[0, 2\^31\), not -1"),
        ({"start": Given(every=0)}, r"start.every must be at least 1 or None, not 0"),
        ({"horizon": 10}, "horizon must be at least steps = 60, not 10"),
        ({"task": SortingTask()}, "the task needs n_ctx >= 21 and d_vocab >= 52"),
    ],
)
def test_an_impossible_recipe_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        replace(RECIPE, **changes)


def test_the_learning_rate_rises_stays_and_falls():
    recipe = replace(RECIPE, lr=1.0, warmup=10, steps=100, decay_from=0.5, final_lr=0.1)
    assert [recipe.lr_at(s) for s in (0, 4, 9, 10, 50)] == pytest.approx([0.1, 0.5, 1, 1, 1])
    assert recipe.lr_at(75) == pytest.approx(0.55)
    assert recipe.lr_at(100) == pytest.approx(0.1)
    assert replace(recipe, decay="cosine").lr_at(75) == pytest.approx(0.55)
    assert replace(recipe, decay="constant").lr_at(99) == 1.0
    assert replace(recipe, horizon=200).lr_at(100) == 1.0


def test_the_digest_changes_with_what_decides_the_result():
    assert replace(RECIPE, name="other", seeds=(5,), checkpoints=()).digest == RECIPE.digest
    for changes in ({"lr": 0.1}, {"task": SortingTask(3, 8, repeats=True)}, {"clip": 1.0}):
        assert replace(RECIPE, **changes).digest != RECIPE.digest
    options = [RECIPE, replace(RECIPE, exits=0.5), replace(RECIPE, exits=1.0), replace(RECIPE, data=7)]
    assert len({recipe.digest for recipe in options}) == 4
    fast = [replace(RECIPE, grokfast=pair).digest for pair in (None, (0.98, 2.0), (0.9, 2.0))]
    assert len(set(fast)) == 3
    assert (
        not {"exits", "data", "grokfast"} & RECIPE.to_dict().keys()
    )  # digests from before there was a choice stay
    starts = [replace(RECIPE, start=start).digest for start in (None, Given(), Given(every=3))]
    assert len(set(starts)) == 3
    assert starts[0] == RECIPE.digest


def test_tf32_is_another_recipe_and_fp32_on_a_cpu(history):
    rounded = replace(RECIPE, precision="tf32")
    assert rounded.digest != RECIPE.digest
    assert torch.equal(quiet(rounded).stack.flat, history.stack.flat)
    with pytest.raises(ValueError, match="precision must be 'fp32', 'tf32' or 'bf16', not 'fp16'"):
        replace(RECIPE, precision="fp16")


@pytest.mark.parametrize(("precision", "asked"), [("fp32", False), ("tf32", True), ("bf16", False)])
def test_only_a_tf32_recipe_asks_for_tf32(monkeypatch, precision, asked):
    seen = []
    real = train.fast_matmul
    monkeypatch.setattr(
        train,
        "fast_matmul",
        lambda device, **options: (seen.append(options["tf32"]), real(device, **options))[1],
    )
    quiet(replace(RECIPE, precision=precision, steps=1, checkpoints=()))
    assert seen == [asked]


def test_names_of_recipes_can_still_be_had_from_here():
    from mi_lab import recipe

    for name in ("Recipe", "Start", "describe", "log_steps"):
        assert getattr(train, name) is getattr(recipe, name)


def test_the_digest_does_not_change_with_the_library():
    """Published models are found by it: a new knob of `Recipe` stays out of it where it is not used."""
    assert RECIPE.digest == "af345f676d58ac5c"


def test_log_steps_are_sorted_and_end_at_the_last():
    assert log_steps(5) == (0, 1, 2, 3, 4, 5)
    steps = log_steps(6000)
    assert steps[0] == 0
    assert steps[-1] == 6000
    assert list(steps) == sorted(set(steps))
