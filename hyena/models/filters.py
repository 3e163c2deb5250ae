"""Other ways to parametrise a long filter, each a drop-in for `HyenaFilter` (Poli et al. 2023, Appendix A.1).

A filter is a module with `l_max`, `forward(length)` giving (channels, length) taps, and `skip()`, the weight of the
input itself. In a language model all start with comparable energy, and none is decayed by the optimiser.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from hyena.models.convolution import check_length
from hyena.models.hyena import Sine
from hyena.ops.ssm import diagonal_kernel, rational_kernel, s4d_lin


class LongFilter(nn.Module):
    """What the parametrisations share: the bound on the length, and one skip weight per channel."""

    def __init__(self, channels: int, l_max: int):
        super().__init__()
        self.l_max = l_max
        self.bias = nn.Parameter(torch.randn(channels))

    def forward(self, length: int) -> Float[Tensor, "channels length"]:
        """The first `length` taps of every filter.

        Raises:
            ValueError: `length` exceeds `l_max`.
        """
        check_length(length, self.l_max)
        return self.response(length)

    def response(self, length: int) -> Float[Tensor, "channels length"]:
        """The taps, for a length that is allowed."""
        raise NotImplementedError

    def skip(self) -> Float[Tensor, " channels"]:
        """Weight of the input in the output of each convolution."""
        return self.bias

    def undecayed(self) -> None:
        """Exempt everything but the skip weights from weight decay, as `HyenaFilter`'s network is."""
        for name, parameter in self.named_parameters():
            if name != "bias":
                parameter._optim = {"weight_decay": 0.0}


class ExplicitFilter(LongFilter):
    """Conv1d: the first `taps` taps are free numbers, the rest is zero (64 in Table A.2)."""

    def __init__(self, channels: int, l_max: int, taps: int = 64):
        super().__init__(channels, l_max)
        self.taps = nn.Parameter(_uniform(channels, min(taps, l_max)))
        self.undecayed()

    def response(self, length: int) -> Float[Tensor, "channels length"]:
        taps = self.taps[:, :length]
        return nn.functional.pad(taps, (0, length - taps.shape[1]))


class FourierFilter(LongFilter):
    """FNO: the lowest `modes` Fourier coefficients over `l_max` positions are free, the others zero (64)."""

    def __init__(self, channels: int, l_max: int, modes: int = 64):
        super().__init__(channels, l_max)
        modes = min(modes, l_max // 2 + 1)
        self.coefficients = nn.Parameter(_uniform(channels, 2 * modes).view(channels, modes, 2))
        self.undecayed()

    def response(self, length: int) -> Float[Tensor, "channels length"]:
        spectrum = torch.view_as_complex(self.coefficients)
        return torch.fft.irfft(spectrum, self.l_max, norm="ortho")[:, :length]


class StateSpaceFilter(LongFilter):
    """SSM, as in H3: the impulse response of a diagonal state space (S4D-Lin) of `d_state` real dimensions (64)."""

    def __init__(self, channels: int, l_max: int, d_state: int = 64, dt_min: float = 1e-3, dt_max: float = 0.1):
        super().__init__(channels, l_max)
        A = s4d_lin(d_state // 2)
        self.log_A_real = nn.Parameter(torch.log(-A.real).repeat(channels, 1))
        self.A_imag = nn.Parameter(A.imag.repeat(channels, 1))
        self.C = nn.Parameter(torch.randn(channels, d_state // 2, 2) * math.sqrt(0.5))
        self.log_dt = nn.Parameter(torch.empty(channels).uniform_(math.log(dt_min), math.log(dt_max)))
        self.undecayed()

    def response(self, length: int) -> Float[Tensor, "channels length"]:
        A = torch.complex(-self.log_A_real.exp(), self.A_imag)
        return diagonal_kernel(A, torch.view_as_complex(self.C), self.log_dt.exp(), length)


class TransferFunctionFilter(LongFilter):
    """TransferFunc: the impulse response of a rational function of `order` coefficients above and below (64)."""

    def __init__(self, channels: int, l_max: int, order: int = 64):
        super().__init__(channels, l_max)
        self.numerator = nn.Parameter(_uniform(channels, order))
        self.denominator = nn.Parameter(torch.zeros(channels, order))  # no poles: starts as `order` free taps
        self.undecayed()

    def response(self, length: int) -> Float[Tensor, "channels length"]:
        return rational_kernel(self.numerator, self.denominator, self.l_max)[:, :length]


class CKConvFilter(LongFilter):
    """CKConv (Romero et al. 2022): a sine network of the bare position in [-1, 1], no features and no window."""

    def __init__(self, channels: int, l_max: int, width: int = 32, w: float = 10.0):
        super().__init__(channels, l_max)
        self.register_buffer("t", torch.linspace(-1, 1, l_max)[:, None])
        sine = Sine(width, w)
        self.network = nn.Sequential(
            nn.Linear(1, width), sine, nn.Linear(width, width), sine, nn.Linear(width, channels, bias=False)
        )
        self.undecayed()

    def response(self, length: int) -> Float[Tensor, "channels length"]:
        return self.network(self.t[:length]).T.to(self.t.dtype)  # autocast makes it bfloat16


class FixedFilter(nn.Module):
    """Taps that are given and not trained: a distilled or a frozen filter."""

    def __init__(self, taps: Float[Tensor, "channels length"], skip: Float[Tensor, " channels"]):
        super().__init__()
        self.l_max = taps.shape[-1]
        self.register_buffer("taps", taps.detach().clone())
        self.register_buffer("bias", skip.detach().clone())

    def forward(self, length: int) -> Float[Tensor, "channels length"]:
        check_length(length, self.l_max)
        return self.taps[:, :length]

    def skip(self) -> Float[Tensor, " channels"]:
        """Weight of the input in the output of each convolution."""
        return self.bias


def _uniform(channels: int, count: int) -> Tensor:
    """As `nn.Conv1d` draws the taps of a depthwise convolution."""
    return torch.empty(channels, count).uniform_(-1, 1) / math.sqrt(count)
