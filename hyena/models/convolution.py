"""What all convolutional mixers share: one description, run over a whole sequence or one step at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from hyena.errors import HyenaError
from hyena.ops.fftconv import causal_conv
from hyena.ops.streaming import OnlineConvolution

# Convolution number i of a mixer, applied to (batch, channels, length).
Convolve = Callable[[int, Tensor], Tensor]
# A mixer that remembers: called with the prompt, then with one position after the other, (batch, length, d_model).
Stream = Callable[[Tensor], Tensor]


class Kernel(NamedTuple):
    """A causal depthwise convolution: taps, weight of the input itself, constant."""

    taps: Float[Tensor, "channels taps"]
    skip: Float[Tensor, " channels"] | None = None
    bias: Float[Tensor, " channels"] | None = None


def check_length(length: int, l_max: int) -> None:
    """Refuse an input for which a filter has no taps, where it would be cut or wrapped."""
    if length > l_max:
        raise HyenaError(
            f"length {length} exceeds l_max {l_max}: the filter has no further taps; "
            f"build the model with l_max={length} or shorten the input"
        )


class ConvolutionMixer(nn.Module):
    """A mixer in which positions meet in causal convolutions alone; all else acts on each position by itself.

    A subclass says what its convolutions are (`kernels`) and how they are wired (`mix`). From these follow the
    parallel form, by FFT over the whole sequence, and the exact step-by-step form for generation.
    """

    def kernels(self, length: int) -> list[Kernel]:
        """The convolutions for inputs of up to `length`, in the order of their numbers."""
        raise NotImplementedError

    def mix(self, u: Float[Tensor, "batch length d_model"], convolve: Convolve) -> Tensor:
        """The output, where `convolve(i, x)` applies convolution number i."""
        raise NotImplementedError

    def forward(self, u: Float[Tensor, "batch length d_model"]) -> Float[Tensor, "batch length d_model"]:
        """Causal: output t depends on inputs up to t."""
        kernels = self.kernels(u.shape[1])

        def convolve(i: int, x: Tensor) -> Tensor:
            k = kernels[i]
            y = causal_conv(x, k.taps, k.skip)
            return y if k.bias is None else y + k.bias[:, None]

        return self.mix(u, convolve)

    @torch.no_grad()
    def stream(self, batch: int, prompt: int, steps: int) -> Stream:
        """The same map one position at a time, in $O(L \\log^2 L)$ for L positions.

        Arguments:
            batch: number of sequences.
            prompt: length of the first input; 0 if there is none.
            steps: how many single positions will follow at most.
        """
        kernels = self.kernels(max(1, prompt + steps))
        states = [OnlineConvolution(k.taps, k.skip, batch=batch, steps=steps) for k in kernels]
        started = prompt == 0

        def convolve(i: int, x: Tensor) -> Tensor:
            y = states[i].step(x[..., 0])[..., None] if started else states[i].prefill(x)
            return y if kernels[i].bias is None else y + kernels[i].bias[:, None]

        @torch.no_grad()
        def run(u: Tensor) -> Tensor:
            nonlocal started
            y = self.mix(u, convolve)
            started = True
            return y

        return run
