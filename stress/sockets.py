"""The roles of a child with WebSocket clients: connect, say something, hang up.

In the ledger, a socket is a channel, and its room a group. A message is accepted when it has been
handed to the system: from then on the server owes it to every socket that is in the room.
"""

from __future__ import annotations

import asyncio
import gc
import json
import random
import time
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING

from stress import ledger, limits, roles
from stress.roles import Worker

if TYPE_CHECKING:
    from websockets.asyncio.client import ClientConnection

SOCKETS = "sockets"
CONNECTING_AT_ONCE = 25  # of each process
HANDSHAKE = 60.0  # seconds, on a machine that is busy


@dataclass(frozen=True)
class Socket:
    connection: ClientConnection
    room: str


Seat = tuple[str, str]  # the name of a socket, and its room


async def connect(worker: Worker, seats: list[Seat], url: str) -> float:
    """Connect all sockets, some at a time. Return how many seconds that took."""
    limits.open_many()
    room = asyncio.Semaphore(CONNECTING_AT_ONCE)
    begin = time.monotonic()

    async def take(seat: Seat) -> None:
        async with room:
            await _connect(worker, *seat, url)

    await asyncio.gather(*(take(seat) for seat in seats))
    return time.monotonic() - begin


async def _connect(worker: Worker, name: str, room: str, url: str) -> None:
    from websockets.asyncio.client import connect

    worker.recorder.note(ledger.LISTENING, channel=name)
    worker.recorder.note(ledger.JOINING, target=room, channel=name)
    # As browsers do, it sends no pings. The server accepts when it has joined the group.
    connection = await connect(f"{url}/{room}", open_timeout=HANDSHAKE, ping_interval=None)
    worker.recorder.note(ledger.JOINED, target=room, channel=name)
    worker.kept.setdefault(SOCKETS, {})[name] = Socket(connection, room)
    worker.consumers[name] = asyncio.create_task(_hear(worker, name, connection))


async def _hear(worker: Worker, name: str, connection: ClientConnection) -> None:
    received = worker.recorder.received
    async for text in connection:
        received(name, json.loads(text))
        worker.arrived += 1


async def say(
    worker: Worker, phase: str, names: list[str], rate: float, seconds: float, size: int
) -> int:
    """Let each socket say something `rate` times a second, at fixed times of its own.

    Return how many messages. In the ledger, the sender is the phase and the socket's name.
    """
    begin = time.monotonic()
    talks = (_talk(worker, phase, name, rate, begin, seconds, size) for name in names)
    return sum(await asyncio.gather(*talks))


async def _talk(
    worker: Worker, phase: str, name: str, rate: float, begin: float, seconds: float, size: int
) -> int:
    socket: Socket = worker.kept[SOCKETS][name]
    first = random.uniform(0, 1 / rate)
    for number in count():
        moment = first + number / rate
        if moment >= seconds:
            return number
        await asyncio.sleep(max(0.0, begin + moment - time.monotonic()))
        sender = f"{phase} {name}"
        text = json.dumps(roles.message(sender, number, socket.room, size))
        with worker.recorder.sending(sender, number, socket.room, group=True):
            await socket.connection.send(text)
    raise AssertionError("count() does not end")


async def collect_garbage(worker: Worker) -> None:
    del worker
    gc.collect()


async def hang_up(worker: Worker) -> None:
    """Close all sockets, as browser tabs do when they are closed."""
    sockets: dict[str, Socket] = worker.kept.get(SOCKETS, {})
    await asyncio.gather(*(socket.connection.close() for socket in sockets.values()))
    sockets.clear()
