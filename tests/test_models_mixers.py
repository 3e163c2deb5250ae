"""The rows of the paper's comparisons: their equations done slowly, causality, training, and the table of names."""

from __future__ import annotations

import pytest
import torch
from closeness import close
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.testing import assert_close

from hyena.errors import HyenaError
from hyena.models.lm import LanguageModel, count_parameters, next_token_loss
from hyena.models.mixers import FILTERS, GSS, H3, LARGEST_EXPONENT, RWKV, AFTConv, mixer

DRAWN = settings(deadline=None, max_examples=15)
SEEDS = st.integers(0, 2**32 - 1)


pytestmark = pytest.mark.usefixtures("float64")


def perturbed(made: nn.Module, seed: int = 0, size: float = 0.3) -> nn.Module:
    """With noise on every parameter: no bias is zero, no two channels are alike."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter += size * torch.randn_like(parameter)
    return made.eval()


def model(row: str, l_max: int = 24, **options: object) -> LanguageModel:
    maker = mixer(row, 16, l_max, num_heads=2, **options)
    return LanguageModel(30, 16, 2, 32, maker, l_max=l_max, positions=row == "attention")


# Definitions


def sums(taps: Tensor, skip: Tensor, x: Tensor) -> Tensor:
    """Output of a causal convolution, (L, D) to (L, D), one product at a time."""
    y = skip * x
    for t in range(len(x)):
        for s in range(t + 1):
            y[t] += taps[:, t - s] * x[s]
    return y


@DRAWN
@given(st.integers(1, 12), SEEDS)
@torch.no_grad()
def test_h3_is_its_equation(length: int, seed: int) -> None:
    made = perturbed(H3(3, 12, d_state=4), seed)
    u = torch.randn(1, length, 3)
    q, k, v = made.in_proj(u[0]).split(3, dim=-1)
    shifted = sums(made.shift(length), made.shift.bias, k)
    y = q * sums(made.diagonal(length), made.diagonal.bias, shifted * v)
    close(made(u)[0], made.out_proj(y), 1e-10)


@torch.no_grad()
def test_the_shift_of_h3_reaches_as_far_as_its_state() -> None:
    assert H3(3, 12, d_state=4).shift(12).abs().gt(0).sum(1).tolist() == [4, 4, 4]


@DRAWN
@given(st.integers(1, 12), SEEDS)
@torch.no_grad()
def test_gss_is_its_equation(length: int, seed: int) -> None:
    made, gelu = perturbed(GSS(8, 12, d_state=6), seed), nn.functional.gelu
    u = torch.randn(1, length, 8)
    state = sums(made.ssm(length), made.ssm.bias, gelu(made.reduce(u[0])))
    assert state.shape == (length, 2), "a quarter of the width"
    y = gelu(made.gate(u[0])) * made.expand(state)
    assert y.shape == (length, 16), "twice the width"
    close(made(u)[0], made.out_proj(y), 1e-10)


def aft(made: AFTConv, u: Tensor) -> Tensor:
    """AFT-conv of one sequence (L, D), a weighted mean at a time."""
    q, k, v = made.in_proj(u).split(made.d_model, dim=-1)
    k, y, window = k.clamp(-LARGEST_EXPONENT, LARGEST_EXPONENT), torch.zeros_like(v), made.w.shape[1]
    for t in range(len(u)):
        bias = torch.stack([made.w[:, t - s] if t - s < window else torch.zeros_like(u[0]) for s in range(t + 1)])
        y[t] = torch.sigmoid(q[t]) * ((bias + k[: t + 1]).softmax(0) * v[: t + 1]).sum(0)
    return made.out_proj(y)


def rwkv(made: RWKV, u: Tensor) -> Tensor:
    """RWKV of one sequence (L, D), by the recurrence of its numerator and denominator."""
    previous = torch.cat([torch.zeros(1, made.d_model), u[:-1]])
    mixed = [m * u + (1 - m) * previous for m in made.shift]
    r, k, v = (x @ w.T for x, w in zip(mixed, made.in_proj.weight.split(made.d_model), strict=True))
    k, decay, y = k.clamp(-LARGEST_EXPONENT, LARGEST_EXPONENT), torch.exp(-made.log_decay.exp()), torch.zeros_like(v)
    above = below = torch.zeros(made.d_model)
    for t in range(len(u)):
        now = torch.exp(made.bonus + k[t])
        y[t] = torch.sigmoid(r[t]) * (above + now * v[t]) / (below + now)
        above, below = decay * above + torch.exp(k[t]) * v[t], decay * below + torch.exp(k[t])
    return made.out_proj(y)


@DRAWN
@given(st.integers(1, 12), st.integers(1, 14), SEEDS)
@torch.no_grad()
def test_aft_is_a_softmax_over_the_past(length: int, window: int, seed: int) -> None:
    made = perturbed(AFTConv(3, 12, window=window), seed)
    u = torch.randn(1, length, 3)
    close(made(u)[0], aft(made, u[0]), 1e-10)


@DRAWN
@given(st.integers(1, 12), SEEDS)
@torch.no_grad()
def test_rwkv_is_its_recurrence(length: int, seed: int) -> None:
    made = perturbed(RWKV(3, 12), seed)
    u = torch.randn(1, length, 3)
    close(made(u)[0], rwkv(made, u[0]), 1e-10)


@torch.no_grad()
def test_rwkv_is_its_sums() -> None:
    made, u = perturbed(RWKV(1, 9)), torch.randn(1, 9, 1)
    m, w, b = made.shift[:, 0], made.log_decay.exp()[0], made.bonus[0]
    x, weights = u[0, :, 0], made.in_proj.weight[:, 0]
    r, k, v = (weights[i] * (m[i] * x + (1 - m[i]) * nn.functional.pad(x, (1, 0))[:-1]) for i in range(3))
    for t in range(9):
        share = [torch.exp(-(t - 1 - s) * w + k[s]) for s in range(t)] + [torch.exp(b + k[t])]
        mean = sum(g * v[s] for s, g in enumerate(share)) / sum(share)
        close(made(u)[0, t], (torch.sigmoid(r[t]) * mean)[None] @ made.out_proj.weight.T, 1e-10)


def with_exponents(made: AFTConv | RWKV, size: float) -> nn.Module:
    """Keys are `size` times input channel 0, values input channel 1, whatever else there is."""
    with torch.no_grad():
        _, k, v = made.in_proj.weight.view(3, 4, 4)
        for part, channel, value in ((k, 0, size), (v, 1, 1.0)):
            part.zero_()
            part[:, channel] = value
        if made.in_proj.bias is not None:
            made.in_proj.bias.zero_()
    return made


@pytest.mark.parametrize(("kind", "slow"), [(AFTConv, aft), (RWKV, rwkv)], ids=["aft_conv", "rwkv"])
@pytest.mark.parametrize(("keys", "tolerance"), [("drawn", 1e-5), ("rising", 1e-4), ("falling", 1e-6)])
@torch.no_grad()
def test_weights_of_very_different_size_stay_accurate(kind, slow, keys: str, tolerance: float) -> None:
    made, u = with_exponents(kind(4, 256), 14.0), torch.randn(1, 256, 4)
    steps = {"drawn": 2 * torch.rand(256) - 1, "rising": torch.ones(256), "falling": -torch.ones(256)}[keys]
    steps[:128] *= -1
    u[0, :, 0] = steps  # keys from -14 to 14
    close(made(u)[0], slow(made, u[0]), tolerance)


@torch.no_grad()
def test_exponents_are_bounded_so_that_small_sums_survive_beside_large_ones() -> None:
    made, u = with_exponents(AFTConv(4, 64), 1.0), torch.randn(1, 64, 4)
    u[0, :, 0] = torch.where(torch.arange(64) < 32, -1000.0, 1000.0)
    bounded = u.clone()
    bounded[0, :, 0] = u[0, :, 0].clamp(-LARGEST_EXPONENT, LARGEST_EXPONENT)
    made.in_proj.weight[:4] = 0  # the gate is one half
    close(made(u), made(bounded))
    changed = u.clone()
    changed[:, 32:, 1] += 1
    close(made(changed)[:, :32], made(u)[:, :32], 1e-4)


# All rows


@torch.no_grad()
def test_output_never_depends_on_the_future(row: str) -> None:
    made = perturbed(mixer(row, 16, 24, num_heads=2)(), size=0.1)
    u = torch.randn(2, 24, 16)
    before = made(u)
    for t in (1, 11, 23):
        changed = u.clone()
        changed[:, t:] += torch.randn(2, 24 - t, 16)
        close(made(changed)[:, :t], before[:, :t])
        assert not torch.allclose(made(changed)[:, t:], before[:, t:])


@torch.no_grad()
def test_every_earlier_input_matters_but_to_filters_of_few_taps(row: str) -> None:
    made = perturbed(mixer(row, 4, 100)(), size=0.1)
    u = torch.randn(1, 100, 4)
    changed = u.clone()
    changed[0, 0] += 1
    moved = (made(changed) - made(u)).abs().amax((0, 2))
    reach = {"conv1d": 66}.get(row, 100)  # 64 taps after a short filter of 3; transfer functions' own ring on
    assert (moved[:reach] > 0).all()
    assert row != "conv1d" or moved[66:].max() < 1e-12


@torch.no_grad()
def test_a_shorter_input_gives_the_first_outputs(row: str) -> None:
    made = perturbed(mixer(row, 16, 24, num_heads=2)(), size=0.1)
    u = torch.randn(2, 24, 16)
    for length in (1, 2, 17):
        close(made(u[:, :length]), made(u)[:, :length])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_row_trains_in_a_language_model(row: str, dtype: torch.dtype) -> None:
    trained, tokens = model(row).to(dtype), torch.randint(30, (3, 24))
    optimiser, losses = torch.optim.Adam(trained.parameters(), 5e-3), []
    for _ in range(8):
        optimiser.zero_grad()
        loss = next_token_loss(trained(tokens[:, :-1]), tokens[:, 1:])
        loss.backward()
        losses.append(loss.item())
        for name, parameter in trained.named_parameters():
            assert parameter.grad is not None and parameter.grad.isfinite().all() and parameter.grad.any(), name
        optimiser.step()
    assert losses[-1] < 0.95 * losses[0]


@pytest.mark.parametrize("kind", [AFTConv, RWKV, H3, GSS])
def test_gradients_of_a_tiny_mixer(kind) -> None:
    made, u = perturbed(kind(4, 5)), torch.randn(1, 5, 4, requires_grad=True)
    names, values = zip(*((n, p) for n, p in made.named_parameters() if p.numel() <= 48), strict=True)

    def run(u: Tensor, *parameters: Tensor) -> Tensor:
        return torch.func.functional_call(made, dict(zip(names, parameters, strict=True)), (u,))

    assert torch.autograd.gradcheck(run, (u, *values), fast_mode=True)


def test_bfloat16_autocast_trains_on_finite_numbers(row: str) -> None:
    trained, tokens = model(row, w=10.0).float(), torch.randint(30, (3, 24))
    with torch.autocast("cpu", torch.bfloat16):
        logits = trained(tokens)
    next_token_loss(logits.float(), tokens).backward()
    assert logits.isfinite().all()
    assert all(p.grad.isfinite().all() for p in trained.parameters())
    assert_close(logits.float(), trained(tokens), rtol=0.1, atol=0.05 * logits.abs().max().item())


# The table


COUNTS = {
    "hyena": 30592, "conv1d": 21568, "fno": 25664, "ssm": 25728, "transfer_function": 25664, "ckconv": 20672,
    "h3": 29120, "gss": 21872, "aft_conv": 20736, "rwkv": 16704, "attention": 16640,
}  # fmt: skip


def test_the_number_of_parameters_of_every_row_at_width_64() -> None:
    assert {name: count_parameters(mixer(name, 64, 128)()) for name in COUNTS} == COUNTS


def test_an_unknown_row_suggests_the_nearest() -> None:
    with pytest.raises(HyenaError, match=r"unknown operator 'aftconv': did you mean 'aft_conv'\? choose from aft_conv"):
        mixer("aftconv", 16, 24)


@pytest.mark.parametrize("row", ["hyena", *FILTERS])
def test_the_shell_takes_the_options_of_hyena(row: str) -> None:
    made = mixer(row, 8, 12, order=3, short_filter_order=5, dropout=0.5, activation="gelu", w=10.0)()
    assert made.order == 3 and made.short_filter.kernel_size == (5,) and made.dropout.p == 0.5
    assert isinstance(made.activation, nn.GELU) and isinstance(made.filter_fn, FILTERS.get(row, nn.Module))


def test_a_mistyped_option_is_refused_whatever_the_row(row: str) -> None:
    with pytest.raises(HyenaError, match=r"unknown option of HyenaOperator 'ordr': did you mean 'order'\?"):
        mixer(row, 8, 12, ordr=3)
