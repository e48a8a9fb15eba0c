"""The layer's SQL: one function, one intent, one statement where it can be.

Every function takes a connection and runs to its end on it; those that write are tried again when
another connection holds the lock, so nothing else happens in them. Times are unix seconds.

Statements name the index they are made for, because an ANALYZE of ten rows would have SQLite scan
a million later.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Sequence
from functools import cache

from .messages import GroupMessage, Outgoing, Row
from .schema import (
    EPOCH,
    MEMBER,
    MEMBER_READS,
    MEMBERSHIP,
    MESSAGE,
    SEQUENCE,
    WAITING,
)

LARGEST_BODY = 10**9 - 2**10
"""Bytes; SQLite's default limit for a whole row, less the other columns."""

NAMES_AT_ONCE = 200  # SQLite before 3.32 takes 999 parameters

COLUMNS = 'id, inbox, channel, "group", body, created_at, expires_at'

_WAITING = f"""
    select count(*) from {MESSAGE} as waiting indexed by {WAITING}
    where waiting.inbox = %s and waiting.delivered_at is null and waiting.expires_at > %s
"""

CURRENT = "left_after is null and (expires_at > :now or substr(inbox, -1) = '!')"
"""A membership that counts. The reader of a process-local channel ends its memberships itself, by a
clock that nobody sets; the wall clock counts for the others."""


# Sending


_INSERT = f"""
    insert into {MESSAGE} (inbox, channel, body, created_at, expires_at)
    select ?1, ?2, ?3, ?4, ?5 where ({_WAITING % ("?1", "?4")}) < ?6
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
            select min(room - ({_WAITING % ("outgoing.inbox", "outgoing.created_at")}))
            from outgoing
        ) > 0
        order by position
    """


def send(connection: sqlite3.Connection, messages: Sequence[Outgoing], now: float) -> list[bool]:
    """Insert messages in their order; for each, whether its inbox had room for it."""
    if len(messages) == 1:
        return [_send(connection, messages[0], now)]
    if messages and connection.execute(_insert_all(len(messages)), _values(messages, now)).rowcount:
        return [True] * len(messages)
    with transaction(connection):
        return [_send(connection, message, now) for message in messages]


def _send(connection: sqlite3.Connection, message: Outgoing, now: float) -> bool:
    inbox, channel, body, expires_at, capacity = message
    values = (inbox, channel, body, now, expires_at, capacity)
    return connection.execute(_INSERT, values).rowcount > 0


def _values(messages: Sequence[Outgoing], now: float) -> list[object]:
    ahead: dict[str, int] = {}
    values: list[object] = []
    for position, (inbox, channel, body, expires_at, capacity) in enumerate(messages):
        before = ahead.get(inbox, 0)
        ahead[inbox] = before + 1
        values += (position, inbox, channel, body, now, expires_at, capacity - before)
    return values


# The inboxes of a group: a seek for each, however many members it has. `select distinct` would
# visit all members.
_RECIPIENTS = f"""
    with recursive candidate (inbox) as (
        select min(inbox) from {MEMBERSHIP} indexed by {MEMBER_READS} where "group" = :group
        union all
        select (
            select min(inbox) from {MEMBERSHIP} indexed by {MEMBER_READS}
            where "group" = :group and inbox > candidate.inbox
        )
        from candidate where candidate.inbox is not null
    ),
    recipient (inbox, waiting) as materialized (
        select inbox, ({_WAITING % ("candidate.inbox", ":now")}) from candidate
        where exists (
            select 1 from {MEMBERSHIP} indexed by {MEMBER_READS}
            where "group" = :group and inbox = candidate.inbox and {CURRENT}
        )
        and typeof(candidate.inbox) = 'text'
    )
"""

_GROUP_SEND = f"""
    insert into {MESSAGE} (inbox, "group", body, created_at, expires_at)
    {_RECIPIENTS}
    select inbox, :group, :body, :now, :expires_at from recipient
    where (select max(waiting) from recipient) < :capacity
    returning inbox
"""


def has_members(connection: sqlite3.Connection, group: str) -> bool:
    """Return False if a message to the group would reach nobody; True if it may reach somebody."""
    query = f'select 1 from {MEMBERSHIP} indexed by {MEMBER_READS} where "group" = ? limit 1'
    return bool(connection.execute(query, (group,)).fetchall())


def group_send(
    connection: sqlite3.Connection,
    message: GroupMessage,
    capacity: int | None,
    capacity_of: Callable[[str], int],
) -> tuple[list[str], dict[str, float]]:
    """Insert one row for each inbox in the group, whatever the number of its members.

    `capacity` is that of every inbox where they are all alike, which allows for one statement.
    Returns the inboxes that were written to; and those that had no room, and miss the message, each
    with the time at which the oldest message that waits in it was created.
    """
    values = {**message._asdict(), "now": message.created_at, "capacity": capacity}
    if capacity is not None and (found := connection.execute(_GROUP_SEND, values).fetchall()):
        return [inbox for (inbox,) in found], {}
    with transaction(connection):
        recipients = connection.execute(f"{_RECIPIENTS} select * from recipient", values).fetchall()
        full = {inbox for inbox, waiting in recipients if waiting >= capacity_of(inbox)}
        written = [inbox for inbox, _ in recipients if inbox not in full]
        connection.executemany(
            f'insert into {MESSAGE} (inbox, "group", body, created_at, expires_at)'
            " values (?, ?, ?, ?, ?)",
            [
                (inbox, message.group, message.body, message.created_at, message.expires_at)
                for inbox in written
            ],
        )
        return written, {inbox: _oldest(connection, inbox, message.created_at) for inbox in full}


def _oldest(connection: sqlite3.Connection, inbox: str, now: float) -> float:
    """When the oldest message that waits in an inbox was created; `now` where none does."""
    found = connection.execute(
        f"select created_at from {MESSAGE} indexed by {WAITING}"
        " where inbox = ? and delivered_at is null and expires_at > ? order by id limit 1",
        (inbox, now),
    ).fetchall()
    return _time(found[0][0]) if found else now


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


_ARRIVALS = f"""
    select {COLUMNS},
        (select seq from {SEQUENCE} where inbox = '{EPOCH}'),
        case when channel is null then (
            select json_group_array(channel)
            from {MEMBERSHIP} as membership indexed by {MEMBER_READS}
            where membership."group" = message."group"
            and membership.inbox = message.inbox
            and membership.joined_after < message.id
            and (membership.left_after is null or membership.left_after >= message.id)
            and membership.expires_at > message.created_at
            and typeof(membership.channel) = 'text'
        ) end
    from {MESSAGE} as message indexed by {WAITING}
    where inbox = ? and delivered_at is null and id > ?
    order by id
    limit ?
"""


def arrivals(
    connection: sqlite3.Connection, inbox: str, cursor: int, limit: int
) -> list[tuple[Row, int, list[str]]]:
    """The oldest undelivered messages of a process-local inbox after `cursor`, each with the epoch
    and with its channels.

    A row of others that has no channel's name for a channel has none.
    """
    found = connection.execute(_ARRIVALS, (inbox, cursor, limit)).fetchall()
    return [
        (_row(*columns), epoch, _channels(columns[2], members))
        for *columns, epoch, members in found
    ]


def _channels(channel: object, members: str | None) -> list[str]:
    if members is not None:
        names: list[str] = json.loads(members)
        return names
    return [channel] if isinstance(channel, str) else []


def _row(
    id_: int,
    inbox: str,
    channel: str | None,
    group: str | None,
    body: bytes,
    created_at: object,
    expires_at: object,
) -> Row:
    return Row(id_, inbox, channel, group, body, _time(created_at), _time(expires_at))


def _time(value: object) -> float:
    """Anybody may write anything into any column; SQLite has what is no number after all
    numbers.
    """
    return value if isinstance(value, (float, int)) else float("inf")


def has_waiting(connection: sqlite3.Connection, inbox: str, now: float) -> tuple[int | None, bool]:
    """The epoch, and True if a message waits to be claimed."""
    ((epoch, waiting),) = connection.execute(
        f"""
        select (select seq from {SEQUENCE} where inbox = '{EPOCH}'), exists (
            select 1 from {MESSAGE} indexed by {WAITING}
            where inbox = ? and delivered_at is null and expires_at > ?
        )
        """,
        (inbox, now),
    ).fetchall()
    return epoch, bool(waiting)


# Taking


def acknowledge(
    connection: sqlite3.Connection, inbox: str, after: int, upto: int, now: float, *, keep: bool
) -> None:
    """Mark what the inbox's one reader has taken; delete it unless delivered messages are kept."""
    where = (
        f"indexed by {WAITING} %s where inbox = ? and delivered_at is null and id > ? and id <= ?"
    )
    if keep:
        statement = f"update {MESSAGE} {where % 'set delivered_at = ?'}"
        connection.execute(statement, (now, inbox, after, upto))
    else:
        connection.execute(f"delete from {MESSAGE} {where % ''}", (inbox, after, upto))


def claim(
    connection: sqlite3.Connection, inbox: str, limit: int, now: float, *, keep: bool
) -> list[Row]:
    """Take the oldest messages of a normal channel, at most `limit`; nobody else gets them."""
    oldest = f"""
        select id from {MESSAGE} indexed by {WAITING}
        where inbox = :inbox and delivered_at is null and expires_at > :now
        order by id limit :limit
    """
    theirs = f"{MESSAGE} indexed by {WAITING}"
    change = f"update {theirs} set delivered_at = :now" if keep else f"delete from {theirs}"
    # By id alone, SQLite might scan the whole table.
    rows = connection.execute(
        f"{change} where inbox = :inbox and delivered_at is null and id in ({oldest})"
        f" returning {COLUMNS}",
        {"inbox": inbox, "now": now, "limit": limit},
    ).fetchall()
    return sorted(_row(*columns) for columns in rows)  # RETURNING promises no order


def give_back(connection: sqlite3.Connection, rows: Sequence[Row], epoch: int) -> None:
    """Put claimed messages back where they stood, and raise the sequence: others look again.

    Not those of another epoch: they were flushed since, or are of another file.
    """
    with transaction(connection):
        connection.executemany(
            f"insert into {MESSAGE} ({COLUMNS}) select ?, ?, ?, ?, ?, ?, ?"
            f" where ? = (select seq from {SEQUENCE} where inbox = '{EPOCH}')"
            " on conflict (id) do update set delivered_at = null"
            " where inbox = excluded.inbox and created_at = excluded.created_at",
            [(*row, epoch) for row in rows],
        )
        connection.executemany(
            f"update {SEQUENCE} set seq = seq + 1 where inbox = ?", {(row.inbox,) for row in rows}
        )


# Groups

_NEWEST = f"coalesce((select max(id) from {MESSAGE}), 0)"


def group_add(
    connection: sqlite3.Connection,
    group: str,
    inbox: str,
    channel: str,
    now: float,
    expires_at: float,
) -> None:
    """Join, or stay a member for longer; a member gets the messages that come after it joined."""
    connection.execute(
        f"""
        insert into {MEMBERSHIP} ("group", inbox, channel, expires_at, joined_after)
        values (:group, :inbox, :channel, :expires_at, {_NEWEST})
        on conflict (channel, "group") where left_after is null do update
        set inbox = excluded.inbox,
            joined_after = iif({CURRENT}, joined_after, excluded.joined_after),
            expires_at = excluded.expires_at
        """,
        {"group": group, "inbox": inbox, "channel": channel, "now": now, "expires_at": expires_at},
    )


def group_discard(connection: sqlite3.Connection, group: str, channel: str) -> None:
    """Leave. What was sent before still arrives, so a member in whose inbox something waits only
    notes the newest message's id, and goes when its reader is past that.
    """
    member = 'channel = ? and "group" = ? and left_after is null'
    gone = connection.execute(
        f"""
        delete from {MEMBERSHIP} indexed by {MEMBER}
        where {member} and not (substr(inbox, -1) = '!' and exists (
            select 1 from {MESSAGE} as waiting indexed by {WAITING}
            where waiting.inbox = {MEMBERSHIP}.inbox and waiting.delivered_at is null
        ))
        """,
        (channel, group),
    ).rowcount
    if not gone:
        connection.execute(
            f"update {MEMBERSHIP} indexed by {MEMBER} set left_after = {_NEWEST} where {member}",
            (channel, group),
        )


def group_channels(connection: sqlite3.Connection, group: str, now: float) -> list[str]:
    """The channels in a group, by name."""
    rows = connection.execute(
        f'select channel from {MEMBERSHIP} indexed by {MEMBER_READS} where "group" = :group'
        f" and {CURRENT} order by channel",
        {"group": group, "now": now},
    )
    return [channel for (channel,) in rows.fetchall()]


def group_count(connection: sqlite3.Connection, group: str, now: float) -> int:
    """How many channels are in a group."""
    rows = connection.execute(
        f'select count(*) from {MEMBERSHIP} indexed by {MEMBER_READS} where "group" = :group'
        f" and {CURRENT}",
        {"group": group, "now": now},
    )
    count: int = rows.fetchall()[0][0]
    return count


def end_memberships(connection: sqlite3.Connection, inboxes: Sequence[str], now: float) -> None:
    """Delete the memberships of a reader's inboxes that have lapsed by its own clock."""
    connection.executemany(
        f"delete from {MEMBERSHIP} where inbox = ? and expires_at <= ?",
        [(inbox, now) for inbox in inboxes],
    )


def move_memberships(connection: sqlite3.Connection, inboxes: Sequence[str], by: float) -> None:
    """The wall clock was set: memberships lapse so many seconds later, or sooner."""
    with transaction(connection):  # once for all of them, or for none
        connection.executemany(
            f"update {MEMBERSHIP} set expires_at = expires_at + ? where inbox = ?",
            [(by, inbox) for inbox in inboxes],
        )


# Forgetting


def flush(connection: sqlite3.Connection) -> None:
    """Delete all messages and memberships, and begin another epoch: readers then forget what they
    have in memory.
    """
    with transaction(connection):
        connection.execute(f"delete from {MESSAGE}")
        connection.execute(f"delete from {MEMBERSHIP}")
        connection.execute(
            f"insert into {SEQUENCE} (inbox, seq) values ('{EPOCH}', random())"
            " on conflict (inbox) do update set seq = excluded.seq"
        )


class transaction:  # noqa: N801 - reads as a context manager
    """What cannot be one statement. One whose commit fails is rolled back by its `Handle`.

    IMMEDIATE, because a transaction that begins as a reader cannot wait for the write lock.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def __enter__(self) -> None:
        self._connection.execute("begin immediate")

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self._connection.execute("commit")
        elif self._connection.in_transaction:
            self._connection.execute("rollback")
