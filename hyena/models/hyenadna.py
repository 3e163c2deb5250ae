"""HyenaDNA (Nguyen et al. 2023, arXiv 2306.15794): Hyena language models of single nucleotides, and what one does
with a trained one: classification, embeddings, soft prompts and in-silico mutagenesis.

Names of parameters are those of the official checkpoints, which `hyena.models.official` reads.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from hyena.data.nucleotides import VOCAB_SIZE
from hyena.errors import HyenaError, unknown
from hyena.models.hyena import HyenaOperator
from hyena.models.lm import Backbone, Block, LanguageModel

Pool = Literal["mean", "last", "flat"]


@dataclass(frozen=True)
class Size:
    """Width, depth and longest input of a published model (Table A.1 and the released configurations)."""

    d_model: int
    n_layer: int
    l_max: int


SIZES = {
    "tiny-1k-seqlen": Size(128, 2, 1026),
    "tiny-1k-seqlen-d256": Size(256, 2, 1026),
    "tiny-16k-seqlen-d128": Size(128, 2, 16_386),
    "small-32k-seqlen": Size(256, 4, 32_770),
    "medium-160k-seqlen": Size(256, 8, 160_002),
    "medium-450k-seqlen": Size(256, 8, 450_002),
    "large-1m-seqlen": Size(256, 8, 1_000_002),
}


class HyenaDNA(LanguageModel):
    """A causal language model over nucleotides: Hyena of order 2, an MLP four times as wide, no positions.

    A filter is a function of position / `l_max`: a model reads shorter inputs with the first part of its filters.

    Arguments:
        d_model, n_layer, l_max: width, number of blocks, longest input.
        d_inner: width of the MLP, four times `d_model` if not given.
        filter_order: width of the filter networks.
        vocab_size: number of tokens, another one for words of several letters.
        embed_dropout: after the embeddings, in training.
        checkpointing: recompute the inside of every block in the backward pass, which then needs memory for one
            block at a time.
    """

    def __init__(
        self,
        d_model: int,
        n_layer: int,
        l_max: int,
        *,
        d_inner: int | None = None,
        filter_order: int = 64,
        vocab_size: int = VOCAB_SIZE,
        embed_dropout: float = 0.1,
        checkpointing: bool = False,
    ):
        mixer = partial(
            HyenaOperator, d_model, l_max, emb_dim=5, filter_order=filter_order, w=10.0, shift=0.05, lr_pos_emb=0.0
        )
        d_inner = 4 * d_model if d_inner is None else d_inner
        super().__init__(vocab_size, d_model, n_layer, d_inner, mixer, l_max=l_max, embed_dropout=embed_dropout)
        if checkpointing:
            for layer in self.backbone.layers:
                layer.__class__ = CheckpointedBlock

    @classmethod
    def named(cls, name: str, **options: object) -> HyenaDNA:
        """An untrained model of a published size, such as "tiny-1k-seqlen" or "hyenadna-large-1m-seqlen-hf".

        Raises:
            HyenaError: no such size.
        """
        short = name.rpartition("/")[2].removeprefix("hyenadna-").removesuffix("-hf")
        if short not in SIZES:
            raise unknown("size of HyenaDNA", short, SIZES)
        return cls(**(vars(SIZES[short]) | options))

    def embed(self, tokens: Int[Tensor, "batch length"]) -> Float[Tensor, "batch length d_model"]:
        """What the last block makes of every position: the embeddings that downstream models use."""
        _check(tokens, self.l_max)
        return self.backbone(tokens)


class CheckpointedBlock(Block):
    """A block that keeps its input for the backward pass and recomputes everything else."""

    def forward(self, x: Tensor, mix: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        if mix is None and torch.is_grad_enabled():
            return checkpoint(super().forward, x, use_reentrant=False)
        return super().forward(x, mix)


class Classifier(nn.Module):
    """A backbone, a pooling over positions and a linear layer.

    Padding goes to the right: the model is causal, so what follows a sequence cannot change it, and the pooling
    passes over it. (The official code pads on the left, where the padding enters every output and the mean.)

    Arguments:
        model: whose backbone is taken, and trained along.
        n_classes: number of classes.
        pool: "mean" over the sequence, its "last" position, or "flat": all positions side by side, for inputs of
            one `length` in which the place of a letter matters.
        length: of the inputs, for "flat".
    """

    def __init__(self, model: LanguageModel, n_classes: int, *, pool: Pool = "mean", length: int | None = None):
        super().__init__()
        if pool not in ("mean", "last", "flat"):
            raise unknown("pool", pool, ("mean", "last", "flat"))
        if (pool == "flat") != (length is not None):
            raise HyenaError(
                f"pool 'flat' needs the length of the inputs, the others take none; got {pool!r}, {length}"
            )
        self.backbone: Backbone = model.backbone
        self.l_max, self.pool, self.length = model.l_max, pool, length
        width = model.lm_head.in_features * (length or 1)
        self.head = nn.ModuleDict({"output_transform": nn.Linear(width, n_classes)})

    def forward(
        self, tokens: Int[Tensor, "batch length"], mask: Bool[Tensor, "batch length"] | None = None
    ) -> Float[Tensor, "batch classes"]:
        """Logits; `mask` is true where a position belongs to the sequence, everywhere if not given.

        Raises:
            HyenaError: the input is longer than the model allows, a sequence is empty, or its length is not the
                one that "flat" was made for.
        """
        _check(tokens, self.l_max)
        if self.pool == "flat" and tokens.shape[1] != self.length:
            raise HyenaError(f"pool 'flat' was made for inputs of length {self.length}, got {tokens.shape[1]}")
        mask = torch.ones_like(tokens, dtype=torch.bool) if mask is None else mask
        if not mask.any(1).all():
            raise HyenaError("a sequence of the batch has no letter: the mask of its row is false everywhere")
        return self.head["output_transform"](self._pooled(self.backbone(tokens), mask))

    def _pooled(self, x: Tensor, mask: Tensor) -> Tensor:
        if self.pool == "last":
            index = torch.arange(mask.shape[1], device=mask.device)
            return x[torch.arange(len(x), device=x.device), (index * mask).amax(1)]
        x = x * mask[..., None]
        return x.flatten(1) if self.pool == "flat" else x.sum(1) / mask.sum(1, keepdim=True)


class SoftPrompt(nn.Module):
    """Trainable vectors before the embedded sequence of a frozen model (Section 3.3: soft prompting).

    Arguments:
        model: frozen by this call.
        n_prompt: number of vectors, drawn from N(0, 0.02).
        dropout: on the vectors, in training.
    """

    def __init__(self, model: LanguageModel, n_prompt: int, dropout: float = 0.1):
        super().__init__()
        self.model = model.requires_grad_(False)
        self.prompt = nn.Parameter(0.02 * torch.randn(n_prompt, model.lm_head.in_features))
        self.prompt._optim = {"weight_decay": 0.0}
        self.dropout = nn.Dropout(dropout)

    def train(self, mode: bool = True) -> SoftPrompt:
        super().train(mode)
        self.model.eval()  # a frozen model has no dropout
        return self

    def forward(self, tokens: Int[Tensor, "batch length"]) -> Float[Tensor, "batch padded_vocab"]:
        """Logits of the token that follows the sequence.

        Raises:
            HyenaError: prompt and sequence together are longer than the model allows.
        """
        _check(tokens, self.model.l_max - len(self.prompt))
        backbone = self.model.backbone
        prompt = self.dropout(self.prompt).expand(len(tokens), -1, -1)
        x = backbone.blocks(torch.cat([prompt, backbone.embeddings(tokens)], dim=1))
        return self.model.lm_head(x[:, -1])


@torch.no_grad()
def log_likelihood(
    model: LanguageModel, tokens: Int[Tensor, "batch length"], batch_size: int = 16
) -> Float[Tensor, " batch"]:
    r"""$\sum_{t \ge 1} \log p(x_t \mid x_{<t})$ in nats, over all letters but the first, without dropout."""
    was_training = model.training
    model.eval()
    found = []
    for part in tokens.split(batch_size):
        logits = model(part[:, :-1])
        logp = torch.log_softmax(logits.to(torch.promote_types(logits.dtype, torch.float32)), dim=-1)
        found.append(logp.gather(-1, part[:, 1:, None]).sum((1, 2)))
    model.train(was_training)
    return torch.cat(found)


@torch.no_grad()
def mutagenesis(
    score: Callable[[Tensor], Tensor],
    tokens: Int[Tensor, " length"],
    letters: Int[Tensor, " letters"],
    positions: range | None = None,
    batch_size: int = 64,
) -> Float[Tensor, "positions letters"]:
    r"""In-silico mutagenesis: how every change of one letter changes a score.

    $$\Delta_{t, a} = \mathrm{score}(x_0 \dots x_{t-1}\, a\, x_{t+1} \dots) - \mathrm{score}(x)$$

    Arguments:
        score: one number for each row of a (batch, length) tensor of tokens.
        tokens: the sequence.
        letters: ids to try at each position; the one that stands there scores 0, up to rounding.
        positions: which positions to change, all if not given.

    Raises:
        HyenaError: a position outside the sequence, or none.
    """
    positions = range(len(tokens)) if positions is None else positions
    if not positions or min(positions) < 0 or max(positions) >= len(tokens):
        raise HyenaError(f"positions are 0 to {len(tokens) - 1} for {len(tokens)} letters, got {positions}")
    where, what = torch.tensor(positions).repeat_interleave(len(letters)), letters.repeat(len(positions))
    scores = []
    for at, letter in zip(where.split(batch_size), what.split(batch_size), strict=True):
        changed = tokens.repeat(len(at), 1)
        changed[torch.arange(len(at)), at] = letter
        scores.append(score(changed))
    return (torch.cat(scores) - score(tokens[None])).view(len(positions), len(letters))


def _check(tokens: Tensor, l_max: int) -> None:
    if tokens.shape[1] > l_max:
        raise HyenaError(
            f"length {tokens.shape[1]} exceeds what the model allows, {l_max}; "
            "take a larger model or cut the sequence into windows"
        )
