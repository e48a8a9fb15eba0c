"""Several processes on one file: who gets what, who is woken, what a killed process leaves."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import statistics
import sys
import time
from collections import defaultdict
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import pytest

from channels_sqlite.layers import SqliteChannelLayer
from tests.children import send
from tests.conftest import OpenLayer, Start
from tests.kinds import by_each_watcher
from tests.processes import Child
from tests.rows import message, select, sql
from tests.waiting import cancel, soon, until

Message = dict[str, Any]


def test_three_readers_share_a_normal_channel(start: Start) -> None:
    """600 messages from two processes, each message to exactly one of three others."""
    readers = [start("reader", channel="work") for _ in range(3)]
    for reader in readers:
        assert reader.hear() == "ready"
    halves = [[*range(0, 600, 2)], [*range(1, 600, 2)]]
    writers = [start("writer", channel="work", numbers=numbers) for numbers in halves]
    for writer in writers:
        assert writer.hear() == "sent"
        writer.finish()
    start("writer", channel="work", numbers=[-1, -1, -1])
    received: list[list[int]] = [reader.rest() for reader in readers]
    for reader, numbers in zip(readers, received, strict=True):
        reader.finish()
        for remainder in (0, 1):
            of_one_writer = [number for number in numbers if number % 2 == remainder]
            assert of_one_writer == sorted(of_one_writer)
    assert sorted(chain.from_iterable(received)) == [*range(600)]


def test_two_processes_talk_where_posix_is_missing(start: Start, database: Path) -> None:
    """As on Windows: without locks of files there are no bells, and the log wakes everybody. Bells
    hinder nobody that are from a system that has locks, such as a container on the same directory.
    """
    talks, asks = start("tests.windows_children.talks"), start("tests.windows_children.asks")
    asks.tell(talks.hear())
    assert [asks.hear() for _ in range(3)] == [1, 2, 0]
    bells = Path(f"{database}-bells")
    bells.mkdir()  # there are none so far
    (bells / "dead-4567890").touch()
    (bells / ".swept").touch()
    asks.tell("there are bells")
    assert asks.hear() == []
    assert asks.hear() == {"delivered": 0, "expired": 0, "memberships": 0}
    talks.finish()
    asks.finish()


@by_each_watcher
async def test_two_processes_talk(open_layer: OpenLayer, start: Start, kind: str) -> None:
    """50 questions and answers: were wakes lost, the heartbeats alone would take 50 seconds."""
    layer = open_layer()
    mine = await layer.new_channel()
    peer = start("echo", watcher=kind)
    yours = await asyncio.to_thread(peer.hear)
    for number in range(50):
        question = {"type": "question", "number": number, "reply_to": mine}
        await layer.send(yours, question)
        assert await soon(layer.receive(mine)) == question
    await layer.send(yours, {"type": "stop", "number": -1})
    await asyncio.to_thread(peer.finish)


@by_each_watcher
async def test_foreign_writers_wake_receivers(open_layer: OpenLayer, start: Start) -> None:
    """What SQL alone has written arrives, and long before the next heartbeat: on one channel by the
    sqlite3 module, and then on another one by Django's ORM.
    """
    layer = open_layer()
    channels = [await layer.new_channel(), "test-channel"]
    child = start("foreign_writer", channels=channels, count=15)
    for channel in channels:
        waiting = asyncio.create_task(layer.receive(channel))
        delays = []
        for number in range(15):
            assert (await soon(waiting))["number"] == number
            arrived = time.time()
            waiting = asyncio.create_task(layer.receive(channel))
            delays.append(arrived - await asyncio.to_thread(child.hear))
        await cancel(waiting)
        assert statistics.median(delays) < 0.3  # heartbeats alone: 0.5
    await asyncio.to_thread(child.finish)
    await layer.close()
    assert layer.counters.missed_wakes == 0


@pytest.mark.skipif(sys.platform != "linux", reason="no inotify here")
@pytest.mark.parametrize("watcher", ["inotify", "watchfiles"], indirect=True)
async def test_a_watcher_gone_deaf(alias: str, start: Start, watcher: str) -> None:
    """Messages come with the heartbeats, which are counted; after three of them polling begins."""
    layer = SqliteChannelLayer(database=alias)
    deaf = start("deaf_reader", channel="test-channel", count=10, watcher=watcher)
    assert await asyncio.to_thread(deaf.hear) == "deaf"
    delays = []
    for number in range(10):
        await layer.send("test-channel", message(number))
        sent = time.time()
        delays.append(await asyncio.to_thread(deaf.hear) - sent)
        await asyncio.sleep(random.uniform(0, 0.5))
    await layer.close()
    assert await asyncio.to_thread(deaf.hear) >= 3
    assert deaf.wait() == 0
    assert len(deaf.errors().splitlines()) == 1  # the warning
    assert statistics.median(delays[-4:]) < max(delays) / 2


class Ledger:
    """What was accepted from, and what was received of, each writer: by channel."""

    def __init__(self, *channels: str) -> None:
        self.accepted: dict[str, list[tuple[str, int]]] = {channel: [] for channel in channels}
        self.received: dict[str, list[tuple[str, int]]] = {channel: [] for channel in channels}

    async def read(self, layer: Any, channel: str) -> None:
        while True:
            got = await layer.receive(channel)
            self.received[channel].append((got["writer"], got["number"]))

    def listen(self, child: Child, key: str, count: int = 1) -> Any:
        """What the child says under the key, the `count`-th time; notes what was accepted."""
        while count:
            said = child.hear()
            if "number" in said:
                self.accepted[said["channel"]].append((said["writer"], said["number"]))
            count -= key in said
        return said[key]

    def has(self, writer: str, number: int) -> bool:
        return all((writer, number) in got for got in self.received.values())

    def check(self) -> None:
        for channel, got in self.received.items():
            assert len(set(got)) == len(got)
            assert set(self.accepted[channel]) <= set(got)
            by_writer = defaultdict(list)
            for name, number in got:
                by_writer[name].append(number)
            for numbers in by_writer.values():
                assert numbers == sorted(numbers)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
async def test_writers_are_killed(alias: str, database: Path, start: Start) -> None:
    """kill -9 at 30 random moments: the others go on, nothing twice, what was accepted is there."""
    layer = SqliteChannelLayer(database=alias, capacity=1000)
    local = await layer.new_channel()
    ledger = Ledger(local, "work")
    await layer.group_add("test-group", local)
    readers = [asyncio.create_task(ledger.read(layer, channel)) for channel in (local, "work")]
    nursery = start("nursery", channels=[local, "work"], group="test-group", capacity=1000)
    for turn in range(30):
        nursery.tell(f"writer {turn}")
        pid = await asyncio.to_thread(ledger.listen, nursery, "pid")
        await asyncio.to_thread(ledger.listen, nursery, "number", random.randint(1, 20))
        await asyncio.sleep(random.uniform(0, 0.002))
        os.kill(pid, signal.SIGKILL)
        mine = {"type": "test", "writer": "survivor", "number": turn}
        for channel in (local, "work"):
            await soon(send(layer, channel, mine))
        await asyncio.to_thread(ledger.listen, nursery, "gone")
        await until(partial(ledger.has, "survivor", turn))
    nursery.tell("")
    await asyncio.to_thread(nursery.finish)
    await cancel(*readers)
    await layer.close()
    ledger.check()
    with sql(database) as connection:
        assert select(connection, "integrity_check from pragma_integrity_check") == ["ok"]


async def test_a_stopped_process_harms_nobody(start: Start, alias: str) -> None:
    """SIGSTOP: the others go on; when it goes on, it gets what came meanwhile."""
    layer = SqliteChannelLayer(database=alias)
    stopped, running = start("echo"), start("echo")
    mine = await layer.new_channel()
    theirs = [await asyncio.to_thread(child.hear) for child in (stopped, running)]
    stopped.signal(signal.SIGSTOP)
    for number in range(50):
        for channel in theirs:
            question = {"type": "question", "number": number, "reply_to": mine}
            await layer.send(channel, question)
        assert (await soon(layer.receive(mine)))["number"] == number
    stopped.signal(signal.SIGCONT)
    answers = [(await soon(layer.receive(mine)))["number"] for _ in range(50)]
    assert answers == [*range(50)]
    await layer.close()
