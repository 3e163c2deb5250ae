"""Rivals in forecasting: each is what it says, on series where the answer is known."""

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from hyena.errors import HyenaError
from hyena.models.forecasters import (
    DLinear,
    LSTMForecaster,
    NLinear,
    TransformerForecaster,
    ar_forecast,
    fit_ar,
    seasonal_naive,
)

NETWORKS = {
    "nlinear": lambda: NLinear(30, 7),
    "lstm": lambda: LSTMForecaster(7, 8),
    "transformer": lambda: TransformerForecaster(30, 7, 8, num_heads=2),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_forecasts_move_with_the_level_of_the_window(name: str) -> None:
    torch.manual_seed(0)
    model, x = NETWORKS[name]().eval(), torch.randn(3, 30, 1)
    assert model(x).shape == (3, 7, 1)
    assert_close(model(x + 10), model(x) + 10, atol=1e-4, rtol=1e-4)


def test_dlinear_splits_the_window_into_trend_and_rest() -> None:
    model = DLinear(30, 30, window=5)
    for part, weight in ((model.trend, 1.0), (model.rest, 0.0)):
        torch.nn.init.zeros_(part.bias)
        part.weight.data = weight * torch.eye(30)
    x = torch.randn(1, 30, 1)
    padded = torch.cat([x[:, :1].expand(-1, 2, -1), x, x[:, -1:].expand(-1, 2, -1)], 1)
    assert_close(model(x)[0, :, 0], padded[0, :, 0].unfold(0, 5, 1).mean(-1))
    model.rest.weight.data = torch.eye(30)
    assert_close(model(x), x)
    with pytest.raises(HyenaError, match="odd, got 4"):
        DLinear(30, 7, window=4)


@pytest.mark.parametrize(("period", "horizon"), [(1, 3), (4, 3), (4, 10)])
def test_the_last_season_is_repeated(period: int, horizon: int) -> None:
    x = torch.arange(12.0)[None, :, None]
    expected = [12 - period + i % period for i in range(horizon)]
    assert seasonal_naive(x, horizon, period)[0, :, 0].tolist() == expected
    with pytest.raises(HyenaError, match="12 steps does not hold a season of 13"):
        seasonal_naive(x, 3, 13)


def test_autoregression_finds_and_continues_a_recurrence() -> None:
    weights = np.array([0.3, 0.5, -0.2, 0.4])  # constant, then the latest value first
    rng, y = np.random.default_rng(0), [1.0, -1.0, 2.0]
    for _ in range(60):
        y.append(weights[0] + weights[1:] @ y[:-4:-1])
    found = fit_ar(np.array(y), 3)
    assert np.allclose(found, weights)
    assert np.allclose(ar_forecast(found, np.array([y[20:40], y[30:50]]), 8), [y[40:48], y[50:58]])
    assert np.allclose(fit_ar(rng.normal(2, 1, 20_000), 2), [2, 0, 0], atol=0.05)
