"""Benchmarks as modules, the tiny sizes at which tests run them, and what they have stored."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

CHECKOUT = Path(__file__).resolve().parents[1]
TINY = {
    "attention": {"LENGTHS": (16, 48), "D_MODEL": 8, "FILTER_ORDER": 4, "ROUNDS": 1, "SECONDS": 0.0},
    "companion": {
        "CHANNELS": 3, "CASES": ((4, 9), (5, 16)), "BATCH": 2, "LAG": 16, "HORIZON": 6, "D_MODEL": 16, "D_STATE": 4,
        "LAGS": (8, 16), "VALUES": 16, "ROUNDS": 1,
    },
    "fftconv": {
        "CASES": [(2, 4, 16), (1, 2, 40)], "LEADS": [("blocks", "BLOCK_BYTES", 2**62, (1, 2, 40))], "ROUNDS": 1,
    },
    "genome": {
        "LENGTHS": (64, 128), "MILLION": 200, "COMPARED": 64, "TRAINED": (64, 128), "SMALL": (8, 1), "LARGE": (8, 2),
        "ROUNDS": 1,
    },
    "ls4": {
        "LENGTHS": (8, 20), "LONG": 8, "BATCH": 2, "WIDTH": 8, "STATE": 4, "LAYERS": 1, "LATENTS": 2,
        "KERNELS": ((2, 4, 9),), "ROUNDS": 1,
    },
    "s4nd": {
        "SIDES": (4, 8), "CHANNELS": 2, "PLACES": 128, "D_MODEL": 4, "STEP_SIDES": (4, 8), "STEP_BATCH": 2,
        "STEP_WIDTH": 4, "STEP_LAYERS": 1, "MOST_PLACES": 16, "ROUNDS": 1,
    },
    "retina": {"SECONDS": 5, "TRIALS": 2, "BATCH": 4, "FILM": 20, "ROUNDS": 1},
    "t1": {
        "SIZES": (8, 16), "WHOLE": 8, "BATCH": 2, "WIDTH": 4, "MODES": 4, "LAYERS": 2, "SIDE": 16, "FIELDS": 2,
        "EVERY": 2, "TRAINED": (("smoke", "navier_stokes", 1), ("smoke", "waves", 1)), "ROUNDS": 1,
        "EQUAL": ("smoke", "navier_stokes", "fno"),
    },
    "streaming": {"LENGTHS": (100, 200), "CHANNELS": 4, "SAMPLES": 3, "ROUNDS": 1},
}  # fmt: skip


def benchmark(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"benchmark_{name}", CHECKOUT / "benchmarks" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def stored(tmp_path: Path, name: str) -> dict:
    return json.loads((tmp_path / "benchmarks" / "results" / f"{name}.cpu.json").read_text())
