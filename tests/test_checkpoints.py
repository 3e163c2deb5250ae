"""A killed run ends with the numbers of an uninterrupted one, and what a checkpoint is."""

import dataclasses
import errno
import json
import logging
import math
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from small_training import RECIPE, batch, checkpointed, held_out, interrupting, learn, same_weights, tiny

from hyena import HyenaOperator, LanguageModel, next_token_loss
from hyena.errors import HyenaError
from hyena.train import Run, TrainingDiverged, train

CHECKOUT = Path(__file__).resolve().parents[1]


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
        "import os, signal, sys; from pathlib import Path\n"
        "from small_training import batch, checkpointed, learn, tiny\n"
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


def test_a_diverged_training_leaves_its_last_good_checkpoint(tmp_path, uninterrupted) -> None:
    with pytest.raises(TrainingDiverged):
        learn(tiny(), checkpointed(tmp_path), batch=lambda s: tuple(t * (math.inf if s == 6 else 1) for t in batch(s)))
    assert learn(tiny(), checkpointed(tmp_path)) == uninterrupted[0]


def test_a_model_just_trained_in_bf16_measures_as_one_read_from_its_checkpoint(tmp_path) -> None:
    recipe = dataclasses.replace(RECIPE, precision="bf16")
    fresh, read = tiny(), tiny()
    learn(fresh, checkpointed(tmp_path), recipe=recipe)
    learn(read, checkpointed(tmp_path), recipe=recipe, batch=interrupting(0, batch))
    assert held_out(fresh.eval()) == held_out(read.eval())
