"""The published weights of HyenaDNA, read without running anything that a file contains.

>>> from hyena.models.official import from_pretrained
>>> model = from_pretrained("hyenadna-tiny-1k-seqlen-hf")  # downloaded once

The older `weights.ckpt` is a pickle: a program, which `torch.load(weights_only=True)` refuses because it also makes
objects of OmegaConf. The reader here follows it with a vocabulary of its own: tensors become references into the file,
objects of known libraries become empty shells, any other name is an error. `convert` makes safetensors of it.
"""

from __future__ import annotations

import io
import math
import os
import pickle
import re
import sys
import tempfile
import zipfile
from collections import OrderedDict, namedtuple
from collections.abc import Iterable
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, nn

from hyena import paths
from hyena.data.registry import sha256_of
from hyena.errors import HyenaError, unknown
from hyena.models.hyenadna import SIZES, HyenaDNA

HUB = "https://huggingface.co/LongSafari/hyenadna-{size}-hf/resolve/{commit}/model.safetensors"
COMMITS = {  # in full: the hub takes no abbreviated ones
    "tiny-1k-seqlen": "e8c1effa8673814e257e627d2e1eda9ea5a373f6",
    "tiny-1k-seqlen-d256": "6036d4e144922b44470294f510cbfd2539ba3b7e",
    "tiny-16k-seqlen-d128": "d79fa37e2cd62dd338103c630f95be8f90812d46",
    "small-32k-seqlen": "8fe770c78eb13fe33bf81501612faeddf4d6f331",
    "medium-160k-seqlen": "7ebf71773d22c0ede2cc55cb2be15ee8c289e1ce",
    "medium-450k-seqlen": "42dedd4d374eac0fb8168549e546a3472fbd27ae",
    "large-1m-seqlen": "0a629abf9c7f85b4ec9aa6a1aefa3adcf1907446",
}
EMBEDDING, FILTER = "backbone.embeddings.word_embeddings.weight", "backbone.layers.0.mixer.filter_fn"
PREFIX, CHECKPOINTED = re.compile(r"^(model|hyena)\."), re.compile(r"(?<=\d\.)(mixer|mlp)\.layer\.")
METRICS, ALIAS = re.compile(r"(train_|val_|test_)?torchmetrics\."), re.compile(r"(?<=\.implicit_filter)\.[35]\.freq$")
STORAGES = {"Double": torch.double, "Float": torch.float, "Half": torch.half, "BFloat16": torch.bfloat16}
STORAGES |= {"Long": torch.long, "Int": torch.int, "Short": torch.short, "Byte": torch.uint8, "Bool": torch.bool}
SHELLS = re.compile(  # of what a training run keeps beside its weights; bytes and shapes are encoded by calls
    r"(omegaconf|pytorch_lightning|lightning|torchmetrics|src|numpy|typing|abc)\..*|collections\.defaultdict|"
    r"(builtins|__builtin__)\.(dict|list|set|tuple|int|long|float|str|bool|bytes)|_codecs\.encode|torch\.Size"
)


def from_pretrained(source: str | Path, *, sha256: str | None = None, **options: object) -> HyenaDNA:
    """A published model with its weights, in eval mode.

    Its sizes are those of the tensors, half precision becomes float32, and what is not trained must agree with its
    definition. The Colab code has the same tensors: it only puts [CLS] before a sequence, as a caller may.

    Arguments:
        source: a file `model.safetensors` or `weights.ckpt`, a folder with one, or else a name on the hub such as
            "LongSafari/hyenadna-tiny-1k-seqlen-hf" or "tiny-1k-seqlen", downloaded once into `$HYENA_CACHE/models`.
        sha256: of the file, checked before it is parsed. Without it nothing vouches for the bytes.
        options: for `HyenaDNA`, such as `checkpointing=True`.

    Raises:
        HyenaError: no such file or model, a failed download, another hash, a damaged or hostile file, a classifier, or
            tensors that are not exactly those of the model.
    """
    path = _locate(source, sha256)
    tensors = _read(path, sha256)
    try:
        return _model(tensors, options)
    except HyenaError as error:
        raise HyenaError(f"cannot load {path}: {error}") from error


def convert(path: Path, to: Path, sha256: str | None = None) -> Path:
    """Write the tensors of `path`, such as a `weights.ckpt`, as safetensors with the names of the `-hf` files.

    Raises:
        HyenaError: another hash, or as `read_checkpoint`.
    """
    named = {name.replace("backbone.", "hyena.backbone.", 1): t.contiguous() for name, t in _read(path, sha256).items()}
    paths.write_atomically(to, safetensors.torch.save(named, {"format": "pt"}))
    return to


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """The tensors of a file by the names that `HyenaDNA` gives them, as stored; metrics are left out.

    Raises:
        HyenaError: the file is damaged, of another format, asks for code to be run, or holds no weights.
    """
    return _read(path, None)


def _read(path: Path, sha256: str | None) -> dict[str, Tensor]:
    try:
        _verify(path, sha256)
        tensors = _parsed(path)
        odd = [name for name, tensor in tensors.items() if not (tensor.is_floating_point() and tensor.numel())]
        if odd or not tensors:
            raise HyenaError(f"not weights: {_few(odd)}" if odd else "it holds no weights")
    except Exception as error:  # a damaged pickle can raise anything
        words = " ".join(str(error).split())
        words = words if isinstance(error, HyenaError) else f"damaged or unreadable ({type(error).__name__}: {words})"
        raise HyenaError(f"cannot read {path}: {words}") from error
    return tensors


def _locate(source: str | Path, sha256: str | None) -> Path:
    path = Path(os.path.expanduser(source))
    if path.is_dir():
        patterns = ("model.safetensors", "*.safetensors", "weights.ckpt")
        found = next(filter(None, (list(path.glob(pattern)) for pattern in patterns)), [])
        if len(found) != 1:
            raise HyenaError(f"{path} must hold model.safetensors or weights.ckpt; found {len(found)} such files")
        return found[0]
    if path.exists():
        return path
    if isinstance(source, Path) or path.suffix or path.is_absolute() or source.startswith((".", "~")):
        raise HyenaError(f"there is no file or folder {path}")
    size = source.removeprefix("LongSafari/").removeprefix("hyenadna-").removesuffix("-hf")
    if size not in SIZES:
        raise unknown("HyenaDNA model", size, SIZES)
    path = paths.cache() / "models" / f"hyenadna-{size}-hf.safetensors"
    if not path.exists():
        _download(HUB.format(size=size, commit=COMMITS[size]), path, sha256)
    return path


def _download(url: str, path: Path, sha256: str | None) -> None:
    import pooch  # here, so that everything but a download works without it

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as beside:
            part = Path(beside, path.name)
            pooch.HTTPDownloader(progressbar=sys.stderr.isatty(), chunk_size=1 << 18, timeout=30)(url, str(part), None)
            _verify(part, sha256)
            with safetensors.safe_open(part, "pt"):  # the log-in page of a proxy must not stay in the cache
                os.replace(part, path)
    except (OSError, safetensors.SafetensorError, HyenaError) as error:
        cause: BaseException = error
        while cause.__context__:  # what the network said lies below what the libraries make of it
            cause = cause.__context__
        words = " ".join(str(cause).split())
        raise HyenaError(f"cannot download {url}: {words}. By hand: get it and put it at {path}") from error


def _verify(path: Path, sha256: str | None) -> None:
    if sha256 and (found := sha256_of(path.open("rb"))) != sha256.lower():
        raise HyenaError(f"it has sha256 {found}, not {sha256}")


def _parsed(path: Path) -> dict[str, Tensor]:
    with path.open("rb") as file:
        head = file.read(9)
    if head[8:] == b"{":  # after the length of the header
        with safetensors.safe_open(path, "pt") as stored:
            return {name: stored.get_tensor(key) for name, key in _official(stored.keys()).items()}
    if head.startswith(b"PK\x03\x04"):
        return _from_torch(path)
    if head.startswith(b"\x80"):
        raise HyenaError("a torch file of before version 1.6; load it with the torch that wrote it and save it again")
    raise HyenaError("neither safetensors nor a zip file of torch.save (perhaps a web page, or a pointer of git-lfs)")


def _from_torch(path: Path) -> dict[str, Tensor]:
    with zipfile.ZipFile(path) as archive:
        root, _, pickled = next((name for name in archive.namelist() if name.endswith("/data.pkl")), "").rpartition("/")
        if not pickled:
            raise HyenaError("a zip file, but not one of torch.save: it has no data.pkl")
        if f"{root}/byteorder" in archive.namelist() and _record(archive, f"{root}/byteorder") != b"little":
            raise HyenaError("written on a big-endian machine, which is not supported")
        loaded = _Unpickler(io.BytesIO(_record(archive, f"{root}/data.pkl"))).load()
        if not isinstance(loaded, dict) or not isinstance(state := loaded.get("state_dict"), dict):
            raise HyenaError("it has no 'state_dict', so it is no checkpoint of Lightning")
        return {name: _tensor(archive, root, state[key]) for name, key in _official(state).items()}


def _official(keys: Iterable[str]) -> dict[str, str]:
    """The key in a file of every tensor, by its name in `HyenaDNA`."""
    named: dict[str, str] = {}
    for key in keys:
        name = CHECKPOINTED.sub(r"\1.", PREFIX.sub("", key))
        if name in named:
            raise HyenaError(f"{named[name]!r} and {key!r} are one tensor of the model")
        if not METRICS.match(key):
            named[name] = key
    return named


# A tensor as a pickle describes it, of which nothing is checked or read yet. Immutable: a pickle can set attributes.
_Stored = namedtuple("_Stored", "dtype key numel offset size stride", defaults=(0, (), ()))


class _Shell:
    """Stands for any object of a library: takes what a pickle does to it, and keeps nothing."""

    def __init__(self, *_: object, **__: object): ...

    __setstate__ = __setitem__ = append = extend = add = __init__


class _Unpickler(pickle.Unpickler):
    """Imports nothing: every name that a pickle asks for is looked up here."""

    def find_class(self, module: str, name: str) -> object:
        known = {f"torch.{kind}Storage": dtype for kind, dtype in STORAGES.items()}
        known["torch._utils._rebuild_tensor_v2"] = lambda storage, *view: _Stored(*storage[:3], *view[:3])
        known["torch._utils._rebuild_parameter"] = lambda tensor, *_: tensor
        known["collections.OrderedDict"] = OrderedDict
        asked = f"{module}.{name}"
        if asked not in known and not SHELLS.fullmatch(asked):
            raise HyenaError(f"it asks for {asked[:80]!r}, which weights do not need; nothing of it was run")
        return known.get(asked, _Shell)

    def persistent_load(self, pid: tuple) -> _Stored:
        return _Stored(dtype=pid[1], key=pid[2], numel=pid[4])


def _tensor(archive: zipfile.ZipFile, root: str, stored: _Stored) -> Tensor:
    dtype, key, numel, offset, size, stride = stored
    if not all(type(n) is int and n >= 0 for n in (numel, offset, *size, *stride)):
        raise HyenaError("malformed tensor")
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if last >= numel or not 0 < math.prod(size) <= numel:
        raise HyenaError(f"a tensor of shape {list(size)} is empty, or not within its storage of {numel} numbers")
    content = _record(archive, root + "/data/" + key)
    if len(content) != numel * dtype.itemsize:
        raise HyenaError(f"storage {key!r} has {len(content)} bytes, not {numel * dtype.itemsize}")
    return torch.frombuffer(bytearray(content), dtype=dtype).as_strided(size, stride, offset)


def _record(archive: zipfile.ZipFile, name: str) -> bytes:
    if archive.getinfo(name).compress_type != zipfile.ZIP_STORED:  # torch never compresses; a bomb would
        raise HyenaError(f"{name} is compressed, which torch.save does not do")
    return archive.read(name)


def _model(tensors: dict[str, Tensor], options: dict[str, object]) -> HyenaDNA:
    if "score.weight" in tensors:
        raise HyenaError("it is a classifier, whose head is score.weight; only language models are loaded")
    arguments = {**_geometry(tensors), **options}
    if "l_max" not in arguments:
        raise HyenaError("it has neither pos_emb.z nor pos_emb.t, which tell the longest input; give l_max")
    with torch.random.fork_rng(devices=[]):  # weights are drawn only to be replaced
        with torch.device("meta"):  # shapes alone: a bad file must not make us allocate what it likes
            expected = HyenaDNA(**arguments)
        tensors = _matched(tensors, expected)
        model = HyenaDNA(**arguments)
    if not torch.equal(tensors["lm_head.weight"], tensors[EMBEDDING]):  # trained apart: so it is used
        model.lm_head.weight = nn.Parameter(tensors["lm_head.weight"].clone())
    for name, rebuilt in model.named_buffers():
        stored = tensors.get(name, rebuilt)
        error = (stored.double() - rebuilt.double()).abs().max() / rebuilt.double().abs().max()
        eps = torch.finfo(stored.dtype).eps
        if not error <= max(1e-6, eps):  # nor if it is not a number
            raise HyenaError(f"{name} is off its definition by {error:.1e} of its largest entry: it was trained")
        tensors[name] = stored if eps < 1e-6 else rebuilt  # in half precision it has lost its meaning
    model.load_state_dict(tensors)
    return model.eval()


def _geometry(tensors: dict[str, Tensor]) -> dict[str, int]:
    mlp, net = "backbone.layers.0.mlp.fc1.weight", f"{FILTER}.implicit_filter.0.weight"
    absent = [name for name in (mlp, net) if name not in tensors or tensors[name].dim() != 2]
    if absent:
        raise HyenaError(f"not a HyenaDNA model: no matrix {_few(absent)}")
    found = {"d_inner": tensors[mlp].shape[0], "d_model": tensors[mlp].shape[1], "filter_order": len(tensors[net])}
    found["n_layer"] = len({name.split(".")[2] for name in tensors if name.startswith("backbone.layers.")})
    for name in {f"{FILTER}.pos_emb.z", f"{FILTER}.pos_emb.t"} & tensors.keys():
        found["l_max"] = tensors[name].shape[1:2].numel()
    return found


def _matched(tensors: dict[str, Tensor], model: HyenaDNA) -> dict[str, Tensor]:
    """`tensors` under all names of the model's parameters, of which a file may hold only one."""
    owner = {name: ALIAS.sub(".1.freq", name) for name in model.state_dict()}
    if not {"lm_head.weight", EMBEDDING} <= tensors.keys():  # where both are stored, each stands for itself
        owner["lm_head.weight"] = EMBEDDING
    first: dict[str, str] = {}
    for name, tensor in tensors.items():
        other = first.setdefault(owner.get(name, name), name)
        if name != other and (tensor.shape != tensors[other].shape or not (tensor == tensors[other]).all()):
            raise HyenaError(f"{other} and {name} are one parameter of the model, but differ")
    tensors = tensors | {name: tensors[first[owner[name]]] for name in owner if owner[name] in first}
    shapes = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
    missing = shapes.keys() - tensors.keys() - dict(model.named_buffers()).keys()
    if missing or tensors.keys() - shapes.keys():
        raise HyenaError(f"missing: {_few(missing)}; unexpected: {_few(tensors.keys() - shapes.keys())}")
    wrong = [f"{k} {list(t.shape)}, not {shapes[k]}" for k, t in tensors.items() if list(t.shape) != shapes[k]]
    if wrong:
        raise HyenaError(f"shapes differ from the model's: {_few(wrong)}")
    return tensors


def _few(names: Iterable[str]) -> str:
    names = [name if name.isprintable() else repr(name) for name in sorted(names)]
    return (", ".join(names[:5]) or "none") + (f" and {len(names) - 5} more" if len(names) > 5 else "")
