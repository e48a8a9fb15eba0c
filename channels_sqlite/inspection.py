"""What the file shows of a layer. Nothing here writes, and nobody's message is taken.

What only a process knows is not in the file: whether a reader is alive, when it last woke and what
wakes it, which wakes it missed, what it dropped. roll_call.py asks for that.
What the file does show of a reader: how long messages wait in its inbox, when it last took one, and
how many of its channels are in groups.

Functions whose first argument is `connection` are one intent each, as in store.py. Times are unix
seconds, ages are seconds.
"""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import TypeVar

from .database import Database
from .exceptions import translate
from .messages import Row
from .schema import MEMBERSHIP, MESSAGE

T = TypeVar("T")


@dataclass
class Tally:
    """What is kept of one inbox or one group, or of all.

    A group's message is one row for each inbox that it went to, and so counts once for each.
    """

    waiting: int = 0
    delivered: int = 0
    """Taken by a reader, and kept for `message_retention`."""
    expired: int = 0
    """Expired before anybody took it, and not trimmed yet."""
    members: int = 0
    """Memberships: of the group, or in groups through the inbox."""
    oldest: float | None = None
    """The age of the message that has waited longest."""
    last_taken: float | None = None
    """Seconds since a reader took a message."""

    def add(self, other: Tally) -> None:
        """Count what `other` has as well."""
        self.waiting += other.waiting
        self.delivered += other.delivered
        self.expired += other.expired
        self.members += other.members
        self.oldest = _of(max, self.oldest, other.oldest)
        self.last_taken = _of(min, self.last_taken, other.last_taken)


@dataclass(frozen=True, kw_only=True)
class Stats:
    """A layer's file at one moment."""

    path: str
    journal_mode: str
    size: int
    """Bytes of the database file; SQLite uses `free` ones again before it takes more."""
    free: int
    wal_size: int
    total: Tally
    inboxes: dict[str, Tally]
    """By what one reader drains: a normal channel, or all of a process's channels up to the `!`."""
    groups: dict[str, Tally]


@dataclass(frozen=True)
class Group:
    """A group that has members."""

    name: str
    members: int
    inboxes: int
    """A message to the group is one row for each of them."""
    lapses_in: float
    """Seconds until the first membership lapses, unless it is renewed."""


async def look(database: Database, function: Callable[[sqlite3.Connection], T]) -> T:
    """The result of `function`, on a thread and a connection of its own.

    For what reads much: sends, and the short reads of the event loop, do not wait for it.
    """
    await database.ready()
    return await asyncio.to_thread(_look, database, function)


def _look(database: Database, function: Callable[[sqlite3.Connection], T]) -> T:
    try:
        raw = sqlite3.connect(database.target, uri=True, isolation_level=None)
        with closing(raw) as connection:
            connection.execute("pragma query_only = on")
            connection.execute("pragma read_uncommitted = on")  # tables in memory have locks
            connection.text_factory = _text
            return function(connection)
    except sqlite3.Error as error:
        raise translate(error, database.path) from error


async def stats(database: Database) -> Stats:
    """Count everything; that takes seconds where a day of retained messages is a million."""
    return await look(database, lambda connection: _stats(connection, database.path))


# Anybody may write anything into a column; names are text here.
_NAMES = 'cast(inbox as text), cast("group" as text)'

_UNDELIVERED = f"""
    select {_NAMES}, sum(expires_at > :now), 0, sum(expires_at <= :now),
        min(iif(expires_at > :now, id, null)), null
    from {MESSAGE}
    where delivered_at is null
    group by inbox, "group"
"""

_DELIVERED = f"""
    select {_NAMES}, 0, count(*), 0, null, :now - max(delivered_at)
    from {MESSAGE}
    where delivered_at is not null
    group by inbox, "group"
"""

_MEMBERS = f"""
    select {_NAMES}, count(*)
    from {MEMBERSHIP}
    where expires_at > :now
    group by inbox, "group"
"""


def _stats(connection: sqlite3.Connection, path: str) -> Stats:
    now = {"now": time.time()}
    connection.execute("begin")
    messages = [
        *connection.execute(_UNDELIVERED, now).fetchall(),
        *connection.execute(_DELIVERED, now).fetchall(),
    ]
    ages = _ages(connection, [oldest for *_, oldest, _ in messages if oldest is not None], **now)
    total = Tally()
    inboxes: dict[str, Tally] = defaultdict(Tally)
    groups: dict[str, Tally] = defaultdict(Tally)

    def count(inbox: str, group: str | None, tally: Tally) -> None:
        total.add(tally)
        inboxes[inbox].add(tally)
        if group is not None:
            groups[group].add(tally)

    for inbox, group, waiting, delivered, expired, oldest, last_taken in messages:
        age = ages.get(oldest)
        count(inbox, group, Tally(waiting, delivered, expired, 0, age, last_taken))
    for inbox, group, members in connection.execute(_MEMBERS, now).fetchall():
        count(inbox, group, Tally(members=members))
    pages = {
        name: connection.execute(f"pragma {name}").fetchall()[0][0]
        for name in ("page_size", "page_count", "freelist_count", "journal_mode")
    }
    return Stats(
        path=path,
        journal_mode=pages["journal_mode"],
        size=pages["page_count"] * pages["page_size"],
        free=pages["freelist_count"] * pages["page_size"],
        wal_size=_size(f"{path}-wal"),
        total=total,
        inboxes=dict(sorted(inboxes.items())),
        groups=dict(sorted(groups.items())),
    )


def _ages(connection: sqlite3.Connection, ids: Sequence[int], now: float) -> dict[int, float]:
    # By id, for only these: created_at stands behind the body, which may be long.
    return dict(
        connection.execute(
            f"select id, ? - created_at from {MESSAGE}"
            " where id in (select value from json_each(?))",
            (now, json.dumps(ids)),
        ).fetchall()
    )


# Groups


def groups(connection: sqlite3.Connection, now: float) -> list[Group]:
    """All groups that have members, by name."""
    rows = connection.execute(
        f"""
        select "group", count(*), count(distinct inbox), min(expires_at) - :now
        from {MEMBERSHIP}
        where expires_at > :now
        group by "group"
        order by "group"
        """,
        {"now": now},
    ).fetchall()
    return [Group(*row) for row in rows]


def group_channels(connection: sqlite3.Connection, group: str, now: float) -> list[str]:
    """The channels in a group, by name."""
    rows = connection.execute(
        f'select channel from {MEMBERSHIP} where "group" = ? and expires_at > ? order by channel',
        (group, now),
    )
    return [channel for (channel,) in rows.fetchall()]


def group_count(connection: sqlite3.Connection, group: str, now: float) -> int:
    """How many channels are in a group."""
    rows = connection.execute(
        f'select count(*) from {MEMBERSHIP} where "group" = ? and expires_at > ?', (group, now)
    )
    count: int = rows.fetchall()[0][0]
    return count


# Messages, as they come


_COLUMNS = 'id, inbox, channel, "group", body, created_at, expires_at'


def last_messages(connection: sqlite3.Connection, upto: int, count: int) -> list[Row]:
    """The newest `count` messages that are still there, oldest first, up to the id `upto`."""
    rows = connection.execute(
        f"select {_COLUMNS} from {MESSAGE} where id <= ? order by id desc limit ?", (upto, count)
    )
    return [Row(*row) for row in reversed(rows.fetchall())]


def messages_after(connection: sqlite3.Connection, cursor: int, limit: int) -> list[Row]:
    """The next messages after the id `cursor`, delivered or not, at most `limit`."""
    rows = connection.execute(
        f"select {_COLUMNS} from {MESSAGE} where id > ? order by id limit ?", (cursor, limit)
    )
    return [Row(*row) for row in rows.fetchall()]


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return 0


def _of(
    choose: Callable[[float, float], float], one: float | None, other: float | None
) -> float | None:
    if one is None or other is None:
        return other if one is None else one
    return choose(one, other)


def _text(value: bytes) -> str:
    return value.decode("utf-8", "replace")
