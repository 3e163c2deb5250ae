"""Tables that the notebooks share: results as they stand beside each other and beside the paper."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping

import pandas as pd

from hyena.errors import HyenaError
from hyena.experiments.base import Experiment
from hyena.paths import root
from hyena.results import Result


def settings(result: Result, paper: Experiment, *names: str) -> pd.DataFrame:
    """Fields of a result's configuration beside those of the paper's."""
    columns = {f"{result.profile} profile": result.config, "paper profile": vars(paper)}
    return pd.DataFrame(columns).loc[list(names)].astype(str)


def stored(experiment: type[Experiment], result: Result) -> dict[str, Result]:
    """This result and, if there is one of a larger profile, that too, by a label that says where it comes from."""
    found = {f"{result.profile}, {result.device}": result}
    largest = experiment.largest()
    if largest and largest[0].profile != result.profile:
        other, fresh = largest
        found[f"{other.profile}, {other.device}{'' if fresh else ' (earlier code)'}"] = other
    return found


def mean_sd(result: Result, metric: str, digits: int = 1) -> str:
    """A metric as "mean ± standard deviation over seeds"; a dash where it was not measured."""
    if metric not in result.metrics:
        return "–"
    spread = f" ± {result.sd[metric]:.{digits}f}" if metric in result.sd else ""
    return f"{result.metrics[metric]:.{digits}f}{spread}"


def metrics(
    result: Result, template: str, rows: Mapping[str, str] | Iterable[str], columns: Mapping[str, str] | Iterable[str],
    digits: int = 2,
) -> pd.DataFrame:  # fmt: skip
    """A table of `mean_sd`: of metrics named by a template in which {row} and {column} stand.

    Arguments:
        rows, columns: what stands in the template, by label or as its own label.
    """
    rows, columns = (part if isinstance(part, Mapping) else {name: name for name in part} for part in (rows, columns))
    found = {
        label: {head: mean_sd(result, template.format(row=row, column=c), digits) for head, c in columns.items()}
        for label, row in rows.items()
    }
    return pd.DataFrame(found).T


def benchmark(name: str, device: str = "cpu") -> dict[str, object]:
    """The stored ratios of a benchmark.

    Raises:
        HyenaError: it has not been run on this device.
    """
    path = root() / "benchmarks" / "results" / f"{name}.{device}.json"
    if not path.exists():
        raise HyenaError(f"{path.relative_to(root())} is missing; run `hyena bench {name} --device {device}`")
    return json.loads(path.read_text())
