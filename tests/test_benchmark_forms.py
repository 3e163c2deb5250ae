"""What benchmarks compare: every form gives the same numbers, and ratios, crossings and shares are computed rightly."""

import math
from types import ModuleType

import pytest
import torch
from benchmarking import benchmark
from torch.testing import assert_close

from hyena.ops import fftconv as ops
from hyena.ops.fftconv import causal_conv


@pytest.fixture
def attention() -> ModuleType:
    return benchmark("attention")


@pytest.fixture
def fftconv() -> ModuleType:
    return benchmark("fftconv")


@pytest.fixture
def streaming() -> ModuleType:
    return benchmark("streaming")


# Attention


def test_naive_attention_is_fused_attention_written_out(attention) -> None:
    torch.manual_seed(0)
    fused, naive = attention.CausalAttention(8, 2), attention.NaiveAttention(8, 2)
    naive.load_state_dict(fused.state_dict())
    u = torch.randn(3, 17, 8)
    assert_close(naive(u), fused(u))


def test_kept_filters_are_those_of_the_operator(attention) -> None:
    layers = attention.build(20)
    hyena, kept = layers["hyena"], layers["kept"]
    assert_close(kept.filter_fn(20), hyena.filter_fn(20))
    shared = {k: v for k, v in hyena.state_dict().items() if not k.startswith("filter_fn")}
    kept.load_state_dict(shared, strict=False)
    u = torch.randn(2, 20, attention.D_MODEL)
    assert_close(kept.eval()(u), hyena.eval()(u))


def row(length: int, fused: float, mode: str = "forward") -> dict[str, object]:
    return {"length": length, "mode": mode, "fused": fused}


@pytest.mark.parametrize(
    ("ratios", "length"),
    [
        ({1024: 0.5, 4096: 2.0}, 2048),  # halfway in both logarithms
        ({1024: 0.25, 2048: 0.5, 16384: 4.0}, 4096),  # a third of the way from 1/2 to 4, and from 2^11 to 2^14
        ({1024: 0.5, 2048: 1.0, 4096: 2.0}, 2048),
        ({1024: 0.5, 2048: 0.9}, None),
        ({1024: 1.5, 2048: 2.0}, None),
        ({1024: 0.5}, None),
    ],
)
def test_the_crossover_is_interpolated_in_logarithms(attention, ratios: dict[int, float], length: int | None) -> None:
    assert attention.crossing([row(*pair) for pair in ratios.items()], "forward") == length


def test_a_ratio_on_a_power_law_crosses_where_the_law_does(attention) -> None:
    rows = [row(n, (n / 3000) ** 0.7) for n in (512, 1024, 2048, 4096, 8192)]
    assert attention.crossing(rows, "forward") == 3000


def test_each_mode_has_a_crossover_of_its_own(attention) -> None:
    rows = [row(8, 0.5), row(8, 2.0, "forward+backward"), row(32, 2.0), row(32, 4.0, "forward+backward")]
    assert [attention.crossing(rows, mode) for mode in ("forward", "forward+backward")] == [16, None]


@pytest.mark.parametrize(("limit", "rounds"), [(0.0, 4), (math.inf, 11)])
def test_a_median_is_over_rounds_of_which_the_first_does_not_count(
    attention, monkeypatch, limit: float, rounds: int
) -> None:
    """At least three that count, however slow, and at most ten; every layer is timed once in each."""
    order: list[str] = []

    def seconds(call, device: str) -> float:
        call()
        return 1000.0 if len(order) <= 2 else float(len(order))

    monkeypatch.setattr(attention, "seconds", seconds)
    monkeypatch.setattr(attention, "SECONDS", limit)
    found = attention.medians({"hyena": "h", "fused": "f"}, order.append, "cpu")
    assert "".join(order) == "hf" * rounds
    counted = [3.0 + 2 * i for i in range(rounds - 1)]
    assert found == {"hyena": counted[len(counted) // 2], "fused": counted[len(counted) // 2] + 1}


# Companion


def test_dense_companion_forms_give_the_same_numbers() -> None:
    module = benchmark("companion")
    a, b, c, k, x = torch.randn(5, 3, 6, dtype=torch.float64) / 6
    assert_close(module.dense_kernel(a, b, c, 20), module.companion_kernel(a, b, c, 20))
    assert_close(module.dense_loop(a, b, c, k, x, 20), module.closed_loop(a, b, c, k, x, 20))


# S4ND


def test_progressive_resizing_saves_its_share_of_what_smaller_grids_save() -> None:
    steps = [
        {"network": "x", "side": side, "of that at 32": ratio} for side, ratio in ((8, 0.1), (16, 0.25), (32, 1.0))
    ]
    assert benchmark("s4nd").saved(steps) == {"x_saved": 60.0}


# Streaming


@pytest.mark.parametrize("length", [1, 5, 70, 150])
def test_three_ways_give_the_same_outputs(streaming, length: int) -> None:
    generator = torch.Generator().manual_seed(0)
    u = torch.randn(1, 3, length, generator=generator, dtype=torch.float64)
    k = torch.randn(3, length, generator=generator, dtype=torch.float64)
    expected = causal_conv(u, k)
    assert_close(torch.stack(streaming.online(list(u.unbind(-1)), k), -1), expected)
    for t in range(length):
        assert_close(streaming.recompute(u, k, t), expected[..., t])
        assert_close(streaming.dot_product(u, k.flip(-1), t), expected[..., t])


def test_sampled_steps_are_the_midpoints_of_equal_parts(tiny, monkeypatch) -> None:
    """So that the mean of a cost that grows with the step is that over all steps."""
    module = tiny("streaming")
    asked = []

    def seconds(run, *arguments, number: int = 5) -> float:
        if run is not module.recompute:
            return 1.0
        asked.append(arguments[-1])
        return float(arguments[-1])

    monkeypatch.setattr(module, "seconds", seconds)
    found = module.measure(120, "cpu")
    assert asked == [20, 60, 100]
    assert found["recompute"] == 60.0
    assert found["dot product"] == 1.0
    assert found["online"] == pytest.approx(1 / 120)
    assert found["recompute / online"] == pytest.approx(60 * 120)


def test_growth_is_relative_to_the_first_length_and_speed_to_online(streaming) -> None:
    base = {"recompute / online": 3.0, "dot product / online": 2.0, "largest difference": 1.234e-7}
    first = base | {"length": 10, "recompute": 6.0, "dot product": 4.0, "online": 2.0}
    second = base | {"length": 20, "recompute": 12.0, "dot product": 6.0, "online": 2.5}
    a, b = streaming.compare([first, second])
    assert [a[f"{way}, cost per step"] for way in streaming.WAYS] == [1.0, 1.0, 1.0]
    assert [b[f"{way}, cost per step"] for way in streaming.WAYS] == [2.0, 1.5, 1.25]
    assert (b["recompute / online"], b["largest difference"]) == (3.0, 1.2e-7)


# Convolution


def test_the_textbook_form_is_the_same_convolution(fftconv) -> None:
    generator = torch.Generator().manual_seed(0)
    u, k = torch.randn(2, 3, 50, generator=generator), torch.randn(3, 50, generator=generator)
    assert_close(fftconv.textbook(u, k), causal_conv(u, k))


def test_modes_run_both_forms_with_and_without_gradients(fftconv) -> None:
    for mode, run in fftconv.modes(2, 3, 20, "cpu").items():
        ours, theirs = run(causal_conv), run(fftconv.textbook)
        assert_close(ours, theirs)
        assert isinstance(ours, tuple) == (mode == "forward+backward")


@pytest.mark.parametrize("case", range(5))
def test_a_lead_names_a_constant_that_exists_and_a_case_that_is_measured(fftconv, case: int) -> None:
    name, constant, without, sizes = fftconv.LEADS[case]
    assert getattr(ops, constant) != without
    assert sizes in fftconv.CASES
    assert name


def test_a_constant_is_put_back_even_after_an_error(fftconv) -> None:
    before = ops.BLOCK_BYTES
    with pytest.raises(RuntimeError), fftconv.replaced("BLOCK_BYTES", 1):
        assert ops.BLOCK_BYTES == 1
        raise RuntimeError
    assert before == ops.BLOCK_BYTES


# T1


def test_the_padded_t1_and_the_textbook_fno_give_the_same_numbers() -> None:
    t1 = benchmark("t1")
    torch.manual_seed(0)
    net, x = t1.T1(1, 1, (3, 4), 4, 2, (8, 10), head_std=0.0), torch.randn(2, 1, 8, 10)
    whole = t1.padded_t1(net, x)
    assert_close(whole[..., :3, :4], net(x))
    assert not whole[..., 3:, :].any() and not whole[..., 4:].any()
    fno = t1.FNO(1, 1, (3, 4), 4, 2)
    assert_close(t1.textbook_fno(fno, x), fno(x))


def test_the_older_scheme_solves_the_same_equation() -> None:
    t1 = benchmark("t1")
    w = t1.gaussian_field(2, 16, torch.Generator().manual_seed(0))
    force = t1.kolmogorov_force(16, w)
    ours = t1.vorticity(w, force, 1e-2, 1e-2, 20, 1)[0]
    assert_close(t1.crank_nicolson_euler(w, force, 1e-2, 1e-4, 2000), ours, rtol=0, atol=1e-3 * float(ours.abs().max()))
