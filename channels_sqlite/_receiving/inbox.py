"""How far a reader has come in one of its inboxes."""

from __future__ import annotations

from dataclasses import dataclass

from .._storing.messages import Row


@dataclass
class Inbox:
    """A process-local inbox: how far it was read, and how much of that the table knows."""

    capacity: int
    cursor: int = 0
    acknowledged: int = 0
    taken: int = 0  # messages between the two
    took_large: bool = False  # one of them is large
    newest_created_at: float = 0.0  # when the newest message that was taken was created
    cursor_before: int = 0  # the cursor before an older copy of the file was restored

    @property
    def owes(self) -> bool:
        """Return True if messages were taken of which the table does not know yet."""
        return self.acknowledged < self.cursor

    def go_back(self) -> None:
        """This may be an older copy of the file: read it from its beginning."""
        self.cursor_before = max(self.cursor_before, self.cursor)
        self.cursor = self.acknowledged = self.taken = 0

    def has_had(self, row: Row) -> bool:
        """Return True for a message that was taken before an older copy was restored."""
        return row.id <= self.cursor_before and row.created_at <= self.newest_created_at
