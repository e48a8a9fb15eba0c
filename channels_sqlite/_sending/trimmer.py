"""Keeps the tables small, at the pace at which this process writes: on a thread of its own."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

from .._options import times
from .._options.conf import Options
from .._storing import upkeep
from .._storing.connections import Connections
from .._storing.database import Database
from .._storing.handle import Function, T
from .._waking import bells
from ..counters import Counters

logger = logging.getLogger("channels_sqlite")

SWEPT = ".swept"  # a file among the bells: its time of change says when a process last swept


@dataclass
class Trimmed:
    """How many rows were deleted."""

    delivered: int = 0
    expired: int = 0
    memberships: int = 0


class Trimmer:
    """Trims after every `trim_batch_size` messages. Once a second, while any process sends or
    receives, one process does so for all: it deletes all that is old, and what dead readers left.
    Dead readers are looked for when the database is opened as well.
    """

    def __init__(self, database: Database, options: Options, counters: Counters) -> None:
        self._database = database
        self._options = options
        self._counters = counters
        self._written = 0
        self._kept_up_at = float("-inf")
        database.when_opened = self._sweep_readers

    def trim_if_due(self, written: int = 0) -> None:
        """Begin what is due, after this process has received messages, or has written so many."""
        self._written += written
        if not self._options.auto_trim:
            return
        now = time.monotonic()
        if now - self._database.swept_at < times.TIMES.sweep:
            if self._written >= self._options.trim_batch_size:
                self._start(self._trim_some)
        elif _is_due(self._mark):
            self._start(self._sweep_if_due)
        else:  # no thread is woken to find that another process has swept
            self._database.swept_at = now

    @property
    def _mark(self) -> str:
        return os.path.join(self._database.files.bells, SWEPT)

    def _start(self, job: Callable[[Connections], None]) -> None:
        if self._database.post_beside("Trimming", job):
            self._written = 0

    def _trim_some(self, connections: Connections) -> None:
        """Delete what was delivered, at twice the pace at which this process writes."""
        limit = 2 * self._options.trim_batch_size
        self._run(connections, partial(self._delivered(), limit=limit))

    def _sweep_if_due(self, connections: Connections) -> None:
        """Sweep, unless another process has done so within the last second. Not at once, because
        a message was just sent, and its readers want the processor.
        """
        time.sleep(times.TIMES.sweep_later)  # on the second thread, for which nobody waits
        try:
            if _is_due(self._mark):
                self._note_sweep()
                self._sweep(connections, Trimmed())
        finally:  # after the mark was made, so that it is a second old when we ask again
            self._database.swept_at = time.monotonic()

    def _note_sweep(self) -> None:
        """Note for other processes that one sweeps."""
        files = self._database.files
        if files.has_bells() and not bells.touch(self._mark):
            with suppress(OSError):  # it may be another user's
                os.close(files.open_shared(SWEPT))

    async def trim(self) -> Trimmed:
        """Delete all that nobody needs any more."""
        trimmed = Trimmed()
        await self._database.run_beside(partial(self._sweep, trimmed=trimmed))
        return trimmed

    def _sweep(self, connections: Connections, trimmed: Trimmed) -> None:
        self._sweep_readers(connections)
        now, ours = time.time(), list(self._database.readers)
        for reader in ours:  # it may have no event loop at present, and no heartbeat
            reader.end_lapsed()
        living = {*bells.living(self._database.files), *(each.client for each in ours)}
        in_batches = partial(self._in_batches, connections)
        expired = partial(upkeep.trim_expired, now=now, living=living)
        for count in in_batches(self._delivered()):
            trimmed.delivered += count
        for count in in_batches(partial(expired, read=True)):
            trimmed.expired += count
        for count in in_batches(partial(expired, read=False)):
            trimmed.expired += count
            self._counters.expired += count  # by us, because nobody else will
        for count in in_batches(partial(upkeep.trim_memberships, now=now, living=living)):
            trimmed.memberships += count
        sum(in_batches(upkeep.trim_left))
        if time.monotonic() - self._kept_up_at >= times.TIMES.upkeep:
            self._kept_up_at = time.monotonic()
            sum(in_batches(upkeep.trim_sequences))

    def _delivered(self) -> Callable[..., int]:
        retained = time.time() - self._options.message_retention
        return partial(upkeep.trim_delivered, before=retained)

    def _in_batches(self, connections: Connections, trim: Callable[..., int]) -> Iterator[int]:
        """How many rows each batch took; others get to write between two batches."""
        batch = self._options.trim_batch_size
        while True:
            count = self._run(connections, partial(trim, limit=batch))
            yield count
            if count < batch:
                return
            time.sleep(times.TIMES.retry)  # on a thread: Python's locks do not queue

    def _run(self, connections: Connections, function: Function[T]) -> T:
        return connections.write_on_thread(function, time.monotonic() + self._database.timeout)

    # Readers that are gone

    def _sweep_readers(self, connections: Connections) -> None:
        """Delete the memberships, and the waiting messages, of readers that have died."""
        bells.remove_dead(self._database.files, partial(self._forget, connections))

    def _forget(self, connections: Connections, clients: list[str]) -> None:
        inboxes = self._run(connections, partial(upkeep.inboxes_of, clients=clients))
        if inboxes:
            in_batches = partial(self._in_batches, connections)
            memberships = sum(in_batches(partial(upkeep.forget_memberships, inboxes=inboxes)))
            messages = sum(in_batches(partial(upkeep.forget_messages, inboxes=inboxes)))
            logger.info(
                "%d reader(s) of %s died without closing: their %d membership(s) and %d waiting"
                " message(s) are deleted.",
                len(clients),
                self._database.path,
                memberships,
                messages,
            )


def _is_due(mark: str) -> bool:
    """Return True unless a process has swept within the last second."""
    with suppress(OSError):
        return not 0 <= time.time() - os.lstat(mark).st_mtime < times.TIMES.sweep
    return True
