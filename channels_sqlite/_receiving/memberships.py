"""The memberships of one reader's channels: they age by a clock that nobody sets."""

from __future__ import annotations

import sqlite3
import time
from contextlib import suppress

from .._options import times
from .._storing import groups
from .._storing.database import Database
from .._storing.handle import Busy, Function, Lost


class Memberships:
    """Those of the channels that this process put into groups, and reads."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._clocks_apart = _clocks_apart()
        self._inboxes: set[str] = set()
        self._lapse_at = self._last_lapse_at = float("inf")

    def joined(self, inbox: str, lapses_in: float) -> None:
        """A channel of this inbox joins a group, for so many seconds."""
        self._inboxes.add(inbox)
        lapses_at = time.monotonic() + lapses_in
        self._lapse_at = min(self._lapse_at, lapses_at)
        # Clocks may be as far apart.
        self._last_lapse_at = lapses_at + 2 * times.TIMES.clock_was_set

    def mind_the_clock(self) -> None:
        """Move the memberships by as much as the wall clock was set, before anything is read or
        joined: they decide which channels get a group's message. Raises Busy or Lost where they
        cannot be moved now; a disk that is full must not keep anybody from reading.
        """
        apart = _clocks_apart()
        moved = apart - self._clocks_apart
        if abs(moved) > times.TIMES.clock_was_set:
            names = list(self._inboxes)
            if self._write(lambda connection: groups.move(connection, names, moved)):
                self._clocks_apart = apart

    def end_lapsed(self) -> None:
        """Delete those that have lapsed. It takes the write lock: only while there may be any."""
        now = time.monotonic()
        if now < self._lapse_at:
            return
        wall, names = time.time(), list(self._inboxes)
        with suppress(Busy, Lost):  # the next heartbeat does it
            if self._write(lambda connection: groups.end_lapsed(connection, names, wall)):
                may_be_more = now < self._last_lapse_at
                next_at = min(now + times.TIMES.lapsed, self._last_lapse_at)
                self._lapse_at = next_at if may_be_more else float("inf")

    def _write(self, function: Function[None]) -> bool:
        """Return False where it has failed, which is logged."""
        try:
            self._database.try_write(function)
        except sqlite3.Error as error:
            self._database.once.failed("Keeping memberships", error)
            return False
        self._database.once.well("Keeping memberships")
        return True


def _clocks_apart() -> float:
    """Seconds; they change only when somebody sets the wall clock, or the machine has slept."""
    return time.time() - time.monotonic()
