"""Interpolated Markov chains of DNA: what a few letters of context predict, which any other model must beat."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
from jaxtyping import Float, UInt8

from hyena.data.nucleotides import A, N, reverse_complement
from hyena.errors import HyenaError

CHUNK = 2**21  # letters counted at a time


class MarkovChain:
    r"""The probability of a letter after its `order` predecessors, each order smoothed by the one below:

    $$p_k(x \mid c) = \frac{n_k(c, x) + \alpha\, p_{k-1}(x \mid c')}{n_k(c) + \alpha}, \qquad p_{-1} = \tfrac14$$

    with $n_k$ the counts of the training letters on both strands and $c'$ the context without its oldest letter. At
    the start of a sequence, and after an N, the context is what is known of it.

    Arguments:
        order: letters of context, 0 to 12.
        letters: what is counted.

    Raises:
        HyenaError: an order outside these bounds.
    """

    def __init__(self, order: int, letters: Iterable[UInt8[np.ndarray, " _"]]):
        if not 0 <= order <= 12:
            raise HyenaError(f"the order of a Markov chain is 0 to 12, got {order}")
        self.order = order
        self.counts = [np.zeros(4 ** (k + 1), dtype=np.int64) for k in range(order + 1)]
        joined = np.concatenate([part for array in letters for part in (array, [np.uint8(N)])])  # no context crosses N
        for strand in (joined, reverse_complement(joined)):
            self._count(strand)

    def _count(self, letters: np.ndarray) -> None:
        for start in range(0, len(letters), CHUNK):
            before = min(start, self.order)  # counted with the piece before: here they are context alone
            piece = letters[start - before : start + CHUNK]
            for counts, (code, whole) in zip(self.counts, _codes(piece, self.order), strict=True):
                counts += np.bincount(code[before:][whole[before:]], minlength=len(counts))

    def log_probability(
        self, tiles: UInt8[np.ndarray, "tiles length"], alpha: float
    ) -> Float[np.ndarray, "orders tiles last"]:
        """Nats of every letter but the first of each tile, for order 0, 1, … up to `order`; not a number for N.

        Raises:
            HyenaError: `alpha` is not above 0.
        """
        if alpha <= 0:
            raise HyenaError(f"alpha must be above 0, got {alpha}")
        p, found = np.full(tiles.shape, 0.25), []
        for counts, (code, whole) in zip(self.counts, _codes(tiles, self.order), strict=True):
            of_context = counts.reshape(-1, 4).sum(1)[code // 4]
            p = np.where(whole, (counts[code] + alpha * p) / (of_context + alpha), p)
            found.append(np.where(tiles != N, np.log(p), np.nan)[:, 1:])
        return np.stack(found)


def _codes(letters: np.ndarray, order: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """For order 0, 1, …: context and letter as one number, and where all of these letters exist and are known."""
    known = letters != N
    digit = np.where(known, letters.astype(np.int64) - A, 0)
    code, whole = digit.copy(), known.copy()
    yield code, whole
    for k in range(1, order + 1):
        code, whole = code.copy(), whole.copy()
        code[..., k:] += digit[..., :-k] * 4**k
        whole[..., k:] &= known[..., :-k]
        whole[..., :k] = False
        yield code, whole
