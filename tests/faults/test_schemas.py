"""Tables of another version: told, with the remedy."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from channels_sqlite.exceptions import DatabaseUnavailable, NotMigrated
from channels_sqlite.layers import SqliteChannelLayer
from tests.rows import message, sql
from tests.waiting import soon


@pytest.mark.parametrize(
    ("change", "works"),
    [
        ("alter table channels_sqlite_message add column later text", True),
        ("create trigger a after insert on channels_sqlite_message begin select 1; end", True),
        ("drop view channels_sqlite_send", True),
        ("drop index channels_sqlite_waiting", False),
        ("alter table channels_sqlite_message rename column body to content", False),
        ("drop trigger channels_sqlite_message_bump", False),
        ("drop table channels_sqlite_membership", False),
    ],
)
async def test_a_schema_of_another_version(
    database: Path, alias: str, change: str, works: bool
) -> None:
    """Additions of a newer version do no harm; whatever is missing is named."""
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
            assert re.search("migrate|no column|such column", str(raised.value))
    await layer.close()
