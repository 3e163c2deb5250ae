"""A training that takes no time, and how to interrupt it."""

from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

from hyena.train import Recipe, Run, train

RECIPE = Recipe(steps=20, lr=0.01, warmup=4, eval_every=5)


def tiny(dropout: float = 0.3) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Dropout(dropout), nn.Linear(8, 1))


def batch(step: int) -> tuple[torch.Tensor, torch.Tensor]:
    x = torch.randn(8, 4, generator=torch.Generator().manual_seed(step))
    return x, x.sum(-1, keepdim=True)


def loss(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return F.mse_loss(model(x), y)


def held_out(model: nn.Module) -> dict[str, float]:
    return {"held_out": loss(model, *batch(1000)).item()}


def learn(model: nn.Module, run: Run | None = None, recipe: Recipe = RECIPE, batch=batch, **options):
    return train(model, batch, loss, recipe, run or Run(), "tiny", **{"evaluate": held_out} | options)


def interrupting(at: int, function):
    """`function`, interrupted once when it is called for the `at`-th time."""
    calls = iter(range(10**9))

    def wrapped(*args):
        if next(calls) == at:
            raise KeyboardInterrupt
        return function(*args)

    return wrapped


def same_weights(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))


def checkpointed(folder: Path, **options) -> Run:
    return Run(**{"checkpoints": folder, "save_every": 0.0} | options)
