"""What nobody needs any more, and how it goes: the SQL of the trimmer.

As in `sql`. Each call deletes at most `limit` rows, so that others get to write in between, and
returns how many it has deleted.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Collection

from .schema import (
    DELIVERED,
    EPOCH,
    MEMBER_EXPIRES,
    MEMBER_LEFT,
    MEMBERSHIP,
    MESSAGE,
    SEQUENCE,
    WAITING,
)

_CLIENT = "substr(inbox, -13, 12)"
"""The client part of a process-local inbox, `prefix.CLIENT!`: whose bell it is."""


def trim_delivered(connection: sqlite3.Connection, limit: int, before: float) -> int:
    """Delete messages that were delivered until `before`."""
    return connection.execute(
        f"delete from {MESSAGE} where id in (select id from {MESSAGE} indexed by {DELIVERED}"
        " where delivered_at is not null and delivered_at <= ? limit ?)",
        (before, limit),
    ).rowcount


def trim_expired(connection: sqlite3.Connection, limit: int, now: float) -> int:
    """Delete messages that have expired before anybody took them."""
    return connection.execute(
        f"delete from {MESSAGE} where id in (select id from {MESSAGE} indexed by {WAITING}"
        " where delivered_at is null and expires_at <= ? limit ?)",
        (now, limit),
    ).rowcount


def trim_memberships(
    connection: sqlite3.Connection, limit: int, now: float, living: Collection[str]
) -> int:
    """Delete memberships that have lapsed, except those of readers that live: `living` are their
    client parts.
    """
    return connection.execute(
        f"delete from {MEMBERSHIP} where id in (select id"
        f" from {MEMBERSHIP} indexed by {MEMBER_EXPIRES} where expires_at <= ?"
        f" and {_CLIENT} not in (select value from json_each(?)) limit ?)",
        (now, json.dumps([*living]), limit),
    ).rowcount


def trim_left(connection: sqlite3.Connection, limit: int) -> int:
    """Delete memberships that have ended, and whose reader has taken all that was sent before."""
    return connection.execute(
        f"""
        delete from {MEMBERSHIP} where id in (
            select id from {MEMBERSHIP} as membership indexed by {MEMBER_LEFT}
            where left_after is not null and not exists (
                select 1 from {MESSAGE} as waiting indexed by {WAITING}
                where waiting.inbox = membership.inbox and waiting.delivered_at is null
                and waiting.id <= membership.left_after
            )
            limit ?
        )
        """,
        (limit,),
    ).rowcount


def trim_sequences(connection: sqlite3.Connection, limit: int) -> int:
    """Delete the sequences of inboxes in which nothing waits; the next message makes a new one."""
    idle = connection.execute(
        f"""
        select inbox from {SEQUENCE} as sequence
        where inbox <> '{EPOCH}' and not exists (
            select 1 from {MESSAGE} as waiting indexed by {WAITING}
            where waiting.inbox = sequence.inbox and waiting.delivered_at is null
        )
        limit ?
        """,
        (limit,),
    ).fetchall()
    # Found without the write lock. A message that came since has made its sequence higher.
    return connection.execute(
        f"""
        delete from {SEQUENCE} where inbox in (select value from json_each(?)) and not exists (
            select 1 from {MESSAGE} as waiting indexed by {WAITING}
            where waiting.inbox = {SEQUENCE}.inbox and waiting.delivered_at is null
        )
        """,
        (json.dumps([inbox for (inbox,) in idle]),),
    ).rowcount


def inboxes_of(connection: sqlite3.Connection, clients: Collection[str]) -> list[str]:
    """The inboxes of readers, by their client parts: those that are in a group, or to which
    anything was sent. It reads both tables, without the write lock.
    """
    names = json.dumps([*clients])
    found = connection.execute(
        f"select inbox from {MEMBERSHIP} where {_CLIENT} in (select value from json_each(:names))"
        f" union select inbox from {SEQUENCE}"
        f" where {_CLIENT} in (select value from json_each(:names))",
        {"names": names},
    ).fetchall()
    return [inbox for (inbox,) in found if str(inbox).endswith("!")]


def forget_messages(connection: sqlite3.Connection, limit: int, inbox: str) -> int:
    """Delete what waits in the inbox of a reader that is gone."""
    return connection.execute(
        f"delete from {MESSAGE} where id in (select id from {MESSAGE} indexed by {WAITING}"
        " where inbox = ? and delivered_at is null limit ?)",
        (inbox, limit),
    ).rowcount


def forget_memberships(connection: sqlite3.Connection, limit: int, inboxes: Collection[str]) -> int:
    """Delete the memberships of readers that are gone."""
    found = connection.execute(
        f"select id from {MEMBERSHIP} where inbox in (select value from json_each(?)) limit ?",
        (json.dumps([*inboxes]), limit),
    ).fetchall()
    return connection.execute(
        f"delete from {MEMBERSHIP} where id in (select value from json_each(?))",
        (json.dumps([id_ for (id_,) in found]),),
    ).rowcount


def forget(connection: sqlite3.Connection, clients: Collection[str]) -> None:
    """Delete all that is kept for readers that leave."""
    inboxes = (json.dumps(inboxes_of(connection, clients)),)
    ours = "inbox in (select value from json_each(?))"
    connection.execute(f"delete from {MEMBERSHIP} where {ours}", inboxes)
    connection.execute(
        f"delete from {MESSAGE} indexed by {WAITING} where delivered_at is null and {ours}", inboxes
    )


def checkpoint(connection: sqlite3.Connection) -> None:
    """Copy the log into the database as far as nobody reads it, which lets SQLite begin the log
    again.
    """
    connection.execute("pragma wal_checkpoint(passive)").fetchall()
