"""A layer as one process has it, and what stands in its tables."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from channels_sqlite._receiving.receiver import Receiver
from channels_sqlite._storing.schema import MESSAGE
from channels_sqlite.layers import SqliteChannelLayer
from tests.conftest import SetTimes
from tests.rows import count
from tests.waiting import until

Open = Callable[..., "Process"]
NORMAL = "test-channel"


class Process:
    """A layer, as one process has it."""

    def __init__(self, alias: str, **config: Any) -> None:
        self.layer = SqliteChannelLayer(database=alias, **config)
        self.channel = f"specific.{self.layer.client_prefix}!x"

    @property
    def receiver(self) -> Receiver:
        return self.layer._parts.receiver

    async def send(self, *numbers: int, channel: str | None = None) -> None:
        for number in numbers:
            await self.layer.send(channel or self.channel, {"number": number})

    async def receive(self, channel: str | None = None) -> int:
        number: int = (await self.layer.receive(channel or self.channel))["number"]
        return number

    async def begin(self, channel: str | None = None) -> asyncio.Task[int]:
        """A consumer that waits."""
        task = asyncio.create_task(self.receive(channel))
        await until(lambda: self.receiver._queues.is_waited_for(channel or self.channel))
        return task


def waiting(database: Path) -> int:
    """How many messages were not delivered."""
    return count(database, f"{MESSAGE} where delivered_at is null")


@pytest.fixture
async def open_(alias: str) -> AsyncIterator[Open]:
    processes: list[Process] = []

    def open_one(alias: str = alias, **config: Any) -> Process:
        processes.append(Process(alias, **config))
        return processes[-1]

    yield open_one
    for process in processes:
        await process.layer.close()


@pytest.fixture
def process(open_: Open) -> Process:
    return open_()


@pytest.fixture
def quick_heart(set_times: SetTimes) -> None:
    set_times(heartbeat=0.05)
