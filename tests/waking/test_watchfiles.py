"""watchfiles: a thread whose pace follows the traffic, and which ends with its loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from channels_sqlite._storing.once import Once
from channels_sqlite._waking import watchfiles as module
from channels_sqlite._waking.watchfiles import WatchfilesWatcher
from tests.processes import Child
from tests.waiting import PATIENCE, until
from tests.waking.ears import QUIET, Ear, Place, touch, write

SLOW = 60.0  # seconds, as a polling_interval that asks for it


def watch(ear: Ear, place: Place, polling_interval: float = 0.01) -> WatchfilesWatcher:
    return WatchfilesWatcher(ear, str(place.wal), place.bell, polling_interval, Once())


@pytest.fixture
async def watcher(ear: Ear, place: Place) -> AsyncIterator[WatchfilesWatcher]:
    watcher = watch(ear, place)
    await asyncio.sleep(QUIET)  # the making of the files may be told of
    ear.heard.clear()
    yield watcher
    watcher.stop()


@pytest.mark.usefixtures("watcher")
async def test_a_touched_bell_is_a_ring(ear: Ear, place: Place) -> None:
    for _ in range(3):
        ear.heard.clear()
        touch(place.bell.path)
        await until(lambda: ear.heard)
        assert ear.heard == ["ring"]


async def test_a_changed_log_is_a_write_and_may_be_a_touch(
    watcher: WatchfilesWatcher, ear: Ear, place: Place
) -> None:
    """It cannot be told."""
    for change in (touch, write):
        watcher.want_touches(False)
        ear.heard.clear()
        change(place.wal)
        await until(lambda: ear.heard)
        assert set(ear.heard) == {"write"}
        await asyncio.sleep(QUIET)
        watcher.want_touches(True)
        ear.heard.clear()
        change(place.wal)
        await until(lambda: {*ear.heard} == {"touch", "write"})
        await asyncio.sleep(QUIET)


async def test_a_reader_that_rests_hears_rings_only(
    watcher: WatchfilesWatcher, ear: Ear, place: Place
) -> None:
    watcher.hear_writes(False)
    write(place.wal)
    await asyncio.sleep(QUIET)
    assert ear.heard == []
    touch(place.bell.path)
    await until(lambda: ear.heard == ["ring"])


@pytest.mark.usefixtures("watcher")
async def test_what_the_reader_says_of_itself_is_no_ring(ear: Ear, place: Place) -> None:
    """It would say that it was woken, and so be woken, for ever."""
    for channels in range(3):
        place.bell.say({"channels": channels})
        await asyncio.sleep(QUIET)
    assert ear.heard == []
    touch(place.bell.path)
    await until(lambda: ear.heard == ["ring"])


async def test_it_is_quick_while_there_is_traffic_and_then_slow_again(
    ear: Ear, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "QUICK_FOR", 1.5)
    watcher = watch(ear, place, SLOW)

    async def delay() -> float:
        await asyncio.sleep(QUIET)
        ear.heard.clear()
        begin = ear.loop.time()
        touch(place.bell.path)
        await until(lambda: ear.heard)
        return ear.loop.time() - begin

    idle = min([await delay() for _ in range(3)])
    watcher.hurry()
    quick = min([await delay() for _ in range(4)][1:])
    await asyncio.sleep(1.5)
    assert quick < idle
    assert min([await delay() for _ in range(3)]) > quick
    watcher.stop()


async def test_its_thread_keeps_no_interpreter_and_ends_when_it_is_stopped(
    watcher: WatchfilesWatcher,
) -> None:
    assert watcher.thread.daemon
    watcher.stop()
    await asyncio.to_thread(watcher.thread.join, PATIENCE)
    assert not watcher.thread.is_alive()


@pytest.mark.parametrize("changes", [False, True], ids=["idle", "busy"])
def test_its_thread_ends_when_its_loop_was_closed(
    place: Place, changes: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody has to close a layer."""
    monkeypatch.setattr(module, "IDLE_TIMEOUT", 50)

    async def begin() -> threading.Thread:
        return watch(Ear(), place).thread

    thread = asyncio.run(begin())
    if changes:
        touch(place.bell.path)
    thread.join(PATIENCE)
    assert not thread.is_alive()


def test_the_interpreter_ends_while_it_watches(database: Path) -> None:
    """Its thread is in Rust code, which must not crash the process."""
    for _ in range(3):
        with Child("tests.waking.children.ends_while_it_watches", database) as child:
            child.finish()
