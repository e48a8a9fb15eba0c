"""Statistics of a layer, from its file. Nothing here writes, or takes a message.

Functions whose first argument is `connection` are one intent each, as in `_storing.sql`. Times are
unix seconds, ages are seconds.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections import defaultdict
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, fields
from typing import Any

from ._storing.database import Database
from ._storing.files import LOG
from ._storing.groups import CURRENT
from ._storing.schema import MEMBERSHIP, MESSAGE
from ._waking import bells
from .counters import Counters


@dataclass(frozen=True, kw_only=True)
class Reader:
    """A process that receives and lives, as it was within the last second or so."""

    client: str
    """The part before the `!` of its channels' names, which is the name of its bell."""
    pid: int
    channels: int
    """On which its consumers wait for messages."""
    watcher: str
    """The watcher that wakes it: "inotify", "watchfiles" or "polling"; "none" in memory."""
    last_wake: float | None
    """Seconds since a file event announced something; None if none has."""
    counters: Counters
    """Of its layer, since that was made."""


def readers(database: Database) -> list[Reader]:
    """The readers that live, by their process id: the kernel says so, by the locks of their bells.
    In memory there are none but this process.
    """
    if database.in_memory:
        said = {each.client: each.status() for each in database.readers}
    else:
        said = bells.living(database.files)
    found = []
    for client, status in said.items():  # anybody may have written it
        with suppress(ArithmeticError, AttributeError, LookupError, TypeError, ValueError):
            found.append(_reader(client, status))
    return sorted(found, key=lambda each: (each.pid, each.client))


def _reader(client: str, status: Mapping[str, Any]) -> Reader:
    """A reader, from what it has written into its bell; one of a later version may say more."""
    known = {each.name for each in fields(Counters)}
    counters = {name: n for name, n in status.get("counters", {}).items() if name in known}
    woken_at = status.get("woken_at")
    return Reader(
        client=client,
        pid=int(status["pid"]),
        channels=int(status.get("channels", 0)),
        watcher=str(status.get("watcher", "")),
        last_wake=None if woken_at is None else max(0.0, time.time() - woken_at),
        counters=Counters(**counters),
    )


@dataclass
class Tally:
    """Counts of one inbox or one group, or of all.

    A group's message is one row for each inbox that it went to, and so counts once for each.
    """

    waiting: int = 0
    delivered: int = 0
    """Taken by a reader, and kept for `message_retention`; large ones are not kept."""
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
        if (age := other.oldest) is not None:
            self.oldest = age if self.oldest is None else max(age, self.oldest)
        if (age := other.last_taken) is not None:
            self.last_taken = age if self.last_taken is None else min(age, self.last_taken)


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


# Anybody may write anything into a column; names are text here.
_NAMES = 'cast(inbox as text) as inbox, cast("group" as text) as "group"'

# One statement, and so one moment, in the order of Tally's fields. The age is looked up by id, for
# the oldest only: created_at stands behind the body, which may be long.
_COUNTS = f"""
    select inbox, "group", waiting, delivered, expired, members,
        :now - (select created_at from {MESSAGE} where id = oldest), last_taken
    from (
        select {_NAMES}, sum(expires_at > :now) as waiting, 0 as delivered,
            sum(expires_at <= :now) as expired, 0 as members,
            min(case when expires_at > :now then id end) as oldest, null as last_taken
        from {MESSAGE} where delivered_at is null group by inbox, "group"
        union all
        select {_NAMES}, 0, count(*), 0, 0, null, :now - max(delivered_at)
        from {MESSAGE} where delivered_at is not null group by inbox, "group"
        union all
        select {_NAMES}, 0, 0, 0, count(*), null, null
        from {MEMBERSHIP} where {CURRENT} group by inbox, "group"
    )
"""


def read(connection: sqlite3.Connection, path: str) -> Stats:
    """Count all rows; `path` is the file's."""
    total = Tally()
    inboxes: dict[str, Tally] = defaultdict(Tally)
    groups: dict[str, Tally] = defaultdict(Tally)
    for inbox, group, *counts in connection.execute(_COUNTS, {"now": time.time()}).fetchall():
        tally = Tally(*counts)
        total.add(tally)
        inboxes[inbox].add(tally)
        if group is not None:
            groups[group].add(tally)
    pages = {
        name: connection.execute(f"pragma {name}").fetchall()[0][0]
        for name in ("page_size", "page_count", "freelist_count", "journal_mode")
    }
    wal_size = 0
    with suppress(OSError):  # in memory there is none
        wal_size = os.stat(path + LOG).st_size
    return Stats(
        path=path,
        journal_mode=pages["journal_mode"],
        size=pages["page_count"] * pages["page_size"],
        free=pages["freelist_count"] * pages["page_size"],
        wal_size=wal_size,
        total=total,
        inboxes=dict(sorted(inboxes.items())),
        groups=dict(sorted(groups.items())),
    )


# Groups


def groups(connection: sqlite3.Connection, now: float) -> list[Group]:
    """All groups that have members, by name."""
    rows = connection.execute(
        f"""
        select "group", count(*), count(distinct inbox), min(expires_at) - :now
        from {MEMBERSHIP}
        where {CURRENT}
        group by "group"
        order by "group"
        """,
        {"now": now},
    ).fetchall()
    return [Group(*row) for row in rows]
