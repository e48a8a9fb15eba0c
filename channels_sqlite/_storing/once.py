"""Log lines about what fails again and again: once for each topic, and again after another error
or a success.
"""

from __future__ import annotations

import logging
import threading
from contextlib import suppress
from functools import partial

logger = logging.getLogger("channels_sqlite")


class Once:
    def __init__(self) -> None:
        self._said: dict[str, str] = {}
        self.silent = False
        """Set when the interpreter ends, where daemon threads meet files that are gone."""

    def warn(self, topic: str, words: str) -> None:
        """Log a warning, unless it was the last thing said about this topic."""
        if self._said.get(topic) != words and not self.silent:
            self._said[topic] = words
            logger.warning("%s", words)

    def failed(self, topic: str, error: BaseException, *, apart: bool = False) -> None:
        """Log that something failed; with a traceback if it is no error of ours, whose words say
        the remedy. On a thread of its own if `apart`: a log handler may send to a layer, which then
        waits for the worker's thread.
        """
        words = f"{type(error).__name__}: {error}"
        if self._said.get(topic) == words or self.silent:
            return
        self._said[topic] = words
        if type(error).__module__.startswith(__package__.partition(".")[0]):
            log = partial(logger.warning, "%s failed: %s", topic, error)
        else:
            log = partial(logger.error, "%s failed.", topic, exc_info=error)
        if apart:
            with suppress(RuntimeError):  # no thread can be started
                threading.Thread(target=log, daemon=True).start()
                return
        log()

    def well(self, topic: str) -> None:
        """Note that it went well, so that the next failure is news."""
        self._said.pop(topic, None)
