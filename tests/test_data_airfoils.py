"""Flow around airfoils: it is one, it leaves the trailing edge smoothly, it lifts without drag, and fields hold it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from hyena.data import airfoils as module
from hyena.data.airfoils import CHORD, STEEPEST, Flow, Profiles, airfoil_fields, places, potential_flow, profiles
from hyena.errors import HyenaError

SHAPES = [(0.08, 0.0, 0.0), (0.15, 0.1, 0.2), (0.2, -0.15, -0.39)]
A_SHAPE = SHAPES[1]
THETA = 2 * np.pi * (np.arange(4000) + 0.5) / 4000


@pytest.fixture
def flow_at(monkeypatch) -> Callable[..., Flow]:
    """The flow at any points of the plane, not only at centres of cells."""

    def flow(points: np.ndarray, shape: tuple[float, float, float]) -> Flow:
        with monkeypatch.context() as patch:
            patch.setattr(module, "places", lambda size: points)
            return potential_flow(*shape, 8)

    return flow


def surface(thickness: float, camber: float, away: float = 1e-9) -> tuple[np.ndarray, np.ndarray]:
    """Points of a contour just outside the body, counter-clockwise, and the step at each to the next."""
    b = CHORD / 4
    mu = b * (-thickness + 1j * camber)
    circle = (1 + away) * abs(b - mu) * np.exp(1j * THETA)
    zeta = mu + circle
    return zeta + b**2 / zeta, 1j * circle * (1 - b**2 / zeta**2) * (THETA[1] - THETA[0])


def around(count: int = 200) -> np.ndarray:
    """Random points of the plane, none in the body."""
    rng = np.random.default_rng(0)
    return rng.uniform(0.3, 0.7, count) * np.exp(1j * rng.uniform(0, 2 * np.pi, count))


@pytest.mark.parametrize("shape", SHAPES)
def test_velocity_is_the_curl_of_the_stream_function(flow_at, shape) -> None:
    points, h = around(), 1e-5
    along_x, along_y = (
        (flow_at(points + step, shape).stream - flow_at(points - step, shape).stream) / (2 * h) for step in (h, 1j * h)
    )
    assert flow_at(points, shape).velocity == pytest.approx(along_y - 1j * along_x, abs=1e-8)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_flow_has_neither_divergence_nor_rotation(flow_at, shape) -> None:
    r"""$\partial_x (u + iv) = (u_x, v_x)$ and $\partial_y (u + iv) = (u_y, v_y)$."""
    points, h = around(), 1e-5
    along_x, along_y = (
        (flow_at(points + step, shape).velocity - flow_at(points - step, shape).velocity) / (2 * h)
        for step in (h, 1j * h)
    )
    assert along_x.real + along_y.imag == pytest.approx(0, abs=1e-6)
    assert along_x.imag - along_y.real == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("shape", SHAPES)
def test_far_away_is_the_free_stream(flow_at, shape) -> None:
    velocity = flow_at(1e6 * around(), shape).velocity
    assert velocity == pytest.approx(np.exp(1j * shape[2]), abs=1e-5)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_body_is_a_streamline(flow_at, shape) -> None:
    z, step = surface(*shape[:2])
    flow = flow_at(z, shape)
    assert flow.outside.all() and flow.stream == pytest.approx(0, abs=1e-8)
    assert (np.conj(flow.velocity) * step).imag / abs(step).mean() == pytest.approx(0, abs=1e-8)


@pytest.mark.parametrize("shape", SHAPES)
def test_inside_the_body_everything_is_zero(flow_at, shape) -> None:
    z, _ = surface(*shape[:2], away=-1e-6)
    flow = flow_at(z[z.real < 0.24], shape)  # the trailing edge is too thin for points inside
    assert not flow.outside.any() and not flow.stream.any() and not flow.velocity.any()


@pytest.mark.parametrize("shape", SHAPES)
def test_the_flow_leaves_the_trailing_edge_smoothly(flow_at, shape) -> None:
    """Without the right circulation the speed would grow as one over the root of the distance: to a thousand here."""
    behind = CHORD / 2 + 1e-6 * np.exp(1j * np.linspace(-1.5, 1.5, 31))
    speed = abs(flow_at(behind, shape).velocity)
    assert speed.min() > 0.5 and speed.max() < 1.2


@pytest.mark.parametrize("shape", SHAPES)
def test_pressure_lifts_as_kutta_and_joukowski_say_and_does_not_drag(flow_at, shape) -> None:
    z, step = surface(*shape[:2])
    velocity = flow_at(z, shape).velocity
    force = 1j * ((1 - abs(velocity) ** 2) / 2 * step).sum()
    circulation = (np.conj(velocity) * step).real.sum()
    assert force == pytest.approx(-1j * circulation * np.exp(1j * shape[2]), abs=1e-5)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_mirrored_airfoil_has_the_mirrored_flow(shape) -> None:
    """Across the chord: one without camber, at angle 0, has a flow that is its own mirror image."""
    flow, mirrored = potential_flow(*shape, 32), potential_flow(shape[0], -shape[1], -shape[2], 32)
    assert (flow.outside[:, ::-1] == mirrored.outside).all()
    assert np.conj(flow.velocity[:, ::-1]) == pytest.approx(mirrored.velocity, abs=1e-12)
    assert -flow.stream[:, ::-1] == pytest.approx(mirrored.stream, abs=1e-12)


def test_a_plate_along_the_stream_leaves_it_as_it_is() -> None:
    flow = potential_flow(0.0, 0.0, 0.0, 32)
    assert flow.outside.all() and flow.velocity == pytest.approx(1)
    assert flow.stream == pytest.approx(places(32).imag)


def test_bodies_are_as_long_and_as_thick_as_said() -> None:
    for thickness, least, most in ((0.08, 0.09, 0.12), (0.2, 0.22, 0.27)):
        body = ~potential_flow(thickness, 0.0, 0.0, 1024).outside
        length, height = body.any(1).sum() / 1024, body.sum(1).max() / 1024
        assert length == pytest.approx(CHORD, rel=0.07) and least < height / length < most


def test_camber_bends_the_body_up() -> None:
    body = ~potential_flow(0.1, 0.15, 0.0, 256).outside
    assert places(256)[body].imag.mean() > 0.02


@pytest.mark.parametrize("angle", [0.2, -0.2])
def test_pressure_is_lower_on_the_side_that_the_stream_leaves(angle: float) -> None:
    shape = Profiles(np.array([0.1]), np.array([0.0]), np.array([angle]))
    (pressure, *_), above = airfoil_fields(shape, 64)[1][0], places(64).imag > 0
    assert np.sign(pressure[~above].mean() - pressure[above].mean()) == np.sign(angle)


def test_the_input_is_the_free_stream_and_the_mask() -> None:
    inputs, _ = airfoil_fields(Profiles(*np.array([A_SHAPE]).T), 32)
    outside = potential_flow(*A_SHAPE, 32).outside
    x, y, mask = inputs[0]
    assert x == pytest.approx(outside * np.cos(A_SHAPE[2])) and y == pytest.approx(outside * np.sin(A_SHAPE[2]))
    assert (mask == ~outside).all() and 0 < mask.mean() < 0.1


def test_pressure_is_bernoullis_outside_and_zero_inside() -> None:
    inputs, outputs = airfoil_fields(profiles(5, np.random.default_rng(0)), 32)
    pressure, u, v = outputs.swapaxes(0, 1)
    inside = inputs[:, 2] == 1
    assert pressure[~inside] == pytest.approx((1 - u[~inside] ** 2 - v[~inside] ** 2) / 2, abs=1e-5)
    assert inside.any((1, 2)).all() and not outputs.swapaxes(0, 1)[:, inside].any()


@pytest.mark.parametrize(("output", "channels"), [("flow", 3), ("stream", 1)])
def test_fields_are_finite_and_in_single_precision(output: str, channels: int) -> None:
    inputs, outputs = airfoil_fields(profiles(5, np.random.default_rng(0)), 24, output)
    assert inputs.shape == (5, 3, 24, 24) and outputs.shape == (5, channels, 24, 24)
    assert inputs.dtype == outputs.dtype == np.float32 and np.isfinite(outputs).all()


def test_the_stream_function_is_that_of_the_flow() -> None:
    _, outputs = airfoil_fields(Profiles(*np.array([A_SHAPE]).T), 16, "stream")
    assert outputs[0, 0] == pytest.approx(potential_flow(*A_SHAPE, 16).stream, abs=1e-6)


def test_profiles_are_fixed_by_the_generator_and_within_their_ranges() -> None:
    first, again, other = (profiles(500, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert np.array_equal(first, again) and not np.isin(first, other).any()
    assert first.thickness.min() >= 0.08 and first.thickness.max() <= 0.2
    assert abs(first.camber).max() <= 0.15 and abs(first.angle).max() <= STEEPEST


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (
            lambda: airfoil_fields(profiles(1, np.random.default_rng(0)), 16, "streem"),
            "'streem': did you mean 'stream'",
        ),
        (lambda: airfoil_fields(profiles(1, np.random.default_rng(0)), 7), "at least 8 cells along a side, got 7"),
        (lambda: profiles(0, np.random.default_rng(0)), "at least one airfoil, got 0"),
    ],
)
def test_a_mistake_is_named(call, said: str) -> None:
    with pytest.raises(HyenaError, match=said):
        call()
