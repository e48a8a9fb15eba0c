"""inotify: rings are told from writes, nothing is read in vain, and no event is missed for good."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from channels_sqlite.exceptions import WatcherUnavailable
from channels_sqlite.wakes.listener import CHANGE, LONGEST_PAUSE, WRITE
from channels_sqlite.wakes.watcher import Watcher
from tests.ears import OVER, QUIET, Ear, listening, switches, touch, write
from tests.waiting import PATIENCE, until

if sys.platform != "linux":
    pytest.skip("no inotify here", allow_module_level=True)
Mask = pytest.importorskip("asyncinotify", reason="no inotify here").Mask
InotifyWatcher = pytest.importorskip("channels_sqlite.wakes.inotify").InotifyWatcher


@pytest.fixture
def wal(tmp_path: Path) -> Path:
    path = tmp_path / "channels.sqlite3-wal"
    path.touch()
    return path


async def test_a_touch_is_a_ring(wal: Path) -> None:
    """It comes after the commit: one look is enough."""
    async with listening(wal, "inotify") as (ear, _):
        touch(wal)
        await until(lambda: ear.looks)
        await asyncio.sleep(OVER)
        assert len(ear.looks) == 1


async def test_a_write_is_no_ring(wal: Path) -> None:
    """It comes before the commit: looks follow until it can be seen."""
    async with listening(wal, "inotify") as (ear, _):
        begin = ear.loop.time()
        write(wal)
        await until(lambda: ear.looks and ear.looks[-1] >= begin + sum(WRITE))
        assert ear.looks[0] - begin >= WRITE[0] - 0.0005
        await asyncio.sleep(OVER)
        assert len(ear.looks) <= 2 * len(WRITE)


async def test_one_commits_writes_wake_it_once(wal: Path) -> None:
    """The other wakeups would cost the writer more than a look costs."""
    async with listening(wal, "inotify"):
        await asyncio.sleep(0.01)
        before = switches(threading.main_thread())

        def write_often() -> None:
            for _ in range(50):
                write(wal)
                time.sleep(0.0002)

        await asyncio.to_thread(write_often)
        assert switches(threading.main_thread()) - before < 25


def hears_writes(watcher: Watcher) -> bool:
    """Whether the kernel is asked for them."""
    assert isinstance(watcher, InotifyWatcher)
    info = Path(f"/proc/self/fdinfo/{watcher._fd}").read_text()
    return bool(int(info.partition("mask:")[2].split()[0], 16) & Mask.MODIFY)


async def test_who_is_woken_does_not_wait_for_the_watch_to_be_changed(wal: Path) -> None:
    """It takes as long as a look, right after a silence."""
    async with listening(wal, "inotify") as (ear, watcher):
        heard: list[bool] = []
        waiter = ear.loop.create_future()
        ear.on_look = lambda: None if waiter.done() else waiter.set_result(None)

        async def consume() -> None:
            await waiter
            heard.append(hears_writes(watcher))

        consumer = asyncio.create_task(consume())
        await asyncio.sleep(0)
        write(wal)
        touch(wal)
        await consumer
        assert heard == [True]
        await until(lambda: not hears_writes(watcher))


async def test_what_a_consumer_writes_in_its_turn_is_left_unheard(wal: Path) -> None:
    """Though the watch is changed after that: an answer would have its own sender look again."""
    async with listening(wal, "inotify") as (ear, _):
        woken = ear.loop.create_future()
        ear.on_look = lambda: None if woken.done() else woken.set_result(None)

        async def answer() -> None:
            await woken
            write(wal)

        answering = asyncio.create_task(answer())
        await asyncio.sleep(0)
        write(wal)
        touch(wal)
        await answering
        woken_at = ear.woken_at
        for _ in range(10):  # whatever the loop has been told of by now
            await asyncio.sleep(0)
        assert ear.woken_at == woken_at


async def test_what_is_written_unheard_is_looked_for(wal: Path) -> None:
    """As long as after a write that was heard."""
    async with listening(wal, "inotify") as (ear, _):
        write(wal)
        await until(lambda: len(ear.looks) == 2)
        last = ear.loop.time()
        write(wal)
        await until(lambda: ear.looks[-1] >= last + sum(WRITE))
        await asyncio.sleep(OVER)
        ear.looks.clear()
        write(wal)
        await until(lambda: ear.looks)


async def test_writes_are_heard_again_when_the_loop_that_was_to_see_to_it_is_closed(
    wal: Path,
) -> None:
    async def hear(watcher: Watcher) -> None:
        there = Ear()
        watcher.add(there)
        write(wal)
        await until(lambda: there.looks)

    async with listening(wal, "inotify") as (ear, watcher):
        thread = threading.Thread(target=lambda: asyncio.run(hear(watcher)))
        thread.start()
        thread.join(PATIENCE)  # on the loop, which hears nothing meanwhile
        await asyncio.sleep(2 * WRITE[-1])
        watcher.hurry()  # a heartbeat has found something
        await asyncio.sleep(OVER)
        ear.looks.clear()
        write(wal)
        await until(lambda: ear.looks)


async def test_a_write_and_a_touch_at_once_are_both(wal: Path) -> None:
    async with listening(wal, "inotify") as (ear, _):
        write(wal)
        touch(wal)
        await until(lambda: len(ear.looks) >= len(CHANGE))
        await asyncio.sleep(OVER)
        assert len(ear.looks) <= 2 * len(CHANGE)


async def test_a_new_file_is_a_ring(wal: Path) -> None:
    wal.unlink()  # noqa: ASYNC240 - the event is what counts
    async with listening(wal, "inotify") as (ear, _):
        os.close(os.open(wal, os.O_CREAT))
        await until(lambda: ear.looks)


async def test_a_storm_of_touches_is_few_looks(wal: Path) -> None:
    """Equal events are merged, and a bystander's looks keep their distance."""
    async with listening(wal, "inotify") as (ear, _):
        for _ in range(1000):
            touch(wal)
        await until(lambda: ear.looks)
        await asyncio.sleep(OVER)
        assert len(ear.looks) <= 3


async def test_an_overflow_of_the_queue_is_a_look(wal: Path) -> None:
    """The kernel has thrown events away: ours may have been among them."""
    limit = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())  # noqa: ASYNC240
    if limit > 50_000:
        pytest.skip("the queue of events is too long here")
    others = [wal.with_name("a"), wal.with_name("b")]
    for other in others:
        other.touch()
    async with listening(wal, "inotify") as (ear, _):
        for number in range(limit + 10):  # in turn, for equal events are merged
            touch(others[number % 2])
        await until(lambda: ear.looks)


async def test_a_longer_queue_than_is_read_at_once_is_read_to_its_end(wal: Path) -> None:
    others = [wal.with_name("a" * 100), wal.with_name("b" * 100)]
    for other in others:
        other.touch()
    async with listening(wal, "inotify") as (ear, _):
        for number in range(3000):
            touch(others[number % 2])
        touch(wal)
        await until(lambda: ear.looks)


async def test_it_needs_no_thread_and_one_descriptor(wal: Path) -> None:
    threads, descriptors = threading.active_count(), psutil.Process().num_fds()
    async with listening(wal, "inotify"), listening(wal, "inotify"):
        assert threading.active_count() <= threads
        # asyncinotify's own, and that of a selector that it does not need here.
        assert psutil.Process().num_fds() <= descriptors + 2


async def test_nothing_happens_while_nothing_happens(wal: Path) -> None:
    """No wakeup at all."""
    async with listening(wal, "inotify") as (ear, _):
        before = switches(threading.main_thread())
        await asyncio.sleep(QUIET)
        assert switches(threading.main_thread()) - before <= 3
        assert ear.looks == []


async def test_a_reader_in_vain_does_not_stop_the_loop(wal: Path) -> None:
    """Another loop was quicker: all are told to read, and one finds something."""
    done = threading.Event()

    async def listen() -> None:
        async with listening(wal, "inotify") as (ear, _):
            await until(done.is_set)
            assert ear.looks

    threads = [threading.Thread(target=asyncio.run, args=(listen(),)) for _ in range(3)]
    for thread in threads:
        thread.start()
    async with listening(wal, "inotify") as (ear, _):
        for _ in range(50):
            ear.looks.clear()
            touch(wal)
            await until(lambda: ear.looks)
        done.set()
        for thread in threads:
            await asyncio.to_thread(thread.join, 10)
    assert not any(thread.is_alive() for thread in threads)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
async def test_a_directory_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o300)
    with pytest.raises(WatcherUnavailable, match="closed"):
        async with listening(closed / "channels.sqlite3-wal", "inotify"):
            pass


async def test_the_talk_of_others_does_not_wake_a_bystander_each_time(wal: Path) -> None:
    async with listening(wal, "inotify") as (ear, _):
        before = switches(threading.main_thread())
        touches = 0

        def touch_often() -> None:
            nonlocal touches
            end = time.monotonic() + 0.5
            while time.monotonic() < end:
                touch(wal)
                touches += 1
                time.sleep(0.001)

        await asyncio.to_thread(touch_often)
        assert switches(threading.main_thread()) - before < touches / 2
        heard = len(ear.looks)
        await asyncio.sleep(2 * LONGEST_PAUSE)
        touch(wal)
        await until(lambda: len(ear.looks) > heard)


async def let_rest(ear: Ear, wal: Path) -> None:
    """Ring for nothing until it does not listen for a while."""
    while ear.quiet_until <= ear.loop.time():
        touch(wal)
        await asyncio.sleep(0)


async def test_a_bystander_that_rests_hears_what_came_meanwhile(wal: Path) -> None:
    async with listening(wal, "inotify") as (ear, _):
        await let_rest(ear, wal)
        heard = len(ear.looks)
        touch(wal)
        assert len(ear.looks) == heard
        await until(lambda: len(ear.looks) > heard)


async def test_who_leaves_while_it_rests_is_not_woken(wal: Path) -> None:
    async with listening(wal, "inotify") as (ear, _):
        await let_rest(ear, wal)
    heard = len(ear.looks)
    touch(wal)
    await asyncio.sleep(2 * LONGEST_PAUSE)
    assert len(ear.looks) == heard
