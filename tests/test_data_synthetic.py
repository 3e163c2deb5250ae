"""Associative recall: the official generator's very sequences, and what makes them a fair question."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hyena.data.synthetic import COPY, IGNORE, NOOP, associative_recall, vocabulary
from hyena.errors import HyenaError

DRAWN = settings(deadline=None, max_examples=25)
VOCABULARIES, LENGTHS, SEEDS = st.integers(10, 40), st.integers(8, 60), st.integers(0, 2**32 - 1)


@pytest.mark.parametrize(("vocab_size", "length"), [(10, 20), (20, 40)])
def test_sequences_are_the_official_generators(reference, vocab_size: int, length: int) -> None:
    stored, _ = reference(f"data_assoc_recall_vs{vocab_size}_L{length}")
    train, test = associative_recall(vocab_size, length, 64, 32, seed=0)
    for ours, name in ((train.x, "train_x"), (train.y, "train_y"), (test.x, "test_x"), (test.y, "test_y")):
        np.testing.assert_array_equal(ours, stored[name].numpy(), err_msg=name)


def test_the_vocabulary_is_sorted_as_strings_with_the_specials_first() -> None:
    assert vocabulary(14) == [".", "0", "1", "10", "11", "2", "3", "4", "5", "6", "7", "8", "9", "=>"]


@DRAWN
@given(VOCABULARIES, LENGTHS, SEEDS)
def test_every_query_occurred_and_its_value_is_the_answer(vocab_size: int, length: int, seed: int) -> None:
    words = vocabulary(vocab_size)
    copy = words.index(COPY)
    _, test = associative_recall(vocab_size, length, 1, 30, seed)
    for x, y in zip(test.x, test.y, strict=True):
        *pairs, prefix, query = x.tolist()
        value_of = dict(zip(pairs[::2], pairs[1::2], strict=True))
        assert prefix == copy and value_of[query] == y[-1]
        assert [value_of[key] for key in pairs[::2]] == pairs[1::2], "a key keeps its value within a sequence"
        assert not {copy, words.index(NOOP)} & {*pairs, query}


@DRAWN
@given(VOCABULARIES, LENGTHS, SEEDS)
def test_keys_and_values_are_two_halves_and_both_are_all_used(vocab_size: int, length: int, seed: int) -> None:
    train, _ = associative_recall(vocab_size, length, 200, 1, seed)
    keys, values = set(train.x[:, :-2:2].ravel()), set(train.x[:, 1:-2:2].ravel())
    assert max(keys) < min(values), "sorted symbols: the first half are keys"
    assert len(keys) == (vocab_size - 2) // 2 and len(values) == vocab_size - 2 - len(keys)


@DRAWN
@given(VOCABULARIES, LENGTHS, SEEDS)
def test_training_asks_every_token_and_testing_the_answer_alone(vocab_size: int, length: int, seed: int) -> None:
    train, test = associative_recall(vocab_size, length, 5, 7, seed)
    assert train.x.shape == train.y.shape == (5, 2 * (length // 2) + 2) and len(test.x) == 7
    np.testing.assert_array_equal(train.x[:, 1:], train.y[:, :-1])
    assert (test.y[:, :-1] == IGNORE).all() and (test.y[:, -1] >= 0).all()


def test_no_sequence_repeats_even_where_all_possible_ones_are_asked_for() -> None:
    train, _ = associative_recall(6, 2, 4, 1, seed=0)  # two keys, two values: four sequences of one pair
    assert len({row.tobytes() for row in np.hstack([train.x, train.y])}) == 4


def test_either_part_may_be_empty() -> None:
    train, test = associative_recall(10, 20, 0, 5, seed=0)
    assert train.x.shape == train.y.shape == (0, 22) and test.x.shape == (5, 22)
    assert train.x.dtype == test.x.dtype == np.int64


def test_seeds_give_different_sequences() -> None:
    first, second = (associative_recall(20, 40, 50, 1, seed)[0].x for seed in (0, 1))
    assert not {row.tobytes() for row in first} & {row.tobytes() for row in second}


@pytest.mark.parametrize(
    ("vocab_size", "length", "count", "said"),
    [
        (3, 20, 5, "vocab_size must be at least 4 .*got 3"),
        (10, 1, 5, "length must be at least 2 .*got 1"),
        (4, 2, 5, "only 1 different sequences of 4 symbols and length 2"),
    ],
)
def test_what_cannot_be_drawn_is_refused_with_the_number_given(vocab_size, length, count, said) -> None:
    with pytest.raises(HyenaError, match=said):
        associative_recall(vocab_size, length, count, 1, seed=0)
