"""Published weights: where a file is sought, its hash, and the hub."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from official_files import (
    FORMATS,
    hf,
    refused,
    same,
    written,
)

from hyena.models import official
from hyena.models.hyenadna import SIZES
from hyena.models.official import from_pretrained

# Where a file is


def test_of_several_files_in_a_folder_safetensors_come_first(model, weights, tmp_path) -> None:
    (tmp_path / "weights.ckpt").write_bytes(b"not read")
    hf(weights, tmp_path / "other.safetensors")
    assert same(from_pretrained(str(tmp_path)), model)
    hf(weights, tmp_path / "model.safetensors")
    (tmp_path / "other.safetensors").write_bytes(b"not read")
    assert same(from_pretrained(tmp_path), model)


def test_a_folder_without_one_obvious_file_is_refused(tmp_path) -> None:
    assert "must hold model.safetensors or weights.ckpt; found 0 such files" in refused(tmp_path)
    for name in ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"):
        (tmp_path / name).touch()
    assert "found 2 such files" in refused(tmp_path)


@pytest.mark.parametrize(
    "source",
    [
        "weights.ckpt",
        "/no/such/folder",
        "./tiny-1k-seqlen",
        "../tiny-1k-seqlen",
        "~/tiny",
        "~nobody/tiny",
        Path("tiny"),
    ],
    ids=str,
)
def test_what_looks_like_a_path_is_never_sought_on_the_hub(tmp_path, monkeypatch, source: str | Path) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("HOME", str(tmp_path))
    said = refused(source)
    assert said.startswith("there is no file or folder ")
    assert str(source).rpartition("/")[2] in said


@pytest.mark.parametrize("name", ["tiny-1k-seqlne", "LongSafari/hyenadna-tiny-1k-seqln-hf"])
def test_a_misspelt_name_suggests_the_nearest(name: str) -> None:
    assert "did you mean 'tiny-1k-seqlen'?" in refused(name)


def test_another_owner_on_the_hub_is_not_taken_for_the_authors() -> None:
    assert "unknown HyenaDNA model 'someone/hyenadna-tiny-1k-seqlen'" in refused("someone/hyenadna-tiny-1k-seqlen-hf")


# The hash


@pytest.mark.parametrize("layout", FORMATS)
def test_the_right_hash_is_accepted_in_either_case(model, weights, tmp_path, layout: str) -> None:
    path = written(weights, tmp_path, layout)
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    assert same(from_pretrained(path, sha256=sha256), model)
    assert same(from_pretrained(path, sha256=sha256.upper()), model)


def test_a_wrong_hash_is_refused_before_anything_is_parsed(tmp_path, monkeypatch) -> None:
    path = tmp_path / "weights.ckpt"
    path.write_bytes(b"anything")
    monkeypatch.setattr(official, "_parsed", lambda path: pytest.fail("parsed"))
    found = hashlib.sha256(b"anything").hexdigest()
    assert f"it has sha256 {found}, not {'0' * 64}" in refused(path, sha256="0" * 64)


# The hub


class Hub:
    """A server on this machine that counts requests."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.asked: list[str] = []
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                hub.asked.append(self.path)
                body = hub.files.get(self.path)
                self.send_response(200 if body is not None else 404)
                self.send_header("Content-Length", str(len(body or b"") + hub.cut))
                self.end_headers()
                self.wfile.write(body or b"")

            def log_message(self, format: str, *args: object) -> None:
                pass

        self.cut = 0  # bytes announced but never sent
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)


@pytest.fixture
def hub(tmp_path, monkeypatch) -> Iterator[Hub]:
    hub = Hub()
    monkeypatch.setenv("HYENA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    address = f"http://127.0.0.1:{hub.server.server_port}"
    monkeypatch.setattr(official, "HUB", address + "/{size}/{commit}/model.safetensors")
    thread = threading.Thread(target=hub.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield hub
    hub.server.shutdown()
    thread.join()
    hub.server.server_close()


TINY = f"/tiny-1k-seqlen/{official.COMMITS['tiny-1k-seqlen']}/model.safetensors"


def test_every_published_size_is_pinned_to_a_full_commit() -> None:
    assert official.COMMITS.keys() == SIZES.keys()
    assert all(len(commit) == 40 and int(commit, 16) for commit in official.COMMITS.values())
    assert official.HUB.format(size="tiny-1k-seqlen", commit="main") == (
        "https://huggingface.co/LongSafari/hyenadna-tiny-1k-seqlen-hf/resolve/main/model.safetensors"
    )


@pytest.mark.parametrize(
    "name", ["tiny-1k-seqlen", "hyenadna-tiny-1k-seqlen-hf", "LongSafari/hyenadna-tiny-1k-seqlen-hf"]
)
def test_a_name_is_downloaded_once(model, weights, tmp_path, hub, name: str) -> None:
    hub.files[TINY] = hf(weights, tmp_path / "served").read_bytes()
    assert same(from_pretrained(name), model)
    assert same(from_pretrained(name), model)
    assert hub.asked == [TINY]
    kept = [path.name for path in (tmp_path / "cache" / "models").iterdir()]
    assert kept == ["hyenadna-tiny-1k-seqlen-hf.safetensors"]


def said_by_hub(tmp_path: Path, **options: object) -> str:
    said = refused("tiny-1k-seqlen", **options)
    path = tmp_path / "cache" / "models" / "hyenadna-tiny-1k-seqlen-hf.safetensors"
    assert f"cannot download {official.HUB.format(size='tiny-1k-seqlen', commit=TINY.split('/')[2])}: " in said
    assert said.endswith(f"By hand: get it and put it at {path}")
    assert list(path.parent.iterdir()) == [], "nothing half or wrong stays"
    return said


def test_a_download_that_fails_says_why_and_what_to_do_by_hand(weights, tmp_path, hub) -> None:
    assert "404 Client Error: Not Found" in said_by_hub(tmp_path)
    hub.files[TINY] = b"<!DOCTYPE html> please log in"
    assert "header" in said_by_hub(tmp_path)
    hub.files[TINY] = hf(weights, tmp_path / "served").read_bytes()[:-100]
    said_by_hub(tmp_path)
    hub.cut = 100
    assert "100 more expected" in said_by_hub(tmp_path)


def test_without_a_network_the_reason_is_one_line(tmp_path, hub, monkeypatch) -> None:
    monkeypatch.setattr(official, "HUB", "http://127.0.0.1:9/{size}/{commit}/model.safetensors")
    assert "Connection refused" in said_by_hub(tmp_path)


def test_a_download_with_another_hash_is_not_kept(model, weights, tmp_path, hub) -> None:
    content = hub.files[TINY] = hf(weights, tmp_path / "served").read_bytes()
    found = hashlib.sha256(content).hexdigest()
    assert f"it has sha256 {found}, not {'0' * 64}" in said_by_hub(tmp_path, sha256="0" * 64)
    assert same(from_pretrained("tiny-1k-seqlen", sha256=found), model)
    assert "it has sha256" in refused("tiny-1k-seqlen", sha256="1" * 64), "also of what is kept"


def test_what_lies_on_the_disk_goes_before_the_hub(model, weights, tmp_path, hub, monkeypatch) -> None:
    folder = tmp_path / "here" / "tiny-1k-seqlen"
    folder.mkdir(parents=True)
    hf(weights, folder / "model.safetensors")
    monkeypatch.chdir(folder.parent)
    assert same(from_pretrained("tiny-1k-seqlen"), model)
    assert hub.asked == []
