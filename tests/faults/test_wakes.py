"""Events that the kernel throws away, that come at the wrong time, in masses, or not at all."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sqlite3
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from channels_sqlite._storing import sql
from channels_sqlite.layers import SqliteChannelLayer
from tests.conftest import OpenLayer, SetTimes, Start
from tests.faults.peers import Peer, bell_of
from tests.kinds import by_default, by_each_watcher
from tests.processes import has_namespaces  # noqa: F401 - for skipif
from tests.rows import put_number
from tests.waiting import cancel, soon, until, wait_until


@by_each_watcher
async def test_a_commit_in_the_midst_of_subscribing(alias: str, start: Start, kind: str) -> None:
    """Thirty times: who looked before it watched would hear of it from a heartbeat only."""
    writer = Peer(start)
    await asyncio.to_thread(writer.log)  # it has started
    delays = []
    for number in range(30):
        layer = SqliteChannelLayer(database=alias, watcher=kind)
        channel = await layer.new_channel()
        at = time.time() + 0.02  # by then the other process has opened the file
        writer.begin("put_at", channel, number, at)
        await asyncio.sleep(max(0, at - time.time() - random.uniform(0, 0.01)))
        assert (await soon(layer.receive(channel)))["number"] == number
        delays.append(time.time() - at)
        await layer.close()
        writer.result()
    assert statistics.quantiles(delays, n=20)[-1] < 0.5  # a heartbeat's mean delay
    assert statistics.median(delays) < 0.2


async def test_what_came_before_it_watches_anew_is_found(
    layer: SqliteChannelLayer, set_times: SetTimes, others: sqlite3.Connection
) -> None:
    """Events that the watcher before had not read yet are lost."""
    set_times(heartbeat=3600)
    receiving = asyncio.create_task(layer.receive("test-channel"))
    listening, here = layer._parts.receiver._listening, asyncio.get_running_loop()
    await until(lambda: listening.of(here))
    listener = listening.of(here)
    assert listener is not None
    await until(lambda: listener.hears_writes)  # it has looked after it began
    put_number(others, "test-channel", 1)
    listener.forget_watched()
    listening.watch(here)
    assert (await soon(receiving))["number"] == 1


@pytest.mark.skipif(sys.platform != "linux", reason="no inotify here")
@pytest.mark.parametrize("watcher", ["inotify", "watchfiles"], indirect=True)
async def test_the_queue_of_events_overflows(
    start: Start, alias: str, database: Path, watcher: str
) -> None:
    """A process is stopped while others write much: what is announced last is not. Twice.

    watchfiles says nothing of an overflow, and heartbeats find what was thrown away.
    """
    limit = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())  # noqa: ASYNC240
    if limit > 50_000:
        pytest.skip("the queue of events is too long here")
    layer = SqliteChannelLayer(database=alias)
    reader = Peer(start, watcher=watcher)
    channel = await asyncio.to_thread(reader.consume)
    await asyncio.sleep(0.2)
    watched = [bell_of(database, channel), Path(f"{database}-wal")]
    deafest = 0.0
    for number in range(2):
        reader.child.signal(signal.SIGSTOP)
        for touch in range(limit + 100):  # in turn, for equal events are merged
            os.utime(watched[touch % 2])
        await layer.send(channel, {"type": "test", "number": number})
        reader.child.signal(signal.SIGCONT)
        begun = time.monotonic()
        assert await asyncio.to_thread(reader.heard, channel, number) == [number]
        deafest = max(deafest, time.monotonic() - begun)
    await asyncio.to_thread(reader.finish)
    await layer.close()
    assert deafest < 5  # seconds: a heartbeat or two, and a busy machine


@by_default
async def test_a_burst(
    open_layer: OpenLayer, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """3,000 messages, and 10 of a megabyte: all of them, once, in order, by fewer reads."""
    count, large = 3000, 10
    layer = open_layer(capacity=count + large)
    channel = await layer.new_channel()
    waiting = asyncio.create_task(layer.receive(channel))
    await asyncio.sleep(0.1)
    reads = 0
    arrivals = sql.arrivals

    def counted(*arguments: Any) -> Any:
        nonlocal reads
        reads += 1
        return arrivals(*arguments)

    monkeypatch.setattr(sql, "arrivals", counted)
    sender = Peer(start, capacity=count + large)
    sender.begin("send_all", channel, [*range(count)])
    sender.begin("send_all", channel, [*range(count, count + large)], size=1_000_000)
    for number in range(count + large):
        assert (await soon(waiting))["number"] == number
        waiting = asyncio.create_task(layer.receive(channel))
    assert [len(await asyncio.to_thread(sender.result)) for _ in range(2)] == [count, large]
    await cancel(waiting)
    assert reads < count / 2


@pytest.mark.skipif("not has_namespaces()", reason="no user namespaces here")
@pytest.mark.parametrize("limit", ["max_inotify_instances", "max_inotify_watches"])
def test_watches_are_used_up_for_a_while(
    start: Start, others: sqlite3.Connection, limit: str
) -> None:
    """A warning for each kind of watching, and polling; with a watch to be had again it watches,
    without a restart.
    """
    peer = Peer(start, by=("unshare", "-Ur"))
    peer.limit_watches(limit, 0, again_after=0.3)
    channel = peer.consume()
    for number in range(3):
        time.sleep(0.3)
        put_number(others, channel, number)
        assert peer.heard(channel, number) == [number]
    assert peer.watcher() == "polling"
    # No descriptor of the vain tries is left.
    assert len(os.listdir(f"/proc/{peer.child.pid}/fd")) < 40
    peer.limit_watches(limit, 1000, again_after=0.3)
    wait_until(lambda: peer.watcher() != "polling")
    begun = time.monotonic()
    for number in range(3, 33):
        time.sleep(0.01)
        put_number(others, channel, number)
        assert peer.heard(channel, number) == [number]
    assert time.monotonic() - begun < 10  # heartbeats alone would take 15 seconds
    assert [level for level, _ in peer.log()].count("WARNING") == 2


@pytest.mark.skipif("not has_namespaces()", reason="no user namespaces here")
def test_a_named_watcher_cannot_watch_again_for_a_while(
    start: Start, database: Path, others: sqlite3.Connection
) -> None:
    """Its bell was deleted, and there is no watch for the new one: it polls until there is."""
    peer = Peer(start, by=("unshare", "-Ur"), watcher="inotify")
    channel = peer.consume()
    wait_until((bell := bell_of(database, channel)).exists)
    peer.limit_watches("max_inotify_watches", 0, again_after=0.3)
    bell.unlink()
    wait_until(bell.exists)
    wait_until(lambda: peer.watcher() == "polling")
    begun = time.monotonic()
    for number in range(10):
        put_number(others, channel, number)
        assert peer.heard(channel, number) == [number]
    assert time.monotonic() - begun < 5  # heartbeats alone would take 10 seconds
    peer.limit_watches("max_inotify_watches", 1000, again_after=0.3)
    wait_until(lambda: peer.watcher() == "inotify")
    (words,) = [words for level, words in peer.log() if level == "WARNING"]
    assert "fs.inotify.max_user_watches" in words
