"""Functions for child processes."""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

from channels_sqlite._storing.files import Files
from channels_sqlite._storing.once import Once
from channels_sqlite._waking.bells import Bell, remove_dead
from channels_sqlite._waking.watchfiles import WatchfilesWatcher
from channels_sqlite.exceptions import WatcherUnavailable
from channels_sqlite.layers import SqliteChannelLayer
from tests.children import hear, main, say
from tests.waiting import until
from tests.waking.ears import Ear, Place, touch


async def forks() -> None:
    """Fork while a loop listens, and say what either process has of that."""
    from channels_sqlite._waking.inotify import InotifyWatcher

    with tempfile.TemporaryDirectory() as directory:
        place, ear = Place(Path(directory)), Ear()
        watcher = InotifyWatcher(ear, str(place.wal), place.bell)
        descriptor = watcher._descriptor
        if (pid := os.fork()) == 0:
            try:
                os.fstat(descriptor)
            except OSError:
                os._exit(0)
            os._exit(1)
        _, status = await asyncio.to_thread(os.waitpid, pid, 0)
        touch(place.bell.path)
        await until(lambda: ear.heard)
        say({"the child's": status, "the parent's": ear.heard})
        watcher.stop()


async def ends_while_it_watches() -> None:
    """With a thread that asks for changes every millisecond."""
    with tempfile.TemporaryDirectory() as directory:
        place, ear = Place(Path(directory)), Ear()
        WatchfilesWatcher(ear, str(place.wal), place.bell, 60, Once()).hurry()
        await asyncio.sleep(0.1)


async def receives(watcher: str) -> None:
    """Say how it was woken, and the numbers of three messages; or what was wrong."""
    layer = SqliteChannelLayer(watcher=watcher)
    with suppress(TimeoutError):
        try:
            await asyncio.wait_for(layer.receive("nothing"), 0.2)
        except WatcherUnavailable as error:
            say(str(error))
            return
    [reader] = await layer.readers()
    numbers = []
    for number in range(3):
        waiting = asyncio.create_task(layer.receive("test-channel"))
        await asyncio.sleep(0.02)
        await layer.send("test-channel", {"number": number})
        numbers.append((await waiting)["number"])
    say([reader.watcher, *numbers])
    await layer.close()


def has_a_bell(path: str, forks: bool = False) -> None:
    """And a child that outlives this process."""
    bell = Bell(Files(path), "reader------", {})
    if not forks or os.fork() == 0:
        say("reader------")
    hear()
    bell.close(remove=True)


def forks_while_sweeping(path: str) -> None:
    def fork(clients: list[str]) -> None:
        if os.fork() == 0:
            say("in the child")
        hear()

    remove_dead(Files(path), fork, 100)


if __name__ == "__main__":
    main(globals(), *sys.argv[1:])
