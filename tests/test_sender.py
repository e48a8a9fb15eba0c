"""The sender: who sends at the same time rides together, and each is told of its own message."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import threading
import time
from collections.abc import AsyncIterator, Callable, Collection
from pathlib import Path

import pytest

from channels_sqlite import in_place, store
from channels_sqlite import sender as module
from channels_sqlite.exceptions import DatabaseUnavailable
from channels_sqlite.schema import MESSAGE
from channels_sqlite.sender import Sender
from tests.parts import Parts, locked, parts
from tests.rows import LATER, outgoing, select, to_group
from tests.waiting import PATIENCE, cancel, soon

CAPACITY = 100


class Sending:
    """A sender, and what has become of its messages."""

    def __init__(self, parts: Parts) -> None:
        self.parts = parts
        self.sender: Sender = parts.sender()

    async def send(self, number: int, channel: str = "test-channel", room: int = CAPACITY) -> bool:
        return await self.sender.send(outgoing(number, channel, capacity=room))

    def begin(self, *numbers: int, channel: str = "test-channel") -> list[asyncio.Task[bool]]:
        return [asyncio.create_task(self.send(number, channel)) for number in numbers]

    def sent(self) -> list[int]:
        """The numbers of the messages in the table, in their order."""
        assert self.parts.database.reader is not None
        return [int(body) for body in select(self.parts.database.reader, f"body from {MESSAGE}")]

    async def count_statements(self) -> Callable[[], int]:
        """Counts the INSERTs from now on."""
        ran: list[str] = []

        def note(statement: str) -> None:
            if statement.lstrip().startswith("insert into channels_sqlite_message"):
                ran.append(statement)

        for quick in (True, False):  # the connection that writes in place, and the thread's
            await self.parts.database.run(lambda raw: raw.set_trace_callback(note), quick=quick)
        return lambda: len(set(ran))  # a trigger traces its statement again


@pytest.fixture
async def sending(database: Path) -> AsyncIterator[Sending]:
    async with parts(database, capacity=CAPACITY) as made:
        yield Sending(made)


# Riding together


async def test_who_sends_alone_goes_alone(sending: Sending) -> None:
    statements = await sending.count_statements()
    for number in range(3):
        assert await sending.send(number)
    assert statements() == 3
    assert sending.sent() == [0, 1, 2]


async def test_who_sends_while_a_statement_is_in_flight_goes_with_the_next(
    sending: Sending,
) -> None:
    statements = await sending.count_statements()
    assert await soon(asyncio.gather(*sending.begin(*range(60)))) == [True] * 60
    assert statements() == 2
    assert sending.sent() == [*range(60)]


async def test_a_statement_has_so_many_seats_and_no_more(sending: Sending) -> None:
    statements = await sending.count_statements()
    numbers = [*range(1 + module.RIDE_TOGETHER + 1)]
    assert all(await soon(asyncio.gather(*sending.begin(*numbers))))
    assert statements() == 3
    assert sending.sent() == numbers


async def test_the_order_of_one_sender_is_kept_among_many(sending: Sending) -> None:
    async def work(begin: int) -> None:
        for number in range(begin, begin + 20):
            assert await sending.send(number)

    await soon(asyncio.gather(*[work(begin) for begin in (0, 100, 200, 300)]))
    sent = sending.sent()
    assert len(sent) == 80
    for begin in (0, 100, 200, 300):
        assert [each for each in sent if begin <= each < begin + 20] == [*range(begin, begin + 20)]


async def test_each_is_told_of_its_own_message(sending: Sending) -> None:
    """150 senders at once, with room for 100."""
    accepted = await soon(asyncio.gather(*sending.begin(*range(150))))
    assert accepted == [True] * 100 + [False] * 50
    assert sending.sent() == [*range(100)]
    assert sending.parts.counters.sent == 100
    assert sending.parts.counters.refused == 50


async def test_a_full_channel_is_full_for_its_own_senders_only(sending: Sending) -> None:
    assert await sending.send(0, "full", room=1)
    verdicts = await soon(
        asyncio.gather(
            *[
                sending.send(number, "full" if number % 2 else "test-channel", room=number % 2 or 9)
                for number in range(1, 9)
            ]
        )
    )
    assert verdicts == [False, True] * 4


# Cancelling


@pytest.fixture
async def slow_disk(sending: Sending, monkeypatch: pytest.MonkeyPatch) -> None:
    """One so slow that everything goes to the connection's thread."""
    monkeypatch.setattr(in_place, "SLOW", -1)
    monkeypatch.setattr(in_place, "SLOW_FOR", 3600)
    await sending.parts.database.run(lambda _: None, quick=True)


async def hold(sending: Sending) -> Callable[[], None]:
    """Keep the connection's thread busy, until what is returned is called."""
    entered, go = threading.Event(), threading.Event()

    def wait(_: sqlite3.Connection) -> None:
        entered.set()
        go.wait(PATIENCE)

    task = asyncio.create_task(sending.parts.database.run(wait))
    assert await asyncio.to_thread(entered.wait, PATIENCE)

    def release() -> None:
        go.set()
        task.cancel()

    return release


@pytest.mark.usefixtures("slow_disk")
async def test_who_is_cancelled_while_waiting_is_not_sent(sending: Sending) -> None:
    release = await hold(sending)
    tasks = sending.begin(*range(5))
    await asyncio.sleep(0.01)
    tasks[2].cancel()
    await asyncio.sleep(0)
    release()
    results = await soon(asyncio.gather(*tasks, return_exceptions=True))
    assert isinstance(results.pop(2), asyncio.CancelledError)
    assert results == [True] * 4
    assert sending.sent() == [0, 1, 3, 4]


@pytest.mark.usefixtures("slow_disk")
async def test_who_is_cancelled_first_does_not_take_the_others_along(sending: Sending) -> None:
    """Its own statement is run, and it is told when that has ended."""
    release = await hold(sending)
    tasks = sending.begin(*range(3))
    await asyncio.sleep(0.01)
    tasks[0].cancel()
    await asyncio.sleep(0.01)
    assert not tasks[0].done()
    release()
    first, *others = await soon(asyncio.gather(*tasks, return_exceptions=True))
    assert isinstance(first, asyncio.CancelledError)
    assert others == [True, True]
    assert sending.sent() == [0, 1, 2]


@pytest.mark.usefixtures("slow_disk")
async def test_who_waits_is_sent_though_the_driver_was_cancelled(sending: Sending) -> None:
    """asyncio.run cancels it with all other tasks, and waits for those who send as they end."""
    release = await hold(sending)
    first, rides = sending.begin(0, 1)
    await asyncio.sleep(0.01)
    again = asyncio.create_task(hold(sending))
    await asyncio.sleep(0.01)
    release()
    release = await again
    assert await soon(first)
    (waits,) = sending.begin(2)
    await asyncio.sleep(0.01)
    (outbox,) = sending.sender._outboxes.values()
    assert outbox.driver is not None
    outbox.driver.cancel()
    await asyncio.sleep(0.01)
    release()
    assert await soon(waits)
    with pytest.raises(asyncio.CancelledError):
        await soon(rides)


async def test_a_cancelled_group_send_is_counted(
    sending: Sending, caplog: pytest.LogCaptureFixture
) -> None:
    await join(sending, "full", "empty")
    for number in range(CAPACITY):
        await sending.send(number, "full")
    sent = sending.parts.counters.sent
    task = asyncio.create_task(sending.sender.group_send(to_group(1)))
    await asyncio.sleep(0)
    await cancel(task)
    assert task.cancelled()
    assert sending.sent() == [*range(CAPACITY), 1]
    assert (sending.parts.counters.sent - sent, sending.parts.counters.dropped) == (1, 1)
    caplog.clear()


async def test_after_a_cancelled_send_others_go_on(sending: Sending) -> None:
    (task,) = sending.begin(0)
    await asyncio.sleep(0)
    await cancel(task)
    assert await soon(sending.send(1))
    assert sending.sent()[-1] == 1


# Loops


def test_loops_do_not_share_an_outbox(database: Path) -> None:
    """One may be closed with passengers in it."""
    made = Parts(database)
    sending = Sending(made)

    async def leave_some_behind() -> None:
        sending.begin(*range(3))
        await asyncio.sleep(0)

    asyncio.run(leave_some_behind())
    assert asyncio.run(sending.send(9))
    assert sending.sent()[-1] == 9
    asyncio.run(made.database.close())


async def test_several_loops_send_at_once(sending: Sending) -> None:
    async def work(begin: int) -> list[bool]:
        return await asyncio.gather(*[sending.send(begin + each) for each in range(20)])

    verdicts = await asyncio.gather(
        *[asyncio.to_thread(asyncio.run, work(begin)) for begin in (0, 100, 200, 300)]
    )
    assert verdicts == [[True] * 20] * 4
    assert len(set(sending.sent())) == 80


# Errors


async def test_when_the_database_does_not_answer_each_of_them_is_told(
    sending: Sending, database: Path
) -> None:
    """And nothing was written."""
    with locked(database):
        results = await soon(asyncio.gather(*sending.begin(*range(5)), return_exceptions=True))
    assert [type(each) for each in results] == [DatabaseUnavailable] * 5
    assert sending.sent() == []
    assert await sending.send(1)
    assert sending.parts.counters.sent == 1


async def test_a_batch_that_breaks_off_halfway_was_not_written(sending: Sending) -> None:
    """Also when its messages are looked at one by one, because one of them has no room."""
    assert await sending.send(0, "full", room=1)
    await sending.parts.database.run(
        lambda raw: raw.execute(
            f"create trigger breaks before insert on {MESSAGE} when new.body = x'33'"
            " begin select raise(abort, 'the third'); end"
        ).fetchall()
    )
    messages = [outgoing(1), outgoing(2, "full", capacity=1), outgoing(3)]
    with pytest.raises(DatabaseUnavailable, match="the third"):
        await sending.parts.database.run(lambda raw: store.send(raw, messages, time.time()))
    assert sending.sent() == [0]


# Groups


async def join(sending: Sending, *channels: str) -> None:
    def work(raw: sqlite3.Connection) -> None:
        for channel in channels:
            store.group_add(raw, "test-group", channel, channel, 0, LATER * 10**9)

    await sending.parts.database.run(work)


async def test_a_group_message_is_written_once_for_each_inbox(sending: Sending) -> None:
    await join(sending, "a", "b")
    await sending.sender.group_send(to_group(1))
    assert sending.sent() == [1, 1]
    assert sending.parts.counters.dropped == 0


async def test_a_full_inbox_misses_a_group_message_which_is_counted_and_said(
    sending: Sending, caplog: pytest.LogCaptureFixture
) -> None:
    await join(sending, "full", "empty")
    for number in range(CAPACITY):
        await sending.send(number, "full")
    for _ in range(3):
        await sending.sender.group_send(to_group(1))
    assert sending.sent() == [*range(CAPACITY), 1, 1, 1]
    assert sending.parts.counters.dropped == 3
    (said,) = caplog.messages
    assert "full" in said
    assert "test-group" in said


# Those who wait


class Ear:
    """A receiver that only listens."""

    def __init__(self) -> None:
        self.heard: list[Collection[str] | None] = []

    def nudge(
        self, here: asyncio.AbstractEventLoop, inboxes: Collection[str] | None = None
    ) -> None:
        self.heard.append(inboxes)


async def test_what_was_refused_wakes_nobody(sending: Sending) -> None:
    await sending.send(1, room=1)
    os.utime(sending.parts.database.wal, (0, 0))
    await sending.send(2, room=1)
    assert os.stat(sending.parts.database.wal).st_mtime == 0


async def test_what_was_accepted_nudges_this_process_and_what_was_refused_does_not(
    sending: Sending,
) -> None:
    ear = Ear()
    sending.parts.database.receivers.add(ear)
    await sending.send(1, room=1)
    assert ear.heard == [{"test-channel"}]
    await sending.send(2, room=1)
    assert ear.heard == [{"test-channel"}]
    await sending.sender.group_send(to_group(1))
    assert ear.heard == [{"test-channel"}, None]
