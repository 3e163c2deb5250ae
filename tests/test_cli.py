"""The `hyena` command: exit codes, and one line that says what to do for every mistake."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from hyena import cli, results, source
from hyena.claims import VERDICTS
from hyena.claims import load as load_claims

CHECKOUT = Path(__file__).resolve().parents[1]
RECALL = ["train", "hyena.associative_recall", "--profile", "smoke"]
TEXT = ["train", "hyena.language_modelling", "--profile", "smoke"]
SMALL = ["n_train=64", "n_test=20", "cells=[[10,16,1]]", "n_seeds=1", "lr=[1e-3]"]


@pytest.fixture(autouse=True)
def alone(checkout, monkeypatch) -> None:
    """Every test runs in a checkout of its own."""
    monkeypatch.chdir(checkout)
    monkeypatch.setenv("HYENA_PROGRESS", "0")
    monkeypatch.setenv("HYENA_CACHE", str(checkout / "cache"))
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(checkout.parent))
    monkeypatch.delenv("HYENA_NO_TRAIN", raising=False)


def hyena(*words: str) -> int:
    """The exit code of the command."""
    try:
        return cli.main(list(words))
    except SystemExit as stopped:
        return stopped.code


def refused(capsys, *words: str) -> str:
    """The one line of a command that fails for a mistake of the user, without its head."""
    code, shown = hyena(*words), capsys.readouterr()
    assert code == 2
    assert shown.err.startswith("hyena: error: ")
    assert shown.err.endswith("\n")
    assert shown.err.count("\n") == 1
    return shown.err.removeprefix("hyena: error: ").strip()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "required: COMMAND"),
        (["trian"], "unknown command 'trian': did you mean 'train'? choose from"),
        (["--nope"], "see `hyena --help`"),
        (["train"], "required: PAPER[.EXPERIMENT]; see `hyena train --help`"),
        (["train", "hyena", "--bogus"], "unrecognized arguments: --bogus"),
        (["train", "hyena", "--seed", "x"], "--seed: invalid int value: 'x'"),
        (["train", "hyena", "--profile", "smoke", "--seed", "-1"], "seed must be at least 0"),
        (["train", "hyenna"], "unknown paper 'hyenna': did you mean 'hyena'?"),
        (["train", "hyena.associative_recal"], "did you mean 'associative_recall'?"),
        (["train", "hyena", "--profile", "smok"], "unknown profile 'smok': did you mean 'smoke'?"),
        (["train", "hyena", "--set", "order=3"], "hyena train hyena.EXPERIMENT --set"),
        (["train", "hyena", "--profile", "smoke", "--device", "tpu"], "unknown device 'tpu': choose from cpu, cuda"),
        ([*RECALL, "--set", "order"], "FIELD=VALUE, got 'order'"),
        ([*RECALL, "--set", "ordr=3"], "'ordr': did you mean 'order'?"),
        ([*RECALL, "--set", "order=x"], "order takes a int such as 2, got 'x'"),
        ([*RECALL, "--set", "order="], "order takes a int such as 2, got ''"),
        ([*RECALL, "--set", "order=2.5"], "order takes a int such as 2, got 2.5"),
        ([*RECALL, "--set", "order=1"], "order must be at least 2"),
        ([*RECALL, "--set", "lr=0.001"], "lr takes a tuple such as (0.0005,), got 0.001"),
        ([*RECALL, "--set", "embed_dropout=2.0"], "embed_dropout is a probability below 1, got 2.0"),
        ([*RECALL, "--set", "operators=["], "operators takes a tuple"),
        ([*RECALL, "--set", "operators=[hyena,nothing]", "n_seeds=1"], "unknown operator 'nothing'"),
        ([*RECALL, "--set", "n_seeds=0"], "n_seeds must be at least 1"),
        ([*RECALL, "--set", "num_heads=3", *SMALL], "multiple of num_heads 3"),
        ([*RECALL, "--set", "accumulate=3", *SMALL], "choose a batch size that 3 divides"),
        ([*RECALL, "--set", "batch_size=512"], "batch_size is 1 to n_train = 256"),
        ([*TEXT, "--set", "corpus=nothing.txt"], "no text file 'nothing.txt'"),
        ([*TEXT, "--set", "corpus=enwik"], "unknown corpus 'enwik': did you mean 'enwiki'?"),
        ([*TEXT, "--set", "corpus=hyena/ops"], "no text file 'hyena/ops'"),
        (["fetch", "enwki"], "unknown data entry 'enwki': did you mean 'enwiki'?"),
        (["bench", "fftcon"], "unknown benchmark 'fftcon'"),
        (["bench", "--device", "tpu"], "unknown device 'tpu'"),
        (["notebook", "hyenna"], "unknown notebook of paper 'hyenna': did you mean 'hyena'?"),
        (["notebook", "hyena", "--profile", "quik"], "did you mean 'quick'?"),
        (["figures", "hyenna"], "did you mean 'hyena'?"),
        (["figures", "hyena", "--format", "gif"], "invalid choice: 'gif'"),
        (["claims", "hyenna"], "did you mean 'hyena'?"),
        (["list", "hyenna"], "did you mean 'hyena'?"),
        (["compare", "hyenna"], "did you mean 'hyena'?"),
        (["compare"], "not a git repository"),
    ],
    ids=lambda value: " ".join(value) or "nothing" if isinstance(value, list) else "",
)
def test_a_mistake_is_one_line_that_says_what_to_do(capsys, words: list[str], said: str) -> None:
    assert said in refused(capsys, *words)


def test_an_absent_gpu_is_said(capsys, monkeypatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert "use --device cpu" in refused(capsys, *RECALL, "--device", "cuda")


def test_an_unknown_figure_brings_the_nearest(capsys, checkout) -> None:
    folder = checkout / "figures" / "hyena"
    folder.mkdir(parents=True)
    (folder / "captions.json").write_text('{"recall_curves": {}}')
    assert "unknown figure of hyena 'recal': did you mean 'recall_curves'?" in refused(
        capsys, "figures", "hyena", "recal"
    )


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "has 0 bytes"),
        (b"too short", "at least 1000"),
        (b"good " * 400 + b"\xff", "is not UTF-8 text (byte 2000 is 0xff)"),
    ],
    ids=["empty", "short", "binary"],
)
def test_a_text_that_cannot_be_learnt_is_refused(capsys, checkout, content: bytes, said: str) -> None:
    path = checkout / "mine.txt"
    path.write_bytes(content)
    assert said in refused(capsys, *TEXT, "--set", f"corpus={path}")


@pytest.mark.slow
def test_a_text_of_ones_own_is_learnt(capsys, checkout) -> None:
    path = checkout / "mine.txt"
    path.write_text("So many words that say the same again. " * 100)
    assert hyena(*TEXT, "--set", f"corpus={path}", "n_layer=1", "steps=4") == 0
    assert "bits_per_byte_hyena" in capsys.readouterr().out


def test_a_full_disk_is_one_line(capsys, monkeypatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    assert "No space left on device; nothing was changed" in refused(capsys, *RECALL, "--set", *SMALL)


def test_a_mistake_in_params_yaml_is_one_line(capsys, checkout) -> None:
    (checkout / "params.yaml").write_text("profile: [")
    assert "params.yaml is not valid YAML" in refused(capsys, *RECALL)


def test_a_damaged_result_is_one_line(capsys, checkout) -> None:
    claim = next(c for c in load_claims() if c.metric)
    path = results.folder("hyena", claim.profile) / f"{claim.metric.partition('.')[0]}.json"
    path.parent.mkdir(parents=True)
    path.write_text('{"metrics": ')
    said = refused(capsys, "claims")
    assert str(path) in said and "run the experiment again" in said


def test_all_mistakes_are_found_before_any_work(capsys, checkout) -> None:
    params = checkout / "params.yaml"
    params.write_text(params.read_text().replace("      steps: 8", "      steps: eight", 1))
    assert "steps takes a int" in refused(capsys, "train", "hyena", "--profile", "smoke")
    assert not (checkout / "results").exists()


@pytest.mark.slow
def test_training_stores_a_result_and_a_second_call_finds_it(capsys, checkout) -> None:
    words = [*RECALL, "--set", *SMALL, "precision=no", "operators=[hyena]"]
    assert hyena(*words) == 0
    shown = capsys.readouterr().out
    path = checkout / shown.partition(":")[0]
    assert path.is_relative_to(checkout / "results" / "custom" / "hyena")
    assert "accuracy_hyena" in shown
    assert results.load(path).config["precision"] == "no"
    assert hyena(*words) == 0
    assert capsys.readouterr().out == f"{path.relative_to(checkout)} is up to date (--force runs it again)\n"
    assert not (checkout / "results" / "hyena").exists()


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("3", 3), ("1e-3", 0.001), ("-2.5", -2.5), ("no", "no"), ("true", True), ("bf16", "bf16"), ("", ""),
        ("[0.1, 1e-4]", [0.1, 0.0001]), ("[hyena,attention]", ["hyena", "attention"]), ('["a b"]', ["a b"]),
        ("my book.txt", "my book.txt"),
    ],
)  # fmt: skip
def test_values_are_read_as_one_would_write_them(word: str, value: object) -> None:
    assert cli._changes([f"field={word}"]) == {"field": value}


def test_a_value_may_hold_an_equals_sign() -> None:
    assert cli._changes(["corpus=a=b.txt"]) == {"corpus": "a=b.txt"}


def test_list_shows_every_experiment_and_what_is_stored(capsys, checkout) -> None:
    path = results.folder("hyena", "quick") / "associative_recall.json"
    path.parent.mkdir(parents=True)
    path.write_text("{}")
    assert hyena("list") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == source.papers()[0]
    assert [" ".join(line.split()) for line in lines if line.strip().startswith("hyena.")] == [
        "hyena.associative_recall stored: quick",
        "hyena.distillation stored: nothing yet",
        "hyena.language_modelling stored: nothing yet",
        "hyena.reasoning stored: nothing yet",
    ]


def test_claims_prints_a_verdict_each_and_their_counts(capsys) -> None:
    assert hyena("claims", "hyena") == 0
    *rows, counts = capsys.readouterr().out.splitlines()
    claims = [c for c in load_claims() if c.paper == "hyena"]
    assert [row.startswith(c.id) and c.claim in row for row, c in zip(rows, claims, strict=True)] == [True] * len(rows)
    assert all(any(v in row for v in VERDICTS) for row in rows)
    assert counts == f"{len(claims)} not run"


def test_claims_write_the_report_and_the_gallery(checkout) -> None:
    assert hyena("claims", "--write") == 0
    assert (checkout / "CLAIMS.md").read_text().startswith("# Claims")
    assert (checkout / "figures" / "README.md").read_text().startswith("# Figures")


def test_help_shows_every_command(capsys) -> None:
    assert hyena("--help") == 0
    shown = capsys.readouterr().out
    assert all(f"hyena {name}" in shown for name in cli.parser().commands)


def test_an_interrupted_command_says_how_to_go_on(capsys, monkeypatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("hyena.experiments.base.Experiment.execute", interrupted)
    assert hyena(*RECALL) == 130
    assert capsys.readouterr().err == "hyena: interrupted; run the same command again to go on\n"


def test_the_process_itself_ends_with_one_line_and_the_code(checkout) -> None:
    """Without the type checks that the test run adds: the option reaches the code that refuses it."""
    words = [sys.executable, "-m", "hyena", *RECALL, "--set", "precision=fp8", *SMALL]
    done = subprocess.run(words, cwd=checkout, env=os.environ | {"PYTHONPATH": ""}, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "hyena: error: unknown precision 'fp8': choose from bf16, no\n"


def test_a_closed_pipe_is_no_error(checkout) -> None:
    words = f"{sys.executable} -m hyena claims | head -n 1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", words], cwd=checkout, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
