"""The files that describe the package agree with each other, with the code and with this environment."""

import ast
import importlib.metadata
import itertools
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
MODULES = sorted((ROOT / "hyena").rglob("*.py"))

# Where the name to import is not the name to install.
DISTRIBUTIONS = {"yaml": "pyyaml", "PIL": "pillow", "mpl_toolkits": "matplotlib", "sklearn": "scikit-learn"}

# The numerical core must import without the tools around it.
CORE = ("ops", "models", "experiments", "data", "train.py", "results.py")
TOOLS = re.compile(r"jupyter\w*|papermill|nbclient|dvc|pooch|pyfaidx|IPython")

# Written so that this file does not match itself. After a letter or a dot it is part of a URL.
# A checkout right below the root may have a common name: .gitignore has /build/ and means its own.
CHECKOUT = re.escape(str(ROOT)) if len(ROOT.parts) > 2 else "(?!)"
MACHINE_PATH = re.compile(
    rf"(?<![\w.])(?:/(?:home|Users)/\w|/(?:root)/|/tmp/(?:ipykernel)_|{CHECKOUT}(?!\w))|[A-Z]:\\+(?:Users)\\"
)
LARGEST = 1_100_000


def declared() -> dict[str, Requirement]:
    """Every requirement of pyproject, of all extras, by canonical name."""
    lines = list(itertools.chain(PROJECT["dependencies"], *PROJECT["optional-dependencies"].values()))
    found = {canonicalize_name(Requirement(line).name): Requirement(line) for line in lines}
    found.pop(canonicalize_name(PROJECT["name"]))
    return found


def pinned() -> list[Requirement]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return [Requirement(line) for line in lines if line.strip() and not line.startswith("#")]


def pinned_version(pin: Requirement) -> Version:
    (specifier,) = pin.specifier
    assert specifier.operator == "=="
    return Version(specifier.version)


def imported_names(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name.split(".")[0] for alias in node.names]
    if isinstance(node, ast.ImportFrom) and node.level == 0:
        return [node.module.split(".")[0]]
    return []


def nodes_run_on_import(node: ast.AST):
    """All nodes but those inside functions and `if TYPE_CHECKING:`."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        yield child
        yield from nodes_run_on_import(child)


def tracked_files() -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode or not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    return [path for name in listed.stdout.split("\0") if name and (path := ROOT / name).is_file()]


@pytest.mark.parametrize("name", declared())
def test_every_dependency_is_pinned_once(name):
    pins = [pin for pin in pinned() if canonicalize_name(pin.name) == name]
    assert len(pins) == 1
    assert pinned_version(pins[0]) in declared()[name].specifier


def test_no_package_is_pinned_twice():
    names = [canonicalize_name(pin.name) for pin in pinned()]
    assert sorted(names) == sorted(set(names))


def test_pins_are_plain_versions_that_any_index_can_serve():
    for pin in pinned():
        assert pin.url is None and pinned_version(pin).local is None, pin


def test_every_installed_package_has_its_pinned_version():
    wrong = {}
    for pin in pinned():
        try:
            installed = importlib.metadata.version(pin.name)
        except importlib.metadata.PackageNotFoundError:
            continue
        if not pin.specifier.contains(installed, prereleases=True):
            wrong[pin.name] = f"{installed} installed, pinned {pin.specifier}"
    assert not wrong


def test_conda_environment_installs_the_same_pins():
    dependencies = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    (pip,) = [item["pip"] for item in dependencies if isinstance(item, dict)]
    assert pip == ["-c constraints.txt", "-e .[all]"]
    (python,) = [item for item in dependencies if str(item).startswith("python=")]
    assert Version(python.removeprefix("python=")) in SpecifierSet(PROJECT["requires-python"])


def test_extra_all_is_every_other_extra():
    extras = PROJECT["optional-dependencies"]
    (everything,) = map(Requirement, extras["all"])
    assert everything.name == PROJECT["name"]
    assert everything.extras == set(extras) - {"all"}


def test_citation_has_the_version_of_the_package():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == PROJECT["version"]
    assert citation["license"] == PROJECT["license"]


def test_files_named_by_pyproject_exist():
    data = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    named = [f"{package.replace('.', '/')}/{name}" for package, names in data.items() for name in names]
    named += [PROJECT["readme"], *PROJECT["license-files"]]
    assert [name for name in named if not (ROOT / name).is_file()] == []


def test_every_import_is_declared():
    ours = {"hyena", *sys.stdlib_module_names}
    undeclared = {
        f"{path.relative_to(ROOT)}: {name}"
        for path in MODULES
        for node in ast.walk(ast.parse(path.read_text()))
        for name in imported_names(node)
        if name not in ours and canonicalize_name(DISTRIBUTIONS.get(name, name)) not in declared()
    }
    assert not undeclared


def test_core_imports_no_notebook_pipeline_or_download_tool():
    imports = {
        f"{path.relative_to(ROOT)}: {name}"
        for path in MODULES
        if path.relative_to(ROOT / "hyena").parts[0] in CORE
        for node in nodes_run_on_import(ast.parse(path.read_text()))
        for name in imported_names(node)
        if TOOLS.fullmatch(name)
    }
    assert not imports


def test_tracked_files_name_no_path_of_one_machine():
    found = {}
    for path in tracked_files():
        content = path.read_bytes()
        if b"\0" not in content and (match := MACHINE_PATH.search(content.decode(errors="replace"))):
            found[str(path.relative_to(ROOT))] = match.group()
    assert not found


def test_tracked_files_are_small():
    sizes = {str(path.relative_to(ROOT)): path.stat().st_size for path in tracked_files()}
    assert {name: size for name, size in sizes.items() if size > LARGEST} == {}
