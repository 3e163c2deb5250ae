"""The README tells the truth: its code runs, its commands parse, its links lead somewhere, its counts are today's."""

import gzip
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from registries import fetched
from safetensors.torch import save_file

from hyena import HyenaDNA, claims, source
from hyena.cli import parser

CHECKOUT = Path(__file__).resolve().parents[1]
README = (CHECKOUT / "README.md").read_text()
PAGES = [CHECKOUT / "README.md", CHECKOUT / "notebooks" / "README.md", CHECKOUT / "figures" / "README.md"]


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, flags=re.M | re.S)


@pytest.mark.slow
def test_the_code_example_runs():
    names: dict[str, object] = {}
    exec(blocks("python")[0], names)
    assert names["y"].shape == (2, 8192, 256)
    assert names["text"].shape == (1, 104)


def test_the_example_of_dna_runs(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    letters = ["".join(rng.choice(list("acgtACGTN"), 2500)) for _ in range(60)]
    (tmp_path / "genome.fa.gz").write_bytes(gzip.compress(f">chr1\n{letters[0]}\n".encode()))
    rows = "".join(f"{sequence[:50]},{i % 2}\n" for i, sequence in enumerate(letters))
    (tmp_path / "mine.csv").write_text("sequence,label\n" + rows)
    published = tmp_path / "cache" / "models" / "hyenadna-tiny-1k-seqlen-hf.safetensors"
    published.parent.mkdir(parents=True)
    weights = {name: t.clone() for name, t in HyenaDNA.named("tiny-1k-seqlen").state_dict().items()}
    save_file(weights, published)
    monkeypatch.setenv("HYENA_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    exec(blocks("python")[1], names)
    assert names["embeddings"].shape == (1, 1000, 128)
    assert names["effect"].shape == (20, 4) and names["effect"].abs().max() > 0
    assert names["classifier"](names["tokens"][None]).shape == (1, 2)
    assert names["task"].classes == ("0", "1")


def test_the_example_of_images_runs():
    names: dict[str, object] = {}
    exec(next(block for block in blocks("python") if "S4ND" in block), names)
    assert names["y"].shape == (2, 8, 8, 64) and names["z"].shape == (2, 32, 8, 64)
    assert names["video"].l_max == (16, 32, 32)


def test_the_example_of_solution_operators_runs(tmp_path, monkeypatch):
    monkeypatch.setenv("HYENA_CACHE", str(tmp_path))
    names: dict[str, object] = {}
    exec(next(block for block in blocks("python") if "navier_stokes" in block), names)
    assert names["field"].shape == (40, 1, 64, 64)
    off = (names["model"].predict(names["x"]) - names["y"]).flatten(1).norm(dim=1) / names["y"].flatten(1).norm(dim=1)
    assert names["relative_l2"](names["model"](names["x"]), *names["known"]).item() == pytest.approx(
        off.mean().item(), 1e-4
    )


@pytest.mark.data
def test_the_example_of_the_retina_runs(tmp_path, monkeypatch):
    monkeypatch.setenv("HYENA_CACHE", str(tmp_path))
    names: dict[str, object] = {}
    fetched(lambda: exec(next(block for block in blocks("python") if "simulated_recording" in block), names))
    assert names["rates"].shape == (1, 261, 8) and names["found"].channels.shape == (261, 8)
    assert names["found"].incompleteness < 0.05


def test_the_example_of_new_series_runs(tmp_path, monkeypatch):
    walks = np.random.default_rng(0).standard_normal((30, 25)).cumsum(0)
    lines = [",".join(f"s{i}" for i in range(25)), *(",".join(map(str, row)) for row in walks)]
    (tmp_path / "mine.csv").write_text("\n".join(lines))
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    exec(next(block for block in blocks("python") if "load_panel" in block), names)
    assert names["new"].shape == (8, 30, 1) and names["new"].isfinite().all()
    assert names["bound"].shape == (5,)


def test_the_example_of_series_runs(checkout, tmp_path, monkeypatch, capsys):
    wave = np.sin(np.arange(600) / 4) + 0.1 * np.random.default_rng(0).standard_normal(600)
    (tmp_path / "mine.csv").write_text("day,load\n" + "".join(f"{i},{value:.4f}\n" for i, value in enumerate(wave)))
    monkeypatch.chdir(tmp_path)
    example = next(block for block in blocks("python") if "mine.csv" in block and "Forecasting" in block)
    exec(example.replace('"quick"', '"smoke"'), {})
    shown = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [row[0] for row in shown] == ["spacetime", "nlinear", "dlinear", "lstm", "transformer", "ar", "naive"]
    assert all(float(row[2]) > 0 for row in shown)
    assert list((checkout / "results" / "custom" / "spacetime").iterdir())


def test_every_command_is_one():
    text = "\n".join(blocks("")).replace("\\\n", " ")
    found = re.findall(r"^(?:accelerate launch .* -m )?hyena ([^#\n]*)", text, flags=re.M)
    assert len(found) > 5
    for line in found:
        for command in line.split("&& hyena "):
            parser().parse_args(shlex.split(command.replace("&&", "")))


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(CHECKOUT)))
def test_links_and_pictures_exist(page):
    text = page.read_text()
    links = re.findall(r"\]\(([^)]+)\)", text) + re.findall(r'src="([^"]+)"', text)
    missing = [link for link in links if "://" not in link and not (page.parent / link).exists()]
    assert missing == []


def test_the_counts_of_claims_are_those_computed():
    for paper in source.papers():
        assert claims.summary(paper) in README
