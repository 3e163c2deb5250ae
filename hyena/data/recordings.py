"""Recordings of ganglion cells in the HDF5 layout of the public salamander data, read, and written by the simulation.

>>> recording = load_recording(simulated_recording("naturalscene", Session(train=1, block=500, test=500, settled=100)))
>>> recording.train.stimulus.shape, recording.test.counts.shape
((1, 600, 16, 16), (20, 1, 600, 8))

A file holds one kind of stimulus, `naturalscene.h5` or `whitenoise.h5`, with groups `train` and `test`: `stimulus`
(bins, height, width), `time` (bins) in seconds, `response/{firing_rate_5ms, firing_rate_10ms, firing_rate_20ms,
binned}` (cells, bins), `repeats/cell01, ...` (trials, bins) in the test part, and `spikes/cell01, ...` of the train
part, times in seconds. Files of the simulation add `ground_truth/<layer>` (bins, height, width), what every cell in
front of the ganglion cells did in the test part, and attributes: of a part `blocks`, how many it has, and `dropped`,
the bins of each that are not scored; of the file `cell_types` and `pictures`, the hashes of what it was made from.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.ndimage import gaussian_filter1d

from hyena.data import images, motion, pixels, retina, retina_stimuli
from hyena.data.motion import PARTS
from hyena.data.pixels import FILMS, PHOTOGRAPHS, photograph
from hyena.data.retina import DT, Circuit, Movie, Retina, binned, calibrated, interneurons, spike_trains
from hyena.data.retina_stimuli import film_movie, natural_movie, white_noise
from hyena.errors import HyenaError, unknown
from hyena.paths import cache
from hyena.source import bare, digest

STIMULI = ("naturalscene", "whitenoise")
SMOOTHED = (5, 10, 20)  # milliseconds
CALIBRATED = 3500  # bins of each kind of stimulus that thresholds are set by
PUBLISHED_CELLS = {
    "15-10-07": (0, 1, 2, 3, 4),
    "15-11-21a": (6, 10, 12, 13),
    "15-11-21b": (0, 1, 3, 5, 8, 9, 13, 14, 16, 17, 18, 20, 21, 22, 23, 24, 25),
}  # those kept in the papers, by date of the recording
PUBLISHED_BLOCKS, PUBLISHED_DROPPED = 6, 6000

Blocks = Float[np.ndarray, "_ _ height width"]
Spikes = Bool[np.ndarray, "_ _ _ cells"]


@dataclass(frozen=True)
class Part:
    """Stimulus and spikes in blocks, each from a rested retina; scores leave out the first `dropped` bins of each."""

    stimulus: Float[np.ndarray, "blocks bins height width"]
    counts: Int[np.ndarray, "trials blocks bins cells"]
    dropped: int = 0

    def first(self, blocks: int) -> Part:
        """At most so many blocks, from the start."""
        return Part(self.stimulus[:blocks], self.counts[:, :blocks], self.dropped)


@dataclass(frozen=True)
class Recording:
    """One retina and one kind of stimulus; the last block of the training part is kept for validation.

    Arguments:
        mark: the first letters of a hash of what is learned from.
        truth: what cells in front of the ganglion cells did in the test part, where that is known.
        data: hashes of the files it comes from.
    """

    name: str
    train: Part
    valid: Part
    test: Part
    mark: str
    truth: dict[str, Movie]
    data: dict[str, str]


@dataclass(frozen=True)
class Session:
    """How long a simulated retina is watched: blocks of `settled` bins, which are dropped, and `block` more.

    Arguments:
        train: blocks to learn from; one more validates, with photographs of its own.
        test: bins of the test block after those dropped, shown `repeats` times, photographs of its own too.
        seed: of cells, stimuli and spikes.
    """

    train: int = 30
    block: int = 6000
    test: int = 6000
    repeats: int = 20
    settled: int = retina.SETTLED
    seed: int = 0


def the_retina(seed: int = 0) -> Retina:
    """The cells of a simulated recording; thresholds are set by white noise and by all photographs."""
    rng = np.random.default_rng((seed, 1))
    every = sorted(name for names in PARTS.values() for name in names)
    noise = white_noise(CALIBRATED, retina.SIDE, rng)
    return calibrated([noise[None], natural_movie(CALIBRATED, retina.SIDE, every, rng)[None]], seed)


def shown(kind: str, part: str, bins: int, rng: np.random.Generator) -> Movie:
    """A block of a stimulus: white noise, photographs that belong to one part alone, or a film by its name.

    Raises:
        HyenaError: another stimulus.
    """
    if kind == "whitenoise":
        return white_noise(bins, retina.SIDE, rng)[None]
    if kind == "naturalscene":
        return natural_movie(bins, retina.SIDE, PARTS[part], rng)[None]
    if kind in FILMS:
        return film_movie(bins, retina.SIDE, kind, rng)[None]
    raise unknown("stimulus", kind, (*STIMULI, *FILMS))


def simulated_recording(kind: str, session: Session = Session()) -> Path:
    """The file of a simulated recording, made once and kept in the cache.

    Raises:
        HyenaError: another stimulus, or photographs that cannot be had.
    """
    if kind not in STIMULI:
        raise unknown("stimulus", kind, STIMULI)
    about = json.dumps({"stimulus": kind, "pictures": pictures()} | asdict(session), sort_keys=True)
    modules = (retina.__file__, retina_stimuli.__file__, images.__file__, motion.__file__, pixels.__file__, __file__)
    mark = digest(about + "".join(bare(Path(module).read_text()) for module in modules))
    path = cache() / "simulated" / f"retina-{mark}" / f"{kind}.h5"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, partial = tempfile.mkstemp(dir=path.parent, suffix=".part")
        os.close(handle)
        try:
            _simulate(Path(partial), kind, session)
            Path(partial).replace(path)
        finally:
            Path(partial).unlink(missing_ok=True)
    return path


def pictures() -> dict[str, str]:
    """Hashes of the photographs."""
    return {file.name: file.hash for file in map(photograph, PHOTOGRAPHS)}


def _simulate(path: Path, kind: str, session: Session) -> None:
    cells, number = the_retina(session.seed), STIMULI.index(kind)

    def block(part: str, bins: int, i: int = 0) -> Movie:
        rng = np.random.default_rng((session.seed, 2, number, sorted(PARTS).index(part), i))
        return shown(kind, part, session.settled + bins, rng)

    learned = [*(block("train", session.block, i) for i in range(session.train)), block("valid", session.block)]
    test = block("test", session.test)
    rng = np.random.default_rng((session.seed, 3, number))
    rates = np.concatenate([cells.respond(one) for one in learned])
    spikes = spike_trains(rates, rng)[None], spike_trains(cells.respond(test).repeat(session.repeats, 0), rng)[:, None]
    parts = {"train": (np.concatenate(learned), spikes[0]), "test": (test, spikes[1])}
    truth = {name: layer[0] for name, layer in interneurons(test, Circuit()).items()}
    about = {"cell_types": cells.types, "pictures": pictures()}
    write_recording(path, parts, session.settled, truth, about)


def write_recording(
    path: Path, parts: dict[str, tuple[Blocks, Spikes]], dropped: int,
    truth: dict[str, Float[np.ndarray, "_ height width"]], about: dict[str, object],
) -> None:  # fmt: skip
    """Write the layout described above; `truth`, of the test part, in half precision.

    Arguments:
        parts: stimulus (blocks, bins, height, width) and spikes (trials, blocks, milliseconds, cells) of each.
        dropped: bins of each block that are not to be scored.
        about: attributes of the file, kept as JSON.
    """
    import h5py  # here, so that the package is imported without it

    with h5py.File(path, "w") as file:
        file.attrs.update({name: json.dumps(value) for name, value in about.items()})
        for name, (stimulus, spikes) in parts.items():
            group = file.create_group(name)
            group.attrs.update({"blocks": len(stimulus), "dropped": dropped})
            film = stimulus.reshape(-1, *stimulus.shape[2:])
            group.create_dataset("stimulus", data=film, compression="gzip", compression_opts=1)
            group["time"] = DT * np.arange(len(film))
            trains = spikes.reshape(len(spikes), -1, spikes.shape[-1])  # (trials, milliseconds, cells)
            counts = binned(trains)
            mean = counts.mean(0).T  # (cells, bins)
            group["response/binned"] = mean.astype(np.float32)
            for sd in SMOOTHED:
                rate = gaussian_filter1d(mean / DT, sd / (1000 * DT), axis=1)
                group[f"response/firing_rate_{sd}ms"] = rate.astype(np.float32)
            for cell in range(counts.shape[2]):
                if len(counts) > 1:
                    group[f"repeats/cell{cell + 1:02d}"] = counts[..., cell].astype(np.int32)
                else:
                    group[f"spikes/cell{cell + 1:02d}"] = np.flatnonzero(trains[0, :, cell]) / 1000
        for name, layer in truth.items():
            data = layer.astype(np.float16)
            file.create_dataset(f"ground_truth/{name}", data=data, compression="gzip", compression_opts=1)


def load_recording(path: Path, cells: tuple[int, ...] = ()) -> Recording:
    """A recording of the simulation or of the public data.

    Without attributes, the published rules hold: six blocks in the training part, of which the first 60 s are dropped,
    and one bin too many of a response is cut off.

    Arguments:
        cells: which to read, counted from 0; all of them if empty, or those of the papers if the folder is one of
            `PUBLISHED_CELLS`.

    Raises:
        HyenaError: no such file or none of HDF5, a part or cell that is missing or has another length, another frame
            rate, counts that are no whole numbers from 0 on, a stimulus that is not finite, blocks that would be
            dropped whole, a test part of a single trial, or one training block.
    """
    import h5py

    if not path.is_file():
        raise HyenaError(
            f"{path} is missing; a recording is a folder with {' and '.join(f'{kind}.h5' for kind in STIMULI)}, as in "
            "neural_code_data.zip of doi 10.25740/rk663dm5577"
        )
    cells = cells or PUBLISHED_CELLS.get(path.parent.name, ())
    try:
        with h5py.File(path) as file:
            parts = {name: _part(file, path, name, cells) for name in ("train", "test")}
            truth = {name: layer[:][None].astype(np.float32) for name, layer in file.get("ground_truth", {}).items()}
            data = json.loads(file.attrs.get("pictures", "{}"))
    except OSError as error:
        raise HyenaError(f"{path} is no whole HDF5 file ({error}); delete it and fetch or simulate it again") from error
    train, test = parts["train"], parts["test"]
    if train.counts.shape[-1] != test.counts.shape[-1]:
        raise HyenaError(
            f"{path} has {train.counts.shape[-1]} cells in train and {test.counts.shape[-1]} in test; give as cells "
            "those of both"
        )
    if len(train.stimulus) < 2:
        raise HyenaError(f"{path} has one training block; it takes two, of which the last one validates")
    if len(test.counts) < 2:
        raise HyenaError(f"{path} has one trial in its test part; reliability takes two or more")
    valid = Part(train.stimulus[-1:], train.counts[:, -1:], train.dropped)
    sha = hashlib.sha256(np.ascontiguousarray(train.stimulus))
    sha.update(np.ascontiguousarray(train.counts))
    first = train.first(len(train.stimulus) - 1)
    if not data:
        with path.open("rb") as content:
            data = {path.name: hashlib.file_digest(content, "sha256").hexdigest()}
    return Recording(path.stem, first, valid, test, sha.hexdigest()[:8], truth, data)


def _part(file, path: Path, name: str, cells: tuple[int, ...]) -> Part:
    if name not in file:
        raise HyenaError(f"{path} has no group {name!r}; it holds {', '.join(sorted(file))}")
    group = file[name]
    for member in ("stimulus", "time", "response/binned"):
        if member not in group:
            raise HyenaError(f"{path} has no {name}/{member}")
    stimulus, times = group["stimulus"][:].astype(np.float32), group["time"][:]
    step = float(np.median(np.diff(times)))
    if not abs(step / DT - 1) <= 0.05:
        rate = f"{1 / step:.4g} frames a second" if step > 0 else "times that do not increase"
        raise HyenaError(
            f"{path} has {rate} in {name}; models here take {1 / DT:g} frames a second, so resample stimulus and "
            "responses"
        )
    if not np.isfinite(stimulus).all():
        raise HyenaError(f"{path} has a stimulus in {name} that is not finite")
    counts = _repeats(group, path, cells) if "repeats" in group else _single(group, path, cells)[None]
    extra = counts.shape[1] - len(stimulus)
    if extra not in (0, 1):
        raise HyenaError(f"{path} has {len(stimulus)} frames and {counts.shape[1]} bins of response in {name}")
    counts = counts[:, : len(stimulus)]
    if not np.isfinite(counts).all() or counts.min() < 0 or abs(counts - np.rint(counts)).max() > 1e-3:
        raise HyenaError(f"{path} has counts of spikes in {name} that are no whole numbers from 0 on; are they rates?")
    blocks = group.attrs.get("blocks", PUBLISHED_BLOCKS if name == "train" else 1)
    dropped = group.attrs.get("dropped", PUBLISHED_DROPPED if name == "train" else 0)
    length = len(stimulus) // blocks
    if length <= dropped:
        raise HyenaError(f"{path} has blocks of {length} bins in {name}, of which {dropped} would be dropped")
    stimulus = stimulus[: blocks * length].reshape(blocks, length, *stimulus.shape[1:])
    counts = counts[:, : blocks * length].reshape(len(counts), blocks, length, -1)
    return Part(stimulus, np.rint(counts).astype(np.int64), int(dropped))


def _repeats(group, path: Path, cells: tuple[int, ...]) -> Float[np.ndarray, "trials bins cells"]:
    names = {int(name.removeprefix("cell")) - 1: name for name in group["repeats"]}
    return np.stack([group["repeats"][names[i]][:] for i in _chosen(sorted(names), cells, path)], -1).astype(float)


def _single(group, path: Path, cells: tuple[int, ...]) -> Float[np.ndarray, "bins cells"]:
    every = group["response/binned"][:]
    return every[_chosen(list(range(len(every))), cells, path)].T.astype(float)


def _chosen(there: list[int], cells: tuple[int, ...], path: Path) -> list[int]:
    for cell in cells:
        if cell not in there:
            raise HyenaError(f"{path} has {len(there)} cells, counted from 0; there is no cell {cell}")
    return list(cells) or there
