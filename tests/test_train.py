"""What the training loop promises, above all that a killed run ends with the numbers of an uninterrupted one."""

import dataclasses
import errno
import json
import logging
import math
import os
import shutil
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import nn
from torch.nn import functional as F

from hyena import HyenaOperator, LanguageModel, next_token_loss
from hyena.errors import HyenaError
from hyena.results import load
from hyena.train import Recipe, Run, TrainingDiverged, parameter_groups, train

CHECKOUT = Path(__file__).resolve().parents[1]
RECIPE = Recipe(steps=20, lr=0.01, warmup=4, eval_every=5)


def tiny(dropout: float = 0.3) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Dropout(dropout), nn.Linear(8, 1))


def batch(step: int) -> tuple[torch.Tensor, torch.Tensor]:
    x = torch.randn(8, 4, generator=torch.Generator().manual_seed(step))
    return x, x.sum(-1, keepdim=True)


def loss(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return F.mse_loss(model(x), y)


def held_out(model: nn.Module) -> dict[str, float]:
    return {"held_out": loss(model, *batch(1000)).item()}


def learn(model: nn.Module, run: Run | None = None, recipe: Recipe = RECIPE, batch=batch, **options):
    return train(model, batch, loss, recipe, run or Run(), "tiny", **{"evaluate": held_out} | options)


def interrupting(at: int, function):
    """`function`, interrupted once when it is called for the `at`-th time."""
    calls = iter(range(10**9))

    def wrapped(*args):
        if next(calls) == at:
            raise KeyboardInterrupt
        return function(*args)

    return wrapped


def same_weights(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))


def checkpointed(folder: Path, **options) -> Run:
    return Run(**{"checkpoints": folder, "save_every": 0.0} | options)


@pytest.fixture(scope="module")
def uninterrupted() -> tuple[list, nn.Module]:
    model = tiny()
    return learn(model), model


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


# Killed and resumed


@pytest.mark.parametrize("row", [0, 2, 3])
def test_interrupted_while_evaluating_a_run_ends_with_the_same_numbers(tmp_path, uninterrupted, row: int) -> None:
    rows, model = uninterrupted
    run = checkpointed(tmp_path, save_every=1e9)
    with pytest.raises(KeyboardInterrupt):
        learn(tiny(), run, evaluate=interrupting(row, held_out))
    again = tiny()
    assert learn(again, run) == rows
    assert same_weights(again, model)


@pytest.mark.parametrize("step", [0, 3, 5, 19])
@pytest.mark.parametrize("save_every", [0.0, 1e9])
def test_interrupted_while_reading_a_batch_a_run_ends_with_the_same_numbers(
    tmp_path, uninterrupted, step: int, save_every: float
) -> None:
    rows, model = uninterrupted
    run = checkpointed(tmp_path, save_every=save_every)
    with pytest.raises(KeyboardInterrupt):
        learn(tiny(), run, batch=interrupting(step, batch))
    asked = []
    again = tiny()
    assert learn(again, run, batch=lambda s: asked.append(s) or batch(s)) == rows
    assert same_weights(again, model)
    assert asked == list(range(step, 20))


@pytest.mark.parametrize("save_every", [0.0, 1e9])
def test_interrupted_right_after_an_update_a_run_ends_with_the_same_numbers(
    tmp_path, monkeypatch, uninterrupted, save_every: float
) -> None:
    rows, model = uninterrupted
    run = checkpointed(tmp_path, save_every=save_every)
    update, calls = torch.optim.AdamW.step, iter(range(10**9))

    def step(self, closure=None):
        update(self, closure)
        if next(calls) == 7:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(torch.optim.AdamW, "step", step)
        learn(tiny(), run)
    again = tiny()
    assert learn(again, run) == rows
    assert same_weights(again, model)


def test_a_killed_run_ends_with_the_same_numbers(tmp_path, uninterrupted) -> None:
    script = (
        "import os, signal, sys; from pathlib import Path; from test_train import batch, checkpointed, learn, tiny\n"
        "def dying(step):\n"
        "    if step == 13: os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return batch(step)\n"
        "learn(tiny(), checkpointed(Path(sys.argv[1])), batch=dying)\n"
    )
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(CHECKOUT), str(CHECKOUT / "tests")])}
    done = subprocess.run([sys.executable, "-c", script, tmp_path], env=env, capture_output=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    asked = []
    again = tiny()
    rows, model = uninterrupted
    assert learn(again, checkpointed(tmp_path), batch=lambda s: asked.append(s) or batch(s)) == rows
    assert same_weights(again, model)
    assert asked == list(range(13, 20))


def test_a_finished_training_is_not_repeated(tmp_path, uninterrupted) -> None:
    rows, model = uninterrupted
    learn(tiny(), checkpointed(tmp_path))
    again = tiny()
    assert learn(again, checkpointed(tmp_path), batch=interrupting(0, batch)) == rows
    assert same_weights(again, model)


def test_a_training_that_stopped_early_is_not_continued(tmp_path) -> None:
    stop = {"stop": lambda row: row["step"] == 10}
    first = learn(tiny(), checkpointed(tmp_path), **stop)
    assert [row["step"] for row in first] == [5, 10]
    assert learn(tiny(), checkpointed(tmp_path), batch=interrupting(0, batch), **stop) == first


def test_a_checkpoint_of_other_configuration_or_code_is_ignored(tmp_path, uninterrupted) -> None:
    learn(tiny(), checkpointed(tmp_path, fingerprint="old"), recipe=dataclasses.replace(RECIPE, lr=0.5))
    assert learn(tiny(), checkpointed(tmp_path, fingerprint="new")) == uninterrupted[0]


@pytest.mark.parametrize("keep", [0, 7, 200, -1])
def test_a_truncated_checkpoint_is_ignored_with_a_warning(tmp_path, uninterrupted, caplog, keep: int) -> None:
    run = checkpointed(tmp_path)
    learn(tiny(), run, recipe=dataclasses.replace(RECIPE, lr=0.5))
    path = tmp_path / "tiny.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    with caplog.at_level(logging.WARNING, "hyena.train"):
        assert learn(tiny(), run) == uninterrupted[0]
    assert [str(path) in m and "damaged" in m for m in caplog.messages] == [True]


def test_a_checkpoint_is_one_safetensors_file_without_a_pickle(tmp_path) -> None:
    with pytest.raises(KeyboardInterrupt):
        learn(tiny(), checkpointed(tmp_path), batch=interrupting(9, batch))
    assert [p.name for p in tmp_path.iterdir()] == ["tiny.safetensors"]
    raw = (tmp_path / "tiny.safetensors").read_bytes()
    size = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + size])
    about = header.pop("__metadata__")
    assert 8 + size + max(t["data_offsets"][1] for t in header.values()) == len(raw)  # tensors and nothing else
    assert json.loads(about["training"])["state"]["step"] == 9
    assert {"0.weight", "exp_avg/0.weight", "exp_avg_sq/0.weight", "step/0.weight"} <= set(header)


@pytest.mark.parametrize("interrupted", [False, True])
def test_a_checkpoint_written_twice_is_the_same_bytes(tmp_path, interrupted: bool) -> None:
    found = []
    for attempt in ("first", "second"):
        with suppress(KeyboardInterrupt):
            learn(tiny(), checkpointed(tmp_path / attempt), batch=interrupting(9 if interrupted else -1, batch))
        found.append((tmp_path / attempt / "tiny.safetensors").read_bytes())
    assert found[0] == found[1]
    header = json.loads(found[0][8 : 8 + int.from_bytes(found[0][:8], "little")])
    assert list(header["__metadata__"]) == ["training"]  # the library writes several keys in any order


def test_a_finished_training_keeps_no_moments(tmp_path) -> None:
    learn(tiny(), checkpointed(tmp_path))
    with safe_open(tmp_path / "tiny.safetensors", "pt") as stored:
        assert set(stored.keys()) == {"0.weight", "0.bias", "3.weight", "3.bias"}


def test_a_full_disk_is_one_error_and_the_last_checkpoint_stays(tmp_path, monkeypatch, uninterrupted) -> None:
    replace, calls = os.replace, iter(range(10**9))

    def full(*names):
        if next(calls) == 8:
            raise OSError(errno.ENOSPC, "No space left on device")
        replace(*names)

    with (
        monkeypatch.context() as patched,
        pytest.raises(HyenaError, match=r"could not write .*: No space left on device"),
    ):
        patched.setattr(os, "replace", full)
        learn(tiny(), checkpointed(tmp_path))
    assert [p.name for p in tmp_path.iterdir()] == ["tiny.safetensors"]
    asked = []
    assert learn(tiny(), checkpointed(tmp_path), batch=lambda s: asked.append(s) or batch(s)) == uninterrupted[0]
    assert asked[0] == 8


def test_nothing_is_written_without_a_folder(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    learn(tiny(), Run(save_every=0.0))
    assert list(tmp_path.iterdir()) == []


def test_shared_parameters_survive_a_checkpoint(tmp_path) -> None:
    def model() -> LanguageModel:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return LanguageModel(8, 8, 1, 16, lambda: HyenaOperator(8, 16, filter_order=4), l_max=16, embed_dropout=0.1)

    def tokens(step: int) -> tuple[torch.Tensor, torch.Tensor]:
        x = torch.randint(0, 8, (4, 17), generator=torch.Generator().manual_seed(step))
        return x[:, :-1], x[:, 1:]

    def fit(model: LanguageModel, run: Run, batch=tokens):
        recipe = dataclasses.replace(RECIPE, steps=6, eval_every=3)
        return train(model, batch, lambda m, x, y: next_token_loss(m(x), y), recipe, run, "shared")

    straight, resumed = model(), model()
    rows = fit(straight, Run())
    with pytest.raises(KeyboardInterrupt):
        fit(model(), checkpointed(tmp_path), interrupting(4, tokens))
    assert fit(resumed, checkpointed(tmp_path)) == rows
    assert same_weights(resumed, straight)
    network = resumed.backbone.layers[0].mixer.filter_fn.implicit_filter
    assert network[1].freq is network[3].freq
    assert resumed.lm_head.weight is resumed.backbone.embeddings.word_embeddings.weight


# What ends a training


def test_a_loss_that_is_not_a_number_names_training_step_and_rate() -> None:
    with pytest.raises(TrainingDiverged, match=r"^tiny: the loss is nan at step 6 \(learning rate 0.00962\)"):
        learn(tiny(), batch=lambda s: tuple(t * (math.nan if s == 6 else 1) for t in batch(s)))


def test_a_diverged_training_leaves_its_last_good_checkpoint(tmp_path, uninterrupted) -> None:
    with pytest.raises(TrainingDiverged):
        learn(tiny(), checkpointed(tmp_path), batch=lambda s: tuple(t * (math.inf if s == 6 else 1) for t in batch(s)))
    assert learn(tiny(), checkpointed(tmp_path)) == uninterrupted[0]


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


def test_a_model_just_trained_in_bf16_measures_as_one_read_from_its_checkpoint(tmp_path) -> None:
    recipe = dataclasses.replace(RECIPE, precision="bf16")
    fresh, read = tiny(), tiny()
    learn(fresh, checkpointed(tmp_path), recipe=recipe)
    learn(read, checkpointed(tmp_path), recipe=recipe, batch=interrupting(0, batch))
    assert held_out(fresh.eval()) == held_out(read.eval())


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
