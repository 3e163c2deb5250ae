"""Pictures and films as arrays: files of the registry decoded, and pickles of arrays read without running them.

>>> read_photograph("astronaut").shape
(512, 512, 3)
"""

from __future__ import annotations

import gzip
import io
import pickle
import zlib
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8

from hyena.data.fetch import Fetched, fetch
from hyena.errors import HyenaError, unknown

IN_COLOUR = (
    "astronaut", "chelsea", "china", "coffee", "flower", "hubble-deep-field", "ihc", "motorcycle-left", "retina",
    "rocket",
)  # fmt: skip
PHOTOGRAPHS = (*IN_COLOUR, "brick", "camera", "cell", "clock-motion", "coins", "grass", "gravel", "moon", "page")
FILMS = ("carphone", "bikes")
ARRAYS = {  # all that a pickled array of numbers asks for
    ("numpy.core.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],
    ("numpy._core.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("_codecs", "encode"): lambda text, _: text.encode("latin1"),  # bytes, as protocol 2 writes them
}
GREY = (0.299, 0.587, 0.114)  # of red, green and blue: ITU-R BT.601


def photograph(name: str) -> Fetched:
    """The file of a photograph.

    Raises:
        HyenaError: another name, or a file that cannot be had.
    """
    if name not in PHOTOGRAPHS:
        raise unknown("photograph", name, PHOTOGRAPHS)
    return fetch(f"photo-{name}")


def read_photograph(name: str) -> Float[np.ndarray, "height width colours"]:
    """A photograph as numbers from 0 to 1, with three colours or one, as it is stored.

    Raises:
        HyenaError: as `photograph`, or the file is no picture.
    """
    return read_picture(photograph(name).path)


def read_picture(path: Path) -> Float[np.ndarray, "height width colours"]:
    """A picture file as numbers from 0 to 1; transparency is dropped.

    Raises:
        HyenaError: the file is no picture.
    """
    from PIL import Image

    try:
        with Image.open(path) as image:
            plain = image.convert("L" if image.mode in ("1", "L", "LA") else "RGB")
    except OSError as error:
        raise HyenaError(f"{path.name} is no whole picture ({error}); delete it and fetch it again") from error
    pixels = np.asarray(plain, dtype=np.float32) / 255
    return pixels if pixels.ndim == 3 else pixels[..., None]


def grey(pixels: Float[np.ndarray, "*grid colours"]) -> Float[np.ndarray, "*grid one"]:
    """Luminance, as one colour."""
    return pixels if pixels.shape[-1] == 1 else (pixels @ np.array(GREY, dtype=pixels.dtype))[..., None]


def read_film(name: str) -> Float[np.ndarray, "frames height width"]:
    """A film in grey, from 0 to 1.

    Raises:
        HyenaError: another name, a file that cannot be had, or one that is no film.
    """
    if name not in FILMS:
        raise unknown("film", name, FILMS)
    import av  # here, so that training without films works without it

    path = fetch(f"film-{name}").path
    try:
        with av.open(str(path)) as film:
            frames = [frame.to_ndarray(format="gray") for frame in film.decode(video=0)]
    except av.error.FFmpegError as error:
        raise HyenaError(f"{path.name} is no whole film ({error}); delete it and fetch it again") from error
    return np.stack(frames).astype(np.float32) / 255


def read_pickle(content: bytes, what: str) -> object:
    """Plain containers and arrays of numbers out of a pickle; whatever else it asks for is refused, not run.

    Raises:
        HyenaError: it asks for something else, or is damaged.
    """
    try:
        return _Arrays(io.BytesIO(content), encoding="latin1").load()
    except HyenaError as error:
        raise HyenaError(f"{what}: {error}") from None
    except Exception as error:  # a damaged pickle raises whatever it pleases
        raise HyenaError(
            f"{what} is damaged ({type(error).__name__}: {error}); delete it and fetch it again"
        ) from error


def read_idx(path: Path) -> UInt8[np.ndarray, "*shape"]:
    """An array of bytes in the IDX format of MNIST, gzipped.

    Raises:
        HyenaError: the file is none, or cut off.
    """
    try:
        content = gzip.decompress(path.read_bytes())
        axes = content[3]
        shape = tuple(np.frombuffer(content, ">u4", axes, 4).tolist())
        if content[:3] != b"\0\0\x08":
            raise ValueError("not an array of bytes")
        return np.frombuffer(content, np.uint8, int(np.prod(shape)), 4 + 4 * axes).reshape(shape)
    except (OSError, EOFError, ValueError, IndexError, zlib.error) as error:
        raise HyenaError(f"{path.name} is no whole IDX file ({error}); delete it and fetch it again") from error


class _Arrays(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> object:
        if (module, name) not in ARRAYS:
            raise HyenaError(f"it asks for {module}.{name}, which an array does not need; nothing of it was run")
        return ARRAYS[module, name]
