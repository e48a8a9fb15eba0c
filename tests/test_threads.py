"""One layer on many threads, each with event loops that come and go while others use it."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from typing import Any

import pytest

from channels_sqlite.schema import SEND
from tests.conftest import OpenLayer, Start
from tests.waiting import PATIENCE, cancel, soon

by_default = pytest.mark.parametrize("kind", ["auto"], indirect=True)
THREADS = 6
SECONDS = 3.0


def run(*functions: Callable[[], Any]) -> None:
    """Each on a thread of its own; the first error of theirs is raised."""
    errors: list[BaseException] = []

    def guarded(function: Callable[[], Any]) -> None:
        try:
            function()
        except BaseException as error:  # for the test to see
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=[each], daemon=True) for each in functions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(2 * PATIENCE)
    assert not any(thread.is_alive() for thread in threads)
    if errors:
        raise errors[0]


def test_loops_come_and_go_on_many_threads(start: Start) -> None:
    """In a process of its own, for what it once did was to crash."""
    child = start("many_loops", threads=THREADS, seconds=SECONDS)
    outcomes = Counter(child.hear(60))
    assert child.wait() == 0
    assert outcomes.pop("ok") > 10 * THREADS
    assert outcomes == {}


# aiosqlite's thread dies when it reports to a loop that was closed, and ours makes another.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@by_default
def test_a_claim_outlives_the_loop_that_made_it(open_layer: OpenLayer) -> None:
    """A loop that ends has claimed for a consumer of another one, which stands still meanwhile."""
    layer = open_layer()
    ends = threading.Event()
    got: list[Any] = []

    async def end() -> None:
        channel = await layer.new_channel()

        async def listen() -> None:
            try:
                await layer.receive(channel)
            finally:
                ends.set()
                await asyncio.sleep(0.3)  # it cleans up

        listening = asyncio.create_task(listen())
        await asyncio.sleep(0.5)
        assert not listening.done()  # and asyncio.run cancels it

    async def wait() -> None:
        waiting = asyncio.create_task(layer.receive("work"))
        while not ends.is_set():  # noqa: ASYNC110 - it is of another loop
            await asyncio.sleep(0.005)
        time.sleep(0.4)  # noqa: ASYNC251 - it computes
        got.append(await soon(waiting))

    async def send() -> None:
        database = layer._ends.database
        busy = asyncio.create_task(database.run(lambda _: time.sleep(0.8)))
        await asyncio.sleep(0.05)
        database._connection._in_place._slow_until = time.monotonic() + 3  # as after a slow commit
        with closing(sqlite3.connect(database.path)) as connection, connection:
            connection.execute(f"insert into {SEND} values ('work', '{{}}')")
        os.utime(database.wal)
        await busy

    def send_while_it_ends() -> None:
        assert ends.wait(PATIENCE)
        asyncio.run(send())

    run(lambda: asyncio.run(wait()), lambda: asyncio.run(end()), send_while_it_ends)
    assert got == [{}]


@by_default
def test_a_loop_that_stands_still_does_not_keep_a_message(open_layer: OpenLayer) -> None:
    """Its consumer was the first to wait. The heartbeat of another loop tells the others, too."""
    layer = open_layer()
    stands_still, received = threading.Event(), threading.Event()

    async def stand_still() -> None:
        waiting = asyncio.create_task(layer.receive("work"))
        await asyncio.sleep(0.2)
        stands_still.set()
        assert received.wait(PATIENCE)
        await cancel(waiting)

    async def receive() -> None:
        while not stands_still.is_set():  # noqa: ASYNC110 - it is of another loop
            await asyncio.sleep(0.005)
        waiting = asyncio.create_task(layer.receive("work"))
        await asyncio.sleep(0.1)
        await layer.send("work", {"type": "test"})
        assert await soon(waiting) == {"type": "test"}
        received.set()

    run(lambda: asyncio.run(stand_still()), lambda: asyncio.run(receive()))
