"""Keeps the tables small, at the pace at which this process writes."""

from __future__ import annotations

import asyncio
import logging
import time
from functools import partial

from . import store
from .conf import Options
from .database import Database
from .exceptions import DatabaseUnavailable

logger = logging.getLogger("channels_sqlite")

TRIM_EVERY = 1.0  # seconds, while anything is written
TRIM_SEQUENCES_EVERY = 60.0  # seconds; it reads the whole table of sequences
OVERDUE = 10  # batches


class Trimmer:
    """Trims after every `trim_batch_size` messages and every second of writing, as a task beside
    the senders.
    """

    def __init__(self, database: Database, options: Options) -> None:
        self._database = database
        self._options = options
        self._written = 0
        self._trimmed_at = time.monotonic()
        self._sequences_trimmed_at = time.monotonic()
        self._task: asyncio.Task[None] | None = None

    async def wrote(self, count: int) -> None:
        """This process has written `count` messages.

        A loop that ends with the send, as that of async_to_sync does, leaves a task no time: when
        trimming is overdue, the writer waits for it.
        """
        if not self._options.auto_trim:
            return
        self._written += count
        batch = self._options.trim_batch_size
        if self._written < batch and time.monotonic() - self._trimmed_at < TRIM_EVERY:
            return
        if self._written >= OVERDUE * batch:
            await self.trim()
        elif self._task is None or self._task.done() or self._task.get_loop().is_closed():
            self._task = asyncio.get_running_loop().create_task(self.trim())

    async def trim(self) -> None:
        """Trim until a batch is not full."""
        self._written = 0
        self._trimmed_at = time.monotonic()
        batch = self._options.trim_batch_size
        statement = partial(store.trim, limit=batch, retention=self._options.message_retention)
        try:
            while await self._database.run(partial(statement, now=time.time())) >= batch:
                pass
            if self._trimmed_at - self._sequences_trimmed_at > TRIM_SEQUENCES_EVERY:
                self._sequences_trimmed_at = self._trimmed_at
                await self._database.run(store.trim_sequences)
        except DatabaseUnavailable as error:
            logger.warning("Trimming failed, and is tried again after the next messages: %s", error)
