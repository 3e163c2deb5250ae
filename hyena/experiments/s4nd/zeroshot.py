"""Train on small images, test on large ones."""

from __future__ import annotations

from dataclasses import dataclass, replace
from statistics import fmean
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float

from hyena.data.images import SIDE, ImageTask, load_images
from hyena.errors import HyenaError
from hyena.experiments.comparison import Trial, rows, sweeps
from hyena.experiments.s4nd.images import Isotropic, accuracy, cut
from hyena.models.image_classifiers import IsotropicClassifier
from hyena.models.lm import count_parameters
from hyena.ops.conv_nd import dense_kernel
from hyena.results import Result, Row
from hyena.train import Run

OPERATORS = ("s4nd", "s4nd_1", "s4nd_0.5", "s4nd_0.2", "conv")


@dataclass(frozen=True)
class ZeroShot(Isotropic):
    """Claims 5 and 7: accuracy at every test side after training at one, weights as they are.

    Learning rates are chosen at the first of `train_sides`, on validation images of that side, and used at the others.
    There, operators that are not in `once` have `n_seeds`; everything else has one, and `later_steps` steps, so that
    only rows of one training side can be compared. A band limit cannot be chosen by validation at that side: the gaps
    are of .5, named before any was tested, and the table has them all. Beside square grids the first network of every
    operator is tested on images that are refined along one axis only.
    """

    paper: ClassVar[str] = "s4nd"

    tasks: tuple[str, ...] = ("cifar10",)
    operators: tuple[str, ...] = OPERATORS
    once: tuple[str, ...] = ("s4nd_1", "s4nd_0.2")
    train_sides: tuple[int, ...] = (8, 16, 32)
    test_sides: tuple[int, ...] = (8, 16, 32)
    later_steps: int = 90_000  # at the other training sides, where a step costs 4 and 16 times as much

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(self.train_sides + self.test_sides) < 1 or max(self.train_sides + self.test_sides) > SIDE:
            raise HyenaError(f"sides are 1 to {SIDE}, got {self.train_sides} and {self.test_sides}")
        if self.train_sides[0] not in self.test_sides:
            raise HyenaError(f"test_sides hold the first training side, {self.train_sides[0]}; got {self.test_sides}")
        for operator in self.operators:
            self.network(operator, 1, 2, 0)  # an unknown name is refused before any work

    def run(self, run: Run) -> Result:
        metrics: dict[str, list[float]] = {}
        parameters: dict[str, int] = {}
        tables: dict[str, list[Row]] = {"curves": [], "sweep": [], "stretched": []}
        data: dict[str, str] = {}
        arrays: dict[str, np.ndarray] = {}
        for task in [cut(load_images(name), self.valid_examples, self.test_examples) for name in self.tasks]:
            data |= task.data
            chosen = {operator: self._chosen(task, run, operator) for operator in self.operators}
            for operator, trials in chosen.items():
                parameters[f"{task.name}_{operator}"] = count_parameters(trials[0].model)
                metrics |= self._row(task, operator, self.train_sides[0], trials)
                tables["stretched"] += self._stretched(task, operator, trials[0])
                for side in self.train_sides[1:]:
                    metrics |= self._row(
                        task, operator, side, [self._trained(task, run, operator, side, trials[0].lr, run.seed)]
                    )
            tables["curves"] += rows(chosen, run.seed, task=task.name)
            tables["sweep"] += sweeps(chosen, task=task.name)
            metrics |= self._gaps(task.name, metrics)
            for operator in (o for o in self.operators if o != "conv"):
                arrays[f"{task.name}_{operator}_kernels"] = learned_kernels(chosen[operator][0].model)
        return Result(metrics, parameters=parameters, data=data, tables=tables, arrays=arrays)

    def _chosen(self, task: ImageTask, run: Run, operator: str) -> list[Trial]:
        def fit(operator: str, lr: float, seed: int) -> Trial:
            return self._trained(task, run, operator, self.train_sides[0], lr, seed)

        return (
            [self.sweep(operator, run.seed, fit)]
            if operator in self.once
            else self.from_every_seed(operator, run.seed, fit)
        )

    def _trained(self, task: ImageTask, run: Run, operator: str, side: int, lr: float, seed: int) -> Trial:
        model = self.network(operator, task.train.x.shape[-1], len(task.classes), seed)
        later = replace(self, steps=self.later_steps, warmup=min(self.warmup, self.later_steps // 5))
        curve = (self if side == self.train_sides[0] else later).fit(
            model, task.train, task.valid, lambda step: side, replace(run, seed=seed),
            f"{task.name} {operator} side {side} lr {lr:g} seed {seed}", lr,
        )  # fmt: skip
        return Trial(lr, curve[-1]["accuracy"], 0.0, model, curve)

    def _row(self, task: ImageTask, operator: str, side: int, trials: list[Trial]) -> dict[str, list[float]]:
        return {
            f"{task.name}_{operator}_{side}_{to}": [accuracy(trial.model, task.test.at(to)) for trial in trials]
            for to in self.test_sides
        }

    def _stretched(self, task: ImageTask, operator: str, trial: Trial) -> list[Row]:
        """Accuracy on images that are fine along one axis and as coarse as in training along the other."""
        coarse, fine = self.train_sides[0], max(self.test_sides)
        return [
            {
                "task": task.name,
                "operator": operator,
                "rows": a,
                "columns": b,
                "accuracy": accuracy(trial.model, task.test.at(a, b)),
            }
            for a, b in ((coarse, coarse), (coarse, fine), (fine, coarse))
        ]

    def _gaps(self, name: str, metrics: dict[str, list[float]]) -> dict[str, list[float]]:
        """At the largest step up, points of the band limit .5 over the others, and what it loses to its own grid."""
        low, high, ours = self.train_sides[0], max(self.test_sides), f"{name}_s4nd_0.5"
        if "s4nd_0.5" not in self.operators:
            return {}
        there = fmean(metrics[f"{ours}_{low}_{high}"])
        others = [operator for operator in ("conv", "s4nd") if operator in self.operators]
        gaps = {f"{name}_gap_over_{o}": [there - fmean(metrics[f"{name}_{o}_{low}_{high}"])] for o in others}
        return gaps | {f"{name}_loss": [fmean(metrics[f"{ours}_{low}_{low}"]) - there]}


@torch.no_grad()
def learned_kernels(model: IsotropicClassifier, count: int = 6) -> Float[np.ndarray, "count rows columns"]:
    """The kernels of the first features of the first layer, on the finest grid."""
    return dense_kernel(model.layers[0].taps((SIDE, SIDE)))[:count].cpu().numpy()
