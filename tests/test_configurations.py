"""Configurations: params.yaml, the defaults, and mistakes that are refused."""

import dataclasses
import re
from pathlib import Path

import pytest
import yaml

from hyena import count_parameters, source
from hyena.data import text
from hyena.errors import HyenaError
from hyena.experiments.base import Experiment, experiment, experiments
from hyena.experiments.hyena import AssociativeRecall, Distillation, LanguageModelling, Reasoning
from hyena.results import PROFILES

CHECKOUT = Path(__file__).resolve().parents[1]
PARAMS = yaml.safe_load((CHECKOUT / "params.yaml").read_text())
ALL = [e for p in source.papers() for e in experiments(p)]


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


# Names


def test_names_are_snake_case() -> None:
    found = [e.name() for e in experiments("hyena")]
    assert found == ["associative_recall", "distillation", "language_modelling", "reasoning"]
    assert all(re.fullmatch(r"[a-z_]+", e.name()) for e in ALL)


@pytest.mark.parametrize("cls", ALL, ids=lambda cls: cls.name())
def test_every_experiment_says_in_one_line_what_it_shows(cls: type[Experiment]) -> None:
    assert cls.__doc__ and not cls.__doc__.startswith(f"{cls.__name__}(")
