"""Operators on text at equal parameters and tokens, and the distilled filters of a trained model."""

import dataclasses

import pytest
import torch
from instant import ROW
from torch import nn

from hyena import count_parameters
from hyena.data import text
from hyena.experiments.comparison import Trial
from hyena.experiments.hyena import Distillation, LanguageModelling
from hyena.train import Run

EVERY_OPERATOR = ("hyena", "attention", "conv1d", "h3", "gss", "aft_conv", "rwkv")


@pytest.mark.parametrize("profile", ["quick", "long"])
def test_seven_operators_have_equal_parameters_to_one_hidden_unit_a_block(profile: str) -> None:
    """Not at the smoke profile: a block of H3 alone has more parameters there than one of Hyena with its MLP."""
    settings = LanguageModelling.configured(profile, operators=list(EVERY_OPERATOR))
    width = settings._matched_width()
    counts = {
        o: count_parameters(settings.model(o, text.VOCAB_SIZE, settings.length, 0, width[o])) for o in EVERY_OPERATOR
    }
    unit = settings.n_layer * (2 * settings.d_model + 1)
    assert {o for o, n in counts.items() if abs(n - counts["hyena"]) > unit} == set()


def test_every_operator_on_text_has_the_same_rates_steps_and_warm_up(trains, book) -> None:
    settings = LanguageModelling.configured(
        "smoke", corpus=str(book), operators=["hyena", "attention", "conv1d", "rwkv"], lr=[0.1, 0.2], valid_windows=1,
        test_windows=1, sample_bytes=1, n_seeds=1,
    )  # fmt: skip
    result = settings.run(Run())
    recipe = settings.recipe(settings.steps, settings.warmup, 0.1, 2, min_lr=settings.last_lr * 0.1)
    for operator in settings.operators:
        found = [r for name, r in trains if name.startswith(f"language model {operator} ")]
        assert found == [recipe, dataclasses.replace(recipe, lr=0.2, min_lr=settings.last_lr * 0.2)]
    bits = {o: result.metrics[f"bits_per_byte_{o}"] for o in settings.operators}
    relative = 100 * (bits["hyena"] / min(bits["conv1d"], bits["rwkv"]) - 1)
    assert result.metrics["relative_bits_rival"] == pytest.approx(relative)
    assert result.metrics["relative_bits"] == pytest.approx(100 * (bits["hyena"] / bits["attention"] - 1))
    assert 0 < result.metrics["bits_per_byte_lzma"] < 8


def test_fewer_bits_on_validation_text_are_a_higher_score(trains, book, monkeypatch) -> None:
    settings = LanguageModelling.configured("smoke", corpus=str(book))
    corpus = text.load_corpus(settings.corpus)
    monkeypatch.setattr(
        LanguageModelling, "bits", lambda self, model, part, limit: 3.0 if part is corpus.valid else 5.0
    )
    found = settings.fit("hyena", 0.1, 0, corpus, Run())
    assert (found.score, found.test) == (-3.0, 5.0)


def test_bits_of_a_model_that_knows_nothing_are_those_of_its_padded_vocabulary(book) -> None:
    settings = LanguageModelling.configured("smoke", corpus=str(book), test_windows=4)
    model = settings.model("hyena", text.VOCAB_SIZE, settings.length, 0)
    nn.init.zeros_(model.lm_head.weight)
    assert settings.bits(model, text.load_corpus(str(book)).test, 4) == pytest.approx(8.0)


# Distillation


def test_with_as_many_modes_as_fit_a_distilled_model_is_the_model(book) -> None:
    settings = Distillation.configured("smoke", corpus=str(book), modes=[1, 31])
    corpus = text.load_corpus(settings.corpus)
    model = settings.model("hyena", text.VOCAB_SIZE, settings.length, 0)
    with torch.no_grad():  # so that the filters matter
        model.backbone.layers[0].mixer.out_proj.weight.mul_(50.0)
    bits = settings.bits(model, corpus.test, settings.test_windows)
    few, many = settings._distilled(Trial(0.1, 0.0, bits, model, [ROW]), corpus)
    assert many["bits_per_byte"] == pytest.approx(bits, rel=1e-3)
    assert abs(few["bits_per_byte"] - bits) > 10 * abs(many["bits_per_byte"] - bits)
    assert few["median_error"] > 10 * many["median_error"]
    assert settings.bits(model, corpus.test, settings.test_windows) == bits  # the model itself was left as it was


def test_the_table_of_distillation_has_a_row_for_each_seed_and_number_of_modes(trains, book) -> None:
    settings = Distillation.configured("smoke", corpus=str(book), modes=[2, 4, 8], n_seeds=2, test_windows=2)
    result = settings.run(Run(seed=4))
    assert [(r["seed"], r["modes"]) for r in result.tables["modes"]] == [(s, m) for s in (4, 5) for m in (2, 4, 8)]
    for modes in (2, 4, 8):
        rows = [r for r in result.tables["modes"] if r["modes"] == modes]
        extra = [
            100 * (r["bits_per_byte"] / b - 1) for r, b in zip(rows, result.per_seed["bits_per_byte"], strict=True)
        ]
        assert result.per_seed[f"extra_bits_{modes}"] == pytest.approx(extra)
        assert result.per_seed[f"error_{modes}"] == [r["median_error"] for r in rows]
