"""A file's two connections: one for short statements in place, on the event loop, and one for the
worker thread.

The first waits for a lock no longer than a nap, and for the disk only when the log starts over. It
makes no checkpoint. Neither waits inside SQLite: a lock of others is tried again, so that a fork,
or the end of the process, need not wait for it.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable

from .._options import times
from . import upkeep
from .files import Files
from .handle import Busy, Function, Handle, T, text, try_until
from .worker import Worker

PAGES_A_WRITE = 10  # pages of the log that a write fills, at most as a rule
LOOK_EVERY = 8  # writes, at the size of the log: those of large bodies fill more
GROWN = 16 * 2**20  # bytes by which the log may grow until it is copied back


class Connections:
    def __init__(
        self, connect: Callable[[], sqlite3.Connection], files: Files, worker: Worker
    ) -> None:
        """Called on the worker's thread, while no other process opens or closes the file."""
        self.files = files
        self._worker = worker
        in_place = connect()
        try:
            on_thread = connect()
        except BaseException:  # whatever it is: nobody else would close this one
            in_place.close()
            raise
        self._in_place, self._on_thread = Handle(in_place, files), Handle(on_thread, files)
        self.try_read = self._in_place.run
        """The result of a short read. Raises Busy, Lost, or DatabaseUnavailable."""
        self._on_thread.run(_take_over)
        pages = self._in_place.run(_take_over)
        self._checkpoint_every = -(-pages // PAGES_A_WRITE)
        self._writes = 0
        self._log_size = 0  # when a checkpoint was last asked for; less if it has begun again
        self._slow_until = 0.0

    @property
    def closed(self) -> bool:
        return self._in_place.closed or self._on_thread.closed

    # In place

    @property
    def is_slow(self) -> bool:
        """Return True if a write has taken long lately: the thread is better for the next one."""
        return time.monotonic() < self._slow_until

    def try_write(self, function: Function[T]) -> T:
        """The result of a short write. Raises Busy, Lost, or DatabaseUnavailable; nothing was
        written then.
        """
        started = time.monotonic()
        try:
            result = self._in_place.run(function)
        except Busy:
            time.sleep(times.TIMES.nap)  # on the event loop, which cannot wait for so little
            result = self._in_place.run(function)
        finished = time.monotonic()
        if finished > started + times.TIMES.slow:
            self._slow_until = finished + times.TIMES.slow_for
        self._count_write()
        return result

    # On the thread

    def write_on_thread(self, function: Function[T], until: float) -> T:
        """The result of `function`; on the worker's thread. Raises Busy at `until`, and Lost."""
        result = try_until(lambda: self._on_thread.run(function), until)
        self._count_write()
        return result

    def _count_write(self) -> None:
        self._writes += 1
        if self._checkpoint_every and (
            self._writes >= self._checkpoint_every
            or (self._writes % LOOK_EVERY == 0 and self._log_has_grown())
        ):
            self._writes = 0
            self._worker.post("A checkpoint", self.checkpoint, alone=True)

    def _log_has_grown(self) -> bool:
        try:
            size = os.stat(self.files.wal).st_size
        except OSError:  # in memory there is none
            return False
        grown = size > self._log_size + GROWN
        self._log_size = size if grown else min(size, self._log_size)
        return grown

    def checkpoint(self) -> None:
        """Copy the log into the database, unless either is another file by now."""
        if self.files.in_memory:
            return
        with self.files.checkpointing() as alone:
            if alone and not self.files.replaced():
                self._on_thread.run(upkeep.checkpoint)

    # The end

    def close(self) -> None:
        self._on_thread.close()
        self._in_place.close()


def _take_over(connection: sqlite3.Connection) -> int:
    """Have SQLite neither wait nor make checkpoints by itself; after how many pages of the log it
    would have made one.
    """
    ((pages,),) = connection.execute("pragma wal_autocheckpoint").fetchall()
    connection.execute("pragma wal_autocheckpoint = 0").fetchall()
    connection.execute("pragma busy_timeout = 0").fetchall()
    connection.text_factory = text
    return int(pages)
