"""One event loop's looks at a database: when, and how often."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator, Sequence
from functools import partial

logger = logging.getLogger("channels_sqlite")

HEARTBEAT = 1.0  # seconds from look to look when no wake comes
EMPTY_LOOKS = 3  # looks in a row that found nothing; a conversation has one or two of them
PAUSE = 0.001  # seconds to the next look after more of them, and longer with each one
LONGEST_PAUSE = 0.016  # seconds
DEAF_AFTER = 3  # heartbeats in a row that found what no wake had announced

# Seconds from a wake to the looks that it is good for.
RING: Sequence[float] = (0,)
"""Something was committed: it can be seen now."""
WRITE: Sequence[float] = (0.001, 0.004, 0.016, 0.064)
"""The WAL file was written: SQLite does that before a commit can be seen, and tells nobody when it
can.
"""
CHANGE: Sequence[float] = (0, 0.004, 0.016, 0.064)
"""A ring or a write, the watcher cannot tell."""


class Listener:
    """Calls `look` on its event loop: after wakes, and at every heartbeat.

    `look(thorough)` returns whether it found anything new; `thorough` is for heartbeats, which
    trust no wake. All methods but `wake_from_elsewhere` belong to the loop's thread.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        look: Callable[[bool], bool],
        on_deaf: Callable[[Listener], None],
    ) -> None:
        self.loop = loop
        self.missed_wakes = 0
        self._look = look
        self._on_deaf = on_deaf
        self._interval = HEARTBEAT
        self._ladder: Iterator[float] = iter(())
        self._next: asyncio.TimerHandle | None = None
        self._beat: asyncio.TimerHandle | None = None
        self._empty = 0
        self.quiet_until = 0.0
        """Until then it does not look, by its loop's clock: others are talking among themselves."""
        self._own_at = 0.0
        self.woken_at: float | None = None
        """When something was announced, by its loop's clock, which is the monotonic one."""
        self._suspect = False
        self._unannounced = 0
        self._failing = False
        self._knocks: set[Sequence[float]] = set()

    def start(self, interval: float = HEARTBEAT) -> None:
        """Look now, and every `interval` seconds from now on; again, to change the interval."""
        self._interval = interval
        if self._beat is not None:
            self._beat.cancel()
        self._beat = self.loop.call_later(interval, self._heartbeat)
        self.look()

    def stop(self) -> None:
        """No more looks."""
        for handle in (self._beat, self._next):
            if handle is not None:
                handle.cancel()
        self._beat = self._next = None
        self._ladder = iter(())

    @property
    def polls(self) -> bool:
        """Whether the heartbeat is all it has."""
        return self._interval < HEARTBEAT

    def wake(self, looks: Sequence[float]) -> None:
        """Something may be new: look after each of `looks` seconds; a new wake begins anew.

        A ring leaves the ladder of an earlier write standing, one rung on: another process may have
        written just before, and be about to commit.
        """
        self._suspect = False
        self._unannounced = 0
        if looks is not RING:
            self._ladder = iter(looks)
        first = next(self._ladder, 0)
        now = self.loop.time()
        if self.woken_at is not None and now > self.woken_at + HEARTBEAT:
            self._empty = 0  # whoever was talking has ended
        self.woken_at = now
        if looks is WRITE:
            self._look_at(max(now + first, self.quiet_until))
        elif now < self.quiet_until:
            self._look_at(self.quiet_until)
        else:
            self._climb()

    def wake_from_elsewhere(self, looks: Sequence[float]) -> None:
        """`wake`, from any thread; raises RuntimeError when the loop is closed."""
        if self.loop.is_closed():
            raise RuntimeError("the listener's loop is closed")
        if looks not in self._knocks:
            self._knocks.add(looks)
            self.loop.call_soon_threadsafe(self._answer, looks)

    def _answer(self, looks: Sequence[float]) -> None:
        self._knocks.discard(looks)
        if self._beat is not None:  # not stopped meanwhile
            self.wake(looks)

    def look(self, at: Callable[[], bool] | None = None) -> None:
        """Look at once: this process itself has committed something; `at` looks where that is."""
        self._own_at = self.loop.time()
        self._safely(at or partial(self._look, False))

    def _climb(self) -> None:
        """Look, and set the time for the next rung of the ladder."""
        if self._next is not None:
            self._next.cancel()
            self._next = None
        found = self._safely(partial(self._look, False))
        now = self.loop.time()
        if found:
            self._empty = 0
        elif now > self._own_at + PAUSE:  # else it may be our own commit that was announced
            self._empty += 1
        if self._empty > EMPTY_LOOKS:
            self.quiet_until = now + min(PAUSE * (self._empty - EMPTY_LOOKS), LONGEST_PAUSE)
        delay = next(self._ladder, None)
        if delay is not None:
            self._look_at(max(now + delay, self.quiet_until))

    def _look_at(self, when: float) -> None:
        if self._next is None or self._next.when() > when:
            if self._next is not None:
                self._next.cancel()
            self._next = self.loop.call_at(when, self._climb)

    def _heartbeat(self) -> None:
        self._beat = self.loop.call_later(self._interval, self._heartbeat)
        if self._suspect:
            # What the last heartbeat found has not been announced since: not late, but missed.
            self.missed_wakes += 1
            self._unannounced += 1
            if self._unannounced == DEAF_AFTER:
                self._on_deaf(self)
        self._suspect = self._safely(partial(self._look, True)) and not self.polls

    def _safely(self, look: Callable[[], bool]) -> bool:
        """An error in a look, be it a bug of ours, is logged once, and the next heartbeat looks
        again.
        """
        try:
            found = look()
        except Exception:
            if not self._failing:
                logger.exception("Looking at the database fails; trying again at every heartbeat.")
            self._failing = True
            return False
        self._failing = False
        return found
