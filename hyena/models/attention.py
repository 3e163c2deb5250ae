"""Causal multi-head attention, the twin every operator here is compared with."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from hyena.errors import HyenaError


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
        batch, length, d_model = u.shape
        qkv = self.Wqkv(u).view(batch, length, 3, self.num_heads, -1)  # (B, L, 3, H, D / H)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each (B, H, L, D / H)
        dropout = self.dropout if self.training else 0.0
        y = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=True)
        return self.out_proj(y.transpose(1, 2).reshape(batch, length, d_model))
