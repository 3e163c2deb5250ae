"""Experiments whose trainings end at once, with scores that a test has chosen."""

from collections.abc import Callable
from types import ModuleType
from typing import NamedTuple

import pytest
from torch import Tensor, nn

from hyena.experiments.comparison import Trial
from hyena.experiments.hyena import AssociativeRecall
from hyena.train import Recipe, Run

ROW = {"step": 1, "lr": 0.1, "loss": 1.0}
Fit = Callable[[str, float, int], Trial]


class Training(NamedTuple):
    """What would be trained."""

    name: str
    recipe: Recipe
    model: nn.Module
    batch: Callable[[int], tuple[Tensor, ...]]
    loss: Callable[..., Tensor]


def recorded(monkeypatch: pytest.MonkeyPatch, *modules: ModuleType) -> list[Training]:
    """The trainings that these modules ask for from now on; they take no step and end with one row."""
    seen: list[Training] = []

    def instant(model, batch, loss, recipe, run, name, evaluate) -> list:
        seen.append(Training(name, recipe, model, batch, loss))
        return [{**ROW, **evaluate(model)}]

    for module in modules:
        monkeypatch.setattr(module, "train", instant)
    return seen


def trial(lr: float, score: float, test: float = 0.0) -> Trial:
    return Trial(lr, score, test, nn.Linear(1, 1), [ROW])


class Fits:
    """Instant trainings: `score(operator, lr)` on validation data, `test(operator, seed)` on test data."""

    def __init__(self, score=lambda o, lr: 0.0, test=lambda o, seed: 0.0):
        self.score, self.test, self.seen = score, test, []

    def __call__(self, operator: str, lr: float, seed: int) -> Trial:
        self.seen.append((operator, lr, seed))
        return trial(lr, self.score(operator, lr), self.test(operator, seed))


def recall(monkeypatch, fits: Fits, **changes) -> AssociativeRecall:
    """Recall at the smoke profile, with `fits` in place of training; `fits.seen` begins with the cell."""

    def of_cell(self: AssociativeRecall, cell: tuple[int, int, int], run: Run) -> Fit:
        def fit(operator: str, lr: float, seed: int) -> Trial:
            made = fits(operator, lr, seed)
            fits.seen[-1] = (cell, *fits.seen[-1])
            return made

        return fit

    monkeypatch.setattr(AssociativeRecall, "_fit", of_cell)
    monkeypatch.setattr(AssociativeRecall, "_pictures", lambda *_: {})
    return AssociativeRecall.configured("smoke", **changes)
