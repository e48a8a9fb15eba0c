"""Waiting for what is sure to come, with a limit that only a hang reaches."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
import weakref
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

T = TypeVar("T")

PATIENCE = 10.0  # seconds


async def soon(awaitable: Awaitable[T]) -> T:
    """The awaitable's result."""
    return await asyncio.wait_for(awaitable, PATIENCE)


async def receive(layer: Any, channel: str) -> Any:
    """The next message of the channel."""
    return await soon(layer.receive(channel))


async def members(layer: Any, count: int, group: str = "test-group") -> list[str]:
    """New channels in the group."""
    channels = [await layer.new_channel() for _ in range(count)]
    for channel in channels:
        await layer.group_add(group, channel)
    return channels


async def rest(layer: Any, channel: str) -> list[Any]:
    """The messages that still wait in the channel."""
    end = {"type": "test.end"}
    await layer.send(channel, end)
    messages = []
    while (got := await receive(layer, channel)) != end:
        messages.append(got)
    return messages


async def until(condition: Callable[[], Any]) -> None:
    """Wait until the condition holds."""

    async def poll() -> None:
        while not condition():  # noqa: ASYNC110 - nobody could set an event
            await asyncio.sleep(0.01)

    await soon(poll())


async def until_gone(reference: weakref.ref[Any]) -> None:
    """Wait until the garbage collector has taken it."""
    while reference() is not None:
        await asyncio.sleep(0.01)
        gc.collect()


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


@contextmanager
def threads(*functions: Callable[[], Any]) -> Iterator[None]:
    """Run each on a thread of its own until the end of the `with`; their first error is raised."""
    errors: list[BaseException] = []

    def guarded(function: Callable[[], Any]) -> None:
        try:
            function()
        except BaseException as error:  # for the test to see
            errors.append(error)

    running = [threading.Thread(target=guarded, args=[each], daemon=True) for each in functions]
    for thread in running:
        thread.start()
    yield
    for thread in running:
        thread.join(6 * PATIENCE)
    if errors:
        raise errors[0]
    assert not any(thread.is_alive() for thread in running)
