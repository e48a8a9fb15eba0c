"""The connections to one file: one in place, which never waits, and one for the thread."""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from channels_sqlite._storing.connections import GROWN, LOOK_EVERY, Connections
from channels_sqlite._storing.files import Files
from channels_sqlite._storing.handle import Busy
from channels_sqlite._storing.once import Once
from channels_sqlite._storing.opener import Opener
from channels_sqlite._storing.worker import Worker
from tests.conftest import SetTimes
from tests.storing.parts import INSERT, insert, locked
from tests.waiting import PATIENCE, soon, threads, until

Open = Callable[..., Connections]


@pytest.fixture
def open_(database: Path, worker: Worker) -> Iterator[Open]:
    """Opens both connections as `Database` does, and closes them when the test is over."""
    with ExitStack() as stack:

        def open_(**options: str) -> Connections:
            opener = Opener("channels", Files(str(database)), options, worker)
            return stack.enter_context(closing(opener.open()))

        yield open_


@pytest.fixture
def both(open_: Open) -> Connections:
    return open_()


def test_a_file_that_cannot_be_opened_twice_is_not_left_open_once(database: Path) -> None:
    files = Files(str(database))
    files.find()
    opened: list[sqlite3.Connection] = []

    def only_once() -> sqlite3.Connection:
        if opened:
            raise Busy
        opened.append(sqlite3.connect(database))
        return opened[0]

    with pytest.raises(Busy):
        Connections(only_once, files, Worker(Once()))
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        opened[0].execute("select 1")


def test_connections_of_which_one_is_closed_are_closed(open_: Open) -> None:
    """A fork may close one, and find the other in use."""
    for handle in ("_in_place", "_on_thread"):
        both = open_()
        assert not both.closed
        getattr(both, handle).close()
        assert both.closed


def test_a_write_naps_once_before_it_is_told_of_a_lock(
    both: Connections, database: Path, set_times: SetTimes
) -> None:
    held = threading.Event()

    def hold() -> None:
        with locked(database):
            held.set()
            time.sleep(0.05)

    set_times(nap=1)
    with threads(hold):
        assert held.wait(PATIENCE)
        both.try_write(insert)
    set_times(nap=0)
    with locked(database), pytest.raises(Busy):
        both.try_write(insert)


def test_after_a_slow_write_the_thread_is_better(both: Connections, set_times: SetTimes) -> None:
    for slow, slow_for, expected in ((PATIENCE, 1, False), (-1, PATIENCE, True), (-1, -1, False)):
        set_times(slow=slow, slow_for=slow_for)
        both.try_write(insert)
        assert both.is_slow == expected


def insert_much(connection: sqlite3.Connection) -> None:
    """More pages than any of these tests has SQLite wait for."""
    connection.execute(INSERT.replace("x'80'", "zeroblob(300000)"))


@pytest.mark.parametrize(("pages", "writes"), [(50, 5), (0, None)])
async def test_the_thread_makes_a_checkpoint_after_as_many_writes_as_the_project_wants(
    open_: Open, database: Path, worker: Worker, pages: int, writes: int | None
) -> None:
    """SQLite itself makes none in between, and none is made where the project wants none."""
    both = open_(init_command=f"pragma wal_autocheckpoint = {pages}")
    size = os.stat(database).st_size
    for _ in range(20 if writes is None else writes - 1):
        both.try_write(insert_much)
        await soon(worker.run(threading.get_ident))  # what was posted is done
        assert os.stat(database).st_size == size
    if writes is not None:
        both.try_write(insert_much)
        await until(lambda: os.stat(database).st_size > size)


async def test_a_log_that_large_bodies_fill_is_copied_back_after_fewer_writes(
    both: Connections, database: Path
) -> None:
    size = os.stat(database).st_size
    large = INSERT.replace("x'80'", f"zeroblob({GROWN // LOOK_EVERY})")
    for _ in range(LOOK_EVERY):
        both.try_write(lambda connection: connection.execute(large))
    await until(lambda: os.stat(database).st_size > size)
