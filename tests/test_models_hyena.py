"""The Hyena operator: the official one's numbers, its definition done slowly, its matrix, its causality."""

from __future__ import annotations

import pytest
import torch
from closeness import close
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from hyena.errors import HyenaError
from hyena.models.hyena import HyenaFilter, HyenaOperator, hyena_matrix, operator_from_official
from hyena.ops.fftconv import causal_conv, two_sided_conv

DRAWN = settings(deadline=None, max_examples=25)
ORDERS = st.integers(2, 4)
SEEDS = st.integers(0, 2**32 - 1)
ABOUT_THE_FILE = ("L", "seed", "cls")
OFFICIAL = [
    "standalone_op_order2",
    "standalone_op_order3",
    "safari_op_order2",
    "safari_op_order3",
    "safari_op_order2_nomod_normalized_gelu_short5",
    "safari_op_bias_false",
]


@pytest.fixture(autouse=True)
def float64():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture
def official(reference):
    """A file's numbers and the keyword arguments, in our terms, of the class that produced them."""

    def load(name: str) -> tuple[dict[str, Tensor], dict[str, object]]:
        stored, config = reference(f"{name}_fp64")
        options = {key: value for key, value in config.items() if key not in ABOUT_THE_FILE}
        options["w"] = float(options["w"])  # written as an integer, which the checks of the test run do not take
        if name.startswith("standalone"):
            options |= {"channel_map": "blocked", "lr_pos_emb": 0.0}
        return stored, options

    return load


def with_weights(options: dict[str, object], stored: dict[str, Tensor]) -> HyenaOperator:
    """The operator with the stored weights; a missing or left-over one fails, post_order_ffn's own aside."""
    weights = {key.removeprefix("sd/"): value for key, value in stored.items() if key.startswith("sd/")}
    weights.pop("ord_proj_w", None)
    operator = operator_from_official(options)
    operator.load_state_dict(weights)
    return operator.eval()


def perturbed(order: int, seed: int = 0, d_model: int = 3, l_max: int = 16, **options: object) -> HyenaOperator:
    """An operator with noise on every parameter: no bias is zero, no two frequencies are equal."""
    torch.manual_seed(seed)
    operator = HyenaOperator(d_model, l_max, order=order, filter_order=8, emb_dim=5, w=3.0, **options)
    with torch.no_grad():
        for parameter in operator.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    return operator.eval()


# The official code


@pytest.mark.parametrize("name", OFFICIAL)
def test_outputs_filters_and_all_gradients_are_the_official_ones(official, name: str) -> None:
    stored, options = official(name)
    operator, x = with_weights(options, stored), stored["x"].requires_grad_()
    y = operator(x)
    close(y, stored["y"])
    close(operator.filter_fn(x.shape[1]).T, stored["k_filter"])
    (y * stored["w"]).sum().backward()
    close(x.grad, stored["grad_x"], 1e-10)
    trained = {f"grad/{n}": p.grad for n, p in operator.named_parameters() if p.grad is not None}
    assert trained.keys() == {key for key in stored if key.startswith("grad/") and stored[key].abs().max() > 0}
    for key, gradient in trained.items():
        close(gradient, stored[key], 1e-10)


def test_an_input_beyond_l_max_raises_where_the_official_code_cuts_it(official) -> None:
    stored, options = official("safari_op_Lgt_lmax_truncates")
    operator = with_weights(options, stored)
    assert stored["x"].shape[1] == 40
    with pytest.raises(HyenaError, match="length 40 exceeds l_max 32"):
        operator(stored["x"])
    close(operator(stored["x"][:, :32]), stored["y"])


def test_the_official_filter_is_drawn_from_the_same_seed(reference) -> None:
    stored, _ = reference("filter_init_fp32")
    torch.set_default_dtype(torch.float32)
    torch.manual_seed(0)
    drawn = HyenaFilter(32, 66, emb_dim=5, filter_order=64, w=10.0, shift=0.05)
    for length in (64, 66):
        close(drawn(length).T, stored[f"k{length}"], 1e-5)


REFUSALS = [
    ("num_blocks", 2, "see later inputs"),
    ("outer_mixing", True, "sum of the gate over channels"),
    ("post_order_ffn", True, "multiplies by one scalar"),
    ("num_heads", 2, "fails for more than one head"),
    ("inner_factor", 2, "fails for any factor but 1"),
    ("filter_dropout", 0.1, "ignores it"),
    ("local_order", 3, "the short filter is short_filter_order"),
]


@pytest.mark.parametrize(("option", "value", "why"), REFUSALS, ids=[name for name, *_ in REFUSALS])
def test_an_official_option_that_does_not_work_is_refused_with_the_reason(option, value, why) -> None:
    with pytest.raises(HyenaError, match=f"{option}={value} is not supported: .*{why}"):
        operator_from_official({"d_model": 4, "l_max": 8, option: value})


def test_official_options_left_at_their_harmless_values_are_accepted() -> None:
    off = {"num_blocks": 1, "num_heads": 1, "inner_factor": 1, "outer_mixing": False, "filter_dropout": 0.0}
    assert operator_from_official({"d_model": 4, "l_max": 8, "order": 3} | off).order == 3


def test_a_misspelt_official_option_suggests_the_nearest() -> None:
    with pytest.raises(HyenaError, match="'filter_ordr': did you mean 'filter_order'"):
        operator_from_official({"d_model": 4, "l_max": 8, "filter_ordr": 8})


@pytest.fixture
def parts(official):
    """What the official output of a refused option is made of: x0, x1, v, filter, skip, and what follows the gate."""

    def load(name: str) -> tuple[dict[str, Tensor], tuple[Tensor, ...]]:
        stored, options = official(f"safari_op_{name}")
        with pytest.raises(HyenaError, match=name.rstrip("2")):
            operator_from_official(options)
        del options[name.rstrip("2")]
        operator = with_weights(options, stored)
        h, d = operator.filters(stored["x"].shape[1])

        def output(gated: Tensor) -> Tensor:
            return operator.out_proj(gated.transpose(1, 2))

        return stored, (*operator.projections(stored["x"]), h[0], d[0], output)

    return load


def test_outer_mixing_gates_with_the_sum_over_channels(parts) -> None:
    stored, (x0, x1, v, h, d, output) = parts("outer_mixing")
    close(output(x0 * causal_conv(v * x1.sum(1, keepdim=True), h, d)), stored["y"])


def test_post_order_ffn_multiplies_by_one_scalar_per_convolution(parts) -> None:
    stored, (x0, x1, v, h, d, output) = parts("post_order_ffn")
    close(output(x0 * stored["sd/ord_proj_w"][0, 0, 0] * causal_conv(v * x1, h, d)), stored["y"])


def test_num_blocks_wraps_the_filter_around_a_block_so_that_it_sees_the_future(parts) -> None:
    stored, (x0, x1, v, h, d, output) = parts("num_blocks2")
    blocks = (v * x1).unflatten(2, (2, 16)).transpose(1, 2)  # (B, 2, D, 16)
    taps = h[:, torch.arange(-15, 16) % 32]  # the padded block has 32 places: lag -1 is tap 31
    mixed = two_sided_conv(blocks, taps, d).transpose(1, 2).flatten(2)
    close(output(x0 * mixed), stored["y"])
    assert taps[:, :15].abs().max() > 1e-3, "taps at negative lags: later inputs"


# The definition


def slow_operator(operator: HyenaOperator, u: Tensor, taps: int) -> Tensor:
    """The operator's definition with sums for convolutions, one example, nothing shared with the fast one."""
    order, width, length = operator.order, operator.d_model, len(u)
    p = u @ operator.in_proj.weight.T + operator.in_proj.bias  # (L, (N+1) D)
    short = operator.short_filter.bias.repeat(length, 1)
    for t in range(length):
        for lag in range(min(t + 1, taps)):
            short[t] = short[t] + operator.short_filter.weight[:, 0, taps - 1 - lag] * p[t - lag]
    *x, v = short.split(width, dim=1)
    h, d = operator.filter_fn(length), operator.filter_fn.skip()
    for o in range(order - 1):
        z, v = v * x[order - 1 - o], torch.zeros_like(v)
        for c in range(width):
            i = c * (order - 1) + o if operator.channel_map == "interleaved" else o * width + c
            for t in range(length):
                v[t, c] = d[i] * z[t, c] + sum(h[i, t - s] * z[s, c] for s in range(t + 1))
    return (v * x[0]) @ operator.out_proj.weight.T + operator.out_proj.bias


@DRAWN
@given(ORDERS, st.integers(1, 10), st.sampled_from(["interleaved", "blocked"]), st.integers(1, 4), SEEDS)
@torch.no_grad()
def test_the_operator_is_its_recurrence(order: int, length: int, channel_map: str, taps: int, seed: int) -> None:
    operator = perturbed(order, seed, 2, 10, channel_map=channel_map, short_filter_order=taps)
    u = torch.randn(1, length, 2)
    close(operator(u)[0], slow_operator(operator, u[0], taps), 1e-11)


@pytest.mark.parametrize("order", [2, 3, 4])
@torch.no_grad()
def test_the_two_channel_maps_differ_from_order_3_on(order: int) -> None:
    interleaved, blocked = perturbed(order), perturbed(order, channel_map="blocked")
    blocked.load_state_dict(interleaved.state_dict())
    u = torch.randn(2, 12, 3)
    same = torch.allclose(interleaved(u), blocked(u), rtol=1e-9)
    assert same == (order == 2)


@pytest.mark.parametrize("order", [2, 3])
@torch.no_grad()
def test_the_operator_is_multiplication_by_its_lower_triangular_matrix(order: int) -> None:
    operator, u = perturbed(order), torch.randn(2, 11, 3)
    matrix = hyena_matrix(operator, u)
    *_, v = operator.projections(u)
    mixed = (matrix @ v[..., None])[..., 0].transpose(1, 2)
    close(operator.out_proj(mixed), operator(u))
    assert torch.equal(matrix, matrix.tril())


@torch.no_grad()
def test_an_entry_of_the_order_2_matrix_is_gate_times_filter_times_gate() -> None:
    operator, u = perturbed(2), torch.randn(1, 11, 3)
    x0, x1, _ = operator.projections(u)
    h, d = operator.filters(11)
    matrix = hyena_matrix(operator, u)[0]
    close(matrix[:, 7, 4], x0[0, :, 7] * h[0, :, 3] * x1[0, :, 4])
    close(matrix[:, 7, 7], x0[0, :, 7] * (h[0, :, 0] + d[0]) * x1[0, :, 7])


# Causality


@DRAWN
@given(ORDERS, st.data())
@torch.no_grad()
def test_output_never_depends_on_the_future(order: int, data) -> None:
    operator, u = perturbed(order), torch.randn(2, 16, 3)
    t = data.draw(st.integers(0, 15))
    changed = u.clone()
    changed[:, t:] += torch.randn(2, 16 - t, 3)
    assert_close(operator(changed)[:, :t], operator(u)[:, :t], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("order", [2, 3, 4])
def test_the_jacobian_is_lower_triangular_in_time(order: int) -> None:
    operator = perturbed(order)
    jacobian = torch.autograd.functional.jacobian(operator, torch.randn(1, 9, 3))[0, :, :, 0]  # (t, D, s, D)
    size = jacobian.abs().amax((1, 3))
    assert size.triu(1).max() <= 1e-12
    assert size.tril().count_nonzero() == 45, "every earlier input matters"


def test_gradients_of_a_tiny_operator() -> None:
    operator, u = perturbed(3, d_model=2, l_max=5), torch.randn(2, 5, 2, requires_grad=True)
    names, values = zip(*operator.named_parameters(), strict=True)

    def run(u: Tensor, *parameters: Tensor) -> Tensor:
        return torch.func.functional_call(operator, dict(zip(names, parameters, strict=True)), (u,))

    assert torch.autograd.gradcheck(run, (u, *values))


# The filter


@torch.no_grad()
def test_a_shorter_input_sees_the_first_taps_of_the_same_filter() -> None:
    operator, u = perturbed(3), torch.randn(2, 16, 3)
    assert torch.equal(operator.filter_fn(7), operator.filter_fn(16)[:, :7])
    close(operator(u[:, :7]), operator(u)[:, :7])


def test_the_number_of_parameters_does_not_depend_on_the_longest_input() -> None:
    def numbers(l_max: int, **options: float) -> int:
        return sum(p.numel() for p in HyenaFilter(8, l_max, emb_dim=5, **options).parameters())

    assert numbers(32, lr_pos_emb=0.0) == numbers(4096, lr_pos_emb=0.0)
    assert numbers(33) - numbers(32) == 5, "trained positional features are the exception"


@torch.no_grad()
def test_the_window_decays_to_one_percent_between_a_third_and_beyond_the_length() -> None:
    modulation = HyenaFilter(2, 101).modulation
    fast_at, slow_at = torch.tensor([0.3, 1.5])
    window = modulation(torch.stack([fast_at, slow_at])[None, :, None])[0]  # (2 times, 2 channels)
    close(window[1, 0], torch.tensor(0.01), 1e-6)
    close(window[0, 1], torch.tensor(0.01), 1e-6)
    assert torch.equal(modulation(torch.zeros(1, 1, 1)), torch.ones(1, 1, 2))


def test_the_filter_network_alone_has_its_own_learning_rate_and_no_decay() -> None:
    operator = HyenaOperator(4, 8, lr=6e-4, lr_pos_emb=1e-5)
    options = {name: p._optim for name, p in operator.named_parameters() if hasattr(p, "_optim")}
    assert options.pop("filter_fn.pos_emb.z") == {"weight_decay": 0.0, "lr": 1e-5}
    network = {f"filter_fn.implicit_filter.{n}" for n, _ in operator.filter_fn.implicit_filter.named_parameters()}
    assert len(network) == 8
    assert options == {name: {"weight_decay": 0.0, "lr": 6e-4} for name in network}


def test_without_a_learning_rate_of_its_own_the_filter_network_is_still_not_decayed() -> None:
    operator = HyenaOperator(4, 8, lr_pos_emb=0.0)
    options = [p._optim for p in operator.parameters() if hasattr(p, "_optim")]
    assert options == [{"weight_decay": 0.0}] * 8


# Errors


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"order": 1}, "order must be at least 2 .*got 1"),
        ({"emb_dim": 4}, "odd, at least 3; got 4"),
        ({"emb_dim": 1}, "odd, at least 3; got 1"),
        ({"channel_map": "mixed"}, "'interleaved' or 'blocked', got 'mixed'"),
        ({"activation": "relu"}, "'id' or 'gelu', got 'relu'"),
        ({"l_max": 0}, "l_max must be at least 1, got 0"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_an_impossible_option_is_refused_with_its_value(unchecked, options: dict, said: str) -> None:
    with pytest.raises(HyenaError, match=said):
        HyenaOperator(**({"d_model": 4, "l_max": 8} | options))


def test_a_misspelt_option_fails() -> None:
    with pytest.raises(TypeError, match="local_order"):
        HyenaOperator(4, 8, local_order=3)


@pytest.mark.parametrize("lr_pos_emb", [0.0, 1e-5])
def test_weights_for_another_longest_input_do_not_load(lr_pos_emb: float) -> None:
    weights = HyenaOperator(4, 8, lr_pos_emb=lr_pos_emb).state_dict()
    with pytest.raises(RuntimeError, match=r"size mismatch for filter_fn.pos_emb.z"):
        HyenaOperator(4, 9, lr_pos_emb=lr_pos_emb).load_state_dict(weights)
