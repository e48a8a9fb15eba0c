"""Listeners that only note when they look, for the tests of what wakes them."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from channels_sqlite.wakes.listener import WRITE, Listener
from channels_sqlite.wakes.watcher import Watcher
from channels_sqlite.wakes.watchers import subscribe, unsubscribe

QUIET = 0.2  # seconds, in which a wake that is not to come would come
OVER = 2 * sum(WRITE)  # seconds; after this, no look of a ladder is to come


class Ear(Listener):
    """A listener on the running loop; `looks` are the times at which it has been woken."""

    def __init__(self) -> None:
        self.looks: list[float] = []
        self.on_look: Callable[[], None] = lambda: None
        super().__init__(asyncio.get_running_loop(), self._note, lambda _: None)
        self.start(3600)
        self.looks.clear()

    def _note(self, thorough: bool) -> bool:
        self.looks.append(self.loop.time())
        self.on_look()
        return False


@asynccontextmanager
async def listening(
    path: Path, kind: str, polling_interval: float = 0.01
) -> AsyncIterator[tuple[Ear, Watcher]]:
    """An ear that hears of changes to the file, and the watcher that tells it."""
    ear = Ear()
    watcher = subscribe(str(path), kind, polling_interval, ear)
    assert watcher is not None
    try:
        yield ear, watcher
    finally:
        ear.stop()
        unsubscribe(watcher, ear)
        await asyncio.to_thread(watcher.join)


def touch(path: Path) -> None:
    """Ring, as after a commit."""
    os.utime(path)


def write(path: Path) -> None:
    """Change the file, as SQLite does before a commit can be seen."""
    with path.open("r+b") as file:
        file.write(b"x")


def switches(thread: threading.Thread) -> int:
    """How often a thread has gone to sleep; on Linux."""
    status = Path(f"/proc/self/task/{thread.native_id}/status").read_text()
    (line,) = [line for line in status.splitlines() if line.startswith("voluntary_ctxt_switches")]
    return int(line.split()[1])
