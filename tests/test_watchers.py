"""Watchers: one for a file and a kind, for all who listen, and for as long as anybody does."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import shutil
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from channels_sqlite.exceptions import WatcherUnavailable
from channels_sqlite.wakes import watchers
from channels_sqlite.wakes.watchers import subscribe, unsubscribe
from tests.conftest import available
from tests.ears import QUIET, Ear, listening, touch, write
from tests.processes import ROOT, environment
from tests.waiting import PATIENCE, soon, until

POLLING = 0.01  # seconds


@pytest.fixture(params=["inotify", "watchfiles"])
def kind(request: pytest.FixtureRequest) -> str:
    return available(request.param)


@pytest.fixture
def wal(tmp_path: Path) -> Path:
    """A file to watch; what is in it does not matter here."""
    path = tmp_path / "channels.sqlite3-wal"
    path.touch()
    return path


# Waking


@pytest.mark.parametrize("change", [touch, write], ids=["touch", "write"])
async def test_a_change_wakes_everybody_who_listens(
    kind: str, wal: Path, change: Callable[[Path], None]
) -> None:
    async with listening(wal, kind) as (first, _), listening(wal, kind) as (second, _):
        for _ in range(3):
            first.looks.clear()
            second.looks.clear()
            change(wal)
            await until(lambda: first.looks and second.looks)


SIBLINGS = [
    "channels.sqlite3",
    "channels.sqlite3-shm",
    "channels.sqlite3-wal2",
    "channels",
    "my-channels.sqlite3-wal",
]


async def test_other_files_wake_nobody(kind: str, wal: Path) -> None:
    siblings = [wal.with_name(name) for name in SIBLINGS]
    for sibling in siblings:
        write_anew(sibling)
    async with listening(wal, kind) as (ear, _):
        touch(wal)
        await until(lambda: ear.looks)  # so it does listen
        await asyncio.sleep(QUIET)
        ear.looks.clear()
        for change in (touch, write, write_anew):
            for sibling in siblings:
                change(sibling)
        await asyncio.sleep(QUIET)
        assert ear.looks == []


def write_anew(path: Path) -> None:
    path.write_bytes(b"x")


async def test_a_file_that_is_not_there_yet_is_heard_of(kind: str, tmp_path: Path) -> None:
    wal = tmp_path / "not-there.sqlite3-wal"
    async with listening(wal, kind) as (ear, _):
        write_anew(wal)
        await until(lambda: ear.looks)


async def test_a_file_that_is_deleted_and_made_anew_is_heard_of(kind: str, wal: Path) -> None:
    """As the last process out and the next one in do with the WAL."""
    async with listening(wal, kind) as (ear, _):
        for _ in range(3):
            os.unlink(wal)
            await asyncio.sleep(0.05)
            ear.looks.clear()
            write_anew(wal)
            await until(lambda: ear.looks)
            ear.looks.clear()
            touch(wal)
            await until(lambda: ear.looks)


async def test_a_file_that_another_is_moved_over_is_heard_of(kind: str, wal: Path) -> None:
    async with listening(wal, kind) as (ear, _):
        other = wal.with_name("other")
        write_anew(other)
        await asyncio.sleep(QUIET)
        ear.looks.clear()
        other.replace(wal)
        await until(lambda: ear.looks)


async def test_names_may_be_of_any_letters(kind: str, tmp_path: Path) -> None:
    wal = tmp_path / "Grüße & ☃.sqlite3-wal"
    write_anew(wal)
    async with listening(wal, kind) as (ear, _):
        touch(wal)
        await until(lambda: ear.looks)


async def test_every_loop_is_woken(kind: str, wal: Path) -> None:
    """Three of them, in threads, and this one."""
    ready = [threading.Event() for _ in range(3)]
    woken = [threading.Event() for _ in range(3)]

    async def listen(number: int) -> None:
        async with listening(wal, kind) as (ear, _):
            ready[number].set()
            await until(lambda: ear.looks)
            woken[number].set()

    threads = [threading.Thread(target=asyncio.run, args=(listen(each),)) for each in range(3)]
    for thread in threads:
        thread.start()
    async with listening(wal, kind) as (ear, _):
        for each in ready:
            assert await asyncio.to_thread(each.wait, PATIENCE)
        touch(wal)
        await until(lambda: ear.looks)
        for each in woken:
            assert await asyncio.to_thread(each.wait, PATIENCE)
    for thread in threads:
        await asyncio.to_thread(thread.join, PATIENCE)


# Sharing and ending


async def test_there_is_one_for_a_file_and_a_kind(kind: str, wal: Path) -> None:
    other = wal.with_name("other.sqlite3-wal")
    async with (
        listening(wal, kind) as (_, watcher),
        listening(wal, kind) as (_, same),
        listening(other, kind) as (_, another),
    ):
        assert same is watcher
        assert another is not watcher


async def test_kinds_do_not_share_a_watcher(wal: Path) -> None:
    available("inotify")
    async with listening(wal, "inotify") as (_, one), listening(wal, "watchfiles") as (_, other):
        assert one is not other


async def test_threads_that_begin_to_listen_at_once_share_it(kind: str, wal: Path) -> None:
    begin, got = threading.Barrier(4), []

    async def listen() -> None:
        await asyncio.to_thread(begin.wait, PATIENCE)
        async with listening(wal, kind) as (_, watcher):
            got.append(watcher)
            await asyncio.to_thread(begin.wait, PATIENCE)

    await soon(asyncio.gather(*[asyncio.to_thread(asyncio.run, listen()) for _ in range(4)]))
    assert len(got) == 4
    assert len(set(map(id, got))) == 1


async def test_who_listens_no_more_is_not_woken(kind: str, wal: Path) -> None:
    async with listening(wal, kind) as (stays, watcher):
        async with listening(wal, kind) as (leaves, _):
            touch(wal)
            await until(lambda: stays.looks and leaves.looks)
        await asyncio.sleep(QUIET)
        leaves.looks.clear()
        stays.looks.clear()
        touch(wal)
        await until(lambda: stays.looks)
        await asyncio.sleep(0.05)
        assert leaves.looks == []
        unsubscribe(watcher, leaves)  # again, which does no harm
        touch(wal)
        await until(lambda: len(stays.looks) > 1)


async def test_the_end_of_the_interpreter_waits_for_one_that_was_left(kind: str, wal: Path) -> None:
    """Until its thread is gone: Rust code that outlives the interpreter crashes the process."""
    before = {*threading.enumerate()}
    for _ in range(5):
        ear = Ear()
        watcher = subscribe(str(wal), kind, POLLING, ear)
        assert watcher is not None
        ear.stop()
        unsubscribe(watcher, ear)
        watchers.stop_all()
        assert {*threading.enumerate()} <= before


async def test_it_ends_with_the_last_who_listens(kind: str, wal: Path) -> None:
    """And a new one begins with the next."""
    process = psutil.Process()
    gc.collect()
    # The loop's own pool, which waits for threads here.
    await asyncio.gather(*[asyncio.to_thread(time.sleep, 0.05) for _ in range(2)])
    threads, descriptors = threading.active_count(), process.num_fds()
    for _ in range(3):
        async with listening(wal, kind) as (ear, _), listening(wal, kind):
            touch(wal)
            await until(lambda: ear.looks)
        await until(lambda: threading.active_count() <= threads)
        await until(lambda: process.num_fds() <= descriptors)


async def test_a_listener_whose_loop_was_closed_harms_nobody(kind: str, wal: Path) -> None:
    def abandon() -> None:
        loop = asyncio.new_event_loop()
        loop.run_until_complete(begin())
        loop.close()

    async def begin() -> None:
        subscribe(str(wal), kind, POLLING, Ear())

    await asyncio.to_thread(abandon)
    async with listening(wal, kind) as (ear, watcher):
        for _ in range(2):
            ear.looks.clear()
            touch(wal)
            await until(lambda: ear.looks)
    assert watcher.is_idle


# Which kind


async def test_polling_needs_no_watcher(wal: Path) -> None:
    assert subscribe(str(wal), "polling", POLLING, Ear()) is None


async def test_auto_takes_inotify_where_it_is_installed(wal: Path) -> None:
    async with listening(wal, "auto") as (_, watcher):
        expected = "InotifyWatcher" if watchers.is_installed("inotify") else "WatchfilesWatcher"
        assert type(watcher).__name__ == expected


async def test_a_directory_that_is_not_there_cannot_be_watched(kind: str, tmp_path: Path) -> None:
    nowhere = tmp_path / "nowhere" / "channels.sqlite3-wal"
    with pytest.raises(WatcherUnavailable, match="nowhere"):
        subscribe(str(nowhere), kind, POLLING, Ear())


async def test_auto_polls_where_nothing_can_be_watched(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    nowhere = tmp_path / "nowhere" / "channels.sqlite3-wal"
    for _ in range(2):  # every event loop asks
        assert subscribe(str(nowhere), "auto", 0.25, Ear()) is None
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "Polling every 0.25 s instead" in record.getMessage()


# In processes of their own


def run(script: str, database: Path, *prefix: str) -> subprocess.CompletedProcess[str]:
    """Run Python with warnings as errors; `prefix` is what to run it in."""
    return subprocess.run(
        [*prefix, sys.executable, "-W", "error", "-c", textwrap.dedent(script)],
        env=environment(database),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.fixture
def exhausted() -> tuple[str, ...]:
    """A command to run another in, as a user who may have no inotify instance at all."""
    if shutil.which("unshare") is None:
        pytest.skip("no unshare here")
    limit = 'echo 0 > /proc/sys/user/max_inotify_instances && exec "$@"'
    prefix = ("unshare", "--user", "--map-root-user", "sh", "-c", limit, "sh")
    if subprocess.run([*prefix, "true"], capture_output=True).returncode:
        pytest.skip("no user namespaces here")
    return prefix


LISTEN = """
    import asyncio, sys
    from channels_sqlite.layers import SqliteChannelLayer
    from channels_sqlite.exceptions import WatcherUnavailable

    async def main(**config):
        layer, other = SqliteChannelLayer(**config), SqliteChannelLayer(**config)
        channel = await layer.new_channel()
        for _ in range(3):
            waiting = asyncio.create_task(layer.receive(channel))
            await asyncio.sleep(0.02)
            await other.send(channel, {"type": "test"})
            print(await waiting)
        await layer.close()
        await other.close()
"""


def test_auto_polls_when_the_kernels_limit_is_reached(
    database: Path, exhausted: tuple[str, ...]
) -> None:
    """And says so once."""
    script = f"{LISTEN}\n    asyncio.run(main())\n"
    child = run(script, database, *exhausted)
    assert child.returncode == 0, child.stderr
    assert child.stdout.splitlines() == [str({"type": "test"})] * 3
    (said,) = child.stderr.splitlines()
    assert "Too many open files" in said
    assert "Polling every 0.05 s instead" in said


def test_a_watcher_asked_for_by_name_does_not_give_way(
    database: Path, exhausted: tuple[str, ...], kind: str
) -> None:
    script = f"""{LISTEN}
    try:
        asyncio.run(main(watcher={kind!r}))
    except WatcherUnavailable as error:
        print(error)
    """
    child = run(script, database, *exhausted)
    assert (child.returncode, child.stderr) == (0, "")
    (said,) = child.stdout.splitlines()
    assert kind in said
    assert "Too many open files" in said


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_watches_for_itself(database: Path, wal: Path, kind: str) -> None:
    """The parent's watcher hears nothing in it, and goes on in the parent."""
    script = f"""
    import asyncio, os, sys
    from pathlib import Path
    from tests.ears import listening, touch
    from tests.waiting import until

    wal = Path({str(wal)!r})

    async def hear():
        async with listening(wal, {kind!r}) as (ear, watcher):
            touch(wal)
            await until(lambda: ear.looks)
            return watcher

    async def main():
        async with listening(wal, {kind!r}) as (ear, watcher):
            await asyncio.sleep(0.05)
            pid = os.fork()
            if pid == 0:
                asyncio.set_event_loop(None)
                asyncio.events._set_running_loop(None)
                theirs = asyncio.run(hear())
                os._exit(0 if theirs is not watcher else 1)
            while os.waitpid(pid, os.WNOHANG) == (0, 0):
                await asyncio.sleep(0.01)
            ear.looks.clear()
            touch(wal)
            await until(lambda: ear.looks)
            print("heard")

    asyncio.run(main())
    """
    child = run(script, database)
    assert child.stdout == "heard\n", child.stderr
    assert child.returncode == 0
