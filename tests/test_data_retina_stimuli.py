"""What a retina is shown: balanced noise, windows that drift and jump, and probes that stand where they are said to."""

from __future__ import annotations

import numpy as np
import pytest
from registries import fetched

from hyena.data import retina_stimuli
from hyena.data.retina_stimuli import (
    contrast_steps,
    film_movie,
    fixated,
    flashes,
    moving_bar,
    natural_movie,
    reversed_sweep,
    sweep,
    weber,
    white_noise,
)
from hyena.errors import HyenaError


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(1).standard_normal(shape).astype(np.float32)


@pytest.fixture
def pictures(monkeypatch) -> None:
    """Smooth pictures in place of photographs."""

    def picture(name: str) -> np.ndarray:
        rows, columns = np.mgrid[0:140, 0:160]
        shift = sum(map(ord, name)) % 17
        return (0.5 + 0.3 * np.sin((rows + shift) / 7) * np.cos(columns / 5))[..., None].astype(np.float32)

    retina_stimuli.contrast_of.cache_clear()
    monkeypatch.setattr(retina_stimuli, "read_photograph", picture)
    yield
    retina_stimuli.contrast_of.cache_clear()


def test_white_noise_is_held_and_balanced() -> None:
    film = white_noise(3000, 8, np.random.default_rng(0))
    assert set(np.unique(film)) == {-1, 1} and abs(film.mean()) < 0.02
    assert np.array_equal(film[0], film[2]) and not np.array_equal(film[2], film[3])
    assert white_noise(10, 8, np.random.default_rng(0)).shape == (10, 8, 8)


def test_a_window_at_whole_pixels_is_a_crop_and_between_them_bilinear() -> None:
    scene, side = noise(40, 50), 16
    walk = np.array([[0.0, 0.0], [0.0, 0.5]])
    rng = np.random.default_rng(0)
    corner = rng.uniform(0, np.array(scene.shape) - side)
    film = fixated(scene, np.floor(corner) - corner + walk, side, np.random.default_rng(0))
    top, left = np.floor(corner).astype(int)
    crop = scene[top : top + side, left : left + side + 1]
    np.testing.assert_allclose(film[0], crop[:, :-1], atol=1e-5)
    np.testing.assert_allclose(film[1], (crop[:, :-1] + crop[:, 1:]) / 2, atol=1e-5)


def test_natural_movies_jump_every_second_and_drift_between(pictures) -> None:
    film = natural_movie(250, 16, ("one", "two"), np.random.default_rng(0))
    change = np.abs(np.diff(film, axis=0)).mean((1, 2))
    jumps = change[[99, 199]]
    assert jumps.min() > 2 * np.median(change) and film.min() >= -1 and film.max() <= 2.5
    assert np.array_equal(film, natural_movie(250, 16, ("one", "two"), np.random.default_rng(0)))


def test_contrast_is_relative_to_the_mean_and_clipped() -> None:
    assert np.allclose(weber(np.array([0.2, 0.4, 0.6])), [-0.5, 0, 0.5])
    assert weber(np.array([0.0] * 99 + [1.0])).max() == 2.5  # a mean of .01 counts as .15


def test_pictures_smaller_than_the_window_are_refused() -> None:
    with pytest.raises(HyenaError, match="too small for a window of 16"):
        fixated(noise(10, 40), np.zeros((1, 2)), 16, np.random.default_rng(0))


@pytest.mark.data
def test_films_hold_every_frame_for_four_bins() -> None:
    film = fetched(lambda: film_movie(120, 16, "carphone", np.random.default_rng(0)))
    assert film.shape == (120, 16, 16) and np.array_equal(film[0], film[3]) and not np.array_equal(film[3], film[4])


def test_flashes_stand_where_they_are_said_to() -> None:
    film = flashes(5, 3, 10, 7)[:, 0, 0]
    assert len(film) == 10 + 3 * 5 + 7
    assert np.flatnonzero(film).tolist() == [10, 11, 15, 16, 20, 21] and film.min() == -1


def test_flashes_that_touch_are_refused() -> None:
    with pytest.raises(HyenaError, match="does not fit a period"):
        flashes(2, 3, 0, 0)


def test_a_bar_covers_its_width_wherever_it_is() -> None:
    film = moving_bar(np.array([5.0, 5.25, 5.5, 7.0]), 16)
    assert np.allclose(film.sum(2), -2) and np.array_equal(film[:, 0], film[:, 9])
    places = (film[:, 0] * np.arange(16)).sum(1) / film[:, 0].sum(1)
    assert np.allclose(places, [5.0, 5.25, 5.5, 7.0])


def test_speeds_are_millimetres_a_second() -> None:
    track = sweep(0.5, 3.0, 11)
    assert track[-1] - track[0] == pytest.approx(1.0)  # ten bins of 10 ms at .5 mm/s are 50 micrometres, one pixel


def test_a_turn_goes_back_the_way_it_came() -> None:
    track, flip = reversed_sweep(1.0, 0.0, 4.0, 60)
    assert track.max() == pytest.approx(4.0) and track[flip] == track.max()
    assert track[flip + 5] == pytest.approx(track[flip - 5])


def test_a_turn_that_is_not_reached_is_refused() -> None:
    with pytest.raises(HyenaError, match="does not reach column 40"):
        reversed_sweep(1.0, 0.0, 40.0, 60)


def test_contrast_steps_have_their_contrasts() -> None:
    film = contrast_steps(0.05, 0.35, 3000, 4, np.random.default_rng(0))[..., 0, 0]
    phases = film.reshape(4, 4, 3000).std((0, 2))
    assert phases == pytest.approx([0.05, 0.35, 0.05, 0.35], rel=0.1)
    assert np.array_equal(film[:, 0], film[:, 2])
