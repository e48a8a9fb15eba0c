"""This process's way into one database file, whatever number of layers and event loops it has.

One writing connection for all of them: a second writer in one process would only fight the first
for SQLite's lock.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import logging
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any, Protocol, TypeVar
from urllib.parse import unquote, urlsplit
from weakref import WeakSet

from .connection import Connection, ConnectionLost
from .exceptions import InvalidOption, NotMigrated, translate
from .schema import MEMBERSHIP, MESSAGE, SEQUENCE, TRIGGERS

logger = logging.getLogger("channels_sqlite")

T = TypeVar("T")

OLDEST_SQLITE = (3, 35, 0)  # RETURNING
WAL_PAGES = 4000
"""Pages in the WAL at which SQLite copies them into the database, with an fsync of both, in the
commit that happens upon it. Four times the default: fewer stalls, and fewer chances for the
WAL-reset bug of SQLite 3.7.0 to 3.51.2."""
WAL_LIMIT = WAL_PAGES * 4096
"""Bytes that the WAL is cut back to when a long read has let it grow."""
CLOSE_AT_EXIT = 0.5  # seconds
CHECK_FILE_EVERY = 1.0  # seconds; a stat, while anything is written


class Nudged(Protocol):
    """Who wants to know when this process has committed a message."""

    def nudge(self, here: asyncio.AbstractEventLoop) -> None:
        """Called on the running loop `here`."""


class Database:
    """One file; get it from `database_for`."""

    def __init__(self, settings: dict[str, Any], alias: str) -> None:
        self.alias = alias
        self.name = str(settings["NAME"])
        self.in_memory = is_in_memory(self.name)
        self.path = self.name if self.in_memory else file_path(self.name)
        self.generation = 0
        """Rises with each file that is found in the place of another: ids have begun anew."""
        self.ended = False
        """The interpreter ends: a loop that still runs on a daemon thread opens nothing."""
        self.receivers: WeakSet[Nudged] = WeakSet()
        self._options = settings.get("OPTIONS") or {}
        self._timeout = float(self._options.get("timeout", 5))
        self._lock = threading.Lock()
        self._opening: Future[Connection] | None = None
        self._connection: Connection | None = None
        self._identity: tuple[int, int] | None = None
        self._checked_at = 0.0

    @property
    def wal(self) -> str:
        """The path of the write-ahead log."""
        return f"{self.path}-wal"

    # Opening

    def open(self) -> Future[Connection]:
        """Begin to open, once, whoever asks and however many; done when it can be used."""
        with self._lock:
            if self._connection is not None and not self._connection.is_alive:
                self._connection = self._opening = None
            if self._opening is None:
                self._opening = Future()
                threading.Thread(
                    target=self._open,
                    args=(self._opening,),
                    name="channels-sqlite-database",
                    daemon=True,
                ).start()
            return self._opening

    def _open(self, opening: Future[Connection]) -> None:
        identity = self._identity_on_disk()
        try:
            connection = self._connect(identity)
        except Exception as error:
            with self._lock:
                self._opening = None  # so that the next one to ask tries again
            if isinstance(error, sqlite3.Error):
                opening.set_exception(translate(error, self.path))
            else:
                opening.set_exception(error)
            return
        with self._lock:
            self._connection, self._identity = connection, identity
            self._checked_at = time.monotonic()
        opening.set_result(connection)
        connection.outlive()

    def _connect(self, identity: tuple[int, int] | None) -> Connection:
        if identity is None and not self.in_memory:
            raise self._not_migrated("does not exist")
        arguments = {
            "timeout": self._timeout,
            "isolation_level": None,
            "uri": True,
            "cached_statements": 256,
        }
        return Connection(
            self.name, arguments, self._check, self._configure, in_memory=self.in_memory
        )

    def _check(self, connection: sqlite3.Connection) -> None:
        """Refuse what cannot work: an old SQLite, a file without our tables."""
        if sqlite3.sqlite_version_info < OLDEST_SQLITE:
            raise InvalidOption(
                f"channels-sqlite needs SQLite {'.'.join(map(str, OLDEST_SQLITE))} or newer; "
                f"this Python has {sqlite3.sqlite_version}."
            )
        wanted = {MESSAGE, MEMBERSHIP, SEQUENCE, *TRIGGERS}
        found = {name for (name,) in connection.execute("select name from sqlite_master")}
        if missing := sorted(wanted - found):
            raise self._not_migrated(f"lacks {', '.join(missing)}")

    def _not_migrated(self, why: str) -> NotMigrated:
        return NotMigrated(
            f"The database {self.path} {why}. Run: python manage.py migrate --database={self.alias}"
        )

    def _configure(self, connection: sqlite3.Connection) -> None:
        """Set up the writing connection.

        NORMAL never damages the file, and may lose the last commits when the power fails:
        messages that live for a minute are not worth an fsync each.
        """
        self._set_wal(connection)
        connection.execute("pragma synchronous = normal")
        connection.execute(f"pragma wal_autocheckpoint = {WAL_PAGES}")
        connection.execute(f"pragma journal_size_limit = {WAL_LIMIT}")
        if init_command := self._options.get("init_command"):
            connection.executescript(init_command)

    def _set_wal(self, connection: sqlite3.Connection) -> None:
        """WAL is a property of the file: it is set only where it is not set, for that takes a lock.

        SQLite does not wait for that lock. Another process may be the first to open the file too.
        """
        deadline = time.monotonic() + self._timeout
        while connection.execute("pragma journal_mode").fetchall() == [("delete",)]:
            try:
                connection.execute("pragma journal_mode = wal").fetchall()
            except sqlite3.OperationalError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.005)  # on a thread that does nothing else

    # Using

    async def ready(self) -> Connection:
        """Wait until the database can be used; raises what keeps it from being opened."""
        if time.monotonic() > self._checked_at + CHECK_FILE_EVERY:
            self.forget_replaced()
        connection = self._connection
        if connection is not None and connection.is_alive:
            return connection
        # Shielded: the others who wait for the same opening are not cancelled with us.
        return await asyncio.shield(asyncio.wrap_future(self.open()))

    async def run(
        self,
        function: Callable[[sqlite3.Connection], T],
        *,
        ring: bool = False,
        quick: bool = False,
    ) -> T:
        """The result of `function(connection)`.

        A cancelled caller gets its CancelledError only when the function has ended. `ring` tells
        other processes that something was committed. What is `quick` may run in place, on the
        event loop; all else runs on the writing connection's thread. sqlite3's errors come out
        translated.
        """
        work = self._ringing(function) if ring and not self.in_memory else function
        while True:
            connection = await self.ready()
            try:
                return await connection.run(work, quick=quick)
            except sqlite3.Error as error:
                raise translate(error, self.path) from error
            except ConnectionLost:
                continue

    def _ringing(
        self, function: Callable[[sqlite3.Connection], T]
    ) -> Callable[[sqlite3.Connection], T]:
        """`function`, and then a touch of the WAL file, on the same thread.

        SQLite writes the WAL before the commit can be seen, and touches nothing afterwards: who
        looks at that write may look too early. By path, because opening a file of the database, and
        closing it, would drop SQLite's POSIX locks.
        """
        wal = self.wal

        def ringing(connection: sqlite3.Connection) -> T:
            result = function(connection)
            with contextlib.suppress(FileNotFoundError):
                os.utime(wal)
            return result

        return ringing

    @property
    def reader(self) -> sqlite3.Connection | None:
        """The connection for short reads in place; None while the database is not open.

        Its busy timeout is 0 and it is shared by threads: hold no cursor.
        """
        return None if self._connection is None else self._connection.reader

    @contextlib.contextmanager
    def translated(self) -> Iterator[None]:
        """What SQLite raises while somebody reads in place, as an error of ours."""
        try:
            yield
        except sqlite3.Error as error:
            raise translate(error, self.path) from error

    def nudge(self) -> None:
        """Have this process's own receivers look; they need no file event."""
        here = asyncio.get_running_loop()
        for receiver in list(self.receivers):
            receiver.nudge(here)

    # Losing and closing

    def _identity_on_disk(self) -> tuple[int, int] | None:
        """What tells this file from another of its name."""
        if self.in_memory:
            return None
        try:
            status = os.stat(self.path)
        except FileNotFoundError:
            return None
        return status.st_dev, status.st_ino

    def forget_replaced(self) -> bool:
        """Whether the file was deleted or replaced; if so, the next use opens it anew."""
        self._checked_at = time.monotonic()
        if self._connection is None or self._identity == self._identity_on_disk():
            return False
        with self._lock:
            connection, self._connection, self._opening = self._connection, None, None
            self.generation += 1
        logger.warning("The database file %s was deleted or replaced; opening it anew.", self.path)
        if connection is not None:
            connection.abandon()
        return True

    async def close(self) -> None:
        """Close both connections; the next use opens them again."""
        with self._lock:
            connection, self._connection, self._opening = self._connection, None, None
        if connection is not None:
            await connection.close()


def is_in_memory(name: str) -> bool:
    """Whether NAME is a database without a file; Django's test runner makes such ones."""
    if name.startswith("file:"):
        return "mode=memory" in name or ":memory:" in name
    return name == ":memory:"


def file_path(name: str) -> str:
    """The file that NAME means, without symbolic links: the WAL stands beside it."""
    if name.startswith("file:"):
        name = unquote(urlsplit(name).path)
    return os.path.realpath(name)


# The process's databases, by file

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
