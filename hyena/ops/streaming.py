r"""Causal convolution one input at a time: exact, and $O(L \log^2 L)$ for $L$ steps together.

$$y_t = \sum_{s=0}^{t} k_{t-s}\, u_s + d\, u_t$$

when $u_t$ is known only after $y_{t-1}$, as in generation. The sum alone costs $O(L)$ a step, $O(L^2)$ together.
Here the pairs $(s, t)$ below the diagonal are tiled by squares, each convolved as soon as its inputs are known:

    inputs s ->
    outputs t   \                      After t inputs, the last m of them meet the next m outputs through the lags
      |         1 \                    1 … 2m-1, where m is the largest power of two that divides t. Every pair of
      v         2 2 \                  an earlier input and a later output lies in exactly one square: the one of
                2 2 1 \                the t between them that has the largest m.
                4 4 4 4 \
                4 4 4 4 1 \            Below `BASE_TILE`, products are summed one by one instead.

That is $L / 2m$ convolutions of length $m$ for each $m$: $O(L \log L)$ a size, and $\log L$ sizes. With $K$ taps, no
square is larger than $K - 1$ and the cost is $O(L \log^2 \min(K, L))$.

This is the relaxed (online) multiplication of van der Hoeven, in sequence models found as
Flash Inference (Oncescu et al. 2024, arXiv 2410.12982) and
Continuous-FutureFill (Agarwal et al. 2024, arXiv 2410.03766).
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad

from hyena.errors import HyenaError
from hyena.ops.fftconv import KERNEL_DTYPES, causal_conv, two_sided_conv

BASE_TILE = 64  # a power of two; on a CPU 32 is up to a fifth slower, 128 as fast with a longer longest step
SHORT_TILE = 16  # outputs kept open at least, for a kernel that fits the base tile


class OnlineConvolution:
    r"""`causal_conv`, fed step by step: $y_t = \sum_{s \le t} k_{t-s} u_s + d\,u_t$.

        conv = OnlineConvolution(k, skip, batch=2, steps=1000)
        y = conv.prefill(prompt)        # (2, channels, prompt), optional
        y = conv.step(u)                # (2, channels), up to 1000 times

    A kernel of at most `BASE_TILE` taps costs $O(\text{taps})$ a step and never meets an FFT. A longer one costs
    amortised $O(\log^2)$ a step: most steps are cheap, one in `BASE_TILE` has a convolution to do. Memory grows with
    `steps` and not with the prompt. Nothing is differentiated: gradients stop at `u`, `k` and `skip`.

    Arguments:
        k: kernel, float32 or float64, in whose precision and on whose device all is computed. Missing taps are
            zero, those beyond prompt + steps have no effect. Copied as far as steps need it; a prompt may need
            more of it, so change it in place only after `prefill`.
        skip: weight of the input in the output, one per channel.
        batch: sequences at once.
        steps: how many inputs `step` will be given at most, after any prompt.

    Raises:
        HyenaError: an argument of the wrong shape, dtype, device or sign.
    """

    @torch.inference_mode(False)  # buffers made inside it could not be written outside
    def __init__(
        self,
        k: Float[Tensor, "channels taps"],
        skip: Float[Tensor, " channels"] | None = None,
        *,
        batch: int,
        steps: int,
    ) -> None:
        _check(k, skip, batch, steps)
        self._k: Tensor | None = k.detach()  # until no prompt can come any more
        self._skip = None if skip is None else skip.detach()
        self._steps, self._done = steps, 0
        channels, taps = k.shape
        self._shape, self._device, self._dtype = torch.Size((batch, channels)), k.device, k.dtype
        self._dtypes = {torch.float16, torch.bfloat16, torch.float32, k.dtype}
        self._short = taps <= BASE_TILE
        self._base = min(max(SHORT_TILE, taps) if self._short else BASE_TILE, max(steps, 1))
        self._reach = taps - 1  # the largest lag
        near = self._k[:, : taps if self._short else self._base].T.clone(memory_format=torch.contiguous_format)
        if skip is not None:
            near[0] += self._skip
        # One row per time, so that a step adds whole rows of channels.
        self._inputs = k.new_zeros(batch, self._base, channels)
        self._sums = k.new_zeros(batch, self._base + self._reach if self._short else self._base, channels)
        self._slots = [self._slot(j, near) for j in range(self._base)]
        if not self._short:
            self._allocate(self._k)

    def prefill(self, u: Float[Tensor, "batch channels prompt"]) -> Float[Tensor, "batch channels prompt"]:
        """Outputs for a whole prompt by one parallel convolution; what it owes to later outputs is kept.

        Raises:
            HyenaError: called twice or after `step`, or `u` of the wrong shape, dtype or device.
        """
        if self._k is None:
            when = "after step()" if self._done else "a second time"
            raise HyenaError(f"prefill() {when}: it is allowed once, before step(); make a new OnlineConvolution")
        if u.dim() != 3 or not self._fits(u, u.shape[:2]):
            raise self._refusal(u, f"({self._shape[0]}, {self._shape[1]}, prompt)")
        k, self._k = self._k, None
        if u.shape[-1] == 0:
            return u.detach().clone()
        prompt, tail = u.shape[-1], min(self._steps, self._reach)
        y = causal_conv(pad(u.detach().to(self._dtype), (0, tail)), k, self._skip)
        owed = y[..., prompt:]
        if self._short:
            self._sums[:, :tail] = owed.transpose(1, 2)
        else:
            self._cache[..., :tail] = owed
        return y[..., :prompt].to(u.dtype, copy=True)  # without the copy it would hold on to the tail

    def step(self, u: Float[Tensor, "batch channels"]) -> Float[Tensor, "batch channels"]:
        """The next output, given the next input.

        Raises:
            HyenaError: more than `steps` inputs, or `u` of the wrong shape, dtype or device.
        """
        if not self._fits(u, u.shape):
            raise self._refusal(u, f"{tuple(self._shape)}")
        done = self._done
        if done == self._steps:
            raise HyenaError(
                f"step() number {done + 1}, but steps={done} was allowed: make OnlineConvolution with larger steps"
            )
        j = done % self._base
        if j == 0:
            self._open_short(done) if self._short else self._open_long(done)
        self._done = done + 1
        row, spread, ahead, taps, here = self._slots[j]
        row.copy_(u.detach() if u.requires_grad else u)
        ahead.addcmul_(spread, taps)  # this input's share of this output and of the next ones in the tile
        y = here.clone()
        return y if u.dtype is y.dtype else y.to(u.dtype)

    def _slot(self, j: int, near: Tensor) -> tuple[Tensor, ...]:
        """The views that step j of a tile needs, made once: slicing would cost more than the arithmetic."""
        ahead = self._sums[:, j : j + near.shape[0]]
        return self._inputs[:, j], self._inputs[:, j : j + 1], ahead, near[: ahead.shape[1]], self._sums[:, j]

    def _open_short(self, done: int) -> None:
        """Move what the last tile owes to this one to the front."""
        self._k = None
        if done:
            self._sums[:, : self._reach] = self._sums[:, self._base :]
            self._sums[:, self._reach :] = 0

    @torch.inference_mode(False)  # or the kernels' spectra could not be remembered
    def _open_long(self, done: int) -> None:
        """Convolve the square that ends at `done`, then load the next tile's sums."""
        self._k = None
        if done:
            self._cache[..., done - self._base : done] = self._inputs.transpose(1, 2)
            self._add_square(done, min(done & -done, self._reach))
        self._sums.copy_(self._cache[..., done : done + self._base].transpose(1, 2))

    def _add_square(self, done: int, size: int) -> None:
        """Add the last `size` inputs' share to the next `size` outputs."""
        if size not in self._lags:  # a view that lives as long as we do, so `fftconv` keeps its spectrum
            self._lags[size] = self._far[:, 1 : 2 * size]
        share = two_sided_conv(self._cache[..., done - size : done], self._lags[size])
        later = self._cache[..., done : done + size]
        later += share[..., : later.shape[-1]]

    def _allocate(self, k: Tensor) -> None:
        """For a long kernel: one row of inputs already given, then sums owed to outputs not yet asked for."""
        tiles = -(-max(self._steps, 1) // self._base)
        self._cache = k.new_zeros(*self._shape, tiles * self._base)
        largest = min(self._base * 2 ** (max(tiles - 1, 1).bit_length() - 1), self._reach)
        self._far = pad(k[:, : 2 * largest], (0, max(0, 2 * largest - k.shape[-1]))).clone()
        self._lags: dict[int, Tensor] = {}

    def _fits(self, u: Tensor, shape: torch.Size) -> bool:
        return shape == self._shape and u.dtype in self._dtypes and u.device == self._device

    def _refusal(self, u: Tensor, shape: str) -> HyenaError:
        names = sorted(str(d).removeprefix("torch.") for d in self._dtypes)
        return HyenaError(
            f"u is {tuple(u.shape)} {str(u.dtype).removeprefix('torch.')} on {u.device}, but this OnlineConvolution "
            f"takes {shape}, {' or '.join(names)}, on {self._device}: convert u or make another"
        )


def _check(k: Tensor, skip: Tensor | None, batch: int, steps: int) -> None:
    if k.dim() != 2 or 0 in k.shape:
        raise HyenaError(f"k must be (channels, taps), neither of them 0: got {tuple(k.shape)}")
    if k.dtype not in KERNEL_DTYPES:
        raise HyenaError(f"k must be float32 or float64, got {k.dtype}: convert it with k.float()")
    if skip is not None and (skip.shape != k.shape[:1] or skip.device != k.device):
        raise HyenaError(
            f"skip must have shape ({k.shape[0]},), one weight per channel of k, on {k.device}: "
            f"got {tuple(skip.shape)} on {skip.device}"
        )
    if batch < 1 or steps < 0:
        raise HyenaError(f"batch must be at least 1 and steps at least 0: got batch={batch} and steps={steps}")
