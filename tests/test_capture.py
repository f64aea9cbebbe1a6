"""Replayed steps equal steps from Python, bit for bit: everything about CUDA graphs but the GPU."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch

from mi_lab import capture, step, train
from mi_lab.capture import Captured, OneByOne, cuda_graph, talks_to_host
from mi_lab.model import TransformerConfig
from mi_lab.stack import Stack
from mi_lab.step import Step
from mi_lab.studies.arithmetic.recipes import recipes as arithmetic
from mi_lab.studies.pathfinding.recipes import recipes as pathfinding
from mi_lab.studies.pathfinding.task import PathfindingTask
from mi_lab.studies.sorting.recipes import recipes as sorting
from mi_lab.studies.sorting.task import SortingTask
from mi_lab.train import Recipe, fit
from tests.tape import Tape, recorder
from tests.test_train import Given, Power, WeightedTask

RECIPE = Recipe(
    name="tiny",
    task=SortingTask(length=3, n_numbers=8),
    config=TransformerConfig(n_layers=1, n_heads=2, d_model=8, d_head=4, n_ctx=7, d_vocab=9),
    lr=1e-2,
    weight_decay=0.01,
    batch=4,
    steps=110,
    warmup=20,
    decay="cosine",
    seeds=(0, 1),
    checkpoints=(0, 20, 70, 100),
)
TREES = PathfindingTask(n_nodes=4)
MLP = TransformerConfig(2, 1, 8, 8, n_ctx=TREES.n_ctx, d_vocab=len(TREES.vocab), d_mlp=12, act="gelu")


@pytest.fixture
def captured(monkeypatch) -> list[Tape]:
    """`fit` replays tapes; gives those that were recorded."""
    tapes: list[Tape] = []
    make: Callable = lambda step, log_every, device: Captured(step, log_every, recorder(step, tapes))  # noqa: E731
    monkeypatch.setattr(train, "runner", make)
    return tapes


def quiet(recipe=RECIPE, **options):
    return fit(recipe, progress=False, device="cpu", **options)


def same(ours, theirs):
    assert list(ours.checkpoints) == list(theirs.checkpoints)
    for at, stack in theirs.checkpoints.items():
        assert torch.equal(ours.checkpoints[at].flat, stack.flat), at
    assert torch.equal(ours.logged, theirs.logged)
    torch.testing.assert_close(ours.loss, theirs.loss, rtol=0, atol=0, equal_nan=True)
    torch.testing.assert_close(ours.accuracy, theirs.accuracy, rtol=0, atol=0, equal_nan=True)


CASES = {
    "a stack": {},
    "one model": {"seeds": (3,)},
    "coupled decay": {"optimiser": "adam"},
    "clipped": {"clip": 0.3},
    "GrokFast": {"grokfast": (0.9, 2.0), "clip": 0.3},
    "bf16": {"precision": "bf16"},
    "weights": {"task": WeightedTask(length=3, n_numbers=8)},
    "trees": {"task": TREES, "config": MLP, "decay": "linear", "decay_from": 0.5, "clip": 1.0},
    "a donor again and again": {"start": Given(every=7)},
}


@pytest.mark.parametrize("changes", CASES.values(), ids=CASES)
def test_replayed_training_equals_training(monkeypatch, captured, changes):
    recipe = replace(RECIPE, **changes)
    replayed = quiet(recipe)
    assert [len(tape.calls) > 0 for tape in captured] == [True, True]  # one step, one pool
    monkeypatch.undo()
    same(replayed, quiet(recipe))


def test_a_step_that_asks_python_is_found_out(monkeypatch, captured):
    """The control: a rate that Python works out stays what it was when it was recorded."""

    class Asks(Step):
        done = 0

        def __call__(self, note=True):
            self.rates.fill_(self.recipe.lr_at(self.done))
            type(self).done += 1
            super().__call__(note)

    monkeypatch.setattr(train, "Step", Asks)
    asked = quiet()
    monkeypatch.undo()
    plain = quiet()
    assert torch.equal(asked.checkpoints[20].flat, plain.checkpoints[20].flat)  # not yet recorded
    assert not torch.equal(asked.stack.flat, plain.stack.flat)


def test_pools_are_launched_whole_wherever_nothing_is_due(captured):
    replays = []
    real = Tape.replay
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Tape, "replay", lambda tape: (replays.append(captured.index(tape)), real(tape)))
        quiet()
    assert replays == [1, *[0] * (110 - 64)]  # 32 from Python, 32 whole, then steps 70 and 100 are due


def test_a_sampler_that_talks_to_the_host_stays_outside(monkeypatch, captured):
    recipe = replace(RECIPE, task=SortingTask(length=3, n_numbers=8, mean_gap=1.5))
    replayed = quiet(recipe)  # the recorder objects to a generator in the graph
    assert len(captured) == 2
    monkeypatch.undo()
    same(replayed, quiet(recipe))


@pytest.mark.parametrize("stop", [20, 70])
def test_a_replayed_run_goes_on_where_it_was(tmp_path, monkeypatch, captured, stop):
    monkeypatch.setattr(train, "STATE_SECONDS", -1.0)

    def fail(step, stack):
        if step == stop:
            raise Power

    with pytest.raises(Power):
        quiet(out=tmp_path, callback=fail)
    resumed = quiet(out=tmp_path)
    monkeypatch.undo()
    plain = quiet()
    same(resumed, plain)


def test_numbers_are_read_late_but_all_of_them(monkeypatch, captured):
    """The log on the device holds 96 steps here; nothing else asks for them before the end."""
    recipe = replace(RECIPE, steps=150, checkpoints=(), batch=1, seeds=(0,))
    read = []
    real = Step.noted
    for module in (step, train):
        monkeypatch.setattr(module, "LOG", 96)
    monkeypatch.setattr(train, "SHOW_SECONDS", 1e9)
    monkeypatch.setattr(Step, "noted", lambda self, steps: (read.append(list(steps)), real(self, steps))[1])
    replayed = quiet(recipe)
    assert read == [list(range(1, 97)), list(range(97, 151))]
    monkeypatch.undo()
    same(replayed, quiet(recipe))


def test_a_diverging_seed_is_named_with_its_own_step(monkeypatch, captured):
    recipe = replace(RECIPE, lr=1e38, warmup=0, weight_decay=0.0, seeds=(0,), checkpoints=())
    with pytest.warns(UserWarning, match="seed 0 diverged at step"):
        replayed = quiet(recipe)
    monkeypatch.undo()
    with pytest.warns(UserWarning, match="seed 0 diverged at step"):
        assert quiet(recipe).diverged == replayed.diverged


def test_a_cpu_runs_its_steps_one_by_one(monkeypatch):
    monkeypatch.setattr(capture, "cuda_graph", lambda *_: pytest.fail("nothing to record on a CPU"))
    one = Step(RECIPE, Stack.init(RECIPE.config, (0,)), [torch.Generator()])
    assert type(train.runner(one, 1, torch.device("cpu"))) is OneByOne
    assert type(train.runner(one, 1, torch.device("cuda"))) is Captured


def test_recording_names_the_generators_first(monkeypatch):
    """What `cuda_graph` asks of torch, in order; a GPU has not run it."""
    asked = []

    class Graph:
        def register_generator_state(self, generator):
            asked.append(generator)

        def replay(self):
            asked.append("replay")

    @contextmanager
    def recording(graph):
        asked.append("begin")
        yield
        asked.append("end")

    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "graph", recording)
    generators = [torch.Generator(), torch.Generator()]
    cuda_graph(lambda: asked.append("call"), generators)()
    assert asked == [*generators, "begin", "call", "end", "replay"]


# What a graph can't hold ---------------------------------------------------------------------------
TALKS = {
    "item": lambda x: x.sum().item(),
    "if": lambda x: 1 if x.sum() > 0 else 0,
    "mask": lambda x: x[x > 0],
    "put by mask": lambda x: x.index_put((x > 0,), torch.zeros(())),
    "nonzero": lambda x: x.nonzero(),
    "unique": lambda x: x.unique(),
    "float": lambda x: float(x[0]),
    "from Python": lambda x: x + torch.tensor([1.0, 2.0, 3.0]),
    "other device": lambda x: x.to("meta"),
    "one number to another device": lambda x: x[0].to("meta"),
}
SILENT = {
    "where": lambda x: torch.where(x > 0, x, 0.0),
    "gather": lambda x: x.gather(0, torch.zeros(3, dtype=torch.long)),
    "index": lambda x: x[torch.arange(2)],
    "masked_fill": lambda x: x.masked_fill(x > 0, 1.0),
    "sort": lambda x: x.sort().values,
    "range": lambda x: torch.arange(3),
    "a number": lambda x: torch.where(x > 0, x, 2.0) * 3.0,
    "a number into a place": lambda x: x.clone().__setitem__(slice(0, 2), 3.0),
}


@pytest.mark.parametrize("name", TALKS)
def test_talk_with_the_host_is_heard(name):
    x = torch.tensor([1.0, -1.0, 2.0])
    assert talks_to_host(lambda: TALKS[name](x)) is not None


@pytest.mark.parametrize("name", SILENT)
def test_what_stays_on_the_device_is_silent(name):
    x = torch.tensor([1.0, -1.0, 2.0])
    assert talks_to_host(lambda: SILENT[name](x)) is None


SAMPLED = {
    **{f"sorting/{k}": r for k, r in sorting.items()},
    **{f"arithmetic/{k}": r for k, r in list(arithmetic.items())[:12]},
    **{f"pathfinding/{k}": r for k, r in pathfinding.items()},
}
FIXED_SETS = {"pathfinding/middle_fixed"}  # on a GPU the trees would have to come over


@pytest.mark.parametrize("name", sorted(SAMPLED.keys() - FIXED_SETS))
def test_the_studies_data_can_be_made_inside_a_graph(name):
    task = SAMPLED[name].task
    generator = torch.Generator().manual_seed(0)
    task.sample(2, generator=generator)  # what is kept from the first call on is made there
    assert talks_to_host(lambda: task.sample(2, generator=generator)) is None


@pytest.mark.parametrize("seeds", [(0,), (0, 1)])
@pytest.mark.parametrize("name", ["sorting/paper", "arithmetic/add_d3_l2_h3", "pathfinding/quick"])
def test_a_whole_step_of_each_study_is_silent(name, seeds):
    recipe = replace(SAMPLED[name], batch=2)
    one = Step(recipe, Stack.init(recipe.config, seeds), [torch.Generator().manual_seed(s) for s in seeds])
    one.draw()
    one()
    assert talks_to_host(one) is None
    assert int(one.at) == 2
    loss, accuracy = one.noted([1, 2])
    assert len(loss) == len(accuracy) == 2
    assert len(loss[0]) == len(seeds)
