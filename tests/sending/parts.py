"""A process's sending side on a real file, put together as the layer does it."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from channels_sqlite._options.codec import Codec
from channels_sqlite._options.conf import Options
from channels_sqlite._sending.sender import Sender
from channels_sqlite._sending.trimmer import Trimmer
from channels_sqlite._storing.schema import MESSAGE
from channels_sqlite._storing.setup import Setup
from channels_sqlite.counters import Counters, DropLog
from channels_sqlite.serializers import MsgpackSerializer
from tests.rows import select, sql
from tests.storing.parts import database_on


class Parts:
    """`others` is a connection of somebody else's."""

    def __init__(self, database: Any, others: sqlite3.Connection, config: dict[str, Any]) -> None:
        self.options = Options.from_config(config)
        self.database = database
        self.others = others
        self.counters = Counters()
        self.trimmer = Trimmer(database, self.options, self.counters)
        setup = Setup(
            client="abcdefghijkl",
            database=database,
            options=self.options,
            codec=Codec(MsgpackSerializer(), ()),
            drops=DropLog(self.counters),
            capacity_of=lambda _: self.options.capacity,
        )
        self.sender = Sender(setup, self.trimmer)

    def sent(self, where: str = "true") -> list[int]:
        """The numbers of the messages in the table, in their order."""
        return [int(each) for each in select(self.others, f"body from {MESSAGE} where {where}")]

    def count(self, table: str) -> int:
        (found,) = select(self.others, f"count(*) from {table}")
        return int(found)


@asynccontextmanager
async def parts(path: Path, patience: float = 0.05, **config: Any) -> AsyncIterator[Parts]:
    async with database_on(path, timeout=patience) as database:
        with sql(path) as others:
            yield Parts(database, others, config)
