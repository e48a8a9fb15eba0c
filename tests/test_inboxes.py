"""Inboxes: read by a cursor, each message once, and acknowledged before its senders notice."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
import time
from collections.abc import AsyncIterator, Collection
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from channels_sqlite import inboxes as module
from channels_sqlite import store
from channels_sqlite.schema import MEMBERSHIP, MESSAGE
from tests.parts import Parts, locked, parts
from tests.rows import outgoing, select, to_group
from tests.waiting import PATIENCE, soon, until

INBOX = "specific.abc!"
CHANNEL = f"{INBOX}x"


class Reading:
    """A process that reads the inbox, and somebody who sends to it."""

    def __init__(self, parts: Parts) -> None:
        self.parts = parts
        assert parts.database.reader is not None
        self.reader: sqlite3.Connection = parts.database.reader
        parts.inboxes.add(INBOX)

    async def send(self, *numbers: int, channel: str = CHANNEL, **fields: Any) -> None:
        messages = [outgoing(number, channel, **fields) for number in numbers]
        await self.parts.database.run(
            lambda connection: store.send(connection, messages, time.time())
        )

    def look(self, *, thorough: bool = False) -> bool:
        names = [*self.parts.inboxes.names]
        if not thorough:
            names = self.parts.inboxes.moved(store.sequences(self.reader, names))
        return self.parts.inboxes.read(self.reader, names)

    def taken(self, channel: str = CHANNEL) -> list[int]:
        return self.parts.taken(channel)

    def delivered(self) -> list[int]:
        """The numbers of the messages that the table knows to be delivered."""
        return [
            int(body)
            for body in select(
                self.reader, f"body from {MESSAGE} where delivered_at is not null order by id"
            )
        ]

    def waiting(self) -> int:
        (count,) = select(self.reader, f"count(*) from {MESSAGE} where delivered_at is null")
        assert isinstance(count, int)
        return count


@pytest.fixture
async def reading(database: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Reading]:
    """On a machine on which a look takes no longer than it may, however busy it is."""
    monkeypatch.setattr(module, "READ_FOR", 3600)
    async with parts(database) as made:
        yield Reading(made)


# Reading


async def test_a_look_brings_what_has_come_once_and_in_order(reading: Reading) -> None:
    await reading.send(1, 2)
    assert reading.look()
    await reading.send(3)
    assert reading.look()
    assert not reading.look()
    assert not reading.look(thorough=True)
    assert reading.taken() == [1, 2, 3]


async def test_a_look_reads_nothing_while_no_sequence_has_moved(reading: Reading) -> None:
    await reading.send(1)
    reading.look()
    ran: list[str] = []
    reading.reader.set_trace_callback(ran.append)
    assert not reading.look()
    reading.reader.set_trace_callback(None)
    assert [each for each in ran if MESSAGE in each] == []


async def test_a_thorough_look_trusts_no_sequence(reading: Reading) -> None:
    """Somebody has dropped the trigger, say."""
    await reading.parts.database.run(
        lambda raw: raw.execute("drop trigger channels_sqlite_message_bump").fetchall()
    )
    await reading.send(1)
    assert not reading.look()
    assert reading.look(thorough=True)
    assert reading.taken() == [1]


async def test_what_came_before_the_inbox_was_first_read_is_read(reading: Reading) -> None:
    """Its name was given away before anybody received on it."""
    await reading.send(1, channel="specific.new!x")
    reading.parts.inboxes.add("specific.new!")
    assert reading.look()
    assert reading.taken("specific.new!x") == [1]


async def test_adding_an_inbox_again_does_not_read_it_again(reading: Reading) -> None:
    await reading.send(1)
    reading.look()
    reading.parts.inboxes.add(INBOX)
    assert INBOX in reading.parts.inboxes
    assert not reading.look(thorough=True)
    assert reading.taken() == [1]


async def test_a_group_message_is_handed_to_each_member(reading: Reading) -> None:
    channels = [f"{INBOX}{number}" for number in range(3)]

    def join_and_send(connection: sqlite3.Connection) -> None:
        now = time.time()
        for channel in channels:
            store.group_add(connection, "test-group", INBOX, channel, now, now + 60)
        store.group_send(connection, to_group(7), 100, reading.parts.capacity_of)

    await reading.parts.database.run(join_and_send)
    assert reading.look()
    assert [reading.taken(channel) for channel in channels] == [[7]] * 3


async def test_what_has_expired_is_passed_over_and_counted(reading: Reading) -> None:
    await reading.send(1, expires_at=time.time() - 1)
    await reading.send(2)
    assert reading.look()
    assert reading.taken() == [2]
    assert reading.parts.counters.expired == 1


async def test_a_replaced_file_is_read_from_its_beginning(reading: Reading) -> None:
    """Ids have begun anew: the old cursor would be deaf for ever."""
    await reading.send(1, 2)
    reading.look()
    await until(lambda: reading.waiting() == 0)
    await reading.parts.database.run(
        lambda raw: raw.executescript(
            f"delete from {MESSAGE}; delete from sqlite_sequence;"
        ).fetchall()
    )
    await reading.send(3)
    assert not reading.look(thorough=True)
    reading.parts.inboxes.begin_anew()
    assert reading.look()
    assert reading.taken() == [1, 2, 3]


async def test_a_long_queue_is_read_in_turns_with_others(
    reading: Reading, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A look holds the event loop for READ_FOR seconds, and then the row at hand."""
    monkeypatch.setattr(module, "READ_FOR", 0)
    looks = 0

    class Looker:
        def nudge(
            self, here: asyncio.AbstractEventLoop, inboxes: Collection[str] | None = None
        ) -> None:
            nonlocal looks
            looks += 1
            reading.look()

    looker = Looker()
    reading.parts.database.receivers.add(looker)
    await reading.send(*range(20))
    reading.look()
    await until(lambda: looks >= 20)
    assert reading.taken() == [*range(20)]


# Acknowledging


async def test_what_was_taken_is_acknowledged_soon_and_in_one_batch(reading: Reading) -> None:
    for number in range(5):
        await reading.send(number)
        reading.look()
    assert reading.delivered() == []
    await until(lambda: reading.delivered() == [*range(5)])
    times = select(reading.reader, f"count(distinct delivered_at) from {MESSAGE}")
    assert times == [1]


async def test_who_would_be_refused_does_not_wait_for_who_may_wait_for_it(
    reading: Reading,
) -> None:
    """It holds SQLite's write lock, and others may hold the receiver's while they log a drop."""
    await reading.send(1)
    reading.look()
    with reading.parts.lock:  # the statement runs on another thread
        await soon(reading.parts.database.run(reading.parts.inboxes.acknowledge_on))
    assert reading.delivered() == []
    await reading.parts.database.run(reading.parts.inboxes.acknowledge_on)
    assert reading.delivered() == [1]


async def test_what_had_expired_unread_makes_room_as_what_it_is(reading: Reading) -> None:
    """Not as what was taken: the specification asks for its channel to leave its groups."""
    await reading.send(1, expires_at=time.time() - 1)
    reading.look()
    await reading.parts.database.run(reading.parts.inboxes.acknowledge_on)
    assert reading.delivered() == []


@pytest.mark.parametrize("grouped", [False, True], ids=["channel", "group"])
async def test_what_was_taken_makes_room_for_who_would_be_refused(
    reading: Reading, grouped: bool
) -> None:
    """In the transaction of that one; its own turn comes all the same."""
    few = 20  # of which none is acknowledged at once
    inboxes = reading.parts.inboxes

    def send_one_more(connection: sqlite3.Connection) -> None:
        now = time.time()
        if grouped:
            store.group_add(connection, "test-group", INBOX, CHANNEL, now, now + 60)
            full = store.group_send(
                connection, to_group(few), few, lambda _: few, inboxes.acknowledge_on
            )
            assert full == {}
        else:
            messages = [outgoing(few, CHANNEL, capacity=few)]
            assert store.send(connection, messages, now, inboxes.acknowledge_on) == [True]

    await reading.send(*range(few))
    reading.look()
    assert reading.waiting() == few
    await reading.parts.database.run(send_one_more)
    assert reading.waiting() == 1
    reading.look()
    assert reading.taken() == [*range(few + 1)]
    await until(lambda: reading.waiting() == 0)


async def test_a_quarter_of_the_capacity_is_acknowledged_at_once(
    database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that a quick reader's senders never see a full inbox."""
    monkeypatch.setattr(module, "ACKNOWLEDGE_AFTER", 3600)
    async with parts(database, capacity=8) as made:
        reading = Reading(made)
        await reading.send(1)
        reading.look()
        await soon(made.tasks.finish())
        assert reading.delivered() == []
        await reading.send(2)
        reading.look()
        await soon(made.tasks.finish())
        assert reading.delivered() == [1, 2]


async def test_without_retention_what_was_taken_is_deleted(database: Path) -> None:
    async with parts(database, message_retention=0) as made:
        reading = Reading(made)
        await reading.send(1, 2)
        reading.look()
        await until(lambda: select(reading.reader, f"count(*) from {MESSAGE}") == [0])


async def test_what_had_expired_unread_is_not_acknowledged(reading: Reading) -> None:
    """The trimmer is to find it, and to take its channel out of its groups."""
    await reading.send(1, expires_at=time.time() - 1)
    await reading.send(2)
    reading.look()
    await until(lambda: reading.delivered() == [2])
    assert reading.waiting() == 1


async def test_all_that_was_taken_is_acknowledged_when_asked(
    reading: Reading, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ACKNOWLEDGE_AFTER", 3600)
    await reading.send(1, 2, 3)
    reading.look()
    reading.parts.inboxes.acknowledge_all()
    await soon(reading.parts.tasks.finish())
    assert reading.delivered() == [1, 2, 3]


async def test_what_came_after_the_clock_was_set_back_is_acknowledged(
    reading: Reading, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else it would expire unread, and its channel leave all groups."""
    real = time.time
    monkeypatch.setattr(module, "ACKNOWLEDGE_AFTER", 3600)
    await reading.send(1)
    reading.look()
    monkeypatch.setattr(time, "time", lambda: real() - 300)
    await reading.send(2, expires_at=time.time() + 60)
    reading.look()
    reading.parts.inboxes.acknowledge_all()
    await soon(reading.parts.tasks.finish())
    assert reading.delivered() == [1, 2]


async def test_what_could_not_be_acknowledged_is_acknowledged_later(
    reading: Reading, database: Path, caplog: pytest.LogCaptureFixture
) -> None:
    await reading.send(1)
    with locked(database):
        reading.look()
        await until(lambda: caplog.messages)
    (said,) = caplog.messages
    assert "Trying again" in said
    assert reading.delivered() == []
    reading.parts.inboxes.acknowledge_overdue()  # the heartbeat's
    await until(lambda: reading.delivered() == [1])
    assert reading.taken() == [1]


async def test_what_was_taken_in_time_does_not_expire_while_that_cannot_be_acknowledged(
    reading: Reading,
    database: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Nor when more is taken meanwhile: the trimmer would take its channel out of its groups."""
    acknowledge, fails = store.acknowledge, threading.Event()

    def fail(*_args: Any, **_kwargs: Any) -> None:
        if threading.current_thread() is not threading.main_thread():
            fails.wait(PATIENCE)
        raise sqlite3.OperationalError("disk I/O error")

    now = time.time()
    await reading.send(1, expires_at=now + 0.2)
    reading.look()
    monkeypatch.setattr(store, "acknowledge", fail)
    reading.parts.inboxes.acknowledge_all()
    await asyncio.sleep(0.3)
    with closing(sqlite3.connect(database, isolation_level=None)) as connection:
        store.send(connection, [outgoing(2, CHANNEL)], time.time())
    reading.look()
    fails.set()
    await until(lambda: caplog.messages)
    monkeypatch.setattr(store, "acknowledge", acknowledge)
    reading.parts.inboxes.acknowledge_all()
    await until(lambda: reading.delivered() == [1, 2])


async def test_what_is_taken_while_it_acknowledges_is_acknowledged_next(reading: Reading) -> None:
    await reading.send(1)
    reading.look()
    reading.parts.inboxes.acknowledge_all()
    await reading.send(2)
    reading.look()
    await until(lambda: reading.delivered() == [1, 2])


async def test_it_touches_no_other_table_and_no_other_inbox(reading: Reading) -> None:
    await reading.send(9, channel="specific.other!x")
    await reading.send(1)
    reading.look()
    await until(lambda: reading.delivered() == [1])
    assert select(reading.reader, f"count(*) from {MEMBERSHIP}") == [0]
    assert reading.waiting() == 1
