"""The errors of this package, in one place.

An error of settings, files or databases is a `ChannelsSqliteError`, and also what Django
people already catch: a wrong setting is an `ImproperlyConfigured`, a database that does not answer
an `OperationalError`. `ChannelFull` is Channels' own. Wrong arguments are TypeErrors and
ValueErrors.
"""

from __future__ import annotations

import os
import sqlite3

from channels.exceptions import ChannelFull as ChannelFull
from django.core.exceptions import ImproperlyConfigured
from django.db.utils import OperationalError


class ChannelsSqliteError(Exception):
    """The base of every error of this package."""


class InvalidOption(ChannelsSqliteError, ImproperlyConfigured):
    """A key of CONFIG, or the database that it names, cannot be used. The message says what is
    allowed.
    """


class NotMigrated(ChannelsSqliteError, ImproperlyConfigured):
    """The database lacks the layer's tables. The message names the command that makes them."""


class WatcherUnavailable(ChannelsSqliteError, ImproperlyConfigured):
    """The watcher that CONFIG asks for by name cannot start here."""


class ForeignChannel(ChannelsSqliteError, ValueError, AssertionError):
    """receive() on a process-local channel that another process, or another layer, has made.

    An `AssertionError` too, because that is what other layers raise.
    """


class DatabaseUnavailable(ChannelsSqliteError, OperationalError):
    """SQLite could not read or write: the file was locked for longer than the timeout, the disk is
    full, the file is not readable, or it is damaged.

    An `OperationalError` rather than a `ChannelFull`: code that drops a message on a full channel
    is right to go on, and would be wrong to go on silently when nothing can be written at all.
    Nothing of the statement was written. OPTIONS["timeout"] counts from the call, and includes the
    time in the queue behind other calls.
    """


class MessageTooLarge(ChannelsSqliteError, ValueError):
    """The serialised message is larger than SQLite stores in one row."""


class UndecodableMessage(ChannelsSqliteError):
    """A row's body is not what the layer's serializer wrote. receive() never raises it: the row is
    skipped, and that is logged.
    """


def translate(error: BaseException | None, path: str) -> Exception:
    """`error`, SQLite's as a rule, as one of ours; `path` is the database's file."""
    code = code_of(error)  # None, and no remedy, where no descriptor is left, or no thread starts
    if code == sqlite3.SQLITE_TOOBIG:
        return MessageTooLarge(
            f"A message is too large for one row of {path}: {error}. Send where to find it instead."
        )
    remedy = _REMEDIES.get(code, "").format(user=this_user())
    if isinstance(error, PermissionError):
        remedy = (
            f" This process's {this_user()} may not use the directory {os.path.dirname(path)},"
            " or one above it."
        )
    return DatabaseUnavailable(f"{path}: {error}.{remedy}")


def code_of(error: BaseException | None) -> int | None:
    """SQLite's primary result code; None for an error that SQLite has not reported."""
    code: int | None = getattr(error, "sqlite_errorcode", None)
    return None if code is None else code & 0xFF


LOCKED = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
"""Codes that say that another connection holds a lock."""


def this_user() -> str:
    """The process's user, who needs the rights, as `id` and `chown` know it."""
    return f"user {os.geteuid()}" if hasattr(os, "geteuid") else "user"


# Without `using`, on_commit() waits for "default" alone: that may end inside the other transaction.
_SEND_AFTER_IT = (
    ", by ATOMIC_REQUESTS perhaps: send after it, with transaction.on_commit(..., using=...), or in"
    " it, with channels_sqlite.models.GroupSend."
)

_REMEDIES: dict[int | None, str] = {
    sqlite3.SQLITE_BUSY: " Another connection held the write lock for longer than"
    f" OPTIONS['timeout']. It may be this thread's own transaction{_SEND_AFTER_IT}",
    sqlite3.SQLITE_LOCKED: " Another connection in this process has a transaction open on the"
    f" database. It may be this thread's own{_SEND_AFTER_IT}",
    sqlite3.SQLITE_READONLY: " This process's {user} needs write access to the file and to its"
    " directory; or there was no file descriptor left (ulimit -n).",
    sqlite3.SQLITE_IOERR: " The disk reported an error, or is full; see the system's log.",
    sqlite3.SQLITE_CORRUPT: " The file is damaged: stop the processes, move it away and migrate"
    " again.",
    sqlite3.SQLITE_FULL: " The disk is full; if it is not, ids are used up: move the file away and"
    " migrate again.",
    sqlite3.SQLITE_CANTOPEN: " The file is not there; or it, or its directory, cannot be opened, or"
    " written, by this process's {user}; or no file descriptors are left (ulimit -n).",
    sqlite3.SQLITE_ERROR: " If a table is missing, it was dropped: migrate again, and restart the"
    " processes, whose memberships are gone. For anything else, `manage.py check` with `--database`"
    " and the database's alias has a remedy.",
    sqlite3.SQLITE_NOTADB: " The file is not an SQLite database: move it away and migrate again.",
}
