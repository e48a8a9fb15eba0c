"""The worker: one function after the other, and nobody has to wait for it."""

from __future__ import annotations

import asyncio
import gc
import sys
import threading
import weakref
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest

from channels_sqlite._storing.worker import Worker, settled
from tests.storing.parts import Gate
from tests.waiting import PATIENCE, cancel, soon


@pytest.fixture
def worker() -> Iterator[Worker]:
    worker = Worker()
    yield worker
    worker.stop()


def run(worker: Worker, function: Any) -> Any:
    return worker.submit(function).result(PATIENCE)


# The thread


def test_functions_run_in_turn_on_one_daemon_thread(worker: Worker) -> None:
    """Python waits for other threads before it exits, and nobody has to close a layer."""
    order: list[int] = []
    jobs = [worker.submit(partial(order.append, number)) for number in range(50)]
    threads = {run(worker, threading.current_thread) for _ in range(3)}
    assert all(job.done() for job in jobs)
    assert order == [*range(50)]
    (thread,) = threads
    assert thread is not threading.current_thread()
    assert thread.daemon


def _raise(error: type[BaseException]) -> None:
    raise error


def test_stopped_it_ends_after_its_last_job_and_starts_again_with_the_next(worker: Worker) -> None:
    worker.stop()
    gate = Gate()
    gated, last = worker.submit(gate), worker.submit(threading.current_thread)
    worker.stop()
    other = run(worker, threading.current_thread)
    assert not gated.done()
    gate.open()
    ended = last.result(PATIENCE)
    ended.join(PATIENCE)
    assert not ended.is_alive()
    assert other.is_alive()


def test_a_thread_that_cannot_start_is_told_and_changes_nothing(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as full:
        full.setattr(threading.Thread, "start", lambda _: _raise(RuntimeError))
        with pytest.raises(RuntimeError):
            worker.submit(print)
    assert run(worker, lambda: "goes on") == "goes on"


def test_it_keeps_neither_a_function_nor_its_result(worker: Worker) -> None:
    """They may hold a layer that is otherwise gone."""

    class Layer:
        pass

    layer = Layer()
    reference = weakref.ref(layer)
    assert run(worker, partial(lambda each: each, layer)) is layer
    del layer
    gc.collect()
    assert reference() is None


# Waiting for it


async def test_a_job_gives_its_result_or_its_error(worker: Worker) -> None:
    assert await soon(settled(worker.submit(lambda: 1))) == 1
    with pytest.raises(ZeroDivisionError):
        await soon(settled(worker.submit(partial(_raise, ZeroDivisionError))))


async def test_a_cancelled_await_does_not_wait_for_its_job(worker: Worker) -> None:
    gate = Gate()
    job = worker.submit(gate)
    waiting = asyncio.create_task(settled(job))
    await gate.entered()
    await cancel(waiting)
    assert not job.done()
    gate.open()
    assert await asyncio.to_thread(job.result, PATIENCE) == "passed"


@pytest.mark.parametrize("shared", [False, True])
async def test_a_cancelled_await_takes_its_job_back_unless_others_share_it(
    worker: Worker, shared: bool
) -> None:
    gate, ran = Gate(), []
    worker.submit(gate)
    waiting = asyncio.create_task(settled(worker.submit(lambda: ran.append(1)), shared=shared))
    await gate.entered()
    await cancel(waiting)
    gate.open()
    await asyncio.to_thread(run, worker, lambda: None)
    assert ran == [1] * shared


def test_a_loop_that_is_closed_meanwhile_is_not_complained_of(
    worker: Worker, capfd: pytest.CaptureFixture[str]
) -> None:
    gate, loop = Gate(), asyncio.new_event_loop()
    job = worker.submit(gate)
    task: Any = loop.create_task(settled(job))
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    gate.open()
    assert job.result(PATIENCE) == "passed"
    assert run(worker, lambda: "goes on") == "goes on"
    assert capfd.readouterr() == ("", "")
    task._log_destroy_pending = False  # asyncio complains of tasks that are left behind


async def test_what_was_submitted_before_the_stop_is_run() -> None:
    """However late the thread begins: it may be stopped before it has run anything."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for _ in range(2000):
            worker = Worker()
            job = worker.submit(lambda: 1)
            worker.stop()
            assert await settled(job) == 1
    finally:
        sys.setswitchinterval(interval)
