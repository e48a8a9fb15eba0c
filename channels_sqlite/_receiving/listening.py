"""How a reader is woken: its bell, and a listener for each event loop that receives."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from typing import Any

from .._options import times
from .._storing import locks
from .._storing.setup import Setup
from .._storing.weak import Weak
from .._waking.bells import Bell
from .._waking.listener import Listener
from .._waking.watchers import watch
from ..exceptions import WatcherUnavailable, this_user
from .queues import Loop, Queues


class Listening:
    """A reader's bell and listeners; the receiver holds its lock around all that changes them."""

    def __init__(
        self,
        setup: Setup,
        queues: Queues,
        look: Callable[[Loop, bool], bool],
        beat: Callable[[Loop], bool],
    ) -> None:
        self._setup = setup
        self._database = setup.database
        self._queues = queues
        self._look = look
        self._beat = beat
        self._wants_touches = False
        self._all: Weak[Listener] = Weak(key=lambda listener: id(listener.loop))
        """Their loops hold them, by timers: a loop that nobody closes, and nobody has, is collected
        with its descriptors."""
        self._begun: Weak[Loop] = Weak()
        """The loops that have begun to listen; one that is closed may have lost its listener, and
        still be held by a consumer that waits there."""
        self.bell: Bell | None = None
        self._lost: Bell | None = None
        """The bell of before, while no other can be made: its lock says that this reader lives."""

    def of(self, loop: Loop) -> Listener | None:
        """The listener of an event loop; None if that does not listen."""
        return self._all.get(id(loop))

    def loops(self) -> list[Loop]:
        return [listener.loop for listener in self._all]

    # Beginning and ending

    def start(self, loop: Loop) -> None:
        self.stop_closed()
        self._begun.add(loop)
        database = self._database
        look, beat = partial(self._look, loop), partial(self._beat, loop)
        deaf, counters = partial(self._poll_for_a_while, loop), self._setup.drops.counters
        listener = Listener(loop, look, beat, deaf, database.files.log_age, database.once, counters)
        self._all.add(listener)
        listener.wants_touches = self._wants_touches
        try:
            self.watch(loop, begins=True)
        except BaseException:  # an interruption, too: a loop that does not watch does not listen
            self.stop(loop)
            raise

    def stop(self, loop: Loop) -> None:
        if listener := self.of(loop):
            self._all.discard(listener)
            listener.stop()

    def stop_closed(self) -> None:
        """Listen no more on loops that were closed, and forget what waits there."""
        closed = [loop for loop in self._begun if loop.is_closed()]
        for loop in closed:
            self.stop(loop)
            self._begun.discard(loop)
        if closed:
            self._queues.forget_closed_loops()

    def watch(self, loop: Loop, *, begins: bool = False) -> None:
        """Watch the files that are open by now, and a bell of ours among them; what is watched
        already is not watched again. A listener that does not only begin polls where it cannot.
        """
        self.make_bell()
        listener, wanted = self.of(loop), (self._database.connections, self.bell)
        if listener is None or listener.watched == wanted:
            return
        listener.stop_watching()
        # In memory there are no other processes, and at the end of the interpreter no bell.
        if not (self._database.in_memory or self._database.is_ending):
            try:
                watch(listener, self._database, self._setup.options, self.bell)
            except WatcherUnavailable as error:
                if begins and not self._database.is_ending:
                    raise
                self._database.once.warn("Watching", f"{error} Polling instead, for a while.")
        listener.watched = wanted
        polls = listener.watcher is None and not self._database.in_memory
        listener.start(self._setup.options.polling_interval if polls else None)
        if not polls:
            self._database.once.well("Watching")
        elif self._setup.options.watcher != "polling":
            listener.watch_again_later()
        self.say()
        # No event tells of what came before: a ring, or a write that is about to be committed.
        listener.look(rung=True)  # now: a test may have stopped the clock that timers wait for
        listener.log_written()

    def _poll_for_a_while(self, loop: Loop) -> None:
        """Nothing is announced. A directory that was moved, or a full kernel, may be well again."""
        listener, interval = self.of(loop), self._setup.options.polling_interval
        if listener is None:
            return
        listener.start(interval)
        listener.watch_again_later()
        if not self._database.in_memory:  # where the ORM's writes announce nothing
            self._database.once.warn(
                "Watching",
                f"No file events for {self._database.files.wal} (network or virtual file system?);"
                f" polling every {interval} s, and watching again in"
                f" {times.TIMES.watch_again:.0f} s.",
            )

    @property
    def held_bell(self) -> Bell | None:
        """The bell whose lock says that this reader lives, if it has one."""
        return self.bell or self._lost

    # Passing on

    def want_touches(self, wanted: bool) -> None:
        """Wake at once when a normal channel is written to, from now on; or no more."""
        self._wants_touches = wanted
        for listener in self._all:
            listener.want_touches(wanted)

    def look(self, loop: Loop, *, rung: bool) -> None:
        """Look, on the running loop, if that listens; an error is logged."""
        if listener := self.of(loop):
            listener.look(rung=rung)

    def look_again(self, loop: Loop) -> None:
        """Look soon: a lock of others was in the way."""
        if listener := self.of(loop):
            listener.look_again()

    def ring(self) -> None:
        """Have every loop look, from any thread: one of them may stand still."""
        for listener in self._all:
            with suppress(RuntimeError):  # its loop is closed
                listener.ring_from_elsewhere()

    # The bell

    def make_bell(self) -> None:
        """Have a bell in the directory of the files that are open, where there are locks."""
        if self._database.in_memory or self._database.is_ending or not locks.SUPPORTED:
            return
        if self.bell is not None and self.bell.is_in(self._database.files):
            return
        self._lost, self.bell = self.bell or self._lost, None
        try:
            self.bell = Bell(self._database.files, self._setup.client, self.status())
        except OSError as error:
            remedy = ""
            if isinstance(error, PermissionError):
                remedy = f" Give this process's {this_user()} write access to that directory."
            elif isinstance(error, NotADirectoryError):
                remedy = " Move it away."
            self._database.once.warn(
                "Making a bell",
                f"No bell can be made in {self._database.files.bells}: {error}. Other processes"
                " cannot wake this one, so its messages may be up to a second late, and its"
                f" memberships stay when it dies.{remedy}",
            )
            return
        self._database.once.well("Making a bell")
        lost, self._lost = self._lost, None
        if lost is not None:  # last: without a lock a sweeper would take us for dead
            lost.close(remove=False)
            with suppress(OSError):
                self._database.files.note_again()

    def say(self) -> None:
        """Write into the bell how this reader is."""
        if bell := self.bell:  # another thread may make another one
            bell.say(self.status())

    def status(self) -> dict[str, Any]:
        """On how many channels consumers wait, what was counted, what wakes this process, and when
        it last did.
        """
        listeners = list(self._all)
        woken_at = max((each.woken_at or 0.0 for each in listeners), default=0.0)
        otherwise = "none" if self._database.in_memory else "polling"
        return {
            "pid": os.getpid(),
            "channels": self._queues.count_channels(),
            "counters": asdict(self._setup.drops.counters),
            "watcher": next((each.kind for each in listeners if each.kind), otherwise),
            "woken_at": round(time.time() - time.monotonic() + woken_at, 3) if woken_at else None,
        }
