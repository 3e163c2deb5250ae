"""What make checks before any work: each check passes, or fails with one line that says what to do."""

import ast
import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[1] / "scripts" / "preflight.py"
GB = 10**9


@pytest.fixture(scope="module")
def preflight():
    spec = importlib.util.spec_from_file_location("preflight", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def checkout(tmp_path):
    """A folder with the script and a .git, as a clone has."""
    (tmp_path / "scripts").mkdir()
    (tmp_path / ".git").mkdir()
    shutil.copy(SCRIPT, tmp_path / "scripts")
    return tmp_path


def run_in(folder, python=sys.executable, **environment):
    command = [python, str(folder / "scripts" / "preflight.py")]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment})


def assert_one_error_line(done, *parts):
    assert done.returncode == 1
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("hyena: error: ")
    for part in parts:
        assert part in line


@pytest.mark.parametrize("version", [(3, 11, 0), (3, 12, 4), (3, 20, 0), (4, 0, 0)])
def test_new_enough_python_passes(preflight, version):
    assert preflight.python_problem(version) is None


@pytest.mark.parametrize("version", [(2, 7, 18), (3, 6, 15), (3, 10, 13)])
def test_old_python_is_named_with_the_way_to_choose_another(preflight, version):
    problem = preflight.python_problem(version)
    assert f"this is Python {version[0]}.{version[1]}:" in problem
    assert "make PYTHON=python3.12" in problem


def test_python_with_venv_and_ensurepip_passes(preflight):
    assert preflight.venv_problem(lambda name: name) is None


@pytest.mark.parametrize("missing", ["venv", "ensurepip"])
def test_missing_venv_module_names_the_debian_package(preflight, missing):
    problem = preflight.venv_problem(lambda name: None if name == missing else name)
    assert f"no {missing} module" in problem
    assert "apt install python3-venv" in problem


def test_clone_passes(preflight, checkout):
    assert preflight.checkout_problem(str(checkout)) is None


def test_worktree_passes(preflight, tmp_path):
    (tmp_path / ".git").write_text("gitdir: elsewhere\n")
    assert preflight.checkout_problem(str(tmp_path)) is None


def test_unpacked_zip_is_told_to_clone(preflight, tmp_path):
    assert "git clone" in preflight.checkout_problem(str(tmp_path))


def test_git_on_path_passes(preflight):
    assert preflight.git_problem(lambda name: "/somewhere/" + name) is None


def test_missing_git_is_told_to_install_it(preflight):
    assert "git is not on PATH" in preflight.git_problem(lambda name: None)


def test_fresh_clone_needs_more_room_than_one_with_its_venv(preflight, tmp_path):
    assert preflight.space_needed(str(tmp_path)) == 5 * GB
    (tmp_path / ".venv").mkdir()
    assert preflight.space_needed(str(tmp_path)) == 1 * GB


def test_enough_room_passes(preflight):
    assert preflight.space_problem("here", needed=5 * GB, free=5 * GB) is None


def test_little_room_says_how_much_there_is_and_how_much_is_needed(preflight):
    problem = preflight.space_problem("here", needed=5 * GB, free=2.25e9)
    assert "here has 2.2 GB free and 5 GB are needed" in problem


def test_full_disk_is_found_by_the_whole_check(preflight, checkout, monkeypatch):
    usage = shutil.disk_usage(checkout)._replace(free=3 * GB)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage)
    assert "3.0 GB free" in preflight.first_problem(str(checkout))
    (checkout / ".venv").mkdir()
    assert preflight.first_problem(str(checkout)) is None


def test_script_is_silent_when_all_is_well(checkout):
    (checkout / ".venv").mkdir()  # asks for 1 GB, not 5, of the disk the tests run on
    done = run_in(checkout)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_script_reports_only_the_first_problem(checkout, tmp_path):
    (checkout / ".git").rmdir()
    assert_one_error_line(run_in(checkout, PATH=str(tmp_path)), "not a git checkout")


def test_script_reports_missing_git(checkout, tmp_path):
    assert_one_error_line(run_in(checkout, PATH=str(tmp_path)), "git is not on PATH")


@pytest.mark.parametrize("name", ["python2", "python2.7", "python3.6", "python3.8", "python3.10"])
def test_old_interpreters_fail_politely(checkout, name):
    python = shutil.which(name)
    if python is None or subprocess.run([python, "-c", ""], capture_output=True).returncode:
        pytest.skip(f"no working {name} here")
    assert_one_error_line(run_in(checkout, python), "Python 3.11 or newer is needed")


def test_script_uses_no_syntax_newer_than_python_2():
    source = SCRIPT.read_bytes()
    source.decode("ascii")  # Python 2 refuses other characters without a coding line
    newer = (ast.JoinedStr, ast.NamedExpr, ast.AnnAssign, ast.AsyncFunctionDef, ast.Nonlocal, ast.Match)
    for node in ast.walk(ast.parse(source)):
        assert not isinstance(node, newer), f"line {node.lineno}"
        if isinstance(node, ast.arg):
            assert node.annotation is None, f"line {node.lineno}"
        if isinstance(node, ast.FunctionDef):
            assert node.returns is None and not node.args.kwonlyargs, f"line {node.lineno}"
