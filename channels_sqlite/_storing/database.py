"""This process's way into one database. All layers and event loops share its connections: more
writers in one process would only fight each other for SQLite's lock.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

from .._options import times
from ..exceptions import DatabaseUnavailable, translate
from . import forks
from .connections import Connections
from .files import Files
from .handle import Busy, Function, Lost, T, pause, read_once, try_until
from .once import Once
from .opener import Opener
from .private import HELD_BY_A_TEST, is_in_a_tests_transaction
from .readers import LocalReader
from .weak import Weak
from .worker import NoThread, Worker

logger = logging.getLogger("channels_sqlite")

CLOSED_AT_MOST = 10  # times, during one job, by forks for example


class Database:
    """One database; get it from `registry`."""

    def __init__(self, alias: str, name: str, options: dict[str, Any]) -> None:
        self.alias = alias
        self.files = Files(name)
        self.in_memory = self.files.in_memory
        self.timeout = float(options.get("timeout", 5))
        self.readers: Weak[LocalReader] = Weak(key=lambda reader: reader.client)
        self.is_ending = False  # the interpreter
        self.once = Once()
        self.when_opened: Callable[[Connections], None] = lambda _: None
        """Called on the thread, each time that it was opened: sweeps up after dead readers. Each
        trimmer puts its own here, and any of them will do."""
        self.swept_at = time.monotonic()
        """When one of them last swept, by the monotonic clock."""
        self._worker, self._second = Worker(self.once), Worker(self.once)
        self._opener = Opener(alias, self.files, options, self._worker)
        self._lock = threading.Lock()
        self._connections: Connections | None = None
        self._check_at = 0.0

    @property
    def path(self) -> str:
        return self.files.path

    @property
    def connections(self) -> Connections | None:
        """The connections, if they are open; others than before once it was opened again."""
        connections = self._connections
        return None if connections is None or connections.closed else connections

    # Using it

    async def write(
        self,
        function: Function[T],
        *,
        then: Callable[[T], object] = lambda _: None,
        since: float | None = None,
        waits: bool = True,
        long: bool = False,
    ) -> T:
        """The result of a short transaction, made in place; of a long one, on the thread.

        `then` is called with the result as soon as it is committed, even if the caller has gone by
        then. A lock of others is waited for as long as OPTIONS["timeout"] says, counted from
        `since`, of the monotonic clock and by default now; or not at all.
        """
        since = time.monotonic() if since is None else since
        if long or (self._connections is not None and self._connections.is_slow):
            until = since + self.timeout * waits
            is_awaited = True

            def unless_cancelled(connection: sqlite3.Connection) -> T:
                if not is_awaited:  # it was cancelled while it waited for a lock
                    raise asyncio.CancelledError
                return function(connection)

            def write(connections: Connections) -> T:
                result = connections.write_on_thread(unless_cancelled, until)
                then(result)
                return result

            try:
                return await self.run_on_thread(write)
            finally:
                is_awaited = False
        use = partial(self.try_write, function)
        result = await self.in_place(use, since=since, waits=waits)
        then(result)
        return result

    async def read(self, function: Function[T]) -> T:
        return await self.in_place(partial(self.try_read, function))

    async def in_place(
        self, use: Callable[[], T], *, since: float | None = None, waits: bool = True
    ) -> T:
        """The result of a short use of the connections; a lock of others is waited for, as `write`
        does.
        """
        since = time.monotonic() if since is None else since
        until = since + self.timeout * waits
        while True:
            if self._connections is None or time.monotonic() >= self._check_at:
                await self.ready()
            try:
                return use()
            except Lost:  # they were closed
                await self.ready()
            except Busy as error:
                if self._waits_in_vain(since):
                    words = f"{self.path}: {error.__cause__}. {HELD_BY_A_TEST}"
                    raise DatabaseUnavailable(words) from error.__cause__
                if time.monotonic() >= until:
                    raise translate(error.__cause__, self.path) from error.__cause__
                await asyncio.sleep(pause(since))

    async def run_on_thread(
        self, job: Callable[[Connections], T], worker: Worker | None = None
    ) -> T:
        """The result of a job on the thread, of any number of transactions; it waits for locks
        itself. It is begun again if the database was closed meanwhile.
        """
        for _ in range(CLOSED_AT_MOST):
            connections = await self.ready()
            try:
                return await (worker or self._worker).run(partial(job, connections))
            except Lost:
                continue
            except Busy as error:
                raise translate(error.__cause__, self.path) from error.__cause__
            except (sqlite3.Error, NoThread) as error:
                raise translate(error, self.path) from error
        raise DatabaseUnavailable(f"{self.path} was closed again and again.")

    def _waits_in_vain(self, since: float) -> bool:
        """Return True if a lock was waited for long enough, because a test of ours holds it."""
        waited = time.monotonic() - since
        return waited > times.TIMES.test_lock and is_in_a_tests_transaction(self.alias)

    def try_write(self, function: Function[T]) -> T:
        """The result of a short transaction, now. Raises Busy, Lost, or DatabaseUnavailable."""
        if (connections := self._connections) is None:
            raise Lost
        return connections.try_write(function)

    def try_read(self, function: Function[T]) -> T:
        """The result of a short read, now. Raises Busy, Lost, or DatabaseUnavailable."""
        if (connections := self._connections) is None:
            raise Lost
        return connections.try_read(function)

    async def run_beside(self, job: Callable[[Connections], T]) -> T:
        """The result of a job that may take long, on the second thread."""
        return await self.run_on_thread(job, worker=self._second)

    def post_beside(self, topic: str, job: Callable[[Connections], object]) -> bool:
        """Run a job on the second thread, for which nobody waits, if the database is open, and no
        other one of this topic waits or runs; return True if so.
        """
        connections = self.connections
        return connections is not None and self._second.post(
            topic, lambda: job(connections), alone=True
        )

    async def read_on_own_thread(self, function: Function[T]) -> T:
        """The result of a long read, on a connection and a thread of its own, so that nothing waits
        for it.
        """
        self._check_at = 0.0  # it opens what has the name now
        reader = Worker(self.once)
        try:
            return await self.run_on_thread(
                lambda _: read_once(self.files, function), worker=reader
            )
        finally:
            reader.stop()

    # Opening

    async def ready(self) -> Connections:
        """The connections, opened if need be; raises what keeps the database from being opened.

        Once a second it looks whether that file is there.
        """
        replaced = time.monotonic() >= self._check_at and self.notice_replaced()
        if not replaced and (connections := self.connections) is not None:
            return connections
        until = time.monotonic() + self.timeout
        try:
            return await self._worker.run(lambda: self._open(until), always=True)
        except NoThread as error:
            raise translate(error, self.path) from error

    def open_for_readers(self) -> None:
        """Begin to open it, for its readers: they are told, and what goes wrong is logged."""
        if not self.is_ending:  # those on daemon threads go on
            self._worker.post("Opening", self._open_if_listened_to, alone=True)

    def _open_if_listened_to(self) -> None:
        if self._is_listened_to():
            self._open(time.monotonic() + self.timeout)
        # Its layers may have been closed meanwhile, one of them before it was open.
        if not self._is_listened_to():
            if (connections := self._take_connections()) is not None:
                connections.close()
            self._stop_threads()  # this one, too

    def _is_listened_to(self) -> bool:
        return any(reader.listens for reader in self.readers)

    def _open(self, until: float) -> Connections:
        """On the thread; whoever asked first has opened it, perhaps."""
        try:
            return try_until(self._open_unless_open, until)
        except Busy as error:
            raise translate(error.__cause__, self.path) from error.__cause__
        except (sqlite3.Error, OSError) as error:
            raise translate(error, self.path) from error

    def _open_unless_open(self) -> Connections:
        with forks.no_fork():
            if (connections := self.connections) is not None:
                return connections
            connections = self._opener.open()
            before, self._connections = self._connections, connections
            self._check_at = time.monotonic() + times.TIMES.check
        if before is not None:  # a fork may have closed one of the two
            self._worker.post("Closing", before.close)
        self.once.well("Opening")
        for reader in self.readers:
            reader.on_opened()
        self._second.post("Forgetting dead readers", lambda: self.when_opened(connections))
        return connections

    # Closing

    def notice_replaced(self) -> bool:
        """Return True if the file, or its log, was deleted or replaced; the next use opens it
        again.
        """
        self._check_at = time.monotonic() + times.TIMES.check
        connections = self.connections
        if connections is None:
            return False
        replaced = self.files.replaced()
        # If it was closed meanwhile, the log is gone with it.
        if not replaced or self.connections is not connections:
            return False
        if self.files.accept_index(replaced):
            logger.warning(
                "%s was deleted or replaced: processes that open the database from now on will"
                " damage it. Stop all that use it, and start them again.",
                replaced[0],
            )
            return False
        with self._lock:
            if self._connections is not connections:  # another loop was first
                return True
            self._connections = None
        self._worker.post("Closing", lambda: self._close_replaced(connections))
        logger.warning(  # last: a log handler may raise
            "%s was deleted or replaced; opening the database again. Messages and memberships that"
            " only the old one holds are gone.",
            ", ".join(replaced),
        )
        return True

    def _close_replaced(self, connections: Connections) -> None:
        replaced = self.files.replaced()
        with forks.no_fork(), self.files.opening_lock(times.TIMES.close) as alone:
            connections.close()
            if alone:
                with suppress(OSError):
                    self.files.forget_index(replaced)

    async def close(self) -> None:
        """Close the connections; the next use opens them again."""
        try:
            if (connections := self._take_connections()) is not None:
                with suppress(NoThread):  # they are closed with the process
                    await self._worker.run(connections.close, always=True)
        finally:
            self._stop_threads()

    def _take_connections(self) -> Connections | None:
        with self._lock:
            connections, self._connections = self._connections, None
        return connections

    def close_unless_used(self) -> None:
        """Close it on the thread if no layer has it any more; the next use opens it again."""
        if any(self.readers):
            return
        if (connections := self._take_connections()) is not None:
            self._worker.post("Closing", connections.close)
        self._stop_threads()

    def _stop_threads(self) -> None:
        self._worker.stop()
        self._second.stop()

    def close_at_exit(self) -> None:
        """Close what nobody has closed, so that the last one out removes the log."""
        self.is_ending = self.once.silent = True
        if self.connections is None and any(reader.has_bell for reader in self.readers):
            with suppress(Exception), forks.no_fork():  # others then find that the reader is gone
                self._connections = self._opener.open()
        for reader in self.readers:
            reader.depart()
        connections, self._connections = self._connections, None
        self.files.remove_what_is_left()
        if connections is not None:
            connections.close()
        self._opener.close()
