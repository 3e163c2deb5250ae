"""Letters of DNA as numbers: the official vocabulary, both strands, padding."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyena.data.nucleotides import PAD, TOKENS, VOCAB_SIZE, decode, encode, pad, reverse_complement
from hyena.errors import HyenaError

DNA = st.text(alphabet="ACGTN", min_size=1, max_size=60)


def test_ids_are_those_of_the_official_tokenizer() -> None:
    assert encode("ACGTN").tolist() == [7, 8, 9, 10, 11]
    assert (TOKENS.index("[CLS]"), TOKENS.index("[SEP]"), TOKENS.index("[PAD]"), TOKENS.index("[UNK]")) == (0, 1, 4, 6)
    assert VOCAB_SIZE == 12


@given(DNA)
def test_lower_case_is_the_same_base(sequence: str) -> None:
    assert np.array_equal(encode(sequence.lower()), encode(sequence))
    assert np.array_equal(encode(sequence.encode()), encode(sequence))


@given(DNA)
def test_decoding_gives_the_sequence_back(sequence: str) -> None:
    assert decode(encode(sequence)) == sequence


def test_the_other_strand_by_hand() -> None:
    assert decode(reverse_complement(encode("AACGTN"))) == "NACGTT"


@given(DNA, DNA)
def test_the_other_strand_of_the_other_strand_is_the_first(a: str, b: str) -> None:
    assert decode(reverse_complement(reverse_complement(encode(a)))) == a
    joined = reverse_complement(encode(a + b))
    assert np.array_equal(joined, np.concatenate([reverse_complement(encode(b)), reverse_complement(encode(a))]))


def test_a_batch_of_sequences_is_complemented_row_by_row() -> None:
    batch = np.stack([encode("ACGT"), encode("AAAN")])
    assert [decode(row) for row in reverse_complement(batch)] == ["ACGT", "NTTT"]


@pytest.mark.parametrize(
    ("sequence", "said"),
    [
        ("ACXT", r"has 'X' at position 3 \(1 such letters in all\); allowed are A, C, G, T and N"),
        (b"RYRY", r"has 'R' at position 1 \(4 such letters"),
        ("ACGU", "has 'U' at position 4"),
        ("AC GT", "has ' ' at position 3"),
        ("ACé", "has 'é' at position 3"),
    ],
)
def test_another_letter_is_named_with_its_position(sequence: str | bytes, said: str) -> None:
    with pytest.raises(HyenaError, match=said):
        encode(sequence)


def test_a_position_is_counted_from_where_the_sequence_begins() -> None:
    with pytest.raises(HyenaError, match="chr1 has 'Z' at position 1,002"):
        encode("AZ", "chr1", first=1001)


def test_padding_is_on_the_right_and_the_mask_is_true_where_letters_are() -> None:
    ids, mask = pad([encode("ACG"), encode("T")])
    assert ids.tolist() == [[7, 8, 9], [10, PAD, PAD]]
    assert mask.tolist() == [[True, True, True], [True, False, False]]
    assert pad([encode("ACG")], length=5)[0].shape == (1, 5)


@pytest.mark.parametrize(
    ("sequences", "length", "said"),
    [
        ([], None, "nothing to pad: no sequence"),
        (["ACG", ""], None, r"an empty one \(2\)"),
        (["AC", "ACG"], 2, "sequence 2 has 3 letters, more than 2"),
    ],
)
def test_what_cannot_be_padded_is_named(sequences: list[str], length: int | None, said: str) -> None:
    with pytest.raises(HyenaError, match=said):
        pad([encode(s) for s in sequences], length)
