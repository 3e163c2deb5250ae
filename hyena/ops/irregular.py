r"""Diagonal state spaces on irregular times: each step is as long as the time that it spans.

$$x_i = e^{\Delta g_i A} x_{i-1} + \frac{e^{\Delta g_i A} - 1}{A}\, B u_i, \qquad y_i = 2\, \mathrm{Re}\; C x_i,
\qquad g_i = t_i - t_{i-1}$$

An input is held over the gap that it ends (zero-order hold), which is the exact solution of
$x' = \Delta A x + \Delta B u$ for such an input. With every gap 1 it is the convolution with `hyena.ops.s4.s4d_kernel`.
"""

from __future__ import annotations

import torch
from jaxtyping import Complex, Float, Shaped
from torch import Tensor
from torch.autograd.function import once_differentiable

from hyena.errors import HyenaError
from hyena.ops.s4 import discretised


def gaps(times: Float[Tensor, "batch length"], unit: float = 1.0) -> Float[Tensor, "batch length"]:
    """The time before each observation, in units of the grid that the layers' step sizes count; 1 before the first.

    Raises:
        HyenaError: times that are missing, out of order or the same twice, named by series and position.
    """
    if not unit > 0:
        raise HyenaError(f"the unit of time is above 0, got {unit}")
    if not torch.isfinite(times).all():
        raise HyenaError(f"series {_first(~torch.isfinite(times))} has a time that is no number")
    step = times.diff(dim=-1)
    if (step < 0).any():
        raise HyenaError(f"series {_first(step < 0)}: times go back; sort the observations by time")
    if (step == 0).any():
        raise HyenaError(f"series {_first(step == 0)}: two observations have the same time; merge or drop one")
    return torch.cat([torch.ones_like(times[:, :1]), step / unit], -1)


def irregular_states(
    A: Complex[Tensor, "channels modes"],
    B: Complex[Tensor, "*#batch channels modes"],
    dt: Float[Tensor, " channels"],
    gap: Float[Tensor, "batch length"],
    u: Shaped[Tensor, "batch length channels"],
) -> Complex[Tensor, "length batch channels modes"]:
    """The state after every observation; time comes first."""
    step = gap.mT[..., None] * dt  # (length, batch, channels)
    Abar, gain = discretised(A, step)
    return linear_recurrence(Abar, gain * B * u.transpose(0, 1)[..., None])


def irregular_response(
    A: Complex[Tensor, "channels modes"],
    B: Complex[Tensor, "channels modes"],
    C: Complex[Tensor, "channels modes"],
    dt: Float[Tensor, " channels"],
    gap: Float[Tensor, "batch length"],
    u: Float[Tensor, "batch length channels"],
) -> Float[Tensor, "batch length channels"]:
    r"""The outputs $2\, \mathrm{Re}\; C x_i$ of zero-order hold over gaps."""
    states = irregular_states(A, B, dt, gap, u)
    return 2 * torch.einsum("lbhn,hn->blh", states, C).real


def linear_recurrence(a: Shaped[Tensor, "*shape"], b: Shaped[Tensor, "*shape"]) -> Tensor:
    """$x_i = a_i x_{i-1} + b_i$ from $x_{-1} = 0$, elementwise; one pass forward, one back for the gradient."""
    return _Recurrence.apply(a, b)


class _Recurrence(torch.autograd.Function):
    @staticmethod
    def forward(ctx, a: Tensor, b: Tensor) -> Tensor:
        x = b.clone()
        for i in range(1, len(x)):
            x[i].addcmul_(a[i], x[i - 1])
        ctx.save_for_backward(a, x)
        return x

    @staticmethod
    @once_differentiable
    def backward(ctx, g: Tensor) -> tuple[Tensor, Tensor]:
        a, x = ctx.saved_tensors
        grad, back = g.clone(), a.conj().resolve_conj()
        for i in range(len(x) - 2, -1, -1):
            grad[i].addcmul_(back[i + 1], grad[i + 1])
        to_a = torch.zeros_like(a)
        torch.mul(grad[1:], x[:-1].conj(), out=to_a[1:])
        return to_a, grad


def _first(bad: Tensor) -> str:
    series, position = bad.nonzero()[0].tolist()
    return f"{series} at position {position}"
