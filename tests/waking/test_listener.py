"""The listener: when it looks, and how often, on a real event loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from unittest.mock import Mock

import pytest

from channels_sqlite._options.times import TIMES
from channels_sqlite._storing.once import Once
from channels_sqlite._waking.listener import DEAF_AFTER, Listener
from channels_sqlite.counters import Counters
from tests.conftest import SetTimes
from tests.waiting import PATIENCE, until

BEAT = 0.02  # seconds, for heartbeats that are tested
TICK = 0.0025  # seconds; uvloop counts in milliseconds


class Subject(Listener):
    """A listener that is its own watcher, and notes what it does."""

    def __init__(self) -> None:
        self.looks: list[str] = []
        self.times: list[float] = []
        self.listens: list[bool] = []
        self.deaf: list[int] = []
        self.log_is_written = False
        self.finds: Callable[[str], bool] = lambda how: False
        self.counters = counters = Counters()
        super().__init__(
            asyncio.get_running_loop(),
            lambda rung: self._note("rung" if rung else "unsure"),
            lambda: self._note("beat"),
            lambda: self.deaf.append(counters.missed_wakes),
            lambda: 0 if self.log_is_written else PATIENCE,
            Once(),
            counters,
        )
        self.watcher = self
        self.start(None)

    def _note(self, how: str) -> bool:
        self.looks.append(how)
        self.times.append(self.loop.time())
        return self.finds(how)

    kind = "none"

    def adjust(self) -> None:
        self.listens.append(self.hears_writes)

    def waits(self) -> list[float]:
        """The seconds between its looks."""
        return [b - a for a, b in zip(self.times, self.times[1:], strict=False)]

    @property
    def beats(self) -> int:
        return self.looks.count("beat")

    async def beat(self, times: int) -> None:
        """Wait for so many heartbeats, of the pace that is set by now."""
        self.start(None)
        await until(lambda: self.beats >= times)


@pytest.fixture
async def listener(set_times: SetTimes) -> AsyncIterator[Subject]:
    set_times(heartbeat=3600)
    subject = Subject()
    yield subject
    subject.stop()


@pytest.fixture
def quick_heart(listener: Subject, set_times: SetTimes) -> None:
    """From the listener's next heartbeat on."""
    set_times(heartbeat=BEAT)


# Wakes


async def test_what_can_be_seen_is_looked_for_at_once_and_once(listener: Subject) -> None:
    listener.ring()  # in the reader's own inboxes
    listener.touch()  # in all that is read
    assert listener.looks == ["rung", "unsure"]
    await asyncio.sleep(2 * TIMES.after_a_write[-1])
    assert listener.looks == ["rung", "unsure"]


async def test_a_write_is_looked_for_later_and_later(listener: Subject) -> None:
    """Nobody says when it can be seen. Other writes are not listened to meanwhile."""
    for _ in range(3):
        listener.log_written()
    assert (listener.looks, listener.listens) == ([], [False])
    await until(lambda: listener.listens == [False, True])
    and_one = len(TIMES.after_a_write) + 1  # for what came unheard
    assert listener.looks == ["unsure"] * and_one
    for wait, least in zip(listener.waits(), TIMES.after_a_write[1:], strict=False):
        assert wait >= least - TICK


async def test_it_looks_once_in_a_while_if_others_write_all_the_time(listener: Subject) -> None:
    """Until it finds something."""
    listener.log_is_written = True
    listener.log_written()
    await until(lambda: len(listener.looks) >= len(TIMES.after_a_write) + 2)
    assert min(listener.waits()[-2:]) >= TIMES.lull - TICK
    assert listener.listens == [False]
    listener.finds = lambda how: True
    await until(lambda: listener.listens == [False, True])


async def test_a_heartbeat_is_a_look_of_a_lull(listener: Subject, set_times: SetTimes) -> None:
    set_times(heartbeat=0.1, lull=0.04)
    listener.log_is_written = True
    listener.log_written()
    await until(lambda: listener.looks.count("unsure") > len(TIMES.after_a_write))
    await listener.beat(4)
    first = listener.looks.index("beat")
    lull = zip(listener.looks[first:], listener.waits()[first:], strict=False)
    assert min(wait for look, wait in lull if look == "beat") >= 0.04 - TICK
    listener.finds = lambda how: how == "beat"
    await until(lambda: listener.listens == [False, True])


async def test_after_a_lock_a_listener_looks_again_and_later_each_time(listener: Subject) -> None:
    def find(how: str) -> bool:
        if len(listener.looks) <= 8:
            listener.look_again()
            listener.look_again()  # another one in the same look
        return False

    listener.finds = find
    listener.look(rung=True)
    await until(lambda: len(listener.looks) == 9)
    least = [*TIMES.locked, *TIMES.locked[-1:] * 3]
    for wait, each in zip(listener.waits(), least, strict=True):
        assert wait >= each - TICK
    await asyncio.sleep(0.05)
    assert len(listener.looks) == 9


async def test_a_loop_that_stands_still_is_rung_once(listener: Subject) -> None:
    """The rings from other threads meanwhile do not pile up, and the next one is heard."""
    for rounds in (1, 2):
        for _ in range(100):  # while this loop runs nothing else
            listener.ring_from_elsewhere()
        await asyncio.sleep(0.05)
        assert len(listener.looks) == rounds


# Heartbeats


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
    assert (listener.counters.missed_wakes, listener.deaf) == (0, [])


@pytest.mark.usefixtures("quick_heart")
async def test_polling_looks_between_heartbeats_and_misses_nothing(listener: Subject) -> None:
    listener.finds = lambda how: how == "beat"
    listener.start(BEAT / 4)
    await until(lambda: listener.beats >= 2 * DEAF_AFTER)
    assert listener.looks.count("unsure") > listener.beats
    assert (listener.counters.missed_wakes, listener.deaf) == (0, [])
    listener.start(None)
    listener.looks.clear()
    await until(lambda: listener.beats >= 3)
    assert {*listener.looks} == {"beat"}


# Errors and the end


@pytest.mark.usefixtures("quick_heart")
async def test_a_stopped_listener_looks_no_more_whatever_was_announced(listener: Subject) -> None:
    """A look would open a database that was just closed."""
    listener.start(0.01)
    listener.log_written()
    listener.look_again()
    thread = threading.Thread(target=listener.ring_from_elsewhere)
    thread.start()
    thread.join(PATIENCE)  # on the loop, which does not see it before it stops
    listener.stop()
    listener.stop()
    listener.looks.clear()
    for wake in (listener.ring, listener.touch, listener.log_written, listener.look_again):
        wake()
    await asyncio.sleep(2 * TIMES.lull)
    assert listener.looks == []


class Interrupt(BaseException):
    """Out of a signal handler."""


@pytest.mark.usefixtures("quick_heart")
async def test_calls_that_an_interrupt_has_replaced_are_asked_for_again(listener: Subject) -> None:
    """A heart beats again when somebody begins to wait, or is rung."""
    for go_on in (listener.go_on, listener.ring):
        for after in (1.2, 3):
            listener.call_after(BEAT, "beat", lambda: None)
            before = listener.beats
            await asyncio.sleep(after * BEAT)
            assert listener.beats == before
            go_on()
            await until(lambda before=before: listener.beats >= before + 2)  # type: ignore[misc]
    listener.looks.clear()
    listener.call_after(BEAT, "again", lambda: None)
    await asyncio.sleep(3 * BEAT)
    listener.look_again()
    await until(lambda: "rung" in listener.looks)


@pytest.mark.usefixtures("quick_heart")
@pytest.mark.parametrize(
    "look", [1, len(TIMES.after_a_write) + 1], ids=["after a write", "in the lull"]
)
async def test_after_an_interrupt_of_a_look_writes_are_heard_again(
    listener: Subject, look: int, set_times: SetTimes
) -> None:
    """At the second heartbeat from then on."""
    set_times(lull=BEAT / 4)

    def find(how: str) -> bool:
        if listener.looks.count("unsure") == look and how == "unsure":
            raise Interrupt
        return False

    listener.loop.set_exception_handler(lambda loop, context: None)
    listener.finds, listener.log_is_written = find, True
    listener.start(None)
    listener.log_written()
    await until(lambda: listener.looks.count("unsure") >= look)
    listener.log_is_written = False
    await until(lambda: listener.listens[-1])


@pytest.mark.usefixtures("quick_heart")
async def test_an_interrupt_of_a_ring_from_elsewhere_or_in_place_of_its_look_does_not_silence_it(
    listener: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as interrupted:
        interrupted.setattr(listener.loop, "call_soon_threadsafe", Mock(side_effect=Interrupt))
        with pytest.raises(Interrupt):
            listener.ring_from_elsewhere()
    listener.ring_from_elsewhere()
    await until(lambda: listener.looks == ["rung"])
    with monkeypatch.context() as interrupted:
        interrupted.setattr(listener, "_ring_once", lambda: None)
        listener.ring_from_elsewhere()
        await listener.beat(2)
    listener.ring_from_elsewhere()
    await until(lambda: listener.looks.count("rung") == 2)
