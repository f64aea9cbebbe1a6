"""Visible checks for the chapter's exercises. Each raises AssertionError with a hint, or says that it holds.

A check compares a reader's function with an independent computation, on questions and models that the
reader didn't see.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction

import torch
from torch import Tensor

from mi_lab import zoo
from mi_lab.ablate import sweep_nodes
from mi_lab.metrics import clopper_pearson
from mi_lab.model import Transformer
from mi_lab.run import Node
from mi_lab.studies.arithmetic import classes
from mi_lab.studies.arithmetic.subtasks import U, cascade
from mi_lab.studies.arithmetic.task import ArithmeticTask


def _said(text: str) -> str:
    print(text)
    return text


def _questions(digits: int, operations: str, n: int, seed: int) -> tuple[ArithmeticTask, Tensor]:
    task = ArithmeticTask(digits, operations)  # type: ignore[arg-type]
    return task, task.sample(n, generator=torch.Generator().manual_seed(seed))


def check_places(places: Callable[[int, int], tuple[int, int, int]]) -> str:
    """`places(n, k)`: positions of D_k and D'_k, and the one whose output is A_k, for n-digit numbers."""
    for n in (3, 5, 6, 10):
        task = ArithmeticTask(n)
        for k in range(n):
            right = (task.position(f"D{k}"), task.position(f"D'{k}"), task.position(f"A{k}") - 1)
            mine = tuple(places(n, k))
            assert mine == right, (
                f"n = {n}, k = {k}: they stand at {right}, you say {mine}. Hint: count in 123+456=+0579; "
                "k = 0 are the units, and an answer token is predicted one position before it stands"
            )
    return _said("Right: n - 1 - k, 2n - k and 3n + 2 - k.")


def check_tri_state(tri_state: Callable[[int, int, int], str]) -> str:
    """`tri_state(d, e, k)`: "1", "0" or "U" for column k of an addition, from its two digits."""
    for k in (0, 1, 4):
        for d in range(10):
            for e in range(10):
                right = "1" if d + e >= 10 else "U" if d + e == 9 and k > 0 else "0"
                mine = tri_state(d, e, k)
                assert mine == right, (
                    f"column {k} with {d} and {e} is {right!r}, you say {mine!r}. "
                    "Hint: nothing can come in below the units"
                )
    return _said("Right, for all 300 cases.")


def check_fold(fold: Callable[[str], str]) -> str:
    """`fold(states)`: the carry out of the highest column, "0" or "1"; states highest first, e.g. "UU1"."""
    task, tokens = _questions(6, "+", 500, 81)
    v = task.variables(tokens)
    letters = {0: "0", 1: "1", U: "U"}
    for row, right in zip(v["ST"].flip(1).tolist(), v["SV"][:, -1].tolist(), strict=True):
        states = "".join(letters[x] for x in row)
        mine = str(fold(states))
        assert mine == str(right), (
            f"{states} carries {right}, you say {mine}. Hint: the first state from the left that is not U decides"
        )
    return _said("Right: 500 cascades folded.")


def check_rate(rate: Callable[[int], float]) -> str:
    """`rate(n)`: share of uniform n-digit additions that look-back 2 gets wrong."""
    for n in (2, 3, 4, 5, 8):
        frequency = classes.frequencies(n, "S")
        right = float(sum(frequency[3:], Fraction(0)))
        mine = float(rate(n))
        assert abs(mine - right) < 1e-9, (
            f"n = {n}: {right:.6%} of all questions, you say {mine:.6%}. Hint: walk up the columns with "
            "three probabilities (carries .45, sums to 9 .10, neither .45) and remember how far the last carry is"
        )
    return _said("Right: .45 % of 3-digit additions, 1.35 % of 5-digit ones.")


def check_sampler(draw: Callable[[int], tuple[Tensor, Tensor]]) -> str:
    """`draw(count)`: 5-digit additions of class S3 and above, digits x, y Int[count, 5], highest first."""
    task = ArithmeticTask(5)
    x, y = draw(4000)
    assert x.shape == y.shape == (4000, 5), (
        f"two tensors of shape [4000, 5] are wanted, not {list(x.shape)}, {list(y.shape)}"
    )
    assert ((x >= 0) & (x <= 9) & (y >= 0) & (y <= 9)).all(), "digits are 0 to 9"
    minus = torch.zeros(len(x), 1, dtype=torch.bool)
    found = task.variables(task.complete(x, y, minus))["S"]
    bad = int((found < 3).sum())
    assert not bad, (
        f"{bad} of 4,000 questions are below S3. Hint: a column that carries and two 9s right above it"
    )
    columns = {tuple(row) for row in x.tolist()}
    assert len(columns) > 3000, "the questions are nearly all alike: draw the other columns at random"
    assert (found >= 4).any(), "no S4 at all: the columns that are free should be free to extend the cascade"
    return _said("Right: 4,000 questions with a long cascade, which uniform digits show once in 74.")


def check_bound(needed: Callable[[float], int]) -> str:
    """`needed(bound)`: so many questions without a failure prove a failure rate below `bound`, at 95 % two-sided."""
    for bound in (1e-3, 1e-4, 1e-5):
        mine = int(needed(bound))
        assert mine > 0, "at least one question"
        enough, less = clopper_pearson(0, mine).high, clopper_pearson(0, mine - 1).high
        assert enough <= bound < less * (1 + 1e-9), (
            f"after {mine:,} questions without a failure the interval ends at {enough:.3g}, asked was {bound:g}. "
            "Hint: the largest rate at which no failure in n still has a chance of 2.5 %"
        )
    return _said(
        "Right: 3.7 divided by the bound. After a thousand perfect answers 4 in 1,000 may still be wrong."
    )


def check_sign(negative: Callable[[Tensor, Tensor], Tensor]) -> str:
    """`negative(d, e)`: Bool[n], is D - D' < 0, from digits Int[n, digits], units first, by comparing columns."""
    for digits in (1, 3, 7):
        task, tokens = _questions(digits, "-", 2000, 82)
        v = task.variables(tokens)
        mine, right = torch.as_tensor(negative(v["D"], v["D'"])).bool(), v["SGN"].bool()
        assert mine.shape == right.shape, f"one answer for each question, not shape {list(mine.shape)}"
        wrong = (mine != right).nonzero()
        assert not len(wrong), (
            f"{task.decode(tokens[int(wrong[0])])}: you say "
            f"{'negative' if mine[int(wrong[0])] else 'not negative'}. Hint: the highest unequal column decides"
        )
    return _said("Right: the fold of MT, from the highest column down.")


def check_ablate(broken: Callable[[Transformer, Tensor, slice, int, int, int], int]) -> str:
    """`broken(model, tokens, answer, layer, head, position)`: questions answered wrongly without that head.

    "Without": its output z at that position replaced by its mean over these questions.
    """
    model = zoo.load("arithmetic/add_d3_l2_h3")
    task, tokens = _questions(3, "+", 300, 83)
    places = ((0, 0, 7), (1, 1, 9), (0, 2, 11))
    nodes = [Node(layer, head, position) for layer, head, position in places]
    correct = sweep_nodes(model, tokens, nodes, answer=task.answer, reduce="correct").changed
    for node, place, row in zip(nodes, places, correct, strict=True):
        right = int((~row.bool().all(1)).sum())
        mine = int(broken(model, tokens, task.answer, *place))
        assert mine == right, (
            f"{node}: {right} of 300 questions break, you say {mine}. "
            "Hint: `run(model, tokens, edit={Node(layer, head, position=position): mean})`, and compare argmax at "
            "every position of `answer` with the token after it"
        )
    return _said("Right: three heads, counted on 300 questions.")


def check_moved(moved: Callable[[Tensor, Tensor, int], Tensor]) -> str:
    """`moved(clean, store, k)`: the sum that a model must write if only the carry out of column k is taken from store.

    clean, store Int[n, 2, digits]: both operands, units first. Returns Int[n, digits + 1], units first.
    """
    generator = torch.Generator().manual_seed(84)
    for k in (0, 2, 4):
        clean, store = torch.randint(10, (2, 400, 2, 5), generator=generator)
        clean[:200, 1, k + 1 :] = 9 - clean[:200, 0, k + 1 :]  # half of them ripple
        given = _carries(store)[:, k]
        total, out = clean.sum(1), []
        carry = torch.zeros(400, dtype=torch.long)
        for column in range(5):
            s = total[:, column] + carry
            out.append(s % 10)
            carry = given if column == k else (s >= 10).long()
        right = torch.stack([*out, carry], 1)
        mine = torch.as_tensor(moved(clean, store, k)).long()
        assert mine.shape == right.shape, f"digits of shape {list(right.shape)}, not {list(mine.shape)}"
        wrong = (mine != right).any(1).nonzero()
        assert not len(wrong), (
            f"k = {k}: for columns {clean[int(wrong[0])].tolist()} the answer is {right[int(wrong[0])].tolist()}, "
            f"you say {mine[int(wrong[0])].tolist()}. Hint: above k the given carry ripples through every 9; "
            "A_k itself stays"
        )
    return _said("Right: the whole answer is predicted, ripple included. A weaker test accepts any change.")


def _carries(pairs: Tensor) -> Tensor:
    total = pairs.sum(1)
    return cascade(total >= 10, total == 9)


def check_null(p_value: Callable[[Tensor, Tensor, Callable[[Tensor, Tensor], float]], float]) -> str:
    """`p_value(x, labels, score)`: chance that shuffled labels score at least as well, by 500 or more shuffles."""
    generator = torch.Generator().manual_seed(85)
    labels = torch.arange(60) % 3
    noise = torch.randn(60, generator=generator)

    def score(x: Tensor, y: Tensor) -> float:
        return float(torch.stack([x[y == k].mean() for k in range(3)]).var())

    clear, nothing = float(p_value(noise + labels, labels, score)), float(p_value(noise, labels, score))
    truth = torch.tensor([score(noise, labels[torch.randperm(60, generator=generator)]) for _ in range(2000)])
    right = float((truth >= score(noise, labels)).float().mean())
    assert 0 < clear < 0.02, (
        f"a real difference got p = {clear:.3g}. Hint: count shuffles with a score >= the true one; "
        "the true order is one of the shuffles, so p is never 0"
    )
    assert abs(nothing - right) < 0.1, f"pure noise got p = {nothing:.3g}, not about {right:.2f}"
    return _said("Right. Without such a null, three clusters can always be found.")


CHECKS: Sequence[Callable[..., str]] = (
    check_places, check_tri_state, check_fold, check_rate, check_sampler, check_bound, check_sign, check_ablate,
    check_moved, check_null,
)  # fmt: skip
