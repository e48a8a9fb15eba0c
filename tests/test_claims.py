"""Claims: as many messages as consumers wait, from a table that others claim from as well."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from channels_sqlite import store
from channels_sqlite.messages import Item
from channels_sqlite.schema import MESSAGE
from tests.parts import Parts, locked, parts
from tests.rows import outgoing, select
from tests.waiting import PATIENCE, soon

CHANNEL = "test-channel"


class Claiming:
    """A process that claims from the channel, and somebody who sends to it."""

    def __init__(self, parts: Parts) -> None:
        self.parts = parts
        assert parts.database.reader is not None
        self.reader: sqlite3.Connection = parts.database.reader

    async def send(self, *numbers: int) -> None:
        messages = [outgoing(number, CHANNEL) for number in numbers]
        await self.parts.database.run(
            lambda connection: store.send(connection, messages, time.time())
        )

    def begin(self) -> asyncio.Future[Item | None]:
        """A consumer begins to wait."""
        waiter = self.parts.wait_for(CHANNEL)
        self.parts.claims.want(CHANNEL)
        return waiter

    async def leave(self, waiter: asyncio.Future[Item | None]) -> None:
        """It is cancelled."""
        waiter.cancel()
        self.parts.consumers.leave(CHANNEL, waiter, asyncio.get_running_loop())
        await self.parts.claims.give_back_surplus(CHANNEL)

    def look(self, *, thorough: bool = False) -> bool:
        sequences = store.sequences(self.reader, [*self.parts.claims.names])
        return self.parts.claims.heed(self.reader, sequences, thorough=thorough)

    def waiting(self) -> list[int]:
        """What stands in the table for anybody to claim."""
        found = select(self.reader, f"body from {MESSAGE} where delivered_at is null order by id")
        return [int(body) for body in found]

    async def finish(self) -> None:
        await soon(self.parts.tasks.finish())


@pytest.fixture(params=[86400, 0], ids=["retention", "no-retention"])
async def claiming(database: Path, request: pytest.FixtureRequest) -> AsyncIterator[Claiming]:
    async with parts(database, message_retention=request.param) as made:
        yield Claiming(made)


async def number(waiter: asyncio.Future[Item | None]) -> int:
    item = await soon(waiter)
    assert item is not None
    return int(item.row.body)


async def test_who_begins_to_wait_gets_what_is_there(claiming: Claiming) -> None:
    await claiming.send(1, 2, 3)
    assert await number(claiming.begin()) == 1
    await claiming.finish()
    assert claiming.waiting() == [2, 3]


async def test_no_more_is_claimed_than_consumers_wait_for(claiming: Claiming) -> None:
    await claiming.send(*range(10))
    waiters = [claiming.begin() for _ in range(3)]
    assert [await number(waiter) for waiter in waiters] == [0, 1, 2]
    await claiming.finish()
    assert claiming.waiting() == [*range(3, 10)]


async def test_who_waits_gets_what_comes(claiming: Claiming) -> None:
    waiters = [claiming.begin() for _ in range(2)]
    await claiming.finish()
    await claiming.send(1, 2, 3)
    assert claiming.look()
    assert [await number(waiter) for waiter in waiters] == [1, 2]
    await claiming.finish()
    assert claiming.waiting() == [3]


async def test_more_may_wait_where_as_much_was_there_as_was_asked_for(claiming: Claiming) -> None:
    """The next consumer claims again, though no sequence has moved."""
    await claiming.send(*range(5))
    for expected in range(5):
        assert await number(claiming.begin()) == expected
        await claiming.finish()


async def test_nothing_is_claimed_while_nobody_waits(claiming: Claiming) -> None:
    waiter = claiming.begin()
    await claiming.finish()
    await claiming.leave(waiter)
    await claiming.send(1)
    assert not claiming.look()
    await claiming.finish()
    assert claiming.waiting() == [1]
    assert await number(claiming.begin()) == 1


async def test_no_claim_is_tried_while_no_sequence_has_moved(claiming: Claiming) -> None:
    """It takes the write lock, from others who have something to write."""
    waiter = claiming.begin()
    await claiming.finish()
    ran: list[str] = []
    await claiming.parts.database.run(lambda raw: raw.set_trace_callback(ran.append))
    for _ in range(5):
        assert not claiming.look()
        assert not claiming.look(thorough=True)
        await claiming.finish()
    assert ran == []
    # On a busy machine this one begins with a pragma, for what is left of its time to wait.
    await claiming.parts.database.run(lambda raw: raw.set_trace_callback(None))
    await claiming.leave(waiter)


async def test_a_thorough_look_asks_the_table(claiming: Claiming) -> None:
    waiter = claiming.begin()
    await claiming.finish()
    await claiming.parts.database.run(
        lambda raw: raw.execute("drop trigger channels_sqlite_message_bump").fetchall()
    )
    await claiming.send(1)
    assert not claiming.look()
    assert claiming.look(thorough=True)
    assert await number(waiter) == 1


async def test_a_replaced_file_is_claimed_from(claiming: Claiming) -> None:
    """Its sequences may stand where those of the old file stood."""
    waiter = claiming.begin()
    await claiming.send(1)
    claiming.look()
    assert await number(waiter) == 1
    waiter = claiming.begin()
    await claiming.finish()
    await claiming.parts.database.run(
        lambda raw: raw.executescript(
            f"delete from {MESSAGE}; delete from sqlite_sequence;"
            "delete from channels_sqlite_sequence;"
        ).fetchall()
    )
    await claiming.send(2)
    claiming.parts.claims.begin_anew()
    assert claiming.look()
    assert await number(waiter) == 2


# For consumers that are gone


async def test_what_was_claimed_for_one_who_is_gone_goes_back(claiming: Claiming) -> None:
    """To its place, for any process to take, and with a sequence that says so."""
    await claiming.send(1, 2)
    waiter = claiming.begin()
    before = sequence(claiming)
    await soon(waiter)
    assert claiming.waiting() == [2]
    claiming.parts.consumers.leave(CHANNEL, waiter, asyncio.get_running_loop())
    await claiming.parts.claims.give_back_surplus(CHANNEL)
    assert claiming.waiting() == [1, 2]
    assert sequence(claiming) > before
    assert await number(claiming.begin()) == 1


def sequence(claiming: Claiming) -> int:
    return store.sequences(claiming.reader, [CHANNEL])[CHANNEL]


async def test_what_is_given_back_rings(claiming: Claiming) -> None:
    """Other processes wait for it."""
    await claiming.send(1)
    waiter = claiming.begin()
    await soon(waiter)
    await claiming.finish()
    wal = claiming.parts.database.wal
    os.utime(wal, (0, 0))
    claiming.parts.consumers.leave(CHANNEL, waiter, asyncio.get_running_loop())
    await claiming.parts.claims.give_back_surplus(CHANNEL)
    assert os.stat(wal).st_mtime > 0


async def test_who_still_waits_gets_what_another_gave_up(claiming: Claiming) -> None:
    first, second = claiming.begin(), claiming.begin()
    await claiming.finish()
    await claiming.send(1)
    claiming.look()
    await soon(first)
    await claiming.leave(first)
    assert await soon(second) is None  # come and take
    claiming.parts.consumers.leave(CHANNEL, second, asyncio.get_running_loop())
    assert claiming.parts.taken(CHANNEL) == [1]
    await claiming.finish()
    assert claiming.waiting() == []


async def test_who_is_gone_before_the_claim_arrives_loses_nothing(claiming: Claiming) -> None:
    await claiming.send(1)
    waiter = claiming.begin()
    await asyncio.sleep(0)  # the claim is under way
    await claiming.leave(waiter)
    await claiming.finish()
    assert claiming.waiting() == [1]


async def test_a_claim_whose_loop_ends_gives_back_what_it_got(claiming: Claiming) -> None:
    """Its task is cancelled like all others; the statement is run all the same."""
    await claiming.send(1)
    waiter = claiming.begin()
    await asyncio.sleep(0)
    (task,) = claiming.parts.tasks._running
    waiter.cancel()
    claiming.parts.consumers.leave(CHANNEL, waiter, asyncio.get_running_loop())
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await claiming.finish()
    assert claiming.waiting() == [1]


async def test_who_is_cancelled_while_it_gives_back_gives_back_once(claiming: Claiming) -> None:
    """The statement is run all the same: what it has put into the table is there only."""
    await claiming.send(1)
    waiter = claiming.begin()
    await soon(waiter)
    await claiming.finish()
    go = threading.Event()
    busy = asyncio.create_task(claiming.parts.database.run(lambda _: go.wait(PATIENCE)))
    await asyncio.sleep(0.01)
    leaving = asyncio.create_task(claiming.leave(waiter))
    await asyncio.sleep(0.01)
    leaving.cancel()
    await asyncio.sleep(0.01)
    go.set()
    await asyncio.gather(leaving, busy, return_exceptions=True)
    assert [*claiming.waiting(), *claiming.parts.taken(CHANNEL)] == [1]


# When the database does not answer


async def test_a_claim_that_failed_is_tried_again(
    claiming: Claiming, database: Path, caplog: pytest.LogCaptureFixture
) -> None:
    await claiming.send(1)
    with locked(database):
        waiter = claiming.begin()
        await claiming.finish()
    (said,) = caplog.messages
    assert "Trying again" in said
    assert claiming.look(thorough=True)  # the heartbeat's
    assert await number(waiter) == 1


async def test_what_could_not_be_given_back_is_not_lost(
    claiming: Claiming, database: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It stays in this process, for its next consumer or another try."""
    await claiming.send(1, 2)
    waiters = [claiming.begin() for _ in range(2)]
    for waiter in waiters:
        await soon(waiter)
    await claiming.finish()
    with locked(database):
        for waiter in waiters:
            claiming.parts.consumers.leave(CHANNEL, waiter, asyncio.get_running_loop())
        await claiming.parts.claims.give_back_surplus(CHANNEL)
    claiming.look(thorough=True)
    await claiming.finish()
    assert sorted([*claiming.waiting(), *claiming.parts.taken(CHANNEL)]) == [1, 2]
    caplog.clear()


async def test_a_channel_that_nobody_waits_for_is_forgotten(claiming: Claiming) -> None:
    """Its name may have been made for one answer; who waits again gets what has come."""
    waiter = claiming.begin()
    await claiming.finish()
    claiming.look(thorough=True)
    assert CHANNEL in claiming.parts.claims
    await claiming.leave(waiter)
    claiming.look(thorough=True)
    assert CHANNEL not in claiming.parts.claims
    await claiming.send(1)
    assert await number(claiming.begin()) == 1
