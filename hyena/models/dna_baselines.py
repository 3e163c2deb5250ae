"""What a DNA language model is compared with in classification: counts of k-mers, positions, and a small CNN."""

from __future__ import annotations

from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import sparse
from torch import Tensor, nn

from hyena.data.nucleotides import BASES, VOCAB_SIZE, A
from hyena.errors import unknown

Features = Literal["kmers", "positions"]
FEATURES = ("kmers", "positions")


class DnaCNN(nn.Module):
    """Three convolutions with batch norm and pooling, the mean over positions, two dense layers.

    After the baseline of GenomicBenchmarks (Gresova et al. 2023), but wider and with a masked mean in place of the
    flattened output, so that it reads any length.
    """

    def __init__(self, n_classes: int, channels: int = 64, taps: int = 9):
        super().__init__()
        self.embedding = nn.Embedding(VOCAB_SIZE, channels)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Conv1d(channels, channels, taps, padding="same"), nn.BatchNorm1d(channels), nn.ReLU())
            for _ in range(3)
        )
        self.head = nn.Sequential(nn.Linear(channels, channels), nn.ReLU(), nn.Linear(channels, n_classes))

    def forward(
        self, tokens: Int[Tensor, "batch length"], mask: Bool[Tensor, "batch length"]
    ) -> Float[Tensor, "batch classes"]:
        """Logits."""
        x, keep = self.embedding(tokens).transpose(1, 2), mask[:, None].to(self.embedding.weight.dtype)
        for i, block in enumerate(self.blocks):
            x = block(x * keep) * keep  # after ReLU a zero never wins a maximum
            if i < 2 and x.shape[-1] > 1:
                x, keep = (nn.functional.max_pool1d(part, 2, ceil_mode=True) for part in (x, keep))
        return self.head((x * keep).sum(-1) / keep.sum(-1))


def linear_features(kind: Features, x: Int[np.ndarray, "examples length"], k: int = 5) -> sparse.csr_matrix:
    """Rows for a linear model: how often each word of `k` letters occurs, or which letter stands at each position.

    Words and places with a letter that is not known count nothing.

    Raises:
        HyenaError: another kind.
    """
    if kind not in FEATURES:
        raise unknown("kind of features", kind, FEATURES)
    known = np.isin(x, BASES)
    digit = np.where(known, x.astype(np.int64) - A, 0)
    if kind == "positions":
        columns, here, width = digit + 4 * np.arange(x.shape[1]), known, 4 * x.shape[1]
    else:
        places = max(0, x.shape[1] - k + 1)
        columns = sum((digit[:, j : j + places] * 4**j for j in range(k)), np.zeros((len(x), places), dtype=np.int64))
        here = np.logical_and.reduce([known[:, j : j + places] for j in range(k)])
        width = 4**k
    row = np.broadcast_to(np.arange(len(x))[:, None], columns.shape)
    counted = (np.ones(int(here.sum()), dtype=np.float32), (row[here], columns[here]))
    return sparse.csr_matrix(counted, shape=(len(x), width))  # equal places are added up
