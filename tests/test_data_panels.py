"""Panels: what the files hold, standardised series, parts without a series in common, bad files."""

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from registries import fetched

from hyena.data.panels import load_panel, panel, read_columns, read_competition, read_tsf
from hyena.errors import HyenaError

HEAD = "# about\n@relation x\n@data\n"


def tsf(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "set.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("set.tsf", text)
    return path


def many(count: int = 20, length: int = 8) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((count, length)) * 3 + 5


@pytest.mark.parametrize(
    ("name", "entry", "tier", "count", "length"),
    [
        ("m3-monthly", "m3", "default", 1020, 120),
        ("tourism-monthly", "tourism", "default", 365, 120),
        ("traffic-weeks", "traffic", "default", 104, 168),
        ("solar-weekly", "solar-weekly", "paper", 137, 52),
        ("fred-md", "fred-md", "paper", 107, 728),
        ("nn5-daily", "nn5-daily", "paper", 111, 791),
    ],
)
def test_published_panels_have_their_shape(name: str, entry: str, tier: str, count: int, length: int) -> None:
    found = fetched(lambda: load_panel(name), tier)
    assert sum(len(part) for part in (found.train, found.valid, found.test)) == count
    assert found.train.shape[1:] == (length, 1) and found.data.keys() == {entry}
    assert len(found.test) == count - int(0.8 * count)


def test_series_are_standardised_one_by_one_and_none_is_in_two_parts() -> None:
    found = panel("made", many(), {})
    whole = torch.cat([found.train, found.valid, found.test])
    assert [len(found.train), len(found.valid), len(found.test)] == [12, 4, 4]
    assert whole.mean(1).abs().max() < 1e-6
    torch.testing.assert_close(whole.std(1, correction=0), torch.ones(20, 1))
    assert len({tuple(series.flatten().tolist()) for series in whole}) == 20


def test_the_split_is_fixed_by_its_seed() -> None:
    first, again, other = (panel("made", many(), {}, split) for split in (0, 0, 1))
    assert torch.equal(first.test, again.test) and not torch.equal(first.test, other.test)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda x: x.__setitem__((3, 2), np.nan), "series 3 misses a value"),
        (lambda x: x.__setitem__(5, 7.0), "series 5 is constant"),
    ],
)
def test_series_that_cannot_be_standardised_are_named(change, said: str) -> None:
    values = many()
    change(values)
    with pytest.raises(HyenaError, match=said):
        panel("made", values, {})


def test_too_few_series_are_refused() -> None:
    with pytest.raises(HyenaError, match="4 series of 8 values; at least 5"):
        panel("made", many(4), {})


def test_history_and_future_of_long_monthly_series_are_read(tmp_path: Path) -> None:
    path = tmp_path / "m.json"
    months = {"period": ["MONTHLY"], "x": list(range(115)), "xx": list(range(115, 125))}
    path.write_text(json.dumps({"a": months, "b": months | {"x": [1]}, "c": months | {"period": ["YEARLY"]}}))
    assert read_competition(path).tolist() == [list(range(5, 125))]


def test_the_archive_format_is_read(tmp_path: Path) -> None:
    assert read_tsf(tsf(tmp_path, HEAD + "T1:2006-01-01 00-00-00:1,2.5\n\nT2:2006:3,4\n")).tolist() == [
        [1, 2.5],
        [3, 4],
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (HEAD + "T1:1,2\nT2:1,?\n", "line 5: a value is missing"),
        (HEAD + "T1:1,2\nT2:1\n", "line 5: 1 values, the first series has 2"),
        ("T1:1,2\n", "no zip with a .tsf file that has a line @data"),
    ],
)
def test_damaged_archives_are_named(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(HyenaError, match=said):
        read_tsf(tsf(tmp_path, text))


def test_a_csv_of_ones_own_has_one_series_per_column(tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    path.write_text("a,b\r\n1,2\r\n3,4\r\n5,6\r\n")
    assert read_columns(path).tolist() == [[1, 3, 5], [2, 4, 6]]
    values = many(6, 9)
    path.write_text("\n".join([",".join("abcdef"), *(",".join(map(str, row)) for row in values.T)]))
    found = load_panel(str(path))
    assert found.name == "mine" and found.train.shape[1] == 9


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a,b\n1,2\n3,\n", "line 3: a field is empty"),
        ("a,b\n1,2,3\n", "line 2 has 3 fields, the header 2"),
        ("a,b\n", "has no rows"),
    ],
)
def test_bad_csv_files_are_named_by_line(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "mine.csv"
    path.write_text(text)
    with pytest.raises(HyenaError, match=said):
        load_panel(str(path))


def test_unknown_panels_suggest_the_nearest() -> None:
    with pytest.raises(HyenaError, match="unknown panel 'm3-montly': did you mean 'm3-monthly'"):
        load_panel("m3-montly")
