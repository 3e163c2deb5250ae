"""Every model at its best rate, from every seed."""

from __future__ import annotations

from dataclasses import dataclass

from hyena.experiments.comparison import Comparison, Fit, Trial


@dataclass(frozen=True)
class EverySeed(Comparison):
    """A comparison in which each model, not only the best ones, has `n_seeds`."""

    def from_every_seed(self, name: str, seed: int, fit: Fit) -> list[Trial]:
        """The trial at the rate that does best on validation data from the first seed, then from the others."""
        best = self.sweep(name, seed, fit)
        return [best, *(fit(name, best.lr, other) for other in range(seed + 1, seed + self.n_seeds))]
