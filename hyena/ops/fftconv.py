"""Long convolutions by FFT: the one place in this package where a convolution is computed.

The textbook form `irfft(rfft(u) * rfft(k))` writes three complex arrays, each larger than the input, to main
memory and autograd keeps two of them. Here a block of channels is carried through the whole chain while its
spectra are still in cache. The backward pass keeps them where they are small and recomputes them elsewhere.
Long transforms on a CPU are folded (`_fold`): no padding, and only short transforms, which stay in cache.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

# A block's input, spectrum and output take this many bytes, a share of a typical last-level cache; and a block
# holds enough transforms to feed every thread, however long they are (`hyena bench fftconv`).
BLOCK_BYTES = 2**23
MIN_TRANSFORMS = 8
KEEP_BYTES = 2**24  # spectra of one convolution kept for its backward pass; above, memory costs more than transforms
FOLD_LENGTH = 2**19  # inputs at least this long are folded
FOLD_ROWS = 512
KERNEL_DTYPES = (torch.float32, torch.float64)  # never half: its transforms lose the small taps

_spectra: WeakIdKeyDictionary = WeakIdKeyDictionary()


def causal_conv(
    u: Float[Tensor, "*batch channels length"],
    k: Float[Tensor, "channels taps"],
    skip: Float[Tensor, " channels"] | None = None,
) -> Float[Tensor, "*batch channels length"]:
    r"""Causal depthwise convolution of any length.

    $$y_t = \sum_{s=0}^{t} k_{t-s}\, u_s + d\, u_t$$

    (Poli et al. 2023, Section 2.1; $d$ is the `skip` of the official operator.) Computed in the precision of
    `k`, so that a half-precision `u` under autocast is transformed in float32; the result has `u`'s dtype.

    Arguments:
        u: input.
        k: kernel; taps beyond `length` have no effect, missing ones are zero.
        skip: weight of the input in the output, one per channel.

    Raises:
        TypeError: a dtype that is not real floating point, half-precision `k`, or `u` wider than `k`.
        ValueError: channels or devices differ, or a tensor is empty.
    """
    _check(u, k)
    length = u.shape[-1]
    if k.shape[-1] > length:
        k = k[:, :length]
    return _conv(u, k, skip, 0)


def two_sided_conv(
    u: Float[Tensor, "*batch channels length"],
    k: Float[Tensor, "channels taps"],
    skip: Float[Tensor, " channels"] | None = None,
) -> Float[Tensor, "*batch channels length"]:
    r"""Non-causal depthwise convolution, every output sees every input.

    $$y_t = \sum_{s=0}^{L-1} k_{t-s+L-1}\, u_s + d\, u_t$$

    Arguments:
        u: input of length $L$.
        k: kernel of $2L-1$ taps; index $j$ is lag $j-(L-1)$, the middle one is lag zero.
        skip: weight of the input in the output, one per channel.

    Raises:
        TypeError, ValueError: as `causal_conv`; also when `k` does not have $2L-1$ taps.
    """
    _check(u, k)
    length = u.shape[-1]
    if k.shape[-1] != 2 * length - 1:
        raise ValueError(
            f"two_sided_conv needs 2 * length - 1 = {2 * length - 1} taps for length {length}, got {k.shape[-1]}"
        )
    return _conv(u, k, skip, length - 1)


@lru_cache(maxsize=1024)
def fft_size(least: int) -> int:
    """The smallest even size of at least `least` with no prime factor above 5."""
    best = 2 ** max(1, (least - 1).bit_length())
    five = 1
    while five < best:
        odd = five
        while odd < best:
            size = 2 * odd
            while size < least:
                size *= 2
            best = min(best, size)
            odd *= 3
        five *= 5
    return best


def _check(u: Tensor, k: Tensor) -> None:
    shape, taps = u.shape, k.shape
    if len(shape) < 2 or len(taps) != 2 or shape[-2] != taps[0]:
        raise ValueError(f"u is (..., channels, length) and k (channels, taps): got {tuple(shape)} and {tuple(taps)}")
    if 0 in shape or 0 in taps:
        raise ValueError(f"nothing to convolve: u has shape {tuple(shape)} and k {tuple(taps)}")
    if u.device != k.device:
        raise ValueError(f"u is on {u.device} but k is on {k.device}; move one of them")
    if k.dtype not in KERNEL_DTYPES or not u.is_floating_point():
        raise TypeError(f"k must be float32 or float64 and u floating point: got k {k.dtype} and u {u.dtype}")
    if u.dtype is not k.dtype and u.dtype is torch.float64:
        raise TypeError(f"u is {u.dtype} but k is {k.dtype}; convert one of them")


class _Plan(NamedTuple):
    """How signals become spectra, of shape (batch, channels, frequency)."""

    n: int  # points: real ones, or complex ones where folded
    offset: int  # the kernel's index of lag zero
    folded: bool


def _conv(u: Tensor, k: Tensor, skip: Tensor | None, offset: int) -> Tensor:
    if u.dim() != 3 or u.dtype is not k.dtype:  # by way of (batch, channels, length) in the kernel's precision
        return _conv(u.reshape(-1, *u.shape[-2:]).to(k.dtype), k, skip, offset).reshape(u.shape).to(u.dtype)
    plan = _plan(u, k, offset)
    if torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in (u, k, skip)):
        return _Conv.apply(u, k, skip, plan)
    return _convolve(u, k, skip, plan)


def _convolve(u: Tensor, k: Tensor, skip: Tensor | None, plan: _Plan, keep: list[Tensor] | None = None) -> Tensor:
    """(k * u)[t + offset] + skip u[t] for 0 <= t < L, a block of channels at a time; its spectra go to `keep`."""
    length, blocks, y = u.shape[-1], _blocks(u, plan), None
    for c in blocks:
        uf, kf = _transform(u[:, c], plan), _kernel_spectrum(k, skip, plan, c)
        if keep is None:
            uf.mul_(kf)
        else:
            keep += uf, kf
            uf = uf * kf
        yc = _signal(uf, plan)[..., :length]
        if len(blocks) == 1:  # needs no second copy
            return yc
        y = torch.empty_like(u, memory_format=torch.contiguous_format) if y is None else y
        y[:, c] = yc
    return y


class _Conv(torch.autograd.Function):
    """`_convolve` with a backward pass that keeps small spectra and recomputes large ones from `u` and `k`."""

    @staticmethod
    def forward(ctx, u: Tensor, k: Tensor, skip: Tensor | None, plan: _Plan) -> Tensor:
        ctx.plan = plan
        keep = [] if 2 * u.numel() * u.element_size() <= KEEP_BYTES else None
        y = _convolve(u, k, skip, plan, keep)
        ctx.save_for_backward(None if keep else u, k, skip, *(keep or ()))
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, g: Tensor):
        u, k, skip, *kept = ctx.saved_tensors
        plan, (want_u, want_k, want_skip, _) = ctx.plan, ctx.needs_input_grad
        du = torch.empty_like(g, memory_format=torch.contiguous_format) if want_u else None
        dk = torch.empty_like(k, memory_format=torch.contiguous_format) if want_k or want_skip else None
        for i, c in enumerate(_blocks(g, plan)):
            gf = _transform(g[:, c], plan).conj_physical_()
            if dk is not None:
                uf = kept[2 * i] if kept else _transform(u[:, c], plan)
                dk[c] = _taps((uf * gf).sum(0, keepdim=True).conj_physical_(), plan)[0, :, : k.shape[-1]]
            if want_u:
                kf = kept[2 * i + 1] if kept else _kernel_spectrum(k, skip, plan, c)
                du[:, c] = _signal(gf.mul_(kf).conj_physical_(), plan)[..., : g.shape[-1]]
        # The skip weight is a tap at lag zero: it has that tap's gradient.
        return du, dk if want_k else None, dk[:, plan.offset].clone() if want_skip else None, None


def _plan(u: Tensor, k: Tensor, offset: int) -> _Plan:
    length, taps = u.shape[-1], k.shape[-1]
    if u.device.type == "cpu" and length >= FOLD_LENGTH and offset == 0 and 2 * taps > length:
        return _Plan(FOLD_ROWS * fft_size(-(-length // FOLD_ROWS)), 0, True)
    # Outputs beyond the size wrap around to negative lags, where nothing is read.
    return _Plan(fft_size(max(length + taps - 1 - offset, 2)), offset, False)


def _blocks(u: Tensor, plan: _Plan) -> list[slice]:
    batch, channels, _ = u.shape
    if u.is_cuda:
        return [slice(0, channels)]
    size = 3 * batch * plan.n * u.element_size()
    width = max(1, BLOCK_BYTES // size, 0 if plan.folded else MIN_TRANSFORMS // batch)
    return [slice(c, c + width) for c in range(0, channels, width)]


def _transform(x: Tensor, plan: _Plan) -> Tensor:
    return _fold(x, plan.n) if plan.folded else torch.fft.rfft(x, plan.n)


def _signal(spectrum: Tensor, plan: _Plan) -> Tensor:
    return _unfold(spectrum) if plan.folded else torch.fft.irfft(spectrum, plan.n)


def _taps(spectrum: Tensor, plan: _Plan) -> Tensor:
    taps = _signal(spectrum, plan)
    return taps.roll(plan.offset, -1) if plan.offset else taps


def _fold(x: Tensor, n: int) -> Tensor:
    r"""The values of $\sum_t x_t z^t$ at the $n$ roots of $z^n = i$, in some order.

    A causal product reduced modulo $z^n - i$ has its first $n$ outputs as real part and the later ones as imaginary
    part: nothing is padded. With $t$ split into (row, column), transforms over rows, a twiddle and transforms over
    columns reach all roots (Bailey's four steps). Both factors of a convolution come in the same order, whatever
    it is. One signal at a time: a transpose is fast where it has two dimensions.
    """
    rows, twiddle, _ = _twiddles(n, x.dtype, x.device)
    spectra = []
    x = torch.nn.functional.pad(x, (0, n - x.shape[-1])) if x.shape[-1] < n else x
    for signal in x.flatten(0, 1):
        # The result of a strided transform lies transposed in memory, as the twiddle does.
        z = torch.fft.fft(signal.view(FOLD_ROWS, -1) * rows, dim=0).mul_(twiddle)
        spectra.append(torch.fft.fft(z.contiguous()).flatten())
    return _stack(spectra).view(x.shape)


def _unfold(spectrum: Tensor) -> Tensor:
    """The inverse of `_fold`, the real part only."""
    rows, _, twiddle = _twiddles(spectrum.shape[-1], spectrum.real.dtype, spectrum.device)
    signals = []
    for z in spectrum.flatten(0, 1):
        z = torch.fft.ifft(z.view(FOLD_ROWS, -1)).mul_(twiddle)
        z = torch.fft.ifft(z, dim=0).mul_(rows.conj())
        signals.append(z.real.T.contiguous().T.flatten())  # two copies are faster than one that is strided both ways
    return _stack(signals).view(spectrum.shape)


def _stack(rows: list[Tensor]) -> Tensor:
    return torch.stack(rows) if len(rows) > 1 else rows[0]  # one row is the rule: no copy


@lru_cache(maxsize=2)  # each is as large as the spectra of two channels
def _twiddles(n: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """The weights of the rows, the twiddle between the transforms, and its conjugate for the way back."""
    with torch.inference_mode(False), torch.no_grad():  # inference tensors would be of no use to training
        row = torch.arange(FOLD_ROWS, dtype=torch.float64, device=device)[:, None]
        column = torch.arange(n // FOLD_ROWS, dtype=torch.float64, device=device)
        angle = -2 * math.pi / n * (row - 0.25) * column
        rows, twiddle = (
            torch.polar(torch.ones_like(x), x).to(dtype.to_complex()) for x in (row * math.pi / 2 / FOLD_ROWS, angle)
        )
        return rows, twiddle.T.contiguous().T, twiddle.conj_physical()


def _kernel_spectrum(k: Tensor, skip: Tensor | None, plan: _Plan, c: slice) -> Tensor:
    """The spectrum of channels `c` with the skip weight added at lag zero, at every frequency the same."""
    frozen = None if k.requires_grad else _frozen_spectrum(k, plan)
    kf = _taps_spectrum(k[c], plan) if frozen is None else frozen[:, c]
    return kf if skip is None else kf + skip[c, None]


def _taps_spectrum(k: Tensor, plan: _Plan) -> Tensor:
    if plan.offset:  # lag zero to the front, negative lags to the end
        k = torch.nn.functional.pad(k, (0, plan.n - k.shape[-1])).roll(-plan.offset, -1)
    return _transform(k[None], plan)


def _frozen_spectrum(k: Tensor, plan: _Plan) -> Tensor | None:
    """The whole spectrum of a frozen kernel, remembered for as long as the kernel lives unchanged."""
    if k.is_inference():  # carries no version, so a change could not be noticed
        return None
    now = (plan, k._version, k.dtype, k.data_ptr())  # `module.double()` changes the last two, not the version
    known, spectrum, _ = _spectra.get(k, (None, None, None))
    if known != now:
        with torch.inference_mode(False), torch.no_grad():
            spectrum = _taps_spectrum(k, plan)
            _spectra[k] = (now, spectrum, k.detach())  # the alias keeps its address from being given to other data
    return spectrum
