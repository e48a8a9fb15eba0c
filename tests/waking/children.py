"""Functions for child processes."""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
from pathlib import Path

from channels_sqlite._storing.files import Files
from channels_sqlite._waking.bells import remove_dead
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
        descriptor = watcher._descriptor.number
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


async def receives(watcher: str) -> None:
    """Say why that cannot be."""
    try:
        await SqliteChannelLayer(watcher=watcher).receive("nothing")
    except WatcherUnavailable as error:
        say(str(error))


def forks_while_sweeping(path: str) -> None:
    def fork(clients: list[str]) -> None:
        if os.fork() == 0:
            say("in the child")
        hear()

    list(remove_dead(Files(path), fork))


if __name__ == "__main__":
    main(globals(), *sys.argv[1:])
