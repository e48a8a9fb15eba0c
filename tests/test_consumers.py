"""Consumers: each message to one who waits, or into the buffer of one who does not."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from typing import Any

import pytest

from channels_sqlite.consumers import Consumers
from channels_sqlite.counters import Counters, DropLog
from channels_sqlite.messages import Item
from tests.rows import item
from tests.waiting import PATIENCE, cancel, soon, wait_until

CHANNEL = "test-channel"
CAPACITY = 3


class Consuming:
    """Consumers, with the channel and the running loop filled in."""

    def __init__(self) -> None:
        self.counters = Counters()
        self.all = Consumers(
            threading.RLock(), lambda channel: CAPACITY, self.counters, DropLog(self.counters)
        )
        self.here = asyncio.get_running_loop()

    def deliver(self, *numbers: int, deadline: float = float("inf")) -> None:
        for number in numbers:
            self.all.deliver([CHANNEL], item(number, deadline), self.here)

    def begin(self, here: asyncio.AbstractEventLoop | None = None) -> Any:
        """What a consumer gets at once, or the future that it has to wait for."""
        return self.all.take_or_join(CHANNEL, here or self.here)

    def leave(self, waiter: Any) -> None:
        self.all.leave(CHANNEL, waiter, self.here)

    async def receive(self) -> int:
        """What a consumer gets that waits, as the receiver has it wait."""
        while True:
            found = self.begin()
            if isinstance(found, Item):
                return found.row.id
            try:
                handed = await found
            except asyncio.CancelledError:
                self.leave(found)
                raise
            if isinstance(handed, Item):
                return handed.row.id
            self.leave(found)

    def take(self) -> int | None:
        """What a consumer gets that does not wait."""
        found = self.begin()
        if isinstance(found, Item):
            return found.row.id
        self.leave(found)
        return None

    def take_all(self) -> list[int]:
        numbers = []
        while (number := self.take()) is not None:
            numbers.append(number)
        return numbers


@pytest.fixture
async def consuming() -> Consuming:
    return Consuming()


# Bringing together


async def test_what_is_there_is_taken_at_once(consuming: Consuming) -> None:
    consuming.deliver(1, 2)
    assert [consuming.take(), consuming.take(), consuming.take()] == [1, 2, None]


async def test_who_waits_is_handed_what_comes(consuming: Consuming) -> None:
    waiter = consuming.begin()
    consuming.deliver(1)
    assert (await soon(waiter)).row.id == 1
    assert consuming.take() is None


async def test_those_who_wait_are_served_in_their_order(consuming: Consuming) -> None:
    waiters = [consuming.begin() for _ in range(3)]
    consuming.deliver(1, 2, 3, 4)
    assert [(await soon(waiter)).row.id for waiter in waiters] == [1, 2, 3]
    assert consuming.take_all() == [4]


async def test_one_channel_does_not_serve_another(consuming: Consuming) -> None:
    waiter = consuming.all.take_or_join("another-channel", consuming.here)
    consuming.deliver(1)
    assert isinstance(waiter, asyncio.Future)
    assert not waiter.done()
    assert consuming.take() == 1


# Cancellation


async def test_who_was_handed_a_message_and_is_cancelled_gives_it_back(
    consuming: Consuming,
) -> None:
    """To its place, and to the next who waits."""
    waiter = consuming.begin()
    consuming.deliver(1, 2)
    consuming.leave(waiter)
    assert consuming.take_all() == [1, 2]


async def test_what_was_given_back_is_for_the_next_who_waits(consuming: Consuming) -> None:
    cancelled, next_one = consuming.begin(), consuming.begin()
    consuming.deliver(1)
    consuming.leave(cancelled)
    assert await soon(next_one) is None  # come and take
    consuming.leave(next_one)
    assert consuming.take() == 1


async def test_who_was_told_and_is_cancelled_tells_the_next(consuming: Consuming) -> None:
    elsewhere = asyncio.new_event_loop()
    first = consuming.begin(elsewhere)
    second = consuming.begin()
    consuming.deliver(1)  # told to the first, whose loop does not run
    assert not second.done()
    consuming.leave(first)
    assert await soon(second) is None
    consuming.leave(second)
    assert consuming.take() == 1
    elsewhere.close()


async def test_who_is_cancelled_with_nothing_leaves_no_trace(consuming: Consuming) -> None:
    waiter = consuming.begin()
    waiter.cancel()
    consuming.leave(waiter)
    assert not consuming.all.is_waited_for(CHANNEL)
    consuming.deliver(1)
    assert consuming.take() == 1


@pytest.mark.parametrize("seed", range(20))
async def test_any_history_of_waiting_and_cancelling_keeps_the_order(
    consuming: Consuming, seed: int
) -> None:
    """Nothing twice, nothing lost."""
    chance = random.Random(seed)
    got: list[int] = []

    async def consume() -> None:
        while True:
            got.append(await consuming.receive())

    consumer = asyncio.create_task(consume())
    for number in range(100):
        consuming.deliver(number)
        for _ in range(chance.choice([0, 0, 1, 2])):
            await asyncio.sleep(0)
        if chance.random() < 0.5:
            await cancel(consumer)
            consumer = asyncio.create_task(consume())
        if number - len(got) >= CAPACITY - 1:
            await until_(got, number + 1)
    await until_(got, 100)
    await cancel(consumer)
    assert got == [*range(100)]
    assert consuming.counters.dropped == 0


async def until_(got: list[int], count: int) -> None:
    """Wait for messages without waiting for the clock."""
    for _ in range(1000):
        await asyncio.sleep(0)
        if len(got) >= count:
            return
    pytest.fail(f"{count} are not there: {got}")


# Other loops and threads


async def test_a_consumer_on_another_loop_comes_and_takes(consuming: Consuming) -> None:
    got: list[int] = []

    async def consume() -> None:
        here = asyncio.get_running_loop()
        found = consuming.all.take_or_join(CHANNEL, here)
        assert not isinstance(found, Item)
        assert await soon(found) is None
        consuming.all.leave(CHANNEL, found, here)
        again = consuming.all.take_or_join(CHANNEL, here)
        assert isinstance(again, Item)
        got.append(again.row.id)

    thread = threading.Thread(target=asyncio.run, args=(consume(),))
    thread.start()
    await asyncio.to_thread(wait_until, lambda: consuming.all.is_waited_for(CHANNEL))
    consuming.deliver(1)
    await asyncio.to_thread(thread.join, PATIENCE)
    assert got == [1]


# Room


async def test_the_oldest_gives_way_when_the_buffer_is_full(
    consuming: Consuming, caplog: pytest.LogCaptureFixture
) -> None:
    consuming.deliver(*range(5))
    assert consuming.take_all() == [2, 3, 4]
    assert consuming.counters.dropped == 2
    (said,) = caplog.messages
    assert CHANNEL in said


async def test_a_stuck_consumer_takes_nobodys_room(
    consuming: Consuming, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(10):
        consuming.all.deliver("stuck", item(number), consuming.here)
    consuming.deliver(1, 2, 3)
    assert consuming.take_all() == [1, 2, 3]
    caplog.clear()


async def test_what_expires_in_a_buffer_names_its_channel(consuming: Consuming) -> None:
    consuming.deliver(1, deadline=time.monotonic() - 1)
    consuming.deliver(2)
    assert consuming.all.expire() == {CHANNEL: 1}
    assert consuming.all.expire() == {}
    assert consuming.take_all() == [2]
    assert consuming.counters.expired == 1


async def test_what_was_flushed_is_forgotten(consuming: Consuming) -> None:
    waiter = consuming.all.take_or_join("waited-for", consuming.here)
    consuming.deliver(1)
    consuming.all.forget(upto=1)
    assert consuming.take() is None
    consuming.all.deliver(["waited-for"], item(2), consuming.here)
    assert isinstance(waiter, asyncio.Future)
    received = await soon(waiter)
    assert received is not None
    assert received.row.id == 2


# For claims


async def test_wanting_is_who_waits_for_what_is_not_there(consuming: Consuming) -> None:
    assert consuming.all.wanting(CHANNEL) == 0
    waiters = [consuming.begin() for _ in range(3)]
    assert consuming.all.wanting(CHANNEL) == 3
    consuming.deliver(1)
    assert consuming.all.wanting(CHANNEL) == 2
    consuming.leave(waiters[1])
    assert consuming.all.wanting(CHANNEL) == 1
    consuming.deliver(2, 3)
    assert consuming.all.wanting(CHANNEL) == -1


async def test_surplus_is_what_nobody_waits_for_newest_last(consuming: Consuming) -> None:
    consuming.deliver(1, 2, 3)
    assert [each.row.id for each in consuming.all.take_surplus(CHANNEL)] == [1, 2, 3]
    assert consuming.all.take_surplus(CHANNEL) == []
    assert consuming.take() is None


async def test_surplus_that_nobody_took_is_put_back(consuming: Consuming) -> None:
    consuming.deliver(1, 2)
    surplus = consuming.all.take_surplus(CHANNEL)
    waiter = consuming.begin()
    consuming.all.put_back(CHANNEL, surplus, consuming.here)
    assert await soon(waiter) is None  # come and take
    consuming.leave(waiter)
    assert consuming.take_all() == [1, 2]


async def test_what_somebody_waits_for_is_no_surplus(consuming: Consuming) -> None:
    elsewhere = asyncio.new_event_loop()
    waiter = consuming.begin(elsewhere)
    consuming.deliver(1, 2)
    assert [each.row.id for each in consuming.all.take_surplus(CHANNEL)] == [2]
    assert consuming.take() == 1
    consuming.leave(waiter)
    elsewhere.close()
