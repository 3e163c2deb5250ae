"""Operators side by side in one shell: how models are built, trained and chosen."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from hyena.data.synthetic import IGNORE, Sequences
from hyena.errors import HyenaError
from hyena.experiments.base import Experiment
from hyena.models.lm import LanguageModel, next_token_loss
from hyena.models.mixers import mixer
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


@dataclass(frozen=True)
class Comparison(Experiment):
    """Fields that describe shell, operators and training; every operator gets the same rates and steps.

    Each rate of `lr` is tried with the first seed; the one that does best on validation data is reported, and used
    for the other seeds. Hyena, attention and the best of the rest have `n_seeds`, the others one.
    """

    may_be_zero: ClassVar[tuple[str, ...]] = ("warmup", "warmup_epochs", "sample_bytes")

    operators: tuple[str, ...] = TWINS
    d_model: int = 64
    n_layer: int = 2
    d_inner: int = 256
    order: int = 2
    filter_order: int = 64  # width of the filter network
    emb_dim: int = 5
    w: float = 10.0
    num_heads: int = 1
    init: str = "lm"
    embed_dropout: float = 0.0
    batch_size: int = 32
    accumulate: int = 1
    precision: str = "no"
    lr: tuple[float, ...] = (5e-4,)
    weight_decay: float = 0.1
    n_seeds: int = 3

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.embed_dropout < 1:
            raise HyenaError(f"embed_dropout is a probability below 1, got {self.embed_dropout}")

    def mixer(self, operator: str, length: int) -> Callable[[], nn.Module]:
        """A maker of the mixer of one block."""
        return mixer(
            operator, self.d_model, length, num_heads=self.num_heads, order=self.order,
            filter_order=self.filter_order, emb_dim=self.emb_dim, w=self.w, lr_pos_emb=0.0,
        )  # fmt: skip

    def model(self, operator: str, vocab_size: int, length: int, seed: int, d_inner: int = 0) -> LanguageModel:
        """The shell with one operator, initialised by `seed`; `d_inner` overrides the field if given."""
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return LanguageModel(
                vocab_size, self.d_model, self.n_layer, d_inner or self.d_inner, self.mixer(operator, length),
                l_max=length, positions=operator == "attention", embed_dropout=self.embed_dropout, init=self.init,
            )  # fmt: skip

    def recipe(self, steps: int, warmup: int, lr: float, eval_every: int, min_lr: float = 0.0) -> Recipe:
        """Optimiser and schedule of one training."""
        return Recipe(
            steps=steps, lr=lr, min_lr=min_lr, warmup=warmup, weight_decay=self.weight_decay,
            accumulate=self.accumulate, precision=self.precision, eval_every=eval_every,
        )  # fmt: skip

    def compare(self, seed: int, fit: Callable[[str, float, int], Trial]) -> dict[str, list[Trial]]:
        """The trials of every operator at its best rate, one per seed; `fit(operator, lr, seed)` trains one."""
        chosen = {o: [self.sweep(o, seed, fit)] for o in self.operators}
        repeated = [o for o in TWINS if o in chosen] + best_rivals(chosen)
        for operator in repeated:
            rate = chosen[operator][0].lr
            chosen[operator] += [fit(operator, rate, s) for s in range(seed + 1, seed + self.n_seeds)]
        return chosen

    def sweep(self, operator: str, seed: int, fit: Callable[[str, float, int], Trial]) -> Trial:
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


@torch.no_grad()
def answer_accuracy(model: nn.Module, test: Sequences, *, whole: bool = False) -> float:
    """Percent of the asked positions at which the likeliest token is the answer; `whole` asks for all of a row."""
    model.eval()
    device = next(model.parameters()).device
    right: list[Tensor] = []
    for x, y in zip(*(torch.from_numpy(a).split(100) for a in (test.x, test.y)), strict=True):
        wanted = y != IGNORE
        same = model(x.to(device)).argmax(-1).cpu() == y
        right.append((same | ~wanted).all(1) if whole else same[wanted])
    return 100 * torch.cat(right).double().mean().item()


def loss(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Mean cross-entropy of the next token."""
    return next_token_loss(model(x), y)


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
