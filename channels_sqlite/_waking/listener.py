"""One event loop's looks at a database: when, and how often."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextvars import Context
from typing import Any, Protocol

from .._options import times
from .._storing.once import Once
from ..counters import Counters

DEAF_AFTER = 3  # heartbeats in a row that found what nothing had announced


class Watcher(Protocol):
    """Wakes one listener by two files: its reader's bell, and the database's log."""

    kind: str

    def adjust(self) -> None:
        """Its listener has changed `hears_writes` or `wants_touches`."""

    def stop(self) -> None:
        """Watch no more."""


class Listener:
    """Calls `look` on its event loop: when its bell is rung, some time after the log was written,
    and at every heartbeat.

    `look(rung)` returns True if it found anything new. A look that is rung reads the reader's own
    inboxes; one that is not asks what has changed. `beat` is the look of a heartbeat, which trusts
    nothing. `log_age()` is how many seconds ago the log was written. All methods belong to the
    loop's thread, except `ring_from_elsewhere` and `want_touches`.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        look: Callable[[bool], bool],
        beat: Callable[[], bool],
        on_deaf: Callable[[], None],
        log_age: Callable[[], float],
        once: Once,
        counters: Counters,
    ) -> None:
        self.loop = loop
        self.woken_at: float | None = None  # when something was announced, by the monotonic clock
        self.found_at = float("-inf")  # when a look found something: more may follow soon
        self.watcher: Watcher | None = None
        self.watched: object = None  # whatever its watcher was begun for
        self.polls = False  # it looks without being woken
        self.has_beaten = False  # its loop has lived for as long as a heartbeat
        self.hears_writes = True  # a write of the log is to wake it
        self.wants_touches = False  # it is to wake at once when a normal channel was written to
        self._look = look
        self._beat = beat
        self._on_deaf = on_deaf
        self._log_age = log_age
        self._once = once
        self._counters = counters
        self._timers: dict[str, tuple[float, asyncio.TimerHandle]] = {}
        """The calls to come, each with its time, by the monotonic clock."""
        self._tries = 0
        self._is_rung = False
        self._suspect = False
        self._unannounced = 0
        self._running = False

    # Its life

    def start(self, polling_interval: float | None) -> None:
        """Look at every heartbeat from now on, and every `polling_interval` seconds if given."""
        self._running = True
        self.call_after(times.TIMES.heartbeat, "beat", self._heartbeat)
        self.polls = polling_interval is not None
        if polling_interval is not None:
            self.call_after(polling_interval, "poll", self._poll, polling_interval)
        elif "poll" in self._timers:
            self._timers.pop("poll")[1].cancel()

    def stop(self) -> None:
        self._running = False
        for _, timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        self.stop_watching()

    def stop_watching(self) -> None:
        watcher, self.watcher = self.watcher, None
        if watcher is not None:
            watcher.stop()

    def watch_again_later(self) -> None:
        """Have a heartbeat after a while find that nothing is watched."""
        self.call_after(times.TIMES.watch_again, "watch", self.forget_watched)

    def forget_watched(self) -> None:
        self.watched = None

    @property
    def kind(self) -> str | None:
        """The kind of its watcher; None while it polls."""
        return None if self.watcher is None or self.polls else self.watcher.kind

    def call_after(self, delay: float, what: str, call: Callable[..., None], *given: Any) -> None:
        """Call it later, unless stopped, instead of what was to be called as the same `what`."""
        if not self._running:
            return
        if what in self._timers:
            self._timers[what][1].cancel()
        # Not in the context of a consumer, which would then live as long as the heartbeats.
        timer = self.loop.call_later(delay, call, *given, context=Context())
        self._timers[what] = time.monotonic() + delay, timer

    def call_once(self, delay: float, what: str, call: Callable[..., None], *given: Any) -> None:
        """Call it later, unless stopped, or something is to be called as the same `what`."""
        if not self._is_scheduled(what):
            self.call_after(delay, what, self._call_once, what, call, *given)

    def _call_once(self, what: str, call: Callable[..., None], *given: Any) -> None:
        del self._timers[what]
        call(*given)

    def go_on(self) -> None:
        """A consumer begins to wait, or something was announced: beat again, if that has ended."""
        beat = self._timers.get("beat")
        if beat is not None and beat[0] >= time.monotonic():
            return
        if self._is_scheduled("beat"):  # it is late, or has ended just now
            self.call_once(times.TIMES.heartbeat, "go on", self.go_on)
        else:
            self.call_after(times.TIMES.heartbeat, "beat", self._heartbeat)

    def _is_scheduled(self, what: str) -> bool:
        """Return True if this is to be called. Not if it is overdue: an exception out of a signal
        handler replaced a call, which would have scheduled the next one.
        """
        timer = self._timers.get(what)
        return timer is not None and timer[0] >= time.monotonic() - times.TIMES.heartbeat

    # Waking

    def ring(self) -> None:
        """A message to one of the reader's inboxes was committed: look at once."""
        if self._running:
            self._announced()
            self.look(rung=True)

    def ring_from_elsewhere(self) -> None:
        """`ring`, from any thread; RuntimeError if the loop is closed."""
        if self._is_rung:  # a loop that stands still is rung once
            return
        self._is_rung = True
        try:
            self.loop.call_soon_threadsafe(self._ring_once)
        except BaseException:  # an interruption, too: it would never be rung again
            self._is_rung = False
            raise

    def _ring_once(self) -> None:
        self._is_rung = False
        self.ring()

    def touch(self) -> None:
        """A message to a normal channel was committed: look at once."""
        if self._running:
            self._announced()
            self.look(rung=False)

    def log_written(self) -> None:
        """The log was written, by any process: look soon, and again later."""
        if not self._running:
            return
        self._announced()
        if self.hears_writes:
            self._hear_writes(False)
            self.call_after(times.TIMES.after_a_write[0], "write", self._look_after_write, 1, False)

    def want_touches(self, wanted: bool) -> None:
        """Wake at once when a normal channel is written to, from now on; or no more."""
        if wanted != self.wants_touches:
            self.wants_touches = wanted
            if self.watcher is not None:
                self.watcher.adjust()

    def _announced(self) -> None:
        self.go_on()
        self.woken_at = time.monotonic()
        self._suspect = False
        self._unannounced = 0

    # Looking

    def look(self, *, rung: bool) -> bool:
        found = self._safely(self._look, rung)
        if found:
            self.found_at = time.monotonic()
        return found

    def look_again(self) -> None:
        """A lock of others was in the way: look again soon, and later each time."""
        waits = times.TIMES.locked
        delay = waits[min(self._tries, len(waits) - 1)]
        self.call_once(delay, "again", self._look_again)

    def _look_again(self) -> None:
        self._tries += 1
        self.look(rung=True)
        if "again" not in self._timers:
            self._tries = 0

    def _look_after_write(self, looks: int, found: bool) -> None:
        """Look, for the `looks`-th time since a write."""
        found |= self.look(rung=False)
        waits = times.TIMES.after_a_write
        if looks < len(waits):
            self.call_after(waits[looks], "write", self._look_after_write, looks + 1, found)
        else:
            self._listen_or_lull(found, waits[-1])

    def _look_in_lull(self) -> None:
        self._listen_or_lull(self.look(rung=False), times.TIMES.lull)

    def _listen_or_lull(self, found: bool, quiet: float) -> None:
        """Listen to writes again, unless others have written within `quiet` seconds, and nothing
        was found.
        """
        if found or self._log_age() > quiet:
            self._listen_again()
        else:
            self.call_once(times.TIMES.lull, "lull", self._look_in_lull)

    def _listen_again(self) -> None:
        self._hear_writes(True)
        self.look(rung=False)  # what was written and not listened to

    def _hear_writes(self, wanted: bool) -> None:
        self.hears_writes = wanted
        if self.watcher is not None:
            self.watcher.adjust()

    def _poll(self, interval: float) -> None:
        self.call_after(interval, "poll", self._poll, interval)
        self.look(rung=False)

    def _heartbeat(self) -> None:
        self.has_beaten = True
        self.call_after(times.TIMES.heartbeat, "beat", self._heartbeat)
        self._is_rung = False  # an interruption replaced the call, perhaps
        if self._suspect:
            # No event has told since of what the last heartbeat found: it was not late, but missed.
            self._counters.missed_wakes += 1
            self._unannounced += 1
            if self._unannounced == DEAF_AFTER:
                self._on_deaf()
        listens = self.hears_writes and not self.polls
        found = self.beat_now()
        self._suspect = found and listens
        if lull := self._timers.pop("lull", None):  # this was its next look: one wake-up less
            lull[1].cancel()
            self._listen_or_lull(found, times.TIMES.lull)
        elif not (self.hears_writes or self._is_scheduled("write")):
            self._listen_again()

    def beat_now(self) -> bool:
        """Do what a heartbeat does; an error is logged."""
        return self._safely(self._beat)

    def _safely(self, look: Callable[..., bool], *given: bool) -> bool:
        """An error in a look, be it a bug of ours, is logged once, and the next heartbeat looks
        again.
        """
        try:
            found = look(*given)
        except Exception as error:
            self._once.failed("Looking at the database", error)
            return False
        self._once.well("Looking at the database")
        return found
