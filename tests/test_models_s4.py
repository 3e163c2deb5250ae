"""S4 layers: the official outputs and gradients, the same by steps and by chunks, and across resolutions."""

from __future__ import annotations

import pytest
import torch
from closeness import close
from conftest import REFERENCE
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from hyena.errors import HyenaError
from hyena.models.s4 import S4Block, S4Conv, S4Kernel, S4Model

BLOCKS = sorted(path.stem.removeprefix("s4_block_") for path in REFERENCE.glob("s4_block_*.npz"))
MODES = [{"mode": "diag"}, {"mode": "diag", "rule": "bilinear"}, {"mode": "dplr", "l_max": 40}]
DRAWN = settings(deadline=None, max_examples=15)


def official(reference, name: str) -> tuple[S4Block, dict[str, Tensor]]:
    stored, _ = reference(f"s4_block_{name}")
    weights = {key.removeprefix("param."): value for key, value in stored.items() if key.startswith("param.")}
    mode, direction, length = name.split("_")
    l_max = None if length == "lmaxNone" else 16
    options = {"mode": mode, "l_max": l_max or (24 if mode == "dplr" else None), "bidirectional": direction == "bi"}
    block = S4Block(4, d_state=16, **options)
    block.load_state_dict(weights)  # strict: every key is there
    return block.eval(), stored


@pytest.mark.parametrize("name", BLOCKS)
def test_outputs_and_all_gradients_are_the_official_ones(reference, name: str) -> None:
    block, stored = official(reference, name)
    x = stored["x"].requires_grad_()
    y = block(x)
    close(y, stored["y"], 1e-6)
    close(block.layer(x), stored["y_conv"], 1e-6)
    (y * stored["cotangent"]).sum().backward()
    close(x.grad, stored["grad_x"], 5e-6)
    for key, parameter in block.named_parameters():
        close(parameter.grad, stored[f"grad.{key}"], 1e-5)


@pytest.mark.parametrize("name", ["diag_uni_lmaxNone", "dplr_uni_lmaxNone"])
def test_steps_are_the_official_ones(reference, name: str) -> None:
    block, stored = official(reference, name)
    state, found = None, []
    for u in stored["x"].unbind(1):
        y, state = block.step(u, state)
        found.append(y)
    close(torch.stack(found, 1), stored["y_step"], 5e-6)


def test_chunks_and_states_are_the_official_ones(reference) -> None:
    from numpy import load

    block, stored = official(reference, "diag_uni_lmaxNone")
    first, state = block.layer.chunk(stored["x"][:, :12])
    second, last = block.layer.chunk(stored["x"][:, 12:], state)
    close(torch.cat([first, second], 1), stored["y_conv_chunked"], 1e-6)
    with load(REFERENCE / "s4_block_diag_uni_lmaxNone.npz") as states:
        close(state, torch.from_numpy(states["chunk_state1"]), 1e-6)
        close(last, torch.from_numpy(states["chunk_state2"]), 1e-6)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("options", MODES, ids=lambda o: "-".join(map(str, o.values())))
def test_convolution_and_steps_are_the_same(options: dict) -> None:
    layer, u = S4Conv(3, channels=2, d_state=6, **options), torch.randn(2, 21, 3)
    state, found = None, []
    for t in range(21):
        y, state = layer.step(u[:, t], state)
        found.append(y)
    close(torch.stack(found, 1), layer(u), 1e-9)


@pytest.mark.usefixtures("float64")
@DRAWN
@given(st.lists(st.integers(1, 9), min_size=1, max_size=4), st.integers(0, 2**32 - 1))
def test_any_cut_into_chunks_gives_the_whole(sizes: list[int], seed: int) -> None:
    torch.manual_seed(seed)
    layer, u = S4Conv(3, d_state=6, n_ssm=3), torch.randn(2, sum(sizes), 3)
    state, found = None, []
    for piece in u.split(sizes, 1):
        y, state = layer.chunk(piece, state)
        found.append(y)
    close(torch.cat(found, 1), layer(u), 1e-10)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("options", MODES, ids=lambda o: "-".join(map(str, o.values())))
def test_one_way_is_causal_and_two_ways_see_everything(options: dict) -> None:
    for bidirectional in (False, True):
        layer, u = S4Conv(2, d_state=6, bidirectional=bidirectional, **options), torch.randn(1, 12, 2)
        changed = u.clone()
        changed[:, 7] += 1
        same = (layer(changed) - layer(u)).abs().amax((0, 2)) < 1e-12
        assert same.tolist() == ([not bidirectional] * 7 + [False] * 5)


@pytest.mark.usefixtures("float64")
def test_the_second_kernel_starts_after_the_present() -> None:
    layer, u = S4Conv(1, d_state=4, bidirectional=True), torch.randn(1, 9, 1)
    past, future = layer.kernel(9)[:, 0]
    x = u[0, :, 0]
    by_hand = [
        sum(past[t - s] * x[s] for s in range(t + 1))
        + sum(future[s - t - 1] * x[s] for s in range(t + 1, 9))
        + layer.D[0, 0] * x[t]
        for t in range(9)
    ]
    close(layer(u)[0, :, 0], torch.stack(by_hand), 1e-10)


@pytest.mark.usefixtures("float64")
def test_longer_kernels_of_the_low_rank_form_are_had_by_doubling() -> None:
    torch.manual_seed(1)
    short = S4Kernel(2, 6, mode="dplr", l_max=8)
    torch.manual_seed(1)
    long = S4Kernel(2, 6, mode="dplr", l_max=50)
    close(short(50), long(50), 1e-9)
    close(short(5), long(5), 1e-9)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("options", MODES[:2], ids=["zoh", "bilinear"])
def test_twice_as_coarse_a_grid_sees_nearly_the_same_smooth_signal(options: dict) -> None:
    layer = S4Conv(1, d_state=8, dt_min=0.01, dt_max=0.01, init="lin", **options)
    torch.nn.init.zeros_(layer.D)
    t = torch.arange(200.0)
    signal = torch.sin(t / 30)[None, :, None]
    fine, coarse = layer(signal)[0, ::2, 0], layer(signal[:, ::2], rate=2.0)[0, :, 0]
    assert (fine - coarse).abs().max() < 0.1 * fine.abs().max()


def test_a_band_limited_layer_has_no_fast_modes() -> None:
    torch.manual_seed(0)
    kernel = S4Kernel(4, 64, init="lin", dt_min=0.1, dt_max=1.0, band_limit=0.5)
    A, _, C, dt = kernel.system()
    turns = dt[:, None] * A.imag.abs() / (2 * torch.pi)
    assert ((C != 0).all(0) == (turns < 0.25)).all() and (C == 0).any()


def test_step_sizes_start_log_uniform_in_their_range() -> None:
    steps = S4Kernel(4000, 2, dt_min=0.01, dt_max=1.0).inv_dt.exp()
    assert 0.01 <= steps.min() < 0.0102 and 0.98 < steps.max() <= 1.0
    assert abs((steps < 0.1).float().mean() - 0.5) < 0.03


def test_state_space_parameters_have_their_own_rate_and_no_decay() -> None:
    kernel = S4Kernel(4, 8, mode="dplr", l_max=16, lr=0.002)
    own = {name: getattr(p, "_optim", None) for name, p in kernel.named_parameters()}
    assert own.pop("C") is None
    assert own == {key: {"weight_decay": 0.0, "lr": 0.002} for key in ("inv_dt", "A_real", "A_imag", "B", "P")}


def test_a_network_pools_or_answers_everywhere() -> None:
    u = torch.randn(2, 15, 3)
    assert S4Model(3, 5, 8, 2, d_state=4)(u).shape == (2, 5)
    assert S4Model(3, 5, 8, 2, d_state=4, pool="none", bidirectional=True)(u).shape == (2, 15, 5)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"d_state": 7}, "d_state is even"),
        ({"n_ssm": 3}, "n_ssm divides d_model, got 3 and 4"),
        ({"dt_min": 0.2}, "step sizes are 0 < dt_min <= dt_max, got 0.2 and 0.1"),
        ({"mode": "dplr"}, "mode dplr needs l_max"),
        ({"mode": "dplr", "l_max": 8, "band_limit": 0.5}, "a band limit would not be exact"),
        ({"init": "lin", "mode": "dplr", "l_max": 8}, "unknown initial state matrix 'lin'"),
    ],
)
def test_options_that_do_not_go_together_are_refused(options: dict, said: str) -> None:
    with pytest.raises(HyenaError, match=said):
        S4Kernel(4, **options)


def test_two_ways_have_no_steps_and_the_low_rank_form_has_no_chunks() -> None:
    both, low = S4Conv(2, d_state=4, bidirectional=True), S4Conv(2, d_state=4, mode="dplr", l_max=8)
    with pytest.raises(HyenaError, match="no steps and no chunks"):
        both.step(torch.randn(1, 2))
    with pytest.raises(HyenaError, match="no steps and no chunks"):
        both.chunk(torch.randn(1, 3, 2))
    with pytest.raises(HyenaError, match=r"chunks .* are for mode diag"):
        low.chunk(torch.randn(1, 3, 2))
