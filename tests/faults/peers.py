"""Processes that do what a test tells them, one order after the other: see bell_children.py."""

from __future__ import annotations

import os
import signal
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import psutil

from tests.conftest import Start
from tests.processes import PATIENCE, Child
from tests.rows import message, sql
from tests.waiting import wait_until

EXAMPLES = int(os.environ.get("FAULTS_EXAMPLES", "200"))
"""How many of what can be repeated; 10,000 in `nox -s faults`."""
AT_LENGTH = EXAMPLES > 1000
SETTLES = 10.0 if AT_LENGTH else 1.5
"""Seconds, in which a process that sends has swept: it does so every second or so."""


class Refused(Exception):
    """An order failed with an error of the layer's; its class and its words."""


class Peer:
    """A process with a layer of its own.

    `peer.send(...)` is `layer.send(...)` in that process, and so with every method of the layer and
    of `bell_children.Obedient`. `begin` and `result` are the two halves of such a call.
    """

    def __init__(self, start: Start, **config: Any) -> None:
        self.child = start("tests.faults.bell_children.obeys", **config)

    def __getattr__(self, verb: str) -> Callable[..., Any]:
        return partial(self._call, verb)

    def _call(self, verb: str, *arguments: Any, **options: Any) -> Any:
        self.begin(verb, *arguments, **options)
        return self.result()

    def begin(self, verb: str, *arguments: Any, **options: Any) -> None:
        self.child.tell({"verb": verb, "arguments": arguments, "options": options})

    def result(self, patience: float = PATIENCE) -> Any:
        said = self.child.hear(patience)
        if "error" in said:
            raise Refused(said["error"])
        return said["result"]

    def finish(self) -> None:
        """Have it return from its event loop, and end."""
        self.child.tell(None)
        self.child.finish()


def stop(child: Child, database: Path) -> None:
    """Have the process stand still, as under a debugger.

    Not while it writes: it would hold SQLite's lock, and nobody could send.
    """
    process = psutil.Process(child.pid)
    while True:
        child.signal(signal.SIGSTOP)
        wait_until(lambda: process.status() == psutil.STATUS_STOPPED)
        if may_write(database):
            return
        child.signal(signal.SIGCONT)
        time.sleep(0.01)


@contextmanager
def stopped(peer: Peer, database: Path) -> Iterator[None]:
    """The process stands still until the end of the `with`."""
    stop(peer.child, database)
    try:
        yield
    finally:
        peer.child.signal(signal.SIGCONT)


def may_write(database: Path) -> bool:
    """Return True if nobody holds the write lock for long."""
    with sql(database, timeout=0.5) as connection:
        try:
            connection.execute("begin immediate")
        except sqlite3.OperationalError:
            return False
        connection.execute("rollback")
        return True


class Company:
    """A sender, and members of one group, in a process each."""

    group = "company"

    def __init__(self, start: Start, count: int = 2, **config: Any) -> None:
        self._start = start
        self._config = config
        self._numbers = 0
        self.sender = Peer(start, **config)
        self.members: list[tuple[Peer, str]] = []
        self.grow(count)

    def grow(self, count: int = 1) -> None:
        """More members come."""
        peers = [Peer(self._start, **self._config) for _ in range(count)]
        self.members += [(peer, peer.join(self.group)) for peer in peers]

    def check(self, seconds: float = SETTLES) -> None:
        """For so long, each hears what the group is sent, and what it is sent; all stay members."""
        end = time.monotonic() + seconds
        self.exchange()
        while time.monotonic() < end:
            time.sleep(0.05)
            self.exchange()
        channels = sorted(channel for _, channel in self.members)
        found = self.sender.group_channels(self.group)
        assert found == channels, f"members are {found}, not {channels}"

    def exchange(self) -> None:
        """One message to the group, and one to each."""
        first, second = self._numbers + 1, self._numbers + 2
        self._numbers = second
        self.sender.group_send(self.group, message(first))
        for _, channel in self.members:
            self.sender.send(channel, message(second))
        for peer, channel in self.members:
            heard = peer.heard(channel, second)
            assert heard == [first, second], f"{channel} heard {heard}, not {[first, second]}"


def bells(database: Path) -> Path:
    """The directory of bells."""
    return Path(f"{database}-bells")


MARKS = [".checkpoint", ".log", ".opened", ".swept"]
"""The layer's other files beside the bells."""


def bells_in(database: Path) -> set[str]:
    """The names of all bells, also of those that are being made."""
    folder = bells(database)
    return {*os.listdir(folder)} - {*MARKS} if folder.exists() else set()


def client_of(channel: str) -> str:
    """The name of its reader's bell."""
    return channel.partition("!")[0].rpartition(".")[2]


def bell_of(database: Path, channel: str) -> Path:
    return bells(database) / client_of(channel)
