"""Statements of the layer that fail on demand, as a bug of ours or of SQLite's would have it.

The layer is what it is everywhere else; the connections that it opens are of a class that raises
before a statement of the part that is sabotaged is run.
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
    """What fails in this process at the moment."""

    def __init__(self) -> None:
        self.beginnings: tuple[str, ...] = ()
        self.raised = 0

    def meet(self, sql: Any) -> None:
        """Called with every statement, before it is run."""
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
    """From now on, what this process opens can be sabotaged."""
    connect = sqlite3.connect

    def connect_sabotaged(
        *args: Any, factory: type[sqlite3.Connection] = sqlite3.Connection, **kwargs: Any
    ) -> sqlite3.Connection:
        return connect(*args, factory=sabotaged(factory), **kwargs)

    sqlite3.connect = connect_sabotaged  # type: ignore[assignment]


async def sabotage(worker: Worker, part: str, seconds: float) -> int:
    """Have all statements of a part fail for a while; how many did."""
    del worker
    before = saboteur.raised
    saboteur.beginnings = PARTS[part]
    await asyncio.sleep(seconds)
    saboteur.beginnings = ()
    return saboteur.raised - before
