"""What a paper's results depend on: its code without comments, and its notebook without outputs.

`python -m hyena.source` writes both to `build/source`, where the pipeline looks for changes: a docstring
retrains nothing, a changed operator retrains exactly the papers that import it. Standard library only.
"""

from __future__ import annotations

import ast
import hashlib
import io
import json
import tokenize
from pathlib import Path

from hyena.paths import root, write_atomically

Position = tuple[int, int]


def paper_code(paper: str) -> str:
    """Everything that `hyena/experiments/<paper>.py` imports inside the package, itself included."""
    folder = root() / "hyena" / "experiments"
    entry = folder / f"{paper}.py"
    return closure(entry if entry.exists() else folder / paper / "__init__.py")


def digest(text: str) -> str:
    """A short SHA-256."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def closure(entry: Path) -> str:
    """The bare code of `entry` and of all that it imports from this package, in order of path."""
    found: set[Path] = set()
    waiting = [entry]
    while waiting:
        path = waiting.pop()
        if path in found:
            continue
        found.add(path)
        waiting += _imports(path.read_text())
    base = root()
    return "".join(f"# {p.relative_to(base)}\n{bare(p.read_text())}\n" for p in sorted(found))


def notebook_source(path: Path) -> str:
    """Cells of a notebook without outputs, then the package code that its cells import."""
    cells = json.loads(path.read_text())["cells"]
    text = "".join(f"# %% {c['cell_type']}\n{''.join(c['source'])}\n" for c in cells)
    code = "\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "code")
    return text + "".join(closure(p) for p in sorted(set(_imports(code))))


def bare(code: str) -> str:
    """Code without comments, docstrings and blank lines; the same under every version of Python."""
    lines = code.split("\n")
    cuts, inside = _docstrings(code), set()  # rows that end inside a string: there a blank counts
    for token in tokenize.generate_tokens(io.StringIO(code).readline):
        if token.type == tokenize.COMMENT:
            cuts.append((token.start, token.end))
        elif not any(start <= token.start < end for start, end in cuts):
            inside |= set(range(token.start[0] - 1, token.end[0] - 1))
    for (row, column), (last, after) in sorted(cuts, reverse=True):
        lines[row - 1 : last] = [lines[row - 1][:column] + lines[last - 1][after:], *[""] * (last - row)]
    kept = (line if i in inside else line.rstrip() for i, line in enumerate(lines) if i in inside or line.strip())
    return "\n".join(kept)


def write(folder: Path) -> None:
    """Write `<paper>.code` and `<notebook>.py` for every paper and notebook, and nothing else."""
    wanted = {f"{p}.code": paper_code(p) for p in papers()}
    wanted |= {f"{n.stem}.py": notebook_source(n) for n in notebooks()}
    for name, text in wanted.items():
        write_atomically(folder / name, text)
    for path in folder.iterdir():
        if path.name not in wanted:
            path.unlink()


def papers() -> list[str]:
    """Names of the papers: what stands in `hyena/experiments` beside what they share."""
    folder = root() / "hyena" / "experiments"
    found = {p.stem for p in folder.glob("*.py")} | {p.parent.name for p in folder.glob("*/__init__.py")}
    return sorted(found - {"base", "comparison", "__init__"})


def notebooks() -> list[Path]:
    """The notebooks, in reading order."""
    return sorted((root() / "notebooks").glob("[0-9][0-9]_*.ipynb"))


def _docstrings(code: str) -> list[tuple[Position, Position]]:
    """Where docstrings begin and end: row from 1, column in characters."""
    lines, found = code.split("\n"), []
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and node.body:
            first = node.body[0]
            if isinstance(first, ast.Expr) and isinstance(getattr(first.value, "value", None), str):
                ends = (first.lineno, first.col_offset), (first.end_lineno, first.end_col_offset)
                found.append(tuple((r, len(lines[r - 1].encode()[:c].decode())) for r, c in ends))
    return found


def _imports(code: str) -> list[Path]:
    """Files of this package that a piece of code imports, names taken from `hyena` itself included."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
    return [path for name in names - {"hyena"} for path in _files(name)]


def _files(name: str) -> list[Path]:
    from hyena import PUBLIC  # public names are looked up where they are defined

    if not (name == "hyena" or name.startswith("hyena.")):
        return []
    last = name.rpartition(".")[2]
    if name == f"hyena.{last}" and last in PUBLIC:
        name = PUBLIC[last]
    path = root().joinpath(*name.split("."))
    return [p for p in (path.with_suffix(".py"), path / "__init__.py") if p.exists()]


if __name__ == "__main__":
    write(root() / "build" / "source")
