"""Messages as they pass, for somebody who looks on: by file watching, as readers are woken, and
without taking a message from anybody.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from typing import Any

import aiosqlite

from .._options.conf import Options
from .._storing import sql
from .._storing.connections import Connections
from .._storing.database import Database
from .._storing.handle import Busy, Lost, text
from .._storing.messages import Row
from .._storing.schema import MESSAGE
from .._waking import bells
from .._waking.watchers import Ear
from ..counters import Counters
from ..exceptions import translate
from ..serializers import Message

BATCH = 500  # rows in one read
TAKEN_WITHIN = 1.0  # seconds


@dataclass(frozen=True)
class Filter:
    """Which messages to show; globs. What is None does not matter."""

    channel: str | None = None
    group: str | None = None
    type: str | None = None

    def admits(self, row: Row, message: Message | None) -> bool:
        """Return True if the row is to be shown; `message` is None where its body cannot be read.

        A message is sent to a channel or to a group: to ask for both is to ask for either.
        """
        asked = self.channel is not None or self.group is not None
        if asked and not (_matches(row.channel, self.channel) or _matches(row.group, self.group)):
            return False
        return self.type is None or _matches((message or {}).get("type"), self.type)


class Tail:
    """The messages that are sent while the context lasts; a group's message once, by its row for
    one inbox.
    """

    def __init__(self, database: Database, options: Options) -> None:
        self.missed = 0
        """Rows that were deleted before they could be looked at, as far as the ids of the others
        tell. The readers of messages that are not kept may be quicker."""
        self._database = database
        self._options = options
        self._cursor = self._seen = 0
        self._news = asyncio.Event()
        self._opened: Connections | None = None

    async def __aenter__(self) -> Tail:
        """Watch from now on."""
        self._ear = Ear(self._look, self._beat, self._database, self._options, Counters())
        try:
            await self._watch()
            self._cursor = self._seen = await self._database.read(sql.newest)
        except BaseException:  # cancelled, too: `__aexit__` is not called then
            self._ear.stop()
            raise
        # Another process may have written just before, and be about to commit.
        self._ear.listener.log_written()
        return self

    async def __aexit__(self, *error: object) -> None:
        self._ear.stop()

    async def _watch(self) -> bool:
        """Watch the files of this moment; return True if they are others than before."""
        before, self._opened = self._opened, await self._database.ready()
        if not self._ear.watches(None):
            self._ear.watch(None)
        return before is not self._opened

    async def last(self, count: int) -> list[Row]:
        """The newest `count` messages that were already there, and still are."""
        where = f"where id <= ? and not exists ({_SAME_BEFORE}) order by id desc"
        return (await self._rows(where, self._cursor, count))[::-1]

    async def _rows(self, where: str, id_: int, limit: int) -> list[Row]:
        query = f"select {sql.COLUMNS} from {MESSAGE} as message {where} limit ?"
        reading = asyncio.ensure_future(self._fetch(query, (id_, limit)))
        try:
            await asyncio.wait([reading])
        finally:  # cancelled, too: aiosqlite's thread must not find the loop closed
            await asyncio.wait([reading])
            reading.exception()  # retrieved, or asyncio would complain
        return reading.result()

    async def _fetch(self, query: str, values: tuple[int, int]) -> list[Row]:
        try:
            async with aiosqlite.connect(self._database.files.target, uri=True) as connection:
                connection.text_factory = text
                return [Row(*row) for row in await connection.execute_fetchall(query, values)]
        except sqlite3.Error as error:
            raise translate(error, self._database.path) from error

    async def __aiter__(self) -> AsyncIterator[Row]:
        """Rows in their order, for ever. Ends with the error that keeps them from being read."""
        first: Row | None = None
        while True:
            for row in await self._read():
                if first is None or not _are_one_message(first, row):
                    first = row
                    yield row

    async def _read(self) -> list[Row]:
        """The next rows; none where there was no news, but the next look may have some."""
        await self._news.wait()
        is_another = await self._watch()
        upto = await self._database.read(sql.newest)
        if upto < self._cursor or (is_another and upto != self._seen):
            self._cursor = self._seen = 0  # another file, or its ids have begun again
        rows = await self._rows("where id > ? order by id", self._cursor, BATCH)
        if len(rows) < BATCH:
            self._news.clear()
        if rows:
            upto = rows[-1].id if len(rows) == BATCH else max(upto, rows[-1].id)
        self.missed += max(0, upto - self._cursor - len(rows))
        self._cursor = upto
        return rows

    def _look(self, _rung: bool) -> bool:
        """Return True if there is a message that no look has found yet."""
        try:
            newest = self._database.try_read(sql.newest)
        except Busy:
            self._ear.listener.look_again()
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


_SAME_BEFORE = f"""
    select 1 from {MESSAGE} as before
    where before.id = message.id - 1 and before."group" = message."group"
    and before.created_at = message.created_at and before.body = message.body
"""


def _are_one_message(one: Row, other: Row) -> bool:
    """Return True if they are a group's message in two inboxes."""
    return (
        other.group is not None
        and other.inbox != one.inbox
        and (other.group, other.created_at, other.body) == (one.group, one.created_at, one.body)
    )


def _matches(value: Any, glob: str | None) -> bool:
    return glob is not None and isinstance(value, str) and fnmatchcase(value, glob)


async def is_taken(database: Database, inbox: str) -> bool:
    """Return True as soon as nothing waits in the inbox, False if something still does after
    TAKEN_WITHIN. The reader of a process-local inbox is asked to acknowledge what it has taken.
    """
    until = time.monotonic() + TAKEN_WITHIN
    while True:
        bells.ask_for_room(database, inbox)
        question = partial(sql.has_waiting, inbox=inbox, now=time.time())
        _, waits = await database.read(question)
        if not waits or time.monotonic() > until:
            return not waits
        await asyncio.sleep(0.02)
