"""Errors a user can act on."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class HyenaError(ValueError):
    """What went wrong and what to do about it, in one line. The command prints it without a traceback."""


def unknown(kind: str, given: str, allowed: Iterable[str]) -> HyenaError:
    """The error for a name that does not exist, with the nearest one that does."""
    allowed = sorted(allowed)
    near = difflib.get_close_matches(given, allowed, n=1, cutoff=0.4)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return HyenaError(f"unknown {kind} {given!r}: {hint}choose from {', '.join(allowed)}")
