"""How a reader is woken: its bell, and an ear for each event loop that receives."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from typing import Any

from .._storing import locks
from .._storing.setup import Setup
from .._storing.weak import Weak
from .._waking.bells import Bell
from .._waking.watchers import Ear
from .queues import Loop, Queues


class Ears:
    """The receiver holds its lock around every call that changes this."""

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
        self._all: Weak[Ear] = Weak(key=lambda ear: id(ear.listener.loop))
        """Their loops hold them, by timers: a loop that nobody closes, and nobody has, is collected
        with its descriptors."""
        self.bell: Bell | None = None

    def of(self, loop: Loop) -> Ear | None:
        """The ear of an event loop; None if that does not listen."""
        return self._all.get(id(loop))

    def loops(self) -> list[Loop]:
        return [ear.listener.loop for ear in self._all]

    # Beginning and ending

    def start(self, loop: Loop) -> None:
        self.stop_closed()
        look, beat, setup = partial(self._look, loop), partial(self._beat, loop), self._setup
        ear = Ear(look, beat, setup.database, setup.options, setup.drops.counters)
        self._all.add(ear)
        ear.listener.wants_touches = self._wants_touches
        try:
            self.watch(loop)
        except BaseException:  # an interruption, too: a loop that does not watch does not listen
            self.stop(loop)
            raise

    def stop(self, loop: Loop) -> None:
        if ear := self.of(loop):
            self._all.discard(ear)
            ear.stop()

    def stop_closed(self) -> None:
        """Listen no more on loops that were closed, and forget what waits there."""
        closed = [loop for loop in self.loops() if loop.is_closed()]
        for loop in closed:
            self.stop(loop)
        if closed:
            self._queues.forget_closed_loops()

    def watch(self, loop: Loop) -> None:
        """Watch the files that are open by now, and a bell of ours among them; what is watched
        already is not watched again.
        """
        self.make_bell()
        ear = self.of(loop)
        if ear is not None and not ear.watches(self.bell):
            ear.watch(self.bell)
            self.say()
            # No event tells of what came before: a ring, or a write that is about to be committed.
            ear.listener.look_again()
            ear.listener.log_written()

    # Passing on

    def want_touches(self, wanted: bool) -> None:
        """Wake at once when a normal channel is written to, from now on; or no more."""
        self._wants_touches = wanted
        for ear in self._all:
            ear.listener.want_touches(wanted)

    def look(self, loop: Loop, *, rung: bool) -> None:
        """Look, on the running loop, if that listens; an error is logged."""
        if ear := self.of(loop):
            ear.listener.look(rung=rung)

    def look_again(self, loop: Loop) -> None:
        """Look soon: a lock of others was in the way."""
        if ear := self.of(loop):
            ear.listener.look_again()

    def ring(self) -> None:
        """Have every loop look, from any thread: one of them may stand still."""
        for ear in self._all:
            with suppress(RuntimeError):  # its loop is closed
                ear.listener.ring_from_elsewhere()

    # The bell

    def make_bell(self) -> None:
        """Have a bell in the directory of the files that are open, where there are locks."""
        if self._database.in_memory or self._database.is_ending or not locks.SUPPORTED:
            return
        if self.bell is not None and self.bell.is_in(self._database.files):
            return
        lost, self.bell = self.bell, None
        try:
            self.bell = Bell(self._database.files, self._setup.client, self.status())
        except OSError as error:
            self._database.once.warn(
                "Making a bell",
                f"No bell can be made in {self._database.files.bells}: {error}. Other processes"
                " cannot wake this one, so its messages may be up to a second late, and its"
                " memberships stay when it dies. Give its user write access to that directory.",
            )
        else:
            self._database.once.well("Making a bell")
        if lost is not None:  # last: without a lock a sweeper would take us for dead
            lost.close(remove=False)
            with suppress(OSError):
                self._database.files.note_again()

    def say(self) -> None:
        """Write into the bell how this reader is."""
        if self.bell is not None:
            self.bell.say(self.status())

    def status(self) -> dict[str, Any]:
        """On how many channels consumers wait, what was counted, what wakes this process, and when
        it last did.
        """
        ears = list(self._all)
        woken_at = max((each.listener.woken_at or 0.0 for each in ears), default=0.0)
        otherwise = "none" if self._database.in_memory else "polling"
        return {
            "pid": os.getpid(),
            "channels": len(self._queues),
            "counters": asdict(self._setup.drops.counters),
            "watcher": next((each.kind for each in ears if each.kind), otherwise),
            "woken_at": round(time.time() - time.monotonic() + woken_at, 3) if woken_at else None,
        }
