"""The sender: sends of the same time go together, and each sender learns of its own message."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable, Collection
from pathlib import Path
from typing import Any

import pytest

from channels_sqlite._sending import sender as module
from channels_sqlite._storing import connections, sql
from channels_sqlite._storing.schema import MESSAGE
from channels_sqlite._waking.bells import Bell
from channels_sqlite.exceptions import DatabaseUnavailable
from tests.rows import outgoing, to_group
from tests.sending.parts import Parts, parts
from tests.storing.parts import Gate, locked
from tests.storing.tables import LOCAL, join
from tests.waiting import PATIENCE, cancel, soon, until

CLIENT = "abcdefgh-_12"


@pytest.fixture
async def sending(database: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Parts]:
    """On a machine that is never slow, however busy it is."""
    monkeypatch.setattr(connections, "SLOW", PATIENCE)
    async with parts(database) as made:
        await made.database.ready()
        yield made


def begin(sending: Parts, *numbers: int, **fields: Any) -> list[asyncio.Task[bool]]:
    return [
        asyncio.create_task(sending.sender.send(outgoing(number, **fields))) for number in numbers
    ]


async def count_statements(sending: Parts) -> Callable[[], int]:
    """Counts the INSERTs from now on."""
    ran: list[str] = []

    def note(statement: str) -> None:
        if statement.lstrip().startswith(f"insert into {MESSAGE}"):
            ran.append(statement)

    await sending.database.write(lambda raw: raw.set_trace_callback(note))
    return lambda: len({*ran})  # a trigger traces its statement again


# Going together


async def test_sends_that_come_while_a_statement_is_in_flight_go_with_the_next(
    sending: Parts,
) -> None:
    """As many as one statement takes."""
    statements = await count_statements(sending)
    numbers = [*range(1 + module.AT_ONCE + 1)]
    assert all(await soon(asyncio.gather(*begin(sending, *numbers, capacity=1000))))
    assert statements() == 3
    assert sending.sent() == numbers
    assert sending.counters.sent == len(numbers)


async def test_each_sender_learns_of_its_own_message(sending: Parts) -> None:
    """150 at once, with room for 100; another channel has room."""
    tasks = begin(sending, *range(150), capacity=100)
    tasks += begin(sending, *range(3), channel="another-channel")
    assert await soon(asyncio.gather(*tasks)) == [True] * 100 + [False] * 50 + [True] * 3
    assert (sending.counters.sent, sending.counters.refused) == (103, 50)


async def test_event_loops_do_not_share_an_outbox(sending: Parts) -> None:
    async def work(first: int) -> list[bool]:
        return await asyncio.gather(*begin(sending, *range(first, first + 20)))

    starts = (0, 100, 200, 300)
    runs = [asyncio.to_thread(asyncio.run, work(first)) for first in starts]
    assert await soon(asyncio.gather(*runs)) == [[True] * 20] * 4
    sent = sending.sent()
    for first in starts:
        assert [each for each in sent if first <= each < first + 20] == [*range(first, first + 20)]


async def test_a_large_message_is_the_threads(
    sending: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To copy it takes long."""
    monkeypatch.setattr(module, "LARGE", 10)
    gate = Gate()
    sending.database.post("Trimming", gate)
    (small,) = begin(sending, 1)
    assert await soon(small)
    (large,) = begin(sending, 2, body=b"1" * 11)
    await gate.entered()
    assert sending.sent() == [1]
    gate.open()
    assert await soon(large)


# Cancelling


@pytest.fixture
async def gate(sending: Parts, monkeypatch: pytest.MonkeyPatch) -> Gate:
    """Keeps the thread busy, to which everything goes."""
    monkeypatch.setattr(module, "LARGE", -1)
    gate = Gate()
    sending.database.post("Trimming", gate)
    await gate.entered()
    return gate


async def test_a_cancelled_send_takes_no_others_along(sending: Parts, gate: Gate) -> None:
    tasks = begin(sending, *range(5))
    await asyncio.sleep(0.01)
    await cancel(tasks[0], tasks[2])
    gate.open()
    results = await soon(asyncio.gather(*tasks, return_exceptions=True))
    assert [str(each) for each in results] == ["", "True", "", "True", "True"]
    assert sending.sent() == [1, 3, 4]


async def test_sends_go_on_though_their_driver_is_cancelled(sending: Parts, gate: Gate) -> None:
    """asyncio.run cancels it with all other tasks."""
    first, second = begin(sending, 0, 1)
    await asyncio.sleep(0)
    await cancel(first)
    await asyncio.sleep(0.01)
    (outbox,) = sending.sender._outboxes.values()
    assert outbox.driver is not None
    (third,) = begin(sending, 2)
    await asyncio.sleep(0)
    outbox.driver.cancel()
    await asyncio.sleep(0.01)
    gate.open()
    assert await soon(third)
    with pytest.raises(asyncio.CancelledError):
        await second
    assert sending.sent() == [2]


def test_a_loop_that_ends_with_sends_under_way_hinders_no_other(database: Path) -> None:
    async def use() -> None:
        async with parts(database) as sending:

            async def leave_some_behind() -> None:
                begin(sending, *range(3))
                await asyncio.sleep(0)

            await asyncio.to_thread(asyncio.run, leave_some_behind())
            assert await soon(sending.sender.send(outgoing(9)))
            assert sending.sent()[-1] == 9

    asyncio.run(use())


# Errors


async def test_every_sender_is_told_when_the_database_does_not_answer(
    sending: Parts, database: Path
) -> None:
    with locked(database):
        results = await soon(asyncio.gather(*begin(sending, *range(5)), return_exceptions=True))
    assert [type(each) for each in results] == [DatabaseUnavailable] * 5
    assert await sending.sender.send(outgoing(7))
    assert (sending.sent(), sending.counters.sent) == ([7], 1)


async def test_a_message_that_has_expired_behind_a_lock_is_not_sent(database: Path) -> None:
    async with parts(database, patience=PATIENCE) as sending:
        await sending.database.ready()
        with locked(database):
            soon_over = begin(sending, 1, 2, expires_at=time.time() + 0.05)
            lasting = begin(sending, 3)
            await asyncio.sleep(0.1)
        for task in soon_over:
            with pytest.raises(DatabaseUnavailable, match="has expired"):
                await soon(task)
        assert await soon(asyncio.gather(*lasting)) == [True]
        assert sending.sent() == [3]


# Readers


class Reader:
    """A reader in this process, which owes an acknowledgement for each message."""

    has_bell = listens = False

    def __init__(self, sending: Parts) -> None:
        self.client = CLIENT
        self.heard: list[object] = []
        self._sending = sending
        sending.database.readers.add(self)

    def rung(self, inboxes: Collection[str] | None, here: object) -> None:
        self.heard.append(inboxes)

    def acknowledge_now(self) -> bool:
        return bool(self._sending.others.execute(f"delete from {MESSAGE}").rowcount)


async def test_room_is_asked_of_the_readers_in_this_process(sending: Parts) -> None:
    reader = Reader(sending)
    for number in range(3):
        assert await soon(sending.sender.send(outgoing(number, capacity=1)))
    assert sending.sent() == [2]
    assert reader.heard == [{"test-channel"}] * 3
    assert sending.counters.refused == 0


async def test_room_is_asked_of_the_reader_in_another_process(
    sending: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By its bell."""
    bell, channel = Bell(sending.database.files, CLIENT, {}), f"specific.{CLIENT}!x"
    accepted = [await sending.sender.send(outgoing(each, channel, capacity=1)) for each in (1, 2)]
    assert accepted == [True, False]
    monkeypatch.setattr(module, "ASK_FOR", 1.0)  # the test answers it when it has time
    os.utime(bell.path, (0, 0))
    (task,) = begin(sending, 3, channel=channel, capacity=1)
    await until(lambda: os.stat(bell.path).st_mtime)
    sending.others.execute(f"delete from {MESSAGE}")
    assert await soon(task)
    bell.close(remove=True)
    assert not await sending.sender.send(outgoing(4, channel, capacity=1))
    assert (sending.sent(), sending.counters.refused) == ([3], 2)


# Groups


async def test_a_group_message_is_written_once_for_each_inbox_and_rings_it(sending: Parts) -> None:
    reader = Reader(sending)
    join(sending.others, LOCAL, f"{LOCAL}2", "normal")
    await sending.sender.group_send(to_group(1))
    assert sending.sent() == [1, 1]
    (heard,) = reader.heard
    assert {*heard} == {"specific.abc!", "normal"}  # type: ignore[misc]
    assert (sending.counters.sent, sending.counters.dropped) == (1, 0)


async def test_a_group_without_members_takes_no_lock(sending: Parts, database: Path) -> None:
    with locked(database):
        await soon(sending.sender.group_send(to_group(1)))
    assert sending.counters.sent == 1


async def test_inboxes_without_room_are_counted_and_said_also_if_the_sender_is_cancelled(
    sending: Parts, caplog: pytest.LogCaptureFixture
) -> None:
    join(sending.others, "full", "empty")
    for number in range(100):
        await sending.sender.send(outgoing(number, "full"))
    task = asyncio.create_task(sending.sender.group_send(to_group(1)))
    await asyncio.sleep(0)
    await cancel(task)
    assert sending.sent("inbox = 'empty'") == [1]
    assert sending.counters.dropped == 1
    await until(lambda: caplog.messages)
    assert "full of group test-group" in caplog.text


async def test_a_group_message_waits_for_a_lock_no_longer_than_it_lives(database: Path) -> None:
    async with parts(database, patience=PATIENCE) as sending:
        join(sending.others, LOCAL)
        await sending.database.ready()
        with locked(database), pytest.raises(DatabaseUnavailable):
            await soon(sending.sender.group_send(to_group(1, expires_at=time.time() + 0.05)))
        assert not sql.arrivals(sending.others, "specific.abc!", 0, 9)
