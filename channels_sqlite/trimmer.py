"""Keeps the tables small, at the pace at which this process writes."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

from . import store
from .conf import Options
from .database import Database
from .tasks import Task, Tasks, is_running

EXPIRED_EVERY = 1.0  # seconds, while anything is written; it reads the index of all that waits
SEQUENCES_EVERY = 60.0  # seconds; it reads the whole table of sequences
OVERDUE = 10  # batches
STALLED_FOR = 2.0  # seconds after a lock, in which a reader's next heartbeat acknowledges


class Trimmer:
    """Trims after every `trim_batch_size` messages and every second of writing.

    As a task beside the senders, in batches, so that none of them waits long for the lock.
    """

    def __init__(self, database: Database, options: Options) -> None:
        self._database = database
        self._options = options
        self._written = 0
        self._clocks_apart = _clocks_apart()
        self._expired_at = time.monotonic()
        self._sequences_at = time.monotonic()
        self._task: Task | None = None
        self._tasks = Tasks()

    async def wrote(self, count: int) -> None:
        """This process has written `count` messages.

        A loop that ends with the send, as that of async_to_sync does, leaves a task no time: when
        trimming is overdue, the writer waits for it.
        """
        if not self._options.auto_trim:
            return
        self._written += count
        batch = self._options.trim_batch_size
        if self._written < batch and time.monotonic() - self._expired_at < EXPIRED_EVERY:
            return
        if is_running(self._task):
            return
        overdue = self._written >= OVERDUE * batch
        self._task = self._tasks.spawn(self.trim)
        if overdue:
            await self._task

    async def trim(self) -> None:
        """Delete what nobody needs any more."""
        self._written = 0
        retained = time.time() - self._options.message_retention
        await self._in_batches(partial(store.trim_delivered, before=retained))
        now = time.monotonic()
        if now - self._expired_at >= EXPIRED_EVERY:
            self._expired_at = now
            # A clock that was set makes messages expire that nobody has had the time to read; and
            # who has read one could not say so while others held the lock.
            stalled = now - self._database.stalled_at < STALLED_FOR
            unread = not (self._clock_was_set() or stalled)
            await self._in_batches(partial(store.trim_expired, now=time.time(), unread=unread))
            await self._in_batches(partial(store.trim_memberships, now=time.time()))
        if now - self._sequences_at >= SEQUENCES_EVERY:
            self._sequences_at = now
            await self._database.run(store.trim_sequences)
        await self._database.run(store.commit)

    def _clock_was_set(self) -> bool:
        """Whether the wall clock has jumped since it was asked for the last time, or the machine
        has slept.
        """
        before, self._clocks_apart = self._clocks_apart, _clocks_apart()
        return abs(self._clocks_apart - before) > store.TRIM_GRACE

    async def _in_batches(self, trim: Callable[..., int]) -> None:
        batch = self._options.trim_batch_size
        while await self._database.run(partial(trim, limit=batch)) >= batch:
            pass


def _clocks_apart() -> float:
    """Seconds; they change only when somebody sets the wall clock."""
    return time.time() - time.monotonic()
