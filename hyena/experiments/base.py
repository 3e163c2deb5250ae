"""What all experiments share: configuration by profile, stored results, and how one is run."""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import re
import shutil
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import ClassVar

import torch
import yaml
from accelerate import PartialState
from filelock import FileLock, Timeout

from hyena import results, source
from hyena.errors import HyenaError, unknown
from hyena.paths import root
from hyena.results import PROFILES, Result
from hyena.train import Run, is_main_process


@dataclass(frozen=True)
class Experiment:
    """One experiment of one paper: a frozen configuration, whose defaults are the paper's, and `run`."""

    paper: ClassVar[str] = ""
    may_be_zero: ClassVar[tuple[str, ...]] = ()  # the other whole numbers are at least 1

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if type(value) is int and value < (0 if name in self.may_be_zero else 1):
                raise HyenaError(f"{name} must be at least {0 if name in self.may_be_zero else 1}, got {value}")

    def run(self, run: Run) -> Result:
        """Measure; the caller adds names, configuration and code to what is returned."""
        raise NotImplementedError

    @classmethod
    def name(cls) -> str:
        """The class's name in snake case: as in params.yaml, the command and file names."""
        return re.sub(r"(?<!^)(?=[A-Z])", "_", cls.__name__).lower()

    @classmethod
    def configured(cls, profile: str, **changes: object) -> Experiment:
        """The configuration of a profile: defaults, overridden by params.yaml, overridden by `changes`.

        Raises:
            HyenaError: an unknown profile or field, or a value of another type than the field's default.
        """
        if profile not in PROFILES:
            raise unknown("profile", profile, PROFILES)
        try:
            stored = yaml.safe_load((root() / "params.yaml").read_text())
        except yaml.YAMLError as error:
            raise HyenaError(f"params.yaml is not valid YAML: {' '.join(str(error).split())}") from error
        overrides = stored.get(cls.paper, {}).get(profile, {}).get(cls.name(), {}) | changes
        defaults = {f.name: f.default for f in fields(cls)}
        for name in overrides:
            if name not in defaults:
                raise unknown(f"option of {cls.name()}", name, defaults)
        return cls(**{k: _like(k, v, defaults[k]) for k, v in overrides.items()})

    @classmethod
    def result(cls, profile: str, seed: int = 0, device: str = "cpu") -> Result:
        """The stored result of a profile if configuration and code are today's, else a new one.

        Raises:
            HyenaError: it would have to be computed while `HYENA_NO_TRAIN=1`.
        """
        experiment = cls.configured(profile)
        path = experiment.path(profile, seed)
        why = experiment.stale(path)
        if not why:
            return results.load(path)
        if os.environ.get("HYENA_NO_TRAIN") == "1":
            raise HyenaError(
                f"{path.relative_to(root())} {why}, and HYENA_NO_TRAIN=1 forbids to compute it; "
                f"run `hyena train {cls.paper}.{cls.name()} --profile {profile}`"
            )
        return experiment.execute(profile, seed=seed, device=device)

    @classmethod
    def largest(cls) -> tuple[Result, bool] | None:
        """The stored result of the largest profile that has one, and whether today's code computed it."""
        for profile in reversed(PROFILES):
            path = results.folder(cls.paper, profile) / f"{cls.name()}.json"
            if path.exists():
                return results.load(path), not cls.configured(profile).stale(path)
        return None

    def path(self, profile: str, seed: int) -> Path:
        """Where the result is stored: under `results/<paper>`, or `results/custom` if not as in params.yaml."""
        if seed == 0 and self == self.configured(profile):
            return results.folder(self.paper, profile) / f"{self.name()}.json"
        mark = source.digest(_canonical(self))[:8]
        return root() / "results" / "custom" / self.paper / f"{profile}-{mark}-seed{seed}" / f"{self.name()}.json"

    def stale(self, path: Path) -> str:
        """Why the result at `path` cannot be used today; empty if it can."""
        if not path.exists():
            return "is missing"
        try:
            stored = results.load(path)
        except HyenaError:
            return "is damaged"
        if json.loads(_canonical(self)) != results.rounded(stored.config):
            return "was made with another configuration"
        return "" if stored.code == code_digest(type(self)) else "was made with other code"

    def execute(self, profile: str, *, seed: int = 0, device: str = "cpu", force: bool = False) -> Result:
        """Run, save and return the result; an interrupted run goes on where it stopped, unless `force`d anew.

        Raises:
            HyenaError: another process is running the same experiment.
        """
        path = self.path(profile, seed)
        code = code_digest(type(self))
        run = Run(
            seed=seed,
            device=device,
            progress=os.environ.get("HYENA_PROGRESS") != "0",
            checkpoints=root() / "build" / "checkpoints" / path.parent.relative_to(root() / "results") / self.name(),
            fingerprint=hashlib.sha256(f"{code} {_canonical(self)} {seed} {device}".encode()).hexdigest(),
        )
        with _only_one(root() / "build" / "locks" / f"{self.paper}.{profile}.{self.name()}.lock"):
            if force:
                if is_main_process():
                    shutil.rmtree(run.checkpoints, ignore_errors=True)
                PartialState(cpu=device == "cpu").wait_for_everyone()  # nobody resumes what is being deleted
            measured = self.run(run)
            full = replace(
                measured,
                paper=self.paper,
                experiment=self.name(),
                profile=profile,
                seeds=tuple(range(seed, seed + _repetitions(measured))),
                config=json.loads(_canonical(self)),
                code=code,
                device=_device_name(device),
            )
            if is_main_process():
                results.save(full, path.parent)
        return results.load(path) if is_main_process() else full


def experiments(paper: str) -> list[type[Experiment]]:
    """The experiments of a paper, in the order they are defined.

    Raises:
        HyenaError: no such paper.
    """
    if paper not in source.papers():
        raise unknown("paper", paper, source.papers())
    module = importlib.import_module(f"hyena.experiments.{paper}")
    found = [getattr(module, name) for name in getattr(module, "__all__", vars(module))]
    return [v for v in found if isinstance(v, type) and issubclass(v, Experiment) and v.paper == paper]


def experiment(paper: str, name: str) -> type[Experiment]:
    """One experiment by name.

    Raises:
        HyenaError: no such paper or experiment.
    """
    found = {e.name(): e for e in experiments(paper)}
    if name not in found:
        raise unknown(f"experiment of {paper}", name, found)
    return found[name]


def code_digest(experiment: type[Experiment]) -> str:
    """Changes when code that the experiment runs changes; comments and docstrings do not count."""
    module = root().joinpath(*experiment.__module__.split(".")).with_suffix(".py")
    return source.digest(source.closure(module))


def _canonical(experiment: Experiment) -> str:
    return json.dumps(results.rounded(asdict(experiment)), sort_keys=True)


def _repetitions(result: Result) -> int:
    return max((len(v) for v in result.per_seed.values()), default=1)


def _device_name(device: str) -> str:
    return "cpu" if device == "cpu" else torch.cuda.get_device_name(device)


def _like(name: str, value: object, default: object) -> object:
    """`value` as the type of `default`, where that loses nothing."""
    if default and isinstance(default, tuple) and value and isinstance(value, list | tuple):
        return tuple(_like(name, v, default[0]) for v in value)
    if isinstance(default, float) and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value) is not type(default):
        raise HyenaError(f"{name} takes a {type(default).__name__} such as {default!r}, got {value!r}")
    return value


class _only_one:
    """Holds a lock file; a second holder is told so instead of waiting. Processes of one launch share it."""

    def __init__(self, path: Path):
        path.parent.mkdir(parents=True, exist_ok=True)
        self.lock = FileLock(path)

    def __enter__(self) -> None:
        if not is_main_process():
            return
        try:
            self.lock.acquire(timeout=0)
        except Timeout:
            raise HyenaError(
                f"another process is running this experiment (lock {self.lock.lock_file}); wait for it to finish"
            ) from None

    def __exit__(self, *_: object) -> None:
        self.lock.release()
