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
from tests.waiting import PATIENCE, soon, until

BEAT = 0.02  # seconds, for heartbeats that are tested
OVER = RESTS[-1] + 0.1  # seconds; after that no look follows


class Subject(Listener):
    """A listener that is its own watcher, and notes what it does."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.looks: list[str] = []
        self.times: list[float] = []
        self.listens: list[bool] = []
        self.hurries = 0
        self.deaf = 0
        self.finds: Callable[[str], bool] = lambda how: False
        super().__init__(
            loop,
            lambda rung: self._note("rung" if rung else "unsure"),
            lambda: self._note("beat"),
            self._on_deafness,
            Once(),
        )
        self.watcher = self

    def _note(self, how: str) -> bool:
        self.looks.append(how)
        self.times.append(self.loop.time())
        return self.finds(how)

    def _on_deafness(self) -> None:
        self.deaf += 1

    def hear_writes(self, wanted: bool) -> None:
        self.listens.append(wanted)

    def hurry(self) -> None:
        self.hurries += 1

    @property
    def beats(self) -> int:
        return self.looks.count("beat")

    async def looks_after_a_write(self) -> tuple[int, float]:
        """How many looks there are until it listens again, and how many seconds that takes."""
        self.looks.clear()
        begin = self.loop.time()
        self.write()
        await until(lambda: self.listens and self.listens[-1])
        return len(self.looks), self.loop.time() - begin


@pytest.fixture
def slow_heart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "HEARTBEAT", 3600)


@pytest.fixture
def quick_heart(slow_heart: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "HEARTBEAT", BEAT)


@pytest.fixture
async def listener(slow_heart: None) -> AsyncIterator[Subject]:
    subject = Subject()
    subject.start(None)
    yield subject
    subject.stop()


# Wakes


async def test_a_ring_is_looked_for_at_once_and_once(listener: Subject) -> None:
    listener.ring()
    assert listener.looks == ["rung"]
    await asyncio.sleep(OVER)
    assert listener.looks == ["rung"]


async def test_a_touch_is_looked_for_at_once_in_all_that_is_read(listener: Subject) -> None:
    listener.touch()
    assert listener.looks == ["unsure"]


async def test_a_write_is_looked_for_later_and_later(listener: Subject) -> None:
    """Nobody says when it can be seen."""
    begin = listener.loop.time()
    listener.write()
    assert listener.looks == []
    await until(lambda: len(listener.looks) > len(AFTER_A_WRITE))  # one ends the rest
    assert set(listener.looks) == {"unsure"}
    due = begin
    for at, delay in zip(listener.times, AFTER_A_WRITE, strict=False):
        due += delay
        assert at >= due - 0.005  # uvloop counts in milliseconds


async def test_writes_are_not_listened_to_until_the_looks_are_over(listener: Subject) -> None:
    listener.write()
    assert listener.listens == [False]
    listener.write()
    listener.write()
    await until(lambda: listener.listens == [False, True])
    assert len(listener.looks) == len(AFTER_A_WRITE) + 1  # for what came unheard


async def test_the_rest_grows_while_nothing_is_found(listener: Subject) -> None:
    for rest in RESTS[1:]:
        looks, took = await listener.looks_after_a_write()
        assert took >= rest - 0.01
        assert looks == len(AFTER_A_WRITE) + 1 or rest == RESTS[-1]
    looks, took = await listener.looks_after_a_write()
    assert looks == len(WHEN_LULLED) + 1
    assert took >= RESTS[-1] - 0.01


@pytest.mark.parametrize("ladder", [True, False], ids=["a look", "the last look of a rest"])
async def test_a_find_ends_the_rest(listener: Subject, ladder: bool) -> None:
    for _ in RESTS:
        await listener.looks_after_a_write()
    count = len(WHEN_LULLED) + 1
    listener.finds = lambda how: (len(listener.looks) == count) != ladder
    await listener.looks_after_a_write()
    assert listener.hurries > 0
    listener.finds = lambda how: False
    looks, _ = await listener.looks_after_a_write()
    assert looks == len(AFTER_A_WRITE) + 1


async def test_what_this_process_has_sent_is_looked_for_at_once(listener: Subject) -> None:
    listener.finds = lambda how: True
    assert all(listener.look(rung=True) for _ in range(10))
    assert len(listener.looks) == listener.hurries == 10
    assert listener.woken_at is None  # nothing was announced


# Locks of others


async def test_after_a_lock_it_looks_again_and_later_each_time(listener: Subject) -> None:
    def find(how: str) -> bool:
        if len(listener.looks) <= 8:
            listener.look_again()
            listener.look_again()  # a second one in the same look
        return False

    listener.finds = find
    listener.look(rung=True)
    await until(lambda: len(listener.looks) == 9)
    waits = [b - a for a, b in zip(listener.times, listener.times[1:], strict=False)]
    least = [*AGAIN, *AGAIN[-1:] * 3]
    assert all(wait >= each - 0.0025 for wait, each in zip(waits, least, strict=True))
    await asyncio.sleep(0.05)
    assert len(listener.looks) == 9
    listener.finds = lambda how: False
    listener.look_again()  # another lock
    assert listener._tries == 1


# From elsewhere


async def test_a_ring_from_a_thread_is_answered_on_the_loop(listener: Subject) -> None:
    threads: list[threading.Thread] = []

    def find(how: str) -> bool:
        threads.append(threading.current_thread())
        return True

    listener.finds = find
    await asyncio.to_thread(listener.ring_from_elsewhere)
    await until(lambda: threads)
    assert threads == [threading.current_thread()]


async def test_a_ring_for_a_closed_loop_is_told_apart(listener: Subject) -> None:
    loop = asyncio.new_event_loop()
    closed = Listener(loop, lambda rung: False, lambda: False, lambda: None, Once())
    loop.close()
    assert not ring_if_open(closed)
    assert ring_if_open(listener)


# Heartbeats


@pytest.mark.usefixtures("quick_heart")
async def test_every_heartbeat_looks_and_nothing_else_does(listener: Subject) -> None:
    listener.start(None)
    await until(lambda: listener.beats >= 5)
    assert set(listener.looks) == {"beat"}
    assert listener.missed_wakes == 0


@pytest.mark.usefixtures("quick_heart")
async def test_what_heartbeats_find_and_nothing_announces_is_counted(listener: Subject) -> None:
    listener.finds = lambda how: how == "beat"
    listener.start(None)
    await until(lambda: listener.deaf)
    assert listener.missed_wakes == DEAF_AFTER
    await until(lambda: listener.missed_wakes == 3 * DEAF_AFTER)
    assert listener.deaf == 1


@pytest.mark.usefixtures("quick_heart")
@pytest.mark.parametrize("wake", ["ring", "touch", "write"])
async def test_what_is_announced_late_was_not_missed(listener: Subject, wake: str) -> None:
    """The heartbeat was a little quicker."""

    def find(how: str) -> bool:
        if how == "beat":
            listener.loop.call_soon(getattr(listener, wake))
        return how == "beat"

    listener.finds = find
    listener.start(None)
    await until(lambda: listener.beats >= 2 * DEAF_AFTER)
    assert listener.missed_wakes == listener.deaf == 0


@pytest.mark.usefixtures("quick_heart")
async def test_misses_with_a_wake_in_between_are_no_deafness(listener: Subject) -> None:
    def find(how: str) -> bool:
        if how == "beat" and listener.beats % DEAF_AFTER == 0:
            listener.loop.call_soon(listener.ring)
        return how == "beat"

    listener.finds = find
    listener.start(None)
    await until(lambda: listener.beats >= 4 * DEAF_AFTER)
    assert listener.missed_wakes > 0
    assert listener.deaf == 0


@pytest.mark.usefixtures("quick_heart")
async def test_polling_looks_between_heartbeats_and_misses_nothing(listener: Subject) -> None:
    listener.finds = lambda how: how == "beat"
    listener.start(BEAT / 4)
    assert listener.polls
    await until(lambda: listener.beats >= 2 * DEAF_AFTER)
    assert listener.looks.count("unsure") > listener.beats
    assert listener.missed_wakes == listener.deaf == 0
    listener.start(None)
    assert not listener.polls
    listener.looks.clear()
    await until(lambda: listener.beats >= 3)
    assert set(listener.looks) == {"beat"}


# Errors


async def test_an_error_in_a_look_is_said_once_and_reaches_nobody(
    listener: Subject, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(how: str) -> bool:
        raise ZeroDivisionError("a bug of ours")

    for _ in range(2):
        listener.finds = fail
        listener.ring()
        listener.touch()
        assert not listener.look(rung=True)
        listener.finds = lambda how: True
        assert listener.look(rung=True)  # so the next failure is news
    assert [record.levelno for record in caplog.records] == [logging.ERROR] * 2
    assert "a bug of ours" in caplog.text


@pytest.mark.usefixtures("quick_heart")
async def test_an_error_in_a_heartbeat_does_not_end_them(
    listener: Subject, caplog: pytest.LogCaptureFixture
) -> None:
    listener.finds = lambda how: 1 // 0 == 0
    listener.start(None)
    await until(lambda: listener.beats >= 5)
    assert len(caplog.records) == 1


# Stopping


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
    await soon(asyncio.sleep(OVER))
    assert listener.looks == []


# Other event loops


@pytest.mark.parametrize(
    "case",
    [
        test_a_ring_is_looked_for_at_once_and_once,
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
        subject.start(None)
        await case(subject)
        subject.stop()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run())
