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
    path = Path(files.path)
    _test_databases.add(path)
    for clone in _with_something_beside(path) - {path}:
        if not clone.exists():
            _unlink_logs(clone)
        else:
            _fold(clone)


@atexit.register
def _remove_what_is_left() -> None:
    """At the end of a test run: what stands beside test databases, and copies, that are gone."""
    for path in _test_databases:
        for each in _with_something_beside(path):
            if not each.exists():
                _unlink_logs(each)
                shutil.rmtree(f"{each}{BELLS}", ignore_errors=True)


def _with_something_beside(path: Path) -> set[Path]:
    """The test database and the copies of it, by Django's names for them, that have, or had, a log
    or bells.
    """
    name = rf"({re.escape(path.stem)}(_\d+)?{re.escape(path.suffix)})"
    beside = re.compile(f"{name}({'|'.join((*LOGS, BELLS))})", re.DOTALL)
    with contextlib.suppress(OSError):
        found = filter(None, map(beside.fullmatch, os.listdir(path.parent)))
        return {path.with_name(each[1]) for each in found}
    return set()


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
