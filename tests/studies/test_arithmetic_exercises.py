"""The chapter's checks: the right solutions pass (they are in the chapter, tested there), usual mistakes fail."""

import math

import pytest
import torch

from mi_lab.studies.arithmetic import exercises as ex


def positions_of_the_answer_itself(n, k):
    return n - 1 - k, 2 * n - k, 3 * n + 3 - k  # where it stands, not where it is predicted


def units_wait_too(d, e, k):
    return "1" if d + e >= 10 else "U" if d + e == 9 else "0"


def last_state_decides(states):
    return states.rstrip("U")[-1:] or "0"


def sampled_rate(n):
    return 0.0135


def only_s3(count):
    x = torch.ones(count, 5, dtype=torch.long)
    y = 9 - x
    x[:, 4], y[:, 4] = 9, 9  # class S5, but the same question again and again
    return x, y


def too_short(count):
    x, y = torch.randint(10, (2, count, 5))
    return x, y


def rule_of_three(bound):
    return math.ceil(3 / bound)  # one-sided 95 %


def units_decide(d, e):
    return d[:, 0] < e[:, 0]


def nothing_breaks(model, tokens, answer, layer, head, position):
    return 0


def carry_into_k(clean, store, k):
    total, carry = clean.sum(1), (store.sum(1)[:, k] >= 10).long()  # ignores what comes from below in store
    out, now = [], torch.zeros(len(clean), dtype=torch.long)
    for column in range(total.shape[1]):
        s = total[:, column] + now
        out.append(s % 10)
        now = carry if column == k else (s >= 10).long()
    return torch.stack([*out, now], 1)


def never_zero_forgotten(x, labels, score):
    true = score(x, labels)
    return sum(score(x, labels[torch.randperm(len(labels))]) >= true for _ in range(200)) / 200


@pytest.mark.parametrize(
    ("check", "mistake", "hint"),
    [
        (ex.check_places, positions_of_the_answer_itself, "predicted one position before"),
        (ex.check_tri_state, units_wait_too, "below the units"),
        (ex.check_fold, last_state_decides, "first state from the left"),
        (ex.check_rate, sampled_rate, "three probabilities"),
        (ex.check_sampler, too_short, "below S3"),
        (ex.check_sampler, only_s3, "random"),
        (ex.check_bound, rule_of_three, "2.5 %"),
        (ex.check_sign, units_decide, "highest unequal column"),
        (ex.check_ablate, nothing_breaks, "questions break"),
        (ex.check_moved, carry_into_k, "ripples"),
        (ex.check_null, never_zero_forgotten, "never 0"),
    ],
)
def test_a_usual_mistake_gets_a_hint(check, mistake, hint):
    with pytest.raises(AssertionError, match=hint):
        check(mistake)
