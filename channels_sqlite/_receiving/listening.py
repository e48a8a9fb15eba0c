"""A receiver's ears: its bell, and for each event loop that receives a listener with a watcher."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any

from .._options import times
from .._options.conf import Options
from .._storing.connections import Connections
from .._storing.database import Database
from .._waking.bells import Bell
from .._waking.listener import Listener, ring_if_open
from .._waking.watchers import watch
from ..counters import Counters
from ..exceptions import WatcherUnavailable
from .queues import Loop, Queues

if TYPE_CHECKING:
    from .._waking.watchers import Watcher


class Ear:
    """What one event loop has."""

    def __init__(self, listener: Listener) -> None:
        self.listener = listener
        self.watcher: Watcher | None = None
        self.opened: Connections | None = None
        """The connections that were open when it began to watch. Later ones may have another
        log."""
        self.bell: Bell | None = None
        """The one that it watches."""

    def stop_watching(self) -> None:
        """Release what the operating system lent."""
        watcher, self.watcher = self.watcher, None
        if watcher is not None:
            watcher.stop()


class Listening:
    """The receiver holds its lock around every call that changes it."""

    def __init__(
        self,
        database: Database,
        options: Options,
        client: str,
        queues: Queues,
        counters: Counters,
        look: Callable[[Loop, bool], bool],
        beat: Callable[[Loop], bool],
    ) -> None:
        self.missed_wakes = 0
        """The missed wakes of loops that have ended."""
        self._database = database
        self._options = options
        self._client = client
        self._queues = queues
        self._counters = counters
        self._look = look
        self._beat = beat
        self._ears: dict[Loop, Ear] = {}
        self._wants_touches = False
        self.bell: Bell | None = None

    def __contains__(self, loop: Loop) -> bool:
        return loop in self._ears

    def __len__(self) -> int:
        return len(self._ears)

    def loops(self) -> list[Loop]:
        """The event loops that listen."""
        return list(self._ears)

    # Beginning and ending

    def start(self, loop: Loop) -> None:
        """Listen on this loop."""
        self.stop_closed()
        self._ears[loop] = Ear(
            Listener(
                loop,
                partial(self._look, loop),
                partial(self._beat, loop),
                partial(self._on_deaf, loop),
                self._database.files.log_age,
                self._database.once,
            )
        )
        try:
            self.watch(loop)
        except BaseException:
            self.stop(loop)
            raise

    def stop(self, loop: Loop) -> None:
        """Listen on this loop no more."""
        ear = self._ears.pop(loop, None)
        if ear is not None:
            ear.listener.stop()
            ear.stop_watching()
            self.missed_wakes += ear.listener.missed_wakes

    def stop_closed(self) -> None:
        """Listen no more on loops that were closed, and forget what waits there."""
        closed = [each for each in self._ears if each.is_closed()]
        for loop in closed:
            self.stop(loop)
        if closed:
            self._queues.forget_closed_loops()

    def watch(self, loop: Loop) -> None:
        """Begin to watch the files that are open by now, with a bell of ours among them."""
        ear, database = self._ears[loop], self._database
        ear.stop_watching()
        opened = database.opened
        interval = self._options.polling_interval
        if database.in_memory or database.is_ending:  # no other processes; or the bell is gone
            ear.opened = opened
            ear.listener.start(None if database.in_memory else interval)
            return
        self.make_bell()
        try:
            ear.watcher = watch(
                self._options.watcher,
                ear.listener,
                database.files.wal,
                self.bell,
                interval,
                database.once,
            )
        except WatcherUnavailable:
            if not database.is_ending:
                raise
        if ear.watcher is not None:
            ear.watcher.want_touches(self._wants_touches)
        ear.opened, ear.bell = opened, self.bell
        ear.listener.start(interval if ear.watcher is None else None)
        if ear.watcher is None and self._options.watcher == "auto":
            ear.listener.call_after(times.TIMES.watch_again, "watch", self._watch_again, loop)
        self.say()

    def keep_watching(self, loop: Loop) -> None:
        """Watch again if the database was opened again, or the bell is another one."""
        if not self._database.in_memory:
            self.make_bell()
        ear = self._ears.get(loop)
        if ear is not None and (
            ear.opened is not self._database.opened or ear.bell is not self.bell
        ):
            self.watch(loop)

    def _watch_again(self, loop: Loop) -> None:
        """Where watching did not work: by now that may be possible. The next heartbeat tries."""
        if ear := self._ears.get(loop):
            ear.opened = None

    def _on_deaf(self, loop: Loop) -> None:
        """Poll for a while; a directory that was moved, or a full kernel, may be well again."""
        interval, listener = self._options.polling_interval, self._ears[loop].listener
        again = times.TIMES.watch_again
        if not self._database.in_memory:  # where the ORM's writes announce nothing
            self._database.once.warn(
                "Watching",
                f"No file events for {self._database.files.wal} (network or virtual file system?);"
                f" polling every {interval} s, and watching again in {again:.0f} s.",
            )
        listener.start(interval)
        listener.call_after(again, "watch", self._watch_again, loop)

    def make_bell(self) -> None:
        """Have a bell in the directory of the files that are open."""
        if self.bell is not None and self.bell.is_in(self._database.files):
            return
        if self.bell is not None:
            self.bell.close(remove=False)
            self.bell = None
        try:
            self.bell = Bell(self._database.files, self._client, self.status())
        except OSError as error:
            self._database.once.warn(
                "Making a bell",
                f"No bell can be made in {self._database.files.bells}: {error}. Messages to this"
                " process come later, and others cannot tell when it has ended.",
            )
        else:
            self._database.once.well("Making a bell")

    # Passing on

    def want_touches(self, wanted: bool) -> None:
        """Wake at once when a normal channel is written to, from now on; or no more."""
        self._wants_touches = wanted
        for ear in self._ears.values():
            if ear.watcher is not None:
                ear.watcher.want_touches(wanted)

    def write(self, loop: Loop) -> None:
        """Somebody may have written before this loop began to watch."""
        self._ears[loop].listener.write()

    def look(self, loop: Loop, *, rung: bool) -> None:
        """Look, on the running loop, if that listens; an error is logged."""
        if ear := self._ears.get(loop):
            ear.listener.look(rung=rung)

    def look_again(self, loop: Loop) -> None:
        """Look soon: a lock of others was in the way."""
        if loop in self._ears:
            self._ears[loop].listener.look_again()

    def ring(self) -> None:
        """Have every loop look, from any thread: one of them may stand still."""
        for ear in list(self._ears.values()):
            ring_if_open(ear.listener)

    def stop_all(self, stop: Callable[[Loop], None]) -> None:
        """Have every loop stop itself, from any thread."""
        for loop in self.loops():
            with suppress(RuntimeError):  # it was closed
                loop.call_soon_threadsafe(stop, loop)

    # How they are

    def say(self) -> None:
        """Write it into the bell."""
        if self.bell is not None:
            self.bell.say(self.status())

    def status(self) -> dict[str, Any]:
        """On how many channels consumers wait, what was counted, what wakes this process, and when
        it last did.
        """
        ears = list(self._ears.values())
        woken_at = max((each.listener.woken_at or 0.0 for each in ears), default=0.0)
        kinds = [
            each.watcher.kind
            for each in ears
            if each.watcher is not None and not each.listener.polls
        ]
        otherwise = "none" if self._database.in_memory else "polling"
        return {
            "pid": os.getpid(),
            "channels": len(self._queues),
            "counters": asdict(self._counters),
            "watcher": kinds[0] if kinds else otherwise,
            "woken_at": round(time.time() - time.monotonic() + woken_at, 3) if woken_at else None,
        }

    def count_missed(self) -> int:
        """How many wakes were missed."""
        return self.missed_wakes + sum(
            each.listener.missed_wakes for each in list(self._ears.values())
        )
