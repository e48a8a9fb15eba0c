"""Files that are damaged, or of somebody else, and those whose names are not simple."""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
from pathlib import Path

import pytest
from asgiref.sync import async_to_sync

from channels_sqlite.exceptions import DatabaseUnavailable, InvalidOption, NotMigrated
from channels_sqlite.layers import SqliteChannelLayer
from tests import databases
from tests.conftest import OpenLayer, Start
from tests.faults.peers import Peer
from tests.kinds import by_default
from tests.rows import message, sql
from tests.waiting import receive, soon

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="open files cannot be deleted here")


@by_default
@pytest.mark.parametrize("how", ["header", "pages"])
def test_the_file_is_damaged_before_it_is_opened(
    open_layer: OpenLayer, database: Path, how: str
) -> None:
    """Every verb says so each time; the file is left as it is; mended, it is used again."""
    layer = open_layer()
    whole = database.read_bytes()
    begin, end = (0, 100) if how == "header" else (4096, len(whole))
    damaged = whole[:begin] + b"\xa5" * (end - begin) + whole[end:]
    database.write_bytes(damaged)
    for _ in range(5):
        for verb, *arguments in (
            (layer.send, "a", message(1)),
            (layer.receive, "a"),
            (layer.flush,),
        ):
            with pytest.raises((DatabaseUnavailable, NotMigrated), match=str(database)):
                async_to_sync(verb)(*arguments)
    assert database.read_bytes()[100:] == damaged[100:]  # the header has counters
    for name in ("-wal", "-shm"):
        Path(f"{database}{name}").unlink(missing_ok=True)
    database.write_bytes(whole)
    async_to_sync(layer.send)("a", message(2))
    assert async_to_sync(receive)(layer, "a") == message(2)


@pytest.mark.parametrize("kind", ["another program's", "text", "empty", "a folder"])
async def test_a_file_of_another_program(tmp_path: Path, kind: str) -> None:
    """It is named, with the remedy, and left as it was."""
    path = tmp_path / "other.sqlite3"
    if kind == "a folder":
        path.mkdir()
    elif kind == "another program's":
        with sql(path) as connection:
            connection.execute("create table channels_sqlite_message (subject text)")
            connection.execute("insert into channels_sqlite_message values ('hands off')")
    else:
        path.write_text("Dear diary, " * 1000 if kind == "text" else "")
    before = None if path.is_dir() else path.read_bytes()
    with databases.alias_for(path) as alias:
        layer = SqliteChannelLayer(database=alias)
        for _ in range(2):
            with pytest.raises((NotMigrated, DatabaseUnavailable, InvalidOption)) as raised:
                await soon(layer.send("a", message(1)))
            assert str(path) in str(raised.value)
            remedy = "NAME needs a file" if kind == "a folder" else "migrate"
            assert remedy in str(raised.value)
        await layer.close()
    assert before is None or path.read_bytes() == before
    assert kind != "a folder" or [*tmp_path.iterdir()] == [path]  # noqa: ASYNC240


async def test_a_file_with_two_names(database: Path, alias: str, tmp_path: Path) -> None:
    """A hard link's log is another log: who opens it is told what to remove."""
    os.link(database, other := tmp_path / "second name.sqlite3")
    layer = SqliteChannelLayer(database=alias)
    with databases.alias_for(other) as name, pytest.raises(InvalidOption, match="2 hard links"):
        await SqliteChannelLayer(database=name).send("a", message(1))
    with pytest.raises(InvalidOption, match=r"find / -xdev -samefile"):
        await layer.send("a", message(1))
    os.unlink(other)
    await layer.send("a", message(1))
    assert await soon(layer.receive("a")) == message(1)
    await layer.close()


async def test_processes_meet_under_any_name(start: Start, migrated: Path, tmp_path: Path) -> None:
    """By whatever way to the same file."""
    name = "-a?b=c#d %41;ä 'quote\".sqlite3"
    (tmp_path / "folder").mkdir()
    path = Path(shutil.copy(migrated, tmp_path / "folder" / name))
    link = tmp_path / "link"
    link.symlink_to(path)
    peer = Peer(start, on=link)
    with databases.alias_for(path) as alias:
        layer = SqliteChannelLayer(database=alias)
        mine = await layer.new_channel()
        yours = await asyncio.to_thread(peer.new_channel)
        for number in range(5):
            await layer.send(yours, message(number))
            await asyncio.to_thread(peer.send, mine, await asyncio.to_thread(peer.receive, yours))
            assert await soon(layer.receive(mine)) == message(number)
        await asyncio.to_thread(peer.finish)
        await layer.close()
    assert {each.name for each in path.parent.iterdir()} == {name, f"{name}-bells"}


async def test_a_working_directory_that_changes(
    migrated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(migrated, tmp_path / "relative.sqlite3")
    monkeypatch.chdir(tmp_path)
    with databases.alias_for("relative.sqlite3") as alias:
        layer = SqliteChannelLayer(database=alias)
        await layer.send("a", message(1))
        (tmp_path / "folder").mkdir()
        monkeypatch.chdir(tmp_path / "folder")
        await layer.close()
        await layer.send("a", message(2))  # opens it anew
        assert [await soon(layer.receive("a")) for _ in range(2)] == [message(1), message(2)]
        await layer.close()
    assert not (tmp_path / "folder" / "relative.sqlite3").exists()
