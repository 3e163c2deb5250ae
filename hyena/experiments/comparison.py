"""Competitors side by side: every one gets the same rates and steps, and is chosen on validation data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from hyena.experiments.base import Experiment
from hyena.results import Row
from hyena.train import Recipe

TWINS = ("hyena", "attention")


class Trial(NamedTuple):
    """One training: how good its model is on validation data (higher is better) and what it says on test data."""

    lr: float
    score: float
    test: float
    model: nn.Module
    curve: list[Row]
    tried: tuple[tuple[float, float], ...] = ()  # rates and scores of the sweep that it has won


Fit = Callable[[str, float, int], Trial]  # trains one operator at one rate from one seed


@dataclass(frozen=True)
class Comparison(Experiment):
    """Fields that describe the training; every operator gets the same rates and steps.

    Each rate of `lr` is tried with the first seed; the one that does best on validation data is reported, and used
    for the other seeds. Hyena, attention and the best of the rest have `n_seeds`, the others one.
    """

    may_be_zero: ClassVar[tuple[str, ...]] = ("warmup", "warmup_epochs", "sample_bytes")

    operators: tuple[str, ...] = TWINS
    batch_size: int = 32
    accumulate: int = 1
    precision: str = "no"
    lr: tuple[float, ...] = (5e-4,)
    weight_decay: float = 0.1
    n_seeds: int = 3

    def recipe(self, steps: int, warmup: int, lr: float, eval_every: int, min_lr: float = 0.0) -> Recipe:
        """Optimiser and schedule of one training."""
        return Recipe(
            steps=steps, lr=lr, min_lr=min_lr, warmup=warmup, weight_decay=self.weight_decay,
            accumulate=self.accumulate, precision=self.precision, eval_every=eval_every,
        )  # fmt: skip

    def compare(self, seed: int, fit: Fit) -> dict[str, list[Trial]]:
        """The trials of every operator at its best rate, one per seed."""
        chosen = {o: [self.sweep(o, seed, fit)] for o in self.operators}
        repeated = [o for o in TWINS if o in chosen] + best_rivals(chosen)
        for operator in repeated:
            rate = chosen[operator][0].lr
            chosen[operator] += [fit(operator, rate, s) for s in range(seed + 1, seed + self.n_seeds)]
        return chosen

    def sweep(self, operator: str, seed: int, fit: Fit) -> Trial:
        """The best trial of all rates, on validation data; the smallest such rate if several do equally well."""
        trials = [fit(operator, rate, seed) for rate in sorted(self.lr)]
        best = max(trials, key=lambda trial: trial.score)
        return best._replace(tried=tuple((trial.lr, trial.score) for trial in trials))


def best_rivals(chosen: dict[str, list[Trial]]) -> list[str]:
    """The operator that does best on validation data, Hyena and attention apart; none if there are no others."""
    rivals = {o: trials[0].score for o, trials in chosen.items() if o not in TWINS}
    return [max(rivals, key=rivals.get)] if rivals else []


def shuffled(data: tuple[np.ndarray, ...], batch_size: int, seed: int) -> Callable[[int], tuple[Tensor, ...]]:
    """The batch of every step: all examples once per epoch, in an order drawn from seed and epoch."""
    tensors = [torch.from_numpy(array) for array in data]
    per_epoch = len(tensors[0]) // batch_size

    @lru_cache(maxsize=1)
    def order(epoch: int) -> Tensor:
        return torch.from_numpy(np.random.default_rng((seed, epoch)).permutation(len(tensors[0])))

    def batch(step: int) -> tuple[Tensor, ...]:
        epoch, i = divmod(step, per_epoch)
        chosen = order(epoch)[i * batch_size : (i + 1) * batch_size]
        return tuple(t[chosen] for t in tensors)

    return batch


def rows(chosen: dict[str, list[Trial]], first_seed: int, **about: float | str) -> list[Row]:
    """The curves of all chosen trials as one table."""
    return [
        {**about, "operator": operator, "seed": first_seed + i, **row}
        for operator, trials in chosen.items()
        for i, trial in enumerate(trials)
        for row in trial.curve
    ]


def sweeps(chosen: dict[str, list[Trial]], **about: float | str) -> list[Row]:
    """Every rate that was tried, with its score on validation data."""
    return [
        {**about, "operator": operator, "lr": lr, "validation": score, "chosen": int(lr == trials[0].lr)}
        for operator, trials in chosen.items()
        for lr, score in trials[0].tried
    ]
