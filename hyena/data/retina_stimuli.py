"""What a retina is shown: white noise, photographs that jitter and jump, films, bars, flashes and steps.

>>> white_noise(300, 16, np.random.default_rng(0)).shape
(300, 16, 16)

All are Weber contrast in bins of 10 ms, 0 the mean light, and begin with what they are told to, not with a pause.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Float
from scipy.ndimage import map_coordinates

from hyena.data.images import resized
from hyena.data.pixels import grey, read_film, read_photograph
from hyena.data.retina import DT, PIXEL
from hyena.errors import HyenaError

HOLD = 3  # bins that a pattern of white noise stands
SCALES = (1.0, 0.5, 0.25)
FIXATION = 100  # bins between two jumps of the eye
JITTER = 0.35  # pixels a bin, deviation of each step
DIMMEST = 0.15  # mean light of a picture below which its contrast is not stretched further
CONTRAST = (-1.0, 2.5)  # what natural pictures are clipped to
FRAME = 4  # bins that a frame of a film stands, 25 frames a second

Film = Float[np.ndarray, "bins height width"]


def white_noise(bins: int, side: int, rng: np.random.Generator, hold: int = HOLD) -> Film:
    """Every pixel -1 or 1, drawn anew every `hold` bins."""
    patterns = 2 * rng.integers(0, 2, (-(-bins // hold), side, side)) - 1
    return np.repeat(patterns, hold, axis=0)[:bins].astype(np.float32)


def natural_movie(bins: int, side: int, photographs: Sequence[str], rng: np.random.Generator) -> Film:
    """A window on photographs that drifts at random, and jumps to another place every second.

    Raises:
        HyenaError: photographs that are too small for the window.
    """
    movie = np.empty((bins, side, side), dtype=np.float32)
    for start in range(0, bins, FIXATION):
        count = min(FIXATION, bins - start)
        scene = contrast_of(photographs[rng.integers(len(photographs))], SCALES[rng.integers(len(SCALES))])
        walk = np.cumsum(rng.normal(0, JITTER, (count, 2)), axis=0)
        movie[start : start + count] = fixated(scene, walk, side, rng)
    return movie


def fixated(
    scene: Float[np.ndarray, "rows columns"], walk: Float[np.ndarray, "count two"], side: int, rng: np.random.Generator
) -> Float[np.ndarray, "count side side"]:
    """What a window sees that moves from a random place; bilinear, within the picture."""
    room = np.array(scene.shape) - side
    if room.min() < 1:
        raise HyenaError(f"a picture of {scene.shape[0]} x {scene.shape[1]} is too small for a window of {side}")
    corners = np.clip(rng.uniform(0, room) + walk, 0, room)
    steps = np.arange(side)
    rows, columns = (corners[:, i, None] + steps for i in (0, 1))
    places = np.broadcast_arrays(rows[:, :, None], columns[:, None, :])
    return map_coordinates(scene, places, order=1, mode="nearest").astype(np.float32)


@lru_cache(maxsize=64)
def contrast_of(photograph: str, scale: float) -> Float[np.ndarray, "rows columns"]:
    """A photograph in grey, `scale` times as large: what it differs from its mean, in units of the mean."""
    pixels = torch.from_numpy(grey(read_photograph(photograph)))[None]
    sides = tuple(round(scale * n) for n in pixels.shape[1:3])
    return weber(resized(pixels, sides)[0, ..., 0].numpy())


def weber(light: np.ndarray) -> np.ndarray:
    """Contrast, clipped to `CONTRAST`."""
    return np.clip((light - light.mean()) / max(light.mean(), DIMMEST), *CONTRAST).astype(np.float32)


def film_movie(bins: int, side: int, film: str, rng: np.random.Generator) -> Film:
    """Windows on a film, a quarter as fine, from its first frame to its last, at one random place after another.

    Raises:
        HyenaError: a film that is too small for the window.
    """
    frames = torch.from_numpy(read_film(film))[..., None]
    light = weber(resized(frames, (frames.shape[1] // 4, frames.shape[2] // 4))[..., 0].numpy())
    if min(light.shape[1:]) < side:
        raise HyenaError(f"film {film}, a quarter as fine, is too small for a window of {side}")
    parts: list[np.ndarray] = []
    while sum(len(part) for part in parts) < bins:
        top, left = (rng.integers(0, n - side + 1) for n in light.shape[1:])
        parts.append(np.repeat(light[:, top : top + side, left : left + side], FRAME, axis=0))
    return np.concatenate(parts)[:bins]


# probes


def flashes(period: int, count: int, lead: int, tail: int, length: int = 2, contrast: float = -1.0) -> Film:
    """Dark flashes of the whole field, one every `period` bins, between `lead` and `tail` bins of mean light.

    Raises:
        HyenaError: flashes that run into each other.
    """
    if not 0 < length < period:
        raise HyenaError(f"a flash of {length} bins does not fit a period of {period}")
    film = np.zeros((lead + count * period + tail, 1, 1), dtype=np.float32)
    for i in range(count):
        film[lead + i * period : lead + i * period + length] = contrast
    return film


def step(contrast: float, lead: int, bins: int) -> Film:
    """From the mean light to another after `lead` bins."""
    return np.concatenate([np.zeros((lead, 1, 1)), np.full((bins, 1, 1), contrast)]).astype(np.float32)


def moving_bar(
    track: Float[np.ndarray, " bins"], side: int, width: float = 2.0, contrast: float = -1.0
) -> Float[np.ndarray, "bins side side"]:
    """A dark bar over all rows whose middle is at column `track`, with edges as sharp as pixels allow."""
    columns = np.arange(side)
    covered = np.clip(width / 2 + 0.5 - np.abs(columns - track[:, None]), 0, min(width, 1.0))
    return np.repeat((contrast * covered)[:, None, :], side, axis=1).astype(np.float32)


def sweep(speed: float, start: float, bins: int) -> Float[np.ndarray, " bins"]:
    """Columns of something that moves by `speed` millimetres a second, to the right if it is above 0."""
    return start + speed * 1000 / PIXEL * DT * np.arange(bins)


def reversed_sweep(speed: float, start: float, turn: float, bins: int) -> tuple[Float[np.ndarray, " bins"], int]:
    """The same, turning back at column `turn`; and the bin in which it turns.

    Raises:
        HyenaError: it does not come so far.
    """
    forth = sweep(speed, start, bins)
    past = (forth - turn) * np.sign(speed) >= 0
    if not past.any():
        raise HyenaError(f"in {bins} bins a sweep from {start:g} at {speed:g} mm/s does not reach column {turn:g}")
    flip = int(np.argmax(past))
    return np.where(np.arange(bins) < flip, forth, 2 * forth[flip] - forth), flip


def contrast_steps(
    low: float, high: float, bins: int, trials: int, rng: np.random.Generator, hold: int = HOLD
) -> Float[np.ndarray, "trials bins one one"]:
    """Gaussian flicker of the whole field, `bins` of low contrast, then of high, then again, twice in all."""
    patterns = rng.standard_normal((trials, -(-4 * bins // hold)))
    flicker = np.repeat(patterns, hold, axis=1)[:, : 4 * bins]
    contrast = np.repeat([low, high, low, high], bins)
    return (contrast * flicker).astype(np.float32)[..., None, None]
