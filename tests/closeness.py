"""How close two tensors must be in a parity test."""

from torch import Tensor
from torch.testing import assert_close


def close(actual: Tensor, expected: Tensor, tolerance: float = 1e-12) -> None:
    """Equal up to `tolerance` of the largest entry."""
    assert_close(actual, expected, rtol=0, atol=tolerance * max(1e-30, expected.abs().max().item()))
