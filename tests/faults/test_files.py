"""Files that are damaged, or of somebody else, and those whose names are not simple."""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import sqlite3
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from channels_sqlite.exceptions import DatabaseUnavailable, InvalidOption, NotMigrated
from channels_sqlite.layers import SqliteChannelLayer
from tests import databases
from tests.conftest import OpenLayer
from tests.kinds import by_default
from tests.rows import message, select, sql
from tests.waiting import soon

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="open files cannot be deleted here")

RECOVERY = 3.0  # seconds: a heartbeat, the opening, and a busy machine


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What the layer has logged, each line once it was seen."""
    words = [each.getMessage() for each in records(caplog)]
    caplog.clear()
    return words


def records(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    return [each for each in caplog.records if each.name == "channels_sqlite"]


def remove(database: Path, *ends: str) -> None:
    for end in ends:
        Path(f"{database}{end}").unlink(missing_ok=True)


@by_default
@pytest.mark.parametrize("how", ["header", "pages"])
async def test_the_file_is_damaged_before_it_is_opened(
    open_layer: OpenLayer, database: Path, how: str
) -> None:
    """Every verb says so each time; the file is left as it is; mended, it is used again."""
    layer = open_layer()
    whole = content(database)
    begin, end = (0, 100) if how == "header" else (4096, len(whole))
    damaged = whole[:begin] + b"\xa5" * (end - begin) + whole[end:]
    write(database, damaged)
    for _ in range(5):
        for verb in (layer.send("a", message(1)), layer.receive("a"), layer.flush()):
            with pytest.raises((DatabaseUnavailable, NotMigrated), match=str(database)):
                await soon(verb)
    assert content(database)[100:] == damaged[100:]  # the header has counters
    remove(database, "-wal", "-shm")
    write(database, whole)
    await layer.send("a", message(2))
    assert await soon(layer.receive("a")) == message(2)


def content(path: Path) -> bytes:
    return path.read_bytes()


def write(path: Path, data: bytes) -> None:
    path.write_bytes(data)


@by_default
async def test_a_table_is_damaged_under_a_process(
    open_layer: OpenLayer, database: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A tree that is nowhere: senders and the log are told, the process lives; mended, it goes on
    by itself.
    """
    layer = open_layer()
    channel = await layer.new_channel()
    await layer.send(channel, message(1))
    assert await soon(layer.receive(channel)) == message(1)
    waiting = asyncio.create_task(layer.receive(channel))
    with sql(database) as connection:
        name = "name = 'channels_sqlite_sequence'"
        (root,) = select(connection, f"rootpage from sqlite_master where {name}")
        connection.execute("pragma writable_schema = on")
        set_root = f"update sqlite_master set rootpage = ? where {name}"
        connection.execute(set_root, (9999,))
        bump_schema(connection)
        await asyncio.sleep(2.2)
        for _ in range(3):
            with pytest.raises(DatabaseUnavailable):
                await layer.send(channel, message(2))
        assert not waiting.done()
        assert len(said(caplog)) <= 2
    with sql(database) as connection:
        connection.execute("pragma writable_schema = on")
        connection.execute(set_root, (root,))
        bump_schema(connection)
    mended = time.monotonic()
    await soon(resend(layer, channel, message(3)))
    assert (await soon(waiting))["number"] == 3
    assert time.monotonic() - mended < RECOVERY
    caplog.clear()


def bump_schema(connection: sqlite3.Connection) -> None:
    """Have every connection read the schema anew."""
    (version,) = select(connection, "schema_version from pragma_schema_version")
    connection.execute(f"pragma schema_version = {version + 1}")


async def resend(layer: Any, channel: str, sent: dict[str, Any]) -> Any:
    while True:
        try:
            return await layer.send(channel, sent)
        except DatabaseUnavailable:
            await asyncio.sleep(0.05)


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


@pytest.mark.parametrize("begin", ["before", "meanwhile"])
async def test_a_file_with_two_names(
    database: Path, alias: str, tmp_path: Path, begin: str, migrated: Path
) -> None:
    """A hard link's log is another log: who opens it is told what to remove."""
    layer = SqliteChannelLayer(database=alias)
    if begin == "meanwhile":
        await layer.send("a", message(1))
    os.link(database, tmp_path / "second name.sqlite3")
    with databases.alias_for(tmp_path / "second name.sqlite3") as other:
        second = SqliteChannelLayer(database=other)
        with pytest.raises(InvalidOption, match="2 hard links"):
            await second.send("a", message(2))
    if begin == "before":
        with pytest.raises(InvalidOption, match=r"find / -xdev -samefile"):
            await layer.send("a", message(1))
        os.unlink(tmp_path / "second name.sqlite3")
        await layer.send("a", message(1))
    assert await soon(layer.receive("a")) == message(1)
    await layer.close()


@pytest.mark.parametrize("name", ["a?b=c.sqlite3", "a#b %41.sqlite3", "ä 'quote\".sqlite3", "-x;y"])
async def test_processes_meet_under_any_name(migrated: Path, tmp_path: Path, name: str) -> None:
    """By whatever way to the same file; `start` would have given it the test's own."""
    from tests.processes import Child

    (tmp_path / "folder").mkdir()
    path = Path(shutil.copy(migrated, tmp_path / "folder" / name))
    link = tmp_path / "link"
    link.symlink_to(path)
    with databases.alias_for(path) as alias, Child("echo", link) as peer:
        layer = SqliteChannelLayer(database=alias)
        mine = await layer.new_channel()
        yours = await asyncio.to_thread(peer.hear)
        for number in range(5):
            await layer.send(yours, {**message(number), "reply_to": mine})
            assert (await soon(layer.receive(mine)))["number"] == number
        await layer.send(yours, message(-1))
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
