"""The sender: sends of the same time go together, and each sender learns of its own message."""

from __future__ import annotations

import asyncio
import sys
import time
import weakref
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager, closing, nullcontext
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from channels_sqlite._sending import sender as module
from channels_sqlite._storing.schema import MESSAGE
from channels_sqlite.exceptions import DatabaseUnavailable
from tests.conftest import SetTimes
from tests.rows import outgoing, to_group
from tests.sending.parts import Parts, parts
from tests.storing.parts import Gate, locked
from tests.storing.tables import join
from tests.waiting import PATIENCE, cancel, soon, until_gone


@pytest.fixture
async def sending(database: Path, set_times: SetTimes) -> AsyncIterator[Parts]:
    """On a machine that is never slow, however busy it is."""
    set_times(slow=PATIENCE)
    async with parts(database) as made:
        await made.database.ready()
        yield made


@pytest.fixture
async def patient(database: Path) -> AsyncIterator[Parts]:
    """A process that waits for a lock for as long as it takes."""
    async with parts(database, patience=PATIENCE) as made:
        await made.database.ready()
        yield made


def begin(sending: Parts, *numbers: int, **fields: Any) -> list[asyncio.Task[bool]]:
    return [
        asyncio.create_task(sending.sender.send(outgoing(number, **fields))) for number in numbers
    ]


async def count_statements(sending: Parts) -> Callable[[], int]:
    """Counts the INSERTs from now on."""
    ran: list[str] = []

    def note(statement: str) -> None:
        if statement.lstrip().startswith(f"insert into {MESSAGE}"):
            ran.append(statement)

    await sending.database.write(lambda raw: raw.set_trace_callback(note))
    return lambda: len({*ran})  # a trigger traces its statement again


async def test_sends_that_come_while_a_statement_runs_go_with_the_next(sending: Parts) -> None:
    """As many as one statement takes."""
    statements = await count_statements(sending)
    numbers = [*range(1 + module.AT_ONCE + 1)]
    assert all(await soon(asyncio.gather(*begin(sending, *numbers, capacity=1000))))
    assert statements() == 3
    assert sending.sent() == numbers
    assert sending.counters.sent == len(numbers)


async def test_a_large_one_is_the_threads(sending: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    """To copy it takes long."""
    monkeypatch.setattr(module, "LARGE", 10)
    gate = Gate()
    sending.database._worker.submit(gate)
    (small,) = begin(sending, 1)
    assert await soon(small)
    (large,) = begin(sending, 2, body=b"1" * 11)
    await gate.entered()
    assert sending.sent() == [1]
    gate.open()
    assert await soon(large)


@pytest.fixture
async def gate(sending: Parts, monkeypatch: pytest.MonkeyPatch) -> Gate:
    """Keeps the thread busy, to which everything goes."""
    monkeypatch.setattr(module, "LARGE", -1)
    gate = Gate()
    sending.database._worker.submit(gate)
    await gate.entered()
    return gate


async def test_a_cancelled_send_takes_no_others_along(sending: Parts, gate: Gate) -> None:
    tasks = begin(sending, *range(5))
    await asyncio.sleep(0.01)
    await cancel(tasks[0], tasks[2])
    await asyncio.sleep(0.01)
    await cancel(tasks[3])  # while it waits in a batch, with the first and the last
    gate.open()
    results = await soon(asyncio.gather(*tasks, return_exceptions=True))
    assert [str(each) for each in results] == ["", "True", "", "", "True"]
    assert sending.sent() == [1, 4]


async def test_sends_go_on_though_their_driver_is_cancelled(sending: Parts, gate: Gate) -> None:
    """asyncio.run cancels it with all other tasks."""
    first, second = begin(sending, 0, 1)
    await asyncio.sleep(0)
    await cancel(first)
    await asyncio.sleep(0.01)
    (outbox,) = sending.sender._outboxes.values()
    assert isinstance(outbox.owner, asyncio.Task)
    (third,) = begin(sending, 2)
    await asyncio.sleep(0)
    outbox.owner.cancel()
    await asyncio.sleep(0.01)
    gate.open()
    assert await soon(third)
    with pytest.raises(asyncio.CancelledError):
        await second
    assert sending.sent() == [2]


async def test_no_sender_waits_for_ever_after_a_batch_was_interrupted(sending: Parts) -> None:
    """By an exception out of a signal handler, after each call of the driver's in turn."""
    codes = {module.Sender._drive.__code__, module.Sender._write_batch.__code__}
    left = 0

    def count(frame: FrameType, event: str, _: object) -> None:
        nonlocal left
        callers = {each.f_code for each in (frame, frame.f_back) if each}
        if event == "c_return" and codes & callers:
            left -= 1
            if left == 0:
                raise ZeroDivisionError

    calls = 0
    while left <= 0:
        left = calls = calls + 1
        sends = begin(sending, 1, 2, 3, 4)
        sys.setprofile(count)
        try:
            done, waiting = await asyncio.wait(sends, timeout=PATIENCE)
        finally:
            sys.setprofile(None)
        assert not waiting
        for each in done:
            assert each.cancelled() or isinstance(each.exception(), (ZeroDivisionError, type(None)))
    assert calls > 4


async def test_a_loop_makes_one_write_at_a_time_and_keeps_the_order(
    patient: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where senders begin to send again as soon as they are told, beside a lock."""
    write, at_once, most = patient.database.write, 0, 0

    async def counted(*args: Any, **kwargs: Any) -> Any:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        try:
            return await write(*args, **kwargs)
        finally:
            at_once -= 1

    monkeypatch.setattr(patient.database, "write", counted)

    async def send(first: int) -> None:
        for number in range(first, first + 50):
            (task,) = begin(patient, number, capacity=10**6)
            assert await task

    async def lock_now_and_then() -> None:
        for _ in range(20):
            with locked(patient.database.path):
                await asyncio.sleep(0.003)
            await asyncio.sleep(0.001)

    await soon(asyncio.gather(lock_now_and_then(), *map(send, range(0, 600, 100))))
    assert most == 1
    sent = patient.sent()
    assert [each for each in sent if each < 100] == [*range(50)]
    assert len(sent) == 300


def test_a_loop_that_ends_with_sends_under_way_hinders_no_other(database: Path) -> None:
    async def use() -> None:
        async with parts(database) as sending:

            async def leave_some_behind() -> None:
                begin(sending, *range(3))
                await asyncio.sleep(0)

            await asyncio.to_thread(asyncio.run, leave_some_behind())
            assert await soon(sending.sender.send(outgoing(9)))
            assert sending.sent()[-1] == 9

    asyncio.run(use())


async def test_a_loop_that_is_closed_while_a_batch_is_written_is_not_kept(sending: Parts) -> None:
    def close_amid_a_batch() -> weakref.ref[asyncio.AbstractEventLoop]:
        with closing(asyncio.new_event_loop()) as loop:
            loop.call_soon(begin, sending, *range(3))
            begun = False
            while not begun:
                outbox = sending.sender._outboxes.get(loop)
                begun = outbox is not None and isinstance(outbox.owner, asyncio.Task)
                loop.call_soon(loop.stop)
                loop.run_forever()
            return weakref.ref(loop)

    gone = await asyncio.to_thread(close_amid_a_batch)
    assert await soon(sending.sender.send(outgoing(9)))
    await soon(until_gone(gone))


@pytest.mark.parametrize("waits_for", [locked, nullcontext], ids=["a lock", "the opening"])
async def test_a_message_that_expires_while_it_waits_is_refused(
    patient: Parts, waits_for: Callable[[str], AbstractContextManager[object]]
) -> None:
    join(patient.others, "test-channel")
    with waits_for(patient.database.path):
        lasts = 0.05 if waits_for is locked else 0.0
        (task,) = begin(patient, 1, expires_at=time.time() + lasts)
        with pytest.raises(DatabaseUnavailable, match="has expired"):
            await soon(task)
        with pytest.raises(DatabaseUnavailable, match="has expired"):
            await soon(patient.sender.group_send(to_group(2, expires_at=time.time() + lasts)))


async def test_a_send_that_is_cancelled_while_the_thread_waits_for_a_lock(
    patient: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not sent later: its sender may have tried again."""
    monkeypatch.setattr(module, "LARGE", -1)
    with locked(patient.database.path):
        (task,) = begin(patient, 1)
        await asyncio.sleep(0.05)
        await cancel(task)
    assert await soon(asyncio.gather(*begin(patient, 2))) == [True]
    assert patient.sent() == [2]


async def test_a_message_that_has_expired_behind_a_lock_is_not_sent(patient: Parts) -> None:
    with locked(patient.database.path):
        soon_over = begin(patient, 1, 2, expires_at=time.time() + 0.05)
        lasting = begin(patient, 3)
        await asyncio.sleep(0.1)
    for task in soon_over:
        with pytest.raises(DatabaseUnavailable, match="has expired"):
            await soon(task)
    assert await soon(asyncio.gather(*lasting)) == [True]
    assert patient.sent() == [3]


async def test_a_batch_that_fails_at_its_first_deadline_lets_others_wait_on(database: Path) -> None:
    patience = 2.0
    async with parts(database, patience=patience) as sending:
        await sending.database.ready()
        with locked(database):
            early = begin(sending, 1, 2)
            await asyncio.sleep(patience / 2)
            late = begin(sending, 3, 4)
            for task in early:
                with pytest.raises(DatabaseUnavailable, match="locked"):
                    await soon(task)
            assert not any(task.done() for task in late)
        assert await soon(asyncio.gather(*late)) == [True, True]
        assert sending.sent() == [3, 4]


async def test_what_could_not_be_sent_is_not_counted_as_sent(sending: Parts) -> None:
    join(sending.others, "test-channel")
    with locked(sending.database.path):
        with pytest.raises(DatabaseUnavailable):
            await soon(sending.sender.group_send(to_group(1)))
        with pytest.raises(DatabaseUnavailable):
            await soon(sending.sender.send(outgoing(1)))
    assert sending.counters.sent == 0
    await soon(sending.sender.group_send(to_group(2)))
    await soon(sending.sender.send(outgoing(3)))
    assert sending.counters.sent == 2
    assert sending.sent() == [2, 3]


async def test_a_group_that_had_members_is_written_to_once_after_a_lock(patient: Parts) -> None:
    """Its members are not asked for at first, and a lock is not waited for before they are."""
    join(patient.others, "test-channel")
    await soon(patient.sender.group_send(to_group(1)))
    with locked(patient.database.path):
        waiting = asyncio.create_task(patient.sender.group_send(to_group(2)))
        await asyncio.sleep(0.1)
        assert not waiting.done()
    await soon(waiting)
    await soon(patient.sender.group_send(to_group(3)))
    assert patient.sent() == [1, 2, 3]
    assert patient.counters.sent == 3


async def test_no_more_than_so_many_groups_are_remembered(
    sending: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MOST_GROUPS", 3)
    for number in range(10):
        join(sending.others, f"channel-{number}", group=f"group-{number}")
        await soon(sending.sender.group_send(to_group(number, f"group-{number}")))
        assert len(sending.sender._reached) <= 3
    assert sending.sent() == [*range(10)]
