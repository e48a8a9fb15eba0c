"""A process under gevent; see test_servers.py."""

# ruff: noqa: E402 - gevent wants to be first
from gevent import monkey

monkey.patch_all()

import sys
from typing import Any

import gevent
from asgiref.sync import async_to_sync

from channels_sqlite.layers import SqliteChannelLayer
from tests.children import hear, main, say


def sends(channel: str, numbers: list[int]) -> None:
    """Send a half one at a time, each from a greenlet of its own, then a half at the same time, and
    say of each which were sent; then send the end. The second half waits for a word.
    """
    layer = SqliteChannelLayer()

    def tried(number: int) -> bool:
        try:
            send(layer, channel, number)
        except RuntimeError:
            return False
        return True

    half = len(numbers) // 2
    say([number for number in numbers[:half] if gevent.spawn(tried, number).get()])
    hear()
    greenlets = [gevent.spawn(tried, number) for number in numbers[half:]]
    say([number for number, each in zip(numbers[half:], greenlets, strict=True) if each.get()])
    send(layer, channel, -1)


def send(layer: Any, channel: str, number: int) -> None:
    async_to_sync(layer.send)(channel, {"type": "test", "number": number})


if __name__ == "__main__":
    main(globals(), *sys.argv[1:])
