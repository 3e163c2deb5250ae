"""Members of package archives: a wheel by pip, a Debian package by apt, read and never installed."""

from __future__ import annotations

import base64
import hashlib
import io
import os
import tarfile
import zipfile
from pathlib import Path

import pytest
from registries import RIGHT, in_deb, in_wheel, leftovers, refused, sha256, table

from hyena.data.fetch import fetch

pytestmark = pytest.mark.usefixtures("nobodys_machine")
OFFLINE = {"PIP_NO_INDEX": "1", "PIP_CONFIG_FILE": os.devnull, "PIP_INDEX_URL": "", "PIP_EXTRA_INDEX_URL": ""}


@pytest.fixture
def wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package archive with data inside, in a folder that stands for the package index."""
    files = {
        "tiny/data.bin": RIGHT,
        "tiny-1.0.dist-info/METADATA": b"Metadata-Version: 2.1\nName: tiny\nVersion: 1.0\n",
        "tiny-1.0.dist-info/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    digests = {name: base64.urlsafe_b64encode(hashlib.sha256(body).digest()) for name, body in files.items()}
    record = [f"{name},sha256={digests[name].decode().rstrip('=')},{len(body)}" for name, body in files.items()]
    files["tiny-1.0.dist-info/RECORD"] = "\n".join([*record, "tiny-1.0.dist-info/RECORD,,"]).encode()
    path = tmp_path / "index" / "tiny-1.0-py3-none-any.whl"
    path.parent.mkdir()
    with zipfile.ZipFile(path, "w") as archive:
        for name, body in files.items():
            archive.writestr(name, body)
    for name, value in OFFLINE.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PIP_FIND_LINKS", str(path.parent))
    return path


def test_a_member_of_a_package_archive_is_read_and_the_archive_kept(make, wheel: Path, cached: Path) -> None:
    entries = make(thing=table(in_wheel(sha256(wheel.read_bytes()))))
    assert fetch("thing", entries).source == "wheel tiny==1.0"
    assert cached.read_bytes() == RIGHT
    assert [path.name for path in (cached.parents[1] / "archives").iterdir()] == [wheel.name]
    cached.unlink()
    wheel.unlink()
    assert fetch("thing", entries).path == cached, "the kept archive needs no index"


def test_a_wheel_of_another_hash_is_refused_with_both_hashes(make, wheel: Path, cached: Path) -> None:
    message = refused("thing", make(thing=table(in_wheel("0" * 64))))
    assert f"expected sha256 {'0' * 64}, found {sha256(wheel.read_bytes())}" in message
    assert "take tiny/data.bin out of it" in message
    assert leftovers(cached) == []


def test_a_wheel_without_the_member_says_so(make, wheel: Path) -> None:
    message = refused("thing", make(thing=table(in_wheel(sha256(wheel.read_bytes()), "tiny/gone.bin"))))
    assert "no item named 'tiny/gone.bin'" in message


def test_without_an_index_the_error_does_not_blame_the_package(make, wheel: Path, monkeypatch) -> None:
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    message = refused("thing", make(thing=table(in_wheel("0" * 64))))
    assert "no package index reachable (or it does not carry tiny==1.0)" in message


def ar(members: dict[str, bytes]) -> bytes:
    """An `ar` archive, the outer form of a Debian package."""
    out = b"!<arch>\n"
    for name, body in members.items():
        out += f"{name:<16}{0:<12}{0:<6}{0:<6}{644:<8}{len(body):<10}`\n".encode() + body + b"\n" * (len(body) % 2)
    return out


def deb(files: dict[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:xz") as archive:
        for name, body in files.items():
            about = tarfile.TarInfo(f"./{name}")
            about.size = len(body)
            archive.addfile(about, io.BytesIO(body))
    return ar({"debian-binary": b"2.0\n", "control.tar.xz": b"odd", "data.tar.xz": packed.getvalue()})


@pytest.fixture
def apt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A Debian package, and an `apt-get` whose `download` copies it; `apt-get.log` holds what it was asked."""
    package = tmp_path / "pool" / "tiny_1.0_all.deb"
    package.parent.mkdir()
    package.write_bytes(deb({"usr/share/tiny/data.bin": RIGHT}))
    program = tmp_path / "bin" / "apt-get"
    program.parent.mkdir()
    program.write_text(
        f'#!/bin/sh\necho "$@" >> {tmp_path}/apt-get.log\ncase "$*" in *" download "*) cp {package} . ;; esac\n'
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")
    return package


def test_a_member_of_a_debian_package_is_read_and_the_package_kept(make, apt: Path, cached: Path) -> None:
    entries = make(thing=table(in_deb(sha256(apt.read_bytes()))))
    assert fetch("thing", entries).source == "deb tiny=1.0"
    assert cached.read_bytes() == RIGHT
    assert [path.name for path in (cached.parents[1] / "archives").iterdir()] == [apt.name]
    asked = (apt.parents[1] / "apt-get.log").read_text().splitlines()
    assert [line.split("=15 ")[-1] for line in asked] == ["update", "download tiny=1.0"]
    assert all(f"Dir::State::Lists={cached.parents[1]}" in line for line in asked), "the system's lists are left alone"
    cached.unlink()
    apt.unlink()
    assert fetch("thing", entries).path == cached, "the kept package needs no archive"


def test_a_debian_package_of_another_hash_is_refused_with_both_hashes(make, apt: Path, cached: Path) -> None:
    message = refused("thing", make(thing=table(in_deb("0" * 64))))
    assert f"expected sha256 {'0' * 64}, found {sha256(apt.read_bytes())}" in message
    assert "`apt-get download tiny=1.0`" in message
    assert leftovers(cached) == []


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"no archive", "not a Debian package"),
        (ar({"debian-binary": b"2.0\n"}), "the Debian package has no data.tar.xz"),
        (deb({"usr/share/tiny/other.bin": RIGHT}), "tiny=1.0 has no file usr/share/tiny/data.bin"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_debian_package_without_the_member_says_so(make, apt: Path, content: bytes, said: str) -> None:
    apt.write_bytes(content)
    assert said in refused("thing", make(thing=table(in_deb(sha256(content)))))


def test_a_system_without_apt_says_so(make, apt: Path, monkeypatch) -> None:
    monkeypatch.setenv("PATH", str(apt.parent))
    assert "this system has no apt-get" in refused("thing", make(thing=table(in_deb("0" * 64))))


def test_an_archive_that_does_not_answer_is_not_called_a_missing_package(make, apt: Path) -> None:
    program = apt.parents[1] / "bin" / "apt-get"
    program.write_text("#!/bin/sh\necho 'E: Failed to fetch the list' >&2\nexit 100\n")
    message = refused("thing", make(thing=table(in_deb("0" * 64))))
    assert "no package archive reachable (or it does not carry tiny=1.0)" in message


def test_a_dead_archive_among_others_does_not_hide_the_package(make, apt: Path, cached: Path) -> None:
    program = apt.parents[1] / "bin" / "apt-get"
    program.write_text(
        f'#!/bin/sh\ncase "$*" in\n*update) echo "E: Failed to fetch a list" >&2; exit 100 ;;\n*) cp {apt} . ;;\nesac\n'
    )
    fetch("thing", make(thing=table(in_deb(sha256(apt.read_bytes())))))
    assert cached.read_bytes() == RIGHT


@pytest.mark.parametrize("kind", ["wheel", "deb"])
def test_the_cache_may_be_named_relative_to_where_one_stands(make, request, kind, tmp_path, monkeypatch) -> None:
    archive = request.getfixturevalue({"wheel": "wheel", "deb": "apt"}[kind])
    entries = make(thing=table({"wheel": in_wheel, "deb": in_deb}[kind](sha256(archive.read_bytes()))))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HYENA_CACHE", "here")
    assert fetch("thing", entries).path.read_bytes() == RIGHT
