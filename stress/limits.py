"""The number of files that a process may have open."""

from __future__ import annotations

import sys

MANY = 10_240  # the most that macOS allows


def open_many() -> None:
    """Allow many open files: a socket is a file too, and the usual limit is 1,024 or 256."""
    if sys.platform != "win32":
        import resource

        now, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        allowed = MANY if most == resource.RLIM_INFINITY else min(MANY, most)
        if now != resource.RLIM_INFINITY and now < allowed:
            resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, most))
