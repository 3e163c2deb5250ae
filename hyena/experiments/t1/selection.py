"""How many coefficients to keep: what cutting alone costs, and what a network makes of it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from hyena.data.airfoils import OUTPUTS, airfoil_fields, profiles
from hyena.data.flows import navier_stokes, plumes
from hyena.data.fluids import resampled
from hyena.errors import HyenaError
from hyena.experiments.t1.networks import kept
from hyena.experiments.t1.oneshot import OneShot
from hyena.models.t1 import smallest_modes, truncation_floor
from hyena.ops.dct import BASES
from hyena.results import Result, Row
from hyena.train import Run


@dataclass(frozen=True)
class ModeSelection(OneShot):
    """Claim 4: the error that is left when only m coefficients per axis are kept, by field and basis (`floors`).

    Fields are `held_out` vorticities at each of `times`, a quarter of the last ones cut out as a window that is not
    periodic, stream function and flow around wings, and smoke; of Fourier an odd number is kept, one less than an even
    m. `smallest` is the fewest whose floor is at most `tolerance`. `trained` has the test error of "t1" and
    "t1_fourier" of each of `keep`, from time 0 to the first of `times`, beside the mean field and the input itself.
    """

    operators: tuple[str, ...] = ("t1", "t1_fourier")
    times: tuple[float, ...] = (5.0, 10.0, 20.0, 50.0)
    size: int = 64
    keep: tuple[int, ...] = (8, 12, 16, 24, 32)
    tolerance: float = 0.01
    wings: int = 100
    films: int = 20

    def __post_init__(self) -> None:
        super().__post_init__()
        if max(self.keep) > self.size:
            raise HyenaError(f"keep takes at most as many modes as samples, {self.size}; got {self.keep}")

    def run(self, run: Run) -> Result:
        metrics: dict[str, list[float]] = {}
        tables: dict[str, list[Row]] = {"floors": [], "smallest": [], "trained": [], "curves": [], "sweep": []}
        for name, y in self._fields().items():
            fewest = {basis: smallest_modes(y, self.tolerance, basis) for basis in BASES}
            metrics |= {f"smallest_{name}_{basis}": [float(m)] for basis, m in fewest.items()}
            metrics[f"smallest_ratio_{name}"] = [fewest["dct"] / fewest["fourier"]]
            for basis in BASES:
                tables["smallest"].append({"field": name, "basis": basis, "modes": fewest[basis]})
                for m in (kept(basis, m) for m in self.keep):
                    floor = truncation_floor(y, (m, m), basis)
                    tables["floors"].append({"field": name, "basis": basis, "modes": m, "floor": floor})
                    metrics[f"floor_{name}_{basis}_{m}"] = [floor]
        w = navier_stokes(self.n_fields(), 2 * self.size, times=self.times[:1])
        for m in self.keep:
            task = self.before_and_after(f"kept_{m}", w, (self.size, self.size))
            found = replace(self, modes=m).compared(task, run)
            for kind in (*self.operators, "mean_field", "guess"):
                metrics[f"trained_{kind}_{m}"] = found.per_seed[f"kept_{m}_{kind}"]
                error = found.metrics[f"kept_{m}_{kind}"]
                tables["trained"].append({"operator": kind, "modes": m, "error": error})
            tables |= {key: tables[key] + found.tables[key] for key in ("curves", "sweep")}
        return Result(metrics, tables=tables)

    def _fields(self) -> dict[str, Tensor]:
        fine = navier_stokes(self.held_out, 2 * self.size, times=self.times, seed=1)
        w = resampled(fine.double(), (self.size, self.size)).float()
        found = {f"vorticity_{t:g}": w[:, i : i + 1] for i, t in enumerate(self.times, start=1)}
        found["window"] = fine[:, -1:, : self.size, : self.size]
        shapes = profiles(self.wings, np.random.default_rng(0))
        for output in OUTPUTS:
            found[f"airfoil_{output}"] = torch.from_numpy(airfoil_fields(shapes, self.size, output)[1])
        found["smoke"] = plumes(self.films, self.size, 16)[:, -1:]
        return found
