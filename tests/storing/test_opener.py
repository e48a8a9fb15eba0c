"""Opening: how a connection is set up, and what cannot be opened."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from pytest_django import Settings

from channels_sqlite._storing import locks
from channels_sqlite._storing.files import Files
from channels_sqlite._storing.handle import Busy
from channels_sqlite._storing.once import Once
from channels_sqlite._storing.opener import WAL_LIMIT, WAL_PAGES, Opener
from channels_sqlite._storing.worker import Worker
from channels_sqlite.exceptions import NotMigrated
from tests.rows import sql
from tests.storing.parts import count, insert, locked, locked_up
from tests.waiting import soon


def connect(path: Path | str, **options: Any) -> sqlite3.Connection:
    files = Files(str(path))
    files.find()
    return Opener("channels", files, options, Worker(Once())).connect()


def pragmas(connection: sqlite3.Connection, *names: str) -> list[object]:
    found = [connection.execute(f"pragma {name}").fetchall()[0][0] for name in names]
    connection.close()
    return found


def test_the_log_is_on_no_commit_syncs_and_the_project_has_the_last_word(database: Path) -> None:
    """Deleted rows are overwritten only where a project says so."""
    names = ("synchronous", "wal_autocheckpoint", "secure_delete", "journal_size_limit")
    fast = 2
    assert pragmas(connect(database), "journal_mode") == ["wal"]
    assert pragmas(connect(database), *names) == [1, WAL_PAGES, fast, WAL_LIMIT]
    wanted = [2, 0, 1, 1234]
    commands = "; ".join(map("PRAGMA {} = {}".format, names, wanted))
    assert pragmas(connect(database, init_command=commands), *names) == wanted


async def test_to_open_is_not_to_wait_for_a_lock_whatever_the_project_says(database: Path) -> None:
    """SQLite is asked at once if the file may be written. A log that is on is not switched on."""
    connect(database).close()
    wait = "pragma busy_timeout = 3600000"
    with locked(database):
        assert pragmas(connect(database), "journal_mode") == ["wal"]
        connection = await soon(asyncio.to_thread(connect, database, init_command=wait))
    connection.close()


def test_a_database_that_is_locked_is_busy_and_a_broken_command_an_error(database: Path) -> None:
    with locked_up(database), pytest.raises(Busy):
        connect(database)
    with pytest.raises(sqlite3.OperationalError, match="nonsense"):
        connect(database, init_command="nonsense")


def test_without_the_app_or_a_file_it_says_that_this_has_to_be_there_first(
    database: Path, settings: Settings
) -> None:
    """Otherwise migrate would make nothing, or make it in another process's memory."""
    with pytest.raises(NotMigrated, match=r"in memory.*Give it a file"):
        connect("file:nobodys?mode=memory&cache=shared")
    database.write_bytes(b"")
    settings.INSTALLED_APPS = ["channels"]
    with pytest.raises(NotMigrated, match=r"Add .channels_sqlite. to INSTALLED_APPS\. Run:"):
        connect(database)


def test_where_the_file_is_not_its_remedy_says_what_to_make(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`migrate` alone would fail without the directory, and make another file for a relative
    NAME.
    """
    monkeypatch.chdir(tmp_path)
    directory = tmp_path / "a place"
    for name, remedy in (
        ("here.sqlite3", 'write BASE_DIR / "here.sqlite3". Run: python manage.py migrate'),
        (str(directory / "x"), f"Run: mkdir -p '{directory}' && python manage.py migrate"),
    ):
        opener = Opener("channels", Files(name), {}, Worker(Once()))
        with pytest.raises(NotMigrated, match=re.escape(remedy)):
            opener.open()


def test_a_log_that_is_gone_is_waited_for_while_it_is_copied(database: Path) -> None:
    """By a process that was stopped, perhaps: a file that is damaged would be worse. One that is
    there is not waited for.
    """
    files = Files(str(database))
    files.find()
    opener = Opener("channels", files, {}, Worker(Once()))
    with Files(str(database)).checkpointing() as alone:
        assert alone
        with pytest.raises(Busy) as busy:
            opener.open()
        assert "the log was deleted" in str(busy.value.__cause__)
    opener.open().close()
    with sql(database) as other:
        other.execute("begin")
        other.execute("select * from sqlite_master").fetchall()
        with Files(str(database)).checkpointing():
            opener.open().close()


@pytest.mark.skipif(not locks.SUPPORTED, reason="no flock here")
def test_the_log_of_a_file_that_was_replaced_is_waited_for_while_that_is_closed(
    database: Path,
) -> None:
    """By another process, on a slow disk: SQLite would play the log into the new file."""
    opener = Opener("channels", Files(str(database)), {}, Worker(Once()))
    copy = shutil.copy(database, f"{database}.copy")
    before = opener.open()
    before.try_write(insert)
    os.replace(copy, database)
    closing = Files(str(database))
    closing.find()
    with closing.opening_lock(0):
        with pytest.raises(Busy) as busy:
            opener.open()
        assert "the file was replaced" in str(busy.value.__cause__)
    after = opener.open()
    assert after.try_read(count) == 0
    after.close()
    before.close()


@pytest.mark.skipif(not locks.SUPPORTED, reason="open files cannot be replaced here")
def test_a_file_that_is_replaced_while_it_is_opened_is_busy(database: Path) -> None:
    """SQLite would open it with the log of the one before."""
    files = Files(str(database))
    files.find()
    os.replace(shutil.copy(database, f"{database}.copy"), database)
    with pytest.raises(Busy) as busy:
        Opener("channels", files, {}, Worker(Once())).connect()
    assert "was replaced while" in str(busy.value.__cause__)
