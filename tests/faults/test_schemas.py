"""Tables of another version, and `migrate` under way: told, with the remedy, and then mended."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from channels_sqlite.exceptions import DatabaseUnavailable, NotMigrated
from channels_sqlite.layers import SqliteChannelLayer
from tests import databases
from tests.rows import message, select, sql
from tests.waiting import soon


@pytest.mark.parametrize(
    ("change", "works"),
    [
        ("alter table channels_sqlite_message add column later text", True),
        ("alter table channels_sqlite_membership add column later text", True),
        (
            "create trigger a after insert on channels_sqlite_message begin select 1; end",
            True,
        ),
        ("drop view channels_sqlite_send", True),
        ("drop index channels_sqlite_waiting", False),
        ("alter table channels_sqlite_message rename column body to content", False),
        ("alter table channels_sqlite_message rename column inbox to place", False),
        ("drop trigger channels_sqlite_message_bump", False),
        ("drop table channels_sqlite_sequence", False),
        ("drop table channels_sqlite_membership", False),
    ],
)
async def test_a_schema_of_another_version(
    database: Path, alias: str, change: str, works: bool
) -> None:
    """What a newer version adds does no harm; what is missing is named."""
    with sql(database) as connection:
        connection.execute("pragma legacy_alter_table = on")
        connection.execute(change)
    layer = SqliteChannelLayer(database=alias)
    if works:
        await layer.send("shared", message(1))
        assert await soon(layer.receive("shared")) == message(1)
    else:
        for _ in range(2):
            with pytest.raises((NotMigrated, DatabaseUnavailable)) as raised:
                await soon(layer.send("shared", message(1)))
            assert str(database) in str(raised.value)
            assert any(
                word in str(raised.value) for word in ("migrate", "no column", "such column")
            )
    await layer.close()


def test_processes_migrate_at_once(tmp_path: Path) -> None:
    """Three of them, twice. Django plans first and writes afterwards, so that the one that is late
    finds Django's own tables that it is about to make, and fails: told again it succeeds, and
    nothing is half done.
    """
    for turn in range(2):
        path = tmp_path / f"{turn}.sqlite3"
        unfinished, rounds = 3, 0
        while unfinished:
            rounds += 1
            with ThreadPoolExecutor(3) as pool:
                migrate = partial(databases.migrate, path, check=False)
                running = [pool.submit(migrate) for _ in range(unfinished)]
            unfinished = sum(each.result() != 0 for each in running)
            assert rounds <= 5
        with sql(path) as connection:
            assert select(connection, "integrity_check from pragma_integrity_check") == ["ok"]
            ours = "name from django_migrations where app = 'channels_sqlite'"
            assert set(select(connection, ours)) == {"0001_channels"}
        with databases.alias_for(path) as alias:
            asyncio.run(use(alias))


async def use(alias: str) -> None:
    layer = SqliteChannelLayer(database=alias)
    await layer.send("shared", message(1))
    assert await soon(layer.receive("shared")) == message(1)
    await layer.close()
