"""This process's databases."""

from __future__ import annotations

import atexit
import multiprocessing
from contextlib import suppress
from multiprocessing import util
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.db.utils import load_backend

from ..exceptions import InvalidOption
from . import forks
from .database import Database


class _Registry(forks.Forkable):
    def __init__(self) -> None:
        self.databases: dict[tuple[str, str], Database] = {}
        forks.register(self)

    after_fork_in_child = __init__


_registry = _Registry()


def database_for(alias: str, name: str, settings: dict[str, Any]) -> Database:
    """The one `Database` of this process for an alias and its NAME, with Django's settings."""
    if not is_sqlite(settings.get("ENGINE", "")):
        raise InvalidOption(
            f"CHANNEL_LAYERS CONFIG key 'database' is {alias!r}, whose ENGINE is "
            f"{settings.get('ENGINE')!r}; it must be 'django.db.backends.sqlite3'."
        )
    if not name:
        raise InvalidOption(f'DATABASES["{alias}"] has no NAME. Give it a file.')
    if name == ":memory:":
        raise InvalidOption(
            f'DATABASES["{alias}"] has the NAME ":memory:": each connection would have an empty'
            " database of its own, and no message would arrive. Give it a file."
        )
    if not _registry.databases and multiprocessing.parent_process() is not None:
        # multiprocessing's children end without calling what atexit was told.
        util.Finalize(None, _close_at_exit, exitpriority=0)
    made = Database(alias, name, settings.get("OPTIONS") or {})  # it is not open, and holds nothing
    return _registry.databases.setdefault((alias, name), made)


def is_sqlite(engine: str) -> bool:
    """Return True for Django's own ENGINE, and for one that wraps it, for metrics perhaps."""
    if engine == "django.db.backends.sqlite3":
        return True
    with suppress(ImproperlyConfigured):
        return bool(load_backend(engine).DatabaseWrapper.vendor == "sqlite")
    return False


@atexit.register
def _close_at_exit() -> None:
    forks.notice()  # in the child of a fork without hooks all of it is the parent's
    for database in list(_registry.databases.values()):
        with suppress(Exception):  # nobody is there to be told
            database.close_at_exit()
