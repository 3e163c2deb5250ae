"""Clips: they move as their class says, scenes are new ones in every part, and films come in pieces."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from registries import fetched as or_skipped

from hyena.data import motion as module
from hyena.data.motion import CLASSES, DIRECTIONS, PARTS, SPEEDS, film_pieces, moving_clips, velocity
from hyena.data.pixels import PHOTOGRAPHS, read_film
from hyena.errors import HyenaError


@pytest.fixture
def scene(monkeypatch) -> np.ndarray:
    """A smooth picture in place of every photograph."""
    y, x = np.mgrid[0:120, 0:130]
    made = (np.sin(x / 5) + np.cos(y / 4) + np.sin((x + 2 * y) / 9)).astype(np.float32)
    monkeypatch.setattr(module, "_scene", lambda name: made)
    return made


def test_no_photograph_is_in_two_parts() -> None:
    assert sorted(name for part in PARTS.values() for name in part) == sorted(PHOTOGRAPHS)


def test_the_picture_moves_as_the_class_says(scene) -> None:
    """In a moving picture, I(t + 1, r + dr, c + dc) = I(t, r, c)."""
    steps = {0: (0, 1), 2: (-1, 0), 4: (0, -1), 6: (1, 0)}  # right, up, left, down, at one pixel per frame
    x, y = moving_clips("train", 64, 3, 12, 0)
    for clip, label in zip(x[..., 0], y, strict=True):
        direction, speed = divmod(int(label), len(SPEEDS))
        if direction in steps and SPEEDS[speed] == 1:
            moved = torch.roll(clip[0], steps[direction], (0, 1))[2:-2, 2:-2]
            assert torch.allclose(moved, clip[1][2:-2, 2:-2], atol=1e-4)


def test_half_a_pixel_per_frame_is_one_after_two(scene) -> None:
    x, y = moving_clips("test", 16, 3, 12, 0)
    slow = x[(y == 0).nonzero()[0, 0], ..., 0]
    assert torch.allclose(torch.roll(slow[0], 1, 1)[2:-2, 2:-2], slow[2][2:-2, 2:-2], atol=1e-4)


def test_velocities_turn_counter_clockwise_as_seen() -> None:
    right, up = velocity(1), velocity(2 * len(SPEEDS) + 1)
    assert right == pytest.approx((0, 1)) and up == pytest.approx((-1, 0), abs=1e-9)
    assert len(CLASSES) == DIRECTIONS * len(SPEEDS) and CLASSES[0] == "0 degrees, 0.5 px/frame"


def test_clips_are_balanced_standardised_and_the_same_every_time(scene) -> None:
    x, y = moving_clips("valid", 32, 4, 8, 0)
    again, _ = moving_clips("valid", 32, 4, 8, 0)
    other, _ = moving_clips("valid", 32, 4, 8, 1)
    assert torch.equal(x, again) and not torch.equal(x, other)
    assert torch.bincount(y).tolist() == [2] * len(CLASSES)
    assert torch.allclose(x.mean((1, 2, 3, 4)), torch.zeros(32), atol=1e-4)
    assert torch.allclose(x.std((1, 2, 3, 4), correction=0), torch.ones(32), atol=1e-3)


def test_a_place_without_contrast_is_left(monkeypatch) -> None:
    half = np.zeros((100, 200), dtype=np.float32)
    half[:, 100:] = np.random.default_rng(0).normal(size=(100, 100))
    monkeypatch.setattr(module, "_scene", lambda name: half)
    x, _ = moving_clips("train", 32, 3, 8, 0)
    assert (x.std((1, 2, 3, 4)) > 0.5).all()


@pytest.mark.data
def test_real_photographs_and_films_are_cut() -> None:
    x, _ = or_skipped(lambda: moving_clips("test", 4, 3, 8, 0))
    assert x.shape == (4, 3, 8, 8, 1) and torch.isfinite(x).all()
    assert read_film("carphone").shape == (120, 144, 176)
    pieces, frame = film_pieces("carphone", 0, 4, 16, 2)
    assert pieces.shape == (4, 5, 4, 16, 16, 1) and frame.shape == (64, 80)
    flat = pieces[1, 2].flatten()
    assert flat.std(correction=0) == pytest.approx(1, abs=0.01)


def test_pieces_are_where_they_stood(monkeypatch) -> None:
    film = np.zeros((3, 16, 24), dtype=np.float32)
    film[:, 8:, 8:16] = np.random.default_rng(0).normal(size=(3, 8, 8))
    monkeypatch.setattr(module, "read_film", lambda name: film)
    pieces, frame = film_pieces("any", 0, 3, 8, 1)
    assert [[bool(p.abs().sum() > 0) for p in row] for row in pieces] == [[False] * 3, [False, True, False]]
    assert np.array_equal(frame, film[0])


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: moving_clips("trian", 4, 3, 8, 0), "unknown part of the clips 'trian': did you mean 'train'"),
        (lambda: moving_clips("train", 4, 112, 8, 0), "a clip of 112 frames of 8 x 8 is larger"),
    ],
)
def test_a_mistake_is_named(scene, call, said: str) -> None:
    with pytest.raises(HyenaError, match=said):
        call()


def test_a_stretch_beyond_the_film_is_refused(monkeypatch) -> None:
    monkeypatch.setattr(module, "read_film", lambda name: np.zeros((10, 8, 8), dtype=np.float32))
    with pytest.raises(HyenaError, match="has 10 frames, not 12"):
        film_pieces("bikes", 8, 4, 8, 1)
