"""The networks that T1's experiments compare: what each is, how many steps it gets, and one training."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import fmean

import torch
from jaxtyping import Float
from torch import Tensor, nn

from hyena.errors import HyenaError, unknown
from hyena.experiments.comparison import Fit, Trial
from hyena.experiments.spacetime.seeds import EverySeed
from hyena.models.fno import FFNO, FNO, with_coordinates
from hyena.models.t1 import T1, T1U
from hyena.models.unet import UNet
from hyena.train import Run, TrainingDiverged, train

AS_LONG, AS_SHORT = "_as_long", "_as_short"  # T1 with the training time of the FNO, FNO with that of T1
ONE_TRANSFORM = ("t1", "t1_fourier", "t1u")
TWO_PER_LAYER = ("fno", "ffno")
NETWORKS = (*ONE_TRANSFORM, *[kind + AS_LONG for kind in ONE_TRANSFORM], *TWO_PER_LAYER, f"fno{AS_SHORT}", "unet")
PLACED = "centres"  # coordinates that say the same of a place on every grid

Fields = Float[Tensor, "count channels *sizes"]


@dataclass(frozen=True)
class Networks(EverySeed):
    """Fields of the networks and of their training.

    Networks are "t1" (cosines), "t1_fourier", "t1u", "fno", "ffno" and "unet", all with `steps`. The first three with
    "_as_long" behind have `as_long` times as many, which takes about as long as the FNO's training, and "fno_as_short"
    `steps` over the least of these factors (seconds per step: `hyena bench t1`). All see coordinates, at centres of
    cells; FNO and F-FNO are padded by `padding` of every axis (for wings: turbulence is periodic, smoke is across).

    Defaults are the released configurations for Navier-Stokes (Section 5) where they describe the same network: F-FNO
    is the one of its own paper, with shared weights. Other than there: a cosine in place of halvings of the rate,
    gradients clipped at norm 1, F-FNO with the same recipe as all.
    """

    operators: tuple[str, ...] = NETWORKS
    once: tuple[str, ...] = ("t1u", "t1u_as_long", "ffno", "fno_as_short", "unet")  # with the first seed only
    modes: int = 24
    width: int = 48
    n_layer: int = 8
    init: str = "variance"
    head_std: float = 1e-8
    t1u_width: int = 64
    fno_modes: int = 24
    fno_width: int = 32
    fno_layers: int = 6
    padding: float = 0.0
    ffno_modes: int = 32
    ffno_width: int = 82
    ffno_layers: int = 10
    unet_width: int = 64
    steps: int = 8000
    as_long: tuple[float, ...] = (5.0, 5.0, 5.0)  # of t1, t1_fourier and t1u
    warmup: int = 0
    evaluations: int = 20
    batch_size: int = 64
    lr: tuple[float, ...] = (1e-3,)
    weight_decay: float = 1e-4

    def __post_init__(self) -> None:
        super().__post_init__()
        for kind in (*self.operators, *self.once):
            if kind not in NETWORKS:
                raise unknown("operator network", kind, NETWORKS)
        if len(self.as_long) != 3 or min(self.as_long) <= 0:
            raise HyenaError(f"as_long takes three factors above 0, of t1, t1_fourier and t1u; got {self.as_long}")

    def network(self, kind: str, d_input: int, d_output: int, grid: tuple[int, ...], seed: int) -> nn.Module:
        """An untrained network, initialised by `seed`."""
        kind = kind.removesuffix(AS_LONG).removesuffix(AS_SHORT)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            if kind in ("t1", "t1_fourier"):
                basis = "dct" if kind == "t1" else "fourier"
                return T1(
                    d_input, d_output, (kept(basis, self.modes),) * len(grid), self.width, self.n_layer, grid,
                    init=self.init, head_std=self.head_std, basis=basis, coordinates=PLACED,
                )  # fmt: skip
            if kind == "t1u":
                return T1U(d_input, d_output, (self.modes,) * len(grid), self.t1u_width, grid, coordinates=PLACED)
            if kind == "fno":
                modes = (self.fno_modes,) * len(grid)
                return FNO(
                    d_input, d_output, modes, self.fno_width, self.fno_layers, coordinates=PLACED, padding=self.padding
                )
            if kind == "ffno":
                modes = (self.ffno_modes,) * len(grid)
                return FFNO(
                    d_input, d_output, modes, self.ffno_width, self.ffno_layers,
                    coordinates=PLACED, padding=self.padding,
                )  # fmt: skip
            return PlacedUNet(d_input + 2, d_output, self.unet_width, grid[0])

    def n_steps(self, kind: str) -> int:
        """How many steps a network is trained for."""
        factors = dict(zip((kind + AS_LONG for kind in ONE_TRANSFORM), self.as_long, strict=True))
        factors[f"fno{AS_SHORT}"] = 1 / min(self.as_long)
        return max(1, round(self.steps * factors.get(kind, 1)))

    def trials(self, run: Run, fit: Fit) -> dict[str, list[Trial]]:
        """Every network at the rate that does best on validation data, one trial for each seed.

        Raises:
            TrainingDiverged: at every rate, or from a later seed.
        """
        chosen = {}
        for kind in self.operators:
            best = self.sweep(kind, run.seed, fit)
            if not math.isfinite(best.score):
                raise TrainingDiverged(f"{kind}: the loss was not finite at any rate of {self.lr}; try smaller ones")
            later = () if kind in self.once else range(run.seed + 1, run.seed + self.n_seeds)
            chosen[kind] = [best, *(fit(kind, best.lr, seed) for seed in later)]
        return chosen

    def trained(
        self, network: nn.Module, kind: str, lr: float, run: Run, name: str, batch: Callable, loss: Callable,
        validate: Callable[[nn.Module], float], test: Callable[[nn.Module], float],
    ) -> Trial:  # fmt: skip
        """One training, with as much of it as warm-up at any number of steps; one that diverges is worse than any."""
        steps = self.n_steps(kind)
        warmup = math.ceil(self.warmup * steps / self.steps)
        try:
            curve = train(
                network, batch, loss, self.recipe(steps, warmup, lr, max(1, steps // self.evaluations)), run,
                f"{name} {kind} lr {lr:g} seed {run.seed}", evaluate=lambda model: {"error": validate(model)},
            )  # fmt: skip
        except TrainingDiverged:
            return Trial(lr, -math.inf, math.inf, network, [])
        error = curve[-1]["error"]
        return Trial(lr, -error if math.isfinite(error) else -math.inf, test(network), network, curve)


class PlacedUNet(UNet):
    """A U-Net that is told where it is; what is fixed in space, as a force, asks for that."""

    def forward(self, x: Fields) -> Float[Tensor, "count d_output *sizes"]:
        return super().forward(with_coordinates(x, PLACED))


def kept(basis: str, modes: int) -> int:
    """Coefficients per axis: of the Fourier basis an odd number, so that no sine is without its cosine."""
    return modes - 1 if basis == "fourier" and modes % 2 == 0 else modes


def relative_errors(found: Tensor, y: Tensor, axes: int) -> Tensor:
    """Relative L2 norms of the difference, over all but the first `axes` axes."""
    return (found - y).flatten(axes).norm(dim=axes) / y.flatten(axes).norm(dim=axes)


def ratios(name: str, metrics: dict[str, list[float]], scores: dict[str, float]) -> dict[str, list[float]]:
    """Errors of networks of one transform over those of networks of two per layer, means over seeds.

    `<name>_<a>_over_<b>` for each pair with equal steps or equal time. `one_over_two` is of the best of each kind at
    equal steps, and `one_over_fno_as_long` and `_as_short` of the best with the FNO's training time and with its own,
    where those that do best on validation data are taken.
    """

    def best(kinds: tuple[str, ...]) -> str | None:
        there = [kind for kind in kinds if kind in scores]
        return max(there, key=scores.get) if there else None

    longer, short = tuple(kind + AS_LONG for kind in ONE_TRANSFORM), f"fno{AS_SHORT}"
    pairs = {f"{a}_over_{b}": (a, b) for a in ONE_TRANSFORM for b in TWO_PER_LAYER}
    pairs |= {f"{a}_over_fno": (a, "fno") for a in longer} | {f"{a}_over_{short}": (a, short) for a in ONE_TRANSFORM}
    pairs["one_over_two"] = (best(ONE_TRANSFORM), best(TWO_PER_LAYER))
    pairs["one_over_fno_as_long"] = (best(longer), best(("fno",)))
    pairs["one_over_fno_as_short"] = (best(ONE_TRANSFORM), best((short,)))
    pairs["t1_over_two"] = (best(("t1",)), best(TWO_PER_LAYER))
    return {
        f"{name}_{key}": [fmean(metrics[f"{name}_{a}"]) / fmean(metrics[f"{name}_{b}"])]
        for key, (a, b) in pairs.items()
        if a in scores and b in scores
    }
