"""The background side: `python manage.py runworker summaries`."""

import os
import re
import shlex
import subprocess
import sys
from collections import Counter
from typing import Any

from channels.consumer import AsyncConsumer
from channels.db import database_sync_to_async
from django.conf import settings
from django.db.models import Count, Max, Min

from chat.models import Line

WORD = re.compile(r"[^\W\d_]{5,}")  # five letters at least, of any script


def command() -> str:
    """Return the command that starts a worker, as it works in any terminal of this machine.

    `python` may be another one there than the server's. Visitors of a real site need not know its
    path.
    """
    if not settings.DEBUG:
        return "python manage.py runworker summaries"
    words = [sys.executable, str(settings.BASE_DIR / "manage.py"), "runworker", "summaries"]
    return subprocess.list2cmdline(words) if os.name == "nt" else shlex.join(words)


class SummaryWorker(AsyncConsumer):
    """A worker for jobs of the channel `summaries`: as many as you like share them."""

    async def summarise(self, job: dict[str, Any]) -> None:
        counted = await database_sync_to_async(summary)(job["room"])
        answer = {"type": "summary.ready", "summary": counted}
        await self.channel_layer.send(job["reply_to"], answer)


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
