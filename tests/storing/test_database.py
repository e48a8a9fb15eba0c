"""The database: this process's one way into a file, opened once, and again when it must be."""

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
import threading
import time
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from channels_sqlite._storing import database as module
from channels_sqlite._storing import forks, private
from channels_sqlite._storing.database import Database
from channels_sqlite.exceptions import DatabaseUnavailable, MessageTooLarge, NotMigrated
from tests.storing.parts import Gate, count, database_on, in_memory, insert, locked, locked_up, sql
from tests.waiting import PATIENCE, cancel, soon, until


@pytest.fixture
async def one(database: Path) -> AsyncIterator[Database]:
    async with database_on(database) as made:
        yield made


@pytest.fixture
def attentive(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each use looks whether the file is still there, and not only one in a second."""
    monkeypatch.setattr(module, "CHECK_EVERY", -1)


def replace(path: Path, by: Path) -> None:
    shutil.copy(by, f"{path}.new")
    os.replace(f"{path}.new", path)


def exists(path: Path | str) -> bool:
    return os.path.exists(path)


def refuse(_: threading.Thread) -> None:
    raise RuntimeError("can't start new thread")


# Opening


async def test_it_is_opened_once_however_many_ask(one: Database) -> None:
    """And not before; also for a thread that asks when it has just been opened."""
    opened: list[object] = []
    one.when_opened = opened.append
    before = threading.active_count()
    assert one.opened is None
    used = await soon(asyncio.gather(*[one.ready() for _ in range(1000)]))
    assert threading.active_count() <= before + 1
    used += await asyncio.gather(*[asyncio.to_thread(asyncio.run, one.ready()) for _ in range(8)])
    used.append(await asyncio.to_thread(one.open().result, PATIENCE))
    assert {*used} == {one.opened}
    await one.write(count, long=True)
    assert opened == [one.opened]


async def test_a_first_user_that_is_cancelled_takes_no_others_along(one: Database) -> None:
    users = [asyncio.create_task(one.read(count)) for _ in range(3)]
    await asyncio.sleep(0)
    await cancel(users[0])
    assert await soon(asyncio.gather(*users[1:])) == [0, 0]


async def test_a_thread_that_cannot_start_is_told_and_tried_again(
    one: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    for use in (one.read, one.read_aside):
        with monkeypatch.context() as full:
            full.setattr(threading.Thread, "start", refuse)
            with pytest.raises(DatabaseUnavailable, match="can't start new thread"):
                await use(count)
        assert await soon(use(count)) == 0


async def test_what_could_not_be_opened_is_tried_again(
    one: Database, database: Path, migrated: Path
) -> None:
    os.unlink(database)
    for _ in range(3):
        with pytest.raises(NotMigrated, match=f"{database} does not exist. Run: python manage.py"):
            await soon(one.ready())
    assert not exists(database)
    shutil.copy(migrated, database)
    assert await soon(one.read(count)) == 0


async def test_opening_waits_for_a_lock_as_long_as_the_timeout_says(database: Path) -> None:
    async with (
        database_on(database) as impatient,
        database_on(database, timeout=PATIENCE) as patient,
    ):
        with locked_up(database):
            with pytest.raises(DatabaseUnavailable, match="locked"):
                await soon(impatient.ready())
            waiting = asyncio.create_task(patient.read(count))
            await asyncio.sleep(0.05)
            assert not waiting.done()
        assert await soon(waiting) == 0
        assert await soon(impatient.read(count)) == 0


async def test_a_file_that_has_a_tainted_connection_is_refused_by_any_name(
    database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forks, "_forks", forks._Forks())
    forks.taint(str(database))
    (tmp_path / "link").symlink_to(database)
    for name in (database, tmp_path / "link"):
        async with database_on(name) as one:
            for _ in range(2):
                with pytest.raises(DatabaseUnavailable, match="lazy-apps"):
                    await soon(one.read(count))
            assert one.opened is None


# Using it


async def test_what_follows_a_write_is_done_though_its_caller_is_cancelled(one: Database) -> None:
    await one.ready()
    gate = Gate()
    followed: list[str] = []
    writing = asyncio.create_task(one.write(gate, then=followed.append, long=True))
    await gate.entered()
    await cancel(writing)
    gate.open()
    await soon(one.write(count, long=True))
    assert followed == ["passed"]


@pytest.mark.parametrize("long", [False, True], ids=["in-place", "on-the-thread"])
async def test_a_lock_of_others_is_waited_for_as_long_as_the_timeout_says(
    database: Path, long: bool
) -> None:
    async with database_on(database) as one, database_on(database, timeout=PATIENCE) as patient:
        await one.ready()
        await patient.ready()
        now = time.monotonic()
        with locked(database):
            waiting = asyncio.create_task(patient.write(insert, long=long))
            lates: list[dict[str, Any]] = [{}, {"since": now - 60}, {"until": now}]
            for late in lates:
                with pytest.raises(DatabaseUnavailable, match="held the write lock") as raised:
                    await soon(one.write(insert, long=long, **late))
                assert isinstance(raised.value.__cause__, sqlite3.OperationalError)
            assert not waiting.done()
        await soon(waiting)
        assert await one.read(count) == 1


async def test_errors_of_sqlite_are_translated_and_those_of_the_function_pass(
    one: Database,
) -> None:
    for run in (one.read, one.write, partial(one.write, long=True), one.read_aside):
        use: Any = run
        with pytest.raises(DatabaseUnavailable, match="no such table") as raised:
            await soon(use(lambda raw: raw.execute("select * from nowhere")))
        assert isinstance(raised.value.__cause__, sqlite3.OperationalError)
        with pytest.raises(MessageTooLarge):
            await soon(use(lambda raw: raw.execute("select zeroblob(2147483647)")))
        for error in (ZeroDivisionError, RuntimeError):
            with pytest.raises(error, match="of the function"):
                await soon(use(lambda _, error=error: _raise(error)))
    assert await one.read(count) == 0


def _raise(error: type[Exception]) -> None:
    raise error("of the function")


async def test_a_long_read_keeps_nobody_waiting_and_cannot_write(one: Database) -> None:
    gate = Gate()
    long = asyncio.create_task(one.read_aside(gate))
    await gate.entered()
    await soon(one.write(insert))
    await soon(one.write(insert, long=True))
    gate.open()
    await soon(long)
    with pytest.raises(DatabaseUnavailable, match="readonly"):
        await soon(one.read_aside(insert))


async def test_a_long_read_makes_no_file_where_it_was_deleted(
    one: Database, database: Path
) -> None:
    await one.ready()
    os.unlink(database)
    with pytest.raises((DatabaseUnavailable, NotMigrated)):
        await soon(one.read_aside(count))
    assert not exists(database)


async def test_a_fork_is_survived_by_all_who_use_it(one: Database) -> None:
    """Python's hooks close the connections, and the next use opens others."""
    for use in (one.read, one.write, partial(one.write, long=True), one.read_aside):
        before = await one.ready()
        forks._before()
        forks._after_in_parent()
        assert await soon(use(count)) == 0
        assert one.opened is not before


# The file is replaced


@pytest.mark.usefixtures("attentive")
async def test_a_file_that_was_replaced_is_opened_again(
    one: Database, database: Path, migrated: Path, caplog: pytest.LogCaptureFixture
) -> None:
    await one.write(insert)
    replace(database, migrated)
    assert await soon(one.read(count)) == 0
    await soon(one.write(insert))
    with sql(database) as other:
        assert count(other) == 1
        assert other.execute("pragma integrity_check").fetchall() == [("ok",)]
    with one.files.alone(0) as alone:  # nobody has kept the lock
        assert alone
    (said,) = caplog.messages
    assert f"{database} was deleted or replaced; opening the database again" in said


async def test_it_is_looked_for_once_in_a_while(
    one: Database, database: Path, migrated: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CHECK_EVERY", PATIENCE)
    await one.write(insert)
    assert not one.notice_replaced()
    replace(database, migrated)
    assert await one.read(count) == 1
    assert one.notice_replaced()
    assert not one.notice_replaced()
    assert await soon(one.read(count)) == 0


@pytest.mark.usefixtures("attentive")
async def test_an_index_that_was_deleted_is_said_once_and_the_open_one_kept(
    one: Database, caplog: pytest.LogCaptureFixture
) -> None:
    connections = await one.ready()
    os.unlink(f"{one.path}-shm")
    for _ in range(3):
        await one.write(insert)
    assert one.opened is connections
    (said,) = caplog.messages
    assert "Stop all that use it" in said


# Closing


async def test_closing_is_idempotent_and_the_next_use_opens_again(one: Database) -> None:
    for number in range(3):
        await soon(one.close())
        await soon(one.close())
        assert not exists(one.files.wal)
        await one.write(insert)
        assert await one.read(count) == number + 1


async def test_a_closing_that_is_cancelled_is_done(one: Database) -> None:
    await one.ready()
    gate = Gate()
    one.post("Trimming", gate)
    closing = asyncio.create_task(one.close())
    await gate.entered()
    await cancel(closing)
    gate.open()
    await until(lambda: not exists(one.files.wal))


async def test_a_database_that_nobody_has_closed_is_closed_at_exit(one: Database) -> None:
    await one.write(insert)
    one.close_at_exit()
    assert not exists(one.files.wal)


# In memory


async def test_memory_is_shared_by_its_name(database: Path) -> None:
    with in_memory(database) as name, sql(name) as other:
        async with database_on(name) as one:
            await one.write(insert)
            assert one.in_memory
            assert count(other) == 1
            assert await one.read_aside(count) == 1
            assert not one.notice_replaced()


async def test_a_private_database_has_its_tables_and_lives_as_long_as_the_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(private._at_start, "alone", "x")
    async with database_on(private.name_of("alone", "x")) as one:
        await one.write(insert)
        await one.close()
        assert await one.read(count) == 1
        one.close_at_exit()
