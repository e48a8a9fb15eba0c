"""Processes that die, or stop, in the middle of writing."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path

import psutil
import pytest
from django.db import connections

from channels_sqlite._storing.schema import MESSAGE
from channels_sqlite.exceptions import DatabaseUnavailable
from tests.conftest import OpenLayer, Start
from tests.kinds import by_default
from tests.rows import message, select, sql
from tests.waiting import cancel, soon, wait_until

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
CHILDREN = "tests.faults.children"


@by_default
async def test_killed_in_a_transaction(open_layer: OpenLayer, start: Start, database: Path) -> None:
    """Its lock is free at once, and nothing of it is delivered. Ten times."""
    layer = open_layer()
    waiting = asyncio.create_task(layer.receive("test-channel"))
    writers = start(f"{CHILDREN}.dies_in_a_transaction", channel="test-channel")
    for turn in range(10):
        writers.tell("begin")
        os.kill(await asyncio.to_thread(writers.hear), signal.SIGKILL)
        assert await asyncio.to_thread(writers.hear) == signal.SIGKILL
        await layer.send("test-channel", message(turn + 100))
        assert (await soon(waiting))["number"] == turn + 100
        waiting = asyncio.create_task(layer.receive("test-channel"))
    await cancel(waiting)
    writers.tell("")
    await asyncio.to_thread(writers.finish)
    with sql(database) as connection:
        assert select(connection, "integrity_check from pragma_integrity_check") == ["ok"]


@by_default
async def test_killed_with_a_claim_in_its_hands(
    open_layer: OpenLayer, start: Start, database: Path
) -> None:
    """The claim is committed, and nobody has the message: it is lost, and nobody gets it twice. Ten
    times.
    """
    layer = open_layer()
    readers = start(f"{CHILDREN}.dies_with_a_claim", channel="test-channel")
    for turn in range(10):
        await layer.send("test-channel", message(turn))
        readers.tell("die")
        assert await asyncio.to_thread(readers.hear) == signal.SIGKILL
        await layer.send("test-channel", message(turn + 100))
        assert (await soon(layer.receive("test-channel")))["number"] == turn + 100
        nothing = asyncio.create_task(layer.receive("test-channel"))
        await asyncio.sleep(0.05)
        assert not nothing.done()
        await cancel(nothing)
    readers.tell("")
    await asyncio.to_thread(readers.finish)
    with sql(database) as connection:
        assert select(connection, f"count(*) from {MESSAGE} where delivered_at is null") == [0]
        assert select(connection, f"count(*) from {MESSAGE}") == [20]


@by_default
async def test_stopped_in_a_statement(
    open_layer: OpenLayer, alias: str, start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    """The log was written and cannot be seen, and the lock is held: receivers go on, senders get
    one clear error, and the row is delivered when the writer goes on. Five times.
    """
    connections.settings[alias]["OPTIONS"] = {"timeout": 0.3}
    layer = open_layer()
    channel = await layer.new_channel()
    readers = [open_layer() for _ in range(5)]
    inboxes = [await reader.new_channel() for reader in readers]
    for inbox in inboxes:
        await layer.send(inbox, message(7))
    child = start(f"{CHILDREN}.stops_in_a_statement", channel="test-channel")
    assert await asyncio.to_thread(child.hear) == "ready"
    child.tell(5)
    process = psutil.Process(child.pid)
    for turn in range(5):
        await asyncio.to_thread(wait_until, lambda: process.status() == psutil.STATUS_STOPPED)
        waiting = asyncio.create_task(layer.receive("test-channel"))
        sends = [layer.send(channel, message(turn)) for _ in range(10)]
        results = await soon(asyncio.gather(*sends, return_exceptions=True))
        assert {type(each) for each in results} == {DatabaseUnavailable}
        assert (await soon(readers[turn].receive(inboxes[turn])))["number"] == 7
        assert not waiting.done()
        child.signal(signal.SIGCONT)
        assert (await soon(waiting))["number"] == 1
        assert await asyncio.to_thread(child.hear) == "committed"
        child.tell("again")
    child.finish()
    caplog.clear()  # that a claim had to wait


async def test_processes_race_for_the_last_room(start: Start) -> None:
    """Five times, three at once: what is accepted is the capacity, and not a message more."""
    channels = [f"race-{turn}" for turn in range(5)]
    racers = [start(f"{CHILDREN}.racer", channels=channels, capacity=40) for _ in range(3)]
    for _ in channels:
        for each in racers:
            assert await asyncio.to_thread(each.hear) == "ready"
        moment = time.time() + 0.05
        for each in racers:
            each.tell(moment)
        assert sum([await asyncio.to_thread(each.hear) for each in racers]) == 40
    for each in racers:
        await asyncio.to_thread(each.finish)
