"""Asking the readers of a file, in whatever process, how they are.

A reader that wrote down that it lives would wake everybody else, while nothing happens. So it is
asked instead. A question is a message to an inbox of no channel, which every reader looks at with
its heartbeat; an answer is a message to who has asked. Questions expire, and nobody takes them.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from functools import partial
from typing import Any

from . import store
from .codec import Codec
from .counters import Counters
from .database import Database
from .messages import Outgoing
from .serializers import Message
from .tasks import Tasks

QUESTIONS = "?"
"""The inbox of questions; no channel can be called so."""
LIFETIME = 5.0  # seconds; of a question, and of its answers
AT_ONCE = 10  # questions that are answered at one heartbeat, the latest
ROOM = 1000  # answers that may wait for who has asked


@dataclass(frozen=True, kw_only=True)
class Reader:
    """A process that receives, at one moment."""

    pid: int
    channels: int
    """On which its consumers wait for messages."""
    watcher: str
    """What wakes it, in fact: "inotify", "watchfiles" or "polling"; "none" in memory."""
    last_wake: float | None
    """Seconds since a file event announced something; None if none has."""
    counters: Counters
    """Of its layer, since that was made."""


def reader_in(answer: Message) -> Reader:
    """What a `RollCall` has answered; one of a later version may say more than we understand."""
    counters = Counters(**_known(Counters, answer["counters"]))
    return Reader(**_known(Reader, answer) | {"counters": counters})


def _known(kind: type, values: Mapping[str, Any]) -> dict[str, Any]:
    return {each.name: values[each.name] for each in fields(kind) if each.name in values}


class RollCall:
    """One reader's answers; `describe` tells how it is."""

    def __init__(
        self, database: Database, codec: Codec, tasks: Tasks, describe: Callable[[], Reader]
    ) -> None:
        self._database = database
        self._codec = codec
        self._tasks = tasks
        self._describe = describe
        self._heard = 0

    def begin_anew(self) -> None:
        """The file was replaced, ids restart."""
        self._heard = 0

    def heed(self, connection: sqlite3.Connection, sequences: Mapping[str, int]) -> None:
        """Answer what was asked since the last time."""
        newest = sequences.get(QUESTIONS, 0)
        if newest <= self._heard:
            return
        asked = [*store.arrivals(connection, QUESTIONS, self._heard)][-AT_ONCE:]
        self._heard = newest
        now = time.time()
        for row, channels in asked:
            for channel in channels:
                if row.remaining(now) > 0 and _inbox_of(channel):
                    self._tasks.spawn(partial(self._answer, channel))

    async def _answer(self, channel: str) -> None:
        answer = {"type": "channels_sqlite.reader", **asdict(self._describe())}
        body = self._codec.encode(answer, channel)
        await _write(self._database, _inbox_of(channel), channel, body)


async def ask(database: Database, codec: Codec, channel: str) -> None:
    """Have every reader send its answer to `channel`, with its next heartbeat."""
    body = codec.encode({"type": "channels_sqlite.roll_call"}, channel)
    await _write(database, QUESTIONS, channel, body)


async def forget(database: Database, channel: str) -> None:
    """Leave nothing of a question, and of what was answered to `channel`."""
    inboxes, since = [QUESTIONS, _inbox_of(channel)], time.time() - LIFETIME
    await database.run(partial(store.forget, inboxes=inboxes, channel=channel, since=since))


async def _write(database: Database, inbox: str, channel: str, body: bytes) -> None:
    """Send, beside the layer's own messages: it is none of them, and is not counted."""
    now = time.time()
    message = Outgoing(inbox, channel, body, now + LIFETIME, ROOM)
    await database.run(lambda connection: store.send(connection, [message], now), ring=True)
    database.nudge()


def _inbox_of(channel: str) -> str:
    """Of a process-local channel; nothing for others, to which nobody asks to be answered."""
    return channel[: channel.find("!") + 1]
