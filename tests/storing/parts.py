"""Connections of others to the test's file, a database on it, and what keeps a thread busy."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

from channels_sqlite._storing.database import Database
from channels_sqlite._storing.schema import MESSAGE
from tests.rows import sql
from tests.waiting import PATIENCE

TIMEOUT = 0.05  # seconds for which a lock of others is waited for, unless a test says otherwise

INSERT = f"""
    insert into {MESSAGE} (inbox, channel, body, created_at, expires_at)
    values ('a', 'a', x'80', 0, 1e12)
"""


def insert(connection: sqlite3.Connection) -> int:
    """Write a row; on which thread."""
    connection.execute(INSERT)
    return threading.get_ident()


def count(connection: sqlite3.Connection) -> int:
    """How many messages there are."""
    ((found,),) = connection.execute(f"select count(*) from {MESSAGE}").fetchall()
    return int(found)


@contextmanager
def locked(path: Path | str) -> Iterator[None]:
    """Somebody else holds the write lock."""
    with sql(path) as connection:
        connection.execute("begin immediate")
        yield
        connection.execute("rollback")


@contextmanager
def locked_up(path: Path | str) -> Iterator[None]:
    """Somebody else lets nobody read either."""
    with sql(path) as connection:
        connection.execute("pragma locking_mode = exclusive").fetchall()
        connection.execute("begin exclusive")
        yield
        connection.execute("rollback")


@asynccontextmanager
async def database_on(path: Path | str, **options: Any) -> AsyncIterator[Database]:
    """A database of its own, as another process would have it."""
    database = Database("channels", str(path), {"timeout": TIMEOUT} | options)
    try:
        yield database
    finally:
        await database.close()


class Gate:
    """A job that does not end before it is let through."""

    def __init__(self) -> None:
        self._entered = threading.Event()
        self._open = threading.Event()

    def __call__(self, *_: object) -> str:
        self._entered.set()
        assert self._open.wait(PATIENCE)
        return "passed"

    async def entered(self) -> None:
        """Wait until a thread stands before it."""
        assert await asyncio.to_thread(self._entered.wait, PATIENCE)

    def open(self) -> None:
        """Let the job end."""
        self._open.set()
