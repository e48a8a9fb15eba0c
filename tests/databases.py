"""Database files of the tests: one is migrated, each test gets a copy and an alias of its own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path

from django.db import connections

from tests.processes import ROOT, environment

_numbers = count(1)


def manage(path: Path, *command: str, prefix: Sequence[str] = (), check: bool = True) -> int:
    """Run `manage.py` in a project whose channels live in the file; how it ended."""
    return subprocess.run(
        [*prefix, sys.executable, "-m", "django", *command],
        cwd=ROOT,
        env=environment(path),
        check=check,
        capture_output=True,
        timeout=60,
    ).returncode


def migrate(path: Path, *, check: bool = True) -> int:
    """Make a new database file the way a project does."""
    return manage(path, "migrate", "--database=channels", "--verbosity=0", check=check)


@contextmanager
def alias_for(path: Path | str) -> Iterator[str]:
    """A database alias for the file, for as long as the context lasts; not for the ORM.

    An alias of its own rather than another NAME for "channels": that one belongs to
    pytest-django, which puts an in-memory database there and keeps it open.
    """
    alias = f"test_{next(_numbers)}"
    connections.settings[alias] = {**connections.settings["channels"], "NAME": str(path)}
    try:
        yield alias
    finally:
        del connections.settings[alias]
