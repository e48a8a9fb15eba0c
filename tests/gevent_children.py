"""What a process under gevent does; see test_servers.py."""

# ruff: noqa: E402 - gevent wants to be first
from gevent import monkey

monkey.patch_all()

import sys
from typing import Any

import gevent
from asgiref.sync import async_to_sync

from channels_sqlite.layers import SqliteChannelLayer
from tests.children import main, say


def sends(channel: str, numbers: list[int]) -> None:
    """Send one at a time, each from a greenlet of its own."""
    layer = SqliteChannelLayer()
    for number in numbers:
        gevent.spawn(send, layer, channel, number).get()
    say("sent")


def clashes(channel: str, numbers: list[int]) -> None:
    """Send all but the last at the same time; say how many were sent, and send the last one."""
    layer = SqliteChannelLayer()

    def tried(number: int) -> bool:
        try:
            send(layer, channel, number)
        except RuntimeError:
            return False
        return True

    *first, last = numbers
    greenlets = [gevent.spawn(tried, number) for number in first]
    say([number for number, each in zip(first, greenlets, strict=True) if each.get()])
    send(layer, channel, last)


def send(layer: Any, channel: str, number: int) -> None:
    async_to_sync(layer.send)(channel, {"type": "test", "number": number})


if __name__ == "__main__":
    main(globals(), *sys.argv[1:])
