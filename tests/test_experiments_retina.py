"""Experiments on the retina: scores, pieces of film, probes on made-up cells, and what is compared with the circuit."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.signal import lfilter

from hyena.data.recordings import Part, Recording
from hyena.data.retina import DT, SIDE, Circuit, calibrated, ganglion_drives, interneurons, low_pass
from hyena.data.retina_stimuli import white_noise
from hyena.errors import HyenaError
from hyena.experiments.retina import (
    ContrastAdaptation,
    Encoding,
    FeatureMaps,
    Mechanisms,
    TrainingAmount,
    Variability,
    adaptation,
    circuitry,
    fits,
    mechanisms,
    probes,
    scores,
    variability,
)
from hyena.experiments.retina.fits import Fitted, centres, pieces, predicted, responses
from hyena.models.retina import CNN, GLM, LN
from hyena.models.retina_feedback import FeedbackCNN, OnFeatures
from hyena.train import Run

RNG = np.random.default_rng
SMALL = {"basis": 3, "kernels": (5, 3), "norm": "channel", "lags": 6, "history": 4, "history_basis": 2, "batch_size": 8}


def part(blocks: int = 2, bins: int = 60, dropped: int = 20, trials: int = 1, side: int = 10, cells: int = 3) -> Part:
    rng = RNG(0)
    film = rng.standard_normal((blocks, bins, side, side)).astype(np.float32)
    return Part(film, rng.poisson(0.3, (trials, blocks, bins, cells)), dropped)


@pytest.fixture
def recording() -> Recording:
    return Recording("naturalscene", part(3), part(1), part(1, trials=4), "abcd", {}, {"file": "hash"})


# scores


def test_correlations_are_pearsons_and_none_for_constants() -> None:
    a, b = RNG(0).standard_normal((2, 50, 3))
    b[:, 2] = 1.0
    found = scores.correlations(a, b)
    assert found[:2] == pytest.approx([np.corrcoef(a[:, i], b[:, i])[0, 1] for i in range(2)]) and found[2] == 0


def test_reliability_of_trials_that_agree_is_one_and_of_noise_none() -> None:
    same = np.repeat(RNG(0).poisson(1.0, (1, 400, 2)), 6, axis=0)
    noise = RNG(1).poisson(1.0, (6, 4000, 2))
    assert all(value.min() > 0.999 for value in scores.reliability(same).values())
    assert all(np.abs(value).max() < 0.3 for value in scores.reliability(noise).values())


def test_the_ceiling_is_what_the_true_rate_reaches() -> None:
    rate = np.exp(lfilter([1], [1, -0.95], RNG(0).standard_normal((5000, 3)), axis=0) * 0.4) * 0.1
    counts = RNG(1).poisson(np.repeat(rate[None], 20, 0))
    ceiling = scores.reliability(counts)["ceiling"]
    reached = scores.correlations(scores.smoothed(rate), scores.smoothed(counts.mean(0)))
    assert ceiling == pytest.approx(reached, abs=0.03)


def test_the_true_rate_explains_all_that_can_be_and_the_mean_nothing() -> None:
    rate = 0.5 + 0.4 * np.sin(np.arange(4000) / 30)[:, None] * np.ones(2)
    counts = RNG(0).poisson(np.repeat(rate[None], 10, 0))
    assert scores.explained(rate / DT, counts) == pytest.approx([1, 1], abs=0.05)
    flat = np.full_like(rate, rate.mean() / DT)
    assert scores.explained(flat, counts) == pytest.approx([0, 0], abs=0.05)
    nothing = RNG(0).poisson(0.5, (10, 4000, 1))
    assert scores.explained(np.zeros((4000, 1)), nothing)[0] == 0


def test_fano_factors() -> None:
    assert scores.fano(RNG(0).poisson(0.7, (2000, 30, 2))) == pytest.approx(1.0, abs=0.03)
    assert scores.fano(RNG(0).binomial(1, 0.7, (2000, 30, 2))) == pytest.approx(0.3, abs=0.03)
    assert scores.fano(RNG(0).poisson(0.01, (200, 30, 2))) == 0
    assert scores.pooled(np.ones((2, 7, 1), dtype=int), 3)[:, :, 0].tolist() == [[3, 3], [3, 3]]


# what is learned from


@pytest.mark.parametrize("out", [1, 5])
def test_pieces_hold_the_film_before_what_is_predicted(out: int) -> None:
    data = part()
    film, spikes, wanted = pieces(data, lags=4, out=out, batch_size=7, seed=0)(0)
    assert film.shape == (7, 3 + out, 10, 10) and spikes.shape == (7, 3 + out, 3) and wanted.shape == (7, out, 3)
    for one, counts, rates in zip(film, spikes, wanted, strict=True):
        block, start = next((b, t) for b in range(2) for t in range(60) if np.array_equal(one[0], data.stimulus[b, t]))
        assert np.array_equal(one, data.stimulus[block, start : start + 3 + out]) and start + 3 >= data.dropped
        assert np.array_equal(counts, data.counts[0, block, start : start + 3 + out])
        assert np.allclose(rates * DT, data.counts[0, block, start + 3 : start + 3 + out])


def test_an_epoch_predicts_every_bin_once() -> None:
    data = Part(np.arange(2 * 60, dtype=np.float32).reshape(2, 60, 1, 1), np.zeros((1, 2, 60, 1), dtype=int), 20)
    batch = pieces(data, lags=4, out=1, batch_size=10, seed=0)
    last = torch.cat([batch(step)[0][:, -1, 0, 0] for step in range(8)])
    assert sorted(last.tolist()) == [*range(20, 60), *range(80, 120)]
    assert not torch.equal(batch(0)[0], batch(8)[0])


def test_predictions_stand_in_the_bins_that_count(recording: Recording) -> None:
    torch.manual_seed(0)
    net, data = LN(3, 10, 6), recording.train
    found = predicted(net, data, chunk=7)
    assert found.shape == (3, 40, 3)
    whole = net(torch.from_numpy(data.stimulus)).detach().numpy()
    np.testing.assert_allclose(found, whole[:, 20 - 5 :], rtol=1e-5)


def test_a_forced_glm_is_the_mean_over_trials(recording: Recording) -> None:
    torch.manual_seed(0)
    net, data = GLM(3, 10, 6, history=4, output="softplus"), recording.test
    torch.nn.init.normal_(net.coupling)
    each = [predicted(net, replace(data, counts=data.counts[i : i + 1])) for i in range(4)]
    np.testing.assert_allclose(predicted(net, data), np.mean(each, 0), rtol=1e-4)


def test_probes_of_one_pixel_fill_the_patch() -> None:
    torch.manual_seed(0)
    net = LN(2, 10, 6)
    film = RNG(0).standard_normal((1, 9, 1, 1)).astype(np.float32)
    assert np.allclose(responses(net, film), responses(net, np.broadcast_to(film, (1, 9, 10, 10))))


def test_cut_outs_stand_where_the_film_drives_a_cell() -> None:
    rng = RNG(0)
    film = rng.standard_normal((1, 4000, 24, 24)).astype(np.float32)
    drive = film[0, :, [5, 17], [8, 20]].T
    counts = rng.poisson(np.exp(np.roll(drive, 2, 0) - 1))[None, None]
    assert centres(Part(film, counts, 0), 6) == [(5, 8), (17, 20)]


@pytest.mark.parametrize("kind", fits.ENCODERS)
def test_every_encoder_is_fitted_and_scored(kind: str, recording: Recording, tmp_path) -> None:
    made = Fitted(**SMALL, operators=(kind,), steps=3, evaluations=1, sequence=4, d_model=2, n_layer=1, d_state=4)
    trial = made.fit(recording, Run(checkpoints=tmp_path / "encoding"), kind, 1e-3, 0)
    assert np.isfinite(trial.score) and not trial.model.training and trial.curve[-1]["likelihood"] == trial.score
    stored = list((tmp_path / "fits").glob("*"))
    again = made.fit(recording, Run(checkpoints=tmp_path / "mechanisms"), kind, 1e-3, 0)
    assert again.score == trial.score and list((tmp_path / "fits").glob("*")) == stored  # taken up, not made again


@pytest.mark.parametrize(
    "change", [{"channels": (2, 2)}, {"noise": 0.5}, {"steps": 4}, {"weight_decay": 0.5}, {"lags": 7}]
)
def test_a_fit_with_other_settings_is_another_one(change: dict, recording: Recording, tmp_path) -> None:
    made = Fitted(**SMALL, steps=3, evaluations=1)
    for one in (made, replace(made, **change)):
        one.fit(recording, Run(checkpoints=tmp_path / "encoding"), "cnn", 1e-3, 0)
    assert len(list((tmp_path / "fits").glob("*.safetensors"))) == 2


def test_less_data_is_another_fit(recording: Recording, tmp_path) -> None:
    made = Fitted(**SMALL, steps=3, evaluations=1)
    for one in (recording, replace(recording, train=recording.train.first(1))):
        made.fit(one, Run(checkpoints=tmp_path / "encoding"), "ln", 1e-3, 0)
    assert len(list((tmp_path / "fits").glob("*.safetensors"))) == 2


# probes, on cells that are made up


def cell(respond) -> probes.Respond:
    """A retina of eight equal cells, from a rule that turns one film into a rate."""
    return lambda films: np.stack([np.repeat(respond(film)[:, None], 8, 1) for film in films])


def bump(bins: int, at: float) -> np.ndarray:
    return 20 * np.exp(-((np.arange(bins) - at) ** 2) / 8.0)


def onsets(film: np.ndarray) -> np.ndarray:
    dark = film[:, 0, 0] < 0
    return np.flatnonzero(dark & ~np.roll(dark, 1))


def test_a_cell_that_expects_flashes_has_slope_one() -> None:
    def expects(film: np.ndarray) -> np.ndarray:
        times = onsets(film)
        period = times[1] - times[0] if len(times) > 1 else 99
        return bump(len(film), times[-1] + period + 17)

    rows, found = probes.omitted(cell(expects), [6, 7])
    assert found["slope"] == pytest.approx(1.0) and found["answered"] == len(probes.PERIODS)
    assert [row["peak_ms"] for row in rows] == pytest.approx([170.0] * len(rows)) and mechanisms.omission_follows(found)


def test_a_cell_that_follows_the_last_flash_has_slope_zero() -> None:
    rows, found = probes.omitted(cell(lambda film: bump(len(film), onsets(film)[-1] + 30)), [6])
    assert found["slope"] == pytest.approx(0.0, abs=1e-9) and found["answered"] == len(rows)
    assert not mechanisms.omission_follows(found)


@pytest.mark.parametrize("rule", [lambda n: np.zeros(n), lambda n: np.full(n, 9.0), lambda n: np.linspace(50, 0, n)])
def test_silent_flat_and_falling_cells_answer_nothing(rule) -> None:
    respond = cell(lambda film: rule(len(film)))
    for found in (
        probes.omitted(respond, [6])[1], probes.latency(respond, [0])[1], probes.reversal(respond, 0, 7.5)[1]
    ):  # fmt: skip
        assert found["answered"] == 0
    assert probes.anticipation(respond, {0: 7.5})[1] == {"lead_um": 0.0, "gained_um": 0.0}
    found = mechanisms.phenomena(respond, {0: 7.5, 1: 7.0})
    assert not any(rule(found[name][1]) for name, rule in mechanisms.CRITERIA.items())


def test_latency_is_ordered_if_every_darker_step_is_earlier() -> None:
    def at(bins: float) -> probes.Respond:
        return cell(lambda film: bump(len(film), probes.LEAD + 20 + bins * float(film[-1, 0, 0])))

    found = probes.latency(at(8), [0])[1]
    assert found == pytest.approx({"shift_ms": 72.0, "answered": 5.0, "ordered": 1.0}, abs=1.0)
    assert mechanisms.darker_is_earlier(found)
    assert probes.latency(at(-8), [0])[1]["ordered"] == 0
    assert not mechanisms.darker_is_earlier(probes.latency(at(0), [0])[1])


@pytest.mark.parametrize("at", [20.0, 20.3, 20.5, 20.8])
def test_the_time_of_a_peak_is_finer_than_a_bin(at: float) -> None:
    height, late = probes.peak(bump(50, at), 1.0)
    assert late == pytest.approx(10 * at, abs=0.5) and height == pytest.approx(19.0, abs=0.7)


def place(film: np.ndarray) -> np.ndarray:
    """Column of the bar in every bin, far away where there is none."""
    dark = -film[:, 0]
    return np.where(dark.sum(1) > 0, (dark * np.arange(SIDE)).sum(1) / np.maximum(dark.sum(1), 1e-9), -99.0)


def test_a_cell_with_a_delay_lags_and_gains_nothing() -> None:
    def late(film: np.ndarray) -> np.ndarray:
        near = 20 * np.exp(-((place(film) - 7.0) ** 2) / 2)
        return np.concatenate([np.zeros(4), near[:-4]])

    rows, found = probes.anticipation(cell(late), {0: 7.0})
    assert found["gained_um"] == pytest.approx(0, abs=12) and found["lead_um"] < -20
    assert [row["lead_um"] for row in rows] == pytest.approx([-20, -20, -40, -40], abs=11)
    assert not mechanisms.bar_is_met(found)


def test_a_cell_that_is_ahead_gains() -> None:
    def ahead(film: np.ndarray) -> np.ndarray:
        at = place(film)
        moving = (np.abs(np.diff(at, append=at[-1])) < 1) & (np.diff(at, append=at[-1]) != 0)
        early = 20 * np.exp(-((at + 3 * np.sign(np.diff(at, append=at[-1])) - 7.0) ** 2) / 2) * moving
        seen = (np.abs(at - 7.0) < 0.1) & ~np.roll(np.abs(at - 7.0) < 0.1, 1) & (np.roll(at, 1) < -50)
        return early + (bump(len(film), int(np.flatnonzero(seen)[0]) + 5) if seen.any() else 0)

    found = probes.anticipation(cell(ahead), {0: 7.0, 1: 7.0})[1]
    assert found["lead_um"] > 50 and mechanisms.bar_is_met(found)
    assert not mechanisms.bar_is_met({"lead_um": -20.0, "gained_um": 5.0})
    assert mechanisms.bar_is_met({"lead_um": -10.0, "gained_um": 15.0})


def test_re_entry_has_slope_one_and_an_answer_to_the_turn_slope_zero() -> None:
    def re_entry(film: np.ndarray) -> np.ndarray:
        return 20 * np.exp(-((place(film) - 7.0) ** 2) / 0.5)

    def turn(film: np.ndarray) -> np.ndarray:
        moves = np.diff(place(film), append=np.nan)
        back = np.flatnonzero((moves < -0.05) & (moves > -1))
        return bump(len(film), back[0] + 12) if len(back) else np.zeros(len(film))

    found = probes.reversal(cell(re_entry), 0, 7.0)[1]
    assert found["slope"] == pytest.approx(1.0, abs=0.1) and not mechanisms.turn_is_answered(found)
    found = probes.reversal(cell(turn), 0, 7.0)[1]
    assert found["slope"] == pytest.approx(0.0, abs=0.05) and mechanisms.turn_is_answered(found)


def test_slopes_that_cancel_and_a_bar_that_is_seen_anyway_answer_no_turn() -> None:
    good = {"answered": 8.0, "slope": 0.0, "steepest": 0.1, "unflipped": 0.0}
    assert mechanisms.turn_is_answered(good)
    assert not mechanisms.turn_is_answered(good | {"steepest": -0.5})
    assert not mechanisms.turn_is_answered(good | {"unflipped": 0.5})


# circuit and network


@pytest.fixture(scope="module")
def retina():
    return calibrated([white_noise(900, SIDE, RNG(0))[None]], skip=100)


def network(**options) -> CNN:
    torch.manual_seed(0)
    return CNN(8, SIDE, 6, (3, 2), (5, 3), norm="channel", **options).eval()


def test_an_interneuron_that_is_among_the_units_is_found_again() -> None:
    layer = RNG(0).standard_normal((1, 500, SIDE, SIDE)).astype(np.float32)
    flat = layer[0, 100:].reshape(400, -1)
    assert circuitry.recovered(-flat, {"it": layer}, 100)["it"] == pytest.approx(1.0, abs=1e-6)
    other = RNG(1).standard_normal((400, 50)).astype(np.float32)
    assert abs(circuitry.recovered(other, {"it": layer}, 100)["it"]) < 0.2


def test_the_unit_is_chosen_on_one_half_and_scored_on_the_other() -> None:
    layer = RNG(0).standard_normal((1, 400, SIDE, SIDE)).astype(np.float32)
    early = layer[0].reshape(400, -1).copy()
    early[200:] = RNG(1).standard_normal((200, SIDE**2))
    assert abs(circuitry.recovered(early, {"it": layer}, 0)["it"]) < 0.3


def test_pathways_add_up_to_the_drive(retina) -> None:
    layers = interneurons(white_noise(80, SIDE, RNG(1))[None], Circuit())
    drive = ganglion_drives(layers, retina.centres, SIDE, Circuit())[0]
    for i in (0, 3, 6):
        paths = circuitry.pathways(retina, layers, i)
        assert set(paths) == {"on", "off"}
        np.testing.assert_allclose(sum(paths.values()), drive[:, i], atol=1e-9)
    with pytest.raises(HyenaError, match="neither on nor off alone"):
        circuitry.pathways(retina, layers, 4)


def test_contributions_to_a_rate_add_up_and_follow_the_threshold(retina) -> None:
    layers = interneurons(white_noise(80, SIDE, RNG(1))[None], Circuit())
    paths = circuitry.pathways(retina, layers, 3)
    found = circuitry.contributions(retina, paths, 3, rest=20)
    rate = retina.rates(sum(paths.values())[:, None].repeat(8, 1))[:, 3]
    np.testing.assert_allclose(sum(found.values()), rate - rate[20], atol=1e-9)
    drive = sum(paths.values())
    steps = np.linspace(0, 1, 20001)
    along = drive[20] + steps * (drive[50] - drive[20])
    mean_slope = np.gradient(retina.rates(along[:, None].repeat(8, 1))[:, 3], along).mean()
    assert found["on"][50] == pytest.approx((paths["on"][50] - paths["on"][20]) * mean_slope, rel=1e-3)


def test_polarity_is_the_sign_of_the_largest_value() -> None:
    net = network()
    with torch.no_grad():
        net.convs[0].weight.zero_()
        net.convs[0].weight[0, -1] = 1.0
        net.convs[0].weight[1, -2] = -1.0
        net.convs[0].weight[2, -1] = 1.0
        net.norms[0].weight[2] = -1.0
    assert circuitry.polarities(net) == ["on", "off", "off"]


def test_slow_rates_are_wider_and_the_width_is_known() -> None:
    rates = np.stack([lfilter([1], [1, -a], RNG(0).standard_normal(40_000)) for a in (0.9, 0.98)], 1)
    wanted = [10 * np.log(0.5) / np.log(a) for a in (0.9, 0.98)]  # autocorrelation a^lag
    assert circuitry.width_ms(rates) == pytest.approx(wanted, rel=0.1)


def test_moved_thresholds_keep_the_mean_rate() -> None:
    drive = RNG(0).standard_normal((500, 3))
    softplus = lambda u: np.logaddexp(0, u)  # noqa: E731
    moved = circuitry.shifts(softplus, drive, np.array([0.2, 1.0, 3.0]))
    assert softplus(drive + moved).mean(0) == pytest.approx([0.2, 1.0, 3.0], rel=1e-6)


def test_without_inhibition_no_weight_lowers_a_rate() -> None:
    net = network()
    with torch.no_grad():
        net.scale.weight[1] = -1.0
    ablated = circuitry.without_inhibition(net)
    effective = ablated.scale.weight[:, None] * ablated.dense.weight
    assert (effective >= 0).all() and (net.dense.weight != ablated.dense.weight).any()
    assert ((effective == 0) == (net.scale.weight[:, None] * net.dense.weight <= 0)).all()


def test_calibration_gives_running_means_and_trains_nothing() -> None:
    net, films = network(), [torch.randn(32, 6, SIDE, SIDE) for _ in range(3)]
    before = {name: p.clone() for name, p in net.named_parameters()}
    mechanisms.calibrate(net, films)
    z = net.first(net.features(torch.cat(films)))
    assert z.mean((0, 2, 3)).abs().max() < 0.05 and abs(float(z.detach().std()) - 1) < 0.05
    assert all(torch.equal(p, before[name]) for name, p in net.named_parameters())


# adaptation


def steps_of(decay: float) -> np.ndarray:
    t = np.arange(adaptation.PHASE) * DT
    low, high = 4 - decay * np.exp(-t / 7), 10 + 3 * decay * np.exp(-t / 7)
    return np.concatenate([low, high, low, high])


def test_an_exponential_gives_its_time_constant_and_a_constant_none() -> None:
    found = adaptation.adaptation(steps_of(2.0))
    assert found["tau_high"] == pytest.approx(7, rel=0.05) and found["tau_low"] == pytest.approx(7, rel=0.05)
    assert found["decay"] > 0.3 and found["undershoot"] < 0.7
    assert adaptation.time_constant(np.linspace(8, 4, adaptation.PHASE)) == 0  # falls to the end of the phase
    assert adaptation.time_constant(np.full(adaptation.PHASE, 3.0)) == 0
    flat = adaptation.adaptation(steps_of(0.0) + RNG(0).normal(0, 0.05, 4 * adaptation.PHASE))
    assert flat["tau_high"] == flat["tau_low"] == 0 and abs(flat["decay"]) < 0.01


def test_gains_are_those_of_known_filters_even_if_they_would_cancel() -> None:
    flicker = RNG(0).standard_normal((30, 4 * adaptation.PHASE))
    kernel = np.array([0.0, 1.0, 3.0, 1.0])
    off = -np.stack([np.convolve(light, kernel)[: len(light)] for light in flicker])
    found = adaptation.gains(50 + np.stack([off, -off], 2), flicker)
    for name in adaptation.SPANS:
        assert found[f"gain_{name}"] == pytest.approx(3.0, rel=0.05)
        assert found[f"centre_{name}"] < 60  # 20 ms, and what noise adds
    assert found["fast"] == pytest.approx(1.0, rel=0.05)


def test_a_network_without_memory_is_flat_to_rolled_flicker() -> None:
    flicker = adaptation.rolled(40, RNG(0))
    assert flicker.shape == (40, 4 * adaptation.PHASE, 1, 1)
    assert np.array_equal(np.sort(flicker[0, : adaptation.PHASE], 0), np.sort(flicker[7, : adaptation.PHASE], 0))
    found = adaptation.adaptation(np.maximum(flicker[..., 0, 0] + 0.1, 0).mean(0))
    assert found["decay"] == pytest.approx(0, abs=1e-5) and found["undershoot"] == pytest.approx(1, abs=1e-5)
    assert found["tau_high"] == found["tau_low"] == 0


def test_flickered_rates_stand_in_their_bins_and_features_seen_once_give_them() -> None:
    flicker = adaptation.rolled(1, RNG(0))[:, :60]
    net = network()
    model = FeedbackCNN(net, warm=10, hold=2)
    found = adaptation.flickered(model, flicker)
    film = torch.from_numpy(np.tile(flicker, (SIDE, SIDE)))
    assert (found[:, : model.lags - 1] == 0).all()
    np.testing.assert_allclose(found[:, model.lags - 1 :], model(film).detach(), rtol=1e-5)
    part = Part(film.numpy(), np.zeros((1, 1, 60, 8), dtype=int), 20)
    once = OnFeatures(model)
    rates = predicted(once, adaptation.seen_once(once, part))
    assert rates.shape == (1, 40, 8)
    assert np.isfinite(rates).all()


# variability


def test_read_outs_keep_the_mean_and_differ_in_variance() -> None:
    rates = np.full((2000, 40, 1), 60.0)
    counts = {name: variability.spikes(rates, name, RNG(0)) for name in variability.READ_OUTS}
    assert all(c.mean() == pytest.approx(0.6, rel=0.02) for c in counts.values())
    assert scores.fano(counts["poisson"]) == pytest.approx(1.0, abs=0.05)
    assert scores.fano(counts["one_at_most"]) == pytest.approx(0.4, abs=0.05) and counts["one_at_most"].max() == 1
    whole = counts["integrate"].sum(1)
    assert whole.max() - whole.min() <= 1


def test_noise_makes_trials_differ_and_is_taken_off_again() -> None:
    net = network(noise=0.1)
    units = net.first(net.features(torch.randn(1, 30, SIDE, SIDE))).flatten(1).detach().numpy()
    still, noisy = (variability.noisy_rates(net, units, noise, 3, 0) for noise in (0.0, 0.5))
    assert np.allclose(still[0], still[1]) and not np.allclose(noisy[0], noisy[1])
    assert net.noise == 0.1 and not net.noise_in_use


def test_slow_flicker_is_slow_and_has_its_contrast() -> None:
    film = circuitry.slow_flicker(6000, 0)[0, :, 0]
    assert film.std() == pytest.approx(0.35, rel=1e-3)
    assert circuitry.width_ms(film.astype(float))[0] > 200
    assert np.allclose(low_pass(np.ones((1, 400, 1)), 0.2, 2)[0, -1], 1, atol=0.01)


# mistakes


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Encoding(repeats=1), "two halves"),
        (lambda: Encoding(seconds=90), "multiple of block_seconds"),
        (lambda: Encoding(operators=("cnn", "lm")), "unknown encoder 'lm'"),
        (lambda: TrainingAmount(amounts=(90,)), "multiples of block_seconds"),
        (lambda: TrainingAmount(amounts=(3600,)), "up to seconds, 1800"),
        (lambda: Mechanisms(recording="there"), "leave recording empty"),
        (lambda: Mechanisms(operators=("ln",)), "whose channels are looked into"),
        (lambda: ContrastAdaptation(memories=("latral",)), "did you mean 'lateral'"),
        (lambda: ContrastAdaptation(operators=("ln",)), "memory is added to"),
        (lambda: Variability(operators=("ln",)), "whose noise stays on"),
    ],
)
def test_settings_that_cannot_work_are_refused(make, words: str) -> None:
    with pytest.raises(HyenaError, match=words):
        make()


def test_batches_larger_than_the_recording_are_refused() -> None:
    with pytest.raises(HyenaError, match="the training part has 80; record for longer"):
        pieces(part(), lags=4, out=1, batch_size=81, seed=0)
    with pytest.raises(HyenaError, match="the training part has 0"):
        pieces(part(), lags=4, out=61, batch_size=1, seed=0)


def test_all_experiments_share_the_fields_of_a_fit() -> None:
    made = [cls() for cls in (Encoding, FeatureMaps, TrainingAmount, Variability)]
    own = {field for fields in (fits.ALL, *fits.OWN.values()) for field in fields}
    for a, b in itertools.pairwise(made):
        assert all(getattr(a, field) == getattr(b, field) for field in own)
