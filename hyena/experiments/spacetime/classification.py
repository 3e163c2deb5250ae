"""Classifying series: speakers by their vowels, appliances by the current they draw."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from statistics import fmean
from typing import ClassVar

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn
from torch.nn import functional as F

from hyena.data.labelled_series import Examples, LabelledSeries, load_labelled_series
from hyena.experiments.comparison import Trial, rows, shuffled, sweeps
from hyena.experiments.spacetime.seeds import EverySeed
from hyena.models.lm import count_parameters
from hyena.models.series_classifiers import ENCODERS, SeriesClassifier
from hyena.results import Result, Row
from hyena.train import Run, train

PENALTIES = (0.01, 0.1, 1.0, 10.0)  # inverse ones, of the linear model


@dataclass(frozen=True)
class SeriesClassification(EverySeed):
    """Claim 5, on other data: accuracy in percent on the published test part.

    Every encoder has the same shell, width, layers, rates and steps. The bar is a logistic regression on mean, standard
    deviation, smallest and largest value of every channel. Rates and penalty are chosen on a fifth of the training
    part.
    """

    paper: ClassVar[str] = "spacetime"

    tasks: tuple[str, ...] = ("japanese-vowels", "acsf1")
    operators: tuple[str, ...] = ENCODERS
    d_model: int = 64
    d_state: int = 32
    n_layer: int = 2
    dropout: float = 0.1
    epochs: int = 100
    warmup_epochs: int = 5
    batch_size: int = 16
    lr: tuple[float, ...] = (1e-3,)
    weight_decay: float = 1e-2

    def __post_init__(self) -> None:
        super().__post_init__()
        for kind in self.operators:
            self.network(kind, 1, 2, 8, 0)  # an unknown name is refused before any work

    def network(self, kind: str, channels: int, n_classes: int, l_max: int, seed: int) -> SeriesClassifier:
        """An untrained classifier, initialised by `seed`."""
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return SeriesClassifier(
                kind, channels, n_classes, l_max, d_model=self.d_model, d_state=self.d_state, n_layer=self.n_layer,
                dropout=self.dropout,
            )  # fmt: skip

    def run(self, run: Run) -> Result:
        metrics: dict[str, list[float]] = {}
        parameters: dict[str, int] = {}
        data: dict[str, str] = {}
        table: list[Row] = []
        curves: list[Row] = []
        tried: list[Row] = []
        for name in self.tasks:
            task, key = load_labelled_series(name), name.replace("-", "_")
            data |= task.data
            chosen = {}
            for kind in self.operators:
                fit = partial(self._fit, task, run)
                chosen[kind] = self.from_every_seed(kind, run.seed, fit)
                best = chosen[kind][0]
                metrics[f"{key}_{kind}"] = [trial.test for trial in chosen[kind]]
                parameters[f"{key}_{kind}"] = count_parameters(best.model)
                table.append({
                    "task": name, "model": kind, "lr": best.lr, "accuracy": fmean(metrics[f"{key}_{kind}"])
                })  # fmt: skip
            metrics[f"{key}_linear"] = [linear_accuracy(task)]
            table.append({"task": name, "model": "linear", "lr": 0.0, "accuracy": metrics[f"{key}_linear"][0]})
            curves += rows(chosen, run.seed, task=name)
            tried += sweeps(chosen, task=name)
        metrics |= self._gain(metrics)
        tables = {"accuracy": table, "curves": curves, "sweep": tried}
        return Result(metrics, parameters=parameters, data=data, tables=tables)

    def _gain(self, metrics: dict[str, list[float]]) -> dict[str, list[float]]:
        """Points of SpaceTime over the best of the other encoders, a mean over tasks."""
        others = [kind for kind in self.operators if kind != "spacetime"]
        if "spacetime" not in self.operators or not others:
            return {}
        keys = [name.replace("-", "_") for name in self.tasks]
        best = [max(fmean(metrics[f"{key}_{kind}"]) for kind in others) for key in keys]
        return {"gain": [fmean(fmean(metrics[f"{key}_spacetime"]) - b for key, b in zip(keys, best, strict=True))]}

    def _fit(self, task: LabelledSeries, run: Run, kind: str, lr: float, seed: int) -> Trial:
        _, length, channels = task.train.x.shape
        model = self.network(kind, channels, len(task.classes), length, seed)
        size = min(self.batch_size, len(task.train.y))
        pick = shuffled((np.arange(len(task.train.y)),), size, seed)
        per_epoch = len(task.train.y) // size

        def batch(step: int) -> tuple[Tensor, ...]:
            some = pick(step)[0]
            return task.train.x[some], task.train.mask[some], task.train.y[some]

        curve = train(
            model, batch, lambda m, x, mask, y: F.cross_entropy(m(x, mask), y),
            self.recipe(
                self.epochs * per_epoch, self.warmup_epochs * per_epoch, lr, max(1, self.epochs // 10) * per_epoch
            ),
            replace(run, seed=seed), f"{task.name} {kind} lr {lr:g} seed {seed}",
            evaluate=lambda m: {"accuracy": accuracy(m, task.valid)},
        )  # fmt: skip
        return Trial(lr, curve[-1]["accuracy"], accuracy(model, task.test), model, curve)


@torch.no_grad()
def accuracy(model: nn.Module, part: Examples, batch: int = 64) -> float:
    """In percent."""
    model.eval()
    device = next(model.parameters()).device
    said = [
        model(x.to(device), mask.to(device)).argmax(-1).cpu()
        for x, mask in zip(part.x.split(batch), part.mask.split(batch), strict=True)
    ]
    return 100 * (torch.cat(said) == part.y).double().mean().item()


def linear_accuracy(task: LabelledSeries) -> float:
    """Test accuracy of a linear model of four numbers per channel, at the penalty that does best in validation."""
    features = [_summary(part) for part in (task.train, task.valid, task.test)]
    best: tuple[float, float] = (-1.0, 0.0)
    for penalty in PENALTIES:
        model = make_pipeline(StandardScaler(), LogisticRegression(C=penalty, max_iter=5000))
        model.fit(features[0], task.train.y)
        scores = [100 * model.score(x, part.y) for x, part in zip(features[1:], (task.valid, task.test), strict=True)]
        best = max(best, (scores[0], scores[1]), key=lambda pair: pair[0])
    return best[1]


def _summary(part: Examples) -> np.ndarray:
    known = [series[mask] for series, mask in zip(part.x, part.mask, strict=True)]
    return np.stack([torch.cat([s.mean(0), s.std(0), s.amin(0), s.amax(0)]).numpy() for s in known])
