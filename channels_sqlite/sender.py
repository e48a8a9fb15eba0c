"""A layer's sending side: sends that are made at the same time ride together."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from sqlite3 import Connection
from typing import NamedTuple
from weakref import WeakKeyDictionary

from . import store
from .conf import Options
from .counters import Counters, DropLog
from .database import Database
from .messages import GroupMessage, Outgoing
from .trimmer import Trimmer

RIDE_TOGETHER = 64  # messages in one statement


class Passenger(NamedTuple):
    """A message that waits for the next statement, and who waits for its verdict."""

    message: Outgoing
    arrival: asyncio.Future[bool]
    since: float
    """Of the monotonic clock."""


class Outbox:
    """One event loop's sends: those that come while a statement is in flight go together in the
    next one.
    """

    def __init__(self) -> None:
        self.passengers: list[Passenger] = []
        self.busy = False
        self.driver: asyncio.Task[None] | None = None


class Sender:
    """Everything that one layer sends, from one process, into one database."""

    def __init__(
        self,
        database: Database,
        trimmer: Trimmer,
        options: Options,
        capacity_of: Callable[[str], int],
        counters: Counters,
        drops: DropLog,
    ) -> None:
        self._database = database
        self._trimmer = trimmer
        self._capacity_of = capacity_of
        self._capacity = None if options.channel_capacity else options.capacity
        self._counters = counters
        self._drops = drops
        self._outboxes: WeakKeyDictionary[asyncio.AbstractEventLoop, Outbox] = WeakKeyDictionary()

    async def send(self, message: Outgoing) -> bool:
        """Whether there was room for the message."""
        loop = asyncio.get_running_loop()
        outbox = self._outboxes.get(loop)
        if outbox is None:
            outbox = self._outboxes[loop] = Outbox()
        if outbox.busy:
            arrival: asyncio.Future[bool] = loop.create_future()
            outbox.passengers.append(Passenger(message, arrival, time.monotonic()))
            return await arrival
        outbox.busy = True
        try:
            (accepted,) = await self._deliver([message], time.monotonic())
        finally:
            self._hand_on(outbox, loop)
        return accepted

    def _hand_on(self, outbox: Outbox, loop: asyncio.AbstractEventLoop) -> None:
        """Somebody drives as long as anybody waits, also when a driver was cancelled."""
        if outbox.passengers:
            outbox.driver = loop.create_task(self._drive(outbox))
            outbox.driver.add_done_callback(lambda _: self._hand_on(outbox, loop))
        else:
            outbox.busy = False
            outbox.driver = None  # it knows its loop, by which the outbox is found

    async def _drive(self, outbox: Outbox) -> None:
        """Send off those who came while a statement was in flight, until nobody comes."""
        while outbox.passengers:
            aboard = outbox.passengers[:RIDE_TOGETHER]
            del outbox.passengers[:RIDE_TOGETHER]
            # Who was cancelled while waiting is not sent.
            if aboard := [each for each in aboard if not each.arrival.done()]:
                await self._ride(aboard)

    async def _ride(self, aboard: list[Passenger]) -> None:
        try:
            # A lock of others is waited for as long as the one who came first may wait.
            accepted = await self._deliver([each.message for each in aboard], aboard[0].since)
        except asyncio.CancelledError:
            for each in aboard:
                each.arrival.cancel()
            raise
        except Exception as error:  # each of them has asked, each of them is told
            for each in aboard:
                if not each.arrival.done():
                    each.arrival.set_exception(error)
            return
        for each, verdict in zip(aboard, accepted, strict=True):
            if not each.arrival.done():
                each.arrival.set_result(verdict)

    async def _deliver(self, messages: list[Outgoing], since: float) -> list[bool]:
        accepted: list[bool] = []
        acknowledge = self._database.acknowledge

        def send(connection: Connection) -> bool:
            accepted.extend(store.send(connection, messages, time.time(), acknowledge))
            return any(accepted)

        try:
            await self._database.run(send, ring=True, quick=True, since=since)
        finally:
            # Also when it was cancelled: it was done all the same.
            self._account(messages, accepted)
        await self._trimmer.wrote(sum(accepted))
        return accepted

    def _account(self, messages: list[Outgoing], accepted: list[bool]) -> None:
        count = sum(accepted)
        self._counters.sent += count
        self._counters.refused += len(accepted) - count
        if count:
            self._database.nudge({message.inbox for message in messages})

    async def group_send(self, message: GroupMessage) -> None:
        """One row for each inbox that has members; one without room misses it, which is counted."""
        full: list[dict[str, float]] = []
        capacity, acknowledge = self._capacity, self._database.acknowledge

        def send(connection: Connection) -> None:
            full.append(
                store.group_send(connection, message, capacity, self._capacity_of, acknowledge)
            )

        try:
            await self._database.run(send, ring=True, quick=True)
        finally:
            # Also when it was cancelled: it was done all the same.
            for each in full:
                self._account_group(message.group, each)
        await self._trimmer.wrote(1)

    def _account_group(self, group: str, full: dict[str, float]) -> None:
        self._counters.sent += 1
        now = time.time()
        for inbox, oldest in full.items():
            self._drops.dropped(inbox, group, self._capacity_of(inbox), now - oldest)
        self._database.nudge()
