"""What wakes a listener: the best watcher that works here, or the one that CONFIG names."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from importlib.util import find_spec
from typing import TYPE_CHECKING

from .._options import times
from .._options.conf import WATCHERS, Options
from .._storing.connections import Connections
from .._storing.database import Database
from .._storing.once import Once
from ..exceptions import WatcherUnavailable
from .bells import Bell
from .listener import Listener

if TYPE_CHECKING:
    from .inotify import InotifyWatcher
    from .watchfiles import WatchfilesWatcher

    Watcher = InotifyWatcher | WatchfilesWatcher


class Ear:
    """How one event loop is woken: a listener, and the watcher that calls it, or polling."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        look: Callable[[bool], bool],
        beat: Callable[[], bool],
        database: Database,
        options: Options,
    ) -> None:
        self.listener = Listener(
            loop, look, beat, self._on_deaf, database.files.log_age, database.once
        )
        self._database = database
        self._options = options
        self._watcher: Watcher | None = None
        self._wants_touches = False
        self._watched: tuple[Connections | None, Bell | None] | None = None
        """The connections that were open when it began to watch (later ones may have another log),
        and the bell; None until then."""

    def watches(self, bell: Bell | None) -> bool:
        """Return True if it watches the files that are open by now, and this bell."""
        return self._watched == (self._database.opened, bell)

    def watch(self, bell: Bell | None) -> None:
        """Watch the files that are open by now, and this bell."""
        self._stop_watching()
        database, interval = self._database, self._options.polling_interval
        opened, polls = database.opened, False
        # In memory there are no other processes, and at the end of the interpreter no bell.
        if not (database.in_memory or database.is_ending):
            try:
                self._watcher = watch(
                    self._options.watcher,
                    self.listener,
                    database.files.wal,
                    bell,
                    interval,
                    database.once,
                )
            except WatcherUnavailable:
                if not database.is_ending:
                    raise
        if self._watcher is None:
            polls = not database.in_memory
        else:
            self._watcher.want_touches(self._wants_touches)
        self._watched = opened, bell
        self.listener.start(interval if polls else None)
        if polls and self._options.watcher == "auto":
            self._watch_again_later()

    def want_touches(self, wanted: bool) -> None:
        """Wake at once when a normal channel is written to, from now on; or no more."""
        self._wants_touches = wanted
        if self._watcher is not None:
            self._watcher.want_touches(wanted)

    @property
    def kind(self) -> str | None:
        """What wakes it; None while it polls."""
        return None if self._watcher is None or self.listener.polls else self._watcher.kind

    def stop(self) -> None:
        """No more looks."""
        self.listener.stop()
        self._stop_watching()

    def _stop_watching(self) -> None:
        watcher, self._watcher = self._watcher, None
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
        self.listener.call_after(times.TIMES.watch_again, "watch", self._forget)

    def _forget(self) -> None:
        """Have its owner's next heartbeat watch again."""
        self._watched = None


def watch(
    kind: str,
    listener: Listener,
    wal: str,
    bell: Bell | None,
    polling_interval: float,
    once: Once,
) -> Watcher | None:
    """Have `listener` woken by the files at these paths; None where it has to poll.

    "auto" takes the first of the kinds that works here. A watcher that is asked for by name and
    cannot start raises WatcherUnavailable.
    """
    for each in kinds() if kind == "auto" else [kind]:
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


def kinds() -> list[str]:
    """The ways of watching that can be used on this system, the best one first."""
    return [each for each in WATCHERS if each != "auto" and is_installed(each)]


def best_kind() -> str:
    """What "auto" takes first here."""
    return kinds()[0]


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
