"""Classification of series: the same effort for every encoder, chosen on validation data."""

import dataclasses

import pytest
import torch
from instant import Training, recorded

from hyena.data.labelled_series import Examples, LabelledSeries
from hyena.errors import HyenaError
from hyena.experiments.spacetime import classification as module
from hyena.experiments.spacetime.classification import SeriesClassification, accuracy, linear_accuracy
from hyena.models.series_classifiers import ENCODERS
from hyena.train import Run

SMALL = {"tasks": ("made",), "d_model": 16, "d_state": 4, "n_layer": 1, "epochs": 1, "batch_size": 8, "n_seeds": 1}


def part(count: int, seed: int) -> Examples:
    """Two classes that differ in level, of several lengths."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(count) % 2
    mask = torch.arange(10) < torch.randint(5, 11, (count, 1), generator=generator)
    x = torch.randn(count, 10, 2, generator=generator) + 2 * y[:, None, None]
    return Examples(x * mask[..., None], mask, y)


def made(name: str = "made") -> LabelledSeries:
    return LabelledSeries(name, ("a", "b"), part(40, 0), part(20, 1), part(30, 2), {f"{name}-train": "hash"})


def settings(**changes: object) -> SeriesClassification:
    return SeriesClassification(**SMALL | changes)


@pytest.fixture(autouse=True)
def small(monkeypatch) -> None:
    monkeypatch.setattr(module, "load_labelled_series", made)


@pytest.fixture
def trainings(monkeypatch) -> list[Training]:
    return recorded(monkeypatch, module)


def test_every_encoder_has_the_same_rates_steps_and_batches(trainings) -> None:
    settings(lr=(0.1, 0.2)).run(Run())
    assert {name for name, *_ in trainings} == {
        f"made {kind} lr {lr:g} seed 0" for kind in ENCODERS for lr in (0.1, 0.2)
    }
    assert {one.recipe.steps for one in trainings} == {5}
    read = [[t.numpy().tobytes() for step in range(5) for t in one.batch(step)] for one in trainings]
    assert all(one == read[0] for one in read)


def test_an_epoch_sees_every_example_once(trainings) -> None:
    settings(operators=("lstm",)).run(Run())
    (one,) = trainings
    rows = torch.cat([one.batch(step)[0].flatten(1) for step in range(5)])
    assert len(rows.unique(dim=0)) == 40


def test_the_linear_model_does_not_look_at_the_test() -> None:
    task = made()
    right = linear_accuracy(task)
    turned = dataclasses.replace(task, test=dataclasses.replace(task.test, y=1 - task.test.y))
    assert right > 90 and linear_accuracy(turned) == pytest.approx(100 - right)


def test_the_gain_is_over_the_best_other_encoder_on_average() -> None:
    metrics = {
        "a_b_spacetime": [90.0], "a_b_lstm": [80.0], "a_b_s4d": [95.0],
        "c_spacetime": [60.0, 62.0], "c_lstm": [50.0], "c_s4d": [40.0],
    }  # fmt: skip
    found = settings(tasks=("a-b", "c"), operators=("spacetime", "lstm", "s4d"))._gain(metrics)
    assert found == {"gain": [pytest.approx((-5 + 11) / 2)]}


def test_it_learns_and_counts_in_percent() -> None:
    one = settings(operators=("lstm",), epochs=20, lr=(0.01,))
    fitted = one._fit(made(), Run(), "lstm", 0.01, 0)
    assert fitted.test > 90 and fitted.test == accuracy(fitted.model, made().test, batch=7)


def test_an_unknown_encoder_is_refused() -> None:
    with pytest.raises(HyenaError, match="unknown encoder of series 'lstn'"):
        settings(operators=("lstn",))


def test_two_runs_give_the_same_numbers() -> None:
    first, _, second = settings().run(Run(seed=3)), torch.rand(1), settings().run(Run(seed=3))
    assert first.per_seed == second.per_seed and first.tables == second.tables
