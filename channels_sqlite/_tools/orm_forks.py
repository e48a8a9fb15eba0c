"""Django's own connections to our databases, around a fork: see `_storing.forks`."""

from __future__ import annotations

import os
from contextlib import suppress

from django.db import connections

from .._options.settings import configured_databases
from .._storing import forks
from .._storing.files import Files, is_in_memory


class OrmConnections(forks.Forkable):
    """Closes those of the thread that forks; the others cannot be reached."""

    def before_fork(self) -> None:
        """Close Django's connections to our databases, except in a transaction."""
        for connection in connections.all(initialized_only=True):
            ours = connection.alias in configured_databases() and connection.vendor == "sqlite"
            in_memory = is_in_memory(str(connection.settings_dict["NAME"]))
            if ours and not connection.in_atomic_block and not in_memory:
                connection.close()

    def after_fork_in_child(self) -> None:
        """Refuse a file that is still open: a transaction's connection, or another thread's."""
        if forks.is_late():
            return
        for alias in configured_databases():
            if alias in connections.settings:
                path = Files(str(connections.settings[alias]["NAME"])).path
                if _is_open(path):
                    forks.taint(path)


def _is_open(path: str) -> bool:
    """Return True if this process has the file open; False where that cannot be told."""
    with suppress(OSError):
        wanted = os.stat(path)
        for descriptor in os.listdir("/proc/self/fd"):
            with suppress(OSError):
                if os.path.samestat(os.fstat(int(descriptor)), wanted):
                    return True
    return False
