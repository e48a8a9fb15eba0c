"""Writing in place: nobody waits for it, and it waits for nobody."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest

from channels_sqlite import in_place as module
from channels_sqlite.in_place import InPlace, NotNow
from channels_sqlite.schema import SEQUENCE
from tests.parts import locked, parts, sql
from tests.rows import outgoing
from tests.waiting import PATIENCE, cancel, soon, until

NEVER = float("inf")


@pytest.fixture
def in_place(database: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[InPlace]:
    """On a machine that is never slow, however busy it is."""
    monkeypatch.setattr(module, "SLOW", PATIENCE)
    connection = sqlite3.connect(database, isolation_level=None, check_same_thread=False)
    made = InPlace(connection, threading.Lock())
    with closing(made):
        yield made


def write(connection: sqlite3.Connection) -> int:
    connection.execute(f"insert into {SEQUENCE} (inbox, seq) values (hex(randomblob(8)), 1)")
    return threading.get_ident()


def rows(path: Path) -> int:
    with sql(path) as connection:
        ((count,),) = connection.execute(f"select count(*) from {SEQUENCE}").fetchall()
    return int(count)


async def test_runs_on_the_event_loop(in_place: InPlace, database: Path) -> None:
    assert await in_place.run(write, NEVER) == threading.get_ident()
    assert rows(database) == 1


async def test_who_does_nothing_but_write_leaves_others_their_turn(in_place: InPlace) -> None:
    turns: list[str] = []

    async def work(name: str) -> None:
        for _ in range(5):
            await in_place.run(write, NEVER)
            turns.append(name)

    await soon(asyncio.gather(work("a"), work("b")))
    assert turns == ["a", "b"] * 5


async def test_tries_again_while_another_process_writes(in_place: InPlace, database: Path) -> None:
    with locked(database):
        waiting = asyncio.create_task(in_place.run(write, NEVER))
        await asyncio.sleep(5 * module.TRY_AGAIN_AFTER)
        assert not waiting.done()
    await soon(waiting)
    assert rows(database) == 1


async def test_gives_up_on_a_lock_that_is_held(in_place: InPlace, database: Path) -> None:
    with locked(database), pytest.raises(NotNow):
        await soon(in_place.run(write, NEVER))
    assert rows(database) == 0


async def test_who_waits_aside_tries_as_long_as_it_may(
    in_place: InPlace, database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "TRY_FOR", 0)
    with locked(database):
        waiting = asyncio.create_task(in_place.run(write, NEVER, aside=True))
        await asyncio.sleep(3 * module.TRY_LATER_AFTER)
        assert not waiting.done()
    await soon(waiting)
    assert rows(database) == 1


async def test_tries_no_longer_than_it_may(in_place: InPlace, database: Path) -> None:
    tries = 0

    def count(connection: sqlite3.Connection) -> None:
        nonlocal tries
        tries += 1
        write(connection)

    with locked(database), pytest.raises(NotNow):
        await in_place.run(count, time.monotonic() - 1)
    assert tries == 1


async def test_who_is_cancelled_while_the_database_is_locked_writes_nothing(
    in_place: InPlace, database: Path
) -> None:
    with locked(database):
        waiting = asyncio.create_task(in_place.run(write, NEVER))
        await asyncio.sleep(5 * module.TRY_AGAIN_AFTER)
        await cancel(waiting)
    assert await in_place.run(write, NEVER) == threading.get_ident()
    assert rows(database) == 1


@pytest.mark.parametrize("statement", ["insert into nowhere values (1)", "no SQL"])
async def test_what_fails_is_for_the_thread_to_try(in_place: InPlace, statement: str) -> None:
    with pytest.raises(NotNow):
        await in_place.run(lambda connection: connection.execute(statement), NEVER)


async def test_an_error_of_the_function_is_its_own(in_place: InPlace, database: Path) -> None:
    def fail(connection: sqlite3.Connection) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await in_place.run(fail, NEVER)
    await in_place.run(write, NEVER)
    assert rows(database) == 1


async def test_nothing_is_tried_for_a_while_where_a_write_was_slow(
    in_place: InPlace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SLOW", 0.01)
    await in_place.run(lambda _: time.sleep(0.02), NEVER)
    monkeypatch.setattr(module, "SLOW", PATIENCE)
    with pytest.raises(NotNow):
        await in_place.run(write, NEVER)
    await asyncio.sleep(module.SLOW_FOR)
    await in_place.run(write, NEVER)


@pytest.mark.skipif(not hasattr(os, "sched_yield"), reason="There is no such thing here.")
@pytest.mark.parametrize(
    ("late", "stay_for", "slow_for", "times"),
    [(False, 0, PATIENCE, 10), (False, PATIENCE, 0, 1), (True, 0, PATIENCE, 1)],
)
async def test_gives_the_processor_away_now_and_then_and_less_where_it_comes_back_late(
    in_place: InPlace,
    monkeypatch: pytest.MonkeyPatch,
    late: bool,
    stay_for: float,
    slow_for: float,
    times: int,
) -> None:
    """Who was woken by a write goes first; others, who are always there, not each time."""
    given: list[None] = []
    monkeypatch.setattr(module, "TURN", -1 if late else PATIENCE)
    monkeypatch.setattr(module, "STAY_FOR", stay_for)
    monkeypatch.setattr(module, "SLOW_FOR", slow_for)
    monkeypatch.setattr(os, "sched_yield", lambda: given.append(None))
    for _ in range(10):
        await in_place.run(write, NEVER)
    assert len(given) == times


async def test_does_not_wait_for_another_thread(in_place: InPlace) -> None:
    entered, leave = threading.Event(), threading.Event()

    def linger(connection: sqlite3.Connection) -> None:
        entered.set()
        leave.wait(PATIENCE)

    thread = threading.Thread(target=lambda: asyncio.run(in_place.run(linger, NEVER)))
    thread.start()
    assert await asyncio.to_thread(entered.wait, PATIENCE)
    with pytest.raises(NotNow):
        await in_place.run(write, NEVER)
    leave.set()
    await asyncio.to_thread(thread.join, PATIENCE)


async def test_closed_it_leaves_all_to_the_thread(in_place: InPlace) -> None:
    in_place.close()
    with pytest.raises(NotNow):
        await in_place.run(write, NEVER)


# In a database


async def test_quick_functions_do_not_overtake_each_other(
    database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They may be messages of one sender."""
    monkeypatch.setattr(module, "SLOW", -1)  # every write is a slow one
    monkeypatch.setattr(module, "SLOW_FOR", 0.05)
    async with parts(database) as made:
        gate, order = threading.Event(), []

        def begin(number: int) -> asyncio.Task[None]:
            note = partial(order.append, number)
            return asyncio.create_task(made.database.run(lambda _: note(), quick=True))

        await begin(1)
        long = asyncio.create_task(made.database.run(lambda _: gate.wait(PATIENCE)))
        await asyncio.sleep(0)
        second = begin(2)
        await asyncio.sleep(0.1)
        third = begin(3)
        await asyncio.sleep(0.1)
        assert order == [1]
        gate.set()
        await soon(asyncio.gather(long, second, third))
        assert order == [1, 2, 3]


async def test_what_is_quick_does_not_wait_for_what_is_not(database: Path) -> None:
    async with parts(database) as made:
        gate = threading.Event()
        long = asyncio.create_task(made.database.run(lambda _: gate.wait(PATIENCE)))
        await asyncio.sleep(0)
        await soon(made.database.run(write, quick=True))
        assert not long.done()
        gate.set()
        await soon(long)


async def test_the_log_is_copied_into_the_file_by_those_who_write_in_place(database: Path) -> None:
    """A process that does nothing else must not let the log grow."""
    log = database.with_name(f"{database.name}-wal")
    async with parts(database) as made:
        sender = made.sender()
        body = b"x" * 60_000

        async def send(count: int) -> int:
            """How long the log is after that."""
            for number in range(count):
                message = outgoing(number, capacity=10**6)._replace(body=body)
                assert await sender.send(message)
            return log.stat().st_size

        first = await soon(send(500))
        second = await soon(send(1000))
        assert second < 2 * first


async def test_an_error_says_what_it_says_on_the_thread(database: Path) -> None:
    async with parts(database) as made:
        with locked(database), pytest.raises(Exception, match="locked") as caught:
            await soon(made.database.run(write, quick=True))
        assert isinstance(caught.value.__cause__, sqlite3.OperationalError)
        await until(lambda: rows(database) == 0)
