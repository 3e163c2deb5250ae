"""Labelled DNA: sequences with classes, in three parts that share no stretch of the genome.

>>> task = load_task("oct4-mafk")
>>> task.train.x.shape, task.classes
"""

from __future__ import annotations

import csv
import hashlib
import io
import zipfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Int, UInt8

from hyena.data.fetch import fetch
from hyena.data.genes import Gene, Site, read_genes
from hyena.data.genome import PARTS, Genome, Interval, Loaded, open_fasta, split_evenly, split_records
from hyena.data.nucleotides import N, encode, pad, reverse_complement
from hyena.data.registry import sha256_of
from hyena.errors import HyenaError, unknown

SPLICE_WINDOW, PROMOTER_WINDOW = 200, 300
VALID, TEST = ("chr8", "chr9"), ("chr1", "chr21", "chr22")  # of the ChIP windows; not chr20, which models pretrain on
GUE = {
    "prom_core_all": ("gue-promoters", "GUE/prom/prom_core_all"),
    "prom_core_notata": ("gue-promoters", "GUE/prom/prom_core_notata"),
    "prom_core_tata": ("gue-promoters", "GUE/prom/prom_core_tata"),
    "prom_300_tata": ("gue-promoters", "GUE/prom/prom_300_tata"),
    "tf_0": ("gue-factors", "GUE/tf/0"),
    "tf_1": ("gue-factors", "GUE/tf/1"),
    "tf_2": ("gue-factors", "GUE/tf/2"),
}
Found = dict[str, list[tuple[UInt8[np.ndarray, " _"], int]]]  # by part: sequences and their classes


@dataclass(frozen=True)
class Labelled:
    """Tokens with padding on the right, the mask of what is none, and one class for each sequence."""

    x: Int[np.ndarray, "examples length"]
    mask: Bool[np.ndarray, "examples length"]
    y: Int[np.ndarray, " examples"]


@dataclass(frozen=True)
class Task:
    """A classification task.

    `data` holds the hash of every file that it is made of. `aligned` says that all sequences are read on the strand
    of a landmark that stands at the same place in each: the strand and the place of a letter matter.
    """

    name: str
    classes: tuple[str, ...]
    train: Labelled
    valid: Labelled
    test: Labelled
    data: dict[str, str] = field(default_factory=dict)
    aligned: bool = False

    @property
    def length(self) -> int:
        """Of the longest sequence: all parts are padded to it."""
        return self.train.x.shape[1]


def load_task(name: str, fasta: str = "") -> Task:
    """A task by name, or one of your own: a CSV file of sequences, or of places in a FASTA file, with labels.

    * `oct4-mafk`: which of two proteins was bound to a window of 200 bp (ChIP-seq); whole chromosomes held out.
    * `donor`, `acceptor`: is there a splice site in the middle of 200 bp of chromosome 20, or another GT (AG) of a
      transcript? `promoter`: a transcription start, or another place of the chromosome? Blocks of 1 Mb held out.
    * `gue/prom_core_tata` and others: tasks of the GUE benchmark with its own three parts.
    * a path that ends in `.csv`: as `read_csv`, with `fasta` the genome that its places lie in.

    Raises:
        HyenaError: an unknown name, data that cannot be had, or a file that `read_csv` refuses.
    """
    if name.endswith(".csv"):
        task = read_csv(Path(name), open_fasta(fasta) if fasta else None)
        places = Path(fasta).expanduser()
        return replace(task, data=task.data | {places.name: sha256_of(places.open("rb"))}) if fasta else task
    makers: dict[str, Callable[[], Task]] = {
        "oct4-mafk": oct4_mafk,
        **{kind: lambda kind=kind: splice_sites(kind) for kind in ("donor", "acceptor")},
        "promoter": promoters,
        **{f"gue/{group}": lambda group=group: gue(group) for group in GUE},
    }
    if name not in makers:
        raise unknown("task", name, makers)
    return makers[name]()


def oct4_mafk() -> Task:
    """7,997 windows around ChIP-seq peaks; chromosomes 8 and 9 validate, 1, 21 and 22 test."""
    windows, split, hashes = chip_windows()
    found = {
        part: [(windows.records[record], int(record.startswith("mafk"))) for record, _, _ in intervals]
        for part, intervals in split.items()
    }
    return _task("oct4-mafk", ("Oct4", "Mafk"), found, hashes)


def chip_windows() -> tuple[Loaded, dict[str, list[Interval]], dict[str, str]]:
    """The ChIP windows as records `oct4/chr1:15710957-15711157`, split by chromosome, and the hashes of the files."""
    records, hashes = {}, {}
    for name in ("oct4", "oct4-test", "mafk", "mafk-test"):
        file = fetch(name)
        hashes[name] = file.hash
        genome = open_fasta(file.path)
        records |= {f"{name.partition('-')[0]}/{record}": genome.record(record) for record in genome.lengths}
    chromosome = {record: record.partition("/")[2].partition(":")[0] for record in records}
    held_out = {
        part: [record for record in records if chromosome[record] in chosen]
        for part, chosen in (("valid", VALID), ("test", TEST))
    }
    windows = Loaded("the ChIP windows", records)
    return windows, split_records(windows.lengths, **held_out), hashes


def splice_sites(kind: str) -> Task:
    """Annotated splice sites of chromosome 20, and as many other places with the same two letters.

    A donor is where an intron begins (GT), an acceptor where it ends (AG), read on the strand of the gene; the two
    letters stand in the middle of the window. Decoys come from transcripts too, read on the strand of the gene, so
    that neither the two letters nor "inside a gene" gives the answer away.
    """
    letters, genes, hashes = chromosome_20()
    pair = encode({"donor": "GT", "acceptor": "AG"}[kind])
    annotated = {site for gene in genes for site in gene.splice_sites(kind)}
    real = sorted(site for site in annotated if np.array_equal(around(letters, site, 2), pair))
    decoys = _decoys(letters, genes, annotated, pair, len(real))
    return _task(kind, ("decoy", kind), _in_blocks(letters, (decoys, real), SPLICE_WINDOW), hashes, aligned=True)


def promoters() -> Task:
    """Transcription starts of chromosome 20, two thirds of the window before and one after; and places far from any."""
    letters, genes, hashes = chromosome_20()
    starts = sorted({gene.transcription_start for gene in genes})
    known = np.array([site.at for site in starts])
    rng = np.random.default_rng(0)
    others: list[Site] = []
    while len(others) < len(starts):
        at = int(rng.integers(PROMOTER_WINDOW, len(letters) - PROMOTER_WINDOW))
        near = letters[at - PROMOTER_WINDOW : at + PROMOTER_WINDOW]
        if np.abs(known - at).min() > 2 * PROMOTER_WINDOW and (near != N).all():
            others.append(Site(at, "+-"[int(rng.integers(2))]))
    sixth = PROMOTER_WINDOW // 6  # from the start to the middle of its window
    middles = [Site(at - sixth if strand == "+" else at + sixth, strand) for at, strand in starts]
    found = _in_blocks(letters, (others, middles), PROMOTER_WINDOW)
    return _task("promoter", ("other", "promoter"), found, hashes, aligned=True)


def gue(group: str) -> Task:
    """One task of the GUE benchmark (Zhou et al. 2024, arXiv 2306.15006), with its own train, dev and test parts."""
    entry, folder = GUE[group]
    file = fetch(entry)
    found: Found = {}
    with zipfile.ZipFile(file.path) as archive:
        for part, name in zip(PARTS, ("train", "dev", "test"), strict=True):
            rows = csv.DictReader(io.TextIOWrapper(archive.open(f"{folder}/{name}.csv"), "utf-8"))
            found[part] = [(encode(row["sequence"], f"{group}, {name}"), int(row["label"])) for row in rows]
    return _task(f"gue/{group}", ("0", "1"), found, {entry: file.hash}, aligned=group.startswith("prom"))


def read_csv(path: Path, genome: Genome | None = None) -> Task:
    """Sequences and labels of your own, with a header line.

    Columns `sequence,label`; or `record,start,end,label` with a genome, `strand` (+ or -) optional. A column `part`
    with train, valid and test says what is held out. Without it a tenth validates and another tests: of sequences by
    their hash, the same for both strands, so that equal ones never stand on both sides; of places by the blocks of
    `split_evenly`, and one that crosses a border is left out.

    Raises:
        HyenaError: a missing column or value, a bad line (named by its number), fewer than two labels, an empty part,
            or a label that does not occur in training.
    """
    content, rows = _rows(path, {"sequence", "label"} if genome is None else {"record", "start", "end", "label"})
    classes = tuple(sorted({row["label"] for row in rows.values()}))
    if len(classes) < 2:
        raise HyenaError(f"{path} has only the label {classes[0]!r}; a classifier needs two or more")
    given = "part" in next(iter(rows.values()))
    blocks = split_evenly(genome.lengths) if genome and not given else {}
    found: Found = {part: [] for part in PARTS}
    for number, row in rows.items():
        where = f"{path}, line {number}"
        sequence = _sequence(row, genome, where)
        part = row["part"] if given else _part_of(sequence, row, blocks)
        if part not in PARTS and (given or part):
            raise HyenaError(f"{where}: part is train, valid or test, got {part!r}")
        if part:
            found[part].append((sequence, classes.index(row["label"])))
    if unseen := set(range(len(classes))) - {label for _, label in found["train"]}:
        raise HyenaError(f"{path}: the label {classes[min(unseen)]!r} does not occur in the part 'train'")
    return _task(path.stem, classes, found, {path.name: hashlib.sha256(content).hexdigest()})


def _rows(path: Path, wanted: set[str]) -> tuple[bytes, dict[int, dict[str, str]]]:
    """The file's bytes, and its rows by line number."""
    try:
        content = path.read_bytes()
        csv.field_size_limit(max(csv.field_size_limit(), len(content)))  # a sequence is one field
        reader = csv.DictReader(io.StringIO(content.decode("utf-8-sig"), newline=""))
        rows = dict((reader.line_num, row) for row in reader)  # noqa: C402 - a comprehension would look static
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise HyenaError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from error
    if not rows or (missing := sorted(wanted - set(reader.fieldnames))):
        what = f"no column {missing[0]!r}" if rows else "no row"
        raise HyenaError(f"{path} has {what}; it needs a header with {', '.join(sorted(wanted))}")
    for number, row in rows.items():
        if absent := [name for name in reader.fieldnames if name in wanted and not row[name]]:
            raise HyenaError(f"{path}, line {number}: no {absent[0]}")
    return content, rows


def chromosome_20() -> tuple[UInt8[np.ndarray, " length"], list[Gene], dict[str, str]]:
    """Its letters, its genes, and the hashes of both files."""
    chromosome, table = fetch("chr20"), fetch("genes-grch37")
    letters = open_fasta(chromosome.path)
    (record,) = letters.lengths  # named "20" or "chr20", by source
    return letters.record(record), read_genes(table.path, "20"), {f.name: f.hash for f in (chromosome, table)}


def around(letters: UInt8[np.ndarray, " length"], site: Site, width: int) -> UInt8[np.ndarray, " width"]:
    """The window of even `width` with a site in its middle, read on the site's strand."""
    window = letters[site.at - width // 2 : site.at + width // 2]
    return window if site.strand == "+" else reverse_complement(window)


def _decoys(letters: np.ndarray, genes: list[Gene], annotated: set[Site], pair: np.ndarray, count: int) -> list[Site]:
    """Places inside transcripts that read `pair` and are not annotated; drawn with a fixed seed."""
    rng = np.random.default_rng(0)
    lengths = np.array([gene.end - gene.start for gene in genes])
    chosen = rng.choice(len(genes), size=100 * count, p=lengths / lengths.sum())
    places = rng.random(len(chosen)) * lengths[chosen]
    found: set[Site] = set()
    for i, place in zip(chosen, places, strict=True):
        site = Site(genes[i].start + int(place), genes[i].strand)
        if site not in annotated and np.array_equal(around(letters, site, 2), pair):
            found.add(site)
        if len(found) == count:
            return sorted(found)
    raise HyenaError(f"only {len(found)} of {count} decoys found in {len(genes)} transcripts")


def _in_blocks(letters: np.ndarray, sites: Iterable[Iterable[Site]], width: int) -> Found:
    """Windows around the sites of each class, by the block that they lie in; one that crosses a border is left out."""
    split = split_evenly({"": len(letters)})
    part_at = np.empty(len(letters), dtype=np.uint8)
    for i, part in enumerate(PARTS):
        for _, start, end in split[part]:
            part_at[start:end] = i
    found: Found = {part: [] for part in PARTS}
    for label, some in enumerate(sites):
        for site in some:
            first, last = part_at[[site.at - width // 2, site.at + width // 2 - 1]]
            if first == last:
                found[PARTS[first]].append((around(letters, site, width), label))
    return found


def _sequence(row: Mapping[str, str], genome: Genome | None, where: str) -> UInt8[np.ndarray, " _"]:
    if genome is None:
        return encode(row["sequence"], where)
    try:
        interval = Interval(row["record"], int(row["start"]), int(row["end"]))
    except ValueError:
        raise HyenaError(f"{where}: start and end are whole numbers, got {row['start']!r} and {row['end']!r}") from None
    strand = row.get("strand") or "+"
    if strand not in "+-":
        raise HyenaError(f"{where}: strand is + or -, got {strand!r}")
    try:
        window = genome[interval]
    except HyenaError as error:
        raise HyenaError(f"{where}: {error}") from None
    return window if strand == "+" else reverse_complement(window)


def _part_of(sequence: np.ndarray, row: Mapping[str, str], blocks: Mapping[str, list[Interval]]) -> str:
    """The part of a sequence by its hash, or of a place by its block; none where it crosses a border."""
    if not blocks:
        strands = sequence.tobytes(), reverse_complement(sequence).tobytes()
        return {8: "valid", 9: "test"}.get(hashlib.sha256(min(strands)).digest()[0] % 10, "train")
    record, start, end = row["record"], int(row["start"]), int(row["end"])
    inside = (part for part, some in blocks.items() for r, a, b in some if r == record and a <= start and end <= b)
    return next(inside, "")


def _task(name: str, classes: tuple[str, ...], found: Found, hashes: dict[str, str], *, aligned: bool = False) -> Task:
    if empty := [part for part, rows in found.items() if not rows]:
        raise HyenaError(f"{name}: no sequence is in the part {empty[0]!r}; more are needed, or a column `part`")
    length = max(len(sequence) for rows in found.values() for sequence, _ in rows)
    parts = {}
    for part, rows in found.items():
        x, mask = pad([sequence for sequence, _ in rows], length)
        parts[part] = Labelled(x, mask, np.array([label for _, label in rows]))
    return Task(name, classes, **parts, data=hashes, aligned=aligned)
