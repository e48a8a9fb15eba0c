"""What nobody needs any more, and how it goes: the SQL of the trimmer.

As in `store`, one function is one transaction, on the writing connection's thread or in place.
"""

from __future__ import annotations

import sqlite3

from . import store
from .schema import MEMBERSHIP, MESSAGE, SEQUENCE

GRACE = 2.0
"""Seconds that an expired message is left alone: its reader may have it, and not have said so."""


def trim_delivered(connection: sqlite3.Connection, limit: int, before: float) -> int:
    """Delete at most `limit` messages that were delivered until `before`; how many."""
    return _delete(connection, MESSAGE, "delivered_at", before, limit)


def trim_expired(
    connection: sqlite3.Connection, limit: int, now: float, *, unread: bool = True
) -> int:
    """Delete at most `limit` messages that have expired; how many.

    Each one that did so `unread` takes its channel out of all groups, as the specification wants.
    If it was a group's, the inbox's process never looked, and the whole inbox leaves that group.
    Not who has joined since, or joined again.
    """
    with store.transaction(connection):
        expired = connection.execute(
            f"delete from {MESSAGE} where id in ("
            f"select id from {MESSAGE} where delivered_at is null and expires_at <= ? limit ?"
            ') returning id, inbox, channel, "group"',
            (now - GRACE, limit),
        ).fetchall()
        if not unread:
            return len(expired)
        expired.sort()  # RETURNING promises no order; the newest counts
        channels = {channel: id_ for id_, _, channel, _ in expired if channel is not None}
        inboxes = {(group, inbox): id_ for id_, inbox, channel, group in expired if channel is None}
        store.leave_all_groups(connection, channels)
        store.leave_with_inbox(connection, inboxes)
    return len(expired)


def trim_memberships(connection: sqlite3.Connection, limit: int, now: float) -> int:
    """Delete at most `limit` memberships that have expired; how many."""
    return _delete(connection, MEMBERSHIP, "expires_at", now, limit)


def _delete(
    connection: sqlite3.Connection, table: str, column: str, until: float, limit: int
) -> int:
    """Delete at most `limit` rows, by the index on a column of times; how many."""
    return connection.execute(
        f"delete from {table} where id in (select id from {table} where {column} <= ? limit ?)",
        (until, limit),
    ).rowcount


def trim_sequences(connection: sqlite3.Connection) -> None:
    """Delete the sequences of inboxes all of whose messages are gone."""
    connection.execute(
        f"""
        delete from {SEQUENCE}
        where inbox <> ? and seq < coalesce((select min(id) from {MESSAGE}), 9223372036854775807)
        """,
        (store.EPOCH,),
    )


def forget_statistics(connection: sqlite3.Connection) -> None:
    """Delete what an ANALYZE has told SQLite's planner about our tables.

    They hold ten rows at one time and a million at another, of one group or of many: what is quick
    for the former scans the latter. Without statistics every statement takes the index that is made
    for it.
    """
    query = "select name from sqlite_master where name in ('sqlite_stat1', 'sqlite_stat4')"
    found = [name for (name,) in connection.execute(query).fetchall()]
    tables = (MESSAGE, MEMBERSHIP, SEQUENCE)
    known = [
        name
        for name in found
        if connection.execute(f"select 1 from {name} where tbl in (?, ?, ?)", tables).fetchall()
    ]
    if not known:
        return
    with store.transaction(connection):
        for name in known:
            connection.execute(f"delete from {name} where tbl in (?, ?, ?)", tables)
        connection.execute("analyze sqlite_master")
        # A change of the schema has all other connections, of any process, read it all anew.
        connection.execute(f"create view {MESSAGE}_planned as select 1")
        connection.execute(f"drop view {MESSAGE}_planned")
    # And this one: nothing gets writable by that. SQLite 3.36 needs both, and goes on to scan in
    # `trim_expired` on this connection until it is opened anew.
    connection.execute("pragma writable_schema = reset")


def commit(connection: sqlite3.Connection) -> None:
    """A commit and nothing more, in which SQLite makes a checkpoint if one is due: what is written
    in place makes none.

    REPLACE, for an update to what is there already writes no page, and what writes none is no
    commit.
    """
    connection.execute(
        f"replace into {SEQUENCE} (inbox, seq)"
        f" values (:epoch, coalesce((select seq from {SEQUENCE} where inbox = :epoch), 0))",
        {"epoch": store.EPOCH},
    )
