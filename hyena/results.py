"""The one results format: a JSON of scalars, CSV tables and an npz of arrays, without dates, seconds or hosts."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import fmean, stdev

import numpy as np

from hyena.errors import HyenaError
from hyena.paths import root, write_together

PROFILES = ("smoke", "quick", "long", "paper")  # from seconds to the papers' own scale
Row = dict[str, float | int | str | None]


@dataclass(frozen=True)
class Result:
    """What an experiment measured, and under which configuration, code and data.

    `per_seed` holds each metric's values in the order of `seeds`; `metrics` is their mean, `sd` their standard
    deviation (absent for one seed). `arrays` are kept for figures.
    """

    per_seed: dict[str, list[float]]
    parameters: dict[str, int] = field(default_factory=dict)
    data: dict[str, str] = field(default_factory=dict)
    tables: dict[str, list[Row]] = field(default_factory=dict)
    text: dict[str, str] = field(default_factory=dict)
    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    paper: str = ""
    experiment: str = ""
    profile: str = ""
    seeds: tuple[int, ...] = ()
    config: dict[str, object] = field(default_factory=dict)
    code: str = ""
    device: str = "cpu"

    @property
    def metrics(self) -> dict[str, float]:
        return {name: fmean(values) for name, values in self.per_seed.items()}

    @property
    def sd(self) -> dict[str, float]:
        return {name: stdev(values) for name, values in self.per_seed.items() if len(values) > 1}


def folder(paper: str, profile: str) -> Path:
    """Where results of a profile lie."""
    return root() / "results" / paper / profile


def save(result: Result, to: Path) -> Path:
    """Write `<experiment>.json` and its tables and arrays into `to`; the JSON, which names the others, comes last."""
    attached = {f"{result.experiment}.{name}.csv": _csv(rows) for name, rows in result.tables.items()}
    if result.arrays:
        attached[f"{result.experiment}.npz"] = _npz(result.arrays)
    scalars = {k: v for k, v in asdict(result).items() if k not in ("tables", "arrays")}
    scalars |= {"metrics": result.metrics, "sd": result.sd}
    scalars["files"] = {name: hashlib.sha256(content).hexdigest() for name, content in attached.items()}
    path = to / f"{result.experiment}.json"
    text = json.dumps(rounded(scalars), sort_keys=True, indent=1, ensure_ascii=False) + "\n"
    write_together({to / name: content for name, content in attached.items()} | {path: text})
    return path


def load(path: Path) -> Result:
    """Read what `save` wrote.

    Raises:
        HyenaError: the file, or one that it names, is missing, damaged or of another version.
    """
    try:
        scalars = json.loads(path.read_text())
        files = scalars.pop("files")
        content = {name: (path.parent / name).read_bytes() for name in files}
        known = {k: v for k, v in scalars.items() if k not in ("metrics", "sd")}
        measured = {m: [math.nan if v is None else v for v in vs] for m, vs in scalars["per_seed"].items()}
        result = Result(**known | {"seeds": tuple(scalars["seeds"]), "per_seed": measured})
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise HyenaError(f"{path} is not a whole result ({error}); delete it and run the experiment again") from error
    for name, digest in files.items():
        if hashlib.sha256(content[name]).hexdigest() != digest:
            raise HyenaError(f"{name} is not the file that {path} names; delete both and run the experiment again")
    prefix = len(result.experiment) + 1
    tables = {n[prefix:-4]: _rows(c) for n, c in content.items() if n.endswith(".csv")}
    arrays = next((_arrays(c) for n, c in content.items() if n.endswith(".npz")), {})
    return replace(result, tables=tables, arrays=arrays)


def rounded(value: object) -> object:
    """Floats to 6 significant digits, inside dictionaries and lists too; not-a-number becomes null."""
    if isinstance(value, dict):
        return {str(k): rounded(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(v) for v in value]
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return value


def _csv(rows: list[Row]) -> bytes:
    out = io.StringIO()
    writer = csv.DictWriter(out, fieldnames=list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rounded(row) for row in rows)
    return out.getvalue().encode()


def _rows(content: bytes) -> list[Row]:
    return [{k: _number(v) for k, v in row.items()} for row in csv.DictReader(io.StringIO(content.decode()))]


def _number(text: str) -> float | int | str | None:
    if text == "":
        return None
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _npz(arrays: dict[str, np.ndarray]) -> bytes:
    out = io.BytesIO()
    np.savez_compressed(out, **arrays)  # numpy dates every member 1980, so equal arrays are equal bytes
    return out.getvalue()


def _arrays(content: bytes) -> dict[str, np.ndarray]:
    with np.load(io.BytesIO(content), allow_pickle=False) as stored:
        return {name: stored[name] for name in stored}
