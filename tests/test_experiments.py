"""When a stored result is taken, computed anew or refused."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from filelock import FileLock

from hyena import results, source
from hyena.errors import HyenaError
from hyena.experiments import base
from hyena.experiments.base import Experiment, code_digest, experiments
from hyena.experiments.comparison import Comparison
from hyena.experiments.hyena import AssociativeRecall
from hyena.experiments.hyena.language import Language
from hyena.results import Result
from hyena.train import Run

CHECKOUT = Path(__file__).resolve().parents[1]
PARAMS = yaml.safe_load((CHECKOUT / "params.yaml").read_text())
ALL = [e for p in source.papers() for e in experiments(p)]


@pytest.fixture(autouse=True)
def quiet(monkeypatch) -> None:
    monkeypatch.setenv("HYENA_PROGRESS", "0")
    monkeypatch.delenv("HYENA_NO_TRAIN", raising=False)


@pytest.fixture
def runs(checkout, monkeypatch) -> list[Run]:
    """Recall in a checkout of its own, where running is instant and recorded: its metric is how often it ran."""
    seen: list[Run] = []

    def run(self: Experiment, run: Run) -> Result:
        seen.append(run)
        values = [float(len(seen))] * 2
        return Result({"accuracy_hyena": values}, tables={"curves": [{"step": 1}]}, arrays={"x": np.ones(2)})

    monkeypatch.setattr(AssociativeRecall, "run", run)
    return seen


def stored(profile: str = "smoke") -> Path:
    return results.folder("hyena", profile) / "associative_recall.json"


def edit(path: Path, old: str, new: str) -> None:
    """Replace the first occurrence of `old`, which there must be."""
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def keep(profile: str, **changes) -> Result:
    """Store a made-up result of a profile as if it had been run today."""
    config = json.loads(base._canonical(AssociativeRecall.configured(profile)))
    made = Result(
        {"accuracy_hyena": [50.0]}, paper="hyena", experiment="associative_recall", profile=profile, seeds=(0,),
        config=config, code=code_digest(AssociativeRecall),
    )  # fmt: skip
    made = dataclasses.replace(made, **changes)
    results.save(made, stored(profile).parent)
    return made


@pytest.mark.slow
def test_two_runs_into_two_checkouts_are_the_same_bytes(checkout, tmp_path) -> None:
    settings = AssociativeRecall.configured("smoke", n_train=64, n_test=20, n_seeds=2)
    found = []
    for attempt in ("first", "second"):
        settings.execute("smoke")
        files = [p for p in (checkout / "results").rglob("*") if p.is_file()]
        found.append({str(p.relative_to(checkout)): p.read_bytes() for p in files})
        (checkout / "results").rename(tmp_path / f"results-{attempt}")
        (checkout / "build").rename(tmp_path / f"build-{attempt}")
    assert {Path(name).suffix for name in found[0]} == {".json", ".csv", ".npz"}
    assert found[0] == found[1]


@pytest.mark.slow
def test_recall_learns_at_the_smoke_profile(checkout) -> None:
    result = AssociativeRecall.configured("smoke", n_seeds=1, cells=[[10, 16, 4]], lr=[0.004]).run(Run())
    curve = [r["loss"] for r in result.tables["curves"] if r["operator"] == "hyena"]
    assert curve[-1] < 0.9 * curve[0]
    per_operator = {f"{kind}_{o}" for kind in ("accuracy", "lr") for o in ("hyena", "attention", "conv1d")}
    assert set(result.metrics) == per_operator | {"gap", "chance"}


def test_a_stored_result_is_returned_and_a_missing_one_computed(runs) -> None:
    first = AssociativeRecall.result("smoke")
    again = AssociativeRecall.result("smoke")
    assert (first.metrics, again.metrics, len(runs)) == ({"accuracy_hyena": 1.0},) * 2 + (1,)
    assert (again.paper, again.experiment, again.profile, again.seeds) == (
        "hyena", "associative_recall", "smoke", (0, 1),
    )  # fmt: skip


def test_a_changed_setting_asks_for_a_new_result(runs, checkout) -> None:
    AssociativeRecall.result("smoke")
    edit(checkout / "params.yaml", "[10, 16, 2]", "[10, 18, 2]")
    assert AssociativeRecall.configured("smoke").stale(stored()) == "was made with another configuration"
    assert AssociativeRecall.result("smoke").config["cells"] == [[8, 16, 2], [10, 18, 2]]
    assert len(runs) == 2


@pytest.mark.parametrize(
    ("old", "new"),
    [("[[10, 32, 12]]", "[[10, 34, 12]]"), ("max_count: 4", "max_count: 5")],
    ids=["profile", "experiment"],
)
def test_a_setting_of_another_profile_or_experiment_asks_for_nothing(runs, checkout, old: str, new: str) -> None:
    AssociativeRecall.result("smoke")
    edit(checkout / "params.yaml", old, new)
    AssociativeRecall.result("smoke")
    assert len(runs) == 1


def test_a_changed_operator_asks_for_a_new_result(runs, checkout) -> None:
    AssociativeRecall.result("smoke")
    path = checkout / "hyena" / "ops" / "fftconv.py"
    path.write_text(path.read_text() + "\nCHANGED = True\n")
    assert AssociativeRecall.configured("smoke").stale(stored()) == "was made with other code"
    AssociativeRecall.result("smoke")
    assert len(runs) == 2
    assert runs[0].fingerprint != runs[1].fingerprint  # so that no old checkpoint is taken up


@pytest.mark.parametrize(
    ("module", "stale"),
    [
        ("shell", {"associative_recall", "distillation", "language_modelling", "reasoning"}),
        ("language", {"distillation", "language_modelling"}),
        ("reasoning", {"reasoning"}),
        ("recall", {"associative_recall"}),
    ],
)
def test_a_changed_experiment_leaves_the_results_of_the_others(checkout, module: str, stale: set[str]) -> None:
    before = {e.name(): code_digest(e) for e in experiments("hyena")}
    path = checkout / "hyena" / "experiments" / "hyena" / f"{module}.py"
    path.write_text(path.read_text() + "\nCHANGED = True\n")
    assert {e.name() for e in experiments("hyena") if code_digest(e) != before[e.name()]} == stale


def test_what_experiments_share_belongs_to_no_paper() -> None:
    assert all(e.paper == "hyena" for e in experiments("hyena"))
    assert [cls.paper for cls in (Experiment, Comparison, Language)] == ["", "", ""]


def test_a_docstring_or_a_comment_asks_for_nothing(runs, checkout) -> None:
    AssociativeRecall.result("smoke")
    path = checkout / "hyena" / "ops" / "fftconv.py"
    path.write_text(path.read_text().replace('"""', '"""Another sentence. ', 1) + "\n# and a comment\n")
    AssociativeRecall.result("smoke")
    assert len(runs) == 1


@pytest.mark.parametrize("state", ["missing", "stale"])
def test_without_leave_to_train_the_command_to_run_is_named(runs, checkout, monkeypatch, state: str) -> None:
    monkeypatch.setenv("HYENA_NO_TRAIN", "1")
    if state == "stale":
        keep("smoke", code="old")
    with pytest.raises(HyenaError, match=r"`hyena train hyena.associative_recall --profile smoke`$"):
        AssociativeRecall.result("smoke")
    assert runs == []


def test_without_leave_to_train_a_stored_result_is_returned(runs, monkeypatch) -> None:
    monkeypatch.setenv("HYENA_NO_TRAIN", "1")
    keep("smoke")
    assert AssociativeRecall.result("smoke").metrics == {"accuracy_hyena": 50.0}


@pytest.mark.parametrize("damage", ["json", "csv", "npz"])
def test_a_damaged_result_is_computed_anew(runs, damage: str) -> None:
    AssociativeRecall.result("smoke")
    path = next(stored().parent.glob(f"*.{damage}"))
    path.write_bytes(path.read_bytes()[:-20])
    assert AssociativeRecall.result("smoke").metrics == {"accuracy_hyena": 2.0}
    assert AssociativeRecall.result("smoke").metrics == {"accuracy_hyena": 2.0}


def test_the_largest_stored_scale_is_preferred(runs) -> None:
    assert AssociativeRecall.largest() is None
    for profile in ("quick", "long", "paper"):
        keep(profile)
        found, of_today = AssociativeRecall.largest()
        assert (found.profile, of_today) == (profile, True)


@pytest.mark.parametrize("change", [{"code": "old"}, {"config": {"length": 3}}])
def test_a_large_result_of_other_code_or_settings_is_shown_and_marked(runs, change: dict) -> None:
    keep("quick")
    keep("long", **change)
    found, of_today = AssociativeRecall.largest()
    assert (found.profile, of_today) == ("long", False)


def test_a_second_run_at_the_same_time_is_refused(runs, checkout) -> None:
    keep("smoke")
    before = stored().read_bytes()
    lock = checkout / "build" / "locks" / "hyena.smoke.associative_recall.lock"
    lock.parent.mkdir(parents=True)
    with FileLock(lock), pytest.raises(HyenaError, match=r"^another process is running this experiment [^\n]*$"):
        AssociativeRecall.configured("smoke").execute("smoke")
    assert (runs, stored().read_bytes()) == ([], before)
    AssociativeRecall.configured("smoke").execute("smoke")  # and once the other is done it runs
    assert len(runs) == 1


def test_a_failed_run_frees_its_lock(checkout, monkeypatch) -> None:
    def fails(self: Experiment, run: Run) -> Result:
        raise HyenaError("no")

    monkeypatch.setattr(AssociativeRecall, "run", fails)
    for _ in range(2):
        with pytest.raises(HyenaError, match=r"^no$"):
            AssociativeRecall.configured("smoke").execute("smoke")


@pytest.mark.parametrize(("changes", "seed"), [({"n_layer": 3}, 0), ({}, 3)])
def test_other_settings_and_seeds_are_stored_apart(runs, checkout, changes: dict, seed: int) -> None:
    keep("smoke")
    before = stored().read_bytes()
    settings = AssociativeRecall.configured("smoke", **changes)
    settings.execute("smoke", seed=seed)
    assert stored().read_bytes() == before
    path = settings.path("smoke", seed)
    assert path.is_relative_to(checkout / "results" / "custom" / "hyena")
    assert results.load(path).seeds == (seed, seed + 1)


def test_every_setting_and_seed_has_a_place_of_its_own() -> None:
    places = {
        AssociativeRecall.configured("smoke", cells=[[10, length, 2]]).path("smoke", seed)
        for length in (16, 20, 24)
        for seed in (0, 1)
    }
    assert len(places) == 6


def test_checkpoints_of_other_settings_are_kept_apart(runs) -> None:
    for settings in (AssociativeRecall.configured("smoke"), AssociativeRecall.configured("smoke", n_layer=3)):
        settings.execute("smoke")
    assert runs[0].checkpoints != runs[1].checkpoints
    assert runs[0].fingerprint != runs[1].fingerprint


def test_force_forgets_the_checkpoints(runs) -> None:
    settings = AssociativeRecall.configured("smoke")
    settings.execute("smoke")
    kept = runs[0].checkpoints / "half.safetensors"
    kept.parent.mkdir(parents=True)
    kept.touch()
    settings.execute("smoke")
    assert kept.exists()
    settings.execute("smoke", force=True)
    assert not kept.exists()
