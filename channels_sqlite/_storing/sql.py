"""The layer's SQL: one function, one intent, one statement where it can be.

Every function takes a connection and runs to its end on it; those that write are tried again when
another connection holds the lock, so nothing else happens in them. Times are unix seconds.

Statements name the index they are made for, because an ANALYZE of ten rows would have SQLite scan
a million later.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from functools import cache

from .messages import LARGE, Outgoing, Row
from .schema import (
    COUNT_WAITING,
    EPOCH,
    MEMBER_READS,
    MEMBERSHIP,
    MESSAGE,
    SEQUENCE,
    WAITING,
)

NAMES_AT_ONCE = 200  # a statement is kept for each number of names

COLUMNS = 'id, inbox, channel, "group", body, created_at, expires_at'

TIME = "case when typeof({0}) in ('real', 'integer') then {0} else 9e999 end"
"""A time in a column; infinity if it is no number. Anybody may write text there, which SQLite sorts
after all numbers."""

_ROW = f"""
    id, inbox, channel, "group", body, {TIME.format("created_at")}, {TIME.format("expires_at")}
"""

_EPOCH_NOW = f"(select seq from {SEQUENCE} where inbox = '{EPOCH}')"

# Sending


_INSERT = f"""
    insert into {MESSAGE} (inbox, channel, body, created_at, expires_at)
    select ?, ?, ?, ?, ? where ({COUNT_WAITING % ("?", "?")}) < ?
"""


@cache
def _insert_all(count: int) -> str:
    """Insert `count` messages if each finds room, and none otherwise.

    One statement that steps once, and whose row count is the answer. RETURNING would say which of
    them found room, at the price of a step, and of a turn of the interpreter's lock, for each.
    """
    return f"""
        insert into {MESSAGE} (inbox, channel, body, created_at, expires_at)
        with outgoing (position, inbox, channel, body, created_at, expires_at, room) as (
            values {", ".join(["(?, ?, ?, ?, ?, ?, ?)"] * count)}
        )
        select inbox, channel, body, created_at, expires_at from outgoing
        where (
            select min(room - ({COUNT_WAITING % ("outgoing.inbox", "outgoing.created_at")}))
            from outgoing
        ) > 0
        order by position
    """


def send(connection: sqlite3.Connection, messages: Sequence[Outgoing], now: float) -> list[bool]:
    """Insert messages in their order; for each, whether its inbox had room for it."""
    if not messages:
        return []
    if len(messages) == 1:
        return [send_one(connection, messages[0], now)]
    if connection.execute(_insert_all(len(messages)), _values(messages, now)).rowcount:
        return [True] * len(messages)
    with Transaction(connection):
        return [send_one(connection, message, now) for message in messages]


def send_one(connection: sqlite3.Connection, message: Outgoing, now: float) -> bool:
    """Insert a message, if its inbox has room for it."""
    inbox, channel, body, expires_at, capacity = message
    values = (inbox, channel, body, now, expires_at, inbox, now, capacity)
    return connection.execute(_INSERT, values).rowcount > 0


def _values(messages: Sequence[Outgoing], now: float) -> list[object]:
    ahead: dict[str, int] = {}
    values: list[object] = []
    for position, (inbox, channel, body, expires_at, capacity) in enumerate(messages):
        before = ahead.get(inbox, 0)
        ahead[inbox] = before + 1
        values += (position, inbox, channel, body, now, expires_at, capacity - before)
    return values


# Looking


@cache
def _sequences(count: int) -> str:
    marks = ", ".join("?" * count)
    return f"select inbox, seq from {SEQUENCE} where inbox in ({marks})"


def sequences(connection: sqlite3.Connection, inboxes: Sequence[str]) -> dict[str, int]:
    """The sequences of `inboxes`; an inbox without any message has none."""
    found: dict[str, int] = {}
    for start in range(0, len(inboxes), NAMES_AT_ONCE):
        names = inboxes[start : start + NAMES_AT_ONCE]
        found.update(connection.execute(_sequences(len(names)), names).fetchall())
    return found


def newest(connection: sqlite3.Connection) -> int:
    """The highest id that a message has had, 0 where that cannot be told."""
    query = "select seq from sqlite_sequence where name = ? and typeof(seq) = 'integer'"
    return max((seq for (seq,) in connection.execute(query, (MESSAGE,)).fetchall()), default=0)


SEPARATOR = "\x1f"

_ARRIVALS = f"""
    select {_EPOCH_NOW},
        case when channel is null then (
            select group_concat(channel, char({ord(SEPARATOR)}))
            from {MEMBERSHIP} as membership indexed by {MEMBER_READS}
            where membership."group" = message."group"
            and membership.inbox = message.inbox
            and membership.joined_after < message.id
            and (membership.left_after is null or membership.left_after >= message.id)
            and membership.expires_at > min(message.created_at, ?)
            and typeof(membership.channel) = 'text'
        ) when typeof(channel) = 'text' then channel end,
        {_ROW}
    from {MESSAGE} as message indexed by {WAITING}
    where inbox = ? and delivered_at is null and id > ?
    order by id
    limit ?
"""


def arrivals(
    connection: sqlite3.Connection, inbox: str, cursor: int, limit: int, now: float
) -> list[tuple[int, list[str], Row]]:
    """The oldest undelivered messages of a process-local inbox after `cursor`, each with the epoch
    and with its channels.

    A member gets what was sent before its membership has lapsed. If the clock was set back since, a
    message seems to have been sent later than now.

    A row of others that has no channel's name for a channel has none. No name has the
    separator between two of them here (a line end it may have, by Channels' pattern): JSON is read
    by four times as many calls.
    """
    found = connection.execute(_ARRIVALS, (now, inbox, cursor, limit)).fetchall()
    return [
        (epoch, channels.split(SEPARATOR) if channels else [], Row(*row))
        for epoch, channels, *row in found
    ]


def has_waiting(connection: sqlite3.Connection, inbox: str, now: float) -> tuple[int | None, bool]:
    """The epoch, and True if a message waits to be claimed."""
    ((epoch, waiting),) = connection.execute(
        f"""
        select {_EPOCH_NOW}, exists (
            select 1 from {MESSAGE} indexed by {WAITING}
            where inbox = ? and delivered_at is null and expires_at > ?
        )
        """,
        (inbox, now),
    ).fetchall()
    return epoch, bool(waiting)


# Taking


def acknowledge(
    connection: sqlite3.Connection,
    inbox: str,
    ids: tuple[int, int],
    created_until: float,
    epoch: int | None,
    now: float,
    *,
    keep: bool,
    large: bool,
) -> None:
    """Mark what the inbox's one reader has taken; delete it unless delivered messages are kept, and
    what is `large` in any case.

    That is what has an id above the first and up to the second, in this epoch. In memory a later
    message may have the id of one that was taken and undone, but was created later.
    """
    table = f"{MESSAGE} indexed by {WAITING}"
    taken = (
        "inbox = ? and delivered_at is null and id > ? and id <= ? and created_at <= ?"
        f" and ? is {_EPOCH_NOW}"
    )
    values = (inbox, *ids, created_until, epoch)
    if large or not keep:
        which = f" and typeof(body) = 'blob' and length(body) > {LARGE}" if keep else ""
        connection.execute(f"delete from {table} where {taken}{which}", values)
    if keep:
        connection.execute(f"update {table} set delivered_at = ? where {taken}", (now, *values))


def claim(
    connection: sqlite3.Connection, inbox: str, limit: int, now: float, *, keep: bool
) -> list[tuple[int, Row]]:
    """Take the oldest messages of a normal channel, at most `limit`; nobody else gets them. Each
    comes with the epoch: a flush may come between two statements.
    """
    with Transaction(connection):
        found = connection.execute(
            f"""
            select {_EPOCH_NOW}, {_ROW} from {MESSAGE} indexed by {WAITING}
            where inbox = ? and delivered_at is null and expires_at > ? order by id limit ?
            """,
            (inbox, now, limit),
        ).fetchall()
        claimed = [(epoch, Row(*row)) for epoch, *row in found]
        kept = [(now, row.id) for _, row in claimed if keep and not row.is_large]
        gone = [(row.id,) for _, row in claimed if not keep or row.is_large]
        connection.executemany(f"update {MESSAGE} set delivered_at = ? where id = ?", kept)
        connection.executemany(f"delete from {MESSAGE} where id = ?", gone)
    return claimed


def give_back(connection: sqlite3.Connection, rows: Sequence[Row], epoch: int) -> None:
    """Put claimed messages back where they stood, and raise the sequence: others look again.

    Not those of another epoch: they were flushed since, or are of another file.
    """
    with Transaction(connection):
        connection.executemany(
            f"insert into {MESSAGE} ({COLUMNS}) select ?, ?, ?, ?, ?, ?, ?"
            f" where ? = {_EPOCH_NOW}"
            " on conflict (id) do update set delivered_at = null"
            " where inbox = excluded.inbox and created_at = excluded.created_at",
            [(*row, epoch) for row in rows],
        )
        connection.executemany(
            f"update {SEQUENCE} set seq = seq + 1 where inbox = ?", {(row.inbox,) for row in rows}
        )


# Forgetting


def flush(connection: sqlite3.Connection) -> None:
    """Delete all messages and memberships, and begin another epoch: readers then forget what they
    have in memory.
    """
    with Transaction(connection):
        connection.execute(f"delete from {MESSAGE}")
        connection.execute(f"delete from {MEMBERSHIP}")
        connection.execute(
            f"insert into {SEQUENCE} (inbox, seq) values ('{EPOCH}', random())"
            " on conflict (inbox) do update set seq = excluded.seq"
        )


class Transaction:
    """A transaction, for work that cannot be one statement. `Handle.run` rolls back where it fails.

    IMMEDIATE, because a transaction that begins as a reader cannot wait for the write lock.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def __enter__(self) -> None:
        self._connection.execute("begin immediate")

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self._connection.execute("commit")
