"""The memberships of one reader's channels, whichever process added them: they lapse by the
monotonic clock, which nobody sets.
"""

from __future__ import annotations

import time

from .._options import times
from .._storing import groups
from .._storing.database import Database
from .._storing.handle import Function
from ..exceptions import DatabaseUnavailable


class Memberships:
    def __init__(self, database: Database, client: str) -> None:
        self._database = database
        self._client = client
        self._clocks_apart = time.time() - time.monotonic()
        """Seconds; they change only when somebody sets the wall clock, or the machine has slept."""

    def move_if_clock_was_set(self) -> None:
        """Move the memberships by as much as the wall clock was set, before anything is read or
        joined: they decide which channels get a group's message. Raises Busy or Lost where they
        cannot be moved now; a disk that is full must not keep anybody from reading.
        """
        if (by := self._was_set_by()) and self._write(
            lambda connection: groups.shift_expiry(connection, self._client, by)
        ):
            self._clocks_apart += by

    def clock(self) -> float:
        """The wall clock that the memberships lapse by: as it was before somebody set it, until
        they are moved.
        """
        return time.time() - self._was_set_by()

    def _was_set_by(self) -> float:
        by = time.time() - time.monotonic() - self._clocks_apart
        return by if abs(by) > times.TIMES.clock_was_set else 0.0

    def end_lapsed(self) -> None:
        """Delete those that have lapsed. To look takes no lock. Raises Busy or Lost."""
        self.move_if_clock_was_set()
        client, now = self._client, time.time()
        if self._database.try_read(lambda each: groups.has_lapsed(each, client, now)):
            self._write(lambda each: groups.end_lapsed(each, client, now))

    def _write(self, function: Function[None]) -> bool:
        """Return False where it has failed, which is logged."""
        try:
            self._database.try_write(function)
        except DatabaseUnavailable as error:
            self._database.once.failed("Keeping memberships", error)
            return False
        self._database.once.well("Keeping memberships")
        return True
