"""What counts as a change: code that a paper or a notebook runs, and nothing else."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from hyena import source

CHECKOUT = Path(__file__).resolve().parents[1]


def test_comments_docstrings_and_blank_lines_are_dropped() -> None:
    code = '"""Module."""\n\nimport os  # why\n\n\nclass A:\n    """Doc."""\n\n    # note\n    x = 1  \n\n\n'
    code += 'async def f():\n    """Two\n\n    lines."""\n    return os\n'
    assert source.bare(code) == "import os\nclass A:\n    x = 1\nasync def f():\n    return os"


def test_code_is_kept_with_whatever_strings_hold() -> None:
    code = 'a = "# no comment"  # a comment\nb = f"{a}#{a}"\nc = """\n# neither\n"""\n"a value, not a docstring"\n'
    bare = source.bare(code)
    assert bare == 'a = "# no comment"\nb = f"{a}#{a}"\nc = """\n# neither\n"""\n"a value, not a docstring"'


def test_a_blank_line_inside_a_string_counts() -> None:
    assert source.bare('a = """x\n\ny"""\n') != source.bare('a = """x\ny"""\n')


def test_code_beside_a_docstring_on_its_line_is_kept() -> None:
    assert "class A(Exception):" in source.bare('class A(Exception): "doc"\n')
    assert "return 2" in source.bare('def é(): "doc"; return 2\n')


@pytest.fixture
def paper(checkout):
    """The digested code before and after an edit of a file: `paper(file, old, new)` says whether it changed."""

    def changed(file: str, old: str, new: str) -> bool:
        before = source.paper_code("hyena")
        path = checkout / file
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new, 1))
        return source.paper_code("hyena") != before

    return changed


def test_a_docstring_changes_nothing(paper) -> None:
    assert not paper("hyena/ops/fftconv.py", '"""', '"""Another sentence. ')


def test_a_comment_changes_nothing(paper) -> None:
    assert not paper("hyena/ops/fftconv.py", "\nimport", "\n# why\nimport")


@pytest.mark.parametrize(
    "file",
    [
        "ops/fftconv.py",
        "models/hyena.py",
        "models/lm.py",
        "models/mixers.py",
        "experiments/comparison.py",
        "experiments/hyena/shell.py",
        "experiments/hyena/recall.py",
        "experiments/hyena/reasoning.py",
        "experiments/base.py",
        "train.py",
    ],
)
def test_code_that_the_paper_imports_changes_it(checkout, file: str) -> None:
    before = source.paper_code("hyena")
    path = checkout / "hyena" / file
    path.write_text(path.read_text() + "\nCHANGED = True\n")
    assert source.paper_code("hyena") != before


@pytest.mark.parametrize("file", ["plot.py", "show.py", "cli.py", "claims.py", "compare.py", "notebook.py"])
def test_code_that_no_experiment_imports_changes_nothing(checkout, file: str) -> None:
    before = source.paper_code("hyena")
    path = checkout / "hyena" / file
    path.write_text(path.read_text() + "\nCHANGED = True\n")
    assert source.paper_code("hyena") == before


def test_a_new_import_brings_its_file_in(checkout) -> None:
    (checkout / "hyena" / "ops" / "new.py").write_text("VALUE = 3\n")
    path = checkout / "hyena" / "ops" / "fftconv.py"
    path.write_text(path.read_text() + "\n\ndef late():\n    from hyena.ops.new import VALUE\n\n    return VALUE\n")
    assert "# hyena/ops/new.py\nVALUE = 3\n" in source.paper_code("hyena")


def test_a_cycle_of_imports_ends(checkout) -> None:
    a, b = (checkout / "hyena" / "ops" / f"{n}.py" for n in "ab")
    a.write_text("import hyena.ops.b\n")
    b.write_text("from hyena.ops import a\n")
    found = "# hyena/ops/a.py\nimport hyena.ops.b\n# hyena/ops/b.py\nfrom hyena.ops import a\n"
    assert source.closure(a).endswith(found)


def test_public_names_are_followed_to_where_they_are_defined(checkout) -> None:
    entry = checkout / "hyena" / "ops" / "entry.py"
    entry.write_text("from hyena import causal_conv\n")
    assert "# hyena/ops/fftconv.py\n" in source.closure(entry)


def notebook(*cells: tuple[str, str], outputs: list | None = None, count: int | None = None) -> str:
    made = [{"cell_type": kind, "source": [text], "metadata": {}} for kind, text in cells]
    for cell in made:
        if cell["cell_type"] == "code":
            cell |= {"outputs": outputs or [], "execution_count": count}
    return json.dumps({"cells": made, "metadata": {}, "nbformat": 4, "nbformat_minor": 5})


def test_a_notebooks_outputs_do_not_count_and_its_text_does(checkout) -> None:
    path = checkout / "notebooks" / "09_x.ipynb"
    cells = [("markdown", "Words."), ("code", "from hyena import plot\nplot.use_style()")]
    path.write_text(notebook(*cells))
    bare = source.notebook_source(path)
    path.write_text(notebook(*cells, outputs=[{"output_type": "stream", "name": "stdout", "text": "1"}], count=7))
    assert source.notebook_source(path) == bare
    path.write_text(notebook(("markdown", "Other words."), cells[1]))
    assert source.notebook_source(path) != bare


def test_a_notebook_depends_on_the_code_it_imports(checkout) -> None:
    path = checkout / "notebooks" / "09_x.ipynb"
    path.write_text(notebook(("code", "from hyena import plot")))
    assert "# hyena/plot.py\n" in source.notebook_source(path)


def test_every_committed_notebook_depends_on_the_house_style(checkout) -> None:
    assert source.notebooks()
    assert all("# hyena/plot.py\n" in source.notebook_source(n) for n in source.notebooks())


def test_write_leaves_one_file_per_paper_and_notebook_and_nothing_else(checkout) -> None:
    folder = checkout / "build" / "source"
    folder.mkdir(parents=True)
    (folder / "gone.code").write_text("of a paper that was removed")
    source.write(folder)
    expected = {f"{p}.code" for p in source.papers()} | {f"{n.stem}.py" for n in source.notebooks()}
    assert {p.name for p in folder.iterdir()} == expected
    assert (folder / "hyena.code").read_text() == source.paper_code("hyena")


@pytest.mark.parametrize("statement", ["import hyena", "import hyena.source; hyena.source.paper_code('hyena')"])
def test_neither_the_package_nor_the_digest_imports_torch(statement: str) -> None:
    check = f"import sys; {statement}; print(sorted({{'torch', 'numpy', 'accelerate', 'yaml'}} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", check], cwd=CHECKOUT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_the_stage_runs_as_a_module(checkout) -> None:
    done = subprocess.run([sys.executable, "-m", "hyena.source"], cwd=checkout, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (checkout / "build" / "source" / "hyena.code").exists()
