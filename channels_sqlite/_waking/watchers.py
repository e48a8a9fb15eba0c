"""Which watcher wakes a listener: the best one that works here, or the one that CONFIG names."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from typing import TYPE_CHECKING

from .._storing.once import Once
from ..exceptions import WatcherUnavailable
from .bells import Bell
from .listener import Listener

if TYPE_CHECKING:
    from .inotify import InotifyWatcher
    from .watchfiles import WatchfilesWatcher

    Watcher = InotifyWatcher | WatchfilesWatcher

KINDS = ("inotify", "watchfiles", "polling")


def watch(
    kind: str,
    listener: Listener,
    wal: str,
    bell: Bell | None,
    polling_interval: float,
    once: Once,
) -> Watcher | None:
    """Have `listener` woken by the files at these paths; None where it has to poll.

    "auto" takes the first of KINDS that works here. A watcher that is asked for by name and cannot
    start raises WatcherUnavailable.
    """
    kinds = [each for each in KINDS if is_installed(each)] if kind == "auto" else [kind]
    for each in kinds:
        try:
            watcher = _start(each, listener, wal, bell, polling_interval, once)
        except WatcherUnavailable as error:
            if kind != "auto":
                raise
            once.warn(f"Watching by {each}", f"{error} Trying another way of watching.")
        else:
            listener.watcher = watcher
            return watcher
    return None


def best_kind() -> str:
    """What "auto" takes first here."""
    return next(each for each in KINDS if is_installed(each))


def is_installed(kind: str) -> bool:
    """Return True if a kind of watching can be used on this system."""
    if kind == "inotify":
        return sys.platform == "linux"
    return kind == "polling" or find_spec("watchfiles") is not None


def _start(
    kind: str, listener: Listener, wal: str, bell: Bell | None, polling_interval: float, once: Once
) -> Watcher | None:
    if kind == "polling":
        return None
    if not is_installed(kind):
        raise WatcherUnavailable(
            f"CHANNEL_LAYERS CONFIG key 'watcher' is {kind!r}, which does not work here: set it to "
            "'auto'."
        )
    if kind == "inotify":
        from .inotify import InotifyWatcher

        return InotifyWatcher(listener, wal, bell)
    try:
        from .watchfiles import WatchfilesWatcher
    except OSError as error:  # no descriptors
        raise WatcherUnavailable(f"watchfiles cannot be loaded: {error}.") from error
    return WatchfilesWatcher(listener, wal, bell, polling_interval, once)
