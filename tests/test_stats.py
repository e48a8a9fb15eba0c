"""Statistics: readers, counts by inbox and group, members and sizes."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from channels_sqlite import stats
from channels_sqlite._storing import groups, schema
from channels_sqlite._storing.database import Database
from channels_sqlite._waking.bells import Bell
from channels_sqlite.counters import Counters
from channels_sqlite.exceptions import NotMigrated
from channels_sqlite.layers import SqliteChannelLayer
from channels_sqlite.stats import Group, Reader, Tally
from tests import databases, rows
from tests.rows import sql as connect
from tests.storing.parts import database_on
from tests.waiting import cancel, until


@pytest.fixture
async def file(database: Path) -> AsyncIterator[Database]:
    async with database_on(database) as made:
        await made.ready()
        yield made


@pytest.fixture
def table(database: Path) -> Iterator[sqlite3.Connection]:
    """A connection of somebody else's."""
    with connect(database) as connection:
        yield connection


def put(table: sqlite3.Connection, inbox: str, group: str | None = None, **fields: Any) -> None:
    """A message in the table, to a channel of that name unless it is to a group."""
    address = {"inbox": inbox, "channel": None if group else inbox, "group": group}
    rows.put(table, inbox, **(address | fields))


def join(table: sqlite3.Connection, group: str, channel: str, expires_in: float = 60) -> None:
    inbox, mark, _ = channel.partition("!")
    now = time.time()
    groups.add(table, group, inbox + mark, channel, now, now + expires_in)


def about(seconds: float) -> Any:
    """Equal to those seconds, and to a few more or less."""
    return pytest.approx(seconds, abs=3)


# Stats


async def test_an_empty_file(file: Database, database: Path) -> None:
    found = await stats.stats(file)
    assert found.total == Tally()
    assert found.inboxes == found.groups == {}
    assert found.journal_mode == "wal"
    assert found.path == str(database)


async def test_messages_are_counted_by_inbox_and_group(
    file: Database, table: sqlite3.Connection
) -> None:
    now = time.time()
    put(table, "mail", created_at=now - 7)
    put(table, "mail", created_at=now - 9)
    put(table, "mail", delivered_at=now - 5)
    put(table, "mail", delivered_at=now - 3)
    put(table, "mail", expires_at=now - 1, created_at=now - 61)
    put(table, "in.a!", "chat", created_at=now - 4)
    put(table, "in.b!", "chat", delivered_at=now - 2)
    put(table, "in.b!", channel="in.b!x")
    found = await stats.stats(file)
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
    file: Database, table: sqlite3.Connection
) -> None:
    """A process-local one's reader ends its membership itself; of others the clock decides."""
    for channel in ("in.a!1", "in.a!2", "in.b!1"):
        join(table, "chat", channel)
    join(table, "news", "in.a!1", expires_in=-1)
    join(table, "news", "mail", expires_in=-1)
    join(table, "gone", "mail", expires_in=-1)
    put(table, "in.a!")
    groups.discard(table, "chat", "in.a!2")  # what waits is still for it
    found = await stats.stats(file)
    assert {name: tally.members for name, tally in found.groups.items()} == {"chat": 2, "news": 1}
    assert found.inboxes["in.a!"].members == 2
    assert found.inboxes["in.b!"].members == 1
    assert found.total.members == 3
    assert stats.groups(table, time.time()) == [
        Group("chat", 2, 2, about(60)),
        Group("news", 1, 1, about(-1)),
    ]


async def test_sizes_are_those_on_the_disk(file: Database, table: sqlite3.Connection) -> None:
    put(table, "mail", body=bytes(500_000))
    assert (await stats.stats(file)).wal_size == os.stat(file.files.wal).st_size > 500_000
    table.execute("pragma wal_checkpoint(truncate)")
    table.execute(f"delete from {schema.MESSAGE}")
    found = await stats.stats(file)
    assert found.size == os.stat(file.path).st_size > 500_000
    assert found.free > 490_000


@pytest.mark.parametrize("column", ["inbox", "channel", '"group"', "created_at", "expires_at"])
async def test_a_row_of_others_with_a_blob_is_counted(
    file: Database, table: sqlite3.Connection, column: str
) -> None:
    put(table, "mail")
    table.execute(f"update {schema.MESSAGE} set {column} = x'61'")
    found = await stats.stats(file)
    assert sum(tally.waiting + tally.expired for tally in found.inboxes.values()) == 1


async def test_names_that_are_not_utf8_are_shown(file: Database, table: sqlite3.Connection) -> None:
    put(table, "mail")
    table.execute(f"update {schema.MESSAGE} set inbox = cast(x'6dff' as text)")
    assert [*(await stats.stats(file)).inboxes] == ["m\N{REPLACEMENT CHARACTER}"]


async def test_to_count_writes_nothing(file: Database, table: sqlite3.Connection) -> None:
    put(table, "mail")
    before = table.execute("pragma data_version").fetchall()
    await stats.stats(file)
    assert table.execute("pragma data_version").fetchall() == before


@pytest.mark.parametrize("query", ["UNDELIVERED", "DELIVERED"])
def test_bodies_are_not_read_to_count(table: sqlite3.Connection, query: str) -> None:
    """The columns behind the body are read from an index."""
    statement = f"explain query plan {getattr(stats, f'_{query}')}"
    index = schema.WAITING if query == "UNDELIVERED" else schema.DELIVERED
    plan = table.execute(statement, {"now": 0}).fetchall()
    assert f"USING INDEX {index}" in plan[0][3]


def test_a_database_that_was_not_migrated_says_so(tmp_path: Path) -> None:
    with databases.alias_for(tmp_path / "none.sqlite3") as alias:
        layer = SqliteChannelLayer(database=alias)
        for question in (layer.stats, layer.readers):
            with pytest.raises(NotMigrated, match=f"migrate --database={alias}"):
                asyncio.run(question())
    assert not (tmp_path / "none.sqlite3").exists()


# Readers


async def test_readers_are_those_that_live(alias: str, watcher: str) -> None:
    layers = [SqliteChannelLayer(database=alias, watcher=watcher) for _ in range(3)]
    tasks = []
    for layer in layers[:2]:  # the third one only asks
        channels = [await layer.new_channel() for _ in range(2)]
        tasks += [asyncio.create_task(layer.receive(channel)) for channel in channels]
        await until(lambda: len(layer._ends.receiver._queues) == 2)  # noqa: B023
    found = await layers[2].readers()
    assert {each.client for each in found} == {each.client_prefix for each in layers[:2]}
    assert {(each.pid, each.watcher) for each in found} == {(os.getpid(), watcher)}
    await layers[0].send(f"specific.{layers[0].client_prefix}!x", {"type": "test"})
    await until(lambda: {each.channels for each in stats.readers(layers[2].database)} == {2})
    await cancel(*tasks)
    for layer in layers:
        await layer.close()


async def test_what_a_reader_says_is_read_as_far_as_it_is_understood(
    file: Database,
) -> None:
    said: dict[str, Any] = {"pid": 7, "counters": {"sent": 3, "new": 1}, "more": 1}
    said["woken_at"] = time.time() - 5
    bells = [Bell(file.files, "abcdefghijkl", said)]
    others: list[dict[str, Any]] = [{}, {"pid": "x"}, {"pid": 1, "counters": []}]
    for number, other in enumerate([*others, {"pid": 1, "woken_at": "now"}]):
        bells.append(Bell(file.files, f"nonsense---{number}", other))
    assert stats.readers(file) == [
        Reader(
            client="abcdefghijkl",
            pid=7,
            channels=0,
            watcher="",
            last_wake=about(5),
            counters=Counters(sent=3),
        )
    ]
    for bell in bells:
        bell.close(remove=True)


async def test_in_memory_this_process_is_the_reader(memory_alias: str) -> None:
    layer = SqliteChannelLayer(database=memory_alias)
    task = asyncio.create_task(layer.receive("mail"))
    await until(lambda: len(layer._ends.receiver._queues) == 1)
    [reader] = await layer.readers()
    assert (reader.client, reader.watcher, reader.channels) == (layer.client_prefix, "none", 1)
    await layer.send("letters", {"type": "test"})
    found = await layer.stats()
    assert (found.total.waiting, found.wal_size) == (1, 0)
    await cancel(task)
    await layer.close()
