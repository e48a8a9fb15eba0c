"""One process's way into one database: a writing connection on a thread, and a reading one at hand.

Every statement that writes is a function run on aiosqlite's thread, in one hand-over, whatever
number of event loops the process has: a second writer in one process would only fight the first for
SQLite's lock, and a hand-over costs about 75 us, more than the statement. What only looks uses
`reader`, in place: 10 us.

A connection outlives event loops. It does not outlive a fork, nor the file it was opened on.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import logging
import os
import sqlite3
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Protocol, TypeVar, cast
from urllib.parse import unquote, urlsplit
from weakref import WeakSet

import aiosqlite

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


class Call:
    """A function to run on the connection's thread, who waits for it, and what became of it."""

    __slots__ = ("done", "function", "lost", "result", "task")

    def __init__(self, function: Callable[[sqlite3.Connection], Any]) -> None:
        self.function = function
        self.task = asyncio.current_task()
        self.result: Any = None
        self.done = False
        self.lost = False

    def fetchall(self) -> Any:
        """aiosqlite asks what `execute` returned for its rows."""
        return self.result


class _Writer(sqlite3.Connection):
    """What aiosqlite drives: its `execute` also takes a `Call`.

    aiosqlite has no public way to run a function on its thread, and a transaction of several awaits
    costs a hand-over each, with the write lock held in between. The connection's class is ours to
    choose.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.thread = threading.current_thread()

    def execute(self, sql: Any, parameters: Any = ()) -> Any:
        if not isinstance(sql, Call):
            return super().execute(sql, parameters)
        sql.result = sql.function(self)
        sql.done = True
        return sql


class _Open:
    """What is open at one time; replaced as a whole, when the thread dies or the file is
    replaced.
    """

    def __init__(self, database: Database) -> None:
        self.identity = database.identity_on_disk()
        if self.identity is None and not database.in_memory:
            raise database.not_migrated("does not exist")
        self.calls: set[Call] = set()
        self.closed = False
        self.reader = database.connect(check_same_thread=False)
        try:
            database.prepare(self.reader)
            self.reader.execute("pragma busy_timeout = 0")
            self.reader.execute("pragma query_only = on")
            # Only shared-cache databases in memory have table locks; there a look must not meet
            # them.
            self.reader.execute("pragma read_uncommitted = on")
            self.connection = asyncio.run(self._connect(database))
        except BaseException:
            self.reader.close()
            raise

    async def _connect(self, database: Database) -> aiosqlite.Connection:
        writer = await aiosqlite.connect(database.name, factory=_Writer, **database.arguments)
        thread: threading.Thread = await self._ask(writer, lambda raw: cast(_Writer, raw).thread)
        self.thread = thread
        await self._ask(writer, database.configure)
        return writer

    async def _ask(
        self, connection: aiosqlite.Connection, function: Callable[[sqlite3.Connection], T]
    ) -> T:
        call = Call(function)
        await connection.execute_fetchall(cast(str, call))
        return cast(T, call.result)

    async def run(self, call: Call) -> None:
        """Run it; a cancelled await waits for it all the same, for it cannot be taken back."""
        self.calls.add(call)
        try:
            await self.connection.execute_fetchall(cast(str, call))
        except asyncio.CancelledError:
            await self._settle(call)
            raise
        finally:
            self.calls.discard(call)

    async def _settle(self, call: Call) -> None:
        """aiosqlite works its calls off in order: a call behind the one in flight has waited for
        it.
        """
        while not (call.done or call.lost):
            with contextlib.suppress(asyncio.CancelledError):
                await self.connection.execute_fetchall("select 1")
                call.done = True

    def lose_calls(self) -> None:
        """Tell those who wait for a thread that has died.

        It dies when it reports to an event loop that was closed with a call in flight; what other
        loops had queued behind that call was not run, and is not going to be.
        """
        for call in list(self.calls):
            call.lost = True
            if call.task is not None:
                with contextlib.suppress(RuntimeError):  # the closed loop's own
                    call.task.get_loop().call_soon_threadsafe(call.task.cancel)

    def abandon(self) -> None:
        """Let the thread end what it was asked for, and then itself; the file is no longer ours."""
        self.closed = True
        self.reader.close()
        self.connection.stop()

    async def close(self) -> None:
        self.closed = True
        self.reader.close()
        if self.thread.is_alive():
            await self.connection.close()


class Database:
    """The process's connections to one SQLite file; get it from `database_for`."""

    def __init__(self, settings: dict[str, Any], alias: str) -> None:
        self.alias = alias
        self.name = str(settings["NAME"])
        options = settings.get("OPTIONS") or {}
        self.timeout = float(options.get("timeout", 5))
        self.init_command = str(options.get("init_command") or "")
        self.arguments: dict[str, Any] = {
            "timeout": self.timeout,
            "isolation_level": None,
            "uri": True,
            "cached_statements": 256,
        }
        self.in_memory = is_in_memory(self.name)
        self.path = self.name if self.in_memory else file_path(self.name)
        self.generation = 0
        self.receivers: WeakSet[Nudged] = WeakSet()
        self._checked_at = time.monotonic()
        self._lock = threading.Lock()
        self._opening: Future[_Open] | None = None

    # Opening

    def connect(self, **arguments: Any) -> sqlite3.Connection:
        """A plain connection with Django's NAME and our arguments."""
        connection: sqlite3.Connection = sqlite3.connect(self.name, **(self.arguments | arguments))
        return connection

    def prepare(self, connection: sqlite3.Connection) -> None:
        """Refuse what cannot work: an old SQLite, a file without our tables."""
        if sqlite3.sqlite_version_info < OLDEST_SQLITE:
            raise InvalidOption(
                f"channels-sqlite needs SQLite {'.'.join(map(str, OLDEST_SQLITE))} or newer; "
                f"this Python has {sqlite3.sqlite_version}."
            )
        wanted = {MESSAGE, MEMBERSHIP, SEQUENCE, *TRIGGERS}
        found = {name for (name,) in connection.execute("select name from sqlite_master")}
        if missing := sorted(wanted - found):
            raise self.not_migrated(f"lacks {', '.join(missing)}")

    def not_migrated(self, why: str) -> NotMigrated:
        """The error for a database that is not as the migrations make it."""
        return NotMigrated(
            f"The database {self.path} {why}. Run: python manage.py migrate --database={self.alias}"
        )

    def configure(self, connection: sqlite3.Connection) -> None:
        """Set up the writing connection; runs on its thread.

        WAL is a property of the file and setting it takes a lock, so it is set only where it is not
        set. NORMAL never damages the file, and may lose the last commits when the power fails:
        messages that live for a minute are not worth an fsync each.
        """
        if connection.execute("pragma journal_mode").fetchone() == ("delete",):
            connection.execute("pragma journal_mode = wal")
        connection.execute("pragma synchronous = normal")
        connection.execute(f"pragma wal_autocheckpoint = {WAL_PAGES}")
        connection.execute(f"pragma journal_size_limit = {WAL_LIMIT}")
        if self.init_command:
            connection.executescript(self.init_command)

    def open(self) -> Future[_Open]:
        """Begin to open, once, whoever asks and however many; done when it can be used."""
        with self._lock:
            opening = self._opening
            if opening is not None and _is_dead(opening):
                opening.result().lose_calls()
                opening = None
            if opening is None or _has_failed(opening):
                opening = self._opening = Future()
                # aiosqlite's thread is as daemonic as the thread that makes it. A thread that is
                # not would keep the interpreter from exiting, because nobody closes a channel
                # layer.
                threading.Thread(
                    target=self._open, args=(opening,), name="channels-sqlite-open", daemon=True
                ).start()
            return opening

    def _open(self, opening: Future[_Open]) -> None:
        try:
            opened = _Open(self)
        except sqlite3.Error as error:
            opening.set_exception(translate(error, self.path))
        except BaseException as error:
            opening.set_exception(error)
        else:
            opening.set_result(opened)

    async def opened(self) -> None:
        """Wait until the database can be used; raises what keeps it from being opened."""
        await self._current()

    async def _current(self) -> _Open:
        if time.monotonic() > self._checked_at + CHECK_FILE_EVERY:
            self.forget_replaced()
        opening = self._opening
        if opening is None or not opening.done() or _has_failed(opening) or _is_dead(opening):
            opening = self.open()
            # Shielded: the others who wait for the same opening are not cancelled with us.
            return await asyncio.shield(asyncio.wrap_future(opening))
        return opening.result()

    # Using

    async def run(self, function: Callable[[sqlite3.Connection], T], *, ring: bool = False) -> T:
        """The result of `function(connection)`, run on the writing connection's thread.

        A cancelled caller gets its CancelledError only when the function has ended. `ring` tells
        other processes that something was committed. sqlite3's errors come out translated.
        """
        call = Call(self._ringing(function) if ring else function)
        current = await self._current()
        try:
            await current.run(call)
        except sqlite3.Error as error:
            raise translate(error, self.path) from error
        except asyncio.CancelledError:
            if not call.lost:
                raise
            _uncancel()
            return await self.run(function, ring=ring)
        except ValueError:
            if not current.closed:
                raise
            return await self.run(function, ring=ring)
        return cast(T, call.result)

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

        return function if self.in_memory else ringing

    @property
    def reader(self) -> sqlite3.Connection | None:
        """The connection for short reads in place; None while the database is not open.

        Its busy timeout is 0 and it is shared by threads: fetch all rows at once, hold no cursor.
        """
        opening = self._opening
        if opening is None or not opening.done() or opening.exception() is not None:
            return None
        return opening.result().reader

    def nudge(self) -> None:
        """Tell this process's own receivers that something was committed; no file event is needed
        for that.
        """
        here = asyncio.get_running_loop()
        for receiver in list(self.receivers):
            receiver.nudge(here)

    @property
    def wal(self) -> str:
        """The path of the write-ahead log."""
        return f"{self.path}-wal"

    # Losing and closing

    def identity_on_disk(self) -> tuple[int, int] | None:
        """What tells this file from another of its name."""
        if self.in_memory:
            return None
        try:
            status = os.stat(self.path)
        except FileNotFoundError:
            return None
        return status.st_dev, status.st_ino

    def forget_replaced(self) -> bool:
        """Whether the file was deleted or replaced since it was opened; if so, the next use opens
        it anew.

        Ids begin anew in a new file, so `generation` rises and cursors into the old one end.
        """
        self._checked_at = time.monotonic()
        opening = self._opening
        if opening is None or not opening.done() or opening.exception() is not None:
            return False
        opened = opening.result()
        if opened.identity == self.identity_on_disk():
            return False
        with self._lock:
            if self._opening is not opening:
                return False
            self._opening = None
            self.generation += 1
        logger.warning("The database file %s was deleted or replaced; opening it anew.", self.path)
        opened.abandon()
        return True

    async def close(self) -> None:
        """Close both connections; the next use opens them again."""
        with self._lock:
            opening, self._opening = self._opening, None
        if opening is not None and opening.done() and opening.exception() is None:
            await opening.result().close()


def _has_failed(opening: Future[_Open]) -> bool:
    return opening.done() and opening.exception() is not None


def _is_dead(opening: Future[_Open]) -> bool:
    if not opening.done() or opening.exception() is not None:
        return False
    return not opening.result().thread.is_alive()


def _uncancel() -> None:
    """Take back the cancellation that `lose_calls` used; Python 3.10 does not count them."""
    task = asyncio.current_task()
    if task is not None and sys.version_info >= (3, 11):
        task.uncancel()


def is_in_memory(name: str) -> bool:
    """Whether NAME is a database without a file; Django's test runner makes such ones."""
    return name == ":memory:" or (
        name.startswith("file:") and ("mode=memory" in name or ":memory:" in name)
    )


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

    async def close() -> None:
        closing = asyncio.gather(*(each.close() for each in open_ones), return_exceptions=True)
        await asyncio.wait_for(closing, CLOSE_AT_EXIT)

    if open_ones:
        with contextlib.suppress(asyncio.TimeoutError):
            asyncio.run(close())


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_inherited)
atexit.register(_close_at_exit)
