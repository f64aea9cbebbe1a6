"""The arithmetic task: n-digit addition and subtraction, one token per character.

    D_{n-1}..D_0  OPR  D'_{n-1}..D'_0  =  SGN  A_n..A_0        e.g.  133357+182243=+0315600

Both operands have n digits, zero padded, most significant first; the answer has a sign, always
(zero is "+"), and n + 1 digits. Digit D_k stands at position n-1-k, the operator at n, D'_k at 2n-k,
"=" at 2n+1, the sign at 2n+2 and A_k at 3n+3-k. What is graded and trained are the n + 2 tokens of
the answer, each predicted one position earlier. Source: arithmetic paper and the authors' code.

Uniform digits hardly ever contain a long carry cascade, so training questions are *enriched*:

- addition: in an enriched question 40 % of the columns are made to sum to 9, where a carry from the
  right passes through (one coin per question says which operand is changed);
- subtraction: one enriched question in a hundred has equal operands; in the others every digit of
  the second operand below 9 is raised by one, which makes negative answers more common.

The paper says that 60 % of the questions are enriched (`as_described`); its code does so for two
batches in five (`as_coded`). Deviation: operator, enrichment and coins are drawn per question with
the authors' proportions, where they draw them per batch.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from mi_lab.model import Transformer
from mi_lab.studies import base
from mi_lab.studies.arithmetic import subtasks

PLUS, MINUS, EQUALS = 10, 11, 12
VOCAB = (*"0123456789", "+", "-", "=", "*", "/")  # the last two are in the authors' vocabulary, never used
MAX_DIGITS = 18  # 10^18 + 10^18 is the largest sum of two equally long numbers that int64 holds
ENRICHED = {"as_coded": 0.4, "as_described": 0.6, "none": 0.0}
NINES = 0.4  # share of the columns of an enriched addition that are made to sum to 9
EQUAL = 0.01  # share of the enriched subtractions that have equal operands


@dataclass(frozen=True)
class ArithmeticTask:
    """Add, subtract or both, with numbers of `digits` digits.

    operations: "+", "-" or "+-".
    subtraction: share of subtraction in a "+-" task; 0.66 as in the authors' mixed models, 0.8 in those
        that start from an addition model.
    enrichment: "as_coded", "as_described" or "none" (uniform digits); see the module's text.
    answers: "shuffled" gives every sampled question the answer of another one: nothing to learn but which
        answers there are. For control models; `solve` and all truth stay as they are.

        >>> task = ArithmeticTask(digits=5)
        >>> task.decode(task.encode("55555+44446="))
        '55555+44446=+100001'
    """

    digits: int = 6
    operations: Literal["+", "-", "+-"] = "+"
    subtraction: float = 0.66
    enrichment: Literal["as_coded", "as_described", "none"] = "as_coded"
    answers: Literal["own", "shuffled"] = field(default="own", metadata={"described": "if set"})

    def __post_init__(self) -> None:
        if not 1 <= self.digits <= MAX_DIGITS:
            raise ValueError(f"digits must be between 1 and {MAX_DIGITS} (64-bit sums), not {self.digits}")
        if self.operations not in ("+", "-", "+-"):
            raise ValueError(f"operations must be '+', '-' or '+-', not {self.operations!r}")
        if not 0 < self.subtraction < 1:
            raise ValueError(f"subtraction is a share between 0 and 1, not {self.subtraction}")
        if self.enrichment not in ENRICHED:
            raise ValueError(f"enrichment must be one of {', '.join(ENRICHED)}, not {self.enrichment!r}")
        if self.answers not in ("own", "shuffled"):
            raise ValueError(f"answers must be 'own' or 'shuffled', not {self.answers!r}")

    @property
    def vocab(self) -> tuple[str, ...]:
        """0-9, then + - = * /."""
        return VOCAB

    @property
    def n_ctx(self) -> int:
        """3 digits + 4."""
        return 3 * self.digits + 4

    @property
    def answer(self) -> slice:
        """From "=", which predicts the sign, to A_1, which predicts A_0."""
        return slice(2 * self.digits + 1, 3 * self.digits + 3)

    def position(self, name: str) -> int:
        """Where a token stands: "D2", "D'2", "OPR", "=", "SGN", "A3"; it is predicted one earlier.

        >>> ArithmeticTask(digits=6).position("A0")
        21
        """
        n = self.digits
        named = {"OPR": n, "=": 2 * n + 1, "SGN": 2 * n + 2}
        if name in named:
            return named[name]
        match = re.fullmatch(r"(D'|D|A)(\d+)", name)
        if not match or int(match[2]) > (n if match[1] == "A" else n - 1):
            raise ValueError(
                f"there is no token {name!r}; a {n}-digit question has D0..D{n - 1}, OPR, D'0..D'{n - 1}, "
                f"=, SGN, A0..A{n}"
            )
        return {"D": n - 1, "D'": 2 * n, "A": 3 * n + 3}[match[1]] - int(match[2])

    # ---- data ----

    def sample(self, n: int, *, generator: torch.Generator, device: torch.device | str = "cpu") -> Tensor:
        """Int[n, n_ctx]: fresh questions with their answers, enriched as the task says."""
        options = {"generator": generator, "device": device}
        x, y = torch.randint(10, (2, n, self.digits), **options)
        if self.operations == "+-":
            minus = torch.rand((n, 1), **options) < self.subtraction
        else:
            minus = torch.full((n, 1), self.operations == "-", device=device)
        if self.enrichment != "none":
            x, y = self._enrich(x, y, minus, torch.rand((n, self.digits + 2), **options))
        tokens = self.complete(x, y, minus)
        if self.answers == "shuffled":  # questions are independent: the next one's answer is a random one
            own = self.position("SGN")
            tokens[:, own:] = tokens[:, own:].roll(1, 0)
        return tokens

    def _enrich(self, x: Tensor, y: Tensor, minus: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
        """x, y after enrichment. uniform [n, digits + 2]: is it enriched, which operand, which columns."""
        enriched = uniform[:, :1] < ENRICHED[self.enrichment]
        coin, column = uniform[:, 1:2], uniform[:, 2:]
        new_x, new_y = x, y
        if "+" in self.operations:
            nine = (column < NINES) & enriched
            first = coin < 0.5
            new_x, new_y = torch.where(nine & first, 9 - y, x), torch.where(nine & ~first, 9 - x, y)
        if "-" in self.operations:
            lifted = torch.where(coin < EQUAL, x, (y + 1).clamp_(max=9))
            lifted = torch.where(enriched, lifted, y)
            new_x, new_y = torch.where(minus, x, new_x), torch.where(minus, lifted, new_y)
        return new_x, new_y

    def complete(self, x: Tensor, y: Tensor, minus: Tensor) -> Tensor:
        """Int[n, n_ctx] from digits x, y Int[n, digits], most significant first, and minus Bool[n, 1]."""
        powers = _powers(self.digits, x.device)
        a, b = (x * powers[1:]).sum(1, keepdim=True), (y * powers[1:]).sum(1, keepdim=True)
        value = torch.where(minus, a - b, a + b)
        answer = value.abs().div(powers, rounding_mode="trunc").fmod_(10)
        equals = torch.full_like(a, EQUALS)
        return torch.cat([x, minus + PLUS, y, equals, (value < 0) + PLUS, answer], dim=1)

    def digits_of(self, numbers: Tensor) -> Tensor:
        """Int[n, digits], most significant first, of whole numbers Int64[n].

        Raises ValueError for a number that is negative or too long.
        """
        wrong = (numbers < 0) | (numbers >= 10**self.digits)
        if wrong.any():
            raise ValueError(f"{int(numbers[wrong][0])} is no number of {self.digits} digits")
        return numbers[:, None].div(_powers(self.digits, numbers.device)[1:], rounding_mode="trunc").fmod_(10)

    def questions(self, a: Tensor, b: Tensor, operator: Literal["+", "-"] | None = None) -> Tensor:
        """Int[n, n_ctx] from whole numbers a, b Int64[n] below 10^digits.

        operator: may be left out where the task has only one. Raises ValueError for numbers out of range.
        """
        operator = self._operator(operator or self.operations)
        minus = torch.full((len(a), 1), operator == "-", device=a.device)
        return self.complete(self.digits_of(a), self.digits_of(b), minus)

    def operands(self, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Digits x, y Int[n, digits], most significant first, and minus Bool[n, 1] of token sequences.

        Raises ValueError if they are not questions of this task's length and operations.
        """
        n = self.digits
        if tokens.ndim != 2 or tokens.shape[1] != self.n_ctx:
            raise ValueError(
                f"{n}-digit questions have shape [n, {self.n_ctx}], these tokens {list(tokens.shape)}"
            )
        operator = tokens[:, n : n + 1]
        known = torch.zeros_like(operator, dtype=torch.bool)
        for symbol in self.operations:
            known |= operator == VOCAB.index(symbol)
        if not known.all():
            bad = int(operator[~known][0])
            text = repr(VOCAB[bad]) if 0 <= bad < len(VOCAB) else f"token {bad}"
            raise ValueError(f"this task has the operations {self.operations!r}, not {text}")
        return tokens[:, :n], tokens[:, n + 1 : 2 * n + 1], operator == MINUS

    # ---- text ----

    def encode(self, text: str) -> Tensor:
        """Int[n_ctx] from "133357+182243="; shorter numbers are zero padded, an answer is ignored.

        Raises ValueError that names what is wrong: a foreign character, no "=", no or a wrong operator,
        a number that is missing or too long.
        """
        line = re.sub(r"\s+", "", text).replace("−", "-")
        if bad := re.search(r"[^0-9+\-=]", line):
            raise ValueError(f"{bad[0]!r} is no token of a question; write digits, + or -, and =")
        question, equals, _ = line.partition("=")
        if not equals:
            raise ValueError(f"a question ends with '=', there is none in {text!r}")
        match = re.fullmatch(r"(\d*)([+-])(\d*)", question)
        if not match:
            what = "has no operator" if question.isdecimal() or not question else "needs one operator"
            raise ValueError(f"{question!r} {what}: write two numbers with + or - between them")
        operator = self._operator(match[2])
        for which, number in (("first", match[1]), ("second", match[3])):
            if not number:
                raise ValueError(f"the {which} number is missing in {text!r}")
            if len(number) > self.digits:
                raise ValueError(f"{number} has {len(number)} digits, this task has {self.digits}")
        a, b = (torch.tensor([int(number)]) for number in (match[1], match[3]))
        return self.questions(a, b, operator)[0]

    def _operator(self, operator: str) -> Literal["+", "-"]:
        """`operator`, if it is one that this task has."""
        if operator == "+" and "+" in self.operations:
            return "+"
        if operator == "-" and "-" in self.operations:
            return "-"
        if operator == "+-":
            raise ValueError("this task adds and subtracts: say which operator")
        name = {"+": "adds", "-": "subtracts", "+-": "adds and subtracts"}[self.operations]
        raise ValueError(f"this task only {name}, the operator {operator!r} is not its own")

    def decode(self, tokens: Tensor) -> str:
        """The text of one sequence."""
        return "".join(VOCAB[t] for t in tokens.tolist())

    # ---- truth ----

    def solve(self, tokens: Tensor) -> Tensor:
        """The same questions with the right answer."""
        return self.complete(*self.operands(tokens))

    def weights(self, tokens: Tensor) -> None:
        """Every answer token counts the same, the sign and a leading 0 included, as in the paper."""
        return

    def variables(self, tokens: Tensor) -> dict[str, Tensor]:
        """Ground truth of every sub-task and class: see `subtasks.variables`."""
        return subtasks.variables(*self.operands(tokens))

    def grade(self, model: Transformer, tokens: Tensor, *, free_running: bool = True) -> Tensor:
        """Bool[n]: are sign and all digits right?

        One pass with the right answer in place serves both modes: the first wrong token of a free run is
        also wrong here, and where all are right the two runs are one.
        """
        solved = self.solve(tokens)
        return (base.predict(model, self, solved) == base.targets(self, solved)).all(1)


@functools.lru_cache(maxsize=64)
def _powers(digits: int, device: torch.device) -> Tensor:
    """Int64[digits + 1]: 10^digits .. 1, the values of the places of the answer."""
    return torch.tensor([10**k for k in range(digits, -1, -1)], device=device)
