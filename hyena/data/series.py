"""Time series to forecast: one column, three parts in order of time, and windows that never read what they are asked.

>>> series = load_series("electricity")
>>> x, y = series.windows("test", lag=336, horizon=96, some=np.arange(32))
"""

from __future__ import annotations

import bz2
import csv
import gzip
import hashlib
import io
import lzma
import math
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from hyena.data.fetch import fetch
from hyena.errors import HyenaError, unknown

OPENERS: dict[str, Callable[[Path], BinaryIO]] = {".xz": lzma.open, ".gz": gzip.open, ".bz2": bz2.open}
PARTS = ("train", "valid", "test")
SHARES = (0.6, 0.2)  # of training and validation; as 12, 4 and 4 months
MONTH = 30 * 24  # hours, of the ETT splits


class Known(NamedTuple):
    """A series of the registry: its column, steps per day, and the steps of training, validation and test if fixed."""

    column: str
    period: int
    steps: tuple[int, int, int] | None = None


HOURLY, QUARTERLY = (tuple(per_hour * months * MONTH for months in (12, 4, 4)) for per_hour in (1, 4))
SERIES = {
    "appliances": Known("Appliances", 144),
    "electricity": Known("y", 24),
    "ETTh1": Known("OT", 24, HOURLY),
    "ETTh2": Known("OT", 24, HOURLY),
    "ETTm1": Known("OT", 96, QUARTERLY),
    "ETTm2": Known("OT", 96, QUARTERLY),
}


@dataclass(frozen=True)
class Series:
    """One standardised series.

    Arguments:
        values: less the mean of the training part, divided by its standard deviation.
        ends: where the three parts end.
        mean, sd: of the training part, in the units of the file.
        period: steps of one season, such as a day.
        data: hash of the file.
    """

    name: str
    values: Float[np.ndarray, " steps"]
    ends: tuple[int, int, int]
    mean: float
    sd: float
    period: int
    data: dict[str, str]

    def count(self, part: str, lag: int, horizon: int) -> int:
        """Windows of a part, one for each step at which all of the horizon lies in it.

        Raises:
            HyenaError: there is none.
        """
        first, last = self._bounds(part, lag)
        found = last - first - lag - horizon + 1
        if found < 1:
            raise HyenaError(
                f"{self.name}: the part {part!r} has {last - first} steps, a window of lag {lag} and horizon {horizon} "
                f"takes {lag + horizon}; use a shorter one, or a longer series"
            )
        return found

    def windows(
        self, part: str, lag: int, horizon: int, some: Int[np.ndarray, " windows"]
    ) -> tuple[Float[Tensor, "windows lag 1"], Float[Tensor, "windows horizon 1"]]:
        """What is known and what follows, for windows by number; validation and test read their lag from before."""
        first, _ = self._bounds(part, lag)
        at = first + some[:, None] + np.arange(lag + horizon)
        both = torch.from_numpy(self.values[at].astype(np.float32))[..., None]
        return both[:, :lag], both[:, lag:]

    def _bounds(self, part: str, lag: int) -> tuple[int, int]:
        if part not in PARTS:
            raise unknown("part", part, PARTS)
        i = PARTS.index(part)
        return (0 if i == 0 else max(0, self.ends[i - 1] - lag)), self.ends[i]


def load_series(source: str, column: str = "") -> Series:
    """A series by name, or a column of a CSV file of yours.

    * `appliances`: energy of the appliances of one house every 10 minutes, 4.5 months.
    * `electricity`: hourly demand for three years.
    * `ETTh1`, `ETTh2`, `ETTm1`, `ETTm2`: oil temperature of a transformer, hourly or every 15 minutes (Zhou et al.
      2021, Informer), split into 12, 4 and 4 months of 30 days.
    * a path: a header, one row per step in order of time, at even distances if a column holds dates; the last column
      unless `column` names another; 60 % train, then 20 % and 20 %.

    Raises:
        HyenaError: an unknown name or column, a value that is missing or no number, dates with a gap, too few rows.
    """
    if source in SERIES:
        known, file = SERIES[source], fetch(source)
        values = read_column(file.path, known.column)
        steps = known.steps or _in_shares(len(values))
        return _standardised(source, values, steps, known.period, {file.name: file.hash})
    path = Path(source).expanduser()
    if not path.suffix and not path.exists():
        raise unknown("series", source, SERIES)
    values = read_column(path, column)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return _standardised(path.stem, values, _in_shares(len(values)), 1, {path.name: digest})


def read_column(path: Path, column: str = "") -> Float[np.ndarray, " steps"]:
    """One column of a CSV file, compressed or not; the last if not named.

    Raises:
        HyenaError: as `load_series`; lines are counted from 1, the header.
    """
    header, rows = _rows(path)
    name = column or header[-1]
    if name not in header:
        raise unknown(f"column of {path.name}", name, header)
    at, values = header.index(name), []
    for number, row in enumerate(rows, start=2):
        where = f"{path.name}, line {number}"
        if len(row) != len(header):
            raise HyenaError(f"{where} has {len(row)} fields, the header {len(header)}")
        try:
            values.append(float(row[at]))
        except ValueError:
            what = "is empty" if not row[at].strip() else f"{row[at]!r} is no number"
            raise HyenaError(f"{where}: column {name} {what}; fill the gap, or choose another column") from None
        if not math.isfinite(values[-1]):
            raise HyenaError(f"{where}: column {name} is {row[at]}; fill the gap before forecasting")
    _check_dates(path, header, rows)
    return np.array(values)


def _rows(path: Path) -> tuple[list[str], list[list[str]]]:
    try:
        with OPENERS.get(path.suffix, open)(path, "rb") as file:
            text = file.read().decode("utf-8-sig")
        rows = list(csv.reader(io.StringIO(text, newline="")))
    except (OSError, EOFError, UnicodeDecodeError, csv.Error, lzma.LZMAError) as error:
        raise HyenaError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from error
    rows = [row for row in rows if row]
    if len(rows) < 2:
        raise HyenaError(f"{path} has no rows; it needs a header and one row per step")
    return rows[0], rows[1:]


def _check_dates(path: Path, header: list[str], rows: list[list[str]]) -> None:
    """Refuse a column of dates that are out of order or not at even distances."""
    at = next((i for i, value in enumerate(rows[0]) if _date(value)), None)
    if at is None:
        return
    step: timedelta | None = None
    for number, (before, row) in enumerate(pairwise(rows), start=3):
        earlier, later = _date(before[at]), _date(row[at])
        if later is None:
            raise HyenaError(f"{path.name}, line {number}: {row[at]!r} in column {header[at]} is no date")
        step = step or later - earlier
        if later - earlier != step:
            raise HyenaError(
                f"{path.name}, line {number}: {row[at]} comes {later - earlier} after the line before, others "
                f"{step}; bring the rows to even distances (a missing row must be filled in)"
            )


def _date(text: str) -> datetime | None:
    try:
        return datetime.fromisoformat(text.strip()) if not text.strip().isdigit() else None
    except ValueError:
        return None


def _in_shares(count: int) -> tuple[int, int, int]:
    train, valid = (int(share * count) for share in SHARES)
    return train, valid, count - train - valid


def _standardised(
    name: str, values: np.ndarray, steps: tuple[int, int, int], period: int, data: dict[str, str]
) -> Series:
    train, valid, test = np.cumsum(steps).tolist()
    if len(values) < test or train < 2:
        raise HyenaError(f"{name} has {len(values)} rows; {max(test, 4)} are needed")
    mean, sd = float(values[:train].mean()), float(values[:train].std())
    if not sd:
        raise HyenaError(f"{name} is constant over its training part ({mean:g}): there is nothing to forecast")
    return Series(name, (values[:test] - mean) / sd, (train, valid, test), mean, sd, period, data)
