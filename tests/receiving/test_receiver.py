"""The receiver: it looks when something may have come, and nothing is lost on the way."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import shutil
import threading
import time
import weakref
from pathlib import Path

import msgpack
import pytest
from django.db import connections

from channels_sqlite._storing.schema import MEMBERSHIP, MESSAGE
from channels_sqlite.exceptions import DatabaseUnavailable
from tests.receiving.processes import NORMAL, Open, Process, insert, rows, waiting
from tests.rows import sql
from tests.storing.parts import locked
from tests.waiting import cancel, soon, until

DAY = 86400.0


# Consumers


@pytest.mark.parametrize("channel", [None, NORMAL], ids=["local", "normal"])
async def test_consumers_get_what_was_there_and_what_comes(
    process: Process, channel: str | None
) -> None:
    await process.send(1, 2, channel=channel)
    assert [await soon(process.receive(channel)) for _ in range(2)] == [1, 2]
    tasks = [await process.begin(channel) for _ in range(20)]
    await process.send(*range(20), channel=channel)
    assert sorted(await soon(asyncio.gather(*tasks))) == [*range(20)]


async def test_a_thousand_consumers_begin_to_listen_once(process: Process) -> None:
    threads = threading.active_count()
    channels = [f"{process.channel}{number}" for number in range(1000)]
    tasks = [asyncio.create_task(process.receive(channel)) for channel in channels]
    await until(lambda: len(process.receiver._queues) == 1000)
    assert threading.active_count() <= threads + 1
    assert len(process.receiver._listening) == 1
    await cancel(*tasks)


async def test_what_was_taken_is_acknowledged_though_nothing_else_comes(
    process: Process, database: Path
) -> None:
    await process.send(*range(100))
    assert [await soon(process.receive()) for _ in range(100)] == [*range(100)]
    await until(lambda: waiting(database) == 0)


async def test_rows_that_cannot_be_decoded_are_said_and_skipped(
    process: Process, database: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with sql(database) as other:
        for garbage in (b"\xc1", b"", msgpack.packb([1]), msgpack.packb({"number": 7})):
            insert(other, garbage, process.channel)
    assert await soon(process.receive()) == 7
    assert [record.levelno for record in caplog.records] == [logging.WARNING] * 3
    assert all(f"to {process.channel}, is skipped" in said for said in caplog.messages)
    assert process.layer.counters.received == 1


@pytest.mark.parametrize("channel", [None, NORMAL], ids=["local", "normal"])
async def test_an_error_of_sqlite_is_one_of_ours_and_takes_no_message(
    process: Process, database: Path, channel: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    task = await process.begin("another-channel")
    with sql(database) as other:
        other.execute(f"alter table {MESSAGE} rename to elsewhere")
        with pytest.raises(DatabaseUnavailable, match=MESSAGE):
            await soon(process.receive(channel))
        other.execute(f"alter table elsewhere rename to {MESSAGE}")
    await process.send(1, channel=channel)
    assert await soon(process.receive(channel)) == 1
    await cancel(task)
    caplog.clear()


# Cancellation


async def claimed(process: Process, database: Path) -> asyncio.Task[int]:
    """A consumer that was handed a message, and has not come to use it."""
    task = await process.begin(NORMAL)
    with sql(database) as other:
        insert(other, msgpack.packb({"number": 1}), NORMAL)
    process.receiver.rung([NORMAL], asyncio.get_running_loop())
    assert waiting(database) == 0
    return task


async def test_to_cancel_does_not_wait_for_a_lock_and_loses_nothing(
    process: Process, open_: Open, database: Path
) -> None:
    task = await claimed(process, database)
    with locked(database):
        await cancel(task)
        assert task.cancelled()
        assert waiting(database) == 0
    await until(lambda: waiting(database) == 1)  # though nobody has written anything
    assert await soon(open_().receive(NORMAL)) == 1


async def test_what_one_that_is_cancelled_was_handed_is_for_another(
    process: Process, database: Path
) -> None:
    other = await process.begin(NORMAL)
    task = await claimed(process, database)
    other.cancel()
    assert await soon(task) == 1
    assert waiting(database) == 0


async def test_to_cancel_after_the_layer_was_closed_opens_nothing(process: Process) -> None:
    task = await process.begin(NORMAL)
    await soon(process.layer.close())
    await cancel(task)
    await asyncio.sleep(0.05)
    assert process.layer.database.opened is None


# Loops


async def test_loops_that_were_closed_are_forgotten(process: Process) -> None:
    await process.send(1, 2, 3, channel=NORMAL)
    for number in range(1, 4):
        assert await asyncio.to_thread(asyncio.run, process.receive(NORMAL)) == number
    task = await process.begin(NORMAL)
    assert process.receiver._listening.loops() == [asyncio.get_running_loop()]
    await cancel(task)


async def test_a_message_told_to_a_loop_that_is_closed_goes_to_another(process: Process) -> None:
    """Abruptly, before it could come and take."""
    doomed = asyncio.new_event_loop()
    gone = await asyncio.to_thread(doomed.run_until_complete, process.begin(NORMAL))
    gone._log_destroy_pending = False  # type: ignore[attr-defined] # that is what is tested
    task = await process.begin(NORMAL)
    await process.send(1, channel=NORMAL)
    await until(lambda: process.receiver._queues.wanted(NORMAL) == 1)
    doomed.close()
    assert await soon(task) == 1


# Closing


async def test_closing_acknowledges_and_gives_back(process: Process, database: Path) -> None:
    await process.send(1, 2)
    assert await soon(process.receive()) == 1
    assert waiting(database) == 2
    await soon(process.layer.close())
    assert waiting(database) == 0
    task = await claimed(process, database)
    with locked(database):
        await cancel(task)
        closing = asyncio.create_task(process.layer.close())
        await asyncio.sleep(0.02)
        assert not closing.done()
    await soon(closing)
    await soon(process.layer.close())
    assert waiting(database) == 1
    assert process.layer.database.opened is None
    assert await soon(process.receive()) == 2


async def test_one_that_still_waits_is_served_by_the_next_send_from_here(process: Process) -> None:
    tasks = [await process.begin(channel) for channel in (None, NORMAL)]
    await soon(process.layer.close())
    for channel in (None, NORMAL):
        await process.send(7, channel=channel)
    assert await soon(asyncio.gather(*tasks)) == [7, 7]


async def test_closed_and_forgotten_it_is_gone(alias: str) -> None:
    """No watcher keeps it, no database, and no loop."""
    process = Process(alias)
    await process.send(1)
    assert await soon(process.receive()) == 1
    await soon(process.layer.close())
    gone = weakref.ref(process.receiver)
    del process
    await asyncio.sleep(0.1)  # the timer of an acknowledgement
    gc.collect()  # the layer
    gc.collect()  # and what was kept to be told of that
    assert gone() is None


async def test_a_layer_that_nobody_holds_listens_no_more(alias: str, database: Path) -> None:
    """It was not closed. Its bell is for the next sweep, and nothing of it grows."""
    process = Process(alias)
    bell = Path(f"{database}-bells", process.layer.client_prefix)
    await process.send(1)
    assert await soon(process.receive()) == 1
    await until(bell.exists)
    gone = weakref.ref(process.receiver)
    del process
    await asyncio.sleep(0.1)  # the timer of an acknowledgement

    def is_gone() -> bool:
        gc.collect()
        return gone() is None

    await until(is_gone)
    other = Process(alias)
    await soon(other.layer.close())
    await soon(other.layer.database.close())
    await soon(other.send(2))  # opens the database, which sweeps
    await until(lambda: not bell.exists())


async def test_one_that_waits_follows_a_name_that_changes(
    process: Process, alias: str, database: Path, migrated: Path, tmp_path: Path
) -> None:
    """A test runner does that; nothing stays behind."""
    channels = (process.channel, NORMAL)
    tasks = [await process.begin(channel) for channel in channels]
    await process.layer.group_add("test-group", process.channel)
    retired = process.receiver
    connections.settings[alias]["NAME"] = str(shutil.copy(migrated, tmp_path / "other.sqlite3"))
    await process.send(1)
    await process.send(2, channel=NORMAL)
    assert await soon(asyncio.gather(*tasks)) == [1, 2]
    assert rows(database, MESSAGE) == rows(database, MEMBERSHIP) == 0
    assert retired not in retired._database.readers  # NAME may mean that one again
    assert not retired._listening
    assert not [name for name in os.listdir(f"{database}-bells") if not name.startswith(".")]


# Clocks


@pytest.mark.usefixtures("quick_heart")
@pytest.mark.parametrize("by", [DAY, -DAY], ids=["forward", "back"])
async def test_memberships_stay_when_the_clock_is_set(
    open_: Open, monkeypatch: pytest.MonkeyPatch, by: float
) -> None:
    process, real = open_(group_expiry=60), time.time
    await process.layer.group_add("test-group", process.channel)
    task = await process.begin()
    monkeypatch.setattr(time, "time", lambda: real() + by)
    await asyncio.sleep(0.2)
    await process.layer.group_send("test-group", {"number": 7})
    assert await soon(task) == 7
    assert await process.layer.group_count("test-group") == 1


@pytest.mark.usefixtures("quick_heart")
async def test_memberships_end_by_the_readers_own_clock(open_: Open, database: Path) -> None:
    """And then it does not ask for the write lock any more."""
    process = open_(group_expiry=0.5)
    task = await process.begin()
    await process.layer.group_add("test-group", process.channel)
    await asyncio.sleep(0.3)
    other = f"{process.channel}y"
    await process.layer.group_add("test-group", other)
    await until(lambda: rows(database, MEMBERSHIP) == 1)
    assert await process.layer.group_channels("test-group") == [other]
    await until(lambda: rows(database, MEMBERSHIP) == 0)
    await until(lambda: process.receiver._lapse_at == float("inf"))
    await cancel(task)
