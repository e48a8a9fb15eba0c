"""Readers in other processes say how they are, to who asks."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import pytest

from channels_sqlite import roll_call
from channels_sqlite.roll_call import Reader
from channels_sqlite.schema import MESSAGE
from tests.conftest import OpenLayer, Start
from tests.rows import select
from tests.waiting import cancel, soon

by_default = pytest.mark.parametrize("kind", ["auto"], indirect=True)


@by_default
async def test_every_reader_that_is_alive_answers(
    open_layer: OpenLayer, start: Start, watcher: str
) -> None:
    layer = open_layer()
    peers = [start("echo", watcher=watcher) for _ in range(2)]
    for peer in peers:
        await asyncio.to_thread(peer.hear)
    found = {each.pid: each for each in await layer.readers()}
    assert set(found) == {os.getpid(), *(peer.pid for peer in peers)}
    theirs = found[peers[0].pid]
    assert theirs.watcher == watcher
    assert theirs.channels == 1
    assert theirs.counters.missed_wakes == 0


@by_default
async def test_who_stands_still_does_not_answer(open_layer: OpenLayer, start: Start) -> None:
    layer = open_layer()
    peer = start("echo")
    await asyncio.to_thread(peer.hear)
    os.kill(peer.pid, signal.SIGSTOP)
    try:
        assert [each.pid for each in await layer.readers()] == [os.getpid()]
    finally:
        os.kill(peer.pid, signal.SIGCONT)
    assert peer.pid in [each.pid for each in await layer.readers()]


@by_default
async def test_what_it_counted_and_when_it_was_woken(
    open_layer: OpenLayer, caplog: pytest.LogCaptureFixture
) -> None:
    layer = open_layer(capacity=1)
    other = open_layer()
    channel = await layer.new_channel()
    waiting = asyncio.create_task(layer.receive(await layer.new_channel()))
    await asyncio.sleep(0.1)
    await layer.group_add("test-group", channel)
    for _ in range(3):
        await layer.group_send("test-group", {"type": "test"})
        await asyncio.sleep(0.1)
    readers = await other.readers()
    (found,) = [each for each in readers if each.counters.dropped]
    assert found.counters.sent == 3
    assert found.counters.dropped == 2
    assert found.last_wake is not None
    assert 0 <= found.last_wake < 60
    caplog.clear()  # it has warned of what it dropped
    await cancel(waiting)


@by_default
async def test_two_who_ask_at_once_are_both_told(open_layer: OpenLayer, start: Start) -> None:
    peer = start("echo")
    await asyncio.to_thread(peer.hear)
    one, other = open_layer(), open_layer()
    for readers in await asyncio.gather(one.readers(), other.readers()):
        assert peer.pid in [each.pid for each in readers]


@by_default
async def test_nothing_is_left_of_it(open_layer: OpenLayer, database: Path) -> None:
    layer = open_layer()
    await layer.readers()
    await layer.close()
    with closing(sqlite3.connect(database)) as connection:
        assert select(connection, f"count(*) from {MESSAGE}") == [0]


@by_default
async def test_old_questions_and_senseless_ones_are_not_answered(
    open_layer: OpenLayer, database: Path
) -> None:
    layer = open_layer()
    waiting = asyncio.create_task(layer.receive("test-channel"))
    now = time.time()
    with closing(sqlite3.connect(database, isolation_level=None)) as connection:
        for channel, expires_at in (("specific.a!b", now - 1), (None, now + 60), (b"x", now + 60)):
            connection.execute(
                f"insert into {MESSAGE} (inbox, channel, body, created_at, expires_at)"
                " values (?, ?, x'80', ?, ?)",
                (roll_call.QUESTIONS, channel, now - 5, expires_at),
            )
        await asyncio.sleep(1.5)
        assert select(connection, f"count(*) from {MESSAGE} where inbox <> '?'") == [0]
    await layer.send("test-channel", {"type": "test"})
    assert await soon(waiting) == {"type": "test"}


def test_an_answer_says_what_was_told() -> None:
    reader = Reader(pid=1, channels=2, watcher="inotify", last_wake=None, counters=COUNTERS)
    assert (
        roll_call.reader_in(
            {"type": "any", **vars(reader), "counters": {**vars(COUNTERS), "more": 1}}
        )
        == reader
    )


COUNTERS = roll_call.Counters(sent=1, dropped=2)
