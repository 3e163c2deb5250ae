"""What a DNA model is compared with: features counted by hand, and a CNN that padding does not change."""

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from hyena.data.nucleotides import encode, pad
from hyena.errors import HyenaError
from hyena.models.dna_baselines import DnaCNN, linear_features

DNA = st.text(alphabet="ACGTN", min_size=4, max_size=30)


def code(word: str) -> int:
    return sum("ACGT".index(letter) * 4**j for j, letter in enumerate(word))


@settings(deadline=None)
@given(st.lists(DNA, min_size=1, max_size=4), st.integers(1, 4))
def test_words_are_counted_as_by_hand(sequences: list[str], k: int) -> None:
    x, _ = pad([encode(s) for s in sequences])
    found = linear_features("kmers", x, k).toarray()
    for row, sequence in zip(found, sequences, strict=True):
        words = Counter(sequence[i : i + k] for i in range(len(sequence) - k + 1))
        expected = {code(word): count for word, count in words.items() if "N" not in word}
        assert {i: int(n) for i, n in enumerate(row) if n} == expected


def test_positions_are_one_hot_and_an_unknown_letter_is_nothing() -> None:
    found = linear_features("positions", np.stack([encode("ACN"), encode("TTT")]).astype(np.int64)).toarray()
    assert found.reshape(2, 3, 4).tolist() == [
        [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 0]],
        [[0, 0, 0, 1], [0, 0, 0, 1], [0, 0, 0, 1]],
    ]


def test_sequences_shorter_than_a_word_have_no_words() -> None:
    assert linear_features("kmers", np.stack([encode("ACG")]).astype(np.int64), k=5).nnz == 0


@pytest.mark.usefixtures("unchecked")
def test_another_kind_of_features_is_refused() -> None:
    with pytest.raises(HyenaError, match="unknown kind of features 'kmer': did you mean 'kmers'"):
        linear_features("kmer", np.zeros((1, 8), dtype=np.int64))


def test_padding_does_not_change_what_the_cnn_says() -> None:
    torch.manual_seed(0)
    model = DnaCNN(3, channels=8, taps=5).double().eval()
    for sequence in ("ACG", "ACGTTGCAACGTA", "ACGTTGCAACGTACGG"):
        y, padded = (model(*map(torch.from_numpy, pad([encode(sequence)], n))) for n in (len(sequence), 28))
        assert_close(padded, y)
