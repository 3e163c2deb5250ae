"""The long convolution: equal to its sum, causal, differentiable, the same in blocks, and clear about bad input."""

from __future__ import annotations

import gc
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from hyena.ops import fftconv
from hyena.ops.fftconv import causal_conv, fft_size, two_sided_conv

DRAWN = settings(deadline=None, max_examples=25)
BATCHES = st.lists(st.integers(1, 3), max_size=3).map(tuple)
CHANNELS = st.integers(1, 5)
LENGTHS = st.one_of(st.sampled_from([1, 2, 3, 7, 31, 32, 33, 61]), st.integers(1, 50))
SEEDS = st.integers(0, 2**32 - 1)


@pytest.fixture
def many_blocks(monkeypatch):
    """One channel per block, whatever the size."""
    monkeypatch.setattr(fftconv, "BLOCK_BYTES", 1)
    monkeypatch.setattr(fftconv, "MIN_TRANSFORMS", 1)


@pytest.fixture
def folded(monkeypatch):
    """Every causal convolution folded, on a grid of four rows."""
    monkeypatch.setattr(fftconv, "FOLD_LENGTH", 1)
    monkeypatch.setattr(fftconv, "FOLD_ROWS", 4)
    fftconv._twiddles.cache_clear()
    yield
    fftconv._twiddles.cache_clear()


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def close(actual: Tensor, expected: Tensor, tolerance: float = 1e-12) -> None:
    assert_close(actual, expected, rtol=tolerance, atol=tolerance)


def direct(u: Tensor, tap: dict[int, Tensor], skip: Tensor) -> Tensor:
    """The sum itself: y[t] = sum over s of tap[t - s] u[s], plus skip u[t]; an absent lag has no tap."""
    y = skip[:, None] * u
    for t in range(u.shape[-1]):
        for s in range(u.shape[-1]):
            if t - s in tap:
                y[..., t] += tap[t - s] * u[..., s]
    return y


# The sums


@DRAWN
@given(BATCHES, CHANNELS, LENGTHS, st.integers(1, 70), SEEDS)
def test_causal_conv_is_its_sum_for_any_batch_length_and_number_of_taps(batch, channels, length, taps, seed) -> None:
    u, k, skip = normal(*batch, channels, length, seed=seed), normal(channels, taps, seed=seed + 1), normal(channels)
    close(causal_conv(u, k, skip), direct(u, dict(enumerate(k.T)), skip), 1e-10)
    close(causal_conv(u, k), direct(u, dict(enumerate(k.T)), torch.zeros_like(skip)), 1e-10)


@DRAWN
@given(BATCHES, CHANNELS, LENGTHS, SEEDS)
def test_two_sided_conv_is_its_sum_with_lag_zero_in_the_middle(batch, channels, length, seed) -> None:
    u, k = normal(*batch, channels, length, seed=seed), normal(channels, 2 * length - 1, seed=seed + 1)
    skip, lags = normal(channels), range(-(length - 1), length)
    close(two_sided_conv(u, k, skip), direct(u, dict(zip(lags, k.T, strict=True)), skip), 1e-10)


def test_both_match_a_sum_done_by_hand() -> None:
    u = torch.tensor([[1.0, 10.0, 100.0]])
    assert_close(causal_conv(u, torch.tensor([[2.0, 3.0]])), torch.tensor([[2.0, 23.0, 230.0]]))
    taps = torch.tensor([[5.0, 7.0, 2.0, 3.0, 0.0]])  # lags -2 … 2
    assert_close(two_sided_conv(u, taps), torch.tensor([[572.0, 723.0, 230.0]]))


@DRAWN
@given(LENGTHS, st.data())
def test_an_impulse_gives_the_kernel_back_shifted_to_where_it_stood(length, data) -> None:
    at = data.draw(st.integers(0, length - 1))
    k = normal(1, length)
    impulse = torch.zeros(1, length, dtype=torch.float64)
    impulse[0, at] = 1
    close(causal_conv(impulse, k), torch.cat([torch.zeros(1, at, dtype=torch.float64), k[:, : length - at]], -1))


@DRAWN
@given(LENGTHS, SEEDS)
def test_convolution_is_linear_in_the_input_and_in_the_kernel(length, seed) -> None:
    u, v, k, h = (normal(2, length, seed=seed + i) for i in range(4))
    close(causal_conv(2 * u - v, k), 2 * causal_conv(u, k) - causal_conv(v, k), 1e-11)
    close(causal_conv(u, 2 * k - h), 2 * causal_conv(u, k) - causal_conv(u, h), 1e-11)


@DRAWN
@given(LENGTHS, st.data())
def test_output_never_depends_on_the_future(length, data) -> None:
    t = data.draw(st.integers(0, length - 1))
    u, k, skip = normal(2, 3, length), normal(3, length), normal(3)
    changed = u.clone()
    changed[..., t:] += 1
    close(causal_conv(changed, k, skip)[..., :t], causal_conv(u, k, skip)[..., :t])


# Gradients


@pytest.mark.parametrize("taps", [4, 9, 14], ids=["fewer-taps-than-inputs", "as-many", "more"])
def test_causal_gradients(taps: int) -> None:
    u, k, skip = (x.requires_grad_() for x in (normal(2, 3, 9), normal(3, taps, seed=1), normal(3, seed=2)))
    assert torch.autograd.gradcheck(causal_conv, (u, k, skip))


@pytest.mark.parametrize("length", [1, 6, 7])
def test_two_sided_gradients(length: int) -> None:
    inputs = normal(2, 3, length), normal(3, 2 * length - 1, seed=1), normal(3, seed=2)
    assert torch.autograd.gradcheck(two_sided_conv, tuple(x.requires_grad_() for x in inputs))


@pytest.mark.parametrize("trained", ["u", "k"])
def test_gradients_when_only_one_side_is_trained(trained: str) -> None:
    u, k = normal(2, 3, 9).requires_grad_(trained == "u"), normal(3, 9).requires_grad_(trained == "k")
    assert torch.autograd.gradcheck(causal_conv, (u, k))


@pytest.mark.parametrize("conv, taps", [(causal_conv, 33), (causal_conv, 17), (two_sided_conv, 65)])
def test_blocks_do_not_change_outputs_or_gradients(conv, taps: int, request) -> None:
    u, k, skip = normal(2, 7, 33), normal(7, taps, seed=1), normal(7, seed=2)

    def computed() -> list[Tensor]:
        inputs = [x.clone().requires_grad_() for x in (u, k, skip)]
        y = conv(*inputs)
        return [y.detach(), *torch.autograd.grad((y * y).sum(), inputs), conv(u, k.detach(), skip)]

    whole = computed()
    assert len(fftconv._blocks(u, fftconv._Plan(66, 0, False))) == 1
    request.getfixturevalue("many_blocks")
    assert len(fftconv._blocks(u, fftconv._Plan(66, 0, False))) == 7
    for blocked, unblocked in zip(computed(), whole, strict=True):
        close(blocked, unblocked)


@pytest.mark.parametrize("conv, taps", [(causal_conv, 9), (two_sided_conv, 17)])
def test_kept_spectra_and_recomputed_ones_give_the_same_gradients(conv, taps: int, monkeypatch, many_blocks) -> None:
    inputs = [x.requires_grad_() for x in (normal(2, 3, 9), normal(3, taps, seed=1), normal(3, seed=2))]
    y = conv(*inputs)
    kept = torch.autograd.grad((y * y).sum(), inputs, retain_graph=True)
    again = torch.autograd.grad((y * y).sum(), inputs)  # the first pass left the kept spectra as they were
    monkeypatch.setattr(fftconv, "KEEP_BYTES", 0)
    assert torch.autograd.gradcheck(conv, inputs)
    y = conv(*inputs)
    recomputed = torch.autograd.grad((y * y).sum(), inputs)
    for a, b, c in zip(kept, again, recomputed, strict=True):
        assert torch.equal(a, b)
        close(a, c)


@pytest.mark.parametrize("trained", [(0,), (1,), (2,), (0, 2), (1, 2)], ids=["u", "k", "skip", "u-skip", "k-skip"])
def test_gradients_of_any_of_input_kernel_and_skip(trained: tuple[int, ...]) -> None:
    inputs = [normal(2, 3, 9), normal(3, 9, seed=1), normal(3, seed=2)]
    for i in trained:
        inputs[i].requires_grad_()
    assert torch.autograd.gradcheck(causal_conv, inputs)


def test_a_second_derivative_is_refused() -> None:
    u, k = normal(2, 3, 9).requires_grad_(), normal(3, 9).requires_grad_()
    (du,) = torch.autograd.grad(causal_conv(u, k).square().sum(), u, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        du.sum().backward()


# Folded transforms


@pytest.mark.parametrize("length, taps", [(1, 1), (16, 16), (16, 9), (33, 33), (37, 50)])
@pytest.mark.parametrize("keep", [0, 2**24], ids=["recomputed", "kept"])
def test_a_folded_convolution_is_its_sum_and_so_are_its_gradients(folded, monkeypatch, length, taps, keep) -> None:
    monkeypatch.setattr(fftconv, "KEEP_BYTES", keep)
    u, k, skip = normal(2, 3, length), normal(3, taps, seed=1), normal(3, seed=2)
    assert fftconv._plan(u, k, 0).folded
    close(causal_conv(u, k, skip), direct(u, dict(enumerate(k.T)), skip))
    assert torch.autograd.gradcheck(causal_conv, [x.requires_grad_() for x in (u, k, skip)], fast_mode=True)


def test_few_taps_and_two_sided_kernels_are_not_folded(folded) -> None:
    u = normal(2, 3, 16)
    assert not fftconv._plan(u, normal(3, 8), 0).folded
    assert not fftconv._plan(u, normal(3, 31), 15).folded


def test_a_long_float32_input_is_folded_and_as_accurate_as_the_padded_transform(monkeypatch) -> None:
    u, k = normal(1, 1, fftconv.FOLD_LENGTH).float(), normal(1, fftconv.FOLD_LENGTH, seed=1).float()
    assert fftconv._plan(u, k, 0).folded
    y = causal_conv(u, k)
    monkeypatch.setattr(fftconv, "FOLD_LENGTH", 2**62)
    exact, padded = causal_conv(u.double(), k.double()), causal_conv(u, k.clone())
    assert (y - exact).norm() < 2 * (padded - exact).norm()


# The official code


def test_outputs_and_gradients_are_the_official_ones(reference) -> None:
    stored, _ = reference("fftconv_fp64")
    inputs = [stored[name].requires_grad_() for name in ("u", "k", "D")]
    y = causal_conv(*inputs)
    close(y, stored["y"])
    for ours, name in zip(torch.autograd.grad((y * stored["w"]).sum(), inputs), ("u", "k", "D"), strict=True):
        close(ours, stored[f"grad_{name}"])


@pytest.mark.parametrize("length", [32, 33])
def test_the_official_bidirectional_convolution_is_ours_with_its_taps_rotated(reference, length: int) -> None:
    stored, _ = reference(f"fftconv_bidirectional_L{length}_fp64")
    u, k, skip = stored["u"], stored["k"], stored["D"]
    taps = torch.zeros(3, 2 * length - 1, dtype=torch.float64)
    for lag in range(-(length - 1), length):
        official = (lag - length // 2) % (2 * length)  # it rotates by half a length, modulo the padded one
        if official < length:
            taps[:, lag + length - 1] = k[:, official]
    close(two_sided_conv(u, taps, skip), stored["y_bidirectional"])
    close(causal_conv(u, k, skip), stored["y_causal"])


# Sizes, precision, remembered spectra


def is_good(n: int) -> bool:
    for factor in (2, 3, 5):
        while n % factor == 0:
            n //= factor
    return n == 1


def test_fft_size_is_the_smallest_even_one_with_small_factors() -> None:
    for least in range(1, 500):
        assert fft_size(least) == next(n for n in range(2, 1000, 2) if n >= least and is_good(n))


@DRAWN
@given(st.integers(1, 2**40))
def test_fft_size_is_good_and_never_above_the_next_power_of_two(least: int) -> None:
    size = fft_size(least)
    assert max(least, 2) <= size <= max(2, 2 ** (least - 1).bit_length())
    assert size % 2 == 0 and is_good(size)


def test_the_spectrum_of_a_frozen_kernel_is_computed_once_and_again_after_a_change() -> None:
    u, k = normal(2, 3, 16), normal(3, 16)
    causal_conv(u, k)
    spectrum = fftconv._spectra[k][1]
    close(causal_conv(u, k), causal_conv(u, k.clone()))
    assert fftconv._spectra[k][1] is spectrum
    k[1, 2] += 5
    close(causal_conv(u, k), causal_conv(u, k.clone()))
    assert fftconv._spectra[k][1] is not spectrum
    close(causal_conv(u[..., :9], k[:, :4]), causal_conv(u[..., :9], k[:, :4].clone()))


def test_a_frozen_kernels_spectrum_is_reached_with_a_skip_too_and_left_without_it() -> None:
    u, k, skip = normal(2, 3, 16), normal(3, 16), normal(3, seed=1).requires_grad_()
    plain = causal_conv(u, k)
    spectrum = fftconv._spectra[k][1]
    close(causal_conv(u, k, skip).detach(), plain + skip.detach()[:, None] * u)
    close(causal_conv(u, k), plain)
    assert fftconv._spectra[k][1] is spectrum


def test_what_inference_remembered_serves_training(folded) -> None:
    u, k = normal(2, 3, 16), normal(3, 16)
    with torch.inference_mode():
        inferred = causal_conv(u, k)
    trained = causal_conv(u.requires_grad_(), k)
    trained.sum().backward()
    close(trained.detach(), inferred.clone())


@pytest.mark.parametrize("length", [16, 4096])
def test_threads_at_once_and_repeated_runs_give_the_same_bytes(length: int) -> None:
    u, k = normal(4, 8, length), normal(8, length, seed=1)
    expected = causal_conv(u, k.clone())
    with ThreadPoolExecutor(4) as pool:
        for y in pool.map(lambda _: causal_conv(u, k), range(16)):
            assert torch.equal(y, expected)


def test_a_frozen_kernel_given_new_data_or_precision_is_noticed() -> None:
    u, k = normal(2, 3, 16), torch.nn.Parameter(normal(3, 16).float(), requires_grad=False)
    causal_conv(u.float(), k)
    k.data = 2 * k.data.double()  # as `module.double()` does
    close(causal_conv(u, k), causal_conv(u, k.clone()))


def test_a_kernel_in_training_is_not_remembered_and_a_dead_one_forgotten() -> None:
    gc.collect()
    held = len(fftconv._spectra)
    u, trained, frozen = normal(2, 3, 16), normal(3, 16).requires_grad_(), normal(3, 16)
    causal_conv(u, trained)
    assert len(fftconv._spectra) == held
    causal_conv(u, frozen)
    assert len(fftconv._spectra) == held + 1
    del frozen
    assert len(fftconv._spectra) == held


@pytest.mark.parametrize("autocast", [False, True])
def test_bfloat16_input_is_convolved_in_float32_and_returned_as_bfloat16(autocast: bool) -> None:
    u, k = normal(2, 3, 4000).bfloat16(), normal(3, 4000).float()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        y = causal_conv(u, k)
    assert torch.equal(y, causal_conv(u.float(), k).bfloat16())


# Errors


@pytest.mark.parametrize(
    ("u", "k", "error", "said"),
    [
        (torch.ones(2, 3, 8), torch.ones(4, 8), ValueError, r"\(2, 3, 8\) and \(4, 8\)"),
        (torch.ones(8), torch.ones(1, 8), ValueError, r"\(8,\) and \(1, 8\)"),
        (torch.ones(3, 8), torch.ones(3, 1, 8), ValueError, r"\(3, 8\) and \(3, 1, 8\)"),
        (torch.ones(3, 8), torch.ones(3, 8, device="meta"), ValueError, "u is on cpu but k is on meta"),
        (torch.ones(3, 8), torch.ones(3, 8).bfloat16(), TypeError, "got k torch.bfloat16 and u torch.float32"),
        (torch.ones(3, 8).long(), torch.ones(3, 8), TypeError, "got k torch.float32 and u torch.int64"),
        (torch.ones(3, 8) * 1j, torch.ones(3, 8), TypeError, "got k torch.float32 and u torch.complex64"),
        (torch.ones(3, 8).double(), torch.ones(3, 8), TypeError, "u is torch.float64 but k is torch.float32"),
    ],
    ids=["channels", "dimensions-of-u", "dimensions-of-k", "device", "half-kernel", "integers", "complex", "wider-u"],
)
@pytest.mark.parametrize("conv", [causal_conv, two_sided_conv])
def test_bad_input_is_refused_with_what_was_given(unchecked, conv, u, k, error, said) -> None:
    with pytest.raises(error, match=said):
        conv(u, k)


def test_a_wrong_number_of_two_sided_taps_is_refused_with_both_numbers() -> None:
    with pytest.raises(ValueError, match="15 taps for length 8, got 8"):
        two_sided_conv(torch.ones(3, 8), torch.ones(3, 8))


@pytest.mark.parametrize("shape", [(0, 3, 8), (2, 0, 8), (2, 3, 0)])
def test_an_empty_input_is_refused(unchecked, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="nothing to convolve"):
        causal_conv(torch.zeros(*shape), torch.zeros(shape[1], 4))
