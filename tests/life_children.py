"""The work of processes whose loops and threads end badly; see test_life.py."""

from __future__ import annotations

import asyncio
import gc
import inspect
import os
import sys
import threading
import time
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

from channels_sqlite._waking import watchers
from channels_sqlite.exceptions import WatcherUnavailable
from channels_sqlite.layers import SqliteChannelLayer
from tests.children import main, say, use


def exits_beside_loops(threads: int, **config: Any) -> None:
    """End the interpreter while daemon threads use the layer: half of them in one event loop each,
    half in loops that come and go.
    """
    layer = SqliteChannelLayer(**config)
    used = threading.Barrier(threads + 1)

    async def use_for_ever() -> None:
        await use(layer)
        await asyncio.to_thread(used.wait)
        while True:
            await use(layer)

    def use_in_many() -> None:
        asyncio.run(use(layer))
        used.wait()
        while True:
            asyncio.run(use(layer))

    for number in range(threads):
        target = use_in_many if number % 2 else lambda: asyncio.run(use_for_ever())
        threading.Thread(target=target, daemon=True).start()
    used.wait()
    time.sleep(0.1)
    say("ending")


def closes_loops_while_it_trims(sends: int, **config: Any) -> None:
    """Send in event loops that are stopped and closed right after, with a trim in flight."""
    layer = SqliteChannelLayer(trim_batch_size=1, message_retention=0, capacity=sends, **config)
    for number in range(sends):
        loop = asyncio.new_event_loop()
        task = loop.create_task(layer.send("work", {"type": "test", "number": number}))
        task.add_done_callback(stop_its_loop)
        loop.run_forever()
        loop.close()
    say("sent")


def stop_its_loop(task: asyncio.Task[None]) -> None:
    task.get_loop().stop()


def forks(**config: Any) -> None:
    """Fork with the layer in use, and say how the child ended."""
    layer = SqliteChannelLayer(**config)

    async def fork() -> None:
        waiting = asyncio.create_task(layer.receive("nothing"))
        await use(layer)
        if (pid := os.fork()) == 0:
            os._exit(0)
        say((await asyncio.to_thread(os.waitpid, pid, 0))[1])
        waiting.cancel()
        await layer.close()

    asyncio.run(fork())


async def leaves_garbage(**config: Any) -> None:
    """Work for a while, and say what of ours was left to the garbage collector."""
    layer = SqliteChannelLayer(trim_batch_size=5, **config)
    channel = await layer.new_channel()
    await layer.group_add("test-group", channel)
    await use(layer)
    gc.collect()
    gc.set_debug(gc.DEBUG_SAVEALL)
    for _ in range(50):
        await layer.group_send("test-group", {"type": "test"})
        await layer.receive(channel)
        await use(layer)
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(layer.receive(channel), 0.001)
    gc.collect()
    gc.set_debug(0)
    kinds = [each if inspect.isfunction(each) else type(each) for each in gc.garbage]
    say([str(each) for each in kinds if each.__module__.startswith("channels_sqlite")])
    await layer.close()


async def watches(**config: Any) -> None:
    """Say what wakes it on a system without inotify, or why that cannot be."""
    watchers.sys = SimpleNamespace(platform="another")  # type: ignore[assignment, attr-defined]
    layer = SqliteChannelLayer(**config)
    try:
        await use(layer)
        [reader] = await layer.readers()
        say(reader.watcher)
    except WatcherUnavailable as error:
        say(str(error))
    await layer.close()


if __name__ == "__main__":
    main(globals(), *sys.argv[1:])
