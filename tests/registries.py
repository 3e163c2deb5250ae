"""Small data registries for tests: the pieces of an entry, and the TOML that holds them."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from hyena.data.fetch import fetch
from hyena.data.registry import Entry
from hyena.errors import HyenaError

RIGHT = b"the right bytes " * 375
WRONG = b"some other bytes" * 375
IN_MIRROR = {"kind": "mirror", "path": "public.bin"}


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def toml(tables: dict[str, dict]) -> str:
    """TOML of `tables`: JSON's strings, numbers and lists of strings are TOML's; sources become tables."""
    lines = []
    for name, table in tables.items():
        lines += [
            f"[{name}]",
            *(f"{key} = {json.dumps(value)}" for key, value in table.items() if key != "sources"),
        ]
        for source in table.get("sources", []):
            lines += [
                f"[[{name}.sources]]",
                *(f"{key} = {json.dumps(value)}" for key, value in source.items()),
            ]
    return "\n".join(lines)


def table(*sources: dict, **changes: object) -> dict:
    return {
        "what": "a test",
        "licence": "none",
        "citation": "none",
        "tier": "paper",
        "group": "text",
        "file": "file.bin",
        "sha256": [sha256(RIGHT)],
        "bytes": len(RIGHT),
        "sources": list(sources),
    } | changes


def in_wheel(hash_of_wheel: str, member: str = "tiny/data.bin") -> dict:
    return {"kind": "wheel", "requirement": "tiny==1.0", "sha256": hash_of_wheel, "member": member}


def in_deb(hash_of_package: str, member: str = "usr/share/tiny/data.bin") -> dict:
    return {"kind": "deb", "requirement": "tiny=1.0", "sha256": hash_of_package, "member": member}


def refused(name: str, entries: dict[str, Entry]) -> str:
    """What is said of an entry that cannot be fetched."""
    with pytest.raises(HyenaError) as caught:
        fetch(name, entries)
    assert "\n" not in str(caught.value), "an error is one line"
    return str(caught.value)


def leftovers(cached: Path) -> list[str]:
    """What lies where the fetched file would."""
    return sorted(path.name for path in cached.parent.iterdir()) if cached.parent.exists() else []


def fetched(make: Callable[[], object], tier: str = "default"):
    """What `make` loads; where its data cannot be had the test is skipped, unless all of the default tier must be."""
    try:
        return make()
    except HyenaError as error:
        if tier == "default" and os.environ.get("HYENA_REQUIRE_DATA") == "1":
            raise
        pytest.skip(f"needs data: {error}")
