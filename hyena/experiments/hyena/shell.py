"""The shell in which the paper's operators meet: one language model, with another mixer for each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hyena.data.synthetic import IGNORE, Sequences
from hyena.errors import HyenaError
from hyena.experiments.comparison import Comparison
from hyena.models.lm import LanguageModel, next_token_loss
from hyena.models.mixers import mixer


@dataclass(frozen=True)
class Shell(Comparison):
    """Fields that describe the model around the operators."""

    d_model: int = 64
    n_layer: int = 2
    d_inner: int = 256
    order: int = 2
    filter_order: int = 64  # width of the filter network
    emb_dim: int = 5
    w: float = 10.0
    num_heads: int = 1
    init: str = "lm"
    embed_dropout: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.embed_dropout < 1:
            raise HyenaError(f"embed_dropout is a probability below 1, got {self.embed_dropout}")
        for operator in self.operators:
            self.mixer(operator, 1)  # an unknown name is refused before any work

    def mixer(self, operator: str, length: int) -> Callable[[], nn.Module]:
        """A maker of the mixer of one block."""
        return mixer(
            operator, self.d_model, length, num_heads=self.num_heads, order=self.order,
            filter_order=self.filter_order, emb_dim=self.emb_dim, w=self.w, lr_pos_emb=0.0,
        )  # fmt: skip

    def model(
        self, operator: str, vocab_size: int, length: int, seed: int, d_inner: int | None = None
    ) -> LanguageModel:
        """The shell with one operator, initialised by `seed`; `d_inner` overrides the field if given."""
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return LanguageModel(
                vocab_size, self.d_model, self.n_layer, self.d_inner if d_inner is None else d_inner,
                self.mixer(operator, length), l_max=length, positions=operator == "attention",
                embed_dropout=self.embed_dropout, init=self.init,
            )  # fmt: skip


@torch.no_grad()
def answer_accuracy(model: nn.Module, test: Sequences, *, whole: bool = False) -> float:
    """Percent of the asked positions at which the likeliest token is the answer; `whole` asks for all of a row."""
    model.eval()
    device = next(model.parameters()).device
    right: list[Tensor] = []
    for x, y in zip(*(torch.from_numpy(a).split(100) for a in (test.x, test.y)), strict=True):
        wanted = y != IGNORE
        same = model(x.to(device)).argmax(-1).cpu() == y
        right.append((same | ~wanted).all(1) if whole else same[wanted])
    return 100 * torch.cat(right).double().mean().item()


def loss(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Mean cross-entropy of the next token."""
    return next_token_loss(model(x), y)
