"""The database: this process's one way into a file, opened once, and again when it must be."""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import sys
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from unittest.mock import Mock

import pytest

from channels_sqlite._storing import forks
from channels_sqlite._storing.database import Database
from channels_sqlite._storing.handle import Lost
from channels_sqlite.exceptions import DatabaseUnavailable, NotMigrated
from tests.conftest import SetTimes
from tests.rows import sql
from tests.storing.parts import Gate, count, database_on, insert, locked_up
from tests.waiting import PATIENCE, cancel, soon, until


@pytest.fixture
async def one(database: Path) -> AsyncIterator[Database]:
    async with database_on(database) as made:
        yield made


def exists(path: Path | str) -> bool:
    return os.path.exists(path)


def workers() -> set[threading.Thread]:
    return {each for each in threading.enumerate() if each.name == "channels-sqlite"}


# Opening


async def test_a_database_is_opened_once_however_many_ask(one: Database) -> None:
    """And not before; also for a thread that asks when it has just been opened."""
    opened: list[object] = []
    one.when_opened = opened.append
    before = workers()
    assert one.connections is None
    used = await soon(asyncio.gather(*[one.ready() for _ in range(1000)]))
    assert len(workers() - before) == 2
    used += await asyncio.gather(*[asyncio.to_thread(asyncio.run, one.ready()) for _ in range(8)])
    assert {*used} == {one.connections}
    await one.run_beside(lambda _: None)
    assert opened == [one.connections]


async def test_a_thread_that_cannot_start_is_told_and_tried_again(
    one: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    for use in (one.read, one.read_on_own_thread):
        with monkeypatch.context() as full:
            refuse = Mock(side_effect=RuntimeError("can't start new thread"))
            full.setattr(threading.Thread, "start", refuse)
            with pytest.raises(DatabaseUnavailable, match=r"\.sqlite3: can't start new thread"):
                await use(count)
        assert await soon(use(count)) == 0


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


async def test_a_long_read_keeps_nobody_waiting_and_cannot_write_nor_make_a_file(
    one: Database, database: Path
) -> None:
    gate = Gate()
    long = asyncio.create_task(one.read_on_own_thread(gate))
    await gate.entered()
    await soon(one.write(insert))
    await soon(one.write(insert, long=True))
    gate.open()
    await soon(long)
    with pytest.raises(DatabaseUnavailable, match="readonly"):
        await soon(one.read_on_own_thread(insert))
    os.unlink(database)
    with pytest.raises((DatabaseUnavailable, NotMigrated)):
        await soon(one.read_on_own_thread(count))
    assert not exists(database)


async def test_an_index_that_was_deleted_is_said_once_and_the_open_one_kept(
    one: Database, set_times: SetTimes, caplog: pytest.LogCaptureFixture
) -> None:
    set_times(check=-1)  # each use looks whether the files are still there
    connections = await one.ready()
    os.unlink(f"{one.path}-shm")
    for _ in range(3):
        await one.write(insert)
    assert one.connections is connections
    (said,) = caplog.messages
    assert "Stop all that use it" in said


@pytest.mark.skipif(sys.platform == "win32", reason="open files cannot be replaced here")
async def test_a_long_read_of_a_file_that_was_just_replaced_is_of_the_new_one(
    one: Database, database: Path
) -> None:
    """With the old log, its connection would keep the index of that for the new file, too."""
    copy = shutil.copy(database, database.with_name("another"))
    for _ in range(50):
        await one.write(insert)
    os.replace(copy, database)
    assert await one.read_on_own_thread(count) == 0
    await one.write(insert)
    assert await one.read(count) == 1


async def test_a_replaced_file_is_left_though_a_log_handler_raises(
    one: Database, database: Path, set_times: SetTimes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As async_to_sync does on an event loop. Messages would go to the old file for ever."""

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            raise ZeroDivisionError

    set_times(check=-1)  # each use looks whether the files are still there
    connections = await one.ready()
    os.replace(shutil.copy(database, database.with_name("another")), database)
    monkeypatch.setattr(logging.getLogger("channels_sqlite"), "handlers", [Handler()])
    with pytest.raises(ZeroDivisionError):
        await one.write(insert)
    assert one.connections is None
    await soon(one.write(insert))
    assert one.connections is not connections


async def test_a_closing_that_is_cancelled_is_done(one: Database) -> None:
    await one.ready()
    gate = Gate()
    one._worker.submit(gate)
    closing = asyncio.create_task(one.close())
    await gate.entered()
    await until(lambda: one.connections is None)  # the task has begun
    await cancel(closing)
    gate.open()
    await until(lambda: not exists(one.files.wal))


# The log's second name


def is_kept(database: Database) -> bool:
    return os.path.samefile(f"{database.files.bells}/.log", database.files.wal)


async def test_the_second_name_goes_with_the_last_connection(one: Database, database: Path) -> None:
    """Another log could otherwise never get its inode. Somebody else, closing last, leaves it."""
    kept = f"{one.files.bells}/.log"
    await one.ready()
    assert is_kept(one)
    await one.close()
    assert not exists(kept)
    with sql(database) as foreign:
        assert count(foreign) == 0  # it has the log open
        await one.write(insert)
        await one.close()
        assert is_kept(one)
    assert exists(kept)
    assert not exists(one.files.wal)
    await one.write(insert)
    assert is_kept(one)


async def test_a_file_system_without_hard_links_can_be_used(
    one: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "link", Mock(side_effect=PermissionError))
    for expected in (1, 2):
        await soon(one.write(insert))
        assert await one.read(count) == expected
        await one.close()
    assert not exists(f"{one.files.bells}/.log")


async def test_a_statement_that_does_not_end_keeps_no_process_from_forking_nor_from_writing_then(
    one: Database, set_times: SetTimes, caplog: pytest.LogCaptureFixture
) -> None:
    """The fork has closed one of the two connections. The other one is closed as well."""
    set_times(fork=0.01)
    before = await one.ready()
    gate = Gate()
    using = asyncio.create_task(asyncio.to_thread(one.try_read, gate))
    await gate.entered()
    forks._before()
    forks._after_in_parent()
    gate.open()
    assert await soon(using) == "passed"
    await soon(one.write(insert, long=True))
    assert await one.read(count) == 1
    with pytest.raises(Lost):
        before.try_read(count)
    (said,) = [each.getMessage() for each in caplog.records if each.levelno == logging.ERROR]
    assert "did not end" in said
