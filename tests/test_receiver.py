"""The receiver: it looks when something may have come, and nothing is lost on the way."""

from __future__ import annotations

import asyncio
import gc
import logging
import random
import sqlite3
import threading
import time
import weakref
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import msgpack
import pytest

from channels_sqlite import store
from channels_sqlite.exceptions import DatabaseUnavailable
from channels_sqlite.receiver import Receiver
from channels_sqlite.schema import MEMBERSHIP, MESSAGE, SEQUENCE
from channels_sqlite.wakes.listener import WRITE
from tests.parts import TIMEOUT, Parts, locked, parts, sql
from tests.rows import inbox_of, outgoing, select
from tests.waiting import cancel, soon, until

INBOX = "specific.abc!"
CHANNEL = f"{INBOX}x"
POLLING = 0.01  # seconds


class Receiving:
    """A receiver of one process, and messages for it."""

    def __init__(self, parts: Parts) -> None:
        self.parts = parts
        self.receiver: Receiver = parts.receiver()

    async def send(self, *numbers: int, channel: str = CHANNEL, **fields: Any) -> None:
        """Send from this process."""
        messages = [
            outgoing(number, channel, body=msgpack.packb({"number": number}), **fields)
            for number in numbers
        ]
        await self.parts.database.run(
            lambda connection: store.send(connection, messages, time.time())
        )
        self.parts.database.nudge({inbox_of(channel)})  # as the sender does

    async def receive(self, channel: str = CHANNEL) -> int:
        inbox = inbox_of(channel)
        message = await self.receiver.receive(channel, inbox if "!" in channel else None)
        number: int = message["number"]
        return number

    def begin(self, channel: str = CHANNEL) -> asyncio.Task[int]:
        """A consumer begins to wait."""
        return asyncio.create_task(self.receive(channel))

    def count(self, what: str) -> int:
        assert self.parts.database.reader is not None
        (found,) = select(self.parts.database.reader, f"count(*) from {what}")
        assert isinstance(found, int)
        return found


@pytest.fixture
async def receiving(database: Path) -> AsyncIterator[Receiving]:
    async with parts(database, polling_interval=POLLING) as made:
        receiving = Receiving(made)
        yield receiving
        await soon(receiving.receiver.close())


def insert(connection: sqlite3.Connection, body: bytes, channel: str = CHANNEL) -> None:
    """What somebody sends who knows nothing of the layer."""
    now = time.time()
    connection.execute(
        f"insert into {MESSAGE} (inbox, channel, body, created_at, expires_at)"
        " values (?, ?, ?, ?, ?)",
        (inbox_of(channel), channel, body, now, now + 60),
    )


# Consumers


@pytest.mark.parametrize("channel", [CHANNEL, "test-channel"])
async def test_a_consumer_gets_what_was_there_and_what_comes(
    receiving: Receiving, channel: str
) -> None:
    await receiving.send(1, 2, channel=channel)
    assert await soon(receiving.receive(channel)) == 1
    assert await soon(receiving.receive(channel)) == 2
    waiting = receiving.begin(channel)
    await asyncio.sleep(0.02)
    await receiving.send(3, channel=channel)
    assert await soon(waiting) == 3


@pytest.mark.parametrize("channel", [CHANNEL, "test-channel"])
async def test_consumers_of_one_channel_get_one_message_each(
    receiving: Receiving, channel: str
) -> None:
    waiting = [receiving.begin(channel) for _ in range(20)]
    await asyncio.sleep(0.02)
    await receiving.send(*range(20), channel=channel)
    assert sorted(await soon(asyncio.gather(*waiting))) == [*range(20)]


async def test_what_others_write_is_found_by_polling(receiving: Receiving, database: Path) -> None:
    waiting = receiving.begin()
    await asyncio.sleep(0.02)
    with sql(database) as other:
        insert(other, msgpack.packb({"number": 7}))
    assert await soon(waiting) == 7


async def test_while_nobody_writes_a_heartbeat_asks_sqlite_for_that_and_no_more(
    receiving: Receiving, database: Path
) -> None:
    """However many consumers wait, a process that is idle costs nothing."""
    waiting = [receiving.begin(f"specific.{n}!x") for n in range(20)]
    await asyncio.sleep(10 * POLLING)
    reader, ran = receiving.parts.database.reader, list[str]()
    assert reader is not None
    reader.set_trace_callback(ran.append)
    await asyncio.sleep(10 * POLLING)
    reader.set_trace_callback(None)
    assert set(ran) == {"pragma data_version"}
    with sql(database) as other:
        insert(other, msgpack.packb({"number": 7}), "specific.13!x")
    assert await soon(waiting[13]) == 7
    await cancel(*waiting)


async def test_whatever_is_written_between_two_heartbeats_is_found(
    receiving: Receiving, database: Path
) -> None:
    """Though no sequence tells of it, and whether the heartbeat before found anything or not."""
    with sql(database) as other:
        for number in range(60):
            waiting = receiving.begin()
            await asyncio.sleep(random.uniform(0, 2.5 * POLLING))
            other.execute("begin immediate")
            insert(other, msgpack.packb({"number": number}))
            other.execute(f"delete from {SEQUENCE}")
            other.execute("commit")
            assert await soon(waiting) == number


async def test_an_inbox_whose_first_look_failed_is_looked_at_by_the_next_heartbeat(
    receiving: Receiving, database: Path
) -> None:
    """Though nobody has written since one that found nothing, in the inboxes that there were."""
    waiting = receiving.begin()
    with sql(database) as other:
        insert(other, msgpack.packb({"number": 7}), "specific.late!x")
    await asyncio.sleep(2 * sum(WRITE))  # the looks that it begins with are over
    reader = receiving.parts.database.reader
    assert reader is not None
    reader.set_authorizer(lambda *_: sqlite3.SQLITE_DENY)
    with pytest.raises(DatabaseUnavailable, match="not authorized"):
        await receiving.receive("specific.late!x")
    reader.set_authorizer(lambda *_: sqlite3.SQLITE_OK)
    assert await soon(receiving.receive("specific.late!x")) == 7
    await cancel(waiting)


async def test_what_could_not_be_given_back_is_by_a_heartbeat_though_nobody_has_written(
    receiving: Receiving, database: Path
) -> None:
    """A lock of others that is rolled back leaves no trace."""
    delivered = f"{MESSAGE} where delivered_at is not null"
    waiting = receiving.begin("test-channel")
    await asyncio.sleep(0.02)
    await receiving.send(1, channel="test-channel")
    while not receiving.count(delivered):  # noqa: ASYNC110 - claimed, and not handed out yet
        await asyncio.sleep(0)
    with locked(database):
        await cancel(waiting)
        await asyncio.sleep(TIMEOUT + 10 * POLLING)
        assert receiving.count(delivered) == 1
    await until(lambda: not receiving.count(delivered))


async def test_garbage_is_said_and_skipped(
    receiving: Receiving, database: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with sql(database) as other:
        for garbage in (b"\xc1", b"", msgpack.packb([1])):
            insert(other, garbage)
        insert(other, msgpack.packb({"number": 7}))
    assert await soon(receiving.receive()) == 7
    assert len(caplog.messages) == 3
    assert all(CHANNEL in message for message in caplog.messages)
    assert {record.levelno for record in caplog.records} == {logging.WARNING}
    assert receiving.parts.counters.received == 1


async def test_a_thousand_consumers_begin_to_listen_once(receiving: Receiving) -> None:
    """And one look serves them all."""
    threads = threading.active_count()
    waiting = [receiving.begin(f"{INBOX}{number}") for number in range(1000)]
    await asyncio.sleep(0.05)
    assert threading.active_count() <= threads + 1
    assert len(receiving.receiver._listeners) == 1
    await cancel(*waiting)


# Errors


async def test_an_error_while_it_reads_is_one_of_ours(
    receiving: Receiving, caplog: pytest.LogCaptureFixture
) -> None:
    """Who uses the layer need not know sqlite3's."""
    await receiving.parts.database.run(lambda raw: raw.execute(f"drop table {MESSAGE}").fetchall())
    with pytest.raises(DatabaseUnavailable, match=MESSAGE):
        await soon(receiving.receive())
    caplog.clear()


async def test_who_is_cancelled_is_cancelled_though_the_database_does_not_answer(
    receiving: Receiving, database: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """And what was claimed for it is not lost."""
    waiting = receiving.begin("test-channel")
    await asyncio.sleep(0.02)
    await receiving.send(1, channel="test-channel")
    await no_longer(receiving.receiver._consumers.is_waited_for, "test-channel")
    with locked(database):
        waiting.cancel()  # it has been handed the message, and has not come to it
        with pytest.raises(asyncio.CancelledError):
            await soon(waiting)
    assert await soon(receiving.receive("test-channel")) == 1
    caplog.clear()


async def test_who_is_cancelled_leaves_its_message_to_other_processes(receiving: Receiving) -> None:
    waiting = receiving.begin("test-channel")
    await asyncio.sleep(0.02)
    await receiving.send(1, channel="test-channel")
    await no_longer(receiving.receiver._consumers.is_waited_for, "test-channel")
    await cancel(waiting)  # it has been handed the message, and has not come to it
    assert receiving.count(f"{MESSAGE} where delivered_at is null") == 1


async def no_longer(condition: Callable[[str], bool], channel: str) -> None:
    """Wait until it does not hold, and not a turn of the event loop longer."""
    for _ in range(100_000):
        if not condition(channel):
            return
        await asyncio.sleep(0)
    pytest.fail("it still holds")


# Looking


async def test_a_look_does_not_wait_for_a_lock(receiving: Receiving, database: Path) -> None:
    """It is made on the event loop."""
    await receiving.send(1)
    with locked(database):
        assert await soon(receiving.receive()) == 1


async def flushed_by_another(receiving: Receiving, database: Path) -> None:
    """While a message is in a buffer."""
    other = f"{INBOX}other"
    await receiving.send(1)
    await receiving.send(2, channel=other)
    assert await soon(receiving.receive(other)) == 2
    with sql(database) as connection:
        store.flush(connection)


async def test_what_another_process_has_flushed_is_not_delivered_from_a_buffer(
    receiving: Receiving, database: Path
) -> None:
    await flushed_by_another(receiving, database)
    await asyncio.sleep(20 * POLLING)
    await receiving.send(3)
    assert await soon(receiving.receive()) == 3


async def test_what_is_sent_after_a_flush_is_not_taken_for_flushed(
    receiving: Receiving, database: Path
) -> None:
    """Though it is in a buffer before the flush is noticed."""
    await flushed_by_another(receiving, database)
    with sql(database) as connection:
        insert(connection, msgpack.packb({"number": 3}))
    # Nothing has been awaited since: a look at this inbox alone, which does not ask for the epoch.
    receiving.parts.database.nudge({INBOX})
    await asyncio.sleep(20 * POLLING)
    assert await soon(receiving.receive()) == 3


async def test_a_buffer_is_kept_when_the_first_look_finds_an_epoch(
    receiving: Receiving, database: Path
) -> None:
    with sql(database) as connection:
        store.flush(connection)
    await receiving.send(1, 2)
    assert await soon(receiving.receive()) == 1
    await asyncio.sleep(5 * POLLING)
    assert await soon(receiving.receive()) == 2


async def test_whose_messages_expire_in_a_buffer_leaves_its_groups(receiving: Receiving) -> None:
    now = time.time()
    await receiving.parts.database.run(
        lambda raw: store.group_add(raw, "test-group", INBOX, CHANNEL, now, now + 60)
    )
    await receiving.send(1, expires_at=now + 0.1)
    waiting = receiving.begin(f"{INBOX}other")  # this process reads its inbox
    await until(lambda: receiving.count(MEMBERSHIP) == 0)
    assert receiving.parts.counters.expired == 1
    await cancel(waiting)


async def test_catching_up_reads_what_nobody_has_waited_for(receiving: Receiving) -> None:
    """Before a member leaves, say: a group's row is given to those who are members then."""
    now = time.time()

    await receiving.parts.database.run(
        lambda raw: store.group_add(raw, "test-group", INBOX, CHANNEL, now, now + 60)
    )
    body = msgpack.packb({"number": 5})
    await receiving.parts.database.run(
        lambda raw: raw.execute(
            f'insert into {MESSAGE} (inbox, "group", body, created_at, expires_at)'
            " values (?, ?, ?, ?, ?)",
            (INBOX, "test-group", body, now, now + 60),
        ).fetchall()
    )
    await receiving.receiver.catch_up(INBOX)
    await receiving.parts.database.run(lambda raw: store.group_discard(raw, "test-group", CHANNEL))
    assert await soon(receiving.receive()) == 5


# Loops


async def test_each_loop_has_a_listener_while_it_listens(receiving: Receiving) -> None:
    async def listen() -> None:
        await receiving.receive("test-channel")

    await receiving.send(1, 2, 3, channel="test-channel")
    for _ in range(3):
        await asyncio.to_thread(asyncio.run, listen())
    waiting = receiving.begin("test-channel")
    await asyncio.sleep(0.02)
    assert [*receiving.receiver._listeners] == [asyncio.get_running_loop()]
    await cancel(waiting)


async def test_a_message_told_to_a_loop_that_is_closed_goes_to_another(
    receiving: Receiving,
) -> None:
    """Abruptly, before it could come and take."""
    doomed = asyncio.new_event_loop()

    def begin() -> asyncio.Task[int]:
        task = doomed.create_task(receiving.receive("test-channel"))
        doomed.run_until_complete(asyncio.sleep(0.02))
        return task

    task = await asyncio.to_thread(begin)
    task._log_destroy_pending = False  # type: ignore[attr-defined] # that is what is tested
    waiting = receiving.begin("test-channel")
    await asyncio.sleep(0.02)
    await receiving.send(1, channel="test-channel")
    await until(lambda: receiving.receiver._consumers.wanting("test-channel") == 1)
    doomed.close()
    assert await soon(waiting) == 1


# Closing


async def test_closing_acknowledges_what_was_taken(receiving: Receiving) -> None:
    await receiving.send(1, 2)
    assert await soon(receiving.receive()) == 1
    await soon(receiving.receiver.close())
    assert receiving.count(f"{MESSAGE} where delivered_at is null") == 0


async def test_closed_it_looks_no_more_and_listens_again_when_asked(receiving: Receiving) -> None:
    await receiving.send(1)
    assert await soon(receiving.receive()) == 1
    await soon(receiving.receiver.close())
    await soon(receiving.receiver.close())
    ran: list[str] = []
    assert receiving.parts.database.reader is not None
    receiving.parts.database.reader.set_trace_callback(ran.append)
    await asyncio.sleep(5 * POLLING)
    receiving.parts.database.reader.set_trace_callback(None)
    assert ran == []
    await receiving.send(2)
    assert await soon(receiving.receive()) == 2


async def test_closed_and_forgotten_it_is_gone(database: Path) -> None:
    """Nothing keeps it: no watcher, no database, no loop."""
    async with parts(database) as made:
        receiving = Receiving(made)
        await receiving.send(1)
        assert await soon(receiving.receive()) == 1
        await soon(receiving.receiver.close())
        gone = weakref.ref(receiving.receiver)
        del receiving
        gc.collect()
        assert gone() is None
