"""Locks on files that are ours: the kernel releases them when their process ends."""

from __future__ import annotations

import os
import time

from .._options import times
from . import forks

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

SUPPORTED = fcntl is not None
"""Where not, there are no bells, and nobody can replace a file that is open."""


def lock(descriptor: int, wait: float = 0.0) -> bool:
    """Lock an open file for this process alone; False if another process has it after so many
    seconds.
    """
    until = time.monotonic() + wait
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= until:
                return False
            time.sleep(times.TIMES.file_lock)
        else:
            return True


class Held(forks.Forkable):
    """An open file with a lock, until it is closed: a child that is forked meanwhile gives both up.
    Made under `forks.quiet()`.
    """

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        forks.register(self)

    def close(self) -> None:
        """Give up the lock."""
        descriptor, self.descriptor = self.descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def after_fork_in_child(self) -> None:
        """The parent keeps it."""
        self.close()
