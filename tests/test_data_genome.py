"""Genomes: any FASTA file in, windows out that never cross a split."""

import gzip
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyena.data.genome import (
    Genome,
    Interval,
    known_tiles,
    open_fasta,
    random_windows,
    read_bed,
    shifted,
    split_blocks,
    split_records,
    tiles,
)
from hyena.data.nucleotides import N, decode, encode, reverse_complement
from hyena.errors import HyenaError

FASTA = ">one first record\nACGTAC\nGTAC\n>two\nNNNNggcc\n"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch) -> Path:
    monkeypatch.setenv("HYENA_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def written(tmp_path: Path, content: str | bytes, name: str = "genome.fa") -> Path:
    path = tmp_path / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


@pytest.fixture
def chromosome(tmp_path: Path) -> tuple[Genome, np.ndarray]:
    """A random chromosome of 5,000 bp with a gap of N in the middle, and its letters as ids."""
    letters = np.random.default_rng(0).choice(list("ACGT"), 5000)
    letters[2000:2600] = "N"
    text = "".join(letters)
    lines = "\n".join(text[i : i + 70] for i in range(0, len(text), 70))
    return open_fasta(written(tmp_path, f">chr\n{lines}\n")), encode(text)


# Files


@pytest.mark.parametrize(
    "content",
    [
        FASTA,
        FASTA.lower().replace(">one first record", ">one"),
        FASTA.replace("\n", "\r\n"),
        gzip.compress(FASTA.encode()),
    ],
    ids=["plain", "lower case", "Windows line ends", "gzip"],
)
def test_a_fasta_file_is_read_whatever_it_looks_like(tmp_path, content: str | bytes) -> None:
    genome = open_fasta(written(tmp_path, content))
    assert genome.lengths == {"one": 10, "two": 8}
    assert decode(genome.record("one")) == "ACGTACGTAC"
    assert decode(genome[Interval("one", 4, 8)]) == "ACGT"  # across a line end
    assert decode(genome[Interval("two", 3, 6)]) == "NGG"


def test_several_gzip_members_are_one_file_as_in_bgzip(tmp_path) -> None:
    half = len(FASTA) // 2
    packed = gzip.compress(FASTA[:half].encode()) + gzip.compress(FASTA[half:].encode())
    assert open_fasta(written(tmp_path, packed, "genome.fa.bgz")).lengths == {"one": 10, "two": 8}


def test_nothing_is_written_beside_the_file_and_a_changed_file_is_read_anew(tmp_path, cache: Path) -> None:
    folder = tmp_path / "readonly"
    folder.mkdir()
    path = written(folder, FASTA)
    open_fasta(path)
    assert [p.name for p in folder.iterdir()] == ["genome.fa"]
    path.write_text(">one\nTTTT\n>two\nA\n>three\nC\n")
    genome = open_fasta(path)
    assert genome.lengths == {"one": 4, "two": 1, "three": 1} and decode(genome.record("one")) == "TTTT"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "not a FASTA file: it begins with ''"),
        ("ACGT\n", "not a FASTA file: it begins with 'A'"),
        (">a\nACGT\nAC\nACGT\n", "cannot be indexed: .*line 3.*records need even lines and different names"),
        (">a\nAC\n>a\nGT\n", 'cannot be indexed: Duplicate key "a"'),
        (">a\nAC\n>b\n", "record 'b' has no sequence"),
        (gzip.compress(FASTA.encode())[:-9], "cannot unpack .*is the file whole"),
        (gzip.compress(FASTA.encode())[:20] + b"\xff" * 40, "cannot unpack .*is the file whole"),
    ],
    ids=["empty", "no header", "uneven lines", "one name twice", "no sequence", "truncated", "damaged"],
)
def test_what_is_no_fasta_file_is_told_why(tmp_path, content: str | bytes, said: str) -> None:
    with pytest.raises(HyenaError, match=said):
        open_fasta(written(tmp_path, content))
    assert not [p for p in tmp_path.rglob("*") if p.name.startswith(".")], "nothing half-done is left"


def test_a_missing_file_is_named(tmp_path) -> None:
    with pytest.raises(HyenaError, match=r"cannot read .*absent\.fa: No such file"):
        open_fasta(tmp_path / "absent.fa")


def test_a_cache_that_cannot_be_written_is_named(tmp_path, monkeypatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("HYENA_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(HyenaError, match=r"cannot write to .*; HYENA_CACHE names another folder"):
        open_fasta(written(tmp_path, FASTA))


def test_an_illegal_letter_is_named_with_record_and_position(tmp_path) -> None:
    genome = open_fasta(written(tmp_path, ">a\nACGT\n>b\nAAAA\nAARA\n"))
    with pytest.raises(HyenaError, match=r"genome\.fa, record b, has 'R' at position 7"):
        genome[Interval("b", 2, 8)]


@pytest.mark.parametrize(
    ("interval", "said"),
    [
        (("on", 0, 4), r"unknown record of genome\.fa 'on': did you mean 'one'\?"),
        (("one", 8, 11), "one:8-11 is not inside genome.fa: one has 10 bp"),
        (("one", -1, 4), "is not inside"),
        (("one", 4, 4), "is not inside"),
    ],
)
def test_an_interval_outside_is_refused(tmp_path, interval: tuple[str, int, int], said: str) -> None:
    with pytest.raises(HyenaError, match=said):
        open_fasta(written(tmp_path, FASTA))[Interval(*interval)]


# Intervals


def test_a_bed_file_gives_intervals(tmp_path) -> None:
    genome = open_fasta(written(tmp_path, FASTA))
    bed = written(tmp_path, "# regions\ntrack name=x\none\t0\t4\tname\t+\n\ntwo\t4\t8\n", "regions.bed")
    assert read_bed(bed, genome) == [Interval("one", 0, 4), Interval("two", 4, 8)]
    with pytest.raises(HyenaError, match=r"cannot read .*absent\.bed: No such file"):
        read_bed(tmp_path / "absent.bed", genome)


def test_a_record_may_be_called_like_a_line_of_a_browser(tmp_path) -> None:
    genome = open_fasta(written(tmp_path, ">track1\nACGT\n"))
    assert read_bed(written(tmp_path, "track1\t0\t4\n", "regions.bed"), genome) == [Interval("track1", 0, 4)]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("one 0 4", "line 2: a BED line is record, start and end between tabs"),
        ("one\t0\tfour", "line 2: a BED line"),
        ("one\t4\t11", r"line 2: one:4-11 is not inside genome\.fa"),
        ("three\t0\t4", "line 2: three:0-4 is not inside"),
        ("#", "holds no interval"),
    ],
)
def test_a_bad_bed_line_is_named_by_its_number(tmp_path, line: str, said: str) -> None:
    genome = open_fasta(written(tmp_path, FASTA))
    with pytest.raises(HyenaError, match=said):
        read_bed(written(tmp_path, f"# regions\n{line}\n", "regions.bed"), genome)


LENGTHS = st.dictionaries(st.text(alphabet="abc", min_size=1, max_size=3), st.integers(100, 3000), min_size=1)


@given(LENGTHS, st.integers(1, 10))
def test_blocks_cover_every_record_once(lengths: dict[str, int], block: int) -> None:
    split = split_blocks(lengths, block)
    covered = sorted(interval for part in split.values() for interval in part)
    for record, length in lengths.items():
        own = [i for i in covered if i.record == record]
        assert own[0].start == 0 and own[-1].end == length
        assert all(a.end == b.start for a, b in pairwise(own))


def test_of_ten_blocks_the_ninth_validates_and_the_tenth_tests() -> None:
    split = split_blocks({"c": 25}, block=1)
    assert split["valid"] == [Interval("c", 8, 9), Interval("c", 18, 19)]
    assert split["test"] == [Interval("c", 9, 10), Interval("c", 19, 20)]
    assert split["train"] == [Interval("c", 0, 8), Interval("c", 10, 18), Interval("c", 20, 25)]


def test_a_record_too_short_for_blocks_is_refused() -> None:
    with pytest.raises(HyenaError, match="no record has 10 blocks of 1,000 bp; choose smaller blocks"):
        split_blocks({"c": 5000}, 1000)


def test_whole_records_are_held_out() -> None:
    split = split_records({"1": 10, "2": 20, "3": 30}, valid=["2"], test=["3"])
    assert split == {"train": [Interval("1", 0, 10)], "valid": [Interval("2", 0, 20)], "test": [Interval("3", 0, 30)]}


@pytest.mark.parametrize(
    ("valid", "test", "said"),
    [(["4"], ["2"], "unknown record '4'"), (["2"], ["2"], "2 cannot both validate and test")],
)
def test_records_that_cannot_be_held_out_are_named(valid: list[str], test: list[str], said: str) -> None:
    with pytest.raises(HyenaError, match=said):
        split_records({"1": 10, "2": 20}, valid, test)


# Windows


def test_tiles_are_adjacent_and_stay_inside() -> None:
    assert tiles([Interval("c", 5, 12), Interval("d", 0, 2)], 3) == [Interval("c", 5, 8), Interval("c", 8, 11)]


def test_random_windows_are_pieces_of_the_intervals_on_either_strand(chromosome) -> None:
    genome, letters = chromosome
    intervals = [Interval("chr", 100, 160), Interval("chr", 3000, 3050)]
    windows = random_windows(genome, intervals, 50, 400, seed=1, step=2)
    forward = {letters[s : s + 50].tobytes(): s for i in intervals for s in range(i.start, i.end - 49)}
    backward = {reverse_complement(letters[s : s + 50]).tobytes(): s for s in forward.values()}
    found = [(forward.get(w.tobytes()), backward.get(w.tobytes())) for w in windows]
    assert all(a is not None or b is not None for a, b in found)
    strands = sum(a is not None for a, _ in found) / len(found)
    assert 0.4 < strands < 0.6
    assert {a if a is not None else b for a, b in found} == set(forward.values()), "every start occurs"


def test_windows_are_those_of_seed_and_step(chromosome) -> None:
    genome, _ = chromosome
    whole = [Interval("chr", 0, 5000)]
    first = random_windows(genome, whole, 30, 4, seed=1, step=0)
    assert np.array_equal(first, random_windows(genome, whole, 30, 4, seed=1, step=0))
    assert not np.array_equal(first, random_windows(genome, whole, 30, 4, seed=1, step=1))
    assert not np.array_equal(first, random_windows(genome, whole, 30, 4, seed=2, step=0))


def test_windows_of_unknown_letters_are_drawn_again(chromosome) -> None:
    genome, _ = chromosome
    windows = random_windows(genome, [Interval("chr", 1900, 2700)], 50, 200, seed=0, step=0)
    assert (windows == N).mean(1).max() <= 0.1
    with pytest.raises(HyenaError, match=r"100 windows of genome\.fa in a row had more than 10% N"):
        random_windows(genome, [Interval("chr", 2000, 2600)], 50, 1, seed=0, step=0)


def test_a_window_longer_than_every_interval_is_refused(chromosome) -> None:
    genome, _ = chromosome
    with pytest.raises(HyenaError, match="a window has 61 bp, the longest interval 60"):
        random_windows(genome, [Interval("chr", 0, 60)], 61, 1, seed=0, step=0)


def test_known_tiles_are_spread_out_in_order_and_without_gaps_of_n(chromosome) -> None:
    genome, letters = chromosome
    found = known_tiles(genome, [Interval("chr", 0, 5000)], 100, limit=20)
    starts = [next(s for s in range(0, 5000, 100) if np.array_equal(letters[s : s + 100], w)) for w in found]
    assert starts == sorted(set(starts)) and len(starts) == 20
    assert min(starts) < 1500 and max(starts) > 3500
    assert not [s for s in starts if 2000 <= s < 2600]
    with pytest.raises(HyenaError, match="no window of 100 bp"):
        known_tiles(genome, [Interval("chr", 2000, 2600)], 100, limit=20)


def test_a_shifted_window_stays_within_its_borders() -> None:
    within = Interval("c", 10, 30)
    assert shifted(Interval("c", 12, 20), 3, within) == Interval("c", 15, 23)
    assert shifted(Interval("c", 12, 20), -5, within) == Interval("c", 10, 18)
    assert shifted(Interval("c", 12, 20), 50, within) == Interval("c", 22, 30)
