"""Markov chains of DNA against counting by hand."""

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hyena.data.nucleotides import decode, encode, reverse_complement
from hyena.errors import HyenaError
from hyena.models import markov
from hyena.models.markov import MarkovChain

DNA = st.text(alphabet="ACGTN", min_size=1, max_size=40)


def by_hand(order: int, training: list[str], sequence: str, alpha: float) -> list[float]:
    """Nats of every letter but the first, letter by letter."""
    strands = training + [decode(reverse_complement(encode(s))) for s in training]
    counts = Counter(s[i : i + k + 1] for k in range(order + 1) for s in strands for i in range(len(s) - k))

    def p(context: str, letter: str) -> float:
        below = 0.25 if not context else p(context[1:], letter)
        return (counts[context + letter] + alpha * below) / (sum(counts[context + x] for x in "ACGT") + alpha)

    found = []
    for t in range(1, len(sequence)):
        context = sequence[max(0, t - order) : t].rpartition("N")[2]
        if order == 0:
            context = ""
        found.append(math.nan if sequence[t] == "N" else math.log(p(context, sequence[t])))
    return found


@settings(deadline=None)
@given(st.lists(DNA, min_size=1, max_size=3), DNA, st.integers(0, 4), st.sampled_from([0.5, 4.0]))
def test_probabilities_are_those_of_counting_by_hand(
    training: list[str], sequence: str, order: int, alpha: float
) -> None:
    chain = MarkovChain(order, [encode(s) for s in training])
    found = chain.log_probability(encode(sequence)[None], alpha)
    assert found.shape == (order + 1, 1, len(sequence) - 1)
    for k in range(order + 1):
        np.testing.assert_allclose(found[k, 0], by_hand(k, training, sequence, alpha), rtol=1e-12)


def test_counting_in_pieces_counts_every_letter_once(monkeypatch) -> None:
    letters = np.random.default_rng(0).integers(7, 12, 1000).astype(np.uint8)
    whole = MarkovChain(3, [letters]).counts
    monkeypatch.setattr(markov, "CHUNK", 37)
    for a, b in zip(MarkovChain(3, [letters]).counts, whole, strict=True):
        assert np.array_equal(a, b)
    assert whole[0].sum() == 2 * (letters != 11).sum()


def test_a_chain_finds_the_entropy_of_the_chain_that_it_is_given() -> None:
    rng = np.random.default_rng(0)
    after = np.array([[0.7, 0.1, 0.1, 0.1], [0.1, 0.7, 0.1, 0.1], [0.1, 0.1, 0.7, 0.1], [0.1, 0.1, 0.1, 0.7]])
    letters = [0]
    for _ in range(60_000):
        letters.append(int(rng.choice(4, p=after[letters[-1]])))
    sequence = (np.array(letters) + 7).astype(np.uint8)
    nats = -MarkovChain(2, [sequence[:50_000]]).log_probability(sequence[None, 50_000:], 1.0).mean(axis=(1, 2))
    entropy = -(after[0] * np.log(after[0])).sum()
    assert abs(nats[0] - math.log(4)) < 0.01
    assert abs(nats[1] - entropy) < 0.02 and abs(nats[2] - entropy) < 0.02


@pytest.mark.parametrize("order", [-1, 13])
def test_an_order_out_of_bounds_is_refused(order: int) -> None:
    with pytest.raises(HyenaError, match=f"is 0 to 12, got {order}"):
        MarkovChain(order, [encode("ACGT")])


def test_smoothing_by_nothing_is_refused() -> None:
    with pytest.raises(HyenaError, match="alpha must be above 0"):
        MarkovChain(1, [encode("ACGT")]).log_probability(encode("ACGT")[None], 0.0)
