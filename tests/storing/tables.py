"""Short forms of the SQL functions, for tests that care for little of what they pass."""

from __future__ import annotations

import sqlite3
import time
from typing import Any

from channels_sqlite._storing import groups, sql
from channels_sqlite._storing.messages import Outgoing, Row
from channels_sqlite._storing.schema import EPOCH, MESSAGE
from tests.rows import LATER, inbox_of, select, to_group

LOCAL = "specific.abc!x"
INBOX = "specific.abc!"


def send(connection: sqlite3.Connection, *messages: Outgoing) -> list[bool]:
    return sql.send(connection, messages, time.time())


def claim(connection: sqlite3.Connection, limit: int, *, keep: bool = True) -> list[Row]:
    claimed = sql.claim(connection, "test-channel", limit, time.time(), keep=keep)
    return [row for _, row in claimed]


def acknowledge(
    connection: sqlite3.Connection,
    inbox: str,
    upto: int,
    *,
    ago: float = 0,
    keep: bool,
    large: bool = False,
) -> None:
    """Acknowledge what an inbox's reader has taken, some seconds ago."""
    now, ids = time.time(), (0, upto)
    current = sql.sequences(connection, [EPOCH]).get(EPOCH)
    sql.acknowledge(connection, inbox, ids, now + LATER, current, now - ago, keep=keep, large=large)


def waiting(connection: sqlite3.Connection, inbox: str = "test-channel") -> list[int]:
    """The numbers of the undelivered messages of an inbox, in their order."""
    query = f"body from {MESSAGE} where inbox = ? and delivered_at is null order by id"
    return [int(body) for body in select(connection, query, inbox)]


def numbers(rows: list[Row]) -> list[int]:
    return [int(each.body) for each in rows]


def epoch(connection: sqlite3.Connection) -> int:
    return sql.sequences(connection, [EPOCH]).get(EPOCH, 0)


def join(
    connection: sqlite3.Connection,
    *channels: str,
    group: str = "test-group",
    expires_in: float = LATER,
) -> None:
    now = time.time()
    for channel in channels:
        inbox = inbox_of(channel)
        groups.add(connection, group, inbox, channel, now, expires_in)


def leave(connection: sqlite3.Connection, *channels: str) -> None:
    for channel in channels:
        groups.discard(connection, "test-group", channel)


def group_send(
    connection: sqlite3.Connection, number: int, capacity: int = 100, **fields: Any
) -> tuple[list[str], list[str]]:
    """The inboxes that were written to, and those without room."""
    message = to_group(number, **fields)
    written, full = groups.send(connection, message, lambda _: capacity)
    return sorted(written), sorted(full)


def arrivals(connection: sqlite3.Connection, cursor: int = 0) -> list[tuple[int, list[str]]]:
    """The messages that one reader finds, and the channels that each message is for."""
    found = sql.arrivals(connection, INBOX, cursor, 100, time.time())
    return [(int(row.body), sorted(channels)) for _, channels, row in found]
