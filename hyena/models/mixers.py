"""The operators that the paper compares Hyena with, as drop-in mixers, and a table of all rows by name."""

from __future__ import annotations

import inspect
from collections.abc import Callable

import torch
from torch import Tensor, nn

from hyena.errors import unknown
from hyena.models.attention import CausalAttention
from hyena.models.convolution import ConvolutionMixer, Convolve, Kernel
from hyena.models.filters import (
    CKConvFilter,
    ExplicitFilter,
    FourierFilter,
    StateSpaceFilter,
    TransferFunctionFilter,
)
from hyena.models.hyena import HyenaOperator

FILTERS = {
    "conv1d": ExplicitFilter,
    "fno": FourierFilter,
    "ssm": StateSpaceFilter,
    "transfer_function": TransferFunctionFilter,
    "ckconv": CKConvFilter,
}  # parametrisations of the long filter inside Hyena's own shell
# Weights e^k are kept within e^-10 to e^10: a sum by FFT errs by 1e-16 of its largest term or so, which at e^15 would
# be a tenth of the small sums, and that of terms still to come.
LARGEST_EXPONENT = 10.0


class H3(ConvolutionMixer):
    r"""Two state spaces between gates (Fu et al. 2023, arXiv 2212.14052, Section 3, heads of width 1).

    $$y = W_{out}\,\big(q \odot \mathrm{SSM_{diag}}(\mathrm{SSM_{shift}}(k) \odot v)\big)$$

    The shift state space of `d_state` dimensions is a free filter of as many taps; the diagonal one is S4D-Lin.
    """

    def __init__(self, d_model: int, l_max: int, d_state: int = 64):
        super().__init__()
        self.d_model = d_model
        self.in_proj = nn.Linear(d_model, 3 * d_model)
        self.out_proj = nn.Linear(d_model, d_model)
        self.shift = ExplicitFilter(d_model, l_max, taps=d_state)
        self.diagonal = StateSpaceFilter(d_model, l_max, d_state)

    def kernels(self, length: int) -> list[Kernel]:
        return [Kernel(f(length), f.skip()) for f in (self.shift, self.diagonal)]

    def mix(self, u: Tensor, convolve: Convolve) -> Tensor:
        q, k, v = self.in_proj(u).transpose(1, 2).split(self.d_model, dim=1)  # each (B, D, L)
        y = q * convolve(1, convolve(0, k) * v)
        return self.out_proj(y.transpose(1, 2))


class GSS(ConvolutionMixer):
    r"""Gated state space (Mehta et al. 2022, arXiv 2206.13947), one gate and one convolution.

    $$y = W_{out}\,\big(\phi(W_1 u) \odot W_3\,\mathrm{SSM}(\phi(W_2 u))\big), \quad \phi = \mathrm{GELU}$$

    The state space runs at a quarter of the width, the gate at twice the width.
    """

    def __init__(self, d_model: int, l_max: int, d_state: int = 64):
        super().__init__()
        narrow, wide = max(1, d_model // 4), 2 * d_model
        self.gate, self.reduce = nn.Linear(d_model, wide), nn.Linear(d_model, narrow)
        self.expand, self.out_proj = nn.Linear(narrow, wide), nn.Linear(wide, d_model)
        self.ssm = StateSpaceFilter(narrow, l_max, d_state)
        self.activation = nn.GELU()

    def kernels(self, length: int) -> list[Kernel]:
        return [Kernel(self.ssm(length), self.ssm.skip())]

    def mix(self, u: Tensor, convolve: Convolve) -> Tensor:
        state = convolve(0, self.activation(self.reduce(u)).transpose(1, 2)).transpose(1, 2)
        return self.out_proj(self.activation(self.gate(u)) * self.expand(state))


class AFTConv(ConvolutionMixer):
    r"""Attention-free transformer with a local window (Zhai et al. 2021, arXiv 2105.14103, AFT-conv, causal).

    $$y_t = W_{out}\,\sigma(q_t) \odot
      \frac{\sum_{s \le t} g_{t-s}\, e^{k_s} \odot v_s}{\sum_{s \le t} g_{t-s}\, e^{k_s}}$$

    with $g_j = e^{w_j}$ inside the window of `window` taps and 1 beyond it.
    """

    def __init__(self, d_model: int, l_max: int, window: int = 64):
        super().__init__()
        self.d_model = d_model
        self.in_proj = nn.Linear(d_model, 3 * d_model)
        self.out_proj = nn.Linear(d_model, d_model)
        self.w = nn.Parameter(torch.zeros(d_model, min(window, l_max)))
        self.w._optim = {"weight_decay": 0.0}

    def kernels(self, length: int) -> list[Kernel]:
        w = self.w[:, :length]
        g = nn.functional.pad(w, (0, length - w.shape[1])).double().exp()
        return [Kernel(g), Kernel(g)]

    def mix(self, u: Tensor, convolve: Convolve) -> Tensor:
        q, k, v = self.in_proj(u).transpose(1, 2).split(self.d_model, dim=1)
        y = torch.sigmoid(q) * _weighted_mean(k, v, convolve, 0)
        return self.out_proj(y.transpose(1, 2))


class RWKV(ConvolutionMixer):
    r"""The time mixing of RWKV-4 (Peng et al. 2023, arXiv 2305.13048, Section 3.1).

    $$wkv_t = \frac{\sum_{s<t} e^{-(t-1-s)w + k_s} \odot v_s + e^{b + k_t} \odot v_t}
      {\sum_{s<t} e^{-(t-1-s)w + k_s} + e^{b + k_t}}, \qquad y_t = W_{out}\,(\sigma(r_t) \odot wkv_t)$$

    where $r, k, v$ are projections of the input mixed with its predecessor (token shift), $w > 0$ a decay and $b$
    a bonus per channel: a convolution with taps $e^b, 1, e^{-w}, e^{-2w}, \dots$
    """

    def __init__(self, d_model: int, l_max: int):
        super().__init__()
        self.d_model, self.l_max = d_model, l_max
        ratio = torch.arange(d_model) / max(1, d_model - 1)
        self.shift = nn.Parameter(ratio.repeat(3, 1))  # share of the present input in r, k, v
        self.in_proj = nn.Linear(d_model, 3 * d_model, bias=False)
        self.out_proj = nn.Linear(d_model, d_model, bias=False)
        self.log_decay = nn.Parameter(-5 + 8 * ratio**0.7)
        self.bonus = nn.Parameter(torch.full((d_model,), -1.2))
        for parameter in (self.shift, self.log_decay, self.bonus):
            parameter._optim = {"weight_decay": 0.0}

    def kernels(self, length: int) -> list[Kernel]:
        steps = torch.arange(length - 1, device=self.bonus.device, dtype=torch.float64)
        past = torch.exp(-self.log_decay.double().exp()[:, None] * steps)
        g = torch.cat([self.bonus.double().exp()[:, None], past], dim=1)
        m = self.shift.flatten()
        return [Kernel(torch.stack([m, 1 - m], dim=1)), Kernel(g), Kernel(g)]

    def mix(self, u: Tensor, convolve: Convolve) -> Tensor:
        shifted = convolve(0, u.transpose(1, 2).repeat(1, 3, 1))  # (B, 3 D, L)
        parts = shifted.unflatten(1, (3, self.d_model))
        weights = self.in_proj.weight.unflatten(0, (3, self.d_model))
        r, k, v = torch.einsum("bpdl,ped->pbel", parts, weights)
        y = torch.sigmoid(r) * _weighted_mean(k, v, convolve, 1)
        return self.out_proj(y.transpose(1, 2))


def mixer(name: str, d_model: int, l_max: int, *, num_heads: int = 1, **hyena: object) -> Callable[[], nn.Module]:
    """A maker of one row of the paper's comparisons: "hyena", one of `FILTERS` in Hyena's shell, or an operator.

    Arguments:
        num_heads: of attention.
        hyena: options of `HyenaOperator`. In its shell those of its own filter have no effect, and in an operator
            that has no shell none has.

    Raises:
        HyenaError: an unknown name or option.
    """
    options = inspect.signature(HyenaOperator).parameters
    for option in hyena:
        if option not in options:
            raise unknown("option of HyenaOperator", option, options)
    makers: dict[str, Callable[[], nn.Module]] = {
        "hyena": lambda: HyenaOperator(d_model, l_max, **hyena),
        **{name: _shell(name, d_model, l_max, hyena) for name in FILTERS},
        "h3": lambda: H3(d_model, l_max),
        "gss": lambda: GSS(d_model, l_max),
        "aft_conv": lambda: AFTConv(d_model, l_max),
        "rwkv": lambda: RWKV(d_model, l_max),
        "attention": lambda: CausalAttention(d_model, num_heads),
    }
    if name not in makers:
        raise unknown("operator", name, makers)
    return makers[name]


def _shell(name: str, d_model: int, l_max: int, hyena: dict[str, object]) -> Callable[[], nn.Module]:
    return lambda: HyenaOperator(d_model, l_max, long_filter=FILTERS[name], **hyena)


def _weighted_mean(k: Tensor, v: Tensor, convolve: Convolve, first: int) -> Tensor:
    """Convolutions `first` of e^k v by `first + 1` of e^k: a mean of v over the past.

    In float64, since both sums span as many orders of magnitude as the weights do.
    """
    weights = k.clamp(-LARGEST_EXPONENT, LARGEST_EXPONENT).double().exp()
    mean = convolve(first, weights * v) / convolve(first + 1, weights)
    return mean.to(v.dtype)
