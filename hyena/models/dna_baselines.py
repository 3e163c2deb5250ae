"""What a DNA language model is compared with in classification: linear models, a small CNN, words of letters."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy import sparse
from torch import Tensor, nn
from torch.nn import functional as F

from hyena.data.nucleotides import BASES, VOCAB_SIZE, A, N
from hyena.errors import HyenaError, unknown
from hyena.models.hyenadna import Classifier, Pool
from hyena.models.lm import LanguageModel

Features = Literal["kmers", "positions"]
FEATURES = ("kmers", "positions")


class DnaCNN(nn.Module):
    """Three convolutions with batch norm and pooling, the mean over positions or all of them, two dense layers.

    After the baseline of GenomicBenchmarks (Gresova et al. 2023), but wider; and without `length` it takes a masked
    mean in place of the flattened output, so that it reads inputs of any length.
    """

    def __init__(self, n_classes: int, channels: int = 32, taps: int = 9, length: int | None = None):
        super().__init__()
        self.length = length
        self.embedding = nn.Embedding(VOCAB_SIZE, channels)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Conv1d(channels, channels, taps, padding="same"), nn.BatchNorm1d(channels), nn.ReLU())
            for _ in range(3)
        )
        seen = channels * (1 if length is None else -(-length // 4))  # two poolings, each rounded up
        self.head = nn.Sequential(nn.Linear(seen, channels), nn.ReLU(), nn.Linear(channels, n_classes))

    def forward(
        self, tokens: Int[Tensor, "batch length"], mask: Bool[Tensor, "batch length"]
    ) -> Float[Tensor, "batch classes"]:
        """Logits.

        Raises:
            HyenaError: the input has another length than the model was made for.
        """
        if self.length not in (None, tokens.shape[1]):
            raise HyenaError(f"the CNN was made for inputs of length {self.length}, got {tokens.shape[1]}")
        x, keep = self.embedding(tokens).transpose(1, 2), mask[:, None].to(self.embedding.weight.dtype)
        for i, block in enumerate(self.blocks):
            x = block(x * keep) * keep  # after ReLU a zero never wins a maximum
            if i < 2 and x.shape[-1] > 1:
                x, keep = (F.max_pool1d(part, 2, ceil_mode=True) for part in (x, keep))
        x = x * keep
        return self.head(x.sum(-1) / keep.sum(-1) if self.length is None else x.flatten(1))


class WordClassifier(Classifier):
    """A classifier that reads words of `k` letters side by side, one token each (Table A.4 of HyenaDNA: 6-mers).

    `model` has `word_count(k)` tokens or more; the other arguments are those of `Classifier`, in words.
    """

    def __init__(self, model: LanguageModel, n_classes: int, *, k: int, pool: Pool = "mean", length: int | None = None):
        super().__init__(model, n_classes, pool=pool, length=length)
        self.k = k

    def forward(
        self, tokens: Int[Tensor, "batch length"], mask: Bool[Tensor, "batch length"]
    ) -> Float[Tensor, "batch classes"]:
        """Logits."""
        return super().forward(in_words(tokens, self.k), mask[:, :: self.k])


def in_words(tokens: Int[Tensor, "batch length"], k: int) -> Int[Tensor, "batch words"]:
    r"""Words of `k` letters as numbers $\sum_j 4^j x_j$ with A, C, G, T as 0 to 3, from the first letter on.

    A word with an unknown letter, or cut short by the end, is the number $4^k$.
    """
    letters = F.pad(tokens, (0, -tokens.shape[1] % k), value=N).unflatten(1, (-1, k)) - A
    known = ((letters >= 0) & (letters < 4)).all(-1)
    words = (letters * 4 ** torch.arange(k, device=tokens.device)).sum(-1)
    return words.where(known, 4**k)


def word_count(k: int) -> int:
    """How many tokens `in_words` knows."""
    return 4**k + 1


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
