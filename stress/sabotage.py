"""Statements of the layer that fail on demand, as with a bug of ours or of SQLite's.

The layer itself is not changed. Its connections are of a class that raises an exception before it
runs a statement of the sabotaged part.
"""

from __future__ import annotations

import asyncio
import random
import sqlite3
from typing import Any

from stress.roles import Worker

MESSAGE = "channels_sqlite_message"
WAITING = "channels_sqlite_waiting"

# How the statements of each part begin.
READER = {
    "look": ("select inbox, seq from ", "select id, inbox, channel, "),
    "acknowledge": (f"update {MESSAGE} indexed by {WAITING} set delivered_at = ? ",),
    "claim": (f"update {MESSAGE} set delivered_at = ? where id = ?",),
}
WRITER = {
    "trim": (
        f"select id from {MESSAGE} indexed by ",
        "select id, :now from channels_sqlite_membership ",
    ),
}
PARTS = READER | WRITER


class Saboteur:
    """The statements that fail in this process at the moment."""

    def __init__(self) -> None:
        self.beginnings: tuple[str, ...] = ()
        self.raised = 0

    def meet(self, sql: Any) -> None:
        """Raise an exception if this statement, which is about to run, has to fail."""
        if self.beginnings and isinstance(sql, str):
            text = " ".join(sql[:200].split())
            if text.startswith(self.beginnings):
                self.raised += 1
                raise random.choice((RuntimeError, sqlite3.OperationalError))("sabotaged")


saboteur = Saboteur()


def sabotaged(factory: type[sqlite3.Connection]) -> type[sqlite3.Connection]:
    class Sabotaged(factory):  # type: ignore[valid-type, misc]
        def execute(self, sql: Any, *parameters: Any) -> Any:
            saboteur.meet(sql)
            return super().execute(sql, *parameters)

        def executemany(self, sql: Any, *parameters: Any) -> Any:
            saboteur.meet(sql)
            return super().executemany(sql, *parameters)

    return Sabotaged


def install() -> None:
    """Make the connections that this process opens from now on of that class."""
    connect = sqlite3.connect

    def connect_sabotaged(
        *args: Any, factory: type[sqlite3.Connection] = sqlite3.Connection, **kwargs: Any
    ) -> sqlite3.Connection:
        return connect(*args, factory=sabotaged(factory), **kwargs)

    sqlite3.connect = connect_sabotaged  # type: ignore[assignment]


async def sabotage(worker: Worker, part: str, seconds: float) -> int:
    """Let all statements of a part fail for a while. Return how many did."""
    del worker
    before = saboteur.raised
    saboteur.beginnings = PARTS[part]
    await asyncio.sleep(seconds)
    saboteur.beginnings = ()
    return saboteur.raised - before
