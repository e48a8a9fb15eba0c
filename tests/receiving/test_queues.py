"""Queues: each message to a consumer that waits, or kept for the next one, in order."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import AsyncIterator, Iterator

import pytest

from channels_sqlite._receiving.queues import Loop, Queues, Waiter
from channels_sqlite.counters import Counters, DropLog
from tests.rows import item
from tests.waiting import cancel, soon, until, wait_until

CHANNEL = "test-channel"
CAPACITY = 3


class Consuming:
    """Queues, with the channel and the running loop filled in."""

    def __init__(self) -> None:
        self.counters = Counters()
        self.drops = DropLog(self.counters)
        self.queues = Queues(threading.RLock(), lambda _: CAPACITY, self.drops)
        self.here = asyncio.get_running_loop()

    def deliver(self, *numbers: int, deadline: float = float("inf")) -> None:
        for number in numbers:
            self.queues.deliver([CHANNEL], item(number, deadline), self.here)

    def begin(self, here: Loop | None = None) -> Waiter:
        """A consumer waits, for which nothing is there."""
        waiter: Waiter = (here or self.here).create_future()
        assert self.queues.take_or_wait(CHANNEL, waiter) is None
        return waiter

    def leave(self, waiter: Waiter) -> None:
        self.queues.leave(CHANNEL, waiter, self.here)

    async def receive(self) -> int:
        """The next message, awaited as the receiver does it."""
        while True:
            waiter: Waiter = asyncio.get_running_loop().create_future()
            try:
                item = self.queues.take_or_wait(CHANNEL, waiter) or await waiter
            except asyncio.CancelledError:
                self.leave(waiter)
                raise
            if item is not None:
                return item.row.id
            self.leave(waiter)

    def take_all(self) -> list[int]:
        """The messages that are there, for consumers that do not wait."""
        numbers = []
        waiter: Waiter = self.here.create_future()
        while item := self.queues.take_or_wait(CHANNEL, waiter):
            numbers.append(item.row.id)
        self.leave(waiter)
        return numbers


@pytest.fixture
async def consuming() -> AsyncIterator[Consuming]:
    consuming = Consuming()
    yield consuming
    consuming.drops._say()  # or the next test hears of it


@pytest.fixture
def elsewhere() -> Iterator[Loop]:
    """An event loop that runs on a thread of its own."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    wait_until(loop.is_running)
    yield loop
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


async def test_a_message_passes_one_that_is_being_cancelled(consuming: Consuming) -> None:
    cancelled, next_one = consuming.begin(), consuming.begin()
    cancelled.cancel()
    consuming.deliver(1)
    handed = await soon(next_one)
    assert handed is not None
    assert handed.row.id == 1
    consuming.leave(cancelled)
    consuming.leave(cancelled)
    assert not consuming.queues.is_waited_for(CHANNEL)
    assert consuming.take_all() == []
    # An interruption may come amid its leaving.
    consuming.begin().cancel()
    assert consuming.queues.wanted(CHANNEL) == 0
    assert not consuming.queues.is_waited_for(CHANNEL)
    consuming.begin().cancel()
    consuming.deliver(1)
    assert not consuming.queues.is_waited_for(CHANNEL)
    assert consuming.take_all() == [1]


async def test_a_consumer_of_this_loop_is_told_first_and_tells_the_next_if_it_is_cancelled(
    consuming: Consuming, elsewhere: Loop
) -> None:
    """The other loop may stand still."""
    other, own = consuming.begin(elsewhere), consuming.begin()
    consuming.deliver(1)
    assert await soon(own) is None
    assert not other.done()
    consuming.leave(own)
    await until(other.done)


@pytest.mark.parametrize("seed", range(10))
async def test_any_history_of_cancelling_keeps_the_order(consuming: Consuming, seed: int) -> None:
    """Nothing twice, nothing lost."""
    chance, got = random.Random(seed), list[int]()

    async def consume() -> None:
        while True:
            got.append(await consuming.receive())

    consumer = asyncio.create_task(consume())
    for sent in range(100):
        consuming.deliver(sent)
        for _ in range(chance.choice([0, 0, 1, 2])):
            await asyncio.sleep(0)
        if chance.random() < 0.5:
            await cancel(consumer)
            consumer = asyncio.create_task(consume())
        if sent - len(got) >= CAPACITY - 1:
            await until(lambda sent=sent: len(got) > sent)  # type: ignore[misc]
    await until(lambda: len(got) == 100)
    await cancel(consumer)
    assert got == [*range(100)]
    assert consuming.counters.dropped == 0


async def test_wanted_is_what_consumers_wait_for_and_is_not_there(consuming: Consuming) -> None:
    waiters = [consuming.begin() for _ in range(3)]
    closed = asyncio.new_event_loop()
    consuming.begin(closed)
    closed.close()
    assert consuming.queues.wanted(CHANNEL) == 3
    consuming.deliver(1)
    consuming.leave(waiters[1])
    assert consuming.queues.wanted(CHANNEL) == 1
    consuming.deliver(2, 3)
    assert consuming.queues.wanted(CHANNEL) == -1


async def test_what_has_expired_in_a_buffer_is_passed_over_before_any_heartbeat(
    consuming: Consuming,
) -> None:
    """Loops that end at once have none."""
    consuming.deliver(1, deadline=float("-inf"))
    consuming.deliver(2)
    assert consuming.take_all() == [2]
    assert consuming.counters.expired == 1


async def test_a_buffer_is_cut_to_a_capacity_that_was_lowered(
    consuming: Consuming, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A project's own get_capacity may return any number."""
    consuming.deliver(1, 2, 3)
    for capacity, number in ((float("inf"), 4), (2.5, 5), (-1, 6)):
        monkeypatch.setattr(consuming.queues, "_capacity_of", lambda _, number=capacity: number)
        consuming.deliver(number)
    assert consuming.take_all() == [6]
    assert consuming.counters.dropped == 5
