"""Gene models: where transcripts and exons of GRCh37 begin and end, and the sites that follow from it."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import NamedTuple

from hyena.errors import HyenaError


class Site(NamedTuple):
    """A place between two letters of the reference strand, read on `strand`: `at` letters lie before it."""

    at: int
    strand: str


class Gene(NamedTuple):
    """One transcript; bounds count from 0 on the reference strand and are half-open."""

    name: str
    record: str
    strand: str
    start: int
    end: int
    exons: tuple[tuple[int, int], ...]

    @property
    def transcription_start(self) -> Site:
        """Before the first transcribed letter."""
        return Site(self.start if self.strand == "+" else self.end, self.strand)

    def splice_sites(self, kind: str) -> list[Site]:
        """The middle of the two letters with which every intron begins ("donor", GT) or ends ("acceptor", AG)."""
        introns = [(a[1], b[0]) for a, b in zip(self.exons, self.exons[1:], strict=False)]
        first = (kind == "donor") == (self.strand == "+")  # on the reverse strand an intron is read from its end
        return [Site(start + 1 if first else end - 1, self.strand) for start, end in introns]


def read_genes(path: Path, record: str) -> list[Gene]:
    """The genes of one record, from a table NAME, CHROM, STRAND, TX_START, TX_END, EXON_START, EXON_END.

    Raises:
        HyenaError: a line that is no gene, or no gene of this record.
    """
    found = []
    with path.open(newline="") as file:
        for number, row in enumerate(csv.DictReader(file, delimiter="\t"), start=2):
            if row.get("CHROM") != record:
                continue
            try:
                found.append(_gene(row))
            except (KeyError, ValueError, AttributeError) as error:
                raise HyenaError(f"{path}, line {number}: not a gene model ({error})") from error
    if not found:
        raise HyenaError(f"{path} has no gene of record {record!r}")
    return found


def _gene(row: dict[str, str]) -> Gene:
    starts, ends = ([int(n) for n in row[key].split(",") if n] for key in ("EXON_START", "EXON_END"))
    return Gene(
        row["#NAME"], row["CHROM"], row["STRAND"], int(row["TX_START"]), int(row["TX_END"]),
        tuple(zip(starts, ends, strict=True)),
    )  # fmt: skip
