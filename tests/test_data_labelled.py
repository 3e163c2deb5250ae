"""Labelled DNA: what is in a task, that nothing stands on both sides of a split, and CSV files of one's own."""

from pathlib import Path

import numpy as np
import pytest
from registries import fetched

from hyena.data import labelled
from hyena.data.dna import DnaCorpus, in_windows, load_dna
from hyena.data.genome import Interval, Loaded, open_fasta
from hyena.data.labelled import around, load_task, read_csv
from hyena.data.nucleotides import N, decode, encode, reverse_complement
from hyena.data.synthetic import IGNORE
from hyena.errors import HyenaError

ROWS = "ACGTAC,a,train\nacgtacgt,b,train\nTTTT,a,valid\nGGGG,b,valid\nCCCC,a,test\nAANN,b,test\n"


def written(folder: Path, content: str, name: str = "mine.csv") -> Path:
    path = folder / name
    path.write_bytes(content.encode())
    return path


@pytest.fixture(autouse=True)
def index_folder(tmp_path: Path, monkeypatch) -> None:
    """Indices of FASTA files go to a folder of the test's own, fetched files stay where they are."""
    monkeypatch.setattr("hyena.data.genome._folder", lambda: tmp_path)


# Files of one's own


def test_a_csv_of_sequences_is_a_task(tmp_path) -> None:
    task = load_task(str(written(tmp_path, "sequence,label,part\n" + ROWS)))
    assert (task.name, task.classes, task.length) == ("mine", ("a", "b"), 8)
    assert [decode(row[mask]) for row, mask in zip(task.train.x, task.train.mask, strict=True)] == [
        "ACGTAC",
        "ACGTACGT",
    ]
    assert (task.train.y.tolist(), task.valid.y.tolist(), task.test.y.tolist()) == ([0, 1], [0, 1], [0, 1])
    assert list(task.data) == ["mine.csv"]


def test_places_in_a_genome_are_read_on_their_strand(tmp_path) -> None:
    fasta = written(tmp_path, ">chr\nAACCGGTTAC\n", "genome.fa")
    rows = "".join(
        f"chr,{i},{i + 4},{'+-'[i % 2]},{'ab'[i % 2]},{p}\n" for p in ("train", "valid", "test") for i in (0, 1)
    )
    task = load_task(str(written(tmp_path, "record,start,end,strand,label,part\n" + rows)), str(fasta))
    assert [decode(row) for row in task.train.x] == ["AACC", "CGGT"]
    assert list(task.data) == ["mine.csv", "genome.fa"], "another genome is another task"


def test_without_a_part_equal_sequences_never_stand_on_both_sides(tmp_path) -> None:
    rng = np.random.default_rng(0)
    sequences = ["".join(rng.choice(list("ACGT"), 8)) for _ in range(200)] * 2
    rows = "".join(f"{s},{'ab'[i % 2]}\n" for i, s in enumerate(sequences))
    task = read_csv(written(tmp_path, "\ufeffsequence,label\r\n" + rows.replace("\n", "\r\n")))
    parts = [{row.tobytes() for row in getattr(task, part).x} for part in ("train", "valid", "test")]
    assert not (parts[0] & parts[1] or parts[0] & parts[2] or parts[1] & parts[2])
    other = [{reverse_complement(row).tobytes() for row in getattr(task, p).x} for p in ("train", "valid", "test")]
    assert not (parts[0] & other[1] or parts[0] & other[2] or parts[1] & other[2]), "nor do their other strands"
    assert all(10 <= len(part) <= 30 for part in parts[1:])


def test_overlapping_places_never_stand_on_both_sides(tmp_path) -> None:
    letters = "".join(np.random.default_rng(0).choice(list("ACGT"), 5000))
    fasta = written(tmp_path, f">chr\n{letters}\n", "genome.fa")
    rows = "".join(f"chr,{i},{i + 20},{'ab'[i // 3 % 2]}\n" for i in range(0, 4980, 3))
    task = read_csv(written(tmp_path, "record,start,end,label\n" + rows), open_fasta(fasta))
    covered = []
    for part in (task.train, task.valid, task.test):
        starts = [letters.index(decode(row)) for row in part.x]
        covered.append({at for start in starts for at in range(start, start + 20)})
    assert not (covered[0] & covered[1] or covered[0] & covered[2] or covered[1] & covered[2])
    assert all(len(some) > 300 for some in covered)


def test_a_sequence_may_be_longer_than_the_usual_field_of_a_csv(tmp_path) -> None:
    long = "ACGT" * 40_000
    task = read_csv(written(tmp_path, "sequence,label,part\n" + ROWS + f"{long},a,train\n"))
    assert task.length == len(long)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "has no row; it needs a header with label, sequence"),
        ("sequence,class\nACGT,a\n", "has no column 'label'"),
        ("sequence,label\nACGT,a\nGGGG,a\n", "only the label 'a'"),
        ("sequence,label\nACGT,a\nACXT,b\n", "line 3 has 'X' at position 3"),
        ("sequence,label\nACGT,a\n,b\n", "line 3: no sequence"),
        ("sequence,label\nACGT,a\nGGTT,\n", "line 3: no label"),
        ("sequence,label\n\n\nACGT,a\nAXGT,b\n", "line 5 has 'X' at position 2"),
        (
            "sequence,label,part\nAC,a,train\nGG,b,test\nCC,a,valid\n",
            "the label 'b' does not occur in the part 'train'",
        ),
        ("sequence,label,part\nACGT,a,train\nGG,b,tests\n", "line 3: part is train, valid or test, got 'tests'"),
        ("sequence,label,part\nACGT,a,train\nGG,b,train\nCC,b,test\n", "no sequence is in the part 'valid'"),
    ],
)
def test_a_bad_csv_is_told_what_and_where(tmp_path, content: str, said: str) -> None:
    with pytest.raises(HyenaError, match=said):
        read_csv(written(tmp_path, content))


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("chr,0,four,a", "line 2: start and end are whole numbers, got '0' and 'four'"),
        ("chr,0,400,a", "line 2: chr:0-400 is not inside"),
        ("chrX,0,4,a", "line 2: unknown record"),
        ("chr,0", "line 2: no end"),
    ],
)
def test_a_bad_place_is_told_what_and_where(tmp_path, row: str, said: str) -> None:
    genome = open_fasta(written(tmp_path, f">chr\n{'AACCGGTTAC' * 20}\n", "genome.fa"))
    with pytest.raises(HyenaError, match=said):
        read_csv(written(tmp_path, f"record,start,end,label\n{row}\nchr,0,4,b\n"), genome)


def test_a_missing_file_and_an_unknown_task_are_named(tmp_path) -> None:
    with pytest.raises(HyenaError, match=r"cannot read .*absent\.csv: No such file"):
        load_task(str(tmp_path / "absent.csv"))
    with pytest.raises(HyenaError, match="unknown task 'doner': did you mean 'donor'"):
        load_task("doner")


# Tasks of the registry


@pytest.fixture
def chromosome(monkeypatch) -> tuple[np.ndarray, list[labelled.Gene]]:
    """A small chromosome 20 with blocks of 300 bp, and genes whose introns read GT...AG on both strands."""
    rng = np.random.default_rng(0)
    letters = rng.integers(7, 11, 30_000).astype(np.uint8)
    genes = []
    for i, start in enumerate(range(500, 29_000, 710)):
        strand = "+-"[i % 2]
        exons = ((start, start + 100), (start + 300, start + 400))
        pairs = ("GT", "AG") if strand == "+" else ("CT", "AC")
        letters[start + 100 : start + 102], letters[start + 298 : start + 300] = map(encode, pairs)
        genes.append(labelled.Gene(f"g{i}", "20", strand, start, start + 400, exons))
    monkeypatch.setattr(labelled, "SPLICE_WINDOW", 40)
    monkeypatch.setattr(labelled, "PROMOTER_WINDOW", 60)
    monkeypatch.setattr(labelled, "chromosome_20", lambda: (letters, genes, {"chr20": "x"}))
    return letters, genes


@pytest.mark.parametrize(("kind", "pair"), [("donor", "GT"), ("acceptor", "AG")])
def test_sites_and_decoys_have_the_same_two_letters_in_the_middle(chromosome, kind: str, pair: str) -> None:
    task = load_task(kind)
    for part in (task.train, task.valid, task.test):
        assert {decode(row[19:21]) for row in part.x} == {pair}
        assert set(part.y) == {0, 1} and part.mask.all()


@pytest.mark.parametrize("name", ["donor", "acceptor", "promoter"])
def test_windows_lie_in_the_block_of_their_part(chromosome, name: str) -> None:
    task, (letters, _) = load_task(name), chromosome
    whole, back = letters.tobytes(), reverse_complement(letters).tobytes()
    for part, blocks in (("train", range(8)), ("valid", (8,)), ("test", (9,))):
        for row in getattr(task, part).x.astype(np.uint8):
            at = whole.find(row.tobytes())
            at = at if at >= 0 else len(whole) - back.find(row.tobytes()) - len(row)
            assert {at // 300 % 10, (at + len(row) - 1) // 300 % 10} <= set(blocks)


@pytest.mark.parametrize("kind", ["donor", "acceptor"])
def test_class_one_is_annotated_and_class_zero_is_not(chromosome, kind: str) -> None:
    letters, genes = chromosome
    real = {around(letters, site, 40).tobytes() for gene in genes for site in gene.splice_sites(kind)}
    task = load_task(kind)
    for part in (task.train, task.valid, task.test):
        assert [row.astype(np.uint8).tobytes() in real for row in part.x] == part.y.astype(bool).tolist()


def test_a_promoter_has_its_start_after_two_thirds_of_the_window(chromosome) -> None:
    letters, genes = chromosome
    after = set()
    for gene in genes:
        first = letters[gene.start : gene.start + 20]
        after.add((first if gene.strand == "+" else reverse_complement(letters[gene.end - 20 : gene.end])).tobytes())
    task = load_task("promoter")
    for part in (task.train, task.valid, task.test):
        assert [row[40:].astype(np.uint8).tobytes() in after for row in part.x] == part.y.astype(bool).tolist()


def test_tasks_know_whether_the_strand_matters(chromosome, tmp_path) -> None:
    assert load_task("donor").aligned and load_task("promoter").aligned
    assert not read_csv(written(tmp_path, "sequence,label,part\n" + ROWS, "donor.csv")).aligned


def test_the_same_task_is_made_every_time(chromosome) -> None:
    first, second = load_task("donor"), load_task("donor")
    assert np.array_equal(first.train.x, second.train.x) and np.array_equal(first.test.y, second.test.y)


@pytest.mark.data
def test_the_chip_windows_are_split_by_chromosome() -> None:
    task = fetched(lambda: load_task("oct4-mafk"))
    assert sum(len(part.y) for part in (task.train, task.valid, task.test)) == 7997
    assert [len(part.y) for part in (task.valid, task.test)] == [718, 839]
    assert task.length == 200 and task.train.mask.all()
    rows = [{row.tobytes() for row in part.x} for part in (task.train, task.valid, task.test)]
    assert not (rows[0] & rows[2] or rows[1] & rows[2])


@pytest.mark.data
def test_dna_to_learn_from_leaves_out_the_chromosomes_of_validation_and_test() -> None:
    corpus = fetched(lambda: load_dna("chip-windows"))
    chromosomes = {
        part: {interval.record.partition("/")[2].partition(":")[0] for interval in intervals}
        for part, intervals in corpus.split.items()
    }
    assert chromosomes["valid"] == {"chr8", "chr9"} and chromosomes["test"] == {"chr1", "chr21", "chr22"}
    assert not chromosomes["train"] & (chromosomes["valid"] | chromosomes["test"])


# What a language model reads


def corpus() -> DnaCorpus:
    letters = np.random.default_rng(0).integers(7, 11, 400).astype(np.uint8)
    letters[110:113] = N
    split = {"train": [Interval("r", 0, 200)], "valid": [Interval("r", 200, 300)], "test": [Interval("r", 300, 400)]}
    return DnaCorpus("test", Loaded("test", {"r": letters}), split)


def test_targets_are_the_next_letters_and_n_is_not_asked_for() -> None:
    x, y = corpus().batch(length=30, count=64, seed=0, step=0)
    assert x.shape == y.shape == (64, 30)
    asked = y[:, :-1] != IGNORE
    assert (y[:, :-1][asked] == x[:, 1:][asked]).all()
    assert (x == N).any() and not (y == N).any() and (x[:, 1:][~asked] == N).all()


@pytest.mark.parametrize("length", [24, 12, 8, 1])
def test_every_target_of_a_tile_is_asked_once_whatever_the_window(length: int) -> None:
    tiles = corpus().tiles("test", 24, 4)
    x, y = in_windows(tiles, length)
    assert x.shape == (4 * 24 // length, length)
    assert np.array_equal(y.numpy().reshape(4, 24), tiles[:, 1:])
    assert np.array_equal(x.numpy().reshape(4, 24), tiles[:, :-1])


def test_windows_that_do_not_tile_are_refused() -> None:
    with pytest.raises(HyenaError, match="windows of 7 do not tile 24 letters"):
        in_windows(corpus().tiles("test", 24, 4), 7)


def test_a_fasta_file_of_ones_own_is_split_into_blocks(tmp_path) -> None:
    path = written(tmp_path, ">a\n" + "ACGTTGCA" * 250 + "\n", "mine.fa")
    own = load_dna(str(path))
    assert own.name == "mine.fa" and sum(i.length for i in own.split["test"]) == 200
    with pytest.raises(HyenaError, match="unknown source of DNA 'chr2': did you mean 'chr20'"):
        load_dna("chr2")
