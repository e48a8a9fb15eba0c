"""Django's own connections to our databases, around a fork: see `_storing.forks`."""

from __future__ import annotations

import ctypes
import os
import sqlite3
from contextlib import suppress

from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper

from .._storing import forks
from .._storing.files import Files, is_in_memory
from .._storing.private import opened_by


class OrmConnections(forks.Forkable):
    """Closes those of the thread that forks; those of other threads may be in use."""

    def before_fork(self) -> None:
        """Close them, except in a transaction."""
        for connection in connections.all(initialized_only=True):
            in_memory = is_in_memory(str(connection.settings_dict["NAME"]))
            if connection in opened_by and not (in_memory or _in_transaction(connection)):
                connection.close()

    def after_fork_in_child(self) -> None:
        """Refuse a file of which a connection was inherited: a transaction's, or another
        thread's.
        """
        forks.register(self)
        for connection, pid in list(opened_by.items()):
            raw = None if connection.closed_in_transaction else connection.connection
            if pid != os.getpid() and raw is not None:
                # For ever: if its thread is not here, Python collects it, which would close it.
                ctypes.pythonapi.Py_IncRef(ctypes.py_object(raw))
                with suppress(OSError):  # its directory may not be searched any more
                    forks.taint(Files(str(connection.settings_dict["NAME"])).identity)


def _in_transaction(connection: BaseDatabaseWrapper) -> bool:
    """Return True in a transaction of `atomic()`, of `set_autocommit(False)`, or of plain SQL:
    Django's next statement, or commit, would not tell that it was rolled back.
    """
    raw, as_set = connection.connection, connection.settings_dict["AUTOCOMMIT"]
    if connection.in_atomic_block or raw is None:  # in atomic() it may be closed
        return connection.in_atomic_block
    try:
        return bool(raw.in_transaction) or connection.autocommit != as_set
    except sqlite3.ProgrammingError:  # a program has closed it, without Django
        return False
