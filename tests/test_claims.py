"""Claims are complete, judged by a rule at the right scale, and what is committed is what the rule says."""

import dataclasses
import json
from pathlib import Path

import pytest

from hyena import claims, results, source
from hyena.claims import VERDICTS, Claim
from hyena.errors import HyenaError
from hyena.results import PROFILES, Result

CHECKOUT = Path(__file__).resolve().parents[1]
ALL = claims.load()
CLAIM = Claim("made 1", "hyena", "Better", "Table 1", "+5", "recall.gap", ">=", 5.0, direction=0.0, unit=" points")


def store(profile: str, *values: float, device: str = "cpu") -> None:
    made = Result({"gap": list(values)}, paper="hyena", experiment="recall", profile=profile, device=device)
    results.save(made, results.folder("hyena", profile))


def write(path: Path, **changes: object) -> Path:
    """A file of one claim, complete but for `changes`."""
    row = {"id": "made 1", "paper": "hyena", "claim": "Better", "where": "Table 1", "published": "+5"} | changes
    path.write_text("[[claim]]\n" + "".join(f"{k} = {json.dumps(v)}\n" for k, v in row.items() if v is not None))
    return path


# The committed claims


@pytest.mark.parametrize("claim", ALL, ids=lambda c: c.id)
def test_a_claim_says_what_where_and_how_much(claim: Claim) -> None:
    assert claim.id and claim.claim and claim.where and claim.published
    assert claim.paper in source.papers()
    assert claim.id.startswith(f"{claim.paper} ")
    assert not claim.claim.endswith(".")


def test_ids_are_unique() -> None:
    assert len({c.id for c in ALL}) == len(ALL)


NUMBERED = {  # claims that each paper makes
    "hyena": 4, "hyenadna": 9, "ls4": 5, "retina": 11, "s4nd": 8, "spacetime": 8, "t1": 5,
}  # fmt: skip


@pytest.mark.parametrize("number", [f"{paper} {i + 1}" for paper, count in NUMBERED.items() for i in range(count)])
def test_every_numbered_claim_of_the_paper_has_a_row(number: str) -> None:
    assert any(c.id.rstrip("abcdefghijk") == number for c in ALL)


@pytest.mark.parametrize("claim", [c for c in ALL if c.metric], ids=lambda c: c.id)
def test_a_claims_metric_is_one_that_its_experiment_or_benchmark_stores(claim: Claim) -> None:
    """In a result that may decide it, if one is stored: a small profile may leave operators out."""
    name, _, metric = claim.metric.partition(".")
    bench = name.startswith("bench/")
    folder = CHECKOUT / "benchmarks" / "results" if bench else CHECKOUT / "results" / claim.paper
    deciding = PROFILES[PROFILES.index(claim.profile) :]
    paths = sorted(folder.glob(f"{name.removeprefix('bench/')}.*.json" if bench else f"*/{name}.json"))
    paths = [path for path in paths if bench or path.parent.name in deciding]
    if not paths:
        pytest.skip("no result that may decide is stored yet")
    assert any(metric in json.loads(p.read_text())["metrics"] for p in paths)


@pytest.mark.parametrize("claim", [c for c in ALL if c.direction is not None], ids=lambda c: c.id)
def test_the_direction_is_weaker_than_the_rule(claim: Claim) -> None:
    assert claims.OPS[claim.op](claim.value, claim.direction)
    assert claim.value != claim.direction


@pytest.mark.parametrize(
    ("name", "text"), [("CLAIMS.md", claims.report), ("figures/README.md", claims.gallery)], ids=["claims", "gallery"]
)
def test_what_is_committed_is_what_is_computed_today(name: str, text) -> None:
    path = CHECKOUT / name
    if not path.exists():
        pytest.skip(f"{name} is not there yet")
    assert path.read_text() == text(), f"`hyena claims --write` brings {name} up to date"


def test_every_claim_stands_in_the_report_with_its_verdict() -> None:
    papers = tuple(f"| {paper} " for paper in source.papers())
    rows = [line for line in claims.report().splitlines() if line.startswith(papers)]
    assert [row.split(" | ")[0].strip("| ") for row in rows] == [c.id for c in ALL]
    assert [row.rstrip("| ").split(" | ")[-1] for row in rows] == [f"**{c.verdict()}**" for c in ALL]


def test_the_summary_counts_every_claim_once() -> None:
    assert sum(claims.counts().values()) == len(ALL)
    assert all(f"{n} {v}" in claims.summary() for v, n in claims.counts().items())


# The rule


@pytest.mark.parametrize(
    ("op", "value", "direction", "measured", "verdict"),
    [
        (">=", 5.0, 0.0, 5.0, "holds"),
        (">=", 5.0, 0.0, 4.9, "holds in direction only"),
        (">=", 5.0, 0.0, 0.0, "holds in direction only"),
        (">=", 5.0, 0.0, -0.1, "does not hold"),
        (">=", 5.0, None, 4.9, "does not hold"),
        (">", 5.0, None, 5.0, "does not hold"),
        ("<=", 1.0, 5.0, 1.0, "holds"),
        ("<=", 1.0, 5.0, 3.0, "holds in direction only"),
        ("<=", 1.0, 5.0, 5.1, "does not hold"),
        ("<", 1.0, None, 1.0, "does not hold"),
        (">=", 5.0, 0.0, float("nan"), "does not hold"),
    ],
)
def test_a_verdict_is_what_the_rule_says(checkout, op, value, direction, measured, verdict) -> None:
    store("quick", measured)
    assert dataclasses.replace(CLAIM, op=op, value=value, direction=direction).verdict() == verdict


def test_the_mean_over_seeds_decides(checkout) -> None:
    store("quick", 1.0, 9.5)
    assert CLAIM.verdict() == "holds"


def test_a_claim_without_a_result_or_without_a_metric_is_not_run(checkout) -> None:
    assert CLAIM.verdict() == "not run"
    assert dataclasses.replace(CLAIM, metric="").verdict() == "not run"


@pytest.mark.parametrize("larger", ["long", "paper"])
def test_a_larger_scale_decides_over_a_smaller_one(checkout, larger: str) -> None:
    store("quick", 9.0)
    store(larger, -9.0)
    assert CLAIM.judged()[0] == larger
    assert CLAIM.verdict() == "does not hold"


@pytest.mark.parametrize("needed", ["quick", "long", "paper"])
def test_a_smaller_scale_never_decides(checkout, needed: str) -> None:
    for profile in PROFILES[: PROFILES.index(needed)]:
        store(profile, 9.0)
    assert dataclasses.replace(CLAIM, profile=needed).verdict() == "not run"
    store(needed, 9.0)
    assert dataclasses.replace(CLAIM, profile=needed).verdict() == "holds"


def test_the_four_verdicts_are_all_there_are(checkout) -> None:
    found = [CLAIM.verdict()]
    for value in (9.0, 3.0, -3.0):
        store("quick", value)
        found.append(CLAIM.verdict())
    assert sorted(found) == sorted(VERDICTS)


def test_the_table_shows_value_spread_scale_and_device(checkout, monkeypatch) -> None:
    monkeypatch.setattr(claims, "load", lambda: [CLAIM])
    store("quick", 1.0, 2.0, 3.0)
    store("long", 7.0, device="NVIDIA H100")
    row = claims.table().splitlines()[-1]
    assert "| 2 points ± 1 | 7 points (long, NVIDIA H100) | >= 5 points | **holds** |" in row


def test_a_result_without_the_metric_is_passed_over(checkout) -> None:
    """A small profile may leave operators out."""
    store("quick", 1.0)
    lead = dataclasses.replace(CLAIM, metric="recall.lead")
    assert lead.verdict() == "not run"
    made = Result({"lead": [9.0]}, paper="hyena", experiment="recall", profile="long")
    results.save(made, results.folder("hyena", "long"))
    assert (lead.judged()[0], lead.verdict()) == ("long", "holds")


# Speeds


def bench(checkout: Path, device: str, **metrics: float) -> None:
    path = checkout / "benchmarks" / "results" / f"attention.{device}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"metrics": metrics}))


SPEED = dataclasses.replace(CLAIM, metric="bench/attention.fused_8192", value=2.0, direction=1.0, unit="x")


@pytest.mark.parametrize(
    ("measured", "verdict"), [(2.0, "holds"), (1.5, "holds in direction only"), (0.5, "does not hold")]
)
def test_a_speed_is_judged_by_its_benchmark(checkout, measured: float, verdict: str) -> None:
    assert SPEED.verdict() == "not run"
    bench(checkout, "cpu", fused_8192=measured)
    assert SPEED.judged() == ("quick", (measured, None, "cpu"))
    assert SPEED.verdict() == verdict


def test_a_gpu_decides_over_a_cpu(checkout) -> None:
    bench(checkout, "cpu", fused_8192=9.0)
    bench(checkout, "cuda", fused_8192=0.5)
    assert SPEED.judged() == ("paper", (0.5, None, "cuda"))
    assert SPEED.verdict() == "does not hold"


def test_a_benchmark_of_another_name_is_not_taken(checkout) -> None:
    bench(checkout, "cpu", fused_8192=9.0)
    assert dataclasses.replace(SPEED, metric="bench/attent.fused_8192").verdict() == "not run"


def test_a_metric_that_its_benchmark_does_not_store_is_an_error(checkout) -> None:
    bench(checkout, "cpu", fused_4096=9.0)
    with pytest.raises(
        HyenaError, match=r"benchmark attention has no metric 'fused_8192'; run `hyena bench attention`"
    ):
        SPEED.verdict()


# The file


def test_a_complete_claim_is_read(tmp_path) -> None:
    path = write(tmp_path / "claims.toml", metric="recall.gap", op="<=", value=1, direction=2, profile="long")
    (claim,) = claims.load(path)
    assert (claim.metric, claim.op, claim.value, claim.direction, claim.profile) == ("recall.gap", "<=", 1, 2, "long")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"verdict": "holds"}, "unknown field verdict"),
        ({"op": "=="}, "op is one of"),
        ({"profile": "huge"}, "profile one of smoke, quick"),
        ({"published": None}, "published"),
    ],
)
def test_a_wrong_claim_is_refused_by_name(tmp_path, changes: dict, said: str) -> None:
    with pytest.raises(HyenaError, match=rf"claim made 1: .*{said}"):
        claims.load(write(tmp_path / "claims.toml", **changes))
