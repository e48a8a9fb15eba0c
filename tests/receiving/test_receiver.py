"""The receiver: it looks when something may have come, and nothing is lost on the way."""

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
import threading
import time
import weakref
from collections.abc import Coroutine
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from channels.exceptions import ChannelFull
from django.db import connections, transaction
from pytest_django import DjangoDbBlocker, Settings

from channels_sqlite._options.settings import BACKEND
from channels_sqlite._receiving.reading import AT_ONCE, EPOCHS, MANY
from channels_sqlite._receiving.receiver import Retired
from channels_sqlite._sending.trimmer import Trimmer
from channels_sqlite._storing import groups
from channels_sqlite._storing.schema import MEMBERSHIP, MESSAGE
from channels_sqlite._storing.sql import flush
from channels_sqlite._waking.bells import Bell
from channels_sqlite.exceptions import DatabaseUnavailable
from tests.conftest import SetTimes
from tests.receiving.conftest import NORMAL, Open, Process, waiting
from tests.rows import count, inbox_of, put, put_number, select, sql, to_group
from tests.storing.parts import locked
from tests.waiting import PATIENCE, cancel, soon, threads, until, until_gone, wait_until


def memory(alias: str) -> closing[sqlite3.Connection]:
    """Another connection to a database in memory, as Django has one."""
    return closing(sqlite3.connect(connections.settings[alias]["NAME"], uri=True))


def set_the_clock(monkeypatch: pytest.MonkeyPatch, process: Process, seconds: float) -> None:
    """Set it to a later time since the reader has looked at it."""
    memberships = process.receiver._memberships
    monkeypatch.setattr(memberships, "_clocks_apart", memberships._clocks_apart - seconds)


# Consumers


@pytest.mark.parametrize("channel", [None, NORMAL], ids=["local", "normal"])
async def test_an_error_of_sqlite_is_one_of_ours_and_takes_no_message(
    process: Process,
    others: sqlite3.Connection,
    channel: str | None,
    caplog: pytest.LogCaptureFixture,
) -> None:
    task = await process.begin("another-channel")
    others.execute(f"alter table {MESSAGE} rename to elsewhere")
    with pytest.raises(DatabaseUnavailable, match=MESSAGE):
        await soon(process.receive(channel))
    others.execute(f"alter table elsewhere rename to {MESSAGE}")
    await process.send(1, channel=channel)
    assert await soon(process.receive(channel)) == 1
    await cancel(task)
    caplog.clear()


@pytest.mark.usefixtures("quick_heart")
async def test_heartbeats_trust_no_sequence(process: Process, others: sqlite3.Connection) -> None:
    """The trigger may have been dropped."""
    tasks = [await process.begin(channel) for channel in (None, NORMAL)]
    others.execute("drop trigger channels_sqlite_message_bump")
    for channel in (process.channel, NORMAL):
        put_number(others, channel, 7)
    assert await soon(asyncio.gather(*tasks)) == [7, 7]


@pytest.mark.usefixtures("quick_heart")
async def test_a_channel_that_nobody_waits_for_is_forgotten(process: Process) -> None:
    """Its name may have been made for one answer."""
    await cancel(await process.begin(NORMAL))
    await until(lambda: not process.receiver._reading.normal)
    listener = process.receiver._listening.of(asyncio.get_running_loop())
    assert listener is not None
    await until(lambda: not listener.wants_touches)


@pytest.mark.usefixtures("quick_heart")
async def test_a_consumer_of_a_loop_that_was_closed_is_forgotten(process: Process) -> None:
    lasting, closed = await process.begin(), asyncio.new_event_loop()
    another = f"another.{process.layer.client_prefix}!x"
    await asyncio.to_thread(closed.run_until_complete, process.begin(another))
    closed.close()
    await until(lambda: process.receiver.status()["channels"] == 1)
    await cancel(lasting)


async def claimed(process: Process, database: Path) -> asyncio.Task[int]:
    """A consumer that was handed a message, and has not come to use it."""
    task = await process.begin(NORMAL)
    with sql(database) as other:
        put_number(other, NORMAL, 1)
    process.receiver.rung([NORMAL], asyncio.get_running_loop())
    assert waiting(database) == 0
    return task


async def test_to_cancel_does_not_wait_for_a_lock_and_loses_nothing(
    process: Process, open_: Open, database: Path
) -> None:
    task = await claimed(process, database)
    with locked(database):
        started = time.monotonic()
        await cancel(task)
        assert time.monotonic() < started + process.layer.database.timeout
        assert task.cancelled()
        assert waiting(database) == 0
    await until(lambda: waiting(database) == 1)  # though nobody has written anything
    assert await soon(open_().receive(NORMAL)) == 1


async def test_to_cancel_after_the_layer_was_closed_opens_nothing(process: Process) -> None:
    task = await process.begin(NORMAL)
    await soon(process.layer.close_pools())  # another name of close
    await cancel(task)
    await asyncio.sleep(0.05)
    assert process.layer.database.connections is None


async def test_what_is_claimed_after_a_flush_can_be_given_back(
    process: Process, others: sqlite3.Connection, database: Path
) -> None:
    """Though no look has noticed the flush: another consumer came to wait."""
    first = await process.begin(NORMAL)
    flush(others)
    for number in (1, 2):
        put_number(others, NORMAL, number)
    with pytest.raises(StopIteration, match="2"):
        process.receive(NORMAL).send(None)  # at once: the loop would look
    assert waiting(database) == 0
    await cancel(first)
    assert waiting(database) == 1


async def test_a_loop_that_is_stopped_claims_nothing_that_another_process_waits_for(
    process: Process, open_: Open
) -> None:
    """Another loop of its process looks on."""
    stopped = asyncio.new_event_loop()
    await asyncio.to_thread(stopped.run_until_complete, process.begin(NORMAL))
    here = await process.begin()
    other = open_()
    await other.send(1, channel=NORMAL)
    await asyncio.sleep(0.1)  # the process of the stopped loop was woken, and looks
    assert await soon(other.receive(NORMAL)) == 1
    await cancel(here)
    await asyncio.to_thread(stopped.run_until_complete, cancel(*asyncio.all_tasks(stopped)))
    stopped.close()


async def test_a_consumer_gets_what_is_claimed_for_it_before_the_next_look(
    process: Process, others: sqlite3.Connection, database: Path
) -> None:
    """The next look would claim for it once more, and keep what another process waits for."""
    task = await process.begin(NORMAL)
    for number in (1, 2):
        put_number(others, NORMAL, number)
        process.receiver.rung([NORMAL], asyncio.get_running_loop())
    assert waiting(database) == 1
    assert await soon(task) == 1


async def test_an_empty_channel_is_waited_for_without_the_write_lock(
    process: Process, database: Path
) -> None:
    """However many workers wait for it: each of them would keep senders waiting."""
    task = await process.begin(NORMAL)
    with locked(database), process.receiver._lock:
        assert not process.receiver._reading.claim(NORMAL, asyncio.get_running_loop())
    await cancel(task)


# Inboxes


async def test_a_look_that_takes_long_lets_others_run_and_goes_on(
    open_: Open, memory_alias: str, set_times: SetTimes
) -> None:
    """In memory, where no log tells of its own acknowledgements."""
    set_times(look=-1.0, heartbeat=60.0)
    process, count = open_(memory_alias, capacity=1000), 20 * AT_ONCE
    task = await process.begin()
    with memory(memory_alias) as other:
        for number in range(count):
            put_number(other, process.channel, number)
        other.commit()
    process.receiver.rung(None, asyncio.get_running_loop())
    (inbox,) = process.receiver._reading.inboxes.values()
    assert inbox.cursor == AT_ONCE
    got = [await soon(task), *[await soon(process.receive()) for _ in range(count - 1)]]
    assert got == [*range(count)]


async def test_messages_are_acknowledged_in_batches(
    process: Process, others: sqlite3.Connection, set_times: SetTimes
) -> None:
    """To read one is not to write."""
    set_times(heartbeat=0.05)
    task = await process.begin()
    listener = process.receiver._listening.of(asyncio.get_running_loop())
    assert listener is not None
    await until(lambda: listener.has_beaten)
    set_times(heartbeat=60.0, acknowledge=60.0)
    await process.send(0)
    assert await soon(task) == 0
    for number in range(1, 100):
        await process.send(number)
        assert await soon(process.receive()) == number
    process.receiver.acknowledge_now()
    (batches,) = select(others, f"count(distinct delivered_at) from {MESSAGE}")
    assert batches < 10


async def test_what_an_older_copy_of_the_file_has_got_since_is_read_to_the_last_message(
    process: Process, database: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It takes the file's place under a running reader, which has read as many others."""
    copy = tmp_path / "copy.sqlite3"
    for number in range(6):
        await process.send(number)
        assert await soon(process.receive()) == number
        if number == 0:
            with sql(database) as other:
                other.execute("vacuum into ?", [str(copy)])
    task = await process.begin()
    with sql(copy) as other:
        for number in range(10, 17):
            put_number(other, process.channel, number)
    os.replace(copy, database)
    got = [await soon(task), *[await soon(process.receive()) for _ in range(6)]]
    assert got == [*range(10, 17)]
    assert "was deleted or replaced" in caplog.text
    caplog.clear()


@pytest.mark.parametrize("flushes", [False, True], ids=["replaced twice", "flushed and replaced"])
async def test_a_copy_of_the_file_before_last_brings_no_message_twice(
    process: Process,
    database: Path,
    tmp_path: Path,
    flushes: bool,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It was made while messages waited that the reader has taken since."""
    copy, empty = tmp_path / "copy.sqlite3", tmp_path / "empty.sqlite3"
    await process.send(1)
    assert await soon(process.receive()) == 1
    task = await process.begin()
    with sql(database) as other:
        for each in (copy, empty):
            other.execute("vacuum into ?", [str(each)])
    with sql(copy) as other:
        other.execute(f"update {MESSAGE} set delivered_at = null")
        put_number(other, process.channel, 3)
    with sql(empty) as other:
        flush(other)
        put_number(other, process.channel, 2)
    if flushes:
        await process.layer.flush()
        await process.send(2)
    else:
        os.replace(empty, database)
    assert await soon(task) == 2
    task = await process.begin()
    os.replace(copy, database)
    assert await soon(task) == 3
    caplog.clear()


async def test_no_more_than_so_many_epochs_are_remembered(process: Process) -> None:
    for number in range(2 * EPOCHS):
        await process.layer.flush()
        await process.send(number)
        assert await soon(process.receive()) == number
    assert len(process.receiver._reading._before) <= EPOCHS


async def test_what_was_taken_is_acknowledged_when_nothing_follows_or_after_a_lock(
    process: Process, database: Path, set_times: SetTimes
) -> None:
    """Without any heartbeat: a young loop does not wait for one. A burst then finds room."""
    set_times(heartbeat=60.0)
    await process.send(1)
    assert await soon(process.receive()) == 1
    await until(lambda: waiting(database) == 0)
    await process.send(2)
    with locked(database):
        assert await soon(process.receive()) == 2
        await asyncio.sleep(0.05)  # it is tried, in vain
    await until(lambda: waiting(database) == 0)


async def test_a_consumer_that_skips_a_row_listens_again_if_the_layer_was_closed_meanwhile(
    process: Process, others: sqlite3.Connection
) -> None:
    task = await process.begin()
    loop = asyncio.get_running_loop()
    put(others, process.channel, b"no message")
    process.receiver.rung([inbox_of(process.channel)], loop)  # it has the row, and did not run yet
    process.receiver._stop(loop)
    await asyncio.sleep(0)
    await process.send(1)
    assert await soon(task) == 1


@pytest.mark.usefixtures("quick_heart")
async def test_in_memory_nothing_is_read_that_django_may_undo(
    open_: Open, memory_alias: str, settings: Settings, django_db_blocker: DjangoDbBlocker
) -> None:
    config = {"database": memory_alias}
    settings.CHANNEL_LAYERS = {"default": {"BACKEND": BACKEND, "CONFIG": config}}
    process = open_(memory_alias)
    task = await process.begin()

    def write() -> None:
        with django_db_blocker.unblock():
            connections[memory_alias].ensure_connection()
            # Django's own close() leaves a database in memory open.
            with closing(connections[memory_alias].connection) as django:
                with transaction.atomic(using=memory_alias):
                    put_number(django, process.channel, 0)
                    time.sleep(0.3)
                    transaction.set_rollback(True, using=memory_alias)
                put_number(django, process.channel, 1)
                put_number(django, process.channel, 2)

    await asyncio.to_thread(write)
    assert [await soon(task), await soon(process.receive())] == [1, 2]


@pytest.mark.usefixtures("quick_heart")
async def test_of_many_inboxes_those_that_nobody_waits_for_are_forgotten(process: Process) -> None:
    """A prefix may be made for one answer. Later messages are there for the next consumer."""
    client = process.layer.client_prefix
    channels = [f"answer-{number}.{client}!x" for number in range(2 * MANY)]
    lasting = await process.begin()
    for channel in channels:
        await cancel(await process.begin(channel))
    await until(lambda: len(process.receiver._reading.inboxes) <= MANY)
    for number in (1, 2):
        for channel in channels:
            await process.send(number, channel=channel)
            assert await soon(process.receive(channel)) == number
    await process.send(3)
    assert await soon(lasting) == 3


async def test_what_was_read_on_other_connections_is_not_acknowledged_on_new_ones(
    process: Process, database: Path
) -> None:
    """In another file the same ids may be of other messages. It is when it was read there again,
    and nobody gets it twice.
    """
    await process.send(1)
    with locked(database):
        assert await soon(process.receive()) == 1
        process.receiver._stop(asyncio.get_running_loop())  # no look comes in between
    await soon(process.layer.database.close())
    await soon(process.layer.database.ready())
    process.receiver.acknowledge_now()
    assert waiting(database) == 1
    task = await process.begin()
    await until(lambda: waiting(database) == 0)
    await process.send(2)
    assert await soon(task) == 2


@pytest.mark.parametrize("has_bell", [True, False], ids=["bell", "no-bell"])
async def test_what_was_taken_and_not_acknowledged_is_not_counted_as_expired(
    process: Process, others: sqlite3.Connection, set_times: SetTimes, has_bell: bool
) -> None:
    """A lock kept it from the table, and its loop has ended."""
    if not has_bell:
        Path(process.layer.database.files.bells).touch()  # noqa: ASYNC240
    set_times(heartbeat=60.0)
    await process.send(1)
    others.execute("begin immediate")
    assert await soon(process.receive()) == 1
    process.receiver._stop(asyncio.get_running_loop())
    others.execute(f"update {MESSAGE} set expires_at = 0")
    others.execute("commit")
    layer = process.layer
    trimmer = Trimmer(layer.database, layer.options, layer.counters)
    assert (await soon(trimmer.trim())).expired == 1
    assert layer.counters.expired == 0


async def test_the_reader_of_a_full_inbox_is_asked_for_room(process: Process) -> None:
    """Whatever this process owes: another one has what takes up the room."""
    bell = Bell(process.layer.database.files, "elsewhere-12", {})
    theirs = "specific.elsewhere-12!x"
    try:
        await process.send(1)
        assert await soon(process.receive()) == 1
        await process.send(*range(100), channel=theirs)
        os.utime(bell.path, (1, 1))
        with pytest.raises(ChannelFull):
            await process.send(100, channel=theirs)
        assert os.stat(bell.path).st_mtime > 1
    finally:
        bell.close(remove=True)


# Closing


async def test_closing_acknowledges_and_gives_back(process: Process, database: Path) -> None:
    await process.send(1, 2)
    with locked(database):
        assert await soon(process.receive()) == 1
        closing = asyncio.create_task(process.layer.close())
        await asyncio.sleep(0.02)
    await soon(closing)
    assert waiting(database) == 0
    task = await claimed(process, database)
    with locked(database):
        await cancel(task)
        closing = asyncio.create_task(process.layer.close())
        await asyncio.sleep(0.02)
        assert not closing.done()
    await soon(closing)
    await soon(process.layer.close_pools())  # another name of close
    assert waiting(database) == 1
    assert process.layer.database.connections is None
    assert await soon(process.receive()) == 2


async def test_a_consumer_that_still_waits_is_served_by_the_next_send(process: Process) -> None:
    """It listens again at the next use of the layer, whichever that is."""
    for count_first in (False, True):
        tasks = [await process.begin(channel) for channel in (None, NORMAL)]
        await soon(process.layer.close())
        assert not process.receiver._listening.loops()
        if count_first:
            await process.layer.group_count("test-group")
            await until(lambda: process.receiver._listening.loops())
        for channel in (None, NORMAL):
            await process.send(7, channel=channel)
        assert await soon(asyncio.gather(*tasks)) == [7, 7]


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
    await soon(until_gone(gone))
    other = Process(alias)
    await soon(other.layer.close())
    await soon(other.layer.database.close())
    await soon(other.send(2))  # opens the database, which sweeps
    await until(lambda: not bell.exists())


async def test_a_reader_whose_bell_is_lost_takes_its_leave_at_the_end(
    process: Process, database: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Nobody else would find that it is gone."""
    await process.layer.group_add("test-group", process.channel)
    bells = process.layer.database.files.bells
    shutil.rmtree(bells)
    os.symlink(database, bells)
    with process.receiver._lock:
        process.receiver._listening.make_bell()
    assert process.receiver._listening.bell is None
    process.receiver.depart()
    assert count(database, MEMBERSHIP) == 0
    caplog.clear()  # no bell could be made


@pytest.mark.parametrize("joins", [False, True], ids=["listens", "joins"])
async def test_a_layer_that_retires_while_it_begins_to_listen_or_joins_makes_no_bell(
    open_: Open, joins: bool
) -> None:
    """Nobody would give it up again."""
    receiver = open_().receiver
    use = receiver.prepare_to_join() if joins else receiver.receive(NORMAL, None)
    using = asyncio.create_task(use)
    await asyncio.sleep(0)  # it opens the database
    receiver.retire()
    with nullcontext() if joins else pytest.raises(Retired):
        await soon(using)
    assert receiver._listening.bell is None


async def test_a_database_that_no_layer_has_any_more_is_closed(open_: Open) -> None:
    """A test suite may give each of its tests a file."""
    one, other = open_(), open_()
    database, before = one.layer.database, threading.active_count()
    assert other.layer.database is database
    await database.ready()
    one.receiver.retire()
    assert database.connections is not None
    other.receiver.retire()
    assert database.connections is None
    await until(lambda: not os.path.exists(database.files.wal))
    await until(lambda: threading.active_count() <= before)


# Bells and watchers


@pytest.mark.usefixtures("quick_heart")
async def test_a_process_without_a_bell_says_so_once_and_receives(
    process: Process, database: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    task = await process.begin()
    listening = process.receiver._listening
    bells = f"{database}-bells"
    os.rename(bells, tmp_path / "away")
    Path(bells).touch()  # noqa: ASYNC240
    await until(lambda: caplog.messages)
    listener = listening.of(asyncio.get_running_loop())
    assert listener is not None
    watcher = listener.watcher
    await asyncio.sleep(0.3)
    assert listener.watcher is watcher
    with sql(database) as other:
        put_number(other, process.channel, 7)
    assert await soon(task) == 7
    [said] = caplog.messages
    assert "No bell can be made" in said
    assert said.endswith("Move it away.")
    os.unlink(bells)
    await until(lambda: listening.bell)


@pytest.mark.usefixtures("quick_heart")
async def test_in_memory_what_others_write_is_found_and_nobody_called_deaf(
    open_: Open, memory_alias: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Django's connection may write there; no event says so."""
    process = open_(memory_alias)
    with memory(memory_alias) as other:
        for number in range(8):
            task = await process.begin()
            put_number(other, process.channel, number)
            other.commit()
            assert await soon(task) == number
    assert caplog.messages == []


async def test_a_garbage_collected_consumer_takes_no_lock(process: Process, database: Path) -> None:
    """It may come amid anything. The message claimed for that consumer goes to the next one."""
    await cancel(await process.begin(NORMAL))  # it listens by now
    coroutine = process.receive(NORMAL)
    coroutine.send(None)
    held, closed = threading.Event(), threading.Event()

    def hold() -> None:
        with process.receiver._lock:
            held.set()
            assert closed.wait(PATIENCE)

    with threads(hold):
        held.wait()  # without the loop, which looks and takes the lock
        coroutine.close()
        closed.set()
    await process.send(1, channel=NORMAL)
    assert await soon(process.receive(NORMAL)) == 1
    assert process.receiver._queues.count_channels() == 0


async def in_hand(process: Process) -> Coroutine[Any, Any, int]:
    """A consumer that was handed the message 1, and has not run since."""
    await cancel(await process.begin(NORMAL))  # it listens by now
    consumer = process.receive(NORMAL)
    consumer.send(None)
    await process.send(1, channel=NORMAL)
    return consumer


@pytest.mark.parametrize("closes", [True, False], ids=["closed", "at exit"])
async def test_what_a_garbage_collected_consumer_was_handed_is_given_back_at_the_end(
    process: Process, database: Path, closes: bool
) -> None:
    consumer = await in_hand(process)
    consumer.close()
    assert waiting(database) == 0
    if closes:
        await process.layer.close()
    else:
        process.receiver.depart()
    assert waiting(database) == 1


async def test_a_layer_that_gives_back_does_not_wait_for_another_ones_look_under_its_lock(
    open_: Open, database: Path
) -> None:
    """That other one may do the same on another event loop, and wait for the first."""
    process, other = open_(), open_()
    consumer = await in_hand(process)
    task = await other.begin(NORMAL)
    consumer.close()
    held = threading.Event()

    def hold() -> None:
        with other.receiver._lock:
            held.set()
            wait_until(lambda: waiting(database) == 1)
            assert process.receiver._lock.acquire(timeout=PATIENCE)
            process.receiver._lock.release()

    with threads(hold):
        held.wait()  # without the loop, which would look
        process.receiver.rung(None, asyncio.get_running_loop())
    assert await soon(task) == 1


async def test_at_exit_a_lock_of_others_is_waited_for_to_give_back_what_was_claimed(
    process: Process, database: Path, set_times: SetTimes
) -> None:
    set_times(close=PATIENCE)
    consumer = await in_hand(process)
    held, departs = threading.Event(), threading.Event()

    def hold() -> None:
        with locked(database):
            held.set()
            assert departs.wait(PATIENCE)
            time.sleep(0.1)

    with threads(hold):
        held.wait()  # without the loop, which would try again
        with pytest.raises(asyncio.CancelledError):
            consumer.throw(asyncio.CancelledError())
        departs.set()
        process.receiver.depart()
    assert waiting(database) == 1


async def test_on_an_event_loop_no_lock_is_waited_for_to_give_back_what_was_claimed(
    process: Process, database: Path, set_times: SetTimes
) -> None:
    """A test runner has changed NAME."""
    set_times(close=PATIENCE)
    (await in_hand(process)).close()
    started = time.monotonic()
    with locked(database):
        process.receiver.retire()
    assert time.monotonic() < started + PATIENCE


async def test_at_exit_nothing_is_waited_for_where_the_database_cannot_be_opened(
    process: Process, database: Path, set_times: SetTimes
) -> None:
    set_times(close=PATIENCE)
    (await in_hand(process)).close()
    await process.layer.database.close()
    os.unlink(database)
    started = time.monotonic()
    process.receiver.depart()
    assert time.monotonic() < started + PATIENCE


async def test_a_lock_of_others_after_the_clock_was_set_takes_no_message_of_a_group(
    open_: Open, database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until the memberships are moved they seem to have lapsed before it was sent."""
    process = open_(group_expiry=10)
    await process.layer.group_add("test-group", process.channel)
    task = await process.begin()
    memberships = process.receiver._memberships
    later = memberships.move_if_clock_was_set  # whatever happens before the lock is held
    monkeypatch.setattr(memberships, "move_if_clock_was_set", lambda: None)
    body = process.layer.codec.encode({"number": 7}, "", "test-group")
    with sql(database) as other:
        sent = to_group(7, body=body, created_at=time.time() + 50, expires_at=time.time() + 200)
        groups.send(other, sent, lambda _: 100)
    with locked(database):
        set_the_clock(monkeypatch, process, 100)
        monkeypatch.setattr(memberships, "move_if_clock_was_set", later)
        process.receiver.rung(None, asyncio.get_running_loop())
        await asyncio.sleep(0.05)
        assert not task.done()
    assert await soon(task) == 7


async def test_a_membership_of_after_the_clock_was_set_is_not_moved(
    open_: Open, others: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = open_(group_expiry=1000)
    set_the_clock(monkeypatch, process, -100)
    await process.layer.group_add("test-group", process.channel)
    await cancel(await process.begin())
    (expires_at,) = select(others, f"expires_at from {MEMBERSHIP}")
    assert abs(expires_at - time.time() - 1000) < 50


async def test_a_disk_that_is_full_after_the_clock_was_set_keeps_nobody_from_reading(
    process: Process, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    error = sqlite3.OperationalError("database or disk is full")
    error.sqlite_errorcode = sqlite3.SQLITE_FULL
    await process.send(1)
    set_the_clock(monkeypatch, process, -100)
    with monkeypatch.context() as full:
        full.setattr(groups, "shift_expiry", Mock(side_effect=error))
        assert await soon(process.receive()) == 1
    assert "disk is full" in caplog.text
    await process.send(2)
    assert await soon(process.receive()) == 2
    apart = process.receiver._memberships._clocks_apart
    assert abs(apart - (time.time() - time.monotonic())) < 1


@pytest.mark.usefixtures("quick_heart")
async def test_in_memory_a_row_that_was_rolled_back_hides_no_message_of_the_layer_or_of_others(
    open_: Open, memory_alias: str
) -> None:
    """It is read there before it is committed, and the next row gets its id. That is sent by the
    layer, or by Django's connection, which rings nobody.
    """
    process = open_(memory_alias)
    with memory(memory_alias) as other:
        for number in range(3):
            task = await process.begin()
            put_number(other, process.channel, number)
            assert await soon(task) == number
            other.rollback()
            await process.send(number + 10)
            assert await soon(process.receive()) == number + 10
        for number in range(0, 6, 2):
            task = await process.begin()
            put_number(other, process.channel, number)
            assert await soon(task) == number
            await asyncio.sleep(0.5)  # it is acknowledged in vain, because the table is locked
            task = await process.begin()
            other.rollback()
            put_number(other, process.channel, number + 1)
            other.commit()
            assert await soon(task) == number + 1
