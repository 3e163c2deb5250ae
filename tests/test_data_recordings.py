"""Recordings: the documented layout, one loader for both kinds of file, and files that are not what they should be."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest

from hyena.data import recordings as module
from hyena.data.recordings import PUBLISHED_CELLS, STIMULI, Session, load_recording, simulated_recording
from hyena.data.retina import LAYERS, calibrated
from hyena.data.retina_stimuli import white_noise
from hyena.errors import HyenaError

SHORT = Session(train=2, block=60, test=80, repeats=4, settled=50)


@pytest.fixture
def simulated(monkeypatch, tmp_path: Path):
    """A recording by white noise, of cells that are calibrated without photographs."""
    retina = calibrated([white_noise(400, 16, np.random.default_rng(0))[None]], skip=100)
    monkeypatch.setattr(module, "the_retina", lambda seed: retina)
    monkeypatch.setattr(module, "pictures", lambda: {"picture": "hash"})
    monkeypatch.setenv("HYENA_CACHE", str(tmp_path))
    return lambda session=SHORT: simulated_recording("whitenoise", session)


@pytest.fixture
def public(tmp_path: Path) -> Path:
    """A file in the layout of the public recordings, short: no attributes, six blocks, one bin too many."""
    rng, path = np.random.default_rng(0), tmp_path / "15-11-21a" / "naturalscene.h5"
    path.parent.mkdir()
    with h5py.File(path, "w") as file:
        for name, bins in (("train", 6 * 6005), ("test", 40)):
            file[f"{name}/stimulus"] = rng.integers(0, 256, (bins, 4, 4), dtype=np.uint8)
            file[f"{name}/time"] = 0.01 * np.arange(bins)
            file[f"{name}/response/binned"] = rng.integers(0, 3, (15, bins + 1))
        for cell in range(15):
            file[f"test/repeats/cell{cell + 1:02d}"] = np.full((5, 40), cell)
    return path


def changed(path: Path, change) -> Path:
    with h5py.File(path, "a") as file:
        change(file)
    return path


def replaced(name: str, value):
    def change(file: h5py.File) -> None:
        del file[name]
        if value is not None:
            file[name] = value

    return change


def test_the_layout_is_the_documented_one(simulated) -> None:
    bins, cells = 3 * 110, 8
    with h5py.File(simulated()) as file:
        shapes = {}
        file.visititems(lambda name, item: shapes.update({name: item.shape} if isinstance(item, h5py.Dataset) else {}))
    wanted = {
        "train/stimulus": (bins, 16, 16),
        "train/time": (bins,),
        "test/stimulus": (130, 16, 16),
        "test/time": (130,),
    }
    for part, length in (("train", bins), ("test", 130)):
        for name in ("firing_rate_5ms", "firing_rate_10ms", "firing_rate_20ms", "binned"):
            wanted[f"{part}/response/{name}"] = (cells, length)
    wanted |= {f"test/repeats/cell{i:02d}": (4, 130) for i in range(1, 9)}
    wanted |= {f"ground_truth/{layer}": (130, 16, 16) for layer in LAYERS}
    spikes = {name for name in shapes if name.startswith("train/spikes/")}
    assert spikes == {f"train/spikes/cell{i:02d}" for i in range(1, 9)}
    assert {name: shape for name, shape in shapes.items() if name not in spikes} == wanted


def test_spike_times_counts_and_rates_are_of_the_same_spikes(simulated) -> None:
    with h5py.File(simulated(Session(train=2, block=600, test=80, repeats=4, settled=50))) as file:
        times, counts = file["train/spikes/cell01"][:], file["train/response/binned"][0]
        rate = file["train/response/firing_rate_10ms"][0]
    assert len(times) > 5
    again = np.bincount(np.floor(times / 0.01 + 1e-6).astype(int), minlength=len(counts))
    assert np.array_equal(again, counts)
    assert rate.sum() * 0.01 == pytest.approx(counts.sum(), rel=0.02)


def test_a_simulated_file_is_read_in_blocks_of_which_the_last_validates(simulated) -> None:
    recording = load_recording(simulated())
    assert recording.train.stimulus.shape == (2, 110, 16, 16) and recording.valid.stimulus.shape == (1, 110, 16, 16)
    assert recording.test.counts.shape == (4, 1, 130, 8) and recording.train.counts.shape == (1, 2, 110, 8)
    assert recording.train.dropped == recording.test.dropped == 50
    assert recording.truth["bipolar_off"].shape == (1, 130, 16, 16) and recording.data == {"picture": "hash"}


def test_it_is_made_once_and_again_after_damage_is_named(simulated) -> None:
    path = simulated()
    before = path.stat().st_mtime_ns
    assert simulated() == path and path.stat().st_mtime_ns == before
    assert simulated(Session(train=2, block=60, test=80, repeats=4, settled=50, seed=1)) != path
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(HyenaError, match="no whole HDF5 file"):
        load_recording(path)


def test_an_interrupted_simulation_leaves_nothing(simulated, monkeypatch, tmp_path: Path) -> None:
    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "spike_trains", stopped)
    with pytest.raises(KeyboardInterrupt):
        simulated()
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_training_validation_and_test_films_differ(simulated) -> None:
    recording = load_recording(simulated())
    films = [*recording.train.stimulus, *recording.valid.stimulus, recording.test.stimulus[0, :110]]
    assert all(not np.array_equal(a, b) for i, a in enumerate(films) for b in films[:i])


def test_the_public_layout_is_read_by_the_published_rules(public: Path) -> None:
    recording = load_recording(public)
    assert recording.train.stimulus.shape == (5, 6005, 4, 4) and recording.train.dropped == 6000
    assert recording.test.counts.shape == (5, 1, 40, 4)
    assert recording.test.counts[0, 0, 0].tolist() == list(PUBLISHED_CELLS["15-11-21a"])
    assert recording.truth == {}


def test_cells_are_chosen_in_both_parts(public: Path) -> None:
    recording = load_recording(public, cells=(2, 0))
    assert recording.test.counts[0, 0, 0].tolist() == [2, 0] and recording.train.counts.shape[-1] == 2
    with h5py.File(public) as file:
        assert np.array_equal(recording.train.counts[0, 0, :, 1], file["train/response/binned"][0, :6005])


def test_cells_are_found_by_number_not_by_place(public: Path) -> None:
    recording = load_recording(changed(public, replaced("test/repeats/cell02", None)), cells=(2, 0))
    assert recording.test.counts[0, 0, 0].tolist() == [2, 0]
    with h5py.File(public) as file:
        assert np.array_equal(recording.train.counts[0, 0, :, 0], file["train/response/binned"][2, :6005])


def test_each_part_sees_photographs_of_its_own(monkeypatch) -> None:
    asked = []

    def movie(bins: int, side: int, photographs: tuple[str, ...], rng) -> np.ndarray:
        asked.append(set(photographs))
        return np.zeros((bins, side, side), dtype=np.float32)

    monkeypatch.setattr(module, "natural_movie", movie)
    for name in ("train", "valid", "test"):
        module.shown("naturalscene", name, 10, np.random.default_rng(0))
    assert asked == [set(module.PARTS[name]) for name in ("train", "valid", "test")]
    assert not asked[0] & asked[1] and not asked[0] & asked[2] and not asked[1] & asked[2]


# mistakes


def test_other_cells_in_both_parts_and_single_trials_are_refused(public: Path, tmp_path: Path) -> None:
    fewer = tmp_path / "other" / "naturalscene.h5"
    fewer.parent.mkdir()
    fewer.write_bytes(public.read_bytes())
    with pytest.raises(HyenaError, match="15 cells in train and 14 in test"):
        load_recording(changed(fewer, replaced("test/repeats/cell02", None)))

    def once(file: h5py.File) -> None:
        for name in list(file["test/repeats"]):
            replaced(f"test/repeats/{name}", np.zeros((1, 40)))(file)

    with pytest.raises(HyenaError, match="one trial in its test part"):
        load_recording(changed(public, once))


def test_a_missing_file_is_named_with_where_it_comes_from(tmp_path: Path) -> None:
    with pytest.raises(HyenaError, match=r"missing.*10\.25740/rk663dm5577"):
        load_recording(tmp_path / "naturalscene.h5")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (replaced("test", None), "no group 'test'; it holds train"),
        (replaced("train/stimulus", None), "no train/stimulus"),
        (replaced("test/time", np.arange(40) / 60), "60 frames a second"),
        (replaced("test/repeats/cell07", np.full((5, 40), -1)), "no whole numbers from 0 on"),
        (replaced("train/response/binned", np.full((15, 6 * 6005), np.nan)), "no whole numbers from 0 on"),
        (replaced("train/response/binned", np.full((15, 6 * 6005), 0.4)), "are they rates"),
        (replaced("train/response/binned", np.zeros((15, 99))), "36030 frames and 99 bins"),
        (replaced("test/time", np.zeros(40)), "times that do not increase"),
        (replaced("test/stimulus", np.full((40, 4, 4), np.inf)), "not finite"),
    ],
)
def test_what_is_wrong_with_a_file_is_said(public: Path, change, words: str) -> None:
    with pytest.raises(HyenaError, match=words):
        load_recording(changed(public, change))


def test_a_missing_cell_is_named(public: Path) -> None:
    with pytest.raises(HyenaError, match="15 cells, counted from 0; there is no cell 15"):
        load_recording(public, cells=(0, 15))


def test_blocks_that_would_be_dropped_whole_are_refused(public: Path) -> None:
    def shorter(file: h5py.File) -> None:
        for name in ("stimulus", "time", "response/binned"):
            data = file[f"train/{name}"][:]
            replaced(f"train/{name}", data[:, :600] if name.endswith("binned") else data[:600])(file)

    with pytest.raises(HyenaError, match="of which 6000 would be dropped"):
        load_recording(changed(public, shorter))


def test_a_single_training_block_cannot_validate(simulated) -> None:
    path = changed(simulated(), lambda file: file["train"].attrs.update({"blocks": 1}))
    with pytest.raises(HyenaError, match="takes two, of which the last one validates"):
        load_recording(path)


def test_unknown_stimuli_are_refused() -> None:
    with pytest.raises(HyenaError, match=f"unknown stimulus 'noise'.*{STIMULI[0]}"):
        simulated_recording("noise")
