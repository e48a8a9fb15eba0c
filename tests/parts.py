"""The layer's inner parts, put together as the receiver puts them together, on a real file."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from pathlib import Path
from typing import Any

from channels_sqlite import serializers
from channels_sqlite.claims import Claims
from channels_sqlite.codec import Codec
from channels_sqlite.conf import Options
from channels_sqlite.consumers import Consumers
from channels_sqlite.counters import Counters, DropLog
from channels_sqlite.database import Database
from channels_sqlite.inboxes import Inboxes
from channels_sqlite.messages import Item
from channels_sqlite.receiver import Receiver
from channels_sqlite.sender import Sender
from channels_sqlite.tasks import Tasks
from channels_sqlite.trimmer import Trimmer
from tests.waiting import soon

TIMEOUT = 0.05  # seconds; as long as a locked database is waited for


class Parts:
    """One process's parts; `capacity` is that of every channel and inbox."""

    def __init__(self, path: Path, **config: Any) -> None:
        self.options = Options.from_config({"watcher": "polling", **config})
        settings = {"NAME": str(path), "OPTIONS": {"timeout": TIMEOUT}}
        self.database = Database(settings, "channels")
        self.counters = Counters()
        self.drops = DropLog(self.counters)
        self.trimmer = Trimmer(self.database, self.options)
        self.tasks = Tasks()
        self.lock = lock = threading.RLock()
        keep = self.options.message_retention > 0
        self.consumers = Consumers(lock, self.capacity_of, self.counters, self.drops)
        self.claims = Claims(self.database, self.consumers, self.tasks, lock, keep_delivered=keep)
        self.inboxes = Inboxes(
            self.database,
            self.consumers,
            self.tasks,
            self.counters,
            self.capacity_of,
            lock,
            keep_delivered=keep,
        )

    def capacity_of(self, channel: str) -> int:
        return self.options.capacity

    def sender(self) -> Sender:
        return Sender(
            self.database, self.trimmer, self.options, self.capacity_of, self.counters, self.drops
        )

    def receiver(self) -> Receiver:
        codec = Codec(serializers.create("msgpack"), ())
        return Receiver(
            self.database,
            self.trimmer,
            self.options,
            self.capacity_of,
            codec,
            self.counters,
            self.drops,
        )

    def wait_for(self, channel: str) -> asyncio.Future[Item | None]:
        """A consumer that waits."""
        waiter = self.consumers.take_or_join(channel, asyncio.get_running_loop())
        assert not isinstance(waiter, Item)
        return waiter

    def taken(self, channel: str) -> list[int]:
        """The numbers of the messages that are there for the channel's consumer."""
        numbers = []
        here = asyncio.get_running_loop()
        while isinstance(found := self.consumers.take_or_join(channel, here), Item):
            numbers.append(int(found.row.body))
        self.consumers.leave(channel, found, here)
        return numbers


@asynccontextmanager
async def parts(path: Path, **config: Any) -> AsyncIterator[Parts]:
    made = Parts(path, **config)
    await made.database.ready()
    try:
        yield made
    finally:
        await soon(made.tasks.finish())
        await made.database.close()


@contextmanager
def sql(path: Path) -> Iterator[sqlite3.Connection]:
    """A connection of somebody else's."""
    with closing(sqlite3.connect(path, isolation_level=None, timeout=5)) as connection:
        yield connection


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Somebody else holds the write lock."""
    with sql(path) as connection:
        connection.execute("begin immediate")
        yield
        connection.execute("rollback")
