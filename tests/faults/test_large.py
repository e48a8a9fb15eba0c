"""Large bodies, many messages and few descriptors: the event loop goes on beside them."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from channels_sqlite._storing.messages import LARGE
from channels_sqlite._storing.schema import MESSAGE
from tests.conftest import OpenLayer, Start
from tests.faults.children import Ticker
from tests.kinds import by_default
from tests.rows import select, sql
from tests.waiting import cancel, soon, until

CHILDREN = "tests.faults.large_children"


@by_default
async def test_small_and_large_bodies_keep_their_order(layer: Any, channel: str) -> None:
    sizes = [1, 3_000_000, 2, 2_000_000, 1_500_000, 3, 4, 5_000_000, 5]
    receiving = asyncio.create_task(layer.receive(channel))
    await asyncio.sleep(0.1)
    for size in sizes:
        await layer.send(channel, {"type": "test", "body": b"x" * size})
    got: list[dict[str, Any]] = [await soon(receiving)]
    got += [await soon(layer.receive(channel)) for _ in sizes[1:]]
    assert [len(message["body"]) for message in got] == sizes
    await layer.close()
    assert await nothing_waits(layer, channel)


async def nothing_waits(layer: Any, channel: str) -> bool:
    last = {"type": "test", "last": True}
    await layer.send(channel, last)
    return bool(await soon(layer.receive(channel)) == last)


@by_default
async def test_a_cancelled_receive_does_not_lose_a_large_body(layer: Any, channel: str) -> None:
    message: dict[str, Any] = {"type": "test", "body": b"x" * 3_000_000}
    for turn in range(20):
        receiving = asyncio.create_task(layer.receive(channel))
        await asyncio.sleep(0.01)
        await layer.send(channel, message | {"turn": turn})
        await asyncio.sleep(turn * 0.001)
        await cancel(receiving)
        if receiving.cancelled():
            receiving = asyncio.create_task(layer.receive(channel))
        assert (await soon(receiving))["turn"] == turn
    assert await nothing_waits(layer, channel)


@by_default
async def test_a_large_message_is_deleted_when_it_is_delivered(
    layer: Any, channel: str, database: Path
) -> None:
    """SQLite would write all of it once more, to note when that was."""
    sizes = [1, 3_000_000, 2, 1_500_000, LARGE + 1]
    for size in sizes:
        await layer.send(channel, {"type": "test", "body": b"x" * size})
    before = os.stat(f"{database}-wal").st_size
    for _ in sizes:
        await soon(layer.receive(channel))
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
    child = start(f"{CHILDREN}.has_few_descriptors")
    outcomes = []
    while (said := child.hear(60)) is not None:
        outcomes.append(said)
    assert [after for _, after in outcomes] == [""] * len(outcomes)
    refused = [words for words, _ in outcomes if words]
    assert 2 < len(refused) < len(outcomes)
    assert [words for words in refused if "file descriptors" not in words] == []
