"""Locks on files that are ours: the kernel releases them when their process ends."""

from __future__ import annotations

import time

from .._options import times

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

SUPPORTED = fcntl is not None
"""False on Windows: there are no bells, and nobody can replace a file that is open."""


def lock(descriptor: int, wait: float = 0.0) -> bool:
    """Lock an open file for this process alone; False if another process has it after so many
    seconds. To wait is for the worker's thread, a fork, and the end of the process.
    """
    until = time.monotonic() + wait
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= until:
                return False
            time.sleep(times.TIMES.file_lock)  # on the thread, in a fork, or at exit
        else:
            return True


def lock_if_possible(descriptor: int, wait: float) -> bool:
    """Return True if it is locked, or the file system has no locks."""
    try:
        return lock(descriptor, wait)
    except OSError:
        return True
