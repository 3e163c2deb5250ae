"""Stiff systems: series that rest and then jump, whose sharp transitions are known."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from jaxtyping import Float
from scipy.integrate import solve_ivp
from scipy.special import wrightomega

from hyena.errors import HyenaError, unknown


def stiff_series(
    name: str, count: int, length: int, rng: np.random.Generator
) -> tuple[Float[np.ndarray, "count length"], Float[np.ndarray, " count"]]:
    r"""Series sampled at `length` even steps of their own time, and the stiffness of each.

    * `flame`: $y' = y^2 - y^3$ from $\delta$ over $2 / \delta$, exact; $\delta$ log-uniform from .002 to .02. A ball of
      flame grows slowly, then within a hundredth to an eighth of the time to nearly its full size.
    * `van_der_pol`: $y'' = \mu (1 - y^2) y' - y$ over two periods from a random phase; $\mu$ log-uniform from 5 to 50.
    * `fitzhugh_nagumo`: $\epsilon v' = v - v^3/3 - w + I$, $w' = v + .7 - .8 w$ with $I = .5$, over two periods from a
      random phase; $\epsilon$ log-uniform from .01 to .08.

    Raises:
        HyenaError: another name, or a length below 2.
    """
    if name not in SYSTEMS:
        raise unknown("stiff system", name, SYSTEMS)
    if length < 2:
        raise HyenaError(f"a series takes at least 2 steps, got {length}")
    (low, high), solve = SYSTEMS[name]
    stiffness = np.exp(rng.uniform(np.log(low), np.log(high), count))
    phases = rng.uniform(0, 1, count)
    return np.stack([solve(s, p, length) for s, p in zip(stiffness, phases, strict=True)]), stiffness


def flame(delta: float, _: float, length: int) -> Float[np.ndarray, " length"]:
    r"""$y(t) = 1 / (1 + W(a e^{a - t}))$, $a = 1/\delta - 1$, with Lambert's W by the Wright omega function."""
    a, t = 1 / delta - 1, np.linspace(0, 2 / delta, length)
    return 1 / (1 + wrightomega(np.log(a) + a - t).real)


def van_der_pol(mu: float, phase: float, length: int) -> Float[np.ndarray, " length"]:
    """A relaxation oscillator."""
    return _oscillation(lambda _, y: [y[1], mu * (1 - y[0] ** 2) * y[1] - y[0]], [2.0, 0.0], phase, length)


def fitzhugh_nagumo(epsilon: float, phase: float, length: int) -> Float[np.ndarray, " length"]:
    """A nerve that fires."""
    slope = lambda _, y: [(y[0] - y[0] ** 3 / 3 - y[1] + 0.5) / epsilon, y[0] + 0.7 - 0.8 * y[1]]  # noqa: E731
    return _oscillation(slope, [1.5, 0.0], phase, length)


def _oscillation(
    slope: Callable[[float, np.ndarray], list[float]], start: list[float], phase: float, length: int
) -> Float[np.ndarray, " length"]:
    """The first variable over two periods from a phase of its cycle, which lies between the second and third rise."""
    rising = lambda _, y: y[0]  # noqa: E731
    rising.direction, rising.terminal = 1, 3
    found = solve_ivp(slope, (0, 1e4), start, "LSODA", events=rising, dense_output=True, rtol=1e-6, atol=1e-9)
    _, first, second = found.t_events[0]
    turns = phase + np.linspace(0, 2, length)
    return found.sol(first + turns % 1 * (second - first))[0]


SYSTEMS: dict[str, tuple[tuple[float, float], Callable[[float, float, int], np.ndarray]]] = {
    "flame": ((0.002, 0.02), flame),
    "van_der_pol": ((5.0, 50.0), van_der_pol),
    "fitzhugh_nagumo": ((0.01, 0.08), fitzhugh_nagumo),
}


def rise_time(y: Float[np.ndarray, "count length"]) -> Float[np.ndarray, " count"]:
    """Of series that grow from 0 to 1: the share of the time between their first values above .1 and above .9.

    Not a number where a series never gets there.
    """
    first = [np.where((y > level).any(1), (y > level).argmax(1), np.nan) for level in (0.1, 0.9)]
    return (first[1] - first[0]) / (y.shape[1] - 1)
