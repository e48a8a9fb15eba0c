"""A message on its way: asked to be sent, as it stands in the table, and in a buffer. Times are
unix seconds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

UNCHANGING = frozenset([str, bytes, int, float, bool, type(None)])
LARGE = 1_000_000  # bytes, above which a message is written by the thread, and not kept


class Outgoing(NamedTuple):
    """A message to one channel."""

    inbox: str
    channel: str
    body: bytes
    expires_at: float
    capacity: int


class GroupMessage(NamedTuple):
    """A message to every inbox of a group."""

    group: str
    body: bytes
    created_at: float
    expires_at: float


class Row(NamedTuple):
    """A message as it stands in the table: `channel` is None for a group's, `group` for a direct
    one.
    """

    id: int
    inbox: str
    channel: str | None
    group: str | None
    body: bytes
    created_at: float
    expires_at: float

    @property
    def is_large(self) -> bool:
        return isinstance(self.body, bytes) and len(self.body) > LARGE

    def remaining(self, now: float) -> float:
        """Seconds until it expires; a clock that was set back does not give it longer than it ever
        had.
        """
        return min(self.expires_at - now, self.expires_at - self.created_at)


@dataclass(eq=False)
class Item:
    """A message for a consumer; the members of a group share it."""

    row: Row
    deadline: float  # when it expires, in seconds of the monotonic clock, which nobody sets
    copy: Callable[[], dict[str, Any]] | None = None
    """The message for one more member, once one of them has read it."""
    is_reported: bool = False  # it cannot be read, and that was logged

    def read(self, decode: Callable[..., dict[str, Any]], channel: str) -> dict[str, Any]:
        """The message, for the first consumer that reads it; others get copies of a flat one."""
        row = self.row
        message = decode(row.body, channel, row.group)
        if row.group is not None:
            if UNCHANGING.issuperset(map(type, message.values())):
                self.copy = message.copy().copy  # of a copy: this consumer may change its own
            else:
                self.copy = partial(decode, row.body, channel, row.group)
        return message
