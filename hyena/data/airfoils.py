r"""The exact flow around Joukowski airfoils: fields that are not periodic, around a body.

Laid out as in Deep Flow Prediction (Thuerey et al. 2020, arXiv 1810.08217), whose fields come from a viscous solver:
the input is the free stream outside the body and the body's mask, the output pressure and velocity, 0 inside; or the
stream function, whose curl the velocity is, and which is 0 on the body and inside, and continuous.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Complex, Float

from hyena.errors import HyenaError, unknown

CHORD = 0.5  # of the side of the window
STEEPEST = np.pi / 8  # angle of attack, either way


class Profiles(NamedTuple):
    """Circles in the plane that Joukowski's map turns into airfoils, and the angle of the free stream."""

    thickness: Float[np.ndarray, " count"]  # how far the centre stands left of the origin, in units of b
    camber: Float[np.ndarray, " count"]  # and above it
    angle: Float[np.ndarray, " count"]  # in radians


class Flow(NamedTuple):
    """What is known at the centre of every cell; 0 inside the body."""

    outside: Bool[np.ndarray, "size size"]
    velocity: Complex[np.ndarray, "size size"]  # u + iv
    stream: Float[np.ndarray, "size size"]


OUTPUTS: dict[str, Callable[[Flow], list[np.ndarray]]] = {
    "stream": lambda flow: [flow.stream],
    "flow": lambda flow: [(1 - abs(flow.velocity) ** 2) / 2 * flow.outside, flow.velocity.real, flow.velocity.imag],
}


def profiles(count: int, rng: np.random.Generator) -> Profiles:
    """Random airfoils, about 10 to 25 % thick, curved either way."""
    if count < 1:
        raise HyenaError(f"at least one airfoil, got {count}")
    draw = lambda low, high: rng.uniform(low, high, count)  # noqa: E731
    return Profiles(draw(0.08, 0.2), draw(-0.15, 0.15), draw(-STEEPEST, STEEPEST))


def airfoil_fields(
    shapes: Profiles, size: int, output: str = "flow"
) -> tuple[Float[np.ndarray, "count 3 size size"], Float[np.ndarray, "count channels size size"]]:
    """Input (free stream x, y; mask) and output: "flow" (pressure, velocity x, y) or "stream"; axes x, y.

    In units of the free stream, its density and the side of the window.

    Raises:
        HyenaError: another output, or a window of less than 8 cells along a side.
    """
    if output not in OUTPUTS:
        raise unknown("output", output, OUTPUTS)
    inputs, outputs = [], []
    for thickness, camber, angle in zip(*shapes, strict=True):
        flow = potential_flow(thickness, camber, angle, size)
        inputs.append([flow.outside * np.cos(angle), flow.outside * np.sin(angle), 1.0 - flow.outside])
        outputs.append(OUTPUTS[output](flow))
    return np.array(inputs, np.float32), np.array(outputs, np.float32)


def potential_flow(thickness: float, camber: float, angle: float, size: int) -> Flow:
    r"""Potential flow with the circulation that leaves the trailing edge smoothly (Kutta).

    With $z = \zeta + b^2 / \zeta$, a circle around $\mu$ through $\zeta = b$ of radius R, $s = \zeta - \mu$ and
    $\sin \beta = \mathrm{Im}\,\mu / R$, the potential is
    $F = e^{-i\alpha} s + e^{i\alpha} R^2 / s + 2 i R \sin(\alpha + \beta) \log(s / R)$, the conjugate velocity
    $F'(\zeta) / (1 - b^2/\zeta^2)$ and the stream function $\mathrm{Im}\,F$.
    """
    b = CHORD / 4
    mu = b * (-thickness + 1j * camber)
    radius = abs(b - mu)
    half = places(size) / 2
    root = np.sqrt(half - b) * np.sqrt(half + b)
    zeta = np.where(abs(half + root - mu) >= abs(half - root - mu), half + root, half - root)
    outside = abs(zeta - mu) > radius
    zeta = np.where(outside, zeta, 2.0)  # anything finite
    s, tilt, swirl = zeta - mu, np.exp(-1j * angle), 2j * radius * np.sin(angle + np.arcsin(mu.imag / radius))
    potential = tilt * s + radius**2 / (tilt * s) + swirl * np.log(s / radius)
    conjugate = (tilt - radius**2 / (tilt * s**2) + swirl / s) / (1 - b**2 / zeta**2)
    return Flow(outside, np.where(outside, np.conj(conjugate), 0), np.where(outside, potential.imag, 0))


def places(size: int) -> Complex[np.ndarray, "size size"]:
    """Centres of the cells of a window of side 1 around the origin, x along the first axis."""
    if size < 8:
        raise HyenaError(f"a window takes at least 8 cells along a side, got {size}")
    x = (np.arange(size) + 0.5) / size - 0.5
    return x[:, None] + 1j * x
