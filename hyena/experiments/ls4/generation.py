"""Generating series of a panel: the paper's three scores, corrected ones beside them, and two more."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import ClassVar

import numpy as np
from torch import nn

from hyena.data.panels import Panel, load_panel
from hyena.errors import HyenaError
from hyena.experiments.comparison import Trial, rows, shuffled, sweeps
from hyena.experiments.ls4.scores import (
    BINS,
    Series,
    boosted_auroc,
    classification,
    discrepancy,
    marginal,
    marginal_distance,
    prediction,
    shares,
)
from hyena.experiments.ls4.shared import Generators, bound_per_value, drawn, one_each, training_name
from hyena.models.generators import ARGaussian
from hyena.models.lm import count_parameters
from hyena.results import Result, Row
from hyena.train import Run

ORDERS = (1, 2, 4, 8, 13, 25)  # of the autoregression; the best in validation is used
DRAWN = 128  # series that are drawn to validate
SHOWN = 6  # series that are kept for figures
SCORES = (
    "marginal", "marginal_distance", "classification", "classification_checked", "prediction", "prediction_checked",
    "discrepancy", "discrepancy_p", "auroc",
)  # fmt: skip
SPREADS = ("classification_sd", "prediction_sd")  # over the repetitions of a scorer
HELD = 0.2  # of the series a scorer learns from, for the checked scores
FEWEST = 5  # test series that can be scored


@dataclass(frozen=True)
class Generation(Generators):
    """Claim 2 (Section 5.1, Table 1) on short series: scores of new ones, as many as the test part has.

    Rates are chosen by the distance of marginals on the validation part, which no network learns from. Two rows are no
    networks: a linear autoregression with Gaussian noise, and real series of the training part ("copy"), which no
    generator can be expected to beat. As released, the paper's three scores see the decoder's means; the corrected ones
    and the rates see draws, means plus noise of deviation `sigma`.
    """

    paper: ClassVar[str] = "ls4"

    panels: tuple[str, ...] = ("solar-weekly",)
    sigma: tuple[float, ...] = (0.1,)
    steps: int = 100_000
    batch_size: int = 128
    repeats: int = 10
    scorer_epochs: int = 100
    most_scored: int = 1000

    def __post_init__(self) -> None:
        super().__post_init__()
        one_each("sigma", self.sigma, self.panels)

    def run(self, run: Run) -> Result:
        panels = {name: load_panel(name) for name in self.panels}
        for name, panel in panels.items():
            if len(panel.test) < FEWEST:
                raise HyenaError(
                    f"{name} has {len(panel.test)} test series; scores take {FEWEST}, so 21 series or more"
                )
        found = Found()
        for (name, panel), sigma in zip(panels.items(), self.sigma, strict=True):
            self._panel(name, panel, sigma, run, found)
        data = {key: value for panel in panels.values() for key, value in panel.data.items()}
        found.metrics |= self._lead(found.table)
        tables = {"scores": found.table, "curves": found.curves, "sweep": found.tried}
        return Result(found.metrics, parameters=found.parameters, data=data, tables=tables, arrays=found.arrays)

    def _panel(self, name: str, panel: Panel, sigma: float, run: Run, found: Found) -> None:
        key, real = Path(name).stem.replace("-", "_"), panel.test[: self.most_scored].numpy()
        chosen = {}
        for kind in self.operators:
            fit = partial(self._fit, panel, sigma, run)
            chosen[kind] = self.from_every_seed(kind, run.seed, fit)
            found.parameters[kind] = count_parameters(chosen[kind][0].model)
            found.metrics[f"{key}_{kind}_nelbo"] = [trial.test for trial in chosen[kind]]
        sources = {kind: [_sampler(trial.model) for trial in trials] for kind, trials in chosen.items()}
        sources |= {"ar": self.n_seeds * [_autoregression(panel)], "copy": self.n_seeds * [_copies(panel)]}
        low, high = real.min(), real.max()
        found.arrays |= {f"{key}_real": real[:SHOWN, :, 0], f"{key}_edges": np.linspace(low, high, BINS + 1)}
        found.arrays[f"{key}_real_shares"] = shares(real[..., 0], real[..., 0])[1:-1]
        for kind, samplers in sources.items():
            fakes = [draw(len(real), real.shape[1], run.seed + i) for i, draw in enumerate(samplers)]
            rows_ = [self.scored(real, *fake, run.seed + i) for i, fake in enumerate(fakes)]
            found.metrics |= {f"{key}_{kind}_{score}": [row[score] for row in rows_] for score in SCORES}
            means = {score: fmean(row[score] for row in rows_) for score in (*SCORES, *SPREADS)}
            found.table.append({
                "panel": name, "model": kind, "lr": chosen[kind][0].lr if kind in chosen else None, **means
            })  # fmt: skip
            found.arrays[f"{key}_{kind}"] = fakes[0][0][:SHOWN, :, 0]
            found.arrays[f"{key}_{kind}_shares"] = shares(real[..., 0], fakes[0][0][..., 0])[1:-1]
        found.curves += rows(chosen, run.seed, panel=name)
        found.tried += sweeps(chosen, panel=name)

    def _lead(self, table: list[Row]) -> dict[str, list[float]]:
        """Errors of LS4 in units of the best other network's, and its cross-entropies less theirs; means of panels."""
        if "ls4" not in self.operators or len(self.operators) < 2:
            return {}
        metrics = {}
        for score in ("marginal", "marginal_distance", "prediction", "prediction_checked"):
            ratios = [ours / min(others) for ours, others in self._beside(table, score)]
            metrics[f"{score}_ratio"] = [float(np.exp(np.mean(np.log(ratios))))]
        for score in ("classification", "classification_checked"):
            metrics[f"{score}_lead"] = [fmean(ours - max(others) for ours, others in self._beside(table, score))]
        metrics["auroc_lead"] = [fmean(min(others) - ours for ours, others in self._beside(table, "auroc"))]
        return metrics

    def _beside(self, table: list[Row], score: str) -> list[tuple[float, list[float]]]:
        """Of every panel, the score of LS4 and those of the other networks."""
        found = []
        for name in self.panels:
            own = {row["model"]: row[score] for row in table if row["panel"] == name}
            found.append((own["ls4"], [own[kind] for kind in self.operators if kind != "ls4"]))
        return found

    def scored(self, real: Series, means: Series, draws: Series, seed: int) -> dict[str, float]:
        """All scores; those by networks are means, and their deviations, over `repeats` trainings of the scorer."""
        seeds = [seed * self.repeats + i for i in range(self.repeats)]
        epochs = self.scorer_epochs
        row = {"marginal": marginal(real, means), "marginal_distance": marginal_distance(real, draws)}
        for name, score in (("classification", classification), ("prediction", prediction)):
            last = [score(real, means, i, epochs) for i in seeds]
            checked = [score(real, draws, i, epochs, HELD) for i in seeds]
            row |= {name: fmean(last), f"{name}_checked": fmean(checked), f"{name}_sd": float(np.std(last))}
        row["discrepancy"], row["discrepancy_p"] = discrepancy(real, draws)
        return row | {"auroc": fmean(boosted_auroc(real, draws, i) for i in seeds)}

    def _fit(self, panel: Panel, sigma: float, run: Run, kind: str, lr: float, seed: int) -> Trial:
        network = self.network(kind, panel.train.shape[1], sigma, seed)
        pick = shuffled((panel.train.numpy(),), min(self.batch_size, len(panel.train)), seed)

        def distance(model: nn.Module) -> float:
            draws = _sampler(model)(DRAWN, panel.valid.shape[1], seed)[1]
            return marginal_distance(panel.valid.numpy(), draws) if np.isfinite(draws).all() else float("inf")

        return self.fit(
            network, kind, lr, run, seed, training_name(panel), pick, lambda model, x: model(x), distance,
            lambda model: bound_per_value(model, panel.test, seed),
        )  # fmt: skip


@dataclass(frozen=True)
class LongGeneration(Generation):
    """The same on long series: in the paper two years of days, and sixty of months."""

    panels: tuple[str, ...] = ("fred-md", "nn5-daily")
    sigma: tuple[float, ...] = (0.1, 0.5)
    steps: int = 10_000
    batch_size: int = 64


@dataclass
class Found:
    """What has been measured of the panels so far."""

    metrics: dict[str, list[float]] = field(default_factory=dict)
    parameters: dict[str, int] = field(default_factory=dict)
    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    table: list[Row] = field(default_factory=list)
    curves: list[Row] = field(default_factory=list)
    tried: list[Row] = field(default_factory=list)


Sampler = Callable[[int, int, int], tuple[Series, Series]]  # count, length, seed to means and draws


def _sampler(model: nn.Module) -> Sampler:
    def draw(count: int, length: int, seed: int) -> tuple[Series, Series]:
        means = drawn(model, count, length, seed)
        noise = np.random.default_rng(seed).standard_normal(means.shape).astype(means.dtype)
        return means, means + model.sigma * noise

    return draw


def _autoregression(panel: Panel) -> Sampler:
    """Of the order that does best on validation series, from the first value on that all orders predict."""
    train, valid = panel.train[..., 0].numpy().astype(float), panel.valid[..., 0].numpy().astype(float)
    orders = [order for order in ORDERS if order < train.shape[1]]
    fitted = [ARGaussian(train, order) for order in orders]
    best = min(fitted, key=lambda model: model.nll(valid[:, max(orders) - model.order :]))

    def draw(count: int, length: int, seed: int) -> tuple[Series, Series]:
        made = best.generate(count, length, np.random.default_rng(seed))[..., None]
        return made, made

    return draw


def _copies(panel: Panel) -> Sampler:
    def draw(count: int, length: int, seed: int) -> tuple[Series, Series]:
        order = np.random.default_rng(seed).permutation(len(panel.train))
        made = panel.train.numpy()[np.resize(order, count)]
        return made, made

    return draw
