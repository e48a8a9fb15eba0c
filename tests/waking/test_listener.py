"""The listener: when it looks, and how often, on a real event loop."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from channels_sqlite._storing.once import Once
from channels_sqlite._waking import listener as module
from channels_sqlite._waking.listener import (
    AFTER_A_WRITE,
    AGAIN,
    DEAF_AFTER,
    RESTS,
    WHEN_LULLED,
    Listener,
    ring_if_open,
)
from tests.waiting import PATIENCE, until

BEAT = 0.02  # seconds, for heartbeats that are tested
OVER = RESTS[-1] + 0.1  # seconds; after that no look follows
TICK = 0.0025  # seconds; uvloop counts in milliseconds


class Subject(Listener):
    """A listener that is its own watcher, and notes what it does."""

    def __init__(self) -> None:
        self.looks: list[str] = []
        self.times: list[float] = []
        self.listens: list[bool] = []
        self.hurries = 0
        self.deaf: list[int] = []
        self.finds: Callable[[str], bool] = lambda how: False
        super().__init__(
            asyncio.get_running_loop(),
            lambda rung: self._note("rung" if rung else "unsure"),
            lambda: self._note("beat"),
            self._note_deafness,
            Once(),
        )
        self.watcher = self
        self.start(None)

    def _note(self, how: str) -> bool:
        self.looks.append(how)
        self.times.append(self.loop.time())
        return self.finds(how)

    def _note_deafness(self) -> None:
        self.deaf.append(self.missed_wakes)

    def hear_writes(self, wanted: bool) -> None:
        self.listens.append(wanted)

    def hurry(self) -> None:
        self.hurries += 1

    @property
    def beats(self) -> int:
        return self.looks.count("beat")

    async def beat(self, times: int) -> None:
        """Wait for so many heartbeats, of the pace that is set by now."""
        self.start(None)
        await until(lambda: self.beats >= times)

    async def looks_after_a_write(self) -> tuple[int, float]:
        """How many looks there are until it listens again, and how many seconds that takes."""
        self.looks.clear()
        begin = self.loop.time()
        self.write()
        assert not self.listens[-1]
        await until(lambda: self.listens[-1])
        return len(self.looks), self.loop.time() - begin


@pytest.fixture
def slow_heart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "HEARTBEAT", 3600)


@pytest.fixture
async def listener(slow_heart: None) -> AsyncIterator[Subject]:
    subject = Subject()
    yield subject
    subject.stop()


@pytest.fixture
def quick_heart(slow_heart: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "HEARTBEAT", BEAT)


# Wakes


async def test_what_can_be_seen_is_looked_for_at_once_and_once(listener: Subject) -> None:
    listener.ring()  # in the reader's own inboxes
    listener.touch()  # in all that is read
    assert listener.looks == ["rung", "unsure"]
    await asyncio.sleep(OVER)
    assert listener.looks == ["rung", "unsure"]


async def test_a_write_is_looked_for_later_and_later(listener: Subject) -> None:
    """Nobody says when it can be seen. Other writes are not listened to meanwhile."""
    due = listener.loop.time()
    for _ in range(3):
        listener.write()
    assert (listener.looks, listener.listens) == ([], [False])
    await until(lambda: listener.listens == [False, True])
    assert listener.looks == ["unsure"] * (len(AFTER_A_WRITE) + 1)  # one for what came unheard
    for at, delay in zip(listener.times, AFTER_A_WRITE, strict=False):
        due += delay
        assert at >= due - 2 * TICK


async def test_the_rest_grows_while_nothing_is_found(listener: Subject) -> None:
    for rest in (RESTS[1], RESTS[2]):
        looks, took = await listener.looks_after_a_write()
        assert (looks, took >= rest - TICK) == (len(AFTER_A_WRITE) + 1, True)
    looks, took = await listener.looks_after_a_write()
    assert (looks, took >= RESTS[2] - TICK) == (len(WHEN_LULLED) + 1, True)


@pytest.mark.parametrize("last", [False, True], ids=["a look", "the last look of a rest"])
async def test_a_find_ends_the_rest(listener: Subject, last: bool) -> None:
    for _ in RESTS:
        await listener.looks_after_a_write()
    listener.finds = lambda how: (len(listener.looks) == len(WHEN_LULLED) + 1) == last
    await listener.looks_after_a_write()
    assert listener.hurries > 0
    listener.finds = lambda how: False
    assert (await listener.looks_after_a_write())[0] == len(AFTER_A_WRITE) + 1


async def test_after_a_lock_it_looks_again_and_later_each_time(listener: Subject) -> None:
    def find(how: str) -> bool:
        if len(listener.looks) <= 8:
            listener.look_again()
            listener.look_again()  # another one in the same look
        return False

    listener.finds = find
    listener.look(rung=True)
    await until(lambda: len(listener.looks) == 9)
    waits = [b - a for a, b in zip(listener.times, listener.times[1:], strict=False)]
    least = [*AGAIN, *AGAIN[-1:] * 3]
    assert all(wait >= each - TICK for wait, each in zip(waits, least, strict=True))
    await asyncio.sleep(0.05)
    assert len(listener.looks) == 9
    listener.look_again()  # the next lock
    assert listener._tries == 1


async def test_a_ring_from_a_thread_is_answered_on_the_loop(listener: Subject) -> None:
    threads: list[threading.Thread] = []

    def find(how: str) -> bool:
        threads.append(threading.current_thread())
        return True

    listener.finds = find
    assert await asyncio.to_thread(ring_if_open, listener)
    await until(lambda: threads)
    assert threads == [threading.current_thread()]
    closed = asyncio.new_event_loop()
    closed.close()
    assert not ring_if_open(
        Listener(closed, lambda rung: False, lambda: False, lambda: None, Once())
    )


# Heartbeats


@pytest.mark.usefixtures("quick_heart")
async def test_heartbeats_that_find_nothing_are_no_misses(listener: Subject) -> None:
    await listener.beat(2 * DEAF_AFTER)
    assert {*listener.looks} == {"beat"}
    assert (listener.missed_wakes, listener.deaf) == (0, [])


@pytest.mark.usefixtures("quick_heart")
async def test_what_heartbeats_find_and_nothing_announces_is_counted(listener: Subject) -> None:
    listener.finds = lambda how: how == "beat"
    await listener.beat(3 * DEAF_AFTER)
    assert listener.deaf == [DEAF_AFTER]
    assert listener.missed_wakes == listener.beats - 1


@pytest.mark.usefixtures("quick_heart")
@pytest.mark.parametrize("wake", ["ring", "touch", "write"])
async def test_what_is_announced_late_was_not_missed(listener: Subject, wake: str) -> None:
    """The heartbeat was a little quicker."""

    def find(how: str) -> bool:
        if how == "beat":
            listener.loop.call_soon(getattr(listener, wake))
        return how == "beat"

    listener.finds = find
    await listener.beat(2 * DEAF_AFTER)
    assert (listener.missed_wakes, listener.deaf) == (0, [])


@pytest.mark.usefixtures("quick_heart")
async def test_misses_with_a_wake_in_between_are_no_deafness(listener: Subject) -> None:
    def find(how: str) -> bool:
        if how == "beat" and listener.beats % DEAF_AFTER == 0:
            listener.loop.call_soon(listener.ring)
        return how == "beat"

    listener.finds = find
    await listener.beat(4 * DEAF_AFTER)
    assert listener.missed_wakes > 0
    assert listener.deaf == []


@pytest.mark.usefixtures("quick_heart")
async def test_polling_looks_between_heartbeats_and_misses_nothing(listener: Subject) -> None:
    listener.finds = lambda how: how == "beat"
    listener.start(BEAT / 4)
    assert listener.polls
    await until(lambda: listener.beats >= 2 * DEAF_AFTER)
    assert listener.looks.count("unsure") > listener.beats
    assert (listener.missed_wakes, listener.deaf) == (0, [])
    listener.start(None)
    assert not listener.polls
    listener.looks.clear()
    await until(lambda: listener.beats >= 3)
    assert {*listener.looks} == {"beat"}


# Errors and the end


@pytest.mark.usefixtures("quick_heart")
async def test_an_error_in_a_look_is_said_once_and_reaches_nobody(
    listener: Subject, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(1, 3):
        listener.finds = lambda how: 1 // 0 == 0  # a bug of ours
        listener.ring()
        assert not listener.look(rung=True)
        await listener.beat(3 * number)
        assert [record.levelno for record in caplog.records] == [logging.ERROR] * number
        listener.finds = lambda how: False
        listener.ring()  # which is well, so that the next one is news


async def test_a_loop_that_stands_still_is_rung_once(listener: Subject) -> None:
    """What is rung from other threads meanwhile does not pile up, and the next ring is heard."""
    for rounds in (1, 2):
        for _ in range(100):  # while this loop runs nothing else
            listener.ring_from_elsewhere()
        await asyncio.sleep(0.05)
        assert len(listener.looks) == rounds


@pytest.mark.usefixtures("quick_heart")
async def test_stopped_it_looks_no_more_whatever_was_announced(listener: Subject) -> None:
    """A look would open a database that was just closed."""
    listener.start(0.01)
    listener.write()
    listener.look_again()
    thread = threading.Thread(target=listener.ring_from_elsewhere)
    thread.start()
    thread.join(PATIENCE)  # on the loop, which does not see it before it stops
    listener.stop()
    listener.stop()
    listener.looks.clear()
    for wake in (listener.ring, listener.touch, listener.write, listener.look_again):
        wake()
    await asyncio.sleep(OVER)
    assert listener.looks == []


@pytest.mark.parametrize(
    "case",
    [
        test_what_can_be_seen_is_looked_for_at_once_and_once,
        test_a_write_is_looked_for_later_and_later,
        test_the_rest_grows_while_nothing_is_found,
        test_after_a_lock_it_looks_again_and_later_each_time,
        test_a_ring_from_a_thread_is_answered_on_the_loop,
    ],
)
@pytest.mark.usefixtures("slow_heart")
def test_uvloop_will_do(case: Callable[[Subject], Awaitable[None]]) -> None:
    uvloop = pytest.importorskip("uvloop", reason="no uvloop here")

    async def run() -> None:
        subject = Subject()
        await case(subject)
        subject.stop()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run())
