"""How far a reader has come in the tables: it looks, claims, hands over and acknowledges.

Nothing in here awaits. A process-local inbox has this one reader: it is read by a cursor, and
acknowledged in batches. Normal channels have competing readers: messages are claimed, as many as
consumers wait, and handed over in the same step.

The receiver calls all of it under its lock, on an event loop.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Collection, Iterable
from functools import partial

from .._options import times
from .._storing import sql
from .._storing.handle import Busy, Lost
from .._storing.messages import Item, Row
from .._storing.private import has_open_transaction
from .._storing.schema import EPOCH
from .._storing.setup import Setup
from ..exceptions import DatabaseUnavailable
from .inbox import Inbox
from .queues import Loop, Queues

AT_ONCE = 32  # messages in one read
OWED = 256  # messages that are not acknowledged, at most: each send has to count them
MANY = 64  # inboxes; one is usual, that of new_channel's own prefix
EPOCHS = 8  # of before, which a reader remembers


class Reading:
    def __init__(self, setup: Setup, queues: Queues) -> None:
        self._database = setup.database
        self._queues = queues
        self._counters = setup.drops.counters
        self._capacity_of = setup.capacity_of
        self._retains = setup.options.message_retention > 0
        self.inboxes: dict[str, Inbox] = {}  # the process-local inboxes that are read
        self.normal: dict[str, int | None] = {}
        """Normal channels that consumers have waited for, with their sequences at the last look."""
        self._connection: sqlite3.Connection | None = None  # the one that the cursors are of
        self._epoch: int | None = None
        self._before: dict[int | None, dict[str, Inbox]] = {}  # of other epochs, in copies
        self.more = False  # a look has ended before it had read everything

    def reads_any(self, inboxes: Iterable[str]) -> bool:
        """Return True if any of these is read here; also while other threads change what is."""
        return not (
            self.inboxes.keys().isdisjoint(inboxes) and self.normal.keys().isdisjoint(inboxes)
        )

    def add(self, inbox: str) -> None:
        """Read this inbox from now on, from its first undelivered message."""
        if inbox not in self.inboxes:
            self.inboxes[inbox] = Inbox(self._capacity_of(inbox))

    # Looking

    def look_rung(self, running: Loop, inboxes: Collection[str] | None = None) -> bool:
        """Read these inboxes, or all, by their cursors; if nothing is there, or consumers wait for
        normal channels as well, ask what has changed. Return True if anything was found.
        """
        names = self.inboxes if inboxes is None else inboxes
        read = partial(self._read, names=names, running=running)
        if self._database.in_memory:
            self._refuse_uncommitted()
        found = self._database.try_read(read)
        if not found and self._database.in_memory:
            # Rows that were read there may be undone, and their ids then come again.
            self._go_back(names)
            found = self._database.try_read(read)
        if found and not self.normal:
            return True
        if not found:
            self.acknowledge()
        return self.look(running) or found

    def look(self, running: Loop, *, thorough: bool = False) -> bool:
        """Ask for the sequences of all that is read, and read what has moved; a `thorough` look
        trusts no sequence. Return True if anything was found.
        """
        if self._database.in_memory:
            self._refuse_uncommitted()
        return self._database.try_read(lambda connection: self._look(connection, running, thorough))

    def _refuse_uncommitted(self) -> None:
        """Raise Busy while rows in memory can be read that may be undone: there is no log."""
        if has_open_transaction(self._database.alias):
            raise Busy

    def _look(self, connection: sqlite3.Connection, running: Loop, thorough: bool) -> bool:
        if connection is not self._connection:
            self._begin_on(connection)
        if thorough and self._database.in_memory:
            self._go_back(self.inboxes)
        sequences = sql.sequences(connection, [EPOCH, *self.inboxes, *self.normal])
        if (epoch := sequences.get(EPOCH)) != self._epoch:
            self._begin_epoch(epoch)
        moved = [
            name
            for name, inbox in self.inboxes.items()
            if thorough or self._has_moved(inbox, sequences.get(name, 0))
        ]
        found = self._read(connection, moved, running)
        for channel in list(self.normal):
            sequence = sequences.get(channel)
            if thorough or sequence != self.normal[channel]:
                found |= self.claim(channel, running)
                # If more waits, the next consumer claims it; or its loop, which looks for itself.
                elsewhere = self._queues.is_waited_for_elsewhere(channel, running)
                self.normal[channel] = None if elsewhere else sequence
        return found

    def _has_moved(self, inbox: Inbox, sequence: object) -> bool:
        if not isinstance(sequence, (int, float)):  # anybody may write anything into any column
            return True
        if 0 < sequence < inbox.cursor:  # an older copy of the file was restored
            inbox.go_back()
        return sequence > inbox.cursor

    def _begin_on(self, connection: sqlite3.Connection) -> None:
        """Read from the beginning what was opened again: the name may mean another file by now."""
        self._connection = connection
        self._go_back(self.inboxes)

    def _go_back(self, names: Iterable[str]) -> None:
        for name in names:
            self.inboxes[name].go_back()

    def _begin_epoch(self, epoch: int | None) -> None:
        """Begin again in a file, or in tables, that were emptied."""
        self._go_back(self.inboxes)
        self._before[self._epoch], self._epoch = self.inboxes, epoch
        self._queues.clear()
        empty = {name: Inbox(each.capacity) for name, each in self.inboxes.items()}
        self.inboxes = empty | self._before.pop(epoch, {})
        if len(self._before) > EPOCHS:
            del self._before[next(iter(self._before))]
        self.normal = dict.fromkeys(self.normal)

    def _read(self, connection: sqlite3.Connection, names: Collection[str], running: Loop) -> bool:
        if connection is not self._connection:
            self._begin_on(connection)
        now, started = time.time(), time.monotonic()
        found = False
        for name in names:
            while rows := sql.arrivals(connection, name, self.inboxes[name].cursor, AT_ONCE, now):
                if self._database.in_memory:  # again: another thread may have begun meanwhile
                    self._refuse_uncommitted()
                if (epoch := rows[0][0]) != self._epoch:
                    self._begin_epoch(epoch)
                    continue  # from the beginning: the ids of before mean nothing
                found |= self._hand_over(name, rows, running)
                if time.monotonic() > started + times.TIMES.look:
                    self.more = True
                    break
                if len(rows) < AT_ONCE:
                    break
        return found

    def _hand_over(self, name: str, rows: list[tuple[int, list[str], Row]], running: Loop) -> bool:
        """Return True if any of them is new."""
        now, monotonic = time.time(), time.monotonic()
        inbox, found = self.inboxes[name], False
        for _, channels, row in rows:
            inbox.cursor = row.id
            inbox.taken += 1
            inbox.took_large |= row.is_large
            if inbox.cursor_before and inbox.has_had(row):
                continue
            found = True
            inbox.newest_created_at = max(inbox.newest_created_at, row.created_at)
            if (remaining := row.remaining(now)) > 0:
                self._queues.deliver(channels, Item(row, monotonic + remaining), running)
            else:
                self._counters.expired += len(channels)
        if inbox.taken >= min(inbox.capacity / 4, OWED):
            self.acknowledge()
        return found

    # Acknowledging

    def acknowledge(self) -> bool:
        """Tell the table what was taken; return False if a lock of others is in the way. Where it
        fails, it waits for the next heartbeat.
        """
        for name, inbox in list(self.inboxes.items()):
            if not inbox.owes:
                continue
            ids, taken = (inbox.acknowledged, inbox.cursor), inbox.taken
            acknowledge = partial(self._acknowledge, name=name, inbox=inbox, ids=ids)
            try:
                self._database.try_write(acknowledge)
            except (Busy, Lost):
                return False
            except Exception as error:  # also a bug of ours: it must not end a timer, or a look
                self._database.once.failed("Acknowledging", error)
                return True
            self._database.once.well("Acknowledging")
            _, inbox.acknowledged = ids
            inbox.taken -= taken
            inbox.took_large = False
        return True

    def _acknowledge(
        self, connection: sqlite3.Connection, name: str, inbox: Inbox, ids: tuple[int, int]
    ) -> None:
        if connection is not self._connection:  # in another file these ids are of other messages
            raise Lost
        sql.acknowledge(
            connection,
            name,
            ids,
            inbox.newest_created_at,
            self._epoch,
            time.time(),
            keep=self._retains,
            large=inbox.took_large,
        )

    # Normal channels

    def claim(self, channel: str, running: Loop) -> bool:
        """Claim for the consumers that wait on this loop, or give back what none waits for; return
        True if there was anything. Another loop claims for its own: it may stand still.

        Raises Busy or Lost when it is to be tried again; the next look then does.
        """
        now, database = time.time(), self._database
        seen = self.normal.get(channel)
        self.normal[channel] = None  # if anything is raised, the next look tries again
        claimed: list[tuple[int, Row]] = []
        # Where nothing is queued, nobody counts those that wait: that takes long for thousands.
        if not self._queues.is_empty(channel) and self.give_back(channel, running) is None:
            raise Busy
        if self._queues.is_waited_for(channel):
            epoch, waits = database.try_read(lambda each: sql.has_waiting(each, channel, now))
            if waits and (wanted := self._queues.wanted(channel, running)) > 0:
                claimed = database.try_write(
                    lambda each: sql.claim(each, channel, wanted, now, keep=self._retains)
                )
            if (epoch := claimed[0][0] if claimed else epoch) != self._epoch:
                self._begin_epoch(epoch)
        self.normal[channel] = seen
        monotonic = time.monotonic()
        for _, row in claimed:
            item = Item(row, monotonic + row.remaining(now))
            self._queues.deliver([channel], item, running, claimed=True)
        return bool(claimed)

    def forget_idle(self) -> None:
        """Forget the normal channels that nobody waits for, and such inboxes where there are many:
        names may be made for one answer.
        """
        for channel in list(self.normal):
            if not self._queues.is_waited_for(channel) and self._queues.is_empty(channel):
                del self.normal[channel]
        if len(self.inboxes) > MANY:
            used = self._queues.inboxes()
            for name, inbox in list(self.inboxes.items()):
                if name not in used and not inbox.owes:
                    del self.inboxes[name]

    def give_back(self, channel: str, running: Loop | None) -> int | None:
        """Put back what was claimed for consumers that are gone, for another process to take;
        return how many messages that were.

        Messages that the table cannot take now stay here, for the next consumer or try; None is
        returned.
        """
        items = self._queues.take_unwanted(channel)
        if not items:
            return 0
        rows, epoch = [item.row for item in items], self._epoch
        try:
            self._database.try_write(lambda connection: sql.give_back(connection, rows, epoch or 0))
        except (Busy, Lost, DatabaseUnavailable):
            self.normal[channel] = None  # the next look tries it again
            self._queues.put_back(channel, items, running)
            return None
        return len(items)

    def give_back_abandoned(self, running: Loop | None) -> list[str]:
        """The same for consumers that the garbage collector has closed; to which channels."""
        normal = [each for each in self._queues.leave_abandoned(running) if "!" not in each]
        self.normal |= dict.fromkeys(normal)  # they may have been forgotten
        return [each for each in normal if self.give_back(each, running)]

    def give_all_back(self, running: Loop | None) -> bool:
        """Put back what was claimed for consumers that are gone; return True if that is done."""
        self.give_back_abandoned(running)
        given = [self.give_back(channel, running) for channel in list(self.normal)]
        return None not in given
