"""A cancelled receive loses nothing and doubles nothing; a cancelled send is sent whole, or not."""

from __future__ import annotations

import asyncio
import random
from functools import partial
from pathlib import Path
from typing import Any

from tests.conftest import OpenLayer, Start
from tests.faults.peers import Peer
from tests.kinds import by_default, ours
from tests.rows import message
from tests.storing.parts import locked
from tests.waiting import cancel, rest, soon, until


async def numbers(layer: Any, channel: str) -> list[int]:
    """The numbers of the messages that still wait in the channel."""
    return [each["number"] for each in await rest(layer, channel)]


async def receive_or_give_up(layer: Any, channel: str, got: list[int]) -> bool:
    """Receive one message, and cancel that at a random moment; whether it came."""
    receiving = asyncio.create_task(layer.receive(channel))
    await asyncio.sleep(random.choice([0, 0, random.uniform(0, 0.003)]))
    for _ in range(random.randrange(4)):
        await asyncio.sleep(0)
    receiving.cancel()
    try:
        got.append((await receiving)["number"])
    except asyncio.CancelledError:
        return False
    return True


@ours
async def test_200_receives_are_cancelled(layer: Any, channel: str) -> None:
    """At random moments, while messages flow: all arrive, once and in order."""
    sent: list[int] = []
    got: list[int] = []

    async def keep_sending() -> None:
        while True:
            if len(sent) - len(got) < 50:
                await layer.send(channel, message(len(sent)))
                sent.append(len(sent))
            await asyncio.sleep(random.uniform(0, 0.002))

    sending = asyncio.create_task(keep_sending())
    cancelled = 0
    while cancelled < 200:
        cancelled += not await receive_or_give_up(layer, channel, got)
    await cancel(sending)
    got += await numbers(layer, channel)
    assert got[: len(sent)] == sent
    assert len(got) - len(sent) in (0, 1)  # of a cancelled send nobody knows


@ours
async def test_a_receive_is_cancelled_at_every_turn(layer: Any, channel: str) -> None:
    """Of the event loop, from its first one on until it has long ended; a message is on its way."""
    got: list[int] = []
    for turns in range(60):
        receiving = asyncio.create_task(layer.receive(channel))
        sending = asyncio.create_task(layer.send(channel, message(turns)))
        for _ in range(turns):
            await asyncio.sleep(0)
        await cancel(receiving)
        await soon(sending)
        if not receiving.cancelled():
            got.append(receiving.result()["number"])
    assert got + await numbers(layer, channel) == [*range(60)]


@by_default
async def test_receives_are_cancelled_while_another_process_sends(
    layer: Any, channel: str, start: Start
) -> None:
    many = [*range(100)]  # as many as a slow consumer's buffer holds
    writer = Peer(start)
    writer.begin("send_all", channel, many)
    got: list[int] = []

    async def keep_receiving() -> None:
        while len(got) < len(many):
            await receive_or_give_up(layer, channel, got)

    await soon(keep_receiving())
    assert got == many
    assert await asyncio.to_thread(writer.result) == many
    assert await numbers(layer, channel) == []


@ours
async def test_what_was_claimed_for_a_consumer_that_is_gone_goes_to_another_process(
    open_layer: OpenLayer,
) -> None:
    """One client gives up, often with its claim in flight, and never comes back to that channel."""
    fickle, steady = open_layer(), open_layer()
    for number in range(60):
        channel = f"work-{number}"
        giving_up = asyncio.create_task(fickle.receive(channel))
        await asyncio.sleep(0.002)
        await steady.send(channel, message(number))
        for _ in range(random.randrange(5)):
            await asyncio.sleep(0)
        await cancel(giving_up)
        if giving_up.cancelled():
            assert await soon(steady.receive(channel)) == message(number)
        else:
            assert giving_up.result() == message(number)


@ours
async def test_the_one_who_is_told_is_cancelled_at_once(layer: Any) -> None:
    """Ten wait, one message comes, the first one is cancelled in the same turn of the loop."""
    for channel in (await layer.new_channel(), "test-channel"):
        for number in range(20):
            waiting = [asyncio.create_task(layer.receive(channel)) for _ in range(10)]
            await asyncio.sleep(0.005)
            await layer.send(channel, message(number))
            waiting[0].cancel()
            await until(partial(results, waiting))
            await cancel(*waiting)
            assert results(waiting) == [message(number)]


def results(tasks: list[asyncio.Task[Any]]) -> list[Any]:
    return [task.result() for task in tasks if task.done() and not task.cancelled()]


async def test_cancelled_writes_hold_no_lock(layer: Any, database: Path) -> None:
    """A cancelled await does not stop SQLite; what it began ends, and others can write."""
    channel = await layer.new_channel()
    await layer.group_add("test-group", channel)
    for number in range(100):
        writes = [
            layer.send(channel, message(number)),
            layer.group_send("test-group", message(number)),
            layer.group_add("test-group", channel),
            layer.group_discard("other", channel),
            layer.flush(),
        ]
        tasks = [asyncio.create_task(write) for write in writes]
        await asyncio.sleep(random.uniform(0, 0.002))
        await cancel(*tasks)
    with locked(database):  # nobody waits for that
        pass
    await layer.flush()
    await layer.send(channel, message(1))
    assert await numbers(layer, channel) == [1]


async def test_sends_are_cancelled_while_others_hold_the_lock(layer: Any, database: Path) -> None:
    """The loop goes on meanwhile; afterwards the message is there whole, or not at all."""
    channel = await layer.new_channel()
    await layer.send(channel, message(0))
    with locked(database):
        sends = [asyncio.create_task(layer.send(channel, message(each))) for each in (1, 2, 3)]
        await asyncio.sleep(0.1)
        for send in sends:
            send.cancel()
    await soon(asyncio.wait(sends))
    assert (await numbers(layer, channel))[:1] == [0]
    await layer.send(channel, message(4))
    assert await numbers(layer, channel) == [4]


@ours
async def test_the_first_use_is_cancelled(layer: Any) -> None:
    """Others who wait for the same opening are not cancelled with it."""
    channel = await layer.new_channel()
    first = asyncio.create_task(layer.receive(channel))
    others = [asyncio.create_task(layer.send(channel, message(number))) for number in range(3)]
    await asyncio.sleep(0)
    first.cancel()
    await soon(asyncio.gather(*others))
    await soon(asyncio.wait([first]))
    assert first.cancelled()
    assert await numbers(layer, channel) == [0, 1, 2]
