"""Statistics: readers, counts by inbox and group, members and sizes."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import time
from collections.abc import AsyncIterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from channels_sqlite import stats
from channels_sqlite._storing import groups, schema
from channels_sqlite._storing.database import Database
from channels_sqlite._waking.bells import Bell
from channels_sqlite.counters import Counters
from channels_sqlite.layers import SqliteChannelLayer
from channels_sqlite.stats import Group, Stats, Tally
from tests.rows import put, put_to_group
from tests.storing.parts import database_on
from tests.storing.tables import join
from tests.waiting import cancel, until


async def count(database: Database) -> Stats:
    """As the layer's `stats()` does."""
    return await database.read_on_own_thread(lambda each: stats.read(each, database.path))


@pytest.fixture
async def file(database: Path) -> AsyncIterator[Database]:
    async with database_on(database) as made:
        await made.ready()
        yield made


def about(seconds: float) -> Any:
    """Equal to those seconds, and to a few more or less."""
    return pytest.approx(seconds, abs=3)


# Stats


async def test_messages_are_counted_by_inbox_and_group(
    file: Database, others: sqlite3.Connection
) -> None:
    now = time.time()
    put(others, "mail", created_at=now - 7)
    put(others, "mail", created_at=now - 9)
    put(others, "mail", delivered_at=now - 5)
    put(others, "mail", delivered_at=now - 3)
    put(others, "mail", expires_at=now - 1, created_at=now - 61)
    put_to_group(others, "chat", "in.a!", created_at=now - 4)
    put_to_group(others, "chat", "in.b!", delivered_at=now - 2)
    put(others, "in.b!x")
    found = await count(file)
    assert found.inboxes == {
        "mail": Tally(waiting=2, delivered=2, expired=1, oldest=about(9), last_taken=about(3)),
        "in.a!": Tally(waiting=1, oldest=about(4)),
        "in.b!": Tally(waiting=1, delivered=1, oldest=about(0), last_taken=about(2)),
    }
    assert found.groups == {
        "chat": Tally(waiting=1, delivered=1, oldest=about(4), last_taken=about(2))
    }
    assert found.total == Tally(
        waiting=4, delivered=3, expired=1, oldest=about(9), last_taken=about(2)
    )


async def test_members_are_counted_by_inbox_and_group(
    file: Database, others: sqlite3.Connection
) -> None:
    """A process-local one's reader ends its membership itself; of others the clock decides."""
    join(others, "in.a!1", "in.a!2", "in.b!1", group="chat")
    join(others, "in.a!1", "mail", group="news", expires_in=-1)
    join(others, "mail", group="gone", expires_in=-1)
    put(others, "in.a!")
    groups.discard(others, "chat", "in.a!2")  # what waits is still for it
    found = await count(file)
    assert {name: tally.members for name, tally in found.groups.items()} == {"chat": 2, "news": 1}
    assert found.inboxes["in.a!"].members == 2
    assert found.inboxes["in.b!"].members == 1
    assert found.total.members == 3
    assert stats.groups(others, time.time()) == [
        Group("chat", 2, 2, about(60)),
        Group("news", 1, 1, about(-1)),
    ]


async def test_sizes_are_those_on_the_disk(file: Database, others: sqlite3.Connection) -> None:
    put(others, "mail", bytes(500_000))
    assert (await count(file)).wal_size == os.stat(file.files.wal).st_size > 500_000
    others.execute("pragma wal_checkpoint(truncate)")
    others.execute(f"delete from {schema.MESSAGE}")
    found = await count(file)
    assert found.size == os.stat(file.path).st_size > 500_000
    assert found.free > 490_000


async def test_a_row_of_others_with_a_blob_is_counted(
    file: Database, others: sqlite3.Connection
) -> None:
    for column in ("inbox", "channel", '"group"', "created_at", "expires_at"):
        others.execute(f"delete from {schema.MESSAGE}")
        put(others, "mail")
        others.execute(f"update {schema.MESSAGE} set {column} = x'61'")
        found = await count(file)
        assert sum(tally.waiting + tally.expired for tally in found.inboxes.values()) == 1


async def test_to_count_writes_nothing_and_shows_names_not_in_utf8(
    file: Database, others: sqlite3.Connection
) -> None:
    put(others, "mail")
    others.execute(f"update {schema.MESSAGE} set inbox = cast(x'6dff' as text)")
    before = others.execute("pragma data_version").fetchall()
    assert [*(await count(file)).inboxes] == ["m\N{REPLACEMENT CHARACTER}"]
    assert others.execute("pragma data_version").fetchall() == before


def test_bodies_are_not_read_to_count(others: sqlite3.Connection) -> None:
    """The columns behind the body are read from an index."""
    plan = str(others.execute(f"explain query plan {stats._COUNTS}", {"now": 0}).fetchall())
    for index in (schema.WAITING, schema.DELIVERED):
        assert f"USING INDEX {index}" in plan


# Readers


async def test_what_a_reader_says_is_read_as_far_as_it_is_understood(file: Database) -> None:
    said: list[dict[str, Any]] = [
        {"pid": 7, "counters": {"sent": 3, "new": 1}, "more": 1, "woken_at": time.time() - 5},
        *({}, {"pid": "x"}, {"pid": 1, "counters": []}, {"pid": 1, "woken_at": "now"}),
        *({"pid": float("inf")}, {"pid": 1, "woken_at": 10**400}),
    ]
    bells = [Bell(file.files, f"reader-----{number}", each) for number, each in enumerate(said)]
    [reader] = stats.readers(file)
    understood = ("reader-----0", 7, 0, "", about(5), asdict(Counters(sent=3)))
    assert (*asdict(reader).values(),) == understood
    for bell in bells:
        bell.close(remove=True)


async def test_in_memory_this_process_is_the_reader(memory_alias: str) -> None:
    layer = SqliteChannelLayer(database=memory_alias)
    task = asyncio.create_task(layer.receive("mail"))
    await until(lambda: layer._parts.receiver._queues.count_channels() == 1)
    [reader] = await layer.readers()
    assert (reader.client, reader.watcher, reader.channels) == (layer.client_prefix, "none", 1)
    await layer.send("letters", {"type": "test"})
    found = await layer.stats()
    assert (found.total.waiting, found.wal_size) == (1, 0)
    await cancel(task)
    await layer.close()
