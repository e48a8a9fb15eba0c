"""A layer's sending side: sends that come while a statement is in flight go together in the next
one.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Sequence
from contextlib import suppress
from contextvars import Context
from functools import partial
from typing import NamedTuple
from weakref import WeakKeyDictionary

from .._options import times
from .._storing import groups, sql
from .._storing.messages import LARGE, GroupMessage, Outgoing
from .._storing.setup import Setup
from .._waking import bells
from ..exceptions import LOCKED, DatabaseUnavailable, code_of
from .trimmer import Trimmer

AT_ONCE = 64  # messages in one statement
MOST_GROUPS = 10_000  # that are remembered


class Waiting(NamedTuple):
    """A message that waits for the next statement, and its sender."""

    message: Outgoing
    verdict: asyncio.Future[bool]
    since: float  # of the monotonic clock

    def fail(self, error: Exception) -> None:
        if not self.verdict.done():
            self.verdict.set_exception(error)


class Outbox:
    """One event loop's sends."""

    def __init__(self) -> None:
        self.waiting: list[Waiting] = []
        self.owner: object = None
        """The message whose statement is in flight, or the task that sends batches; or None."""


class Sender:
    def __init__(self, setup: Setup, trimmer: Trimmer) -> None:
        self._database = setup.database
        self._trimmer = trimmer
        self._capacity_of = setup.capacity_of
        self._counters = setup.drops.counters
        self._drops = setup.drops
        self._reached: set[str] = set()
        """Groups that had members at the last send: they need no look whether they have any."""
        self._outboxes: WeakKeyDictionary[asyncio.AbstractEventLoop, Outbox] = WeakKeyDictionary()

    async def send(self, message: Outgoing) -> bool:
        """Send; False if there was no room, also after the reader was asked for some."""
        accepted = await self._send(message)
        if not accepted and message.inbox.endswith("!"):
            # Messages that its reader has taken need room until the reader acknowledges them.
            if bells.ask_for_room(self._database, message.inbox):
                await asyncio.sleep(times.TIMES.room)
            accepted = await self._send(message)
        if not accepted:
            self._counters.refused += 1
        return accepted

    async def _send(self, message: Outgoing) -> bool:
        loop = asyncio.get_running_loop()
        outbox = self._outboxes.get(loop) or self._begin_on(loop)
        if outbox.owner is not None:
            verdict: asyncio.Future[bool] = loop.create_future()
            outbox.waiting.append(Waiting(message, verdict, time.monotonic()))
            return await verdict
        outbox.owner = message
        try:
            accepted = await self._write_alone(message)
        finally:
            outbox.owner = None  # first: an exception out of a signal handler may come at any call
            self._hand_on(outbox, loop)
        return accepted

    async def _write_alone(self, message: Outgoing) -> bool:
        def write(connection: sqlite3.Connection) -> bool:
            now = time.time()
            if message.expires_at <= now:
                raise self._expired()
            return sql.send_one(connection, message, now)

        accepted = await self._database.write(
            write,
            then=lambda accepted: self._account([message] if accepted else []),
            long=len(message.body) > LARGE,
        )
        await asyncio.sleep(0)  # a task that does nothing but send must not starve the others
        return accepted

    def _account(self, messages: Sequence[Outgoing]) -> None:
        """Count messages that were written, and ring their readers."""
        if messages:
            self._counters.sent += len(messages)
            bells.ring(self._database, {message.inbox for message in messages})
            self._trimmer.trim_if_due(len(messages))

    async def group_send(self, message: GroupMessage) -> None:
        """Write one row for each inbox that has members; one without room misses it, which is
        counted. A group without members needs no lock.
        """
        group = message.group
        if group in self._reached:
            self._reached.discard(group)
            try:
                await self._write_to_group(message, waits=False)
            except DatabaseUnavailable:
                pass  # a lock, for which an empty group need not wait; it may be empty by now
            else:
                return
        if await self._database.read(lambda connection: groups.has_members(connection, group)):
            await self._write_to_group(message)
        else:
            self._counters.sent += 1
            await asyncio.sleep(0)

    async def _write_to_group(self, message: GroupMessage, *, waits: bool = True) -> None:
        def write(connection: sqlite3.Connection) -> tuple[list[str], dict[str, float]]:
            if message.expires_at <= time.time():
                raise self._expired()
            return groups.send(connection, message, self._capacity_of)

        def account(result: tuple[list[str], dict[str, float]]) -> None:
            written, full = result
            if written or full:
                if len(self._reached) >= MOST_GROUPS:
                    self._reached.clear()
                self._reached.add(message.group)
            self._counters.sent += 1
            bells.ring(self._database, written)
            self._trimmer.trim_if_due(len(written))
            now = time.time()
            for inbox, oldest in full.items():
                self._drops.dropped(inbox, message.group, self._capacity_of(inbox), now - oldest)

        long = len(message.body) > LARGE
        await self._database.write(write, then=account, waits=waits, long=long)
        await asyncio.sleep(0)

    # Batches

    def _begin_on(self, loop: asyncio.AbstractEventLoop) -> Outbox:
        # The driver of a closed loop, if it has one, would keep that for ever. Other threads do the
        # same meanwhile.
        for other in [each() for each in self._outboxes.keyrefs()]:
            if other is not None and other.is_closed():
                self._outboxes.pop(other, None)
        outbox = self._outboxes[loop] = Outbox()
        return outbox

    def _hand_on(self, outbox: Outbox, loop: asyncio.AbstractEventLoop) -> None:
        """Start the task that sends batches, if messages wait and none runs."""
        if outbox.waiting and outbox.owner is None and not loop.is_closed():
            # In no sender's context, because it writes for all of them.
            outbox.owner = driver = Context().run(loop.create_task, self._drive(outbox, loop))
            driver.add_done_callback(lambda driver: self._driver_ended(outbox, loop, driver))

    def _driver_ended(
        self, outbox: Outbox, loop: asyncio.AbstractEventLoop, driver: asyncio.Task[None]
    ) -> None:
        if outbox.owner is driver:  # it was cancelled before it began
            outbox.owner = None
            self._hand_on(outbox, loop)

    async def _drive(self, outbox: Outbox, loop: asyncio.AbstractEventLoop) -> None:
        """Send what came while a statement was in flight, until nothing comes."""
        try:
            while outbox.waiting:
                batch = outbox.waiting[:AT_ONCE]
                del outbox.waiting[:AT_ONCE]
                try:
                    # A message whose sender was cancelled while it waited is not sent.
                    if living := [each for each in batch if not each.verdict.done()]:
                        await self._write_batch(outbox, living)
                except BaseException:  # cancelled, or interrupted at any call: nobody else has them
                    for each in batch:
                        with suppress(RuntimeError):  # the loop was closed under it
                            each.verdict.cancel()
                    raise
                await asyncio.sleep(0)  # tasks that do nothing but send must not starve the others
        finally:
            outbox.owner = None
            self._hand_on(outbox, loop)

    async def _write_batch(self, outbox: Outbox, batch: list[Waiting]) -> None:
        def account(written: list[tuple[Waiting, bool]]) -> None:
            self._account([each.message for each, accepted in written if accepted])

        try:
            # A lock of others is waited for as long as the first sender may wait.
            written = await self._database.write(
                partial(_write_living, batch=batch),
                then=account,
                since=batch[0].since,
                long=sum(len(each.message.body) for each in batch) > LARGE,
            )
            for each, accepted in written:
                if not each.verdict.done():
                    each.verdict.set_result(accepted)
            for each in batch:
                each.fail(self._expired())
        except Exception as error:
            failed = batch
            if code_of(error.__cause__) in LOCKED:  # those that came later may wait for longer
                due = time.monotonic() - self._database.timeout
                failed = [each for each in batch if each.since <= due] or batch[:1]
            for each in failed:
                each.fail(error)
            outbox.waiting[:0] = batch[len(failed) :]

    def _expired(self) -> DatabaseUnavailable:
        return DatabaseUnavailable(
            f"{self._database.path}: the message has expired while it waited to be written. It was"
            " not sent."
        )


def _write_living(
    connection: sqlite3.Connection, batch: list[Waiting]
) -> list[tuple[Waiting, bool]]:
    """Write messages that have not expired by now, and whose senders were not cancelled; for each
    of them, whether there was room.
    """
    now = time.time()
    living = [each for each in batch if each.message.expires_at > now and not each.verdict.done()]
    accepted = sql.send(connection, [each.message for each in living], now)
    return list(zip(living, accepted, strict=True))
