"""Reading a long sequence in little memory gives the numbers of the plain forward pass."""

from functools import partial

import pytest
import torch
from torch.nn import functional as F
from torch.testing import assert_close

from hyena import HyenaOperator, LanguageModel
from hyena.errors import HyenaError
from hyena.models import lean
from hyena.models.hyenadna import HyenaDNA
from hyena.models.lean import lean_hidden, lean_log_likelihood
from hyena.models.mixers import mixer


@pytest.fixture(autouse=True)
def pieces(monkeypatch) -> None:
    monkeypatch.setattr(lean, "POSITIONS", 7)


def model(length: int, d_model: int = 8, **options: object) -> LanguageModel:
    torch.manual_seed(0)
    maker = partial(HyenaOperator, d_model, length, w=10.0, **options)
    return LanguageModel(12, d_model, 2, 16, maker, l_max=length, init="bare").eval()


def dna(length: int) -> torch.Tensor:
    return torch.randint(7, 12, (length,), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("channels", [1, 3, 8, 100])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"order": 3},
        {"order": 4, "channel_map": "blocked", "shift": 0.05},
        {"modulate": False, "activation": "gelu", "short_filter_order": 5, "bias": False},
    ],
    ids=["order 2", "order 3", "order 4 blocked", "unwindowed"],
)
def test_every_position_is_as_in_the_plain_form(float64, channels: int, options: dict) -> None:
    plain, tokens = model(40, **options), dna(33)
    assert_close(lean_hidden(plain, tokens, channels=channels), plain.backbone(tokens[None])[0], rtol=0, atol=1e-12)


def test_an_input_of_no_pieces_and_one_of_whole_pieces(float64) -> None:
    plain = model(40)
    for length in (1, 7, 14):
        assert_close(lean_hidden(plain, dna(length)), plain.backbone(dna(length)[None])[0])


def test_the_likelihood_is_that_of_the_plain_form(float64) -> None:
    plain, tokens = HyenaDNA(8, 2, 40, filter_order=8).eval(), dna(30)
    logp = F.log_softmax(plain(tokens[None, :-1])[0], -1).gather(-1, tokens[1:, None])[:, 0]
    assert_close(lean_log_likelihood(plain, tokens, channels=3), logp)


def test_half_precision_products_change_little() -> None:
    plain, tokens = model(64), dna(64)
    exact = lean_hidden(plain, tokens)
    error = (lean_hidden(plain, tokens, matmul=torch.bfloat16) - exact).norm() / exact.norm()
    assert 0 < error < 0.02


def test_what_it_is_not_for_is_refused() -> None:
    with pytest.raises(HyenaError, match="length 41 exceeds l_max 40"):
        lean_hidden(model(40), dna(41))
    other = LanguageModel(12, 8, 1, 16, mixer("conv1d", 8, 40), l_max=40)
    for refused in (other, model(40, normalized=True)):
        with pytest.raises(HyenaError, match="lean reading is for Hyena operators"):
            lean_hidden(refused, dna(40))
