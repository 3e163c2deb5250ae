"""LS4: the official outputs and gradients, generation step by step, irregular times, and what each part may see."""

from __future__ import annotations

import math

import pytest
import torch
from closeness import close
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from hyena.errors import HyenaError
from hyena.models.ls4 import LS4, Gaussian, kl_divergence
from hyena.models.ls4_layers import SSM, TwoInputSSM
from hyena.models.ls4_official import from_official

OFFICIAL = {
    "monash": {"pool": (1,)},
    "pool5_sigmoid": {"pool": (5,), "output": "sigmoid"},
    "bidir": {"pool": (1,), "bidirectional": True},
}
SMALL = {"z_dim": 3, "d_model": 8, "d_state": 8, "n_layer": 1}
DRAWN = settings(deadline=None, max_examples=10)


def official(reference, name: str) -> tuple[LS4, dict[str, Tensor]]:
    stored, _ = reference(f"ls4_fixed_vae_{name}")
    model = LS4(**SMALL, mode="dplr", l_max=20, **OFFICIAL[name])
    model.load_state_dict(from_official(part(stored, "param.")))  # strict: every key is there
    return model, stored


def part(stored: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in stored.items() if key.startswith(prefix)}


def gradients_close(module: nn.Module, stored: dict[str, Tensor]) -> None:
    """Equal up to 1e-4 of each tensor's largest entry, and 1e-7 of the largest of all, which float32 resolves."""
    least = 1e-7 * max(gradient.abs().max() for gradient in stored.values())
    for key, parameter in module.named_parameters():
        largest = stored[key].abs().max()
        close(parameter.grad, stored[key], float(1e-4 + least / largest.clamp(min=1e-30)))


def small(seed: int = 0, **options) -> LS4:
    torch.manual_seed(seed)
    return LS4(**SMALL | {"pool": (1,)} | options)


def series(length: int = 12, count: int = 2, seed: int = 0) -> Tensor:
    return torch.randn(count, length, 1, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", ["monash", "pool5_sigmoid"])
def test_every_term_and_gradient_is_the_official_one(reference, name: str) -> None:
    model, stored = official(reference, name)
    x, mask = stored["x"], stored["mask"].bool()
    (q,) = model.posterior(x)
    close(q.mean, stored["post_mean"], 1e-6)
    close(q.std, stored["post_std"], 1e-6)
    z = q.mean + q.std * stored["eps0"]
    close(z, stored["z"], 1e-6)
    (p,) = model.prior([z])
    close(p.mean, stored["prior_mean"], 1e-6)
    close(p.std, stored["prior_std"], 1e-6)
    close(model.decode([z]), stored["dec_mean"], 1e-6)
    bound = model(x, mask, noise=[stored["eps0"]])
    close(bound.kl.sum((1, 2)), stored["kl_sum"], 1e-6)
    close(bound.nll.sum((1, 2)), stored["nll_sum"], 1e-6)
    close(bound.negative_elbo(), stored["kl_sum"] + stored["nll_sum"], 1e-6)
    close(bound.loss(), stored["loss"], 1e-6)
    bound.loss().backward()
    gradients_close(model, from_official(part(stored, "grad.")))


def test_both_ways_are_the_official_ones(reference) -> None:
    """The released code masks the KL of the second way in the order from the end; here it is masked in that of time."""
    model, stored = official(reference, "bidir")
    x, mask, noise = stored["x"], stored["mask"].bool(), [stored["eps0"], stored["eps1"].flip(1)]
    q = model.posterior(x)
    z = [g.mean + g.std * e for g, e in zip(q, noise, strict=True)]
    p = model.prior(z)
    close(q[0].mean, stored["post_mean"], 1e-6)
    close(p[0].std, stored["prior_std"], 1e-6)
    kl = [kl_divergence(a, b) for a, b in zip(q, p, strict=True)]
    kl[1] = kl[1].flip(1)
    bound = model(x, mask, seen=x, noise=noise)  # the fixture's series go on beyond the mask
    steps, valid = mask.any(-1).sum(1), mask.any(-1, keepdim=True)
    loss = ((sum(kl) * valid).mean(-1).sum(1) / steps + bound.nll.sum((1, 2)) / steps).mean()
    close(loss, stored["loss"], 1e-6)
    loss.backward()
    gradients_close(model, from_official(part(stored, "grad.")))
    close(bound.kl, (kl[0] + kl[1].flip(1)) * valid, 1e-6)


@pytest.mark.parametrize("name", list(OFFICIAL))
def test_steps_of_the_prior_are_the_official_ones(reference, name: str) -> None:
    model, stored = official(reference, name)
    state, found, last = model.priors[0].start(3), [], model.z_priors[0].expand(3, -1)
    for z in stored["z"].unbind(1):
        found.append(model.priors[0].step(last, state))
        last = z
    close(torch.stack([mean for mean, _ in found], 1), stored["prior_mean_step"], 1e-5)
    close(torch.stack([std for _, std in found], 1), stored["prior_std_step"], 1e-5)


def test_parameters_are_as_many_as_released() -> None:
    model = LS4(z_dim=5, mode="dplr", l_max=52)
    count = lambda module: sum(p.numel() for p in module.parameters())  # noqa: E731
    assert count(model.posteriors) == 716_433
    assert count(model.priors) == 716_689
    assert count(model.decoder) == 713_729


def test_the_released_layer_is_the_same_model_by_convolution_and_by_steps(reference) -> None:
    """The code as shipped drops half of the poles in the convolution alone: what it trains it cannot sample."""
    stored, _ = reference("ls4_fixed_s4layer")
    layer = SSM(4, 8, mode="dplr", l_max=16)
    layer.load_state_dict({
        key.replace("layer.output", "output"): value for key, value in official_layer(stored, "param.").items()
    })  # fmt: skip
    x = stored["x"].mT.requires_grad_()
    y = layer(x)
    close(y.mT, stored["y"], 1e-6)
    (y.mT * stored["cotangent"]).sum().backward()
    close(x.grad.mT, stored["grad_x"], 1e-5)
    gradients_close(layer, official_layer(stored, "grad."))
    state = layer.start(2)
    steps = torch.stack([layer.step(u, state) for u in x.unbind(1)], 1)
    close(steps, y, 1e-5)
    shipped, _ = reference("asshipped_ls4_s4layer")
    assert (shipped["y"] - y.mT).abs().max() > 1e-2


def official_layer(stored: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """One layer, named as if it were the mean of a posterior, and back."""
    head = "posteriors.0.head.mean."
    named = {f"encoder.latent.mean.{key}": value for key, value in part(stored, prefix).items()}
    return {key.removeprefix(head): value for key, value in from_official(named).items()}


def two_inputs(reference) -> tuple[TwoInputSSM, dict[str, Tensor]]:
    stored, _ = reference("ls4_joint_layer")
    layer = TwoInputSSM(4, 8)
    layer.load_state_dict(joint_names(part(stored, "param.")))
    return layer, stored


def joint_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    found = {key.removeprefix("kernel."): value for key, value in state.items() if key.startswith("kernel.")}
    found["skips"] = torch.stack([
        torch.stack([state[f"{name}_{output}"] for name in "DF"]) for output in ("main", "aux")
    ])  # fmt: skip
    for i, name in enumerate(("output_linear", "output_linear_aux")):
        found[f"outputs.{i}.0.weight"] = state[f"{name}.0.weight"][..., 0]
        found[f"outputs.{i}.0.bias"] = state[f"{name}.0.bias"]
    return found


def test_two_inputs_are_the_official_layer(reference) -> None:
    layer, stored = two_inputs(reference)
    kernels = layer.kernels(16)
    for at, name in (((0, 0), "K_u"), ((0, 1), "K_x"), ((1, 0), "K_u_aux"), ((1, 1), "K_x_aux")):
        close(kernels[at], stored[name], 1e-5)
    u, x = (stored[name].mT.clone().requires_grad_() for name in "ux")
    y, y_aux = layer(u, x)
    close(y.mT, stored["y"], 1e-6)
    close(y_aux.mT, stored["y_aux"], 1e-6)
    loss = (y.mT * stored["cotangent"]).sum() + (y_aux.mT * stored["cotangent_aux"]).sum()
    close(loss, stored["loss"], 1e-5)
    loss.backward()
    close(u.grad.mT, stored["grad_u"], 1e-5)
    close(x.grad.mT, stored["grad_x"], 1e-5)
    gradients_close(layer, joint_names(part(stored, "grad.")))


def test_two_inputs_are_the_same_by_steps_and_on_times(reference) -> None:
    layer, stored = two_inputs(reference)
    u, x = stored["u"].mT, stored["x"].mT
    y, y_aux = layer(u, x)
    state = layer.start(2)
    steps = [layer.step(a, b, state) for a, b in zip(u.unbind(1), x.unbind(1), strict=True)]
    close(torch.stack([main for main, _ in steps], 1), stored["y_step"].mT, 1e-5)
    close(torch.stack([aux for _, aux in steps], 1), stored["y_aux_step"].mT, 1e-5)
    on_times = layer(u, x, torch.ones(2, 16))
    close(on_times[0], y, 1e-5)
    close(on_times[1], y_aux, 1e-5)


@pytest.mark.parametrize("mode", ["diag", "dplr"])
@pytest.mark.parametrize("pool", [(), (1,), (3,), (2, 3)])
def test_steps_of_the_prior_are_its_convolution(mode: str, pool: tuple[int, ...]) -> None:
    model = small(pool=pool, mode=mode, l_max=12)
    z = torch.randn(2, 12, 3)
    (p,) = model.prior([z])
    state, last = model.priors[0].start(2), model.z_priors[0].expand(2, -1)
    for t in range(12):
        mean, std = model.priors[0].step(last, state)
        close(mean, p.mean[:, t], 1e-5)
        close(std, p.std[:, t], 1e-5)
        last = z[:, t]


@pytest.mark.parametrize("irregular", [False, True])
@pytest.mark.parametrize("way", [0, 1])
def test_what_is_generated_has_the_prior_that_generated_it(way: int, irregular: bool) -> None:
    model = small(bidirectional=True, pool=())
    times = torch.rand(2, 9, generator=torch.Generator().manual_seed(0)).cumsum(1) if irregular else None
    noise = torch.randn(2, 9, 3)
    z = model.roll(torch.zeros(2, 0, 3), noise, times, way)
    latents = [torch.zeros_like(z), z.flip(1)] if way else [z, torch.zeros_like(z)]
    p = model.prior(latents, times)[way]
    mean, std = (x.flip(1) if way else x for x in p)
    close(mean + std * noise, z, 1e-5)


def test_reading_from_the_end_is_reading_the_reversed_series() -> None:
    """With the weights of the first way, the second says of a series what the first says of its mirror image."""
    model, x = small(bidirectional=True, pool=()), series()
    model.posteriors[1].load_state_dict(model.posteriors[0].state_dict())
    times = torch.rand(2, 12, generator=torch.Generator().manual_seed(0)).cumsum(1)
    there = model.posterior(x, times)[1]
    mirrored = model.posterior(x.flip(1), 9 - times.flip(1))[0]
    close(there.mean.flip(1), mirrored.mean, 1e-5)
    close(there.std.flip(1), mirrored.std, 1e-5)


def test_a_joint_decoder_generates_what_it_decodes() -> None:
    """Fed with the values that it has drawn, the convolution gives the means of every step."""
    model = small(decoder="joint")
    z, drawn = torch.randn(2, 10, 3), []
    state, x = model.decoder.start(2), torch.zeros(2, 1)
    means = []
    for t in range(10):
        means.append(model.decoder.step(z[:, t], x, state))
        x = means[-1] + torch.randn(2, 1)
        drawn.append(x)
    close(torch.stack(means, 1), model.decode([z], x=torch.stack(drawn, 1)), 1e-5)
    assert model.generate(3, 7, torch.Generator().manual_seed(0)).shape == (3, 7, 1)


@pytest.mark.parametrize("options", [{}, {"decoder": "joint"}, {"bidirectional": True}])
def test_generation_is_fixed_by_its_generator(options: dict) -> None:
    model = small(**options)
    first, again, other = (model.generate(2, 8, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@DRAWN
@given(st.integers(1, 11), st.sampled_from([(), (1,), (3,), (2, 2)]))
def test_the_posterior_never_depends_on_the_future(at: int, pool: tuple[int, ...]) -> None:
    model, x = small(pool=pool), series()
    later = x.clone()
    later[:, at:] += 5
    for before, after in zip(model.posterior(x)[0], model.posterior(later)[0], strict=True):
        close(after[:, :at], before[:, :at], 1e-5)


@DRAWN
@given(st.integers(0, 10))
def test_the_second_posterior_never_depends_on_the_past(at: int) -> None:
    model, x = small(bidirectional=True), series()
    earlier = x.clone()
    earlier[:, : at + 1] += 5
    for before, after in zip(model.posterior(x)[1], model.posterior(earlier)[1], strict=True):
        close(after[:, at + 1 :], before[:, at + 1 :], 1e-5)


def test_a_prior_never_sees_the_latent_that_it_judges() -> None:
    model, z = small(), torch.randn(2, 12, 3)
    later = z.clone()
    later[:, 5:] += 5
    for before, after in zip(model.prior([z])[0], model.prior([later])[0], strict=True):
        close(after[:, :6], before[:, :6], 1e-5)


@pytest.mark.parametrize("options", [{}, {"decoder": "joint"}, {"bidirectional": True}])
def test_times_of_a_regular_grid_change_nothing(options: dict) -> None:
    model, x = small(pool=(), unit=0.5, **options), series()
    times = 0.5 * torch.arange(12.0).expand(2, -1) + 3
    noise = [torch.randn(2, 12, 3) for _ in model.priors]
    there, here = model(x, times=times, noise=noise), model(x, noise=noise)
    close(there.kl, here.kl, 1e-4)
    close(there.nll, here.nll, 1e-4)
    state = torch.Generator().manual_seed(0)
    again = torch.Generator().manual_seed(0)
    close(model.generate(2, 12, state, times), model.generate(2, 12, again), 1e-4)


def test_a_series_does_not_depend_on_the_others_of_its_batch() -> None:
    model, x = small(pool=()), series(count=3)
    times = torch.rand(3, 12, generator=torch.Generator().manual_seed(0)).cumsum(1)
    noise = torch.randn(3, 12, 3)
    whole = model(x, times=times, noise=[noise]).negative_elbo()
    alone = model(x[1:2], times=times[1:2], noise=[noise[1:2]]).negative_elbo()
    close(alone, whole[1:2], 1e-5)


def test_extrapolation_never_sees_what_it_is_asked() -> None:
    model, x = small(pool=()), series()
    times = torch.rand(2, 12, generator=torch.Generator().manual_seed(0)).cumsum(1)
    found = model.extrapolate(x[:, :7], torch.zeros(2, 5, 3), times)
    assert found.shape == x.shape
    q = model.posterior(x, times)[0].mean
    close(found[:, :7], model.decode([q], times)[:, :7], 1e-5)
    z = model.roll(q[:, :7], torch.zeros(2, 5, 3), times)
    close(z[:, :7], q[:, :7], 1e-6)
    close(z[:, 7:], model.prior([z], times)[0].mean[:, 7:], 1e-5)  # each step is the mean of the prior


def test_hidden_values_reach_neither_posterior_nor_bound() -> None:
    model, x = small(d_input=2), series()
    shown = torch.rand(x.shape, generator=torch.Generator().manual_seed(1)) > 0.3
    noise = [torch.randn(2, 12, 3)]

    def bound(x: Tensor) -> Tensor:
        seen = torch.cat([torch.where(shown, x, 0.0), shown.float()], -1)
        return model(x, shown, seen=seen, noise=noise).negative_elbo()

    close(bound(torch.where(shown, x, 9.0)), bound(x), 1e-6)


def test_the_divergence_is_the_one_of_the_textbook() -> None:
    q, p = (Gaussian(torch.randn(2, 3, 4), torch.rand(2, 3, 4) + 0.1) for _ in range(2))
    as_known = torch.distributions.kl_divergence(torch.distributions.Normal(*q), torch.distributions.Normal(*p))
    close(kl_divergence(q, p), as_known, 1e-6)


def test_the_likelihood_is_that_of_the_decoder() -> None:
    model, x = small(sigma=0.3), series()
    mean = torch.randn(2, 12, 1)
    model.decode = lambda *_: mean
    close(model(x).nll, -torch.distributions.Normal(mean, 0.3).log_prob(x), 1e-6)


def test_a_posterior_that_is_the_prior_has_no_divergence() -> None:
    model, x = small(), series()
    model.prior = lambda z, times: model.posterior(x)
    bound = model(x)
    assert bound.kl.abs().max() < 1e-6
    close(bound.negative_elbo(), bound.nll.sum((1, 2)), 1e-6)


def test_the_mean_of_the_bound_is_never_below_the_negative_log_likelihood() -> None:
    """One step, a decoder that is the identity: p(x) is Gaussian and known, whatever the posterior is."""
    model, x = small(z_dim=1, sigma=0.5), series(length=1, count=1).expand(1000, 1, 1)
    p = model.prior([torch.zeros(1000, 1, 1)])[0]
    model.decode = lambda z, *_: z[0]
    exact = -torch.distributions.Normal(p.mean, (p.std**2 + 0.25).sqrt()).log_prob(x)[0, 0, 0]
    assert model(x).negative_elbo().mean() > exact - 0.05


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"decoder": "both"}, "unknown decoder"),
        ({"output": "tanh"}, "unknown output"),
        ({"sigma": 0.0}, "sigma is above 0"),
        ({"d_state": 7}, "d_state is even"),
        ({"mode": "dplr"}, "needs l_max"),
    ],
)
def test_options_that_cannot_be_are_refused(options: dict, what: str) -> None:
    with pytest.raises(HyenaError, match=what):
        small(**options)


def test_bad_series_are_refused() -> None:
    model, x = small(pool=()), series()
    with pytest.raises(HyenaError, match="series 1 of the batch has no observed value"):
        model(x, torch.tensor([True, False])[:, None, None].expand(x.shape))
    with pytest.raises(HyenaError, match="mark missing values in the mask"):
        model(x.masked_fill(x > 1, math.nan))
    with pytest.raises(HyenaError, match="times go back"):
        model(x, times=torch.arange(12.0).flip(0).expand(2, -1))
    with pytest.raises(HyenaError, match="pad the series"):
        small(pool=(5,))(x)
    with pytest.raises(HyenaError, match="cannot be pooled"):
        small(pool=(2,))(x, times=torch.arange(12.0).expand(2, -1))
    with pytest.raises(HyenaError, match="mode diag"):
        small(pool=(), mode="dplr", l_max=12)(x, times=torch.arange(12.0).expand(2, -1))
    with pytest.raises(HyenaError, match="goes one way"):
        small(bidirectional=True).extrapolate(x, torch.zeros(2, 3, 3))
    with pytest.raises(HyenaError, match="give x, or generate"):
        small(decoder="joint").decode([torch.zeros(2, 4, 3)])


def test_missing_values_may_be_no_numbers_where_the_mask_says_so() -> None:
    model, x = small(), series()
    mask = x < 1
    noise = [torch.randn(2, 12, 3)]
    close(model(x.masked_fill(~mask, math.nan), mask, noise=noise).nll, model(x, mask, noise=noise).nll, 1e-6)
