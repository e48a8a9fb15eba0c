"""One layer on many threads, each with event loops that come and go while others use it."""

from __future__ import annotations

import asyncio
import gc
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any
from weakref import WeakSet

import pytest
from channels.exceptions import ChannelFull

from channels_sqlite._storing.schema import SEND
from tests.conftest import OpenLayer, SetTimes, Start
from tests.faults.peers import Peer
from tests.kinds import by_each_watcher, ours
from tests.rows import message, sql
from tests.waiting import PATIENCE, cancel, soon, threads, until

THREADS = 6
SECONDS = 1.0


def test_loops_come_and_go_on_many_threads(open_layer: OpenLayer) -> None:
    """They live for three messages. It once crashed."""
    layer = open_layer(capacity=100_000)
    ends_at = time.monotonic() + SECONDS

    async def three(channel: str, close: bool) -> None:
        for _ in range(3):
            await layer.send(channel, {"type": "test"})
        for _ in range(3):
            await soon(layer.receive(channel))
        if close:
            await layer.close()

    def work(number: int) -> None:
        while time.monotonic() < ends_at:
            asyncio.run(three(f"test-{number}", close=number == 0))

    with threads(*[partial(work, number) for number in range(THREADS)]):
        pass


@by_each_watcher
async def test_a_loop_that_stands_still_claims_nothing(layer: Any, start: Start) -> None:
    """Nor does another loop for it: there are others who take the job."""
    still, go_on = threading.Event(), threading.Event()

    async def stand_still() -> None:
        waiting = asyncio.ensure_future(layer.receive("jobs"))
        await asyncio.sleep(0.1)
        still.set()
        go_on.wait(PATIENCE)
        await cancel(waiting)

    here = asyncio.ensure_future(layer.receive(await layer.new_channel()))
    with threads(lambda: asyncio.run(stand_still())):
        await until(still.is_set)
        peer = Peer(start)
        await asyncio.to_thread(peer.consume, "jobs")
        for number in range(6):
            await layer.send("jobs", message(number))
            await asyncio.sleep(0.05)
        assert await asyncio.to_thread(peer.heard, "jobs", 5) == [*range(6)]
        go_on.set()
    await cancel(here)


@ours
async def test_loops_share_a_channel_though_only_one_is_rung(
    layer: Any, set_times: SetTimes
) -> None:
    """A message for each of them is there before any of them looks."""
    set_times(heartbeat=60.0)  # which would find what another look has left
    taken: list[int] = []

    async def take(ready: threading.Event) -> None:
        waiting = asyncio.ensure_future(soon(layer.receive("jobs")))
        await asyncio.sleep(0.1)
        ready.set()
        taken.append((await waiting)["number"])

    for _ in range(5):
        ready = [threading.Event() for _ in range(3)]
        with threads(*[partial(asyncio.run, take(each)) for each in ready]):
            await until(lambda: all(each.is_set() for each in ready))  # noqa: B023
            await asyncio.gather(*[layer.send("jobs", message(number)) for number in range(3)])
    assert sorted(taken) == sorted([*range(3)] * 5)


@pytest.fixture
def hasty() -> Iterator[None]:
    """Threads take turns amid everything."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


@pytest.mark.usefixtures("hasty")
def test_many_threads_begin_to_send_and_to_receive_at_any_time(open_layer: OpenLayer) -> None:
    """Each time on a new event loop, as async_to_sync does it."""
    layers = [open_layer(capacity=10**6) for _ in range(THREADS)]
    ends_at = time.monotonic() + SECONDS

    async def send(number: int) -> None:
        await layers[0].send(f"channel-{number}", {"type": "test"})

    async def begin(number: int) -> None:
        waiting = asyncio.create_task(layers[number].receive(f"nobody-{number}"))
        await asyncio.sleep(0.01)
        await cancel(waiting)

    def work(verb: Callable[[int], Coroutine[Any, Any, None]], number: int) -> None:
        while time.monotonic() < ends_at:
            asyncio.run(verb(number))

    with threads(*[partial(work, v, n) for n in range(THREADS) for v in (send, begin)]):
        pass
    assert layers[0].counters.sent


def test_a_claim_outlives_the_loop_that_made_it(layer: Any, database: Path) -> None:
    """A loop that ends has claimed for a consumer of another one, which stands still meanwhile."""
    ends = threading.Event()
    got: list[Any] = []

    async def end() -> None:
        channel = await layer.new_channel()

        async def listen() -> None:
            try:
                await layer.receive(channel)
            finally:
                ends.set()
                await asyncio.sleep(0.3)  # it cleans up

        listening = asyncio.create_task(listen())
        await asyncio.sleep(0.5)
        assert not listening.done()  # and asyncio.run cancels it

    async def wait() -> None:
        waiting = asyncio.create_task(layer.receive("work"))
        while not ends.is_set():  # noqa: ASYNC110 - it is of another loop
            await asyncio.sleep(0.005)
        time.sleep(0.4)  # noqa: ASYNC251 - it computes
        got.append(await soon(waiting))

    with threads(lambda: asyncio.run(wait()), lambda: asyncio.run(end())):
        assert ends.wait(PATIENCE)
        with sql(database) as connection:
            connection.execute(f"insert into {SEND} values ('work', '{{}}')")
    assert got == [{}]


def test_a_loop_that_stands_still_does_not_keep_a_message(layer: Any) -> None:
    """Its consumer was the first to wait. The heartbeat of another loop tells the others, too."""
    stands_still, received = threading.Event(), threading.Event()

    async def stand_still() -> None:
        waiting = asyncio.create_task(layer.receive("work"))
        await asyncio.sleep(0.2)
        stands_still.set()
        assert received.wait(PATIENCE)
        await cancel(waiting)

    async def receive() -> None:
        while not stands_still.is_set():  # noqa: ASYNC110 - it is of another loop
            await asyncio.sleep(0.005)
        waiting = asyncio.create_task(layer.receive("work"))
        await asyncio.sleep(0.1)
        await layer.send("work", {"type": "test"})
        assert await soon(waiting) == {"type": "test"}
        received.set()

    with threads(lambda: asyncio.run(stand_still())):
        asyncio.run(receive())


def test_what_was_claimed_for_consumers_of_another_loop_is_not_dropped(
    open_layer: OpenLayer,
) -> None:
    """However small the capacity: they asked for it."""
    layer = open_layer(capacity=1)
    stop = threading.Event()
    got = 0

    async def one() -> None:
        nonlocal got
        while True:
            await layer.receive("jobs")
            got += 1

    async def work() -> None:
        consumers = [asyncio.create_task(one()) for _ in range(3)]
        while not stop.is_set():
            await asyncio.sleep(0.02)
            time.sleep(0.02)  # noqa: ASYNC251 - a loop that has something to do
        await cancel(*consumers)
        await layer.close()

    async def send() -> None:
        other = asyncio.create_task(layer.receive("other"))  # so that this loop looks
        sent = 0
        for number in range(100):
            with suppress(ChannelFull):
                await layer.send("jobs", {"type": "test", "number": number})
                sent += 1
            await asyncio.sleep(0.003)
        await until(lambda: got == sent)
        await cancel(other)

    with threads(lambda: asyncio.run(work())):
        try:
            asyncio.run(send())
        finally:
            stop.set()
    assert layer.counters.dropped == 0


def test_event_loops_that_have_ended_are_not_kept(open_layer: OpenLayer) -> None:
    """Nor where several sent at the same time."""
    layer = open_layer(auto_trim=False, capacity=1000)
    loops: WeakSet[asyncio.AbstractEventLoop] = WeakSet()

    async def send() -> None:
        loops.add(asyncio.get_running_loop())
        await asyncio.gather(*[layer.send("test-channel", {"type": "test"}) for _ in range(3)])

    for _ in range(20):
        asyncio.run(send())
    gc.collect()
    assert len(loops) <= 2
