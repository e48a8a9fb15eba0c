"""What fails again and again, and nobody is there to be told but the log: said once."""

from __future__ import annotations

import logging

from .exceptions import ChannelsSqliteError

logger = logging.getLogger("channels_sqlite")


class Complaints:
    """Says of each thing why it fails: once, and again when it fails in another way or anew.

    What is tried at every heartbeat would else fill the log while the disk is full.
    """

    def __init__(self) -> None:
        self._said: dict[str, str] = {}

    def say(self, what: str, error: BaseException) -> None:
        """`what` has failed, and is going to be tried again."""
        cause = f"{type(error).__name__}: {error}"
        if self._said.get(what) == cause:
            return
        self._said[what] = cause
        if isinstance(error, ChannelsSqliteError):  # its words say the remedy
            logger.warning("%s Trying again at the next heartbeat.", error)
        else:
            logger.error("%s failed; trying again at the next heartbeat.", what, exc_info=error)

    def withdraw(self, what: str) -> None:
        """`what` has gone well."""
        self._said.pop(what, None)
