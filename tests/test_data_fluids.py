"""Simulated flows: the official data's solver, exact solutions, budgets, convergence, and what each solver refuses."""

from __future__ import annotations

import math
import re
from functools import partial
from itertools import pairwise

import numpy as np
import pytest
import torch
from closeness import close
from conftest import REFERENCE
from torch import Tensor

from hyena.data.fluids import (
    burgers,
    gaussian_field,
    gaussian_field_1d,
    gaussian_spectrum,
    kolmogorov_force,
    kuramoto_sivashinsky,
    resampled,
    smoke,
    vorticity,
)
from hyena.errors import HyenaError

TURN = 2 * math.pi


def places(size: int) -> Tensor:
    """Centres of cells, in double precision."""
    return (torch.arange(size, dtype=torch.float64) + 0.5) / size


def fields(size: int, count: int = 1, seed: int = 0, amplitude: float = 5.0) -> Tensor:
    return amplitude * gaussian_field(count, size, torch.Generator().manual_seed(seed))


def smooth(size: int, count: int = 1, seed: int = 0) -> Tensor:
    """Fields without a wavenumber above 5, the same ones on every grid."""
    return resampled(fields(12, count, seed), (size, size))


def calm(size: int) -> Tensor:
    return torch.zeros(size, size, dtype=torch.float64)


def eigenfunction(size: int, amplitude: float = 5.0) -> Tensor:
    r"""Vorticity of $|k|^2 = 5 (2\pi)^2$ in two directions: it does not advect itself."""
    x = TURN * places(size)
    found = torch.outer(torch.sin(2 * x), torch.cos(x)) + torch.outer(torch.sin(x), torch.cos(2 * x))
    return amplitude * found[None]


def budget(w: Tensor) -> tuple[float, float, float]:
    """Energy, enstrophy and palinstrophy of one field."""
    power = torch.fft.fft2(w[0]).abs() ** 2 / w[0].numel() ** 2
    k = TURN * torch.fft.fftfreq(w.shape[-1], 1 / w.shape[-1], dtype=torch.float64)
    square = k[:, None] ** 2 + k**2
    inverse = 1 / square.clamp_min(1)
    return tuple(float((power * weight).sum() / 2) for weight in (inverse, torch.ones_like(square), square))


def source(size: int, middle: float = 0.5) -> Tensor:
    x = places(size)
    return 4 * torch.exp(-(((x[:, None] - middle) / 0.07) ** 2) - ((x - 0.17) / 0.05) ** 2)[None]


plume = partial(smoke, buoyancy=0.5, viscosity=3e-4, dt=0.02, every=20)


def test_initial_fields_are_the_official_ones(reference) -> None:
    stored, _ = reference("ns_grf")
    spectrum = gaussian_spectrum(32)
    torch.testing.assert_close(spectrum, stored["sqrt_eig"].double(), rtol=1e-6, atol=0)
    with np.load(REFERENCE / "ns_grf.npz") as official:
        coefficients = torch.from_numpy(official["coeff_seed0"])
    close(torch.fft.ifft2(spectrum * coefficients).real.float(), stored["sample_seed0"], 1e-6)


def test_vorticity_is_that_of_the_official_solver(reference) -> None:
    """Theirs is of first order in time, with steps of a thousandth."""
    stored, _ = reference("ns_solver_32")
    force = kolmogorov_force(32, stored["w0"], offset=0.0)
    assert torch.equal(force, stored["f"])
    found = vorticity(stored["w0"].double(), force.double(), float(stored["visc"]), 0.01, 20, 5)
    close(found.float(), stored["sol"].permute(3, 0, 1, 2), 1e-4)


def test_vorticity_is_of_fourth_order_in_time() -> None:
    w, force = fields(32, 2), kolmogorov_force(32, calm(32))

    def end(steps: int) -> Tensor:
        return vorticity(w, force, 1e-3, 0.5 / steps, steps, 1)[0]

    exact = end(640)
    errors = [float((end(steps) - exact).abs().max()) for steps in (20, 40, 80)]
    assert errors[-1] > 1e-10
    assert min(math.log2(coarse / fine) for coarse, fine in pairwise(errors)) > 3.8


def test_an_eigenfunction_of_the_laplacian_decays_exactly_in_double_precision() -> None:
    w = eigenfunction(32)
    found = vorticity(w, calm(32), 1e-2, 0.01, 10, 3)
    for record, time in zip(found, (0.1, 0.2, 0.3), strict=True):
        close(record, w * math.exp(-1e-2 * 5 * TURN**2 * time), 1e-12)


def test_advection_conserves_energy_and_enstrophy() -> None:
    w = smooth(32)
    found = vorticity(w, calm(32), 1e-12, 0.005, 100, 1)[0]
    assert (found - w).abs().max() > 0.3 * w.abs().max()
    assert budget(found)[:2] == pytest.approx(budget(w)[:2], rel=1e-6)


def test_viscosity_takes_enstrophy_at_twice_the_palinstrophy() -> None:
    before, now, after = (budget(w) for w in vorticity(smooth(32), calm(32), 1e-2, 1e-3, 1, 3))
    assert (after[1] - before[1]) / 2e-3 == pytest.approx(-2 * 1e-2 * now[2], rel=1e-3)


def test_the_mean_vorticity_stays() -> None:
    means = torch.tensor([0.0, 0.7], dtype=torch.float64)
    w = fields(32, 2) + means[:, None, None]
    close(vorticity(w, kolmogorov_force(32, w), 1e-3, 0.01, 50, 2).mean((-2, -1)), means.expand(2, 2))


def test_a_field_does_not_see_the_rest_of_its_batch() -> None:
    w = fields(32, 3)
    force = kolmogorov_force(32, w)
    close(vorticity(w, force, 1e-3, 0.01, 50, 2)[:, 1:2], vorticity(w[1:2], force, 1e-3, 0.01, 50, 2))


def test_records_are_where_one_long_run_passes() -> None:
    w, force = fields(32), kolmogorov_force(32, calm(32))
    first, second = vorticity(w, force, 1e-3, 0.01, 10, 2)
    close(vorticity(first, force, 1e-3, 0.01, 10, 1)[0], second)


@pytest.mark.parametrize("finer", [48, 64, 33])
def test_a_finer_grid_gives_the_same_solution(finer: int) -> None:
    coarse, fine = (
        vorticity(smooth(size), kolmogorov_force(size, calm(size)), 1e-2, 0.01, 50, 1)[0] for size in (32, finer)
    )
    close(resampled(fine, (32, 32)), coarse, 1e-7)


@pytest.mark.parametrize("precision", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [30, 48])
def test_the_highest_wave_kept_does_not_feed_itself_by_aliasing(size: int, precision: torch.dtype) -> None:
    """The square of wave N/3 is wave 2N/3, which a grid of N samples takes for wave N/3 again."""
    u = torch.cos(TURN * size / 3 * places(size)).to(precision)[None]
    close(burgers(u, 1e-9, 1e-3, 1, 1)[0], u, 1e-5)


def test_the_force_is_one_function_on_every_grid() -> None:
    x = TURN * (places(20)[:, None] + places(20))
    close(kolmogorov_force(20, x), 0.1 * (torch.sin(x) + torch.cos(x)), 1e-6)
    close(resampled(kolmogorov_force(20, x), (33, 33)), kolmogorov_force(33, x), 1e-6)


def test_random_fields_have_the_variance_of_their_covariance() -> None:
    k = np.r_[0:8, -8:0] * TURN
    power = 7.0**3 * (k[:, None] ** 2 + k**2 + 49) ** -2.5
    power[0, 0] = 0
    assert float(fields(16, 2000, amplitude=1.0).var()) == pytest.approx(power.sum(), rel=0.05)


def test_random_functions_have_the_variance_of_their_covariance() -> None:
    k = np.arange(1, 32) * TURN
    found = gaussian_field_1d(4000, 64, torch.Generator().manual_seed(0))
    assert float(found.var()) == pytest.approx(2 * (625 * (k**2 + 25) ** -2).sum(), rel=0.05)


def waves(x: Tensor) -> Tensor:
    """A function without a wavenumber above 3."""
    return 1 + sum(torch.cos(TURN * k * x + k) / k for k in (1, 2, 3))


@pytest.mark.parametrize(("old", "new"), [(8, 12), (12, 8), (9, 16), (16, 9), (7, 13), (13, 7), (7, 8)])
def test_resampling_is_exact_for_what_both_grids_resolve(old: int, new: int) -> None:
    close(resampled(waves(places(old)), (new,)), waves(places(new)))


def test_every_axis_is_resampled_to_its_own_size() -> None:
    close(
        resampled(torch.outer(waves(places(8)), waves(places(11)))[None], (15, 10)),
        torch.outer(waves(places(15)), waves(places(10)))[None],
    )


def test_nothing_is_lost_on_a_finer_grid_and_back() -> None:
    x = torch.randn(2, 15, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    close(resampled(resampled(x, (32, 17)), (15, 9)), x)


def test_the_alternating_mode_is_left_out() -> None:
    alternating = torch.tensor([1.0, -1.0] * 4, dtype=torch.float64)
    assert resampled(1 + alternating, (16,)) == pytest.approx(1)
    assert resampled(1 + torch.sin(4 * TURN * places(16)), (8,)) == pytest.approx(1)


def test_burgers_follows_the_cole_hopf_solution() -> None:
    r"""$u = -2 \nu \varphi_x / \varphi$, where $\varphi$ spreads as heat does."""
    viscosity, x, k = 0.05, places(64), TURN * torch.arange(33)
    heat = torch.fft.rfft(torch.exp(torch.cos(TURN * x) / (4 * math.pi * viscosity)))
    found = burgers(torch.sin(TURN * x)[None], viscosity, 1e-3, 100, 3)[:, 0]
    for u, time in zip(found, (0.1, 0.2, 0.3), strict=True):
        spread = heat * torch.exp(-viscosity * k**2 * time)
        close(u, -2 * viscosity * torch.fft.irfft(1j * k * spread) / torch.fft.irfft(spread), 1e-6)


@pytest.mark.parametrize("solve", [partial(burgers, viscosity=0.01), partial(kuramoto_sivashinsky, length=32.0)])
def test_the_mean_of_a_wave_stays(solve) -> None:
    u = gaussian_field_1d(2, 64, torch.Generator().manual_seed(0)) + 0.3
    assert solve(u, dt=1e-3, every=100, records=2).mean(-1) == pytest.approx(0.3, abs=1e-12)


@pytest.mark.parametrize("mode", [2, 4, 7])
def test_small_waves_of_kuramoto_sivashinsky_grow_at_their_rate(mode: int) -> None:
    k = TURN * mode / 32
    u = 1e-6 * torch.cos(TURN * mode * places(64))[None]
    close(kuramoto_sivashinsky(u, 32.0, 0.02, 100, 1)[0], u * math.exp(2 * (k**2 - k**4)), 1e-5)


def test_no_smoke_without_fire() -> None:
    assert (plume(calm(32)[None], fields(32), records=2) == 0).all()


def test_in_still_air_smoke_thickens_until_it_fills_the_air() -> None:
    """Half way up, where the sponge does not reach."""
    found = smoke(calm(64)[None] + 1.5, calm(64)[None], 0.5, 1e-9, 0.01, 20, 3)[:, 0, :, 32]
    for record, time in zip(found, (0.2, 0.4, 0.6), strict=True):
        assert record == pytest.approx(1 - math.exp(-1.5 * time), abs=1e-4)


def test_smoke_is_a_density() -> None:
    found = plume(source(48).expand(3, -1, -1), fields(48, 3, amplitude=2.0), records=10)
    assert found.min() > -0.1 and 0.5 < found.max() < 1.1


def test_smoke_rises_along_the_second_axis() -> None:
    found = plume(source(32), calm(32)[None], records=8)[:, 0].sum(1)
    middle = (found * places(32)).sum(1) / found.sum(1)
    assert (middle.diff() > 0).all() and middle[-1] - middle[0] > 0.2


def test_no_smoke_comes_back_from_below() -> None:
    """On a periodic grid what leaves at the top would enter at the bottom."""
    found = plume(source(32), calm(32)[None], records=20)[:, 0].amax(1)
    assert found[-1, 24:28].min() > 0.3 and found[..., [0, -1]].max() < 0.1


def test_a_plume_in_still_air_is_its_own_mirror_image() -> None:
    found = plume(source(32), calm(32)[None], records=8)
    close(found.flip(2), found, 1e-9)


def test_a_plume_does_not_see_the_rest_of_its_batch() -> None:
    sources = torch.cat([source(32, middle) for middle in (0.4, 0.5, 0.6)])
    air = fields(32, 3, amplitude=2.0)
    close(plume(sources, air, records=2)[:, 1:2], plume(sources[1:2], air[1:2], records=2))


def spoilt(*shape: int) -> Tensor:
    """Not a number in the last field, at 3 along its last axis."""
    x = torch.zeros(*shape, dtype=torch.float64)
    x[-1].view(-1)[3] = math.nan
    return x


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: vorticity(torch.zeros(1, 16, 8), torch.zeros(16, 8), 1e-3, 0.01, 1, 1), r"square .* got \(1, 16, 8\)"),
        (lambda: vorticity(fields(16), calm(8), 1e-3, 0.01, 1, 1), r"one size, got \(1, 16, 16\) and \(8, 8\)"),
        (lambda: vorticity(calm(16), calm(16), 1e-3, 0.01, 1, 1), r"\(batch, size, size\), .* got \(16, 16\) and"),
        (lambda: vorticity(spoilt(2, 16, 16), calm(16), 1e-3, 0.01, 1, 1), r"1 values .* first at \(1, 0, 3\)"),
        (lambda: vorticity(fields(16), spoilt(1, 16, 16)[0], 1e-3, 0.01, 1, 1), r"1 values .* first at \(0, 3\)"),
        (lambda: vorticity(fields(16), calm(16), 0.0, 0.01, 1, 1), "viscosity .* above 0, got 0.0"),
        (lambda: vorticity(fields(16), calm(16), math.nan, 0.01, 1, 1), "viscosity .* above 0, got nan"),
        (lambda: vorticity(fields(16), calm(16), 1e-3, -0.01, 1, 1), "dt must be above 0, got 0.001 and -0.01"),
        (lambda: vorticity(fields(16), calm(16), 1e-3, 0.01, 0, 1), "at least 1, got 0 and 1"),
        (lambda: vorticity(fields(16), calm(16), 1e-3, 0.01, 1, 0), "at least 1, got 1 and 0"),
        (
            lambda: smoke(calm(8)[None], fields(16), 0.5, 1e-3, 0.01, 1, 1),
            r"one size, got \(1, 16, 16\) and \(1, 8, 8\)",
        ),
        (lambda: plume(spoilt(2, 16, 16), fields(16, 2), records=1), r"1 values .* first at \(1, 0, 3\)"),
        (lambda: plume(source(16), spoilt(1, 16, 16), records=1), r"1 values .* first at \(0, 0, 3\)"),
        (lambda: smoke(source(16), fields(16), 0.5, -1e-3, 0.01, 1, 1), "viscosity .* above 0, got -0.001"),
        (lambda: smoke(source(16), fields(16), 0.5, 1e-3, 0.0, 1, 1), "dt must be above 0, got 0.001 and 0.0"),
        (lambda: smoke(source(16), fields(16), 0.5, 1e-3, 10.0, 1, 1), "dt = 10 breaks the Courant condition"),
        (lambda: burgers(spoilt(2, 16), 0.01, 0.01, 1, 1), r"1 values .* first at \(1, 3\)"),
        (lambda: kuramoto_sivashinsky(spoilt(2, 16), 32.0, 0.01, 1, 1), r"1 values .* first at \(1, 3\)"),
        (lambda: burgers(eigenfunction(64)[0], 1e-3, 1.0, 200, 1), "blown up: dt = 1 is too long .* shorter step"),
        (lambda: kuramoto_sivashinsky(eigenfunction(64, 99)[0], 32.0, 2.0, 200, 1), "blown up: dt = 2 is too long"),
    ],
)
def test_what_no_solver_can_start_from_is_refused(unchecked, call, said: str) -> None:
    with pytest.raises(HyenaError, match=said):
        call()


def named_step(w: Tensor) -> float:
    """What the refusal of a step that is far too long names."""
    with pytest.raises(HyenaError, match=r"Courant condition .* take at most") as refusal:
        vorticity(w, calm(32), 1e-3, 50.0, 1, 1)
    return float(re.search(r"at most (\S+)$", str(refusal.value))[1])


@pytest.mark.parametrize("amplitude", [1.0, 2.0, 3.0, 5.0, 8.0])
def test_the_longest_step_that_a_refusal_names_is_accepted(amplitude: float) -> None:
    w = eigenfunction(32, amplitude)
    longest = named_step(w)
    assert torch.isfinite(vorticity(w, calm(32), 1e-3, longest, 1, 1)).all()
    with pytest.raises(HyenaError, match="Courant"):
        vorticity(w, calm(32), 1e-3, 1.2 * longest, 1, 1)


def test_a_step_within_the_limit_does_not_feed_the_smallest_waves() -> None:
    w = eigenfunction(32) + fields(32, amplitude=0.01)
    found = vorticity(w, calm(32), 1e-9, 0.9 * named_step(w), 100, 1)[0]
    assert budget(found)[1] == pytest.approx(budget(w)[1], rel=1e-4)


def test_a_flow_that_outgrows_its_step_is_refused() -> None:
    with pytest.raises(HyenaError, match=r"dt = 0\.1 breaks the Courant condition"):
        vorticity(calm(16)[None], 1e3 * kolmogorov_force(16, calm(16)), 1e-3, 0.1, 10, 3)
