"""A layer's receiving side: when to look, and for whom.

Consumers wait in memory; only the receiver reads the database, and what it has read stands in their
buffers before anything awaits. Its state belongs to the layer and not to an event loop: a second
loop, at the same time or after the first, goes on where the first one is. Only waiters and
listeners are bound to a loop.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial

from . import connection, store
from .claims import Claims
from .codec import Codec
from .conf import Options
from .consumers import Consumers, Loop
from .counters import Counters, DropLog
from .database import Database
from .exceptions import UndecodableMessage
from .inboxes import Inboxes
from .messages import Item
from .roll_call import QUESTIONS, Reader, RollCall
from .serializers import Message
from .tasks import Tasks
from .trimmer import Trimmer
from .waiters import Waiter
from .wakes.listener import HEARTBEAT, RING, WRITE, Listener
from .wakes.watcher import Watcher
from .wakes.watchers import subscribe, unsubscribe

logger = logging.getLogger("channels_sqlite")

WATCH_AGAIN_AFTER = 60.0  # seconds, where nothing could be watched: a limit of the kernel, perhaps
FEW = 2  # inboxes; to read one in which nothing is new is a seek, as is to ask for its sequence
UNCHANGING = frozenset([str, bytes, int, float, bool, type(None)])


class Receiver:
    """Everything that one layer receives, in one process, from one database."""

    def __init__(
        self,
        database: Database,
        trimmer: Trimmer,
        options: Options,
        capacity_of: Callable[[str], int],
        codec: Codec,
        counters: Counters,
        drops: DropLog,
    ) -> None:
        self._database = database
        self._trimmer = trimmer
        self._options = options
        self._codec = codec
        self._counters = counters
        self._lock = threading.RLock()
        self._tasks = Tasks()
        keep = options.message_retention > 0
        self._consumers = Consumers(self._lock, capacity_of, counters, drops)
        self._inboxes = Inboxes(
            database,
            self._consumers,
            self._tasks,
            counters,
            capacity_of,
            self._lock,
            keep_delivered=keep,
        )
        self._claims = Claims(
            database, self._consumers, self._tasks, self._lock, keep_delivered=keep
        )
        self._roll_call = RollCall(database, codec, self._tasks, self.describe)
        self._listeners: dict[Loop, Listener] = {}
        self._watcher: Watcher | None = None
        self._generation = database.generation
        self._epoch: int | None = None
        self._nothing_at: tuple[store.Version, int, int] | None = None
        """Where a thorough look has found nothing: what SQLite said, the generation, and how many
        inboxes there were; none is ever taken away.
        """
        self._received = 0
        database.receivers.add(self)

    # Consumers

    async def receive(self, channel: str, inbox: str | None) -> Message:
        """The next message of a channel; `inbox` is that of a process-local one.

        Cancelling it loses nothing. Each consumer of a group's message gets a copy of its own.
        """
        loop = asyncio.get_running_loop()
        if loop not in self._listeners:
            await self._listen(loop)
        if inbox is not None and inbox not in self._inboxes:
            self._attend(inbox)
        while True:
            found = self._consumers.take_or_join(channel, loop)
            if isinstance(found, Item):
                item = found
            else:
                item = await self._wait(channel, found, loop, shared=inbox is None)
            try:
                message = self._message_in(item, channel)
            except UndecodableMessage as error:
                logger.warning("Row %d, to %s, is skipped: %s", item.row.id, channel, error)
                continue
            self._counters.received += 1
            return message

    def _message_in(self, item: Item, channel: str) -> Message:
        """To copy what is flat takes a tenth of the time that it takes to decode it."""
        if item.copy is not None:
            return item.copy()
        decode = partial(self._codec.decode, item.row.body, channel, item.row.group)
        message = decode()
        if item.row.group is not None:
            is_flat = all(type(value) in UNCHANGING for value in message.values())
            item.copy = message.copy().copy if is_flat else decode
        return message

    async def _wait(self, channel: str, waiter: Waiter, loop: Loop, *, shared: bool) -> Item:
        while True:
            if shared:
                self._claims.want(channel)
            try:
                item = await waiter
            except asyncio.CancelledError:
                self._consumers.leave(channel, waiter, loop)
                if shared:
                    await self._claims.give_back_surplus(channel)
                raise
            if item is not None:
                return item
            self._consumers.leave(channel, waiter, loop)  # it was told to come and take
            found = self._consumers.take_or_join(channel, loop)
            if isinstance(found, Item):
                return found
            waiter = found

    async def catch_up(self, inbox: str) -> None:
        """Read what has been sent to a process-local inbox so far."""
        await self._database.ready()
        found, reader = self._attend(inbox), self._database.reader
        if not found or reader is None:
            return
        with self._database.translated():
            with reader.in_use:
                sent = store.sequences(reader, [inbox])
            while found and self._inboxes.moved(sent):
                await asyncio.sleep(0)  # a look ends when it has taken long enough
                found = self._look(False, {inbox})

    def _attend(self, inbox: str) -> bool:
        with self._lock:
            self._inboxes.add(inbox)
        with self._database.translated():
            return self._look(thorough=False)

    # Listening

    async def _listen(self, loop: Loop) -> None:
        """Watch first, then look, then wait: what is committed in between is seen."""
        await self._database.ready()
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
        with self._lock:
            for closed in [each for each in self._listeners if each.is_closed()]:
                self._stop(self._listeners.pop(closed))
            self._listeners[loop] = listener
        # In memory there are no other processes, whose messages a poll could find.
        polls = self._watcher is None and not self._database.in_memory
        listener.start(self._options.polling_interval if polls else HEARTBEAT)
        # Somebody may have written before we watched, and be about to commit.
        listener.wake(WRITE)
        if polls and self._options.watcher == "auto":
            loop.call_later(WATCH_AGAIN_AFTER, self._watch_again, listener)

    def _watch_again(self, listener: Listener) -> None:
        """Where it polls because nothing could be watched: by now that may be possible."""
        if self._listeners.get(listener.loop) is not listener:  # it has stopped
            return
        self._watcher = subscribe(
            self._database.wal, "auto", self._options.polling_interval, listener
        )
        if self._watcher is None:
            listener.loop.call_later(WATCH_AGAIN_AFTER, self._watch_again, listener)
        else:
            listener.start(HEARTBEAT)
            listener.wake(WRITE)

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

    def nudge(self, here: Loop, inboxes: Collection[str] | None = None) -> None:
        """This process has committed something, to `inboxes` if it knows: look, without waiting
        for the file's word.
        """
        if inboxes is not None and not any(map(self._reads, inboxes)):
            return
        if here in self._listeners:
            self._listeners[here].look(partial(self._look, False, inboxes))
            return
        for listener in list(self._listeners.values()):
            with suppress(RuntimeError):  # its loop is closed
                listener.wake_from_elsewhere(RING)
                return

    async def close(self) -> None:
        """Stop listening on the running loop; acknowledge what was taken, end what is in flight."""
        with self._lock:
            listener = self._listeners.pop(asyncio.get_running_loop(), None)
        if listener is not None:
            self._stop(listener)
        for _ in range(2):  # what came while one acknowledgement was in flight, by the next
            with self._lock:
                self._inboxes.acknowledge_all()
            await self._tasks.finish()

    def _reads(self, inbox: str) -> bool:
        return inbox in self._inboxes or inbox in self._claims

    def describe(self) -> Reader:
        """How it is, for who asks."""
        listeners = list(self._listeners.values())
        woken_at = max((each.woken_at for each in listeners if each.woken_at), default=None)
        missed = self._counters.missed_wakes + sum(each.missed_wakes for each in listeners)
        return Reader(
            pid=os.getpid(),
            channels=self._consumers.count_waited_for(),
            watcher=self._watcher_in_use(listeners),
            last_wake=None if woken_at is None else time.monotonic() - woken_at,
            counters=replace(self._counters, missed_wakes=missed),
        )

    def _watcher_in_use(self, listeners: list[Listener]) -> str:
        if self._database.in_memory:
            return "none"
        if self._watcher is None or all(each.polls for each in listeners):
            return "polling"
        return self._watcher.kind

    # Looking

    def _look(self, thorough: bool, inboxes: Collection[str] | None = None) -> bool:
        """Deliver what is new, in `inboxes` or in all that are read here; whether there was any. A
        thorough look trusts no sequence.
        """
        if self._database.ended or (thorough and self._database.forget_replaced()):
            return False
        reader = self._database.reader
        if reader is None:
            return self._open_again()
        with self._lock, reader.in_use:
            if reader.is_closed:  # by another thread, just now
                return self._open_again()
            found = self._look_thoroughly(reader) if thorough else self._read(reader, inboxes)
        if found and self._watcher is not None:
            self._watcher.hurry()
        if thorough:
            self._sweep()
        return found

    def _look_thoroughly(self, reader: connection.Reader) -> bool:
        """Trust nothing but SQLite, which knows whether anybody has written since a look that found
        nothing.
        """
        inboxes = len(self._inboxes.names)
        here = store.version(reader), self._database.generation, inboxes
        if here == self._nothing_at and not self._claims.names:
            return False
        if self._inboxes.were_reset(reader):
            self._database.begin_anew()
        found = self._read(reader, None, thorough=True)
        self._nothing_at = None if found else here
        return found

    def _read(
        self,
        reader: connection.Reader,
        inboxes: Collection[str] | None,
        *,
        thorough: bool = False,
    ) -> bool:
        """What is new in `inboxes` or in all; whether there was any."""
        if self._generation != self._database.generation:
            self._begin_anew()
        if not thorough and self._has_no_need_to_ask(inboxes):
            return self._inboxes.read(reader, inboxes or self._inboxes.names)
        names = [store.EPOCH, QUESTIONS, *self._inboxes.names, *self._claims.names]
        sequences = store.sequences(reader, names)
        self._heed_epoch(sequences.get(store.EPOCH, 0))
        moved = self._inboxes.names if thorough else self._inboxes.moved(sequences)
        found = self._inboxes.read(reader, moved)
        found |= self._claims.heed(reader, sequences, thorough=thorough)
        self._roll_call.heed(reader, sequences)
        return found

    def _has_no_need_to_ask(self, inboxes: Collection[str] | None) -> bool:
        """Whether to read is no more work than to ask for sequences first, and no flush can be
        missed.
        """
        if inboxes is not None:
            return not any(inbox in self._claims for inbox in inboxes)
        few = len(self._inboxes.names) <= FEW and not self._claims.names
        return few and not self._consumers.have_messages

    def _sweep(self) -> None:
        with self._lock:
            self._inboxes.acknowledge_overdue()
        self._consumers.tell_again(asyncio.get_running_loop())
        if expired := self._consumers.expire():
            self._tasks.spawn(partial(self._leave_groups, expired))
        if self._counters.received > self._received:
            self._received = self._counters.received
            # Who has sent that may live for one message only, and so never get to trim.
            self._tasks.spawn(partial(self._trimmer.wrote, 0))

    def _open_again(self) -> bool:
        self._database.open_unasked(partial(self._opened, asyncio.get_running_loop()))
        return False

    def _opened(self, loop: Loop) -> None:
        """On the thread that has opened the file anew: look, on the loop that asked."""
        with suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(self.nudge, loop)

    def _begin_anew(self) -> None:
        self._generation = self._database.generation
        self._epoch = None
        self._inboxes.begin_anew()
        self._claims.begin_anew()
        self._roll_call.begin_anew()

    def _heed_epoch(self, epoch: int) -> None:
        if epoch != self._epoch:
            self._consumers.forget(upto=epoch)
        self._epoch = epoch

    async def _leave_groups(self, expired: Mapping[str, int]) -> None:
        """Consumers let a message expire, its id by channel: the specification takes them for
        gone.
        """
        await self._database.run(partial(store.leave_all_groups, expired=expired), quick=True)
