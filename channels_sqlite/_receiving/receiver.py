"""A layer's receiving side: consumers that wait, and looks that bring them their messages.

A listener decides when to look, `reading` what is read, and `queues` who gets it. Messages that
were read are in the queues before anything awaits. Only waiters and listeners are bound to an event
loop: a second loop, at the same time or after the first, goes on where the first one is.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from functools import partial
from typing import Any

from .._options import times
from .._sending.trimmer import Trimmer
from .._storing import upkeep
from .._storing.files import is_gone
from .._storing.handle import Busy, Lost, try_until
from .._storing.messages import Item
from .._storing.setup import Setup
from .._waking import bells
from ..exceptions import UndecodableMessage
from ..serializers import Message
from .listening import Listening
from .memberships import Memberships
from .queues import Loop, Queues, Waiter
from .reading import Reading

logger = logging.getLogger("channels_sqlite")

CLOSING_TRIES = 100  # for a lock that others hold


class Retired(Exception):
    """The layer works in another database by now."""


class Receiver:
    def __init__(self, setup: Setup, trimmer: Trimmer) -> None:
        self.client = setup.client
        self._database = setup.database
        self._decode = setup.codec.decode
        self._counters = setup.drops.counters
        self._trimmer = trimmer
        self._lock = threading.RLock()
        self._queues = Queues(self._lock, setup.capacity_of, setup.drops)
        self._reading = Reading(setup, self._queues)
        self._listening = Listening(setup, self._queues, self._on_wake, self._beat)
        self._memberships = Memberships(setup.database, setup.client)
        self._retired = False
        self._beaten_at = time.monotonic()
        self._received = 0  # messages, at the last heartbeat
        setup.database.readers.add(self)

    # Consumers

    async def receive(self, channel: str, inbox: str | None) -> Message:
        """The next message of a channel; `inbox` is that of a process-local one. Cancelling it
        loses nothing, and waits for nothing. Raises Retired.
        """
        loop = asyncio.get_running_loop()
        while True:
            if self._listening.of(loop) is None:
                await self._listen(loop)
            item = await self._next_item(channel, inbox, loop)
            try:
                message = item.copy() if item.copy else item.read(self._decode, channel)
            except UndecodableMessage as error:
                self._counters.unreadable += 1
                if not item.is_reported:
                    item.is_reported = True
                    logger.warning("Row %d, to %s, is skipped: %s", item.row.id, channel, error)
                continue
            self._counters.received += 1
            return message

    async def _next_item(self, channel: str, inbox: str | None, loop: Loop) -> Item:
        while True:
            waiter: Waiter = loop.create_future()
            try:
                if item := self._queues.take_or_wait(channel, waiter):
                    return item
                self._begin(channel, inbox, loop)
                item = await waiter
            except GeneratorExit:  # the garbage collector's, amid anything: no lock is taken now
                self._queues.abandoned.append((channel, waiter))
                raise
            except BaseException:  # a signal handler's, too
                self._stop_waiting(channel, waiter, loop)
                raise
            if item is not None:
                return item
            self._queues.leave(channel, waiter, loop)  # it was told to come and take
            if not (self._retired or self._listening.of(loop)):  # it was closed meanwhile
                await self._listen(loop)

    def _begin(self, channel: str, inbox: str | None, loop: Loop) -> None:
        """A consumer begins to wait: raise Retired, or claim for it, or begin to read its inbox."""
        if self._retired:
            self._stop(loop)
            raise Retired
        if listener := self._listening.of(loop):
            listener.go_on()
        if inbox is None:
            self._claim(channel, loop)
        elif inbox not in self._reading.inboxes:
            with self._lock:
                self._reading.add(inbox)
            self._look(loop, partial(self._reading.look_rung, inboxes=[inbox]))

    def _stop_waiting(self, channel: str, waiter: Waiter, loop: Loop) -> None:
        """A consumer waits no longer; what was claimed for it is given back."""
        with suppress(RuntimeError):  # the loop was closed under it
            self._queues.leave(channel, waiter, loop)
            if "!" in channel:
                return
            with self._lock:
                given_back = self._reading.give_back(channel, loop)
            if given_back is None:
                self._listening.look_again(loop)
            elif given_back:
                bells.ring(self._database, [channel])

    def _claim(self, channel: str, loop: Loop) -> None:
        """A consumer has begun to wait for a normal channel."""
        try:
            with self._lock:
                if channel not in self._reading.normal:
                    self._listening.want_touches(True)
                self._reading.claim(channel, loop)
        except Busy:
            self._listening.look_again(loop)
        except Lost:
            self._database.open_for_readers()

    async def _listen(self, loop: Loop) -> None:
        """Watch first, then look, then wait: what is committed in between is seen.

        Loops that end before their first heartbeat, as those of async_to_sync do, have one here.
        """
        await self._database.ready()
        with self._lock:
            if not (self._retired or self._listening.of(loop)):
                self._listening.start(loop)
        listener = self._listening.of(loop)
        if listener is not None and time.monotonic() > self._beaten_at + times.TIMES.heartbeat:
            listener.beat_now()

    def _stop(self, loop: Loop) -> None:
        with self._lock:
            self._listening.stop(loop)

    async def prepare_to_join(self) -> Callable[[], float]:
        """Have a bell before a channel of ours joins a group; return its membership's clock."""
        await self._database.in_place(self._prepare_to_join)
        return self._memberships.clock

    def _prepare_to_join(self) -> None:
        with self._lock:
            if self._listening.bell is None and not self._retired:
                self._listening.make_bell()
            self._memberships.move_if_clock_was_set()  # just now, perhaps

    # For the database's other users

    @property
    def has_bell(self) -> bool:
        return self._listening.held_bell is not None

    @property
    def listens(self) -> bool:
        return bool(self._listening.loops())

    def rung(self, inboxes: Collection[str] | None, running: Loop | None) -> None:
        """This process has written to these inboxes (None: to any). Look, if they are read here."""
        if inboxes is not None and not self._reading.reads_any(inboxes):
            return
        listener = None if running is None else self._listening.of(running)
        if listener is not None:
            listener.look(rung=inboxes is not None)
        if listener is None or self._database.in_memory:  # no file there tells the other loops
            self._listening.ring()

    def on_opened(self) -> None:
        """The database was opened: look, and have all listen again that wait."""
        self._listening.ring()
        if not all(map(self._listening.of, self._queues.loops())):
            self._queues.wake_everybody()

    def end_lapsed(self) -> None:
        """End the memberships that have lapsed by this process's clock."""
        with self._lock, suppress(Busy, Lost):  # the next heartbeat, or sweep, does it
            self._memberships.end_lapsed()

    def acknowledge_now(self) -> None:
        with self._lock:
            self._reading.acknowledge()

    def status(self) -> dict[str, Any]:
        return self._listening.status()

    # Looking

    def _on_wake(self, loop: Loop, rung: bool) -> bool:
        """Look at the inboxes if their bell was rung, and otherwise at all that has changed."""
        return self._look(loop, self._reading.look_rung if rung else self._reading.look)

    def _look(self, loop: Loop, read: Callable[[Loop], bool]) -> bool:
        """Deliver what `read` finds; return True if it found anything."""
        reading, found, given_back = self._reading, False, None
        with self._lock:
            if self._queues.abandoned:
                given_back = reading.give_back_abandoned(loop)
            reading.more = False
            try:
                self._memberships.move_if_clock_was_set()
                found = read(loop)
            except Busy:
                self._listening.look_again(loop)
            except Lost:  # the connections were closed, by a fork for example
                self._database.open_for_readers()
            more = reading.more
        if given_back:  # without the lock: other layers then look, under locks of theirs
            loop.call_soon(bells.ring, self._database, given_back)
        if found:
            self._acknowledge_later(loop)
        if more:  # after others on the loop have had their turn
            loop.call_soon(partial(self._listening.look, loop, rung=True))
        return found

    def _acknowledge_later(self, loop: Loop, before_a_heartbeat: float = 0) -> None:
        """After a pause, which is shorter on a loop that may end before its first heartbeat."""
        if listener := self._listening.of(loop):
            pause = times.TIMES.acknowledge if listener.has_beaten else before_a_heartbeat
            listener.call_once(pause, "acknowledge", self._acknowledge, loop)

    def _acknowledge(self, loop: Loop) -> None:
        with self._lock:
            if not self._reading.acknowledge():  # a lock of others
                self._acknowledge_later(loop, before_a_heartbeat=times.TIMES.locked[-1])

    def _beat(self, loop: Loop) -> bool:
        """Look at everything, trusting nothing, and do what is to be done now and then."""
        if self._retired:
            return False
        self._beaten_at = time.monotonic()
        self._database.notice_replaced()
        # Before the look: watchfiles cannot tell this from a ring, which the look then sees.
        self._listening.say()
        try:
            return self._look(loop, partial(self._reading.look, thorough=True))
        finally:  # also where every look fails
            if self._database.connections is not None:
                with self._lock:
                    self._tidy(loop)
            if self._counters.received > self._received:
                self._received = self._counters.received
                self._trimmer.trim_if_due()

    def _tidy(self, loop: Loop) -> None:
        self._listening.stop_closed()
        self._queues.expire()
        self._queues.wake_beside_messages(loop)
        self._reading.give_all_back(loop)
        self._reading.forget_idle()
        self._listening.want_touches(bool(self._reading.normal))
        self._acknowledge(loop)
        self.end_lapsed()
        self._listening.watch(loop)

    # Ending

    async def close(self) -> None:
        """Stop listening on the running loop, acknowledge what was taken, and give back what was
        claimed for consumers that are gone. The bell stays while the process lives, as its
        memberships do, and the next use goes on with them.
        """
        loop = asyncio.get_running_loop()
        self._stop(loop)
        for _ in range(CLOSING_TRIES):
            if self._database.connections is None:
                break
            with self._lock:
                if self._reading.acknowledge() and self._reading.give_all_back(loop):
                    break
            await asyncio.sleep(times.TIMES.retry)

    def depart(self, *, waits: bool = True) -> None:
        """The interpreter ends: give up the memberships and what waits, then the bell."""
        if (bell := self._listening.held_bell) is None:
            return
        remove, until = is_gone(self._database.path), time.monotonic() + times.TIMES.close * waits
        with suppress(Exception), self._lock:  # others find that this reader is gone, and do it
            self._reading.acknowledge()
            try_until(self._give_up_claims, until)  # nobody else has these
            self._database.try_write(lambda connection: upkeep.forget(connection, [self.client]))
            remove = True
        bell.close(remove=remove)

    def _give_up_claims(self) -> None:
        if self._database.connections and not self._reading.give_all_back(None):
            raise Busy

    def retire(self) -> None:
        """NAME means another database by now: those that wait are to wait there."""
        self._retired = True
        self._database.readers.discard(self)
        self.abandon()
        self._queues.wake_everybody()
        self.depart(waits=False)  # on the event loop
        self._database.close_unless_used()

    def abandon(self) -> None:
        """Its layer is gone, and with it all that could wait: have every loop stop itself."""
        for loop in self._listening.loops():
            with suppress(RuntimeError):  # it was closed
                loop.call_soon_threadsafe(self._stop, loop)
