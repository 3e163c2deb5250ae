"""What channels add to a response: sums that are complete, and networks of a few channels."""

from __future__ import annotations

import pytest
import torch
from closeness import close
from small_retina import film, small

from hyena.errors import HyenaError
from hyena.models.attribution import attributed, fewest, kept_variance, rest, summed, with_channels
from hyena.models.retina import CNN


@pytest.fixture
def net() -> CNN:
    torch.manual_seed(1)
    made = small(norm="channel")
    made.train()
    for i in range(20):
        made(film(8, 6, 10, 10, seed=i))
    return made.eval()


def test_attributions_add_up_to_the_response(net: CNN) -> None:
    found = attributed(net, film(1, 40, 10, 10), cell=1, steps=1000)
    assert found.incompleteness < 1e-3 and found.channels.shape == (35, 3)
    close(found.response, net(film(1, 40, 10, 10))[0, :, 1], 1e-6)
    assert found.baseline == pytest.approx(float(net(torch.zeros(1, 6, 10, 10))[0, 0, 1]))


def test_more_steps_are_more_complete(net: CNN) -> None:
    few, many = (attributed(net, 3 * film(1, 40, 10, 10), cell=0, steps=n).incompleteness for n in (2, 100))
    assert many < 0.2 * few


def test_a_channel_that_nothing_reads_gets_nothing(net: CNN) -> None:
    with torch.no_grad():
        net.convs[1].weight[:, 2] = 0
    found = attributed(net, film(1, 20, 10, 10), cell=0)
    assert not found.channels[:, 2].any() and found.ranked()[-1] == 2
    full = with_channels(net, film(1, 20, 10, 10), [0, 1])[:, 0]
    close(full, found.response, 1e-6)
    assert fewest(found, 0.9, lambda kept: with_channels(net, film(1, 20, 10, 10), kept)[:, 0]) <= 2


def test_with_all_channels_it_is_the_network_and_with_none_it_is_at_rest(net: CNN) -> None:
    x = film(1, 12, 10, 10)
    close(with_channels(net, x, [0, 1, 2]), net(x)[0], 1e-6)
    close(with_channels(net, x, []), net.after_first(rest(net)).expand(7, -1), 1e-6)
    found = attributed(net, x, 0)
    close(summed(found, [0, 1, 2]), found.response, 1e-2)


def test_kept_variance_is_one_for_the_same_and_none_for_the_mean() -> None:
    y = film(50)
    assert kept_variance(y, y) == 1
    assert kept_variance(y.mean().expand(50), y) == pytest.approx(0, abs=1e-6)
    assert kept_variance(y, torch.ones(50)) == 0


def test_attributions_are_in_spikes_a_second() -> None:
    net, x = small(norm="channel"), film(1, 30, 10, 10)
    before = attributed(net, x, 1, steps=50)
    net.level = torch.tensor([1.0, 7.0, 1.0])
    after = attributed(net, x, 1, steps=50)
    close(after.channels, 7 * before.channels, 1e-5)
    close(after.response, net(x)[0, :, 1], 1e-6)
    close(with_channels(net, x, [0, 1, 2]), net(x)[0], 1e-6)


# mistakes


def test_cells_and_networks_that_cannot_be_explained_are_refused(net: CNN) -> None:
    with pytest.raises(HyenaError, match="a cell below 3"):
        attributed(net, film(1, 8, 10, 10), cell=3)
    with pytest.raises(HyenaError, match="without noise"):
        attributed(net.train(), film(1, 8, 10, 10), cell=0)
