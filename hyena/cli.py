"""The `hyena` command.

hyena list                                   papers, experiments, profiles and what is stored
hyena fetch [NAME ...]                       raw data into the cache (all of the default tier without a name)
hyena train PAPER[.EXPERIMENT]               run experiments and store their results
hyena notebook PAPER                         execute a notebook in place
hyena figures [PAPER [NAME]]                 redraw figures from stored results
hyena compare [PAPER]                        committed results against this run's
hyena claims [PAPER]                         every claim and its verdict
hyena bench [NAME]                           speeds as ratios against named baselines
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import runpy
import sys
from collections.abc import Callable
from pathlib import Path

from hyena import source
from hyena.errors import HyenaError, unknown
from hyena.paths import root


def main(words: list[str] | None = None) -> int:
    """Run a command; returns 0 if all went well, 1 for a failure or a difference, 2 for a mistake in the words."""
    logging.basicConfig(format="hyena: %(message)s", level=logging.WARNING)
    given = parser().parse_args(words)
    try:
        return given.run(given) or 0
    except HyenaError as error:
        print(f"hyena: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("hyena: interrupted; run the same command again to go on", file=sys.stderr)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


class _Parser(argparse.ArgumentParser):
    """Errors in the house form: one line, with the nearest word that exists."""

    def error(self, message: str) -> None:
        print(f"hyena: error: {message}; see `{self.prog} --help`", file=sys.stderr)
        sys.exit(2)

    def parse_args(self, words: list[str] | None = None, namespace=None) -> argparse.Namespace:
        words = sys.argv[1:] if words is None else words
        if words and not words[0].startswith("-") and words[0] not in self.commands:
            print(f"hyena: error: {unknown('command', words[0], self.commands)}", file=sys.stderr)
            sys.exit(2)
        return super().parse_args(words, namespace)


def parser() -> argparse.ArgumentParser:
    """The command line's grammar."""
    top = _Parser(prog="hyena", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = top.add_subparsers(metavar="COMMAND", required=True, parser_class=_Parser)

    def command(name: str, run: Callable[[argparse.Namespace], int | None], about: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=about, description=about)
        sub.set_defaults(run=run)
        return sub

    sub = command("list", _list, "papers, experiments and stored results")
    sub.add_argument("paper", nargs="?")
    sub = command("fetch", _fetch, "raw data into the cache")
    sub.add_argument(
        "names", nargs="*", metavar="NAME", help="entries of the registry; all of the default tier if none"
    )
    sub.add_argument("--default", action="store_true", help="the default tier, as without a name")
    sub.add_argument("--into", type=Path, help="build the default tier in this folder instead (the pipeline does)")
    sub = command("train", _train, "run experiments and store their results")
    sub.add_argument("what", metavar="PAPER[.EXPERIMENT]")
    sub.add_argument("--profile", default="quick", help="smoke, quick, long or paper (default: quick)")
    sub.add_argument("--seed", type=int, default=0)
    sub.add_argument("--device", default="cpu", help="cpu or cuda")
    sub.add_argument("--set", nargs="+", default=[], metavar="FIELD=VALUE", help="change fields; stored apart")
    sub.add_argument("--force", action="store_true", help="run although an up-to-date result is stored")
    sub = command("notebook", _notebook, "execute a notebook in place")
    sub.add_argument("paper")
    sub.add_argument("--profile", default="quick")
    sub.add_argument("--to", type=Path, help="write the executed notebook here instead")
    sub = command("figures", _figures, "redraw figures from stored results")
    sub.add_argument("paper", nargs="?")
    sub.add_argument("name", nargs="?")
    sub.add_argument("--format", choices=("png", "pdf", "svg"), default="png")
    sub.add_argument("--to", type=Path, help="folder (default: build/figures/PAPER)")
    sub = command("compare", _compare, "committed results against this run's; exit code 1 beyond tolerance")
    sub.add_argument("paper", nargs="?")
    sub.add_argument("--revision", default="HEAD", help="git revision to compare with")
    sub = command("claims", _claims, "every claim and its verdict")
    sub.add_argument("paper", nargs="?")
    sub.add_argument("--write", action="store_true", help="write CLAIMS.md and figures/README.md")
    sub = command("bench", _bench, "speeds as ratios against named baselines")
    sub.add_argument("name", nargs="?")
    sub.add_argument("--device", default="cpu")
    top.commands = tuple(commands.choices)
    return top


def _known_paper(paper: str | None) -> list[str]:
    if paper is not None and paper not in source.papers():
        raise unknown("paper", paper, source.papers())
    return source.papers() if paper is None else [paper]


def _list(given: argparse.Namespace) -> None:
    papers = _known_paper(given.paper)
    from hyena.experiments.base import experiments
    from hyena.results import PROFILES, folder

    for paper in papers:
        print(paper)
        for experiment in experiments(paper):
            stored = [p for p in PROFILES if (folder(paper, p) / f"{experiment.name()}.json").exists()]
            print(f"  {paper}.{experiment.name():24} stored: {', '.join(stored) or 'nothing yet'}")
            print(f"    {(experiment.__doc__ or '').splitlines()[0]}")


def _fetch(given: argparse.Namespace) -> None:
    from hyena.data import fetch

    if given.into:
        found = fetch.build(given.into)
    else:
        names = given.names or [n for n, e in fetch.registry().items() if e.tier == "default"]
        found = [fetch.fetch(name) for name in names]
    for one in found:
        print(f"{one.name}: {one.path} ({one.source})")


def _train(given: argparse.Namespace) -> None:
    paper, _, name = given.what.partition(".")
    _known_paper(paper)
    from hyena.experiments.base import experiment, experiments

    chosen = [experiment(paper, name)] if name else experiments(paper)
    changes = _changes(given.set)
    if changes and not name:
        raise HyenaError(f"--set belongs to one experiment: hyena train {paper}.EXPERIMENT --set ...")
    todo = [cls.configured(given.profile, **changes) for cls in chosen]  # all mistakes before any work
    for one in todo:
        path = one.path(given.profile, given.seed)
        shown = path.relative_to(root())
        if not given.force and not one.stale(path):
            print(f"{shown} is up to date (--force runs it again)")
            continue
        result = one.execute(given.profile, seed=given.seed, device=given.device, force=given.force)
        print(f"{shown}: " + ", ".join(f"{k} {v:.4g}" for k, v in result.metrics.items()))


def _changes(words: list[str]) -> dict[str, object]:
    changes = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals:
            raise HyenaError(f"--set takes FIELD=VALUE, got {word!r}")
        changes[name] = _value(value)
    return changes


def _value(word: str) -> object:
    """A word as JSON if it is, so that 1e-3 is a number and `no` a word; the words of a list need no quotes."""
    try:
        return json.loads(word)
    except ValueError:
        return [_value(w.strip()) for w in word[1:-1].split(",")] if word[:1] + word[-1:] == "[]" else word


def _notebook(given: argparse.Namespace) -> None:
    from hyena import notebook
    from hyena.results import PROFILES

    if given.profile not in PROFILES:
        raise unknown("profile", given.profile, PROFILES)
    print(notebook.execute(given.paper, given.profile, given.to))


def _figures(given: argparse.Namespace) -> None:
    from hyena import notebook

    for paper in _known_paper(given.paper):
        folder = given.to or root() / "build" / "figures" / paper
        for path in notebook.redraw(paper, folder, given.format, given.name):
            print(path)


def _compare(given: argparse.Namespace) -> int:
    from hyena.compare import compare, render

    _known_paper(given.paper)
    differences = compare(given.paper, given.revision)
    print(render(differences))
    return int(any(d.beyond_tolerance() for d in differences))


def _claims(given: argparse.Namespace) -> None:
    from hyena import claims
    from hyena.paths import write_atomically

    _known_paper(given.paper)
    if given.write:
        write_atomically(root() / "CLAIMS.md", claims.report())
        write_atomically(root() / "figures" / "README.md", claims.gallery())
    for claim in claims.load():
        if given.paper in (None, claim.paper):
            _, found = claim.judged()
            print(
                f"{claim.id:12} {claim.verdict():24} {f'{found[0]:.4g}{claim.unit}' if found else '':14} {claim.claim}"
            )
    print(claims.summary(given.paper))


def _bench(given: argparse.Namespace) -> None:
    folder = root() / "benchmarks"
    found = {p.stem: p for p in folder.glob("*.py")}
    if given.name is not None and given.name not in found:
        raise unknown("benchmark", given.name, found)
    from hyena.train import Run

    Run(device=given.device)  # an unknown or absent device is refused before any work
    for name in [given.name] if given.name else sorted(found):
        print(runpy.run_path(str(found[name]))["main"](given.device))
