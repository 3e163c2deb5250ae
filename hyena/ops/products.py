"""Products of many small matrices."""

from __future__ import annotations

import torch
from jaxtyping import Complex, Float
from torch import Tensor


def batched(
    a: Float[Tensor, "many rows inner"] | Complex[Tensor, "many rows inner"],
    b: Float[Tensor, "many inner columns"] | Complex[Tensor, "many inner columns"],
) -> Float[Tensor, "many rows columns"] | Complex[Tensor, "many rows columns"]:
    """`a @ b`, forwards and backwards on operands that lie one number after the other.

    Where strides are unusual, as after a permutation or in the gradient of one, PyTorch copies and multiplies matrix by
    matrix on a CPU, which takes several times as long.
    """
    return _Contiguous.apply(a.contiguous() @ b)


class _Contiguous(torch.autograd.Function):
    """The same numbers, whose gradient is contiguous."""

    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: object, grad: Tensor) -> Tensor:
        return grad.contiguous()
