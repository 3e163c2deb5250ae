"""Where things lie: the checkout and the cache of fetched data."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from hyena.errors import HyenaError


def root() -> Path:
    """The folder of the checkout: the one that holds `params.yaml`.

    Raises:
        HyenaError: the package was installed without its repository.
    """
    folder = Path(__file__).resolve().parents[1]
    if not (folder / "params.yaml").exists():
        raise HyenaError(
            f"no params.yaml in {folder}: experiments, notebooks and claims need the repository, "
            "not the installed package alone; clone it and run `pip install -e .` there"
        )
    return folder


def cache() -> Path:
    """`$HYENA_CACHE`, or the user's cache folder for hyena."""
    given = os.environ.get("HYENA_CACHE")
    if given:
        return Path(given).expanduser()
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "hyena"


def write_atomically(path: Path, content: bytes | str) -> None:
    """Write to a temporary name beside `path` and move it into place: readers never see half a file."""
    write_together({path: content})


def write_together(files: dict[Path, bytes | str]) -> None:
    """Write several files, none of which is put in place before all are on the disk.

    Raises:
        HyenaError: the disk is full or a folder cannot be written.
    """
    parts = {path.with_name(f".{path.name}.{os.getpid()}.part"): path for path in files}
    path = Path()
    try:
        for part, path in parts.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            content = files[path]
            part.write_bytes(content.encode() if isinstance(content, str) else content)
        for part, path in parts.items():
            os.replace(part, path)
    except OSError as error:
        raise HyenaError(f"could not write {path}: {error.strerror or error}; nothing was changed") from error
    finally:
        for part in parts:
            with suppress(OSError):
                part.unlink(missing_ok=True)
