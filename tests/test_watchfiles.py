"""watchfiles: a thread whose pace follows the traffic."""

from __future__ import annotations

import asyncio
import sys
import threading
from pathlib import Path

import pytest

from channels_sqlite.wakes import watchfiles as module
from channels_sqlite.wakes.listener import CHANGE
from channels_sqlite.wakes.watchfiles import IDLE_STEP
from tests.ears import OVER, QUIET, Ear, listening, switches, touch
from tests.waiting import until

IDLE = IDLE_STEP / 1000  # seconds; the slowest pace
SLOW = 60.0  # seconds, as a polling_interval that asks for it


@pytest.fixture
def wal(tmp_path: Path) -> Path:
    path = tmp_path / "channels.sqlite3-wal"
    path.touch()
    return path


async def delay(ear: Ear, wal: Path) -> float:
    """Seconds from a touch to its look; the looks that follow are waited for."""
    begin = ear.loop.time()
    ear.looks.clear()
    touch(wal)
    await until(lambda: ear.looks)
    (first, *_) = ear.looks
    await asyncio.sleep(OVER)
    return first - begin


async def test_a_touch_may_be_a_ring_or_a_write(wal: Path) -> None:
    """It does not say which: there is a look at once, and the ladder."""
    async with listening(wal, "watchfiles") as (ear, _):
        touch(wal)
        await until(lambda: len(ear.looks) == len(CHANGE))
        await asyncio.sleep(OVER)
        assert len(ear.looks) == len(CHANGE)


async def test_it_is_quick_while_there_is_traffic(wal: Path) -> None:
    async with listening(wal, "watchfiles", SLOW) as (ear, watcher):
        idle = [await delay(ear, wal) for _ in range(2)]
        quick = []
        for _ in range(4):
            watcher.hurry()
            quick.append(await delay(ear, wal))
        assert min(idle) >= 0.9 * IDLE
        # The first is seen at the old pace, which ends with it.
        assert min(quick[1:]) < 0.5 * IDLE


async def test_it_is_slow_again_when_there_is_no_more_traffic(
    wal: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "QUICK_FOR", 0.2)
    async with listening(wal, "watchfiles", SLOW) as (ear, watcher):
        watcher.hurry()
        await delay(ear, wal)
        await asyncio.sleep(0.2 + module.QUICK_TIMEOUT / 1000)
        assert await delay(ear, wal) >= 0.9 * IDLE


@pytest.mark.skipif(sys.platform != "linux", reason="wakeups are counted on Linux only")
async def test_its_idle_pace_is_that_of_polling(wal: Path) -> None:
    """A little quicker, rather: a change is seen after one step to two."""
    async with listening(wal, "watchfiles", 0.02) as (ear, _):
        thread = watching_thread()
        before = switches(thread)
        await asyncio.sleep(QUIET)
        assert switches(thread) - before <= 1.5 * QUIET / 0.02 + 5
        assert ear.looks == []


def watching_thread() -> threading.Thread:
    """The newest one of its name."""
    return [each for each in threading.enumerate() if "watchfiles" in each.name][-1]


async def test_it_has_one_thread_that_keeps_no_interpreter_from_exiting(wal: Path) -> None:
    before = threading.active_count()
    async with listening(wal, "watchfiles"), listening(wal, "watchfiles"):
        assert threading.active_count() <= before + 1
        thread = watching_thread()
        assert thread.daemon
    thread.join(5)
    assert not thread.is_alive()


async def test_stopping_does_not_wait_for_the_thread(wal: Path) -> None:
    """Somebody stops it on an event loop."""
    async with listening(wal, "watchfiles", SLOW) as (ear, watcher):
        begin = ear.loop.time()
        watcher.stop()
        assert ear.loop.time() - begin < IDLE
