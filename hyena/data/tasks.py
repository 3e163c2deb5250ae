"""The other synthetic tasks of the Hyena paper: induction, majority, counting, addition, linear functions.

Each function draws training and test sequences from its seed alone. Induction repeats the official generator's
draws. The others were never released: they follow the paper's words (Poli et al. 2023, Section 4.1 and
Appendices A.1 and C), and no prompt of theirs occurs twice, neither within a set nor in both.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32, Int

from hyena.data.synthetic import COPY, IGNORE, NOOP, Sequences, vocabulary
from hyena.errors import HyenaError


@dataclass(frozen=True)
class Points:
    """Real-valued tokens `x`, a number `y` per token, and where it is asked (`y` is 0 where it is not)."""

    x: Float32[np.ndarray, "examples length width"]
    y: Float32[np.ndarray, "examples length"]
    asked: Bool[np.ndarray, "examples length"]


def induction(
    vocab_size: int,
    length: int,
    n_train: int,
    n_test: int,
    seed: int,
    *,
    induction_len: int = 1,
    num_triggers: int = 1,
) -> tuple[Sequences, Sequences]:
    """Random symbols with a marked place, then the mark again: what followed it is asked.

    A sequence is `length` symbols, some positions of which hold the mark `=>` followed by the same
    `induction_len` symbols, then the mark and these symbols: `length + induction_len` inputs and targets.
    Training targets are every next token; test targets only the copied ones. No two sequences of a set are
    equal; as in the official generator, a test sequence may be a training one where few are possible.

    Arguments:
        vocab_size: symbols, the two specials included.
        length: symbols before the closing mark.
        n_train, n_test: number of sequences.
        seed: of the generator that draws both.
        induction_len: symbols to copy.
        num_triggers: marks drawn in half of the sequences (overlapping ones are dropped); the others have one.

    Raises:
        HyenaError: a length that holds no mark, or more sequences than can be found.
    """
    ids = {symbol: i for i, symbol in enumerate(vocabulary(vocab_size))}
    _check_counts(n_train, n_test)
    if induction_len < 1 or num_triggers < 1:
        raise HyenaError(f"induction_len and num_triggers must be at least 1, got {induction_len} and {num_triggers}")
    if length < induction_len + 2:
        raise HyenaError(f"length must be at least induction_len + 2 = {induction_len + 2}, got {length}")
    odds = np.array([symbol not in (COPY, NOOP) for symbol in ids]) / (vocab_size - 2)
    rng = np.random.default_rng(seed)

    def draw(count: int) -> np.ndarray:
        rows = [_induction_row(odds, ids[COPY], length, induction_len, num_triggers, rng) for _ in range(count)]
        return np.array(rows, dtype=np.int64).reshape(count, length + 1 + induction_len)

    train, test = _distinct(draw, n_train, rng), _distinct(draw, n_test, rng)
    return _next_tokens(train, first_asked=0), _next_tokens(test, first_asked=length)


def majority(vocab_size: int, length: int, n_train: int, n_test: int, seed: int) -> tuple[Sequences, Sequences]:
    """Letters, then the mark `=>`: the most frequent letter is asked, as in a, g, g, g, e, f, g → g.

    The letters are uniform and independent; prompts with two most frequent letters are drawn again. By symmetry
    every letter is the answer equally often: a guess is right with probability 1 / (vocab_size - 2). There are
    `length + 1` inputs; the only target is the answer, at the mark.

    Arguments:
        vocab_size: symbols, the two specials included.
        length: letters of the prompt.
        n_train, n_test: number of sequences.
        seed: of the generator that draws both.

    Raises:
        HyenaError: an empty prompt, or more sequences than can be found.
    """
    words = vocabulary(vocab_size)
    letters = np.array([i for i, word in enumerate(words) if word not in (COPY, NOOP)])
    _check_counts(n_train, n_test)
    if length < 1:
        raise HyenaError(f"length must be at least 1 (one letter), got {length}")
    rng = np.random.default_rng(seed)

    def draw(count: int) -> np.ndarray:
        rows = letters[rng.integers(0, len(letters), size=(count + 64, length))]
        return rows[most_frequent(rows, vocab_size) != IGNORE]

    prompts = _distinct(draw, n_train + n_test, rng)
    mark = np.full((len(prompts), 1), words.index(COPY))
    return _answer_last(np.hstack([prompts, mark]), most_frequent(prompts, vocab_size), n_train)


def counting(
    vocab_size: int, length: int, n_train: int, n_test: int, seed: int, *, max_count: int | None = None
) -> tuple[Sequences, Sequences]:
    """Letters, the last of which is the query: how often it occurs is asked, as in a, b, b, b, a, c, b → 4.

    The query counts itself. Its count is uniform over 1..max_count and its places are uniform; the other letters
    are uniform and independent. A guess is right with probability 1 / max_count. (Where few prompts are possible,
    counts that few prompts have get rarer, since none is repeated; where the length is far above max_count times
    the letters, the query is the rarest letter, and easy to find.) There are `length` inputs; the only target is
    at the last.

    Arguments:
        vocab_size: tokens; the first `vocab_size - max_count` are letters, then come the counts 1, 2, ...
        length: letters of the prompt, the query included.
        n_train, n_test: number of sequences.
        seed: of the generator that draws both.
        max_count: largest answer; half the vocabulary, but at most the length, unless given.

    Raises:
        HyenaError: no query, counts that do not fit the length or the vocabulary, or more sequences than can be found.
    """
    _check_counts(n_train, n_test)
    if length < 1:
        raise HyenaError(f"length must be at least 1 (the query), got {length}")
    most = min(vocab_size // 2, length) if max_count is None else max_count
    letters = vocab_size - most
    if letters < 2:
        raise HyenaError(f"vocab_size must be at least max_count + 2 = {most + 2} (two letters), got {vocab_size}")
    if not 1 <= most <= length:
        raise HyenaError(f"max_count must be from 1 to the length {length}, got {most}")
    rng = np.random.default_rng(seed)

    def draw(count: int) -> np.ndarray:
        query = rng.integers(0, letters, size=(count + 64, 1))
        before = rng.integers(0, most, size=(count + 64, 1))  # occurrences ahead of the query itself
        here = rng.permuted(np.arange(length - 1) < before, axis=1)
        other = rng.integers(0, letters - 1, size=(count + 64, length - 1))
        return np.hstack([np.where(here, query, other + (other >= query)), query])

    prompts = _distinct(draw, n_train + n_test, rng)
    return _answer_last(prompts, letters + occurrences_of_last(prompts) - 1, n_train)


def addition(digits: int, n_train: int, n_test: int, seed: int) -> tuple[Sequences, Sequences]:
    """Two numbers, then their sum, digit by digit: 123 + 954 = 1077 is 1, 2, 3, 9, 5, 4, 1, 0, 7, 7.

    The sum has `digits + 1` digits, the first of which may be 0. There are `3 * digits` inputs; the first
    `2 * digits - 1` targets are ignored, so that exactly the sum is asked. Operands are uniform, and no ordered
    pair is used twice (b + a may be asked in testing where a + b was in training).

    Arguments:
        digits: of either operand.
        n_train, n_test: number of sequences; together at most 10^(2 digits).
        seed: of the generator that draws both.

    Raises:
        HyenaError: no digits, or more sequences than pairs of operands.
    """
    _check_counts(n_train, n_test)
    if digits < 1:
        raise HyenaError(f"digits must be at least 1, got {digits}")
    count, pairs = n_train + n_test, 10 ** (2 * digits)
    if count > pairs:
        raise HyenaError(f"n_train + n_test must be at most {pairs} (pairs of {digits}-digit numbers), got {count}")
    rng = np.random.default_rng(seed)
    if pairs < 2**63:
        chosen = rng.choice(pairs, size=count, replace=False)
        operands = chosen[:, None] // 10 ** np.arange(2 * digits - 1, -1, -1) % 10
    else:  # too many to number in 64 bits, and repetitions are next to impossible
        operands = _distinct(lambda missing: rng.integers(0, 10, size=(missing, 2 * digits)), count, rng)
    rows = np.hstack([operands, digits_of_sum(operands)])
    first = 2 * digits - 1
    return _next_tokens(rows[:n_train], first_asked=first), _next_tokens(rows[n_train:], first_asked=first)


def linear_functions(n_features: int, n_points: int, n_train: int, n_test: int, seed: int) -> tuple[Points, Points]:
    """x_1, w·x_1, x_2, ..., x_n: at every x_k the value w·x_k of a function new in every sequence is asked.

    All of x_k and w are standard normal, so that the targets have variance `n_features`. Tokens have
    `n_features + 1` numbers, (x_k, 0) and (0, w·x_k) in turn: `2 * n_points - 1` of them (the last value is
    asked, never shown), in the manner of Garg et al. 2022. With fewer than `n_features` points seen, w is not
    determined: the errors at later points are the interesting ones.

    Arguments:
        n_features: numbers in x_k.
        n_points: points of a sequence.
        n_train, n_test: number of sequences.
        seed: of the generator that draws both.

    Raises:
        HyenaError: no features or no points.
    """
    _check_counts(n_train, n_test)
    if n_features < 1 or n_points < 1:
        raise HyenaError(f"n_features and n_points must be at least 1, got {n_features} and {n_points}")
    rng = np.random.default_rng(seed)

    def draw(count: int) -> Points:
        weights = rng.standard_normal((count, n_features), dtype=np.float32)
        points = rng.standard_normal((count, n_points, n_features), dtype=np.float32)
        values = np.einsum("ef,epf->ep", weights, points)
        x = np.zeros((count, 2 * n_points - 1, n_features + 1), dtype=np.float32)
        y, asked = np.zeros(x.shape[:2], dtype=np.float32), np.zeros(x.shape[:2], dtype=bool)
        x[:, ::2, :-1], x[:, 1::2, -1] = points, values[:, :-1]
        y[:, ::2], asked[:, ::2] = values, True
        return Points(x, y, asked)

    return draw(n_train), draw(n_test)


def most_frequent(prompts: Int[np.ndarray, "examples length"], vocab_size: int) -> Int[np.ndarray, " examples"]:
    """The most frequent symbol of each row, `IGNORE` where several are."""
    shifted = prompts + vocab_size * np.arange(len(prompts))[:, None]  # row r counts in bins of its own
    counts = np.bincount(shifted.ravel(), minlength=vocab_size * len(prompts)).reshape(-1, vocab_size)
    alone = (counts == counts.max(axis=1, keepdims=True)).sum(axis=1) == 1
    return np.where(alone, counts.argmax(axis=1), IGNORE)


def occurrences_of_last(prompts: Int[np.ndarray, "examples length"]) -> Int[np.ndarray, " examples"]:
    """How often the last symbol of each row occurs in it, itself included."""
    return (prompts == prompts[:, -1:]).sum(axis=1)


def digits_of_sum(operands: Int[np.ndarray, "examples two_numbers"]) -> Int[np.ndarray, "examples result"]:
    """Of rows that hold the digits of two equally long numbers, the digits of the sum, one more than either has."""
    digits = operands.shape[1] // 2
    result = np.zeros((len(operands), digits + 1), dtype=operands.dtype)
    result[:, 1:] = operands[:, :digits] + operands[:, digits:]
    for place in range(digits, 0, -1):  # carry, from the last digit to the first
        result[:, place - 1] += result[:, place] // 10
        result[:, place] %= 10
    return result


def _induction_row(
    odds: np.ndarray, mark: int, length: int, induction_len: int, num_triggers: int, rng: np.random.Generator
) -> np.ndarray:
    row = rng.choice(len(odds), size=length, p=odds)
    drawn = 1 if rng.random() < 0.5 else num_triggers
    places: list[int] = []
    for place in np.sort(rng.integers(0, length - 1 - induction_len, size=drawn)).tolist():
        if not places or place > places[-1] + induction_len:
            places.append(place)
    copied = row[places[0] + 1 : places[0] + 1 + induction_len]  # no place overlaps it
    for place in places:
        row[place] = mark
        row[place + 1 : place + 1 + induction_len] = copied
    return np.concatenate([row, [mark], copied])


def _distinct(draw: Callable[[int], np.ndarray], count: int, rng: np.random.Generator) -> np.ndarray:
    """`count` different rows in random order; `draw` is told how many are missing and may give more or fewer."""
    found = draw(count)
    for _ in range(100):
        found = np.unique(found, axis=0)
        if len(found) >= count:
            rng.shuffle(found)
            return found[:count]
        found = np.vstack([found, draw(count - len(found))])
    raise HyenaError(
        f"only {len(np.unique(found, axis=0))} different sequences found of the {count} asked for: "
        "ask for fewer, or for a larger vocab_size or length"
    )


def _next_tokens(rows: np.ndarray, first_asked: int) -> Sequences:
    """Every next token is a target, from position `first_asked` on."""
    y = rows[:, 1:].copy()
    y[:, :first_asked] = IGNORE
    return Sequences(rows[:, :-1], y)


def _answer_last(x: np.ndarray, answers: np.ndarray, n_train: int) -> tuple[Sequences, Sequences]:
    """The answer at the last position is the only target; the first `n_train` rows are for training."""
    y = np.full_like(x, IGNORE)
    y[:, -1] = answers
    return Sequences(x[:n_train], y[:n_train]), Sequences(x[n_train:], y[n_train:])


def _check_counts(n_train: int, n_test: int) -> None:
    if n_train < 0 or n_test < 0:
        raise HyenaError(f"n_train and n_test must not be negative, got {n_train} and {n_test}")
