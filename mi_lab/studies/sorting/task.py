"""The list-sorting task.

    [l_1 .. l_L, SEP, s_1 .. s_L]        e.g.  11,2,5,0,3,9,SEP,0,2,3,5,9,11

A list of L numbers from 0..V-1 in random order, a separator (token V), the same numbers sorted.
The model reads everything but the last token and is trained and graded on the L sorted tokens;
there is no start or end token. Source: sorting paper and the ARENA problem it builds on; L = 10,
V = 51 is the paper's size.

What decides the final structure is claimed to be the *gap* delta_i = s_{i+1} - s_i between
neighbours in the sorted list. Three designs set its mean without changing L and V:

- `window=W`: each list comes from a random window of W neighbouring numbers; E[delta] = (W+1)/(L+1);
- `mean_gap=g`: spans are tilted, P(span s) ~ C(s-1, L-2) theta^s, so that E[delta] = g exactly;
- neither: uniform without replacement, E[delta] = (V+1)/(L+1).
"""

from __future__ import annotations

import functools
import math
import re
from dataclasses import dataclass

import torch
from torch import Tensor

from mi_lab.model import Transformer
from mi_lab.studies import base


@dataclass(frozen=True)
class SortingTask:
    """Sort `length` numbers from 0..`n_numbers`-1.

    repeats: draw with replacement. window, mean_gap: set the mean gap (see the module's text); at
    most one of the three.

        >>> task = SortingTask(length=4, n_numbers=12)
        >>> task.decode(task.encode("7,2,9,0"))
        '7,2,9,0,SEP,0,2,7,9'
    """

    length: int = 10
    n_numbers: int = 51
    repeats: bool = False
    window: int | None = None
    mean_gap: float | None = None

    def __post_init__(self) -> None:
        length, numbers = self.length, self.n_numbers
        if length < 2:
            raise ValueError(f"length must be at least 2, not {length}")
        if not self.repeats and numbers < length:
            raise ValueError(f"{length} different numbers need n_numbers >= {length}, not {numbers}")
        if (self.repeats, self.window is not None, self.mean_gap is not None).count(True) > 1:
            raise ValueError("repeats, window and mean_gap exclude one another")
        if self.window is not None and not length + 2 <= self.window <= numbers:
            raise ValueError(
                f"window must be between length + 2 = {length + 2} (smaller ones have hardly any "
                f"gap but 1) and n_numbers = {numbers}, not {self.window}"
            )
        largest = (numbers - 1) / (length - 1)
        if self.mean_gap is not None and not 1 < self.mean_gap < largest:
            raise ValueError(f"mean_gap must lie between 1 and {largest:.3f}, not {self.mean_gap}")

    @property
    def vocab(self) -> tuple[str, ...]:
        """The numbers, then SEP."""
        return (*map(str, range(self.n_numbers)), "SEP")

    @property
    def separator(self) -> int:
        """The token SEP."""
        return self.n_numbers

    @property
    def n_ctx(self) -> int:
        """2 length + 1."""
        return 2 * self.length + 1

    @property
    def answer(self) -> slice:
        """From SEP on: position length + i predicts the i-th smallest number."""
        return slice(self.length, 2 * self.length)

    @property
    def expected_gap(self) -> float:
        """The exact mean over lists and neighbours of s_{i+1} - s_i."""
        length, numbers = self.length, self.n_numbers
        if self.repeats:  # E[max] - E[min] = sum_k 1 - (k/V)^L - ((V-k)/V)^L, k = 1..V-1
            span = sum(1 - (k / numbers) ** length - (1 - k / numbers) ** length for k in range(1, numbers))
            return span / (length - 1)
        if self.mean_gap is not None:
            return self.mean_gap
        return ((self.window or numbers) + 1) / (length + 1)

    def sample(self, n: int, *, generator: torch.Generator, device: torch.device | str = "cpu") -> Tensor:
        """Int[n, n_ctx]: fresh lists with their sorted copies."""
        length, numbers = self.length, self.n_numbers
        options = {"generator": generator, "device": device}
        if self.repeats:
            lists = torch.randint(numbers, (n, length), **options)
        elif self.mean_gap is not None:
            lists = self._sample_tilted(n, options)
        else:
            pool = self.window or numbers
            # the positions of the largest of `pool` random keys: a uniform subset in uniform order
            lists = torch.rand((n, pool), **options).topk(length, dim=1).indices
            if pool < numbers:
                lists = lists + torch.randint(numbers - pool + 1, (n, 1), **options)
        return self.complete(lists)

    def _sample_tilted(self, n: int, options: dict) -> Tensor:
        """A span from its tilted law, then a uniform composition of it, a uniform offset, a shuffle."""
        length, numbers = self.length, self.n_numbers
        spans, weights = tilted_spans(length, numbers, float(self.mean_gap or 0))
        probability = torch.tensor(weights, device=options["device"])
        span = torch.multinomial(probability, n, replacement=True, generator=options["generator"])
        span = (span + spans.start)[:, None]
        # inner points: length - 2 different ones out of 1 .. span - 1, by random keys
        keys = torch.rand((n, numbers - 2), **options)
        keys = keys.masked_fill(torch.arange(1, numbers - 1, device=keys.device) >= span, -1.0)
        inner = keys.topk(length - 2, dim=1).indices + 1
        points = torch.cat([torch.zeros_like(span), inner, span], dim=1)
        offset = (torch.rand((n, 1), **options) * (numbers - span)).long()
        order = torch.rand((n, length), **options).argsort(1)
        return (points + offset).gather(1, order)

    def complete(self, lists: Tensor) -> Tensor:
        """Int[n, n_ctx] from Int[n, length]: append SEP and the sorted list."""
        middle = torch.full_like(lists[:, :1], self.separator)
        return torch.cat([lists, middle, lists.sort(1).values], dim=1)

    def encode(self, text: str) -> Tensor:
        """Int[n_ctx] from "11,2,5,0,3,9" (what follows a SEP is ignored: the task fills it in).

        Raises ValueError that names what is wrong: not a number, out of range, repeated, wrong length.
        """
        words = [w for w in re.split(r"[\s,;]+", text.strip().strip("[]")) if w]
        if "SEP" in words:
            words = words[: words.index("SEP")]
        for word in words:
            if not re.fullmatch(r"\d+", word):
                raise ValueError(f"{word!r} is not a number from 0 to {self.n_numbers - 1}")
            if int(word) >= self.n_numbers:
                raise ValueError(f"{word} is outside the vocabulary 0..{self.n_numbers - 1}")
        if len(words) != self.length:
            raise ValueError(f"the list must have {self.length} numbers, it has {len(words)}")
        numbers = list(map(int, words))
        if not self.repeats:
            for i, number in enumerate(numbers):
                if number in numbers[:i]:
                    raise ValueError(f"{number} stands twice in the list; this task has no repeats")
        return self.complete(torch.tensor([numbers]))[0]

    def decode(self, tokens: Tensor) -> str:
        """The text of one sequence."""
        return ",".join(self.vocab[t] for t in tokens.tolist())

    def solve(self, tokens: Tensor) -> Tensor:
        """The same lists with the right answer."""
        return self.complete(tokens[:, : self.length])

    def weights(self, tokens: Tensor) -> None:
        """Every answer token counts the same."""
        return

    def variables(self, tokens: Tensor) -> dict[str, Tensor]:
        """Ground truth, each Int[n, length] unless said.

        current: the token at each answer position (SEP first); target: what it should predict;
        source: list position of the target; rank: rank of each list element (0 = smallest);
        gap [n, length - 1]: differences of sorted neighbours; span [n]: largest - smallest.
        """
        lists, right = tokens[:, : self.length], self.solve(tokens)[:, self.length + 1 :]
        order = lists.argsort(dim=1, stable=True)
        return {
            "current": torch.cat([torch.full_like(right[:, :1], self.separator), right[:, :-1]], dim=1),
            "target": right,
            "source": order,
            "rank": order.argsort(dim=1),
            "gap": right.diff(dim=1),
            "span": right[:, -1] - right[:, 0],
        }

    def grade(self, model: Transformer, tokens: Tensor, *, free_running: bool = True) -> Tensor:
        """Bool[n]: is the whole list sorted?"""
        return base.grade(model, self, tokens, free_running=free_running)


@functools.lru_cache(maxsize=64)
def tilted_spans(length: int, numbers: int, mean_gap: float) -> tuple[range, tuple[float, ...]]:
    """Spans L-1 .. V-1 and their probabilities ~ C(s-1, L-2) theta^s with E[s] = (L-1) mean_gap.

    theta is found by bisection; the mean is right to 1e-9.
    """
    spans = range(length - 1, numbers)
    log_count = [math.lgamma(s) - math.lgamma(length - 1) - math.lgamma(s - length + 2) for s in spans]

    def law(log_theta: float) -> list[float]:
        logs = [c + log_theta * s for c, s in zip(log_count, spans, strict=True)]
        top = max(logs)
        weights = [math.exp(x - top) for x in logs]
        total = sum(weights)
        return [w / total for w in weights]

    low, high = -60.0, 60.0
    for _ in range(200):
        middle = (low + high) / 2
        mean = sum(p * s for p, s in zip(law(middle), spans, strict=True))
        low, high = (middle, high) if mean < (length - 1) * mean_gap else (low, middle)
    return spans, tuple(law((low + high) / 2))
