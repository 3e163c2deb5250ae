"""How encoders do with less to learn from, and with fewer feature maps."""

from __future__ import annotations

from dataclasses import dataclass, replace
from statistics import fmean

import numpy as np
from jaxtyping import Float

from hyena.data.recordings import Part, Recording
from hyena.data.retina import DT
from hyena.errors import HyenaError
from hyena.experiments.comparison import rows, sweeps
from hyena.experiments.retina.encoding import better_linear
from hyena.experiments.retina.fits import SHORT, Fitted, data_of, predicted
from hyena.experiments.retina.scores import correlations, smoothed
from hyena.models.retina import Encoder
from hyena.results import Result, Row
from hyena.train import Run

ENOUGH = 0.95  # of the best correlation, for the number of maps that suffices


@dataclass(frozen=True)
class TrainingAmount(Fitted):
    """Claim 2: correlation on training and test film as recordings grow; all fits have the same number of steps.

    On training film, with the single trial that was fitted to; `overfit` is that correlation less the one with single
    trials of the test film, mean over its trials. That the films differ is part of it. `ln_best` is the LN with the
    nonlinearity that does better on validation data.

    Arguments:
        amounts: seconds of each stimulus.
    """

    operators: tuple[str, ...] = ("ln", "ln_rbf", "cnn")
    amounts: tuple[int, ...] = (60, 120, 240, 480, 960, 1800)

    def __post_init__(self) -> None:
        super().__post_init__()
        for amount in self.amounts:
            if amount % self.block_seconds or not 0 < amount <= self.seconds:
                raise HyenaError(
                    f"amounts are multiples of block_seconds, {self.block_seconds}, up to seconds, {self.seconds}; "
                    f"got {amount}"
                )

    def run(self, run: Run) -> Result:
        recordings, metrics = self.recordings(), dict[str, list[float]]()
        tables: dict[str, list[Row]] = {"amounts": [], "curves": [], "sweep": []}
        for name, recording in recordings.items():
            for amount in self.amounts:
                shorter = replace(recording, train=recording.train.first(amount // self.block_seconds))
                chosen = self.chosen(shorter, run, self.operators)
                better = better_linear(chosen)
                scored = chosen | ({"ln_best": chosen[better]} if better else {})
                for kind, trials in scored.items():
                    found = [fit_quality(trial.model, shorter, self.chunk(kind)) for trial in trials]
                    row = {key: fmean(f[key] for f in found) for key in found[0]}
                    for key in row:
                        metrics[f"{kind}_{name}_{amount}_{key}"] = [f[key] for f in found]
                    tables["amounts"].append({"encoder": kind, "stimulus": name, "seconds": amount, **row})
                tables["curves"] += rows(chosen, run.seed, stimulus=name, seconds=amount)
                tables["sweep"] += sweeps(chosen, stimulus=name, seconds=amount)
            least = min(self.amounts)
            pair = [metrics.get(f"{kind}_{name}_{least}_overfit") for kind in ("ln_best", "cnn")]
            if all(pair):
                metrics[f"ln_best_less_cnn_overfit_{name}"] = [fmean(pair[0]) - fmean(pair[1])]
        return Result(metrics, data=data_of(recordings), tables=tables)


@dataclass(frozen=True)
class FeatureMaps(Fitted):
    """Claim 4: correlation of the CNN as its first layer has more channels, on either stimulus.

    `maps_<stimulus>` is the least number that has `ENOUGH` of the best correlation.
    """

    operators: tuple[str, ...] = ("cnn",)
    maps: tuple[int, ...] = (1, 2, 4, 8, 16)

    def run(self, run: Run) -> Result:
        recordings, metrics = self.recordings(), dict[str, list[float]]()
        tables: dict[str, list[Row]] = {"maps": [], "curves": [], "sweep": []}
        for name, recording in recordings.items():
            for maps in self.maps:
                wider = replace(self, channels=(maps, *self.channels[1:]))
                chosen = wider.chosen(recording, run, self.operators)
                for kind, trials in chosen.items():
                    found = [fit_quality(t.model, recording, self.chunk(kind))["test"] for t in trials]
                    metrics[f"{kind}_{name}_{maps}"] = found
                    tables["maps"].append({"encoder": kind, "stimulus": name, "maps": maps, "r": fmean(found)})
                tables["curves"] += rows(chosen, run.seed, stimulus=name, maps=maps)
                tables["sweep"] += sweeps(chosen, stimulus=name, maps=maps)
            reached = {maps: fmean(metrics[f"{self.operators[0]}_{name}_{maps}"]) for maps in self.maps}
            best = max(reached.values())
            enough = [maps for maps, r in reached.items() if r >= best - (1 - ENOUGH) * abs(best)]
            metrics[f"maps_{name}"] = [float(min(enough))]
        if all(f"maps_{name}" in metrics for name in SHORT.values()):
            metrics["maps_ratio"] = [metrics["maps_ns"][0] / metrics["maps_wn"][0]]
        return Result(metrics, data=data_of(recordings), tables=tables)


def fit_quality(model: Encoder, recording: Recording, chunk: int) -> dict[str, float]:
    """Correlations, mean over cells: `train` and `single` with single trials, `test` with the mean of test trials."""
    parts = (recording.train, recording.test)
    seen, new = (predicted(model, part, chunk).reshape(-1, model.cells) for part in parts)
    train, tests = (single_trials(part, model.lags) for part in parts)
    on_train = float(correlations(seen, smoothed(train[0])).mean())
    single = fmean(float(correlations(new, smoothed(one)).mean()) for one in tests)
    on_test = float(correlations(new, smoothed(tests.mean(0))).mean())
    return {"train": on_train, "single": single, "test": on_test, "overfit": on_train - single}


def single_trials(part: Part, lags: int) -> Float[np.ndarray, "trials bins cells"]:
    """Rates of every trial in the bins that count, blocks one behind the other."""
    some = part.counts[:, :, max(part.dropped, lags - 1) :] / DT
    return some.reshape(len(some), -1, some.shape[-1])
