"""Reading: process-local inboxes by a cursor, normal channels by claims, and each message once."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from channels_sqlite._receiving import reading as module
from channels_sqlite._receiving.queues import Queues, Waiter
from channels_sqlite._receiving.reading import AT_ONCE, Reading
from channels_sqlite._storing import sql
from channels_sqlite._storing.connections import Busy
from channels_sqlite._storing.messages import Item
from channels_sqlite._storing.schema import MESSAGE
from channels_sqlite.counters import Counters, DropLog
from tests.rows import outgoing, select
from tests.rows import sql as connect
from tests.storing.parts import database_on, locked
from tests.waiting import soon

INBOX, NORMAL, CAPACITY = "specific.abcdefghijkl!", "test-channel", 100
CHANNEL = f"{INBOX}x"


class Process:
    """One that reads an inbox and a normal channel, and others that send to it."""

    def __init__(self, database: Any, *, keep_delivered: bool = True) -> None:
        self.path = Path(database.path)
        self.counters = Counters()
        self.queues = Queues(
            threading.RLock(), lambda _: 10 * CAPACITY, self.counters, DropLog(self.counters)
        )
        capacity_of, keep = (lambda _: CAPACITY), keep_delivered
        self.reading = Reading(
            database, self.queues, self.counters, capacity_of, keep_delivered=keep
        )
        self.reading.add(INBOX)
        self.here = asyncio.get_running_loop()

    def do(self, function: Any) -> Any:
        """The result of a function of another connection."""
        with connect(self.path) as connection:
            return function(connection)

    def send(self, *numbers: int, channel: str = CHANNEL, **fields: Any) -> None:
        messages = [outgoing(number, channel, **fields) for number in numbers]
        self.do(lambda connection: sql.send(connection, messages, time.time()))

    def look(self, *, thorough: bool = False) -> bool:
        return self.reading.look(self.here, thorough=thorough)

    def taken(self, channel: str = CHANNEL) -> list[int]:
        """The numbers of the messages that are there for the channel's consumers."""
        numbers = []
        while isinstance(found := self.queues.take_or_wait(channel, self.here), Item):
            numbers.append(int(found.row.body))
        self.queues.leave(channel, found, self.here)
        return numbers

    def wait(self) -> Waiter:
        """A consumer of the normal channel begins to wait."""
        waiter = self.queues.take_or_wait(NORMAL, self.here)
        assert not isinstance(waiter, Item)
        self.reading.claim(NORMAL, self.here)
        return waiter

    def leave(self, waiter: Waiter) -> int | None:
        """It is cancelled; how many messages were given back."""
        self.queues.leave(NORMAL, waiter, self.here)
        return self.reading.give_back(NORMAL, self.here)

    def waiting(self, where: str = "delivered_at is null") -> list[int]:
        """The numbers of the messages in the table."""
        found = self.do(lambda each: select(each, f"body from {MESSAGE} where {where} order by id"))
        return [int(body) for body in found]

    def delivered(self) -> list[int]:
        return self.waiting("delivered_at is not null")


@pytest.fixture
async def process(database: Path) -> AsyncIterator[Process]:
    async with database_on(database) as made:
        await made.ready()
        yield Process(made)


async def number(waiter: Waiter) -> int:
    item = await soon(waiter)
    assert item is not None
    return int(item.row.body)


# Looking


async def test_a_look_brings_what_has_come_once_and_in_order(process: Process) -> None:
    process.send(1, 2)
    assert process.look()
    process.send(3)
    assert process.reading.look_rung([INBOX], process.here)
    assert not process.look()
    assert not process.look(thorough=True)
    assert process.taken() == [1, 2, 3]


async def test_only_a_thorough_look_trusts_no_sequence(process: Process) -> None:
    """The trigger may have been dropped."""
    waiter = process.wait()
    process.do(lambda each: each.execute("drop trigger channels_sqlite_message_bump"))
    process.send(1)
    process.send(2, channel=NORMAL)
    assert not process.look()
    assert process.look(thorough=True)
    assert process.taken() == [1]
    assert await number(waiter) == 2


async def test_a_ring_for_an_inbox_finds_a_normal_channels_message_too(process: Process) -> None:
    """They may have been sent by one statement."""
    waiter = process.wait()
    process.send(1)
    process.send(2, channel=NORMAL)
    assert process.reading.look_rung([INBOX], process.here)
    assert process.taken() == [1]
    assert await number(waiter) == 2


async def test_what_has_expired_is_passed_over_and_counted(process: Process) -> None:
    process.send(1, expires_at=time.time() - 1)
    process.send(2)
    assert process.look()
    assert process.taken() == [2]
    assert process.counters.expired == 1


async def test_a_long_queue_is_read_in_turns(
    process: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A look holds the event loop for READ_FOR seconds, and then the rows at hand."""
    monkeypatch.setattr(module, "READ_FOR", 0)
    process.send(*range(80))
    for many in (AT_ONCE, AT_ONCE, 80 - 2 * AT_ONCE):
        process.reading.more = False
        assert process.look()
        assert len(process.taken()) == many
        assert process.reading.more
    assert not process.look()


# Acknowledging


async def test_what_was_taken_is_acknowledged_in_one_batch(process: Process) -> None:
    for each in range(5):
        process.send(each)
        process.look()
    process.send(9, channel="specific.other!x")
    assert process.reading.owes
    assert process.delivered() == []
    assert process.reading.acknowledge()
    assert not process.reading.owes
    assert process.delivered() == [*range(5)]
    assert process.waiting() == [9]


async def test_a_quarter_of_the_capacity_is_acknowledged_at_once(process: Process) -> None:
    """So that a quick reader's senders never see a full inbox."""
    process.send(*range(CAPACITY // 4 - 1))
    process.look()
    assert process.delivered() == []
    process.send(99)
    process.look()
    assert len(process.delivered()) == CAPACITY // 4


async def test_a_ring_for_nothing_asks_for_an_acknowledgement(process: Process) -> None:
    """A sender may have found the inbox full."""
    process.send(1)
    process.look()
    assert not process.reading.look_rung([INBOX], process.here)
    assert process.delivered() == [1]


async def test_what_could_not_be_acknowledged_is_acknowledged_later(
    process: Process, database: Path
) -> None:
    process.send(1)
    with locked(database):
        assert process.look()
        assert not process.reading.acknowledge()
        assert process.reading.owes
    assert process.reading.acknowledge()
    assert process.delivered() == [1]
    assert process.taken() == [1]


async def test_without_retention_what_was_taken_is_deleted(database: Path) -> None:
    async with database_on(database) as made:
        await made.ready()
        process = Process(made, keep_delivered=False)
        process.send(1)
        process.send(2, channel=NORMAL)
        process.look()
        process.reading.acknowledge()
        assert await number(process.wait()) == 2
        assert process.waiting("true") == []


# Another epoch


@pytest.mark.parametrize("rung", [False, True], ids=["unsure", "rung"])
async def test_after_a_flush_it_begins_again_and_forgets_what_it_has(
    process: Process, rung: bool
) -> None:
    waiter = process.wait()
    process.send(1, 2, 3)
    process.look()
    process.do(sql.flush)
    process.do(lambda each: each.execute("update sqlite_sequence set seq = 0"))  # as Django's does
    process.send(4)
    process.send(5, channel=NORMAL)
    assert process.reading.look_rung([INBOX], process.here) if rung else process.look()
    assert process.taken() == [4]
    assert await number(waiter) == 5
    assert process.reading.acknowledge()
    assert process.delivered() == [4, 5]


async def test_an_older_copy_of_the_file_is_read_again_for_what_is_new(
    process: Process, tmp_path: Path
) -> None:
    """Its ids have begun again where the copy was made; its epoch is the same."""
    process.send(1)
    with connect(process.path) as connection, connect(tmp_path / "older.sqlite3") as older:
        connection.backup(older)
        process.send(2, 3)
        process.look()
        assert process.taken() == [1, 2, 3]
        older.backup(connection)
    process.send(4)
    assert process.look()
    assert process.taken() == [4]
    assert process.reading.acknowledge()
    assert process.delivered() == [1, 4]


# Claims


async def test_no_more_is_claimed_than_consumers_wait_for(process: Process) -> None:
    process.send(*range(5), channel=NORMAL)
    assert [await number(process.wait()) for _ in range(3)] == [0, 1, 2]
    assert not process.look()
    assert process.waiting() == [3, 4]
    assert await number(process.wait()) == 3  # though no sequence has moved


async def test_a_claim_that_meets_a_lock_is_tried_by_the_next_look(
    process: Process, database: Path
) -> None:
    waiter = process.wait()
    process.send(1, channel=NORMAL)
    with locked(database), pytest.raises(Busy):
        process.look()
    assert process.look()
    assert await number(waiter) == 1


async def test_what_was_claimed_for_one_that_is_gone_goes_back_to_its_place(
    process: Process,
) -> None:
    def sequence() -> int:
        found: dict[str, int] = process.do(lambda each: sql.sequences(each, [NORMAL]))
        return found[NORMAL]

    process.send(1, 2, channel=NORMAL)
    before, waiter = sequence(), process.wait()
    assert process.waiting() == [2]
    assert process.leave(waiter) == 1
    assert process.waiting() == [1, 2]
    assert sequence() > before  # others look again
    assert process.reading.give_back(NORMAL, process.here) == 0
    assert await number(process.wait()) == 1


async def test_what_cannot_be_given_back_stays_for_the_next_try(
    process: Process, database: Path
) -> None:
    process.send(1, 2, channel=NORMAL)
    waiters = [process.wait() for _ in range(2)]
    with locked(database):
        assert [process.leave(waiter) for waiter in waiters] == [None, None]
        with pytest.raises(Busy):
            process.look()
    process.reading.forget_idle()
    assert not process.look()
    assert process.waiting() == [1, 2]


async def test_a_channel_that_nobody_waits_for_is_forgotten(process: Process) -> None:
    """Its name may have been made for one answer."""
    waiter = process.wait()
    process.reading.forget_idle()
    assert [*process.reading.normal] == [NORMAL]
    process.leave(waiter)
    process.reading.forget_idle()
    assert [*process.reading.normal] == []
    process.send(1, channel=NORMAL)
    assert not process.look()
    assert process.waiting() == [1]
    assert await number(process.wait()) == 1
