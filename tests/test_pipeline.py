"""The whole pipeline at the smoke profile in a clone of its own, and what makes it run again."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from hyena.data import fetch
from hyena.errors import HyenaError

CHECKOUT = Path(__file__).resolve().parents[1]
pytestmark = [pytest.mark.slow, pytest.mark.data]


def run(clone: Path, *words: str, ok: bool = True) -> str:
    bin_folder = str(Path(sys.executable).parent)
    env = os.environ | {"PATH": bin_folder + os.pathsep + os.environ["PATH"], "PYTHONPATH": str(clone)}
    env.pop("HYENA_NO_TRAIN", None)
    done = subprocess.run(words, cwd=clone, env=env, capture_output=True, text=True)
    assert not ok or done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr if ok else str(done.returncode)


def dvc(clone: Path, *words: str, ok: bool = True) -> str:
    return run(clone, sys.executable, "-m", "dvc", *words, ok=ok)


def changed(clone: Path) -> set[str]:
    """The stages that `dvc repro` would run again, `sources` having been brought up to date."""
    run(clone, sys.executable, "-m", "hyena.source")
    return set(json.loads(dvc(clone, "status", "--json", "fetch", "data.dvc", "train", "notebook")))


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    """A clone of the last commit, with a stored long result, after one `dvc repro` at the smoke profile."""
    if not (CHECKOUT / ".git").exists():
        pytest.skip("not a git checkout")
    try:
        fetch.fetch("enwiki")
    except HyenaError as error:
        if os.environ.get("HYENA_REQUIRE_DATA") == "1":
            raise
        pytest.skip(str(error))
    folder = tmp_path_factory.mktemp("pipeline") / "clone"
    subprocess.run(["git", "clone", "-q", str(CHECKOUT), str(folder)], check=True)
    params = folder / "params.yaml"
    params.write_text(re.sub(r"^profile: \w+", "profile: smoke", params.read_text(), flags=re.M))
    for profile in ("long", "paper"):
        (folder / "results" / "hyena" / profile).mkdir(parents=True, exist_ok=True)
        (folder / "results" / "hyena" / profile / "untouched.txt").write_text(profile)
    (folder / "first_run.log").write_text(dvc(folder, "repro"))
    return folder


def test_a_fresh_clone_trains_and_executes_everything(clone):
    log = (clone / "first_run.log").read_text()
    for stage in ("fetch", "train@hyena", "notebook@hyena", "claims"):
        assert f"Running stage '{stage}'" in log
    for name in ("associative_recall", "language_modelling"):
        assert json.loads((clone / "results/hyena/smoke" / f"{name}.json").read_text())["profile"] == "smoke"
    notebook = json.loads((clone / "notebooks/01_hyena.ipynb").read_text())
    assert notebook["metadata"]["hyena"]["profile"] == "smoke"
    assert all(cell["execution_count"] for cell in notebook["cells"] if cell["cell_type"] == "code")


def test_results_of_other_profiles_are_untouched(clone):
    status = run(clone, "git", "status", "--porcelain", "results")
    assert {line[3:] for line in status.splitlines()} <= {"results/hyena/long/", "results/hyena/paper/"} | {
        f"results/hyena/{p}/untouched.txt" for p in ("long", "paper")
    }
    for profile in ("long", "paper"):
        assert (clone / "results/hyena" / profile / "untouched.txt").read_text() == profile


def test_a_second_run_does_nothing(clone):
    log = dvc(clone, "repro")
    assert re.findall(r"Running stage '(.+)'", log) == ["sources"]
    assert changed(clone) == set()


def test_a_docstring_and_a_comment_run_nothing_again(clone):
    with edited(clone / "hyena/ops/fftconv.py", '"""Long convolutions by FFT', '"""Convolutions, long ones, by FFT'):
        assert changed(clone) == set()


def test_a_sentence_of_the_notebook_runs_the_notebook_again_and_trains_nothing(clone):
    with edited(clone / "notebooks/01_hyena.ipynb", "is a memory test.", "is a test of memory."):
        assert changed(clone) == {"notebook@hyena"}


def test_a_changed_operator_trains_its_paper_again(clone):
    with edited(clone / "hyena/ops/fftconv.py", "MIN_TRANSFORMS = 8", "MIN_TRANSFORMS = 9"):
        assert "train@hyena" in changed(clone)


def test_a_changed_setting_of_another_profile_trains_nothing(clone):
    with edited(clone / "params.yaml", "      n_test: 300", "      n_test: 301"):
        assert changed(clone) == set()


class edited:
    """Replaces a piece of a file for as long as the block lasts."""

    def __init__(self, path: Path, old: str, new: str):
        self.path, self.text = path, path.read_text()
        assert old in self.text, f"{old!r} is no longer in {path.name}"
        self.new = self.text.replace(old, new, 1)

    def __enter__(self):
        self.path.write_text(self.new)

    def __exit__(self, *_):
        self.path.write_text(self.text)
