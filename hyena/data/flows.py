"""Data sets of simulated flows, seeded, made in batches that are kept in the cache."""

from __future__ import annotations

import io
import json
import math
import zipfile
import zlib
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F
from tqdm.auto import tqdm

from hyena.data import fluids
from hyena.errors import HyenaError, unknown
from hyena.paths import cache, write_atomically
from hyena.source import bare, digest

WAVES = ("burgers", "kuramoto_sivashinsky")
BATCH = 20  # planes that fit the processor's cache
CIRCLES = 200  # functions of one variable
SAFE = 0.7  # of the longest step that RK4 can take
Make = Callable[[torch.Generator, int], Tensor]


def navier_stokes(
    count: int, size: int, viscosity: float = 1e-3, times: tuple[float, ...] = (50.0,), seed: int = 0
) -> Float[Tensor, "count records size size"]:
    """Vorticity at time 0 and at `times`, forced, from random fields (Li et al. 2021, Section 5.3).

    In every unit of time the step is the longest that divides it and stays below .05, with which the error of RK4 is
    below that of single precision at 64 x 64 and viscosity 1e-3, and below `SAFE` of what the speed allows.

    Raises:
        HyenaError: times that do not increase from 0.
    """
    if not times or min(np.diff([0, *times])) <= 0:
        raise HyenaError(f"times must increase from 0, got {times}")

    def make(generator: torch.Generator, n: int) -> Tensor:
        found = [fluids.gaussian_field(n, size, generator).float()]
        force = fluids.kolmogorov_force(size, found[0])
        for start, end in pairwise((0.0, *times)):
            w, spans = found[-1], math.ceil(end - start)
            for _ in range(spans):
                span = (end - start) / spans
                steps = math.ceil(span / min(0.05, SAFE * fluids.longest_step(w)) - 1e-9)
                w = fluids.vorticity(w, force, viscosity, span / steps, steps, 1)[0]
            found.append(w)
        return torch.stack(found, 1)

    about = {"viscosity": viscosity, "times": times, "size": size, "scheme": "integrating-factor RK4"}
    return simulated("navier_stokes", about, count, seed, BATCH, make)


def plumes(count: int, size: int, frames: int, seed: int = 0) -> Float[Tensor, "count frames size size"]:
    """Films of smoke that rises from a source at a random place, of random width and strength, into moving air.

    A frame is taken every .4 units of time, in which the smoke rises by about a sixteenth of the side. Simulated on
    twice `size` points a side, of which every four are averaged.
    """

    def make(generator: torch.Generator, n: int) -> Tensor:
        x = (torch.arange(2 * size) + 0.5) / (2 * size)
        place, width, strength = torch.rand(3, n, 1, 1, generator=generator)
        across = (x[:, None] - 0.3 - 0.4 * place) / (0.05 + 0.03 * width)
        source = (3 + 3 * strength) * torch.exp(-(across**2) - ((x - 0.17) / 0.05) ** 2)
        air = 2 * fluids.gaussian_field(n, 2 * size, generator).float()
        steps = max(20, math.ceil(20 * size / 48))
        return F.avg_pool2d(fluids.smoke(source, air, 0.5, 3e-4, 0.4 / steps, steps, frames).transpose(0, 1), 2)

    return simulated("plumes", {"frames": frames, "size": size}, count, seed, BATCH, make)


def waves(name: str, count: int, size: int, seed: int = 0) -> Float[Tensor, "count 2 size"]:
    """Functions on a circle, before and after: "burgers" (viscosity .01, to time 1) or "kuramoto_sivashinsky".

    The latter on a circle of 32, from time 50, where the chaos has set in, to 60.

    Raises:
        HyenaError: another equation.
    """
    if name not in WAVES:
        raise unknown("equation", name, WAVES)

    def make(generator: torch.Generator, n: int) -> Tensor:
        u = fluids.gaussian_field_1d(n, size, generator)
        if name == "burgers":
            return torch.stack([u, fluids.burgers(u, 0.01, 1e-3, 1000, 1)[0]], 1).float()
        start, end = fluids.kuramoto_sivashinsky(u, 32.0, 0.02, 500, 6)[4:]
        return torch.stack([start, end], 1).float()

    return simulated(name, {"size": size}, count, seed, CIRCLES, make)


def simulated(name: str, about: dict[str, object], count: int, seed: int, batch: int, make: Make) -> Tensor:
    """`count` samples, in batches from generators of their own; what was made before, even in part, is read again.

    A longer set begins with a shorter one of the same seed. What is kept belongs to these settings and to the code of
    the solvers; change either and it is made anew, in another folder.
    """
    settings = {"name": name, **about, "seed": seed, "batch": batch}
    code = "".join(bare(Path(module).read_text()) for module in (__file__, fluids.__file__))
    folder = cache() / "simulated" / f"{name}-{digest(json.dumps(settings, sort_keys=True) + code)}"
    if count < 1:
        raise HyenaError(f"at least one sample, got {count}")
    batches = []
    for i in tqdm(range(-(-count // batch)), desc=f"simulate {name}", unit="batch", leave=False, disable=None):
        path = folder / f"{i:04d}.npz"
        found = _read(path, batch)
        if found is None:
            generator = torch.Generator().manual_seed(int(np.random.SeedSequence((seed, i)).generate_state(1)[0]))
            found = make(generator, batch)
            fluids.check_finite(found)
            out = io.BytesIO()
            np.savez_compressed(out, fields=found.numpy(), about=json.dumps(settings, sort_keys=True))
            write_atomically(path, out.getvalue())
        batches.append(found)
    return torch.cat(batches)[:count]


def _read(path: Path, batch: int) -> Tensor | None:
    """What lies there; nothing if it is missing or damaged."""
    try:
        with np.load(path) as stored:
            found = torch.from_numpy(stored["fields"])
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error):
        return None
    return found if len(found) == batch else None
