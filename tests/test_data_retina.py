"""The simulated retina: equations beside plain loops, nothing from the future, and the numbers it was tuned to."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from registries import fetched

from hyena.data.recordings import the_retina
from hyena.data.retina import (
    DT,
    LAYERS,
    TYPES,
    Circuit,
    Retina,
    binned,
    blur,
    calibrated,
    delayed,
    depressed,
    ganglion_drives,
    interneurons,
    low_pass,
    spike_trains,
    terminals,
    weights,
)
from hyena.data.retina_stimuli import (
    contrast_steps,
    flashes,
    step,
    white_noise,
)
from hyena.errors import HyenaError


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(1).standard_normal(shape).astype(np.float32)


@pytest.fixture(scope="module")
def small() -> Retina:
    """Calibrated by white noise alone, so that no photograph is needed."""
    return calibrated([white_noise(1200, 16, np.random.default_rng(0))[None]], skip=200)


# single equations, beside loops


@pytest.mark.parametrize("n", [1, 3])
def test_a_low_pass_is_its_recursion(n: int) -> None:
    x, tau = noise(2, 30, 3), 0.04
    wanted, a = x.astype(float), np.exp(-DT / tau)
    for _ in range(n):
        y = np.zeros_like(wanted)
        for t in range(30):
            y[:, t] = a * (y[:, t - 1] if t else 0) + (1 - a) * wanted[:, t]
        wanted = y
    np.testing.assert_allclose(low_pass(x.astype(float), tau, n), wanted, atol=1e-12)


def test_a_low_pass_forgets_with_its_time_constant() -> None:
    impulse = np.zeros((1, 300, 1))
    impulse[0, 0] = 1
    y = low_pass(impulse, 0.08)[0, :, 0]
    assert y[8] / y[0] == pytest.approx(np.exp(-1)) and y.sum() == pytest.approx(1, abs=1e-6)


def test_a_blur_keeps_constants_and_spreads_a_point_as_a_gaussian() -> None:
    assert np.allclose(blur(np.ones((2, 16, 12)), 3.0), 1)
    point = np.zeros((31, 31))
    point[15, 15] = 1
    spread, offsets = blur(point, 2.0), np.arange(31) - 15
    gauss = np.exp(-(offsets**2) / 8) * (abs(offsets) <= 6)
    np.testing.assert_allclose(spread, np.outer(gauss, gauss) / gauss.sum() ** 2, atol=1e-12)
    assert spread[15, 15 + 7] == 0  # cut off at three deviations


def test_beyond_an_edge_a_blur_sees_the_nearest_pixel() -> None:
    row = np.arange(16.0)[None].repeat(16, 0)
    padded = np.pad(row, 9, mode="edge")
    np.testing.assert_allclose(blur(row, 3.0), blur(padded, 3.0)[9:-9, 9:-9], atol=1e-12)


def test_terminals_are_their_equations_bin_by_bin() -> None:
    u, circuit = 2 * noise(2, 1, 40, 2, 3).astype(float), Circuit()
    wanted = np.empty_like(u)
    for place in np.ndindex(2, 1, 2, 3):
        v = s = 0.0
        for t in range(40):
            y = u[place[0], place[1], t, place[2], place[3]] / (1 + v**2)
            v += DT / 0.08 * (-v + 8 * max(y, 0))
            s += DT / 8 * (-s + 1.5 * max(y, 0))
            wanted[place[0], place[1], t, place[2], place[3]] = max(y + 0.04 - s, 0)
    np.testing.assert_allclose(terminals(u, circuit), wanted, atol=1e-12)


def test_depression_is_its_equation_bin_by_bin() -> None:
    a = np.abs(noise(2, 60, 1, 2)).astype(float) * 0.01
    wanted = np.empty_like(a)
    for i, j in np.ndindex(2, 2):
        n = 1.0
        for t in range(60):
            wanted[i, t, 0, j] = q = n * a[i, t, 0, j]
            n = min(max(n + DT * ((1 - n) * 7.1 - 1110 * q), 0), 1)
    np.testing.assert_allclose(depressed(a, Circuit()), wanted, atol=1e-14)
    np.testing.assert_array_equal(depressed(a, Circuit(depression=0.0)), a)


def test_a_delay_moves_everything_later() -> None:
    x = noise(1, 6, 2)
    assert np.array_equal(delayed(x, 2)[:, 2:], x[:, :-2]) and not delayed(x, 2)[:, :2].any()


def test_weights_have_their_middle_at_the_cell_and_sum_one() -> None:
    centres = np.array([[7.2, 8.1], [5.0, 9.0]])
    w = weights(centres, 16, 1.5).reshape(2, 16, 16)
    rows, columns = np.mgrid[:16, :16]
    assert np.allclose(w.sum((1, 2)), 1)
    assert np.allclose([(w * rows).sum((1, 2)), (w * columns).sum((1, 2))], centres.T, atol=0.05)


# the whole circuit


def test_every_layer_is_there_and_each_has_its_sign() -> None:
    """Darkness excites what is called off, light what is called on; amacrine cells follow."""
    dark, light = (interneurons(step(c, 50, 30)[None], Circuit()) for c in (-0.5, 0.5))
    assert tuple(dark) == LAYERS
    change = {name: dark[name][0, 50:].max() - dark[name][0, 49] for name in LAYERS}
    lit = {name: light[name][0, 50:].max() - light[name][0, 49] for name in LAYERS}
    for kind in ("bipolar", "release", "amacrine"):
        assert change[f"{kind}_off"] > lit[f"{kind}_off"]
        assert lit[f"{kind}_on"] > change[f"{kind}_on"]
    assert change["osr_inhibition"] > lit["osr_inhibition"] and lit["osr_excitation"] > change["osr_excitation"]


def test_nothing_depends_on_the_future(small: Retina) -> None:
    film = white_noise(80, 16, np.random.default_rng(2))[None]
    other = film.copy()
    other[:, 50:] *= -1
    a, b = (interneurons(one, Circuit()) for one in (film, other))
    assert all(np.array_equal(a[name][:, :50], b[name][:, :50]) for name in LAYERS)
    rates = small.respond(film), small.respond(other)
    assert np.array_equal(rates[0][:, :50], rates[1][:, :50]) and not np.array_equal(*rates)


def test_one_pixel_gives_what_a_uniform_patch_gives(small: Retina) -> None:
    film = flashes(8, 4, 20, 40)[None]
    wide = np.broadcast_to(film, (1, film.shape[1], 16, 16))
    np.testing.assert_allclose(small.respond(film), small.respond(wide), rtol=1e-6, atol=1e-9)


def test_trials_do_not_meet(small: Retina) -> None:
    films = np.stack([white_noise(60, 16, np.random.default_rng(i)) for i in range(2)])
    both = small.respond(films)
    np.testing.assert_allclose(both[1:], small.respond(films[1:]), rtol=1e-12)


def test_two_runs_give_the_same_bytes() -> None:
    made = [calibrated([white_noise(900, 16, np.random.default_rng(3))[None]], seed=4, skip=100) for _ in range(2)]
    film = white_noise(50, 16, np.random.default_rng(5))[None]
    assert made[0].respond(film).tobytes() == made[1].respond(film).tobytes()
    trains = [spike_trains(made[0].respond(film), np.random.default_rng(6)) for _ in range(2)]
    assert np.array_equal(*trains)


def test_calibration_sets_mean_rates_and_cells_lie_near_the_middle(small: Retina) -> None:
    film = white_noise(1200, 16, np.random.default_rng(0))[None]
    assert small.respond(film)[:, 200:].mean((0, 1)) == pytest.approx(6.0, rel=1e-3)
    assert small.types == tuple(kind for kind in TYPES for _ in range(2))
    assert abs(small.centres - 7.5).max() <= 2.5
    assert not np.array_equal(small.centres, calibrated([film[:, :300]], seed=1, skip=50).centres)


def test_rates_are_between_none_and_the_most(small: Retina) -> None:
    rates = small.rates(np.linspace(-1e3, 1e3, 50)[None, :, None] * np.ones(8))
    assert np.isfinite(rates).all() and rates.min() >= 0 and (rates.max((0, 1)) <= small.most).all()
    assert rates.max((0, 1)) == pytest.approx(small.most, rel=0.05)


def test_drives_are_weighted_sums_of_what_reaches_a_cell(small: Retina) -> None:
    film = white_noise(60, 16, np.random.default_rng(7))[None]
    layers = interneurons(film, Circuit())
    drive = ganglion_drives(layers, small.centres, 16, Circuit())[0, -1]
    near, far = (weights(small.centres, 16, w) for w in (1.5, 3.0))
    now = {name: layer[0, -1].ravel() for name, layer in layers.items()}
    off = near[0] @ now["release_off"] - far[0] @ (0.8 * now["amacrine_off"] + 0.3 * now["amacrine_on"])
    on = near[3] @ now["release_on"] - far[3] @ (0.8 * now["amacrine_on"] + 0.3 * now["amacrine_off"])
    texture = near[4] @ (now["release_off"] + 0.3 * now["release_on"]) - 0.9 * far[4] @ now["amacrine_wide"]
    assert drive[[0, 3, 4]] == pytest.approx([off, on, texture])
    excited, held = (layers[f"osr_{name}"].reshape(1, 60, -1) for name in ("excitation", "inhibition"))
    osr = low_pass(excited @ near[6] - 4.5 * held @ far[6], 0.0175)
    assert ganglion_drives(layers, small.centres, 16, Circuit())[..., 6] == pytest.approx(osr)


# spikes


def test_no_spike_within_six_milliseconds_of_another() -> None:
    trains = spike_trains(np.full((5, 300, 2), 140.0), np.random.default_rng(0))
    gaps = [np.diff(np.flatnonzero(train)) for trial in trains for train in trial.T]
    assert min(gap.min() for gap in gaps) == 7


@pytest.mark.parametrize("rate", [5.0, 40.0, 100.0])
def test_spikes_come_at_the_rate_and_are_less_variable_than_poisson(rate: float) -> None:
    counts = binned(spike_trains(np.full((400, 100, 1), rate), np.random.default_rng(0))).sum(1)
    assert counts.mean() == pytest.approx(rate, rel=0.05)
    if rate > 10:
        assert counts.var() < 0.8 * counts.mean()


def test_bins_hold_the_spikes_of_their_ten_milliseconds() -> None:
    trains = np.zeros((1, 30, 1), dtype=bool)
    trains[0, [0, 9, 10, 29]] = True
    assert binned(trains)[0, :, 0].tolist() == [2, 1, 1]


# what it was tuned to


@pytest.fixture(scope="module")
def whole() -> Retina:
    return fetched(the_retina)


def omission(retina: Retina, circuit: Circuit, count: int = 12) -> tuple[list[int], float]:
    """Milliseconds from the omitted flash to the peak, by period, and the slope of the time from the last flash."""
    periods, lead, found = [6, 8, 10, 12, 15, 17], 300, []
    for period in periods:
        rate = retina.respond(flashes(period, count, lead, 100)[None], circuit)[0][:, 6:].mean(1)
        found.append(int(rate[lead + count * period :][:60].argmax()))
    return [10 * t for t in found], float(np.polyfit(periods, np.array(found) + np.array(periods), 1)[0])


@pytest.mark.data
def test_the_response_to_an_omitted_flash_follows_the_period(whole: Retina) -> None:
    times, slope = omission(whole, Circuit())
    assert times == [170] * 6 and slope == pytest.approx(1.0, abs=0.02)


@pytest.mark.data
@pytest.mark.parametrize(
    ("circuit", "count", "wanted"),
    [
        (Circuit(inhibition=0.0), 12, 0.32),
        (Circuit(depression=0.0), 12, 0.29),
        (Circuit(), 5, 0.82),
    ],
)
def test_without_inhibition_depression_or_enough_flashes_it_does_not(
    whole: Retina, circuit: Circuit, count: int, wanted: float
) -> None:
    assert omission(whole, circuit, count)[1] == pytest.approx(wanted, abs=0.1)


@pytest.mark.data
def test_darker_steps_are_answered_earlier(whole: Retina) -> None:
    peaks = [whole.respond(step(c, 200, 60)[None])[0][200:, 0].argmax() * 10 for c in (-0.1, -0.2, -0.4, -0.6, -1.0)]
    assert peaks == [70, 60, 50, 40, 30]


@pytest.mark.data
def test_rates_fall_slowly_at_high_contrast_and_recover_slowly_at_low(whole: Retina) -> None:
    film = contrast_steps(0.05, 0.35, 2000, 60, np.random.default_rng(0))
    for circuit, adapts in ((Circuit(), True), (Circuit(slow_gain=0.0), False)):
        rate = whole.respond(film, circuit)[..., :2].mean((0, 2))
        low, high = rate[4000:6000], rate[6000:]
        assert (high[100:200].mean() > 1.15 * high[1500:].mean()) == adapts
        assert (low[20:70].mean() < 0.6 * low[1500:].mean()) == adapts


# mistakes


def test_stimuli_that_are_not_finite_are_refused() -> None:
    with pytest.raises(HyenaError, match="not finite"):
        interneurons(np.full((1, 3, 1, 1), np.nan), Circuit())


def test_a_patch_of_another_size_is_refused(small: Retina) -> None:
    with pytest.raises(HyenaError, match="sees 16 x 16 pixels"):
        small.respond(np.zeros((1, 10, 8, 8), dtype=np.float32))


@pytest.mark.parametrize("name", ["fast_gain", "slow_gain", "inhibition", "depression"])
def test_constants_below_zero_are_refused(name: str) -> None:
    with pytest.raises(HyenaError, match=f"{name} must be 0 or more"):
        replace(Circuit(), **{name: -1.0})
