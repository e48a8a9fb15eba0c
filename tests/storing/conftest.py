"""Fixtures for the tests of the storing modules."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from channels_sqlite._storing.once import Once
from channels_sqlite._storing.worker import Worker
from tests.rows import sql

Connect = Callable[[], sqlite3.Connection]


@pytest.fixture
def connect(database: Path) -> Iterator[Connect]:
    """Opens connections that wait for no lock, and closes them when the test is over."""
    with ExitStack() as stack:

        def connect_() -> sqlite3.Connection:
            connection = stack.enter_context(sql(database))
            connection.execute("pragma journal_mode = wal").fetchall()
            connection.execute("pragma busy_timeout = 0").fetchall()
            return connection

        yield connect_


@pytest.fixture
def connection(connect: Connect) -> sqlite3.Connection:
    return connect()


@pytest.fixture
def worker() -> Iterator[Worker]:
    worker = Worker(Once())
    yield worker
    worker.stop()
