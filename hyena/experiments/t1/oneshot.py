"""Solution operators that are learned as one map: how a task is measured, on the grid and beyond it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from hyena.data.fluids import check_finite, resampled
from hyena.errors import HyenaError
from hyena.experiments.comparison import Trial, rows, shuffled, sweeps
from hyena.experiments.t1.networks import TWO_PER_LAYER, Fields, Networks, kept, ratios, relative_errors
from hyena.models.t1 import Spectral, relative_l2, target, truncation_floor
from hyena.ops.dct import BASES, dct
from hyena.results import Result
from hyena.train import Run

SHOWN, AT_ONCE = 2, 20


class Pairs(NamedTuple):
    """Inputs and outputs of an operator, and what can be said without having learned anything."""

    x: Fields
    y: Fields
    guess: Fields


class Task(NamedTuple):
    """An operator to learn; `finer` is the test set on a grid twice as fine."""

    name: str
    train: Pairs
    valid: Pairs
    test: Pairs
    finer: Pairs


@dataclass(frozen=True)
class OneShot(Networks):
    """An experiment on one or more operators; the error is the relative L2 norm on the grid, mean over test fields.

    Every channel of input and output is divided by its root mean square over training fields, for errors too. Rules
    without training are the mean training field, a guess that the task makes, and the floors: all of a field but its
    first `modes` coefficients per axis. A prediction on the finer grid is compared with the one on the coarse grid,
    drawn out linearly (`_interpolated`).
    """

    paper: ClassVar[str] = "t1"

    train_fields: int = 1000
    held_out: int = 200

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.batch_size > self.train_fields:
            raise HyenaError(f"a batch of {self.batch_size} takes as many fields, train_fields is {self.train_fields}")

    def tasks(self) -> list[Task]:
        """The operators that are learned."""
        raise NotImplementedError

    def run(self, run: Run) -> Result:
        first, *others = [self.compared(task, run) for task in self.tasks()]
        for part in others:
            first = replace(
                first, per_seed=first.per_seed | part.per_seed, parameters=first.parameters | part.parameters,
                tables={key: first.tables[key] + part.tables[key] for key in first.tables},
                arrays=first.arrays | part.arrays,
            )  # fmt: skip
        return first

    def n_fields(self) -> int:
        """Of all parts together."""
        return self.train_fields + 2 * self.held_out

    def task(self, name: str, coarse: Pairs, finer: Pairs) -> Task:
        """The first fields to train, the next `held_out` to validate, the last to test, these also on a finer grid."""
        sizes = [self.train_fields, self.held_out, self.held_out]
        parts = zip(*(part.split(sizes) for part in coarse), strict=True)
        return Task(name, *(Pairs(*part) for part in parts), Pairs(*(part[-self.held_out :] for part in finer)))

    def before_and_after(self, name: str, w: Tensor, sizes: tuple[int, ...]) -> Task:
        """From periodic fields at two times, on a grid finer than `sizes`; the guess is that nothing changes."""
        coarse = resampled(w.double(), sizes).float()
        return self.task(name, *(Pairs(v[:, :1], v[:, 1:2], v[:, :1]) for v in (coarse, w)))

    def compared(self, task: Task, run: Run) -> Result:
        """Train every network on a task and measure it."""
        task = normalised(task)
        chosen = self.trials(run, partial(self._fit, task, run))
        best = {kind: trials[0].model for kind, trials in chosen.items()}
        name = task.name
        metrics = {f"{name}_{kind}": [trial.test for trial in trials] for kind, trials in chosen.items()}
        metrics |= ratios(name, metrics, {kind: trials[0].score for kind, trials in chosen.items()})
        metrics |= untrained(task, self.modes) | on_finer_grid(task, chosen)
        spectra, beyond = spectral_errors(best, task.test, self.modes)
        metrics |= {f"{name}_{key}": [value] for key, value in beyond.items()}
        arrays = {f"{name}_{kind}_field": predicted(m, task.test.x[:SHOWN]) for kind, m in best.items()}
        arrays |= {f"{name}_input": task.test.x[:SHOWN], f"{name}_truth": task.test.y[:SHOWN]}
        arrays |= {f"{name}_{key}_spectrum": value for key, value in spectra.items()}
        parameters = {f"{name}_{kind}": sum(p.numel() for p in m.parameters()) for kind, m in best.items()}
        parameters |= {f"{name}_{kind}_steps": self.n_steps(kind) for kind in best}
        tables = {"curves": rows(chosen, run.seed, task=name), "sweep": sweeps(chosen, task=name)}
        kept_arrays = {key: value.numpy().astype(np.float32) for key, value in arrays.items()}
        return Result(metrics, parameters=parameters, tables=tables, arrays=kept_arrays)

    def _fit(self, task: Task, run: Run, kind: str, lr: float, seed: int) -> Trial:
        x, y, _ = task.train
        network = self.network(kind, x.shape[1], y.shape[1], tuple(x.shape[2:]), seed)
        if isinstance(network, Spectral):  # target transforms are made once
            data = (x, *target(y, network.modes, network.basis))
            loss = lambda model, x, *of_target: relative_l2(model(x), *of_target)  # noqa: E731
        else:
            data, loss = (x, y), lambda model, x, y: relative_errors(model(x), y, 1).mean()
        batch = shuffled(tuple(t.numpy() for t in data), self.batch_size, seed)
        validate, test = (partial(error, pairs=part) for part in (task.valid, task.test))
        return self.trained(network, kind, lr, replace(run, seed=seed), task.name, batch, loss, validate, test)


@torch.no_grad()
def predicted(model: nn.Module, x: Fields) -> Float[Tensor, "count d_output *sizes"]:
    """Fields on the grid of the input."""
    model.eval()
    device = next(model.parameters()).device
    read = model.predict if isinstance(model, Spectral) else model
    return torch.cat([read(part.to(device)).cpu() for part in x.split(AT_ONCE)])


def error(model: nn.Module, pairs: Pairs) -> float:
    """The mean relative L2 error on the grid, also of networks that are trained on coefficients."""
    return float(relative_errors(predicted(model, pairs.x), pairs.y, 1).mean())


def normalised(task: Task) -> Task:
    """Every channel divided by its root mean square over training fields.

    Raises:
        HyenaError: values that are not finite, or an output that is 0 everywhere, which has no relative error.
    """
    units = [t.transpose(0, 1).flatten(1).square().mean(1).sqrt().clamp_min(1e-12) for t in task.train[:2]]

    def scaled(pairs: Pairs) -> Pairs:
        for part in pairs:
            check_finite(part)
        if not pairs.y.flatten(1).any(1).all():
            raise HyenaError(f"an output of {task.name} is 0 everywhere: it has no relative error, leave it out")
        shape = (-1, *[1] * (pairs.x.dim() - 2))
        x_unit, y_unit = (unit.view(shape) for unit in units)
        return Pairs(pairs.x / x_unit, pairs.y / y_unit, pairs.guess / y_unit)

    return Task(task.name, *[scaled(pairs) for pairs in task[1:]])


def untrained(task: Task, modes: int) -> dict[str, list[float]]:
    """What needs no training, on both grids, and the least errors of `modes` coefficients per axis."""
    found = {}
    for pairs, suffix in ((task.test, ""), (task.finer, "_finer")):
        mean = drawn_out(task.train.y.mean(0, keepdim=True), pairs.y.shape[2:]).expand_as(pairs.y)
        found[f"mean_field{suffix}"] = float(relative_errors(mean, pairs.y, 1).mean())
        found[f"guess{suffix}"] = float(relative_errors(pairs.guess, pairs.y, 1).mean())
        for basis in BASES:
            cut = (kept(basis, modes),) * (pairs.y.dim() - 2)
            found[f"{basis}_floor{suffix}"] = truncation_floor(pairs.y, cut, basis)
    return {f"{task.name}_{key}": [value] for key, value in found.items()}


def on_finer_grid(task: Task, chosen: dict[str, list[Trial]]) -> dict[str, list[float]]:
    """Errors without further training: of the network on the finer grid, and of its coarse prediction drawn out."""
    found = {}
    for kind, trials in chosen.items():
        coarse = [drawn_out(predicted(t.model, task.test.x), task.finer.y.shape[2:]) for t in trials]
        found[f"{kind}_interpolated"] = [float(relative_errors(c, task.finer.y, 1).mean()) for c in coarse]
        if kind != "unet":  # which is built for one grid
            found[f"{kind}_finer"] = [error(t.model, task.finer) for t in trials]
            found[f"{kind}_finer_ratio"] = [a / t.test for a, t in zip(found[f"{kind}_finer"], trials, strict=True)]
    return {f"{task.name}_{key}": value for key, value in found.items()}


def drawn_out(y: Fields, sizes: tuple[int, ...]) -> Tensor:
    """Linear interpolation between centres of cells."""
    return F.interpolate(y, tuple(sizes), mode="linear" if len(sizes) == 1 else "bilinear")


def spectral_errors(
    models: dict[str, nn.Module], test: Pairs, modes: int
) -> tuple[dict[str, Tensor], dict[str, float]]:
    """Root mean square coefficients (DCT) of truth, predictions and errors; and the error beyond the block of `modes`.

    The latter (claim 5) in units of the norm of the field, and of T1 over the better of those of two per layer.
    """
    axes = tuple(range(2, test.y.dim()))
    inside = (..., *[slice(0, modes)] * len(axes))
    norm = test.y.flatten(1).norm(dim=1)
    root_mean = lambda X: X.square().mean((0, 1)).sqrt()  # noqa: E731
    spectra, beyond = {"truth": root_mean(dct(test.y, axes))}, {}
    for kind, model in models.items():
        found = predicted(model, test.x)
        wrong = dct(found - test.y, axes)
        spectra |= {kind: root_mean(dct(found, axes)), f"{kind}_error": root_mean(wrong)}
        wrong[inside] = 0
        beyond[f"{kind}_beyond"] = float((wrong.flatten(1).norm(dim=1) / norm).mean())
    rivals = [beyond[f"{kind}_beyond"] for kind in TWO_PER_LAYER if kind in models]
    if "t1" in models and rivals:
        beyond["t1_over_two_beyond"] = beyond["t1_beyond"] / min(rivals)
    return spectra, beyond
