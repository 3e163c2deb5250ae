"""A film of noise, and a network that sees ten by ten pixels and six bins."""

import torch

from hyena.models.retina import CNN


def film(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def small(cells: int = 3, **options) -> CNN:
    torch.manual_seed(0)
    return CNN(cells, 10, 6, (3, 2), (5, 3), **options).eval()
