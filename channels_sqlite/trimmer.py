"""Keeps the tables small, at the pace at which this process writes."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

from . import upkeep
from .conf import Options
from .database import Database
from .tasks import Task, Tasks, is_running

SWEEP_EVERY = 1.0  # seconds, while anything is written; it reads the index of all that waits
UPKEEP_EVERY = 60.0  # seconds; it reads the whole table of sequences
CALM = 5.0  # seconds; in each, a reader that was kept from acknowledging tries again
CHECKPOINT_EVERY = 400  # messages, each of four to ten pages of the log's WAL_PAGES, if sent alone
IN_PLACE = 200  # rows; they take 0.4 ms of an event loop, 1.2 ms (p99) where none is cached yet


class Trimmer:
    """Trims after every `trim_batch_size` messages, and every second in which anything is sent or
    received.

    As a task beside the senders, in batches, so that none of them waits long for the lock.
    """

    def __init__(self, database: Database, options: Options) -> None:
        self._database = database
        self._options = options
        self._written = 0
        self._in_log = 0
        self._clocks_apart = _clocks_apart()
        self._clock_set_at = float("-inf")
        # Whether the clock was set before this process began, others know.
        self._swept_at = time.monotonic() + CALM
        self._kept_up_at = float("-inf")
        self._task: Task | None = None
        self._tasks = Tasks()

    async def wrote(self, count: int) -> None:
        """This process has written `count` messages.

        A loop that ends with the send, as that of async_to_sync does, leaves a task no time: when
        the last one was cut off, the writer waits for this one.
        """
        if not self._options.auto_trim:
            return
        self._watch_clock()
        self._written += count
        self._in_log += count
        enough = self._written >= self._options.trim_batch_size
        if not enough and time.monotonic() - self._swept_at < SWEEP_EVERY:
            return
        if is_running(self._task):
            return
        cut_off = self._task is not None and (self._task.cancelled() or not self._task.done())
        self._task = self._tasks.spawn(self.trim)
        if cut_off:
            await self._task

    async def trim(self) -> None:
        """Delete what nobody needs any more: once a second all of it, and in between what was
        delivered, at twice the pace at which this process writes.
        """
        self._written = 0
        if sweeps := time.monotonic() - self._swept_at >= SWEEP_EVERY:
            await self.sweep()
        else:
            limit = 2 * self._options.trim_batch_size
            # For a few rows, a hand-over and a quarrel about SQLite's lock would cost more.
            in_place = limit <= IN_PLACE
            await self._database.run(
                partial(self._delivered(), limit=limit), quick=in_place, aside=True
            )
        if sweeps or self._in_log >= CHECKPOINT_EVERY:
            self._in_log = 0
            await self._database.run(upkeep.commit)

    async def sweep(self) -> tuple[int, int, int]:
        """Delete all of it; how many messages that were delivered, and that had expired, and how
        many memberships.
        """
        delivered = await self._in_batches(self._delivered())
        self._swept_at = now = time.monotonic()
        unread = self._is_calm()
        expired = await self._in_batches(
            partial(upkeep.trim_expired, now=time.time(), unread=unread)
        )
        members = await self._in_batches(partial(upkeep.trim_memberships, now=time.time()))
        if now - self._kept_up_at >= UPKEEP_EVERY:
            self._kept_up_at = now
            await self._database.run(upkeep.trim_sequences)
            await self._database.run(upkeep.forget_statistics)
        return delivered, expired, members

    def _delivered(self) -> Callable[..., int]:
        retained = time.time() - self._options.message_retention
        return partial(upkeep.trim_delivered, before=retained)

    def _is_calm(self) -> bool:
        """Whether what has expired was surely left unread, by a process that is gone.

        A wall clock that was set, or a machine that has slept, makes messages expire that nobody
        has had the time to read; and who has read one cannot say so while the disk is full or
        others hold the lock. A while after that counts too: some messages are still under way.
        """
        self._watch_clock()
        return time.monotonic() > max(self._clock_set_at, self._database.troubled_at) + CALM

    def _watch_clock(self) -> None:
        """With every message, for the clock may be set back and put right within a second."""
        before, self._clocks_apart = self._clocks_apart, _clocks_apart()
        if abs(self._clocks_apart - before) > upkeep.GRACE:
            self._clock_set_at = time.monotonic()

    async def _in_batches(self, trim: Callable[..., int]) -> int:
        """How many rows it took; others get to write between two batches."""
        batch, total = self._options.trim_batch_size, 0
        while True:
            count = await self._database.run(partial(trim, limit=batch))
            total += count
            if count < batch:
                return total


def _clocks_apart() -> float:
    """Seconds; they change only when somebody sets the wall clock."""
    return time.time() - time.monotonic()
