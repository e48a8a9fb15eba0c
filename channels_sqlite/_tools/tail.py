"""Messages as they pass, for somebody who looks on, without taking one from anybody."""

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

from .._storing import sql
from .._storing.database import Database
from .._storing.forks import Identity
from .._storing.handle import text
from .._storing.messages import Row
from .._storing.schema import MESSAGE
from .._waking import bells
from ..exceptions import translate
from ..serializers import Message

BATCH = 500  # rows in one read
PAUSE = 0.1  # seconds between two looks
TAKEN_WITHIN = 1.0  # seconds


@dataclass(frozen=True)
class Filter:
    """Which messages to show; globs. A field that is None does not matter."""

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
    """The messages that are sent; a group's message once, by its row for one inbox."""

    def __init__(self, database: Database) -> None:
        self.missed = 0
        """Rows that were deleted before they could be looked at, as far as the ids of the others
        tell. The readers of messages that are not kept may be quicker."""
        self._database = database
        self._file: Identity | None = None
        self._cursor = 0

    async def last(self, count: int) -> list[Row]:
        """The newest `count` messages that are there; those to come begin after them."""
        self._cursor = await self._database.read(sql.newest)
        self._file = self._database.files.identity
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
            rows = await self._read()
            for row in rows:
                if first is None or not _are_one_message(first, row):
                    first = row
                    yield row
            if len(rows) < BATCH:
                await asyncio.sleep(PAUSE)

    async def _read(self) -> list[Row]:
        """The next rows, if there are any."""
        upto = await self._database.read(sql.newest)
        before, self._file = self._file, self._database.files.identity
        if upto < self._cursor or self._file != before:
            self._cursor = 0  # another file, or its ids have begun again
        if upto == self._cursor:
            return []
        rows = await self._rows("where id > ? order by id", self._cursor, BATCH)
        if rows:
            upto = rows[-1].id if len(rows) == BATCH else max(upto, rows[-1].id)
        self.missed += max(0, upto - self._cursor - len(rows))
        self._cursor = upto
        return rows


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
