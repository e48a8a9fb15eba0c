"""Messages as a test sends them, and as the modules under the layer pass them on, with what a test
does not care about filled in; and plain looks at what stands in the tables.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import msgpack

from channels_sqlite._storing.messages import GroupMessage, Item, Outgoing, Row
from channels_sqlite._storing.schema import MESSAGE

LATER = 60.0  # seconds; longer than any test


def message(number: int, **more: Any) -> dict[str, Any]:
    return {"type": "test", "number": number, **more}


def row(number: int, channel: str | None = "test-channel", **fields: Any) -> Row:
    """A row of the table; its number is its id and its body."""
    now = time.time()
    values: dict[str, Any] = {
        "id": number,
        "inbox": channel,
        "channel": channel,
        "group": None,
        "body": str(number).encode(),
        "created_at": now,
        "expires_at": now + LATER,
    }
    return Row(**(values | fields))


def item(number: int, deadline: float = float("inf")) -> Item:
    """A message in a buffer, for one consumer."""
    return Item(row(number), deadline)


def outgoing(number: int, channel: str = "test-channel", **fields: Any) -> Outgoing:
    """A message to a channel, on its way to the table."""
    values: dict[str, Any] = {
        "inbox": inbox_of(channel),
        "channel": channel,
        "body": str(number).encode(),
        "expires_at": time.time() + LATER,
        "capacity": 100,
    }
    return Outgoing(**(values | fields))


def to_group(number: int, group: str = "test-group", **fields: Any) -> GroupMessage:
    """A message to a group, on its way to the table."""
    now = time.time()
    values: dict[str, Any] = {
        "body": str(number).encode(),
        "created_at": now,
        "expires_at": now + LATER,
    }
    return GroupMessage(group, **(values | fields))


def inbox_of(channel: str) -> str:
    """The inbox, which one reader drains: the name up to the "!", if it has one."""
    local, mark, _ = channel.partition("!")
    return local + mark


def put(
    connection: sqlite3.Connection, channel: str, body: bytes = b"\x80", /, **more: Any
) -> None:
    """Write a row as other programs do, which ring nobody."""
    now = time.time()
    fields = {"inbox": inbox_of(channel), "channel": channel, "body": body, "created_at": now}
    fields |= {"expires_at": now + LATER} | more
    names, holes = ", ".join(f'"{name}"' for name in fields), ", ".join("?" * len(fields))
    connection.execute(f"insert into {MESSAGE} ({names}) values ({holes})", [*fields.values()])


def put_number(
    connection: sqlite3.Connection, channel: str, number: int, size: int = 0, **more: Any
) -> None:
    """Write a message of that number, and of about that size."""
    put(connection, channel, msgpack.packb(message(number, text="x" * size)), **more)


def put_to_group(
    connection: sqlite3.Connection, group: str, inbox: str, body: bytes = b"\x80", /, **more: Any
) -> None:
    """Write a row to the group's members of one inbox."""
    put(connection, inbox, body, channel=None, group=group, **more)


@contextmanager
def sql(path: Path | str, timeout: float = 5) -> Iterator[sqlite3.Connection]:
    """A connection that knows nothing of the layer."""
    uri = str(path).startswith("file:")
    with closing(
        sqlite3.connect(path, timeout=timeout, isolation_level=None, uri=uri)
    ) as connection:
        yield connection


def select(connection: sqlite3.Connection, what: str, *values: Any) -> list[Any]:
    """The rows of `select {what}`: tuples, or the values themselves if it asks for one column."""
    rows = connection.execute(f"select {what}", values).fetchall()
    return [found[0] if len(found) == 1 else found for found in rows]


def steps(connection: sqlite3.Connection, work: Callable[[], object]) -> int:
    """The tens of instructions that SQLite's virtual machine runs for it: as many on a busy machine
    as on any other.
    """
    count = 0

    def progress() -> int:
        nonlocal count
        count += 1
        return 0

    connection.set_progress_handler(progress, 10)
    try:
        work()
    finally:
        connection.set_progress_handler(None, 0)
    return count


def count(path: Path | str, what: str) -> int:
    """How many rows a table of the file has, or how many `table where condition`."""
    with sql(path) as connection:
        (found,) = select(connection, f"count(*) from {what}")
    return int(found)
