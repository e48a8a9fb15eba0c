"""What the tests' processes do: `python -m tests.children FUNCTION ARGUMENTS`; see processes.py.

Each talks with its test in lines of JSON on stdin and stdout. They do not import pytest.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import json
import os
import random
import sqlite3
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from typing import Any

import django
import msgpack
import psutil
from asgiref.sync import async_to_sync
from channels.exceptions import ChannelFull

from channels_sqlite._options.conf import database_settings
from channels_sqlite.layers import SqliteChannelLayer
from tests.rows import inbox_of, message, put_number


def say(value: Any) -> None:
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


def hear() -> Any:
    return json.loads(sys.stdin.readline())


async def send(layer: SqliteChannelLayer, channel: str, message: dict[str, Any]) -> None:
    """Send, and wait for room if there is none."""
    while True:
        try:
            return await layer.send(channel, message)
        except ChannelFull:
            await asyncio.sleep(0.002)


# Readers and writers


async def reader(channel: str, **config: Any) -> None:
    """Receive until a negative number comes, and say each number at once."""
    layer = SqliteChannelLayer(**config)
    first = asyncio.create_task(layer.receive(channel))
    await asyncio.sleep(0)
    say("ready")
    message = await first
    while message["number"] >= 0:
        say(message["number"])
        message = await layer.receive(channel)
    await layer.close()


async def writer(channel: str, numbers: list[int], **config: Any) -> None:
    """Send a message of each number."""
    layer = SqliteChannelLayer(**config)
    for number in numbers:
        await send(layer, channel, {"type": "test.message", "number": number})
    say("sent")
    await layer.close()


async def echo(**config: Any) -> None:
    """Say the name of a channel of one's own; send back what comes there, until it is negative."""
    layer = SqliteChannelLayer(**config)
    channel = await layer.new_channel()
    first = asyncio.create_task(layer.receive(channel))
    await asyncio.sleep(0)
    say(channel)
    message = await first
    while message["number"] >= 0:
        await send(layer, message["reply_to"], message)
        message = await layer.receive(channel)
    await layer.close()


def nursery(channels: list[str], group: str, **config: Any) -> None:
    """For each line heard fork a writer that writes until it is killed, and say its pid.

    A writer of its own for each kill, without the second that a new interpreter takes to start.
    """
    layer = SqliteChannelLayer(**config)
    database_settings("channels")  # imports Django's backend, once for all
    while name := hear():
        pid = os.fork()
        if pid == 0:
            asyncio.run(write_for_ever(layer, name, channels, group))
        say({"pid": pid})
        os.waitpid(pid, 0)
        say({"gone": pid})


async def write_for_ever(
    layer: SqliteChannelLayer, name: str, channels: list[str], group: str
) -> None:
    """Send to the channels and the group in turn, and say what was accepted."""
    number = 0
    while True:
        for channel in channels:
            number += 1
            await send(layer, channel, {"type": "test", "writer": name, "number": number})
            say({"writer": name, "number": number, "channel": channel})
        number += 1
        await layer.group_send(group, {"type": "test", "writer": name, "number": number})


async def deaf_reader(channel: str, count: int, **config: Any) -> None:
    """Receive with a watcher that hears nothing, and say when; then how many wakes it missed."""
    layer = SqliteChannelLayer(**config)
    first = asyncio.create_task(layer.receive(channel))
    while not make_inotify_deaf():  # noqa: ASYNC110 - nobody could set an event
        await asyncio.sleep(0.05)
    say("deaf")
    await first
    say(time.time())
    for _ in range(count - 1):
        await layer.receive(channel)
        say(time.time())
    await layer.close()
    say(layer.counters.missed_wakes)


def make_inotify_deaf() -> int:
    """Put a descriptor that watches nothing in the place of each that this process has; how many.

    As deaf as on a network file system: no event, no error.
    """
    libc = ctypes.CDLL(None)
    found = inotify_descriptors()
    for descriptor in found:
        deaf = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        os.dup2(deaf, descriptor, inheritable=False)
        os.close(deaf)
    return len(found)


def inotify_descriptors() -> list[int]:
    """Those that this process has."""
    found = []
    for descriptor in map(int, os.listdir("/proc/self/fd")):
        with contextlib.suppress(FileNotFoundError):  # that of listdir itself
            if os.readlink(f"/proc/self/fd/{descriptor}") == "anon_inode:inotify":
                found.append(descriptor)
    return found


# Lives and deaths


def fresh_loops(sends: list[int], receives: list[int], **config: Any) -> None:
    """Say what the process holds after so many group_sends, each in an event loop of its own, and
    after so many more, each with a receive in another one.
    """
    layer = SqliteChannelLayer(**config)
    channel = async_to_sync(layer.new_channel)()
    async_to_sync(layer.group_add)("test-group", channel)
    process = psutil.Process()
    for count, receiving in (
        *((each, False) for each in sends),
        *((each, True) for each in receives),
    ):
        for number in range(count):
            async_to_sync(layer.group_send)("test-group", {"type": "test", "number": number})
            if receiving:
                async_to_sync(layer.receive)(channel)
        gc.collect()
        time.sleep(0.5)  # in which the threads of watchers whose loop was closed end
        say(
            {
                "threads": threading.active_count(),
                "descriptors": process.num_fds(),
                "memory": process.memory_info().rss,
            }
        )


def many_loops(threads: int, seconds: float, **config: Any) -> None:
    """Send and receive on many threads, in event loops that live for three messages; say how that
    went.
    """
    layer = SqliteChannelLayer(capacity=100_000, **config)
    outcomes: Counter[str] = Counter()
    end = time.monotonic() + seconds

    async def three(channel: str, close: bool) -> None:
        for _ in range(3):
            await layer.send(channel, {"type": "test"})
        for _ in range(3):
            await asyncio.wait_for(layer.receive(channel), 10)
        if close:
            await layer.close()

    def work(number: int) -> None:
        while time.monotonic() < end:
            try:
                asyncio.run(three(f"test-{number}", close=number == 0))
            except Exception as error:
                outcomes[f"{type(error).__name__}: {error}"] += 1
            else:
                outcomes["ok"] += 1

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(work, range(threads)))
    say(outcomes)


async def use(layer: SqliteChannelLayer) -> None:
    """Send and receive, on a normal and on a process-local channel."""
    for channel in ("test-channel", await layer.new_channel()):
        await layer.send(channel, {"type": "test"})
        await layer.receive(channel)


async def use_and_wait(layer: SqliteChannelLayer) -> None:
    """Use it, and then have a consumer wait for a message that never comes."""
    await use(layer)
    waiting = asyncio.create_task(layer.receive(await layer.new_channel()))
    await asyncio.sleep(0.05)
    say("waiting")
    await waiting


async def use_and_close(layer: SqliteChannelLayer) -> None:
    """Use it, and close it as the last thing that the interpreter does."""
    await use(layer)
    await layer.close()


def exits(how: str, **config: Any) -> None:
    """Use a layer, and end the interpreter without closing it, or right after that."""
    layer = SqliteChannelLayer(**config)
    if how == "in a thread":
        threading.Thread(target=asyncio.run, args=[use_and_wait(layer)], daemon=True).start()
        time.sleep(0.5)
    elif how == "synchronous":
        async_to_sync(use)(layer)
    elif how == "by Ctrl-C":
        with contextlib.suppress(KeyboardInterrupt):
            asyncio.run(use_and_wait(layer))
    elif how == "closed":
        asyncio.run(use_and_close(layer))
    else:
        asyncio.run(use(layer))
    say("ending")
    if how == "by an exception":
        raise SystemExit(0)


# Writers that know nothing of the layer


def connect() -> sqlite3.Connection:
    return sqlite3.connect(os.environ["CHANNELS_DATABASE"], isolation_level=None)


LARGE = 500_000
"""Bytes of a message so large that it can be seen only a while after the log has been written."""


def foreign_writer(channels: list[str], count: int) -> None:
    """Insert messages with the sqlite3 module, as in its shell, and then to a second channel with
    Django's ORM, in transactions, as the admin does.
    """
    from django.db import transaction

    django.setup()
    from channels_sqlite.models import LayerMessage

    def put_by_orm(number: int) -> None:
        now = time.time()
        body = msgpack.packb(message(number, text="x" * LARGE))
        row = LayerMessage(inbox=inbox_of(channels[1]), channel=channels[1], body=body)
        row.created_at, row.expires_at = now, now + 60
        with transaction.atomic(using="channels"):
            row.save(using="channels")

    with closing(connect()) as connection:
        put = partial(put_number, connection, channels[0], size=LARGE)
        for write in (put, put_by_orm):
            for number in range(count):
                write(number)
                say(time.time())
                time.sleep(random.uniform(0.02, 0.1))


def main(functions: dict[str, Any], function: str, arguments: str) -> None:
    work: Callable[..., Coroutine[Any, Any, None] | None] = functions[function]
    result = work(**json.loads(arguments))
    if asyncio.iscoroutine(result):
        asyncio.run(result)


if __name__ == "__main__":
    main(globals(), *sys.argv[1:])
