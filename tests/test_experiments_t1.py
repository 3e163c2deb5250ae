"""T1's experiments: parts that do not mix, budgets that are equal, errors on the grid, and rollouts by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from closeness import close
from instant import recorded
from torch import Tensor, nn

from hyena.errors import HyenaError
from hyena.experiments.t1 import Airfoil, ModeSelection, NavierStokes, Plume, Variance, Waves, networks, video
from hyena.experiments.t1.networks import NETWORKS, kept, ratios
from hyena.experiments.t1.oneshot import Pairs, Task, error, normalised, predicted, spectral_errors, untrained
from hyena.experiments.t1.video import CONTEXT, coefficient_loss, grid_loss, rollout, score
from hyena.models.t1 import T1, T1U
from hyena.results import save
from hyena.train import Run, TrainingDiverged

TINY = {
    "modes": 6, "width": 4, "n_layer": 2, "init": "depth", "t1u_width": 2, "fno_modes": 3, "fno_width": 4,
    "fno_layers": 2, "ffno_modes": 3, "ffno_width": 4, "ffno_layers": 2, "unet_width": 2, "batch_size": 3,
    "train_fields": 6, "held_out": 3, "steps": 4, "evaluations": 1, "lr": (0.01, 0.02), "n_seeds": 2,
    "as_long": (3.0, 2.0, 1.5),
}  # fmt: skip


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("HYENA_CACHE", str(tmp_path))


def pairs(count: int, size: int = 8, seed: int = 0) -> Pairs:
    x = torch.randn(count, 1, size, size, generator=torch.Generator().manual_seed(seed)).cumsum(-1).cumsum(-2)
    return Pairs(x, 3 * x.flip(-1), x)


def task(name: str = "made") -> Task:
    return Task(name, pairs(6), pairs(3, seed=1), pairs(3, seed=2), pairs(3, 16, seed=3))


def flow(**changes: object) -> NavierStokes:
    return NavierStokes(**TINY | {"size": 8, "time": 0.5} | changes)


def test_every_network_and_every_trivial_rule_is_measured(tmp_path) -> None:
    result = flow().run(Run())
    name = "navier_stokes"
    assert {f"{name}_{kind}" for kind in NETWORKS} <= set(result.metrics)
    rules = [r + suffix for r in ("mean_field", "guess", "dct_floor", "fourier_floor") for suffix in ("", "_finer")]
    assert {f"{name}_{rule}" for rule in rules} <= set(result.metrics)
    for kind in NETWORKS:
        assert f"{name}_{kind}_interpolated" in result.metrics
        assert (f"{name}_{kind}_finer" in result.metrics) == (kind != "unet")
        assert result.arrays[f"{name}_{kind}_spectrum"].shape == result.arrays[f"{name}_{kind}_error_spectrum"].shape
    assert len(result.per_seed[f"{name}_t1"]) == 2 and len(result.per_seed[f"{name}_ffno"]) == 1
    assert all(math.isfinite(v) for values in result.per_seed.values() for v in values)
    assert result.arrays[f"{name}_fno_field"].shape == result.arrays[f"{name}_truth"].shape == (2, 1, 8, 8)
    save(result, tmp_path)


def test_a_network_alone_can_be_measured() -> None:
    result = flow(operators=("t1",), n_seeds=1).run(Run())
    assert "navier_stokes_t1" in result.metrics and not any("_over_" in key for key in result.metrics)


def test_budgets_are_equal_in_steps_or_in_time() -> None:
    made = flow(steps=300)
    steps = {kind: made.n_steps(kind) for kind in NETWORKS}
    assert {steps[k] for k in ("t1", "t1_fourier", "t1u", "fno", "ffno", "unet")} == {300}
    assert [steps[f"{k}_as_long"] for k in ("t1", "t1_fourier", "t1u")] == [900, 600, 450]
    assert steps["fno_as_short"] == 200  # the least of the three factors is 1.5


def test_all_networks_get_the_same_rates_batches_and_fields(monkeypatch) -> None:
    seen = recorded(monkeypatch, networks)
    flow(n_seeds=1).compared(task(), Run())
    by_name: dict[str, list] = {}
    for training in seen:
        by_name.setdefault(training.name.split()[1], []).append(training)
    assert set(by_name) == set(NETWORKS)
    for trainings in by_name.values():
        assert [t.recipe.lr for t in trainings] == [0.01, 0.02]
    inputs = [trainings[0].batch(1)[0] for trainings in by_name.values()]
    for other in inputs[1:]:
        close(other, inputs[0], 1e-6)


@pytest.mark.parametrize("kind", ["t1", "t1_fourier", "t1u"])
def test_what_is_minimised_on_coefficients_is_the_error_on_the_grid(monkeypatch, kind: str) -> None:
    seen = recorded(monkeypatch, networks)
    made = flow(operators=(kind,), n_seeds=1, lr=(0.01,), batch_size=6, head_std=0.0)
    made.compared(task(), Run())
    training = seen[0]
    training.model.eval()
    loss = training.loss(training.model, *training.batch(0)).item()
    assert loss == pytest.approx(error(training.model, normalised(task()).train), rel=1e-4)


def test_rates_are_chosen_without_test_fields(monkeypatch) -> None:
    recorded(monkeypatch, networks)
    made, other = task(), task()._replace(test=pairs(3, seed=9))
    results = [flow(operators=("t1", "fno"), n_seeds=1, head_std=0.0).compared(t, Run()) for t in (made, other)]
    assert results[0].tables["sweep"] == results[1].tables["sweep"]
    assert results[0].metrics["made_t1"] != results[1].metrics["made_t1"]


def test_warm_up_is_the_same_share_of_every_training(monkeypatch) -> None:
    seen = recorded(monkeypatch, networks)
    flow(n_seeds=1, steps=40, warmup=10, lr=(0.01,)).compared(task(), Run())
    assert {(t.recipe.steps, t.recipe.warmup) for t in seen} == {(40, 10), (120, 30), (80, 20), (60, 15), (27, 7)}


def test_a_rate_at_which_training_diverges_is_not_chosen(monkeypatch) -> None:
    def diverging(model, batch, loss, recipe, run, name, evaluate) -> list:
        if recipe.lr > 0.01:
            raise TrainingDiverged("the loss is nan")
        return [{"step": 1, "lr": recipe.lr, "loss": 1.0, **evaluate(model)}]

    monkeypatch.setattr(networks, "train", diverging)
    result = flow(operators=("t1",), n_seeds=1).compared(task(), Run())
    assert [row["chosen"] for row in result.tables["sweep"]] == [1, 0]
    with pytest.raises(TrainingDiverged, match="at any rate"):
        flow(operators=("t1",), lr=(0.02, 0.03)).compared(task(), Run())


def test_fields_are_split_without_overlap_in_the_order_train_validate_test() -> None:
    x = torch.arange(12.0)[:, None, None]
    made = flow().task("made", Pairs(x, x, x), Pairs(-x, -x, -x))
    assert [p.x.flatten().tolist() for p in made[1:4]] == [[0, 1, 2, 3, 4, 5], [6, 7, 8], [9, 10, 11]]
    assert made.finer.y.flatten().tolist() == [-9, -10, -11]


def test_the_finer_test_set_holds_the_same_flows() -> None:
    (made,) = flow().tasks()
    assert made.finer.x.shape[-1] == 2 * made.test.x.shape[-1] == 16
    mean = lambda x: x.unfold(2, 2, 2).unfold(3, 2, 2).mean((-1, -2))  # noqa: E731
    assert float((mean(made.finer.y) - made.test.y).norm() / made.test.y.norm()) < 0.2


def test_units_come_from_training_fields_alone() -> None:
    scaled = normalised(task())
    assert float(scaled.train.y.square().mean()) == pytest.approx(1)
    louder = normalised(task()._replace(test=Pairs(*[10 * t for t in pairs(3, seed=2)])))
    close(louder.train.y, scaled.train.y)
    close(louder.test.y, 10 * scaled.test.y, 1e-6)


def test_rules_without_training_are_what_they_say() -> None:
    made = normalised(task())
    found = untrained(made, 8)
    off = lambda a, b: float(((a - b).flatten(1).norm(dim=1) / b.flatten(1).norm(dim=1)).mean())  # noqa: E731
    plain = task()
    assert found["made_guess"] == [pytest.approx(off(plain.test.x, plain.test.y), rel=1e-5)]  # in the task's own units
    assert found["made_mean_field"] == [pytest.approx(off(made.train.y.mean(0, keepdim=True), made.test.y), rel=1e-5)]
    assert found["made_dct_floor"][0] < 1e-6 < 0.01 < untrained(made, 4)["made_dct_floor"][0]


def test_ratios_compare_whoever_does_best_on_validation_fields() -> None:
    errors = {"t1": 0.2, "t1_fourier": 0.1, "t1_as_long": 0.05, "fno": 0.1, "ffno": 0.4}
    scores = {"t1": -0.1, "t1_fourier": -0.3, "t1_as_long": -0.1, "fno": -0.2, "ffno": -0.1}
    found = ratios("m", {f"m_{kind}": [value] for kind, value in errors.items()}, scores)
    assert found["m_one_over_two"] == [pytest.approx(0.5)]  # t1 and ffno, though t1_fourier and fno test better
    assert found["m_t1_over_fno"] == [pytest.approx(2.0)] and found["m_t1_fourier_over_ffno"] == [pytest.approx(0.25)]
    assert found["m_one_over_fno_as_long"] == found["m_t1_as_long_over_fno"] == [pytest.approx(0.5)]
    assert not any("short" in key or "t1u" in key for key in found)


def test_errors_beyond_the_block_are_those_of_high_coefficients_alone() -> None:
    made = normalised(task())
    net = T1(1, 1, (3, 3), 4, 1, (8, 8), head_std=0.0)
    _, beyond = spectral_errors({"t1": net}, made.test, 3)
    assert beyond["t1_beyond"] == pytest.approx(untrained(made, 3)["made_dct_floor"][0], rel=1e-4)


def test_of_the_fourier_basis_no_sine_is_kept_without_its_cosine() -> None:
    assert [kept("fourier", m) for m in (1, 2, 15, 16)] == [1, 1, 15, 15]
    assert kept("dct", 16) == 16


def test_outputs_without_a_relative_error_and_damaged_fields_are_refused() -> None:
    for damage, words in ((0, "0 everywhere"), (float("nan"), "not finite")):
        with pytest.raises(HyenaError, match=words):
            normalised(task()._replace(valid=Pairs(*[damage * t for t in pairs(3)])))


@pytest.mark.parametrize("kind", NETWORKS)
def test_a_seed_fixes_a_network_and_networks_predict_fields(kind: str) -> None:
    made = flow()
    x = pairs(2).x
    first, second = (predicted(made.network(kind, 1, 3, (8, 8), 0), x) for _ in range(2))
    assert first.shape == (2, 3, 8, 8) and torch.equal(first, second)


def test_waves_join_equations_and_refuse_networks_for_planes() -> None:
    options = {k: v for k, v in TINY.items() if k not in ("t1u_width", "unet_width")}
    result = Waves(**options | {"size": 32, "n_seeds": 1, "steps": 1, "lr": (0.01,)}).run(Run())
    assert {"burgers_fno", "kuramoto_sivashinsky_ffno"} <= set(result.metrics)
    assert {row["task"] for row in result.tables["curves"]} == {"burgers", "kuramoto_sivashinsky"}
    with pytest.raises(HyenaError, match="two axes only"):
        Waves(operators=("t1u",))


def test_airfoils_have_both_outputs() -> None:
    made = Airfoil(**TINY | {"size": 16})
    stream, around = made.tasks()
    assert stream.train.y.shape == (6, 1, 16, 16) and around.train.y.shape == (6, 3, 16, 16)
    assert torch.equal(stream.test.x, around.test.x) and around.finer.x.shape == (3, 3, 32, 32)


def test_the_guess_around_an_airfoil_is_the_free_stream() -> None:
    """Far from the wing it is what is there, and the stream function is that of the same velocity."""
    stream, around = Airfoil(**TINY | {"size": 32}).tasks()
    far = (..., 0, slice(None))
    assert (around.test.guess[far] - around.test.y[far]).abs().max() < 0.25
    psi = stream.test.guess[0, 0]
    u, v = around.test.guess[0, 1, 2, 2], around.test.guess[0, 2, 2, 2]
    assert float(32 * (psi[2, 3] - psi[2, 2])) == pytest.approx(float(u), rel=1e-4)
    assert float(-32 * (psi[3, 2] - psi[2, 2])) == pytest.approx(float(v), rel=1e-4)


def test_modes_are_selected_for_every_field_and_basis() -> None:
    options = TINY | {"size": 8, "keep": (4, 8), "times": (0.5, 1.0), "wings": 3, "films": 2, "lr": (0.01,)}
    result = ModeSelection(**options | {"operators": ("t1",), "n_seeds": 1}).run(Run())
    fields = ("vorticity_0.5", "vorticity_1", "window", "airfoil_stream", "airfoil_flow", "smoke")
    for name in fields:
        for basis in ("dct", "fourier"):
            few, many = (result.metrics[f"floor_{name}_{basis}_{kept(basis, m)}"] for m in (4, 8))
            assert few > many
            assert 1 <= result.metrics[f"smallest_{name}_{basis}"] <= 8
    trained = [(row["operator"], row["modes"]) for row in result.tables["trained"]]
    assert trained == [(kind, m) for m in (4, 8) for kind in ("t1", "mean_field", "guess")]


def test_variance_is_measured_for_every_rule_and_both_inputs() -> None:
    result = Variance(size=16, modes=4, width=16, n_layer=8, n_seeds=2).run(Run())
    assert result.metrics["one_layer_dct_variance"] == pytest.approx(1, abs=0.15)
    assert result.metrics["one_layer_fourier_exact"] == pytest.approx(1, abs=0.15)
    assert result.metrics["one_layer_fourier_released"] == pytest.approx(2 * 52 / 68, abs=0.2)
    assert result.metrics["one_layer_dct_fan_in"] == pytest.approx(16 / 256, abs=0.02)
    assert 0.5 < result.metrics["depth_depth"] < 2 < 1e4 < result.metrics["depth_variance"]
    assert {row["input"] for row in result.tables["depth"]} == {"white", "field"}
    again = Variance(size=16, modes=4, width=16, n_layer=8, n_seeds=2).run(Run())
    assert again.per_seed == result.per_seed


# smoke


def film(count: int = 4, frames: int = 6, size: int = 8) -> Tensor:
    return torch.rand(count, frames, size, size, generator=torch.Generator().manual_seed(0))


class Brighter(nn.Module):
    """Says how much brighter the next frame is."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * (x[:, 1:] - x[:, :1])


def test_rollouts_go_on_from_their_own_frames() -> None:
    seen = film()[:, :CONTEXT]
    expected = torch.stack([seen[:, 1] + k * (seen[:, 1] - seen[:, 0]) for k in (1, 2, 3)], 1)
    close(rollout(Brighter(), seen, 3), expected, 1e-6)


@pytest.mark.parametrize(
    "build", [lambda: T1(2, 1, (4, 4), 4, 2, (8, 8), head_std=0.0), lambda: T1U(2, 1, (4, 4), 2, (8, 8))]
)
def test_rollouts_of_coefficients_are_those_of_fields(build) -> None:
    """One transform for all frames: frame by frame through the grid gives the same."""
    torch.manual_seed(0)
    net, seen = build(), film()[:, :CONTEXT]
    net.eval()
    frames = list(seen.unbind(1))
    with torch.no_grad():
        for _ in range(3):
            frames.append(frames[-1] + net.predict(torch.stack(frames[-CONTEXT:], 1))[:, 0])
    close(rollout(net, seen, 3), torch.stack(frames[CONTEXT:], 1), 1e-5)


def test_the_loss_of_rollouts_is_the_error_of_frames_for_both_kinds() -> None:
    torch.manual_seed(0)
    clip = film()
    for net, loss in ((Brighter(), grid_loss), (T1(2, 1, (8, 8), 4, 1, (8, 8), head_std=0.0), coefficient_loss)):
        off = rollout(net, clip[:, :CONTEXT], 4) - clip[:, CONTEXT:]
        expected = (off.flatten(2).norm(dim=2) / clip[:, CONTEXT:].flatten(2).norm(dim=2)).mean()
        close(loss(net, clip), expected, 1e-4)


def test_scores_of_frames_are_as_defined() -> None:
    truth, found = torch.full((2, 3, 4, 4), 0.5), torch.full((2, 3, 4, 4), 0.6)
    scores = score(found, truth, (1, 3))
    assert scores["mae_1"] == pytest.approx(0.1, rel=1e-5)
    assert scores["smape_3"] == pytest.approx(0.2 / 1.1, rel=1e-5)
    assert scores["psnr_3"] == pytest.approx(20, rel=1e-5)


def test_rules_without_training_stay_go_straight_on_and_know_the_mean_film() -> None:
    seen = torch.tensor([0.2, 0.3])[None, :, None, None].expand(1, 2, 4, 4)
    films = torch.arange(4.0)[None, :, None, None].expand(2, 4, 4, 4) + torch.tensor([0.0, 1.0])[:, None, None, None]
    found = {
        k: v[0, :, 0, 0].tolist() for k, v in video.untrained(films, seen, torch.full((1, 2, 4, 4), 0.9), 2).items()
    }
    assert found["persistence"] == pytest.approx([0.3, 0.3]) and found["straight_on"] == pytest.approx([0.4, 0.5])
    assert found["mean_film"] == pytest.approx([2.5, 3.5])
    assert found["dct_floor"] == found["fourier_floor"] == pytest.approx([0.9, 0.9])


def test_films_are_measured_at_every_mark(monkeypatch) -> None:
    monkeypatch.setattr(video, "plumes", lambda count, size, frames: film(count, frames, size))
    options = {k: v for k, v in TINY.items() if k not in ("train_fields", "held_out")}
    small = {
        "size": 8,
        "frames": 6,
        "films": 4,
        "held_out_films": 2,
        "train_rollout": 2,
        "test_rollout": 4,
        "marks": (1, 4),
    }
    result = Plume(**options | small | {"operators": ("t1", "fno")}).run(Run())
    kinds = ("t1", "fno", "persistence", "straight_on", "mean_film", "dct_floor", "fourier_floor")
    assert {f"{k}_{s}_{m}" for k in kinds for s in ("mae", "smape", "psnr") for m in (1, 4)} <= set(result.metrics)
    assert [row["model"] for row in result.tables["scores"]] == list(kinds)
    assert result.arrays["t1_frames"].shape == result.arrays["truth_frames"].shape == (4, 8, 8)
    assert np.isfinite(result.metrics["plume_t1_over_fno"])


# mistakes


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: flow(operators=("fnn",)), "did you mean 'fno'"),
        (lambda: flow(as_long=(1.0, 2.0)), "three factors above 0"),
        (lambda: flow(batch_size=7), "takes as many fields"),
        (lambda: Airfoil(outputs=("pressure",)), "unknown output"),
        (lambda: Waves(equations=("kdv",)), "unknown equation"),
        (lambda: Variance(size=16, modes=9), "at most half"),
        (lambda: Plume(frames=8), "hold rollouts of at most 6"),
        (lambda: Plume(marks=(0, 3)), "marks are frames of the rollout, 1 to 10"),
        (lambda: Plume(films=1), "1 films have 12"),
        (lambda: ModeSelection(keep=(8, 65)), "at most as many modes as samples"),
    ],
)
def test_wrong_settings_are_refused_before_any_work(build, words: str) -> None:
    with pytest.raises(HyenaError, match=words):
        build()
