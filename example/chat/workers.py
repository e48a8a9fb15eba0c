"""The background side: `python manage.py runworker summaries`."""

import os
import re
from collections import Counter
from typing import Any

from asgiref.sync import async_to_sync
from channels.consumer import SyncConsumer
from django.db.models import Count, Max, Min

from chat.models import Line

WORD = re.compile(r"[^\W\d_]{5,}")  # five letters at least, of any script


class SummaryWorker(SyncConsumer):
    """Takes jobs from the channel `summaries`; as many workers as you like share them."""

    def summarise(self, job: dict[str, Any]) -> None:
        answer = {"type": "summary.ready", "summary": summary(job["room"])}
        async_to_sync(self.channel_layer.send)(job["reply_to"], answer)


def summary(room: str) -> dict[str, Any]:
    lines = Line.objects.filter(room=room)
    span = lines.aggregate(first=Min("created_at"), last=Max("created_at"))
    talkers = lines.values("name").annotate(lines=Count("id")).order_by("-lines", "name")
    words = Counter(
        word
        for text in lines.values_list("text", flat=True).iterator()
        for word in WORD.findall(text.lower())
    )
    return {
        "lines": lines.count(),
        "first": span["first"] and span["first"].isoformat(),
        "last": span["last"] and span["last"].isoformat(),
        "talkers": list(talkers[:5]),
        "words": [word for word, _ in words.most_common(8)],
        "process": os.getpid(),
    }
