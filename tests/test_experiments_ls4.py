"""LS4's experiments: parts that do not mix, hidden values that stay hidden, chosen on validation data."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from instant import recorded

from hyena.data.panels import Panel
from hyena.errors import HyenaError
from hyena.experiments.ls4 import generation as generation_module
from hyena.experiments.ls4 import irregular as irregular_module
from hyena.experiments.ls4 import shared
from hyena.experiments.ls4.generation import SCORES, SPREADS, Generation
from hyena.experiments.ls4.irregular import IrregularSampling, hidden_error, line_error
from hyena.experiments.ls4.stiff import StiffTransitions, by_solver, in_transition, transition_error
from hyena.results import save
from hyena.train import Run

TINY = {
    "z_dim": 2, "z_series": 2, "d_model": 8, "d_state": 4, "n_layer": 1, "pool": 0, "mode": "diag", "d_rival": 8,
    "steps": 2, "evaluations": 1, "batch_size": 4, "lr": (0.01, 0.02), "n_seeds": 1,
}  # fmt: skip


def waves(count: int, seed: int, length: int = 24) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.standard_normal((count, length, 1)).cumsum(1).astype(np.float32))


def made(name: str = "made") -> Panel:
    return Panel(name, waves(12, 0), waves(5, 1), waves(6, 2), {name: "hash"})


def generation(monkeypatch, **changes: object) -> Generation:
    monkeypatch.setattr(generation_module, "load_panel", made)
    monkeypatch.setattr(generation_module, "DRAWN", 7)
    own = {"panels": ("made",), "sigma": (0.3,), "repeats": 1, "scorer_epochs": 1}
    return Generation(**TINY | own | changes)


def irregular(monkeypatch, **changes: object) -> IrregularSampling:
    monkeypatch.setattr(irregular_module, "load_panel", made)
    return IrregularSampling(**TINY | {"panels": ("made",), "points": 10} | changes)


def stiff(**changes: object) -> StiffTransitions:
    return StiffTransitions(**TINY | {"systems": ("flame",), "length": 24, "train_series": 8, "held_out": 5} | changes)


def test_every_generator_is_scored_by_every_score(monkeypatch) -> None:
    result = generation(monkeypatch).run(Run())
    assert result.arrays["made_edges"].shape == (51,)
    for kind in (*shared.NETWORKS, "ar", "copy"):
        assert result.arrays[f"made_{kind}_shares"].shape == (50,)
        assert {f"made_{kind}_{score}" for score in SCORES} <= set(result.metrics)
        assert result.arrays[f"made_{kind}"].shape == (6, 24)
    assert [row["model"] for row in result.tables["scores"]] == [*shared.NETWORKS, "ar", "copy"]
    assert {(row["operator"], row["lr"]) for row in result.tables["sweep"]} == {
        (kind, lr) for kind in shared.NETWORKS for lr in (0.01, 0.02)
    }


def test_leads_compare_ls4_with_the_best_other_network_of_each_panel(monkeypatch) -> None:
    experiment = generation(monkeypatch, panels=("a", "b"), sigma=(0.1, 0.1))
    table = [
        {"panel": panel, "model": model, **dict.fromkeys(SCORES, value)}
        for panel, values in {"a": (1.0, 2.0, 4.0), "b": (9.0, 18.0, 3.0)}.items()
        for model, value in zip(shared.NETWORKS, values, strict=True)
    ] + [{"panel": "a", "model": "copy", **dict.fromkeys(SCORES, 0.0)}]
    lead = experiment._lead(table)
    assert lead["marginal_ratio"] == [pytest.approx(math.sqrt(1 / 2 * 9 / 3))]
    assert lead["classification_lead"] == [pytest.approx(((1 - 4) + (9 - 18)) / 2)]
    assert lead["auroc_lead"] == [pytest.approx(((2 - 1) + (3 - 9)) / 2)]


def test_networks_learn_from_the_training_part_alone(monkeypatch) -> None:
    seen = recorded(monkeypatch, shared)
    generation(monkeypatch).run(Run())
    allowed = {tuple(series.flatten().tolist()) for series in made().train}
    for training in seen:
        for step in range(5):
            assert {tuple(series.flatten().tolist()) for series in training.batch(step)[0]} <= allowed


def test_the_rate_is_chosen_on_validation_series(monkeypatch) -> None:
    compared = []
    monkeypatch.setattr(generation_module, "marginal_distance", lambda real, fake: compared.append(real) or 0.5)
    recorded(monkeypatch, shared)
    monkeypatch.setattr(Generation, "scored", lambda *_: dict.fromkeys((*SCORES, *SPREADS), 1.0))
    generation(monkeypatch).run(Run())
    assert compared and all(np.array_equal(real, made().valid.numpy()) for real in compared)


def test_a_copy_is_of_training_series(monkeypatch) -> None:
    copies, again = generation_module._copies(made())(20, 24, 0)
    allowed = {tuple(series.flatten().tolist()) for series in made().train}
    assert copies.shape == (20, 24, 1) and {tuple(series.flatten().tolist()) for series in copies} <= allowed
    assert np.array_equal(copies, again)


def test_draws_are_means_with_the_noise_of_the_decoder(monkeypatch) -> None:
    network = generation(monkeypatch).network("ls4", 24, 0.3, 0)
    means, draws = generation_module._sampler(network)(200, 24, 0)
    assert np.std(draws - means) == pytest.approx(0.3, abs=0.02)


def test_several_seeds_can_be_saved_even_where_no_flame_rises(tmp_path) -> None:
    result = stiff(lr=(0.01,), n_seeds=2).run(Run())
    assert {len(values) for name, values in result.per_seed.items() if name.endswith("_rise")} == {1, 2}
    assert 0 <= result.metrics["flame_rnn_vae_rise"] <= 1
    save(replace(result, paper="ls4", experiment="stiff_transitions", profile="smoke", seeds=(0, 1)), tmp_path)


def test_all_networks_have_one_weight_of_the_divergence(monkeypatch) -> None:
    """The objective is the likelihood and the weighted KL per step, whatever the number of latents."""
    seen = recorded(monkeypatch, shared)
    generation(monkeypatch, kl_weight=0.7, lr=(0.01,)).run(Run())
    for training in seen:
        x = training.batch(0)[0]
        torch.manual_seed(0)
        loss = training.loss(training.model, x)
        torch.manual_seed(0)
        bound = training.model(x)
        expected = (bound.nll.sum((1, 2)) + 0.7 * bound.kl.sum((1, 2))).mean() / 24
        torch.testing.assert_close(loss, expected)


def test_too_few_test_series_are_refused_before_any_training(monkeypatch) -> None:
    seen = recorded(monkeypatch, shared)
    experiment = generation(monkeypatch)
    monkeypatch.setattr(
        generation_module, "load_panel", lambda name: Panel(name, waves(12, 0), waves(5, 1), waves(4, 2), {})
    )
    with pytest.raises(HyenaError, match="made has 4 test series; scores take 5"):
        experiment.run(Run())
    assert not seen


@pytest.mark.parametrize("task", ["interpolation", "extrapolation"])
def test_thinned_series_hide_a_share_and_keep_the_order_of_time(monkeypatch, task: str) -> None:
    experiment = irregular(monkeypatch, hidden=0.3)
    part = experiment.thinned(waves(5, 0), task, 0)
    assert part.x.shape == (5, 10, 1) and (part.times.diff(dim=1) > 0).all()
    assert ((~part.shown).sum(1) == 3).all()
    assert torch.equal(part.x, waves(5, 0).gather(1, part.times.long()[..., None]))
    assert not torch.equal(part.times[0], part.times[1])
    if task == "extrapolation":
        assert part.shown[:, :7].all() and not part.shown[:, 7:].any()


@pytest.mark.parametrize("task", ["interpolation", "extrapolation"])
@pytest.mark.parametrize("kind", shared.NETWORKS)
def test_what_a_network_says_does_not_depend_on_hidden_values(monkeypatch, task: str, kind: str) -> None:
    experiment = irregular(monkeypatch)
    part = experiment.thinned(waves(3, 0), task, 0)
    changed = part._replace(x=torch.where(part.shown, part.x, part.x + 9))
    network = experiment.network(kind, 10, 0.1, 0, d_input=2, bidirectional=task == "interpolation", unit=2.4)
    assert torch.equal(irregular_module._said(network, part), irregular_module._said(network, changed))


def test_rolling_on_sees_the_shown_part_alone(monkeypatch) -> None:
    experiment = irregular(monkeypatch)
    part = experiment.thinned(waves(3, 0), "extrapolation", 0)
    network = experiment.network("ls4", 10, 0.1, 0, d_input=2, unit=2.4)
    changed = part._replace(x=torch.where(part.shown, part.x, part.x + 9))
    shift = irregular_module._rolled_error(network, changed) - irregular_module._rolled_error(network, part)
    said = network.extrapolate(part.seen()[:, :5], torch.zeros(3, 5, 2), part.times)
    assert shift == pytest.approx(hidden_error(said, changed) - hidden_error(said, part), rel=1e-4)


def test_errors_are_of_hidden_values_and_a_line_knows_its_neighbours(monkeypatch) -> None:
    experiment = irregular(monkeypatch)
    part = experiment.thinned(torch.arange(24.0).repeat(4, 1)[..., None], "extrapolation", 0)
    assert hidden_error(torch.where(part.shown, part.x + 5, part.x), part) == 0
    last = part.x[:, 4:5]
    assert line_error(part) == pytest.approx(float(((part.x - last)[:, 5:] ** 2).mean()), rel=1e-5)
    between = experiment.thinned(torch.arange(24.0).repeat(4, 1)[..., None], "interpolation", 0)
    inner = between.shown.cumsum(1).bool() & between.shown.flip(1).cumsum(1).flip(1).bool()
    assert line_error(between._replace(shown=between.shown | ~inner)) == pytest.approx(0, abs=1e-9)


def test_every_task_has_its_errors_and_bounds(monkeypatch) -> None:
    result = irregular(monkeypatch).run(Run())
    for task in ("interpolation", "extrapolation"):
        for kind in shared.NETWORKS:
            assert {f"made_{task}_{kind}", f"made_{task}_{kind}_nelbo"} <= set(result.metrics)
        ratio = result.metrics[f"made_{task}_ls4"] / result.metrics[f"made_{task}_latent_ode"]
        assert result.metrics[f"made_{task}_ratio"] == pytest.approx(ratio)
        over_line = result.metrics[f"made_{task}_ls4"] / result.metrics[f"made_{task}_line"]
        assert result.metrics[f"made_{task}_line_ratio"] == pytest.approx(over_line)
        bounds = [result.metrics[f"made_{task}_{kind}_nelbo"] for kind in shared.NETWORKS]
        assert result.metrics[f"made_{task}_bound_gain"] == pytest.approx(min(bounds[1:]) - bounds[0])
    assert "made_extrapolation_ls4_rolled" in result.metrics


def test_transitions_are_where_a_series_is_steep() -> None:
    y = torch.cat([torch.zeros(10), torch.ones(10)])[None, :, None]
    assert in_transition(y)[0, :, 0].nonzero()[:, 0].tolist() == [9, 10]
    assert transition_error(y + torch.tensor([0.0] * 9 + [3.0] * 2 + [0.0] * 9)[None, :, None], y) == 3


def test_stiff_systems_have_errors_ratios_and_solvers() -> None:
    result = stiff(ode_share=0.5).run(Run())
    for kind in shared.NETWORKS:
        assert {f"flame_{kind}_{key}" for key in ("transition", "overall", "marginal_distance", "risen")} <= set(
            result.metrics
        )
    ratio = result.metrics["flame_latent_ode_transition"] / result.metrics["flame_ls4_transition"]
    assert result.metrics["flame_advantage"] == pytest.approx(ratio)
    sharp = result.metrics["flame_ls4_sharpness"] / result.metrics["flame_real_sharpness"]
    assert result.metrics["flame_ls4_sharpness_ratio"] == pytest.approx(sharp)
    found = {
        (row["solver"], row["substeps"]): row["evaluations"]
        for row in result.tables["solvers"]
        if row["solver"] == "rk4"
    }
    assert found == {("rk4", n): 4 * 23 * n for n in (1, 2, 4)}


def test_the_latent_ode_can_have_steps_of_its_own(monkeypatch) -> None:
    seen = recorded(monkeypatch, shared)
    stiff(steps=6, ode_share=0.5).run(Run())
    assert {training.recipe.steps for training in seen if "latent_ode" in training.name} == {3}
    assert {training.recipe.steps for training in seen if "latent_ode" not in training.name} == {6}


def test_other_solvers_leave_the_network_as_it_was() -> None:
    network = stiff().network("latent_ode", 24, 0.1, 0)
    by_solver(network, waves(2, 0))
    assert (network.method, network.substeps, network.tolerance) == ("rk4", 1, 1e-3)


def test_two_runs_give_the_same_numbers(monkeypatch) -> None:
    first, again = (generation(monkeypatch, lr=(0.01,)).run(Run()).metrics for _ in range(2))
    assert first == again


@pytest.mark.parametrize(
    ("kind", "changes", "said"),
    [
        (Generation, {"operators": ("ls5",)}, "unknown generator 'ls5': did you mean 'ls4'"),
        (Generation, {"sigma": (0.1, 0.2)}, "sigma takes one value for each of solar-weekly; got 2"),
        (StiffTransitions, {"systems": ("fire",)}, "unknown stiff system"),
        (IrregularSampling, {"tasks": ("both",)}, "unknown task"),
        (IrregularSampling, {"hidden": 1.0}, "hides none or all of 100 points"),
        (IrregularSampling, {"mode": "dplr"}, "need pool 0 and mode diag"),
        (IrregularSampling, {"pool": 2}, "need pool 0 and mode diag"),
    ],
)
def test_bad_settings_are_refused_before_any_work(kind, changes: dict, said: str) -> None:
    with pytest.raises(HyenaError, match=said):
        kind(**changes)


def test_more_points_than_steps_are_refused(monkeypatch) -> None:
    with pytest.raises(HyenaError, match="50 points cannot be drawn from series of 24 steps"):
        irregular(monkeypatch, points=50).run(Run())
