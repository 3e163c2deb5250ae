"""Every headline claim of the papers, judged by a number in a results file."""

from __future__ import annotations

import json
import operator
import tomllib
from collections import Counter
from dataclasses import dataclass, fields
from pathlib import Path

from hyena import results
from hyena.errors import HyenaError
from hyena.paths import root
from hyena.results import PROFILES

OPS = {">=": operator.ge, "<=": operator.le, ">": operator.gt, "<": operator.lt}
VERDICTS = ("holds", "holds in direction only", "does not hold", "not run")


@dataclass(frozen=True)
class Claim:
    """One claim: what the paper says, and the rule that a metric of ours has to meet.

    `metric` is "<experiment>.<metric>", or "bench/<name>.<metric>" for a speed, which is judged by the benchmark on
    a GPU if there is one and else on a CPU; it is empty where nothing of ours measures it. The claim holds where
    `metric op value`, and in direction only where merely `metric op direction`. `profile` is the least scale at
    which it may be judged: a larger result is preferred, a smaller one is shown but decides nothing.
    """

    id: str
    paper: str
    claim: str
    where: str
    published: str
    metric: str = ""
    op: str = ">="
    value: float = 0.0
    direction: float | None = None
    unit: str = ""
    profile: str = "quick"

    def value_at(self, profile: str) -> tuple[float, float | None, str] | None:
        """Mean, standard deviation over seeds and device of the stored result, if there is one."""
        name, _, metric = self.metric.partition(".")
        if name.startswith("bench/"):
            return _speed(name.removeprefix("bench/"), metric, profile)
        path = results.folder(self.paper, profile) / f"{name}.json"
        if not self.metric or not path.exists():
            return None
        result = results.load(path)
        if metric not in result.metrics:  # a small profile may leave operators out
            return None
        return result.metrics[metric], result.sd.get(metric), result.device

    def judged(self) -> tuple[str, tuple[float, float | None, str] | None]:
        """The profile that decides, the largest stored one of at least `profile`, and its value."""
        for profile in reversed(PROFILES[PROFILES.index(self.profile) :]):
            if found := self.value_at(profile):
                return profile, found
        return self.profile, None

    def verdict(self) -> str:
        """One of `VERDICTS`."""
        _, found = self.judged()
        if found is None:
            return "not run"
        if OPS[self.op](found[0], self.value):
            return "holds"
        if self.direction is not None and OPS[self.op](found[0], self.direction):
            return "holds in direction only"
        return "does not hold"


def _speed(name: str, metric: str, profile: str) -> tuple[float, float | None, str] | None:
    """A benchmark's metric and its device: on a CPU at the quick profile, on another device at the paper's."""
    found = sorted((root() / "benchmarks" / "results").glob(f"{name}.*.json"))
    devices = {p.name.removeprefix(f"{name}.").removesuffix(".json"): p for p in found}
    wanted = {"quick": [d for d in devices if d == "cpu"], "paper": [d for d in devices if d != "cpu"]}
    for device in wanted.get(profile, []):
        measured = json.loads(devices[device].read_text())["metrics"]
        if metric not in measured:
            raise HyenaError(f"benchmark {name} has no metric {metric!r}; run `hyena bench {name}` again")
        return measured[metric], None, device
    return None


def load(path: Path | None = None) -> list[Claim]:
    """All claims, in the order of the file.

    Raises:
        HyenaError: a field is missing, unknown or has a value that is not allowed.
    """
    path = path or Path(__file__).with_name("claims.toml")
    known = {f.name for f in fields(Claim)}
    found = []
    for row in tomllib.loads(path.read_text())["claim"]:
        name = row.get("id", "?")
        if strange := set(row) - known:
            raise HyenaError(f"claim {name}: unknown field {', '.join(sorted(strange))}")
        if row.get("op", ">=") not in OPS or row.get("profile", "quick") not in PROFILES:
            raise HyenaError(f"claim {name}: op is one of {', '.join(OPS)} and profile one of {', '.join(PROFILES)}")
        try:
            numbers = {k: float(row[k]) for k in ("value", "direction") if k in row}  # TOML tells 1 from 1.0
            found.append(Claim(**row | numbers))
        except (TypeError, ValueError) as error:
            raise HyenaError(f"claim {name}: {error}") from error
    return found


def table(paper: str | None = None) -> str:
    """The claims as a Markdown table: published, quick on a CPU, the largest other scale, verdict."""
    lines = [
        "| | claim | published | quick, CPU | larger scale | rule | verdict |",
        "|---|---|---|---|---|---|---|",
    ]
    for claim in load():
        if paper in (None, claim.paper):
            lines.append("| " + " | ".join(_cells(claim)) + " |")
    return "\n".join(lines)


def counts(paper: str | None = None) -> Counter[str]:
    """How many claims have each verdict."""
    return Counter(c.verdict() for c in load() if paper in (None, c.paper))


def summary(paper: str | None = None) -> str:
    """The counts in one line."""
    found = counts(paper)
    return ", ".join(f"{found[v]} {v}" for v in VERDICTS if found[v])


def report() -> str:
    """The text of CLAIMS.md."""
    return (
        "# Claims\n\nGenerated by `hyena claims --write` from `hyena/claims.toml` and `results/`; verdicts are "
        f"computed, never typed. ± is the standard deviation over seeds.\n\n{table()}\n\n{summary()}.\n"
    )


def gallery() -> str:
    """The text of figures/README.md: every figure, what it stands beside and how to redraw it."""
    lines = ["# Figures", "", "Generated. Redraw with the command, as PNG, PDF or SVG (`--format`).", ""]
    for captions in sorted((root() / "figures").glob("*/captions.json")):
        paper = captions.parent.name
        for name, about in json.loads(captions.read_text()).items():
            lines += [
                f"## {paper}: {name}",
                f'<img src="{paper}/{name}.png" width="480" alt="{name}">\n',
                f"{about['caption']} Beside: {about['beside']}. Drawn in [the notebook](../notebooks/"
                f"{about['notebook']}), or by `hyena figures {paper} {name}`.\n",
            ]
    return "\n".join(lines)


def _cells(claim: Claim) -> list[str]:
    only_paper = claim.profile == "paper"  # of such a claim a smaller run says nothing
    quick = None if only_paper else claim.value_at("quick")
    larger = ("paper",) if only_paper else ("paper", "long")
    larger = next(((p, v) for p in larger if (v := claim.value_at(p))), None)
    rule = f"{claim.op} {claim.value:g}{claim.unit}" if claim.metric else ""
    return [
        claim.id,
        f"{claim.claim} ({claim.where})",
        claim.published,
        _shown(quick, claim.unit) if quick else "–",
        f"{_shown(larger[1], claim.unit)} ({larger[0]}, {larger[1][2]})" if larger else "–",
        rule,
        f"**{claim.verdict()}**",
    ]


def _shown(value: tuple[float, float | None, str], unit: str) -> str:
    mean, sd, _ = value
    return f"{mean:.3g}{unit}" + (f" ± {sd:.2g}" if sd is not None else "")
