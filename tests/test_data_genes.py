"""Gene models and the sites that follow from them, by hand on both strands."""

from pathlib import Path

import numpy as np
import pytest

from hyena.data.genes import Gene, Site, read_genes
from hyena.data.labelled import around
from hyena.data.nucleotides import decode, encode
from hyena.errors import HyenaError

HEADER = "#NAME\tCHROM\tSTRAND\tTX_START\tTX_END\tEXON_START\tEXON_END\n"
# Exons in capitals; the introns read GT...AG on the strand of the gene.
FORWARD = "ttACGTACGTgtccccagTTGACAgtaaagCCtt"
PLUS = Gene("plus", "20", "+", 2, 32, ((2, 10), (18, 24), (30, 32)))
MINUS = Gene("minus", "20", "-", 2, 32, tuple((34 - b, 34 - a) for a, b in reversed(PLUS.exons)))
BACKWARD = FORWARD[::-1].translate(str.maketrans("ACGTacgt", "TGCAtgca"))  # the same gene on the other strand


@pytest.mark.parametrize(("gene", "letters"), [(PLUS, FORWARD), (MINUS, BACKWARD)], ids=["forward", "reverse"])
def test_every_intron_begins_with_gt_and_ends_with_ag_on_its_strand(gene: Gene, letters: str) -> None:
    ids = encode(letters)
    assert [decode(around(ids, site, 2)) for site in gene.splice_sites("donor")] == ["GT", "GT"]
    assert [decode(around(ids, site, 2)) for site in gene.splice_sites("acceptor")] == ["AG", "AG"]


def test_windows_around_a_site_are_the_same_for_the_same_gene_on_either_strand() -> None:
    for kind in ("donor", "acceptor"):
        plus = {decode(around(encode(FORWARD), site, 8)) for site in PLUS.splice_sites(kind)}
        assert plus == {decode(around(encode(BACKWARD), site, 8)) for site in MINUS.splice_sites(kind)}


def test_transcription_starts_before_the_first_letter_on_the_strand() -> None:
    assert PLUS.transcription_start == Site(2, "+") and MINUS.transcription_start == Site(32, "-")
    downstream = [
        decode(around(encode(letters), gene.transcription_start, 4))[2:]
        for gene, letters in ((PLUS, FORWARD), (MINUS, BACKWARD))
    ]
    assert downstream == ["AC", "AC"]


def written(tmp_path: Path, *lines: str) -> Path:
    path = tmp_path / "genes.tsv"
    path.write_text(HEADER + "".join(f"{line}\n" for line in lines))
    return path


def test_a_table_gives_the_genes_of_one_record(tmp_path) -> None:
    lines = ["plus\t20\t+\t2\t32\t2,18,30,\t10,24,32,", "other\t1\t-\t5\t9\t5,\t9,"]
    assert read_genes(written(tmp_path, *lines), "20") == [PLUS]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("plus\t20\t+\ttwo\t32\t2,\t10,", "line 2: not a gene model"),
        ("plus\t20\t+\t2\t32\t2,18,\t10,", "line 2: not a gene model"),
        ("plus\t21\t+\t2\t32\t2,\t10,", "has no gene of record '20'"),
    ],
)
def test_a_bad_line_is_named(tmp_path, line: str, said: str) -> None:
    with pytest.raises(HyenaError, match=said):
        read_genes(written(tmp_path, line), "20")


def test_a_window_has_its_site_in_the_middle() -> None:
    letters = np.arange(20, dtype=np.uint8) % 4 + 7
    assert np.array_equal(around(letters, Site(10, "+"), 6), letters[7:13])
