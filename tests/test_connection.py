"""The connection: calls on a thread, which are run once and waited for, whatever becomes of those
who asked.
"""

from __future__ import annotations

import asyncio
import sqlite3
import threading
import time
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest

from channels_sqlite.connection import Connection, ConnectionLost
from tests.parts import locked
from tests.waiting import PATIENCE, cancel, soon

ARGUMENTS = {"timeout": 5, "isolation_level": None, "uri": True}


def nothing(connection: sqlite3.Connection) -> None:
    pass


async def open_connection(
    path: Path | str, check: Callable[..., None] = nothing, configure: Callable[..., None] = nothing
) -> Connection:
    """As `Database` opens it: on a daemon thread that does nothing else."""
    opened: asyncio.Future[Connection] = asyncio.get_running_loop().create_future()

    def settle(result: Connection | None, error: BaseException | None) -> None:
        if result is not None:
            opened.set_result(result)
        elif error is not None:
            opened.set_exception(error)

    def open_() -> None:
        result: Connection | None = None
        error: BaseException | None = None
        try:
            result = Connection(str(path), ARGUMENTS, check, configure)
        except Exception as raised:
            error = raised
        opened.get_loop().call_soon_threadsafe(settle, result, error)
        if result is not None:
            result.outlive()

    threading.Thread(target=open_, daemon=True).start()
    return await soon(opened)


@pytest.fixture
async def connection(database: Path) -> AsyncIterator[Connection]:
    opened = await open_connection(database)
    yield opened
    if not opened.closed:
        await opened.close()


class Gate:
    """A function for the thread that does not return before it is told to."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.open = threading.Event()
        self.passed = False

    def __call__(self, connection: sqlite3.Connection) -> str:
        self.entered.set()
        assert self.open.wait(PATIENCE)
        self.passed = True
        return "passed"


@pytest.fixture
async def mortal(database: Path) -> AsyncIterator[Connection]:
    """A connection whose thread the test kills."""
    opened = await open_connection(database)
    yield opened
    await asyncio.to_thread(opened.ended.result, PATIENCE)


@pytest.fixture
def gate() -> Gate:
    return Gate()


async def in_flight(connection: Connection, gate: Gate) -> asyncio.Task[str]:
    """A call that the thread is at."""
    task = asyncio.create_task(connection.run(gate))
    assert await asyncio.to_thread(gate.entered.wait, PATIENCE)
    return task


async def running_thread(connection: Connection) -> threading.Thread:
    return await soon(connection.run(lambda _: threading.current_thread()))


# Calls


async def test_gives_the_functions_result(connection: Connection) -> None:
    assert await connection.run(lambda raw: raw.execute("select 1").fetchall()) == [(1,)]


async def test_raises_the_functions_error(connection: Connection) -> None:
    with pytest.raises(sqlite3.OperationalError):
        await connection.run(lambda raw: raw.execute("select * from nowhere"))
    with pytest.raises(ZeroDivisionError):
        await connection.run(lambda _: 1 / 0)
    with pytest.raises(ValueError, match="of the function"):
        await connection.run(lambda _: int("of the function"))


async def test_goes_on_after_an_error(connection: Connection) -> None:
    with pytest.raises(ZeroDivisionError):
        await connection.run(lambda _: 1 / 0)
    assert await connection.run(lambda _: 1) == 1


async def test_every_call_is_run_on_one_thread_in_turn(connection: Connection) -> None:
    order: list[int] = []

    def note(number: int) -> Callable[[sqlite3.Connection], threading.Thread]:
        def function(_: sqlite3.Connection) -> threading.Thread:
            order.append(number)
            return threading.current_thread()

        return function

    ran_on = await soon(asyncio.gather(*[connection.run(note(number)) for number in range(50)]))
    assert order == [*range(50)]
    assert len(set(ran_on)) == 1
    assert ran_on[0] is not threading.current_thread()


async def test_its_thread_does_not_keep_the_interpreter_from_exiting(
    connection: Connection,
) -> None:
    assert (await running_thread(connection)).daemon


def echo(number: int, _: sqlite3.Connection) -> int:
    return number


def test_serves_one_loop_after_the_other(database: Path) -> None:
    connection = asyncio.run(open_connection(database))
    for number in range(5):
        assert asyncio.run(connection.run(partial(echo, number))) == number
    asyncio.run(connection.close())


async def test_serves_several_loops_at_once(connection: Connection) -> None:
    async def work(begin: int) -> list[int]:
        return [await connection.run(partial(echo, number)) for number in range(begin, begin + 50)]

    results = await asyncio.gather(
        *[asyncio.to_thread(asyncio.run, work(begin)) for begin in (0, 100, 200)]
    )
    assert results == [[*range(begin, begin + 50)] for begin in (0, 100, 200)]


# Opening


async def test_a_check_that_fails_leaves_nothing_open(database: Path) -> None:
    opened: list[sqlite3.Connection] = []

    def refuse(connection: sqlite3.Connection) -> None:
        opened.append(connection)
        raise PermissionError("refused")

    with pytest.raises(PermissionError, match="refused"):
        await open_connection(database, check=refuse)
    assert_closed(*opened)


async def test_a_configuration_that_fails_leaves_nothing_open(database: Path) -> None:
    opened: list[sqlite3.Connection] = []
    threads: list[threading.Thread] = []

    def stumble(connection: sqlite3.Connection) -> None:
        opened.append(connection)
        threads.append(threading.current_thread())
        connection.execute("nonsense")

    with pytest.raises(sqlite3.OperationalError):
        await open_connection(database, check=opened.append, configure=stumble)
    await asyncio.to_thread(threads[0].join, PATIENCE)
    assert not threads[0].is_alive()
    assert_closed(*opened)


async def test_a_configuration_that_fails_in_place_leaves_nothing_open(database: Path) -> None:
    """The thread's connection is configured first, and open by then."""
    opened: list[sqlite3.Connection] = []
    threads: list[threading.Thread] = []

    def stumble_later(connection: sqlite3.Connection) -> None:
        opened.append(connection)
        threads.append(threading.current_thread())
        if len(threads) == 2:
            connection.execute("nonsense")

    with pytest.raises(sqlite3.OperationalError):
        await open_connection(database, check=opened.append, configure=stumble_later)
    assert len({*threads}) == 2
    for thread in threads:
        await asyncio.to_thread(thread.join, PATIENCE)
        assert not thread.is_alive()
    assert_closed(*opened)


def assert_closed(*connections: sqlite3.Connection) -> None:
    assert connections
    for connection in connections:
        with pytest.raises(sqlite3.ProgrammingError, match="closed"):
            connection.execute("select 1")


# Reading in place


async def test_the_reader_cannot_write(connection: Connection) -> None:
    with pytest.raises(sqlite3.OperationalError):
        connection.reader.execute("create table t (x)")


async def test_the_reader_does_not_wait_for_locks(connection: Connection) -> None:
    assert connection.reader.execute("pragma busy_timeout").fetchall() == [(0,)]


async def test_the_reader_sees_what_was_just_written(connection: Connection) -> None:
    await connection.run(lambda raw: raw.execute("create table t (x)").fetchall())
    assert connection.reader.execute("select count(*) from t").fetchall() == [(0,)]


async def test_the_reader_may_be_used_from_any_thread(connection: Connection) -> None:
    read = connection.reader.execute
    assert await asyncio.to_thread(lambda: read("select 1").fetchall()) == [(1,)]


async def test_text_that_is_no_text_does_not_end_a_reader(connection: Connection) -> None:
    (found,) = connection.reader.execute("select cast(x'61ff62' as text)").fetchall()
    assert found == ("a\N{REPLACEMENT CHARACTER}b",)


# Cancelling


async def test_a_cancelled_call_is_waited_for(connection: Connection, gate: Gate) -> None:
    """It cannot be taken back: who is told that it ended may rely on that."""
    task = await in_flight(connection, gate)
    task.cancel()
    done, _ = await asyncio.wait([task], timeout=0.05)
    assert not done
    gate.open.set()
    with pytest.raises(asyncio.CancelledError):
        await soon(task)
    assert gate.passed


async def test_a_call_that_is_cancelled_again_and_again_is_waited_for(
    connection: Connection, gate: Gate
) -> None:
    task = await in_flight(connection, gate)
    for _ in range(5):
        task.cancel()
        await asyncio.sleep(0.005)
        assert not task.done()
    gate.open.set()
    with pytest.raises(asyncio.CancelledError):
        await soon(task)
    assert gate.passed


async def test_a_call_that_is_cancelled_in_the_queue_is_run_and_waited_for(
    connection: Connection, gate: Gate
) -> None:
    first = await in_flight(connection, gate)
    ran: list[bool] = []
    queued = asyncio.create_task(connection.run(lambda _: ran.append(True)))
    await asyncio.sleep(0)
    queued.cancel()
    await asyncio.sleep(0.01)
    assert not queued.done()
    gate.open.set()
    with pytest.raises(asyncio.CancelledError):
        await soon(queued)
    assert ran == [True]
    assert await first == "passed"


async def test_a_cancelled_transaction_does_not_hold_the_lock(
    connection: Connection, database: Path, gate: Gate
) -> None:
    def transaction(raw: sqlite3.Connection) -> None:
        raw.execute("begin immediate")
        gate(raw)
        raw.execute("commit")

    task = asyncio.create_task(connection.run(transaction))
    await asyncio.to_thread(gate.entered.wait, PATIENCE)
    task.cancel()
    gate.open.set()
    with pytest.raises(asyncio.CancelledError):
        await soon(task)
    other = sqlite3.connect(database, isolation_level=None, timeout=0)
    other.execute("begin immediate")
    other.close()


async def test_other_calls_go_on_after_a_cancelled_one(connection: Connection, gate: Gate) -> None:
    task = await in_flight(connection, gate)
    after = asyncio.create_task(connection.run(lambda _: "after"))
    await asyncio.sleep(0)
    task.cancel()
    gate.open.set()
    assert await soon(after) == "after"
    await cancel(task)


# Locks


@pytest.mark.parametrize("patience", [1, 200])
async def test_calls_in_a_queue_wait_for_a_lock_together(
    database: Path, connection: Connection, gate: Gate, patience: int
) -> None:
    """Were each of them to wait as long as the first, the last would wait a minute."""
    await connection.run(lambda raw: raw.execute(f"pragma busy_timeout = {patience}").fetchall())
    await connection.run(lambda raw: cast(Any, raw).learn_patience())

    async def write() -> float:
        begun = time.monotonic()
        with pytest.raises(sqlite3.OperationalError):
            await connection.run(lambda raw: raw.execute("begin immediate").fetchall())
        return time.monotonic() - begun

    with locked(database):
        waits = await soon(asyncio.gather(*[write() for _ in range(300)]))
    assert min(waits) > 0.8 * patience / 1000
    assert max(waits) < 3


async def test_who_came_too_late_is_tried_once_and_the_next_waits_again(
    database: Path, connection: Connection
) -> None:
    def patience(raw: sqlite3.Connection) -> int:
        ((found,),) = raw.execute("pragma busy_timeout").fetchall()
        return int(found)

    long_ago = time.monotonic() - 60
    assert await connection.run(patience, since=long_ago) == 0
    assert await connection.run(patience, since=time.monotonic() - 2) in range(2900, 3001)
    assert await connection.run(patience) == 5000
    write = partial(lambda raw: raw.execute("begin immediate").fetchall())
    with locked(database), pytest.raises(sqlite3.OperationalError):
        await connection.run(write, since=long_ago)
    await connection.run(write, since=long_ago)


# The thread's death

dies_of_it = pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")


async def doomed_call(connection: Connection, gate: Gate) -> asyncio.Task[Any]:
    """A call in flight whose event loop is closed; the thread will die when it reports to it."""

    def begin() -> asyncio.Task[Any]:
        loop = asyncio.new_event_loop()
        task = loop.create_task(connection.run(gate))
        loop.run_until_complete(asyncio.sleep(0))
        assert gate.entered.wait(PATIENCE)
        loop.close()
        return task

    task = await asyncio.to_thread(begin)
    task._log_destroy_pending = False  # type: ignore[attr-defined] # that is what is tested
    return task


@dies_of_it
async def test_a_loop_that_is_closed_abruptly_kills_the_thread(
    mortal: Connection, gate: Gate
) -> None:
    thread = await running_thread(mortal)
    task = await doomed_call(mortal, gate)
    assert mortal.is_alive
    gate.open.set()
    await asyncio.to_thread(thread.join, PATIENCE)
    assert not mortal.is_alive
    assert gate.passed
    assert not task.done()


@dies_of_it
async def test_calls_behind_a_dead_thread_are_told_that_they_are_lost(
    mortal: Connection, gate: Gate
) -> None:
    """Also those that were cancelled, and wait for their end."""
    thread = await running_thread(mortal)
    task = await doomed_call(mortal, gate)
    ran: list[bool] = []
    lost = [asyncio.create_task(mortal.run(lambda _: ran.append(True))) for _ in range(3)]
    await asyncio.sleep(0)
    lost[2].cancel()
    await asyncio.sleep(0)
    gate.open.set()
    await asyncio.to_thread(thread.join, PATIENCE)
    mortal.ended.result(PATIENCE)
    results = await soon(asyncio.gather(*lost, return_exceptions=True))
    assert [type(each) for each in results[:2]] == [ConnectionLost, ConnectionLost]
    assert isinstance(results[2], (ConnectionLost, asyncio.CancelledError))
    assert ran == []
    assert not task.done()


@dies_of_it
async def test_who_is_told_of_a_lost_call_is_not_cancelled(mortal: Connection, gate: Gate) -> None:
    """It can await, and time out, as before."""
    thread = await running_thread(mortal)
    doomed = await doomed_call(mortal, gate)

    async def caller() -> str:
        with pytest.raises(ConnectionLost):
            await mortal.run(lambda _: None)
        await asyncio.sleep(0)
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(asyncio.Event().wait(), 0.01)
        return "goes on"

    task = asyncio.create_task(caller())
    await asyncio.sleep(0)
    gate.open.set()
    await asyncio.to_thread(thread.join, PATIENCE)
    mortal.ended.result(PATIENCE)
    assert await soon(task) == "goes on"
    assert not doomed.done()


@dies_of_it
@pytest.mark.parametrize("at", ["dead", "buried"])
async def test_a_call_after_its_thread_has_died_is_lost(
    mortal: Connection, gate: Gate, at: str
) -> None:
    """Also when those who waited have been told already."""
    thread = await running_thread(mortal)
    task = await doomed_call(mortal, gate)
    gate.open.set()
    thread.join(PATIENCE)
    if at == "buried":
        mortal.ended.result(PATIENCE)
    for _ in range(2):
        with pytest.raises(ConnectionLost):
            await soon(mortal.run(lambda _: None))
    await asyncio.sleep(0)  # it is not cancelled
    assert not task.done()


# Closing


async def test_closing_waits_for_the_calls_in_flight(connection: Connection, gate: Gate) -> None:
    task = await in_flight(connection, gate)
    closing = asyncio.create_task(connection.close())
    await asyncio.sleep(0.01)
    assert not closing.done()
    gate.open.set()
    assert await soon(task) == "passed"
    await soon(closing)


async def test_a_closed_connection_has_no_thread(connection: Connection) -> None:
    thread = await running_thread(connection)
    await connection.close()
    await asyncio.to_thread(thread.join, PATIENCE)
    assert not connection.is_alive


async def test_a_call_after_closing_is_lost(connection: Connection) -> None:
    await connection.close()
    with pytest.raises(ConnectionLost):
        await soon(connection.run(lambda _: 1))


@dies_of_it
@pytest.mark.parametrize("at", ["in flight", "dead", "buried"])
async def test_closing_a_connection_whose_thread_dies_leaves_nothing_open(
    mortal: Connection, gate: Gate, at: str
) -> None:
    """Whether it dies before it is closed, or meanwhile."""
    raw = await soon(mortal.run(lambda connection: connection))
    thread = await running_thread(mortal)
    task = await doomed_call(mortal, gate)
    if at == "in flight":
        closing = asyncio.create_task(mortal.close())
        await asyncio.sleep(0.01)
        assert not closing.done()
        gate.open.set()
        await soon(closing)
    else:
        gate.open.set()
        thread.join(PATIENCE)  # on the loop: what waits for its end may not have noticed
        if at == "buried":
            mortal.ended.result(PATIENCE)
        await soon(mortal.close())
    for each in (raw, mortal.reader):
        with pytest.raises(sqlite3.ProgrammingError, match="closed"):
            each.execute("select 1")
    assert not task.done()


async def test_an_abandoned_connection_ends_what_was_asked_for(
    connection: Connection, gate: Gate
) -> None:
    """And then its thread, while nobody waits."""
    thread = await running_thread(connection)
    task = await in_flight(connection, gate)
    connection.abandon()
    with pytest.raises(ConnectionLost):
        await soon(connection.run(lambda _: 1))
    gate.open.set()
    assert await soon(task) == "passed"
    await asyncio.to_thread(thread.join, PATIENCE)


async def test_a_call_that_was_run_before_the_end_is_not_lost(
    connection: Connection, gate: Gate
) -> None:
    """Its loop may not have heard of it yet when the thread is gone; it must not be run again."""
    thread = await running_thread(connection)
    task = await in_flight(connection, gate)
    connection.abandon()
    gate.open.set()
    thread.join(PATIENCE)  # on the loop, which hears of nothing meanwhile
    connection.ended.result(PATIENCE)
    assert await soon(task) == "passed"
