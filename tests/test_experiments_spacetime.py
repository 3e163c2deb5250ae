"""SpaceTime's experiments: the same windows and effort for every model, pooled errors, chosen on validation data."""

import math

import numpy as np
import pytest
import torch
from instant import Training, recorded

from hyena.data.processes import autoregressive, best_predictions
from hyena.data.series import Series
from hyena.errors import HyenaError
from hyena.experiments.spacetime import forecasting as module
from hyena.experiments.spacetime import processes as processes_module
from hyena.experiments.spacetime.forecasting import (
    MODELS,
    Forecasting,
    HorizonGeneralisation,
    by,
    by_ar,
    by_season,
    errors,
)
from hyena.experiments.spacetime.processes import AutoregressiveProcesses, predictions
from hyena.models.forecasters import NLinear
from hyena.train import Run

SMALL = {
    "series": ("wave",), "lag": 24, "d_model": 8, "d_state": 4, "n_kernels": 1, "max_window": 8, "dropout": 0.0,
    "ar_order": 3, "steps": 2, "warmup": 0, "evaluations": 1, "valid_windows": 5, "batch_size": 4, "lr": (0.01,),
    "n_seeds": 1,
}  # fmt: skip


def wave(name: str = "wave", count: int = 200) -> Series:
    t = np.arange(count)
    return Series(name, np.sin(t / 3) + 0.1 * np.cos(t), (120, 160, count), 0.0, 1.0, 12, {name: "hash"})


def forecasting(**changes: object) -> Forecasting:
    return Forecasting(**SMALL | {"horizons": (4, 8)} | changes)


def generalisation(**changes: object) -> HorizonGeneralisation:
    return HorizonGeneralisation(**SMALL | {"horizons": (4, 8)} | changes)


def processes(**changes: object) -> AutoregressiveProcesses:
    own = {"processes": ("pure_lag",), "length": 64, "steps": 2, "warmup": 0, "evaluations": 1, "held_out": 3}
    return AutoregressiveProcesses(**own | {"lr": (0.01,), "batch_size": 4, "n_seeds": 1} | changes)


@pytest.fixture(autouse=True)
def small(monkeypatch) -> None:
    monkeypatch.setattr(module, "load_series", lambda name, column: wave(name))


@pytest.fixture
def trainings(monkeypatch) -> list[Training]:
    return recorded(monkeypatch, module, processes_module)


# Forecasting


def test_errors_are_pooled_over_windows_and_batches_are_not() -> None:
    series = wave()
    count = series.count("test", 24, 8)
    x, y = series.windows("test", 24, 8, np.arange(count))
    off = (module.seasonal_naive(x, 8, 12) - y).double()
    found = errors(series, "test", 24, 8, by_season(series, 8), batch=10)
    assert found.mse == pytest.approx((off**2).mean().item()) and found.mae == pytest.approx(off.abs().mean().item())
    sizes = [len(part) for part in np.array_split(np.arange(count), math.ceil(count / 10))]
    means = [(part**2).mean().item() for part in off.split(sizes)]
    assert found.mse_batched == pytest.approx(np.mean(means))


def test_a_part_of_the_windows_is_spread_from_the_first_to_the_last() -> None:
    series, seen = wave(), []

    def note(x: torch.Tensor) -> torch.Tensor:
        seen.append(x[:, 0, 0])
        return torch.zeros(len(x), 4, 1)

    errors(series, "test", 24, 4, note, most=5)
    ends = series.windows("test", 24, 4, np.array([0, series.count("test", 24, 4) - 1]))[0][:, 0, 0]
    (firsts,) = seen
    assert len(firsts) == 5 and firsts[[0, -1]].tolist() == ends.tolist()


def test_autoregression_and_repetition_know_a_wave() -> None:
    series = wave()
    t = np.arange(200.0)
    exact = Series("sine", np.sin(2 * np.pi * t / 12), (120, 160, 200), 0.0, 1.0, 12, {})
    assert errors(exact, "test", 24, 8, by_ar(exact, 3, 8)).mse < 1e-9
    assert errors(exact, "test", 24, 8, by_season(exact, 8)).mse < 1e-9
    changed = Series("x", np.where(t < 120, series.values, 7.0), series.ends, 0.0, 1.0, 12, {})
    x = torch.randn(2, 24, 1)
    assert torch.equal(by_ar(series, 3, 4)(x), by_ar(changed, 3, 4)(x)), "fitted on the training part alone"


def test_every_network_has_the_same_windows_rates_and_steps(trainings) -> None:
    forecasting(lr=(0.1, 0.2), horizons=(4,)).run(Run())
    assert {name for name, *_ in trainings} == {
        f"wave 4 {kind} lr {lr:g} seed 0" for kind in MODELS for lr in (0.1, 0.2)
    }
    assert len({(recipe.steps, recipe.warmup, recipe.weight_decay) for _, recipe, *_ in trainings}) == 1
    read = [[t.numpy().tobytes() for step in range(5) for t in batch(step)] for _, _, _, batch, _ in trainings]
    assert all(one == read[0] for one in read)


def test_windows_of_training_end_before_validation_begins(trainings) -> None:
    forecasting(horizons=(8,), operators=("nlinear",)).run(Run())
    ((_, _, _, batch, _),) = trainings
    last = max(y.max() for y in (batch(step)[1] for step in range(30)))
    assert last <= wave().values[:120].max() + 1e-6


def test_spacetime_learns_from_all_three_losses_in_every_step(trainings) -> None:
    forecasting(horizons=(4,), operators=("spacetime",)).run(Run())
    ((_, _, model, batch, loss),) = trainings
    x, y = batch(0)
    three = module.forecast_losses(model(x, 4), x, y, 4)
    assert loss(model, x, y).item() == pytest.approx(sum(three).item()) and min(three) > 0


def test_the_ratio_is_to_the_better_linear_map() -> None:
    metrics = {"x_96_spacetime_mse": [0.3, 0.5], "x_96_nlinear_mse": [0.4], "x_96_dlinear_mse": [0.2, 0.3]}
    assert module._ratio("x_96", MODELS, metrics) == {"x_96_ratio": [pytest.approx(1.6)]}
    assert module._ratio("x_96", ("nlinear",), metrics) == {}


def test_rates_are_chosen_on_validation_windows(monkeypatch, trainings) -> None:
    asked = []
    monkeypatch.setattr(module, "errors", lambda s, part, *rest: asked.append(part) or module.Errors(1.0, 1.0, 1.0))
    fitted = forecasting().fit(wave(), 4, Run(), "nlinear", 0.1, 0)
    assert asked == ["valid", "test"] and fitted.score == -1.0


def test_results_hold_errors_curves_pictures_and_the_hash(trainings) -> None:
    found = forecasting(series=("wave", "other"), n_seeds=2).run(Run())
    assert found.data == {"wave": "hash", "other": "hash"}
    assert len(found.tables["errors"]) == 2 * 2 * (len(MODELS) + 2)
    assert {len(found.per_seed[f"wave_8_{kind}_mse"]) for kind in MODELS} == {2}
    assert len(found.per_seed["wave_8_ar_mse"]) == 1
    assert found.arrays["other_8_truth"].shape == found.arrays["other_8_spacetime"].shape == (8,)


def test_a_model_that_is_trained_short_is_tested_long(trainings) -> None:
    found = generalisation().run(Run())
    assert [name.rsplit(" lr")[0] for name, *_ in trainings] == ["wave 4 spacetime", "wave 8 spacetime"]
    assert set(found.metrics) == {
        *(f"wave_{h}_{who}" for h in (4, 8) for who in ("trained_at_4", "trained_here", "ar", "naive")),
        "wave_loss_of_generalising",
    }
    assert found.metrics["wave_4_trained_at_4"] == pytest.approx(found.metrics["wave_4_trained_here"])


@pytest.mark.parametrize(
    ("make", "changes", "said"),
    [
        (forecasting, {"operators": ("spacetim",)}, "unknown forecaster 'spacetim': did you mean 'spacetime'"),
        (forecasting, {"horizons": (50,)}, "'valid' has 64 steps, a window of lag 24 and horizon 50"),
        (forecasting, {"ar_order": 30}, "lag 24 holds neither an order of 30"),
        (generalisation, {"horizons": (4, 50)}, "'valid' has 64 steps"),
        (processes, {"processes": ("pure_leg",)}, "unknown process 'pure_leg'"),
        (processes, {"d_state": 12}, "pure_lag has order 12: d_state and length must be above it"),
        (processes, {"operators": ("s5",)}, "unknown layer 's5'"),
    ],
)
def test_a_mistake_is_refused_before_any_training(trainings, make, changes: dict, said: str) -> None:
    with pytest.raises(HyenaError, match=said):
        make(**changes).run(Run())
    assert not trainings


def test_a_forecaster_ignores_dropout() -> None:
    model = forecasting(dropout=0.5).network("lstm", 4, 0)
    x = torch.randn(2, 24, 1)
    assert torch.equal(by(model.train(), 4)(x), by(model, 4)(x))


# Processes


def test_predictions_are_of_the_step_after_what_was_read() -> None:
    shift = NLinear(1, 1)
    shift.forward = lambda y: 10 * y
    y = torch.arange(12.0)[None]
    assert predictions(shift, y, 3).tolist() == [[10.0 * t for t in range(2, 11)]]


def test_the_best_filter_has_no_excess_and_others_have_theirs() -> None:
    one = processes(processes=("random_walk",))
    layer = one.layer("spacetime", 0)
    for parameter, value in ((layer.skip, 1.0), (layer.c, 0.0)):
        torch.nn.init.constant_(parameter, value)  # the last value again
    assert one._excess("random_walk", layer, 1) < 1e-9
    torch.nn.init.constant_(layer.skip, 0.9)
    y, phi = autoregressive("random_walk", 3, 64, np.random.default_rng(1))
    assert one._excess("random_walk", layer, 1) == pytest.approx(
        (0.01 * best_predictions(y, phi) ** 2).mean(), rel=1e-4
    )


def test_layers_are_of_about_equal_size() -> None:
    sizes = {
        kind: sum(p.numel() for p in processes().layer(kind, 0).parameters()) for kind in ("spacetime", "s4d", "s4")
    }
    assert sizes == {"spacetime": 49, "s4d": 50, "s4": 66}


def test_the_advantage_is_over_the_best_of_the_others() -> None:
    metrics = {"x_spacetime": [0.1, 0.3], "x_s4d": [3.0], "x_s4": [2.0, 6.0]}
    assert processes()._advantage("x", metrics) == {"advantage_x": [pytest.approx(15.0)], "closest_x": [2.0]}


def test_taps_and_free_runs_are_kept(trainings) -> None:
    arrays = processes(operators=("spacetime", "s4")).run(Run()).arrays
    assert arrays["pure_lag_s4_taps"].shape == (64,) and arrays["pure_lag_best"].shape == (64 + 48,)
    assert np.allclose(arrays["pure_lag_s4_run"][:64], arrays["pure_lag_best"][:64], atol=1e-6)
    rest = arrays["pure_lag_best"]
    assert np.allclose(rest[64:], 0.9 * rest[52:100])


@pytest.mark.parametrize("settings", [forecasting(), generalisation(), processes()])
def test_two_runs_give_the_same_numbers(settings) -> None:
    first, _, second = settings.run(Run(seed=3)), torch.rand(1), settings.run(Run(seed=3))
    assert first.per_seed == second.per_seed and first.tables == second.tables
