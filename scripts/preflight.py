"""Check, before make does any work, that the machine can do it.

Run by the system's own Python, whichever that is, so that an old one is told so
instead of failing on syntax: nothing here is newer than Python 2.7. Imports that
an old Python lacks stand in the functions that use them.
"""

from __future__ import print_function

import os
import sys

OLDEST = (3, 11)
GIGABYTE = 10**9


def python_problem(version):
    """`version` as in sys.version_info."""
    if tuple(version[:2]) >= OLDEST:
        return None
    return (
        "Python {0}.{1} or newer is needed, this is Python {2}.{3}: "
        "name a newer one, as in `make PYTHON=python3.12 reproduce`"
    ).format(OLDEST[0], OLDEST[1], version[0], version[1])


def venv_problem(find_module):
    """`find_module(name)` is None for a module that does not exist, as importlib.util.find_spec."""
    missing = [name for name in ("venv", "ensurepip") if find_module(name) is None]
    if not missing:
        return None
    return (
        "this Python has no {0} module, so it cannot make .venv: "
        "on Debian or Ubuntu run `apt install python3-venv`, elsewhere install a full Python"
    ).format(" and no ".join(missing))


def checkout_problem(folder):
    """A worktree's or submodule's .git is a file, and good enough."""
    if os.path.exists(os.path.join(folder, ".git")):
        return None
    return (
        "{0} is not a git checkout, and DVC needs one: use `git clone`, not a downloaded zip, "
        "or run `git init` here first"
    ).format(folder)


def git_problem(find_program):
    """`find_program(name)` is None for a program that is not on PATH, as shutil.which."""
    if find_program("git") is not None:
        return None
    return "git is not on PATH: install it (on Debian or Ubuntu `apt install git`) and run make again"


def space_needed(folder):
    """Bytes: most of what is needed goes into .venv, so little once that is there."""
    return GIGABYTE if os.path.exists(os.path.join(folder, ".venv")) else 5 * GIGABYTE


def space_problem(folder, needed, free):
    if free >= needed:
        return None
    return "{0} has {1:.1f} GB free and {2:.0f} GB are needed: make room or clone to another disk".format(
        folder, free / float(GIGABYTE), needed / float(GIGABYTE)
    )


def first_problem(folder):
    """The first failed check's line, or None. A later check is not tried after an earlier one failed."""
    problem = python_problem(sys.version_info)
    if problem:
        return problem

    import importlib.util
    import shutil

    return (
        venv_problem(importlib.util.find_spec)
        or checkout_problem(folder)
        or git_problem(shutil.which)
        or space_problem(folder, space_needed(folder), shutil.disk_usage(folder).free)
    )


def main():
    folder = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    problem = first_problem(folder)
    if problem:
        print("hyena: error: " + problem, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
