"""Scores of generated series: the official number, their extremes, and what each one does and does not see."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hyena.errors import HyenaError
from hyena.experiments.ls4 import scores


def noise(count: int = 30, length: int = 40, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, length, 1)).astype(np.float32)


def waves(count: int = 30, length: int = 40, seed: int = 0) -> np.ndarray:
    phase = np.random.default_rng(seed).uniform(0, 6.28, (count, 1, 1))
    return np.sin(np.arange(length)[None, :, None] / 3 + phase).astype(np.float32)


def test_the_marginal_score_is_the_official_one(reference) -> None:
    stored, _ = reference("ls4_marginal_score")
    found = scores.marginal(stored["x_real"].numpy(), stored["x_fake"].numpy())
    assert found == pytest.approx(float(stored["marginal"]), rel=1e-6)


def test_the_marginal_score_is_a_sum_over_bins_done_by_hand() -> None:
    """Two bins over 0 to 2 of width 1: shares 1/2, 1/2 against 3/4 and 0, and one value outside that is not counted."""
    real, fake = np.array([0.0, 0.2, 1.9, 2.0]), np.array([0.4, 0.6, 0.7, 9.0])
    score = scores.marginal(real.reshape(2, 2, 1), fake.reshape(2, 2, 1), bins=2)
    assert score == pytest.approx((abs(0.5 - 0.75) + abs(0.5 - 0.0)) / 2)
    distance = scores.marginal_distance(real.reshape(2, 2, 1), fake.reshape(2, 2, 1), bins=2)
    assert distance == pytest.approx((0.25 + 0.5 + 0.25) / 2)


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 100), st.floats(-3, 3), st.floats(0.1, 4))
def test_the_distance_of_marginals_is_a_share(seed: int, shift: float, scale: float) -> None:
    found = scores.marginal_distance(noise(seed=seed), scale * noise(seed=seed + 1) + np.float32(shift))
    assert 0 <= found <= 1
    assert scores.marginal_distance(noise(seed=seed), noise(seed=seed)) == 0
    assert scores.marginal_distance(noise(seed=seed), noise(seed=seed) + 100) == pytest.approx(1)


def test_what_is_outside_counts_in_the_distance_alone() -> None:
    real, half = noise(), noise()
    half[::2] = 100
    far = half.copy()
    far[::2] = -100
    assert scores.marginal(real, half) == scores.marginal(real, far)
    assert scores.marginal_distance(real, half) == pytest.approx(0.5, abs=0.1)


def test_the_distance_does_not_depend_on_the_unit_and_the_score_does() -> None:
    real, fake = noise(seed=1), noise(seed=2)
    assert scores.marginal_distance(10 * real, 10 * fake) == pytest.approx(
        scores.marginal_distance(real, fake), abs=0.01
    )
    assert scores.marginal(10 * real, 10 * fake) == pytest.approx(scores.marginal(real, fake) / 10, rel=0.05)


def test_a_classifier_tells_noise_from_waves_and_not_noise_from_noise() -> None:
    for held in (0.0, 0.2):
        assert scores.classification(waves(), noise(), seed=0, epochs=50, held=held) < 0.5
    last, checked = (scores.classification(noise(12, 20, 1), noise(12, 20, 2), 0, 50, held) for held in (0.0, 0.2))
    assert checked == pytest.approx(math.log(2), abs=0.2)
    assert last > checked, "without a validation part few series are overfitted"


def test_a_predictor_learns_from_what_is_like_the_real_series() -> None:
    for held in (0.0, 0.2):
        like = scores.prediction(waves(seed=1), waves(seed=2), seed=0, epochs=60, held=held)
        unlike = scores.prediction(waves(seed=1), noise(), seed=0, epochs=60, held=held)
        assert like < 0.15 < 0.3 < unlike


@pytest.mark.parametrize("length", [2, 5, 10, 11])
def test_short_series_are_predicted_from_their_second_value_on(length: int) -> None:
    found = scores.prediction(noise(6, length, 1), noise(6, length, 2), seed=0, epochs=1)
    assert 0 < found < 10


def test_scorers_have_the_released_optimiser(monkeypatch) -> None:
    groups = []
    optimiser = torch.optim.AdamW
    monkeypatch.setattr(torch.optim, "AdamW", lambda given, lr: groups.extend(given) or optimiser(given, lr))
    scores.classification(waves(5), noise(5), seed=0, epochs=1)
    assert {(group["lr"], group["weight_decay"]) for group in groups} == {(0.01, 0.0), (0.001, 0.0)}


@pytest.mark.parametrize("score", [scores.classification, scores.prediction])
def test_learned_scores_are_fixed_by_their_seed_and_leave_the_global_one(score) -> None:
    torch.manual_seed(5)
    first = score(waves(10), noise(10), seed=3, epochs=2)
    after = torch.rand(1)
    torch.manual_seed(5)
    assert torch.equal(torch.rand(1), after)
    assert first == score(waves(10), noise(10), seed=3, epochs=2)
    assert first != score(waves(10), noise(10), seed=4, epochs=2)


def test_the_discrepancy_is_unbiased_and_its_p_value_small_where_series_differ() -> None:
    same = [scores.discrepancy(noise(seed=2 * i), noise(seed=2 * i + 1), permutations=20)[0] for i in range(30)]
    assert abs(np.mean(same)) < 2 * np.std(same) / math.sqrt(30)
    found, p = scores.discrepancy(waves(), noise(), permutations=200)
    assert found > 0.05 and p == pytest.approx(1 / 201)


def test_boosted_trees_tell_waves_from_noise() -> None:
    assert scores.boosted_auroc(waves(), noise()) > 0.95


def test_boosted_trees_do_not_see_that_real_series_are_standardised() -> None:
    """The same series with other means and scales cannot be told from themselves."""
    real = noise(60, 20, seed=1)
    real = (real - real.mean(1, keepdims=True)) / real.std(1, keepdims=True)
    rng = np.random.default_rng(0)
    fake = noise(60, 20, seed=2) * rng.uniform(0.9, 1.1, (60, 1, 1)) + rng.normal(0, 0.1, (60, 1, 1))
    assert 0.3 < scores.boosted_auroc(real, fake.astype(np.float32)) < 0.7


def test_features_are_finite_even_of_constant_series() -> None:
    found = scores.features(np.zeros((3, 12, 2), dtype=np.float32))
    assert found.shape[0] == 3 and np.isfinite(found).all()


def test_series_that_say_nothing_are_refused() -> None:
    with pytest.raises(HyenaError, match="no range to divide"):
        scores.marginal(np.ones((3, 4, 1)), noise())
    with pytest.raises(HyenaError, match="not finite"):
        scores.marginal(noise(), noise() * np.float32(np.nan))
    with pytest.raises(HyenaError, match="1 channels, generated ones 2"):
        scores.marginal_distance(noise(), np.repeat(noise(), 2, 2))
