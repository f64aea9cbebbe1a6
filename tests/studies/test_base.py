import pytest
import torch

from mi_lab.model import Transformer, TransformerConfig
from mi_lab.studies import base
from mi_lab.studies.base import Task, generate, grade, predict, targets


class ByHand:
    """Not a network: predicts the sorted list, made to err in one place."""

    def __init__(self, task, wrong_first_when_even=False):
        self.task, self.wrong = task, wrong_first_when_even
        self.longest = 0

    def __call__(self, tokens):
        length = self.task.length
        self.longest = max(self.longest, tokens.shape[1])
        right = tokens[:, :length].sort(1).values
        logits = torch.zeros(*tokens.shape, len(self.task.vocab))
        for i in range(length, tokens.shape[1]):
            rank = i - length
            guess = right[:, min(rank, length - 1)].clone()
            if rank == 0 and self.wrong:
                guess[guess % 2 == 0] += 1
            elif rank > 0:  # goes on from what stands there
                larger = torch.where(right > tokens[:, i, None], right, 10**6).min(1).values
                guess = larger.clamp(max=len(self.task.vocab) - 1)
            logits[torch.arange(len(tokens)), i, guess] = 1.0
        return logits


@pytest.fixture
def tokens(task):
    return task.sample(200, generator=torch.Generator().manual_seed(0))


def test_the_sorting_task_is_a_task(task):
    assert isinstance(task, Task)


def test_targets_are_what_follows_the_answer_positions(task, tokens):
    assert torch.equal(targets(task, tokens), tokens[:, 4:7])


def test_a_perfect_model_is_right(task, tokens):
    model = ByHand(task)
    assert grade(model, task, tokens).all()
    assert grade(model, task, tokens, free_running=False).all()
    assert torch.equal(generate(model, task, tokens), tokens)
    assert torch.equal(predict(model, task, tokens), targets(task, tokens))


def test_generating_never_reads_the_answer(task, tokens):
    blank = tokens.clone()
    blank[:, 4:] = 0
    model = ByHand(task)
    assert torch.equal(generate(model, task, blank, batch=64), tokens)
    assert model.longest == 6  # the last token is predicted, never read
    assert grade(model, task, blank).all()


def test_a_first_error_is_carried_on_when_the_model_runs_freely(task, tokens):
    model = ByHand(task, wrong_first_when_even=True)
    even = targets(task, tokens)[:, 0] % 2 == 0
    assert torch.equal(grade(model, task, tokens), ~even)
    forced = predict(model, task, tokens) == targets(task, tokens)
    assert forced[:, 1:].all()
    assert torch.equal(forced[:, 0], ~even)
    free = generate(model, task, tokens)[:, 4:] == targets(task, tokens)
    assert not free[even].all(0)[1]  # the second token suffers where the first one skipped it


def test_an_untrained_model_is_wrong(task, tokens):
    config = TransformerConfig(n_layers=1, n_heads=1, d_model=4, d_head=4, n_ctx=7, d_vocab=9)
    model = Transformer(config)
    assert grade(model, task, tokens).float().mean() < 0.05
    assert torch.equal(task.grade(model, tokens), base.grade(model, task, tokens))
