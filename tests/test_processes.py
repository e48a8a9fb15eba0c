"""Several processes on one file: who gets what, who is woken, what a killed process leaves."""

from __future__ import annotations

import asyncio
import os
import random
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
from tests.faults.peers import Peer
from tests.kinds import by_each_watcher
from tests.rows import message, select, sql
from tests.waiting import cancel, soon, until, wait_until

Message = dict[str, Any]


def test_three_readers_share_a_normal_channel(start: Start) -> None:
    """600 messages from two processes, each message to exactly one of three others."""
    readers = {Peer(start): list[int]() for _ in range(3)}
    for reader in readers:
        reader.consume("work")
    writers = [Peer(start, capacity=600) for _ in range(2)]
    for first, writer in enumerate(writers):
        writer.begin("send_all", "work", [*range(first, 600, 2)])
    assert [len(writer.result()) for writer in writers] == [300, 300]

    def all_have_come() -> bool:
        for reader, numbers in readers.items():
            numbers += reader.taken("work")
        return sum(map(len, readers.values())) >= 600

    wait_until(all_have_come)
    for numbers in readers.values():
        for first in (0, 1):
            of_one_writer = [number for number in numbers if number % 2 == first]
            assert of_one_writer == sorted(of_one_writer)
    assert sorted(chain.from_iterable(readers.values())) == [*range(600)]


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
    """Rows of SQL alone arrive, and long before the next heartbeat: on one channel by the
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
def test_a_watcher_gone_deaf(start: Start, watcher: str) -> None:
    """Messages come with the heartbeats, which are counted; after three of them polling begins."""
    deaf, sender = Peer(start, watcher=watcher), Peer(start)
    channel = deaf.consume("test-channel")
    wait_until(deaf.make_deaf)
    delays = []
    for number in range(10):
        begun = time.monotonic()
        sender.send(channel, message(number))
        assert deaf.heard(channel, number) == [number]
        delays.append(time.monotonic() - begun)
        time.sleep(random.uniform(0, 0.5))
    assert deaf.missed_wakes() >= 3
    assert [level for level, _ in deaf.log()].count("WARNING") == 1
    assert statistics.median(delays[-4:]) < max(delays) / 2


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
async def test_writers_are_killed(alias: str, database: Path, start: Start) -> None:
    """kill -9 at 30 random moments: the others go on, nothing twice, what was accepted is there."""
    layer = SqliteChannelLayer(database=alias, capacity=1000)
    local = await layer.new_channel()
    await layer.group_add("test-group", local)
    accepted: set[tuple[str, str, int]] = set()
    received: list[tuple[str, str, int]] = []

    async def read(channel: str) -> None:
        while True:
            got = await layer.receive(channel)
            received.append((channel, got["writer"], got["number"]))

    readers = [asyncio.create_task(read(channel)) for channel in (local, "work")]
    writes = {"channels": [local, "work"], "group": "test-group", "capacity": 1000}
    for turn in range(30):
        writer = start("writes_for_ever", name=f"writer {turn}", **writes)
        for _ in range(random.randint(1, 20)):
            said = await asyncio.to_thread(writer.hear)
            accepted.add((said[0], f"writer {turn}", said[1]))
        await asyncio.sleep(random.uniform(0, 0.002))
        writer.kill()
        accepted |= {(channel, f"writer {turn}", number) for channel, number in writer.rest()}
        mine = {(channel, "survivor", turn) for channel in (local, "work")}
        for channel, name, number in mine:
            await soon(send(layer, channel, message(number, writer=name)))
        await until(partial(mine.issubset, received))
    await cancel(*readers)
    await layer.close()
    assert len(set(received)) == len(received)
    assert accepted <= set(received)
    by_writer = defaultdict(list)
    for channel, name, number in received:
        by_writer[channel, name].append(number)
    assert all(numbers == sorted(numbers) for numbers in by_writer.values())
    with sql(database) as connection:
        assert select(connection, "integrity_check from pragma_integrity_check") == ["ok"]
