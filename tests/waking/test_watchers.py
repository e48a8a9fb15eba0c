"""Watchers: the one that CONFIG names, or the best one that works here; each tells rings from
writes, and keeps nothing that it was lent.
"""

from __future__ import annotations

import asyncio
import errno
import gc
import logging
import os
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest

from channels_sqlite._options.conf import Options
from channels_sqlite._storing import forks
from channels_sqlite._storing.database import Database
from channels_sqlite._waking import inotify as ours
from channels_sqlite._waking import watchers
from channels_sqlite._waking.watchers import is_installed, kinds, watch
from channels_sqlite.exceptions import WatcherUnavailable
from tests.children import inotify_descriptors
from tests.conftest import SetTimes, available
from tests.waiting import PATIENCE, until
from tests.waking.conftest import QUIET, Noting, Place, touch, write

inotify = pytest.mark.parametrize("kind", ["inotify"], indirect=True)
by_watchfiles = pytest.mark.parametrize("kind", ["watchfiles"], indirect=True)


@pytest.fixture(params=["inotify", "watchfiles"])
def kind(request: pytest.FixtureRequest) -> str:
    return available(request.param)


def start(kind: str, listener: Noting, place: Place, interval: float = 0.01) -> Any:
    database = Database("channels", place.files.path, {})
    watch(listener, database, Options(watcher=kind, polling_interval=interval), place.bell)
    return listener.watcher


@pytest.fixture
async def watcher(kind: str, listener: Noting, place: Place) -> AsyncIterator[Any]:
    watcher = start(kind, listener, place)
    await asyncio.sleep(QUIET)  # watchfiles may tell of the making of the files
    listener.heard.clear()
    yield watcher
    watcher.stop()


async def heard(
    listener: Noting,
    change: Callable[[Path | str], None],
    path: Path | str,
    *,
    nothing: bool = False,
) -> set[str]:
    """The calls that a change of a file makes, if any is to come."""
    listener.heard.clear()
    change(path)
    if not nothing:
        await until(lambda: listener.heard)
    await asyncio.sleep(QUIET)
    return {*listener.heard}


async def test_a_ring_is_told_from_a_write_and_from_what_the_reader_says_of_itself(
    watcher: Any, kind: str, listener: Noting, place: Place
) -> None:
    """It would say that it was woken, and so be woken, for ever."""
    assert (listener.watcher, watcher.kind) == (watcher, kind)
    assert await heard(listener, touch, place.bell.path) == {"ring"}
    assert listener.heard == ["ring"]
    assert await heard(listener, write, place.wal) == {"write"}
    for channels in range(3):
        place.bell.say({"channels": channels})
        assert await heard(listener, lambda _: None, "", nothing=True) == set()


async def test_a_touched_log_is_a_touch_to_those_who_read_normal_channels(
    watcher: Any, kind: str, listener: Noting, place: Place
) -> None:
    """To the others somebody has written, for whomever. watchfiles cannot tell it from a write."""
    for wanted in (False, True, False):
        listener.want_touches(wanted)
        assert ("touch" in await heard(listener, touch, place.wal)) == wanted
        assert kind == "inotify" or "write" in listener.heard


async def test_a_reader_that_rests_hears_no_writes(
    watcher: Any, kind: str, listener: Noting, place: Place
) -> None:
    """Nor by a watcher that begins meanwhile, as when the database was opened again."""
    listener._hear_writes(False)
    assert await heard(listener, write, place.wal, nothing=True) == set()
    assert await heard(listener, touch, place.bell.path) == {"ring"}
    watcher.stop()
    again = start(kind, listener, place)
    await asyncio.sleep(QUIET)
    assert "write" not in await heard(listener, write, place.wal, nothing=True)
    listener._hear_writes(True)
    assert "write" in await heard(listener, write, place.wal)
    again.stop()


@inotify
async def test_a_deleted_log_is_a_write_and_the_next_one_is_watched(
    watcher: Any, listener: Noting, place: Place
) -> None:
    assert "write" in await heard(listener, os.unlink, place.wal)
    listener._hear_writes(False)  # the log is not there
    place.wal.touch()
    listener._hear_writes(True)
    assert await heard(listener, write, place.wal) == {"write"}


async def test_a_log_that_another_thread_has_just_closed_is_no_reason_not_to_watch_the_bell(
    kind: str, listener: Noting, place: Place
) -> None:
    place.wal.unlink()
    watcher = start(kind, listener, place)
    assert watcher.kind == kind
    await asyncio.sleep(QUIET)
    assert await heard(listener, touch, place.bell.path) == {"ring"}
    watcher.stop()


async def test_a_bell_that_somebody_has_just_deleted_is_no_reason_not_to_watch_the_log(
    kind: str, listener: Noting, place: Place
) -> None:
    os.unlink(place.bell.path)
    watcher = start(kind, listener, place)
    assert watcher.kind == kind
    await asyncio.sleep(QUIET)
    assert "write" in await heard(listener, write, place.wal)
    watcher.stop()


@by_watchfiles
async def test_watchfiles_is_quick_while_there_is_traffic_and_then_slow_again(
    kind: str, listener: Noting, place: Place, set_times: SetTimes
) -> None:
    set_times(quick_for=1.5)
    watcher = start(kind, listener, place, interval=60)

    async def delay() -> float:
        await asyncio.sleep(QUIET)
        listener.heard.clear()
        begin = listener.loop.time()
        touch(place.bell.path)
        await until(lambda: listener.heard)
        return listener.loop.time() - begin

    idle = min([await delay() for _ in range(3)])
    listener.found_at = time.monotonic()
    quick = min([await delay() for _ in range(4)][1:])
    await asyncio.sleep(1.5)
    assert quick < idle
    assert min([await delay() for _ in range(3)]) > quick
    watcher.stop()


# Its costs


def descriptors() -> int:
    """The number that this process has of inotify."""
    gc.collect()  # those of earlier tests
    for thread in threading.enumerate():
        if thread.name in ("channels-sqlite-watchfiles", "channels-sqlite-closing"):
            thread.join(PATIENCE)  # Rust has a descriptor of its own until it ends
    return len(inotify_descriptors())


def spoil(path: str) -> None:
    """Make a file one that no watcher can watch: a link to itself."""
    os.unlink(path)
    os.symlink(path, path)


@inotify
async def test_inotify_has_one_descriptor_and_no_thread_and_gives_it_back(
    kind: str, listener: Noting, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where no thread can be started to close it, and where the event loop cannot wait for it:
    the kernel limits what epoll may watch, too.
    """
    before, threads = descriptors(), threading.active_count()
    watcher = start(kind, listener, place)
    assert (threading.active_count(), descriptors()) == (threads, before + 1)
    with monkeypatch.context() as full:
        full.setattr(threading.Thread, "start", Mock(side_effect=RuntimeError))
        watcher.stop()
        watcher.stop()
    assert descriptors() == before
    refuse = Mock(side_effect=OSError(errno.ENOSPC, "No space left on device"))
    with monkeypatch.context() as full:
        full.setattr(listener.loop, "add_reader", refuse)
        with pytest.raises(WatcherUnavailable, match=r"inotify cannot watch .*: .*No space"):
            start(kind, listener, place)
    spoil(place.bell.path)
    with pytest.raises(WatcherUnavailable, match=f"{place.bell.path}: Too many levels") as loop:
        start(kind, listener, place)
    assert "limits" not in str(loop.value)
    assert descriptors() == before


def test_a_descriptor_that_others_have_closed_is_given_up_in_silence() -> None:
    """A daemon closes all that it has from its parent."""
    descriptor = forks.Descriptor(os.open(os.devnull, os.O_RDONLY))
    os.close(descriptor.number)
    descriptor.close()
    assert descriptor.number == -1


async def begin(kind: str, place: Place) -> Any:
    """Begin to watch, on a loop that ends without a word."""
    return start(kind, Noting(), place)


@inotify
def test_a_loop_that_ends_keeps_no_descriptor(kind: str, place: Place) -> None:
    """The next one that listens sees to it, or the garbage collector."""

    async def begin_and_end() -> None:
        before = descriptors()
        (await begin(kind, place)).stop()
        assert descriptors() == before - 1

    before = descriptors()
    abandoned = asyncio.run(begin(kind, place))
    assert abandoned.listener.loop.is_closed()
    asyncio.run(begin_and_end())
    del abandoned
    for _ in range(3):
        asyncio.run(begin(kind, place))
    assert descriptors() <= before  # some of which other tests have left


@by_watchfiles
def test_the_thread_of_watchfiles_ends_with_its_loop(
    kind: str, place: Place, set_times: SetTimes
) -> None:
    set_times(idle_wait=0.05)
    for changes in (False, True):
        thread = asyncio.run(begin(kind, place)).thread
        assert thread.daemon
        if changes:
            touch(place.bell.path)
        thread.join(PATIENCE)
        assert not thread.is_alive()


# Where watching does not work


async def test_auto_takes_the_best_one_that_is_here_and_polling_needs_none(
    listener: Noting, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where inotify works nothing else is looked for: to look for a package takes the lock of
    imports, which an exception out of a signal handler may leave taken.
    """
    if best_is_ours := sys.platform == "linux":
        monkeypatch.setattr(watchers, "find_spec", None)
    watcher = start("auto", listener, place)
    assert watcher.kind == next(kinds()) == ("inotify" if best_is_ours else "watchfiles")
    watcher.stop()
    assert start("polling", listener, place) is None


@pytest.mark.skipif(sys.platform != "linux", reason="no inotify here")
async def test_quick_loops_do_not_use_up_inotifys_instances(listener: Noting, place: Place) -> None:
    """The kernel takes its time to close each, and a user has few of them."""
    for _ in range(100):
        start("inotify", listener, place).stop()
        closing = [each for each in threading.enumerate() if each.name == ours.CLOSING]
        assert len(closing) <= ours.AT_ONCE


async def test_a_watcher_asked_for_by_name_does_not_give_way(
    kind: str, listener: Noting, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil(place.bell.path)
    with pytest.raises(WatcherUnavailable, match=f"{kind} cannot watch {place.files.path}"):
        start(kind, listener, place)
    assert listener.watcher is None
    monkeypatch.setattr(watchers, "sys", SimpleNamespace(platform="another"))
    assert next(kinds()) == "watchfiles"
    with pytest.raises(WatcherUnavailable, match="'inotify', which does not work here"):
        start("inotify", listener, place)


@by_watchfiles
@pytest.mark.skipif(sys.platform != "linux", reason="no name is other than UTF-8 here")
async def test_a_name_that_is_not_utf8_is_not_for_watchfiles(
    kind: str, listener: Noting, tmp_path: Path
) -> None:
    place = Place(tmp_path, os.fsdecode(b"caf\xe9.sqlite3"))
    with pytest.raises(WatcherUnavailable, match="watchfiles cannot watch"):
        start(kind, listener, place)
    place.bell.close(remove=True)


async def test_auto_gives_way_with_one_warning(
    listener: Noting, place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    spoil(place.bell.path)
    database = Database("channels", place.files.path, {})
    for _ in range(3):  # every event loop, and every minute
        watch(listener, database, Options(), place.bell)
        assert listener.watcher is None
    tried = [each for each in ("inotify", "watchfiles") if is_installed(each)]
    said = zip(tried, [*tried[1:], "polling"], caplog.records, strict=True)
    for kind, following, record in said:
        assert record.levelno == logging.WARNING
        assert kind in record.getMessage()
        assert record.getMessage().endswith(f". Trying {following} instead.")
