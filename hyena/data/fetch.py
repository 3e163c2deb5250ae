"""Raw inputs: named in `registry.toml`, fetched once, verified every time.

>>> from hyena.data.fetch import fetch
>>> fetch("enwiki").path

A file is looked for in the checkout's `data/`, then in the cache, then at each source of its entry in turn.
Only bytes with a registered hash are ever returned, or stored under the final name.
"""

from __future__ import annotations

import errno
import http.client
import importlib
import logging
import os
import shutil
import sys
import tempfile
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from hyena import paths
from hyena.data.archives import from_deb, from_wheel
from hyena.data.registry import REGISTRY, Entries, Entry, Source, SourceError, entry, registry
from hyena.errors import HyenaError

log = logging.getLogger(__name__)

BY_HAND = ("url", "wheel", "deb", "mirror", "simulator")  # the easiest first
TIMEOUT = 30  # seconds without a byte from a server
FULL_DISK = (errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True)
class Fetched:
    """A verified file, and the hash by which its entry accepts it.

    `source` says where it came from: a source of its entry, or "checkout" or "cache".
    """

    name: str
    path: Path
    hash: str
    source: str


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
        found_hash = known.check(part)
        os.replace(part, target)
    return Fetched(known.name, target, found_hash, found.source)


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
        found_hash = wanted.check(part, vouched)
        os.replace(part, final)
    return Fetched(wanted.name, final, found_hash, str(source))


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


def _from_simulator(source: Source, target: Path) -> None:
    module, _, function = source.function.partition(":")
    getattr(importlib.import_module(module), function)(target)


GETTERS = {"mirror": _from_mirror, "url": _from_url, "wheel": from_wheel, "deb": from_deb}
GETTERS |= {"simulator": _from_simulator}


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
