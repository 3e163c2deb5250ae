"""Configurations by profile, and when a stored result is taken, computed anew or refused."""

import dataclasses
import json
import re
from pathlib import Path

import numpy as np
import pytest
import yaml
from filelock import FileLock

from hyena import count_parameters, results, source
from hyena.data import text
from hyena.errors import HyenaError
from hyena.experiments import base
from hyena.experiments.base import Experiment, code_digest, experiment, experiments
from hyena.experiments.comparison import Comparison
from hyena.experiments.hyena import AssociativeRecall, Distillation, LanguageModelling, Reasoning
from hyena.experiments.hyena.language import Language
from hyena.results import PROFILES, Result
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


# params.yaml and defaults


def test_params_yaml_names_papers_profiles_experiments_and_fields_that_exist() -> None:
    assert PARAMS["profile"] in PROFILES
    for paper, profiles in PARAMS.items():
        if paper == "profile":
            continue
        assert paper in source.papers()
        assert set(profiles) <= set(PROFILES)
        for profile, chosen in profiles.items():
            for name in chosen:
                experiment(paper, name).configured(profile)  # refuses a field that does not exist


@pytest.mark.parametrize("cls", ALL, ids=lambda cls: cls.name())
@pytest.mark.parametrize("profile", ["smoke", "quick", "long"])
def test_every_experiment_has_every_scaled_profile(cls: type[Experiment], profile: str) -> None:
    assert PARAMS[cls.paper][profile].get(cls.name())
    assert cls.configured(profile) != cls()


@pytest.mark.parametrize("cls", ALL, ids=lambda cls: cls.name())
def test_the_paper_profile_is_the_defaults(cls: type[Experiment]) -> None:
    assert cls.configured("paper") == cls()


def test_defaults_of_recall_are_the_papers() -> None:
    recall = AssociativeRecall()
    assert recall.operators == ("hyena", "attention", "gss", "h3", "aft_conv", "rwkv")  # Table 4.2
    assert recall.cells == ((30, 131_072, 200),)
    assert (recall.n_train, recall.batch_size, recall.warmup_epochs) == (2000, 32, 10)  # Table A.1
    assert (recall.n_layer, recall.d_model, recall.weight_decay, recall.embed_dropout) == (2, 64, 0.1, 0.0)
    assert recall.lr == (5e-4,)


def test_defaults_of_reasoning_are_the_papers() -> None:
    reasoning = Reasoning()
    assert reasoning.tasks == ("induction", "majority", "counting", "addition", "linear_functions")
    assert (reasoning.n_train, reasoning.batch_size, reasoning.epochs, reasoning.warmup_epochs) == (2000, 32, 200, 10)
    assert (reasoning.n_layer, reasoning.d_model, reasoning.weight_decay, reasoning.lr) == (2, 64, 0.1, (5e-4,))
    assert (reasoning.vocab_size, reasoning.digits) == (30, 4)  # Figure C.1


def test_defaults_of_language_modelling_are_the_papers() -> None:
    model = LanguageModelling()
    assert (model.corpus, model.n_layer, model.d_model, model.order) == ("wikitext-103", 12, 768, 3)
    assert (model.length, model.batch_size, model.lr) == (1024, 512, (6e-4,))


def test_what_is_distilled_is_the_language_model_with_a_filter_per_channel() -> None:
    model, distilled = LanguageModelling(), Distillation()
    assert (distilled.operators, distilled.order) == (("hyena",), 2)
    shared = {f.name for f in dataclasses.fields(model)} & {f.name for f in dataclasses.fields(distilled)}
    other = {name for name in shared if getattr(model, name) != getattr(distilled, name)}
    assert other == {"operators", "order"}


def test_configurations_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        AssociativeRecall().n_layer = 3


@pytest.mark.parametrize("profile", ["smoke", "quick", "long", "paper"])
def test_language_models_are_compared_at_equal_parameters(profile: str) -> None:
    """To within half a hidden unit of every MLP, counted without building the paper's own scale."""
    settings = LanguageModelling.configured(profile)
    if profile == "paper":
        settings = dataclasses.replace(settings, d_model=96, d_inner=384, num_heads=4)
    width = settings._matched_width()
    counts = {
        o: count_parameters(settings.model(o, text.VOCAB_SIZE, settings.length, 0, width[o]))
        for o in settings.operators
    }
    unit = settings.n_layer * (2 * settings.d_model + 1)
    assert width["hyena"] == settings.d_inner
    assert abs(counts["hyena"] - counts["attention"]) <= unit / 2


# Mistakes


@pytest.mark.parametrize(
    ("wrong", "near"),
    [
        (lambda: experiments("hyenna"), "'hyena'"),
        (lambda: experiment("hyena", "associative_recal"), "'associative_recall'"),
        (lambda: AssociativeRecall.configured("quik"), "'quick'"),
        (lambda: AssociativeRecall.configured("quick", d_modle=3), "'d_model'"),
    ],
)
def test_an_unknown_name_brings_the_nearest(wrong, near: str) -> None:
    with pytest.raises(HyenaError, match=rf"^unknown .*did you mean {near}\? choose from"):
        wrong()


@pytest.mark.parametrize(
    ("field", "value", "kind"),
    [
        ("n_layer", "two", "int"),
        ("n_layer", 3.5, "int"),
        ("n_layer", True, "int"),
        ("n_layer", None, "int"),
        ("w", "fast", "float"),
        ("w", False, "float"),
        ("init", 3, "str"),
        ("operators", "hyena", "tuple"),
        ("operators", [], "tuple"),
        ("operators", [1], "str"),
        ("lr", 0.001, "tuple"),
        ("lr", [], "tuple"),
        ("lr", ["fast"], "float"),
        ("cells", 3, "tuple"),
        ("cells", [10, 16, 2], "tuple"),
        ("cells", [[10, 16.5, 2]], "int"),
    ],
)
def test_a_value_of_the_wrong_type_is_refused_by_field_and_type(field: str, value: object, kind: str) -> None:
    with pytest.raises(HyenaError, match=rf"^{field} takes a {kind} such as .*, got "):
        AssociativeRecall.configured("smoke", **{field: value})


def test_a_whole_number_is_taken_for_a_float_and_a_list_for_a_tuple() -> None:
    changed = AssociativeRecall.configured("smoke", w=3, operators=["hyena"], cells=[[10, 16, 2]])
    assert (changed.w, type(changed.w), changed.operators) == (3.0, float, ("hyena",))
    assert changed.cells == ((10, 16, 2),)


@pytest.mark.parametrize("field", ["n_seeds", "d_model", "n_layer", "num_heads", "n_test", "batch_size", "eval_every"])
@pytest.mark.parametrize("value", [0, -1])
def test_a_count_of_nothing_is_refused(field: str, value: int) -> None:
    with pytest.raises(HyenaError, match=f"^{field} must be at least 1, got {value}"):
        AssociativeRecall.configured("smoke", **{field: value})


def test_no_warm_up_is_allowed() -> None:
    assert AssociativeRecall.configured("smoke", warmup_epochs=0).warmup_epochs == 0


def test_a_mistake_in_params_yaml_is_one_line(checkout) -> None:
    params = checkout / "params.yaml"
    good = params.read_text()
    params.write_text(good.replace("      n_train:", "      n_trian:", 1))
    with pytest.raises(HyenaError, match=r"unknown option .*'n_trian': did you mean 'n_train'"):
        AssociativeRecall.configured("smoke")
    params.write_text("profile: [")
    with pytest.raises(HyenaError, match=r"^params.yaml is not valid YAML: [^\n]*$"):
        AssociativeRecall.configured("smoke")


# Running


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


def test_names_are_snake_case() -> None:
    found = [e.name() for e in experiments("hyena")]
    assert found == ["associative_recall", "distillation", "language_modelling", "reasoning"]
    assert all(re.fullmatch(r"[a-z_]+", e.name()) for e in ALL)


@pytest.mark.parametrize("cls", ALL, ids=lambda cls: cls.name())
def test_every_experiment_says_in_one_line_what_it_shows(cls: type[Experiment]) -> None:
    assert cls.__doc__ and not cls.__doc__.startswith(f"{cls.__name__}(")
