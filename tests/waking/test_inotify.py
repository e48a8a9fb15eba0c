"""inotify: rings are told from writes, and nothing that was lent is kept."""

from __future__ import annotations

import asyncio
import gc
import os
import sys
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from channels_sqlite.exceptions import WatcherUnavailable
from tests.processes import Child
from tests.waiting import until
from tests.waking.ears import QUIET, Ear, Place, touch, write

if sys.platform != "linux":
    pytest.skip("no inotify here", allow_module_level=True)

from channels_sqlite._waking.inotify import ATTRIB, InotifyWatcher


@pytest.fixture
async def watcher(ear: Ear, place: Place) -> AsyncIterator[InotifyWatcher]:
    watcher = InotifyWatcher(ear, str(place.wal), place.bell)
    yield watcher
    watcher.stop()


def descriptors() -> int:
    """How many this process has of inotify."""
    count = 0
    for number in os.listdir("/proc/self/fd"):
        try:
            count += os.readlink(f"/proc/self/fd/{number}") == "anon_inode:inotify"
        except FileNotFoundError:  # that of listdir itself
            continue
    return count


# Which event is what


@pytest.mark.usefixtures("watcher")
async def test_a_touched_bell_is_a_ring(ear: Ear, place: Place) -> None:
    touch(place.bell.path)
    await until(lambda: ear.heard)
    await asyncio.sleep(QUIET)
    assert ear.heard == ["ring"]


@pytest.mark.usefixtures("watcher")
async def test_what_the_reader_says_of_itself_is_no_ring(ear: Ear, place: Place) -> None:
    place.bell.say({"channels": 1})
    await asyncio.sleep(QUIET)
    assert ear.heard == []


@pytest.mark.usefixtures("watcher")
async def test_a_written_log_is_a_write(ear: Ear, place: Place) -> None:
    write(place.wal)
    await until(lambda: ear.heard)
    await asyncio.sleep(QUIET)
    assert set(ear.heard) == {"write"}


async def test_a_touched_log_is_a_touch_to_those_who_read_normal_channels(
    watcher: InotifyWatcher, ear: Ear, place: Place
) -> None:
    """To the others somebody has written, for whomever."""
    touch(place.wal)
    await until(lambda: ear.heard)
    assert ear.heard == ["write"]
    watcher.want_touches(True)
    touch(place.wal)
    await until(lambda: "touch" in ear.heard)
    watcher.want_touches(False)
    ear.heard.clear()
    touch(place.wal)
    await until(lambda: ear.heard)
    assert ear.heard == ["write"]


async def test_a_reader_that_rests_hears_rings_and_touches_only(
    watcher: InotifyWatcher, ear: Ear, place: Place
) -> None:
    watcher.hear_writes(False)
    write(place.wal)
    touch(place.wal)
    await asyncio.sleep(QUIET)
    assert ear.heard == []
    touch(place.bell.path)
    await until(lambda: ear.heard == ["ring"])
    watcher.want_touches(True)
    touch(place.wal)
    await until(lambda: ear.heard == ["ring", "touch"])
    watcher.hear_writes(True)
    write(place.wal)
    await until(lambda: ear.heard[-1] == "write")


# Files that go away


@pytest.mark.usefixtures("watcher")
async def test_a_deleted_bell_is_a_ring(ear: Ear, place: Place) -> None:
    """The reader looks, and makes another one at its next heartbeat."""
    os.unlink(place.bell.path)
    await until(lambda: "ring" in ear.heard)


async def test_a_deleted_log_is_a_write_and_the_next_one_is_watched(
    watcher: InotifyWatcher, ear: Ear, place: Place
) -> None:
    place.wal.unlink()
    await until(lambda: "write" in ear.heard)
    watcher.hear_writes(False)  # as the listener does; the log is not there
    place.wal.touch()
    watcher.hear_writes(True)
    ear.heard.clear()
    write(place.wal)
    await until(lambda: ear.heard)
    assert set(ear.heard) == {"write"}


async def test_an_overflow_of_the_queue_is_a_ring(
    watcher: InotifyWatcher, ear: Ear, place: Place
) -> None:
    """The kernel has thrown events away: one of the bell may have been among them."""
    limit = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())  # noqa: ASYNC240
    if limit > 50_000:
        pytest.skip("the queue of events is too long here")
    others = [f"{place.wal}{end}" for end in "ab"]
    for other in others:
        Path(other).touch()  # noqa: ASYNC240
        watcher._add(other, ATTRIB)
    for number in range(limit + 10):
        touch(others[number % 2])
    await until(lambda: ear.heard == ["ring"])


# What it costs


async def test_it_has_one_descriptor_and_no_thread(ear: Ear, place: Place) -> None:
    threads, before = threading.active_count(), descriptors()
    watcher = InotifyWatcher(ear, str(place.wal), place.bell)
    assert threading.active_count() == threads
    assert descriptors() == before + 1
    watcher.stop()
    watcher.stop()
    os.unlink(place.bell.path)
    with pytest.raises(WatcherUnavailable, match=f"{place.bell.path}: No such file"):
        InotifyWatcher(ear, str(place.wal), place.bell)
    assert descriptors() == before


def test_a_closed_loop_keeps_no_descriptor(place: Place) -> None:
    """Nobody has to close a layer before its loop: the next one that listens sees to it."""

    async def begin() -> InotifyWatcher:
        return InotifyWatcher(Ear(), str(place.wal), place.bell)

    async def begin_and_end() -> None:
        before = descriptors()
        (await begin()).stop()
        assert descriptors() == before - 1

    abandoned = asyncio.run(begin())
    assert abandoned.has_ended
    asyncio.run(begin_and_end())


def test_forgotten_with_its_loop_it_keeps_no_descriptor(place: Place) -> None:
    async def begin() -> None:
        InotifyWatcher(Ear(), str(place.wal), place.bell)

    before = descriptors()
    for _ in range(3):
        asyncio.run(begin())
    gc.collect()
    assert descriptors() == before


# Forks


def test_a_forked_child_lets_go_and_the_parent_goes_on(database: Path) -> None:
    with Child("tests.waking.children.forks", database) as child:
        assert child.hear() == {"the child's": 0, "the parent's": ["ring"]}
        child.finish()
