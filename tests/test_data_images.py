"""Images: parts that share no pixel, resolutions, files of all formats, and what damaged ones say."""

from __future__ import annotations

import gzip
import io
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from registries import fetched as or_skipped

from hyena.data import images as module
from hyena.data import pixels
from hyena.data.fetch import Fetched
from hyena.data.images import BLOCK, SIDE, Images, blocks, crops, framed, load_images, resized, standardised
from hyena.data.pixels import grey, read_idx, read_pickle, read_picture
from hyena.errors import HyenaError


def pattern(height: int, width: int) -> np.ndarray:
    """Every pixel has a value of its own."""
    return np.arange(height * width, dtype=np.float32).reshape(height, width, 1) / (height * width)


# Photographs


def test_blocks_tile_the_photograph_and_a_quarter_is_for_test() -> None:
    found = list(blocks(8 * BLOCK + 5, 8 * BLOCK + 90))
    assert len({(top, left) for _, top, left in found}) == len(found) == 64
    parts = [part for part, _, _ in found]
    assert parts.count("test") == 16 and parts.count("valid") == 8
    assert all(top % BLOCK == left % BLOCK == 0 for _, top, left in found)


def test_even_four_blocks_have_all_parts() -> None:
    assert {part for part, _, _ in blocks(191, 384)} == {"train", "valid", "test"}


@pytest.mark.parametrize("sides", [(300, 451), (427, 640), (500, 741), (512, 512), (1411, 1411)], ids=str)
def test_photographs_of_all_shapes_have_about_a_quarter_for_test(sides: tuple[int, int]) -> None:
    parts = [part for part, _, _ in blocks(*sides)]
    assert 0.14 <= parts.count("test") / len(parts) <= 0.3 and 0.08 <= parts.count("valid") / len(parts) <= 0.25


def test_a_picture_without_a_block_of_the_part_is_refused() -> None:
    with pytest.raises(HyenaError, match="a picture of 300 x 300 has no test block of 96 x 96"):
        crops(pattern(300, 300), "test", 2, np.random.default_rng(0))


def test_no_pixel_is_in_two_parts(monkeypatch) -> None:
    monkeypatch.setattr(module, "standardised", lambda x: x)
    picture = pattern(400, 500)
    seen = {
        part: set(crops(picture, part, 200, np.random.default_rng(0)).ravel().tolist())
        for part in ("train", "valid", "test")
    }
    assert not seen["train"] & seen["test"] and not seen["train"] & seen["valid"] and not seen["valid"] & seen["test"]
    assert all(len(some) > SIDE**2 for some in seen.values())


def test_crops_are_whole_windows_of_the_picture(monkeypatch) -> None:
    monkeypatch.setattr(module, "standardised", lambda x: x)
    picture = pattern(300, 300)
    for crop in crops(picture, "train", 20, np.random.default_rng(1)):
        top, left = divmod(round(float(crop[0, 0, 0]) * 300 * 300), 300)
        assert np.array_equal(crop, picture[top : top + SIDE, left : left + SIDE])


def test_standardised_examples_have_no_mean_and_unit_contrast_unless_they_are_flat() -> None:
    x = np.random.default_rng(0).normal(3, 5, (4, 6, 6, 3)).astype(np.float32)
    y = standardised(x)
    assert np.allclose(y.mean((1, 2)), 0, atol=1e-5) and np.allclose(y.std((1, 2, 3)), 1, atol=1e-4)
    flat = standardised(np.full((1, 4, 4, 1), 0.5) + 0.001 * np.arange(4)[None, :, None, None])
    assert np.abs(flat).max() < 0.2


@pytest.mark.data
def test_photographs_are_ten_balanced_classes_the_same_every_time() -> None:
    task = or_skipped(lambda: load_images("photographs"))
    again = load_images("photographs")
    assert len(task.classes) == 10 and task.train.x.shape == (6000, SIDE, SIDE, 3)
    assert [torch.bincount(part.y).tolist() for part in (task.train, task.valid, task.test)] == [
        [600] * 10, [50] * 10, [100] * 10
    ]  # fmt: skip
    assert torch.equal(task.test.x, again.test.x) and len(task.data) == 10
    assert len(load_images("photographs-grey").classes) == 19


@pytest.mark.data
def test_silhouettes_have_no_copies_left() -> None:
    task = or_skipped(lambda: load_images("silhouettes"))
    everything = torch.cat([part.x for part in (task.train, task.valid, task.test)]).flatten(1)
    assert len(everything) == 9716 == len(torch.unique(everything, dim=0))
    assert (everything.view(-1, SIDE, SIDE)[:, :2] == everything.min()).all(), "a black frame"


# Resolutions


def test_resized_images_keep_their_mean_and_lose_what_is_too_fine() -> None:
    x = torch.zeros(1, 32, 32, 1)
    x[:, 1::4] = x[:, 2::4] = 1  # the two rows of four between which a bilinear sample lies
    assert resized(x, (8, 8)).sub(0.5).abs().max() < 0.15, "smoothed, not sampled: samples would all be one"
    assert resized(x, (32, 32)) is x
    ramp = torch.linspace(0, 1, 32)[None, :, None, None].expand(1, 32, 32, 1)
    assert resized(ramp, (8, 32)).shape == (1, 8, 32, 1)
    assert torch.allclose(resized(ramp, (16, 16)).mean(), ramp.mean(), atol=1e-3)


def test_images_come_on_other_grids_and_in_smaller_numbers() -> None:
    some = Images(torch.randn(5, 32, 32, 2), torch.arange(5))
    assert some.at(8).x.shape == (5, 8, 8, 2) and some.at(8, 16).x.shape == (5, 8, 16, 2)
    assert len(some.first(3)) == 3 and len(some.first(9)) == 5


# Files


def archive(folder: Path, names: tuple[str, ...]) -> Path:
    rng = np.random.default_rng(0)
    path = folder / "cifar.tar.gz"
    with tarfile.open(path, "w:gz") as out:
        for name in names:
            batch = {"data": rng.integers(0, 256, (20, 3072), dtype=np.uint8), "labels": list(range(10)) * 2}
            content = {"label_names": list("abcdefghij")} if name == "batches.meta" else batch
            data = pickle.dumps(content, protocol=2)
            member = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            member.size = len(data)
            out.addfile(member, io.BytesIO(data))
    return path


@pytest.mark.parametrize("count", [1, 3])
def test_cifar_takes_the_batches_that_there_are(tmp_path, monkeypatch, count: int) -> None:
    names = tuple(f"data_batch_{i + 1}" for i in range(count))
    path = archive(tmp_path, (*names, "test_batch", "batches.meta"))
    monkeypatch.setattr(module, "fetch", lambda name: Fetched(name, path, "hash", "test"))
    task = load_images("cifar10")
    assert len(task.train) + len(task.valid) == 20 * count and len(task.test) == 20
    assert task.data["cifar10 training batches"] == f"{count} of 5"
    assert task.classes == tuple("abcdefghij")


def test_cifar_pixels_are_rows_of_three_planes(tmp_path) -> None:
    planes = np.zeros((1, 3, 32, 32), dtype=np.uint8)
    planes[0, 1, 2, 3] = 255  # green, third row, fourth column
    batch = pickle.dumps({"data": planes.reshape(1, -1), "labels": [4]}, protocol=2)
    x, y = module._cifar_batch(batch, "batch")
    bright = np.argwhere(x > 1.5)
    assert bright.tolist() == [[0, 2, 3, 1]] and y.tolist() == [4]
    assert x[0, 2, 3, 1] == pytest.approx((1 - 0.4822) / 0.243, rel=1e-5)


@pytest.mark.parametrize(
    "names", [("test_batch", "batches.meta"), ("data_batch_1", "batches.meta"), ("data_batch_1", "test_batch")]
)
def test_a_cifar_archive_without_a_member_says_what_it_holds(tmp_path, monkeypatch, names: tuple[str, ...]) -> None:
    path = archive(tmp_path, names)
    monkeypatch.setattr(module, "fetch", lambda name: Fetched(name, path, "hash", "test"))
    with pytest.raises(HyenaError, match=f"lacks a training batch.*it holds {', '.join(sorted(names))}"):
        load_images("cifar10")


def test_a_cut_cifar_archive_is_named(tmp_path, monkeypatch) -> None:
    path = archive(tmp_path, ("data_batch_1",))
    path.write_bytes(path.read_bytes()[:500])
    monkeypatch.setattr(module, "fetch", lambda name: Fetched(name, path, "hash", "test"))
    with pytest.raises(HyenaError, match=r"cifar.tar.gz is no whole archive .*; delete it and fetch it again"):
        load_images("cifar10")


def idx(array: np.ndarray) -> bytes:
    head = b"\0\0\x08" + bytes([array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape)
    return gzip.compress(head + array.tobytes())


def test_mnist_is_read_from_its_own_format(tmp_path, monkeypatch) -> None:
    rng = np.random.default_rng(0)
    files = {}
    for part, count in (("train", 40), ("test", 10)):
        files[f"mnist-{part}-images"] = rng.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        files[f"mnist-{part}-labels"] = (np.arange(count) % 10).astype(np.uint8)
    for name, array in files.items():
        (tmp_path / name).write_bytes(idx(array))
    monkeypatch.setattr(module, "fetch", lambda name: Fetched(name, tmp_path / name, "hash", "test"))
    task = load_images("mnist")
    assert (len(task.train), len(task.valid), len(task.test)) == (36, 4, 10) and task.test.y.tolist() == list(range(10))


def cut(content: bytes) -> bytes:
    return gzip.compress(gzip.decompress(content)[:20])


def wrong_inside(content: bytes) -> bytes:
    return content[:12] + b"xx" + content[14:]


@pytest.mark.parametrize("damage", [lambda content: content[:30], lambda _: b"no gzip", cut, wrong_inside])
def test_a_damaged_idx_file_is_named(tmp_path, damage) -> None:
    path = tmp_path / "digits.gz"
    path.write_bytes(damage(idx(np.zeros((3, 4), dtype=np.uint8))))
    with pytest.raises(HyenaError, match=r"digits.gz is no whole IDX file"):
        read_idx(path)


def test_frames_are_black_and_two_pixels_wide() -> None:
    wide = framed(np.full((2, 28, 28), 255, dtype=np.uint8))
    assert wide.shape == (2, 32, 32, 1) and (wide[0, :2] == -1).all() and wide[0, 2, 2] == 1


def test_pictures_have_one_colour_or_three(tmp_path) -> None:
    for mode, colours in (("L", 1), ("LA", 1), ("RGB", 3), ("RGBA", 3), ("P", 3)):
        Image.new(mode, (5, 4), color=0).save(tmp_path / f"{mode}.png")
        assert read_picture(tmp_path / f"{mode}.png").shape == (4, 5, colours)


def test_grey_is_luminance() -> None:
    red = np.zeros((2, 2, 3), dtype=np.float32)
    red[..., 0] = 1
    assert np.allclose(grey(red), 0.299) and grey(red).shape == (2, 2, 1)
    assert np.array_equal(grey(red[..., :1]), red[..., :1])


def test_a_file_that_is_no_picture_is_named(tmp_path) -> None:
    (tmp_path / "text.png").write_text("not a picture")
    with pytest.raises(HyenaError, match=r"text.png is no whole picture .* fetch it again"):
        read_picture(tmp_path / "text.png")


class Hostile:
    def __reduce__(self):
        return print, ("run",)


def test_a_pickle_gives_arrays_and_runs_nothing_else(capsys) -> None:
    array = np.arange(6.0).reshape(2, 3)
    assert np.array_equal(read_pickle(pickle.dumps({"a": array}), "x")["a"], array)
    with pytest.raises(HyenaError, match=r"mine: it asks for builtins\.print, .* nothing of it was run"):
        read_pickle(pickle.dumps(Hostile()), "mine")
    with pytest.raises(HyenaError, match="mine is damaged"):
        read_pickle(pickle.dumps(array)[:20], "mine")
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: load_images("photograph"), "unknown image task 'photograph': did you mean 'photographs'"),
        (lambda: pixels.photograph("astronaught"), "did you mean 'astronaut'"),
        (lambda: pixels.read_film("bike"), "did you mean 'bikes'"),
    ],
)
def test_an_unknown_name_suggests_the_nearest(call, said: str) -> None:
    with pytest.raises(HyenaError, match=said):
        call()
