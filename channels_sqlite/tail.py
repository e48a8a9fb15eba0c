"""Messages as they pass, for somebody who looks on: by file watching, as readers are woken, and
without taking a message from anybody.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from . import inspection, store
from .conf import Options
from .database import Database
from .exceptions import translate
from .messages import Row
from .serializers import Message
from .wakes.listener import HEARTBEAT, WRITE, Listener
from .wakes.watcher import Watcher
from .wakes.watchers import subscribe, unsubscribe

logger = logging.getLogger("channels_sqlite")

BATCH = 500  # rows in one read


@dataclass(frozen=True)
class Filter:
    """Which messages to show; globs. What is None does not matter."""

    channel: str | None = None
    group: str | None = None
    type: str | None = None

    def admits(self, row: Row, message: Message | None) -> bool:
        """Whether to show the row; `message` is None where its body cannot be read.

        A message is sent to a channel or to a group: to ask for both is to ask for either.
        """
        asked = self.channel is not None or self.group is not None
        if asked and not (_matches(row.channel, self.channel) or _matches(row.group, self.group)):
            return False
        return self.type is None or _matches((message or {}).get("type"), self.type)


class Tail:
    """What is sent while the context lasts. A group's message is one row for each inbox."""

    def __init__(self, database: Database, options: Options) -> None:
        self.gone = 0
        """Messages that were deleted before they could be looked at, as far as the ids of the
        others tell: with `message_retention` 0 their readers may be quicker."""
        self._database = database
        self._options = options
        self._generation = database.generation
        self._cursor = 0
        self._seen = 0
        self._news = asyncio.Event()
        self._watcher: Watcher | None = None

    async def __aenter__(self) -> Tail:
        """Watch from now on."""
        database, options = self._database, self._options
        reader = (await database.ready()).reader
        self._listener = Listener(asyncio.get_running_loop(), self._look, self._on_deaf)
        if not database.in_memory:
            self._watcher = subscribe(
                database.wal, options.watcher, options.polling_interval, self._listener
            )
        with self._translated(), reader.in_use:
            self._generation = database.generation
            self._cursor = self._seen = store.newest(reader) or 0
        self._listener.start(HEARTBEAT if self._watcher is not None else options.polling_interval)
        self._listener.wake(WRITE)  # somebody may have written just before, and be about to commit
        return self

    async def __aexit__(self, *error: object) -> None:
        self._listener.stop()
        if self._watcher is not None:
            unsubscribe(self._watcher, self._listener)

    async def last(self, count: int) -> list[Row]:
        """The newest `count` rows that were already there, and still are."""
        reader = (await self._database.ready()).reader
        with self._translated(), reader.in_use:
            return inspection.last_messages(reader, self._cursor, count)

    async def __aiter__(self) -> AsyncIterator[Row]:
        """Rows in their order, for ever. Ends with the error that keeps them from being read."""
        while True:
            for row in await self._read():
                yield row

    async def _read(self) -> list[Row]:
        """The next rows; none where there was no news, but the next look may have some."""
        await self._news.wait()
        reader = (await self._database.ready()).reader
        if self._generation != self._database.generation:
            # Another file is in the place of the one that was read; its ids have begun anew.
            self._generation, self._cursor, self._seen = self._database.generation, 0, 0
        with self._translated(), reader.in_use:
            upto = store.newest(reader) or 0
            rows = inspection.messages_after(reader, self._cursor, BATCH)
        if len(rows) < BATCH:
            self._news.clear()
        if rows:
            upto = rows[-1].id if len(rows) == BATCH else max(upto, rows[-1].id)
        self.gone += upto - self._cursor - len(rows)
        self._cursor = upto
        return rows

    def _look(self, thorough: bool) -> bool:
        """Whether there is a message that no look has found yet."""
        reader = self._database.reader
        if (thorough and self._database.forget_replaced()) or reader is None:
            self._news.set()  # for `_read`, which opens the database anew
            return False
        with reader.in_use:
            newest = store.newest(reader) or 0
        if newest == self._seen:
            return False
        if newest < self._seen:  # somebody has reset the count of messages
            self._database.begin_anew()
        self._seen = newest
        self._news.set()
        if self._watcher is not None:
            self._watcher.hurry()
        return True

    def _on_deaf(self, listener: Listener) -> None:
        logger.warning(
            "Watching %s announces nothing. Polling every %s s instead.",
            self._database.wal,
            self._options.polling_interval,
        )
        listener.start(self._options.polling_interval)

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise translate(error, self._database.path) from error


def _matches(value: Any, glob: str | None) -> bool:
    return glob is not None and isinstance(value, str) and fnmatchcase(value, glob)
