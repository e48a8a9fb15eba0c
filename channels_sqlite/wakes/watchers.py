"""The process's watchers: one for a file and a way of watching, however many listen."""

from __future__ import annotations

import atexit
import logging
import os
import sys
import threading
from importlib.util import find_spec
from weakref import WeakSet

from ..exceptions import WatcherUnavailable
from .listener import Listener
from .watcher import Watcher

logger = logging.getLogger("channels_sqlite")


_watchers: dict[tuple[str, str], Watcher] = {}
_started: WeakSet[Watcher] = WeakSet()  # also those that have been told to stop, and are about to
_unwatchable: set[str] = set()  # the paths of which that was said; every event loop asks anew
_registry_lock = threading.Lock()


def subscribe(path: str, kind: str, polling_interval: float, listener: Listener) -> Watcher | None:
    """Have `listener` woken when the file at `path` changes; undone by `unsubscribe`.

    None for "polling", and where "auto" has to fall back to it, with a warning. A watcher that is
    asked for by name and cannot start raises `WatcherUnavailable`.
    """
    chosen = best_kind() if kind == "auto" else kind
    if chosen == "polling":
        return None
    with _registry_lock:
        try:
            watcher = _watchers.get((path, chosen)) or _start(path, chosen, polling_interval)
        except WatcherUnavailable as error:
            if kind != "auto":
                raise
            if path not in _unwatchable:
                logger.warning("%s Polling every %s s instead.", error, polling_interval)
            _unwatchable.add(path)
            return None
        _unwatchable.discard(path)
        _watchers[path, chosen] = watcher
        _started.add(watcher)
        watcher.add(listener)
        return watcher


def unsubscribe(watcher: Watcher, listener: Listener) -> None:
    """Wake `listener` no more, if it still is; a watcher that has lost its last listener ends."""
    with _registry_lock:
        if listener not in watcher:
            return
        watcher.remove(listener)
        if watcher.is_idle:
            for key in [key for key, value in _watchers.items() if value is watcher]:
                del _watchers[key]
            watcher.stop()


def best_kind() -> str:
    """What "auto" means here: inotify where its extra is installed."""
    return "inotify" if is_installed("inotify") else "watchfiles"


def is_installed(kind: str) -> bool:
    """Whether the package behind a kind of watching can be imported here."""
    if kind == "inotify":
        return sys.platform == "linux" and find_spec("asyncinotify") is not None
    return kind == "polling" or find_spec("watchfiles") is not None


def _start(path: str, kind: str, polling_interval: float) -> Watcher:
    if not is_installed(kind):
        raise WatcherUnavailable(
            f"CHANNEL_LAYERS CONFIG key 'watcher' is {kind!r}, which is not installed here: "
            "pip install channels-sqlite[inotify] (on Linux), or set it to 'auto'."
        )
    if kind == "inotify":
        from .inotify import InotifyWatcher

        return InotifyWatcher(path)
    from .watchfiles import WatchfilesWatcher

    return WatchfilesWatcher(path, polling_interval)


def _forget_inherited() -> None:
    """After a fork: an inherited watcher hears nothing, its threads stayed with the parent."""
    global _registry_lock
    _registry_lock = threading.Lock()
    _inherited.extend(_watchers.values())
    _watchers.clear()
    _started.clear()


def stop_all() -> None:
    """A thread in Rust code must not be met by the end of the interpreter."""
    _watchers.clear()
    for watcher in list(_started):
        watcher.stop()
        watcher.join()


_inherited: list[Watcher] = []

atexit.register(stop_all)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_inherited)
