"""Run, strip and check a notebook."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hyena import results, source
from hyena.errors import HyenaError, unknown
from hyena.paths import root, write_atomically
from hyena.results import PROFILES

TIMEOUT = 1800  # seconds that one cell may take
INLINE = "module://matplotlib_inline.backend_inline"  # figures in the cells, whatever the environment asks for


def of_paper(paper: str) -> Path:
    """The notebook of a paper.

    Raises:
        HyenaError: no such paper.
    """
    found = {n.stem.partition("_")[2]: n for n in source.notebooks()}
    if paper not in found:
        raise unknown("notebook of paper", paper, found)
    return found[paper]


def execute(paper: str, profile: str, to: Path | None = None) -> Path:
    """Execute a paper's notebook at a profile and put it, with its figures, in place; on failure nothing changes.

    The executed notebook records what it was made from (see `stale`) and nothing that differs from run to run.

    Arguments:
        to: where the executed notebook goes, over its source if `None`. Figures go to `figures/<paper>` in that
            case and beside `to` otherwise.

    Raises:
        HyenaError: a cell failed; names the cell and the error.
    """
    path = of_paper(paper)
    target = to or path
    figures = root() / "figures" / paper if to is None else to.parent / "figures"
    with tempfile.TemporaryDirectory() as scratch:
        drawn = Path(scratch) / "figures"
        drawn.mkdir()
        with _environment(
            HYENA_PROFILE=profile, HYENA_FIGURES=str(drawn), HYENA_NOTEBOOK=path.name, HYENA_PROGRESS="0"
        ):
            book = _papermill(path, Path(scratch))
        book["metadata"]["hyena"] = {"profile": profile} | made_from(path, profile)
        target.parent.mkdir(parents=True, exist_ok=True)
        _replace_folder(drawn, figures)
        write_atomically(target, _text(book))
    return target


def redraw(paper: str, folder: Path, kind: str = "png", name: str | None = None) -> list[Path]:
    """Draw a paper's figures again from stored results into `folder`, at the profile of the committed notebook.

    Raises:
        HyenaError: an unknown figure, or a result that is missing.
    """
    path = of_paper(paper)
    about = json.loads(path.read_text())["metadata"].get("hyena", {})
    captions = root() / "figures" / paper / "captions.json"
    known = json.loads(captions.read_text()) if captions.exists() else {}
    if name is not None and known and name not in known:
        raise unknown(f"figure of {paper}", name, known)
    with tempfile.TemporaryDirectory() as scratch:
        drawn = Path(scratch) / "figures"
        drawn.mkdir()
        settings = {"HYENA_FIGURES": str(drawn), "HYENA_FIGURE_FORMAT": kind, "HYENA_NO_TRAIN": "1"}
        settings |= {"HYENA_PROFILE": about.get("profile", "quick"), "HYENA_NOTEBOOK": path.name}
        with _environment(**settings | ({"HYENA_FIGURE_NAME": name} if name else {})):
            _papermill(path, Path(scratch))
        folder.mkdir(parents=True, exist_ok=True)
        return [Path(shutil.copy(p, folder / p.name)) for p in sorted(drawn.glob(f"*.{kind}"))]


def strip(book: dict) -> dict:
    """The notebook without outputs, counts and whatever changes from run to run."""
    cells = [_bare_cell(c) for c in book["cells"]]
    return {**book, "cells": cells, "metadata": _lasting(book["metadata"])}


def made_from(path: Path, profile: str) -> dict[str, object]:
    """Hashes of a notebook's sources, of its paper's results at a profile and at larger ones, and of benchmarks."""
    paper, text = path.stem.partition("_")[2], source.notebook_source(path)
    drawn = PROFILES[PROFILES.index(profile) :]
    read = [p for name in drawn for p in sorted(results.folder(paper, name).glob("*.json"))]
    speeds = (root() / "benchmarks" / "results" / f"{n}.cpu.json" for n in re.findall(r'benchmark\("(\w+)"\)', text))
    read += [p for p in speeds if p.exists()]
    hashes = {str(p.relative_to(root())): hashlib.sha256(p.read_bytes()).hexdigest()[:16] for p in read}
    return {"source": source.digest(text), "results": hashes}


def stale(path: Path) -> list[str]:
    """What an executed notebook was not made from, though it stands in the checkout now; empty if up to date."""
    recorded = json.loads(path.read_text())["metadata"].get("hyena")
    if not recorded:
        return ["it has not been executed by `hyena notebook`"]
    now = made_from(path, recorded["profile"])
    changed = [] if recorded["source"] == now["source"] else ["its text or the code it imports"]
    return changed + sorted({k for k, _ in recorded["results"].items() ^ now["results"].items()})


def _papermill(path: Path, scratch: Path) -> dict:
    import papermill
    from nbclient.exceptions import CellTimeoutError
    from papermill.exceptions import PapermillExecutionError

    bare, done = scratch / path.name, scratch / "executed.ipynb"
    bare.write_text(_text(strip(json.loads(path.read_text()))))
    options = {"kernel_name": "python3", "cwd": str(root()), "progress_bar": False, "execution_timeout": TIMEOUT}
    try:
        with _environment(MPLBACKEND=INLINE):
            papermill.execute_notebook(str(bare), str(done), **options)
    except PapermillExecutionError as error:
        raise HyenaError(
            f"{path.name}, cell [{error.exec_count}]: {error.ename}: {error.evalue}; the notebook on disk is unchanged"
        ) from error
    except CellTimeoutError as error:
        raise HyenaError(f"{path.name}: a cell took longer than {TIMEOUT} s") from error
    book = json.loads(done.read_text())
    book["metadata"] = _lasting(book["metadata"])
    for cell in book["cells"]:
        cell["metadata"] = {k: v for k, v in cell["metadata"].items() if k == "tags" and v}
    return book


def _bare_cell(cell: dict) -> dict:
    tags = cell["metadata"].get("tags")
    kept = {**cell, "metadata": {"tags": tags} if tags else {}}
    return kept | {"outputs": [], "execution_count": None} if cell["cell_type"] == "code" else kept


def _lasting(metadata: dict) -> dict:
    return {"kernelspec": metadata["kernelspec"], "language_info": {"name": "python"}}


def _text(book: dict) -> str:
    return json.dumps(book, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def _replace_folder(new: Path, old: Path) -> None:
    old.mkdir(parents=True, exist_ok=True)
    names = {p.name for p in new.iterdir()}
    for path in new.iterdir():
        write_atomically(old / path.name, path.read_bytes())
    for path in old.iterdir():
        if path.name not in names:
            path.unlink()


@contextmanager
def _environment(**settings: str) -> Iterator[None]:
    before = {k: os.environ.get(k) for k in settings}
    os.environ.update(settings)
    try:
        yield
    finally:
        for key, value in before.items():
            os.environ.pop(key) if value is None else os.environ.update({key: value})
