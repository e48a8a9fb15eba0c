"""Messages as they pass, for somebody who looks on: by file watching, as readers are woken, and
without taking a message from anybody.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

import aiosqlite

from .._options.conf import Options
from .._storing import sql
from .._storing.connections import Busy, Connections, Lost
from .._storing.database import Database
from .._storing.messages import Row
from .._storing.schema import MESSAGE
from .._waking.listener import Listener
from .._waking.watchers import watch
from ..exceptions import translate
from ..serializers import Message

if TYPE_CHECKING:
    from .._waking.watchers import Watcher

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
        self._cursor = 0
        self._seen = 0
        self._news = asyncio.Event()
        self._watcher: Watcher | None = None
        self._opened: Connections | None = None
        self._connection: aiosqlite.Connection | None = None

    async def __aenter__(self) -> Tail:
        """Watch from now on."""
        self._listener = Listener(
            asyncio.get_running_loop(), self._look, self._beat, self._on_deaf, self._database.once
        )
        try:
            await self._open()
            self._cursor = self._seen = await self._database.read(sql.newest)
        except BaseException:
            await self.__aexit__()
            raise
        self._listener.write()  # somebody may have written just before, and be about to commit
        return self

    async def __aexit__(self, *error: object) -> None:
        self._listener.stop()
        if self._watcher is not None:
            self._watcher.stop()
        if self._connection is not None:
            await self._connection.close()

    async def _open(self) -> aiosqlite.Connection:
        """A connection to the file of this moment, which is watched, too."""
        opened = await self._database.ready()
        if self._connection is not None and opened is self._opened:
            return self._connection
        if self._connection is not None:
            await self._connection.close()
        self._opened = opened
        with self._translated():
            self._connection = await aiosqlite.connect(
                self._database.files.target, uri=True, isolation_level=None
            )
        self._watch()
        return self._connection

    def _watch(self) -> None:
        if self._watcher is not None:
            self._watcher.stop()
            self._watcher = None
        interval = self._options.polling_interval
        if not self._database.in_memory:
            self._watcher = watch(
                self._options.watcher,
                self._listener,
                self._database.files.wal,
                None,
                interval,
                self._database.once,
            )
        self._listener.start(interval if self._watcher is None else None)

    async def last(self, count: int) -> list[Row]:
        """The newest `count` rows that were already there, and still are."""
        newest_first = await self._rows("where id <= ? order by id desc", self._cursor, count)
        return newest_first[::-1]

    async def _rows(self, where: str, id_: int, limit: int) -> list[Row]:
        connection = await self._open()
        with self._translated():
            rows = await connection.execute_fetchall(
                f"select {sql.COLUMNS} from {MESSAGE} {where} limit ?", (id_, limit)
            )
        return [Row(*row) for row in rows]

    async def __aiter__(self) -> AsyncIterator[Row]:
        """Rows in their order, for ever. Ends with the error that keeps them from being read."""
        while True:
            for row in await self._read():
                yield row

    async def _read(self) -> list[Row]:
        """The next rows; none where there was no news, but the next look may have some."""
        await self._news.wait()
        before = self._opened
        await self._open()
        upto = await self._database.read(sql.newest)
        if upto < self._cursor or (before is not self._opened and upto != self._seen):
            self._cursor = self._seen = 0  # another file, or its ids have begun again
        rows = await self._rows("where id > ? order by id", self._cursor, BATCH)
        if len(rows) < BATCH:
            self._news.clear()
        if rows:
            upto = rows[-1].id if len(rows) == BATCH else max(upto, rows[-1].id)
        self.gone += max(0, upto - self._cursor - len(rows))
        self._cursor = upto
        return rows

    def _look(self, _rung: bool) -> bool:
        """Return True if there is a message that no look has found yet."""
        try:
            newest = self._database.try_read(sql.newest)
        except Busy:
            self._listener.look_again()
            return False
        except Lost:
            self._news.set()  # for `_read`, which opens the database again
            return False
        if newest == self._seen:
            return False
        self._seen = newest
        self._news.set()
        return True

    def _beat(self) -> bool:
        self._database.notice_replaced()
        return self._look(False)

    def _on_deaf(self) -> None:
        interval = self._options.polling_interval
        self._database.once.warn(
            "Watching",
            f"No file events for {self._database.files.wal} (network or virtual file system?);"
            f" polling every {interval} s.",
        )
        self._listener.start(interval)

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise translate(error, self._database.path) from error


def _matches(value: Any, glob: str | None) -> bool:
    return glob is not None and isinstance(value, str) and fnmatchcase(value, glob)
