"""Consumers that wait for a message, each on its own event loop.

The receiver holds its lock around every call.
"""

from __future__ import annotations

import asyncio

from .messages import Item

Waiter = asyncio.Future["Item | None"]


class Waiters(dict[str, list[Waiter]]):
    """Who waits, by channel, in the order in which they came."""

    def join(self, channel: str, loop: asyncio.AbstractEventLoop) -> Waiter:
        """A future of `loop`: done with a message, or with None when there may be one to take.

        End it with `leave`, unless it brought a message.
        """
        waiter: Waiter = loop.create_future()
        waiting = self.get(channel)
        if waiting is None:
            self[channel] = [waiter]
        else:
            waiting.append(waiter)
        return waiter

    def leave(self, channel: str, waiter: Waiter) -> None:
        """It waits no longer."""
        waiting = self.get(channel, [])
        if waiter in waiting:
            waiting.remove(waiter)
        if not waiting:
            self.pop(channel, None)

    def hand_over(self, channel: str, item: Item, here: asyncio.AbstractEventLoop) -> bool:
        """Give a message to the first waiter, if that is one of the running loop `here`.

        Not to one of another loop: nobody could take it back if that loop is closed meanwhile.
        """
        waiting = self.get(channel)
        if not waiting or waiting[0].done() or waiting[0].get_loop() is not here:
            return False
        waiting.pop(0).set_result(item)
        if not waiting:
            del self[channel]
        return True

    def tell(
        self, channel: str, here: asyncio.AbstractEventLoop, *, everybody: bool = False
    ) -> None:
        """Tell the first waiter that was not told, from the running loop, to come and take; or all
        of them.
        """
        for waiter in list(self.get(channel, ())):
            if waiter.done():
                continue
            loop = waiter.get_loop()
            try:
                if loop is here:
                    waiter.set_result(None)
                else:
                    loop.call_soon_threadsafe(_tell, waiter)
            except RuntimeError:  # its loop was closed, it will never take anything
                self.leave(channel, waiter)
                continue
            if not everybody:
                return

    def count(self, channel: str) -> int:
        """How many are going to take a message, told or not."""
        for waiter in list(self.get(channel, ())):
            if waiter.get_loop().is_closed():
                self.leave(channel, waiter)
        return len(self.get(channel, ()))


def _tell(waiter: Waiter) -> None:
    if not waiter.done():
        waiter.set_result(None)
