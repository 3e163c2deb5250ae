"""A film of noise, and networks that see six bins of ten by ten pixels, or of sixteen by sixteen."""

import torch

from hyena.data.retina import SIDE
from hyena.models.retina import CNN


def film(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def small(cells: int = 3, **options) -> CNN:
    torch.manual_seed(0)
    return CNN(cells, 10, 6, (3, 2), (5, 3), **options).eval()


def sixteen(**options) -> CNN:
    """For eight cells on the patch of the simulated retina."""
    torch.manual_seed(0)
    return CNN(8, SIDE, 6, (3, 2), (5, 3), norm="channel", **options).eval()
