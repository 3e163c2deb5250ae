"""Genomes: FASTA files of yours or of the registry, intervals, and windows that never cross a split.

>>> genome = open_fasta("genome.fa.gz")
>>> split = split_blocks(genome.lengths, block=1_000_000)
>>> x = random_windows(genome, split["train"], length=1024, count=32, seed=0, step=0)

Positions count from 0 and intervals are half-open, as in BED files.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import shutil
import tempfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8

from hyena import paths
from hyena.data.nucleotides import N, encode, reverse_complement
from hyena.errors import HyenaError, unknown

PARTS = ("train", "valid", "test")
BLOCK = 1_000_000  # bp that are held out together, where the records are long enough
GZIP = b"\x1f\x8b"
TRIES = 100  # draws of a window before the intervals are said to hold nothing but N


class Interval(NamedTuple):
    """Part of a record: `start` counts from 0, `end` is not in it."""

    record: str
    start: int
    end: int

    @property
    def length(self) -> int:
        return self.end - self.start


class Genome:
    """Random access to the records of a FASTA file; nothing is read before it is asked for.

    Arguments:
        path: a FASTA file that is not compressed; `open_fasta` opens any.
        name: what to call it in errors.
    """

    def __init__(self, path: Path, name: str):
        from pyfaidx import Faidx, FastaIndexingError  # here, so that training on arrays works without it

        self.name = name
        index = _index_of(path)
        try:
            self._faidx = Faidx(str(path), indexname=str(index), sequence_always_upper=True)
        except OSError as error:
            raise HyenaError(f"cannot index {name}: {error}; the index goes to {index.parent}") from error
        except (FastaIndexingError, ValueError) as error:  # lines of unequal length; two records of one name
            why = " ".join(str(error).split())
            raise HyenaError(f"{name} cannot be indexed: {why}; records need even lines and different names") from error
        self.lengths: dict[str, int] = {record: entry.rlen for record, entry in self._faidx.index.items()}
        if empty := [record for record, length in self.lengths.items() if not length]:
            raise HyenaError(f"{name}: record {empty[0]!r} has no sequence")

    def __getitem__(self, interval: Interval) -> UInt8[np.ndarray, " length"]:
        """The letters of an interval as ids (`hyena.data.nucleotides`); lower case is read as the same bases.

        Raises:
            HyenaError: no such record, the interval lies outside it, or a letter is none of A, C, G, T and N.
        """
        record, start, end = interval
        if record not in self.lengths:
            raise unknown(f"record of {self.name}", record, self.lengths)
        if not 0 <= start < end <= self.lengths[record]:
            raise HyenaError(
                f"{record}:{start}-{end} is not inside {self.name}: {record} has {self.lengths[record]:,} bp"
            )
        letters = self._faidx.fetch(record, start + 1, end).seq  # counts from 1, end included
        return encode(letters, f"{self.name}, record {record},", first=start + 1)

    def record(self, name: str) -> UInt8[np.ndarray, " length"]:
        """A whole record."""
        return self[Interval(name, 0, self.lengths.get(name, 1))]


class Loaded:
    """Records that are in memory, read by interval as those of a `Genome`: for many small windows, much faster."""

    def __init__(self, name: str, records: Mapping[str, UInt8[np.ndarray, " _"]]):
        self.name, self.records = name, dict(records)
        self.lengths = {record: len(letters) for record, letters in records.items()}

    def __getitem__(self, interval: Interval) -> UInt8[np.ndarray, " length"]:
        """The letters of an interval as ids."""
        return self.records[interval.record][interval.start : interval.end]


Records = Genome | Loaded


def open_fasta(path: str | Path) -> Genome:
    """A FASTA file: plain, gzip or bgzip, upper or lower case, any line ends.

    A compressed one is unpacked once, into the cache; the index lies there too, so the file's own folder may be
    read-only.

    Raises:
        HyenaError: there is no such file, or it is not a FASTA file.
    """
    path = Path(path).expanduser()
    try:
        with path.open("rb") as file:
            head = file.read(2)
    except OSError as error:
        raise HyenaError(f"cannot read {path}: {error.strerror}") from error
    plain = _unpacked(path) if head == GZIP else path
    with plain.open("rb") as file:
        first = file.read(1)
    if first != b">":
        raise HyenaError(f"{path} is not a FASTA file: it begins with {first.decode(errors='replace')!r}, not with '>'")
    return Genome(plain, path.name)


def read_bed(path: str | Path, genome: Genome) -> list[Interval]:
    """The intervals of a BED file, columns record, start, end; further columns and comment lines are passed over.

    Raises:
        HyenaError: a line that is no interval of `genome`, named by its number.
    """
    found = []
    try:
        lines = Path(path).expanduser().read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise HyenaError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from error
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.startswith("#") or line.split()[0] in ("track", "browser"):
            continue
        try:
            record, start, end = line.split("\t")[:3]
            interval = Interval(record, int(start), int(end))
        except ValueError:
            raise HyenaError(f"{path}, line {number}: a BED line is record, start and end between tabs") from None
        if not 0 <= interval.start < interval.end <= genome.lengths.get(record, 0):
            raise HyenaError(f"{path}, line {number}: {record}:{start}-{end} is not inside {genome.name}")
        found.append(interval)
    if not found:
        raise HyenaError(f"{path} holds no interval")
    return found


def split_records(lengths: Mapping[str, int], valid: Sequence[str], test: Sequence[str]) -> dict[str, list[Interval]]:
    """Whole records (chromosomes) held out: those named validate and test, all others train.

    Raises:
        HyenaError: an unknown record, or one that is to do both.
    """
    for record in (*valid, *test):
        if record not in lengths:
            raise unknown("record", record, lengths)
    if both := sorted(set(valid) & set(test)):
        raise HyenaError(f"{', '.join(both)} cannot both validate and test")
    part = dict.fromkeys(valid, "valid") | dict.fromkeys(test, "test")
    split: dict[str, list[Interval]] = {name: [] for name in PARTS}
    for record, length in lengths.items():
        split[part.get(record, "train")].append(Interval(record, 0, length))
    return split


def split_blocks(lengths: Mapping[str, int], block: int, period: int = 10) -> dict[str, list[Interval]]:
    """Blocks of `block` bp held out: of every `period` blocks of a record the last tests, the one before validates.

    For a single chromosome, where whole records cannot be held out. What is left of the training part between two
    held-out pairs is one interval, so that long windows fit.

    Raises:
        HyenaError: the records are too short to hold out any block.
    """
    split: dict[str, list[Interval]] = {name: [] for name in PARTS}
    for record, length in lengths.items():
        for start in range(0, length, period * block):
            bounds = [min(length, start + i * block) for i in (0, period - 2, period - 1, period)]
            for name, a, b in zip(PARTS, bounds, bounds[1:], strict=False):
                if a < b:
                    split[name].append(Interval(record, a, b))
    if not all(split.values()):
        raise HyenaError(f"no record has {period} blocks of {block:,} bp; choose smaller blocks")
    return split


def split_evenly(lengths: Mapping[str, int]) -> dict[str, list[Interval]]:
    """`split_blocks` with a hundredth of the longest record as block, and `BLOCK` at most.

    Raises:
        HyenaError: no record has 100 bp.
    """
    block = min(BLOCK, max(lengths.values()) // 100)
    if not block:
        raise HyenaError(f"no record has 100 bp: the longest has {max(lengths.values())}")
    return split_blocks(lengths, block)


def tiles(intervals: Sequence[Interval], length: int) -> list[Interval]:
    """Adjacent windows that cover each interval from its start; what is left at an end is passed over."""
    return [
        Interval(record, at, at + length)
        for record, start, end in intervals
        for at in range(start, end - length + 1, length)
    ]


def known_tiles(
    genome: Records, intervals: Sequence[Interval], length: int, limit: int, most_unknown: float = 0.1
) -> UInt8[np.ndarray, "windows length"]:
    """At most `limit` tiles, evenly spread, that have no larger share of N than `most_unknown`.

    Raises:
        HyenaError: there is none.
    """
    found = []
    every = tiles(intervals, length)
    order = np.random.default_rng(0).permutation(len(every))  # spread out, and the same for every model
    for i in order:
        window = genome[every[i]]
        if (window == N).mean() <= most_unknown:
            found.append((i, window))
        if len(found) == limit:
            break
    if not found:
        raise HyenaError(f"no window of {length:,} bp in {genome.name} with at most {most_unknown:.0%} N")
    return np.stack([window for _, window in sorted(found, key=lambda pair: pair[0])])


def random_windows(
    genome: Records,
    intervals: Sequence[Interval],
    length: int,
    count: int,
    seed: int,
    step: int,
    *,
    most_unknown: float = 0.1,
) -> UInt8[np.ndarray, "count length"]:
    """Windows at random positions, every possible one equally likely, each read from a random strand.

    The same for the same seed and step. No window crosses the border of an interval, and so none crosses a split.
    One with a larger share of N than `most_unknown` is drawn again.

    Raises:
        HyenaError: no interval is as long as a window, or nearly all is N.
    """
    rng = np.random.default_rng((seed, step))
    starts = np.array([max(0, interval.length - length + 1) for interval in intervals])
    if not starts.sum():
        longest = max((interval.length for interval in intervals), default=0)
        raise HyenaError(f"a window has {length:,} bp, the longest interval {longest:,}; use a smaller length")
    windows = (_draw(genome, intervals, starts, length, rng, most_unknown) for _ in range(count))
    return np.stack([reverse_complement(w) if rng.random() < 0.5 else w for w in windows])


def _draw(
    genome: Records,
    intervals: Sequence[Interval],
    starts: np.ndarray,
    length: int,
    rng: np.random.Generator,
    most: float,
) -> np.ndarray:
    ends = np.cumsum(starts)
    for _ in range(TRIES):
        at = int(rng.integers(ends[-1]))
        i = int(np.searchsorted(ends, at, side="right"))
        first = intervals[i].start + at - int(ends[i] - starts[i])
        window = genome[Interval(intervals[i].record, first, first + length)]
        if (window == N).mean() <= most:
            return window
    raise HyenaError(f"{TRIES} windows of {genome.name} in a row had more than {most:.0%} N; see its intervals")


def shifted(window: Interval, by: int, within: Interval) -> Interval:
    """A window moved by `by` bp, or as far as the borders of `within` allow."""
    move = min(max(by, within.start - window.start), within.end - window.end)
    return Interval(window.record, window.start + move, window.end + move)


def _folder() -> Path:
    folder = paths.cache() / "fasta"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise HyenaError(f"cannot write to {folder}: {error.strerror}; HYENA_CACHE names another folder") from error
    return folder


def _mark(path: Path) -> str:
    """Another one whenever the file is another one."""
    about = path.stat()
    return hashlib.sha256(f"{path.resolve()} {about.st_size} {about.st_mtime_ns}".encode()).hexdigest()[:16]


def _index_of(path: Path) -> Path:
    return _folder() / f"{path.name}.{_mark(path)}.fai"


def _unpacked(path: Path) -> Path:
    target = _folder() / f"{path.name.removesuffix('.gz').removesuffix('.bgz')}.{_mark(path)}"
    if target.exists():
        return target
    try:
        with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=target.parent) as beside:
            part = Path(beside, "plain")
            with gzip.open(path) as packed, part.open("wb") as out:
                shutil.copyfileobj(packed, out, 1 << 20)
            os.replace(part, target)
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or error
        raise HyenaError(f"cannot unpack {path}: {reason}; is the file whole, and the disk not full?") from error
    return target
