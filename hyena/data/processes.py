"""Autoregressive processes whose best prediction is known."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from hyena.errors import unknown

BURN_IN = 200  # steps before a stationary process is shown


def _from_roots(*roots: complex) -> tuple[float, ...]:
    """Weights, latest value first, of the process with these characteristic roots and their conjugates."""
    pairs = [root for z in roots for root in ((z, z.conjugate()) if z.imag else (z,))]
    return tuple(-np.poly(pairs).real[1:])


PROCESSES: dict[str, tuple[float, ...]] = {
    "distinct_roots": _from_roots(0.95 * np.exp(0.3j), 0.8 * np.exp(2j)),
    "pure_lag": (*([0.0] * 11), 0.9),
    "seasonal_unit_root": (*([0.0] * 11), 1.0),
    "random_walk": (1.0,),
}


def autoregressive(
    name: str, count: int, length: int, rng: np.random.Generator
) -> tuple[Float[np.ndarray, "count length"], Float[np.ndarray, " order"]]:
    r"""Series of $y_t = \sum_i \phi_i y_{t-i} + \varepsilon_t$ with unit noise, and $\phi$, latest value first.

    * `distinct_roots`: order 4, two pairs of roots inside the unit circle.
    * `pure_lag`: $y_t = 0.9\, y_{t-12} + \varepsilon_t$.
    * `seasonal_unit_root`: $y_t = y_{t-12} + \varepsilon_t$, twelve interleaved random walks that start at 0.
    * `random_walk`: $y_t = y_{t-1} + \varepsilon_t$, from 0.

    Raises:
        HyenaError: another name.
    """
    if name not in PROCESSES:
        raise unknown("process", name, PROCESSES)
    phi = np.array(PROCESSES[name])
    order, extra = len(phi), BURN_IN if abs(phi.sum()) < 1 else 0
    noise = rng.standard_normal((count, extra + length))
    y = np.zeros((count, order + extra + length))
    for t in range(extra + length):
        y[:, order + t] = y[:, t : order + t][:, ::-1] @ phi + noise[:, t]
    return y[:, order + extra :], phi


def best_predictions(
    y: Float[np.ndarray, "count length"], phi: Float[np.ndarray, " order"]
) -> Float[np.ndarray, "count steps"]:
    """For every step from the order on, what its past says of it: no predictor has a smaller expected error."""
    past = np.lib.stride_tricks.sliding_window_view(y, len(phi), axis=1)[:, :-1, ::-1]
    return past @ phi
