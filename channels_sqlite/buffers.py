"""Messages that this process has taken from the database, and that its consumers have not asked for
yet.

Pure and synchronous; the receiver holds its lock around every call. `now` is of the monotonic
clock.
"""

from __future__ import annotations

import bisect
from collections import deque
from collections.abc import Callable

from .counters import Counters
from .messages import Item


class Buffers(dict[str, "deque[Item]"]):
    """A queue for each channel that has something waiting, and none for the others."""

    def __init__(self, counters: Counters) -> None:
        super().__init__()
        self._counters = counters

    def count(self, channel: str) -> int:
        """How many messages wait for a channel."""
        return len(self.get(channel, ()))

    def put(self, channel: str, item: Item) -> int:
        """Add the newest message; how many wait now."""
        queue = self.get(channel)
        if queue is None:
            self[channel] = deque((item,))
            return 1
        queue.append(item)
        return len(queue)

    def put_back(self, channel: str, item: Item) -> None:
        """Return a message that was taken, and not used, to its place: before nearly all others."""
        bisect.insort_left(self.setdefault(channel, deque()), item, key=lambda each: each.row.id)

    def drop_oldest(self, channel: str) -> Item:
        """Take away the message that has waited longest, to make room."""
        return self[channel].popleft()

    def take(self, channel: str, now: float) -> Item | None:
        """The oldest message that has not expired, or None."""
        queue = self.get(channel)
        if queue is None:
            return None
        item = queue.popleft()
        while item.deadline <= now and queue:
            self._counters.expired += 1
            item = queue.popleft()
        if not queue:
            del self[channel]
        if item.deadline > now:
            return item
        self._counters.expired += 1
        return None

    def take_newest(self, channel: str, count: int) -> list[Item]:
        """Take the `count` newest messages back, in their order."""
        queue = self.get(channel, deque())
        newest = [queue.pop() for _ in range(min(count, len(queue)))]
        if not queue:
            self.pop(channel, None)
        return newest[::-1]

    def expire(self, now: float) -> dict[str, int]:
        """Forget what has expired; the newest of its ids, by channel."""
        gone = self._keep(lambda item: item.deadline > now)
        self._counters.expired += sum(map(len, gone.values()))
        return {channel: max(item.row.id for item in items) for channel, items in gone.items()}

    def forget(self, upto: int) -> None:
        """Forget the messages up to this id: the layer was flushed."""
        self._keep(lambda item: item.row.id > upto)

    def _keep(self, wanted: Callable[[Item], bool]) -> dict[str, list[Item]]:
        """Forget all others, and return them."""
        gone = {}
        for channel, queue in list(self.items()):
            kept = deque(filter(wanted, queue))
            if len(kept) < len(queue):
                gone[channel] = [item for item in queue if not wanted(item)]
                self[channel] = kept
            if not kept:
                del self[channel]
        return gone
