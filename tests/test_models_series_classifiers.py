"""Classifiers of series: padding changes nothing, and each encoder can learn."""

import pytest
import torch
from torch.nn import functional as F
from torch.testing import assert_close

from hyena.errors import HyenaError
from hyena.models.series_classifiers import ENCODERS, SeriesClassifier


@pytest.mark.parametrize("kind", ENCODERS)
def test_padding_does_not_change_what_a_classifier_says(kind: str) -> None:
    torch.manual_seed(0)
    model = SeriesClassifier(kind, 3, 4, l_max=20, d_model=16, d_state=8).eval()
    x, mask = torch.randn(2, 9, 3), torch.ones(2, 9, dtype=torch.bool)
    padded, longer = F.pad(x, (0, 0, 0, 11)), F.pad(mask, (0, 11))
    assert_close(model(padded, longer), model(x, mask), atol=2e-4, rtol=1e-3)
    assert model(x, mask).shape == (2, 4)


@pytest.mark.parametrize("kind", ENCODERS)
def test_each_encoder_tells_a_rise_from_a_fall(kind: str) -> None:
    torch.manual_seed(0)
    model = SeriesClassifier(kind, 1, 2, l_max=12, d_model=16, d_state=8, n_layer=1, dropout=0.0)
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    y = torch.arange(32) % 2
    x = torch.linspace(-1, 1, 12)[None, :, None] * (2 * y - 1)[:, None, None] + 0.3 * torch.randn(32, 12, 1)
    mask = torch.ones(32, 12, dtype=torch.bool)
    for _ in range(60):
        optimizer.zero_grad()
        F.cross_entropy(model(x, mask), y).backward()
        optimizer.step()
    assert (model(x, mask).argmax(-1) == y).float().mean() > 0.95


def test_another_encoder_is_refused() -> None:
    with pytest.raises(HyenaError, match="unknown encoder of series 'lstn': did you mean 'lstm'"):
        SeriesClassifier("lstn", 1, 2, l_max=4)
