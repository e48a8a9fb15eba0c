"""Linux's inotify, read by the event loop itself: no thread, and no wake-up while nothing happens.

By ctypes, because two functions of the C library are all of it: the package asyncinotify opens its
descriptor in blocking mode, and closes it at exit before us.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
import threading
from contextlib import suppress
from contextvars import Context

from .._storing import forks
from .._storing.weak import Weak
from ..exceptions import WatcherUnavailable
from .bells import Bell
from .listener import Listener

MODIFY, ATTRIB, DELETE_SELF, MOVE_SELF = 0x2, 0x4, 0x400, 0x800
OVERFLOW, IGNORED = 0x4000, 0x8000
GONE = DELETE_SELF | MOVE_SELF

CLOSING = "channels-sqlite-closing"  # the name of a thread that closes a descriptor
AT_ONCE = 16  # of them: loops may begin faster than the kernel closes, and a user has 128 instances

_EVENT = struct.Struct("iIII")  # watch, mask, cookie, length of the name that follows; inotify(7)
_BUFFER = 4096  # bytes; what is left is read at once afterwards
_c = ctypes.CDLL(None, use_errno=True)
_watchers: Weak[InotifyWatcher] = Weak()


class InotifyWatcher:
    """A Watcher of the two files, and not of their directories: nothing else in these wakes it."""

    kind = "inotify"

    def __init__(self, listener: Listener, wal: str, bell: Bell | None) -> None:
        self.listener = listener
        self._wal = wal
        self._stopped = False
        for other in _watchers:  # nobody has to close a layer before a loop
            if other.listener.loop.is_closed():
                other.stop()
        number: int = _c.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        if number < 0:
            raise _unavailable(wal)
        # A child leaves the loop alone, whose selector it shares with the parent.
        self._descriptor = forks.Descriptor(number)
        try:
            self._wal_watch = self._add(wal, self._wal_mask())
            self._bell_watch = -1 if bell is None else self._add(bell.path, ATTRIB | GONE)
            try:
                Context().run(listener.loop.add_reader, number, self._drain)  # as in `call_after`
            except OSError as error:  # the kernel's memory, or epoll's max_user_watches
                raise WatcherUnavailable(f"inotify cannot watch {wal}: {error}.") from error
        except BaseException:  # whatever it is, nobody else would close it
            self._descriptor.close()
            raise
        _watchers.add(self)

    def _add(self, path: str, mask: int) -> int:
        """Watch a file, if it is there. Another thread may have closed the database just now, which
        deletes the log, or somebody deletes the bells: the next heartbeat notices that.
        """
        watch: int = _c.inotify_add_watch(self._descriptor.number, os.fsencode(path), mask)
        if watch < 0 and ctypes.get_errno() != errno.ENOENT:
            raise _unavailable(path)
        return watch

    def _wal_mask(self) -> int:
        """A touch says that a normal channel was written to; where none is read it is a write."""
        writes = MODIFY | ATTRIB if self.listener.hears_writes else 0
        return GONE | writes | (ATTRIB if self.listener.wants_touches else 0)

    def adjust(self) -> None:
        mask = None
        with suppress(WatcherUnavailable):  # heartbeats look all the same
            while mask != self._wal_mask():  # another thread may have asked for more meanwhile
                mask = self._wal_mask()
                self._wal_watch = self._add(self._wal, mask)

    def stop(self) -> None:
        if self._stopped:
            return
        self._stopped = True
        if not self.listener.loop.is_closed():
            self.listener.loop.remove_reader(self._descriptor.number)
        if sum(each.name == CLOSING for each in threading.enumerate()) >= AT_ONCE:
            self._close()
            return
        try:  # on a thread, because it takes the kernel 10 ms
            threading.Thread(target=self._close, name=CLOSING, daemon=True).start()
        except BaseException as error:  # no thread can be started, or an interruption
            self._close()
            if not isinstance(error, RuntimeError):
                raise

    def _close(self) -> None:
        with forks.no_fork():  # a child would have it, and not know
            self._descriptor.close()

    def _drain(self) -> None:
        try:
            events = os.read(self._descriptor.number, _BUFFER)
        except OSError:  # nothing to read, by now
            return
        bell = wal = offset = 0
        while offset < len(events):
            watch, mask, _, length = _EVENT.unpack_from(events, offset)
            offset += _EVENT.size + length
            if watch == self._bell_watch or mask & OVERFLOW:
                bell |= mask
            elif watch == self._wal_watch and not mask & IGNORED:
                wal |= mask
        if bell:
            self.listener.ring()
        if wal & (ATTRIB | GONE) and self.listener.wants_touches:
            self.listener.touch()
        if wal & (MODIFY | ATTRIB | GONE) and self.listener.hears_writes:
            self.listener.log_written()


def _unavailable(path: str) -> WatcherUnavailable:
    error = ctypes.get_errno()
    words = f"inotify cannot watch {path}: {os.strerror(error)}."
    if error in (errno.EMFILE, errno.ENOSPC):
        words += " The limits are fs.inotify.max_user_instances and fs.inotify.max_user_watches."
    return WatcherUnavailable(words)
