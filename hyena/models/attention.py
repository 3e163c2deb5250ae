"""Causal multi-head attention, the twin every operator here is compared with."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from hyena.errors import HyenaError
from hyena.models.convolution import Stream


class CausalAttention(nn.Module):
    r"""$y = W_{out}\,\mathrm{softmax}(Q K^\top / \sqrt{d_{head}} + mask)\, V$ (Vaswani et al. 2017, Eq. 1).

    Arguments:
        d_model: width, a multiple of `num_heads`.
        num_heads: number of heads.
        dropout: on the attention weights, in training.
    """

    def __init__(self, d_model: int, num_heads: int = 1, dropout: float = 0.0):
        super().__init__()
        if d_model % num_heads:
            raise HyenaError(f"d_model {d_model} is not a multiple of num_heads {num_heads}")
        self.num_heads, self.dropout = num_heads, dropout
        self.Wqkv = nn.Linear(d_model, 3 * d_model)
        self.out_proj = nn.Linear(d_model, d_model)

    def forward(self, u: Float[Tensor, "batch length d_model"]) -> Float[Tensor, "batch length d_model"]:
        dropout = self.dropout if self.training else 0.0
        return self._merge(F.scaled_dot_product_attention(*self._heads(u), dropout_p=dropout, is_causal=True))

    @torch.no_grad()
    def stream(self, batch: int, prompt: int, steps: int) -> Stream:
        """The same map one position at a time, with a cache of keys and values: $O(L^2)$ for L positions."""
        shape = (2, batch, self.num_heads, prompt + steps, self.out_proj.in_features // self.num_heads)
        cache = self.out_proj.weight.new_empty(shape)
        seen = 0

        @torch.no_grad()
        def run(u: Tensor) -> Tensor:
            nonlocal seen
            q, *kv = self._heads(u)
            cache[:, :, :, seen : seen + u.shape[1]] = torch.stack(kv)
            k, v = cache[:, :, :, : seen + u.shape[1]]
            y = F.scaled_dot_product_attention(q, k, v, is_causal=seen == 0)
            seen += u.shape[1]
            return self._merge(y)

        return run

    def _heads(self, u: Tensor) -> tuple[Tensor, ...]:
        """Queries, keys and values, each (batch, heads, length, d_model / heads)."""
        qkv = self.Wqkv(u).unflatten(-1, (3, self.num_heads, -1))  # (B, L, 3, H, D / H)
        return qkv.permute(2, 0, 3, 1, 4).unbind()

    def _merge(self, y: Tensor) -> Tensor:
        return self.out_proj(y.transpose(1, 2).flatten(2))
