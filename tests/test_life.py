"""Loops, threads, forks, files and interpreters come and go: the layer goes on, or lets go."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import sqlite3
import sys
import threading
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import psutil
import pytest
from asgiref.sync import async_to_sync

from tests.children import inotify_descriptors
from tests.conftest import OpenLayer, SetTimes, Start
from tests.kinds import ours
from tests.processes import succeeds  # noqa: F401 - for skipif
from tests.rows import message
from tests.waiting import cancel, receive, soon, threads, until, wait_until

PROMPTLY = 30.0  # seconds: an interpreter that hangs does so for ever
ROOM = 4_000_000  # bytes by which a process may grow; one more for each loop would be many more
ON_UVLOOP = os.environ.get("TESTS_LOOP") == "uvloop"
if ON_UVLOOP:
    ROOM += 40 * 256_000  # what each of its loops reads into, until the loop is collected


async def send_and_receive(layer: Any) -> None:
    for channel in ("test-channel", await layer.new_channel()):
        await layer.send(channel, message(1))
        assert await receive(layer, channel) == message(1)


# Event loops, one after the other


@ours
def test_what_was_read_on_a_loop_that_ends_at_once_does_not_wait_any_more(layer: Any) -> None:
    """As a view has it that asks and gets an answer, in a process that is quiet afterwards."""
    channel = async_to_sync(layer.new_channel)()
    async_to_sync(layer.send)(channel, message(1))
    assert async_to_sync(receive)(layer, channel) == message(1)
    assert async_to_sync(layer.stats)().total.waiting == 0


def test_loops_whose_clocks_stand_still(layer: Any) -> None:
    """freezegun stops them in a test, and no timer of such a loop ends."""
    channel = async_to_sync(layer.new_channel)()

    async def exchange() -> None:
        await layer.send(channel, message(1))
        assert await layer.receive(channel) == message(1)

    for _ in range(2):
        with closing(asyncio.SelectorEventLoop()) as loop:
            loop.time = lambda: 0.0  # type: ignore[method-assign]
            loop.run_until_complete(exchange())


@ours
def test_loops_that_are_closed_and_collected_leave_no_consumers(layer: Any) -> None:
    async def abandon() -> None:
        asyncio.ensure_future(layer.receive("nothing"))  # noqa: RUF006 - its waiter holds it
        await asyncio.sleep(0.05)

    for _ in range(3):
        with closing(asyncio.new_event_loop()) as loop:
            loop.run_until_complete(abandon())
        del loop
        gc.collect()
    asyncio.run(send_and_receive(layer))
    assert layer._parts.receiver._queues.count_channels() == 0


def test_loops_that_end_before_a_heartbeat_have_one_between_them(
    open_layer: OpenLayer, set_times: SetTimes
) -> None:
    """As a view has it that receives by async_to_sync."""
    set_times(heartbeat=0.1)
    layer = open_layer(expiry=1, group_expiry=1)
    channel = async_to_sync(layer.new_channel)()
    async_to_sync(layer.group_add)("test-group", channel)
    for number in (1, 2):
        async_to_sync(layer.group_send)("test-group", message(number))
    assert async_to_sync(receive)(layer, channel) == message(1)
    time.sleep(1.1)
    async_to_sync(send_and_receive)(layer)
    assert layer.counters.expired == 1
    assert async_to_sync(layer.group_count)("test-group") == 0


@pytest.mark.parametrize("watcher", ["inotify", "watchfiles"], indirect=True)
def test_hundreds_of_loops_that_send_and_receive(start: Start, watcher: str) -> None:
    """async_to_sync(layer.group_send) in a synchronous view."""
    child = start("fresh_loops", counts=[50, 100], watcher=watcher)
    threads, descriptors, memory = child.hear()
    more_threads, more_descriptors, more_memory = child.hear(60)
    # Watchers of the last loops may be about to end; what grew with them would be a hundred.
    assert more_threads <= threads + 10
    assert more_descriptors <= descriptors + 3
    assert more_memory - memory < ROOM
    child.finish()


@pytest.mark.skipif(sys.platform != "linux", reason="no inotify here")
@pytest.mark.skipif(ON_UVLOOP, reason="uvloop does not collect a loop that was not closed")
@pytest.mark.filterwarnings("ignore:unclosed event loop:ResourceWarning")
def test_a_loop_that_nobody_closes_is_collected_with_its_descriptors(layer: Any) -> None:
    """A user of Linux has 128 instances of inotify."""
    for _ in range(20):
        asyncio.new_event_loop().run_until_complete(send_and_receive(layer))
    gc.collect()
    wait_until(lambda: len(inotify_descriptors()) <= 1)
    async_to_sync(send_and_receive)(layer)


# Event loops at once


@ours
@pytest.mark.parametrize("local", [True, False], ids=["process-local", "normal"])
def test_loops_at_once_share_a_channel(layer: Any, local: bool) -> None:
    """Four loops in four threads receive on one channel, and send at the same time."""
    channel = async_to_sync(layer.new_channel)() if local else "test-channel"
    got: list[int] = []

    async def work(begin: int) -> None:
        receiving = asyncio.create_task(consume())
        for number in range(begin, 100, 4):
            await layer.send(channel, message(number))
            await asyncio.sleep(0.001)
        await until(lambda: len(got) >= 100)
        await cancel(receiving)

    async def consume() -> None:
        while True:
            got.append((await layer.receive(channel))["number"])

    with threads(*[lambda begin=begin: asyncio.run(work(begin)) for begin in range(4)]):
        pass
    assert sorted(got) == [*range(100)]


# Event loops that end badly


def test_a_loop_is_closed_with_a_call_in_flight(layer: Any, others: sqlite3.Connection) -> None:
    """Nobody can be told what became of it; others who wait for the same lock are served."""
    async_to_sync(send_and_receive)(layer)
    others.execute("begin immediate")
    doomed = asyncio.new_event_loop()
    task = doomed.create_task(layer.send("doomed", message(1)))
    doomed.run_until_complete(asyncio.sleep(0.05))
    doomed.close()
    with threads(*[lambda: asyncio.run(send_and_receive(layer))] * 2):
        time.sleep(0.1)
        others.execute("rollback")
    async_to_sync(send_and_receive)(layer)
    assert not task.done()
    del task
    gc.collect()


@ours
def test_a_loop_is_closed_while_it_receives(layer: Any) -> None:
    """Its consumers are gone; the messages are not."""
    channel = async_to_sync(layer.new_channel)()
    doomed = asyncio.new_event_loop()
    tasks = [doomed.create_task(layer.receive(each)) for each in (channel, "test-channel")]
    doomed.run_until_complete(asyncio.sleep(0.1))
    doomed.close()
    for each in (channel, "test-channel"):
        async_to_sync(layer.send)(each, message(1))
        assert async_to_sync(receive)(layer, each) == message(1)
    del tasks
    gc.collect()


def test_loops_are_closed_while_it_trims(start: Start) -> None:
    """The trimming goes on in its thread, and there is nobody to tell."""
    child = start("tests.life_children.closes_loops_while_it_trims", sends=150)
    assert child.hear() == "sent"
    child.finish(PROMPTLY)


def test_nothing_is_left_to_the_garbage_collector(start: Start) -> None:
    """Where there are thousands of sockets, a collection stops the event loop for long."""
    child = start("tests.life_children.leaves_garbage")
    assert child.hear() == []
    child.finish()


def test_a_fork_meets_no_threads_of_ours(start: Start) -> None:
    """Of which Python would warn, from 3.12 on, and the child's locks could be held for ever."""
    child = start("tests.life_children.forks", watcher="watchfiles")
    assert child.hear() == 0
    child.finish(PROMPTLY)


# Threads that cannot start

# A user of whom nobody else is, because the limit counts all processes of a user, and not root's.
ANOTHER = (
    *("setpriv", f"--reuid={70_000 + os.getpid()}"),
    *("--inh-caps=+dac_override", "--ambient-caps=+dac_override"),
)
can_limit = pytest.mark.skipif(
    'not succeeds("prlimit", "--nproc=9", *ANOTHER, "true")', reason="no limited users here"
)


def watches(start: Start, threads: int, watcher: str) -> str:
    """The watcher of a process that may have so many threads, the first one included."""
    limited = ("prlimit", f"--nproc={threads}", *ANOTHER)
    child = start("tests.life_children.watches", by=limited, watcher=watcher)
    said: str = child.hear()
    assert child.wait(PROMPTLY) == 0
    return said


@can_limit
def test_without_threads_auto_polls_and_watchfiles_says_that_none_can_start(start: Start) -> None:
    """watchfiles would abort the process. The first two are the process and the layer's worker."""
    kinds = [watches(start, threads, "auto") for threads in (2, 3, 9)]
    assert kinds == ["polling", "polling", "watchfiles"]
    assert "can't start new thread" in watches(start, 2, "watchfiles")


# Closing


@ours
async def test_close_gives_everything_back(layer: Any) -> None:
    """Threads and descriptors, except the bell's, which says that the process lives; closing twice
    or before any use does no harm.
    """
    process = psutil.Process()
    await asyncio.to_thread(lambda: None)  # the loop's own pool
    before = (threading.active_count(), process.num_fds())
    await layer.close()
    for _ in range(3):
        await send_and_receive(layer)
        await layer.close()
        await layer.close()
        # Not equal: what an earlier test has left may end meanwhile.
        await until(lambda: threading.active_count() <= before[0])
        await until(lambda: process.num_fds() <= before[1] + 1)


@ours
async def test_layers_that_are_closed_one_after_the_other_leave_nothing_open(
    open_layer: OpenLayer,
) -> None:
    """A look of the second, between the two, has asked for the database to be opened again."""
    await asyncio.to_thread(lambda: None)  # the loop's own pool
    before, database = threading.active_count(), open_layer().database
    for _ in range(20):
        layers = [open_layer(), open_layer()]
        for layer in layers:
            await send_and_receive(layer)
        await layers[0].close()
        database.open_for_readers()
        await layers[1].close()
        await asyncio.sleep(0.01)  # a thread opens it meanwhile, for which nobody waits
        await until(lambda: database.connections is None)
        await until(lambda: threading.active_count() <= before)


@ours
async def test_closing_one_layer_leaves_another_alone(open_layer: OpenLayer) -> None:
    layer, other = open_layer(), open_layer()
    channel = await other.new_channel()
    waiting = asyncio.create_task(other.receive(channel))
    await send_and_receive(layer)
    await layer.close()
    await layer.send(channel, message(1))
    assert await soon(waiting) == message(1)
    await send_and_receive(other)


# The end of the interpreter


by_ctrl_c = pytest.param(
    "by Ctrl-C", marks=pytest.mark.skipif(sys.platform == "win32", reason="no signals here")
)


@pytest.mark.parametrize(
    "how", ["synchronous", "in a thread", "by an exception", "closed", by_ctrl_c]
)
def test_exit(start: Start, how: str) -> None:
    """With the thread of watchfiles; most of the children of other tests end without one. By Ctrl-C
    while a consumer waits; a server's SIGTERM: see faults/test_members.py.
    """
    child = start("exits", how=how, watcher="watchfiles")
    while (said := child.hear()) != "ending":
        if how == "by Ctrl-C" and said == "waiting":
            child.signal(signal.SIGINT)
    child.finish(PROMPTLY)


@pytest.mark.parametrize("watcher", ["auto", "watchfiles"], indirect=True)
@pytest.mark.skipif(
    ON_UVLOOP, reason="a timer of uvloop on a daemon thread ends an interpreter that has finished"
)
def test_exit_beside_loops_on_daemon_threads(start: Start, watcher: str) -> None:
    """They go on while the layer is closed, and meet files that are gone by then."""
    child = start("tests.life_children.exits_beside_loops", threads=8, watcher=watcher)
    assert child.hear() == "ending"
    child.finish(PROMPTLY)


# The file


@pytest.mark.skipif(sys.platform != "linux", reason="no /proc/locks here")
async def test_the_files_are_not_opened_beside_sqlite(layer: Any, database: Path) -> None:
    """Closing any descriptor of them would drop the locks by which other processes know of us."""
    await send_and_receive(layer)
    before = locks(database)
    assert before
    for _ in range(20):
        await send_and_receive(layer)
    await asyncio.sleep(1.2)  # a heartbeat
    assert locks(database) == before


def locks(database: Path) -> set[tuple[str, str]]:
    """The files of the database on which this process holds locks, and what locks."""
    inodes = {str(os.stat(f"{database}{end}").st_ino): end for end in ("", "-shm")}
    held = set()
    for line in Path("/proc/locks").read_text().splitlines():
        _, _, _, kind, pid, place, *_ = line.split()
        inode = place.split(":")[2]
        if pid == str(os.getpid()) and inode in inodes:
            held.add((inodes[inode], kind))
    return held
