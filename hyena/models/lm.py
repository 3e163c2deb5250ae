"""The language model around an operator: pre-norm blocks, tied head, generation."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from hyena.errors import HyenaError
from hyena.models.convolution import Stream

Init = Literal["lm", "bare"]


class Mlp(nn.Module):
    """Linear, GELU (tanh form), Linear."""

    def __init__(self, d_model: int, d_inner: int):
        super().__init__()
        self.fc1 = nn.Linear(d_model, d_inner)
        self.fc2 = nn.Linear(d_inner, d_model)

    def forward(self, x: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_model"]:
        return self.fc2(F.gelu(self.fc1(x), approximate="tanh"))


class Block(nn.Module):
    """x + mixer(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, d_model: int, mixer: nn.Module, d_inner: int, dropout: float = 0.0):
        super().__init__()
        self.mixer, self.mlp = mixer, Mlp(d_model, d_inner)
        self.norm1, self.norm2 = nn.LayerNorm(d_model), nn.LayerNorm(d_model)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, x: Float[Tensor, "batch length d_model"], mix: Stream | None = None
    ) -> Float[Tensor, "batch length d_model"]:
        """`mix`, if given, stands in for the mixer: the same map one position at a time."""
        x = x + self.dropout((mix or self.mixer)(self.norm1(x)))
        return x + self.dropout(self.mlp(self.norm2(x)))


class Embeddings(nn.Module):
    """Token embeddings, with learned positions where the mixer has no sense of position."""

    def __init__(self, vocab_size: int, d_model: int, positions: int):
        super().__init__()
        self.word_embeddings = nn.Embedding(vocab_size, d_model)
        self.position_embeddings = nn.Embedding(positions, d_model) if positions else None

    def forward(self, tokens: Int[Tensor, "batch length"], first: int = 0) -> Float[Tensor, "batch length d_model"]:
        """`first` is the position of the first token given."""
        return _placed(self.word_embeddings(tokens), self.position_embeddings, first)


class PointEmbeddings(nn.Module):
    """Real vectors in place of tokens: a linear map, with learned positions where the mixer needs them."""

    def __init__(self, width: int, d_model: int, positions: int):
        super().__init__()
        self.project = nn.Linear(width, d_model)
        self.position_embeddings = nn.Embedding(positions, d_model) if positions else None

    def forward(self, points: Float[Tensor, "batch length width"]) -> Float[Tensor, "batch length d_model"]:
        return _placed(self.project(points), self.position_embeddings, 0)


class Backbone(nn.Module):
    """Embeddings, blocks and the last LayerNorm."""

    def __init__(self, embeddings: nn.Module, blocks: list[Block], d_model: int, embed_dropout: float = 0.0):
        super().__init__()
        self.embeddings, self.layers = embeddings, nn.ModuleList(blocks)
        self.drop, self.ln_f = nn.Dropout(embed_dropout), nn.LayerNorm(d_model)

    def forward(self, inputs: Tensor) -> Float[Tensor, "batch length d_model"]:
        return self.blocks(self.embeddings(inputs))

    def blocks(self, x: Float[Tensor, "batch length d_model"]) -> Float[Tensor, "batch length d_model"]:
        """What follows the embeddings, for inputs that are embedded already."""
        x = self.drop(x)
        for layer in self.layers:
            x = layer(x)
        return self.ln_f(x)

    def stream(self, batch: int, prompt: int, steps: int) -> Stream:
        """The same map, called with the prompt and then with single tokens; every mixer keeps its own memory."""
        streams = [layer.mixer.stream(batch, prompt, steps) for layer in self.layers]
        seen = 0

        def run(tokens: Tensor) -> Tensor:
            nonlocal seen
            x = self.embeddings(tokens, seen)
            seen += tokens.shape[1]
            for layer, mix in zip(self.layers, streams, strict=True):
                x = layer(x, mix)
            return self.ln_f(x)

        return run


class LanguageModel(nn.Module):
    """A causal language model with any mixer (state-dict keys as the official model).

    Arguments:
        vocab_size: number of tokens; padded up to a multiple of 8 inside, as officially.
        d_model, n_layer, d_inner: width, number of blocks, width of the MLP.
        mixer: makes the mixer of one block, called `n_layer` times.
        l_max: longest input.
        positions: learn position embeddings (attention needs them, convolutions do not).
        embed_dropout, resid_dropout: dropout after the embeddings and on each residual branch.
        init: "lm" draws every linear map, filter networks included, from N(0, 0.02), output projections smaller
            with depth (as GPT-2); "bare" keeps PyTorch's initialisation.
    """

    def __init__(
        self,
        vocab_size: int,
        d_model: int,
        n_layer: int,
        d_inner: int,
        mixer: Callable[[], nn.Module],
        *,
        l_max: int,
        positions: bool = False,
        embed_dropout: float = 0.0,
        resid_dropout: float = 0.0,
        init: Init = "lm",
    ):
        super().__init__()
        padded = -(-vocab_size // 8) * 8
        self.vocab_size, self.l_max = vocab_size, l_max
        blocks = [Block(d_model, mixer(), d_inner, resid_dropout) for _ in range(n_layer)]
        embeddings = Embeddings(padded, d_model, l_max if positions else 0)
        self.backbone = Backbone(embeddings, blocks, d_model, embed_dropout)
        self.lm_head = nn.Linear(d_model, padded, bias=False)
        _initialise(self, init, n_layer)
        self.lm_head.weight = self.backbone.embeddings.word_embeddings.weight

    def forward(self, tokens: Int[Tensor, "batch length"]) -> Float[Tensor, "batch length padded_vocab"]:
        """Logits of the next token at every position.

        Raises:
            ValueError: the input is longer than `l_max`.
        """
        if tokens.shape[1] > self.l_max:
            raise HyenaError(
                f"length {tokens.shape[1]} exceeds l_max {self.l_max}; build the model with a larger l_max "
                "or shorten the input"
            )
        return self.lm_head(self.backbone(tokens))

    @torch.no_grad()
    def generate(
        self,
        prompt: Int[Tensor, "batch length"],
        tokens: int,
        *,
        temperature: float = 1.0,
        top_k: int | None = None,
        generator: torch.Generator | None = None,
    ) -> Int[Tensor, "batch total"]:
        """`prompt` continued by `tokens` sampled tokens; temperature 0 takes the likeliest each time.

        The prompt is read in parallel, then every mixer goes on one position at a time by its own `stream`.

        Raises:
            ValueError: an empty prompt, a total longer than `l_max`, a negative temperature, or `top_k` below 1.
        """
        total = prompt.shape[1] + tokens
        if prompt.shape[1] == 0 or total > self.l_max:
            raise HyenaError(
                f"a prompt is at least 1 token, and with its continuation at most l_max = {self.l_max}: "
                f"got {prompt.shape[1]} and {tokens} more"
            )
        if temperature < 0 or (top_k is not None and top_k < 1):
            raise HyenaError(f"temperature is >= 0 and top_k >= 1, got {temperature} and {top_k}")
        was_training = self.training
        self.eval()
        try:
            read = self.backbone.stream(len(prompt), prompt.shape[1], tokens)
            new = prompt
            for _ in range(tokens):
                logits = self.lm_head(read(new)[:, -1])[:, : self.vocab_size]
                new = _sample(logits, temperature, top_k, generator)
                prompt = torch.cat([prompt, new], dim=1)
        finally:
            self.train(was_training)
        return prompt


class Regressor(nn.Module):
    """The same blocks around real vectors: reads a sequence of points and predicts one number at each.

    Arguments: as `LanguageModel`, with the points' `width` in place of a vocabulary.
    """

    def __init__(
        self,
        width: int,
        d_model: int,
        n_layer: int,
        d_inner: int,
        mixer: Callable[[], nn.Module],
        *,
        l_max: int,
        positions: bool = False,
        init: Init = "lm",
    ):
        super().__init__()
        blocks = [Block(d_model, mixer(), d_inner) for _ in range(n_layer)]
        self.backbone = Backbone(PointEmbeddings(width, d_model, l_max if positions else 0), blocks, d_model)
        self.head = nn.Linear(d_model, 1)
        _initialise(self, init, n_layer)

    def forward(self, points: Float[Tensor, "batch length width"]) -> Float[Tensor, "batch length"]:
        return self.head(self.backbone(points))[..., 0]


def next_token_loss(
    logits: Float[Tensor, "batch length vocab"], targets: Int[Tensor, "batch length"]
) -> Float[Tensor, ""]:
    """Mean cross-entropy in nats over targets that are not -100."""
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-100)


def count_parameters(model: nn.Module) -> int:
    """Trainable numbers, shared ones counted once."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def _placed(x: Tensor, positions: nn.Embedding | None, first: int) -> Tensor:
    """`x` plus the embeddings of the positions from `first` on, if there are any."""
    return x if positions is None else x + positions(torch.arange(first, first + x.shape[1], device=x.device))


def _initialise(model: nn.Module, init: Init, n_layer: int) -> None:
    if init not in ("lm", "bare"):
        raise HyenaError(f"init is 'lm' or 'bare', got {init!r}")
    if init == "bare":
        return
    model.apply(_normal_init)
    for name, weight in model.named_parameters():
        if name.endswith(("out_proj.weight", "fc2.weight")):
            nn.init.normal_(weight, std=0.02 / math.sqrt(2 * n_layer))


def _normal_init(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)


def _sample(
    logits: Tensor, temperature: float, top_k: int | None, generator: torch.Generator | None
) -> Int[Tensor, "batch 1"]:
    if temperature == 0:
        return logits.argmax(-1, keepdim=True)
    if top_k is not None and top_k < logits.shape[-1]:
        floor = logits.topk(top_k).values[:, -1:]
        logits = logits.masked_fill(logits < floor, -math.inf)
    return torch.multinomial(torch.softmax(logits / temperature, -1), 1, generator=generator)
