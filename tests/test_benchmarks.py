"""What benchmarks store, at tiny sizes; how fast anything is, is no matter of tests."""

import json
import subprocess
import sys

import pytest
from benchmarking import CHECKOUT, TINY, benchmark, stored

from hyena import claims
from hyena.experiments.base import experiment


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


def test_ls4_stores_seconds_and_ratios_by_length_and_network(tiny, tmp_path) -> None:
    shown = tiny("ls4").main()
    found = stored(tmp_path, "ls4")
    networks = {8: ["ls4", "rk4", "dopri5", "rnn_vae", "walked"], 20: ["ls4", "rk4", "dopri5", "rnn_vae"]}
    assert [(r["length"], r["network"]) for r in found["steps"]] == [(n, k) for n, ks in networks.items() for k in ks]
    by = {(r["length"], r["network"]): r for r in found["steps"]}
    assert all(r["step seconds"] > 0 and r["generation seconds"] > 0 for r in by.values())
    assert found["metrics"]["step_rk4_20"] == by[20, "rk4"]["step over ls4"]
    assert found["metrics"]["generation_dopri5_8"] == by[8, "dopri5"]["generation over ls4"]
    assert [r["network"] for r in found["stiff"]] == ["ls4", "latent_ode", "rnn_vae"]
    assert found["stiff"][0]["times ls4"] == 1
    assert [r["length"] for r in found["kernels"]] == [9] and found["metrics"]["kernel_9"] > 0
    assert len(shown.splitlines()) == 1 + 3 + 5 + 4


def test_claimed_speeds_of_ls4_are_measured() -> None:
    module = benchmark("ls4")
    always, short = ("rk4", "dopri5", "rnn_vae"), ("walked",)
    kinds = {length: always + (short if length <= module.LONG else ()) for length in module.LENGTHS}
    measured = {f"{what}_{k}_{n}" for n, names in kinds.items() for k in names for what in ("step", "generation")}
    claimed = {c.metric.partition(".")[2] for c in claims.load() if c.metric.startswith("bench/ls4.")}
    assert claimed and claimed <= measured


def test_t1_stores_ratios_by_size_and_the_cost_of_every_network(tiny, tmp_path) -> None:
    shown = tiny("t1").main()
    found = stored(tmp_path, "t1")
    assert [row["size"] for row in found["sizes"]] == [8, 16]
    ratios = {"forward", "step", "step uncached"}
    assert ratios | {"step padded", "step textbook"} <= set(found["sizes"][0]) and ratios <= set(found["sizes"][1])
    assert "step padded" not in found["sizes"][1]
    assert found["metrics"]["step_uncached_16"] == found["sizes"][1]["step uncached"]
    networks = {"navier_stokes": ["t1", "t1_fourier", "t1u", "fno", "ffno", "unet"]}
    networks["waves"] = ["t1", "t1_fourier", "fno", "ffno"]
    assert [(r["task"], r["network"]) for r in found["steps"]] == [(t, k) for t, ks in networks.items() for k in ks]
    assert found["steps"][0]["times t1"] == 1 and found["solver"][0]["minutes, 200 to T = 50"] > 0
    assert found["metrics"]["step_equal_parameters"] == found["steps"][3]["times t1"]
    assert len(shown.splitlines()) == 2 + 10 + 1


def test_claimed_speeds_of_t1_are_measured() -> None:
    module = benchmark("t1")
    claimed = {c.metric.partition(".")[2] for c in claims.load() if c.metric.startswith("bench/t1.")}
    whole = {f"step_padded_{size}" for size in module.SIZES if size <= module.WHOLE}
    assert claimed and claimed <= whole | {f"step_{size}" for size in module.SIZES} | {"step_equal_parameters"}


def test_equal_time_is_as_long_as_the_benchmark_says() -> None:
    """The factors of params.yaml are steps of T1 in the time of one of the FNO, up to the noise of a machine."""
    steps = json.loads((CHECKOUT / "benchmarks" / "results" / "t1.cpu.json").read_text())["steps"]
    seconds = {(row["profile"], row["task"], row["network"]): row["seconds"] for row in steps}
    for profile, task in {(p, t) for p, t, _ in seconds}:
        factors = experiment("t1", task).configured(profile).as_long
        for kind, factor in zip(("t1", "t1_fourier", "t1u"), factors, strict=True):
            if (profile, task, kind) in seconds:
                measured = seconds[profile, task, "fno"] / seconds[profile, task, kind]
                assert 3 / 4 < factor / measured < 4 / 3, (profile, task, kind, measured)


def test_retina_stores_the_speed_of_simulator_and_encoders(tiny, tmp_path) -> None:
    shown = tiny("retina").main()
    found = stored(tmp_path, "retina")
    assert found["simulator"][0]["cells"] > 0
    assert found["metrics"]["simulated_spikes_of_all_trials"] == found["simulator"][0]["spikes of all trials"]
    assert [row["encoder"] for row in found["encoders"]] == ["ln", "cnn", "cnn, all lags"]
    ln, cnn, _ = found["encoders"]
    assert cnn["times ln"] == pytest.approx(cnn["seconds"] / ln["seconds"], rel=0.02)
    assert all(row["bins a second"] > 0 for row in found["encoders"])
    assert len(shown.splitlines()) == 1 + 3


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
