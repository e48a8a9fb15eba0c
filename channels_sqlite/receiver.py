"""A layer's receiving side: from rows to consumers.

Consumers wait for buffers in memory; only the receiver reads the database, and what it has read
stands in the buffers before anything awaits. Its state belongs to the layer and not to an event
loop: a second loop, at the same time or after the first, goes on where the first one is. Only
waiters and listeners are bound to a loop.

A process-local inbox has this one reader. It reads by a cursor, and acknowledges what it took in
batches. A normal channel has readers in other processes too: see `claims`.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from contextlib import closing, suppress
from functools import partial
from typing import Any

from . import store
from .buffers import Buffers
from .claims import Claims
from .codec import Codec
from .conf import Options
from .connection import Database
from .counters import Counters, DropLog
from .exceptions import UndecodableMessage
from .messages import Item
from .serializers import Message
from .tasks import Task, Tasks, is_running
from .waiters import Waiters
from .wakes.listener import HEARTBEAT, RING, Listener
from .wakes.watchers import Watcher, subscribe, unsubscribe

logger = logging.getLogger("channels_sqlite")

ACKNOWLEDGE_AFTER = 0.05  # seconds
LOOK_FOR = 0.002  # seconds that one look may hold the event loop, and then the row at hand


class Inbox:
    """How far a process-local inbox was read, and how much of that the table does not know yet."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.begin_anew()

    def begin_anew(self) -> None:
        """The file was replaced, ids restart."""
        self.cursor = 0
        self.seen: int | None = None
        self.unacknowledged = 0
        self.taken_at = 0.0
        self.acknowledgement: Task | None = None
        self.timer: asyncio.TimerHandle | None = None


class Receiver:
    """Everything that one layer receives, in one process, from one database."""

    def __init__(
        self,
        database: Database,
        options: Options,
        capacity_of: Callable[[str], int],
        codec: Codec,
        counters: Counters,
        drops: DropLog,
    ) -> None:
        self._database = database
        self._options = options
        self._capacity_of = capacity_of
        self._codec = codec
        self._counters = counters
        self._drops = drops
        self._lock = threading.Lock()
        self._buffers = Buffers(counters)
        self._waiters = Waiters()
        self._tasks = Tasks()
        self._inboxes: dict[str, Inbox] = {}
        self._claims = Claims(
            database, options, self._lock, self._buffers, self._waiters, self._tasks
        )

        self._listeners: dict[asyncio.AbstractEventLoop, Listener] = {}
        self._watcher: Watcher | None = None
        self._epoch: int | None = None
        self._generation = database.generation
        database.receivers.add(self)

    # Consumers

    async def receive(self, channel: str, inbox: str | None) -> Message:
        """The next message of a channel; `inbox` is that of a process-local one.

        Cancelling it loses nothing: until it returns, the message stands in the buffer. Each
        consumer of a group's message gets a copy of its own, decoded here.
        """
        loop = asyncio.get_running_loop()
        if loop not in self._listeners:
            await self._listen(loop)
        if inbox is not None and inbox not in self._inboxes:
            self._attend(inbox)
        while True:
            item = self._take(channel, loop)
            if item is None:
                await self._wait(channel, loop, shared=inbox is None)
                continue
            try:
                message = self._codec.decode(item.row.body, item.row.group or channel)
            except UndecodableMessage as error:
                logger.warning("Row %d, to %s, is skipped: %s", item.row.id, channel, error)
                continue
            self._counters.received += 1
            return message

    async def catch_up(self, inbox: str) -> None:
        """Read what has been sent to a process-local inbox so far."""
        await self._database.opened()
        self._attend(inbox)

    def _attend(self, inbox: str) -> None:
        with self._lock:
            self._inboxes.setdefault(inbox, Inbox(inbox))
        self._look(thorough=False)

    def _take(self, channel: str, loop: asyncio.AbstractEventLoop) -> Item | None:
        with self._lock:
            item = self._buffers.take(channel, time.monotonic())
            if channel in self._buffers and channel in self._waiters:
                self._waiters.tell(channel, loop)
            return item

    async def _wait(self, channel: str, loop: asyncio.AbstractEventLoop, *, shared: bool) -> None:
        with self._lock:
            if channel in self._buffers:
                return
            waiter = self._waiters.join(channel, loop)
            if shared:
                self._claims.want(channel)
        try:
            await waiter
        except asyncio.CancelledError:
            with self._lock:
                self._waiters.leave(channel, waiter)
                if channel in self._buffers:
                    self._waiters.tell(channel, loop)
            if shared:
                await self._claims.give_back_surplus(channel)
            raise
        with self._lock:
            self._waiters.leave(channel, waiter)

    # Listening

    async def _listen(self, loop: asyncio.AbstractEventLoop) -> None:
        """Watch first, then look, then wait: what is committed in between is seen."""
        await self._database.opened()
        if loop in self._listeners:
            return
        listener = Listener(loop, self._look, self._on_deaf)
        if not self._database.in_memory:
            self._watcher = subscribe(
                self._database.wal,
                self._options.watcher,
                self._options.polling_interval,
                listener,
            )
        for closed in [each for each in self._listeners if each.is_closed()]:
            self._stop(self._listeners.pop(closed))
        self._listeners[loop] = listener
        # In memory there are no other processes, whose messages a poll could find.
        polls = self._watcher is None and not self._database.in_memory
        listener.start(self._options.polling_interval if polls else HEARTBEAT)

    def _on_deaf(self, listener: Listener) -> None:
        logger.warning(
            "Watching %s announces nothing (is it on a network or virtual file system?)."
            " Polling every %s s instead.",
            self._database.wal,
            self._options.polling_interval,
        )
        if self._watcher is not None:
            unsubscribe(self._watcher, listener)
        listener.start(self._options.polling_interval)

    def _stop(self, listener: Listener) -> None:
        listener.stop()
        self._counters.missed_wakes += listener.missed_wakes
        if self._watcher is not None:
            unsubscribe(self._watcher, listener)

    def nudge(self, here: asyncio.AbstractEventLoop) -> None:
        """This process has committed a message: look, without waiting for the file's word."""
        if here in self._listeners:
            self._listeners[here].look()
            return
        for loop, listener in list(self._listeners.items()):
            if not loop.is_closed():
                listener.wake_from_elsewhere(RING)
                return

    # Looking

    def _look(self, thorough: bool) -> bool:
        """Move what is new into the buffers; whether there was any. A thorough look trusts no
        sequence.
        """
        loop = asyncio.get_running_loop()
        if thorough and self._database.forget_replaced():
            return False
        reader = self._database.reader
        if reader is None:
            self._database.open().add_done_callback(partial(self._opened, loop))
            return False
        with self._lock:
            found = self._read_all(reader, loop, thorough)
            self._claims.start_due()
        if found and self._watcher is not None:
            self._watcher.hurry()
        if thorough:
            self._expire()
        return found

    def _opened(self, loop: asyncio.AbstractEventLoop, opening: Future[Any]) -> None:
        """On the thread that opened the database anew: look, on the loop that asked."""
        if opening.exception() is None:
            with suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(self._look, False)

    def _read_all(
        self, reader: sqlite3.Connection, loop: asyncio.AbstractEventLoop, thorough: bool
    ) -> bool:
        if self._generation != self._database.generation:
            self._begin_anew()
        names = json.dumps([store.EPOCH, *self._inboxes, *self._claims.channels])
        sequences = store.sequences(reader, names)
        self._heed_epoch(sequences.get(store.EPOCH, 0))
        found = self._claims.heed(sequences, reader if thorough else None)
        for inbox in self._inboxes.values():
            sequence = sequences.get(inbox.name)
            if thorough or sequence != inbox.seen:
                inbox.seen = sequence
                found |= self._read(reader, inbox, loop)
        return found

    def _heed_epoch(self, epoch: int) -> None:
        if self._epoch is not None and epoch != self._epoch:
            self._buffers.clear()
        self._epoch = epoch

    def _begin_anew(self) -> None:
        self._generation = self._database.generation
        self._epoch = None
        for inbox in self._inboxes.values():
            inbox.begin_anew()
        self._claims.begin_anew()

    def _read(
        self, reader: sqlite3.Connection, inbox: Inbox, loop: asyncio.AbstractEventLoop
    ) -> bool:
        now, started = time.time(), time.monotonic()
        before = inbox.cursor
        with closing(store.arrivals(reader, inbox.name, inbox.cursor)) as rows:
            for row, channels in rows:
                inbox.cursor = row.id
                remaining = row.remaining(now)
                if remaining <= 0:
                    self._counters.expired += 1
                    continue
                inbox.taken_at = inbox.taken_at if inbox.unacknowledged else now
                inbox.unacknowledged += 1
                item = Item(row, started + remaining)
                for channel in channels:
                    self._deliver(channel, item, loop)
                if time.monotonic() - started > LOOK_FOR:
                    loop.call_soon(self._look_again, inbox)
                    break
        if inbox.unacknowledged:
            self._acknowledge_soon(inbox, loop)
        return inbox.cursor != before

    def _look_again(self, inbox: Inbox) -> None:
        """There was more than one look may take; others on the loop had their turn."""
        inbox.seen = None
        self._look(thorough=False)

    def _deliver(self, channel: str, item: Item, loop: asyncio.AbstractEventLoop) -> None:
        if self._buffers.put(channel, item) > 1 and self._buffers.count(
            channel
        ) > self._capacity_of(channel):
            oldest = self._buffers.drop_oldest(channel).row
            age = time.time() - oldest.created_at
            self._drops.dropped(channel, oldest.group, self._capacity_of(channel), age)
        self._waiters.tell(channel, loop)

    def _expire(self) -> None:
        with self._lock:
            channels = self._buffers.expire(time.monotonic())
        if channels:
            self._tasks.spawn(self._leave_groups(channels))

    async def _leave_groups(self, channels: Iterable[str]) -> None:
        await self._database.run(partial(store.leave_all_groups, channels=channels))

    # Acknowledging

    def _acknowledge_soon(self, inbox: Inbox, loop: asyncio.AbstractEventLoop) -> None:
        """In a batch, but before so many are outstanding that a sender would see a full inbox."""
        if inbox.unacknowledged * 4 >= self._capacity_of(inbox.name):
            self._acknowledge(inbox)
        elif inbox.timer is None or inbox.timer.when() < loop.time() - HEARTBEAT:
            # A timer that is overdue was set on a loop that has stopped.
            inbox.timer = loop.call_later(ACKNOWLEDGE_AFTER, self._acknowledge, inbox)

    def _acknowledge(self, inbox: Inbox) -> None:
        inbox.timer = None
        if inbox.unacknowledged and not is_running(inbox.acknowledgement):
            inbox.acknowledgement = self._tasks.spawn(self._write_acknowledgement(inbox))

    async def _write_acknowledgement(self, inbox: Inbox) -> None:
        with self._lock:
            count, generation = inbox.unacknowledged, self._generation
            statement = partial(
                store.acknowledge,
                inbox=inbox.name,
                upto=inbox.cursor,
                taken_at=inbox.taken_at,
                now=time.time(),
                keep=self._options.message_retention > 0,
            )
            inbox.unacknowledged = 0
        try:
            await self._database.run(statement)
        except BaseException:
            if generation == self._generation:
                inbox.unacknowledged += count
            raise
        inbox.acknowledgement = None
        if inbox.unacknowledged:
            self._acknowledge_soon(inbox, asyncio.get_running_loop())

    async def close(self) -> None:
        """Stop listening on the running loop; acknowledge what was taken, and end what is in
        flight.
        """
        loop = asyncio.get_running_loop()
        if loop in self._listeners:
            self._stop(self._listeners.pop(loop))
        for inbox in self._inboxes.values():
            self._acknowledge(inbox)
        await self._tasks.finish()
