"""The roles of a child: coroutines that run inside it, called by name from a scenario.

They move messages and write the ledger. The scenario works out the figures later, from the
ledger.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from stress import ledger
from stress.recorder import Recorder

Reaction = Callable[["Worker", str, dict[str, Any]], Awaitable[None] | None]

# How many members join at once: a real process's consumers connect side by side too.
JOINING_AT_ONCE = 50


@dataclass
class Worker:
    """A child, seen from within: its layer, its ledger and what its roles keep between calls."""

    name: str
    layer: Any  # any channel layer; Channels' own base class has no common signature for them
    recorder: Recorder
    arrived: int = 0
    consumers: dict[str, asyncio.Task[None]] = field(default_factory=dict)
    kept: dict[str, Any] = field(default_factory=dict)


async def consume(worker: Worker, channel: str, react: Reaction | None = None) -> None:
    """Run one consumer: receive, write it down, react. It ends when it is cancelled."""
    receive, received = worker.layer.receive, worker.recorder.received
    while True:
        message = await receive(channel)
        received(channel, message)
        worker.arrived += 1
        if react is not None and (reaction := react(worker, channel, message)) is not None:
            await reaction


def listen_on(worker: Worker, channel: str, react: Reaction | None = None) -> None:
    worker.recorder.note(ledger.LISTENING, channel=channel)
    worker.consumers[channel] = asyncio.create_task(consume(worker, channel, react))


async def listen(worker: Worker, channel: str, react: Reaction | None = None) -> None:
    """Read a channel of any name."""
    listen_on(worker, channel, react)
    await asyncio.sleep(0)


async def open_channels(
    worker: Worker, many: int, group: str = "", react: Reaction | None = None
) -> list[str]:
    """Start consumers, each on a channel of its own, all in `group`."""
    channels: list[str] = []

    async def connect() -> None:
        channel = await worker.layer.new_channel()
        listen_on(worker, channel, react)
        if group:
            await join(worker, group, channel)
        channels.append(channel)

    for start in range(0, many, JOINING_AT_ONCE):
        await asyncio.gather(*(connect() for _ in range(min(JOINING_AT_ONCE, many - start))))
    return channels


async def join(worker: Worker, group: str, channel: str) -> None:
    worker.recorder.note(ledger.JOINING, target=group, channel=channel)
    await worker.layer.group_add(group, channel)
    worker.recorder.note(ledger.JOINED, target=group, channel=channel)


async def leave(worker: Worker, group: str, channel: str) -> None:
    worker.recorder.note(ledger.LEAVING, target=group, channel=channel)
    await worker.layer.group_discard(group, channel)
    worker.recorder.note(ledger.LEFT, target=group, channel=channel)


def message(sender: str, number: int, target: str, size: int) -> dict[str, Any]:
    """A message whose body is about `size` bytes when packed."""
    return {
        "type": "stress.message",
        "sender": sender,
        "number": number,
        "target": target,
        "text": "x" * max(0, size - 70),
    }


async def send_one(
    worker: Worker, sender: str, number: int, target: str, *, group: bool, size: int
) -> bool:
    """Send one message. Return True if it was not refused."""
    body = message(sender, number, target, size)
    with worker.recorder.sending(sender, number, target, group=group) as attempt:
        if group:
            await worker.layer.group_send(target, body)
        else:
            await worker.layer.send(target, body)
    return not attempt.refused


async def send_paced(
    worker: Worker,
    sender: str,
    target: str,
    rate: float,
    seconds: float,
    size: int,
    group: bool = False,
) -> int:
    """Send `rate` messages a second, at fixed times: a late one does not delay the next.

    At most one is under way at a time. After a send that takes longer than the interval, the
    next one follows at once. Return how many were not refused.
    """
    begin = time.monotonic()
    accepted = 0
    for number in range(max(1, round(rate * seconds))):
        wait = begin + number / rate - time.monotonic()
        if wait > 0:
            await asyncio.sleep(wait)
        accepted += await send_one(worker, sender, number, target, group=group, size=size)
    return accepted


async def send_now_and_then(
    worker: Worker, sender: str, targets: list[str], rate: float, seconds: float, size: int
) -> int:
    """Send about `rate` messages a second, each at a random moment to a random one of `targets`.

    The times are not fixed, because a message would then always meet another sender's interval at
    the same point. At least one is sent. Return how many were not refused.
    """
    end = time.monotonic() + seconds
    accepted = 0
    for number in count():
        await asyncio.sleep(random.uniform(0.5, 1.5) / rate)
        if number and time.monotonic() >= end:
            break
        target = random.choice(targets)
        accepted += await send_one(worker, sender, number, target, group=False, size=size)
    return accepted


async def send_flat_out(
    worker: Worker, sender: str, target: str, seconds: float, size: int, group: bool = False
) -> int:
    """Send one after the other without a pause, except for a moment after a refusal."""
    end = time.monotonic() + seconds
    accepted = 0
    for number in count():
        if time.monotonic() >= end:
            break
        if await send_one(worker, sender, number, target, group=group, size=size):
            accepted += 1
        else:
            await asyncio.sleep(0.001)
    return accepted


async def arrived(worker: Worker) -> int:
    return worker.arrived


def counts_of(layer: Any) -> dict[str, int]:
    """The layer's own counts; none for a layer that keeps none."""
    # Not getattr: channels_redis' pub/sub layer would look for the name in its loop's layer, and a
    # server asks on a thread without a loop.
    counters = vars(layer).get("counters")
    return {} if counters is None else dict(vars(counters))


async def write_ledger(worker: Worker) -> dict[str, Any]:
    """Put the ledger on disk, with the layer's own counts, for the harness to read."""
    counts = counts_of(worker.layer)
    for kind in (ledger.DROPPED, ledger.EXPIRED):
        if counts.get(kind):
            worker.recorder.note(kind, number=counts[kind])
    worker.recorder.write()
    return {"counters": counts, "errors": dict(worker.recorder.errors)}


async def disconnect(worker: Worker) -> None:
    """End all consumers, as if their sockets had closed."""
    for task in worker.consumers.values():
        task.cancel()
    await asyncio.gather(*worker.consumers.values(), return_exceptions=True)
    worker.consumers.clear()


async def migrate(worker: Worker) -> None:
    """Make the tables, as `manage.py migrate --database=channels` does."""
    from django.core.management import call_command
    from django.db import connections

    del worker

    def work() -> None:
        call_command("migrate", database="channels", verbosity=0)
        connections.close_all()  # this thread's; the last one closed empties the WAL

    await asyncio.to_thread(work)
