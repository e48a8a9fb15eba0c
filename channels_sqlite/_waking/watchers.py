"""Watching: by the best watcher that works here, or by the one that CONFIG names."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib.util import find_spec

from .._options.conf import WATCHERS, Options
from .._storing.database import Database
from ..exceptions import WatcherUnavailable
from .bells import Bell
from .listener import Listener, Watcher


def watch(listener: Listener, database: Database, options: Options, bell: Bell | None) -> None:
    """Have `listener` woken by the database's log and by this bell. Without a watcher it has to
    poll.

    "auto" takes the first of the kinds that works here. A watcher that is asked for by name and
    cannot start raises WatcherUnavailable.
    """
    left = kinds() if options.watcher == "auto" else iter([options.watcher])
    kind = next(left)
    while True:
        try:
            listener.watcher = _watcher(kind, listener, database, options, bell)
        except WatcherUnavailable as error:
            if (following := next(left, None)) is None:
                raise
            database.once.warn(f"Watching by {kind}", f"{error} Trying {following} instead.")
            kind = following
        else:
            return


def _watcher(
    kind: str, listener: Listener, database: Database, options: Options, bell: Bell | None
) -> Watcher | None:
    if kind == "polling":
        return None
    if not is_installed(kind):
        raise WatcherUnavailable(
            f"CHANNEL_LAYERS CONFIG key 'watcher' is {kind!r}, which does not work here: set it to "
            "'auto'."
        )
    wal = database.files.wal
    try:
        if kind == "inotify":
            from .inotify import InotifyWatcher
        else:
            from .watchfiles import WatchfilesWatcher
    except (OSError, ImportError) as error:  # no descriptors, or a failing disk
        raise WatcherUnavailable(f"{kind} cannot be loaded: {error}.") from error
    if kind == "inotify":
        return InotifyWatcher(listener, wal, bell)
    return WatchfilesWatcher(listener, wal, bell, options.polling_interval, database.once)


def kinds() -> Iterator[str]:
    """The ways of watching that can be used on this system, the best one first.

    Each is looked for when it is asked for: an exception out of a signal handler may leave the lock
    of imports taken, and every event loop that begins to receive comes by here.
    """
    return (each for each in WATCHERS if each != "auto" and is_installed(each))


def is_installed(kind: str) -> bool:
    """Return True if a kind of watching can be used on this system."""
    if kind == "inotify":
        return sys.platform == "linux"
    return kind == "polling" or find_spec("watchfiles") is not None
