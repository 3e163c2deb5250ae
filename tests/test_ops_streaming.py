"""The online convolution: equal to the parallel one and to its sum, causal, quasi-linear in work, linear in memory."""

from __future__ import annotations

import gc
import weakref
from itertools import pairwise
from math import log2

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from hyena.errors import HyenaError
from hyena.ops import fftconv, streaming
from hyena.ops.fftconv import causal_conv
from hyena.ops.streaming import BASE_TILE, OnlineConvolution

DRAWN = settings(deadline=None, max_examples=30)
SEEDS = st.integers(0, 2**32 - 1)
PROMPTS = st.one_of(st.sampled_from([0, 1, BASE_TILE]), st.integers(0, 90))
STEPS = st.one_of(st.sampled_from([0, 1, BASE_TILE, BASE_TILE + 1, 4 * BASE_TILE]), st.integers(1, 300))
TAPS = st.one_of(st.sampled_from([1, 2, 3, BASE_TILE, BASE_TILE + 1, 2 * BASE_TILE]), st.integers(1, 500))


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """A thousand tiny transforms on a busy machine would mostly wait for a second thread to be scheduled."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def transforms(monkeypatch) -> list[int]:
    """The sizes of all real transforms, forward and inverse, from here on."""
    sizes: list[int] = []

    def counted(transform):
        def run(x: Tensor, n: int) -> Tensor:
            sizes.append(n)
            return transform(x, n)

        return run

    for name in ("rfft", "irfft"):
        monkeypatch.setattr(torch.fft, name, counted(getattr(torch.fft, name)))
    return sizes


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def close(actual: Tensor, expected: Tensor, tolerance: float = 1e-12) -> None:
    """Equal to `tolerance` of the largest entry."""
    largest = expected.abs().max().item() if expected.numel() else 0.0
    assert_close(actual, expected, rtol=0, atol=tolerance * max(largest, 1e-300))


def stream(u: Tensor, k: Tensor, skip: Tensor | None = None, prompt: int | None = None) -> Tensor:
    """All outputs for u, its first `prompt` entries in one go and the others one by one."""
    conv = OnlineConvolution(k, skip, batch=u.shape[0], steps=u.shape[-1] - (prompt or 0))
    first = [] if prompt is None else [conv.prefill(u[..., :prompt])]
    return torch.cat(first + [conv.step(u[..., t])[..., None] for t in range(prompt or 0, u.shape[-1])], -1)


# The sum


def test_it_matches_a_sum_done_by_hand() -> None:
    u, k = torch.tensor([[[1.0, 10.0, 100.0]]]), torch.tensor([[2.0, 3.0]])
    assert_close(stream(u, k), torch.tensor([[[2.0, 23.0, 230.0]]]))
    assert_close(stream(u, k, skip=torch.tensor([5.0]), prompt=2), torch.tensor([[[7.0, 73.0, 730.0]]]))


@pytest.mark.parametrize("base", [1, 2, 4])
@pytest.mark.parametrize("length", [1, 2, 7, 16, 37])
def test_it_is_its_double_sum_whatever_the_tile(monkeypatch, base: int, length: int) -> None:
    monkeypatch.setattr(streaming, "BASE_TILE", base)
    u, k, skip = normal(2, 3, length), normal(3, length, seed=1), normal(3, seed=2)
    y = skip[:, None] * u
    for t in range(length):
        for s in range(t + 1):
            y[..., t] += k[:, t - s] * u[..., s]
    close(stream(u, k, skip), y)


@DRAWN
@given(st.integers(1, 3), st.integers(1, 4), PROMPTS, STEPS, TAPS, st.booleans(), SEEDS)
def test_streaming_equals_parallel(batch, channels, prompt, steps, taps, with_skip, seed) -> None:
    if prompt + steps == 0:
        return
    u, k = normal(batch, channels, prompt + steps, seed=seed), normal(channels, taps, seed=seed + 1)
    skip = normal(channels, seed=seed + 2) if with_skip else None
    close(stream(u, k, skip, prompt), causal_conv(u, k, skip))
    single = (None if x is None else x.float() for x in (u, k, skip))
    close(stream(*single, prompt).double(), causal_conv(u, k, skip), 1e-5)


@DRAWN
@given(st.integers(0, 20), st.integers(1, 70), st.integers(1, 100), st.sampled_from([1, 2, 8]), SEEDS)
def test_streaming_equals_parallel_over_many_sizes_of_squares(prompt, steps, taps, base, seed) -> None:
    u, k = normal(1, 2, prompt + steps, seed=seed), normal(2, taps, seed=seed + 1)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(streaming, "BASE_TILE", base)
        close(stream(u, k, prompt=prompt), causal_conv(u, k))


def test_without_a_prompt_and_with_an_empty_one_the_outputs_are_the_same() -> None:
    u, k = normal(2, 3, 200), normal(3, 200)
    assert torch.equal(stream(u, k), stream(u, k, prompt=0))


def test_it_stays_exact_over_thousands_of_steps(unchecked) -> None:
    u, k, skip = normal(1, 2, 5000), normal(2, 5000, seed=1), normal(2)
    close(stream(u, k, skip, prompt=1000), causal_conv(u, k, skip))
    close(stream(u.float(), k.float(), skip.float()).double(), causal_conv(u, k, skip), 1e-5)


@pytest.mark.parametrize("taps", [3, 300])
@pytest.mark.parametrize("prompt", [0, 40])
def test_outputs_are_fixed_before_later_inputs_are_known(unchecked, taps: int, prompt: int) -> None:
    u, k = normal(2, 3, 260), normal(3, taps, seed=1)
    whole = stream(u, k, prompt=prompt)
    for t in (41, 64, 105, 168, 259):
        changed = u.clone()
        changed[..., t:] += 1
        y = stream(changed, k, prompt=prompt)
        assert torch.equal(y[..., :t], whole[..., :t])
        assert not torch.equal(y[..., t], whole[..., t])


# Work and memory


@pytest.mark.parametrize("taps", [1, 3, BASE_TILE])
def test_a_short_kernel_never_meets_a_transform_and_costs_its_taps(unchecked, transforms, taps: int) -> None:
    conv = OnlineConvolution(normal(5, taps), batch=2, steps=1000)
    for t in range(1000):
        conv.step(normal(2, 5, seed=t))
    assert not transforms
    assert {weights.shape[0] for _, _, _, weights, _ in conv._slots} == {taps}
    assert held_by(conv) < 2 * 5 * 8 * (6 * max(taps, streaming.SHORT_TILE))  # whatever the number of steps


def test_a_stream_no_longer_than_the_base_tile_never_meets_a_transform(transforms) -> None:
    stream(normal(1, 2, BASE_TILE), normal(2, 500))
    assert not transforms


@pytest.mark.parametrize("length", [256, 1000, 2048])
def test_there_is_one_convolution_for_every_base_tile(unchecked, transforms, length: int) -> None:
    stream(normal(1, 1, length), normal(1, length))
    squares = -(-length // BASE_TILE) - 1
    assert 2 * squares < len(transforms) <= 2 * squares + log2(length)  # and the kernel once for every size


def test_a_prompt_costs_one_convolution(transforms) -> None:
    conv = OnlineConvolution(normal(1, 3000), batch=1, steps=200)
    conv.prefill(normal(1, 1, 1000))
    assert len(transforms) == 3
    assert max(transforms) < 2 * (1000 + 200) + 100


def test_work_grows_as_length_times_its_squared_logarithm(unchecked, transforms) -> None:
    work = []
    for length in (1024, 2048, 4096, 8192, 16384):
        transforms.clear()
        stream(normal(1, 1, length), normal(1, length))
        products = length * (BASE_TILE + 1) / 2
        work.append(products + sum(n * log2(n) for n in transforms))
        assert work[-1] < 1.3 * length * log2(length) ** 2
    assert all(after / before < 2.6 for before, after in pairwise(work))


def test_no_square_is_larger_than_the_kernel(unchecked, transforms) -> None:
    stream(normal(1, 1, 4096), normal(1, 200))
    assert max(transforms) == 400


def held_by(conv: OnlineConvolution) -> int:
    """Bytes of all storage that `conv` keeps alive, with the spectra remembered for it."""
    tensors = [x for x in vars(conv).values() if isinstance(x, Tensor)] + [slot[3] for slot in conv._slots]
    for lags in getattr(conv, "_lags", {}).values():
        tensors += [lags, fftconv._spectra[lags][1]]
    storages = {s.data_ptr(): s.nbytes() for s in (x.untyped_storage() for x in tensors)}
    return sum(storages.values())


def used(prompt: int, steps: int) -> OnlineConvolution:
    conv = OnlineConvolution(normal(2, 12_000), batch=1, steps=steps)
    conv.prefill(normal(1, 2, prompt))
    for u in normal(steps, 1, 2):
        conv.step(u)
    return conv


def test_memory_grows_with_the_steps_and_not_with_the_prompt_or_the_kernel(unchecked) -> None:
    one, two = held_by(used(0, 1000)), held_by(used(0, 2000))
    assert 1.7 < two / one < 2.1
    assert one < 10 * 1000 * 2 * 8
    assert held_by(used(10_000, 1000)) == one


@pytest.mark.parametrize("taps", [3, 300])
def test_its_memory_is_free_as_soon_as_it_is_dropped(taps: int) -> None:
    gc.collect()
    remembered = len(fftconv._spectra)
    conv = OnlineConvolution(normal(2, taps), batch=1, steps=200)
    for u in normal(200, 1, 2):
        conv.step(u)
    gone = weakref.ref(conv._inputs)
    gc.disable()
    del conv
    gc.enable()
    assert gone() is None
    assert len(fftconv._spectra) == remembered


def test_the_spectra_of_the_kernel_are_computed_once(unchecked, monkeypatch) -> None:
    """The kernel is told from inputs by its batch of 1; it comes padded to the size of its transform."""
    seen: list[Tensor] = []
    rfft = torch.fft.rfft
    monkeypatch.setattr(torch.fft, "rfft", lambda x, n: (seen.append(x) if len(x) == 1 else None, rfft(x, n))[1])
    with torch.inference_mode():
        stream(normal(3, 2, 1024), normal(2, 1024))
    assert sorted(x.shape[-1] for x in seen) == [128, 256, 512, 1024]


# Precision, gradients, modes


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
def test_half_precision_input_is_convolved_in_float32_and_returned_as_it_came(half: torch.dtype) -> None:
    u, k = normal(2, 3, 300).to(half), normal(3, 300).float()
    y = stream(u, k, prompt=100)
    assert y.dtype is half
    assert torch.equal(y, stream(u.float(), k, prompt=100).to(half))


def test_gradients_stop_at_every_input() -> None:
    u, k, skip = (x.requires_grad_() for x in (normal(1, 2, 140), normal(2, 100), normal(2)))
    y = stream(u, k, skip, prompt=10)
    assert not y.requires_grad
    close(y, causal_conv(u, k, skip).detach())


@pytest.mark.parametrize("made_inside", [False, True])
@pytest.mark.parametrize("taps", [3, 200])
def test_inference_mode_may_begin_and_end_at_any_step(made_inside: bool, taps: int) -> None:
    u, k = normal(1, 2, 200), normal(2, taps)
    with torch.inference_mode(made_inside):
        conv = OnlineConvolution(k.clone(), batch=1, steps=200)
    y = []
    for t in range(200):
        with torch.inference_mode(t % 3 == 0):
            y.append(conv.step(u[..., t]))
    close(torch.stack(y, -1), causal_conv(u, k))


@pytest.mark.parametrize("taps", [3, 200])
def test_outputs_and_kernel_are_nobody_elses(taps: int) -> None:
    u, k = normal(1, 2, 200), normal(2, taps)
    kept, conv = k.clone(), OnlineConvolution(k, batch=1, steps=150)
    y = [conv.prefill(u[..., :50])]
    k.zero_()
    expected = causal_conv(u, kept)
    close(y[0], expected[..., :50])
    for t in range(50, 200):
        out = conv.step(u[..., t])
        close(out, expected[..., t])
        out.fill_(7)


# Errors


def test_one_step_too_many_is_refused_with_the_number_allowed() -> None:
    conv = OnlineConvolution(normal(2, 5), batch=1, steps=2)
    for _ in range(2):
        conv.step(normal(1, 2))
    with pytest.raises(HyenaError, match=r"step\(\) number 3, but steps=2 was allowed: .* larger steps"):
        conv.step(normal(1, 2))


def test_a_second_prompt_or_one_after_a_step_is_refused() -> None:
    conv = OnlineConvolution(normal(2, 5), batch=1, steps=2)
    conv.prefill(normal(1, 2, 3))
    with pytest.raises(HyenaError, match="a second time: it is allowed once, before"):
        conv.prefill(normal(1, 2, 3))
    conv.step(normal(1, 2))
    with pytest.raises(HyenaError, match=r"after step\(\): it is allowed once, before"):
        conv.prefill(normal(1, 2, 3))


@pytest.mark.parametrize(
    ("shape", "dtype", "device", "said"),
    [
        ((2, 3), torch.float32, "cpu", r"u is \(2, 3.* takes \(1, 3"),
        ((1, 4), torch.float32, "cpu", r"u is \(1, 4.* takes \(1, 3"),
        ((1, 3), torch.float64, "cpu", "float64 on cpu, .* bfloat16 or float16 or float32, on cpu"),
        ((1, 3), torch.int64, "cpu", "int64 on cpu"),
        ((1, 3), torch.float32, "meta", "on meta, .* on cpu"),
    ],
    ids=["batch", "channels", "wider", "integers", "device"],
)
def test_a_wrong_input_is_refused_and_changes_nothing(unchecked, shape, dtype, device, said) -> None:
    conv = OnlineConvolution(normal(3, 8).float(), batch=1, steps=4)
    u = torch.ones(shape, dtype=dtype, device=device)
    with pytest.raises(HyenaError, match=said):
        conv.prefill(u[..., None].expand(*shape, 2))
    with pytest.raises(HyenaError, match=said):
        conv.step(u)
    assert conv.prefill(torch.ones(1, 3, 2)).shape == (1, 3, 2)
    assert conv.step(torch.ones(1, 3)).shape == (1, 3)


@pytest.mark.parametrize("u", [torch.ones(3), torch.ones(1, 3, 1), torch.ones(())], ids=["flat", "prompt", "number"])
def test_an_input_with_the_wrong_number_of_dimensions_is_refused(unchecked, u: Tensor) -> None:
    conv = OnlineConvolution(normal(3, 8).float(), batch=1, steps=4)
    with pytest.raises(HyenaError, match=r"takes \(1, 3\)"):
        conv.step(u)


@pytest.mark.parametrize(
    ("k", "skip", "batch", "steps", "said"),
    [
        (torch.ones(3), None, 1, 1, r"\(channels, taps\).* got \(3,\)"),
        (torch.ones(3, 0), None, 1, 1, r"got \(3, 0\)"),
        (torch.ones(3, 4).half(), None, 1, 1, "float16: convert it"),
        (torch.ones(3, 4), torch.ones(4), 1, 1, r"\(3,\), .* got \(4,\)"),
        (torch.ones(3, 4), torch.ones(3, device="meta"), 1, 1, "on cpu: .* on meta"),
        (torch.ones(3, 4), None, 0, 1, "batch=0"),
        (torch.ones(3, 4), None, 1, -1, "steps=-1"),
    ],
    ids=["dimensions", "no-taps", "half-kernel", "skip", "device-of-skip", "batch", "steps"],
)
def test_bad_arguments_are_refused_with_what_was_given(unchecked, k, skip, batch, steps, said) -> None:
    with pytest.raises(HyenaError, match=said):
        OnlineConvolution(k, skip, batch=batch, steps=steps)
