"""Long horizons: SpaceTime beside linear maps, an LSTM, a Transformer, autoregression and repetition."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from statistics import fmean
from typing import ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hyena.data.series import Series, load_series
from hyena.errors import HyenaError, unknown
from hyena.experiments.comparison import Trial, rows, shuffled, sweeps
from hyena.experiments.spacetime.seeds import EverySeed
from hyena.models.forecasters import (
    DLinear,
    LSTMForecaster,
    NLinear,
    TransformerForecaster,
    ar_forecast,
    fit_ar,
    seasonal_naive,
)
from hyena.models.lm import count_parameters
from hyena.models.spacetime import SpaceTime, forecast_losses
from hyena.results import Result, Row
from hyena.train import Run, train

MODELS = ("spacetime", "nlinear", "dlinear", "lstm", "transformer")
LINEAR = ("nlinear", "dlinear")


class Errors(NamedTuple):
    """Mean squared and absolute error over all windows; and the mean of the means of batches, as papers have it."""

    mse: float
    mae: float
    mse_batched: float


@dataclass(frozen=True)
class Windowed(EverySeed):
    """Fields of the windows and of SpaceTime; every network has the same windows, rates, steps and batches."""

    series: tuple[str, ...] = ("ETTh1", "ETTh2", "ETTm1", "ETTm2")
    column: str = ""  # of a file of yours
    lag: int = 336
    d_model: int = 128  # Section 3 of the released configuration
    d_state: int = 64
    n_kernels: int = 16
    n_blocks: int = 1
    dropout: float = 0.25
    max_window: int = 64
    ar_order: int = 48
    steps: int = 10_000
    warmup: int = 500
    evaluations: int = 20
    valid_windows: int = 1_000_000  # at most, evenly spread
    batch_size: int = 50
    lr: tuple[float, ...] = (1e-3,)
    weight_decay: float = 1e-4

    def network(self, kind: str, horizon: int, seed: int) -> nn.Module:
        """By name, for this lag and horizon, initialised by `seed`."""
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            if kind == "spacetime":
                return SpaceTime(
                    self.d_model, self.d_state, n_kernels=self.n_kernels, n_blocks=self.n_blocks, dropout=self.dropout,
                    max_window=self.max_window,
                )  # fmt: skip
            if kind == "nlinear":
                return NLinear(self.lag, horizon)
            if kind == "dlinear":
                return DLinear(self.lag, horizon)
            if kind == "lstm":
                return LSTMForecaster(horizon, self.d_model, dropout=self.dropout)
            if kind == "transformer":
                return TransformerForecaster(self.lag, horizon, self.d_model, dropout=self.dropout)
            raise unknown("forecaster", kind, MODELS)

    def fit(self, series: Series, horizon: int, run: Run, kind: str, lr: float, seed: int) -> Trial:
        """Train one network; score and test are mean squared errors, the score negative."""
        model = self.network(kind, horizon, seed)
        count = series.count("train", self.lag, horizon)
        pick = shuffled((np.arange(count),), min(self.batch_size, count), seed)

        def batch(step: int) -> tuple[Tensor, ...]:
            return series.windows("train", self.lag, horizon, pick(step)[0].numpy())

        def loss(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
            if kind == "spacetime":
                return sum(forecast_losses(model(x, horizon), x, y, self.d_state))
            return F.mse_loss(model(x), y)

        def validation(model: nn.Module) -> Row:
            return {"mse": errors(series, "valid", self.lag, horizon, by(model, horizon), self.valid_windows).mse}

        curve = train(
            model, batch, loss, self.recipe(self.steps, self.warmup, lr, max(1, self.steps // self.evaluations)),
            replace(run, seed=seed), f"{series.name} {horizon} {kind} lr {lr:g} seed {seed}", evaluate=validation,
        )  # fmt: skip
        tested = errors(series, "test", self.lag, horizon, by(model, horizon))
        return Trial(lr, -curve[-1]["mse"], tested.mse, model, curve)


@dataclass(frozen=True)
class Forecasting(Windowed):
    """Claim 4: mean squared error of standardised values over all windows of the test part; no batch is dropped.

    Two rivals are not trained by gradient: autoregression of `ar_order` by least squares, and the last season again.
    Rates are chosen on the validation part.
    """

    paper: ClassVar[str] = "spacetime"

    horizons: tuple[int, ...] = (96, 192, 336, 720)
    operators: tuple[str, ...] = MODELS

    def __post_init__(self) -> None:
        super().__post_init__()
        for kind in self.operators:
            self.network(kind, 1, 0)  # an unknown name is refused before any work

    def run(self, run: Run) -> Result:
        found = [load_series(name, self.column) for name in self.series]
        for series in found:
            _check(series, self.lag, self.horizons, self.ar_order)
        metrics: dict[str, list[float]] = {}
        parameters: dict[str, int] = {}
        table: list[Row] = []
        curves: list[Row] = []
        tried: list[Row] = []
        arrays: dict[str, np.ndarray] = {}
        for series in found:
            for horizon in self.horizons:
                key = f"{series.name}_{horizon}"
                fit = partial(self.fit, series, horizon, run)
                chosen = {kind: self.from_every_seed(kind, run.seed, fit) for kind in self.operators}
                forecasts = {k: [by(t.model, horizon) for t in trials] for k, trials in chosen.items()}
                forecasts |= {"ar": [by_ar(series, self.ar_order, horizon)], "naive": [by_season(series, horizon)]}
                for kind, forecasters in forecasts.items():
                    scores = [errors(series, "test", self.lag, horizon, one) for one in forecasters]
                    for name in Errors._fields:
                        metrics[f"{key}_{kind}_{name}"] = [getattr(score, name) for score in scores]
                    lr = chosen[kind][0].lr if kind in chosen else 0.0
                    table.append(_row(series, horizon, kind, lr, scores))
                parameters |= {f"{horizon}_{k}": count_parameters(trials[0].model) for k, trials in chosen.items()}
                curves += rows(chosen, run.seed, series=series.name, horizon=float(horizon))
                tried += sweeps(chosen, series=series.name, horizon=float(horizon))
                metrics |= _ratio(key, self.operators, metrics)
                arrays |= _picture(series, key, self.lag, horizon, {k: f[0] for k, f in forecasts.items()})
        data = {name: value for series in found for name, value in series.data.items()}
        tables = {"errors": table, "curves": curves, "sweep": tried}
        return Result(metrics, parameters=parameters, data=data, tables=tables, arrays=arrays)


@dataclass(frozen=True)
class HorizonGeneralisation(Windowed):
    """Claim 2: SpaceTime trained at the first horizon, tested at all; beside one that is trained at each.

    A closed loop goes on as long as it is asked to. Linear maps and the other networks answer one horizon only, so the
    rivals here are autoregression and repetition, which go on too.
    """

    paper: ClassVar[str] = "spacetime"

    horizons: tuple[int, ...] = (192, 720)

    def run(self, run: Run) -> Result:
        found = [load_series(name, self.column) for name in self.series]
        for series in found:
            _check(series, self.lag, self.horizons, self.ar_order)
        metrics: dict[str, list[float]] = {}
        tried: list[Row] = []
        for series in found:
            chosen = {}
            for horizon in self.horizons:
                fit = partial(self.fit, series, horizon, run)
                chosen[horizon] = self.from_every_seed("spacetime", run.seed, fit)
                tried += sweeps({"spacetime": chosen[horizon]}, series=series.name, horizon=float(horizon))
            first = chosen[self.horizons[0]]
            for horizon in self.horizons:
                key, test = f"{series.name}_{horizon}", partial(errors, series, "test", self.lag, horizon)
                metrics[f"{key}_trained_at_{self.horizons[0]}"] = [test(by(t.model, horizon)).mse for t in first]
                metrics[f"{key}_trained_here"] = [t.test for t in chosen[horizon]]
                metrics[f"{key}_ar"] = [test(by_ar(series, self.ar_order, horizon)).mse]
                metrics[f"{key}_naive"] = [test(by_season(series, horizon)).mse]
            longest = f"{series.name}_{self.horizons[-1]}"
            here, away = (fmean(metrics[f"{longest}_trained_{e}"]) for e in ("here", f"at_{self.horizons[0]}"))
            metrics[f"{series.name}_loss_of_generalising"] = [100 * (away / here - 1)]
        data = {name: value for series in found for name, value in series.data.items()}
        return Result(metrics, data=data, tables={"sweep": tried})


Forecaster = Callable[[Tensor], Tensor]  # (batch, lag, 1) to (batch, horizon, 1)


def by(model: nn.Module, horizon: int) -> Forecaster:
    """A trained network as a function of the window."""

    @torch.no_grad()
    def forecast(x: Tensor) -> Tensor:
        model.eval()
        x = x.to(next(model.parameters()).device)
        return (model(x, horizon).closed if isinstance(model, SpaceTime) else model(x)).cpu()

    return forecast


def by_ar(series: Series, order: int, horizon: int) -> Forecaster:
    """Autoregression, fitted on the training part."""
    weights = fit_ar(series.values[: series.ends[0]], order)
    return lambda x: torch.from_numpy(ar_forecast(weights, x[..., 0].double().numpy(), horizon)).float()[..., None]


def by_season(series: Series, horizon: int) -> Forecaster:
    """The last season again."""
    return partial(seasonal_naive, horizon=horizon, period=series.period)


def errors(
    series: Series, part: str, lag: int, horizon: int, forecast: Forecaster, most: int = 1_000_000, batch: int = 64
) -> Errors:
    """Of all windows of a part, or of `most` that are evenly spread."""
    count = series.count(part, lag, horizon)
    some = np.unique(np.linspace(0, count - 1, min(most, count)).round().astype(int))
    squared, absolute, batched = 0.0, 0.0, []
    for chosen in np.array_split(some, -(-len(some) // batch)):
        x, y = series.windows(part, lag, horizon, chosen)
        off = forecast(x).double() - y
        batched.append((off**2).mean().item())
        squared, absolute = squared + (off**2).sum().item(), absolute + off.abs().sum().item()
    return Errors(squared / (len(some) * horizon), absolute / (len(some) * horizon), fmean(batched))


def _check(series: Series, lag: int, horizons: tuple[int, ...], ar_order: int) -> None:
    """Refuse windows that do not fit before anything is trained."""
    if ar_order > lag or series.period > lag:
        raise HyenaError(f"lag {lag} holds neither an order of {ar_order} nor a season of {series.period}")
    for part in ("train", "valid", "test"):
        series.count(part, lag, max(horizons))


def _ratio(key: str, operators: tuple[str, ...], metrics: dict[str, list[float]]) -> dict[str, list[float]]:
    """The mean squared error of SpaceTime over that of the better linear map."""
    linear = [fmean(metrics[f"{key}_{kind}_mse"]) for kind in LINEAR if kind in operators]
    if "spacetime" not in operators or not linear:
        return {}
    return {f"{key}_ratio": [fmean(metrics[f"{key}_spacetime_mse"]) / min(linear)]}


def _row(series: Series, horizon: int, kind: str, lr: float, scores: list[Errors]) -> Row:
    means = {name: fmean(getattr(score, name) for score in scores) for name in Errors._fields}
    return {"series": series.name, "horizon": horizon, "model": kind, "lr": lr, "seeds": len(scores), **means}


def _picture(
    series: Series, key: str, lag: int, horizon: int, forecasts: dict[str, Forecaster]
) -> dict[str, np.ndarray]:
    """The window in the middle of the test part, what follows, and every forecast of it."""
    middle = np.array([series.count("test", lag, horizon) // 2])
    x, y = series.windows("test", lag, horizon, middle)
    found = {f"{key}_{kind}": forecast(x)[0, :, 0].numpy() for kind, forecast in forecasts.items()}
    return {f"{key}_window": x[0, :, 0].numpy(), f"{key}_truth": y[0, :, 0].numpy(), **found}
