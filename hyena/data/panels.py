"""Panels: many series of one kind and length, to learn what such series look like; in three parts by series.

>>> panel = load_panel("m3-monthly")
>>> panel.train.shape
torch.Size([652, 120, 1])
"""

from __future__ import annotations

import hashlib
import json
import math
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from hyena.data.fetch import fetch
from hyena.data.series import read_column
from hyena.errors import HyenaError, unknown

TEST, VALID = 0.2, 0.2  # of all series, and of the others
MONTHS, WEEK = 120, 168


@dataclass(frozen=True)
class Panel:
    """Series less their own mean, divided by their own deviation; no series is in two parts. `data`: file hashes."""

    name: str
    train: Float[Tensor, "train length 1"]
    valid: Float[Tensor, "valid length 1"]
    test: Float[Tensor, "test length 1"]
    data: dict[str, str]


def load_panel(name: str, split: int = 0) -> Panel:
    """A panel by name, or the columns of a CSV file of yours.

    * `m3-monthly`: the last 120 months of the monthly series of the M3 competition that are as long.
    * `tourism-monthly`: the same of the Tourism competition.
    * `traffic-weeks`: 104 weeks of hourly road occupancy in San Francisco, 2015 and 2016; neighbours in time may lie in
      different parts.
    * `fred-md`, `nn5-daily`, `solar-weekly`: of the Monash archive (Godahewa et al. 2021), whole series.
    * a path: a header, one series per column, of equal length.

    Arguments:
        split: seed of the split over series: a fifth is the test part, a fifth of the others validates.

    Raises:
        HyenaError: an unknown name, a file that cannot be had or read, a value that is missing, a constant series.
    """
    if name in PANELS:
        entry, read = PANELS[name]
        file = fetch(entry)
        return panel(name, read(file.path), {file.name: file.hash}, split)
    path = Path(name).expanduser()
    if not path.suffix and not path.exists():
        raise unknown("panel", name, PANELS)
    return panel(path.stem, read_columns(path), {path.name: hashlib.sha256(path.read_bytes()).hexdigest()}, split)


def panel(name: str, values: Float[np.ndarray, "series length"], data: dict[str, str], split: int = 0) -> Panel:
    """Standardise each series and share them out.

    Raises:
        HyenaError: fewer than five series, a value that is not finite, a constant series, named by its number.
    """
    if len(values) < 5 or values.shape[1] < 2:
        raise HyenaError(f"{name} has {len(values)} series of {values.shape[1]} values; at least 5 of 2 are needed")
    bad = ~np.isfinite(values).all(1)
    if bad.any():
        raise HyenaError(f"{name}: series {int(bad.argmax())} misses a value: fill it in, or drop the series")
    sd = values.std(1, keepdims=True)
    if not sd.all():
        raise HyenaError(f"{name}: series {int((sd[:, 0] == 0).argmax())} is constant: drop it")
    x = torch.from_numpy(((values - values.mean(1, keepdims=True)) / sd).astype(np.float32))[..., None]
    order = np.random.default_rng(split).permutation(len(x))
    fitted = int((1 - TEST) * len(x))
    held = math.ceil(VALID * fitted)
    return Panel(name, x[order[held:fitted]], x[order[:held]], x[order[fitted:]], data)


def read_tsf(path: Path) -> Float[np.ndarray, "series length"]:
    """The series of a zip with one file of the Monash archive's format, which all have one length.

    Raises:
        HyenaError: no such file, a value that is missing, or series of several lengths, named by line.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            member = next(name for name in archive.namelist() if name.endswith(".tsf"))
            lines = archive.read(member).decode("utf-8", errors="replace").splitlines()
        start = next(i for i, line in enumerate(lines) if line.strip().lower() == "@data")
    except (OSError, zipfile.BadZipFile, StopIteration) as error:
        raise HyenaError(f"{path.name} is no zip with a .tsf file that has a line @data ({error})") from error
    found: list[list[float]] = []
    for number, line in enumerate(lines[start + 1 :], start=start + 2):
        if not line.strip():
            continue
        try:
            found.append([float(value) for value in line.rpartition(":")[2].split(",")])
        except ValueError:
            raise HyenaError(f"{member}, line {number}: a value is missing or no number") from None
        if len(found[-1]) != len(found[0]):
            raise HyenaError(f"{member}, line {number}: {len(found[-1])} values, the first series has {len(found[0])}")
    if not found:
        raise HyenaError(f"{member} has no series")
    return np.array(found)


def read_competition(path: Path) -> Float[np.ndarray, "series 120"]:
    """The last 120 months, published history and future, of the monthly series that have them."""
    known = json.loads(path.read_text())
    whole = [series["x"] + series["xx"] for series in known.values() if series["period"] == ["MONTHLY"]]
    return np.array([values[-MONTHS:] for values in whole if len(values) >= MONTHS], dtype=float).reshape(-1, MONTHS)


def read_weeks(path: Path) -> Float[np.ndarray, "series 168"]:
    """Whole weeks of an hourly series, one after the other."""
    values = read_column(path, "y")
    return values[: len(values) // WEEK * WEEK].reshape(-1, WEEK)


def read_columns(path: Path) -> Float[np.ndarray, "series length"]:
    """The columns of a CSV file with a header.

    Raises:
        HyenaError: it cannot be read, or a field is missing or no number, named by line.
    """
    try:
        lines = path.read_text("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise HyenaError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from error
    width, rows = lines[0].count(",") + 1 if lines else 0, []
    for number, line in enumerate(lines[1:], start=2):
        if not line.strip():
            continue
        try:
            rows.append([float(field) for field in line.split(",")])
        except ValueError:
            raise HyenaError(f"{path.name}, line {number}: a field is empty or no number") from None
        if len(rows[-1]) != width:
            raise HyenaError(f"{path.name}, line {number} has {len(rows[-1])} fields, the header {width}")
    if not rows:
        raise HyenaError(f"{path} has no rows; it needs a header, and one series per column")
    return np.array(rows).T


PANELS: dict[str, tuple[str, Callable[[Path], np.ndarray]]] = {
    "m3-monthly": ("m3", read_competition),
    "tourism-monthly": ("tourism", read_competition),
    "traffic-weeks": ("traffic", read_weeks),
    "fred-md": ("fred-md", read_tsf),
    "nn5-daily": ("nn5-daily", read_tsf),
    "solar-weekly": ("solar-weekly", read_tsf),
}
