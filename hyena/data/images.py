"""Images to classify, on grids of several resolutions.

>>> task = load_images("photographs")
>>> task.train.x.shape, task.classes[:3]
(torch.Size([6000, 32, 32, 3]), ('astronaut', 'chelsea', 'china'))
"""

from __future__ import annotations

import gzip
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from hyena.data.fetch import fetch
from hyena.data.pixels import (
    IN_COLOUR,
    PHOTOGRAPHS,
    grey,
    photograph,
    read_idx,
    read_pickle,
    read_picture,
)
from hyena.errors import HyenaError, unknown

TASKS = ("photographs", "photographs-grey", "silhouettes", "cifar10", "mnist")
SIDE = 32
BLOCK = 96  # pixels; crops lie within one block, and a block belongs to one part
PER_CLASS = {"train": 600, "valid": 50, "test": 100}  # crops of each photograph
VALID = 0.1  # of a published training part
CIFAR_MEAN, CIFAR_SD = (0.4914, 0.4822, 0.4465), (0.247, 0.243, 0.261)
FLAT = 0.02  # contrast, of 1, below which a crop is not stretched further


@dataclass(frozen=True)
class Images:
    """Examples, channels last, and one class for each."""

    x: Float[Tensor, "examples height width channels"]
    y: Int[Tensor, " examples"]

    def __len__(self) -> int:
        return len(self.y)

    def at(self, *sides: int) -> Images:
        """The same images on another grid, one side for both axes or two, by `resized`."""
        return replace(self, x=resized(self.x, sides * 2 if len(sides) == 1 else sides))

    def first(self, most: int) -> Images:
        """At most so many of them, from the start."""
        return Images(self.x[:most], self.y[:most])


@dataclass(frozen=True)
class ImageTask:
    """A classification task in three parts; `data` holds the hashes of the files it was read from."""

    name: str
    classes: tuple[str, ...]
    train: Images
    valid: Images
    test: Images
    data: dict[str, str]


def load_images(name: str) -> ImageTask:
    """A task by name, all of 32 x 32.

    * `photographs`: of which of ten photographs is this crop; each crop's channel means and contrast are removed.
    * `photographs-grey`: the same in grey, with nineteen.
    * `silhouettes`: which of ten animals, 28 x 28 in a black frame; copies of an image are dropped before the split.
    * `cifar10`: as many of the training batches as the archive has; channels are standardised as in the released
      configuration, a tenth of the training images validates.
    * `mnist`: digits in a black frame, split likewise.

    Photographs are cut into blocks of 96 x 96, every block belongs to one part, and a crop lies within one block: no
    pixel is in two parts. The scenes are the same ones, so that a model is tested on other places of what it has seen.

    Raises:
        HyenaError: an unknown name, or a file that cannot be had or read.
    """
    loaders = {
        "photographs": lambda: _photographs(name, IN_COLOUR, coloured=3),
        "photographs-grey": lambda: _photographs(name, PHOTOGRAPHS, coloured=1),
        "silhouettes": _silhouettes,
        "cifar10": _cifar10,
        "mnist": _mnist,
    }
    if name not in loaders:
        raise unknown("image task", name, loaders)
    return loaders[name]()


def resized(
    x: Float[Tensor, "examples height width channels"], sides: tuple[int, ...]
) -> Float[Tensor, "examples rows columns channels"]:
    """On a grid of other sides: bilinear, smoothed first where the grid becomes coarser."""
    if tuple(x.shape[1:3]) == sides:
        return x
    return F.interpolate(x.movedim(-1, 1), sides, mode="bilinear", antialias=True).movedim(1, -1).contiguous()


def blocks(height: int, width: int) -> Iterator[tuple[str, int, int]]:
    """Part, top and left of every whole block of a photograph: about a quarter for test, an eighth for validation."""
    rows, columns = height // BLOCK, width // BLOCK
    for row in range(rows):
        for column in range(columns):
            number = row * columns + column + row
            part = "test" if number % 4 == 3 else "valid" if number % 8 == 1 else "train"
            yield part, row * BLOCK, column * BLOCK


def crops(
    pixels: Float[np.ndarray, "height width channels"], part: str, count: int, rng: np.random.Generator
) -> Float[np.ndarray, "count side side channels"]:
    """Crops of `SIDE` from the blocks of one part, as many from each of them, standardised; they may overlap.

    Raises:
        HyenaError: no block of the picture belongs to this part.
    """
    places = [(top, left) for which, top, left in blocks(*pixels.shape[:2]) if which == part]
    if not places:
        raise HyenaError(f"a picture of {pixels.shape[0]} x {pixels.shape[1]} has no {part} block of {BLOCK} x {BLOCK}")
    found = np.empty((count, SIDE, SIDE, pixels.shape[2]), dtype=np.float32)
    for i in range(count):
        top, left = np.array(places[i % len(places)]) + rng.integers(0, BLOCK - SIDE + 1, 2)
        found[i] = pixels[top : top + SIDE, left : left + SIDE]
    return standardised(found)


def standardised(x: Float[np.ndarray, "examples *grid channels"]) -> Float[np.ndarray, "examples *grid channels"]:
    """Each example less the mean of each channel, divided by the deviation that is left."""
    x = x - x.mean(axis=tuple(range(1, x.ndim - 1)), keepdims=True)
    return x / np.maximum(x.std(axis=tuple(range(1, x.ndim)), keepdims=True), FLAT)


def _photographs(name: str, names: tuple[str, ...], coloured: int) -> ImageTask:
    data: dict[str, str] = {}
    found: dict[str, list[np.ndarray]] = {part: [] for part in PER_CLASS}
    for number, one in enumerate(names):
        file = photograph(one)
        data[file.name] = file.hash
        pixels = read_picture(file.path)
        pixels = grey(pixels) if coloured == 1 else pixels
        for i, (part, count) in enumerate(PER_CLASS.items()):
            found[part].append(crops(pixels, part, count, np.random.default_rng((number, i))))
    parts = {
        part: _shuffled(np.concatenate(some), np.repeat(np.arange(len(names)), PER_CLASS[part]))
        for part, some in found.items()
    }
    return ImageTask(name, names, **parts, data=data)


def _silhouettes() -> ImageTask:
    files = [fetch("silhouettes"), fetch("silhouettes-labels")]
    x, y = (read_pickle(gzip.decompress(file.path.read_bytes()), file.path.name) for file in files)
    _, kept = np.unique(x.reshape(len(x), -1), axis=0, return_index=True)
    kept.sort()
    x, y = framed(x.reshape(-1, 28, 28)[kept]), y.astype(np.int64)[kept]
    classes = tuple(str(label) for label in np.unique(y))
    mixed = np.random.default_rng(0).permutation(len(y))
    tested, learned = np.split(mixed, [len(y) // 5])
    names = {file.name: file.hash for file in files}
    return _split("silhouettes", classes, (x[learned], y[learned]), (x[tested], y[tested]), names)


def _mnist() -> ImageTask:
    files = [fetch(f"mnist-{part}-{kind}") for part in ("train", "test") for kind in ("images", "labels")]
    x, y, tested, labels = (read_idx(file.path) for file in files)
    learned, held = ((framed(a), b.astype(np.int64)) for a, b in ((x, y), (tested, labels)))
    return _split("mnist", tuple("0123456789"), learned, held, {file.name: file.hash for file in files})


def _cifar10() -> ImageTask:
    file = fetch("cifar10")
    try:
        with tarfile.open(file.path) as archive:
            members = {m.name.rpartition("/")[2]: archive.extractfile(m).read() for m in archive if m.isfile()}
    except (tarfile.TarError, OSError, EOFError) as error:
        raise HyenaError(f"{file.path.name} is no whole archive ({error}); delete it and fetch it again") from error
    batches = [name for name in sorted(members) if name.startswith("data_batch_")]
    if not batches or not {"test_batch", "batches.meta"} <= members.keys():
        raise HyenaError(
            f"{file.path.name} lacks a training batch, the test batch or batches.meta; it holds "
            f"{', '.join(sorted(members))}"
        )
    classes = tuple(read_pickle(members["batches.meta"], "batches.meta")["label_names"])
    learned = [_cifar_batch(members[name], name) for name in batches]
    x, y = (np.concatenate([batch[i] for batch in learned]) for i in (0, 1))
    tested = _cifar_batch(members["test_batch"], "test_batch")
    data = {file.name: file.hash, "cifar10 training batches": f"{len(batches)} of 5"}
    return _split("cifar10", classes, (x, y), tested, data)


def _cifar_batch(content: bytes, name: str) -> tuple[np.ndarray, np.ndarray]:
    batch = read_pickle(content, name)
    x = batch["data"].reshape(-1, 3, SIDE, SIDE).transpose(0, 2, 3, 1).astype(np.float32) / 255
    scaled = (x - np.array(CIFAR_MEAN, dtype=np.float32)) / np.array(CIFAR_SD, dtype=np.float32)
    return scaled, np.array(batch["labels"])


def framed(x: np.ndarray) -> Float[np.ndarray, "examples side side one"]:
    """Images of 28 x 28 bytes in a black frame of 32 x 32, from -1 (black) to 1."""
    return np.pad(x.astype(np.float32) / 127.5, ((0, 0), (2, 2), (2, 2)))[..., None] - 1


def _split(
    name: str, classes: tuple[str, ...], learned: tuple[np.ndarray, np.ndarray], tested: tuple[np.ndarray, np.ndarray],
    data: dict[str, str],
) -> ImageTask:  # fmt: skip
    """A tenth of the training images, drawn with NumPy's generator from seed 42, validates."""
    mixed = np.random.default_rng(42).permutation(len(learned[1]))
    held, fitted = np.split(mixed, [int(VALID * len(mixed))])
    parts = {"train": (learned, fitted), "valid": (learned, held)}
    made = {part: Images(*(torch.from_numpy(a[some]) for a in of)) for part, (of, some) in parts.items()}
    return ImageTask(name, classes, **made, test=Images(*(torch.from_numpy(a) for a in tested)), data=data)


def _shuffled(x: np.ndarray, y: np.ndarray) -> Images:
    mixed = np.random.default_rng(len(y)).permutation(len(y))
    return Images(torch.from_numpy(x[mixed]), torch.from_numpy(y[mixed]))
