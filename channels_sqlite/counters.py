"""Counters of one layer in one process, and the log line about dropped messages."""

from __future__ import annotations

import logging
import threading
import time
import weakref
from collections import Counter
from dataclasses import dataclass

from ._options import times

logger = logging.getLogger("channels_sqlite")

MOST = 3  # channels that a warning names, those that missed most


@dataclass
class Counters:
    """Messages, since the layer was made.

    A group's message counts once for each channel that it reaches in this process, but once where
    it is sent, and once for each process that had no room for it.
    """

    sent: int = 0
    refused: int = 0
    """Sends that ended in ChannelFull."""
    received: int = 0
    expired: int = 0
    """Expired in the table before this process looked, or in a consumer's buffer; or deleted by
    this process in a normal channel, or in the inbox of a process that has ended. Not counted:
    messages to a living process that were trimmed before it looked at them, because it stood still
    or has no consumer with that prefix."""
    dropped: int = 0
    """Given up because there was no room: a group's message to a full inbox, or the oldest one of a
    slow consumer."""
    unreadable: int = 0
    """Skipped, because the body is not what this layer's serializer writes."""
    missed_wakes: int = 0
    """Heartbeats that found what no wake had announced."""


class DropLog:
    """Counts drops by channel and group. Warns of them a second after the first one, then once a
    minute of all since the last warning, and when the process ends.
    """

    def __init__(self, counters: Counters) -> None:
        self.counters = counters
        self._lock = threading.RLock()  # another one may be collected, and warn, under it
        self._recent: Counter[tuple[str, str | None]] = Counter()
        self._last = ""
        self._quiet_until = 0.0
        self._timer: threading.Timer | None = None
        weakref.finalize(self, _warn, self._recent)

    def dropped(self, channel: str, group: str | None, capacity: int, age: float) -> None:
        """One message less; `age` is that of the oldest one waiting, in seconds."""
        channel, group = _logged(channel), None if group is None else _logged(group)
        with self._lock:
            self.counters.dropped += 1
            self._recent[channel, group] += 1
            self._last = (
                f" Last: {channel}, capacity {capacity}; its oldest waiting message is {age:.1f} s"
                " old."
            )
            if self._timer is not None:
                return
            delay = max(times.TIMES.burst, self._quiet_until - time.monotonic())
            self._timer = threading.Timer(delay, self._say)
            self._timer.daemon = True
        try:
            self._timer.start()
        except RuntimeError:  # no thread can be started
            self._timer = None
            if time.monotonic() >= self._quiet_until:
                self._say()

    def forget(self) -> None:
        """Warn of none of these: in the child of a fork they are the parent's."""
        self._recent.clear()

    def _say(self) -> None:
        with self._lock:
            self._timer, self._quiet_until = None, time.monotonic() + times.TIMES.warning
            recent, last = self._recent.copy(), self._last
            self._recent.clear()
        _warn(recent, last)  # without the lock: a log handler may send to a layer


def _logged(name: object) -> str:
    """A name in one line, and no longer than names are: in a row of others it may be anything."""
    return ascii(str(name)[:99])[1:-1]


def _warn(recent: Counter[tuple[str, str | None]], last: str = "") -> None:
    if not recent:
        return
    worst = recent.most_common(MOST)
    most = ", ".join(
        f"{count} to {name}" + ("" if group is None else f" of group {group}")
        for (name, group), count in worst
    )
    total = sum(recent.values())
    recent.clear()
    logger.warning("%d message(s) dropped because there was no room, %s.%s", total, most, last)
