"""This process's way into one database file, whatever number of layers and event loops it has.

All of them share its connections: more writers in one process would only fight each other for
SQLite's lock.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import Future
from typing import Any, Protocol, TypeVar
from weakref import WeakSet

from django.apps import apps

from .complaints import Complaints
from .connection import Connection, ConnectionLost, Reader
from .exceptions import DatabaseUnavailable, InvalidOption, NotMigrated, translate
from .files import Files, file_path, is_in_memory
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
STALL = 1.0  # seconds
CHECK_FILE_EVERY = 1.0  # seconds; three calls of stat, while anything is written


class Nudged(Protocol):
    """Who wants to know when this process has committed a message."""

    def nudge(
        self, here: asyncio.AbstractEventLoop, inboxes: Collection[str] | None = None
    ) -> None:
        """Called on the running loop `here`."""


class Acknowledging(Protocol):
    """Who has read messages of which the table may not know yet."""

    def acknowledge_on(self, connection: sqlite3.Connection) -> None:
        """Called on the thread of a statement that is about to refuse a message."""


class Database:
    """One file; get it from `databases`."""

    def __init__(self, settings: dict[str, Any], alias: str) -> None:
        self.alias = alias
        self.name = str(settings["NAME"])
        self.in_memory = is_in_memory(self.name)
        self.path = self.name if self.in_memory else file_path(self.name)
        self.generation = 0
        """Rises when ids have begun anew: with each file that is found in the place of another, or
        when somebody has reset the count of a table.
        """
        self.ended = False
        """The interpreter ends: a loop that still runs on a daemon thread opens nothing."""
        self.receivers: WeakSet[Nudged] = WeakSet()
        self.inboxes: WeakSet[Acknowledging] = WeakSet()
        self._options = settings.get("OPTIONS") or {}
        self._timeout = float(self._options.get("timeout", 5))
        self._lock = threading.Lock()
        self._opening: Future[Connection] | None = None
        self._connection: Connection | None = None
        self._files = Files(self.path)
        self._complaints = Complaints()
        self._checked_at = 0.0
        self.troubled_at = float("-inf")
        """When a statement failed, or had to wait for longer than STALL, by the monotonic clock."""

    @property
    def wal(self) -> str:
        """The path of the write-ahead log."""
        return self._files.wal

    @property
    def target(self) -> str:
        """What SQLite is to open. A relative name is that of the directory in which the layer was
        made.
        """
        return self.name if self.name.startswith("file:") else self.path

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
        try:
            connection = self._connect()
        except Exception as error:
            with self._lock:
                self._opening = None  # so that the next one to ask tries again
            opening.set_exception(self._translated(error))
            return
        with self._lock:
            self._connection = connection
            self._checked_at = time.monotonic()
        self._complaints.withdraw("Opening")
        opening.set_result(connection)
        connection.outlive()

    def open_unasked(self, then: Callable[[], None]) -> None:
        """Open it for those who wait and ask for nothing, and call `then` on the opening's thread.

        Why it cannot be opened is logged, once: there is nobody to raise it at.
        """

        def opened(opening: Future[Connection]) -> None:
            if error := opening.exception():
                self._complaints.say("Opening", error)
            else:
                then()

        self.open().add_done_callback(opened)

    def _connect(self) -> Connection:
        if not self.in_memory:
            before = self._files.identity
            if not self._files.note_database():
                raise self._not_migrated("does not exist")
            if before is not None and self._files.identity != before:
                self.begin_anew()
        arguments = {
            "timeout": self._timeout,
            "isolation_level": None,
            "uri": True,
            "cached_statements": 256,
        }
        return Connection(
            self.target, arguments, self._check, self._configure, in_memory=self.in_memory
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
        """The tables are Django's to make, and are not made here, not even in place of a file that
        was deleted under us: Django keeps account of its migrations in the same file, and without
        that account `migrate` would fail on tables that are there already.
        """
        remedy = f"Run: python manage.py migrate --database={self.alias}"
        if apps.ready and not apps.is_installed("channels_sqlite"):  # migrate would make nothing
            remedy = f'Add "channels_sqlite" to INSTALLED_APPS. {remedy}'
        return NotMigrated(f"The database {self.path} {why}. {remedy}")

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
        if not self.in_memory:
            connection.execute("pragma user_version").fetchall()  # makes the log and its index
            self._files.note_log()

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
        aside: bool = False,
        since: float | None = None,
    ) -> T:
        """The result of `function(connection)`.

        A cancelled caller gets its CancelledError only when the function has ended. `ring` tells
        other processes that something was committed, unless the result is False. What is `quick`
        may run in place, on the event loop; all else runs on the writing connection's thread. What
        waits `aside` does not keep others waiting behind it. A lock of others is waited for until
        OPTIONS["timeout"] seconds after `since`, of the monotonic clock; by default that is now.
        sqlite3's errors come out translated.
        """
        since = time.monotonic() if since is None else since
        work = self._ringing(function) if ring and not self.in_memory else function
        while True:
            connection = await self.ready()
            try:
                return await connection.run(work, since, quick=quick, aside=aside)
            except sqlite3.Error as error:
                self.troubled_at = time.monotonic()
                raise translate(error, self.path) from error
            except ConnectionLost:
                continue
            finally:
                if (now := time.monotonic()) > since + STALL:
                    self.troubled_at = now

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
            if result is not False:
                # It has been written: who is not told by this looks at the next heartbeat.
                with contextlib.suppress(OSError):
                    os.utime(wal)
            return result

        return ringing

    @property
    def reader(self) -> Reader | None:
        """The connection for short reads in place; None while the database is not open.

        Its busy timeout is 0 and it is shared by threads: read while it is `in_use`, and hold no
        cursor.
        """
        connection = self._connection
        return connection.reader if connection is not None and connection.is_alive else None

    @contextlib.contextmanager
    def translated(self) -> Iterator[None]:
        """What SQLite raises while somebody reads in place, as an error of ours."""
        try:
            yield
        except sqlite3.Error as error:
            raise translate(error, self.path) from error

    def _translated(self, error: Exception) -> Exception:
        if isinstance(error, sqlite3.Error):
            return translate(error, self.path)
        if isinstance(error, OSError):
            return DatabaseUnavailable(f"{self.path}: {error}.")
        return error

    def nudge(self, inboxes: Collection[str] | None = None) -> None:
        """Have this process's own receivers look, at `inboxes` or at all that is theirs; they need
        no file event.
        """
        here = asyncio.get_running_loop()
        for receiver in list(self.receivers):
            receiver.nudge(here, inboxes)

    def acknowledge(self, connection: sqlite3.Connection) -> None:
        """Tell the table all that this process has read."""
        for each in list(self.inboxes):
            each.acknowledge_on(connection)

    # Losing and closing

    def forget_replaced(self) -> bool:
        """Whether the file, or its log, was deleted or replaced; if so, the next use opens it
        anew.
        """
        self._checked_at = time.monotonic()
        replaced = [] if self._connection is None else self._files.replaced()
        if not replaced or self.reader is None:  # SQLite deletes them when a dead one is closed
            return False
        if self._files.only_index(replaced):
            logger.warning(
                "%s was deleted or replaced: processes that open the database from now on will"
                " damage it. Stop all that use it, and start them again.",
                replaced[0],
            )
            return False
        with self._lock:
            connection, self._connection, self._opening = self._connection, None, None
        self._files.identity = None  # whatever comes next is a new one
        self.begin_anew()
        logger.warning(
            "%s was deleted or replaced; opening the database anew. What it held of messages and"
            " of memberships of groups is gone.",
            ", ".join(replaced),
        )
        self._files.forget_index(replaced)
        if connection is not None:
            connection.abandon()
        return True

    def begin_anew(self) -> None:
        """Ids have begun anew."""
        with self._lock:
            self.generation += 1

    async def close(self) -> None:
        """Close both connections; the next use opens them again."""
        with self._lock:
            connection, self._connection, self._opening = self._connection, None, None
        if connection is not None:
            await connection.close()
