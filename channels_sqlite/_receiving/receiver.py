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
from collections.abc import Callable, Collection
from contextlib import suppress
from functools import partial
from typing import Any

from .._options import times
from .._options.codec import Codec
from .._options.conf import Options
from .._sending.trimmer import Trimmer
from .._storing import upkeep
from .._storing.database import Database
from .._storing.handle import Busy, Lost
from ..counters import Counters, DropLog
from .consumers import Consumers
from .listening import Listening
from .memberships import Memberships
from .queues import Loop, Queues
from .reading import Reading

logger = logging.getLogger("channels_sqlite")

CLOSING_TRIES = 100  # for a lock that others hold


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
        self._listening = Listening(
            database, options, client, self._queues, counters, self._look, self._beat
        )
        self._received = 0
        self._memberships = Memberships(database, client)
        self._consumers = Consumers(
            database,
            self._lock,
            self._queues,
            self._reading,
            self._listening,
            codec,
            counters,
            self._listen,
            self._look,
        )
        self.receive = self._consumers.receive
        database.readers.add(self)

    # Listening

    async def _listen(self, loop: Loop) -> None:
        """Watch first, then look, then wait: what is committed in between is seen."""
        await self._database.ready()
        with self._lock:
            if loop not in self._listening:
                self._listening.start(loop)
        # Somebody may have written before we watched, and be about to commit.
        self._listening.write(loop)

    def opened(self) -> None:
        """The database was opened: look, and have those listen again that wait on loops that do
        not.
        """
        self._listening.ring()
        if self._queues.loops() - {*self._listening.loops()}:
            self._queues.tell_everybody()

    def _stop(self, loop: Loop) -> None:
        with self._lock:
            self._listening.stop(loop)

    async def close(self) -> None:
        """Stop listening on the running loop, acknowledge what was taken, and give back what was
        claimed for consumers that are gone.

        The bell stays while the process lives: its memberships do, and the next use goes on with
        them.
        """
        loop = asyncio.get_running_loop()
        self._stop(loop)
        for _ in range(CLOSING_TRIES):
            if self._database.opened is None:
                break
            with self._lock:
                if self._reading.acknowledge() and self._reading.give_all_back(loop):
                    break
            await asyncio.sleep(times.TIMES.retry)

    @property
    def listens(self) -> bool:
        """Return True if it looks after its own memberships, at every heartbeat."""
        return bool(self._listening)

    def abandon(self) -> None:
        """Its layer is gone, and with it all that could wait."""
        self._listening.stop_all(self._stop)

    def status(self) -> dict[str, Any]:
        """How it is, for others."""
        return self._listening.status()

    @property
    def has_bell(self) -> bool:
        """Return True if it may be in groups."""
        return self._listening.bell is not None

    def leave(self) -> None:
        """The interpreter ends: give up the memberships and what waits, then the bell."""
        bell = self._listening.bell
        if bell is None:
            return
        remove = not os.path.exists(self._database.path)
        with suppress(Exception), self._lock:  # others find that this reader is gone, and do it
            self._reading.acknowledge()
            self._reading.give_all_back(None)
            self._database.try_write(lambda connection: upkeep.forget(connection, [self.client]))
            remove = True
        bell.close(remove=remove)

    def retire(self) -> None:
        """NAME means another database by now: those that wait are to wait there."""
        self._consumers.retired = True
        self._database.readers.discard(self)
        self._listening.stop_all(self._stop)
        self._queues.tell_everybody()
        self.leave()

    # Being woken

    def rung(self, inboxes: Collection[str] | None, here: Loop | None) -> None:
        """This process has written to these inboxes, or to any: look, if they are read here."""
        if inboxes is not None and not self._reading.reads_any(inboxes):
            return
        if here is not None and here in self._listening:
            self._listening.look(here, rung=inboxes is not None)
        else:
            self._listening.ring()

    def acknowledge_now(self) -> None:
        """Acknowledge what was taken."""
        with self._lock:
            self._reading.acknowledge()

    def _look(self, loop: Loop, rung: bool, inboxes: Collection[str] | None = None) -> bool:
        """Deliver what is new; return True if there was any."""
        if self._database.has_ended:
            return False
        reading = self._reading
        with self._lock:
            self._consumers.bury(loop)
            reading.more = False
            try:
                self._memberships.mind_the_clock()
                found = (
                    reading.look_rung(inboxes or reading.inboxes, loop)
                    if rung
                    else reading.look(loop)
                )
            except Busy:
                found = False
                self._listening.look_again(loop)
            except Lost:  # the connections were closed, by a fork for example
                self._database.open_for_readers()
                return False
            more = reading.more
        if more:
            self._look_on(loop)
        return found

    def _look_on(self, loop: Loop) -> None:
        """Look again, after others on the loop have had their turn."""
        loop.call_soon(partial(self._listening.look, loop, rung=True))

    # Heartbeats

    def _beat(self, loop: Loop) -> bool:
        """Look at everything, trusting nothing, and do what is to be done now and then."""
        database = self._database
        self._counters.missed_wakes = self._listening.count_missed()
        if database.has_ended or self._consumers.retired:
            return False
        database.notice_replaced()
        # Before the look: watchfiles cannot tell this from a ring, which the look then sees.
        self._listening.say()
        found = False
        with self._lock:
            self._consumers.bury(loop)
            self._reading.more = False
            try:
                self._memberships.mind_the_clock()
                found = self._reading.look(loop, thorough=True)
            except Busy:
                pass
            except Lost:
                self._database.open_for_readers()
                return False
            self._tidy(loop)
            self._listening.keep_watching(loop)
            more = self._reading.more
        if more:
            self._look_on(loop)
        if self._counters.received > self._received:
            self._received = self._counters.received
            self._trimmer.wrote(0)
        return found

    def _tidy(self, loop: Loop) -> None:
        self._listening.stop_closed()
        self._queues.expire()
        self._queues.tell_again(loop)
        self._reading.give_all_back(loop)
        self._reading.forget_idle()
        self._listening.want_touches(bool(self._reading.normal))
        if not self._reading.acknowledge():
            self._listening.look_again(loop)
        self._memberships.end_lapsed()

    async def announce(self) -> None:
        """Have a bell before a channel of ours joins a group."""
        if self._listening.bell is None and not self._database.in_memory:
            await self._database.ready()
            with self._lock:
                self._listening.make_bell()
        with self._lock, suppress(Busy, Lost):  # the clock may have been set just now
            self._memberships.mind_the_clock()
