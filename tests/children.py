"""The tests' processes: `python -m tests.children FUNCTION ARGUMENTS`; see processes.py.

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
from collections.abc import Callable, Coroutine
from contextlib import closing
from functools import partial
from typing import Any

import django
import msgpack
import psutil
from asgiref.sync import async_to_sync
from channels.exceptions import ChannelFull

from channels_sqlite.layers import SqliteChannelLayer
from tests.rows import inbox_of, message, put_number


def say(value: Any) -> None:
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


def hear() -> Any:
    return json.loads(sys.stdin.readline())


async def send(layer: SqliteChannelLayer, channel: str, content: dict[str, Any]) -> None:
    """Send, and wait for room if there is none."""
    while True:
        try:
            return await layer.send(channel, content)
        except ChannelFull:
            await asyncio.sleep(0.002)


# Readers and writers


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


async def writes_for_ever(name: str, channels: list[str], group: str, **config: Any) -> None:
    """Send to the channels and the group in turn, and say what the channels accepted."""
    layer = SqliteChannelLayer(**config)
    number = 0
    while True:
        for channel in channels:
            number += 1
            await send(layer, channel, message(number, writer=name))
            say([channel, number])
        number += 1
        await layer.group_send(group, message(number, writer=name))


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
    """The descriptors of inotify that this process has."""
    found = []
    for descriptor in map(int, os.listdir("/proc/self/fd")):
        with contextlib.suppress(FileNotFoundError):  # that of listdir itself
            if os.readlink(f"/proc/self/fd/{descriptor}") == "anon_inode:inotify":
                found.append(descriptor)
    return found


# Lives and deaths


def fresh_loops(counts: list[int], **config: Any) -> None:
    """Say what the process holds after so many messages, each sent and received in event loops of
    its own.
    """
    layer = SqliteChannelLayer(**config)
    channel = async_to_sync(layer.new_channel)()
    async_to_sync(layer.group_add)("test-group", channel)
    process = psutil.Process()
    for count in counts:
        for number in range(count):
            async_to_sync(layer.group_send)("test-group", message(number))
            async_to_sync(layer.receive)(channel)
        gc.collect()
        time.sleep(0.5)  # in which the threads of watchers whose loop was closed end
        say([threading.active_count(), process.num_fds(), process.memory_info().rss])


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
