"""What the training loop promises: rates, ends, parts of a batch, precision, devices and processes."""

import dataclasses
import math
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from small_training import RECIPE, batch, learn, tiny

from hyena.errors import HyenaError
from hyena.results import load
from hyena.train import Recipe, Run, TrainingDiverged, parameter_groups

CHECKOUT = Path(__file__).resolve().parents[1]


# The learning rate and the optimiser


@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant"])
def test_warm_up_climbs_linearly_to_the_peak(schedule: str) -> None:
    recipe = Recipe(steps=20, lr=0.01, warmup=4, schedule=schedule)
    assert [recipe.factor(s) for s in range(5)] == [0.25, 0.5, 0.75, 1.0, 1.0]


@pytest.mark.parametrize(("schedule", "half", "end"), [("cosine", 0.55, 0.1), ("linear", 0.55, 0.1)])
def test_decay_passes_halfway_at_half_time_and_ends_at_min_lr(schedule: str, half: float, end: float) -> None:
    recipe = Recipe(steps=24, lr=0.01, min_lr=0.001, warmup=4, schedule=schedule)
    assert recipe.factor(14) == pytest.approx(half)
    assert recipe.factor(24) == pytest.approx(end)


def test_cosine_and_linear_differ_between() -> None:
    cosine, linear = (Recipe(steps=20, lr=1.0, schedule=s).factor(5) for s in ("cosine", "linear"))
    assert cosine == pytest.approx((1 + math.cos(math.pi / 4)) / 2)
    assert linear == pytest.approx(0.75)


def test_constant_stays_at_the_peak() -> None:
    assert Recipe(steps=20, lr=1.0, min_lr=0.1, schedule="constant").factor(19) == 1.0


def test_the_curve_records_the_rate_of_its_last_step() -> None:
    rows = learn(tiny())
    assert [row["step"] for row in rows] == [5, 10, 15, 20]
    assert [row["lr"] for row in rows] == [RECIPE.lr * RECIPE.factor(s) for s in (4, 9, 14, 19)]


def test_a_parameters_own_options_override_the_recipe() -> None:
    model = tiny()
    model[0].weight._optim = {"lr": 1e-5, "weight_decay": 0.0}
    model[0].bias._optim = {"weight_decay": 0.0}
    groups = {(g["lr"], g["weight_decay"]): len(g["params"]) for g in parameter_groups(model, RECIPE)}
    assert groups == {(1e-5, 0.0): 1, (0.01, 0.0): 1, (0.01, 0.1): 2}


def test_a_parameter_with_rate_zero_does_not_move() -> None:
    model = tiny()
    model[0].weight._optim = {"lr": 0.0}
    before = [p.clone() for p in model.parameters()]
    learn(model)
    moved = [not torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True)]
    assert moved == [False, True, True, True]


def test_training_learns() -> None:
    rows = learn(tiny(dropout=0.0), recipe=dataclasses.replace(RECIPE, steps=200, eval_every=50, lr=0.03))
    assert rows[-1]["held_out"] < 0.2 * rows[0]["held_out"]


@pytest.mark.parametrize("wrong", [{"steps": 0}, {"eval_every": 0}, {"accumulate": 0}, {"lr": 0.0}])
def test_an_impossible_recipe_is_refused_by_name(wrong: dict) -> None:
    with pytest.raises(HyenaError, match=next(iter(wrong))):
        dataclasses.replace(RECIPE, **wrong)


@pytest.mark.parametrize("frozen", [Run(), RECIPE])
def test_run_and_recipe_cannot_be_changed(frozen: Run | Recipe) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(frozen, dataclasses.fields(frozen)[0].name, 1)


# What ends a training


def test_a_loss_that_is_not_a_number_names_training_step_and_rate() -> None:
    with pytest.raises(TrainingDiverged, match=r"^tiny: the loss is nan at step 6 \(learning rate 0.00962\)"):
        learn(tiny(), batch=lambda s: tuple(t * (math.nan if s == 6 else 1) for t in batch(s)))


def test_stop_ends_a_training_early() -> None:
    assert [row["step"] for row in learn(tiny(), stop=lambda row: row["step"] >= 10)] == [5, 10]


# Parts, precision, devices, processes


def test_accumulating_parts_of_a_batch_changes_nothing() -> None:
    models = {n: tiny(dropout=0.0) for n in (1, 2, 4)}
    rows = {n: learn(m, recipe=dataclasses.replace(RECIPE, accumulate=n)) for n, m in models.items()}
    for n in (2, 4):
        for a, b in zip(models[1].parameters(), models[n].parameters(), strict=True):
            torch.testing.assert_close(a, b, atol=1e-6, rtol=0)
        assert [r["loss"] for r in rows[n]] == pytest.approx([r["loss"] for r in rows[1]], rel=1e-5)


def test_a_batch_that_cannot_be_shared_out_is_refused_with_what_would_do() -> None:
    with pytest.raises(HyenaError, match=r"batch of 8 .* 3 parts each; choose a batch size that 3 divides"):
        learn(tiny(), recipe=dataclasses.replace(RECIPE, accumulate=3))


def test_bf16_computes_in_half_and_keeps_weights_in_full_precision(uninterrupted) -> None:
    model = tiny()
    seen = []
    model[0].register_forward_hook(lambda layer, inputs, out: seen.append(out.dtype))
    rows = learn(model, recipe=dataclasses.replace(RECIPE, precision="bf16"))
    assert set(seen) == {torch.bfloat16}
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert rows[-1]["held_out"] != uninterrupted[0][-1]["held_out"]
    assert rows[-1]["held_out"] == pytest.approx(uninterrupted[0][-1]["held_out"], rel=0.1)


@pytest.mark.parametrize("device", ["tpu", "cuda"])
def test_an_unknown_or_absent_device_is_refused_before_any_work(monkeypatch, device: str) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(HyenaError, match="cpu"):
        Run(device=device)


def test_a_negative_seed_is_refused() -> None:
    with pytest.raises(HyenaError, match="seed"):
        Run(seed=-1)


def test_training_leaves_the_global_random_state_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    learn(tiny())
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.slow
def test_two_processes_give_the_curves_of_one(tmp_path) -> None:
    words = ["-m", "hyena", "train", "hyena.associative_recall", "--profile", "smoke"]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    launch = ["-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2", "--num_machines", "1"]
    launch += ["--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", str(port)]
    found = {}
    for processes, before in ((1, []), (2, launch)):
        folder = tmp_path / str(processes)
        shutil.copytree(CHECKOUT / "hyena", folder / "hyena", ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(CHECKOUT / "params.yaml", folder)
        env = os.environ | {"PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"}
        done = subprocess.run([sys.executable, *before, *words], cwd=folder, env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        found[processes] = load(folder / "results" / "hyena" / "smoke" / "associative_recall.json")
    one, two = (found[n].tables["curves"] for n in (1, 2))
    assert [(r["operator"], r["seed"], r["step"]) for r in two] == [(r["operator"], r["seed"], r["step"]) for r in one]
    assert [r["loss"] for r in two] == pytest.approx([r["loss"] for r in one], rel=1e-5)
    assert found[2].config == found[1].config
