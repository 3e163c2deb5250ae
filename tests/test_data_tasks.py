"""Synthetic tasks: answers recomputed the slow way, nothing asked that is shown, and the official induction draws."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hyena.data.synthetic import COPY, IGNORE, NOOP, Sequences, vocabulary
from hyena.data.tasks import (
    addition,
    counting,
    digits_of_sum,
    induction,
    linear_functions,
    majority,
    most_frequent,
    occurrences_of_last,
)
from hyena.errors import HyenaError

DRAWN = settings(deadline=None, max_examples=20)
VOCABULARIES, LENGTHS, SEEDS = st.integers(6, 40), st.integers(12, 60), st.integers(0, 2**32 - 1)
TOKEN_TASKS = {
    "induction": lambda n_train, n_test, seed: induction(12, 20, n_train, n_test, seed),
    "majority": lambda n_train, n_test, seed: majority(12, 20, n_train, n_test, seed),
    "counting": lambda n_train, n_test, seed: counting(12, 20, n_train, n_test, seed),
    "addition": lambda n_train, n_test, seed: addition(4, n_train, n_test, seed),
}
TASKS = TOKEN_TASKS | {"linear": lambda n_train, n_test, seed: linear_functions(3, 8, n_train, n_test, seed)}


def as_letters(text: str) -> np.ndarray:
    return np.array([[ord(letter) - ord("a") for letter in text]])


def rows(x: np.ndarray) -> set[bytes]:
    return {row.tobytes() for row in np.ascontiguousarray(x)}


def both(parts: tuple[Sequences, Sequences]) -> tuple[np.ndarray, np.ndarray]:
    return np.vstack([part.x for part in parts]), np.vstack([part.y for part in parts])


# What the paper gives as examples


def test_the_majority_of_a_g_g_g_e_f_g_is_g() -> None:
    assert most_frequent(as_letters("agggefg"), 10).tolist() == [ord("g") - ord("a")]


def test_two_letters_that_are_equally_frequent_have_no_majority() -> None:
    assert most_frequent(as_letters("aabbc"), 10).tolist() == [IGNORE]


def test_the_last_letter_of_a_b_b_b_a_c_b_occurs_4_times() -> None:
    assert occurrences_of_last(as_letters("abbbacb")).tolist() == [4]


@pytest.mark.parametrize(
    ("operands", "result"),
    [([1, 2, 3, 9, 5, 4], [1, 0, 7, 7]), ([0, 0, 0, 0], [0, 0, 0]), ([9, 9, 9, 0, 0, 1], [1, 0, 0, 0])],
)
def test_123_and_954_make_1077(operands: list[int], result: list[int]) -> None:
    assert digits_of_sum(np.array([operands])).tolist() == [result]


# Induction


def test_induction_sequences_are_the_official_generators(reference) -> None:
    stored, _ = reference("data_induction_vs20_L30")
    train, test = induction(20, 30, 64, 32, seed=0)
    for ours, name in ((train.x, "train_x"), (train.y, "train_y"), (test.x, "test_x"), (test.y, "test_y")):
        np.testing.assert_array_equal(ours, stored[name].numpy(), err_msg=name)


@DRAWN
@given(VOCABULARIES, LENGTHS, SEEDS, st.integers(1, 4), st.integers(1, 4))
def test_what_followed_every_mark_is_what_is_asked(vocab_size, length, seed, induction_len, triggers) -> None:
    parts = induction(vocab_size, length, 15, 15, seed, induction_len=induction_len, num_triggers=triggers)
    words = vocabulary(vocab_size)
    mark = words.index(COPY)
    for x, y in zip(parts[1].x, parts[1].y, strict=True):
        asked = y[length:].tolist()
        assert x[length] == mark and x[length + 1 :].tolist() == asked[:-1]
        places = np.flatnonzero(x[:length] == mark)
        assert 1 <= len(places) <= triggers and (np.diff(places) > induction_len).all()
        for place in places:
            assert x[place + 1 : place + 1 + induction_len].tolist() == asked
    assert words.index(NOOP) not in both(parts)[0]


def test_half_of_the_sequences_have_one_mark_and_half_as_many_as_asked_for() -> None:
    train, _ = induction(20, 400, 400, 0, seed=0, num_triggers=3)
    marks = Counter((train.x[:, :400] == vocabulary(20).index(COPY)).sum(axis=1).tolist())
    assert abs(marks[1] - 200) < 50 and marks[1] + marks[2] + marks[3] == 400 and marks[2] < 20


def test_the_mark_stands_anywhere_that_leaves_room_for_what_follows() -> None:
    train, _ = induction(20, 10, 1000, 0, seed=0, induction_len=2)
    places = np.argmax(train.x == vocabulary(20).index(COPY), axis=1)
    assert set(places.tolist()) == set(range(7))


def test_induction_trains_on_every_token_and_tests_the_copied_ones() -> None:
    train, test = induction(20, 30, 5, 7, seed=0, induction_len=3)
    assert train.x.shape == (5, 33) and test.x.shape == (7, 33)
    np.testing.assert_array_equal(train.x[:, 1:], train.y[:, :-1])
    assert (train.y != IGNORE).all()
    np.testing.assert_array_equal(test.y != IGNORE, np.arange(33) >= np.full((7, 1), 30))


# Majority and counting


@DRAWN
@given(VOCABULARIES, LENGTHS, SEEDS)
def test_the_majority_answer_is_the_one_most_frequent_letter(vocab_size: int, length: int, seed: int) -> None:
    x, y = both(majority(vocab_size, length, 15, 15, seed))
    words = vocabulary(vocab_size)
    assert x.shape == y.shape == (30, length + 1) and (x[:, -1] == words.index(COPY)).all()
    for prompt, answer in zip(x[:, :-1].tolist(), y[:, -1].tolist(), strict=True):
        (first, most), *others = Counter(prompt).most_common(2)
        assert first == answer and all(count < most for _, count in others)
        assert not {words.index(COPY), words.index(NOOP)} & set(prompt)


@DRAWN
@given(VOCABULARIES, LENGTHS, SEEDS, st.integers(1, 4))
def test_the_counting_answer_is_how_often_the_last_letter_occurs(vocab_size, length, seed, max_count) -> None:
    x, y = both(counting(vocab_size, length, 15, 15, seed, max_count=max_count))
    letters = vocab_size - max_count
    assert x.shape == y.shape == (30, length)
    assert x.min() >= 0 and x.max() < letters, "prompts hold letters only, never the token of a count"
    for prompt, answer in zip(x.tolist(), y[:, -1].tolist(), strict=True):
        assert answer == letters + prompt.count(prompt[-1]) - 1 and letters <= answer < vocab_size


@pytest.mark.parametrize("task", [majority, counting])
def test_only_the_answer_is_asked_in_training_too(task) -> None:
    for part in task(12, 20, 5, 7, 0):
        assert (part.y[:, :-1] == IGNORE).all() and (part.y[:, -1] != IGNORE).all()


def test_the_longest_counts_are_drawn_where_every_letter_may_be_the_query() -> None:
    train, _ = counting(13, 8, 400, 0, seed=0, max_count=8)
    answers = Counter((train.y[:, -1] - 5 + 1).tolist())
    assert set(answers) == set(range(1, 9)) and answers[8] == 5, "five prompts of one letter only, each once"


@pytest.mark.parametrize("task", [majority, counting])
def test_no_answer_is_more_frequent_than_chance(task) -> None:
    train, _ = task(10, 40, 4000, 0, 0)
    counts = np.array(list(Counter(train.y[:, -1].tolist()).values()))
    assert len(counts) == {"majority": 8, "counting": 5}[task.__name__]
    assert (abs(counts / 4000 - 1 / len(counts)) < 0.03).all()


def test_the_query_does_not_tell_its_count_nor_does_any_other_place() -> None:
    train, _ = counting(12, 40, 6000, 0, seed=0, max_count=4)
    for place in (0, 20, 38, 39):
        for letter in range(8):
            answers = train.y[train.x[:, place] == letter, -1]
            assert max(Counter(answers.tolist()).values()) / len(answers) < 0.33, "chance is 0.25"


# Addition


@DRAWN
@given(st.integers(1, 20), SEEDS)
def test_the_digits_after_the_operands_are_those_of_the_sum(digits: int, seed: int) -> None:
    x, y = both(addition(digits, 12, 8, seed))
    assert x.shape == y.shape == (20, 3 * digits)
    for shown, asked in zip(x.tolist(), y.tolist(), strict=True):
        text = "".join(map(str, shown))
        total = int(text[:digits]) + int(text[digits : 2 * digits])
        assert asked[: 2 * digits - 1] == [IGNORE] * (2 * digits - 1)
        assert "".join(map(str, asked[2 * digits - 1 :])) == f"{total:0{digits + 1}d}"
        assert shown[2 * digits :] == asked[2 * digits - 1 : -1], "next tokens: the last digit is never shown"


def test_all_hundred_sums_of_single_digits_can_be_drawn_once_each() -> None:
    train, test = addition(1, 60, 40, seed=0)
    assert len(rows(train.x[:, :2]) | rows(test.x[:, :2])) == 100


def test_every_digit_of_long_operands_is_equally_frequent() -> None:
    for digits in (9, 16):  # numbered pairs, and too many to number
        operands = addition(digits, 2000, 0, seed=0)[0].x[:, : 2 * digits]
        shares = np.stack([(operands == digit).mean(axis=0) for digit in range(10)])
        assert (abs(shares - 0.1) < 0.035).all()


# Linear functions


@DRAWN
@given(st.integers(1, 6), st.integers(1, 12), SEEDS)
def test_one_linear_function_explains_every_value_asked_and_shown(n_features: int, n_points: int, seed: int) -> None:
    for part in linear_functions(n_features, n_points, 4, 3, seed):
        assert part.x.shape == (len(part.y), 2 * n_points - 1, n_features + 1) and part.x.dtype == np.float32
        for x, y in zip(part.x.astype(np.float64), part.y, strict=True):
            points, values = x[::2, :-1], y[::2]
            weights, *_ = np.linalg.lstsq(points, values, rcond=None)
            np.testing.assert_allclose(points @ weights, values, atol=1e-3)
            np.testing.assert_array_equal(x[1::2, -1], values[:-1].astype(np.float64))


def test_a_value_is_shown_only_after_it_was_asked_and_the_last_never() -> None:
    train, _ = linear_functions(3, 8, 50, 0, seed=0)
    assert (train.x[:, ::2, -1] == 0).all() and (train.x[:, 1::2, :-1] == 0).all()
    np.testing.assert_array_equal(train.asked, np.broadcast_to(np.arange(15) % 2 == 0, (50, 15)))
    assert (train.y[~train.asked] == 0).all() and not np.isin(train.y[:, -1], train.x).any()


def test_points_and_weights_are_standard_normal_and_the_weights_are_new_in_every_sequence() -> None:
    train, _ = linear_functions(5, 20, 2000, 0, seed=0)
    points, values = train.x[:, ::2, :-1].astype(np.float64), train.y[:, ::2].astype(np.float64)
    weights = np.stack([np.linalg.lstsq(x, y, rcond=None)[0] for x, y in zip(points, values, strict=True)])
    for drawn in (points.reshape(-1, 5), weights):
        np.testing.assert_allclose(drawn.mean(axis=0), 0, atol=0.1)
        np.testing.assert_allclose(np.cov(drawn.T), np.eye(5), atol=0.15)


# All of them


@pytest.mark.parametrize("task", TASKS)
def test_the_seed_alone_decides(task: str) -> None:
    first, again, other = (TASKS[task](20, 10, seed) for seed in (3, 3, 4))
    for one, two, three in zip(first, again, other, strict=True):
        assert np.array_equal(one.x, two.x) and np.array_equal(one.y, two.y)
        assert not rows(one.x) & rows(three.x)


@pytest.mark.parametrize("task", TASKS)
def test_no_sequence_is_drawn_twice_and_no_test_sequence_in_training(task: str) -> None:
    train, test = TASKS[task](300, 200, 0)
    assert len(rows(train.x) | rows(test.x)) == 500


@pytest.mark.parametrize(
    "draw",
    [
        lambda: majority(5, 4, 20, 20, 0),
        lambda: counting(6, 3, 20, 6, 0, max_count=3),
        lambda: addition(1, 50, 50, 0),
    ],
    ids=["majority", "counting", "addition"],
)
def test_training_and_testing_stay_apart_where_hardly_more_is_possible(draw) -> None:
    train, test = draw()
    assert len(rows(train.x) | rows(test.x)) == len(train.x) + len(test.x)


@pytest.mark.parametrize("task", TASKS)
def test_either_part_may_be_empty(task: str) -> None:
    for n_train, n_test in ((0, 5), (5, 0), (0, 0)):
        train, test = TASKS[task](n_train, n_test, 0)
        assert (len(train.x), len(test.x)) == (len(train.y), len(test.y)) == (n_train, n_test)
        assert train.x.shape[1:] == test.x.shape[1:] and train.x.dtype == test.x.dtype


@pytest.mark.parametrize("task", TOKEN_TASKS)
def test_tokens_are_long_integers_below_the_vocabulary_size(task: str) -> None:
    for part in TOKEN_TASKS[task](50, 50, 0):
        assert part.x.dtype == part.y.dtype == np.int64
        assert part.x.min() >= 0 and max(part.x.max(), part.y.max()) < 12


@pytest.mark.parametrize(
    ("draw", "said"),
    [
        (lambda: induction(3, 20, 5, 5, 0), "vocab_size must be at least 4 .*got 3"),
        (lambda: induction(10, 4, 5, 5, 0, induction_len=3), r"length must be at least induction_len \+ 2 = 5, got 4"),
        (lambda: induction(10, 20, 5, 5, 0, induction_len=0), "must be at least 1, got 0 and 1"),
        (lambda: induction(10, 20, 5, 5, 0, num_triggers=0), "must be at least 1, got 1 and 0"),
        (lambda: induction(4, 3, 50, 5, 0), "only [0-9] different sequences found of the 50"),
        (lambda: majority(3, 20, 5, 5, 0), "vocab_size must be at least 4 .*got 3"),
        (lambda: majority(10, 0, 5, 5, 0), "length must be at least 1 .*got 0"),
        (lambda: majority(10, 2, 5, 5, 0), "only 8 different sequences found of the 10"),
        (lambda: counting(10, 0, 5, 5, 0), "length must be at least 1 .*got 0"),
        (lambda: counting(10, 20, 5, 5, 0, max_count=9), r"vocab_size must be at least max_count \+ 2 = 11 .*got 10"),
        (lambda: counting(10, 4, 5, 5, 0, max_count=5), "max_count must be from 1 to the length 4, got 5"),
        (lambda: counting(10, 4, 5, 5, 0, max_count=0), "max_count must be from 1 to the length 4, got 0"),
        (lambda: counting(4, 2, 5, 5, 0), "only 4 different sequences found of the 10"),
        (lambda: addition(0, 5, 5, 0), "digits must be at least 1, got 0"),
        (lambda: addition(1, 60, 41, 0), "at most 100 .*1-digit numbers.*got 101"),
        (lambda: linear_functions(0, 5, 5, 5, 0), "must be at least 1, got 0 and 5"),
        (lambda: linear_functions(5, 0, 5, 5, 0), "must be at least 1, got 5 and 0"),
        *((lambda task=task: task(5, -1, 0), "must not be negative, got 5 and -1") for task in TASKS.values()),
    ],
)
def test_what_cannot_be_drawn_is_refused_with_the_numbers_given(draw, said: str) -> None:
    with pytest.raises(HyenaError, match=said):
        draw()
