"""A layer's receiving side: who listens, and what happens when it is woken.

Consumers wait in memory, in `queues`; what is read from the database, by `reading`, is in their
queues before anything awaits. That state belongs to the layer and not to an event loop: a second
loop, at the same time or after the first, goes on where the first one is. Only waiters and
listeners are bound to a loop.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
from collections.abc import Callable, Collection
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import asdict, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from .._options.codec import Codec
from .._options.conf import Options
from .._sending.trimmer import Trimmer
from .._storing import sql, upkeep
from .._storing.connections import Busy, Connections, Lost
from .._storing.database import Database
from .._storing.messages import Item
from .._waking.bells import Bell
from .._waking.listener import Listener, ring_if_open
from .._waking.watchers import watch
from ..counters import Counters, DropLog
from ..exceptions import UndecodableMessage
from ..serializers import Message
from .queues import Loop, Queues, Waiter
from .reading import Reading

if TYPE_CHECKING:
    from .._waking.watchers import Watcher

logger = logging.getLogger("channels_sqlite")

ACKNOWLEDGE_AFTER = 0.05  # seconds
OVERDUE = 1.0  # seconds; its timer was on a loop that has ended
WATCH_AGAIN_AFTER = 60.0  # seconds, where watching did not work: a limit of the kernel, perhaps
CLOCK_WAS_SET = 1.0  # seconds that the wall clock moves against the monotonic one
UNCHANGING = frozenset([str, bytes, int, float, bool, type(None)])


class Retired(Exception):
    """The layer works in another database by now."""


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
        client: str,
    ) -> None:
        self.client = client
        self._database = database
        self._trimmer = trimmer
        self._options = options
        self._codec = codec
        self._counters = counters
        self._lock = threading.RLock()
        self._queues = Queues(self._lock, capacity_of, counters, drops)
        self._reading = Reading(
            database,
            self._queues,
            counters,
            capacity_of,
            keep_delivered=options.message_retention > 0,
        )
        self._listeners: dict[Loop, Listener] = {}
        self._watchers: dict[Loop, Watcher | None] = {}
        self._watched: dict[Loop, object] = {}
        """The connections that were open when a loop began to watch: of others the log may be
        another file."""
        self._bell: Bell | None = None
        self._acknowledge_at = float("inf")
        self._received = 0
        self._clocks_apart = _clocks_apart()
        self._lapse_at = float("inf")
        self._retired = False
        database.readers.add(self)

    # Consumers

    async def receive(self, channel: str, inbox: str | None) -> Message:
        """The next message of a channel; `inbox` is that of a process-local one.

        Cancelling it loses nothing, and waits for nothing. Each consumer of a group's message gets
        a copy of its own.
        """
        loop = asyncio.get_running_loop()
        if loop not in self._listeners:
            await self._listen(loop)
        if inbox is not None and inbox not in self._reading.inboxes:
            with self._lock:
                self._reading.add(inbox)
            self._look(loop, rung=True, inboxes=[inbox])
        while True:
            item = await self._next_item(channel, loop, shared=inbox is None)
            try:
                message = self._message_in(item, channel)
            except UndecodableMessage as error:
                logger.warning("Row %d, to %s, is skipped: %s", item.row.id, channel, error)
                continue
            self._counters.received += 1
            return message

    async def _next_item(self, channel: str, loop: Loop, *, shared: bool) -> Item:
        while True:
            found = self._queues.take_or_wait(channel, loop)
            if isinstance(found, Item):
                return found
            if shared:
                self._claim(channel, loop)
            try:
                item = await found
            except BaseException:  # a signal handler's, too
                with suppress(RuntimeError):  # the loop was closed under it
                    self._leave_queue(channel, found, loop, shared=shared)
                raise
            if item is not None:
                return item
            self._queues.leave(channel, found, loop)  # it was told to come and take
            if self._retired:
                raise Retired

    def _leave_queue(self, channel: str, waiter: Waiter, loop: Loop, *, shared: bool) -> None:
        self._queues.leave(channel, waiter, loop)
        if shared:
            with self._lock:
                given_back = self._reading.give_back(channel, loop)
            if given_back:
                self._database.ring_locally([channel], loop)
            elif loop in self._listeners:
                self._listeners[loop].look_again()

    def _claim(self, channel: str, loop: Loop) -> None:
        """A consumer has begun to wait for a normal channel."""
        try:
            with self._lock:
                if channel not in self._reading.normal:
                    for watcher in self._watchers.values():
                        if watcher is not None:
                            watcher.want_touches(True)
                self._reading.claim(channel, loop)
        except Busy:
            if listener := self._listeners.get(loop):
                listener.look_again()
        except Lost:
            self._open_then_look(loop)

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

    # Listening

    async def _listen(self, loop: Loop) -> None:
        """Watch first, then look, then wait: what is committed in between is seen."""
        await self._database.ready()
        if loop in self._listeners:
            return
        listener = Listener(
            loop,
            partial(self._look, loop),
            partial(self._beat, loop),
            partial(self._on_deaf, loop),
            self._database.once,
        )
        with self._lock:
            for closed in [each for each in self._listeners if each.is_closed()]:
                self._stop(closed)
            self._listeners[loop] = listener
            try:
                self._watch(loop)
            except BaseException:
                del self._listeners[loop]
                raise
        # Somebody may have written before we watched, and be about to commit.
        listener.write()

    def _watch(self, loop: Loop) -> None:
        """Begin to watch the files that are open by now, with a bell of ours among them."""
        listener, database = self._listeners[loop], self._database
        watcher = self._watchers.pop(loop, None)
        if watcher is not None:
            watcher.stop()
        self._watched[loop] = database.opened
        if database.in_memory:  # there are no other processes
            listener.start(None)
            return
        self._make_bell()
        bell = None if self._bell is None else self._bell.path
        interval = self._options.polling_interval
        watcher = watch(
            self._options.watcher, listener, database.files.wal, bell, interval, database.once
        )
        if watcher is not None:
            watcher.want_touches(bool(self._reading.normal))
        elif self._options.watcher == "auto":
            loop.call_later(WATCH_AGAIN_AFTER, self._watch_again, loop)
        self._watchers[loop] = watcher
        listener.start(interval if watcher is None else None)

    def _make_bell(self) -> None:
        if self._bell is not None and self._bell.is_in(self._database.files):
            return
        if self._bell is not None:
            self._bell.close(remove=False)
        try:
            self._bell = Bell(self._database.files, self.client, self.status())
        except OSError as error:
            self._bell = None
            self._database.once.warn(
                "Making a bell",
                f"No bell can be made in {self._database.files.bells}: {error}. Messages to this"
                " process come later, and others cannot tell when it has ended.",
            )
        else:
            self._database.once.well("Making a bell")

    def _watch_again(self, loop: Loop) -> None:
        """Where watching did not work: by now that may be possible."""
        if loop in self._listeners:
            with self._lock:
                self._watch(loop)
            self._listeners[loop].write()

    def _on_deaf(self, loop: Loop) -> None:
        """Poll for a while; a directory that was moved, or a full kernel, may be well again."""
        interval = self._options.polling_interval
        self._database.once.warn(
            "Watching",
            f"No file events for {self._database.files.wal} (network or virtual file system?);"
            f" polling every {interval} s, and watching again in {WATCH_AGAIN_AFTER:.0f} s.",
        )
        self._listeners[loop].start(interval)
        loop.call_later(WATCH_AGAIN_AFTER, self._watch_again, loop)

    def _stop(self, loop: Loop) -> None:
        with self._lock:
            listener = self._listeners.pop(loop, None)
            watcher = self._watchers.pop(loop, None)
            self._watched.pop(loop, None)
        if listener is not None:
            listener.stop()
            self._counters.missed_wakes += listener.missed_wakes
        if watcher is not None:
            watcher.stop()

    async def close(self) -> None:
        """Stop listening on the running loop, and acknowledge what was taken.

        The bell stays while the process lives: its memberships do, and the next use goes on with
        them.
        """
        self._stop(asyncio.get_running_loop())
        for _ in range(CLOSING_TRIES):
            with self._lock:
                if not self._reading.owes or self._reading.acknowledge():
                    break
            await asyncio.sleep(0.001)

    @property
    def has_bell(self) -> bool:
        """Return True if it may be in groups."""
        return self._bell is not None

    def leave(self) -> None:
        """The interpreter ends: give up the memberships and what waits, then the bell."""
        if self._bell is None:
            return
        gone = False
        with suppress(Exception):  # others find that this reader is gone, and do it
            with self._lock:
                self._reading.acknowledge()
            self._database.try_write(lambda connection: upkeep.forget(connection, [self.client]))
            gone = True
        self._bell.close(remove=gone or not os.path.exists(self._database.path))

    def retire(self) -> None:
        """NAME means another database by now: those that wait are to wait there."""
        self._retired = True
        for loop in list(self._listeners):
            with suppress(RuntimeError):  # it was closed
                loop.call_soon_threadsafe(self._stop, loop)
        self._queues.tell_everybody()
        self.leave()

    # Being woken

    def rung(self, inboxes: Collection[str] | None, here: Loop | None) -> None:
        """This process has written to these inboxes, or to any: look, if they are read here."""
        if inboxes is not None:
            inboxes = [each for each in inboxes if self._reads(each)]
            if not inboxes:
                return
        if here is not None and here in self._listeners:
            self._listeners[here].look(rung=inboxes is not None)
            return
        if here is not None and not self._listeners:  # it was closed, and some still wait
            self._look(here, rung=True)
            return
        for listener in list(self._listeners.values()):
            if ring_if_open(listener):
                return

    def _reads(self, inbox: str) -> bool:
        return inbox in self._reading.inboxes or inbox in self._reading.normal

    def acknowledge_now(self) -> bool:
        """Acknowledge what was taken; return True if there was anything."""
        with self._lock:
            return self._reading.owes and self._reading.acknowledge()

    def _look(self, loop: Loop, rung: bool, inboxes: Collection[str] | None = None) -> bool:
        """Deliver what is new; return True if there was any."""
        if self._database.ended:
            return False
        reading = self._reading
        with self._lock:
            reading.more = False
            try:
                self._mind_the_clock()
                found = (
                    reading.look_rung(inboxes or reading.inboxes, loop)
                    if rung
                    else reading.look(loop)
                )
            except Busy:
                found = False
                if listener := self._listeners.get(loop):
                    listener.look_again()
            except Lost:
                self._open_then_look(loop)
                return False
            if reading.owes:
                self._acknowledge_soon(loop)
        if reading.more:  # others on the loop have their turn first
            loop.call_soon(self._look, loop, True)
        return found

    def _acknowledge_soon(self, loop: Loop) -> None:
        """In a batch; the time is kept here, because a timer may be of a loop that has ended."""
        now = time.monotonic()
        if not now < self._acknowledge_at < now + OVERDUE:
            self._acknowledge_at = now + ACKNOWLEDGE_AFTER
            loop.call_later(ACKNOWLEDGE_AFTER, self._acknowledge, loop)

    def _acknowledge(self, loop: Loop) -> None:
        self._acknowledge_at = float("inf")
        with self._lock:
            if not self._reading.acknowledge() and loop in self._listeners:
                self._listeners[loop].look_again()

    def _open_then_look(self, loop: Loop) -> None:
        """The connections were closed, by a fork for example: open them for those who wait."""

        def opened(opening: Future[Connections]) -> None:
            if error := opening.exception():
                self._database.once.failed("Opening", error)
            elif listener := self._listeners.get(loop):
                ring_if_open(listener)

        try:
            self._database.open().add_done_callback(opened)
        except RuntimeError as error:  # no thread
            self._database.once.failed("Opening", error)

    # Heartbeats

    def _beat(self, loop: Loop) -> bool:
        """Look at everything, trusting nothing, and do what is to be done now and then."""
        database = self._database
        if database.ended:
            return False
        database.notice_replaced()
        found = False
        with self._lock:
            try:
                self._mind_the_clock()
                found = self._reading.look(loop, thorough=True)
                if self._must_watch_again(loop):
                    self._watch(loop)
            except Busy:
                pass
            except Lost:
                self._open_then_look(loop)
                return False
            self._tidy(loop)
        if self._counters.received > self._received:
            self._received = self._counters.received
            self._trimmer.wrote(0)
        if self._bell is not None:
            self._bell.say(self.status())
        return found

    def _must_watch_again(self, loop: Loop) -> bool:
        if self._watched.get(loop) is not self._database.opened:
            return True
        bell = self._bell
        return not self._database.in_memory and not (bell and bell.is_in(self._database.files))

    def _tidy(self, loop: Loop) -> None:
        self._queues.expire()
        self._queues.tell_again(loop)
        for channel in list(self._reading.normal):
            self._reading.give_back(channel, loop)
        self._reading.forget_idle()
        if self._reading.owes:
            self._reading.acknowledge()
        self._end_memberships()

    async def announce(self, lapses_in: float) -> None:
        """Have a bell before a channel of ours joins a group, whose membership may lapse in so many
        seconds.
        """
        if self._bell is None and not self._database.in_memory:
            await self._database.ready()
            with self._lock:
                self._make_bell()
        self._lapse_at = min(self._lapse_at, time.monotonic() + lapses_in)

    def _mind_the_clock(self) -> None:
        """Memberships of a reader that lives age by a clock that nobody sets: when the wall clock
        was, they are moved with it. Before anything is read, because that goes by them.
        """
        apart = _clocks_apart()
        moved = apart - self._clocks_apart
        if abs(moved) > CLOCK_WAS_SET:
            names = list(self._reading.inboxes)
            self._database.try_write(
                lambda connection: sql.move_memberships(connection, names, moved)
            )
            self._clocks_apart = apart

    def _end_memberships(self) -> None:
        """Delete those that have lapsed."""
        if time.monotonic() >= self._lapse_at:
            now, names = time.time(), list(self._reading.inboxes)
            with suppress(Busy, Lost):
                self._database.try_write(
                    lambda connection: sql.end_memberships(connection, names, now)
                )

    # How it is

    def status(self) -> dict[str, Any]:
        """How it is, for others."""
        listeners = list(self._listeners.values())
        woken_at = max((each.woken_at for each in listeners if each.woken_at), default=None)
        missed = self._counters.missed_wakes + sum(each.missed_wakes for each in listeners)
        return {
            "pid": os.getpid(),
            "watcher": self._watcher_in_use(),
            "channels": len(self._queues),
            "woken_at": None if woken_at is None else round(_clocks_apart() + woken_at, 3),
            "counters": asdict(replace(self._counters, missed_wakes=missed)),
        }

    def _watcher_in_use(self) -> str:
        if self._database.in_memory:
            return "none"
        kinds = [
            watcher.kind
            for loop, watcher in list(self._watchers.items())
            if watcher is not None and not self._listeners[loop].polls
        ]
        return kinds[0] if kinds else "polling"


CLOSING_TRIES = 100  # of a millisecond each, for a lock that others hold


def _clocks_apart() -> float:
    """Seconds; they change only when somebody sets the wall clock, or the machine has slept."""
    return time.time() - time.monotonic()
