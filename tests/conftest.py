"""What tests share: reference numbers of the official implementations, and a checkout of their own."""

import json
import os
import shutil
from pathlib import Path
from types import ModuleType

import jaxtyping
import numpy as np
import pytest
import torch
from benchmarking import TINY, benchmark
from instant import ROW
from registries import toml
from small_training import learn, tiny

from hyena.data.registry import Entry, registry
from hyena.experiments.hyena import language, reasoning, recall
from hyena.models.hyenadna import HyenaDNA
from hyena.models.mixers import FILTERS

REFERENCE = Path(__file__).parent / "reference"
CHECKOUT = Path(__file__).resolve().parents[1]
TRAINERS = (language, reasoning, recall)  # modules that train


@pytest.fixture
def reference():
    """Loads a file of official inputs, weights and outputs as tensors, with its configuration."""

    def load(name: str) -> tuple[dict[str, torch.Tensor], dict[str, object]]:
        with np.load(REFERENCE / f"{name}.npz") as stored:
            config = json.loads(str(stored["config_json"])) if "config_json" in stored else {}
            tensors = {k: torch.from_numpy(stored[k]) for k in stored if stored[k].dtype.kind in "fic"}
        return tensors, config

    return load


@pytest.fixture
def float64():
    """Double precision and a fixed seed for everything a test makes."""
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture(params=("hyena", *FILTERS, "h3", "gss", "aft_conv", "rwkv", "attention"))
def row(request) -> str:
    """Each row of the paper's comparisons, by the name that `mixer` takes."""
    return request.param


@pytest.fixture
def unchecked():
    """Without the shape checks of the test run, as users call it: bad input reaches our own errors."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A folder that counts as the checkout: today's code, settings and claims, no results, nothing built."""
    folder = tmp_path / "checkout"
    folder.mkdir()
    for name in ("params.yaml", "dvc.yaml"):
        shutil.copy(CHECKOUT / name, folder / name)
    for name in ("hyena", "notebooks"):
        shutil.copytree(CHECKOUT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr("hyena.paths.root", lambda: folder)
    for module in ("results", "source", "experiments.base", "claims", "compare", "notebook", "cli"):
        monkeypatch.setattr(f"hyena.{module}.root", lambda: folder)
    return folder


@pytest.fixture
def nobodys_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No cache, no mirror, no checkout data and no proxy but the test's own."""
    monkeypatch.setenv("HYENA_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("HYENA_DATA_MIRROR", raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr("hyena.paths.root", lambda: tmp_path / "checkout")


@pytest.fixture
def cached(tmp_path: Path) -> Path:
    """Where a fetched test file belongs."""
    return tmp_path / "cache" / "text" / "file.bin"


@pytest.fixture
def make(tmp_path: Path):
    """Write a registry of the given tables and read it as the package reads its own."""

    def written(**tables: dict) -> dict[str, Entry]:
        path = tmp_path / "registry.toml"
        path.write_text(toml(tables))
        return registry(path)

    return written


@pytest.fixture
def trains(monkeypatch) -> list:
    """Names and recipes of trainings that take no step and end with one row."""
    seen: list = []

    def instant(model, batch, loss, recipe, run, name, evaluate, stop=None) -> list:
        seen.append((name, recipe))
        return [{**ROW, **evaluate(model)}]

    for module in TRAINERS:
        monkeypatch.setattr(module, "train", instant)
    return seen


@pytest.fixture(scope="session")
def uninterrupted() -> tuple[list, torch.nn.Module]:
    """The rows and the model of the small training, start to end."""
    model = tiny()
    return learn(model), model


@pytest.fixture
def no_training(monkeypatch) -> None:
    def refused(*_: object, **__: object) -> None:
        raise AssertionError("trained before the mistake was found")

    for module in TRAINERS:
        monkeypatch.setattr(module, "train", refused)


@pytest.fixture
def book(tmp_path) -> Path:
    path = tmp_path / "book.txt"
    path.write_text("".join(f"On day {i} the sea was {'calm' if i % 3 else 'rough'}.\n" for i in range(200)))
    return path


@pytest.fixture(name="tiny")
def tiny_benchmark(tmp_path, monkeypatch):
    """Loads a benchmark of tiny sizes, which stores in a folder of the test's own."""

    def load(name: str) -> ModuleType:
        module = benchmark(name)
        monkeypatch.setattr(module, "root", lambda: tmp_path)
        for constant, value in TINY[name].items():
            assert hasattr(module, constant)
            monkeypatch.setattr(module, constant, value)
        return module

    return load


def pytest_report_header() -> str:
    return f"threads {torch.get_num_threads()}, HYENA_REQUIRE_DATA={os.environ.get('HYENA_REQUIRE_DATA', '')}"


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
def weights(model: HyenaDNA) -> dict[str, torch.Tensor]:
    """By official name; aliases are one tensor, as in the official model."""
    return dict(model.state_dict())
