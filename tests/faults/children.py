"""The work of processes of the tests of faults; see tests/processes.py."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from django.db import connections

from channels_sqlite.exceptions import DatabaseUnavailable
from channels_sqlite.layers import SqliteChannelLayer
from tests.children import hear, main, say, use

PATIENCE = 10.0  # seconds, of which only a hang takes so many
ENOUGH = 24  # descriptors


# A locked database


class Ticker:
    """Notes how late the event loop was at most, in seconds, for a task that ticks each 10 ms."""

    def __init__(self) -> None:
        self.latest = 0.0
        self._task = asyncio.create_task(self._tick())

    async def _tick(self) -> None:
        while True:
            due = time.monotonic() + 0.01
            await asyncio.sleep(0.01)
            self.latest = max(self.latest, time.monotonic() - due)

    def stop(self) -> float:
        self._task.cancel()
        return self.latest


async def ticks() -> None:
    """Tick beside the others, without a layer, until something is heard; say how late it was."""
    ticker = Ticker()
    say("ready")
    await asyncio.to_thread(hear)
    say(ticker.stop())


async def under_a_lock(patience: float, **config: Any) -> None:
    """Receive and send while another process holds the lock; say how the loop fared."""
    logging.disable()
    connections.settings["channels"]["OPTIONS"] = {"timeout": patience}
    layer = SqliteChannelLayer(**config)
    channel = await layer.new_channel()
    await layer.group_add("test-group", channel)
    for number in range(20):
        await layer.send(channel, {"type": "test", "number": number})
    say("ready")
    await asyncio.to_thread(hear)

    waits: list[float] = []

    async def fails(coroutine: Any) -> None:
        begun = time.monotonic()
        try:
            await coroutine
        except DatabaseUnavailable:
            waits.append(time.monotonic() - begun)

    ticker = Ticker()
    message = {"type": "test", "number": -1}
    writing = [
        *(asyncio.create_task(fails(layer.send(channel, message))) for _ in range(100)),
        *(asyncio.create_task(fails(layer.group_add("test-group", channel))) for _ in range(20)),
        *(asyncio.create_task(fails(layer.group_send("test-group", message))) for _ in range(20)),
    ]
    receiving = asyncio.create_task(layer.receive("test-channel"))
    got = []
    for _ in range(20):
        got.append((await layer.receive(channel))["number"])
        await asyncio.sleep(patience / 30)
    say(got)
    await asyncio.to_thread(hear)
    latest = ticker.stop()
    await asyncio.gather(*writing)
    await layer.send("test-channel", {"type": "test", "number": 21})
    last = (await receiving)["number"]
    say({"latest": latest, "waits": waits, "last": last})
    await layer.close()


# Few descriptors


async def has_few_descriptors() -> None:
    """Say what comes of the first use, and of reopening, for each number of free descriptors; and
    of the next use, when there are enough again.
    """
    await asyncio.wait_for(use(SqliteChannelLayer()), PATIENCE)  # imports what is imported late
    for is_open in (False, True):
        for number in range(ENOUGH):
            layer = SqliteChannelLayer()
            if is_open:
                await use(layer)
            await layer.close()
            with free_descriptors(number):
                said = await outcome(layer)
            say([said, await outcome(layer)])
            await layer.close()
    say(None)


async def outcome(layer: SqliteChannelLayer) -> str:
    """Words of an error of ours, or ""."""
    try:
        await asyncio.wait_for(use(layer), PATIENCE)
    except DatabaseUnavailable as error:
        return str(error)
    return ""


@contextmanager
def free_descriptors(number: int) -> Iterator[None]:
    """The process can open so many files, and no more."""
    import resource  # not on Windows

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken = []
    top = max(map(int, os.listdir("/proc/self/fd")))
    while (descriptor := os.open(os.devnull, os.O_RDONLY)) < top:
        taken.append(descriptor)
    os.close(descriptor)
    resource.setrlimit(resource.RLIMIT_NOFILE, (descriptor + number, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for descriptor in taken:
            with suppress(OSError):
                os.close(descriptor)


if __name__ == "__main__":
    main(globals(), *sys.argv[1:])
