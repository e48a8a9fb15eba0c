"""Watching: by the best watcher that works here, or by the one that CONFIG names."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec

from .._options import times
from .._options.conf import WATCHERS, Options
from .._storing.connections import Connections
from .._storing.database import Database
from ..counters import Counters
from ..exceptions import WatcherUnavailable
from .bells import Bell
from .listener import Listener, Watcher


class Ear:
    """How one event loop is woken: a listener, and the watcher that calls it, or polling."""

    def __init__(
        self,
        look: Callable[[bool], bool],
        beat: Callable[[], bool],
        database: Database,
        options: Options,
        counters: Counters,
    ) -> None:
        loop, age = asyncio.get_running_loop(), database.files.log_age
        self.listener = Listener(loop, look, beat, self._on_deaf, age, database.once, counters)
        self._database = database
        self._options = options
        self._watched: tuple[Connections | None, Bell | None] | None = None
        """The connections that were open when it began to watch (later ones may have another log),
        and the bell; None until then."""

    def watches(self, bell: Bell | None) -> bool:
        """Return True if it watches the files that are open by now, and this bell."""
        return self._watched == (self._database.connections, bell)

    def watch(self, bell: Bell | None) -> None:
        """Watch the files that are open by now, and this bell."""
        self._stop_watching()
        database, listener = self._database, self.listener
        opened = database.connections
        # In memory there are no other processes, and at the end of the interpreter no bell.
        if not (database.in_memory or database.is_ending):
            try:
                watch(listener, database, self._options, bell)
            except WatcherUnavailable:
                if not database.is_ending:
                    raise
        self._watched = opened, bell
        polls = listener.watcher is None and not database.in_memory
        listener.start(self._options.polling_interval if polls else None)
        if polls and self._options.watcher == "auto":
            self._watch_again_later()

    @property
    def kind(self) -> str | None:
        """The kind of its watcher; None while it polls."""
        watcher = self.listener.watcher
        return None if watcher is None or self.listener.polls else watcher.kind

    def stop(self) -> None:
        self.listener.stop()
        self._stop_watching()

    def _stop_watching(self) -> None:
        watcher, self.listener.watcher = self.listener.watcher, None
        if watcher is not None:
            watcher.stop()

    def _on_deaf(self) -> None:
        """Poll for a while; a directory that was moved, or a full kernel, may be well again."""
        interval = self._options.polling_interval
        if not self._database.in_memory:  # where the ORM's writes announce nothing
            self._database.once.warn(
                "Watching",
                f"No file events for {self._database.files.wal} (network or virtual file system?);"
                f" polling every {interval} s, and watching again in"
                f" {times.TIMES.watch_again:.0f} s.",
            )
        self.listener.start(interval)
        self._watch_again_later()

    def _watch_again_later(self) -> None:
        """Have its owner's next heartbeat after a while watch again."""
        self.listener.call_after(times.TIMES.watch_again, "watch", self._forget)

    def _forget(self) -> None:
        self._watched = None


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
    if kind == "inotify":
        from .inotify import InotifyWatcher

        return InotifyWatcher(listener, wal, bell)
    try:
        from .watchfiles import WatchfilesWatcher
    except OSError as error:  # no descriptors
        raise WatcherUnavailable(f"watchfiles cannot be loaded: {error}.") from error
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
