"""The messages that wait for a process's consumers, and the consumers that wait for messages.

Pure and synchronous: it knows no database. One lock, the receiver's, guards all of it, because
consumers may be on any thread and event loop. `running` is the loop that runs at the moment.
"""

from __future__ import annotations

import asyncio
import bisect
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from itertools import chain

from .._storing.messages import Item
from ..counters import DropLog

logger = logging.getLogger("channels_sqlite")

Loop = asyncio.AbstractEventLoop
Waiter = asyncio.Future["Item | None"]
"""Its result is a message, or None: there may be one to take."""


class Queues:
    """A queue of messages for each channel that has any, and a list of waiters likewise."""

    def __init__(
        self, lock: threading.RLock, capacity_of: Callable[[str], int], drops: DropLog
    ) -> None:
        self._lock = lock
        self._capacity_of = capacity_of
        self._counters = drops.counters
        self._drops = drops
        self._items: dict[str, deque[Item]] = {}
        self._waiters: dict[str, list[Waiter]] = {}
        self.abandoned: deque[tuple[str, Waiter]] = deque()
        """Consumers that the garbage collector has closed, each with its channel."""

    # For a consumer

    def take_or_wait(self, channel: str, waiter: Waiter) -> Item | None:
        """A message that is there; None if the waiter waits for one from now on, until `leave`, or
        until it has brought one.
        """
        with self._lock:
            if channel in self._items and (item := self._take(channel)):
                self._wake_next(channel, waiter.get_loop())
                return item
            self._waiters.setdefault(channel, []).append(waiter)
            return None

    def leave(self, channel: str, waiter: Waiter, running: Loop | None) -> None:
        """A consumer waits no longer: it was woken, or it was cancelled.

        A message that it was handed, or was woken for, goes to the next consumer.
        """
        with self._lock:
            self._forget_waiter(channel, waiter)
            item = waiter.result() if waiter.done() and not waiter.cancelled() else None
            if item is not None:
                self.put_back(channel, [item], running)
            else:
                self._wake_next(channel, running)

    def leave_abandoned(self, running: Loop | None) -> list[str]:
        """Consumers that the garbage collector has closed wait no longer; their channels."""
        channels = []
        with self._lock:
            while self.abandoned:
                channel, waiter = self.abandoned.popleft()
                self.leave(channel, waiter, running)
                channels.append(channel)
        return channels

    def _take(self, channel: str) -> Item | None:
        """The oldest message that has not expired."""
        items, now = self._items[channel], time.monotonic()
        while items:
            item = items.popleft()
            if not items:
                del self._items[channel]
            if item.deadline > now:
                return item
            self._counters.expired += 1
        return None

    # For the reader, which brings messages and holds the lock

    def deliver(
        self, channels: Iterable[str], item: Item, running: Loop, *, claimed: bool = False
    ) -> None:
        """Hand a message to a consumer of each channel that waits, or keep it for the next one.

        If a channel keeps more than its capacity, the oldest message is dropped. A `claimed` one
        drops none, because a consumer asked for it.
        """
        for channel in channels:
            if channel in self._items or not self._hand_over(channel, item, running):
                self._keep(channel, item, running, claimed=claimed)

    def _hand_over(self, channel: str, item: Item, running: Loop) -> bool:
        """Give a message to the first waiter, if that is one of the running loop.

        Not to one of another loop: nobody could take it back if that loop is closed meanwhile.
        """
        waiting = self._waiters.get(channel)
        while waiting and waiting[0].cancelled():
            self._forget_waiter(channel, waiting[0])
        if not waiting or waiting[0].done() or waiting[0].get_loop() is not running:
            return False
        waiter = waiting[0]
        del waiting[0]  # no call until it has the message: an interruption comes after a call
        waiter.set_result(item)
        if not waiting:
            del self._waiters[channel]
        return True

    def _keep(self, channel: str, item: Item, running: Loop, *, claimed: bool) -> None:
        items = self._items.get(channel)
        if items is None:
            items = self._items[channel] = deque()
        items.append(item)
        if not claimed:
            self._make_room(channel, items)
        self._wake_next(channel, running)

    def _make_room(self, channel: str, items: deque[Item]) -> None:
        try:
            capacity = max(1, self._capacity_of(channel))
        except Exception:  # out of a get_capacity of the project's: others wait for the message
            logger.exception("get_capacity(%r) failed", channel)
            return
        while len(items) > capacity:  # by more than one, if it was higher before
            oldest = items.popleft().row
            self._drops.dropped(channel, oldest.group, capacity, time.time() - oldest.created_at)

    def put_back(self, channel: str, returned: Iterable[Item], running: Loop | None) -> None:
        """Return messages that were taken, and not used, to their places."""
        items = self._items.setdefault(channel, deque())
        for item in returned:
            bisect.insort_left(items, item, key=lambda each: each.row.id)
        if not items:
            del self._items[channel]
        self._wake_next(channel, running)

    def take_unwanted(self, channel: str) -> list[Item]:
        """Take what no consumer waits for, oldest first."""
        items, waiting = self._items.get(channel, deque()), self._count_waiters(channel)
        unwanted = [items.pop() for _ in range(len(items) - waiting)][::-1]
        if not items:
            self._items.pop(channel, None)
        return unwanted

    def wanted(self, channel: str, loop: Loop | None = None) -> int:
        """How many consumers wait, on one loop if it is given, less the messages that are kept: it
        is negative where messages are kept for consumers that are gone.
        """
        return self._count_waiters(channel, loop) - len(self._items.get(channel, ()))

    def forget_closed_loops(self) -> None:
        """Forget consumers that wait on a loop that was closed."""
        for channel in list(self._waiters):
            self._count_waiters(channel)

    def _count_waiters(self, channel: str, loop: Loop | None = None) -> int:
        """How many consumers wait on a loop that runs; those that cannot go on are forgotten."""
        for waiter in list(self._waiters.get(channel, ())):
            # It did not leave: its loop was closed, or an interruption came as it was cancelled.
            if waiter.cancelled() or waiter.get_loop().is_closed():
                self._forget_waiter(channel, waiter)
        loops = [each.get_loop() for each in self._waiters.get(channel, ())]
        return sum(each.is_running() and loop in (None, each) for each in loops)

    # Waking: a waiter is told to come and take a message

    def _wake_next(self, channel: str, running: Loop | None) -> None:
        """Wake the first waiter that is not awake yet, if there is a message."""
        if channel in self._items and channel in self._waiters:
            self._wake(channel, running, everybody=False)

    def wake_beside_messages(self, running: Loop) -> None:
        """Wake every consumer of each channel that has a message: the one that was woken before may
        be on a loop that was closed, or that stands still.
        """
        for channel in list(self._items):
            self._wake(channel, running, everybody=True)

    def wake_everybody(self) -> None:
        """Wake every consumer, from any thread."""
        with self._lock:
            for waiter in [each for waiting in self._waiters.values() for each in waiting]:
                with suppress(RuntimeError):  # its loop was closed
                    waiter.get_loop().call_soon_threadsafe(_set_awake, waiter)

    def _wake(self, channel: str, running: Loop | None, *, everybody: bool) -> None:
        waiting = list(self._waiters.get(channel, ()))
        here = (each for each in waiting if each.get_loop() is running)
        elsewhere = (each for each in waiting if each.get_loop() is not running)
        for waiter in chain(here, elsewhere):  # whose loops may stand still
            loop = waiter.get_loop()
            if waiter.done() or not (loop.is_running() or loop.is_closed()):
                continue
            try:
                if loop is running:
                    waiter.set_result(None)
                else:
                    loop.call_soon_threadsafe(_set_awake, waiter)
            except RuntimeError:  # its loop was closed, it will never take anything
                self._forget_waiter(channel, waiter)
                continue
            if not everybody:
                return

    def _forget_waiter(self, channel: str, waiter: Waiter) -> None:
        waiting = self._waiters.get(channel, [])
        if waiter in waiting:
            waiting.remove(waiter)
        if not waiting:
            self._waiters.pop(channel, None)

    # All of them

    def count_channels(self) -> int:
        """On how many channels consumers wait."""
        return len(self._waiters)

    def loops(self) -> set[Loop]:
        with self._lock:
            return {each.get_loop() for waiting in self._waiters.values() for each in waiting}

    def inboxes(self) -> set[str]:
        """The process-local inboxes of all channels that consumers, or messages, wait on."""
        names = [*self._waiters, *self._items]
        return {f"{name.partition('!')[0]}!" for name in names if "!" in name}

    def is_waited_for(self, channel: str) -> bool:
        return channel in self._waiters

    def is_waited_for_elsewhere(self, channel: str, running: Loop) -> bool:
        """Return True if a consumer of another loop waits."""
        return any(each.get_loop() is not running for each in self._waiters.get(channel, ()))

    def is_empty(self, channel: str) -> bool:
        return channel not in self._items

    def expire(self) -> None:
        """Forget what has expired unread."""
        if not self._items:
            return
        now = time.monotonic()
        for channel, items in list(self._items.items()):
            if all(item.deadline > now for item in items):
                continue
            kept = deque(item for item in items if item.deadline > now)
            self._counters.expired += len(items) - len(kept)
            self._items[channel] = kept
            if not kept:
                del self._items[channel]

    def clear(self) -> None:
        self._items.clear()


def _set_awake(waiter: Waiter) -> None:
    if not waiter.done():
        waiter.set_result(None)
