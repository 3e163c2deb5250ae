"""Stiff systems: they solve their equations, and their transitions are where they should be."""

import numpy as np
import pytest
from scipy.integrate import solve_ivp

from hyena.data.stiff import SYSTEMS, fitzhugh_nagumo, flame, rise_time, stiff_series, van_der_pol
from hyena.errors import HyenaError


@pytest.mark.parametrize("name", SYSTEMS)
def test_series_are_fixed_by_the_generator_and_finite(name: str) -> None:
    first, stiffness = stiff_series(name, 3, 40, np.random.default_rng(1))
    again, _ = stiff_series(name, 3, 40, np.random.default_rng(1))
    low, high = SYSTEMS[name][0]
    assert first.shape == (3, 40) and np.isfinite(first).all() and (first == again).all()
    assert ((low <= stiffness) & (stiffness <= high)).all()


def test_the_flame_solves_its_equation() -> None:
    delta, times = 0.01, np.linspace(0, 200, 101)
    solved = solve_ivp(lambda _, y: y**2 - y**3, (0, 200), [delta], "Radau", times, rtol=1e-9, atol=1e-12).y[0]
    assert np.abs(flame(delta, 0.0, 101) - solved).max() < 1e-6


def test_a_stiffer_flame_rises_faster() -> None:
    rise = rise_time(np.stack([flame(delta, 0.0, 4001) for delta in (0.002, 0.02)]))
    assert rise[0] < rise[1] / 5 and rise[1] < 0.15


def test_rise_time_counts_from_a_tenth_to_nine_tenths() -> None:
    ramp = np.linspace(0, 1, 101)
    found = rise_time(np.stack([ramp, 0 * ramp]))
    assert found[0] == pytest.approx(0.8, abs=0.011) and np.isnan(found[1])


@pytest.mark.parametrize(("solve", "stiffness"), [(van_der_pol, 20.0), (fitzhugh_nagumo, 0.02)])
def test_oscillators_show_two_periods_with_sharp_rises(solve, stiffness: float) -> None:
    y = solve(stiffness, 0.25, 801)
    assert y[:400] == pytest.approx(y[400:800], abs=1e-3)
    rises = ((y[:-1] < 0) & (y[1:] >= 0)).sum()
    assert rises == 2
    assert np.abs(np.diff(y)).max() > 30 * np.median(np.abs(np.diff(y)))


def test_the_phase_shifts_an_oscillation() -> None:
    first, later = van_der_pol(10.0, 0.0, 201), van_der_pol(10.0, 0.5, 201)
    assert first[50:101] == pytest.approx(later[:51], abs=0.05)


def test_bad_requests_are_refused() -> None:
    with pytest.raises(HyenaError, match="unknown stiff system 'flam': did you mean 'flame'"):
        stiff_series("flam", 1, 10, np.random.default_rng(0))
    with pytest.raises(HyenaError, match="at least 2 steps"):
        stiff_series("flame", 1, 1, np.random.default_rng(0))
