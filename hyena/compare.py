"""Committed results against those in the working tree, in units of the seeds' standard deviation."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path

from hyena.errors import HyenaError
from hyena.paths import root

TOLERANCE = 3.0  # standard deviations over seeds
RELATIVE = 0.05  # where there is one seed only


@dataclass(frozen=True)
class Difference:
    """One metric, as committed and now; `None` where it is absent. `sd` is over seeds, absent for one seed."""

    where: str
    metric: str
    committed: float | None
    now: float | None
    sd: float | None

    def in_sd(self) -> float | None:
        """The difference in standard deviations; `None` if there is no spread to measure it by."""
        if self.committed is None or self.now is None or not self.sd:
            return None
        return (self.now - self.committed) / self.sd

    def beyond_tolerance(self) -> bool:
        if self.committed == self.now:
            return False
        if self.committed is None or self.now is None:
            return True
        if (sds := self.in_sd()) is not None:
            return abs(sds) > TOLERANCE
        return abs(self.now - self.committed) > RELATIVE * abs(self.committed)


def compare(paper: str | None = None, revision: str = "HEAD") -> list[Difference]:
    """Every metric of every result that stands at `revision` or in the working tree.

    Raises:
        HyenaError: not a git checkout, or no such revision.
    """
    under = f"results/{paper}" if paper else "results"
    committed = set(_git("ls-tree", "-r", "--name-only", revision, under).splitlines())
    present = {str(p.relative_to(root())) for p in (root() / under).rglob("*.json")}
    paths = sorted(p for p in committed | present if p.endswith(".json") and "results/custom/" not in p)
    return [d for path in paths for d in _differences(path, path in committed, revision)]


def render(differences: list[Difference]) -> str:
    """The comparison as aligned columns, then one line that sums it up."""
    rows = [("result", "metric", "committed", "this run", "difference", "")]
    rows += [_row(d) for d in differences]
    widths = [max(len(row[i]) for row in rows) for i in range(6)]
    lines = ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows]
    beyond = sum(d.beyond_tolerance() for d in differences)
    same = sum(d.committed == d.now for d in differences)
    rule = f"{TOLERANCE:g} standard deviations of the seeds, or {RELATIVE:.0%} where there is one seed"
    return "\n".join([*lines, "", f"{len(differences)} metrics: {same} equal, {beyond} beyond {rule}"])


def _row(d: Difference) -> tuple[str, ...]:
    sds = d.in_sd()
    if d.committed == d.now:
        shown = "0"
    elif sds is not None:
        shown = f"{sds:+.2f} sd"
    elif d.committed is None or d.now is None:
        shown = "new" if d.committed is None else "gone"
    else:
        shown = f"{d.now - d.committed:+.3g}" + (f" ({d.now / d.committed - 1:+.1%})" if d.committed else "")
    values = ["–" if v is None else f"{v:.6g}" for v in (d.committed, d.now)]
    return d.where, d.metric, *values, shown, "BEYOND TOLERANCE" if d.beyond_tolerance() else ""


def _differences(path: str, is_committed: bool, revision: str) -> list[Difference]:
    file = root() / path
    old = _parsed(_git("show", f"{revision}:{path}"), f"{path} at {revision}") if is_committed else {}
    new = _parsed(file.read_text(), path) if file.exists() else {}
    names = [*old.get("metrics", {}), *(m for m in new.get("metrics", {}) if m not in old.get("metrics", {}))]
    where = str(Path(path).relative_to("results").with_suffix(""))
    return [
        Difference(
            where,
            name,
            old.get("metrics", {}).get(name),
            new.get("metrics", {}).get(name),
            max(old.get("sd", {}).get(name, 0.0), new.get("sd", {}).get(name, 0.0)) or None,
        )
        for name in names
    ]


def _parsed(text: str, where: str) -> dict:
    try:
        return dict(json.loads(text))
    except (ValueError, TypeError) as error:
        raise HyenaError(f"{where} is not a whole result ({error}); run the experiment again") from error


def _git(*words: str) -> str:
    try:
        done = subprocess.run(["git", *words], cwd=root(), capture_output=True, text=True)
    except FileNotFoundError as error:
        raise HyenaError("git is not installed, and the committed results are read from it") from error
    if done.returncode:
        raise HyenaError(f"git {words[0]} failed: {done.stderr.strip().splitlines()[-1]}")
    return done.stdout
