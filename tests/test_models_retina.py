"""Encoders of the retina beside loops: windows, chains of convolutions, history, feedback, kinetics, attribution."""

from __future__ import annotations

import math

import pytest
import torch
from closeness import close
from small_retina import film, small
from torch import nn
from torch.nn import functional as F

from hyena.errors import HyenaError
from hyena.models.retina import (
    CNN,
    GLM,
    LN,
    Encoder,
    Output,
    bn_cnn,
    chain,
    cnn_2016,
    collapsed,
    log_cosines,
)
from hyena.models.retina_memory import LNK, LateralCNN, S4NDEncoder

ALL = {
    "cnn": lambda: small(),
    "cnn with basis": lambda: small(basis=3, norm="channel"),
    "ln": lambda: LN(3, 10, 6, output="rbf"),
    "glm": lambda: GLM(3, 10, 6, history=4),
    "lateral": lambda: LateralCNN(small(), warm=8, hold=2),
    "lnk": lambda: LNK(3, 10, 6, warm=8),
    "s4nd": lambda: S4NDEncoder(3, 10, 6, 40, d_model=4, d_state=4),
}


@pytest.mark.parametrize("name", ALL)
def test_rates_are_positive_and_begin_after_the_lags(name: str) -> None:
    torch.manual_seed(0)
    net = ALL[name]().eval()
    rates = net(film(2, 30, 10, 10))
    assert rates.shape == (2, 30 - net.lags + 1, 3) and (rates >= 0).all() and rates.isfinite().all()


@pytest.mark.parametrize("name", ALL)
def test_rates_never_depend_on_the_future(name: str) -> None:
    torch.manual_seed(0)
    net, x = ALL[name]().eval(), film(1, 30, 10, 10)
    other = x.clone()
    other[:, 20:] += 1
    a, b = net(x), net(other)
    known = 20 - net.lags + 1
    close(a[:, :known], b[:, :known], 1e-6)
    assert not torch.allclose(a[:, known:], b[:, known:])


@pytest.mark.parametrize("name", ["cnn", "cnn with basis", "ln"])
def test_a_rate_depends_on_its_window_alone(name: str) -> None:
    torch.manual_seed(0)
    net, x = ALL[name]().eval(), film(1, 20, 10, 10)
    whole = net(x)
    for last in (5, 12, 19):
        close(net(x[:, last - 5 : last + 1])[0, 0], whole[0, last - 5], 1e-5)


@pytest.mark.parametrize("name", ALL)
def test_every_parameter_learns(name: str) -> None:
    torch.manual_seed(0)
    net = ALL[name]()
    x = film(2, 30, 10, 10)
    rates = net(x, torch.ones(2, 30, 3)) if isinstance(net, GLM) else net(x)
    rates.square().mean().backward()
    fixed = ("net.convs.0", "net.norms.0") if name == "lateral" else ()
    for key, parameter in net.named_parameters():
        if not key.startswith(fixed):
            assert parameter.grad is not None and parameter.grad.abs().sum() > 0, key


@pytest.mark.parametrize("name", ALL)
def test_rates_are_in_units_of_the_training_part(name: str) -> None:
    torch.manual_seed(0)
    net, x = ALL[name]().eval(), film(1, 30, 10, 10)
    before = net(x)
    net.take_units(torch.stack([-torch.ones(30, 10, 10), torch.ones(30, 10, 10)]) / (1 + 1 / 5999) ** 0.5)
    close(net(x), before, 1e-5)  # mean 0 and deviation 1: nothing changes
    net.take_units(
        torch.stack([-torch.ones(30, 10, 10), torch.ones(30, 10, 10)]) / (1 + 1 / 5999) ** 0.5, film(1, 30, 3) * 5
    )
    ratio = net(x) / before
    assert torch.allclose(ratio, (film(1, 30, 3) * 5).std((0, 1)).expand_as(ratio), rtol=1e-3)


def test_units_come_from_the_training_film() -> None:
    net, x = small(), 3 * film(1, 50, 10, 10) + 2
    net.take_units(x)
    close(net.standardised(x).std(), torch.tensor(1.0), 1e-5)
    assert net.standardised(x).mean().abs() < 1e-5
    again = small()
    again.load_state_dict(net.state_dict())
    close(again(x), net(x), 1e-6)


# the published networks


def test_the_networks_have_the_published_sizes() -> None:
    net = bn_cnn(cells=5)
    count = lambda module: sum(p.numel() for p in module.parameters())  # noqa: E731
    assert count(net.convs[0]) == 8 * 40 * 15**2 + 8 and count(net.convs[1]) == 8 * 8 * 11**2 + 8
    assert [count(norm) for norm in net.norms] == [2 * 8 * 36**2, 2 * 8 * 26**2]
    assert net.dense.bias is None and net.dense.weight.shape == (5, 8 * 26**2)
    wide = cnn_2016(5)
    assert [conv.weight.shape[0] for conv in wide.convs] == [16, 8]
    assert [conv.weight.shape[-1] for conv in wide.convs] == [15, 9]
    assert wide.noise == 0.1 and wide.output.kind == "parametric" and wide.dense.bias is not None


def test_a_cnn_is_its_layers() -> None:
    net, x = small(norm="channel"), film(1, 6, 10, 10)
    first = F.relu(net.norms[0](F.conv2d(x, net.convs[0].weight, net.convs[0].bias)))
    second = F.relu(net.norms[1](F.conv2d(first, net.convs[1].weight, net.convs[1].bias)))
    wanted = F.softplus(net.scale(second.flatten(1) @ net.dense.weight.T))
    close(net(x)[0], wanted, 1e-6)


def test_units_are_normalised_one_by_one() -> None:
    net = small()
    net.train()(film(64, 6, 10, 10))
    means = net.norms[0][1].running_mean
    assert means.shape == (3 * 6 * 6,) and len(means.unique()) == len(means)


@pytest.mark.parametrize("kernel", [3, 7, 11])
def test_a_chain_of_small_kernels_is_one_large_one(kernel: int) -> None:
    torch.manual_seed(0)
    convs, x = chain(4, 5, kernel), film(2, 4, 14, 14)
    one = collapsed(convs)
    assert one.weight.shape == (5, 4, kernel, kernel)
    close(one(x), convs(x), 1e-5)


def test_a_stacked_network_collapses_as_a_whole() -> None:
    net, x = small(stacked=True), film(1, 8, 10, 10)
    before = net(x)
    net.convs = nn.ModuleList(collapsed(conv) for conv in net.convs)
    close(net(x), before, 1e-5)


def test_noise_is_there_in_training_and_where_asked_for() -> None:
    net, x, z = small(noise=0.5, norm="none"), film(1, 8, 10, 10), torch.zeros(2000, 3, 6, 6)
    assert torch.equal(net(x), net(x)) and torch.equal(net.noisy(z), z)
    assert float(net.train().noisy(z).std()) == pytest.approx(0.5, rel=0.01)
    net.eval().noise_in_use = True
    assert float(net.noisy(z).std()) == pytest.approx(0.5, rel=0.01) and not torch.equal(net(x), net(x))


def test_log_cosines_cover_the_window_recent_bins_more_finely() -> None:
    basis = log_cosines(40, 10)
    close(basis.norm(dim=1), torch.ones(10), 1e-5)
    widths = (basis > 0.5 * basis.amax(1, keepdim=True)).sum(1)
    assert (basis.sum(0) > 0).all() and widths[-1] > 3 * widths[0]
    assert basis.argmax(1)[0] == 39 and basis.argmax(1)[-1] == 0


# linear-nonlinear models


def test_an_ln_is_a_sum_over_its_window() -> None:
    torch.manual_seed(0)
    net, x = LN(2, 4, 3), film(1, 7, 4, 4)
    weight = net.filter.weight.view(2, 3, 4, 4)
    wanted = [
        [F.softplus((weight[c] * x[0, t - 2 : t + 1]).sum() + net.filter.bias[c]).item() for c in range(2)]
        for t in range(2, 7)
    ]
    close(net(x)[0], torch.tensor(wanted), 1e-5)


def test_a_cut_out_sees_nothing_beyond_its_width() -> None:
    net, x = LN(2, 12, 3, centres=[(2, 2), (9, 6)], half_width=2), film(1, 3, 12, 12)
    nn.init.normal_(net.filter.weight)
    other = x.clone()
    other[..., 5:] += 1  # columns that the first cell does not see
    assert torch.equal(net(x)[..., 0], net(other)[..., 0]) and not torch.equal(net(x)[..., 1], net(other)[..., 1])


@pytest.mark.parametrize(
    ("kind", "formula"),
    [
        ("softplus", lambda u: math.log(1 + math.exp(u))),
        ("parametric", lambda u: 0.2 * math.log(1 + math.exp(5 * u))),
        ("exp", math.exp),
        ("relu2", lambda u: max(u, 0) ** 2),
    ],
)
def test_nonlinearities_are_their_formulas(kind: str, formula) -> None:
    found = Output(kind, 1)(torch.tensor([[-1.5], [0.3], [1.2]]))[:, 0]
    assert found.tolist() == pytest.approx([formula(u) for u in (-1.5, 0.3, 1.2)], rel=1e-5)


def test_a_learned_nonlinearity_begins_as_one_that_rises() -> None:
    rates = Output("rbf", 1)(torch.linspace(-4, 4, 30)[:, None])[:, 0]
    assert (rates.diff() > 0).all()


def test_history_reaches_back_from_the_bin_before() -> None:
    """u_i(t) = k_i . X_t + b_i + sum over cells and 1 to H bins."""
    torch.manual_seed(0)
    net, x = GLM(2, 4, 5, history=3), film(1, 9, 4, 4)
    nn.init.normal_(net.coupling)
    spikes = torch.randint(0, 3, (1, 9, 2)).float()
    found, drive = net(x, spikes)[0], net.drive(net.features(x))
    for t in range(4, 9):
        for i in range(2):
            u = drive[t - 4, i]
            for ago in (1, 2, 3):
                u = u + (net.coupling[i, :, 3 - ago] * spikes[0, t - ago]).sum()  # oldest first
            close(found[t - 4, i], u.clamp(-20, 20).exp(), 1e-5)


def test_a_history_longer_than_the_filter_makes_the_first_rate_later() -> None:
    torch.manual_seed(0)
    net, x = GLM(2, 4, 3, history=5), film(1, 9, 4, 4)
    assert net.lags == 6 and net.channels == 3
    ln = LN(2, 4, 3, output="exp")
    ln.load_state_dict({key: value for key, value in net.state_dict().items() if key != "coupling"})
    close(net(x), ln(x)[:, 3:], 1e-6)


def test_trials_of_one_film_are_read_together() -> None:
    torch.manual_seed(0)
    net, x, spikes = GLM(2, 4, 5, history=3), film(1, 9, 4, 4), torch.randint(0, 3, (4, 9, 2)).float()
    nn.init.normal_(net.coupling)
    together = net(x, spikes)
    close(together, torch.cat([net(x, one[None]) for one in spikes]), 1e-6)


def test_a_glm_without_coupling_runs_freely_as_an_ln() -> None:
    torch.manual_seed(0)
    net, x = GLM(2, 4, 5, history=3), film(1, 9, 4, 4)
    close(net.free(x, torch.Generator().manual_seed(0), 0.01, 3), net(x), 1e-5)


def test_what_a_glm_has_fired_lowers_its_rate() -> None:
    torch.manual_seed(0)
    net, x = GLM(1, 4, 5, history=3), film(1, 200, 4, 4)
    nn.init.constant_(net.filter.bias, math.log(50))
    before = net.free(x, torch.Generator().manual_seed(0), 0.01, 20).mean()
    nn.init.constant_(net.coupling, -2.0)
    assert net.free(x, torch.Generator().manual_seed(0), 0.01, 20).mean() < 0.8 * before


# mistakes


def test_a_stimulus_smaller_than_the_filters_is_refused() -> None:
    with pytest.raises(HyenaError, match="together smaller than the stimulus of 20 x 20"):
        CNN(2, 20)
    for options in ({"kernels": (14, 11)}, {"kernels": (15, 1), "stacked": True}):
        with pytest.raises(HyenaError, match="kernels are odd"):
            CNN(2, 50, **options)


@pytest.mark.parametrize(("shape", "words"), [((1, 9, 8, 10), "10 x 10 pixels"), ((1, 5, 10, 10), "5 bins is shorter")])
def test_films_that_do_not_fit_are_refused(shape: tuple[int, ...], words: str) -> None:
    with pytest.raises(HyenaError, match=words):
        small()(torch.zeros(shape))


@pytest.mark.usefixtures("unchecked")
def test_spikes_that_do_not_stand_beside_the_film_are_refused() -> None:
    with pytest.raises(HyenaError, match="1 trials of 5 bins and 1 films of 6"):
        GLM(2, 4, 5, history=3)(torch.zeros(1, 6, 4, 4), torch.zeros(1, 5, 2))
    with pytest.raises(HyenaError, match="3 trials of 6 bins and 2 films of 6"):
        GLM(2, 4, 5, history=3)(torch.zeros(2, 6, 4, 4), torch.zeros(3, 6, 2))


def test_other_mistakes_are_named() -> None:
    with pytest.raises(HyenaError, match="did you mean 'channel'"):
        CNN(2, 10, 6, kernels=(5, 3), norm="chanel")
    with pytest.raises(HyenaError, match="unknown output"):
        Output("sigmoid", 2)
    with pytest.raises(HyenaError, match="at least 1"):
        Encoder(0, 4, 4)
