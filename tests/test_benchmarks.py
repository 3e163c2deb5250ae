"""What benchmarks measure and store, at tiny sizes; how fast anything is, is no matter of tests."""

import importlib.util
import json
import math
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch.testing import assert_close

from hyena import claims
from hyena.measure import significant
from hyena.ops import fftconv as ops
from hyena.ops.fftconv import causal_conv

CHECKOUT = Path(__file__).resolve().parents[1]
TINY = {
    "attention": {"LENGTHS": (16, 48), "D_MODEL": 8, "FILTER_ORDER": 4, "ROUNDS": 1, "SECONDS": 0.0},
    "companion": {
        "CHANNELS": 3, "CASES": ((4, 9), (5, 16)), "BATCH": 2, "LAG": 16, "HORIZON": 6, "D_MODEL": 16, "D_STATE": 4,
        "LAGS": (8, 16), "VALUES": 16, "ROUNDS": 1,
    },
    "fftconv": {
        "CASES": [(2, 4, 16), (1, 2, 40)], "LEADS": [("blocks", "BLOCK_BYTES", 2**62, (1, 2, 40))], "ROUNDS": 1,
    },
    "genome": {
        "LENGTHS": (64, 128), "MILLION": 200, "COMPARED": 64, "TRAINED": (64, 128), "SMALL": (8, 1), "LARGE": (8, 2),
        "ROUNDS": 1,
    },
    "s4nd": {
        "SIDES": (4, 8), "CHANNELS": 2, "PLACES": 128, "D_MODEL": 4, "STEP_SIDES": (4, 8), "STEP_BATCH": 2,
        "STEP_WIDTH": 4, "STEP_LAYERS": 1, "MOST_PLACES": 16, "ROUNDS": 1,
    },
    "streaming": {"LENGTHS": (100, 200), "CHANNELS": 4, "SAMPLES": 3, "ROUNDS": 1},
}  # fmt: skip


def benchmark(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"benchmark_{name}", CHECKOUT / "benchmarks" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """Loads a benchmark of tiny sizes, which stores in a folder of the test's own."""

    def load(name: str) -> ModuleType:
        module = benchmark(name)
        monkeypatch.setattr(module, "root", lambda: tmp_path)
        for constant, value in TINY[name].items():
            assert hasattr(module, constant)
            monkeypatch.setattr(module, constant, value)
        return module

    return load


@pytest.fixture
def attention() -> ModuleType:
    return benchmark("attention")


@pytest.fixture
def fftconv() -> ModuleType:
    return benchmark("fftconv")


@pytest.fixture
def streaming() -> ModuleType:
    return benchmark("streaming")


def stored(tmp_path: Path, name: str) -> dict:
    return json.loads((tmp_path / "benchmarks" / "results" / f"{name}.cpu.json").read_text())


# What is stored


def test_every_benchmark_has_a_tiny_run_here() -> None:
    assert set(TINY) == {p.stem for p in (CHECKOUT / "benchmarks").glob("*.py")}


def test_attention_stores_ratios_by_length_and_mode(tiny, tmp_path) -> None:
    shown = tiny("attention").main()
    found = stored(tmp_path, "attention")
    rows = found["times slower than hyena"]
    assert [(r["length"], r["mode"]) for r in rows] == [
        (length, mode) for length in (16, 48) for mode in ("forward", "forward+backward")
    ]
    assert all(set(r) == {"length", "mode", "fused", "naive", "kept"} for r in rows)
    assert all((r["kept"] is None) == (r["mode"] != "forward") for r in rows)  # kept filters are not trained
    assert all(r["fused"] > 0 and r["naive"] > 0 for r in rows)
    assert found["metrics"] == {f"fused_{n}": r["fused"] for n, r in zip((16, 48), rows[::2], strict=True)}
    assert set(found["crossover with fused"]) == {"forward", "forward+backward"}
    assert set(found["about"]) == {"threads", "torch", "machine", "d_model", "num_heads", "filter_order", "batch"}
    assert len(shown.splitlines()) == 1 + 4 + 1


def test_naive_attention_is_left_out_where_its_scores_would_not_fit(tiny, monkeypatch) -> None:
    module = tiny("attention")
    monkeypatch.setattr(module, "NAIVE_BYTES", 3 * 4 * 16**2)
    assert "naive" in module.build(16)
    assert "naive" not in module.build(17)
    assert [row["naive"] for row in module.measure(17, "cpu")] == [None, None]
    monkeypatch.setattr(module, "LENGTHS", (17,))
    assert "–" in module.main()


def test_companion_stores_ratios_by_case_and_steps_by_network(tiny, tmp_path) -> None:
    shown = tiny("companion").main()
    found = stored(tmp_path, "companion")
    rows, networks = found["dense / polynomials"], found["networks"]
    assert [(r["d_state"], r["length"]) for r in rows] == [(4, 9), (5, 16)]
    assert all(value > 0 for row in rows for value in row.values())
    assert [r["network"] for r in networks] == ["spacetime", "lstm", "transformer", "dlinear"]
    assert found["metrics"]["kernel_5_16"] == rows[1]["kernel"]
    assert found["metrics"]["step_seconds"] == networks[0]["seconds"] > 0
    assert [(r["lag"], r["network"]) for r in found["lags"]] == [(n, r["network"]) for n in (8, 16) for r in networks]
    assert len(shown.splitlines()) == 2 + 4 + 8


def test_claimed_speeds_of_companions_are_measured(tiny, tmp_path) -> None:
    kernels = {f"kernel_{d}_{length}" for d, length in benchmark("companion").CASES}
    tiny("companion").main()
    claimed = {c.metric.partition(".")[2] for c in claims.load() if c.metric.startswith("bench/companion.")}
    assert claimed and claimed <= set(stored(tmp_path, "companion")["metrics"]) | kernels


@pytest.mark.parametrize(("value", "stored"), [(0.000123456, 0.000123), (12.345, 12.3), (1234.5, 1230.0)])
def test_no_ratio_is_stored_as_nothing(value: float, stored: float) -> None:
    assert significant(value) == stored


def test_dense_companion_forms_give_the_same_numbers() -> None:
    module = benchmark("companion")
    a, b, c, k, x = torch.randn(5, 3, 6, dtype=torch.float64) / 6
    assert_close(module.dense_kernel(a, b, c, 20), module.companion_kernel(a, b, c, 20))
    assert_close(module.dense_loop(a, b, c, k, x, 20), module.closed_loop(a, b, c, k, x, 20))


def test_fftconv_stores_speed_and_memory_by_case(tiny, tmp_path) -> None:
    module = tiny("fftconv")
    shown = module.main()
    found = stored(tmp_path, "fftconv")
    rows = found["ratio to textbook"]
    assert [(r["batch"], r["channels"], r["length"]) for r in rows] == module.CASES
    ratios = {*module.MODES, *(f"{mode} memory" for mode in module.MODES)}
    assert all(set(r) == ratios | {"batch", "channels", "length"} for r in rows)
    assert all(r[name] > 0 for r in rows for name in ratios)
    assert [(lead["lead"], lead["length"]) for lead in found["leads"]] == [("blocks", 40)]
    assert len(shown.splitlines()) == 1 + 2 + 1


@pytest.mark.parametrize("kinds", [["float32"], ["float32", "bfloat16"]], ids=len)
def test_genome_stores_ratios_seconds_and_memory(tiny, tmp_path, monkeypatch, kinds: list[str]) -> None:
    module = tiny("genome")
    monkeypatch.setattr(module, "bfloat16_is_faster", lambda: len(kinds) == 2)
    shown = module.main()
    found = stored(tmp_path, "genome")
    assert [row["length"] for row in found["attention / hyena"]] == [64, 128]
    assert all(row["forward"] > 0 and row["training step"] > 0 for row in found["attention / hyena"])
    assert [(row["length"], row["products"]) for row in found["million"]] == [(200, kind) for kind in kinds]
    assert [row["length"] for row in found["training"]] == [64, 128]
    assert all(0 < row["peak GB"] < 4 and row["seconds"] > 0 for row in (*found["million"], *found["training"]))
    assert 0 < found["bfloat16 error"] < 0.1
    assert found["metrics"]["million_seconds"] == found["million"][0]["seconds"]
    claimed = {c.metric.partition(".")[2] for c in claims.load() if c.metric.startswith("bench/genome.")}
    assert claimed and claimed <= set(found["metrics"])
    assert len(shown.splitlines()) == 2 + len(kinds) + 2 + 1


def test_s4nd_stores_ratios_of_forms_layers_and_steps(tiny, tmp_path) -> None:
    shown = tiny("s4nd").main()
    found = stored(tmp_path, "s4nd")
    assert [row["side"] for row in found["forms"]] == [4, 8]
    assert all(value > 0 for row in found["forms"] for value in row.values())
    layers = [(4, "s4nd"), (4, "conv"), (4, "attention"), (8, "s4nd"), (8, "conv")]
    assert [(row["side"], row["layer"]) for row in found["layers"]] == layers
    assert all(row["times s4nd"] > 0 and row["memory, times s4nd"] > 0 for row in found["layers"])
    assert found["metrics"]["textbook_8"] == found["forms"][1]["textbook forward+backward"]
    claimed = {c.metric.partition(".")[2] for c in claims.load() if c.metric.startswith("bench/s4nd.")}
    sides = benchmark("s4nd").SIDES
    assert claimed and claimed <= set(found["metrics"]) | {f"{n}_{s}" for n in ("spectral", "textbook") for s in sides}
    assert len(shown.splitlines()) == 2 + 5 + 4


def test_progressive_resizing_saves_its_share_of_what_smaller_grids_save() -> None:
    steps = [
        {"network": "x", "side": side, "of that at 32": ratio} for side, ratio in ((8, 0.1), (16, 0.25), (32, 1.0))
    ]
    assert benchmark("s4nd").saved(steps) == {"x_saved": 60.0}


def test_the_peak_is_of_the_process_and_not_of_its_parent() -> None:
    held = b"x" * 2**28
    code = (
        f"import sys; sys.path.insert(0, {str(CHECKOUT / 'benchmarks')!r}); import genome; print(genome.peak_bytes())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) < benchmark("genome").peak_bytes() - len(held) // 2


def test_attention_is_left_out_beyond_the_length_that_takes_too_long(tiny, monkeypatch) -> None:
    module = tiny("genome")
    monkeypatch.setattr(module, "SECONDS", 0.0)
    first, second = module.measured_runtime()
    assert first["forward"] > 0 and first["training step"] > 0
    assert second["forward"] is None and second["training step"] is None and second["forward seconds"] > 0


def test_training_ends_before_the_memory_does(tiny, tmp_path, monkeypatch) -> None:
    module = tiny("genome")
    monkeypatch.setattr(module, "MEMORY", 1)
    monkeypatch.setattr(module, "alone", lambda *case: {"length": case[1], "seconds": 1.0, "peak GB": 1.0})
    module.main()
    assert [row["length"] for row in stored(tmp_path, "genome")["training"]] == [64]


def test_streaming_stores_ratios_and_growth_by_length(tiny, tmp_path) -> None:
    module = tiny("streaming")
    shown = module.main()
    found = stored(tmp_path, "streaming")
    rows = found["generation"]
    ratios = {"recompute / online", "dot product / online"}
    growth = {f"{way}, cost per step" for way in module.WAYS}
    assert [r["length"] for r in rows] == [100, 200]
    assert all(set(r) == ratios | growth | {"length", "largest difference"} for r in rows)
    assert {rows[0][name] for name in growth} == {1.0}
    assert all(r["largest difference"] < 1e-5 for r in rows)
    assert found["metrics"] == {f"recompute_{r['length']}": r["recompute / online"] for r in rows}
    assert {"batch", "channels", "sampled steps", "threads"} < set(found["about"])
    assert len(shown.splitlines()) == 1 + 2


@pytest.mark.parametrize(
    "claim",
    [c for c in claims.load() if c.metric.startswith(("bench/attention", "bench/streaming"))],
    ids=lambda c: c.metric.removeprefix("bench/"),
)
def test_a_claims_speed_is_among_those_of_the_default_lengths(claim, tmp_path, monkeypatch) -> None:
    name, _, metric = claim.metric.removeprefix("bench/").partition(".")
    module = benchmark(name)
    monkeypatch.setattr(module, "root", lambda: tmp_path)
    ratios = {"recompute / online": 1.0, "dot product / online": 1.0, "largest difference": 0.0}
    instant = {
        "attention": lambda length, device: [
            {"length": length, "mode": mode, "fused": 1.0, "naive": None, "kept": None}
            for mode in ("forward", "forward+backward")
        ],
        "streaming": lambda length, device: {
            "length": length, **ratios, "recompute": 1.0, "dot product": 1.0, "online": 1.0
        },
    }  # fmt: skip
    monkeypatch.setattr(module, "measure", instant[name])
    module.main()
    assert metric in stored(tmp_path, name)["metrics"]


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


def test_the_peak_counts_what_is_held_at_once(fftconv) -> None:
    def together() -> None:
        kept = [torch.empty(10_000) for _ in range(3)]
        del kept

    def in_turn() -> None:
        for _ in range(3):
            torch.empty(10_000)

    assert fftconv.peak_allocated(together) == 3 * fftconv.peak_allocated(in_turn) >= 3 * 40_000
