"""Text as bytes: a corpus split into training, validation and test, and windows drawn from it."""

from __future__ import annotations

import bz2
import hashlib
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import torch
from jaxtyping import Int, UInt8
from torch import Tensor

from hyena.data.fetch import fetch
from hyena.errors import HyenaError, unknown

VOCAB_SIZE = 256
CORPORA = ("enwiki", "wikitext-103", "wikitext-2", "tinyshakespeare")


@dataclass(frozen=True)
class Corpus:
    """Bytes of three parts that share no page, and the hash of the file they come from."""

    name: str
    train: UInt8[Tensor, " n_train"]
    valid: UInt8[Tensor, " n_valid"]
    test: UInt8[Tensor, " n_test"]
    sha256: str


def load_corpus(source: str) -> Corpus:
    """The corpus of this name, fetched if need be, or a UTF-8 text file of yours by its path.

    * `enwiki`: articles of the English Wikipedia in wiki markup, split by page.
    * `wikitext-103`, `wikitext-2`: the published splits, word-level text with `<unk>`, as bytes.
    * `tinyshakespeare` and files of yours: the first 90% for training, then 5% and 5%.

    Raises:
        HyenaError: an unknown name, or a file that is missing, empty, too short or not UTF-8.
    """
    if source not in CORPORA:
        return _from_file(source)
    raw = fetch(source)
    if source == "enwiki":
        parts = _split_pages(list(wikipedia_articles(raw.path)))
    elif source == "tinyshakespeare":
        parts = _split_in_order(raw.path.read_bytes())
    else:
        parts = _wikitext(raw.path)
    return Corpus(source, *map(_tensor, parts), sha256=raw.hash)


def wikipedia_articles(path: Path) -> Iterator[bytes]:
    """Title and wiki markup of every page of a MediaWiki dump that is not a redirect, in the dump's order."""
    with bz2.open(path) as stream:
        for _, element in ElementTree.iterparse(stream):
            if _local(element) != "page":
                continue
            fields = {_local(e): e.text or "" for e in element.iter()}
            if "redirect" not in fields:
                yield f"{fields['title']}\n\n{fields['text']}\n\n".encode()
            element.clear()


def windows(
    text: UInt8[Tensor, " n"], length: int, batch: int, seed: int, step: int
) -> tuple[Int[Tensor, "batch length"], Int[Tensor, "batch length"]]:
    """Inputs and next-byte targets of `batch` random windows; the same for the same seed and step.

    Raises:
        HyenaError: the text is shorter than one window.
    """
    last = _last_start(text, length)
    starts = np.random.default_rng((seed, step)).integers(0, last + 1, size=batch)
    return _cut(text, torch.from_numpy(starts), length)


def held_out_windows(
    text: UInt8[Tensor, " n"], length: int, batch: int, limit: int | None = None
) -> Iterator[tuple[Int[Tensor, "batch length"], Int[Tensor, "batch length"]]]:
    """Adjacent windows that cover the text from its start, `limit` of them at most, in batches."""
    starts = torch.arange(0, _last_start(text, length) + 1, length)[:limit]
    for some in starts.split(batch):
        yield _cut(text, some, length)


def _cut(text: Tensor, starts: Tensor, length: int) -> tuple[Tensor, Tensor]:
    index = starts[:, None] + torch.arange(length + 1)
    cut = text[index].long()
    return cut[:, :-1], cut[:, 1:]


def _last_start(text: Tensor, length: int) -> int:
    if len(text) < length + 1:
        raise HyenaError(f"the text has {len(text)} bytes, a window needs {length + 1}; use a smaller length")
    return len(text) - length - 1


def _split_pages(pages: list[bytes]) -> tuple[bytes, bytes, bytes]:
    # Every tenth page is tested on, its neighbour validates: the dump is alphabetical, so both are spread out.
    parts: tuple[list[bytes], ...] = ([], [], [])
    for i, page in enumerate(pages):
        parts[{8: 1, 9: 2}.get(i % 10, 0)].append(page)
    train, valid, test = (b"".join(part) for part in parts)
    return train, valid, test


def _split_in_order(text: bytes) -> tuple[bytes, bytes, bytes]:
    first, second = int(0.9 * len(text)), int(0.95 * len(text))
    return text[:first], text[first:second], text[second:]


def _wikitext(path: Path) -> tuple[bytes, bytes, bytes]:
    with zipfile.ZipFile(path) as archive:
        names = {Path(n).name: n for n in archive.namelist()}
        train, valid, test = (archive.read(names[f"wiki.{p}.tokens"]) for p in ("train", "valid", "test"))
    return train, valid, test


def _from_file(source: str) -> Corpus:
    path = Path(source)
    if not path.is_file():
        if path.suffix or "/" in source:
            raise HyenaError(f"no text file {source!r}; give a path, or one of {', '.join(CORPORA)}")
        raise unknown("corpus", source, CORPORA)
    raw = path.read_bytes()
    try:
        raw.decode()
    except UnicodeDecodeError as error:
        raise HyenaError(
            f"{source} is not UTF-8 text (byte {error.start} is 0x{raw[error.start]:02x}); "
            "convert it first, for example with `iconv -t utf-8`"
        ) from None
    if len(raw) < 1000:
        raise HyenaError(f"{source} has {len(raw)} bytes; a language model needs at least 1000 to split and learn")
    return Corpus(path.name, *map(_tensor, _split_in_order(raw)), sha256=hashlib.sha256(raw).hexdigest())


def _tensor(part: bytes) -> Tensor:
    return torch.frombuffer(bytearray(part), dtype=torch.uint8)


def _local(element: ElementTree.Element) -> str:
    return element.tag.rpartition("}")[2]
