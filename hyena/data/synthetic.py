"""Synthetic sequence tasks with known answers, drawn exactly as the official generators draw them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from hyena.errors import HyenaError

IGNORE = -100  # a target that no loss counts
COPY, NOOP = "=>", "."


@dataclass(frozen=True)
class Sequences:
    """Token ids `x` and next-token targets `y` (`IGNORE` where nothing is asked), both (examples, length)."""

    x: Int[np.ndarray, "examples length"]
    y: Int[np.ndarray, "examples length"]


def vocabulary(vocab_size: int) -> list[str]:
    """`vocab_size` symbols by id: the integers as strings and the two specials, sorted as strings.

    Raises:
        HyenaError: fewer than 4 symbols: two specials, a key and a value.
    """
    if vocab_size < 4:
        raise HyenaError(f"vocab_size must be at least 4 (two specials, a key, a value), got {vocab_size}")
    return sorted([str(i) for i in range(vocab_size - 2)] + [COPY, NOOP])


def associative_recall(
    vocab_size: int, length: int, n_train: int, n_test: int, seed: int
) -> tuple[Sequences, Sequences]:
    """Key-value pairs, then a query key whose value is asked (Poli et al. 2023, Section 4.1 and Appendix A.1).

    A sequence is `length // 2` pairs drawn with replacement from a dictionary that is new in every sequence,
    the copy prefix, a key that occurred, and its value: `length + 2` inputs and as many targets. Training targets
    are every next token; test targets only the value. No two training sequences are equal.

    Arguments:
        vocab_size: symbols, the two specials included; half of the others are keys, half values.
        length: tokens of the pairs.
        n_train, n_test: number of sequences.
        seed: of the generator that draws both.

    Raises:
        HyenaError: a vocabulary or length that allows no pair.
    """
    if length < 2:
        raise HyenaError(f"length must be at least 2 (one key-value pair), got {length}")
    vocab = vocabulary(vocab_size)
    rng = np.random.default_rng(seed)
    train = _draw_unique(vocab, length, n_train, rng)
    test = _draw_unique(vocab, length, n_test, rng)
    answers = np.full_like(test[:, 1:], IGNORE)
    answers[:, -1] = test[:, -1]
    return Sequences(train[:, :-1], train[:, 1:]), Sequences(test[:, :-1], answers)


def _draw_unique(vocab: list[str], length: int, count: int, rng: np.random.Generator) -> np.ndarray:
    """`count` different sequences, sorted and then shuffled by the same generator."""
    ids = {symbol: i for i, symbol in enumerate(vocab)}
    plain = [ids[s] for s in vocab if s not in (COPY, NOOP)]
    keys, values = np.array(plain[: len(plain) // 2]), np.array(plain[len(plain) // 2 :])
    found = np.empty((0, 2 * (length // 2) + 3), dtype=np.int64)
    for _ in range(100):
        more = [_recall_sequence(keys, values, ids[COPY], length, rng) for _ in range(count - len(found))]
        found = np.unique(np.vstack([found, *more]), axis=0)
        if len(found) == count:
            rng.shuffle(found)
            return found
    raise HyenaError(f"only {len(found)} different sequences of {len(vocab)} symbols and length {length} found")


def _recall_sequence(
    keys: np.ndarray, values: np.ndarray, copy: int, length: int, rng: np.random.Generator
) -> np.ndarray:
    value_of = values[rng.integers(0, len(values), size=len(keys))]
    drawn = rng.integers(0, len(keys), size=length // 2)
    query = rng.integers(0, len(keys))
    present = np.array(list(dict.fromkeys(drawn.tolist())))  # in order of first occurrence
    while query not in present:
        query = present[rng.integers(0, len(present))]
    pairs = np.stack([keys[drawn], value_of[drawn]], axis=1).ravel()
    return np.concatenate([pairs, [copy, keys[query], value_of[query]]])
