"""Consumers that never read, under load: memory, rows and file stay bounded, and drops are told.

An hour of messages that live for a minute is sixty lives of a message. They are lived here in a
tenth of a second each.
"""

from __future__ import annotations

import asyncio
import gc
import os
import re
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from channels.exceptions import ChannelFull

from channels_sqlite._storing.opener import WAL_LIMIT
from channels_sqlite._storing.schema import MEMBERSHIP, MESSAGE, SEQUENCE
from channels_sqlite.exceptions import DatabaseUnavailable
from tests.conftest import OpenLayer, SetTimes
from tests.kinds import by_default
from tests.rows import sql
from tests.waiting import soon

LIFE = 0.1  # seconds
LIVES = 60


@by_default
async def test_an_hour_of_consumers_that_never_read(
    open_layer: OpenLayer,
    database: Path,
    caplog: pytest.LogCaptureFixture,
    set_times: SetTimes,
) -> None:
    """A member whose process reads for others, one whose process reads nothing, a channel of
    nobody.
    """
    set_times(warning=LIFE)  # a minute of sixty
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
    check_bounded([rows for rows, _, _ in samples], third, 2000)
    check_bounded([size for _, size, _ in samples], third, 2_000_000)
    check_bounded([memory for _, _, memory in samples], third, 8_000_000)
    counted = layer.counters
    assert counted.refused == refused
    assert [each for each in late if "the message has expired while" not in each] == []
    assert counted.dropped > sent / 10
    said = [each.getMessage() for each in caplog.records if each.name == "channels_sqlite"]
    assert 1 <= len(said) <= (time.monotonic() - begun) / LIFE + 1
    inboxes = [channel.partition("!")[0] + "!" for channel in (slow, absent)]
    full = "|".join(map(re.escape, (slow, *inboxes)))
    for line in said:
        told = re.search(
            rf"Last: ({full}), capacity 50; its oldest waiting message is (\S+) s old",
            line,
        )
        assert told is not None
        assert 0 <= float(told[2]) < 10  # an age, and no time of day
    assert sum(int(line.split()[0]) for line in said) <= counted.dropped
    caplog.clear()


def check_bounded(values: list[int], third: int, slack: int) -> None:
    """The last third of a series holds no more than the first."""
    assert max(values[-third:]) <= max(values[:third]) + slack, values


@by_default
async def test_a_channel_for_each_message(open_layer: OpenLayer, database: Path) -> None:
    """Names that are used once, as those of connections: nothing of them is kept."""
    layer = open_layer(message_retention=0, trim_batch_size=50)
    memory = []
    message: dict[str, Any] = {"type": "test"}
    for _ in range(6):
        for _ in range(200):
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
