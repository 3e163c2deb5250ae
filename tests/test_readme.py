"""The README tells the truth: its code runs, its commands parse, its links lead somewhere, its counts are today's."""

import re
import shlex
from pathlib import Path

import pytest

from hyena import claims, source
from hyena.cli import parser

CHECKOUT = Path(__file__).resolve().parents[1]
README = (CHECKOUT / "README.md").read_text()
PAGES = [CHECKOUT / "README.md", CHECKOUT / "notebooks" / "README.md", CHECKOUT / "figures" / "README.md"]


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, flags=re.M | re.S)


@pytest.mark.slow
def test_the_code_example_runs():
    (code,) = blocks("python")
    names: dict[str, object] = {}
    exec(code, names)
    assert names["y"].shape == (2, 8192, 256)
    assert names["text"].shape == (1, 104)


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
