"""What a forecaster is compared with: repetition, autoregression, linear maps, LSTM, Transformer; on the same windows.

The networks read (batch, lag, 1) and return (batch, horizon, 1).
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from hyena.errors import HyenaError


class NLinear(nn.Module):
    """One linear map of the window less its last value, which is added back (Zeng et al. 2023, arXiv 2205.13504)."""

    def __init__(self, lag: int, horizon: int):
        super().__init__()
        self.linear = nn.Linear(lag, horizon)

    def forward(self, x: Float[Tensor, "batch lag 1"]) -> Float[Tensor, "batch horizon 1"]:
        last = x[:, -1:]
        return self.linear((x - last).mT).mT + last


class DLinear(nn.Module):
    """A moving average and what is left over, each through a linear map (Zeng et al. 2023): edges are repeated."""

    def __init__(self, lag: int, horizon: int, window: int = 25):
        super().__init__()
        if window % 2 == 0:
            raise HyenaError(f"the window of the moving average is odd, got {window}")
        self.window = window
        self.trend, self.rest = nn.Linear(lag, horizon), nn.Linear(lag, horizon)

    def forward(self, x: Float[Tensor, "batch lag 1"]) -> Float[Tensor, "batch horizon 1"]:
        half = self.window // 2
        trend = F.avg_pool1d(F.pad(x.mT, (half, half), mode="replicate"), self.window, stride=1)
        return (self.trend(trend) + self.rest(x.mT - trend)).mT


class LSTMForecaster(nn.Module):
    """The last state of an LSTM that has read the window less its mean, through a linear map."""

    def __init__(self, horizon: int, d_model: int, n_layer: int = 1, dropout: float = 0.0):
        super().__init__()
        self.lstm = nn.LSTM(1, d_model, n_layer, batch_first=True, dropout=dropout if n_layer > 1 else 0.0)
        self.output = nn.Sequential(nn.Dropout(dropout), nn.Linear(d_model, horizon))

    def forward(self, x: Float[Tensor, "batch lag 1"]) -> Float[Tensor, "batch horizon 1"]:
        mean = x.mean(1, keepdim=True)
        return self.output(self.lstm(x - mean)[0][:, -1])[..., None] + mean


class TransformerForecaster(nn.Module):
    """A Transformer encoder over the steps of the window less its mean; the mean of its outputs, and a linear map."""

    def __init__(
        self, lag: int, horizon: int, d_model: int, n_layer: int = 2, num_heads: int = 4, dropout: float = 0.0
    ):
        super().__init__()
        self.embed, self.place = nn.Linear(1, d_model), nn.Parameter(0.02 * torch.randn(lag, d_model))
        layer = nn.TransformerEncoderLayer(d_model, num_heads, 4 * d_model, dropout, batch_first=True, norm_first=True)
        layer.self_attn.dropout = 0.0  # of attention weights: with it attention is not fused
        self.encoder = nn.TransformerEncoder(layer, n_layer, nn.LayerNorm(d_model), enable_nested_tensor=False)
        self.output = nn.Linear(d_model, horizon)

    def forward(self, x: Float[Tensor, "batch lag 1"]) -> Float[Tensor, "batch horizon 1"]:
        mean = x.mean(1, keepdim=True)
        z = self.encoder(self.embed(x - mean) + self.place)
        return self.output(z.mean(1))[..., None] + mean


def seasonal_naive(x: Float[Tensor, "batch lag 1"], horizon: int, period: int) -> Float[Tensor, "batch horizon 1"]:
    """The last season, repeated; with a period of 1 the last value.

    Raises:
        HyenaError: the window is shorter than a season.
    """
    if x.shape[1] < period:
        raise HyenaError(f"a window of {x.shape[1]} steps does not hold a season of {period}")
    last = x[:, x.shape[1] - period :]
    return last.repeat(1, -(-horizon // period), 1)[:, :horizon]


def fit_ar(values: Float[np.ndarray, " steps"], order: int) -> Float[np.ndarray, " weights"]:
    r"""Least squares of $y_t = w_0 + \sum_{i=1}^p w_i\, y_{t-i}$: the constant, then weights, latest value first."""
    past = np.lib.stride_tricks.sliding_window_view(values, order)[:-1, ::-1]
    design = np.concatenate([np.ones((len(past), 1)), past], 1)
    return np.linalg.lstsq(design, values[order:], rcond=None)[0]


def ar_forecast(
    weights: Float[np.ndarray, " weights"], x: Float[np.ndarray, "batch lag"], horizon: int
) -> Float[np.ndarray, "batch horizon"]:
    """The recurrence of `fit_ar` continued by its own predictions."""
    order = len(weights) - 1
    series = np.concatenate([x[:, x.shape[1] - order :], np.zeros((len(x), horizon))], 1)
    for t in range(order, order + horizon):
        series[:, t] = weights[0] + series[:, t - order : t][:, ::-1] @ weights[1:]
    return series[:, order:]
