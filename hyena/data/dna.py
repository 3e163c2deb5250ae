"""DNA to learn from: a genome in three parts, the windows a model reads, and the letters that it is scored on."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int, UInt8
from torch import Tensor

from hyena.data.fetch import fetch
from hyena.data.genome import Interval, Loaded, known_tiles, open_fasta, random_windows, split_evenly
from hyena.data.labelled import chip_windows
from hyena.data.nucleotides import N
from hyena.data.registry import sha256_of
from hyena.data.synthetic import IGNORE
from hyena.errors import HyenaError, unknown

SOURCES = ("chip-windows", "chr20")


@dataclass(frozen=True)
class DnaCorpus:
    """A genome, its intervals by part, and the hash of every file that it comes from."""

    name: str
    genome: Loaded
    split: dict[str, list[Interval]]
    data: dict[str, str] = field(default_factory=dict)

    def batch(
        self, length: int, count: int, seed: int, step: int
    ) -> tuple[Int[Tensor, "count length"], Int[Tensor, "count length"]]:
        """Inputs and next-letter targets of random training windows; N is read but not asked for."""
        windows = random_windows(self.genome, self.split["train"], length + 1, count, seed, step)
        return _asked(torch.from_numpy(windows).long())

    def tiles(self, part: str, length: int, limit: int) -> UInt8[np.ndarray, "tiles letters"]:
        """Windows of `length` + 1 letters, of which all but the first are targets, spread over a held-out part."""
        return known_tiles(self.genome, self.split[part], length + 1, limit)

    def letters(self, part: str) -> list[UInt8[np.ndarray, " _"]]:
        """All letters of a part, one array for each interval."""
        return [self.genome[interval] for interval in self.split[part]]


def load_dna(source: str) -> DnaCorpus:
    """DNA by name, or a FASTA file of yours.

    * `chip-windows`: 7,997 human windows of 200 bp (`oct4_mafk`), whole chromosomes held out.
    * `chr20`: human chromosome 20, blocks of 1 Mb held out, a tenth each for validation and test.
    * a path: blocks held out likewise, a hundredth of the longest record each, 1 Mb at most.

    Raises:
        HyenaError: an unknown name, data that cannot be had, or a file that is no FASTA file.
    """
    if source == "chip-windows":
        windows, split, hashes = chip_windows()
        return DnaCorpus(source, windows, split, hashes)
    if source == "chr20":
        file = fetch("chr20")
        return _in_memory(source, file.path, file.hash)
    path = Path(source).expanduser()
    if not path.suffix and not path.exists():
        raise unknown("source of DNA", source, SOURCES)
    return _in_memory(path.name, path)


def _in_memory(name: str, path: Path, digest: str = "") -> DnaCorpus:
    """All records, a byte for each letter: windows come fast, and an illegal letter is found before any training."""
    genome = open_fasta(path)
    loaded = Loaded(genome.name, {record: genome.record(record) for record in genome.lengths})
    return DnaCorpus(name, loaded, split_evenly(loaded.lengths), {name: digest or sha256_of(path.open("rb"))})


def in_windows(
    tiles: UInt8[np.ndarray, "tiles letters"], length: int
) -> tuple[Int[Tensor, "windows length"], Int[Tensor, "windows length"]]:
    """The same targets of every tile, read in windows of `length`: each target is predicted once, from its window.

    Raises:
        HyenaError: `length` does not divide the tiles.
    """
    total = tiles.shape[1] - 1
    if total % length:
        raise HyenaError(f"windows of {length} do not tile {total} letters; choose lengths that divide the longest")
    x, y = _asked(torch.from_numpy(tiles).long())
    return x.reshape(-1, length), y.reshape(-1, length)


def _asked(windows: Tensor) -> tuple[Tensor, Tensor]:
    targets = windows[:, 1:]
    return windows[:, :-1], targets.masked_fill(targets == N, IGNORE)
