"""Linux's inotify, read by the event loops themselves: no thread, and no wakeup while nothing
happens.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import struct
import time

from asyncinotify import Inotify, Mask

from ..exceptions import WatcherUnavailable
from .listener import CHANGE, RING, WRITE, Listener
from .watcher import Watcher

_EVENT = struct.Struct("iIII")  # watch, mask, cookie, length of the name that follows; inotify(7)
_BUFFER = 64 * 1024
_WRITTEN = int(Mask.MODIFY)
_OVERFLOW = int(Mask.Q_OVERFLOW)
_RINGS = Mask.ATTRIB | Mask.CREATE | Mask.MOVED_TO
_LOOK_NOW = int(_RINGS | Mask.Q_OVERFLOW)
WRITES_ANEW = WRITE[-1]  # seconds


class InotifyWatcher(Watcher):
    """The descriptor is a reader of every loop that listens; whichever drains it wakes them all."""

    kind = "inotify"

    def __init__(self, path: str) -> None:
        super().__init__(path)
        try:
            self._inotify = Inotify()
            self._watch(_RINGS | Mask.MODIFY)
        except OSError as error:
            raise WatcherUnavailable(
                f"inotify cannot watch {self.directory}: {error}. "
                "The limits are fs.inotify.max_user_instances and fs.inotify.max_user_watches."
            ) from error
        # Kept: at the interpreter's end asyncinotify closes itself first, and then denies it.
        self._fd = self._inotify.fd
        # asyncinotify 4.4.4 maps NONBLOCK to O_CLOEXEC: a spurious wake would freeze the loop in
        # read().
        os.set_blocking(self._fd, False)
        self._file_name = os.fsencode(self.name)
        self._writes_anew_at: float | None = None

    def _watch(self, mask: Mask) -> None:
        """Watch, or watch for other things from now on."""
        self._inotify.add_watch(self.directory, mask)

    def add(self, listener: Listener) -> None:
        super().add(listener)
        self.hurry()
        listener.loop.add_reader(self._fd, self._drain, listener.loop)

    def remove(self, listener: Listener) -> None:
        super().remove(listener)
        loop = listener.loop
        if not loop.is_closed() and all(each.loop is not loop for each in self._listeners):
            loop.remove_reader(self._fd)

    def stop(self) -> None:
        for listener in self._listeners:
            self.remove(listener)
        self._inotify.close()

    def _drain(self, loop: asyncio.AbstractEventLoop) -> None:
        try:
            events = os.read(self._fd, _BUFFER)
        except BlockingIOError:  # another loop was quicker
            return
        mask = self._mask_of_ours(events)
        if self._writes_anew_at is not None:
            mask &= ~_WRITTEN  # written before the watch was changed: left unheard as the others
        if mask & _LOOK_NOW:
            self.wake_all(CHANGE if mask & _WRITTEN else RING, loop)
        elif mask & _WRITTEN:
            self.wake_all(WRITE, loop)
        if mask & _WRITTEN:  # after the consumers: right after a silence it takes as long as a look
            loop.call_soon(self._leave_writes_unheard, loop)
        self._rest(loop)

    def _rest(self, loop: asyncio.AbstractEventLoop) -> None:
        """Hear nothing while the listeners would not look: a wakeup costs more than a look."""
        until = min(
            (each.quiet_until for each in self._listeners if each.loop is loop), default=0.0
        )
        if until > loop.time():
            loop.remove_reader(self._fd)
            loop.call_at(until, self._go_on, loop)

    def _go_on(self, loop: asyncio.AbstractEventLoop) -> None:
        if any(each.loop is loop for each in self._listeners):
            loop.add_reader(self._fd, self._drain, loop)
            self._drain(loop)

    def _leave_writes_unheard(self, loop: asyncio.AbstractEventLoop) -> None:
        """A commit is ten writes, and the looks that the first one is good for find them all.

        Each would wake the process, at the moment at which the one that writes needs the machine.
        """
        if self.is_idle:
            return
        with contextlib.suppress(OSError):  # the directory is gone: nothing to hear
            self._watch(_RINGS)
        self._writes_anew_at = time.monotonic() + WRITES_ANEW
        loop.call_later(WRITES_ANEW, self._hear_writes, loop)

    def _hear_writes(self, loop: asyncio.AbstractEventLoop | None) -> None:
        """Again; and look for what was written meanwhile."""
        if self._writes_anew_at is None or self.is_idle:
            return
        self._writes_anew_at = None
        with contextlib.suppress(OSError):
            self._watch(_RINGS | Mask.MODIFY)
        self.wake_all(WRITE, loop)

    def hurry(self) -> None:
        # Else the timer does it; but its loop may have been closed.
        if self._writes_anew_at is not None and time.monotonic() > self._writes_anew_at:
            self._hear_writes(None)

    def _mask_of_ours(self, events: bytes) -> int:
        """What happened to the file, all events in one mask. By hand: asyncinotify makes objects of
        each.
        """
        mask, offset = 0, 0
        while offset < len(events):
            _, event, _, length = _EVENT.unpack_from(events, offset)
            offset += _EVENT.size + length
            name = events[offset - length : offset].rstrip(b"\0")
            if name == self._file_name or event & _OVERFLOW:
                mask |= event
        return mask
