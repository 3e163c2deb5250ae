"""What S4ND's experiments share: fields of the two isotropic networks, one training, accuracy on any grid."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hyena.data.images import SIDE, Images, ImageTask
from hyena.errors import HyenaError
from hyena.experiments.comparison import shuffled
from hyena.experiments.spacetime.seeds import EverySeed
from hyena.models.image_classifiers import IsotropicClassifier, isotropic
from hyena.results import Row
from hyena.train import Run, train

READ = 2**17  # places of grids that are read at once in evaluation


@dataclass(frozen=True)
class OnImages(EverySeed):
    """Fields of the networks and of their training; defaults are the released configurations for CIFAR-10.

    The rate that every layer is told is `SIDE` over the side of the grid at hand.
    """

    d_model: int = 256
    n_layer: int = 6
    d_state: int = 64
    steps: int = 90_000
    warmup: int = 900
    evaluations: int = 20
    valid_examples: int = 1_000_000  # at most
    test_examples: int = 1_000_000
    batch_size: int = 50
    lr: tuple[float, ...] = (0.01,)
    weight_decay: float = 0.03

    def fit(
        self, model: nn.Module, train_part: Images, valid: Images, side_of: Callable[[int], int], run: Run, name: str,
        lr: float,
    ) -> list[Row]:  # fmt: skip
        """Train on the grid that `side_of` gives for every step; accuracy is measured on that of the last."""
        pick = shuffled((np.arange(len(train_part)),), min(self.batch_size, len(train_part)), run.seed)
        at = lru_cache(maxsize=None)(train_part.at)
        last = side_of(self.steps - 1)
        held = valid.at(last)

        def batch(step: int) -> tuple[Tensor, ...]:
            some = pick(step)[0]
            return at(side_of(step)).x[some], train_part.y[some]

        return train(
            model, batch, lambda m, x, y: F.cross_entropy(m(x, rate(x)), y),
            self.recipe(self.steps, self.warmup, lr, max(1, self.steps // self.evaluations)), run, name,
            evaluate=lambda m: {"accuracy": accuracy(m, held)},
        )  # fmt: skip


@dataclass(frozen=True)
class Isotropic(OnImages):
    """Fields of S4ND-ISO and Conv2D-ISO: an operator is "s4nd", "s4nd_0.5" (with that band limit) or "conv"."""

    init: str = "lin"
    dt_min: float = 0.1
    dt_max: float = 1.0
    conv_d_model: int = 128
    conv_n_layer: int = 4
    kernel_size: int = 3
    dropout: float = 0.1

    def network(self, operator: str, d_input: int, n_classes: int, seed: int) -> IsotropicClassifier:
        """An untrained classifier of images of `SIDE`, initialised by `seed`."""
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            if operator == "conv":
                return isotropic(
                    "conv", d_input, n_classes, (SIDE, SIDE), d_model=self.conv_d_model, n_layer=self.conv_n_layer,
                    dropout=self.dropout, kernel_size=self.kernel_size,
                )  # fmt: skip
            kind, limit = parsed(operator)
            return isotropic(
                kind, d_input, n_classes, (SIDE, SIDE), d_model=self.d_model, n_layer=self.n_layer,
                dropout=self.dropout, d_state=self.d_state, init=self.init, dt_min=self.dt_min, dt_max=self.dt_max,
                band_limit=limit,
            )  # fmt: skip


def parsed(operator: str) -> tuple[str, float | None]:
    """Kind and band limit from a name such as "s4nd_0.5".

    Raises:
        HyenaError: what follows the kind is no number above 0, or the kind has no band limit.
    """
    kind, _, limit = operator.partition("_")
    try:
        found = float(limit) if limit else None
    except ValueError:
        found = -1.0
    if found is not None and (kind != "s4nd" or not found > 0):
        raise HyenaError(f"a band limit is a number above 0 and belongs to s4nd, as in s4nd_0.5; got {operator!r}")
    return kind, found


def rate(x: Tensor) -> tuple[float, ...]:
    """How many times as coarse the two axes of a grid are as one of `SIDE`."""
    return tuple(SIDE / side for side in x.shape[1:3])


def cut(task: ImageTask, valid: int, test: int) -> ImageTask:
    """The task with at most so many examples to validate and to test."""
    return replace(task, valid=task.valid.first(valid), test=task.test.first(test))


@torch.no_grad()
def accuracy(model: nn.Module, part: Images) -> float:
    """In percent."""
    model.eval()
    device = next(model.parameters()).device
    places = part.x[0, ..., 0].numel()
    some = part.x.split(max(1, READ // places))
    said = torch.cat([model(x.to(device), rate(x)).argmax(-1).cpu() for x in some])
    return 100 * (said == part.y).double().mean().item()
