"""Text: corpora split by page, windows that repeat and that cover, and plain words about files that will not do."""

from __future__ import annotations

import bz2
import os
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from hyena.data.fetch import fetch
from hyena.data.text import held_out_windows, load_corpus, wikipedia_articles, windows
from hyena.errors import HyenaError

DRAWN = settings(deadline=None, max_examples=25)

DUMP = """<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.10/">
  <siteinfo><sitename>Wikipedia</sitename></siteinfo>
  <page><title>Zürich</title><ns>0</ns>
    <revision><id>1</id><text xml:space="preserve">A ''city'' &amp; a [[lake]].</text></revision></page>
  <page><title>Zurich</title><redirect title="Zürich" />
    <revision><text>#REDIRECT [[Zürich]]</text></revision></page>
  <page><title>Empty</title><revision><text /></revision></page>
</mediawiki>"""


@pytest.fixture
def excerpt() -> Path:
    """The file of the Wikipedia excerpt; the test is skipped where it cannot be had."""
    try:
        return fetch("enwiki").path
    except HyenaError as error:
        if os.environ.get("HYENA_REQUIRE_DATA") == "1":
            raise
        pytest.skip(f"needs data: {error}")


def counting(n: int) -> Tensor:
    """Bytes that tell where they stand, up to 256 of them."""
    return torch.arange(n).to(torch.uint8)


def text_of(part: Tensor) -> bytes:
    return part.numpy().tobytes()


# The Wikipedia excerpt


@pytest.mark.data
def test_every_article_lies_in_exactly_one_part(excerpt: Path) -> None:
    corpus, articles = load_corpus("enwiki"), list(wikipedia_articles(excerpt))
    parts = [text_of(part) for part in (corpus.train, corpus.valid, corpus.test)]
    assert len(articles) == 106
    assert [sum(article in part for part in parts) for article in articles] == [1] * 106
    assert sum(map(len, parts)) == sum(map(len, articles)), "and nothing else does"
    assert [sum(article in part for article in articles) for part in parts] == [86, 10, 10]


@pytest.mark.data
def test_no_article_of_the_excerpt_is_a_redirect(excerpt: Path) -> None:
    articles = list(wikipedia_articles(excerpt))
    titles = [article.partition(b"\n\n")[0] for article in articles]
    assert len(set(titles)) == 106 and b"Anarchism" in titles and b"AccessibleComputing" not in titles
    assert not any(re.search(rb"\A[^\n]*\n\n#redirect", article, re.IGNORECASE) for article in articles)


def test_a_dump_is_read_page_by_page_without_redirects(tmp_path: Path) -> None:
    (tmp_path / "dump.xml.bz2").write_bytes(bz2.compress(DUMP.encode()))
    found = [article.decode() for article in wikipedia_articles(tmp_path / "dump.xml.bz2")]
    assert found == ["Zürich\n\nA ''city'' & a [[lake]].\n\n", "Empty\n\n\n\n"]


# Windows


@DRAWN
@given(st.integers(2, 256), st.data())
def test_targets_are_the_next_bytes_of_the_text(n: int, data) -> None:
    length = data.draw(st.integers(1, n - 1))
    x, y = windows(counting(n), length, 5, seed=data.draw(st.integers(0, 100)), step=3)
    assert x.shape == y.shape == (5, length)
    assert torch.equal(y, x + 1) and torch.equal(x, x[:, :1] + torch.arange(length)) and y.max() < n


def test_windows_repeat_for_the_same_seed_and_step_only() -> None:
    text = torch.from_numpy(np.random.default_rng(0).integers(0, 256, 10_000, dtype=np.uint8))
    first, _ = windows(text, 32, 8, seed=1, step=2)
    assert torch.equal(first, windows(text, 32, 8, seed=1, step=2)[0])
    assert not torch.equal(first, windows(text, 32, 8, seed=1, step=3)[0])
    assert not torch.equal(first, windows(text, 32, 8, seed=2, step=2)[0])


def test_windows_reach_both_ends_of_the_text() -> None:
    x, y = windows(counting(12), 4, 500, seed=0, step=0)
    assert x.min() == 0 and y.max() == 11


@DRAWN
@given(st.integers(2, 256), st.integers(1, 9), st.data())
def test_held_out_windows_ask_every_byte_once_but_a_last_partial_window(n: int, batch: int, data) -> None:
    length = data.draw(st.integers(1, n - 1))
    batches = list(held_out_windows(counting(n), length, batch))
    asked = torch.cat([y for _, y in batches]).flatten()
    assert torch.equal(asked, torch.arange(1, 1 + (n - 1) // length * length))
    assert torch.equal(torch.cat([x for x, _ in batches]).flatten(), asked - 1)
    assert all(len(x) == batch for x, _ in batches[:-1])


def test_held_out_windows_stop_at_the_limit() -> None:
    batches = list(held_out_windows(counting(100), 10, batch=2, limit=3))
    assert [len(x) for x, _ in batches] == [2, 1]


def test_a_text_shorter_than_a_window_is_refused_with_both_lengths() -> None:
    for cut in (lambda: windows(counting(8), 8, 1, 0, 0), lambda: next(held_out_windows(counting(8), 8, 1))):
        with pytest.raises(HyenaError, match="the text has 8 bytes, a window needs 9"):
            cut()


# A file of one's own


def test_a_file_of_ones_own_is_split_in_order_into_90_5_and_5_percent(tmp_path: Path) -> None:
    content = "".join(f"line {i}: é\n" for i in range(200)).encode()
    path = tmp_path / "notes.txt"
    path.write_bytes(content)
    corpus = load_corpus(str(path))
    parts = [text_of(part) for part in (corpus.train, corpus.valid, corpus.test)]
    assert b"".join(parts) == content and corpus.name == "notes.txt"
    assert [round(20 * len(part) / len(content)) for part in parts] == [18, 1, 1]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "has 0 bytes; a language model needs at least 1000"),
        (b"too short", "has 9 bytes; a language model needs at least 1000"),
        (("x" * 1234 + "café").encode("latin-1"), r"is not UTF-8 text \(byte 1237 is 0xe9\).*iconv"),
    ],
    ids=["empty", "short", "latin-1"],
)
def test_a_file_that_cannot_be_learned_from_is_refused_with_the_reason(tmp_path: Path, content, said) -> None:
    path = tmp_path / "own.txt"
    path.write_bytes(content)
    with pytest.raises(HyenaError, match=said):
        load_corpus(str(path))


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("notes/missing", "no text file 'notes/missing'; give a path, or one of enwiki, wikitext-103"),
        ("missing.txt", "no text file 'missing.txt'"),
        ("tinyshakespear", "unknown corpus 'tinyshakespear': did you mean 'tinyshakespeare'"),
        ("folder", "unknown corpus 'folder'"),
        ("./folder", "no text file './folder'"),
    ],
)
def test_a_source_that_does_not_exist_is_refused_with_what_does(tmp_path, monkeypatch, source, said) -> None:
    (tmp_path / "folder").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(HyenaError, match=re.escape(said)):
        load_corpus(source)
