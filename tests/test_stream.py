"""Evaluation as a stream: the same counts as in one piece, in the memory of one batch."""

import json
import subprocess
import sys

import pytest
import torch

from mi_lab.metrics import clopper_pearson
from mi_lab.model import TransformerConfig
from mi_lab.stream import evaluate
from mi_lab.studies.sorting.task import SortingTask
from mi_lab.train import Recipe, fit

TASK = SortingTask(length=2, n_numbers=4)


@pytest.fixture(scope="module")
def model():
    """Right on some questions, wrong on others."""
    config = TransformerConfig(n_layers=1, n_heads=1, d_model=8, d_head=8, n_ctx=5, d_vocab=5)
    recipe = Recipe("half", TASK, config, lr=1e-2, batch=32, steps=25)
    return fit(recipe, device="cpu", progress=False).model()


def test_counts_are_those_of_the_same_questions_in_one_piece(model):
    generator = torch.Generator().manual_seed(3)
    tokens = torch.cat([TASK.sample(k, generator=generator) for k in (64, 64, 22)])
    correct = TASK.grade(model, tokens)
    assert 0 < correct.sum() < 150
    found = evaluate(model, TASK, 150, seed=3, batch=64, classes="span", keep=1000)
    assert found.n == 150
    assert found.exact == clopper_pearson(int(correct.sum()), 150)
    assert torch.equal(found.wrong, tokens[~correct])
    span = TASK.variables(tokens)["span"]
    assert list(found.by_class) == span.unique().tolist()
    for value, interval in found.by_class.items():
        assert interval == clopper_pearson(int(correct[span == value].sum()), int((span == value).sum()))
    assert len(evaluate(model, TASK, 150, seed=3, batch=64, keep=2).wrong) == 2


def test_classes_may_be_a_function(model):
    found = evaluate(model, TASK, 100, classes=lambda tokens: tokens[:, 0], free_running=False, keep=0)
    assert list(found.by_class) == [0, 1, 2, 3]
    assert found.wrong.shape == (0, 5)


def test_what_is_out_of_range_is_named(model):
    for options in ({"n": 0}, {"n": 5, "batch": 0}, {"n": 5, "keep": -1}):
        with pytest.raises(ValueError, match=f"{list(options)[-1]} must be at least"):
            evaluate(model, TASK, **options)
    with pytest.raises(ValueError, match="no variable 'carry'; it has current, target"):
        evaluate(model, TASK, 5, classes="carry")
    with pytest.raises(ValueError, match=r"gap must give one class per question, not shape \[5, 1\]"):
        evaluate(model, TASK, 5, classes="gap")


GROWTH = """
import json, resource, torch
from mi_lab.model import Transformer, TransformerConfig
from mi_lab.stream import evaluate
from mi_lab.studies.sorting.task import SortingTask
torch.set_num_threads(1)
config = TransformerConfig(n_layers=1, n_heads=1, d_model=4, d_head=4, n_ctx=9, d_vocab=9)
model, task = Transformer(config), SortingTask(length=4, n_numbers=8)
peaks = []
for n in (8_192, 8_192, 262_144):
    evaluate(model, task, n, classes="span")
    peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
print(json.dumps(peaks))
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_questions():
    """The tokens alone of the questions asked last would take 19 MB."""
    result = subprocess.run([sys.executable, "-c", GROWTH], capture_output=True, text=True, check=True)
    _, few, many = json.loads(result.stdout)
    assert many - few < 4, f"peak memory grew from {few:.1f} to {many:.1f} MB"
