"""Normal channels, whose readers compete: messages are claimed, as many as consumers wait.

A claim is one statement, tried only when the channel's sequence has moved, for it takes the write
lock. What was claimed for a consumer that is gone when it arrives goes back to the table, for
another process to take.
"""

from __future__ import annotations

import asyncio
import sqlite3
import threading
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import partial

from . import store
from .consumers import Consumers
from .database import Database
from .exceptions import ChannelsSqliteError
from .messages import Item, Row
from .tasks import Task, Tasks, is_running


@dataclass
class Shared:
    """A normal channel that a consumer of this process has waited for."""

    name: str
    seen: int | None = None
    due: bool = True
    """Whether something may wait to be claimed."""
    claim: Task | None = None
    claimed: list[Row] = field(default_factory=list)
    """What the table has given us, and no consumer has yet: it outlives a task whose loop ends."""


class Claims:
    """The normal channels of one receiver; `lock` is the receiver's."""

    def __init__(
        self,
        database: Database,
        consumers: Consumers,
        tasks: Tasks,
        lock: threading.RLock,
        *,
        keep_delivered: bool,
    ) -> None:
        self._database = database
        self._consumers = consumers
        self._tasks = tasks
        self._lock = lock
        self._keep = keep_delivered
        self._channels: dict[str, Shared] = {}

    def __contains__(self, name: str) -> bool:
        return name in self._channels

    @property
    def names(self) -> Collection[str]:
        """The channels that consumers have waited for."""
        return self._channels

    def want(self, channel: str) -> None:
        """A consumer has begun to wait."""
        with self._lock:
            shared = self._channels.get(channel)
            if shared is None:
                shared = self._channels[channel] = Shared(channel)
            self._start(shared)

    def heed(
        self, reader: sqlite3.Connection, sequences: Mapping[str, int], *, thorough: bool
    ) -> bool:
        """Claim from channels that have moved; whether any consumer was waiting for that.

        A thorough look asks the table, where a consumer waits and no sequence has moved; and it
        forgets the channels that nobody waits for: names may be made for one answer.
        """
        found = False
        for shared in list(self._channels.values()):
            if shared.claimed and not is_running(shared.claim):
                self._arrive(shared)
                shared.due = found = True
            sequence = sequences.get(shared.name)
            moved = sequence is not None and sequence != shared.seen
            shared.seen = sequence
            waited_for = self._consumers.is_waited_for(shared.name)
            if thorough and not waited_for and self._is_idle(shared):
                del self._channels[shared.name]
                continue
            if thorough and waited_for and not moved and not is_running(shared.claim):
                moved = store.has_waiting(reader, shared.name, time.time())
            if thorough and self._consumers.wanting(shared.name) < 0:
                self._tasks.spawn(partial(self.give_back_surplus, shared.name))
            shared.due |= moved
            found |= moved and waited_for
            self._start(shared)
        return found

    def _is_idle(self, shared: Shared) -> bool:
        """Whether nothing of the channel is here, nor on its way."""
        return not (
            shared.claimed or is_running(shared.claim) or self._consumers.wanting(shared.name) < 0
        )

    def begin_anew(self) -> None:
        """The file was replaced."""
        for shared in self._channels.values():
            shared.seen, shared.due = None, True

    def _start(self, shared: Shared) -> None:
        waited_for = self._consumers.is_waited_for(shared.name)
        if shared.due and waited_for and not is_running(shared.claim):
            shared.claim = self._tasks.spawn(partial(self._claim, shared))

    async def _claim(self, shared: Shared) -> None:
        """Claim until there is nothing more, or nobody who waits."""
        while wanted := self._wanted(shared):
            claim = partial(self._claim_into, shared, wanted)
            try:
                shared.due |= await self._database.run(claim, quick=True, aside=True)
            except (Exception, asyncio.CancelledError):
                shared.due = True
                # Also when this task is cancelled with its loop: the rows are ours by now.
                await self._hand_out(shared)
                raise
            await self._hand_out(shared)

    async def _hand_out(self, shared: Shared) -> None:
        with self._lock:
            self._arrive(shared)
        await self.give_back_surplus(shared.name)

    def _wanted(self, shared: Shared) -> int:
        with self._lock:
            wanted = self._consumers.wanting(shared.name)
            if not shared.due or wanted <= 0:
                # Under the lock: who joins after this starts a claim of its own.
                shared.claim = None
                return 0
            shared.due = False
            return wanted

    def _claim_into(self, shared: Shared, wanted: int, connection: sqlite3.Connection) -> bool:
        """Whether there were as many as were asked for: there may be more."""
        rows = store.claim(connection, shared.name, wanted, time.time(), keep=self._keep)
        shared.claimed.extend(rows)
        return len(rows) == wanted

    def _arrive(self, shared: Shared) -> None:
        now, monotonic = time.time(), time.monotonic()
        loop = asyncio.get_running_loop()
        while shared.claimed:
            row = shared.claimed.pop(0)  # another thread may be adding to them
            item = Item(row, monotonic + row.remaining(now))
            self._consumers.deliver([shared.name], item, loop, claimed=True)

    async def give_back_surplus(self, channel: str) -> None:
        """Put back what was claimed for consumers that are gone.

        Where the table cannot take it, it stays here, for the next consumer or heartbeat.
        """
        items = self._consumers.take_surplus(channel)
        if not items:
            return
        rows = [item.row for item in items]
        given_back: list[bool] = []

        def give_back(connection: sqlite3.Connection) -> None:
            store.give_back(connection, rows)
            given_back.append(True)

        try:
            await self._database.run(give_back, ring=True, quick=True, aside=True)
        except ChannelsSqliteError as error:
            self._tasks.complaints.say("Giving back", error)
        else:
            self._tasks.complaints.withdraw("Giving back")
        finally:
            # A cancelled call was run all the same: what is in the table must not be here too.
            if not given_back:
                with self._lock:
                    # It may have been forgotten: nothing of it was here meanwhile.
                    self._channels.setdefault(channel, Shared(channel))
                    self._consumers.put_back(channel, items, asyncio.get_running_loop())
        self._database.nudge()
