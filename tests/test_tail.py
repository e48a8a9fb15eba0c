"""Messages as they pass, seen by somebody who takes none."""

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
from contextlib import suppress
from pathlib import Path

import pytest

from channels_sqlite._storing import schema
from channels_sqlite._storing.database import Database
from channels_sqlite._storing.messages import Row
from channels_sqlite._storing.sql import Transaction
from channels_sqlite._tools import tail
from channels_sqlite._tools.tail import Filter, Tail
from channels_sqlite.layers import SqliteChannelLayer
from tests.rows import row, sql
from tests.waiting import soon


def send(others: sqlite3.Connection, *channels: str) -> None:
    """Messages in one statement, which does not ring."""
    values = ", ".join(["(?, '{}')"] * len(channels))
    others.execute(f"insert into {schema.SEND} values {values}", channels)


def file(alias: str) -> Database:
    return SqliteChannelLayer(database=alias).database


async def take(rows: Tail, count: int) -> list[Row]:
    """The next `count` rows."""
    taken = []
    async for each in rows:
        taken.append(each)
        if len(taken) == count:
            break
    return taken


# Seeing


def test_one_that_is_cancelled_in_a_read_leaves_nobody_behind(alias: str) -> None:
    """A thread that finds its event loop closed would fail the test."""

    async def look(delay: float) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(Tail(file(alias)).last(10), delay)

    for delay in range(30):
        asyncio.run(look(delay / 40_000))
    layer = SqliteChannelLayer(database=alias)
    asyncio.run(layer.close())


async def test_a_name_in_any_encoding_is_seen(alias: str, others: sqlite3.Connection) -> None:
    rows = Tail(file(alias))
    await rows.last(0)
    with Transaction(others):
        send(others, "mail")
        others.execute(f"update {schema.MESSAGE} set inbox = cast(x'ff' as text)")
    assert [each.channel for each in await soon(take(rows, 1))] == ["mail"]


async def test_a_groups_message_is_seen_once(
    alias: str, others: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is a row for each inbox; two messages that are the same are seen twice."""
    monkeypatch.setattr(tail, "BATCH", 2)  # a message is in several of them
    layer = SqliteChannelLayer(database=alias)
    for number in range(5):
        await layer.group_add("chat", f"visitor.{number}")

    async def send_all() -> None:
        await layer.group_send("chat", {"number": 1})
        await layer.group_send("chat", {"number": 2})
        await layer.send("mail", {"number": 3})
        await layer.send("mail", {"number": 3})

    names = ["chat", "chat", "mail", "mail"]
    await send_all()
    rows = Tail(file(alias))
    assert [each.group or each.channel for each in await rows.last(3)] == names[1:]
    await send_all()
    others.execute(f"insert into {schema.GROUP_SEND} values ('chat', '{{}}'), ('chat', '{{}}')")
    seen = await soon(take(rows, 6))
    assert [each.group or each.channel for each in seen] == [*names, "chat", "chat"]
    assert rows.missed == 0
    await layer.close()


async def test_a_database_in_memory(memory_alias: str) -> None:
    layer = SqliteChannelLayer(database=memory_alias)
    rows = Tail(file(memory_alias))
    await rows.last(0)
    await layer.send("mail", {"type": "test"})
    assert [each.channel for each in await soon(take(rows, 1))] == ["mail"]
    await layer.close()


@pytest.mark.skipif(os.name != "posix", reason="an open file cannot be replaced here")
async def test_a_file_in_its_place_is_read_from_its_beginning(
    alias: str, database: Path, migrated: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def replace() -> None:
        new = Path(shutil.copy(migrated, tmp_path / "new.sqlite3"))
        with sql(new) as others:
            send(others, "new")
        for suffix in ("-wal", "-shm"):
            Path(f"{database}{suffix}").unlink(missing_ok=True)
        new.replace(database)

    rows = Tail(file(alias))
    await rows.last(0)
    with sql(database) as others:
        send(others, "old", "old", "old")
    assert len(await soon(take(rows, 3))) == 3
    replace()
    assert [each.channel for each in await soon(take(rows, 1))] == ["new"]
    assert "deleted or replaced" in caplog.text
    await file(alias).close()


async def test_a_file_whose_ids_begin_anew_is_read_from_its_beginning(
    alias: str, database: Path
) -> None:
    """As Django's `flush` has them do."""
    rows = Tail(file(alias))
    await rows.last(0)
    with sql(database) as others:
        send(others, "old", "old", "old")
        assert len(await soon(take(rows, 3))) == 3
        others.execute(f"delete from {schema.MESSAGE}")
        others.execute("update sqlite_sequence set seq = 0")
        send(others, "new")
    assert [each.channel for each in await soon(take(rows, 1))] == ["new"]
    await file(alias).close()


# Choosing


def test_a_filter_admits() -> None:
    """A message that cannot be read is of no type."""
    rows = {
        "mail": row(1, "mail"),
        "in.a!x": row(2, "in.a!x", inbox="in.a!"),
        "chat.one": row(3, None, inbox="in.a!", group="chat.one"),
    }
    for wanted, expected in (
        (Filter(), [*rows]),
        (Filter(channel="mail"), ["mail"]),
        (Filter(channel="in.*!*"), ["in.a!x"]),
        (Filter(group="chat.*"), ["chat.one"]),
        (Filter(group="*"), ["chat.one"]),
        (Filter(channel="m*", group="chat.*"), ["mail", "chat.one"]),
        (Filter(type="test.m*"), ["mail"]),
        (Filter(channel="in*", type="test.mail"), []),
    ):
        found = [
            name for name, each in rows.items() if wanted.admits(each, {"type": f"test.{name}"})
        ]
        assert found == expected, wanted
    assert Filter().admits(row(1), None)
    assert not Filter(type="*").admits(row(1), None)
    assert not Filter(type="*").admits(row(1), {"type": 7})
