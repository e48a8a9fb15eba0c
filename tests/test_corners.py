"""Corners of this layer's design, end to end: what the specification leaves open, or forgets."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any

import msgpack
import pytest
from channels.exceptions import ChannelFull
from django.db import connections

from channels_sqlite._storing.opener import WAL_LIMIT
from channels_sqlite.exceptions import DatabaseUnavailable, NotMigrated
from channels_sqlite.layers import SqliteChannelLayer
from tests import databases
from tests.conftest import TEST_DATABASE, WATCHERS, OpenLayer, SetTimes, Start
from tests.waiting import cancel, soon, until

Message = dict[str, Any]
ours = pytest.mark.parametrize("kind", [*WATCHERS, TEST_DATABASE], indirect=True)
on_files = pytest.mark.parametrize("kind", WATCHERS, indirect=True)
by_default = pytest.mark.parametrize("kind", ["auto"], indirect=True)


def message(number: int) -> Message:
    return {"type": "test.message", "number": number}


async def receive(layer: Any, channel: str) -> Message:
    got: Message = await soon(layer.receive(channel))
    return got


async def rest(layer: Any, channel: str) -> list[Message]:
    """What still waits in the channel."""
    await layer.send(channel, message(-1))
    messages = []
    while (got := await receive(layer, channel)) != message(-1):
        messages.append(got)
    return messages


class Table:
    """A look at a file, and a pen, beside the layer."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @contextmanager
    def open(self) -> Iterator[sqlite3.Connection]:
        with closing(sqlite3.connect(self._path, isolation_level=None)) as connection:
            yield connection

    def count(self, what: str) -> int:
        with self.open() as connection:
            ((count,),) = connection.execute(f"select count(*) from channels_sqlite_{what}")
            return int(count)

    def size(self) -> int:
        """Bytes of the file, once the log is copied into it."""
        with self.open() as connection:
            ((pages,),) = connection.execute("pragma page_count")
            ((size,),) = connection.execute("pragma page_size")
            return int(pages) * int(size)

    def insert(self, channel: str, body: object, *, ahead: float = 0, expiry: float = 60) -> None:
        """Insert a message the way any program could, whose clock is `ahead` of ours."""
        inbox = channel.split("!")[0] + "!" if "!" in channel else channel
        now = time.time() + ahead
        with self.open() as connection:
            connection.execute(
                "insert into channels_sqlite_message (inbox, channel, body, created_at, expires_at)"
                " values (?, ?, ?, ?, ?)",
                (inbox, channel, body, now, now + expiry),
            )


@pytest.fixture
def table(database: Path) -> Table:
    return Table(database)


# Rows


@by_default
async def test_a_group_message_is_one_row_for_a_process(
    open_layer: OpenLayer, table: Table
) -> None:
    layer = open_layer()
    channels = [await layer.new_channel() for _ in range(1000)]
    for channel in channels:
        await layer.group_add("test-group", channel)
    waiting = [asyncio.create_task(layer.receive(channel)) for channel in channels]
    await layer.group_send("test-group", message(1))
    assert await soon(asyncio.gather(*waiting)) == [message(1)] * 1000
    assert table.count("message") == 1


@by_default
async def test_retention_0_deletes_on_delivery(open_layer: OpenLayer, table: Table) -> None:
    layer = open_layer(message_retention=0)
    for channel in ("test-channel", await layer.new_channel()):
        await layer.send(channel, message(1))
        assert await receive(layer, channel) == message(1)
    await until(lambda: table.count("message") == 0)


@by_default
async def test_retention_keeps_what_was_delivered(open_layer: OpenLayer, table: Table) -> None:
    layer = open_layer()
    for channel in ("test-channel", await layer.new_channel()):
        await layer.send(channel, message(1))
        assert await receive(layer, channel) == message(1)
    delivered = "message where delivered_at is not null"
    await until(lambda: table.count(delivered) == 2)
    await layer.close()
    assert table.count(delivered) == 2


@by_default
@pytest.mark.parametrize(
    ("retention", "most"),
    [(0, 2_000_000), (0.2, 8_000_000)],  # bytes; a thousand messages are 4 MB
    ids=["deleted-on-delivery", "trimmed"],
)
async def test_the_file_stops_growing(
    open_layer: OpenLayer, table: Table, retention: float, most: int
) -> None:
    """3,000 messages of 4 kB: neither rows nor pages pile up.

    However quick they are sent: a thousand at most are younger than the retention, for it pauses
    after each thousand.
    """
    layer = open_layer(message_retention=retention, trim_batch_size=50)
    channel = await layer.new_channel()
    for number in range(3000):
        await layer.send(channel, {**message(number), "text": "x" * 4096})
        assert (await receive(layer, channel))["number"] == number
        if number % 1000 == 999:
            await asyncio.sleep(2 * retention + 0.1)
    size = table.size()

    async def write_until_it_is_trimmed() -> None:
        while table.count("message") >= 300:
            await layer.send(channel, message(-2))
            await receive(layer, channel)
            await asyncio.sleep(0.1)

    await soon(write_until_it_is_trimmed())
    assert size <= most


@by_default
async def test_the_log_is_copied_into_the_file(open_layer: OpenLayer, database: Path) -> None:
    """While all that is sent and received is kept, and nobody pauses."""
    layer = open_layer()
    channel = await layer.new_channel()
    number = 0
    while os.stat(database).st_size < 2_000_000:
        await layer.send(channel, {**message(number), "text": "x" * 4096})
        assert (await receive(layer, channel))["number"] == number
        number += 1
        assert os.stat(f"{database}-wal").st_size < 4 * WAL_LIMIT


@by_default
@pytest.mark.parametrize("local", [True, False], ids=["process-local", "normal"])
async def test_who_reads_trims_what_programs_have_sent_that_ended_at_once(
    open_layer: OpenLayer, table: Table, local: bool
) -> None:
    """Cron jobs, say: none of them lives long enough to trim."""
    layer = open_layer(message_retention=0.2)
    channel = await layer.new_channel() if local else "test-channel"
    receiving = asyncio.create_task(layer.receive(channel))
    await asyncio.sleep(0)

    async def send_until_it_is_trimmed() -> None:
        nonlocal receiving
        sent = 0
        with table.open() as program:
            while sent <= 5 or table.count("message") > 3:
                program.execute(
                    "insert into channels_sqlite_send values (?, json_object('type', 'test'))",
                    (channel,),
                )
                sent += 1
                await receiving
                receiving = asyncio.create_task(layer.receive(channel))
                await asyncio.sleep(0.1)

    await soon(send_until_it_is_trimmed())
    await cancel(receiving)


@by_default
async def test_without_auto_trim_nothing_is_trimmed(open_layer: OpenLayer, table: Table) -> None:
    layer = open_layer(auto_trim=False, trim_batch_size=1)
    for number in range(30):
        await layer.send("test-channel", message(number), expiry=0.01)
    await asyncio.sleep(0.1)
    await layer.send("test-channel", message(30))
    await layer.close()
    assert table.count("message") == 31


@on_files
async def test_who_only_waits_writes_nothing(open_layer: OpenLayer, table: Table) -> None:
    """Neither the look at a message for others nor the heartbeat writes, which would wake all."""
    layer = open_layer()
    channels = ["test-channel", await layer.new_channel()]
    waiting = [asyncio.create_task(layer.receive(channel)) for channel in channels]
    await asyncio.sleep(0.3)
    table.insert("others", b"")
    with table.open() as connection:
        (before,) = connection.execute("pragma data_version").fetchone()
        await asyncio.sleep(1.3)
        (after,) = connection.execute("pragma data_version").fetchone()
    await cancel(*waiting)
    assert before == after


# Groups


@by_default
async def test_who_leaves_a_group_gets_what_was_sent_before(open_layer: OpenLayer) -> None:
    """Members are looked up when a message is read: all of it is, and one look may not do."""
    reader, sender = open_layer(), open_layer()
    channels = [await reader.new_channel() for _ in range(200)]
    await asyncio.gather(*[reader.group_add("test-group", channel) for channel in channels])

    async def send() -> None:
        for number in range(90):
            await sender.group_send("test-group", message(number))

    await asyncio.to_thread(asyncio.run, send())  # nobody reads meanwhile
    await reader.group_discard("test-group", channels[0])
    assert [await receive(reader, channels[0]) for _ in range(90)] == [
        message(number) for number in range(90)
    ]


# Expiry, and clocks


@ours
async def test_expiry_of_one_message(open_layer: OpenLayer) -> None:
    layer = open_layer()
    for channel in ("test-channel", await layer.new_channel()):
        await layer.send(channel, message(1), expiry=0.1)
        await layer.send(channel, message(2))
        await asyncio.sleep(0.2)
        assert await rest(layer, channel) == [message(2)]


@by_default
@pytest.mark.parametrize("expiry", [0, -1, float("inf"), float("nan"), "1"])
async def test_expiry_must_be_a_duration(open_layer: OpenLayer, expiry: Any) -> None:
    with pytest.raises((TypeError, ValueError)):
        await open_layer().send("test-channel", message(1), expiry=expiry)


@by_default
@pytest.mark.parametrize("local", [True, False], ids=["process-local", "normal"])
async def test_a_sender_whose_clock_is_ahead(
    open_layer: OpenLayer, table: Table, local: bool
) -> None:
    """Its messages arrive; and what nobody asks for does not live an hour longer than it should."""
    layer = open_layer()
    channel = await layer.new_channel() if local else "test-channel"
    table.insert(channel, msgpack.packb(message(1)), ahead=3600)
    assert await receive(layer, channel) == message(1)


@by_default
async def test_a_sender_whose_clock_is_ahead__in_a_buffer(
    open_layer: OpenLayer, table: Table
) -> None:
    layer = open_layer()
    slow, quick = await layer.new_channel(), await layer.new_channel()
    table.insert(slow, msgpack.packb(message(1)), ahead=3600, expiry=0.5)
    table.insert(quick, msgpack.packb(message(2)), ahead=3600)
    assert await receive(layer, quick) == message(2)  # and takes message 1 into the buffer
    await asyncio.sleep(0.6)
    assert await rest(layer, slow) == []


# What cannot be sent or read


@by_default
async def test_what_cannot_be_serialised_is_refused_by_its_path(
    open_layer: OpenLayer, table: Table
) -> None:
    layer = open_layer()
    channel = await layer.new_channel()
    await layer.group_add("test-group", channel)
    bad = {"type": "test.message", "orders": [{"id": 1}, {"id": 2, "price": object()}]}
    for sending in (layer.send(channel, bad), layer.group_send("test-group", bad)):
        with pytest.raises(TypeError, match=r"\['orders'\]\[1\]\['price'\]"):
            await sending
    assert table.count("message") == 0


@on_files
@pytest.mark.parametrize("local", [True, False], ids=["process-local", "normal"])
async def test_garbage_is_logged_and_skipped(
    open_layer: OpenLayer, table: Table, caplog: pytest.LogCaptureFixture, local: bool
) -> None:
    layer = open_layer()
    channel = await layer.new_channel() if local else "test-channel"
    garbage = [b"", b"\xc1garbage", msgpack.packb([1, 2]), "text", 17, 1.5, b"\x81\xa1a"]
    waiting = asyncio.create_task(layer.receive(channel))
    await asyncio.sleep(0.1)
    for body in garbage:
        table.insert(channel, body)
    table.insert(channel, msgpack.packb(message(1)))
    assert await soon(waiting) == message(1)
    assert await rest(layer, channel) == []
    assert len([each for each in caplog.messages if "is skipped" in each]) == len(garbage)
    caplog.clear()


def in_msgpack(value: bytes) -> bytes:
    """A message that has this under a key."""
    return b"\x81\xa1a" + value


HOSTILE = {
    "nested in json": b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "nested in msgpack": in_msgpack(b"\x91" * 100_000 + b"\xc0"),
    "10 MB of nested arrays": in_msgpack(b"\x91" * 10_000_000),
    "an int of millions of digits": b'{"a":' + b"9" * 3_000_000 + b"}",
    "a map that is said to be huge": b"\xdf\xff\xff\xff\xff\xa1a\x01",
    "an array that is said to be huge": in_msgpack(b"\xdd\xff\xff\xff\xff\x01"),
}


@by_default
@pytest.mark.timeout(60)
@pytest.mark.parametrize("body", HOSTILE.values(), ids=HOSTILE.keys())
async def test_hostile_bodies_are_skipped_with_one_warning(
    open_layer: OpenLayer,
    table: Table,
    caplog: pytest.LogCaptureFixture,
    body: bytes,
) -> None:
    layer = open_layer()
    channel = await layer.new_channel()
    table.insert(channel, body)
    await layer.send(channel, message(1))
    assert await receive(layer, channel) == message(1)
    (record,) = [each for each in caplog.records if each.name == "channels_sqlite"]
    assert record.levelname == "WARNING"
    assert len(record.getMessage()) < 500
    caplog.clear()


@by_default
@pytest.mark.timeout(120)
async def test_a_million_keys_arrive(open_layer: OpenLayer, table: Table) -> None:
    """Some seconds at most, most of them the garbage collector's."""
    layer = open_layer()
    large = {str(number): number for number in range(1_000_000)}
    for body in (msgpack.packb(large), json.dumps(large).encode()):
        table.insert("test-channel", body)
        assert await asyncio.wait_for(layer.receive("test-channel"), 60) == large


@ours
async def test_counters(open_layer: OpenLayer) -> None:
    layer = open_layer(capacity=2)
    channel = await layer.new_channel()
    await layer.group_add("test-group", channel)
    await layer.send(channel, message(1))
    await layer.send(channel, message(2), expiry=1)
    with pytest.raises(ChannelFull):
        await layer.send(channel, message(3))
    await layer.group_send("test-group", message(4))
    await asyncio.sleep(1.1)
    assert await rest(layer, channel) == [message(1)]
    counted = layer.counters
    assert (counted.sent, counted.refused, counted.received) == (4, 1, 2)
    assert (counted.expired, counted.dropped) == (1, 1)


# Databases


async def test_the_file_is_looked_up_at_first_use(database: Path, tmp_path: Path) -> None:
    """Test runners change NAME after the layer was made."""
    with databases.alias_for(tmp_path / "elsewhere.sqlite3") as alias:
        layer = SqliteChannelLayer(database=alias)
        connections.settings[alias]["NAME"] = str(database)
        await layer.send("test-channel", message(1))
        await layer.close()
    assert Table(database).count("message") == 1
    assert not (tmp_path / "elsewhere.sqlite3").exists()


@pytest.mark.parametrize("there", [True, False], ids=["an empty file", "no file"])
async def test_tables_are_missing(tmp_path: Path, there: bool) -> None:
    """Every verb says so, each time, and makes no file; after migrate it works."""
    path = tmp_path / "new.sqlite3"
    if there:
        path.touch()
    with databases.alias_for(path) as alias:
        layer = SqliteChannelLayer(database=alias)
        channel = await layer.new_channel()
        for _ in range(2):
            for verb in (layer.send(channel, message(1)), layer.receive(channel), layer.flush()):
                with pytest.raises(NotMigrated, match="migrate"):
                    await soon(verb)
        assert path.exists() == there
        await asyncio.to_thread(databases.migrate, path)
        await layer.send(channel, message(1))
        assert await receive(layer, channel) == message(1)
        await layer.close()


@on_files
async def test_opening_needs_no_lock(open_layer: OpenLayer, start: Start, database: Path) -> None:
    """A file that is in WAL mode is opened, and read, while another process holds the lock."""
    first = open_layer()
    await first.send("test-channel", message(1))
    holder = start("lock_holder")
    assert await asyncio.to_thread(holder.hear) == "locked"
    await first.close()
    layer = open_layer()
    channel = await layer.new_channel()
    waiting = asyncio.create_task(layer.receive(channel))
    await asyncio.sleep(0.3)
    assert not waiting.done()
    holder.tell("release")
    await layer.send(channel, message(2))
    assert await soon(waiting) == message(2)


@by_default
async def test_the_first_to_open_a_file_waits_for_who_writes_to_it(
    open_layer: OpenLayer, start: Start, table: Table
) -> None:
    """It has to put the file into WAL mode, for which SQLite itself does not wait."""
    with table.open() as connection:
        assert connection.execute("pragma journal_mode = delete").fetchone() == ("delete",)
    holder = start("lock_holder")
    assert await asyncio.to_thread(holder.hear) == "locked"
    layer = open_layer()
    sending = asyncio.create_task(layer.send("test-channel", message(1)))
    await asyncio.sleep(0.3)
    holder.tell("release")
    await soon(sending)
    assert await receive(layer, "test-channel") == message(1)
    with table.open() as connection:
        assert connection.execute("pragma journal_mode").fetchone() == ("wal",)


@on_files
async def test_the_lock_is_held_for_too_long(
    open_layer: OpenLayer, alias: str, start: Start
) -> None:
    """A sender waits for OPTIONS["timeout"], gets one clear error, and the loop goes on."""
    connections.settings[alias]["OPTIONS"] = {"timeout": 0.3}
    layer = open_layer()
    channel = await layer.new_channel()
    await layer.send(channel, message(1))
    holder = start("lock_holder")
    assert await asyncio.to_thread(holder.hear) == "locked"
    ticks = []

    async def tick() -> None:
        while True:
            ticks.append(time.monotonic())
            await asyncio.sleep(0.01)

    ticking = asyncio.create_task(tick())
    with pytest.raises(DatabaseUnavailable):
        await soon(layer.send(channel, message(2)))
    with pytest.raises(DatabaseUnavailable):
        await soon(layer.group_add("test-group", channel))
    assert await receive(layer, channel) == message(1)  # what was committed is delivered
    await cancel(ticking)
    assert len(ticks) > 10
    holder.tell("release")
    assert await asyncio.to_thread(holder.hear) == "free"
    await layer.send(channel, message(3))
    assert await rest(layer, channel) == [message(3)]


# Rest


@by_default
async def test_the_log_is_reset_where_consumers_only_join_and_leave(
    open_layer: OpenLayer, database: Path
) -> None:
    layer = open_layer()
    channel = await layer.new_channel()
    written = 0
    for number in range(6000):  # about 20 kB of the log each
        await layer.group_add(f"group-{number % 50}", channel)
        await layer.group_discard(f"group-{number % 50}", channel)
        written = max(written, os.stat(f"{database}-wal").st_size)
    assert written < 6 * WAL_LIMIT


@by_default
async def test_one_old_message_does_not_keep_the_sequences_of_others(
    open_layer: OpenLayer, table: Table, set_times: SetTimes
) -> None:
    """It waits in a queue that nobody takes from, while others answer on a channel for each."""
    set_times(sweep=0.05, upkeep=0.1)
    layer = open_layer()
    await layer.send("queue-of-nobody", message(0), expiry=86_400)

    async def answer(number: int) -> None:
        await layer.send(f"answer-{number}", message(number))
        assert await receive(layer, f"answer-{number}") == message(number)

    for number in range(500):
        await answer(number)
    numbers = count(500)

    async def answer_until_they_are_gone() -> None:
        while table.count("sequence") > 20:
            await answer(next(numbers))
            await asyncio.sleep(0.05)

    await soon(answer_until_they_are_gone())
    assert await receive(layer, "queue-of-nobody") == message(0)


@by_default
async def test_what_comes_while_it_acknowledges_is_acknowledged_by_closing(
    open_layer: OpenLayer, table: Table, database: Path
) -> None:
    layer = open_layer()
    channel = await layer.new_channel()
    waiting = asyncio.create_task(layer.receive(channel))
    await asyncio.sleep(0.1)
    with closing(sqlite3.connect(database, isolation_level=None)) as connection:
        await layer.send(channel, message(1))
        assert await soon(waiting) == message(1)
        connection.execute("begin immediate")
        await asyncio.sleep(0.1)  # the acknowledgement is due, and waits for the lock
        connection.execute("rollback")
        table.insert(channel, msgpack.packb(message(2)))
        connection.execute("begin immediate")
        assert await receive(layer, channel) == message(2)
        end = asyncio.create_task(layer.close())
        await asyncio.sleep(0.1)
        connection.execute("rollback")
    await soon(end)
    assert table.count("message where delivered_at is null") == 0


# Ids begin anew


async def receive_twenty(layer: Any) -> str:
    channel: str = await layer.new_channel()
    for number in range(20):
        await layer.send(channel, message(number))
        assert await receive(layer, channel) == message(number)
    return channel


@by_default
async def test_the_file_is_replaced_while_the_layer_is_closed(
    open_layer: OpenLayer, database: Path, migrated: Path
) -> None:
    layer = open_layer()
    channel = await receive_twenty(layer)
    await layer.close()
    os.replace(shutil.copy(migrated, database.with_name("new")), database)
    for end in ("-wal", "-shm"):
        with suppress(FileNotFoundError):  # the last one to close it removes them
            os.unlink(f"{database}{end}")
    await layer.send(channel, message(1))
    assert await receive(layer, channel) == message(1)


@by_default
async def test_nothing_of_a_new_file_is_acknowledged_by_the_ids_of_the_old_one(
    open_layer: OpenLayer,
    database: Path,
    migrated: Path,
    table: Table,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A lock of others keeps the layer from acknowledging until the file is another one."""
    layer = open_layer()
    channel = await layer.new_channel()
    for number in range(20):
        await layer.send(channel, message(number))
    new = Path(shutil.copy(migrated, database.with_name("new")))
    Table(new).insert(channel, msgpack.packb(message(1)))
    with table.open() as holder:
        holder.execute("begin immediate")
        for number in range(20):
            assert await receive(layer, channel) == message(number)
        for end in ("-wal", "-shm"):
            os.unlink(f"{database}{end}")
        os.replace(new, database)
        assert await receive(layer, channel) == message(1)
    caplog.clear()


@ours
async def test_a_full_claim_is_followed_by_another(open_layer: OpenLayer) -> None:
    """100 messages wait: were each claim to wait for a wake, the heartbeats would take minutes."""
    layer = open_layer()
    for number in range(100):
        await layer.send("test-channel", message(number))
    got = [(await receive(layer, "test-channel"))["number"] for _ in range(10)]
    for _ in range(18):
        five = [asyncio.create_task(layer.receive("test-channel")) for _ in range(5)]
        got += [message["number"] for message in await soon(asyncio.gather(*five))]
    assert got == [*range(100)]


@by_default
async def test_the_log_is_reset_under_steady_reading(open_layer: OpenLayer, database: Path) -> None:
    """An open cursor, or a long read, would keep SQLite from writing the log from its beginning."""
    layer, sender = open_layer(), open_layer()
    channel = await layer.new_channel()
    text = "x" * 40_000
    waiting = asyncio.create_task(layer.receive(channel))
    for number in range(1500):  # 60 MB
        await sender.send(channel, {**message(number), "text": text})
        assert (await soon(waiting))["number"] == number
        waiting = asyncio.create_task(layer.receive(channel))
    await cancel(waiting)
    assert os.stat(f"{database}-wal").st_size < 6 * WAL_LIMIT  # 160 MB were written
