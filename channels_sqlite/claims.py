"""Normal channels, whose readers compete: messages are claimed, one statement for as many consumers
as wait.

A claim is tried only when the channel's sequence has moved, for it takes the write lock. What was
claimed for a consumer that is gone when it arrives goes back to the table, for another process to
take.
"""

from __future__ import annotations

import asyncio
import sqlite3
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

from . import store
from .buffers import Buffers
from .conf import Options
from .connection import Database
from .messages import Item, Row
from .tasks import Task, Tasks, is_running
from .waiters import Waiters


@dataclass
class Shared:
    """A normal channel that a consumer of this process has waited for."""

    name: str
    seen: int | None = None
    due: bool = True
    """Whether something may wait to be claimed."""
    claim: Task | None = None


class Claims:
    """The normal channels of one receiver, which lends its lock, buffers and waiters.

    The lock is held by the caller of every method that does not await.
    """

    def __init__(
        self,
        database: Database,
        options: Options,
        lock: threading.Lock,
        buffers: Buffers,
        waiters: Waiters,
        tasks: Tasks,
    ) -> None:
        self._database = database
        self._keep = options.message_retention > 0
        self._lock = lock
        self._buffers = buffers
        self._waiters = waiters
        self._tasks = tasks
        self.channels: dict[str, Shared] = {}

    def want(self, channel: str) -> None:
        """A consumer has begun to wait."""
        shared = self.channels.get(channel)
        if shared is None:
            shared = self.channels[channel] = Shared(channel)
        self._start(shared)

    def heed(self, sequences: Mapping[str, int], reader: sqlite3.Connection | None) -> bool:
        """Note what has moved; whether any consumer waits for it. With `reader`, do not trust
        sequences.
        """
        found = False
        for shared in self.channels.values():
            sequence = sequences.get(shared.name)
            moved = sequence is not None and sequence != shared.seen
            shared.seen = sequence
            waited_for = shared.name in self._waiters
            if not moved and waited_for and reader is not None and not is_running(shared.claim):
                moved = store.has_waiting(reader, shared.name, time.time())
            shared.due |= moved
            found |= moved and waited_for
        return found

    def start_due(self) -> None:
        """Claim what may be there for consumers that wait."""
        for shared in self.channels.values():
            self._start(shared)

    def begin_anew(self) -> None:
        """The file was replaced."""
        for shared in self.channels.values():
            shared.seen, shared.due = None, True

    def _start(self, shared: Shared) -> None:
        if shared.due and shared.name in self._waiters and not is_running(shared.claim):
            shared.claim = self._tasks.spawn(self._claim(shared))

    async def _claim(self, shared: Shared) -> None:
        """Claim until there is nothing more, or nobody who waits."""
        while wanted := self._wanted(shared):
            await self._claim_once(shared, wanted)

    def _wanted(self, shared: Shared) -> int:
        with self._lock:
            wanted = self._waiters.count(shared.name) - self._buffers.count(shared.name)
            if not shared.due or wanted <= 0:
                # Under the lock: who joins after this look at the waiters starts a claim of its
                # own.
                shared.claim = None
                return 0
            shared.due = False
            return wanted

    async def _claim_once(self, shared: Shared, wanted: int) -> None:
        rows: list[Row] = []

        def claim(connection: sqlite3.Connection) -> None:
            rows.extend(store.claim(connection, shared.name, wanted, time.time(), self._keep))

        try:
            await self._database.run(claim)
        except BaseException:
            shared.due = True
            raise
        finally:
            # Also when the loop is being closed and this task cancelled: the rows are ours by now.
            self._arrive(shared, rows, len(rows) == wanted)
            await self.give_back_surplus(shared.name)

    def _arrive(self, shared: Shared, rows: list[Row], more: bool) -> None:
        now, monotonic = time.time(), time.monotonic()
        loop = asyncio.get_running_loop()
        with self._lock:
            shared.due |= more
            for row in rows:
                self._buffers.put(shared.name, Item(row, monotonic + row.remaining(now)))
                self._waiters.tell(shared.name, loop)

    async def give_back_surplus(self, channel: str) -> None:
        """Put back what was claimed for consumers that are gone."""
        with self._lock:
            surplus = self._buffers.count(channel) - self._waiters.count(channel)
            rows = (
                [item.row for item in self._buffers.take_newest(channel, surplus)]
                if surplus > 0
                else []
            )
        if rows:
            await self._database.run(partial(store.give_back, rows=rows))
            self._database.nudge()
