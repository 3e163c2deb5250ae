"""`hyena compare`: each metric as committed and as it is now, measured in standard deviations of the seeds."""

import json
import subprocess
from pathlib import Path

import pytest

from hyena import cli
from hyena.compare import Difference, compare, render
from hyena.errors import HyenaError


def git(folder: Path, *words: str) -> None:
    who = ["-c", "user.name=n", "-c", "user.email=n@example.org", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", *who, *words], cwd=folder, check=True, capture_output=True)


def store(folder: Path, metrics: dict[str, float | None], sd: dict[str, float] | None = None, name: str = "x") -> Path:
    path = folder / "results" / "hyena" / "quick" / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"metrics": metrics, "sd": sd or {}}))
    return path


@pytest.fixture
def committed(checkout) -> Path:
    """A checkout with one committed result: `loss` over several seeds and `size` of one."""
    git(checkout, "init", "-q")
    store(checkout, {"loss": 2.0, "size": 100.0}, {"loss": 0.1})
    git(checkout, "add", "results")
    git(checkout, "commit", "-q", "-m", "results")
    return checkout


def only(differences: list[Difference], metric: str) -> Difference:
    (found,) = [d for d in differences if d.metric == metric]
    return found


def test_an_untouched_checkout_is_equal(committed) -> None:
    found = compare()
    assert [(d.where, d.metric, d.committed == d.now) for d in found] == [
        ("hyena/quick/x", "loss", True),
        ("hyena/quick/x", "size", True),
    ]
    assert not any(d.beyond_tolerance() for d in found)
    assert render(found).splitlines()[-1].startswith("2 metrics: 2 equal, 0 beyond 3 standard deviations")


@pytest.mark.parametrize(("now", "sds", "beyond"), [(2.2, 2.0, False), (1.75, -2.5, False), (2.35, 3.5, True)])
def test_several_seeds_are_measured_in_standard_deviations(committed, now: float, sds: float, beyond: bool) -> None:
    store(committed, {"loss": now, "size": 100.0}, {"loss": 0.1})
    loss = only(compare(), "loss")
    assert loss.in_sd() == pytest.approx(sds)
    assert loss.beyond_tolerance() is beyond
    assert f"{sds:+.2f} sd" in render(compare())
    assert ("BEYOND TOLERANCE" in render(compare())) is beyond


def test_the_wider_spread_of_the_two_counts(committed) -> None:
    store(committed, {"loss": 2.4, "size": 100.0}, {"loss": 0.2})
    assert only(compare(), "loss").in_sd() == pytest.approx(2.0)


@pytest.mark.parametrize(("now", "beyond"), [(104.9, False), (95.1, False), (105.1, True), (94.9, True)])
def test_one_seed_may_differ_by_a_twentieth(committed, now: float, beyond: bool) -> None:
    store(committed, {"loss": 2.0, "size": now}, {"loss": 0.1})
    size = only(compare(), "size")
    assert (size.in_sd(), size.beyond_tolerance()) == (None, beyond)
    assert f"{now - 100:+.3g} ({now / 100 - 1:+.1%})" in render(compare())


def test_a_metric_that_is_new_or_gone_is_beyond_tolerance(committed) -> None:
    store(committed, {"loss": 2.0, "fresh": 1.0}, {"loss": 0.1})
    found = compare()
    assert only(found, "size").now is None
    assert only(found, "fresh").committed is None
    assert [d.metric for d in found if d.beyond_tolerance()] == ["size", "fresh"]
    assert {line.split()[4] for line in render(found).splitlines()[2:4]} == {"gone", "new"}


def test_a_result_that_is_new_or_gone_is_shown(committed) -> None:
    (committed / "results" / "hyena" / "quick" / "x.json").unlink()
    store(committed, {"loss": 1.0}, name="y")
    assert [(d.where, d.metric, d.now) for d in compare()] == [
        ("hyena/quick/x", "loss", None),
        ("hyena/quick/x", "size", None),
        ("hyena/quick/y", "loss", 1.0),
    ]


def test_what_was_and_is_not_a_number_is_equal(committed) -> None:
    store(committed, {"loss": None})
    git(committed, "commit", "-q", "-a", "-m", "diverged")
    (loss,) = compare()
    assert not loss.beyond_tolerance()


def test_custom_results_are_left_out(committed) -> None:
    path = committed / "results" / "custom" / "hyena" / "quick-1" / "x.json"
    path.parent.mkdir(parents=True)
    path.write_text('{"metrics": {"loss": 1.0}, "sd": {}}')
    assert {d.where for d in compare()} == {"hyena/quick/x"}


def test_an_older_revision_can_be_compared_with(committed) -> None:
    store(committed, {"loss": 3.0, "size": 100.0}, {"loss": 0.1})
    git(committed, "commit", "-q", "-a", "-m", "worse")
    assert only(compare(), "loss").committed == 3.0
    assert only(compare(revision="HEAD~1"), "loss").in_sd() == pytest.approx(10.0)


def test_columns_are_aligned(committed) -> None:
    store(committed, {"loss": 2.2, "size": 100.0}, {"loss": 0.1})
    header, *rows = render(compare()).splitlines()[:3]
    for title in ("metric", "committed", "this run", "difference"):
        start = header.index(title)
        assert all(row[start - 1] == " " and row[start] != " " for row in rows)


def test_the_exit_code_says_whether_all_is_within_tolerance(committed, capsys) -> None:
    assert cli.main(["compare"]) == 0
    store(committed, {"loss": 9.0, "size": 100.0}, {"loss": 0.1})
    assert cli.main(["compare", "hyena"]) == 1
    assert "BEYOND TOLERANCE" in capsys.readouterr().out


def test_outside_a_git_checkout_it_says_so(checkout, monkeypatch) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(checkout.parent))
    with pytest.raises(HyenaError, match=r"^git ls-tree failed: .*not a git repository"):
        compare()


def test_without_git_it_says_so(committed, monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(HyenaError, match="git"):
        compare()


def test_an_unknown_revision_is_named(committed) -> None:
    with pytest.raises(HyenaError, match="v9"):
        compare(revision="v9")


@pytest.mark.parametrize("content", ['{"metrics"', "[3]"])
def test_a_half_written_result_is_named(committed, content: str) -> None:
    (committed / "results" / "hyena" / "quick" / "x.json").write_text(content)
    with pytest.raises(HyenaError, match=r"results/hyena/quick/x.json is not a whole result"):
        compare()
