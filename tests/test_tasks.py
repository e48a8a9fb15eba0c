"""Tasks: statements for whom nobody waits, and whose errors are said all the same."""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

import pytest

from channels_sqlite.exceptions import DatabaseUnavailable
from channels_sqlite.tasks import Tasks, is_running
from tests.waiting import cancel, soon


def failing(error: Exception) -> Callable[[], Coroutine[Any, Any, None]]:
    async def work() -> None:
        raise error

    return work


async def test_runs_what_it_is_given() -> None:
    ran = asyncio.Event()

    async def work() -> None:
        ran.set()

    Tasks().spawn(work)
    await soon(ran.wait())


async def test_keeps_a_task_that_nobody_else_keeps() -> None:
    tasks, ran, go = Tasks(), asyncio.Event(), asyncio.Event()

    async def work() -> None:
        await go.wait()
        ran.set()

    tasks.spawn(work)
    await asyncio.sleep(0)
    gc.collect()
    go.set()
    await soon(ran.wait())


async def test_forgets_a_task_that_has_ended() -> None:
    tasks = Tasks()
    for _ in range(10):
        await soon(tasks.spawn(partial(asyncio.sleep, 0)))
    await asyncio.sleep(0)
    assert len(tasks._running) == 0


async def test_a_database_that_does_not_answer_is_a_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    await Tasks().spawn(failing(DatabaseUnavailable("The disk is full.")))
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "The disk is full. Trying again" in record.getMessage()
    assert record.exc_info is None


async def test_any_other_error_is_logged_with_its_traceback(
    caplog: pytest.LogCaptureFixture,
) -> None:
    await Tasks().spawn(failing(ZeroDivisionError("a bug of ours")))
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert "a bug of ours" in caplog.text


async def test_a_task_that_is_cancelled_before_its_first_step_leaves_nothing_behind() -> None:
    """Its loop ends, say; a coroutine that was never awaited would be complained of."""
    await cancel(Tasks().spawn(partial(asyncio.sleep, 3600)))
    gc.collect()


async def test_finish_waits_for_all_of_them_whatever_becomes_of_them(
    caplog: pytest.LogCaptureFixture,
) -> None:
    tasks, ended = Tasks(), []

    async def work(number: int) -> None:
        await asyncio.sleep(0.01 * number)
        ended.append(number)
        if number == 1:
            raise ZeroDivisionError

    for number in range(3):
        tasks.spawn(partial(work, number))
    await soon(tasks.finish())
    assert ended == [0, 1, 2]
    caplog.clear()


async def test_finish_does_not_wait_for_those_of_another_loop() -> None:
    elsewhere = asyncio.new_event_loop()
    tasks = Tasks()

    async def begin() -> asyncio.Task[None]:
        return tasks.spawn(partial(asyncio.sleep, 3600))

    task = await asyncio.to_thread(elsewhere.run_until_complete, begin())
    await soon(tasks.finish())
    assert not task.done()
    await asyncio.to_thread(elsewhere.run_until_complete, cancel(task))
    elsewhere.close()


async def test_is_running_until_it_has_ended() -> None:
    task = Tasks().spawn(partial(asyncio.sleep, 0))
    assert is_running(task)
    await task
    assert not is_running(task)
    assert not is_running(None)


async def test_a_task_whose_loop_was_stopped_or_closed_under_it_is_not_running() -> None:
    elsewhere = asyncio.new_event_loop()
    never = elsewhere.create_future()

    async def begin() -> asyncio.Task[None]:
        async def work() -> None:
            await never

        return Tasks().spawn(work)

    task = await asyncio.to_thread(elsewhere.run_until_complete, begin())
    assert not is_running(task)
    elsewhere.close()
    assert not is_running(task)
    task._log_destroy_pending = False  # type: ignore[attr-defined] # that is what is tested
