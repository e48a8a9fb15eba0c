"""Consumers that wait for a message, each on its own event loop. The receiver holds its lock around
every call.
"""

from __future__ import annotations

import asyncio

Waiter = asyncio.Future[None]


class Waiters:
    """A waiter is told that there is something to take, and takes it itself.

    Nothing is handed over, so that nothing is lost with a waiter that was told and then cancelled;
    whoever takes, or leaves, tells the next one if there is more.
    """

    def __init__(self) -> None:
        self._waiting: dict[str, list[Waiter]] = {}

    def __contains__(self, channel: str) -> bool:
        return channel in self._waiting

    def join(self, channel: str, loop: asyncio.AbstractEventLoop) -> Waiter:
        """A future of `loop`, done when there may be a message on the channel. End it with
        `leave`.
        """
        waiter: Waiter = loop.create_future()
        self._waiting.setdefault(channel, []).append(waiter)
        return waiter

    def leave(self, channel: str, waiter: Waiter) -> None:
        """It waits no longer, for whatever reason."""
        waiting = self._waiting.get(channel, [])
        if waiter in waiting:
            waiting.remove(waiter)
        if not waiting:
            self._waiting.pop(channel, None)

    def tell(self, channel: str, here: asyncio.AbstractEventLoop) -> None:
        """Tell the first waiter that has not been told, from the running loop `here`."""
        for waiter in list(self._waiting.get(channel, ())):
            if waiter.done():
                continue
            loop = waiter.get_loop()
            if loop is here:
                waiter.set_result(None)
                return
            try:
                loop.call_soon_threadsafe(_resolve, waiter)
            except RuntimeError:  # its loop was closed, it will never take anything
                self.leave(channel, waiter)
                continue
            return

    def count(self, channel: str) -> int:
        """How many consumers are going to take a message, told or not."""
        for waiter in list(self._waiting.get(channel, ())):
            if waiter.get_loop().is_closed():
                self.leave(channel, waiter)
        return len(self._waiting.get(channel, ()))


def _resolve(waiter: Waiter) -> None:
    if not waiter.done():
        waiter.set_result(None)
