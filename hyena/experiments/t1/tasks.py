"""Solution operators in one step: turbulence, airfoils, waves."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from hyena.data.airfoils import OUTPUTS, Profiles, airfoil_fields, places, profiles
from hyena.data.flows import WAVES, navier_stokes, waves
from hyena.errors import HyenaError, unknown
from hyena.experiments.t1.oneshot import OneShot, Pairs, Task


@dataclass(frozen=True)
class NavierStokes(OneShot):
    """Claims 2 and 5: vorticity at time 0 to vorticity at `time`, in one map.

    Published errors of FNO and F-FNO on such data are of a rollout from ten frames and not comparable. Flows are
    simulated on twice `size`, of which the training grid keeps the lower half of frequencies.
    """

    size: int = 64
    viscosity: float = 1e-3
    time: float = 50.0

    def tasks(self) -> list[Task]:
        w = navier_stokes(self.n_fields(), 2 * self.size, self.viscosity, (self.time,))
        return [self.before_and_after("navier_stokes", w, (self.size, self.size))]


@dataclass(frozen=True)
class Airfoil(OneShot):
    """Free stream and mask to what is around a wing: fields that are not periodic. The guess is that there is no wing.

    "flow" is pressure and velocity, as in the paper (there of a viscous solver): they jump where the body begins.
    "stream" is the stream function, which does not.
    """

    outputs: tuple[str, ...] = ("stream", "flow")
    size: int = 128
    modes: int = 100
    width: int = 24
    n_layer: int = 6
    fno_modes: int = 64
    fno_width: int = 42
    padding: float = 0.125

    def __post_init__(self) -> None:
        super().__post_init__()
        for output in self.outputs:
            if output not in OUTPUTS:
                raise unknown("output", output, OUTPUTS)

    def tasks(self) -> list[Task]:
        shapes = profiles(self.n_fields(), np.random.default_rng(0))
        last = Profiles(*(values[-self.held_out :] for values in shapes))
        found = []
        for output in self.outputs:
            coarse, fine = airfoil_pairs(shapes, self.size, output), airfoil_pairs(last, 2 * self.size, output)
            found.append(self.task(f"airfoil_{output}", coarse, fine))
        return found


def airfoil_pairs(shapes: Profiles, size: int, output: str) -> Pairs:
    """Input, output, and what would be around no wing, 0 inside it."""
    x, y = airfoil_fields(shapes, size, output)
    u, v, z = x[:, :1], x[:, 1:2], places(size)
    still = np.concatenate([0 * u, u, v], 1) if output == "flow" else (z.imag * u - z.real * v).astype(np.float32)
    return Pairs(*(torch.from_numpy(part) for part in (x, y, still)))


@dataclass(frozen=True)
class Waves(OneShot):
    """Beyond the paper, in one dimension: Burgers' equation to time 1, Kuramoto-Sivashinsky over ten units of time."""

    equations: tuple[str, ...] = WAVES
    operators: tuple[str, ...] = ("t1", "t1_fourier", "t1_as_long", "t1_fourier_as_long", "fno", "fno_as_short", "ffno")
    size: int = 256

    def __post_init__(self) -> None:
        super().__post_init__()
        for equation in self.equations:
            if equation not in WAVES:
                raise unknown("equation", equation, WAVES)
        flat = [kind for kind in self.operators if kind.startswith(("t1u", "unet"))]
        if flat:
            raise HyenaError(f"{', '.join(flat)}: for fields of two axes only, leave them out of operators")

    def tasks(self) -> list[Task]:
        found = {name: waves(name, self.n_fields(), 2 * self.size) for name in self.equations}
        return [self.before_and_after(name, w, (self.size,)) for name, w in found.items()]
