"""Waiters: consumers are told that there is something to take, one for each message."""

from __future__ import annotations

import asyncio
import threading

import pytest

from channels_sqlite.waiters import Waiter, Waiters
from tests.rows import item
from tests.waiting import PATIENCE, soon, wait_until

CHANNEL = "test-channel"
MESSAGE = item(1)


@pytest.fixture
async def loop() -> asyncio.AbstractEventLoop:
    return asyncio.get_running_loop()


async def test_tells_the_one_who_has_waited_longest(loop: asyncio.AbstractEventLoop) -> None:
    waiters = Waiters()
    first, second = waiters.join(CHANNEL, loop), waiters.join(CHANNEL, loop)
    waiters.tell(CHANNEL, loop)
    assert (first.done(), second.done()) == (True, False)


async def test_tells_the_next_one_of_the_next_message(loop: asyncio.AbstractEventLoop) -> None:
    waiters = Waiters()
    first, second = waiters.join(CHANNEL, loop), waiters.join(CHANNEL, loop)
    waiters.tell(CHANNEL, loop)
    waiters.tell(CHANNEL, loop)
    assert (first.done(), second.done()) == (True, True)


async def test_tells_those_of_the_channel_only(loop: asyncio.AbstractEventLoop) -> None:
    waiters = Waiters()
    waiter = waiters.join("another-channel", loop)
    waiters.tell(CHANNEL, loop)
    assert not waiter.done()


async def test_telling_nobody_is_no_error(loop: asyncio.AbstractEventLoop) -> None:
    Waiters().tell(CHANNEL, loop)


async def test_passes_over_one_that_was_cancelled(loop: asyncio.AbstractEventLoop) -> None:
    waiters = Waiters()
    cancelled, next_one = waiters.join(CHANNEL, loop), waiters.join(CHANNEL, loop)
    cancelled.cancel()
    waiters.tell(CHANNEL, loop)
    assert next_one.done()


async def test_counts_those_who_are_going_to_take_told_or_not(
    loop: asyncio.AbstractEventLoop,
) -> None:
    waiters = Waiters()
    assert waiters.count(CHANNEL) == 0
    first = waiters.join(CHANNEL, loop)
    waiters.join(CHANNEL, loop)
    waiters.tell(CHANNEL, loop)
    assert waiters.count(CHANNEL) == 2
    waiters.leave(CHANNEL, first)
    assert waiters.count(CHANNEL) == 1


async def test_has_nothing_left_when_everybody_has_left(loop: asyncio.AbstractEventLoop) -> None:
    waiters = Waiters()
    waiter = waiters.join(CHANNEL, loop)
    assert CHANNEL in waiters
    waiters.leave(CHANNEL, waiter)
    assert CHANNEL not in waiters


async def test_leaving_twice_is_leaving_once(loop: asyncio.AbstractEventLoop) -> None:
    waiters = Waiters()
    gone, stays = waiters.join(CHANNEL, loop), waiters.join(CHANNEL, loop)
    waiters.leave(CHANNEL, gone)
    waiters.leave(CHANNEL, gone)
    assert waiters.count(CHANNEL) == 1
    waiters.leave(CHANNEL, stays)
    waiters.leave(CHANNEL, stays)
    assert waiters.count(CHANNEL) == 0


# Handing over


async def test_hands_a_message_to_the_one_who_has_waited_longest(
    loop: asyncio.AbstractEventLoop,
) -> None:
    waiters = Waiters()
    first, second = waiters.join(CHANNEL, loop), waiters.join(CHANNEL, loop)
    assert waiters.hand_over(CHANNEL, MESSAGE, loop)
    assert first.result() is MESSAGE
    assert not second.done()
    assert waiters.count(CHANNEL) == 1


async def test_who_was_handed_a_message_waits_no_longer(loop: asyncio.AbstractEventLoop) -> None:
    waiters = Waiters()
    waiters.join(CHANNEL, loop)
    assert waiters.hand_over(CHANNEL, MESSAGE, loop)
    assert CHANNEL not in waiters
    assert not waiters.hand_over(CHANNEL, MESSAGE, loop)


async def test_hands_over_nothing_where_nobody_waits(loop: asyncio.AbstractEventLoop) -> None:
    assert not Waiters().hand_over(CHANNEL, MESSAGE, loop)


async def test_hands_over_nothing_to_another_loop(loop: asyncio.AbstractEventLoop) -> None:
    """It might be closed before the message is used, and nobody could take it back."""
    waiters = Waiters()
    elsewhere = asyncio.new_event_loop()
    waiter = waiters.join(CHANNEL, elsewhere)
    assert not waiters.hand_over(CHANNEL, MESSAGE, loop)
    assert not waiter.done()
    elsewhere.close()


async def test_hands_over_nothing_past_one_who_was_told(loop: asyncio.AbstractEventLoop) -> None:
    """That one is about to take an older message; order is kept."""
    waiters = Waiters()
    waiters.join(CHANNEL, loop)
    second = waiters.join(CHANNEL, loop)
    waiters.tell(CHANNEL, loop)
    assert not waiters.hand_over(CHANNEL, MESSAGE, loop)
    assert not second.done()


async def test_hands_over_nothing_to_one_who_was_cancelled(
    loop: asyncio.AbstractEventLoop,
) -> None:
    waiters = Waiters()
    waiters.join(CHANNEL, loop).cancel()
    assert not waiters.hand_over(CHANNEL, MESSAGE, loop)


# Other loops


async def test_tells_a_waiter_of_another_loop() -> None:
    """From this thread's loop, of a consumer on that of another thread."""
    waiters = Waiters()
    told = threading.Event()

    async def consume() -> None:
        waiter = waiters.join(CHANNEL, asyncio.get_running_loop())
        await soon(waiter)
        told.set()

    thread = threading.Thread(target=asyncio.run, args=(consume(),))
    thread.start()
    await asyncio.to_thread(wait_until, lambda: CHANNEL in waiters)
    waiters.tell(CHANNEL, asyncio.get_running_loop())
    assert await asyncio.to_thread(told.wait, PATIENCE)
    await asyncio.to_thread(thread.join, PATIENCE)


async def test_a_waiter_of_another_loop_may_be_told_twice(loop: asyncio.AbstractEventLoop) -> None:
    """It does not know yet that it was told when the next message comes."""
    elsewhere = asyncio.new_event_loop()
    waiters = Waiters()
    waiter = waiters.join(CHANNEL, elsewhere)
    waiters.tell(CHANNEL, loop)
    waiters.tell(CHANNEL, loop)
    await asyncio.to_thread(elsewhere.run_until_complete, waiter)
    await asyncio.to_thread(elsewhere.run_until_complete, asyncio.sleep(0, loop))
    elsewhere.close()


def abandoned(waiters: Waiters) -> Waiter:
    """A waiter whose loop was closed under it."""
    loop = asyncio.new_event_loop()
    waiter = waiters.join(CHANNEL, loop)
    loop.close()
    return waiter


async def test_passes_over_one_whose_loop_was_closed(loop: asyncio.AbstractEventLoop) -> None:
    waiters = Waiters()
    waiter_of_closed_loop = abandoned(waiters)
    waiter = waiters.join(CHANNEL, loop)
    waiters.tell(CHANNEL, loop)
    assert waiter.done()
    assert not waiter_of_closed_loop.done()


async def test_does_not_count_those_whose_loop_was_closed() -> None:
    waiters = Waiters()
    abandoned(waiters)
    assert waiters.count(CHANNEL) == 0
    assert CHANNEL not in waiters
