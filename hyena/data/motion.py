"""Clips of moving photographs, labelled by direction and speed; and pieces of real films to try a model on.

>>> x, y = moving_clips("train", count=4, frames=8, side=16, seed=0)
>>> x.shape
torch.Size([4, 8, 16, 16, 1])
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from hyena.data.fetch import fetch
from hyena.data.images import FLAT, resized, standardised
from hyena.data.pixels import FILMS, PHOTOGRAPHS, grey, photograph, read_film, read_photograph
from hyena.errors import HyenaError, unknown

DIRECTIONS = 8  # eighths of a turn, from the right and counter-clockwise as seen
SPEEDS = (0.5, 1.0)  # pixels per frame
CLASSES = tuple(f"{45 * d} degrees, {speed:g} px/frame" for d in range(DIRECTIONS) for speed in SPEEDS)
PARTS = {  # no photograph is in two parts
    "valid": ("brick", "camera", "china"),
    "test": ("chelsea", "coffee", "flower", "gravel", "rocket"),
}
PARTS["train"] = tuple(name for name in PHOTOGRAPHS if name not in PARTS["valid"] + PARTS["test"])
SHRINK = 2  # photographs are halved, so that a clip of a few pixels sees more than a blur
TRIES = 50  # places to look at for one with some contrast


def moving_clips(
    part: str, count: int, frames: int, side: int, seed: int
) -> tuple[Float[Tensor, "count frames side side one"], Int[Tensor, " count"]]:
    """Standardised grey clips of a photograph that moves evenly behind a window; classes as in `CLASSES`.

    Arguments:
        part: "train", "valid" or "test": which photographs.
        count: clips; classes take turns.
        seed: of the places.

    Raises:
        HyenaError: another part, or a clip that no photograph is large enough for.
    """
    if part not in PARTS:
        raise unknown("part of the clips", part, PARTS)
    rng = np.random.default_rng((seed, sorted(PARTS).index(part)))
    scenes = [_scene(name) for name in PARTS[part]]
    reach = max(SPEEDS) * (frames - 1)
    if side + reach + 2 > min(min(scene.shape) for scene in scenes):
        raise HyenaError(f"a clip of {frames} frames of {side} x {side} is larger than the smallest photograph")
    labels = np.arange(count) % len(CLASSES)
    found = [_clip(scenes[rng.integers(len(scenes))], int(label), frames, side, rng) for label in labels]
    return torch.from_numpy(standardised(np.stack(found)[..., None])), torch.from_numpy(labels)


def velocity(label: int) -> tuple[float, float]:
    """Rows and columns per frame by which the picture moves, for a class."""
    direction, speed = divmod(int(label), len(SPEEDS))
    angle = 2 * math.pi * direction / DIRECTIONS
    return -SPEEDS[speed] * math.sin(angle), SPEEDS[speed] * math.cos(angle)


def hashes() -> dict[str, str]:
    """Of the files that clips and pieces are made from."""
    files = [*map(photograph, PHOTOGRAPHS), *(fetch(f"film-{name}") for name in FILMS)]
    return {file.name: file.hash for file in files}


def film_pieces(
    name: str, start: int, frames: int, side: int, shrink: int
) -> tuple[Float[Tensor, "rows columns frames side side one"], Float[np.ndarray, "height width"]]:
    """A stretch of a film, `shrink` times as coarse, cut into standardised pieces; and its first frame.

    Raises:
        HyenaError: the film has no such frames.
    """
    film = read_film(name)
    if start + frames > len(film):
        raise HyenaError(f"film {name} has {len(film)} frames, not {start + frames}")
    some = torch.from_numpy(film[start : start + frames])[..., None]
    small = resized(some, (film.shape[1] // shrink, film.shape[2] // shrink))
    rows, columns = small.shape[1] // side, small.shape[2] // side
    small = small[:, : rows * side, : columns * side, 0]
    pieces = small.reshape(frames, rows, side, columns, side).permute(1, 3, 0, 2, 4)[..., None]
    flat = standardised(pieces.flatten(0, 1).numpy())
    return torch.from_numpy(flat).view(pieces.shape), small[0].numpy()


@lru_cache(maxsize=len(PHOTOGRAPHS))
def _scene(name: str) -> Float[np.ndarray, "height width"]:
    pixels = torch.from_numpy(grey(read_photograph(name)))[None]
    return resized(pixels, (pixels.shape[1] // SHRINK, pixels.shape[2] // SHRINK))[0, ..., 0].numpy()


def _clip(
    scene: Float[np.ndarray, "height width"], label: int, frames: int, side: int, rng: np.random.Generator
) -> Float[np.ndarray, "frames side side"]:
    """One clip, from a place with contrast if one of `TRIES` has it."""
    down, right = velocity(label)
    moved = np.arange(frames) - (frames - 1) / 2
    margin = max(SPEEDS) * (frames - 1) / 2 + 1
    for _ in range(TRIES):
        top, left = (rng.uniform(margin, length - side - margin) for length in scene.shape)
        clip = _windows(scene, top - down * moved, left - right * moved, side)  # the window moves against the picture
        if clip.std() > FLAT:
            break
    return clip


def _windows(
    scene: Float[np.ndarray, "height width"], tops: Float[np.ndarray, " frames"], lefts: Float[np.ndarray, " frames"],
    side: int,
) -> Float[np.ndarray, "frames side side"]:  # fmt: skip
    """Windows at fractions of a pixel, bilinear between the four around each."""
    height, width = scene.shape
    steps = np.arange(side)
    rows = 2 * (tops[:, None] + steps) / (height - 1) - 1  # from -1 to 1, as the sampler counts
    columns = 2 * (lefts[:, None] + steps) / (width - 1) - 1
    grid = np.stack(np.broadcast_arrays(columns[:, None, :], rows[:, :, None]), -1).astype(np.float32)
    scenes = torch.from_numpy(scene)[None, None].expand(len(tops), -1, -1, -1)
    return F.grid_sample(scenes, torch.from_numpy(grid), align_corners=True)[:, 0].numpy()
