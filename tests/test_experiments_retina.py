"""Experiments on the retina: scores, pieces of film, and what is compared with the circuit."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.signal import lfilter
from small_retina import sixteen

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
    circuitry,
    fits,
    mechanisms,
    scores,
    variability,
)
from hyena.experiments.retina.fits import Fitted, centres, pieces, predicted, responses
from hyena.models.retina import GLM, LN
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


# circuit and network


@pytest.fixture(scope="module")
def retina():
    return calibrated([white_noise(900, SIDE, RNG(0))[None]], skip=100)


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
    net = sixteen()
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
    moved = circuitry.shifts(circuitry.softplus, drive, np.array([0.2, 1.0, 3.0]))
    assert circuitry.softplus(drive + moved).mean(0) == pytest.approx([0.2, 1.0, 3.0], rel=1e-6)


def test_without_inhibition_no_weight_lowers_a_rate() -> None:
    net = sixteen()
    with torch.no_grad():
        net.scale.weight[1] = -1.0
    ablated = circuitry.without_inhibition(net)
    effective = ablated.scale.weight[:, None] * ablated.dense.weight
    assert (effective >= 0).all() and (net.dense.weight != ablated.dense.weight).any()
    assert ((effective == 0) == (net.scale.weight[:, None] * net.dense.weight <= 0)).all()


def test_calibration_gives_running_means_and_trains_nothing() -> None:
    net, films = sixteen(), [torch.randn(32, 6, SIDE, SIDE) for _ in range(3)]
    before = {name: p.clone() for name, p in net.named_parameters()}
    mechanisms.calibrate(net, films)
    z = net.first(net.features(torch.cat(films)))
    assert z.mean((0, 2, 3)).abs().max() < 0.05 and abs(float(z.detach().std()) - 1) < 0.05
    assert all(torch.equal(p, before[name]) for name, p in net.named_parameters())


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
    net = sixteen(noise=0.1)
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
