"""Data sets of flows: seeded, extended without change, read again instead of simulated, resumed, and what they hold."""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from closeness import close
from torch import Tensor

from hyena.data import flows, fluids
from hyena.data.flows import WAVES, navier_stokes, plumes, simulated, waves
from hyena.errors import HyenaError

SMALL = {"size": 16, "times": (0.5,)}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch) -> Path:
    """Where simulations are kept, in batches of two."""
    monkeypatch.setenv("HYENA_CACHE", str(tmp_path))
    for constant in ("BATCH", "CIRCLES"):
        monkeypatch.setattr(flows, constant, 2)
    return tmp_path / "simulated"


@pytest.fixture
def calls(monkeypatch) -> list[Tensor]:
    """What the solver of the vorticity was started from."""
    seen, solve = [], fluids.vorticity

    def counted(w0: Tensor, *arguments: object) -> Tensor:
        seen.append(w0)
        return solve(w0, *arguments)

    monkeypatch.setattr(fluids, "vorticity", counted)
    return seen


def test_the_same_request_gives_the_same_flows(folder) -> None:
    first = navier_stokes(3, **SMALL)
    read = navier_stokes(3, **SMALL)
    shutil.rmtree(folder)
    assert torch.equal(first, read) and torch.equal(first, navier_stokes(3, **SMALL))


def test_no_two_flows_are_the_same() -> None:
    both = torch.cat([navier_stokes(4, **SMALL), navier_stokes(4, **SMALL, seed=1)])[:, 0].flatten(1)
    assert torch.corrcoef(both).fill_diagonal_(0).abs().max() < 0.9


def test_a_longer_set_begins_with_the_shorter_one(calls) -> None:
    shorter = navier_stokes(3, **SMALL)
    longer = navier_stokes(5, **SMALL)
    assert longer.shape == (5, 2, 16, 16) and torch.equal(longer[:3], shorter)
    assert len(calls) == 3


def test_what_was_simulated_is_not_simulated_again(calls) -> None:
    navier_stokes(4, **SMALL)
    made = len(calls)
    navier_stokes(4, **SMALL)
    assert len(calls) == made == 2


def shortened(whole: bytes) -> bytes:
    """The archive of the first field alone."""
    out = io.BytesIO()
    with np.load(io.BytesIO(whole)) as stored:
        np.savez(out, fields=stored["fields"][:1])
    return out.getvalue()


@pytest.mark.parametrize(
    "damage",
    [
        lambda whole: b"",
        lambda whole: b"no archive",
        lambda whole: whole[: len(whole) // 2],
        lambda whole: whole[:300] + bytes([whole[300] ^ 255]) + whole[301:],
        shortened,
    ],
    ids=["empty", "text", "cut short", "one byte changed", "fields missing"],
)
def test_a_damaged_batch_is_made_again(folder, damage: Callable[[bytes], bytes]) -> None:
    whole = navier_stokes(4, **SMALL)
    first, _ = sorted(folder.rglob("*.npz"))
    first.write_bytes(damage(first.read_bytes()))
    assert torch.equal(navier_stokes(4, **SMALL), whole)
    assert torch.equal(navier_stokes(2, **SMALL), whole[:2])


def test_an_interrupted_simulation_keeps_its_finished_batches(folder, calls, monkeypatch) -> None:
    whole = navier_stokes(4, **SMALL)
    shutil.rmtree(folder)
    counted = fluids.vorticity

    def interrupted(*arguments: object) -> Tensor:
        if list(folder.rglob("*.npz")):
            raise KeyboardInterrupt
        return counted(*arguments)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(fluids, "vorticity", interrupted)
        navier_stokes(4, **SMALL)
    calls.clear()
    assert torch.equal(navier_stokes(4, **SMALL), whole)
    assert len(calls) == 1 and torch.equal(calls[0], whole[2:, 0])


def test_every_setting_has_a_folder_of_its_own(folder) -> None:
    for change in ({}, {"size": 18}, {"times": (0.5, 1.0)}, {"viscosity": 1e-2}, {"seed": 1}):
        navier_stokes(1, **{**SMALL, **change})
    plumes(1, 16, 2)
    plumes(1, 16, 3)
    assert len(list(folder.iterdir())) == 7


@pytest.mark.parametrize(("addition", "batches"), [("STABLE = 2.7", 2), ("# a remark", 1)])
def test_only_what_other_code_made_is_made_anew(
    calls, tmp_path: Path, monkeypatch, addition: str, batches: int
) -> None:
    navier_stokes(2, **SMALL)
    changed = tmp_path / "fluids.py"
    changed.write_text(f"{Path(fluids.__file__).read_text()}\n{addition}\n")
    monkeypatch.setattr(fluids, "__file__", str(changed))
    navier_stokes(2, **SMALL)
    assert len(calls) == batches


def test_a_simulation_that_blew_up_is_not_kept(folder) -> None:
    with pytest.raises(HyenaError, match="values are not finite"):
        simulated("broken", {}, 2, 0, 2, lambda generator, n: torch.full((n, 4), torch.nan))
    assert not list(folder.rglob("*.npz"))


def test_navier_stokes_records_the_forced_flow_at_the_given_times() -> None:
    found = navier_stokes(2, 16, 1e-2, (0.5, 2.25))
    start = found[:, 0].double()
    solved = fluids.vorticity(start, fluids.kolmogorov_force(16, start), 1e-2, 0.01, 25, 9).float()
    assert found.shape == (2, 3, 16, 16) and found.dtype == torch.float32
    close(found[:, 1:].transpose(0, 1), solved[[1, 8]], 1e-5)


def test_burgers_waves_are_a_unit_of_time_apart() -> None:
    before, after = waves("burgers", 2, 32).double().unbind(1)
    close(fluids.burgers(before, 0.01, 1e-3, 1000, 1)[0], after, 1e-5)


def test_kuramoto_sivashinsky_waves_are_ten_units_of_time_apart_in_the_chaos() -> None:
    before, after = waves("kuramoto_sivashinsky", 2, 32).double().unbind(1)
    close(fluids.kuramoto_sivashinsky(before, 32.0, 0.02, 500, 1)[0], after, 1e-4)
    assert 1 < before.std() < 2 and (after - before).std() > 0.5


@pytest.mark.parametrize("name", WAVES)
def test_waves_are_pairs_of_finite_functions(name: str) -> None:
    found = waves(name, 3, 32)
    assert found.shape == (3, 2, 32) and found.dtype == torch.float32 and torch.isfinite(found).all()


def test_plumes_are_films_of_smoke_that_goes_up() -> None:
    found = plumes(3, 32, 8)
    assert found.shape == (3, 8, 32, 32) and found.dtype == torch.float32
    assert found.min() > -0.1 and 0.5 < found.max() < 1.1
    height = (found.sum(2) * torch.arange(32)).sum(-1) / found.sum((-2, -1))
    assert (height[:, -1] > height[:, 0] + 3).all()


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: navier_stokes(1, 16, times=(1.0, 0.5)), r"times must increase from 0, got \(1\.0, 0\.5\)"),
        (lambda: navier_stokes(1, 16, times=(0.5, 0.5)), "times must increase"),
        (lambda: navier_stokes(1, 16, times=(0.0, 0.5)), "times must increase"),
        (lambda: navier_stokes(1, 16, times=()), r"times must increase from 0, got \(\)"),
        (lambda: navier_stokes(1, 16, times=(1.0,), viscosity=0.0), "viscosity and dt must be above 0"),
        (lambda: waves("burger", 1, 32), "unknown equation 'burger': did you mean 'burgers'"),
        (lambda: waves("heat", 1, 32), "choose from burgers, kuramoto_sivashinsky"),
    ],
)
def test_a_mistake_is_named_and_nothing_is_kept(folder, call, said: str) -> None:
    with pytest.raises(HyenaError, match=said):
        call()
    assert not list(folder.rglob("*.npz"))
