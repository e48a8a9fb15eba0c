"""The process's databases: one `Database` for each file, whatever number of layers use it."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import os
import threading
from typing import Any

from .database import Database
from .exceptions import InvalidOption

CLOSE_AT_EXIT = 0.5  # seconds

_databases: dict[str, Database] = {}
_inherited: list[Database] = []
_registry_lock = threading.Lock()


def database_for(settings: dict[str, Any], alias: str) -> Database:
    """The one `Database` of this process for Django's database settings."""
    if settings.get("ENGINE") != "django.db.backends.sqlite3":
        raise InvalidOption(
            f"CHANNEL_LAYERS CONFIG key 'database' is {alias!r}, whose ENGINE is "
            f"{settings.get('ENGINE')!r}; it must be 'django.db.backends.sqlite3'."
        )
    if str(settings["NAME"]) == ":memory:":
        raise InvalidOption(
            f"DATABASES[{alias!r}] is ':memory:', of which each connection would see its own. "
            "Give it a file."
        )
    database = Database(settings, alias)
    with _registry_lock:
        return _databases.setdefault(database.path, database)


def _forget_inherited() -> None:
    """After a fork: the child opens its own.

    SQLite's connections do not survive a fork, and must not even be closed in the child: closing
    drops the parent's locks. They are kept, unused, until the child ends.
    """
    global _registry_lock
    _registry_lock = threading.Lock()
    _inherited.extend(_databases.values())
    _databases.clear()


def _close_at_exit() -> None:
    """Close politely what nobody closed, so that the last one out removes the WAL."""
    open_ones = list(_databases.values())
    _databases.clear()
    for each in open_ones:
        each.ended = True

    async def close() -> None:
        closing = asyncio.gather(*(each.close() for each in open_ones), return_exceptions=True)
        await asyncio.wait_for(closing, CLOSE_AT_EXIT)

    if open_ones:
        with contextlib.suppress(asyncio.TimeoutError):
            asyncio.run(close())


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_inherited)
atexit.register(_close_at_exit)
