"""Test databases that are files, which Django's parallel test runner copies.

It copies the database file without its write-ahead log; and workers that it kills, at the first
error perhaps, leave the logs of their copies. SQLite would apply such a log to the next run's copy.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import re
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from django.db import OperationalError
from django.db.backends.base.base import BaseDatabaseWrapper

from .._storing.files import BELLS, INDEX, LOG, Files

LOGS = (LOG, INDEX, "-journal")

_test_databases: set[Path] = set()


def write_log_back(connection: BaseDatabaseWrapper) -> None:
    """Copy the log into the file and empty it, unless another process uses the database now."""
    if connection.vendor != "sqlite" or connection.in_atomic_block:
        return
    with connection.cursor() as cursor, contextlib.suppress(OperationalError):
        cursor.execute("pragma busy_timeout")
        (timeout,) = cursor.fetchone()
        cursor.execute("pragma busy_timeout = 0")
        try:
            cursor.execute("pragma wal_checkpoint(truncate)")
        finally:
            cursor.execute(f"pragma busy_timeout = {timeout}")


def remove_old_logs(connection: BaseDatabaseWrapper) -> None:
    """Remove the logs that an earlier test run has left where this one's copies are going to be."""
    name, test = connection.settings_dict["NAME"], connection.settings_dict["TEST"]["NAME"]
    files = Files(str(name))
    if name != test or files.in_memory:
        return
    _test_databases.add(Path(files.path))
    for clone in _clones_with_logs(Path(files.path)):
        if not clone.exists():
            _unlink_logs(clone)
        else:
            _fold(clone)


@atexit.register
def _remove_what_is_left() -> None:
    """At the end of a test run: what stands beside test databases, and copies, that are gone."""
    for path in _test_databases:
        left = re.compile(
            rf"({re.escape(path.stem)}(_\d+)?{re.escape(path.suffix)})"
            rf"({'|'.join((*LOGS, BELLS))})",
            re.DOTALL,
        )
        with contextlib.suppress(OSError):
            for found in filter(None, map(left.fullmatch, os.listdir(path.parent))):
                if not path.with_name(found[1]).exists():
                    _unlink_logs(path.with_name(found[1]))
                    shutil.rmtree(path.with_name(found[1] + BELLS), ignore_errors=True)


def _clones_with_logs(path: Path) -> Iterator[Path]:
    """The copies of the test database beside which there is a log, by Django's names for them."""
    with_log = re.compile(
        rf"({re.escape(path.stem)}_\d+{re.escape(path.suffix)})({'|'.join(LOGS)})", re.DOTALL
    )
    found = filter(None, map(with_log.fullmatch, os.listdir(path.parent)))
    yield from sorted({path.with_name(each[1]) for each in found})


def _fold(clone: Path) -> None:
    """Write the log of a copy back into it: with `--keepdb` the copy is used again."""
    try:
        with closing(sqlite3.connect(clone, timeout=0)) as connection:
            connection.execute("pragma wal_checkpoint(truncate)").fetchall()
    except sqlite3.OperationalError:
        pass  # in use
    except sqlite3.DatabaseError:  # a copy that was not finished
        _unlink_logs(clone)


def _unlink_logs(clone: Path) -> None:
    for end in LOGS:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(f"{clone}{end}")
