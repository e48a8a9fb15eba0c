"""Waiting for what is sure to come, with a limit that only a hang reaches."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

T = TypeVar("T")

PATIENCE = 10.0  # seconds


async def soon(awaitable: Awaitable[T]) -> T:
    """The awaitable's result."""
    return await asyncio.wait_for(awaitable, PATIENCE)


async def until(condition: Callable[[], Any]) -> None:
    """Wait until the condition holds."""

    async def poll() -> None:
        while not condition():  # noqa: ASYNC110 - nobody could set an event
            await asyncio.sleep(0.01)

    await soon(poll())


def wait_until(condition: Callable[[], Any], patience: float = PATIENCE) -> None:
    """The same without an event loop."""
    deadline = time.monotonic() + patience
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError
        time.sleep(0.01)


async def cancel(*tasks: asyncio.Task[Any]) -> None:
    """Cancel tasks, and wait until they are gone."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
