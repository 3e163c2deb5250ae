"""Labelled time series: several channels and lengths, one class each, in three parts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from sklearn.model_selection import train_test_split
from torch import Tensor

from hyena.data.fetch import fetch
from hyena.errors import HyenaError, unknown

SETS = ("japanese-vowels", "acsf1")
VALID = 0.2  # of the published training part


@dataclass(frozen=True)
class Examples:
    """Series padded with zeros at their end, the mask of what is none, and one class for each."""

    x: Float[Tensor, "examples length channels"]
    mask: Bool[Tensor, "examples length"]
    y: Int[Tensor, " examples"]


@dataclass(frozen=True)
class LabelledSeries:
    """A classification task; every channel is standardised with the training part, and `data` holds file hashes."""

    name: str
    classes: tuple[str, ...]
    train: Examples
    valid: Examples
    test: Examples
    data: dict[str, str]


def load_labelled_series(name: str) -> LabelledSeries:
    """A task by name. Its test part is the published one; a fifth of the training part, of every class, validates.

    * `japanese-vowels`: which of nine speakers; 12 channels, 7 to 29 steps, 270 and 370 examples.
    * `acsf1`: which of ten kinds of home appliances; 1 channel, 1,460 steps, 100 and 100 examples.

    Raises:
        HyenaError: an unknown name, or a file that cannot be had or read.
    """
    if name not in SETS:
        raise unknown("set of labelled series", name, SETS)
    files = {part: fetch(f"{name}-{part}") for part in ("train", "test")}
    learned, tested = (read_ts(files[part].path) for part in ("train", "test"))
    classes = tuple(sorted({label for _, label in learned}))
    fitted, held = train_test_split(
        np.arange(len(learned)), test_size=VALID, random_state=0, stratify=[label for _, label in learned]
    )
    known = np.concatenate([learned[i][0] for i in fitted])
    mean, sd = known.mean(0), known.std(0)
    length = max(len(series) for series, _ in (*learned, *tested))
    parts = {
        "train": [learned[i] for i in sorted(fitted)], "valid": [learned[i] for i in sorted(held)], "test": tested
    }  # fmt: skip
    made = {part: _padded(rows, classes, length, mean, sd) for part, rows in parts.items()}
    return LabelledSeries(name, classes, **made, data={file.name: file.hash for file in files.values()})


def read_ts(path: Path) -> list[tuple[Float[np.ndarray, "length channels"], str]]:
    """The series and labels of a file in the .ts format of the UEA and UCR archives.

    Raises:
        HyenaError: the file cannot be read, has no data, or a line of it is none of the format, named by its number.
    """
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise HyenaError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from error
    start = next((i for i, line in enumerate(lines) if line.strip().lower() == "@data"), None)
    if start is None:
        raise HyenaError(f"{path.name} has no line @data: it is no .ts file")
    found = []
    for number, line in enumerate(lines[start + 1 :], start=start + 2):
        if not line.strip():
            continue
        *channels, label = line.strip().split(":")
        try:
            series = np.array([[float(value) for value in channel.split(",")] for channel in channels]).T
        except ValueError:
            raise HyenaError(f"{path.name}, line {number}: channels of equal length, then a label") from None
        if series.ndim != 2 or not np.isfinite(series).all():
            raise HyenaError(f"{path.name}, line {number}: a value is missing, or there is no channel")
        found.append((series, label))
    if not found:
        raise HyenaError(f"{path.name} has no series")
    return found


def _padded(
    rows: list[tuple[np.ndarray, str]], classes: tuple[str, ...], length: int, mean: np.ndarray, sd: np.ndarray
) -> Examples:
    x = np.zeros((len(rows), length, len(mean)), dtype=np.float32)
    mask = np.zeros((len(rows), length), dtype=bool)
    for i, (series, _) in enumerate(rows):
        x[i, : len(series)] = (series - mean) / sd
        mask[i, : len(series)] = True
    y = np.array([classes.index(label) for _, label in rows])
    return Examples(torch.from_numpy(x), torch.from_numpy(mask), torch.from_numpy(y))
