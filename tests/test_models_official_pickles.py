"""Published weights as pickles: what is read of them, and that nothing of them runs."""

from __future__ import annotations

import io
import pickle
import struct
import sys
import types
from collections import OrderedDict, defaultdict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from official_files import (
    lightning,
    refused,
    same,
    zipped,
)

from hyena.models.official import from_pretrained, read_checkpoint

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
