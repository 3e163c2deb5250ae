"""What initialisation does to the variance of coefficients: one layer that transforms back, and many that do not."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from hyena.data.fluids import gaussian_field
from hyena.errors import HyenaError
from hyena.experiments.base import Experiment
from hyena.models.fno import SpectralConv
from hyena.models.t1 import INITS, T1, mixing_std
from hyena.ops.dct import analyse, synthesise
from hyena.results import Result, Row
from hyena.train import Run


@dataclass(frozen=True)
class Variance(Experiment):
    """Claim 4: total variance after one layer over that before it, and that of kept coefficients through depth.

    `one_layer` (a table) has layers that transform white noise, mix channels at the kept coefficients and transform
    back. Weights of a complex layer have parts of variance $s^2$, $s^2 = N / (c_{in} (4 m^2 + 4))$ as released; exact
    is $N / (2 c_{in} (4 m^2 - 3 m))$: of the $2m$ rows, columns but the first count twice, and of the first, whose
    frequencies are mixed apart from their conjugates, half is lost. `depth` has the stacked layers of a T1 at the
    released sizes, on white coefficients and (`_field`) on those of lifted initial vorticities; the ratio is of the
    variance after the last layer over that before the first.
    """

    paper: ClassVar[str] = "t1"

    size: int = 64
    modes: int = 24
    width: int = 48
    n_layer: int = 8
    batch_size: int = 8
    n_seeds: int = 3

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.modes > self.size // 2:
            raise HyenaError(
                f"modes are at most half of the {self.size} samples, for the Fourier layer; got {self.modes}"
            )

    def run(self, run: Run) -> Result:
        metrics: dict[str, list[float]] = {}
        tables: dict[str, list[Row]] = {"one_layer": [], "depth": []}
        for seed in range(run.seed, run.seed + self.n_seeds):
            with torch.random.fork_rng():
                torch.manual_seed(seed)
                for name, ratio in self.one_layer().items():
                    metrics.setdefault(f"one_layer_{name}", []).append(ratio)
                    metrics.setdefault(f"one_layer_{name}_off", []).append(abs(ratio - 1))
                    tables["one_layer"].append({"seed": seed, "layer": name, "ratio": ratio})
                for init, activation in [*((i, "gelu") for i in INITS), ("variance", "sin")]:
                    name = init if activation == "gelu" else f"{init}_{activation}"
                    for kind, found in self.through_depth(init, activation, seed).items():
                        metrics.setdefault(f"depth_{name}{kind}", []).append(found[-1] / found[0])
                        about = {"seed": seed, "init": name, "input": kind.strip("_") or "white"}
                        tables["depth"] += [{**about, "layer": i, "variance": v} for i, v in enumerate(found)]
        return Result(metrics, tables=tables)

    @torch.no_grad()
    def one_layer(self) -> dict[str, float]:
        """Variance after a layer with the "variance" and the "fan_in" rule, for cosines and for complex frequencies."""
        x = torch.randn(self.batch_size, self.width, self.size, self.size)
        found = {}
        for init in ("variance", "fan_in"):
            std = mixing_std(init, self.width, self.width, self.size**2, self.modes**2)
            found[f"dct_{init}"] = float(cosine_layer(x, self.modes, std).var() / x.var())
        conv = SpectralConv(self.width, self.width, (self.modes, self.modes))
        m = self.modes
        for name, squares in (("released", 4 * m**2 + 4), ("exact", 2 * (4 * m**2 - 3 * m))):
            conv.weight.copy_(torch.randn_like(conv.weight) * math.sqrt(self.size**2 / (self.width * squares)))
            found[f"fourier_{name}"] = float(conv(x).var() / x.var())
        return found

    @torch.no_grad()
    def through_depth(self, init: str, activation: str, seed: int) -> dict[str, list[float]]:
        """Variance of the coefficients before the first and after every layer, for both inputs."""
        net = T1(
            1, 1, (self.modes, self.modes), self.width, self.n_layer, (self.size, self.size), init=init,
            activation=activation,
        )  # fmt: skip
        w = gaussian_field(self.batch_size, self.size, torch.Generator().manual_seed(seed)).float()[:, None]
        lifted = net.lifted(net.coefficients(w / w.std()))
        inputs = {"": torch.randn(self.batch_size, self.width, self.modes, self.modes), "_field": lifted}
        found = {kind: [float(z.var())] for kind, z in inputs.items()}
        for kind, z in inputs.items():
            for layer in net.layers:
                z = layer(z)
                found[kind].append(float(z.var()))
        return found


def cosine_layer(
    x: Float[Tensor, "batch width size size"], modes: int, std: float
) -> Float[Tensor, "batch width size size"]:
    """$W^T S_m^T R\\, S_m W x$ with entries of R of standard deviation `std`."""
    width = x.shape[1]
    R = std * torch.randn(modes, modes, width, width)
    mixed = (R @ analyse(x, (modes, modes)).permute(2, 3, 1, 0)).permute(3, 2, 0, 1)
    return synthesise(mixed, x.shape[2:])
