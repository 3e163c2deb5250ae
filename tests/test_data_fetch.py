"""What the data fetcher promises, and what it says when a source, a disk or a registry lets it down."""

from __future__ import annotations

import errno
import gzip
import hashlib
import logging
import os
import sys
import threading
import types
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from registries import IN_MIRROR, RIGHT, WRONG, leftovers, refused, sha256, table

from hyena.data.fetch import build, fetch
from hyena.data.registry import entry
from hyena.errors import HyenaError

pytestmark = pytest.mark.usefixtures("nobodys_machine")


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "mirror"
    folder.mkdir()
    monkeypatch.setenv("HYENA_DATA_MIRROR", str(folder))
    return folder


@pytest.fixture
def server() -> Iterator[str]:
    """The address of a small server that gives good, wrong and half files."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            bodies = {"/good": RIGHT, "/wrong": WRONG, "/half": RIGHT[:1234], "/cut": RIGHT[:1234]}
            body = bodies.get(self.path)
            self.send_response(200 if body else 404)
            # "/cut" breaks off before the length it announced; "/half" believes it is complete.
            self.send_header("Content-Length", str(len(RIGHT) if self.path == "/cut" else len(body or b"")))
            self.end_headers()
            self.wfile.write(body or b"")

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()
        thread.join()


def url(address: str) -> dict:
    return {"kind": "url", "url": address}


# A good day


def test_a_download_lands_in_the_cache_and_is_not_repeated(make, server: str, cached: Path) -> None:
    entries = make(thing=table(url(f"{server}/good")))
    first, second = fetch("thing", entries), fetch("thing", entries)
    assert (first.path, first.hash, first.source) == (cached, sha256(RIGHT), f"url {server}/good")
    assert (second.path, second.source) == (cached, "cache")
    assert cached.read_bytes() == RIGHT
    assert leftovers(cached) == ["file.bin"]


def test_the_checkouts_own_data_comes_first_if_it_verifies(make, mirror: Path, tmp_path: Path) -> None:
    entries = make(thing=table(IN_MIRROR))
    own = tmp_path / "checkout" / "data" / "text" / "file.bin"
    own.parent.mkdir(parents=True)
    (mirror / "public.bin").write_bytes(RIGHT)
    own.write_bytes(WRONG)
    assert fetch("thing", entries).source == "mirror"
    own.write_bytes(RIGHT)
    assert fetch("thing", entries).path == own


def test_sources_are_tried_in_order_until_one_gives_the_right_bytes(make, server: str, mirror: Path) -> None:
    (mirror / "public.bin").write_bytes(WRONG)
    entries = make(thing=table(IN_MIRROR, url(f"{server}/missing"), url(f"{server}/good")))
    assert fetch("thing", entries).source == f"url {server}/good"


def test_any_of_several_accepted_hashes_will_do_and_the_one_used_is_recorded(make, mirror: Path) -> None:
    (mirror / "public.bin").write_bytes(WRONG)
    entries = make(thing=table(IN_MIRROR, sha256=[sha256(RIGHT), sha256(WRONG)]))
    assert fetch("thing", entries).hash == sha256(WRONG)


def test_a_simulator_writes_the_file_and_is_verified_like_any_source(make, monkeypatch, cached: Path) -> None:
    simulators = types.ModuleType("simulators")
    simulators.right = lambda path: path.write_bytes(RIGHT)
    simulators.wrong = lambda path: path.write_bytes(WRONG)
    simulators.diverges = lambda path: 1 / 0
    monkeypatch.setitem(sys.modules, "simulators", simulators)
    sources = [{"kind": "simulator", "function": f"simulators:{name}"} for name in ("wrong", "diverges", "right")]
    message = refused("thing", make(thing=table(*sources[:2])))
    assert sha256(WRONG) in message and "ZeroDivisionError" in message
    assert fetch("thing", make(thing=table(*sources))).source == "simulator simulators:right"


def test_two_fetches_at_once_both_end_with_the_whole_file(make, server: str, cached: Path) -> None:
    entries = make(thing=table(url(f"{server}/good")))
    cached.parent.mkdir(parents=True)
    cached.write_bytes(WRONG)
    with ThreadPoolExecutor(8) as pool:
        assert {found.hash for found in pool.map(lambda _: fetch("thing", entries), range(8))} == {sha256(RIGHT)}
    assert cached.read_bytes() == RIGHT


# Content hashes and vouching


def test_the_same_content_in_another_wrapper_is_accepted_by_its_content_hash(make, mirror: Path) -> None:
    packed = [gzip.compress(RIGHT, level, mtime=level) for level in (1, 9)]
    assert packed[0] != packed[1]
    for content in packed:
        (mirror / "public.bin").write_bytes(content)
        pinned = table(IN_MIRROR, file=f"{len(content)}.gz", content_sha256=[sha256(RIGHT)])
        del pinned["sha256"]
        assert fetch("thing", make(thing=pinned)).hash == sha256(RIGHT)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (gzip.compress(WRONG), f"wrong bytes, expected sha256 of the decompressed content {sha256(RIGHT)}"),
        (gzip.compress(RIGHT)[:-12], "ended before"),
        (RIGHT, "no .gz file"),
    ],
    ids=["other content", "truncated", "not compressed"],
)
def test_a_content_hash_still_refuses(make, mirror: Path, content: bytes, said: str) -> None:
    (mirror / "public.bin").write_bytes(content)
    pinned = table(IN_MIRROR, file="file.gz", content_sha256=[sha256(RIGHT)])
    del pinned["sha256"]
    assert said in refused("thing", make(thing=pinned))


def test_a_mirror_may_vouch_for_its_own_file_and_the_hash_used_is_recorded(make, mirror: Path) -> None:
    entries = make(thing=table(IN_MIRROR))
    (mirror / "public.bin").write_bytes(WRONG)
    (mirror / "registry.txt").write_text(f"other.bin {sha256(WRONG)}\n")
    assert "wrong bytes" in refused("thing", entries), "a line for another file vouches for nothing"
    (mirror / "registry.txt").write_text(f"other.bin {sha256(RIGHT)}\npublic.bin {sha256(WRONG)}\n")
    assert fetch("thing", entries).hash == sha256(WRONG)
    assert fetch("thing", entries).source == "cache"


def test_a_mirror_does_not_vouch_for_what_others_serve(make, mirror: Path, server: str) -> None:
    (mirror / "registry.txt").write_text(f"public.bin {sha256(WRONG)}\n")
    message = refused("thing", make(thing=table(IN_MIRROR, url(f"{server}/wrong"))))
    assert f"found {sha256(WRONG)}" in message


# Bad days


def test_a_wrong_file_is_refused_with_both_hashes_and_advice(make, server: str, cached: Path) -> None:
    message = refused("thing", make(thing=table(url(f"{server}/wrong"))))
    assert message.startswith("cannot fetch thing; tried")
    assert f"expected sha256 {sha256(RIGHT)}, found {sha256(WRONG)}" in message
    assert f"get {server}/wrong yourself" in message and f"put it at {cached}" in message
    assert leftovers(cached) == []


@pytest.mark.parametrize("page", ["half", "cut"])
def test_a_truncated_download_is_refused_and_says_how_much_came(make, server: str, cached: Path, page: str) -> None:
    assert "truncated: got 1,234 of 6,000 bytes" in refused("thing", make(thing=table(url(f"{server}/{page}"))))
    assert leftovers(cached) == []


def test_when_nothing_answers_the_error_lists_every_source_and_why(make, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("HYENA_DATA_MIRROR", str(tmp_path / "unplugged"))
    with ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as stopped:
        port = stopped.server_port
    entries = make(thing=table(IN_MIRROR, url(f"http://127.0.0.1:{port}/a"), url(f"http://127.0.0.1:{port}/b")))
    message = refused("thing", entries)
    assert "unplugged is not a folder" in message
    assert f"{port}/a: Connection refused; url" in message and f"{port}/b: Connection refused." in message


def test_without_a_mirror_the_error_names_the_variable(make, server: str) -> None:
    message = refused("thing", make(thing=table(IN_MIRROR, url(f"{server}/gone"))))
    assert "mirror: HYENA_DATA_MIRROR is not set" in message and "404" in message


def test_a_mirror_without_the_file_says_so(make, mirror: Path) -> None:
    assert "has no file public.bin" in refused("thing", make(thing=table(IN_MIRROR)))


def test_a_corrupt_cache_file_is_replaced_and_kept_aside(make, server: str, cached: Path, caplog) -> None:
    cached.parent.mkdir(parents=True)
    cached.write_bytes(RIGHT[:-1])
    with caplog.at_level(logging.WARNING):
        fetch("thing", make(thing=table(url(f"{server}/good"))))
    assert cached.read_bytes() == RIGHT
    assert cached.with_name("file.bin.corrupt").read_bytes() == RIGHT[:-1]
    assert "moved to file.bin.corrupt" in caplog.text


def test_a_full_disk_is_named_and_leaves_nothing(make, server: str, mirror: Path, cached: Path, monkeypatch) -> None:
    def full(source: object, target: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target))

    (mirror / "public.bin").write_bytes(RIGHT)
    entries = make(thing=table(IN_MIRROR, url(f"{server}/good")))
    with monkeypatch.context() as broken:
        broken.setattr(os, "replace", full)
        assert "the disk is full" in refused("thing", entries)
    assert leftovers(cached) == []
    with monkeypatch.context() as broken:
        broken.setattr("shutil.copyfile", full)
        assert "HYENA_CACHE at another disk" in refused("thing", entries)
    assert leftovers(cached) == []
    assert fetch("thing", entries).source == "mirror"


def test_a_killed_fetch_leaves_nothing_under_the_final_name(make, mirror: Path, cached: Path, monkeypatch) -> None:
    def killed(source: Path, target: Path) -> None:
        target.write_bytes(RIGHT[:100])
        raise KeyboardInterrupt

    (mirror / "public.bin").write_bytes(RIGHT)
    entries = make(thing=table(IN_MIRROR))
    with monkeypatch.context() as broken, pytest.raises(KeyboardInterrupt):
        broken.setattr("shutil.copyfile", killed)
        fetch("thing", entries)
    assert leftovers(cached) == []


# The default tier


def test_build_leaves_exactly_the_default_tier(make, mirror: Path, tmp_path: Path) -> None:
    (mirror / "public.bin").write_bytes(RIGHT)
    entries = make(wanted=table(IN_MIRROR, tier="default"), other=table(IN_MIRROR, file="other.bin"))
    folder = tmp_path / "build" / "data"
    for stray in ("text/other.bin", "images/old.png", "text/file.bin"):
        (folder / stray).parent.mkdir(parents=True, exist_ok=True)
        (folder / stray).write_bytes(WRONG)
    (built,) = build(folder, entries)
    assert (built.path, built.hash) == (folder / "text" / "file.bin", sha256(RIGHT))
    assert sorted(path.name for path in folder.parent.rglob("*")) == ["data", "file.bin", "text"]
    assert built.path.read_bytes() == RIGHT
    written = built.path.stat().st_mtime_ns
    assert build(folder, entries)[0].path.stat().st_mtime_ns == written, "a second build copies nothing"


def test_build_touches_nothing_when_an_entry_cannot_be_fetched(make, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "precious").write_bytes(RIGHT)
    with pytest.raises(HyenaError, match="cannot fetch wanted"):
        build(folder, make(wanted=table(IN_MIRROR, tier="default")))
    assert (folder / "precious").exists()


def test_build_takes_no_vouched_file(make, mirror: Path, tmp_path: Path) -> None:
    (mirror / "public.bin").write_bytes(WRONG)
    (mirror / "registry.txt").write_text(f"public.bin {sha256(WRONG)}\n")
    entries = make(wanted=table(IN_MIRROR, tier="default"))
    assert fetch("wanted", entries).hash == sha256(WRONG)
    with pytest.raises(HyenaError, match="wrong bytes"):
        build(tmp_path / "data", entries)


def test_build_refuses_a_folder_that_holds_more_than_data(make, tmp_path: Path) -> None:
    with pytest.raises(HyenaError, match="will not empty"):
        build(tmp_path, make())
    with pytest.raises(HyenaError, match="will not empty"):
        build(Path.cwd(), make())


@pytest.mark.parametrize(
    "fasta",
    [b">20\nACGTN\nACGT\n", b">chr20 hg19\nacgtnac\ngt", b">x\r\nACGTNACGT\r\n"],
    ids=["wrapped", "lower", "dos"],
)
def test_a_sequence_is_pinned_by_its_letters_whatever_the_file_looks_like(make, mirror: Path, fasta: bytes) -> None:
    (mirror / "public.bin").write_bytes(gzip.compress(fasta))
    m5 = hashlib.md5(b"ACGTNACGT").hexdigest()
    pinned = table(IN_MIRROR, file="file.fa.gz", sequence_md5=[m5])
    del pinned["sha256"]
    assert fetch("thing", make(thing=pinned)).hash == m5


@pytest.mark.parametrize(
    ("fasta", "said"),
    [(b">20\nACGTA\n", "expected md5 of the upper-case sequence"), (b">a\nAC\n>b\nGT\n", "2 sequences where one")],
    ids=["another", "two"],
)
def test_another_sequence_is_refused(make, mirror: Path, fasta: bytes, said: str) -> None:
    (mirror / "public.bin").write_bytes(fasta)
    pinned = table(IN_MIRROR, file="file.fa", sequence_md5=[hashlib.md5(b"ACGT").hexdigest()])
    del pinned["sha256"]
    assert said in refused("thing", make(thing=pinned))


@pytest.mark.data
def test_the_real_enwiki_excerpt_is_what_the_registry_says(monkeypatch: pytest.MonkeyPatch) -> None:
    import bz2

    monkeypatch.undo()  # the user's own cache, mirror and checkout
    try:
        found = fetch("enwiki")
    except HyenaError as error:
        if os.environ.get("HYENA_REQUIRE_DATA") == "1":
            raise
        pytest.skip(f"needs data: {error}")
    pages = bz2.decompress(found.path.read_bytes())
    assert found.path.stat().st_size == entry("enwiki").bytes
    assert (len(pages), len(set(pages)), pages.count(b"<page>")) == (6_089_746, 201, 206)
