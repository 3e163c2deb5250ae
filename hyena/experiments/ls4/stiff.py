"""Sharp transitions: what is left of them in reconstructions and in new series."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from statistics import fmean
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from hyena.data.stiff import SYSTEMS, rise_time, stiff_series
from hyena.errors import HyenaError, unknown
from hyena.experiments.comparison import Trial, rows, shuffled, sweeps
from hyena.experiments.ls4.scores import marginal_distance
from hyena.experiments.ls4.shared import Generators, bound_per_value, drawn
from hyena.models.generators import LatentODE
from hyena.models.lm import count_parameters
from hyena.models.ls4 import LS4
from hyena.results import Result, Row
from hyena.train import Run

STEEP = 0.05  # of the range, between the neighbours of a step: there the series is in transition
DRAWN, SHOWN = 256, 4
SOLVERS = (("dopri5", 1, 1e-1), ("dopri5", 1, 1e-2), ("dopri5", 1, 1e-3), ("dopri5", 1, 1e-5))
SOLVERS += (("rk4", 1, 0.0), ("rk4", 2, 0.0), ("rk4", 4, 0.0))  # method, steps between two samples, tolerance


@dataclass(frozen=True)
class StiffTransitions(Generators):
    """Claim 3, on systems of ours: root mean square errors of reconstructions, at transitions and overall.

    A reconstruction is the decoder's mean for the posterior's mean; LS4 has latents at every step for it, the others
    one vector. `ode_share` gives the latent ODE the training time of LS4 (`hyena bench ls4`). New series (means of the
    decoder) are compared by the distance of marginals and by their sharpest move between neighbours, in units of their
    range, a median; flames also by their rise time from .1 to .9, where 1 stands for those that do not rise. The latent
    ODE of the first seed is also solved by other solvers than the one it was trained with, rk4 at the sampled times.
    """

    paper: ClassVar[str] = "ls4"

    systems: tuple[str, ...] = ("flame", "van_der_pol", "fitzhugh_nagumo")
    length: int = 256
    train_series: int = 512
    held_out: int = 128
    sigma: float = 0.05

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in self.systems:
            if name not in SYSTEMS:
                raise unknown("stiff system", name, SYSTEMS)

    def run(self, run: Run) -> Result:
        metrics: dict[str, list[float]] = {}
        parameters: dict[str, int] = {}
        arrays: dict[str, np.ndarray] = {}
        curves: list[Row] = []
        tried: list[Row] = []
        solved: list[Row] = []
        for name in self.systems:
            parts = [self._series(name, part, n) for part, n in enumerate(self._sizes())]
            y = parts[2][..., 0].numpy()
            chosen = {}
            arrays[f"{name}_real"] = y[:SHOWN]
            for kind in self.operators:
                fit = partial(self._fit, name, parts, run)
                chosen[kind] = self.from_every_seed(kind, run.seed, fit)
                parameters[kind] = count_parameters(chosen[kind][0].model)
                found = [self._measured(name, t.model, parts[2], run.seed + i) for i, t in enumerate(chosen[kind])]
                metrics |= {f"{name}_{kind}_{key}": [row[key] for row in found] for key in found[0]}
                best = chosen[kind][0].model
                arrays[f"{name}_{kind}"] = reconstruction(best, parts[2])[:SHOWN, :, 0].numpy()
                arrays[f"{name}_{kind}_new"] = drawn(best, SHOWN, self.length, run.seed)[..., 0]
                if isinstance(best, LatentODE):
                    solved += [{"system": name, **row} for row in by_solver(best, parts[2])]
            real = new_series(name, y)
            metrics |= {f"{name}_real_{key}": [value] for key, value in real.items()}
            metrics |= self._advantage(name, metrics)
            curves += rows(chosen, run.seed, system=name)
            tried += sweeps(chosen, system=name)
        tables = {"curves": curves, "sweep": tried, "solvers": solved}
        return Result(metrics, parameters=parameters, tables=tables, arrays=arrays)

    def _sizes(self) -> tuple[int, int, int]:
        return self.train_series, self.held_out, self.held_out

    def _series(self, name: str, part: int, count: int) -> Float[Tensor, "count length 1"]:
        y, _ = stiff_series(name, count, self.length, np.random.default_rng(part))
        return torch.from_numpy(y).float()[..., None]

    def _fit(self, name: str, parts: list[Tensor], run: Run, kind: str, lr: float, seed: int) -> Trial:
        network = self.network(kind, self.length, self.sigma, seed)
        pick = shuffled((parts[0].numpy(),), min(self.batch_size, len(parts[0])), seed)
        error = lambda part, model: transition_error(reconstruction(model, part), part)  # noqa: E731
        return self.fit(
            network, kind, lr, run, seed, name, pick, lambda model, x: model(x), partial(error, parts[1]),
            partial(error, parts[2]),
        )  # fmt: skip

    def _measured(self, name: str, model: nn.Module, test: Tensor, seed: int) -> dict[str, float]:
        found, new = reconstruction(model, test), drawn(model, DRAWN, self.length, seed)
        return {
            "transition": transition_error(found, test),
            "overall": float(((found - test) ** 2).mean().sqrt()),
            "nelbo": bound_per_value(model, test, seed),
            "marginal_distance": marginal_distance(test.numpy(), new),
            **new_series(name, new[..., 0]),
        }

    def _advantage(self, name: str, metrics: dict[str, list[float]]) -> dict[str, list[float]]:
        """How many times as large the latent ODE's error is, and how sharp new series are in units of real ones."""
        if not {"ls4", "latent_ode"} <= set(self.operators):
            return {}
        ours, ode = (fmean(metrics[f"{name}_{kind}_transition"]) for kind in ("ls4", "latent_ode"))
        real = metrics[f"{name}_real_sharpness"][0]
        sharp = {k: fmean(metrics[f"{name}_{k}_sharpness"]) / real for k in ("ls4", "latent_ode")}
        return {f"{name}_advantage": [ode / ours]} | {f"{name}_{k}_sharpness_ratio": [v] for k, v in sharp.items()}


@torch.no_grad()
def reconstruction(model: nn.Module, x: Float[Tensor, "batch length 1"]) -> Float[Tensor, "batch length 1"]:
    """The decoder's mean for the posterior's mean."""
    x = x.to(next(model.parameters()).device)
    if isinstance(model, LS4):
        return model.decode([g.mean for g in model.posterior(x)]).cpu()
    return model.extrapolate(x, torch.arange(float(x.shape[1]), device=x.device).expand(len(x), -1)).cpu()


def in_transition(x: Float[Tensor, "batch length 1"]) -> Bool[Tensor, "batch length 1"]:
    """The steps between whose neighbours a series goes over `STEEP` of its range."""
    span = x.amax(1, keepdim=True) - x.amin(1, keepdim=True)
    steep = torch.zeros_like(x, dtype=torch.bool)
    steep[:, 1:-1] = (x[:, 2:] - x[:, :-2]).abs() > STEEP * span
    return steep


def transition_error(found: Tensor, x: Tensor) -> float:
    """Root mean square error at the steps in transition; infinite if it is no number.

    Raises:
        HyenaError: no series is ever in transition.
    """
    steep = in_transition(x)
    if not steep.any():
        raise HyenaError("no series moves sharply at this length: there is no transition to measure")
    error = float(((found - x)[steep] ** 2).mean().sqrt())
    return error if np.isfinite(error) else float("inf")


def new_series(name: str, y: Float[np.ndarray, "count length"]) -> dict[str, float]:
    """How sharp series are; of flames, how fast they rise (1 where one does not), and how many do, from below .1."""
    span = np.maximum(y.max(1) - y.min(1), 1e-12)
    row = {"sharpness": float(np.median(np.abs(np.diff(y, axis=1)).max(1) / span))}
    if name == "flame":
        rise = np.where(y[:, 0] < 0.1, rise_time(y), np.nan)
        row |= {"rise": float(np.median(np.nan_to_num(rise, nan=1.0))), "risen": float(np.isfinite(rise).mean())}
    return row


@torch.no_grad()
def by_solver(model: LatentODE, x: Tensor) -> list[Row]:
    """The trained field solved by others: evaluations of it for the whole batch, and the error at transitions.

    A solver that gives up, since its step becomes too small, has no error.
    """
    trained, found = (model.method, model.substeps, model.tolerance), []
    for method, substeps, tolerance in SOLVERS:
        model.method, model.substeps, model.tolerance, model.evaluations = method, substeps, tolerance, 0
        try:
            error = transition_error(reconstruction(model, x), x)
        except AssertionError:  # of torchdiffeq
            error = float("nan")
        found.append({
            "solver": method, "substeps": substeps, "tolerance": tolerance, "evaluations": model.evaluations,
            "transition": error,
        })  # fmt: skip
    model.method, model.substeps, model.tolerance = trained
    return found
