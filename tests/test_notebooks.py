"""The committed notebooks: executed, up to date, clean and of readable size."""

import json
import re
from pathlib import Path

import pytest

from hyena import notebook, source
from hyena.errors import HyenaError

CHECKOUT = Path(__file__).resolve().parents[1]
COMMITTED = sorted((CHECKOUT / "notebooks").glob("[0-9][0-9]_*.ipynb"))
every_notebook = pytest.mark.parametrize("path", COMMITTED, ids=lambda p: p.stem)


def cells(path: Path, kind: str) -> list[dict]:
    return [c for c in json.loads(path.read_text())["cells"] if c["cell_type"] == kind]


def lines(cell: dict) -> list[str]:
    return [line for line in "".join(cell["source"]).splitlines() if line.strip()]


@every_notebook
def test_committed_notebook_is_up_to_date_with_its_sources_and_results(path):
    assert notebook.stale(path) == []
    assert json.loads(path.read_text())["metadata"]["hyena"]["profile"] == "quick"


@every_notebook
def test_every_cell_ran_once_in_order_without_error_or_warning(path):
    code = cells(path, "code")
    assert [c["execution_count"] for c in code] == list(range(1, len(code) + 1))
    outputs = [o for c in code for o in c["outputs"]]
    assert [o for o in outputs if o["output_type"] == "error" or o.get("name") == "stderr"] == []


@every_notebook
def test_notebook_is_small_enough_to_read(path):
    words = sum(len(re.findall(r"\w+", "".join(c["source"]))) for c in cells(path, "markdown"))
    assert 1500 <= words <= 3500
    assert sum(len(lines(c)) for c in cells(path, "code")) <= 250
    assert max(len(lines(c)) for c in cells(path, "code")) <= 25
    assert path.stat().st_size < 1_000_000


@every_notebook
def test_only_profile_and_seed_are_parameters(path):
    (tagged,) = [c for c in cells(path, "code") if "parameters" in c["metadata"].get("tags", [])]
    assert [line.split(" = ")[0] for line in lines(tagged)] == ["profile", "seed"]


@every_notebook
def test_every_figure_has_a_file_a_caption_and_a_place_in_the_paper(path):
    folder = CHECKOUT / "figures" / path.stem.partition("_")[2]
    captions = json.loads((folder / "captions.json").read_text())
    drawn = re.findall(r'plot\.show\(\s*fig,\s*"(\w+)"', "".join("".join(c["source"]) for c in cells(path, "code")))
    assert sorted(drawn) == sorted(captions) == sorted(p.stem for p in folder.glob("*.png"))
    assert all(about["caption"] and about["beside"] and about["notebook"] == path.name for about in captions.values())
    shown = [o for c in cells(path, "code") for o in c["outputs"] if "image/png" in o.get("data", {})]
    assert len(shown) == len(drawn)


def test_every_paper_has_a_notebook():
    assert {p.stem.partition("_")[2] for p in COMMITTED} == set(source.papers())


def test_a_failing_cell_is_named_and_leaves_the_notebook_as_it_was(checkout):
    path = checkout / "notebooks" / "01_hyena.ipynb"
    book = json.loads(path.read_text())
    cell = next(c for c in book["cells"] if c["cell_type"] == "code")
    cell["source"] = ["raise RuntimeError('the disk is on fire')"]
    path.write_text(json.dumps(book))
    before = path.read_bytes()
    with pytest.raises(HyenaError, match=r"01_hyena.ipynb, cell \[1\]: RuntimeError: the disk is on fire"):
        notebook.execute("hyena", "smoke")
    assert path.read_bytes() == before


def test_a_new_result_makes_a_notebook_stale_unless_it_is_of_a_smaller_profile(checkout):
    path = checkout / "notebooks" / "01_hyena.ipynb"
    book = json.loads(path.read_text())
    book["metadata"]["hyena"] = {"profile": "quick"} | notebook.made_from(path, "quick")
    path.write_text(json.dumps(book))
    for profile, expected in [("smoke", []), ("long", ["results/hyena/long/new.json"])]:
        new = checkout / "results" / "hyena" / profile / "new.json"
        new.parent.mkdir(parents=True)
        new.write_text("{}")
        assert notebook.stale(path) == expected


def test_stripping_keeps_the_text_and_drops_what_running_adds():
    book = json.loads(COMMITTED[0].read_text())
    bare = notebook.strip(book)
    assert [c["source"] for c in bare["cells"]] == [c["source"] for c in book["cells"]]
    assert all(c["outputs"] == [] and c["execution_count"] is None for c in bare["cells"] if c["cell_type"] == "code")
    assert "hyena" not in bare["metadata"]
