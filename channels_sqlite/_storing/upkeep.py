"""Deleting what is old, and what readers that are gone have left; and the checkpoint.

As in `sql`. A call with a `limit` deletes at most so many rows, so that others get to write in
between, and returns how many it has deleted.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Collection

from .._options import times
from .schema import (
    CLIENT,
    DELIVERED,
    EPOCH,
    MEMBER_EXPIRES,
    MEMBER_LEFT,
    MEMBERSHIP,
    MESSAGE,
    SEQUENCE,
    WAITING,
)
from .sql import Transaction

FULL_CHECKPOINT = 4000  # pages of the log, beyond which all of it is copied
ALL = -1  # rows; what SQLite takes for no limit


def trim_delivered(connection: sqlite3.Connection, limit: int, before: float) -> int:
    """Delete messages that were delivered until `before`, the oldest first.

    By one statement, because this comes all the time: the write lock is never held while the thread
    waits for the interpreter, which a busy event loop has.
    """
    delivered = f"""
        from {MESSAGE} indexed by {DELIVERED}
        where delivered_at is not null and delivered_at <= :before
    """
    values: dict[str, object] = {"before": before, "limit": limit}
    last = connection.execute(
        f"""
        select delivered_at, id
        from (select delivered_at, id {delivered} order by delivered_at, id limit :limit)
        order by delivered_at desc, id desc limit 1
        """,
        values,
    ).fetchall()
    if not last:
        return 0
    ((values["before"], values["id"]),) = last
    until_last = "(delivered_at, id) <= (:before, :id)"
    return connection.execute(f"delete {delivered} and {until_last}", values).rowcount


def trim_expired(
    connection: sqlite3.Connection, limit: int, now: float, living: Collection[str], *, read: bool
) -> int:
    """Delete messages that have expired before anybody took them; either those of inboxes that a
    living reader reads, which counts them, or all others. `living` are client parts.
    """
    return _delete(
        connection,
        f"select id from {MESSAGE} indexed by {WAITING}"
        " where delivered_at is null and expires_at <= :now"
        f" and (substr(inbox, -1) = '!' and {CLIENT} in (select value from json_each(:living)))"
        " = :read limit :limit",
        {"now": now, "living": json.dumps([*living]), "read": read, "limit": limit},
        f"delete from {MESSAGE} where id = :id and delivered_at is null",
    )


def trim_memberships(
    connection: sqlite3.Connection, limit: int, now: float, living: Collection[str]
) -> int:
    """Delete memberships that have lapsed, except those of readers that live: `living` are their
    client parts.
    """
    return _delete(
        connection,
        f"select id from {MEMBERSHIP} indexed by {MEMBER_EXPIRES} where expires_at <= :now"
        f" and {CLIENT} not in (select value from json_each(:living)) limit :limit",
        {"now": now, "living": json.dumps([*living]), "limit": limit},
        f"delete from {MEMBERSHIP} where id = :id and expires_at <= :now",
    )


def trim_left(connection: sqlite3.Connection, limit: int) -> int:
    """Delete memberships that have ended, and whose reader has taken all that was sent before."""
    return _delete(
        connection,
        f"""
        select id from {MEMBERSHIP} as membership indexed by {MEMBER_LEFT}
        where left_after is not null and not exists (
            select 1 from {MESSAGE} as waiting indexed by {WAITING}
            where waiting.inbox = membership.inbox and waiting.delivered_at is null
            and waiting.id <= membership.left_after
        )
        limit :limit
        """,
        {"limit": limit},
        f"delete from {MEMBERSHIP} where id = :id",
    )


def trim_sequences(connection: sqlite3.Connection, limit: int) -> int:
    """Delete the sequences of inboxes in which nothing waits; the next message makes a new one."""
    idle = f"""
        not exists (
            select 1 from {MESSAGE} as waiting indexed by {WAITING}
            where waiting.inbox = {SEQUENCE}.inbox and waiting.delivered_at is null
        )
    """
    return _delete(
        connection,
        f"select inbox from {SEQUENCE} where inbox <> '{EPOCH}' and {idle} limit :limit",
        {"limit": limit},
        # A message that came since has made its sequence higher.
        f"delete from {SEQUENCE} where inbox = :id and {idle}",
    )


def inboxes_of(connection: sqlite3.Connection, clients: Collection[str]) -> list[str]:
    """The inboxes of readers, by their client parts: those that are in a group, or to which
    anything was sent. It reads both tables, without the write lock.
    """
    names = json.dumps([*clients])
    found = connection.execute(
        f"select inbox from {MEMBERSHIP} where {CLIENT} in (select value from json_each(:names))"
        f" union select inbox from {SEQUENCE}"
        f" where {CLIENT} in (select value from json_each(:names))",
        {"names": names},
    ).fetchall()
    return [inbox for (inbox,) in found if str(inbox).endswith("!")]


def forget_messages(connection: sqlite3.Connection, limit: int, inboxes: Collection[str]) -> int:
    """Delete what waits in the inboxes of readers that are gone."""
    return _delete(
        connection,
        f"select id from {MESSAGE} indexed by {WAITING} where delivered_at is null"
        " and inbox in (select value from json_each(:inboxes)) limit :limit",
        {"inboxes": json.dumps([*inboxes]), "limit": limit},
        f"delete from {MESSAGE} where id = :id and delivered_at is null",
    )


def forget_memberships(connection: sqlite3.Connection, limit: int, inboxes: Collection[str]) -> int:
    """Delete the memberships of readers that are gone."""
    return _delete(
        connection,
        f"select id from {MEMBERSHIP}"
        " where inbox in (select value from json_each(:inboxes)) limit :limit",
        {"inboxes": json.dumps([*inboxes]), "limit": limit},
        f"delete from {MEMBERSHIP} where id = :id",
    )


def forget(connection: sqlite3.Connection, clients: Collection[str]) -> None:
    """Delete all that is kept for readers that leave."""
    inboxes = inboxes_of(connection, clients)
    forget_memberships(connection, ALL, inboxes)
    forget_messages(connection, ALL, inboxes)


def _delete(
    connection: sqlite3.Connection, find: str, values: dict[str, object], delete: str
) -> int:
    """Find rows without the write lock, then delete those that still match.

    One by one: `where id in (...)` would scan the table after an ANALYZE of a few rows.
    """
    found = connection.execute(find, values).fetchall()
    if not found:
        return 0
    with Transaction(connection):
        return connection.executemany(delete, [{**values, "id": id_} for (id_,) in found]).rowcount


def checkpoint(connection: sqlite3.Connection) -> None:
    """Copy the log into the database as far as nobody reads it. SQLite then begins the log again at
    the next write, but only if nobody has written meanwhile: where somebody always does, the rest
    is copied with the write lock held, once the log is long.
    """
    ((_, pages, _),) = connection.execute("pragma wal_checkpoint(passive)").fetchall()
    if pages > FULL_CHECKPOINT:
        wait = round(1000 * times.TIMES.checkpoint_lock)
        connection.execute(f"pragma busy_timeout = {wait}").fetchall()
        try:
            connection.execute("pragma wal_checkpoint(full)").fetchall()
        finally:
            connection.execute("pragma busy_timeout = 0").fetchall()
