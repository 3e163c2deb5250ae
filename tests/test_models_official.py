"""Reading the published weights of HyenaDNA: every layout they come in, and every file that must be refused."""

from __future__ import annotations

import hashlib
import io
import pickle
import struct
import sys
import threading
import types
import zipfile
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.testing import assert_close

from hyena.errors import HyenaError
from hyena.models import official
from hyena.models.hyenadna import SIZES, CheckpointedBlock, HyenaDNA
from hyena.models.official import convert, from_pretrained, read_checkpoint

REFERENCE = Path(__file__).parent / "reference" / "hyenadna_reduced_perturbed_exactfp64.npz"
TOKENS = torch.tensor([[7, 8, 9, 10, 11, 7, 7, 10, 9, 8, 8, 1], [0, 10, 9, 8, 7, 6, 7, 8, 9, 10, 11, 1]])
EMBEDDING = "backbone.embeddings.word_embeddings.weight"
FILTER = "backbone.layers.1.mixer.filter_fn"
ALIASES = [f"{FILTER}.implicit_filter.{i}.freq" for i in (1, 3, 5)]
BUFFERS = ("pos_emb.z", "pos_emb.t", "modulation.deltas")
FORMATS = ("hf", "ckpt")
Weights = dict[str, Tensor]


@pytest.fixture
def model() -> HyenaDNA:
    """Small, with noise on every parameter: nothing is zero, one, or equal to its neighbour."""
    torch.manual_seed(1)
    made = HyenaDNA(8, 2, 20, d_inner=16, filter_order=6)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    return made.eval()


@pytest.fixture
def weights(model: HyenaDNA) -> Weights:
    """By official name; aliases are one tensor, as in the official model."""
    return dict(model.state_dict())


def hf(weights: Weights, path: Path) -> Path:
    """A file as on the hub: tensors that share memory are stored once, under the first of their names."""
    kept = {name: t for name, t in weights.items() if ".3.freq" not in name and ".5.freq" not in name}
    save_file({name.replace("backbone.", "hyena.backbone."): t.clone() for name, t in kept.items()}, path)
    return path


def lightning(weights: Weights, path: Path, **beside: object) -> Path:
    """A file as PyTorch Lightning writes it, with what a training run keeps beside the weights."""
    state = OrderedDict((f"model.{name}", t) for name, t in weights.items())
    rest = {"epoch": 3, "pytorch-lightning_version": "1.8", "optimizer_states": [{"exp_avg": torch.zeros(3)}]}
    torch.save({"state_dict": state, **rest, **beside}, path)
    return path


def written(weights: Weights, folder: Path, layout: str) -> Path:
    if layout == "hf":
        return hf(weights, folder / "model.safetensors")
    return lightning(weights, folder / "weights.ckpt")


def renamed(weights: Weights) -> Weights:
    """Names of a model trained with activation checkpointing."""
    return {name.replace(".mixer.", ".mixer.layer.").replace(".mlp.", ".mlp.layer."): t for name, t in weights.items()}


def refused(path: Path | str, **options: object) -> str:
    with pytest.raises(HyenaError) as caught:
        from_pretrained(path, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def same(loaded: HyenaDNA, model: HyenaDNA) -> bool:
    """Outputs equal in every bit, aliases still shared."""
    assert loaded.lm_head.weight is loaded.backbone.embeddings.word_embeddings.weight
    with torch.no_grad():
        return torch.equal(loaded(TOKENS), model(TOKENS)) and torch.equal(loaded.embed(TOKENS), model.embed(TOKENS))


# Layouts


@pytest.mark.parametrize("layout", FORMATS)
def test_a_loaded_model_computes_what_the_stored_one_did(model, weights, tmp_path, layout: str) -> None:
    loaded = from_pretrained(written(weights, tmp_path, layout))
    assert same(loaded, model)
    assert not loaded.training
    assert all(parameter.requires_grad for parameter in loaded.parameters())


@pytest.mark.parametrize("layout", FORMATS)
def test_all_tensors_come_by_their_official_names(weights, tmp_path, layout: str) -> None:
    found = read_checkpoint(written(weights, tmp_path, layout))
    aliases = {name for name in weights if name.endswith((".3.freq", ".5.freq"))}
    assert weights.keys() - found.keys() == (aliases if layout == "hf" else set())
    assert found.keys() <= weights.keys()
    assert all(torch.equal(t, weights[name]) for name, t in found.items())


@pytest.mark.parametrize("layout", FORMATS)
def test_names_of_activation_checkpointing_are_the_same_tensors(model, weights, tmp_path, layout: str) -> None:
    assert same(from_pretrained(written(renamed(weights), tmp_path, layout)), model)


def test_metrics_are_left_out(model, weights, tmp_path) -> None:
    prefixes = ("torchmetrics", "train_torchmetrics", "val_torchmetrics", "test_torchmetrics")
    state = OrderedDict((f"model.{name}", t) for name, t in weights.items())
    state |= {f"{prefix}.num_tokens.count": torch.tensor(7) for prefix in prefixes}
    state["torchmetrics.never_updated"] = torch.zeros(0)
    path = tmp_path / "weights.ckpt"
    torch.save({"state_dict": state}, path)
    assert same(from_pretrained(path), model)


def test_the_backbone_alone_is_enough_for_the_head_is_tied_to_it(model, weights, tmp_path) -> None:
    bare = {name: t.clone() for name, t in weights.items() if name != "lm_head.weight"}
    save_file(bare, tmp_path / "model.safetensors")
    assert same(from_pretrained(tmp_path), model)
    del bare[EMBEDDING]
    save_file(bare | {"lm_head.weight": weights[EMBEDDING].clone()}, tmp_path / "model.safetensors")
    assert same(from_pretrained(tmp_path), model)


@pytest.mark.parametrize("kept", [[0], [1], [2], [0, 2], [1, 2]])
def test_any_alias_of_the_frequency_is_enough(model, weights, tmp_path, kept: list[int]) -> None:
    names = [name for i, name in enumerate(ALIASES) if i not in kept]
    path = lightning({name: t for name, t in weights.items() if name not in names}, tmp_path / "weights.ckpt")
    assert same(from_pretrained(path), model)


def test_buffers_but_for_one_that_tells_the_length_may_be_absent(model, weights, tmp_path) -> None:
    for kept in ("pos_emb.z", "pos_emb.t"):
        fewer = {name: t for name, t in weights.items() if not name.endswith(BUFFERS) or name.endswith(kept)}
        assert same(from_pretrained(written(fewer, tmp_path, "hf")), model)
    none = written({name: t for name, t in weights.items() if not name.endswith(BUFFERS)}, tmp_path, "hf")
    assert "neither pos_emb.z nor pos_emb.t, which tell the longest input; give l_max" in refused(none)
    assert same(from_pretrained(none, l_max=20), model)


def test_a_view_of_a_larger_storage_is_read_as_that_view(model, weights, tmp_path) -> None:
    name = "backbone.layers.0.mlp.fc1.weight"
    padded = torch.randn(5 + weights[name].shape[1], 3 + weights[name].shape[0])
    view = padded[5:, 3:].T
    view.copy_(weights[name])
    assert not view.is_contiguous()
    path = lightning(weights | {name: view}, tmp_path / "weights.ckpt")
    assert torch.equal(read_checkpoint(path)[name], weights[name])
    assert same(from_pretrained(path), model)
    assert torch.equal(load_file(convert(path, tmp_path / "m.safetensors"))[f"hyena.{name}"], weights[name])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("layout", FORMATS)
def test_weights_of_other_precision_become_float32(model, weights, tmp_path, layout: str, dtype: torch.dtype) -> None:
    loaded = from_pretrained(written({name: t.to(dtype) for name, t in weights.items()}, tmp_path, layout))
    assert {t.dtype for t in loaded.state_dict().values()} == {torch.float32}
    for name, parameter in loaded.named_parameters():
        assert torch.equal(parameter, weights[name].to(dtype).float())
    buffers = dict(model.named_buffers())
    assert all(torch.equal(buffer, buffers[name]) for name, buffer in loaded.named_buffers()), "rebuilt, not rounded"


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.float64, 1e-12)])
@pytest.mark.parametrize("layout", FORMATS)
def test_the_official_outputs_are_reproduced(tmp_path, layout: str, dtype: torch.dtype, tolerance: float) -> None:
    """Float32 is 1e7 times less precise, and 6e-5 off whoever computes it: the fixture's filters are rough."""
    if not REFERENCE.exists():
        pytest.skip(f"{REFERENCE.name} is not there")
    with np.load(REFERENCE) as stored:
        weights = {key[3:]: torch.from_numpy(stored[key]).to(dtype) for key in stored if key.startswith("sd/")}
        tokens, expected = torch.from_numpy(stored["x"]), torch.from_numpy(stored["y"])
    for alias in [name for name in weights if name.endswith((".3.freq", ".5.freq"))]:
        weights[alias] = weights[alias[:-6] + "1.freq"]  # one storage under three keys, as in the official model
    torch.set_default_dtype(dtype)
    try:
        loaded = from_pretrained(written(weights, tmp_path, layout))
    finally:
        torch.set_default_dtype(torch.float32)
    with torch.no_grad():
        assert_close(loaded.embed(tokens).double(), expected, rtol=0, atol=tolerance)


def test_buffers_are_those_of_the_file_unless_it_rounds_them(weights, tmp_path) -> None:
    name = f"{FILTER}.pos_emb.z"
    nudged = weights[name] + 2.0**-23
    assert torch.equal(
        from_pretrained(hf(weights | {name: nudged}, tmp_path / "m.safetensors")).state_dict()[name], nudged
    )
    half = {key: t.half() for key, t in weights.items()}
    assert torch.equal(from_pretrained(hf(half, tmp_path / "m.safetensors")).state_dict()[name], weights[name])


# Options and the caller's state


def test_options_go_to_the_constructor(weights, tmp_path) -> None:
    loaded = from_pretrained(hf(weights, tmp_path / "model.safetensors"), checkpointing=True, embed_dropout=0.4)
    assert isinstance(loaded.backbone.layers[0], CheckpointedBlock)
    assert loaded.backbone.drop.p == 0.4
    with pytest.raises(TypeError, match="checkpoint_all"):
        from_pretrained(tmp_path, checkpoint_all=True)
    assert "shapes differ from the model's: " in refused(tmp_path, l_max=40)


def test_loading_draws_nothing_from_the_callers_generator(weights, tmp_path) -> None:
    hf(weights, tmp_path / "model.safetensors")
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    from_pretrained(tmp_path)
    assert torch.equal(torch.rand(4), expected)


# Tensors that are not the model's


@pytest.mark.parametrize("layout", FORMATS)
def test_missing_and_unexpected_tensors_are_named_five_of_each(weights, tmp_path, layout: str) -> None:
    lacking = {name: t for name, t in weights.items() if ".norm" not in name}
    extra = {f"backbone.layers.0.extra{i}": torch.ones(2) for i in range(7)}
    said = refused(written(lacking | extra, tmp_path, layout))
    assert "missing: backbone.layers.0.norm1.bias, " in said
    assert "and 3 more; unexpected: backbone.layers.0.extra0, " in said
    assert said.endswith("extra4 and 2 more")


def test_a_hole_in_the_numbering_of_layers_is_refused(weights, tmp_path) -> None:
    moved = {name.replace("layers.1.", "layers.1000000000."): t for name, t in weights.items()}
    said = refused(hf(moved, tmp_path / "model.safetensors"))
    assert "missing: backbone.layers.1." in said
    assert "unexpected: backbone.layers.1000000000." in said


def test_a_tensor_under_two_names_is_refused(weights, tmp_path) -> None:
    twice = weights | {"backbone.layers.0.mlp.layer.fc1.bias": weights["backbone.layers.0.mlp.fc1.bias"].clone()}
    assert "are one tensor of the model" in refused(lightning(twice, tmp_path / "weights.ckpt"))


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("backbone.layers.0.mlp.fc2.bias", (9,)),
        (EMBEDDING, (12, 8)),
        (f"{FILTER}.pos_emb.t", (1, 21, 1)),
        ("backbone.ln_f.weight", (1, 8)),
    ],
)
def test_another_shape_is_refused_never_broadcast(weights, tmp_path, name: str, shape: tuple[int, ...]) -> None:
    changed = {key: t for key, t in weights.items() if key != "lm_head.weight"} | {name: torch.ones(shape)}
    said = refused(hf(changed, tmp_path / "model.safetensors"))
    assert f"shapes differ from the model's: {name} {list(shape)}, not " in said or "lm_head.weight [12, 8]" in said


@pytest.mark.parametrize("name", ["backbone.layers.0.mlp.fc1.weight", EMBEDDING])
def test_a_file_of_something_else_is_refused(weights, tmp_path, name: str) -> None:
    path = tmp_path / "model.safetensors"
    save_file({"encoder.weight": torch.ones(2, 2)}, path)
    assert "not a HyenaDNA model: no matrix backbone.layers.0.mixer.filter_fn" in refused(path)
    assert refused(hf({key: t for key, t in weights.items() if key not in (name, "lm_head.weight")}, path))


@pytest.mark.parametrize("alias", ALIASES)
def test_aliases_that_differ_are_refused(weights, tmp_path, alias: str) -> None:
    path = lightning(weights | {alias: weights[alias] + 1e-3}, tmp_path / "weights.ckpt")
    said = refused(path)
    assert "are one parameter of the model, but differ" in said
    assert "freq" in said


def test_a_head_that_is_not_the_embedding_is_used_as_it_is(model, weights, tmp_path) -> None:
    head = weights["lm_head.weight"] + 1e-3
    loaded = from_pretrained(hf(weights | {"lm_head.weight": head}, tmp_path / "model.safetensors"))
    with torch.no_grad():
        assert torch.equal(loaded.embed(TOKENS), model.embed(TOKENS))
        assert torch.equal(loaded(TOKENS), loaded.embed(TOKENS) @ head.T)


@pytest.mark.parametrize("buffer", BUFFERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_buffers_that_were_trained_or_defined_otherwise_are_refused(weights, tmp_path, buffer: str, dtype) -> None:
    name = f"{FILTER}.{buffer}"
    largest = weights[name].abs().max()
    nudge, push = (5e-7, 3e-6) if dtype == torch.float32 else (3e-3, 3e-2)
    stored = {key: t.to(dtype) for key, t in weights.items()}
    path = tmp_path / "model.safetensors"
    from_pretrained(hf(stored | {name: (weights[name] + nudge * largest).to(dtype)}, path))
    said = refused(hf(stored | {name: (weights[name] - push * largest).to(dtype)}, path))
    assert f"{name} is off its definition by " in said
    assert f"{name} is off" in refused(hf(stored | {name: torch.full_like(stored[name], torch.nan)}, path))


def test_features_for_another_length_are_refused(weights, tmp_path) -> None:
    longer = HyenaDNA(8, 2, 40, d_inner=16, filter_order=6).state_dict()
    cropped = {name: longer[name][:, :20] for name in weights if "pos_emb" in name}
    assert "pos_emb." in refused(hf(weights | cropped, tmp_path / "model.safetensors"))


def test_a_sequence_classifier_is_refused_as_such(weights, tmp_path) -> None:
    path = hf(weights | {"score.weight": torch.ones(2, 8)}, tmp_path / "model.safetensors")
    assert "a classifier, whose head is score.weight; only language models are loaded" in refused(path)


def test_numbers_that_are_no_weights_are_refused(weights, tmp_path) -> None:
    path = hf(weights | {"backbone.ln_f.bias": torch.ones(8, dtype=torch.int64)}, tmp_path / "model.safetensors")
    assert "not weights: backbone.ln_f.bias" in refused(path)
    hf(weights | {EMBEDDING: torch.ones(16, 0)}, path)
    assert f"not weights: {EMBEDDING}" in refused(path)


# Pickles


FAKES = ("omegaconf", "omegaconf.dictconfig", "src", "src.config")


@pytest.fixture
def configuration(monkeypatch) -> object:
    """An object of classes in modules that exist only while the file is written."""

    class DictConfig(list):
        def __reduce__(self) -> tuple:
            return DictConfig, (1,), {"_metadata": Metadata, "flags": {1, 2}}, iter([3, 4]), iter([("lr", Metadata())])

        def __reduce_ex__(self, protocol: int) -> tuple:
            return self.__reduce__()

    class Metadata:
        pass

    for name in FAKES:
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    for made, module in ((DictConfig, "omegaconf.dictconfig"), (Metadata, "src.config")):
        setattr(sys.modules[module], made.__name__, made)
        made.__module__, made.__qualname__ = module, made.__name__
    return DictConfig()


def test_objects_of_known_libraries_are_neither_imported_nor_built(
    model, weights, tmp_path, configuration, monkeypatch
) -> None:
    beside = {"hyper_parameters": configuration, "hparams_type": type(configuration), "history": np.arange(3)}
    beside |= {"counts": defaultdict(list), "mean": np.float64(0.5), "bytes": b"ab", "size": torch.Size([2])}
    path = lightning(weights, tmp_path / "weights.ckpt", **beside)
    for module in FAKES:
        monkeypatch.delitem(sys.modules, module)
    with pytest.raises(pickle.UnpicklingError):
        torch.load(path, weights_only=True)
    assert same(from_pretrained(path), model)
    assert not sys.modules.keys() & set(FAKES)


def test_a_configuration_of_omegaconf_itself_is_passed_over(model, weights, tmp_path) -> None:
    omegaconf = pytest.importorskip("omegaconf")
    config = omegaconf.OmegaConf.create({"d_model": 128, "layer": {"l_max": "${..d_model}", "taps": [1, 2, None]}})
    path = lightning(weights, tmp_path / "weights.ckpt", hyper_parameters=config, hparams_type=type(config))
    assert same(from_pretrained(path), model)


class Calls:
    """Pickled as a call of `function`: what a hostile file is made of."""

    def __init__(self, function: Callable, *arguments: object):
        self.call = (function, arguments)

    def __reduce__(self) -> tuple:
        return self.call


def hostile(value: object, path: Path, protocol: int = 2) -> Path:
    """A file of torch.save with the pickle of `value`."""
    return zipped({"data.pkl": pickle.dumps(value, protocol), "version": b"3\n"}, path)


def zipped(records: dict[str, bytes], path: Path, compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in records.items():
            archive.writestr(f"archive/{name}", content)
    return path


def os_system(command: str) -> Calls:
    import os

    return Calls(os.system, command)


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("where", ["the whole", "a tensor", "beside", "a key"])
@pytest.mark.parametrize("how", ["os.system", "eval", "exec", "getattr", "__import__", "load", "partial", "open"])
def test_a_hostile_pickle_runs_nothing(tmp_path, where: str, how: str, protocol: int) -> None:
    import functools

    mark = tmp_path / "mark"
    code = f"open({str(mark)!r}, 'w').write('run')"
    attack = {
        "os.system": os_system(f"touch {mark}"),
        "eval": Calls(eval, code),
        "exec": Calls(exec, code),
        "getattr": Calls(getattr, Path(mark), "touch"),
        "__import__": Calls(__import__, "os"),
        "load": Calls(torch.load, str(mark), None, None, False),
        "partial": Calls(functools.partial, eval, code),
        "open": Calls(open, str(mark), "w"),
    }[how]
    value = {
        "the whole": attack,
        "a tensor": {"state_dict": {"model.backbone.ln_f.weight": attack}},
        "beside": {"state_dict": {}, "callbacks": [attack]},
        "a key": {"state_dict": {}, attack: 1},
    }[where]
    said = refused(hostile(value, tmp_path / "weights.ckpt", protocol))
    assert not mark.exists()
    assert "it asks for '" in said
    assert "which weights do not need; nothing of it was run" in said


def test_a_refused_name_is_never_imported(tmp_path) -> None:
    evil = tmp_path / "evil_module.py"
    evil.write_text(f"open({str(tmp_path / 'mark')!r}, 'w')\nclass Thing: pass\n")
    sys.path.insert(0, str(tmp_path))
    try:
        for name in ("evil_module", "omegaconf_evil", "typing_evil"):
            path = zipped({"data.pkl": b"\x80\x02c" + name.encode() + b"\nThing\n."}, tmp_path / "weights.ckpt")
            assert f"it asks for '{name}.Thing'" in refused(path)
        path = zipped({"data.pkl": b"\x80\x02csrc.evil_module\nThing\n."}, tmp_path / "weights.ckpt")
        assert "no 'state_dict'" in refused(path)
    finally:
        sys.path.remove(str(tmp_path))
    assert "evil_module" not in sys.modules
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize(
    "stem",
    [
        b"comegaconf\nDictConfig\n",
        b"ccollections\nOrderedDict\n",
        b"ctorch._utils\n_rebuild_tensor_v2\n",
        b"ctorch._utils\n_rebuild_parameter\n",
        b"ctorch\nFloatStorage\n",
        b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x01tQ",
    ],
)
def test_a_pickle_cannot_change_what_reads_the_next_one(model, weights, tmp_path, stem: bytes) -> None:
    """BUILD assigns attributes to whatever is on the stack, classes and functions included."""
    names = ("__setstate__", "__init__", "__defaults__", "dtype")
    attributes = pickle.dumps(dict.fromkeys(names), 2)[2:-1]
    for state in (attributes, b"N" + attributes + b"\x86"):
        refused(zipped({"data.pkl": b"\x80\x02" + stem + state + b"b."}, tmp_path / "hostile.ckpt"))
    assert same(from_pretrained(lightning(weights, tmp_path / "weights.ckpt")), model)


def tensor_pickle(view: tuple, numel: object = 4) -> bytes:
    """{"state_dict": {"model.w": a tensor with this (offset, size, stride)}}, storage "0" having `numel` numbers."""
    storage = object()

    class Pickler(pickle.Pickler):
        def persistent_id(self, value: object) -> tuple | None:
            return ("storage", torch.FloatStorage, "0", "cpu", numel) if value is storage else None

    content = io.BytesIO()
    tensor = Calls(torch._utils._rebuild_tensor_v2, storage, *view, False, OrderedDict())
    Pickler(content, 2).dump({"state_dict": {"model.w": tensor}})
    return content.getvalue()


@pytest.mark.parametrize(
    ("view", "said"),
    [
        ((0, (2, 2), (2, 1)), None),
        ((0, (), ()), None),
        ((3, (1,), (1000,)), None),
        ((0, (5,), (1,)), "not within its storage of 4 numbers"),
        ((1, (4,), (1,)), "not within"),
        ((0, (2, 2), (3, 1)), "not within"),
        ((4, (1,), (1,)), "not within"),
        ((2**62, (1,), (1,)), "not within"),
        ((0, (2**40, 2**40), (0, 0)), "not within"),
        ((0, (4, 2**62 + 1), (0, 0)), "not within"),
        ((0, (8,), (0,)), "not within"),
        ((0, (0,), (1,)), "is empty"),
        ((-1, (2,), (1,)), "malformed"),
        ((3, (2,), (-1,)), "malformed"),
        ((0, (-2, -2), (1, 1)), "malformed"),
        ((0, (2.0,), (1,)), "malformed"),
        ((True, (2,), (1,)), "malformed"),
        ((0, (2,), (1, 1)), "damaged"),
        ((0, None, None), "damaged"),
        ((0, "22", "21"), "malformed"),
    ],
    ids=str,
)
def test_a_tensor_never_reaches_beyond_its_storage(tmp_path, view: tuple, said: str | None) -> None:
    path = zipped({"data.pkl": tensor_pickle(view), "data/0": struct.pack("<4f", 1, 2, 3, 4)}, tmp_path / "w.ckpt")
    if said:
        assert said in refused(path)
    else:
        offset, size, stride = view
        assert torch.equal(read_checkpoint(path)["w"], torch.arange(1.0, 5).as_strided(size, stride, offset))


@pytest.mark.parametrize(
    ("records", "numel", "said"),
    [
        ({"data/0": bytes(12)}, 4, "storage '0' has 12 bytes, not 16"),
        ({"data/0": bytes(20)}, 4, "storage '0' has 20 bytes, not 16"),
        ({}, 4, "archive/data/0"),
        ({"data/0": bytes(16)}, 4.0, "malformed"),
        ({"data/0": bytes(16)}, 2**60, f"has 16 bytes, not {2**62}"),
        ({"data/0": bytes(16)}, -4, "malformed"),
    ],
    ids=["short", "long", "absent", "float", "huge", "negative"],
)
def test_a_storage_has_the_size_it_claims(tmp_path, records: dict, numel: object, said: str) -> None:
    pickled = tensor_pickle((0, (2, 2), (2, 1)), numel)
    assert said in refused(zipped({"data.pkl": pickled} | records, tmp_path / "weights.ckpt"))


@pytest.mark.parametrize("pid", [None, 3, (), ("storage",), ("storage", 3, "0", "cpu", 4), ("storage", "x", [], 0, 4)])
def test_a_malformed_reference_to_a_storage_is_refused(tmp_path, pid: object) -> None:
    head, tail = b"\x80\x02}X\x0a\x00\x00\x00state_dict}X\x01\x00\x00\x00a", b"ss."
    pickled = head + pickle.dumps(pid, 2)[2:-1] + b"Q" + tail
    assert refused(zipped({"data.pkl": pickled, "data/0": bytes(16)}, tmp_path / "weights.ckpt"))
    stored = head + pickle.dumps(pid, 2)[2:-1] + tail
    assert refused(zipped({"data.pkl": stored, "data/0": bytes(16)}, tmp_path / "weights.ckpt"))


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
