"""What LS4 is compared with: solvers that converge, bounds that hold, regressions that find their weights."""

import math

import numpy as np
import pytest
import torch
from closeness import close

from hyena.errors import HyenaError
from hyena.models.generators import RNNVAE, ARGaussian, LatentODE, linear_interpolation

KINDS = {"latent_ode": lambda **options: LatentODE(horizon=10.0, **options), "rnn_vae": RNNVAE}


def made(kind: str, **options):
    torch.manual_seed(0)
    model = KINDS[kind](z_dim=3, d_model=8, **options)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter *= 3  # so that time and latent matter
    return model


def series(count: int = 2, length: int = 10) -> torch.Tensor:
    return torch.randn(count, length, 1, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("kind", KINDS)
def test_shapes_and_gradients(kind: str) -> None:
    model, x = made(kind), series()
    bound = model(x)
    assert bound.kl.shape == (2, 1, 3) and bound.nll.shape == x.shape
    bound.loss().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    assert model.generate(4, 7).shape == (4, 7, 1)


@pytest.mark.parametrize("kind", KINDS)
def test_times_may_differ_between_series_and_change_no_other(kind: str) -> None:
    model, x = made(kind), series()
    times = torch.rand(2, 10, generator=torch.Generator().manual_seed(1)).cumsum(1) + torch.tensor([[0.0], [50.0]])
    both = model.extrapolate(x, times)
    for i in range(2):  # the solver's steps are those of the union, so its error is not the same
        close(
            model.extrapolate(x[i : i + 1], times[i : i + 1]), both[i : i + 1], 1e-4 if kind == "latent_ode" else 1e-6
        )
    regular = torch.arange(10.0).expand(2, -1)
    close(model.extrapolate(x, regular), model.decode(model.posterior(x).mean, regular), 1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_an_extrapolation_never_sees_what_it_is_asked(kind: str) -> None:
    model, x = made(kind), series()
    times = torch.arange(10.0).expand(2, -1)
    found = model.extrapolate(x[:, :4], times)
    assert found.shape == (2, 10, 1)
    close(found[:, :4], model.extrapolate(x[:, :4], times[:, :4]), 1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_the_encoder_knows_the_time_between_values(kind: str) -> None:
    """The last gap lies between the last two values: with them exchanged in time the latent is another."""
    model, x = made(kind), series()
    even, late = torch.arange(10.0).repeat(2, 1), torch.arange(10.0).repeat(2, 1)
    late[:, -1] += 5
    assert not torch.equal(model.posterior(x, even).mean, model.posterior(x, late).mean)
    close(model.posterior(x, even + 3).mean, model.posterior(x, even).mean, 1e-6)


def test_the_solver_converges_and_counts_its_evaluations() -> None:
    found = {}
    for substeps in (1, 2, 4):
        model = made("latent_ode", substeps=substeps)
        z = torch.randn(2, 3, generator=torch.Generator().manual_seed(0))
        found[substeps] = model.decode(3 * z, 5 * torch.arange(6.0).expand(2, -1))
        assert model.evaluations == 4 * 5 * substeps
    model = made("latent_ode", method="dopri5", tolerance=1e-7)
    exact = model.decode(3 * z, 5 * torch.arange(6.0).expand(2, -1))
    errors = [(value - exact).abs().max() for value in found.values()]
    assert errors[1] < errors[0] / 8, "of fourth order, down to rounding"
    close(found[4], exact, 1e-5)


def test_the_bound_counts_what_the_mask_shows() -> None:
    model, x = made("rnn_vae"), series()
    mask = torch.zeros_like(x, dtype=torch.bool)
    mask[:, :3] = True
    bound = model(x, mask)
    assert (bound.nll[:, 3:] == 0).all() and (bound.nll[:, :3] != 0).all()
    assert bound.negative_elbo().shape == (2,)


def test_an_autoregression_finds_the_process_and_its_noise() -> None:
    rng = np.random.default_rng(0)
    x = np.zeros((400, 60))
    for t in range(2, 60):
        x[:, t] = 0.5 + 0.6 * x[:, t - 1] - 0.3 * x[:, t - 2] + 0.2 * rng.standard_normal(400)
    model = ARGaussian(x, 2)
    assert model.weights == pytest.approx([0.5, -0.3, 0.6], abs=0.02)
    assert model.sd == pytest.approx(0.2, abs=0.01)
    new = model.generate(4000, 60, rng)
    assert new[:, 30:].mean() == pytest.approx(x[:, 30:].mean(), abs=0.02)
    assert new[:, 30:].std() == pytest.approx(x[:, 30:].std(), abs=0.02)
    assert model.nll(x) == pytest.approx(math.log(0.2) + 0.5 * math.log(2 * math.pi) + 0.5, abs=0.02)


def test_a_line_goes_between_neighbours_and_stays_beyond_the_last() -> None:
    x, times = np.array([[0.0, 9.0, 4.0, 7.0]]), np.array([[0.0, 1.0, 4.0, 5.0]])
    found = linear_interpolation(x, np.array([[True, False, True, False]]), times)
    assert found.tolist() == [[0.0, 1.0, 4.0, 4.0]]


def test_bad_settings_are_refused() -> None:
    with pytest.raises(HyenaError, match="sigma is above 0"):
        made("rnn_vae", sigma=0.0)
    with pytest.raises(HyenaError, match="order of an autoregression is 1 to 9"):
        ARGaussian(np.zeros((3, 10)), 10)
