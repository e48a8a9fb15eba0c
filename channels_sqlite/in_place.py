"""Writing without a thread: what is quick, where nobody has to be waited for.

A hand-over to the writing thread and back costs more than most statements. One sender and one
receiver in a process, six times each: 1,700 to 2,300 messages a second with a hand-over for each,
3,100 to 5,000 without. A commit here takes 60 to 75 us (p50), the ring included, and no fsync as
long as checkpoints are made on the thread: the trimmer sees to that.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import threading
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

SLOW = 0.05  # seconds; an event loop has better things to do than to wait for a slow disk
SLOW_FOR = 1.0  # seconds that what was slow is not tried again
TRY_FOR = 0.1  # seconds
TRY_AGAIN_AFTER = 0.001  # seconds; SQLite's own busy handler sleeps longer each time, up to 0.1 s
TRY_LATER_AFTER = 0.02  # seconds, when it has been tried for so long
STAY_FOR = 0.005  # seconds that the processor is not given away again
TURN = 0.001  # seconds; if it was away for longer, it has not only run a reader
BUSY = 5  # SQLite's result code for a lock that another connection holds


class NotNow(Exception):
    """The function would have had to wait, or failed; nothing was written, the thread may try."""


class InPlace:
    """A writing connection that never waits: for a lock, for another thread, or for a slow disk.

    `working` is held while a function runs.
    """

    def __init__(self, connection: sqlite3.Connection, working: threading.Lock) -> None:
        connection.execute("pragma busy_timeout = 0")
        # Checkpoints are left to the thread, as long as that gets to make them.
        ((pages,),) = connection.execute("pragma wal_autocheckpoint").fetchall()
        connection.execute(f"pragma wal_autocheckpoint = {2 * pages}")
        self._connection = connection
        self._working = working
        self._slow_until = 0.0
        self._stay_until = 0.0

    async def run(
        self, function: Callable[[sqlite3.Connection], T], until: float, *, aside: bool = False
    ) -> T:
        """The result of `function(connection)`, run on the event loop; else raises NotNow.

        It is tried at least once, for TRY_FOR seconds, and not after `until`, of the monotonic
        clock. One that waits `aside` does not go to the thread, where others wait, before that.
        """
        soon = time.monotonic() + TRY_FOR
        until = until if aside else min(until, soon)
        while True:
            try:
                result = self._try(function)
            except sqlite3.OperationalError as error:
                # Before Python 3.11 there are no codes: what fails for good may fail later.
                busy = getattr(error, "sqlite_errorcode", BUSY) & 0xFF == BUSY
                now = time.monotonic()
                if not busy or now >= until:
                    raise NotNow from error
                await asyncio.sleep(TRY_AGAIN_AFTER if now < soon else TRY_LATER_AFTER)
            except sqlite3.Error as error:
                raise NotNow from error
            else:
                self._give_way()
                await asyncio.sleep(0)  # who does nothing but send must not starve the others
                return result

    def _try(self, function: Callable[[sqlite3.Connection], T]) -> T:
        started = time.monotonic()
        if started < self._slow_until or not self._working.acquire(blocking=False):
            raise NotNow
        try:
            return function(self._connection)
        finally:
            self._working.release()
            finished = time.monotonic()
            if finished > started + SLOW:
                self._slow_until = finished + SLOW_FOR

    def _give_way(self) -> None:
        """Let those run whom the write has woken, if they were put on this processor.

        They would wait until this process sleeps: 0.12 ms of the 0.6 to 0.9 that a message takes.
        Not after each of many writes, for they are found together; and not where it takes long,
        for others have work to do there, who would be let in each time.
        """
        started = time.monotonic()
        if started < self._stay_until or not hasattr(os, "sched_yield"):
            return
        os.sched_yield()
        finished = time.monotonic()
        late = finished > started + TURN
        self._stay_until = finished + (SLOW_FOR if late else STAY_FOR)

    def close(self) -> None:
        """Close it, when what runs on another thread has ended."""
        with self._working:
            self._connection.close()
