"""Consumers that never read: memory, rows and file stay bounded, and drops are told. Large bodies,
many messages and few descriptors: the event loop goes on beside them.

Twenty minutes of messages that live for a minute are twenty lives of a message. They are lived
here in a tenth of a second each.
"""

from __future__ import annotations

import asyncio
import gc
import os
import re
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from channels.exceptions import ChannelFull

from channels_sqlite._storing.messages import LARGE
from channels_sqlite._storing.opener import WAL_LIMIT
from channels_sqlite._storing.schema import MEMBERSHIP, MESSAGE, SEQUENCE
from channels_sqlite.exceptions import DatabaseUnavailable
from tests.conftest import OpenLayer, SetTimes, Start
from tests.faults.children import Ticker
from tests.kinds import by_default
from tests.rows import inbox_of, select, sql
from tests.waiting import cancel, rest, soon, until

LIFE = 0.1  # seconds
LIVES = 20
SLACK = (2000, 2_000_000, 8_000_000)
"""By which the last third of a run may exceed the first: rows, bytes of the file and of memory."""


@by_default
async def test_twenty_minutes_of_consumers_that_never_read(
    open_layer: OpenLayer,
    database: Path,
    caplog: pytest.LogCaptureFixture,
    set_times: SetTimes,
) -> None:
    """A member whose process reads for others, one whose process reads nothing, a channel of
    nobody.
    """
    set_times(warning=LIFE)
    layer = open_layer(
        expiry=LIFE, message_retention=LIFE, capacity=50, trim_batch_size=50, group_expiry=3600
    )
    other = open_layer()
    busy, slow = [await layer.new_channel() for _ in range(2)]
    absent = await other.new_channel()
    consuming = asyncio.create_task(layer.receive(busy))
    process = psutil.Process()
    for channel in (slow, absent):
        await layer.group_add("test-group", channel)
    samples: list[tuple[int, int, int]] = []
    refused = sent = 0
    late: list[str] = []
    begun = time.monotonic()
    with sql(database) as connection:
        while time.monotonic() < begun + LIVES * LIFE or len(samples) < 12:
            for number in range(100):
                message = {"type": "test", "number": number, "text": "x" * 1000}
                try:
                    await layer.group_send("test-group", message)
                    sent += 1
                    await layer.send("nobody", message)
                except ChannelFull:
                    refused += 1
                except DatabaseUnavailable as error:  # on a busy machine
                    late.append(str(error))
            gc.collect()
            ((rows,),) = connection.execute(
                f"select (select count(*) from {MESSAGE}) + (select count(*) from {MEMBERSHIP})"
                f" + (select count(*) from {SEQUENCE})"
            )
            size, log = [os.stat(f"{database}{end}").st_size for end in ("", "-wal")]
            assert log < 3 * WAL_LIMIT  # a look in the wrong moment puts its reset off
            samples.append((rows, size, process.memory_info().rss))
    consuming.cancel()
    await asyncio.gather(consuming, return_exceptions=True)
    third = len(samples) // 3
    for values, slack in zip(zip(*samples, strict=True), SLACK, strict=True):
        assert max(values[-third:]) <= max(values[:third]) + slack, values
    counted = layer.counters
    assert counted.refused == refused
    assert [each for each in late if "the message has expired while" not in each] == []
    assert counted.dropped > sent / 10
    said = [each.getMessage() for each in caplog.records if each.name == "channels_sqlite"]
    assert 1 <= len(said) <= (time.monotonic() - begun) / LIFE + 1
    words = r"Last: (\S+), capacity 50; its oldest waiting message is (\S+) s old"
    for line in said:
        told = re.search(words, line)
        assert told is not None
        assert told[1] in (slow, inbox_of(slow), inbox_of(absent))
        assert 0 <= float(told[2]) < 10  # an age, and no time of day
    assert sum(int(line.split()[0]) for line in said) <= counted.dropped
    caplog.clear()


@by_default
async def test_a_channel_for_each_message(open_layer: OpenLayer, database: Path) -> None:
    """Names that are used once, as those of connections: nothing of them is kept."""
    layer = open_layer(message_retention=0, trim_batch_size=50)
    memory = []
    message: dict[str, Any] = {"type": "test"}
    for _ in range(5):
        for _ in range(100):
            channel = await layer.new_channel()
            await layer.group_add("test-group", channel)
            await layer.send(channel, message)
            assert await layer.receive(channel) == message
            await layer.group_discard("test-group", channel)
        gc.collect()
        memory.append(psutil.Process().memory_info().rss)
    assert memory[-1] - memory[1] < 3_000_000, memory
    assert [each.channels for each in await layer.readers()] == [0]
    with sql(database) as connection:

        async def use_until_memberships_are_trimmed() -> None:
            count = f"select count(*) from {MEMBERSHIP}"
            while connection.execute(count).fetchone() > (0,):
                await layer.send("shared", message)
                await layer.receive("shared")
                await asyncio.sleep(0.05)

        await soon(use_until_memberships_are_trimmed())


# Large bodies, many messages, few descriptors


@by_default
async def test_a_cancelled_receive_does_not_lose_a_large_body(layer: Any, channel: str) -> None:
    message: dict[str, Any] = {"type": "test", "body": b"x" * 3_000_000}
    for turn in range(10):
        receiving = asyncio.create_task(layer.receive(channel))
        await asyncio.sleep(0.01)
        await layer.send(channel, message | {"turn": turn})
        await asyncio.sleep(turn * 0.001)
        await cancel(receiving)
        if receiving.cancelled():
            receiving = asyncio.create_task(layer.receive(channel))
        assert (await soon(receiving))["turn"] == turn
    assert await rest(layer, channel) == []


@by_default
async def test_bodies_of_any_size_keep_their_order_and_large_ones_are_deleted_when_delivered(
    layer: Any, channel: str, database: Path
) -> None:
    """SQLite would write all of one once more, to note when that was."""
    sizes = [1, 3_000_000, 2, 1_500_000, LARGE + 1]
    for size in sizes:
        await layer.send(channel, {"type": "test", "body": b"x" * size})
    before = os.stat(f"{database}-wal").st_size
    got = [await soon(layer.receive(channel)) for _ in sizes]
    assert [len(message["body"]) for message in got] == sizes
    with sql(database) as other:
        waits = f"count(*) from {MESSAGE} where delivered_at is null"
        await until(lambda: select(other, waits) == [0])
        kept = select(other, f"length(body) from {MESSAGE}")
    assert len(kept) == 2
    assert max(kept) < 100
    assert os.stat(f"{database}-wal").st_size < before + 500_000


@pytest.mark.flaky(reruns=3)
@by_default
async def test_the_loop_goes_on_while_the_messages_of_slow_consumers_expire(
    open_layer: OpenLayer,
) -> None:
    """A hundred each of two hundred, all at once: it takes a part of the time that it took to bring
    them.
    """
    layer = open_layer(expiry=1.5, capacity=100)
    channels = [await layer.new_channel() for _ in range(201)]
    for channel in channels[1:]:
        await layer.group_add("test-group", channel)
    receiving = asyncio.create_task(layer.receive(channels[0]))
    await asyncio.sleep(0.1)
    begun = time.monotonic()
    for _ in range(99):
        await layer.group_send("test-group", {"type": "test"})
    brought = time.monotonic() - begun
    ticker = Ticker()
    await until(lambda: layer.counters.expired == 99 * 200)
    await asyncio.sleep(0.2)  # for what is done later, such as acknowledging
    await cancel(receiving)
    assert ticker.stop() < brought / 2


@pytest.mark.skipif(sys.platform != "linux", reason="counts descriptors in /proc")
@pytest.mark.timeout(200)
def test_a_process_that_has_few_descriptors(start: Start) -> None:
    """At every number of them it works, or says so; and it works when there are enough again."""
    child = start("tests.faults.children.has_few_descriptors")
    outcomes = []
    while (said := child.hear(60)) is not None:
        outcomes.append(said)
    assert [after for _, after in outcomes] == [""] * len(outcomes)
    refused = [words for words, _ in outcomes if words]
    assert 2 < len(refused) < len(outcomes)
    assert [words for words in refused if "file descriptors" not in words] == []
