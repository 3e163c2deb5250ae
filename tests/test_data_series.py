"""Series to forecast and to classify: parts in order of time, windows that read nothing ahead, bad files."""

import bz2
import lzma
from pathlib import Path

import numpy as np
import pytest
import torch
from registries import fetched

from hyena.data import labelled_series
from hyena.data.labelled_series import load_labelled_series, read_ts
from hyena.data.series import SERIES, Series, load_series, read_column
from hyena.errors import HyenaError


def made(count: int = 100, ends: tuple[int, int, int] = (60, 80, 100)) -> Series:
    return Series("made", np.arange(float(count)), ends, 0.0, 1.0, 1, {})


def written(tmp_path: Path, text: str, name: str = "mine.csv") -> Path:
    path = tmp_path / name
    path.write_text(text)
    return path


def hourly(count: int = 50, skip: int | None = None) -> str:
    dates = np.datetime64("2024-02-28T00") + np.arange(count) * np.timedelta64(1, "h")
    return "date,load\n" + "".join(f"{date}:00,{i % 7 + i / 10}\n" for i, date in enumerate(dates) if i != skip)


# Windows


@pytest.mark.parametrize(("part", "first", "count"), [("train", 0, 49), ("valid", 52, 17), ("test", 72, 17)])
def test_windows_ask_only_for_their_part_and_read_what_comes_before(part: str, first: int, count: int) -> None:
    series = made()
    assert series.count(part, lag=8, horizon=4) == count
    x, y = series.windows(part, 8, 4, np.arange(count))
    assert x.shape == (count, 8, 1) and y.shape == (count, 4, 1)
    assert x[0, :, 0].tolist() == list(range(first, first + 8))
    both = torch.cat([x, y], 1)[..., 0]
    assert (both.diff(dim=1) == 1).all() and (both[:, 0] - first).tolist() == list(range(count))
    start, end = {"train": (8, 60), "valid": (60, 80), "test": (80, 100)}[part]
    assert y.min() == start and y.max() == end - 1, "the horizon covers the part and nothing else"


@pytest.mark.parametrize(
    ("part", "lag", "horizon", "said"),
    [
        ("valid", 8, 21, "'valid' has 28 steps, a window of lag 8 and horizon 21 takes 29"),
        ("train", 60, 1, "'train' has 60 steps"),
        ("tset", 1, 1, "unknown part 'tset': did you mean 'test'"),
    ],
)
def test_windows_that_do_not_fit_are_refused(part: str, lag: int, horizon: int, said: str) -> None:
    with pytest.raises(HyenaError, match=said):
        made().count(part, lag, horizon)


# Files


def test_a_file_of_ones_own_is_standardised_by_its_training_part(tmp_path) -> None:
    values = np.random.default_rng(0).normal(5, 2, 40)
    series = load_series(str(written(tmp_path, "x,load\n" + "".join(f"0,{v:.17g}\n" for v in values))))
    assert series.ends == (24, 32, 40) and (series.mean, series.sd) == pytest.approx(
        (values[:24].mean(), values[:24].std())
    )
    assert np.allclose(series.values * series.sd + series.mean, values)
    assert series.data.keys() == {"mine.csv"} and len(series.data["mine.csv"]) == 64


@pytest.mark.parametrize(("ending", "pack"), [("", bytes), (".xz", lzma.compress), (".bz2", bz2.compress)])
def test_a_column_is_read_by_name_and_compressed_files_too(tmp_path, ending: str, pack) -> None:
    path = tmp_path / f"mine.csv{ending}"
    path.write_bytes(
        pack(b'\xef\xbb\xbf"date","a","b"\r\n"2020-01-01 00:00:00"," 1.50","2"\r\n"2020-01-01 01:00:00","-3","4"\r\n')
    )
    assert read_column(path, "a").tolist() == [1.5, -3.0]
    assert read_column(path).tolist() == [2.0, 4.0]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("date,load\n2024-01-01,1\n2024-01-02,\n", "line 3: column load is empty; fill the gap"),
        ("date,load\n2024-01-01,1\n2024-01-02,nan\n", "line 3: column load is nan; fill the gap"),
        ("date,load\n2024-01-01,1\n2024-01-02,many\n", "line 3: column load 'many' is no number"),
        ("date,load\n2024-01-01,1\n2024-01-02\n", "line 3 has 1 fields, the header 2"),
        ("date,load\n2024-01-01,1\nlater,2\n", "line 3: 'later' in column date is no date"),
        (hourly(skip=30), r"line 32: 2024-02-29T07:00 comes 2:00:00 after the line before, others 1:00:00"),
        ("date,load\n2024-01-02,1\n2024-01-03,1\n2024-01-01,2\n", "line 4: 2024-01-01 comes -2 days"),
        ("date,load\n", "has no rows"),
        ("", "has no rows"),
        ("date,load\n2024-01-01,1\n2024-01-02,2\n", "has 2 rows; 4 are needed"),
        ("load\n" + "5\n" * 20, "constant over its training part"),
    ],
)
def test_bad_files_are_refused_with_the_line(tmp_path, text: str, said: str) -> None:
    with pytest.raises(HyenaError, match=said):
        load_series(str(written(tmp_path, text)))


def test_unknown_names_files_and_columns_are_refused(tmp_path) -> None:
    with pytest.raises(HyenaError, match=r"unknown series 'ETTh3': did you mean"):
        load_series("ETTh3")
    with pytest.raises(HyenaError, match=r"cannot read .*gone.csv: No such file"):
        load_series(str(tmp_path / "gone.csv"))
    with pytest.raises(HyenaError, match=r"unknown column of mine.csv 'laod': did you mean 'load'"):
        load_series(str(written(tmp_path, hourly())), "laod")
    (tmp_path / "cut.csv.xz").write_bytes(lzma.compress(b"a,b\n" * 99)[:-20])
    with pytest.raises(HyenaError, match=r"cannot read .*cut.csv.xz"):
        load_series(str(tmp_path / "cut.csv.xz"))


def test_a_leap_day_and_numbers_in_the_first_column_are_no_gap(tmp_path) -> None:
    assert len(load_series(str(written(tmp_path, hourly()))).values) == 50
    years = "".join(f"{year},{year % 5}\n" for year in range(1900, 1950, 2))
    assert len(load_series(str(written(tmp_path, "year,load\n" + years))).values) == 25


@pytest.mark.data
@pytest.mark.parametrize(("name", "rows", "mean"), [("appliances", 19_735, 97.39), ("electricity", 26_304, 2605.36)])
def test_series_of_the_package_index_are_as_documented(name: str, rows: int, mean: float) -> None:
    series = fetched(lambda: load_series(name))
    assert len(series.values) == rows and series.mean == pytest.approx(mean, abs=0.01)
    assert series.period == SERIES[name].period and set(series.data) == {name}


@pytest.mark.data
def test_ett_is_split_into_12_4_and_4_months() -> None:
    series = fetched(lambda: load_series("ETTh1"), tier="paper")
    assert series.ends == (8640, 11_520, 14_400) and series.count("train", 336, 720) == 7585
    assert (series.mean, series.sd) == pytest.approx((17.128, 9.176), abs=1e-3)


# Labelled


def test_a_ts_file_is_read_channel_by_channel(tmp_path) -> None:
    text = "#c\n@classLabel true a b\n@data\n1,2,3:4,5,6:a\n\n7,8:9,10:b\n"
    (first, a), (second, b) = read_ts(written(tmp_path, text, "x.ts"))
    assert first.tolist() == [[1, 4], [2, 5], [3, 6]] and second.shape == (2, 2) and (a, b) == ("a", "b")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("1,2:a\n", "has no line @data"),
        ("@data\n", "has no series"),
        ("@data\n1,2:3:a\n", "line 2: channels of equal length"),
        ("@data\n1,?:a\n", "line 2: channels of equal length"),
        ("@data\n1,nan:a\n", "line 2: a value is missing"),
        ("@data\na\n", "line 2: a value is missing, or there is no channel"),
    ],
)
def test_bad_ts_files_are_refused_with_the_line(tmp_path, text: str, said: str) -> None:
    with pytest.raises(HyenaError, match=said):
        read_ts(written(tmp_path, text, "x.ts"))


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "sizes", "shape"), [("japanese-vowels", (216, 54, 370), (29, 12)), ("acsf1", (80, 20, 100), (1460, 1))]
)
def test_labelled_sets_are_as_documented(name: str, sizes: tuple, shape: tuple) -> None:
    task = fetched(lambda: load_labelled_series(name))
    assert tuple(len(part.y) for part in (task.train, task.valid, task.test)) == sizes
    assert task.train.x.shape[1:] == shape and len(task.classes) == {"japanese-vowels": 9, "acsf1": 10}[name]
    assert (task.valid.y.bincount() == len(task.valid.y) // len(task.classes)).all(), "every class validates"
    known = task.train.x[task.train.mask]
    assert known.mean(0).abs().max() < 1e-4 and (known.std(0) - 1).abs().max() < 1e-2
    assert not task.test.x[~task.test.mask].any()


def test_an_unknown_set_is_refused() -> None:
    with pytest.raises(HyenaError, match="unknown set of labelled series 'acsf2': did you mean 'acsf1'"):
        labelled_series.load_labelled_series("acsf2")
