"""Letters of DNA as numbers: HyenaDNA's vocabulary, reverse complement, padding.

>>> encode("ACGTN")
array([ 7,  8,  9, 10, 11], dtype=uint8)
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Int, Integer, UInt8

from hyena.errors import HyenaError

# Ids of the official tokenizer (Nguyen et al. 2023, released code): seven specials, then the letters.
TOKENS = ("[CLS]", "[SEP]", "[BOS]", "[MASK]", "[PAD]", "[RESERVED]", "[UNK]", "A", "C", "G", "T", "N")
VOCAB_SIZE = len(TOKENS)
CLS, SEP, BOS, MASK, PAD, UNK = (TOKENS.index(f"[{name}]") for name in ("CLS", "SEP", "BOS", "MASK", "PAD", "UNK"))
A, C, G, T, N = range(7, 12)
BASES = np.array([A, C, G, T], dtype=np.uint8)

_ID = np.full(256, UNK, dtype=np.uint8)
_ID[[ord(letter) for letter in "ACGTNacgtn"]] = 2 * list(range(7, 12))  # soft-masked letters are bases
_COMPLEMENT = np.arange(VOCAB_SIZE, dtype=np.uint8)
_COMPLEMENT[[A, C, G, T]] = T, G, C, A


def encode(sequence: str | bytes, where: str = "the sequence", first: int = 1) -> UInt8[np.ndarray, " length"]:
    """Ids of the letters A, C, G, T and N in either case.

    Lower case marks repeats in a genome ("soft masking"); it is read as the same base. The official tokenizer makes
    [UNK] of it, so that results depend on the case of the file.

    Arguments:
        where, first: what to call the sequence, and its first position, in an error.

    Raises:
        HyenaError: another letter; named with its position.
    """
    raw = sequence.encode("ascii", "replace") if isinstance(sequence, str) else sequence
    ids = _ID[np.frombuffer(raw, dtype=np.uint8)]
    if (illegal := np.flatnonzero(ids == UNK)).size:
        at = int(illegal[0])
        letter = sequence[at] if isinstance(sequence, str) else chr(sequence[at])
        raise HyenaError(
            f"{where} has {letter!r} at position {first + at:,} ({illegal.size:,} such letters in all); allowed are "
            "A, C, G, T and N in either case: write N where a base is not known"
        )
    return ids


def decode(ids: Int[np.ndarray, " length"] | UInt8[np.ndarray, " length"]) -> str:
    """Letters, and the names of special tokens in brackets."""
    return "".join(TOKENS[i] for i in ids)


def reverse_complement(ids: Integer[np.ndarray, "*batch length"]) -> UInt8[np.ndarray, "*batch length"]:
    """The other strand, read in its own direction: A and T, C and G change places, N and specials stay."""
    return _COMPLEMENT[ids[..., ::-1]]


def pad(
    sequences: Sequence[UInt8[np.ndarray, " _"]], length: int | None = None
) -> tuple[Int[np.ndarray, "batch length"], Bool[np.ndarray, "batch length"]]:
    """Sequences of several lengths as one array with [PAD] on the right, and the mask of what is not padding.

    Arguments:
        length: of the result; that of the longest sequence if not given.

    Raises:
        HyenaError: no sequence, an empty one, or one that is longer than `length`.
    """
    sizes = [len(s) for s in sequences]
    if not sizes or not min(sizes):
        raise HyenaError("nothing to pad: no sequence, or an empty one" + (f" ({sizes.index(0) + 1})" if sizes else ""))
    length = max(sizes) if length is None else length
    if max(sizes) > length:
        raise HyenaError(f"sequence {sizes.index(max(sizes)) + 1} has {max(sizes)} letters, more than {length}")
    ids = np.full((len(sizes), length), PAD, dtype=np.int64)
    for row, sequence in zip(ids, sequences, strict=True):
        row[: len(sequence)] = sequence
    return ids, np.arange(length) < np.array(sizes)[:, None]
