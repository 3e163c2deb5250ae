"""Published weights: files that are something else, and conversion."""

from __future__ import annotations

import hashlib
import pickle
import struct
import zipfile

import pytest
from official_files import (
    EMBEDDING,
    FORMATS,
    lightning,
    refused,
    renamed,
    same,
    written,
    zipped,
)
from safetensors.torch import load_file, save_file

from hyena.errors import HyenaError
from hyena.models.official import convert, from_pretrained

# Files that are something else


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "neither safetensors nor a zip file of torch.save"),
        (b"<!DOCTYPE html><html>", "neither safetensors nor a zip file"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n", "a pointer of git-lfs"),
        (b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.", "a torch file of before version 1.6"),
        (struct.pack("<Q", 1 << 40) + b'{"a"', "damaged or unreadable (SafetensorError"),
        (b"PK\x03\x04" + bytes(40), "damaged or unreadable (BadZipFile"),
    ],
    ids=["empty", "page", "pointer", "old", "safetensors", "zip"],
)
def test_a_file_of_another_kind_is_named_as_such(tmp_path, content: bytes, said: str) -> None:
    path = tmp_path / "weights.ckpt"
    path.write_bytes(content)
    assert said in refused(path)
    assert f"cannot read {path}: " in refused(path)


@pytest.mark.parametrize("layout", FORMATS)
def test_a_file_cut_off_anywhere_is_refused(weights, tmp_path, layout: str) -> None:
    path = written(weights, tmp_path, layout)
    whole = path.read_bytes()
    for part in (0.001, 0.2, 0.5, 0.9, 0.9999):
        path.write_bytes(whole[: int(part * len(whole))])
        refused(path)


def test_a_changed_byte_in_a_storage_is_noticed(weights, tmp_path) -> None:
    path = lightning(weights, tmp_path / "weights.ckpt")
    content = bytearray(path.read_bytes())
    at = content.index(weights[EMBEDDING].numpy().tobytes())
    content[at + 1] ^= 1
    path.write_bytes(content)
    assert "Bad CRC-32" in refused(path)


@pytest.mark.parametrize(
    ("records", "said"),
    [
        ({"version": b"3"}, "it has no data.pkl"),
        ({"data.pkl": pickle.dumps({"model.w": 1}, 2)}, "it has no 'state_dict'"),
        ({"data.pkl": pickle.dumps([1], 2)}, "it has no 'state_dict'"),
        ({"data.pkl": pickle.dumps({"state_dict": [1]}, 2)}, "it has no 'state_dict'"),
        ({"data.pkl": pickle.dumps({"state_dict": {}}, 2)}, "it holds no weights"),
        ({"data.pkl": pickle.dumps({"state_dict": {"model.w": 1}}, 2)}, "damaged"),
        ({"data.pkl": pickle.dumps({"state_dict": {1: 1}}, 2)}, "damaged"),
        ({"data.pkl": b""}, "damaged or unreadable (EOFError"),
        ({"data.pkl": b"\x80\x02X"}, "damaged"),
        ({"data.pkl": pickle.dumps({}, 2), "byteorder": b"big"}, "big-endian"),
    ],
    ids=["no pickle", "no state", "list", "state is a list", "empty", "int", "key", "nothing", "half", "endian"],
)
def test_a_zip_file_that_is_no_checkpoint_is_refused(tmp_path, records: dict[str, bytes], said: str) -> None:
    assert said in refused(zipped(records, tmp_path / "weights.ckpt"))


def test_a_compressed_record_is_refused_before_it_is_unpacked(tmp_path) -> None:
    path = zipped({"data.pkl": bytes(1 << 24)}, tmp_path / "weights.ckpt", zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 1 << 16
    assert "is compressed, which torch.save does not do" in refused(path)


def test_an_empty_safetensors_file_is_refused(tmp_path) -> None:
    save_file({}, tmp_path / "model.safetensors")
    assert "it holds no weights" in refused(tmp_path)


# Converting


def test_a_converted_checkpoint_is_the_same_model(model, weights, tmp_path) -> None:
    source = lightning(renamed(weights), tmp_path / "weights.ckpt")
    to = tmp_path / "made" / "model.safetensors"
    assert convert(source, to) == to
    assert [path.name for path in to.parent.iterdir()] == [to.name], "no temporary file stays"
    assert load_file(to).keys() == {name.replace("backbone.", "hyena.backbone.") for name in weights}
    assert same(from_pretrained(to.parent), model)
    again = convert(to, tmp_path / "again.safetensors", hashlib.sha256(to.read_bytes()).hexdigest())
    assert again.read_bytes() == to.read_bytes()


def test_a_file_that_cannot_be_read_is_not_converted(weights, tmp_path) -> None:
    source, to = lightning(weights, tmp_path / "weights.ckpt"), tmp_path / "model.safetensors"
    with pytest.raises(HyenaError, match=f"it has sha256 [0-9a-f]{{64}}, not {'0' * 64}"):
        convert(source, to, "0" * 64)
    assert not to.exists()
