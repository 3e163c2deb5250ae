"""What a stored result promises: the same bytes for the same numbers, and damage is noticed and named."""

import dataclasses
import errno
import hashlib
import json
import math
from pathlib import Path
from statistics import fmean, stdev

import numpy as np
import pytest

from hyena.errors import HyenaError
from hyena.results import Result, load, rounded, save


def measured(**changes) -> Result:
    result = Result(
        {"accuracy": [97.125, 98.5, 96.0], "bits": [2.0, 2.5, 3.0]},
        parameters={"hyena": 12_345},
        data={"enwiki": "ab" * 32},
        tables={"curves": [{"operator": "hyena", "step": 5, "loss": 0.5},
                           {"operator": 'é, "x"', "step": 6, "loss": None}]},
        text={"sample": "Zürich\n▮ said"},
        arrays={"filters": np.arange(6, dtype=np.float32).reshape(2, 3), "tokens": np.array([1, 2])},
        paper="p", experiment="recall", profile="smoke", seeds=(0, 1, 2), config={"lr": 0.1, "w": [1, 2]}, code="c0de",
    )  # fmt: skip
    return dataclasses.replace(result, **changes)


def contents(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir()}


def test_what_is_saved_is_what_is_loaded(tmp_path) -> None:
    before = measured()
    after = load(save(before, tmp_path))
    plain = {"tables": {}, "arrays": {}}
    assert dataclasses.replace(after, **plain) == dataclasses.replace(before, **plain)
    assert after.tables == before.tables
    assert {k: v.dtype for k, v in after.arrays.items()} == {k: v.dtype for k, v in before.arrays.items()}
    assert all(np.array_equal(after.arrays[k], v) for k, v in before.arrays.items())


def test_the_same_result_is_the_same_bytes(tmp_path) -> None:
    save(measured(), tmp_path / "a")
    save(load(tmp_path / "a" / "recall.json"), tmp_path / "b")
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert set(contents(tmp_path / "a")) == {"recall.json", "recall.curves.csv", "recall.npz"}


def test_metrics_are_means_and_sd_sample_standard_deviations(tmp_path) -> None:
    stored = json.loads(save(measured(), tmp_path).read_text())
    values = measured().per_seed["accuracy"]
    assert stored["metrics"] == rounded({"accuracy": fmean(values), "bits": 2.5})
    assert stored["sd"] == rounded({"accuracy": stdev(values), "bits": 0.5})


def test_one_seed_has_no_standard_deviation() -> None:
    assert measured(per_seed={"bits": [2.0]}).sd == {}


def test_numbers_have_six_significant_digits(tmp_path) -> None:
    rows = [{"loss": 1 / 3, "step": 1_234_567, "tiny": 1.23456789e-12}]
    path = save(measured(per_seed={"bits": [2 / 3 * 1e6]}, tables={"curves": rows}), tmp_path)
    assert json.loads(path.read_text())["metrics"]["bits"] == 666667.0
    assert (tmp_path / "recall.curves.csv").read_text() == "loss,step,tiny\n0.333333,1234567,1.23457e-12\n"


@pytest.mark.parametrize("strange", [math.nan, math.inf, -math.inf])
def test_what_is_not_a_number_is_null_on_disk_and_nan_when_loaded(tmp_path, strange: float) -> None:
    path = save(measured(per_seed={"bits": [strange]}, tables={"curves": [{"loss": strange}]}), tmp_path)
    stored = json.loads(path.read_text(), parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))
    assert stored["metrics"] == {"bits": None}
    again = load(path)
    assert math.isnan(again.metrics["bits"])
    assert again.tables["curves"] == [{"loss": None}]


def test_nothing_of_the_day_or_the_machine_is_stored(tmp_path) -> None:
    stored = json.loads(save(measured(), tmp_path).read_text())
    known = {f.name for f in dataclasses.fields(Result)} - {"tables", "arrays"}
    assert set(stored) == known | {"metrics", "sd", "files"}
    assert not known & {"date", "time", "seconds", "host", "hostname", "user", "version"}


def test_the_json_names_its_files_by_hash(tmp_path) -> None:
    stored = json.loads(save(measured(), tmp_path).read_text())
    content = contents(tmp_path)
    assert stored["files"] == {n: hashlib.sha256(content[n]).hexdigest() for n in ("recall.curves.csv", "recall.npz")}


@pytest.mark.parametrize("keep", [0, 1, 40, -3])
def test_a_half_written_result_is_named_with_what_to_do(tmp_path, keep: int) -> None:
    path = save(measured(), tmp_path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(HyenaError, match=r"recall.json is not a whole result .*; delete it and run .* again"):
        load(path)


@pytest.mark.parametrize("content", ["[]", "null", "3", "{}", '{"files": []}', '{"files": {}, "seeds": [0]}'])
def test_json_that_is_no_result_is_refused_the_same_way(tmp_path, content: str) -> None:
    path = tmp_path / "recall.json"
    path.write_text(content)
    with pytest.raises(HyenaError, match=r"recall.json is not a whole result"):
        load(path)


@pytest.mark.parametrize("name", ["recall.curves.csv", "recall.npz"])
def test_a_missing_file_is_named(tmp_path, name: str) -> None:
    path = save(measured(), tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(HyenaError, match=rf"not a whole result .*{name}.*run the experiment again"):
        load(path)


@pytest.mark.parametrize("name", ["recall.curves.csv", "recall.npz"])
def test_an_altered_file_is_named(tmp_path, name: str) -> None:
    path = save(measured(), tmp_path)
    file = tmp_path / name
    file.write_bytes(file.read_bytes()[:-1] + b"!")
    with pytest.raises(HyenaError, match=rf"^{name} is not the file that .*recall.json names; delete both"):
        load(path)


def test_a_missing_result_is_an_error_not_a_traceback(tmp_path) -> None:
    with pytest.raises(HyenaError, match=r"nothing.json"):
        load(tmp_path / "nothing.json")


@pytest.mark.parametrize("fails", [0, 1, 2])
def test_a_full_disk_leaves_the_old_result_whole(tmp_path, monkeypatch, fails: int) -> None:
    """Whichever of the three files no longer fits."""
    path = save(measured(), tmp_path)
    before = contents(tmp_path)
    new = measured(per_seed={"bits": [9.0]}, tables={"curves": [{"loss": 9.0}]}, arrays={"filters": np.ones(9)})
    write, calls = Path.write_bytes, iter(range(10**9))

    def full(file: Path, content: bytes) -> int:
        if next(calls) == fails:
            write(file, content[: len(content) // 2])
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(file, content)

    with (
        monkeypatch.context() as patched,
        pytest.raises(HyenaError, match=r"No space left on device; nothing was chan"),
    ):
        patched.setattr(Path, "write_bytes", full)
        save(new, tmp_path)
    assert contents(tmp_path) == before
    assert load(path).metrics["bits"] == 2.5
    save(new, tmp_path)
    assert load(path).metrics["bits"] == 9.0


def test_an_interrupted_save_leaves_the_old_result_whole(tmp_path, monkeypatch) -> None:
    save(measured(), tmp_path)
    before = contents(tmp_path)

    def interrupted(file: Path, content: bytes) -> int:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(Path, "write_bytes", interrupted)
        save(measured(per_seed={"bits": [9.0]}), tmp_path)
    assert contents(tmp_path) == before


def test_a_folder_that_cannot_be_made_is_one_error(tmp_path) -> None:
    (tmp_path / "results").write_text("a file where a folder belongs")
    with pytest.raises(HyenaError, match=r"could not write .*recall"):
        save(measured(), tmp_path / "results")


def test_pickled_arrays_are_never_loaded(tmp_path) -> None:
    path = save(measured(), tmp_path)
    np.savez(tmp_path / "recall.npz", filters=np.array([{"a": 1}], dtype=object))
    stored = json.loads(path.read_text())
    stored["files"]["recall.npz"] = hashlib.sha256((tmp_path / "recall.npz").read_bytes()).hexdigest()
    path.write_text(json.dumps(stored))
    with pytest.raises(ValueError, match="allow_pickle=False"):
        load(path)
