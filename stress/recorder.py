"""A process's own ledger: in memory, or on disk at once if a kill must not lose it."""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from pathlib import Path
from types import TracebackType
from typing import Any

from channels.exceptions import ChannelFull

from stress import ledger
from stress.ledger import Entry


class Recorder:
    """The writer of one process's entries: a JSON array a line, without the process's name.

    In memory an entry costs a tuple. With `durable` each is one write(2) to a file opened for
    appending, so that a kill -9 loses none.
    """

    def __init__(self, path: Path, *, durable: bool = False) -> None:
        self.path = path
        self.durable = durable
        self.errors: Counter[str] = Counter()  # the errors of sends
        self._entries: list[tuple[Any, ...]] = []
        self._file = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)

    def _add(self, *entry: Any) -> None:
        self._entries.append(entry)
        if self.durable:
            self.write()

    def sending(self, sender: str, number: int, target: str, *, group: bool = False) -> Attempt:
        """Record one send: `with recorder.sending(...): await layer.send(...)`."""
        return Attempt(self, sender, number, target, "" if group else target)

    def received(self, channel: str, message: dict[str, Any]) -> int:
        """Note that a message arrived. Return when, in nanoseconds."""
        now = time.monotonic_ns()
        self._add(
            ledger.RECEIVED, now, message["sender"], message["number"], message["target"], channel
        )
        return now

    def note(self, kind: str, *, number: int = 0, target: str = "", channel: str = "") -> None:
        self._add(kind, time.monotonic_ns(), "", number, target, channel)

    def write(self) -> None:
        """Move what is in memory to the file."""
        entries, self._entries = self._entries, []
        lines = "".join(json.dumps(entry, separators=(",", ":")) + "\n" for entry in entries)
        view = memoryview(lines.encode())
        while view:
            view = view[os.write(self._file, view) :]


class Attempt:
    """One send: the entry before it, and the entry of its outcome.

    An error is counted, and not raised further: the sender goes on with its next message.
    """

    __slots__ = ("channel", "number", "recorder", "refused", "sender", "target")

    def __init__(
        self, recorder: Recorder, sender: str, number: int, target: str, channel: str
    ) -> None:
        self.recorder = recorder
        self.sender = sender
        self.number = number
        self.target = target
        self.channel = channel
        self.refused = False

    def _add(self, kind: str) -> None:
        self.recorder._add(
            kind, time.monotonic_ns(), self.sender, self.number, self.target, self.channel
        )

    def __enter__(self) -> Attempt:
        self._add(ledger.SENT)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        if kind is None:
            self._add(ledger.ACCEPTED)
            return False
        self.refused = issubclass(kind, ChannelFull)
        self._add(ledger.REFUSED if self.refused else ledger.FAILED)
        if not issubclass(kind, Exception):  # cancelled
            return False
        if not self.refused:
            self.recorder.errors[f"{kind.__name__}: {error}"] += 1
        return True


def read(path: Path) -> list[Entry]:
    """Read a process's entries from its file. A line cut short by a kill is skipped."""
    lines = path.read_text().split("\n")
    lines.pop()  # what follows the last newline: "" or a line cut short
    who = path.stem
    rows = json.loads("[" + ",".join(lines) + "]")
    return [Entry(kind, at, who, *rest) for kind, at, *rest in rows]
