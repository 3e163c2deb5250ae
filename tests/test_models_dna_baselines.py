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
from hyena.models.dna_baselines import DnaCNN, WordClassifier, in_words, linear_features, word_count
from hyena.models.hyenadna import HyenaDNA

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


def test_the_cnn_over_all_positions_reads_one_length_and_knows_the_place() -> None:
    torch.manual_seed(0)
    model = DnaCNN(2, channels=8, length=10).eval()
    x = torch.from_numpy(pad([encode("ACGTTGCAAC"), encode("CAACGTTGCA")])[0])
    assert not torch.allclose(*model(x, torch.ones_like(x, dtype=torch.bool)))
    with pytest.raises(HyenaError, match="made for inputs of length 10, got 8"):
        model(x[:, :8], torch.ones(2, 8, dtype=torch.bool))


@settings(deadline=None)
@given(DNA, st.integers(1, 4))
def test_words_side_by_side_are_those_of_the_sequence(sequence: str, k: int) -> None:
    found = in_words(torch.from_numpy(encode(sequence).astype(np.int64))[None], k)[0].tolist()
    words = [sequence[i : i + k] for i in range(0, len(sequence), k)]
    assert found == [4**k if "N" in word or len(word) < k else code(word) for word in words]
    assert max(found) < word_count(k)


@pytest.mark.parametrize("pool", ["mean", "last"])
def test_padding_does_not_change_what_a_model_of_words_says(pool: str) -> None:
    torch.manual_seed(0)
    inside = HyenaDNA(8, 1, 12, filter_order=8, vocab_size=word_count(3), embed_dropout=0.0)
    model = WordClassifier(inside, 2, k=3, pool=pool).double().eval()
    for sequence in ("ACGT", "ACGTTGCAACGT"):
        y, padded = (model(*map(torch.from_numpy, pad([encode(sequence)], n))) for n in (len(sequence), 28))
        assert_close(padded, y)
