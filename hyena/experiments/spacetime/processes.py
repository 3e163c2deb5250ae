"""Which state spaces can be autoregressive: one layer each, on processes whose best prediction is known."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from statistics import fmean
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from hyena.data.processes import PROCESSES, autoregressive, best_predictions
from hyena.errors import HyenaError, unknown
from hyena.experiments.comparison import Trial, rows, sweeps
from hyena.experiments.spacetime.seeds import EverySeed
from hyena.models.lm import count_parameters
from hyena.models.s4 import S4Conv
from hyena.models.spacetime import CompanionSSM
from hyena.results import Result, Row
from hyena.train import Run, train

MODELS = ("spacetime", "s4d", "s4")
VALID, TEST = 1, 2  # seeds of held-out series, which no training step has
RUN_ON = 48  # steps of the free-running forecast


@dataclass(frozen=True)
class AutoregressiveProcesses(EverySeed):
    r"""Claims 1 and 6: what a layer's one-step predictions lack to the best ones, $E(\hat y - \hat y^*)^2 / \sigma^2$.

    One companion, S4D or S4 layer of one feature reads the series and predicts each next value. All have a state of
    `d_state`, a weight of the present value, and nothing else. Series are drawn anew for every step. A process is
    autoregressive of finite order: its best predictor is a filter of finitely many taps, which a companion state space
    holds exactly and sums of decaying modes only approach.
    """

    paper: ClassVar[str] = "spacetime"

    processes: tuple[str, ...] = ("distinct_roots", "pure_lag", "seasonal_unit_root", "random_walk")
    operators: tuple[str, ...] = MODELS
    d_state: int = 16
    length: int = 256
    steps: int = 2000
    warmup: int = 100
    evaluations: int = 20
    held_out: int = 200
    weight_decay: float = 0.0
    lr: tuple[float, ...] = (0.01,)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in self.processes:
            if name not in PROCESSES:
                raise unknown("process", name, PROCESSES)
            if len(PROCESSES[name]) >= min(self.d_state, self.length):
                raise HyenaError(f"{name} has order {len(PROCESSES[name])}: d_state and length must be above it")
        for kind in self.operators:
            self.layer(kind, 0)  # an unknown name is refused before any work

    def layer(self, kind: str, seed: int) -> nn.Module:
        """(batch, length, 1) to predictions of the next value, initialised by `seed`."""
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            if kind == "spacetime":
                return CompanionSSM(1, self.d_state)
            options = {"dt_min": 0.01, "dt_max": 1.0, "lr": None}  # one feature: its time scale is not known beforehand
            if kind == "s4d":
                return S4Conv(1, d_state=self.d_state, mode="diag", **options)
            if kind == "s4":
                return S4Conv(1, d_state=self.d_state, mode="dplr", l_max=self.length, **options)
            raise unknown("layer", kind, MODELS)

    def run(self, run: Run) -> Result:
        metrics: dict[str, list[float]] = {}
        arrays: dict[str, np.ndarray] = {}
        curves: list[Row] = []
        tried: list[Row] = []
        parameters: dict[str, int] = {}
        for name in self.processes:
            chosen = {}
            for kind in self.operators:
                fit = partial(self._fit, name, run)
                chosen[kind] = self.from_every_seed(kind, run.seed, fit)
                metrics[f"{name}_{kind}"] = [trial.test for trial in chosen[kind]]
                parameters[kind] = count_parameters(chosen[kind][0].model)
                arrays |= self._pictures(name, kind, chosen[kind][0].model)
            curves += rows(chosen, run.seed, process=name)
            tried += sweeps(chosen, process=name)
            metrics |= self._advantage(name, metrics)
        tables = {"curves": curves, "sweep": tried}
        return Result(metrics, parameters=parameters, tables=tables, arrays=arrays)

    def _advantage(self, name: str, metrics: dict[str, list[float]]) -> dict[str, list[float]]:
        """How many times as large the smallest mean error of the others is; and their smallest from any seed."""
        others = [metrics[f"{name}_{kind}"] for kind in self.operators if kind != "spacetime"]
        if "spacetime" not in self.operators or not others:
            return {}
        mean = min(fmean(errors) for errors in others)
        return {
            f"advantage_{name}": [mean / fmean(metrics[f"{name}_spacetime"])],
            f"closest_{name}": [min(min(errors) for errors in others)],
        }

    def _fit(self, name: str, run: Run, kind: str, lr: float, seed: int) -> Trial:
        layer, order = self.layer(kind, seed), len(PROCESSES[name])

        def batch(step: int) -> tuple[Tensor, ...]:
            y, _ = autoregressive(name, self.batch_size, self.length, np.random.default_rng((seed, step, 0)))
            return (torch.from_numpy(y).float(),)

        def loss(layer: nn.Module, y: Tensor) -> Tensor:
            return F.mse_loss(predictions(layer, y, order), y[:, order:])

        curve = train(
            layer, batch, loss, self.recipe(self.steps, self.warmup, lr, max(1, self.steps // self.evaluations)),
            replace(run, seed=seed), f"{name} {kind} lr {lr:g} seed {seed}",
            evaluate=lambda m: {"excess": self._excess(name, m, VALID)},
        )  # fmt: skip
        return Trial(lr, -curve[-1]["excess"], self._excess(name, layer, TEST), layer, curve)

    @torch.no_grad()
    def _excess(self, name: str, layer: nn.Module, part: int) -> float:
        """Mean square distance to the best predictions, in units of the noise, on held-out series."""
        y, phi = autoregressive(name, self.held_out, self.length, np.random.default_rng(part))
        device = next(layer.parameters()).device
        found = predictions(layer.eval(), torch.from_numpy(y).float().to(device), len(phi))
        return float(((found.cpu().double().numpy() - best_predictions(y, phi)) ** 2).mean())

    @torch.no_grad()
    def _pictures(self, name: str, kind: str, layer: nn.Module) -> dict[str, np.ndarray]:
        """The taps that a layer has learned, and its own continuation of a test series next to the best one."""
        y, phi = autoregressive(name, 1, self.length, np.random.default_rng(TEST))
        impulse = F.one_hot(torch.tensor(0), 4 * self.d_state).float()[None, :, None]
        key, order = f"{name}_{kind}", len(phi)
        series, best = torch.from_numpy(y).float(), y[0].tolist()
        for _ in range(RUN_ON):
            window = series[:, -self.length :]
            series = torch.cat([series, layer(window[..., None])[:, -1]], 1)
            best.append(float(phi @ np.array(best[-order:])[::-1]))
        return {
            f"{key}_taps": layer(impulse)[0, :, 0].numpy(),
            f"{key}_run": series[0].numpy(),
            f"{name}_best": np.array(best),
        }


def predictions(layer: nn.Module, y: Float[Tensor, "batch length"], order: int) -> Float[Tensor, "batch steps"]:
    """What a layer says of each value from number `order` on, having read those before it."""
    return layer(y[..., None])[:, order - 1 : -1, 0]
