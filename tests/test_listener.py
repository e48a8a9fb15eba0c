"""The listener: when it looks, and how often, on a real event loop."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Callable, Sequence

import pytest

from channels_sqlite.wakes import listener as module
from channels_sqlite.wakes.listener import (
    CHANGE,
    DEAF_AFTER,
    EMPTY_LOOKS,
    HEARTBEAT,
    LONGEST_PAUSE,
    PAUSE,
    RING,
    WRITE,
    Listener,
)
from tests.waiting import PATIENCE, soon, until

LADDER = sum(WRITE)  # seconds
OVER = 2 * LADDER  # after this, no look of a ladder is to come
BEAT = 0.02  # seconds, for heartbeats that are tested


class Looks:
    """A function that looks: it notes when, and finds what it is told to find."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.times: list[float] = []
        self.thorough: list[bool] = []
        self.finds: Callable[[bool], bool] = lambda thorough: False

    def __call__(self, thorough: bool) -> bool:
        self.times.append(self.loop.time())
        self.thorough.append(thorough)
        return self.finds(thorough)

    def __len__(self) -> int:
        return len(self.times)

    @property
    def heartbeats(self) -> int:
        return self.thorough.count(True)

    @property
    def waits(self) -> list[float]:
        """Seconds between the looks."""
        return [after - before for before, after in zip(self.times, self.times[1:], strict=False)]

    def forget(self) -> None:
        self.times.clear()
        self.thorough.clear()


@pytest.fixture
async def looks() -> Looks:
    return Looks()


@pytest.fixture
async def deaf() -> list[Listener]:
    """Who was taken for deaf."""
    return []


@pytest.fixture
async def listener(looks: Looks, deaf: list[Listener]) -> AsyncIterator[Listener]:
    """A listener without a heartbeat, started long enough ago not to pause for its first look."""
    listener = Listener(asyncio.get_running_loop(), looks, deaf.append)
    listener.start(3600)
    await asyncio.sleep(2 * PAUSE)
    looks.forget()
    yield listener
    listener.stop()


@pytest.fixture
def quick_heart(monkeypatch: pytest.MonkeyPatch) -> None:
    """Heartbeats every BEAT seconds that are still no polling."""
    monkeypatch.setattr(module, "HEARTBEAT", BEAT)


def rungs(looks: Sequence[float]) -> list[float]:
    """The least seconds from look to look, but for what a clock's resolution may hide."""
    return [seconds - 0.0005 for seconds in looks]


def assert_apart(waits: Sequence[float], least: Sequence[float]) -> None:
    assert len(waits) == len(least)
    assert all(wait >= each for wait, each in zip(waits, rungs(least), strict=True))


# Wakes


async def test_looks_when_it_is_started(looks: Looks) -> None:
    listener = Listener(asyncio.get_running_loop(), looks, lambda _: None)
    assert len(looks) == 0
    listener.start()
    assert looks.thorough == [False]
    listener.stop()


async def test_a_ring_is_looked_for_at_once_and_once(listener: Listener, looks: Looks) -> None:
    listener.wake(RING)
    assert len(looks) == 1
    await asyncio.sleep(OVER)
    assert len(looks) == 1


async def test_a_write_climbs_the_ladder(listener: Listener, looks: Looks) -> None:
    """It is not visible when it is announced, and nobody says when it is."""
    begin = asyncio.get_running_loop().time()
    listener.wake(WRITE)
    assert len(looks) == 0
    await until(lambda: len(looks) == len(WRITE))
    assert_apart([looks.times[0] - begin, *looks.waits], WRITE)
    await asyncio.sleep(OVER)
    assert len(looks) == len(WRITE)


async def test_a_change_may_be_a_ring_and_may_be_a_write(listener: Listener, looks: Looks) -> None:
    listener.wake(CHANGE)
    assert len(looks) == 1
    await until(lambda: len(looks) == len(CHANGE))
    assert_apart(looks.waits, CHANGE[1:])
    await asyncio.sleep(OVER)
    assert len(looks) == len(CHANGE)


async def test_a_find_does_not_end_the_ladder(listener: Listener, looks: Looks) -> None:
    """The event of a second commit may have been merged into the first's."""
    looks.finds = lambda thorough: True
    listener.wake(WRITE)
    await until(lambda: len(looks) == len(WRITE))


async def test_a_new_write_begins_anew(listener: Listener, looks: Looks) -> None:
    listener.wake(WRITE)
    await until(lambda: len(looks) >= 2)
    begin = asyncio.get_running_loop().time()
    listener.wake(WRITE)
    looks.forget()
    await until(lambda: len(looks) == len(WRITE))
    assert looks.times[-1] - begin >= LADDER - 0.002
    await asyncio.sleep(OVER)
    assert len(looks) == len(WRITE)


async def test_writes_without_a_pause_do_not_put_the_look_off(
    listener: Listener, looks: Looks
) -> None:
    """Somebody writes a large message, or many."""
    deadline = asyncio.get_running_loop().time() + 0.1
    while asyncio.get_running_loop().time() < deadline:
        listener.wake(WRITE)
        await asyncio.sleep(0)
    assert len(looks) >= 3


async def test_a_ring_leaves_the_ladder_of_a_write_standing(
    listener: Listener, looks: Looks
) -> None:
    """Another process may have written just before, and be about to commit."""
    listener.wake(WRITE)
    begin = asyncio.get_running_loop().time()
    listener.wake(RING)
    assert len(looks) == 1
    await until(lambda: looks.times[-1] >= begin + WRITE[-1])
    await asyncio.sleep(OVER)
    assert 2 <= len(looks) <= len(WRITE) + 1


# Bystanders


async def test_rings_that_find_nothing_are_looked_for_once_in_a_pause(
    listener: Listener, looks: Looks
) -> None:
    for _ in range(100):
        listener.wake(RING)
    assert len(looks) == EMPTY_LOOKS + 1
    await asyncio.sleep(OVER)
    assert len(looks) == EMPTY_LOOKS + 2
    assert_apart(looks.waits[-1:], [PAUSE])


async def test_changes_that_find_nothing_are_looked_for_once_in_a_pause(
    listener: Listener, looks: Looks
) -> None:
    for _ in range(100):
        listener.wake(CHANGE)
    assert len(looks) == EMPTY_LOOKS + 1
    await asyncio.sleep(OVER)
    assert len(looks) <= EMPTY_LOOKS + 1 + len(CHANGE)


async def test_a_storm_of_rings_is_not_a_storm_of_looks(listener: Listener, looks: Looks) -> None:
    """500 commits of others in a second, and none for us."""
    begin = asyncio.get_running_loop().time()
    while asyncio.get_running_loop().time() < begin + 0.1:
        listener.wake(RING)
        await asyncio.sleep(0)
    assert len(looks) <= EMPTY_LOOKS + 0.1 / PAUSE + 2
    assert all(wait >= PAUSE - 0.0005 for wait in looks.waits[EMPTY_LOOKS:])


async def test_the_longer_nothing_is_found_the_longer_the_pause(
    listener: Listener, looks: Looks
) -> None:
    async def wake_until(count: int) -> None:
        while len(looks) < count:
            listener.wake(RING)
            await asyncio.sleep(0)

    await soon(wake_until(EMPTY_LOOKS + 12))
    pauses = [PAUSE * count for count in range(1, 11)]
    assert_apart(looks.waits[EMPTY_LOOKS : EMPTY_LOOKS + 10], pauses)
    listener.wake(RING)
    assert listener.quiet_until <= asyncio.get_running_loop().time() + LONGEST_PAUSE
    looks.finds = lambda thorough: True
    await soon(wake_until(EMPTY_LOOKS + 13))
    looks.forget()
    for _ in range(10):
        listener.wake(RING)
    assert len(looks) == 10


async def test_a_silence_ends_the_pauses(listener: Listener, looks: Looks) -> None:
    """What comes after it may be the beginning of a conversation with us."""
    for _ in range(100):
        listener.wake(RING)
    await asyncio.sleep(HEARTBEAT + 0.1)
    looks.forget()
    for _ in range(EMPTY_LOOKS + 1):
        listener.wake(RING)
    assert len(looks) == EMPTY_LOOKS + 1


async def test_our_own_commits_do_not_make_a_bystander_of_us(
    listener: Listener, looks: Looks
) -> None:
    """They are announced like those of others, and have been looked for by then."""
    for _ in range(10):
        listener.look()
        listener.wake(RING)
    assert len(looks) == 20
    assert listener.quiet_until <= asyncio.get_running_loop().time()


async def test_a_listener_that_finds_makes_no_pause(listener: Listener, looks: Looks) -> None:
    looks.finds = lambda thorough: True
    for _ in range(10):
        listener.wake(RING)
    assert len(looks) == 10


async def test_what_this_process_has_sent_is_looked_for_at_once(
    listener: Listener, looks: Looks
) -> None:
    for _ in range(10):
        listener.look()
    assert len(looks) == 10
    assert looks.heartbeats == 0


# From elsewhere


async def test_a_wake_from_a_thread_is_answered_on_the_loop(
    listener: Listener, looks: Looks
) -> None:
    on_thread: list[threading.Thread] = []

    def find(thorough: bool) -> bool:
        on_thread.append(threading.current_thread())
        return True

    looks.finds = find
    await asyncio.to_thread(listener.wake_from_elsewhere, RING)
    await until(lambda: on_thread)
    assert on_thread == [threading.current_thread()]


async def test_a_thousand_wakes_of_a_busy_loop_are_answered_once(
    listener: Listener, looks: Looks
) -> None:
    looks.finds = lambda thorough: True

    def wake() -> None:
        for _ in range(1000):
            listener.wake_from_elsewhere(RING)

    thread = threading.Thread(target=wake)
    thread.start()
    thread.join(PATIENCE)  # on the loop, which is busy meanwhile
    await asyncio.sleep(OVER)
    assert len(looks) == 1


async def test_a_ring_is_not_lost_among_writes_from_elsewhere(
    listener: Listener, looks: Looks
) -> None:
    begin = asyncio.get_running_loop().time()
    listener.wake_from_elsewhere(WRITE)
    listener.wake_from_elsewhere(RING)
    await asyncio.sleep(0)
    assert len(looks) == 1
    await until(lambda: looks.times[-1] >= begin + WRITE[-1])


async def test_a_wake_of_a_closed_loop_is_an_error(looks: Looks) -> None:
    loop = asyncio.new_event_loop()
    listener = Listener(loop, looks, lambda _: None)
    loop.close()
    with pytest.raises(RuntimeError):
        listener.wake_from_elsewhere(CHANGE)


# Heartbeats


@pytest.mark.usefixtures("quick_heart")
async def test_every_heartbeat_looks_thoroughly(listener: Listener, looks: Looks) -> None:
    listener.start(BEAT)
    begin = asyncio.get_running_loop().time()
    await until(lambda: looks.heartbeats >= 5)
    assert asyncio.get_running_loop().time() - begin >= 5 * BEAT - 0.01


async def test_started_again_it_has_another_interval(listener: Listener, looks: Looks) -> None:
    listener.start(0.01)
    await until(lambda: looks.heartbeats >= 5)
    listener.start(3600)
    looks.forget()
    await asyncio.sleep(0.1)
    assert looks.heartbeats == 0


@pytest.mark.usefixtures("quick_heart")
async def test_what_heartbeats_find_and_no_wake_announces_is_counted(
    listener: Listener, looks: Looks, deaf: list[Listener]
) -> None:
    missed: list[int] = []

    def find(thorough: bool) -> bool:
        if thorough:
            missed.append(listener.missed_wakes)
        return thorough

    looks.finds = find
    listener.start(BEAT)
    await until(lambda: deaf)
    assert missed[: DEAF_AFTER + 1] == [*range(DEAF_AFTER + 1)]
    assert deaf == [listener]


@pytest.mark.usefixtures("quick_heart")
async def test_it_is_called_deaf_once(
    listener: Listener, looks: Looks, deaf: list[Listener]
) -> None:
    looks.finds = lambda thorough: thorough
    listener.start(BEAT)
    await until(lambda: looks.heartbeats >= 3 * DEAF_AFTER)
    assert deaf == [listener]


@pytest.mark.usefixtures("quick_heart")
@pytest.mark.parametrize("looks_", [RING, WRITE, CHANGE], ids=["ring", "write", "change"])
async def test_what_a_wake_announces_late_was_not_missed(
    listener: Listener, looks: Looks, deaf: list[Listener], looks_: Sequence[float]
) -> None:
    """The heartbeat was a little quicker."""

    def find(thorough: bool) -> bool:
        if thorough:
            listener.loop.call_soon(listener.wake, looks_)
        return thorough

    looks.finds = find
    listener.start(BEAT)
    await until(lambda: looks.heartbeats >= 3 * DEAF_AFTER)
    assert listener.missed_wakes == 0
    assert deaf == []


@pytest.mark.usefixtures("quick_heart")
async def test_misses_that_do_not_follow_each_other_are_no_deafness(
    listener: Listener, looks: Looks, deaf: list[Listener]
) -> None:
    beats = 0

    def find(thorough: bool) -> bool:
        nonlocal beats
        beats += thorough
        if thorough and beats % DEAF_AFTER == 0:
            listener.loop.call_soon(listener.wake, RING)
        return thorough

    looks.finds = find
    listener.start(BEAT)
    await until(lambda: looks.heartbeats >= 4 * DEAF_AFTER)
    assert listener.missed_wakes > 0
    assert deaf == []


@pytest.mark.usefixtures("quick_heart")
async def test_heartbeats_that_find_nothing_are_no_misses(
    listener: Listener, looks: Looks, deaf: list[Listener]
) -> None:
    listener.start(BEAT)
    await until(lambda: looks.heartbeats >= 3 * DEAF_AFTER)
    assert listener.missed_wakes == 0
    assert deaf == []


async def test_polling_misses_nothing(
    listener: Listener, looks: Looks, deaf: list[Listener]
) -> None:
    """There is no watcher that could have said anything."""
    looks.finds = lambda thorough: thorough
    listener.start(0.01)
    assert listener.polls
    await until(lambda: looks.heartbeats >= 3 * DEAF_AFTER)
    assert listener.missed_wakes == 0
    assert deaf == []


@pytest.mark.usefixtures("quick_heart")
async def test_who_is_called_deaf_may_be_made_to_poll_in_answer(looks: Looks) -> None:
    looks.finds = lambda thorough: thorough
    listener = Listener(asyncio.get_running_loop(), looks, lambda each: each.start(BEAT / 4))
    listener.start(BEAT)
    await until(lambda: listener.polls)
    missed = listener.missed_wakes
    looks.forget()
    await until(lambda: looks.heartbeats >= 10)
    assert listener.missed_wakes == missed == DEAF_AFTER
    listener.stop()


# Errors


def fail(thorough: bool) -> bool:
    raise ZeroDivisionError("a bug of ours")


async def test_an_error_in_a_look_does_not_reach_who_woke_it(
    listener: Listener, looks: Looks, caplog: pytest.LogCaptureFixture
) -> None:
    looks.finds = fail
    listener.wake(RING)
    listener.look()
    assert len(looks) == 2
    caplog.clear()


async def test_an_error_in_a_look_is_logged_once_and_looked_for_again(
    listener: Listener, looks: Looks, caplog: pytest.LogCaptureFixture
) -> None:
    looks.finds = fail
    listener.start(0.01)
    await until(lambda: looks.heartbeats >= 5)
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert "a bug of ours" in caplog.text
    looks.finds = lambda thorough: False
    looks.forget()
    await until(lambda: looks.heartbeats >= 2)
    assert len(caplog.records) == 1
    caplog.clear()


async def test_another_error_after_a_good_look_is_logged_as_well(
    listener: Listener, looks: Looks, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(2):
        looks.finds = fail
        listener.look()
        looks.finds = lambda thorough: False
        listener.look()
    assert len(caplog.records) == 2
    caplog.clear()


# Stopping


async def test_stopped_it_looks_no_more(listener: Listener, looks: Looks) -> None:
    listener.start(0.01)
    listener.wake(WRITE)
    looks.forget()
    listener.stop()
    await asyncio.sleep(OVER)
    assert len(looks) == 0


async def test_stopped_it_does_not_answer_an_earlier_wake(listener: Listener, looks: Looks) -> None:
    """A look would open the database again that was just closed."""
    await asyncio.to_thread(listener.wake_from_elsewhere, CHANGE)
    looks.forget()
    listener.wake_from_elsewhere(CHANGE)
    listener.stop()
    await asyncio.sleep(OVER)
    assert len(looks) == 0


async def test_stopping_twice_is_stopping_once(listener: Listener, looks: Looks) -> None:
    listener.stop()
    listener.stop()
    assert len(looks) == 0


async def test_stopped_it_can_be_started_again(listener: Listener, looks: Looks) -> None:
    listener.stop()
    listener.start(0.01)
    await soon(until(lambda: looks.heartbeats >= 2))
