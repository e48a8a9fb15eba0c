"""A process-local inbox, as its one reader knows it."""

from __future__ import annotations

from .._storing.messages import Row


class Inbox:
    """How far a process-local inbox was read, and how much of that the table knows."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.cursor = 0
        self.acknowledged = 0
        self.taken = 0
        """Messages between the two."""
        self.newest = 0.0
        """When the newest message that was taken was created."""
        self.before = 0
        """The cursor before ids went back."""

    @property
    def owes(self) -> bool:
        """Return True if messages were taken of which the table does not know yet."""
        return self.acknowledged < self.cursor

    def go_back(self) -> None:
        """This may be an older copy of the file: read it from its beginning."""
        self.before = max(self.before, self.cursor)
        self.cursor = self.acknowledged = self.taken = 0

    def has_had(self, row: Row) -> bool:
        """Return True for a message that was taken before ids went back."""
        return row.id <= self.before and row.created_at <= self.newest
