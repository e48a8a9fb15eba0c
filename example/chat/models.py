"""The data of a room: its lines, and its visitors."""

from __future__ import annotations

import uuid
from datetime import timedelta
from typing import Any

from django.db import models, transaction
from django.utils import timezone

from chat.rooms import NAME_LENGTH

HISTORY = 50  # lines a newcomer sees, and each look at earlier ones
PAGE = 100  # lines at a time for someone who was away
MOST = 2**63 - 1  # SQLite's largest id


class LineManager(models.Manager["Line"]):
    def post(self, room: str, name: str, text: str, nonce: uuid.UUID | None = None) -> Line:
        """Keep a line, once for each nonce, however often an unsure browser sends it."""
        line, _ = self.get_or_create(
            nonce=nonce or uuid.uuid4(), defaults={"room": room, "name": name, "text": text}
        )
        return line

    def since(self, room: str, after: int) -> tuple[list[Line], bool]:
        """The lines after that id, oldest first, and whether there are more."""
        page = list(self.filter(room=room, id__gt=after).order_by("id")[: PAGE + 1])
        return page[:PAGE], len(page) > PAGE

    def last(self, room: str, before: int = MOST) -> tuple[list[Line], bool]:
        """The last few lines before that id, oldest first, and whether there are earlier ones."""
        page = list(self.filter(room=room, id__lt=before).order_by("-id")[: HISTORY + 1])
        return page[:HISTORY][::-1], len(page) > HISTORY

    def newest_id(self, room: str) -> int:
        lines = self.filter(room=room).order_by("-id")
        return lines.values_list("id", flat=True).first() or 0

    def rooms(self) -> list[str]:
        """The rooms that were used last, at most ten."""
        latest = self.values("room").annotate(latest=models.Max("id")).order_by("-latest")
        return [row["room"] for row in latest[:10]]


class Line(models.Model):
    """A line that a visitor said.

    The row is the truth and the channel layer only carries the news: a browser that missed
    the news finds the row. SQLite commits one writer at a time, so ids appear in order.
    """

    room = models.CharField(max_length=NAME_LENGTH, db_index=True)
    name = models.CharField(max_length=32)
    text = models.CharField(max_length=1000)
    nonce = models.UUIDField(unique=True, editable=False)
    created_at = models.DateTimeField(auto_now_add=True)

    objects = LineManager()

    def __str__(self) -> str:
        return f"{self.name}: {self.text}"

    def as_json(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "name": self.name,
            "text": self.text,
            "nonce": str(self.nonce),
            "at": self.created_at.isoformat(),
        }

    def as_event(self) -> dict[str, Any]:
        """The message for the room's group.

        It names the line before, so that a browser which never saw that one knows to ask for it:
        a channel layer delivers at most once.
        """
        before = Line.objects.filter(room=self.room, id__lt=self.id)
        previous = before.aggregate(previous=models.Max("id", default=0))["previous"]
        return {"type": "room.line", "line": self.as_json(), "previous": previous}


class VisitManager(models.Manager["Visit"]):
    # A tab reports every 25 s. If it has not reported for so long, its server was killed.
    ABSENT = timedelta(seconds=90)

    @transaction.atomic  # begins with the write lock: of two visitors who want a name, one is first
    def enter(self, room: str, name: str, channel: str, visitor: uuid.UUID) -> bool:
        """Note that this tab is here. Return False if another visitor has the name."""
        others = self.present(room).exclude(visitor=visitor)
        if others.filter(name__iexact=name).exists():
            return False
        visit = {"room": room, "name": name, "visitor": visitor, "seen_at": timezone.now()}
        self.update_or_create(channel=channel, defaults=visit)
        return True

    def leave(self, channel: str) -> None:
        self.filter(channel=channel).delete()

    def present(self, room: str) -> models.QuerySet[Visit]:
        self.filter(seen_at__lt=timezone.now() - self.ABSENT).delete()
        return self.filter(room=room)

    def names(self, room: str) -> list[str]:
        return list(self.present(room).order_by("name").values_list("name", flat=True).distinct())


class Visit(models.Model):
    """A tab in a room. The tabs of one browser are one visitor, and may share a name."""

    room = models.CharField(max_length=NAME_LENGTH, db_index=True)
    name = models.CharField(max_length=32)
    channel = models.CharField(max_length=100, unique=True)
    visitor = models.UUIDField(default=uuid.uuid4)
    seen_at = models.DateTimeField(db_index=True)

    objects = VisitManager()

    def __str__(self) -> str:
        return f"{self.name} in {self.room}"
