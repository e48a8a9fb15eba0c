"""What one layer, in one process, has counted, and when it is worth a line in the log."""

from __future__ import annotations

import logging
import time
from collections import Counter
from dataclasses import dataclass, field

logger = logging.getLogger("channels_sqlite")

QUIET_FOR = 60.0  # seconds between two warnings about dropped messages
MOST = 3  # channels that a warning names, those that missed most


@dataclass
class Counters:
    """Messages, since the layer was made.

    A group's message counts once for each channel that it reaches in this process, but once where
    it is sent, and once for each process that had no room for it.
    """

    sent: int = 0
    refused: int = 0
    """Sends that ended in ChannelFull."""
    received: int = 0
    expired: int = 0
    """Expired in the table before this process looked, or in a consumer's buffer."""
    dropped: int = 0
    """Given up for want of room: a group's message to a full inbox, a slow consumer's oldest."""
    missed_wakes: int = 0
    """Heartbeats that found what no wake had announced."""


@dataclass
class DropLog:
    """Counts drops by channel and group; warns once a minute at most, of all since the last
    warning.
    """

    counters: Counters
    _recent: Counter[tuple[str, str | None]] = field(default_factory=Counter)
    _quiet_until: float = 0.0

    def dropped(self, channel: str, group: str | None, capacity: int, age: float) -> None:
        """One message less; `age` is that of the oldest one waiting, in seconds."""
        self.counters.dropped += 1
        self._recent[channel, group] += 1
        now = time.monotonic()
        if now < self._quiet_until:
            return
        self._quiet_until = now + QUIET_FOR
        total = sum(self._recent.values())
        worst = self._recent.most_common(MOST)
        most = ", ".join(f"{count} to {name} of group {of}" for (name, of), count in worst)
        self._recent.clear()
        logger.warning(
            "%d message(s) dropped for want of room, %s. The last one to %s of group %s:"
            " capacity %d, the oldest that waits is %.1f s old.",
            total,
            most,
            channel,
            group,
            capacity,
            age,
        )
