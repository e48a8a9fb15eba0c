"""Corners of this layer's design, end to end: what the specification leaves open, or forgets."""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
import threading
import time
from pathlib import Path
from typing import Any

import msgpack
import pytest
from channels.exceptions import ChannelFull

from channels_sqlite._storing.opener import WAL_LIMIT
from channels_sqlite._storing.schema import MESSAGE, SEQUENCE
from channels_sqlite.counters import Counters
from channels_sqlite.exceptions import NotMigrated
from channels_sqlite.layers import SqliteChannelLayer
from tests import databases
from tests.conftest import OpenLayer, SetTimes
from tests.kinds import ours
from tests.rows import LATER, count, inbox_of, message, put, put_number, put_to_group, select, sql
from tests.storing.parts import locked
from tests.waiting import cancel, members, receive, rest, soon, until

# Rows


async def test_a_thousand_consumers_share_a_row_and_no_thread_is_theirs(
    layer: Any, database: Path
) -> None:
    """They make the first use at once."""
    threads = threading.active_count()
    channels = [await layer.new_channel() for _ in range(1000)]
    waiting = [asyncio.create_task(layer.receive(channel)) for channel in channels]
    await asyncio.gather(*[layer.group_add("test-group", channel) for channel in channels])
    await layer.group_send("test-group", message(1))
    assert await soon(asyncio.gather(*waiting)) == [message(1)] * 1000
    assert count(database, MESSAGE) == 1
    assert threading.active_count() <= threads + 2  # one for SQLite, and watchfiles has one


@pytest.mark.parametrize(("retention", "kept"), [(0, 0), (60, 2)])
async def test_what_was_delivered_is_kept_for_the_retention(
    open_layer: OpenLayer, database: Path, retention: float, kept: int
) -> None:
    layer = open_layer(message_retention=retention)
    for channel in ("test-channel", await layer.new_channel()):
        await layer.send(channel, message(1))
        assert await receive(layer, channel) == message(1)
    await until(lambda: count(database, f"{MESSAGE} where delivered_at is null") == 0)
    await layer.close()
    assert count(database, MESSAGE) == kept


@pytest.mark.parametrize("local", [True, False], ids=["process-local", "normal"])
async def test_who_reads_trims_what_programs_have_sent_that_ended_at_once(
    open_layer: OpenLayer, database: Path, others: sqlite3.Connection, local: bool
) -> None:
    """Cron jobs, say: none of them lives long enough to trim."""
    layer = open_layer(message_retention=0.2)
    channel = await layer.new_channel() if local else "test-channel"
    waiting = asyncio.create_task(layer.receive(channel))

    async def send_until_it_is_trimmed() -> None:
        nonlocal waiting
        sent = 0
        while sent <= 5 or count(database, MESSAGE) > sent / 2:
            put_number(others, channel, sent)
            assert (await waiting)["number"] == sent
            waiting = asyncio.create_task(layer.receive(channel))
            sent += 1
            await asyncio.sleep(0.1)

    await soon(send_until_it_is_trimmed())
    await cancel(waiting)


async def test_who_only_waits_writes_nothing(layer: Any, others: sqlite3.Connection) -> None:
    """Neither the look at a message for others nor the heartbeat writes, which would wake all."""
    channels = ["test-channel", await layer.new_channel()]
    waiting = [asyncio.create_task(layer.receive(channel)) for channel in channels]
    await asyncio.sleep(0.3)
    put(others, "others", b"")
    before = select(others, "data_version from pragma_data_version")
    await asyncio.sleep(1.3)
    assert select(others, "data_version from pragma_data_version") == before
    await cancel(*waiting)


async def test_who_leaves_a_group_gets_what_was_sent_before(open_layer: OpenLayer) -> None:
    """Members are looked up when a message is read: all of it is, and one look may not do."""
    reader, sender = open_layer(), open_layer()
    channels = await members(reader, 200)

    async def send() -> None:
        for number in range(90):
            await sender.group_send("test-group", message(number))

    await asyncio.to_thread(asyncio.run, send())  # nobody reads meanwhile
    await reader.group_discard("test-group", channels[0])
    assert [await receive(reader, channels[0]) for _ in range(90)] == [*map(message, range(90))]


# Expiry, and clocks


async def test_expiry_must_be_a_duration(layer: Any) -> None:
    for expiry in (0, -1, 10**400, float("nan"), "1"):
        with pytest.raises(ValueError, match="allowed is a number of seconds above 0"):
            await layer.send("test-channel", message(1), expiry=expiry)


async def test_a_sender_whose_clock_is_ahead(layer: Any, others: sqlite3.Connection) -> None:
    """Its messages arrive; and what nobody asks for does not live an hour longer than it should."""
    now = time.time() + 3600
    slow, quick = await layer.new_channel(), await layer.new_channel()
    put_number(others, slow, 1, created_at=now, expires_at=now + 0.5)
    for channel in (quick, "test-channel"):
        put_number(others, channel, 2, created_at=now, expires_at=now + LATER)
        # which takes message 1 into the buffer of the other consumer
        assert (await receive(layer, channel))["number"] == 2
    await asyncio.sleep(0.6)
    assert await rest(layer, slow) == []


# Unreadable messages


def in_msgpack(value: bytes) -> bytes:
    """A message that has this under a key."""
    return b"\x81\xa1a" + value


GARBAGE: list[Any] = [b"", b"\xc1garbage", msgpack.packb([1, 2]), "text", 17, 1.5, in_msgpack(b"")]
HOSTILE = [
    b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    in_msgpack(b"\x91" * 100_000 + b"\xc0"),
    in_msgpack(b"\x91" * 10_000_000),
    b'{"a":' + b"9" * 3_000_000 + b"}",  # an int of millions of digits
    b"\xdf\xff\xff\xff\xff\xa1a\x01",  # a map that is said to be huge
    in_msgpack(b"\xdd\xff\xff\xff\xff\x01"),  # an array that is said to be huge
]


async def test_garbage_and_hostile_bodies_are_skipped_with_a_warning_each(
    layer: Any, others: sqlite3.Connection, caplog: pytest.LogCaptureFixture, channel: str
) -> None:
    bodies = GARBAGE + HOSTILE
    waiting = asyncio.create_task(layer.receive(channel))
    await asyncio.sleep(0.1)
    for body in bodies:
        put(others, channel, body)
    put(others, channel, msgpack.packb(message(1)))
    assert await soon(waiting) == message(1)
    assert await rest(layer, channel) == []
    said = [each for each in caplog.records if "is skipped" in each.getMessage()]
    assert [each.levelname for each in said] == ["WARNING"] * len(bodies)
    assert max(len(each.getMessage()) for each in said) < 500
    assert layer.counters.unreadable == len(bodies)
    caplog.clear()


async def test_what_no_member_of_a_group_can_read_is_logged_once(
    layer: Any, others: sqlite3.Connection, caplog: pytest.LogCaptureFixture
) -> None:
    channels = await members(layer, 5)
    put_to_group(others, "test-group", inbox_of(channels[0]), b"garbage")
    await layer.group_send("test-group", message(1))
    assert [await receive(layer, each) for each in channels] == [message(1)] * 5
    assert len([each for each in caplog.messages if "is skipped" in each]) == 1
    caplog.clear()


async def test_a_hundred_thousand_keys_arrive(layer: Any, others: sqlite3.Connection) -> None:
    large = {str(number): number for number in range(100_000)}
    for body in (msgpack.packb(large), json.dumps(large).encode()):
        put(others, "test-channel", body)
        assert await receive(layer, "test-channel") == large


@ours
async def test_each_layer_counts_its_own(open_layer: OpenLayer) -> None:
    # Nobody counts what is trimmed unread.
    sender, reader = [open_layer(capacity=2, auto_trim=False) for _ in range(2)]
    (channel,) = await members(reader, 1)
    await sender.send(channel, message(1))
    await sender.send(channel, message(2), expiry=0.3)
    with pytest.raises(ChannelFull):
        await sender.send(channel, message(3))
    await sender.group_send("test-group", message(4))
    await asyncio.sleep(0.4)
    assert await rest(reader, channel) == [message(1)]
    assert sender.counters == Counters(sent=3, refused=1, dropped=1)
    assert reader.counters == Counters(sent=1, received=2, expired=1)


# Opening


async def test_tables_are_missing(tmp_path: Path) -> None:
    """Every verb says so, each time, and makes no file; after migrate it works."""
    path = tmp_path / "new.sqlite3"
    with databases.alias_for(path) as alias:
        layer = SqliteChannelLayer(database=alias)
        channel = await layer.new_channel()
        for there in (False, False, True, True):
            if there:
                path.touch()
            for verb in (
                *(layer.send(channel, message(1)), layer.receive(channel), layer.flush()),
                *(layer.stats(), layer.readers()),
            ):
                with pytest.raises(NotMigrated, match=f"migrate --database={alias}"):
                    await soon(verb)
            assert path.exists() == there
        await asyncio.to_thread(databases.migrate, path)
        await layer.send(channel, message(1))
        assert await receive(layer, channel) == message(1)
        await layer.close()


async def test_opening_needs_no_lock(open_layer: OpenLayer, database: Path) -> None:
    """A file that is in WAL mode is opened, and read, while somebody else holds the lock."""
    first = open_layer()
    await first.send("test-channel", message(1))
    with locked(database):
        await first.close()
        layer = open_layer()
        channel = await layer.new_channel()
        waiting = asyncio.create_task(layer.receive(channel))
        await asyncio.sleep(0.3)
        assert not waiting.done()
    await layer.send(channel, message(2))
    assert await soon(waiting) == message(2)


async def test_the_first_to_open_a_file_waits_for_who_writes_to_it(
    layer: Any, database: Path
) -> None:
    """It has to put the file into WAL mode, for which SQLite itself does not wait."""
    with sql(database) as other:
        assert other.execute("pragma journal_mode = delete").fetchone() == ("delete",)
    with locked(database):
        sending = asyncio.create_task(layer.send("test-channel", message(1)))
        await asyncio.sleep(0.3)
    await soon(sending)
    assert await receive(layer, "test-channel") == message(1)
    with sql(database) as other:
        assert other.execute("pragma journal_mode").fetchone() == ("wal",)


# Rest


async def test_the_log_is_reset_where_consumers_only_join_and_leave(
    layer: Any, database: Path
) -> None:
    channel = await layer.new_channel()
    written = 0
    for number in range(6000):  # about 20 kB of the log each
        await layer.group_add(f"group-{number % 50}", channel)
        await layer.group_discard(f"group-{number % 50}", channel)
        written = max(written, os.stat(f"{database}-wal").st_size)
    assert written < 6 * WAL_LIMIT


async def test_the_log_is_reset_under_steady_reading(open_layer: OpenLayer, database: Path) -> None:
    """An open cursor, or a long read, would keep SQLite from writing the log from its beginning."""
    layer, sender = open_layer(), open_layer()
    channel = await layer.new_channel()
    text = "x" * 40_000
    waiting = asyncio.create_task(layer.receive(channel))
    for number in range(1500):  # 60 MB
        await sender.send(channel, message(number, text=text))
        assert (await soon(waiting))["number"] == number
        waiting = asyncio.create_task(layer.receive(channel))
    await cancel(waiting)
    assert os.stat(f"{database}-wal").st_size < 6 * WAL_LIMIT  # 160 MB were written


async def test_one_old_message_does_not_keep_the_sequences_of_others(
    layer: Any, database: Path, set_times: SetTimes
) -> None:
    """It waits in a queue that nobody takes from, while others answer on a channel for each."""
    set_times(sweep=0.05, upkeep=0.1)
    await layer.send("queue-of-nobody", message(0), expiry=86_400)
    ends_at = time.monotonic() + 60
    number = 0
    while number < 500 or count(database, SEQUENCE) > 20:
        assert time.monotonic() < ends_at
        number += 1
        await layer.send(f"answer-{number}", message(number))
        assert await receive(layer, f"answer-{number}") == message(number)
    assert await receive(layer, "queue-of-nobody") == message(0)


@ours
async def test_a_full_claim_is_followed_by_another(layer: Any) -> None:
    """100 messages wait: were each claim to wait for a wake, the heartbeats would take minutes."""
    for number in range(100):
        await layer.send("test-channel", message(number))
    got = [(await receive(layer, "test-channel"))["number"] for _ in range(10)]
    for _ in range(18):
        five = [asyncio.create_task(layer.receive("test-channel")) for _ in range(5)]
        got += [message["number"] for message in await soon(asyncio.gather(*five))]
    assert got == [*range(100)]
