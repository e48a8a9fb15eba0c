"""Process-local inboxes, each with this one reader: read by a cursor, acknowledged in batches.

A reader that wrote to read would wake every other process for each message.
"""

from __future__ import annotations

import asyncio
import sqlite3
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import closing
from functools import partial

from . import store
from .consumers import Consumers, Loop
from .counters import Counters
from .database import Database
from .messages import Item
from .tasks import Task, Tasks, is_running

ACKNOWLEDGE_AFTER = 0.05  # seconds
READ_FOR = 0.002  # seconds that one look may hold the event loop, and then the row at hand
OVERDUE = 1.0  # seconds
PATIENCE = 0.01  # seconds; five looks


class Inbox:
    """How far an inbox was read, and how much of that the table does not know yet."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.begin_anew()

    def begin_anew(self) -> None:
        """The file was replaced, ids restart."""
        self.cursor = 0
        self.acknowledged = 0
        self.unacknowledged = 0
        self.taken_at = 0.0
        self.timer: asyncio.TimerHandle | None = None
        self.acknowledgement: Task | None = None


class Inboxes:
    """The inboxes of one receiver, which calls the methods on an event loop, under its lock."""

    def __init__(
        self,
        database: Database,
        consumers: Consumers,
        tasks: Tasks,
        counters: Counters,
        capacity_of: Callable[[str], int],
        lock: threading.RLock,
        *,
        keep_delivered: bool,
    ) -> None:
        self._database = database
        self._consumers = consumers
        self._tasks = tasks
        self._counters = counters
        self._capacity_of = capacity_of
        self._lock = lock
        self._keep = keep_delivered
        self._inboxes: dict[str, Inbox] = {}
        self._generation = database.generation
        database.inboxes.add(self)

    def __contains__(self, name: str) -> bool:
        return name in self._inboxes

    @property
    def names(self) -> Collection[str]:
        """The inboxes that are read."""
        return self._inboxes

    def add(self, name: str) -> None:
        """Read this inbox from now on; all of it, for its name is as new as its first message."""
        self._inboxes.setdefault(name, Inbox(name))

    def begin_anew(self) -> None:
        """The file was replaced."""
        self._generation = self._database.generation
        for inbox in self._inboxes.values():
            inbox.begin_anew()

    # Reading

    def were_reset(self, reader: sqlite3.Connection) -> bool:
        """Whether ids have begun anew in the same file: there is none as high as one was read."""
        newest = store.newest(reader)
        return newest is not None and any(inbox.cursor > newest for inbox in self._inboxes.values())

    def moved(self, sequences: Mapping[str, int]) -> list[str]:
        """Those in which something may be new."""
        return [
            inbox.name
            for inbox in self._inboxes.values()
            if sequences.get(inbox.name, 0) > inbox.cursor
        ]

    def read(self, reader: sqlite3.Connection, names: Iterable[str]) -> bool:
        """Deliver what has come to these inboxes, those among them that are read here; whether
        anything has.
        """
        found = False
        for name in names:
            if inbox := self._inboxes.get(name):
                found |= self._read(reader, inbox)
        return found

    def _read(self, reader: sqlite3.Connection, inbox: Inbox) -> bool:
        loop = asyncio.get_running_loop()
        now, started = time.time(), time.monotonic()
        before = inbox.cursor
        with closing(store.arrivals(reader, inbox.name, inbox.cursor)) as rows:
            for row, channels in rows:
                inbox.cursor = row.id
                remaining = row.remaining(now)
                # The earliest time, for the clock may have been set back.
                inbox.taken_at = min(inbox.taken_at, now) if inbox.unacknowledged else now
                if row.expires_at > now:
                    # To the table it waits. One of others, that expired before it was created,
                    # would take up room for ever.
                    inbox.unacknowledged += 1
                if remaining <= 0:
                    self._counters.expired += len(channels)
                    continue
                item = Item(row, started + remaining)
                self._consumers.deliver(channels, item, loop)
                if time.monotonic() - started > READ_FOR:
                    # There may be more: others on the loop have their turn first.
                    loop.call_soon(self._database.nudge)
                    break
        if inbox.cursor == before:
            return False
        if inbox.unacknowledged:
            self._acknowledge_soon(inbox, loop)
        return True

    # Acknowledging

    def acknowledge_all(self) -> None:
        """Tell the table all that was taken."""
        for inbox in self._inboxes.values():
            self._acknowledge(inbox)

    def acknowledge_on(self, connection: sqlite3.Connection) -> None:
        """Tell the table, on any thread, in a transaction of somebody else, if the lock can be had
        at once or so: who holds it may wait for that somebody. Should it fail, nothing is lost: the
        table is told again, when that has its own turn.
        """
        if not self._lock.acquire(timeout=PATIENCE):
            return
        try:
            if self._generation != self._database.generation:
                return
            for inbox in self._inboxes.values():
                if inbox.acknowledged < inbox.cursor:
                    self._tell(connection, inbox, inbox.taken_at, inbox.cursor)
        finally:
            self._lock.release()

    def acknowledge_overdue(self) -> None:
        """Tell it what an event loop that has ended has left."""
        loop = asyncio.get_running_loop()
        for inbox in self._inboxes.values():
            if inbox.unacknowledged:
                self._acknowledge_soon(inbox, loop)

    def _acknowledge_soon(self, inbox: Inbox, loop: Loop) -> None:
        """In a batch, but before so many are outstanding that a sender would see a full inbox."""
        if inbox.unacknowledged * 4 >= self._capacity_of(inbox.name):
            self._acknowledge(inbox)
        elif inbox.timer is None or inbox.timer.when() < loop.time() - OVERDUE:
            # One that is overdue was set on a loop that has stopped.
            inbox.timer = loop.call_later(ACKNOWLEDGE_AFTER, self._acknowledge, inbox)

    def _acknowledge(self, inbox: Inbox) -> None:
        inbox.timer = None
        if inbox.unacknowledged and not is_running(inbox.acknowledgement):
            inbox.acknowledgement = self._tasks.spawn(partial(self._write, inbox))

    async def _write(self, inbox: Inbox) -> None:
        count, inbox.unacknowledged = inbox.unacknowledged, 0
        generation, taken_at, upto = self._generation, inbox.taken_at, inbox.cursor

        def acknowledge(connection: sqlite3.Connection) -> None:
            if generation == self._database.generation:  # else these ids are those of others by now
                self._tell(connection, inbox, taken_at, upto)

        try:
            await self._database.run(acknowledge, quick=True, aside=True)
        except BaseException:
            if generation == self._generation:
                inbox.unacknowledged += count
                inbox.taken_at = min(inbox.taken_at, taken_at)
            raise
        if generation == self._generation:
            inbox.acknowledged = upto
        inbox.acknowledgement = None
        if inbox.unacknowledged:
            self._acknowledge_soon(inbox, asyncio.get_running_loop())

    def _tell(
        self, connection: sqlite3.Connection, inbox: Inbox, taken_at: float, upto: int
    ) -> None:
        store.acknowledge(
            connection,
            inbox.name,
            after=inbox.acknowledged,
            upto=upto,
            taken_at=taken_at,
            now=time.time(),
            keep=self._keep,
        )
