"""A process's consumers: messages that wait for them, and those of them that wait for messages.

One lock, the receiver's, guards all of it: consumers may be on any thread and event loop.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterable

from .buffers import Buffers
from .counters import Counters, DropLog
from .messages import Item
from .waiters import Waiter, Waiters

Loop = asyncio.AbstractEventLoop


class Consumers:
    """Brings the two together; nothing in here awaits."""

    def __init__(
        self,
        lock: threading.RLock,
        capacity_of: Callable[[str], int],
        counters: Counters,
        drops: DropLog,
    ) -> None:
        self._lock = lock
        self._capacity_of = capacity_of
        self._drops = drops
        self._buffers = Buffers(counters)
        self._waiters = Waiters()

    # For a consumer

    def take_or_join(self, channel: str, here: Loop) -> Item | Waiter:
        """A message that is there, or else a future to wait for; end that with `leave`."""
        with self._lock:
            if channel in self._buffers and (item := self._buffers.take(channel, time.monotonic())):
                self._tell_next(channel, here)
                return item
            return self._waiters.join(channel, here)

    def leave(self, channel: str, waiter: Waiter, here: Loop) -> None:
        """A consumer waits no longer: it was told to come and take, or it was cancelled.

        What it was handed and cannot use, or was told of, is for the next one.
        """
        with self._lock:
            self._waiters.leave(channel, waiter)
            item = waiter.result() if waiter.done() and not waiter.cancelled() else None
            if item is not None:
                self._buffers.put_back(channel, item)
            self._tell_next(channel, here)

    def _tell_next(self, channel: str, here: Loop) -> None:
        if channel in self._buffers and channel in self._waiters:
            self._waiters.tell(channel, here)

    def tell_again(self, here: Loop) -> None:
        """Tell all who wait beside a message: who had been told may be on a loop that was closed,
        or that stands still.
        """
        with self._lock:
            for channel in list(self._buffers):
                self._waiters.tell(channel, here, everybody=True)

    # For those who bring messages

    def deliver(
        self, channels: Iterable[str], item: Item, here: Loop, *, claimed: bool = False
    ) -> None:
        """To a consumer of each that waits, or else into its buffer; what was `claimed` gives way
        to nothing there, for it was asked for.
        """
        buffers, hand_over = self._buffers, self._waiters.hand_over
        with self._lock:
            for channel in channels:
                if channel in buffers or not hand_over(channel, item, here):
                    self._keep(channel, item, here, claimed=claimed)

    def _keep(self, channel: str, item: Item, here: Loop, *, claimed: bool) -> None:
        """In its buffer, whose oldest message may give way."""
        capacity = self._capacity_of(channel)
        if self._buffers.put(channel, item) > capacity and not claimed:
            oldest = self._buffers.drop_oldest(channel).row
            age = time.time() - oldest.created_at
            self._drops.dropped(channel, oldest.group, capacity, age)
        if channel in self._waiters:  # a consumer that has just been handed one does not
            self._waiters.tell(channel, here)

    def wanting(self, channel: str) -> int:
        """How many consumers wait for a message that is not there yet."""
        with self._lock:
            return self._waiters.count(channel) - self._buffers.count(channel)

    def take_surplus(self, channel: str) -> list[Item]:
        """Take back, oldest first, what no consumer waits for."""
        with self._lock:
            surplus = -self.wanting(channel)
            return self._buffers.take_newest(channel, surplus) if surplus > 0 else []

    def put_back(self, channel: str, items: Iterable[Item], here: Loop) -> None:
        """Return what `take_surplus` gave, and nobody else could be given."""
        with self._lock:
            for item in items:
                self._buffers.put(channel, item)
            self._tell_next(channel, here)

    @property
    def have_messages(self) -> bool:
        """Whether anything waits in a buffer."""
        return bool(self._buffers)

    def count_waited_for(self) -> int:
        """On how many channels consumers wait."""
        return len(self._waiters)

    def is_waited_for(self, channel: str) -> bool:
        """Whether any consumer waits."""
        return channel in self._waiters

    def expire(self) -> dict[str, int]:
        """Forget what has expired unread; the newest of its ids, by channel."""
        with self._lock:
            return self._buffers.expire(time.monotonic())

    def forget(self, upto: int) -> None:
        """Forget the messages up to this id: the layer was flushed."""
        with self._lock:
            self._buffers.forget(upto)
