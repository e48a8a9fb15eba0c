"""The worker: one function after the other, and nobody has to wait for it."""

from __future__ import annotations

import asyncio
import gc
import sys
import threading
import weakref
from functools import partial

import pytest

from channels_sqlite._storing.once import Once
from channels_sqlite._storing.worker import Worker
from tests.storing.parts import Gate
from tests.waiting import PATIENCE, cancel, soon


async def test_stopped_it_ends_after_its_last_job_and_starts_with_the_next(worker: Worker) -> None:
    worker.stop()
    gate = Gate()
    gated = asyncio.create_task(worker.run(gate))
    last = asyncio.create_task(worker.run(threading.current_thread))
    await asyncio.sleep(0)
    worker.stop()
    other = await soon(worker.run(threading.current_thread))
    assert not gated.done()
    gate.open()
    ended = await soon(last)
    ended.join(PATIENCE)
    assert not ended.is_alive()
    assert other.is_alive()


async def test_an_error_is_the_callers_and_does_not_end_the_thread(worker: Worker) -> None:
    with pytest.raises(ZeroDivisionError):
        await soon(worker.run(lambda: 1 // 0))
    with pytest.raises(RuntimeError, match="StopIteration"):  # a get_capacity of a project's
        await soon(worker.run(lambda: next(iter(()))))
    assert worker.post("Leaving", sys.exit)  # for which nobody waits
    assert await soon(worker.run(lambda: "goes on")) == "goes on"


async def test_what_is_asked_for_again_and_again_does_not_pile_up(worker: Worker) -> None:
    """As by each look at a database that cannot be opened."""
    run: list[str] = []
    gate = Gate()
    first = asyncio.create_task(worker.run(gate))
    await gate.entered()
    posted = [
        worker.post(topic, partial(run.append, topic), alone=True)
        for topic in ("Opening", "Opening", "A checkpoint")
    ]
    assert posted == [True, False, True]
    gate.open()
    await soon(first)
    await soon(worker.run(lambda: worker.post("Opening", partial(run.append, "again"), alone=True)))
    await soon(worker.run(int))
    assert run == ["Opening", "A checkpoint", "again"]


async def test_a_cancelled_await_takes_back_what_was_not_begun(worker: Worker) -> None:
    run: list[str] = []
    gate = Gate()
    first = asyncio.create_task(worker.run(gate))
    await gate.entered()
    unwanted = asyncio.create_task(worker.run(lambda: run.append("unwanted")))
    wanted = asyncio.create_task(worker.run(lambda: run.append("wanted"), always=True))
    await asyncio.sleep(0)
    for task in (first, unwanted, wanted):
        await cancel(task)
    gate.open()
    await soon(worker.run(lambda: run.append("last")))
    assert run == ["wanted", "last"]


async def test_it_keeps_neither_a_function_nor_its_result(worker: Worker) -> None:
    """They may hold a layer that is otherwise gone."""

    class Layer:
        pass

    layer = Layer()
    reference = weakref.ref(layer)
    assert await soon(worker.run(partial(lambda each: each, layer))) is layer
    del layer
    await soon(worker.run(gc.collect))
    gc.collect()
    assert reference() is None


async def test_what_was_submitted_before_the_stop_is_run() -> None:
    """However late the thread begins: it may be stopped before it has run anything."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for _ in range(500):
            worker = Worker(Once())
            job = asyncio.create_task(worker.run(lambda: 1))
            await asyncio.sleep(0)
            worker.stop()
            assert await soon(job) == 1
    finally:
        sys.setswitchinterval(interval)


def test_a_loop_that_was_closed_does_not_end_the_thread(worker: Worker) -> None:
    begun, go_on, done = [threading.Event() for _ in range(3)]

    def wait() -> None:
        begun.set()
        go_on.wait()

    loop = asyncio.new_event_loop()
    task = loop.create_task(worker.run(wait))
    loop.run_until_complete(asyncio.sleep(0))
    assert begun.wait(PATIENCE)
    loop.close()
    go_on.set()
    worker.submit(done.set)
    assert done.wait(PATIENCE)
    task._log_destroy_pending = False  # type: ignore[attr-defined]  # nobody can end it now
