"""What watches a file, and whom it wakes."""

from __future__ import annotations

import asyncio
import os
import threading
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

from .listener import Listener


class Watcher(ABC):
    """Wakes its listeners when the file at `path` changes, is touched, or comes and goes.

    It watches the directory, for a watch on the file itself dies when the file is deleted and made
    anew.
    """

    kind: ClassVar[str]
    """What CONFIG calls it."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.directory, self.name = os.path.split(path)
        self._listeners: list[Listener] = []
        self._lock = threading.Lock()

    def __contains__(self, listener: Listener) -> bool:
        return listener in self._listeners

    @property
    def is_idle(self) -> bool:
        """Whether nobody listens."""
        return not self._listeners

    def add(self, listener: Listener) -> None:
        """Wake `listener` from now on; called on its loop. Those whose loop was closed are
        forgotten.
        """
        with self._lock:
            living = [each for each in self._listeners if not each.loop.is_closed()]
            self._listeners = [*living, listener]

    def remove(self, listener: Listener) -> None:
        """Wake it no more."""
        with self._lock:
            self._listeners = [each for each in self._listeners if each is not listener]

    def wake_all(
        self, looks: Sequence[float], here: asyncio.AbstractEventLoop | None = None
    ) -> None:
        """Wake every listener, from `here` or from a thread; one whose loop is closed is
        forgotten.
        """
        for listener in self._listeners:
            if listener.loop is here:
                listener.wake(looks)
                continue
            try:
                listener.wake_from_elsewhere(looks)
            except RuntimeError:
                self.remove(listener)

    def hurry(self) -> None:  # noqa: B027 - a watcher without a pace has nothing to do
        """A listener has found something, more may follow soon. For watchers that have a pace."""

    @abstractmethod
    def stop(self) -> None:
        """Release what the operating system lent; the watcher is not used again."""

    def join(self) -> None:  # noqa: B027
        """Wait until a watcher that was stopped has ended. For those that have a thread."""
