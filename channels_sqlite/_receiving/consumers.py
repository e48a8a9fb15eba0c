"""The consumers that wait, on any event loop, and how each gets its next message."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Collection
from contextlib import suppress

from .._options.codec import Codec
from .._storing.database import Database
from .._storing.handle import Busy, Lost
from .._storing.messages import Item
from ..counters import Counters
from ..exceptions import UndecodableMessage
from ..serializers import Message
from .listening import Listening
from .queues import Loop, Queues, Waiter
from .reading import Reading

logger = logging.getLogger("channels_sqlite")

Look = Callable[[Loop, bool, "Collection[str] | None"], bool]
"""Deliver what is new, on this loop: if rung, of these inboxes or of all. True if there was any."""


class Retired(Exception):
    """The layer works in another database by now."""


class Consumers:
    """Those of one layer. `listen` has a loop woken from now on."""

    def __init__(
        self,
        database: Database,
        lock: threading.RLock,
        queues: Queues,
        reading: Reading,
        listening: Listening,
        codec: Codec,
        counters: Counters,
        listen: Callable[[Loop], Awaitable[None]],
        look: Look,
    ) -> None:
        self.retired = False
        self._database = database
        self._lock = lock
        self._queues = queues
        self._reading = reading
        self._listening = listening
        self._codec = codec
        self._counters = counters
        self._listen = listen
        self._look = look
        self._left: deque[tuple[str, Waiter, bool]] = deque()

    async def receive(self, channel: str, inbox: str | None) -> Message:
        """The next message of a channel; `inbox` is that of a process-local one.

        Cancelling it loses nothing, and waits for nothing. Each consumer of a group's message gets
        a copy of its own.
        """
        loop = asyncio.get_running_loop()
        if loop not in self._listening:
            await self._listen(loop)
        while True:
            item = await self._next_item(channel, inbox, loop)
            try:
                message = item.copy() if item.copy else item.read(self._codec.decode, channel)
            except UndecodableMessage as error:
                if not item.is_reported:
                    item.is_reported = True
                    logger.warning("Row %d, to %s, is skipped: %s", item.row.id, channel, error)
                continue
            self._counters.received += 1
            return message

    async def _next_item(self, channel: str, inbox: str | None, loop: Loop) -> Item:
        shared = inbox is None
        while True:
            found = self._queues.take_or_wait(channel, loop)
            if isinstance(found, Item):
                return found
            if self.retired:  # looked for after it waits, because those that do are told
                self._queues.leave(channel, found, loop)
                with self._lock:
                    self._listening.stop(loop)
                raise Retired
            try:
                # After it waits: an inbox that nobody waits for may be forgotten.
                if inbox is None:
                    self._claim(channel, loop)
                elif inbox not in self._reading.inboxes:
                    self._begin_to_read(inbox, loop)
                item = await found
            except GeneratorExit:  # the garbage collector's, amid anything: no lock is taken now
                self._left.append((channel, found, shared))
                raise
            except BaseException:  # a signal handler's, too
                with suppress(RuntimeError):  # the loop was closed under it
                    self._leave_queue(channel, found, loop, shared=shared)
                raise
            if item is not None:
                return item
            self._queues.leave(channel, found, loop)  # it was told to come and take
            if not (self.retired or loop in self._listening):  # it was closed meanwhile
                await self._listen(loop)

    def _leave_queue(self, channel: str, waiter: Waiter, loop: Loop, *, shared: bool) -> None:
        self._queues.leave(channel, waiter, loop)
        if shared:
            with self._lock:
                given_back = self._reading.give_back(channel, loop)
            if given_back is None:
                self._listening.look_again(loop)
            elif given_back:
                self._database.readers.ring([channel], loop)

    def bury(self, loop: Loop) -> None:
        """End the waiting of consumers that the garbage collector has closed."""
        while self._left:
            channel, waiter, shared = self._left.popleft()
            with suppress(RuntimeError):  # the loop was closed under it
                self._leave_queue(channel, waiter, loop, shared=shared)

    def _begin_to_read(self, inbox: str, loop: Loop) -> None:
        with self._lock:
            self._reading.add(inbox)
        with self._reading.translated():
            self._look(loop, True, [inbox])

    def _claim(self, channel: str, loop: Loop) -> None:
        """A consumer has begun to wait for a normal channel."""
        try:
            with self._lock, self._reading.translated():
                if channel not in self._reading.normal:
                    self._listening.want_touches(True)
                self._reading.claim(channel, loop)
        except Busy:
            self._listening.look_again(loop)
        except Lost:
            self._database.open_for_readers()
