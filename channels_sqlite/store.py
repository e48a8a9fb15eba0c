"""The layer's SQL: one function, one intent, one transaction.

Functions whose first argument is `connection` run on the writing connection's thread, and write in
one statement where they can: SQLite then holds the write lock for that statement only, and Python
need not come back for the interpreter's lock in between. The others read in place. Times are unix
seconds.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from typing import NamedTuple

from .messages import GroupMessage, Outgoing, Row
from .schema import MEMBERSHIP, MESSAGE, SEQUENCE

EPOCH = ""
"""The inbox of no channel, whose sequence is the newest message's id at the latest flush."""

LARGEST_BODY = 10**9 - 2**10
"""Bytes; SQLite's default limit for a whole row, less the other columns."""

_COLUMNS = 'id, inbox, channel, "group", body, created_at, expires_at'

_WAITING = f"""
    select count(*) from {MESSAGE} as waiting
    where waiting.inbox = %s and waiting.delivered_at is null and waiting.expires_at > %s
"""


# Sending

Acknowledge = Callable[[sqlite3.Connection], None]
"""Tells the table what was read already, within a transaction of somebody else."""


def _nothing(connection: sqlite3.Connection) -> None:
    """Where nobody reads beside the sender."""


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


def send(
    connection: sqlite3.Connection,
    messages: Sequence[Outgoing],
    now: float,
    acknowledge: Acknowledge = _nothing,
) -> list[bool]:
    """Insert messages in their order; for each, whether its inbox had room for it.

    Before one is refused, `acknowledge` may make room.
    """
    if connection.execute(_insert_all(len(messages)), _values(messages, now)).rowcount:
        return [True] * len(messages)
    with transaction(connection):
        acknowledge(connection)
        one_by_one = [_values([message], now) for message in messages]
        return [connection.execute(_insert_all(1), each).rowcount > 0 for each in one_by_one]


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
        select min(inbox) from {MEMBERSHIP} where "group" = :group
        union all
        select (
            select min(inbox) from {MEMBERSHIP}
            where "group" = :group and inbox > candidate.inbox
        )
        from candidate where candidate.inbox is not null
    ),
    recipient (inbox, waiting) as materialized (
        select inbox, ({_WAITING % ("candidate.inbox", ":created_at")}) from candidate
        where exists (
            select 1 from {MEMBERSHIP}
            where "group" = :group and inbox = candidate.inbox and expires_at > :created_at
        )
        and typeof(candidate.inbox) = 'text'
    )
"""

_GROUP_SEND = f"""
    insert into {MESSAGE} (inbox, "group", body, created_at, expires_at)
    {_RECIPIENTS}
    select inbox, :group, :body, :created_at, :expires_at from recipient
    where (select max(waiting) from recipient) < :capacity
"""


def group_send(
    connection: sqlite3.Connection,
    message: GroupMessage,
    capacity: int | None,
    capacity_of: Callable[[str], int],
    acknowledge: Acknowledge = _nothing,
) -> dict[str, float]:
    """Insert one row for each inbox in the group, whatever the number of its members.

    `capacity` is that of every inbox where they are all alike, which allows for one statement.
    Before one has no room, `acknowledge` may make some.
    Returns the inboxes that had no room, and miss the message, each with the time at which the
    oldest message that waits in it was created.
    """
    values = {**message._asdict(), "capacity": capacity}
    if capacity is not None and connection.execute(_GROUP_SEND, values).rowcount:
        return {}
    with transaction(connection):
        acknowledge(connection)
        recipients = connection.execute(f"{_RECIPIENTS} select * from recipient", values).fetchall()
        full = [inbox for inbox, waiting in recipients if waiting >= capacity_of(inbox)]
        connection.executemany(
            f'insert into {MESSAGE} (inbox, "group", body, created_at, expires_at)'
            " values (?, ?, ?, ?, ?)",
            [(inbox, *message) for inbox, _ in recipients if inbox not in full],
        )
        return {inbox: _oldest(connection, inbox) for inbox in full}


def _oldest(connection: sqlite3.Connection, inbox: str) -> float:
    ((created_at,),) = connection.execute(
        f"select cast(min(created_at) as real) from {MESSAGE}"
        " where inbox = ? and delivered_at is null",
        (inbox,),
    ).fetchall()
    return float(created_at or 0)


# Looking


NAMES_AT_ONCE = 500  # SQLite binds at most 32,766 values


@cache
def _sequences(count: int) -> str:
    # A list of values: json_each takes twice as long to set up.
    names = ", ".join("?" * count)
    return f"select inbox, seq from {SEQUENCE} where inbox in ({names}) and typeof(seq) = 'integer'"


def sequences(reader: sqlite3.Connection, inboxes: Sequence[str]) -> dict[str, int]:
    """The sequences of `inboxes`; an inbox without any message has none."""
    found: dict[str, int] = {}
    for start in range(0, len(inboxes), NAMES_AT_ONCE):
        names = inboxes[start : start + NAMES_AT_ONCE]
        found.update(reader.execute(_sequences(len(names)), names).fetchall())
    return found


class Version(NamedTuple):
    """Another one than before if anybody else has committed, of whatever process."""

    reader: sqlite3.Connection
    number: int
    """SQLite's, which means nothing to another connection."""


def version(reader: sqlite3.Connection) -> Version:
    """Of all that this connection sees."""
    ((number,),) = reader.execute("pragma data_version").fetchall()
    return Version(reader, number)


def newest(reader: sqlite3.Connection) -> int | None:
    """The highest id that a message has had; lower than before when somebody has reset the count,
    as Django's `flush` does. None where that cannot be told.
    """
    query = "select seq from sqlite_sequence where name = ? and typeof(seq) = 'integer'"
    return max((seq for (seq,) in reader.execute(query, (MESSAGE,)).fetchall()), default=None)


_ARRIVALS = f"""
    select id, channel, "group", body, created_at, expires_at,
        case when channel is null then (
            select json_group_array(channel) from {MEMBERSHIP} as membership
            where membership."group" = message."group"
            and membership.inbox = message.inbox
            and membership.joined_after < message.id
            and membership.expires_at > message.created_at
            and typeof(membership.channel) = 'text'
        ) end
    from {MESSAGE} as message
    where inbox = ? and delivered_at is null and id > ?
    order by id
"""


def arrivals(
    reader: sqlite3.Connection, inbox: str, cursor: int
) -> Generator[tuple[Row, list[str]], None, None]:
    """Undelivered messages of a process-local inbox after `cursor`, each with its channels.

    Oldest first. Rows are read as they are asked for, so that a reader can stop when it has worked
    long enough. It must exhaust or close the iterator before it awaits: an open cursor keeps SQLite
    from resetting the WAL. A row of others that has no channel's name for a channel has none.
    """
    rows = reader.execute(_ARRIVALS, (inbox, cursor))
    try:
        for id_, channel, group, body, created_at, expires_at, members in rows:
            row = Row(id_, inbox, channel, group, body, _time(created_at), _time(expires_at))
            if members is not None:
                yield row, json.loads(members)
            else:
                yield row, [channel] if isinstance(channel, str) else []
    finally:
        rows.close()


def _time(value: object) -> float:
    """Anybody may write anything into any column; SQLite has what is no number after all
    numbers.
    """
    return value if isinstance(value, (float, int)) else float("inf")


def has_waiting(reader: sqlite3.Connection, inbox: str, now: float) -> bool:
    """Whether a message waits to be claimed."""
    return bool(
        reader.execute(f"select ({_WAITING % ('?', '?')}) > 0", (inbox, now)).fetchall()[0][0]
    )


# Taking


def acknowledge(
    connection: sqlite3.Connection,
    inbox: str,
    after: int,
    upto: int,
    taken_at: float,
    now: float,
    *,
    keep: bool,
) -> None:
    """Mark what the inbox's one reader has taken; delete it unless delivered messages are kept.

    Messages that had expired by `taken_at`, when it looked, were not taken.
    """
    where = "inbox = ? and delivered_at is null and id > ? and id <= ? and expires_at > ?"
    taken = (inbox, after, upto, taken_at)
    if keep:
        connection.execute(f"update {MESSAGE} set delivered_at = ? where {where}", (now, *taken))
    else:
        connection.execute(f"delete from {MESSAGE} where {where}", taken)


def claim(
    connection: sqlite3.Connection, inbox: str, limit: int, now: float, *, keep: bool
) -> list[Row]:
    """Take the oldest messages of a normal channel, at most `limit`; nobody else gets them."""
    oldest = f"""
        select id from {MESSAGE}
        where inbox = :inbox and delivered_at is null and expires_at > :now
        order by id limit :limit
    """
    change = f"update {MESSAGE} set delivered_at = :now" if keep else f"delete from {MESSAGE}"
    rows = connection.execute(
        f"{change} where id in ({oldest}) returning {_COLUMNS}",
        {"inbox": inbox, "now": now, "limit": limit},
    ).fetchall()
    return sorted(  # RETURNING promises no order
        Row(id_, inbox, channel, group, body, _time(created_at), _time(expires_at))
        for id_, inbox, channel, group, body, created_at, expires_at in rows
    )


def give_back(connection: sqlite3.Connection, rows: Sequence[Row]) -> None:
    """Put claimed messages back where they stood, and raise the sequence: others look again."""
    with transaction(connection):
        connection.executemany(
            f"insert into {MESSAGE} ({_COLUMNS}) select ?, ?, ?, ?, ?, ?, ?"
            # What was flushed since it was claimed is gone.
            f" where ? > coalesce((select seq from {SEQUENCE} where inbox = '{EPOCH}'), 0)"
            " on conflict (id) do update set delivered_at = null"
            # Of a new file, or where ids have begun anew, it may be another message.
            " where inbox = excluded.inbox and created_at = excluded.created_at",
            [(*row, row.id) for row in rows],
        )
        connection.executemany(
            f"update {SEQUENCE} set seq = seq + 1 where inbox = ?", {(row.inbox,) for row in rows}
        )


# Groups


def group_add(
    connection: sqlite3.Connection,
    group: str,
    inbox: str,
    channel: str,
    now: float,
    expires_at: float,
) -> None:
    """Join, or stay a member for longer; who joins gets the messages that come after the join."""
    connection.execute(
        f"""
        insert into {MEMBERSHIP} ("group", inbox, channel, expires_at, joined_after)
        values (:group, :inbox, :channel, :expires_at, coalesce((select max(id) from {MESSAGE}), 0))
        on conflict (channel, "group") do update
        set inbox = excluded.inbox,
            joined_after = iif(expires_at > :now, joined_after, excluded.joined_after),
            renewed_after = excluded.joined_after,
            expires_at = excluded.expires_at
        """,
        {"group": group, "inbox": inbox, "channel": channel, "now": now, "expires_at": expires_at},
    )


def group_discard(connection: sqlite3.Connection, group: str, channel: str) -> None:
    """Leave; who is no member leaves as well."""
    connection.execute(
        f'delete from {MEMBERSHIP} where channel = ? and "group" = ?', (channel, group)
    )


_BEFORE = "coalesce(renewed_after, joined_after) < ?"
"""Who joined after a message, or joined again, is there: it does not matter that it expired."""


def leave_all_groups(connection: sqlite3.Connection, expired: Mapping[str, int]) -> None:
    """Take channels out of the groups that they had joined when a message to them was sent, which
    has expired unread; its id, by channel.
    """
    connection.executemany(
        f"delete from {MEMBERSHIP} where channel = ? and {_BEFORE}", expired.items()
    )


def leave_with_inbox(
    connection: sqlite3.Connection, expired: Mapping[tuple[str, str], int]
) -> None:
    """Take all of an inbox's channels out of one group, to which a message has expired unread; its
    id, by group and inbox.
    """
    connection.executemany(
        f'delete from {MEMBERSHIP} where "group" = ? and inbox = ? and {_BEFORE}',
        [(group, inbox, id_) for (group, inbox), id_ in expired.items()],
    )


# Forgetting


def forget(
    connection: sqlite3.Connection, inboxes: Sequence[str], channel: str, since: float
) -> None:
    """Delete what was sent to `channel` in these inboxes since then, delivered or not."""
    found = [(inbox, channel) for inbox in inboxes]
    # Each by the index there is for it, whatever is kept.
    waiting = f"delete from {MESSAGE} where delivered_at is null and inbox = ? and channel = ?"
    delivered = f"delete from {MESSAGE} where delivered_at >= ? and inbox = ? and channel = ?"
    with transaction(connection):
        connection.executemany(waiting, found)
        connection.executemany(delivered, [(since, *each) for each in found])


def flush(connection: sqlite3.Connection) -> None:
    """Delete all messages and memberships; raise the epoch, so that readers empty their buffers
    of what was sent before.
    """
    newest = f"coalesce((select seq from sqlite_sequence where name = '{MESSAGE}'), 0)"
    with transaction(connection):
        connection.execute(f"delete from {MESSAGE}")
        connection.execute(f"delete from {MEMBERSHIP}")
        connection.execute(
            f"insert into {SEQUENCE} (inbox, seq) values (?, {newest})"
            " on conflict (inbox) do update set seq = excluded.seq",
            (EPOCH,),
        )


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """For what cannot be one statement.

    IMMEDIATE, for a transaction that begins as a reader cannot wait for the write lock.
    """
    connection.execute("begin immediate")
    try:
        yield
        connection.execute("commit")
    except BaseException:
        if connection.in_transaction:
            connection.execute("rollback")
        raise
