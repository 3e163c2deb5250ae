"""Classifying series: one shell around any encoder, and the encoders that are compared."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from hyena.errors import unknown
from hyena.models.s4 import S4Model
from hyena.models.spacetime import Block, CompanionSSM, Preprocess

ENCODERS = ("spacetime", "s4d", "lstm", "transformer")


class SeriesClassifier(nn.Module):
    """Linear map of the channels, an encoder, the mean over what is no padding, linear map to the classes.

    Padding stands at the end: it reaches no earlier output of a causal encoder, the mean passes over it, and the
    Transformer masks it.

    Arguments:
        kind: encoder, one of `ENCODERS`.
        channels, n_classes: of the task.
        l_max: longest series, for the places that the Transformer learns.
        d_model, d_state, n_layer, dropout: of the encoder; `d_state` of the state spaces alone.

    Raises:
        HyenaError: another kind.
    """

    def __init__(
        self, kind: str, channels: int, n_classes: int, l_max: int, *, d_model: int = 64, d_state: int = 32,
        n_layer: int = 2, dropout: float = 0.1,
    ):  # fmt: skip
        super().__init__()
        self.embed, self.output = nn.Linear(channels, d_model), nn.Linear(d_model, n_classes)
        if kind == "spacetime":
            pre = [Preprocess(d_model, max_window=min(64, max(5, l_max))), *(nn.Identity() for _ in range(n_layer - 1))]
            self.encoder = nn.Sequential(*(Block(one, CompanionSSM(d_model, d_state), dropout) for one in pre))
        elif kind == "s4d":
            self.encoder = S4Model(d_model, d_model, d_model, n_layer, pool="none", dropout=dropout, d_state=d_state)
        elif kind == "lstm":
            self.encoder = nn.LSTM(d_model, d_model, n_layer, batch_first=True, dropout=dropout if n_layer > 1 else 0.0)
        elif kind == "transformer":
            layer = nn.TransformerEncoderLayer(d_model, 4, 4 * d_model, dropout, batch_first=True, norm_first=True)
            layer.self_attn.dropout = 0.0  # of attention weights: with it attention is not fused
            self.encoder = nn.TransformerEncoder(layer, n_layer, nn.LayerNorm(d_model), enable_nested_tensor=False)
            self.place = nn.Parameter(0.02 * torch.randn(l_max, d_model))
        else:
            raise unknown("encoder of series", kind, ENCODERS)
        self.kind = kind

    def forward(
        self, x: Float[Tensor, "batch length channels"], mask: Bool[Tensor, "batch length"]
    ) -> Float[Tensor, "batch classes"]:
        """Logits."""
        z = self.embed(x)
        if self.kind == "transformer":
            padding = None if bool(mask.all()) else ~mask  # without one attention is fused
            z = self.encoder(z + self.place[: z.shape[1]], src_key_padding_mask=padding)
        else:
            z = self.encoder(z)
        z = z[0] if self.kind == "lstm" else z
        kept = mask[..., None]
        return self.output((z * kept).sum(1) / kept.sum(1))
