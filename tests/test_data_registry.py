"""The data registry: what an entry must say, and what a malformed one is told."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from registries import IN_MIRROR, in_deb, in_wheel, table

from hyena.data.fetch import fetch
from hyena.data.registry import registry
from hyena.errors import HyenaError


def test_an_unknown_name_suggests_the_nearest() -> None:
    with pytest.raises(HyenaError, match="unknown data entry 'enwik': did you mean 'enwiki'"):
        fetch("enwik")


def without(key: str) -> dict:
    return {name: value for name, value in table(IN_MIRROR).items() if name != key}


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        (table(IN_MIRROR, licens="MIT"), "'licens': did you mean 'licence'"),
        (without("citation"), "'citation' is missing"),
        (without("sha256"), "'sha256' is missing"),
        (table(IN_MIRROR, content_sha256=["0" * 64]), "'sha256'"),
        (table(IN_MIRROR, sha256=["abc"]), "'sha256' is no list of sha256 hashes"),
        (table(IN_MIRROR, bytes="many"), "'bytes' is missing or no int"),
        (table(IN_MIRROR, tier="gold"), "'tier' is 'gold'"),
        (table(IN_MIRROR, tier="default", sha256=["0" * 64, "1" * 64]), "default tier takes one hash"),
        (table(IN_MIRROR, file="../../escape"), "'file' is '../../escape'"),
        (table(), "'sources' is"),
        (table({"kind": "ftp"}), "source kind 'ftp'"),
        (table({"kind": "url", "path": "x"}), "'path'"),
        (table(in_wheel("abc")), "'sha256' of a wheel"),
        (table(in_deb("abc")), "'sha256' of a deb"),
        (without("sha256") | {"sequence_md5": ["0" * 64]}, "'sequence_md5' is no list of md5 hashes"),
    ],
    ids=lambda value: None if isinstance(value, dict) else re.sub(r"\W+", "-", value),
)
def test_a_malformed_entry_is_refused_by_name_and_key(make, broken: dict, said: str) -> None:
    with pytest.raises(HyenaError) as caught:
        make(thing=broken)
    assert "'thing'" in str(caught.value) and said in str(caught.value)


def test_two_entries_cannot_share_a_file(make) -> None:
    with pytest.raises(HyenaError, match="another entry has the same"):
        make(one=table(IN_MIRROR), two=table(IN_MIRROR))


@pytest.mark.parametrize("text", ["[thing", "thing = 1"])
def test_a_file_that_is_no_registry_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "registry.toml").write_text(text)
    with pytest.raises(HyenaError, match="registry"):
        registry(tmp_path / "registry.toml")


def test_the_default_tier_needs_no_more_than_a_package_index() -> None:
    tiers = {known.tier for known in registry().values()}
    assert tiers == {"default", "paper"}
    for known in registry().values():
        if known.tier == "default":
            assert {"wheel", "simulator"} & {source.kind for source in known.sources}, known.name
