"""Series seen at irregular times: values between those that are seen, and values after them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from statistics import fmean
from typing import ClassVar, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from hyena.data.panels import load_panel
from hyena.errors import HyenaError, unknown
from hyena.experiments.comparison import rows, shuffled, sweeps
from hyena.experiments.ls4.shared import Generators, training_name
from hyena.models.generators import linear_interpolation
from hyena.models.lm import count_parameters
from hyena.models.ls4 import LS4, Bound
from hyena.results import Result, Row
from hyena.train import Run

TASKS = ("interpolation", "extrapolation")
EVALUATED = 128  # series at once
PER_SERIES = 4  # draws of times from every held-out series


class Thinned(NamedTuple):
    """Values at irregular times, in steps of the panel, and which of them are shown."""

    x: Float[Tensor, "series points 1"]
    times: Float[Tensor, "series points"]
    shown: Bool[Tensor, "series points 1"]

    def seen(self) -> Float[Tensor, "series points 2"]:
        """What a posterior may read: values where they are shown and 0 elsewhere, and whether they are."""
        return torch.cat([torch.where(self.shown, self.x, torch.zeros_like(self.x)), self.shown.float()], -1)

    def pieces(self, model: nn.Module) -> list[Thinned]:
        """In batches that fit in memory, where the model is."""
        device = next(model.parameters()).device
        return [Thinned(*parts) for parts in zip(*(value.to(device).split(EVALUATED) for value in self), strict=True)]


@dataclass(frozen=True)
class IrregularSampling(Generators):
    """Claim 4, on thinned panels: mean square errors of values that the posterior has not seen.

    From each series `points` of its steps are drawn at random, so that gaps are irregular and differ between series.
    Interpolation hides `hidden` of them at random, extrapolation the last ones. All networks are trained to say all
    values from those that are shown; new times are drawn for every training step. LS4 steps over each gap as over the
    time it is; it reads both ways to interpolate, and one way to extrapolate.
    """

    paper: ClassVar[str] = "ls4"

    tasks: tuple[str, ...] = TASKS
    panels: tuple[str, ...] = ("fred-md", "nn5-daily")
    points: int = 100
    hidden: float = 0.5
    sigma: float = 0.1
    kl_weight: float = 1.0  # the true bound
    pool: int = 0
    mode: str = "diag"

    def __post_init__(self) -> None:
        super().__post_init__()
        for task in self.tasks:
            if task not in TASKS:
                raise unknown("task", task, TASKS)
        if not 1 <= round(self.hidden * self.points) < self.points:
            raise HyenaError(f"a share of {self.hidden} hides none or all of {self.points} points; choose another")
        if self.pool or self.mode != "diag":
            raise HyenaError("irregular times need pool 0 and mode diag: steps of any length, not in groups")

    def run(self, run: Run) -> Result:
        metrics: dict[str, list[float]] = {}
        parameters: dict[str, int] = {}
        data: dict[str, str] = {}
        arrays: dict[str, np.ndarray] = {}
        curves: list[Row] = []
        tried: list[Row] = []
        for name in self.panels:
            panel = load_panel(name)
            data |= panel.data
            for task in self.tasks:
                key = f"{panel.name.replace('-', '_')}_{task}"
                held = [
                    self.thinned(part.repeat(PER_SERIES, 1, 1), task, i)
                    for i, part in enumerate((panel.valid, panel.test))
                ]
                chosen = {}
                for kind in self.operators:
                    fit = partial(self._fit, panel, task, held, run)
                    chosen[kind] = self.from_every_seed(kind, run.seed, fit)
                    parameters[f"{task}_{kind}"] = count_parameters(chosen[kind][0].model)
                    metrics[f"{key}_{kind}"] = [trial.test for trial in chosen[kind]]
                    bounds = [_bound(t.model, held[1], run.seed + i) for i, t in enumerate(chosen[kind])]
                    metrics[f"{key}_{kind}_nelbo"] = bounds
                    arrays[f"{key}_{kind}"] = _said(chosen[kind][0].model, held[1])[0, :, 0].numpy()
                if task == "extrapolation" and "ls4" in chosen:
                    metrics[f"{key}_ls4_rolled"] = [_rolled_error(t.model, held[1]) for t in chosen["ls4"]]
                metrics[f"{key}_line"] = [line_error(held[1])]
                metrics |= self._advantage(key, metrics)
                arrays |= {f"{key}_{field}": value[0].squeeze().numpy() for field, value in held[1]._asdict().items()}
                curves += rows(chosen, run.seed, panel=name, task=task)
                tried += sweeps(chosen, panel=name, task=task)
        tables = {"curves": curves, "sweep": tried}
        return Result(metrics, parameters=parameters, data=data, tables=tables, arrays=arrays)

    def thinned(self, x: Float[Tensor, "series length 1"], task: str, seed: int | tuple[int, ...]) -> Thinned:
        """Draw times from each series, and hide some of them.

        Raises:
            HyenaError: series with fewer steps than `points`.
        """
        if x.shape[1] < self.points:
            raise HyenaError(f"{self.points} points cannot be drawn from series of {x.shape[1]} steps")
        rng = np.random.default_rng(seed)
        at = np.sort(rng.random(x.shape[:2]).argsort(1)[:, : self.points], 1)
        shown = np.ones(at.shape, dtype=bool)
        hidden = round(self.hidden * self.points)
        if task == "interpolation":
            np.put_along_axis(shown, rng.random(at.shape).argsort(1)[:, :hidden], False, 1)
        else:
            shown[:, self.points - hidden :] = False
        at = torch.from_numpy(at)
        return Thinned(x.gather(1, at[..., None]), at.float(), torch.from_numpy(shown)[..., None])

    def _fit(
        self, panel: Panel, task: str, held: list[Thinned], run: Run, kind: str, lr: float, seed: int
    ) -> Trial:  # fmt: skip
        train, unit = panel.train, panel.train.shape[1] / self.points
        both = task == "interpolation"
        network = self.network(kind, self.points, self.sigma, seed, d_input=2, bidirectional=both, unit=unit)
        pick = shuffled((train.numpy(),), min(self.batch_size, len(train)), seed)

        def batch(step: int) -> tuple[Tensor, ...]:
            return tuple(self.thinned(pick(step)[0], task, (seed, step, 7)))

        def bound(model: nn.Module, *batch: Tensor) -> Bound:
            thinned = Thinned(*batch)
            return model(thinned.x, times=thinned.times, seen=thinned.seen())

        return self.fit(
            network, kind, lr, run, seed, f"{training_name(panel)} {task}", batch, bound,
            partial(_error, part=held[0]), partial(_error, part=held[1]),
        )  # fmt: skip

    def _advantage(self, key: str, metrics: dict[str, list[float]]) -> dict[str, list[float]]:
        """The error of LS4 in units of the latent ODE's and the line's, and by how many nats its bound is tighter."""
        if not {"ls4", "latent_ode"} <= set(self.operators):
            return {}
        ours, ode = (fmean(metrics[f"{key}_{kind}"]) for kind in ("ls4", "latent_ode"))
        bounds = {kind: fmean(metrics[f"{key}_{kind}_nelbo"]) for kind in self.operators}
        gain = min(bound for kind, bound in bounds.items() if kind != "ls4") - bounds["ls4"]
        line = metrics[f"{key}_line"][0]
        return {f"{key}_ratio": [ours / ode], f"{key}_line_ratio": [ours / line], f"{key}_bound_gain": [gain]}


@torch.no_grad()
def _said(model: nn.Module, part: Thinned) -> Float[Tensor, "series points 1"]:
    def said(piece: Thinned) -> Tensor:
        if isinstance(model, LS4):
            return model.decode([g.mean for g in model.posterior(piece.seen(), piece.times)], piece.times)
        return model.extrapolate(piece.seen(), piece.times)

    return torch.cat([said(piece).cpu() for piece in part.pieces(model)])


def hidden_error(said: Tensor, part: Thinned) -> float:
    """Mean square error of the values that are not shown; infinite if it is no number."""
    error = float(((said - part.x)[~part.shown] ** 2).mean())
    return error if np.isfinite(error) else float("inf")


def _error(model: nn.Module, part: Thinned) -> float:
    return hidden_error(_said(model, part), part)


@torch.no_grad()
def _rolled_error(model: LS4, part: Thinned) -> float:
    """The posterior on what is shown alone, then the means of the prior, step by step."""
    known, said = int(part.shown[0].sum()), []
    for piece in part.pieces(model):
        nothing = piece.x.new_zeros(len(piece.x), piece.x.shape[1] - known, model.z_dim)
        said.append(model.extrapolate(piece.seen()[:, :known], nothing, piece.times).cpu())
    return hidden_error(torch.cat(said), part)


@torch.no_grad()
def _bound(model: nn.Module, part: Thinned, seed: int) -> float:
    """Nats per value of shown and hidden values together."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        bounds = [model(p.x, times=p.times, seen=p.seen()).negative_elbo() for p in part.pieces(model)]
        return float(torch.cat(bounds).mean()) / part.x.shape[1]


def line_error(part: Thinned) -> float:
    """Of the line between neighbours, or of the last value that is shown."""
    x, times, shown = part.x[..., 0].numpy(), part.times.numpy(), part.shown[..., 0].numpy()
    return hidden_error(torch.from_numpy(linear_interpolation(x, shown, times)).float()[..., None], part)
