"""Progressive resizing: most of the training on a coarser grid, the end on the full one."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from statistics import fmean
from typing import ClassVar

from hyena.data.images import SIDE, ImageTask, load_images
from hyena.errors import HyenaError
from hyena.experiments.comparison import Trial, rows, sweeps
from hyena.experiments.s4nd.images import Isotropic, accuracy, cut
from hyena.models.lm import count_parameters
from hyena.results import Result, Row
from hyena.train import Run


@dataclass(frozen=True)
class ProgressiveResizing(Isotropic):
    """Claim 8: a share of the steps at a smaller side, the rest at the full one, against all at the full one.

    Both schedules have the same steps, one cosine over all of them, and are swept alike. A third trains on the small
    side alone and is tested at the full one. What a step costs at each side is a matter of `hyena bench s4nd`.
    """

    paper: ClassVar[str] = "s4nd"

    task: str = "cifar10"
    operators: tuple[str, ...] = ("s4nd", "conv")
    small: int = 16  # the paper says "low resolution, then base resolution", 80/20 of the epochs
    share: float = 0.8

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.share < 1 or self.small > SIDE:
            raise HyenaError(
                f"share lies between 0 and 1 and small is at most {SIDE}, got {self.share} and {self.small}"
            )
        for operator in self.operators:
            self.network(operator, 1, 2, 0)  # an unknown name is refused before any work

    def schedules(self) -> dict[str, float]:
        """Share of the steps on the small side, by name."""
        return {"full": 0.0, "progressive": self.share, "small": 1.0}

    def run(self, run: Run) -> Result:
        task = cut(load_images(self.task), self.valid_examples, self.test_examples)
        metrics: dict[str, list[float]] = {}
        curves: list[Row] = []
        tried: list[Row] = []
        parameters: dict[str, int] = {}
        for operator in self.operators:
            for schedule in self.schedules():
                trials = self.from_every_seed(operator, run.seed, partial(self._fit, task, run, schedule))
                metrics[f"{operator}_{schedule}"] = [trial.test for trial in trials]
                parameters[operator] = count_parameters(trials[0].model)
                curves += rows({operator: trials}, run.seed, schedule=schedule)
                tried += sweeps({operator: trials}, schedule=schedule)
            lost = fmean(metrics[f"{operator}_full"]) - fmean(metrics[f"{operator}_progressive"])
            metrics[f"{operator}_points_lost"] = [lost]
        tables = {"curves": curves, "sweep": tried}
        return Result(metrics, parameters=parameters, data=task.data, tables=tables)

    def _fit(self, task: ImageTask, run: Run, schedule: str, operator: str, lr: float, seed: int) -> Trial:
        model = self.network(operator, task.train.x.shape[-1], len(task.classes), seed)
        low = round(self.schedules()[schedule] * self.steps)
        curve = self.fit(
            model, task.train, task.valid, lambda step: self.small if step < low else SIDE, replace(run, seed=seed),
            f"{task.name} {operator} {schedule} lr {lr:g} seed {seed}", lr,
        )  # fmt: skip
        return Trial(lr, curve[-1]["accuracy"], accuracy(model, task.test), model, curve)
