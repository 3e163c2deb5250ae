"""Long convolutions by FFT: the one place in this package where a convolution is computed.

The textbook form `irfft(rfft(u) * rfft(k))` writes three complex arrays, each larger than the input, to main
memory and autograd keeps two of them. Here a block of channels is carried through the whole chain while its
spectra are still in cache, and the backward pass recomputes them from `u` and `k`.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

# A block's input, spectrum and output take this many bytes, a share of a typical last-level cache; and a block
# holds enough transforms to feed every thread, however long they are (`hyena bench fftconv`).
BLOCK_BYTES = 2**22
MIN_TRANSFORMS = 8
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
    if skip is not None:
        k = _add_at(k, 0, skip)  # d * u_t is a tap at lag zero
    return _conv(u, k, 0)


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
    if skip is not None:
        k = _add_at(k, length - 1, skip)
    return _conv(u, k, length - 1)


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


def _add_at(k: Tensor, index: int, value: Tensor) -> Tensor:
    return torch.cat([k[:, :index], (k[:, index] + value)[:, None], k[:, index + 1 :]], dim=-1)


def _conv(u: Tensor, k: Tensor, offset: int) -> Tensor:
    if u.dim() != 3 or u.dtype is not k.dtype:  # by way of (batch, channels, length) in the kernel's precision
        return _conv(u.reshape(-1, *u.shape[-2:]).to(k.dtype), k, offset).reshape(u.shape).to(u.dtype)
    differentiable = torch.is_grad_enabled() and (u.requires_grad or k.requires_grad)
    return _Conv.apply(u, k, offset) if differentiable else _convolve(u, k, offset)


def _convolve(u: Tensor, k: Tensor, offset: int) -> Tensor:
    """(k * u)[t + offset] for 0 <= t < L, a block of channels at a time."""
    length, n = u.shape[-1], _size(u, k, offset)
    spectrum = None if k.requires_grad else _spectrum(k, n)
    blocks = _blocks(u, n)
    if len(blocks) == 1:  # needs no second copy
        kf = torch.fft.rfft(k, n) if spectrum is None else spectrum
        return torch.fft.irfft(torch.fft.rfft(u, n).mul_(kf), n)[..., offset : offset + length]
    y = torch.empty_like(u, memory_format=torch.contiguous_format)
    for c in blocks:
        kf = torch.fft.rfft(k[c], n) if spectrum is None else spectrum[c]
        full = torch.fft.irfft(torch.fft.rfft(u[:, c], n).mul_(kf), n)
        y[:, c] = full[..., offset : offset + length]
    return y


class _Conv(torch.autograd.Function):
    """`_convolve` with a backward pass that recomputes the spectra from `u` and `k`."""

    @staticmethod
    def forward(ctx, u: Tensor, k: Tensor, offset: int) -> Tensor:
        ctx.save_for_backward(u, k)
        ctx.offset = offset
        return _convolve(u, k, offset)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, g: Tensor):
        u, k = ctx.saved_tensors
        want_u, want_k, _ = ctx.needs_input_grad
        length, taps, n = u.shape[-1], k.shape[-1], _size(u, k, ctx.offset)
        du = torch.empty_like(u, memory_format=torch.contiguous_format) if want_u else None
        dk = torch.empty_like(k, memory_format=torch.contiguous_format) if want_k else None
        for c in _blocks(u, n):
            gc = torch.nn.functional.pad(g[:, c], (ctx.offset, 0)) if ctx.offset else g[:, c]
            gf = torch.fft.rfft(gc, n)
            if want_k:
                uf = torch.fft.rfft(u[:, c], n)
                dk[c] = torch.fft.irfft(uf.conj_physical_().mul_(gf).sum(0), n)[..., :taps]
            if want_u:
                kf = torch.fft.rfft(k[c], n).conj_physical_()
                du[:, c] = torch.fft.irfft(gf.mul_(kf), n)[..., :length]
        return du, dk, None


def _size(u: Tensor, k: Tensor, offset: int) -> int:
    # Outputs beyond the size wrap around to places below `offset`, where nothing is read.
    return fft_size(max(u.shape[-1] + k.shape[-1] - 1 - offset, 2))


def _blocks(u: Tensor, n: int) -> list[slice]:
    batch, channels, _ = u.shape
    if u.is_cuda:
        return [slice(0, channels)]
    width = max(1, BLOCK_BYTES // (3 * batch * n * u.element_size()), MIN_TRANSFORMS // batch)
    return [slice(c, c + width) for c in range(0, channels, width)]


def _spectrum(k: Tensor, n: int) -> Tensor | None:
    """The whole spectrum of a frozen kernel, remembered for as long as the kernel lives unchanged."""
    if k.is_inference():  # carries no version, so a change could not be noticed
        return None
    now = (n, k._version, k.dtype, k.data_ptr())  # `module.double()` changes the last two, not the version
    known, spectrum, _ = _spectra.get(k, (None, None, None))
    if known != now:
        spectrum = torch.fft.rfft(k, n)
        _spectra[k] = (now, spectrum, k.detach())  # the alias keeps its address from being given to other data
    return spectrum
