"""What the file shows of a layer: counts by inbox and group, members and sizes."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from channels_sqlite import inspection, schema, store
from channels_sqlite.conf import database_settings
from channels_sqlite.database import Database
from channels_sqlite.databases import database_for
from channels_sqlite.exceptions import DatabaseUnavailable, NotMigrated
from channels_sqlite.inspection import Group, Tally
from channels_sqlite.layers import SqliteChannelLayer
from tests import databases
from tests.conftest import OpenLayer

inotify = pytest.mark.parametrize("kind", ["inotify"], indirect=True)


@pytest.fixture
async def file(alias: str) -> AsyncIterator[Database]:
    """The test's database, as the layer has it."""
    database = database_for(database_settings(alias), alias)
    yield database
    await database.close()


@pytest.fixture
def sql(database: Path) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(database, isolation_level=None)) as connection:
        yield connection


def put(sql: sqlite3.Connection, inbox: str, group: str | None = None, **fields: Any) -> None:
    """A message in the table, to a channel of that name unless it is to a group."""
    now = time.time()
    values = {"channel": None if group else inbox, "body": b"", "created_at": now}
    values |= {"expires_at": now + 60, "delivered_at": None} | fields
    sql.execute(
        f'insert into {schema.MESSAGE} (inbox, "group", {", ".join(values)})'
        f" values (?, ?, {', '.join('?' * len(values))})",
        (inbox, group, *values.values()),
    )


def join(sql: sqlite3.Connection, group: str, channel: str, expires_in: float = 60) -> None:
    inbox = channel.partition("!")[0] + "!"
    sql.execute(
        f'insert into {schema.MEMBERSHIP} ("group", inbox, channel, expires_at, joined_after)'
        " values (?, ?, ?, ?, 0)",
        (group, inbox, channel, time.time() + expires_in),
    )


def size(path: str) -> int:
    return Path(path).stat().st_size


def about(seconds: float) -> Any:
    """Equal to those seconds, and to a few more or less."""
    return pytest.approx(seconds, abs=3)


# Stats


async def test_an_empty_file(file: Database) -> None:
    stats = await inspection.stats(file)
    assert stats.total == Tally()
    assert stats.inboxes == stats.groups == {}
    assert stats.journal_mode == "wal"


async def test_messages_are_counted_by_inbox_and_group(
    file: Database, sql: sqlite3.Connection
) -> None:
    now = time.time()
    put(sql, "mail", created_at=now - 7)
    put(sql, "mail", created_at=now - 9)
    put(sql, "mail", delivered_at=now - 5)
    put(sql, "mail", delivered_at=now - 3)
    put(sql, "mail", expires_at=now - 1, created_at=now - 61)
    put(sql, "in.a!", "chat", created_at=now - 4)
    put(sql, "in.b!", "chat", delivered_at=now - 2)
    put(sql, "in.b!", channel="in.b!x")
    stats = await inspection.stats(file)
    assert stats.inboxes == {
        "mail": Tally(waiting=2, delivered=2, expired=1, oldest=about(9), last_taken=about(3)),
        "in.a!": Tally(waiting=1, oldest=about(4)),
        "in.b!": Tally(waiting=1, delivered=1, oldest=about(0), last_taken=about(2)),
    }
    assert stats.groups == {
        "chat": Tally(waiting=1, delivered=1, oldest=about(4), last_taken=about(2))
    }
    assert stats.total == Tally(
        waiting=4, delivered=3, expired=1, oldest=about(9), last_taken=about(2)
    )


async def test_members_are_counted_by_inbox_and_group(
    file: Database, sql: sqlite3.Connection
) -> None:
    for channel in ("in.a!1", "in.a!2", "in.b!1"):
        join(sql, "chat", channel)
    join(sql, "news", "in.a!1")
    join(sql, "news", "in.a!2", expires_in=-1)
    stats = await inspection.stats(file)
    assert {name: tally.members for name, tally in stats.groups.items()} == {"chat": 3, "news": 1}
    assert {name: tally.members for name, tally in stats.inboxes.items()} == {
        "in.a!": 3,
        "in.b!": 1,
    }
    assert stats.total.members == 4


async def test_sizes_are_those_on_the_disk(file: Database, sql: sqlite3.Connection) -> None:
    await file.ready()
    put(sql, "mail", body=bytes(500_000))
    grown = await inspection.stats(file)
    assert grown.wal_size == size(file.wal) > 500_000
    sql.execute("pragma wal_checkpoint(truncate)")
    sql.execute(f"delete from {schema.MESSAGE}")
    stats = await inspection.stats(file)
    assert stats.size == size(file.path) > 500_000
    assert stats.free > 490_000


async def test_names_that_are_not_utf8_are_shown(file: Database, sql: sqlite3.Connection) -> None:
    put(sql, "mail")
    sql.execute(f"update {schema.MESSAGE} set inbox = cast(? as text)", (b"m\xff",))
    assert [*(await inspection.stats(file)).inboxes] == ["m\N{REPLACEMENT CHARACTER}"]


async def test_a_database_in_memory_has_stats_too(memory_alias: str) -> None:
    layer = SqliteChannelLayer(database=memory_alias)
    await layer.send("mail", {"type": "test"})
    database = database_for(database_settings(memory_alias), memory_alias)
    stats = await inspection.stats(database)
    assert stats.total.waiting == 1
    assert stats.wal_size == 0
    await layer.close()


async def test_who_looks_cannot_write(file: Database, sql: sqlite3.Connection) -> None:
    put(sql, "mail")
    with pytest.raises(DatabaseUnavailable):
        await inspection.look(file, lambda found: found.execute(f"delete from {schema.MESSAGE}"))
    before = sql.execute("pragma data_version").fetchall()
    await inspection.stats(file)
    assert sql.execute("pragma data_version").fetchall() == before


def test_a_database_that_was_not_migrated_says_so(tmp_path: Path) -> None:
    with databases.alias_for(tmp_path / "none.sqlite3") as alias:
        with pytest.raises(NotMigrated, match=f"migrate --database={alias}"):
            asyncio.run(inspection.stats(database_for(database_settings(alias), alias)))
        assert not (tmp_path / "none.sqlite3").exists()


@pytest.mark.parametrize(
    ("query", "index"),
    [("_UNDELIVERED", "channels_sqlite_waiting"), ("_DELIVERED", "channels_sqlite_delivered")],
)
def test_bodies_are_not_read_to_count(sql: sqlite3.Connection, query: str, index: str) -> None:
    """What stands behind the body in a row is read from an index."""
    plan = sql.execute(f"explain query plan {getattr(inspection, query)}", {"now": 0}).fetchall()
    assert f"USING INDEX {index}" in plan[0][3]


# Groups


def test_groups_have_members_inboxes_and_a_first_to_lapse(sql: sqlite3.Connection) -> None:
    join(sql, "chat", "in.a!1", expires_in=100)
    join(sql, "chat", "in.a!2", expires_in=50)
    join(sql, "chat", "in.b!1", expires_in=-1)
    join(sql, "gone", "in.b!1", expires_in=-1)
    assert inspection.groups(sql, time.time()) == [Group("chat", 2, 1, about(50))]


def test_a_groups_channels_are_those_whose_membership_has_not_lapsed(
    sql: sqlite3.Connection,
) -> None:
    for channel in ("in.b!1", "in.a!1"):
        join(sql, "chat", channel)
    join(sql, "chat", "in.c!1", expires_in=-1)
    join(sql, "news", "in.d!1")
    now = time.time()
    assert inspection.group_channels(sql, "chat", now) == ["in.a!1", "in.b!1"]
    assert inspection.group_count(sql, "chat", now) == 2
    assert inspection.group_channels(sql, "nobody", now) == []
    assert inspection.group_count(sql, "nobody", now) == 0


# Messages, as they come


def test_messages_after_a_cursor_come_in_order(sql: sqlite3.Connection) -> None:
    for number in range(5):
        put(sql, f"mail.{number}", delivered_at=1 if number % 2 else None)
    assert [row.inbox for row in inspection.messages_after(sql, 2, 2)] == ["mail.2", "mail.3"]
    assert [row.inbox for row in inspection.messages_after(sql, 4, 2)] == ["mail.4"]
    assert [row.inbox for row in inspection.last_messages(sql, 4, 2)] == ["mail.2", "mail.3"]


def test_the_newest_message_is_known_when_it_is_gone(sql: sqlite3.Connection) -> None:
    assert store.newest(sql) is None
    put(sql, "mail")
    put(sql, "mail")
    sql.execute(f"delete from {schema.MESSAGE}")
    assert store.newest(sql) == 2


# The layer's own


@inotify
async def test_a_layer_tells_its_stats_and_its_groups(open_layer: OpenLayer) -> None:
    layer = open_layer()
    ann, ben = sorted([await layer.new_channel(), await layer.new_channel()])
    await layer.group_add("chat", ann)
    await layer.group_add("chat", ben)
    await layer.send("mail", {"type": "test"})
    await layer.group_send("chat", {"type": "test"})
    stats = await layer.stats()
    assert stats.total.waiting == 2
    assert stats.groups["chat"].members == 2
    assert await layer.group_channels("chat") == [ann, ben]
    assert await layer.group_count("chat") == 2
    await layer.group_discard("chat", ann)
    assert await layer.group_count("chat") == 1
    with pytest.raises(TypeError):
        await layer.group_channels("no such name")


@pytest.mark.parametrize("column", ["inbox", "channel", '"group"', "created_at", "expires_at"])
async def test_a_row_of_others_with_a_blob_is_counted(
    file: Database, sql: sqlite3.Connection, column: str
) -> None:
    for number in range(2):
        sql.execute(
            f"insert into {schema.MESSAGE} (inbox, channel, body, created_at, expires_at)"
            " values (?, 'a', x'80', 0, 0)",
            (f"inbox-{number}",),
        )
    sql.execute(f"update {schema.MESSAGE} set {column} = x'61' where id = 1")
    found = await inspection.stats(file)
    assert sum(tally.waiting + tally.expired for tally in found.inboxes.values()) == 2


async def test_who_has_changed_the_directory_looks_at_the_same_file(
    database: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(database.parent)
    layer_settings = {"NAME": database.name, "OPTIONS": {}}
    made = Database(layer_settings, "channels")
    await made.ready()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    assert (await inspection.stats(made)).total.waiting == 0
    assert list(elsewhere.iterdir()) == []
    await made.close()
