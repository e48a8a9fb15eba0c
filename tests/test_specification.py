"""Channels' specification of a channel layer, as cases that run on our layer and on others'.

https://channels.readthedocs.io/en/stable/channel_layer_spec.html; many names are those of
channels_redis's own tests. A case that another layer fails is marked with the reason. Where a
message must *not* arrive, a later one is sent and has to be the next: that is exact, and nobody
waits for something that does not come.
"""

from __future__ import annotations

import asyncio
import random
import re
import threading
from functools import partial
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from channels.exceptions import ChannelFull

from tests import waiting
from tests.children import send
from tests.conftest import OpenLayer
from tests.kinds import everybody
from tests.rows import message
from tests.waiting import cancel, members, receive, rest, soon, threads, until

pytestmark = everybody

NO_SERIALISER = "it copies messages and does not serialise them"
ONE_PROCESS = "it knows no other process"
NO_PREFIX = "its names carry no mark of the process"


@pytest.fixture(autouse=True)
def short_patience_with_failures(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A case that is expected to fail need not hang for long."""
    if request.node.get_closest_marker("xfail"):
        monkeypatch.setattr(waiting, "PATIENCE", 1.0)


# Sending and receiving


async def test_send_receive(layer: Any) -> None:
    for channel in ("test-channel", await layer.new_channel()):
        for number in range(20):
            await layer.send(channel, message(number, text="Ahoy-hoy!"))
        for number in range(20):
            assert await receive(layer, channel) == message(number, text="Ahoy-hoy!")
        waiting = asyncio.create_task(layer.receive(channel))
        await asyncio.sleep(0.05)
        assert not waiting.done()
        await layer.send(channel, message(1))
        assert await soon(waiting) == message(1)


@pytest.mark.fails("memory", because=ONE_PROCESS)
async def test_send_receive__between_clients(open_layer: OpenLayer) -> None:
    sender, reader = open_layer(), open_layer()
    for channel in ("test-channel", await reader.new_channel()):
        await sender.send(channel, message(1))
        assert await receive(reader, channel) == message(1)
        waiting = asyncio.create_task(reader.receive(channel))
        await asyncio.sleep(0.05)
        await sender.send(channel, message(2))
        assert await soon(waiting) == message(2)


@pytest.mark.fails("redis", because="a reader puts back what others just took", strict=False)
async def test_a_normal_channel_gives_each_message_to_one_reader(open_layer: OpenLayer) -> None:
    """Two readers in each of two clients (in-memory: of one), 40 messages."""
    layer = open_layer()
    other = open_layer()
    got: list[int] = []

    async def read(layer: Any) -> None:
        while True:
            got.append((await layer.receive("test-channel"))["number"])

    readers = [asyncio.create_task(read(each)) for each in (layer, layer, other, other)]
    for number in range(40):
        await layer.send("test-channel", message(number))
        await asyncio.sleep(0)
    await until(lambda: len(got) >= 40)
    await asyncio.sleep(0.1)  # a double would come now
    await cancel(*readers)
    assert sorted(got) == [*range(40)]


@pytest.mark.fails("redis", because="it hands the same dict to all members in a process")
async def test_everyone_has_a_copy_of_its_own(layer: Any) -> None:
    channels = await members(layer, 2)
    sent = {"type": "test.message", "items": [1]}
    await layer.group_send("test-group", sent)
    sent["items"] = "changed by the sender"
    first = await receive(layer, channels[0])
    first["items"].append("changed by the first receiver")
    assert await receive(layer, channels[1]) == {"type": "test.message", "items": [1]}


async def test_message_of_a_megabyte_is_left_as_it_was(layer: Any) -> None:
    def large() -> dict[str, Any]:
        return {"type": "test.message", "text": "x" * 2**20, "items": [1, {"two": b"3"}]}

    (channel,), sent = await members(layer, 1), large()
    await layer.send(channel, sent)
    await layer.group_send("test-group", sent)
    assert sent == large()
    assert await receive(layer, channel) == large()
    assert await receive(layer, channel) == large()


# Types


TYPES: list[Any] = [
    *(b"\x00\xff bytes", "text, \N{SNOWMAN} and \N{GRINNING FACE}", "", True, False, None),
    *(2**63 - 1, -(2**63), 0, 1.5, -1e308, float("inf"), [], {}),
    [1, [2.0, ["3", [b"4", [None, {"five": {"six": [True]}}]]]]],
]


async def test_types(layer: Any) -> None:
    channel = await layer.new_channel()
    for value in TYPES:
        await layer.send(channel, {"type": "test.message", "value": value})
        got = (await receive(layer, channel))["value"]
        assert (got, type(got)) == (value, type(value))


@pytest.mark.fails("memory", because=NO_SERIALISER)
async def test_type__tuples_become_lists(layer: Any) -> None:
    await layer.send("test-channel", {"type": "test.message", "value": (1, (2, 3))})
    assert (await receive(layer, "test-channel"))["value"] == [1, [2, 3]]


@pytest.mark.fails("memory", because=NO_SERIALISER)
async def test_type__others_are_refused_when_sent(layer: Any) -> None:
    (channel,) = await members(layer, 1)
    for value in (object(), {1, 2}, 1j, 2**64):
        unserialisable = {"type": "test.message", "deep": [{"inside": value}]}
        for send_, to in ((layer.send, channel), (layer.group_send, "test-group")):
            with pytest.raises((TypeError, ValueError, OverflowError)):
                await send_(to, unserialisable)
    assert await rest(layer, channel) == []


NO_MESSAGES: list[Any] = [None, "text", b"bytes", [("type", "test.message")], 1]


async def test_message_must_be_a_dict(layer: Any) -> None:
    for wrong in NO_MESSAGES:
        with pytest.raises((AssertionError, TypeError)):
            await layer.send("test-channel", wrong)
    assert await rest(layer, "test-channel") == []


@pytest.mark.fails("redis", because="it looks into the message only when the group has members")
async def test_message_must_be_a_dict__group_send(layer: Any) -> None:
    for wrong in NO_MESSAGES:
        with pytest.raises((AssertionError, TypeError)):
            await layer.group_send("test-group", wrong)


# Names


BAD_NAMES: list[Any] = [
    *("", " ", "a b", "=+135", "a/b", "a:b", "a;--", "a'b", 'a"b', "a%b", "a*", "a\x00b"),
    *("caf\xe9", "a\n!b", "x" * 100, None, 1, b"bytes", ["list"]),
]


async def test_reject_bad_channel_and_group(layer: Any) -> None:
    for name in [*BAD_NAMES, "!", "!a", "a!b!c", "=+135!"]:
        for refused in (
            layer.send(name, message(1)),
            layer.receive(name),
            layer.group_add("test-group", name),
            layer.group_discard("test-group", name),
        ):
            with pytest.raises(TypeError):
                await refused
    channel = await layer.new_channel()
    for group in [*BAD_NAMES, "group!local"]:
        for refused in (
            layer.group_add(group, channel),
            layer.group_discard(group, channel),
            layer.group_send(group, message(1)),
        ):
            with pytest.raises(TypeError):
                await refused


async def test_longest_names_and_those_in_any_script(layer: Any) -> None:
    """Channels' digits are those of Unicode, and its pattern lets a line end be the last."""
    three = "test-\u0663"
    local = await layer.new_channel(three)
    for channel in ("c" * 99, three, local, f"{three}\n", f"{local}\n"):
        for group in ("g" * 99, three):
            await layer.group_add(group, channel)
            await layer.group_send(group, message(1))
            assert await receive(layer, channel) == message(1)
            await layer.group_discard(group, channel)


@pytest.mark.fails("memory", because=NO_PREFIX)
async def test_reject_bad_client_prefix(open_layer: OpenLayer) -> None:
    """Two readers of one process-local channel would take each other's messages."""
    layer, other = open_layer(), open_layer()
    with pytest.raises((AssertionError, TypeError, ValueError)):
        await soon(layer.receive(await other.new_channel()))
    with pytest.raises((AssertionError, TypeError, ValueError)):
        await soon(layer.receive("not-client-prefix!local-part"))


async def test_new_channel(layer: Any) -> None:
    names = [await layer.new_channel() for _ in range(100)]
    assert len(set(names)) == 100
    for name in names:
        assert layer.require_valid_channel_name(name)
        assert re.fullmatch(r"specific[^!]*![^!]+", name)
    assert (await layer.new_channel(prefix="chat.room-1")).startswith("chat.room-1")


@pytest.mark.fails("memory", because="its names come from the random module's shared generator")
async def test_random_reset__client_prefix(open_layer: OpenLayer) -> None:
    """A program that seeds the random module gets other names all the same."""
    names = []
    state = random.getstate()
    for _ in range(2):
        random.seed(1)
        names.append(await open_layer().new_channel())
    random.setstate(state)
    assert len(set(names)) == 2
    assert len({name.split("!")[0] for name in names}) == 2


async def test_extensions(layer: Any) -> None:
    assert layer.extensions == ["groups", "flush"]
    assert layer.group_expiry == 86400


# Capacity


async def test_send_capacity(open_layer: OpenLayer) -> None:
    layer = open_layer(capacity=3)
    for number in range(3):
        await layer.send("test-channel", message(number))
    with pytest.raises(ChannelFull):
        await layer.send("test-channel", message(3))
    assert await receive(layer, "test-channel") == message(0)
    await layer.send("test-channel", message(4))
    got = [await receive(layer, "test-channel") for _ in range(3)]
    assert got == [message(1), message(2), message(4)]


@pytest.mark.fails("memory", because="its channel_capacity raises ValueError")
async def test_send_specific_capacity(open_layer: OpenLayer) -> None:
    """That of the first pattern that fits."""
    patterns = {"one": 1, "two.*": 2, "two.a": 9, re.compile(r"four\d$"): 4}
    layer = open_layer(capacity=3, channel_capacity=patterns)
    for channel, capacity in (("one", 1), ("two.a", 2), ("three", 3), ("four4", 4), ("four", 3)):
        for number in range(capacity):
            await layer.send(channel, message(number))
        with pytest.raises(ChannelFull):
            await layer.send(channel, message(capacity))


@pytest.mark.fails("redis", because="it counts first and writes afterwards", strict=False)
async def test_send_capacity__of_sends_at_once(open_layer: OpenLayer) -> None:
    layer = open_layer(capacity=5)
    sends = (layer.send("test-channel", message(number)) for number in range(20))
    outcomes = await asyncio.gather(*sends, return_exceptions=True)
    assert outcomes.count(None) == 5
    assert sum(isinstance(outcome, ChannelFull) for outcome in outcomes) == 15
    for _ in range(5):
        await receive(layer, "test-channel")
    assert await rest(layer, "test-channel") == []


@pytest.mark.fails("memory", because="each of its channels has a queue of its own")
async def test_capacity_is_shared_by_process_local_channels(open_layer: OpenLayer) -> None:
    layer = open_layer(capacity=3)
    channels = [await layer.new_channel() for _ in range(4)]
    for channel in channels[:3]:
        await layer.send(channel, message(1))
    with pytest.raises(ChannelFull):
        await layer.send(channels[3], message(1))


@pytest.mark.fails("memory", because="a full queue refuses the newest message")
async def test_receive_buffer_respects_capacity(open_layer: OpenLayer) -> None:
    """A consumer that does not read loses its oldest messages, and harms nobody else."""
    layer = open_layer(capacity=3)
    stuck, quick = await layer.new_channel(), await layer.new_channel()
    waiting = asyncio.create_task(layer.receive(quick))
    for number in range(8):
        await soon(send(layer, stuck, message(number)))
        await soon(send(layer, quick, message(number)))
        assert await soon(waiting) == message(number)
        waiting = asyncio.create_task(layer.receive(quick))
    await cancel(waiting)
    assert [await receive(layer, stuck) for _ in range(3)] == [message(5), message(6), message(7)]


async def test_groups_channel_full(open_layer: OpenLayer) -> None:
    """group_send drops what has no room, for that channel only, and never raises ChannelFull."""
    layer = open_layer(capacity=2)
    await layer.group_add("test-group", "full")
    await layer.group_add("test-group", "free")
    await layer.send("full", message(1))
    await layer.send("full", message(2))
    await layer.group_send("test-group", message(3))
    assert await receive(layer, "free") == message(3)
    assert [await receive(layer, "full") for _ in range(2)] == [message(1), message(2)]
    assert await rest(layer, "full") == []


async def test_group_of_more_members_than_the_capacity(open_layer: OpenLayer) -> None:
    layer = open_layer(capacity=5)
    channels = await members(layer, 100)
    await layer.group_send("test-group", message(1))
    for channel in channels:
        assert await receive(layer, channel) == message(1)


# Groups


async def test_groups_basic(layer: Any) -> None:
    """Of several members in one process each gets its message."""
    for local in (True, False):
        channels = [await layer.new_channel("test") if local else each for each in ("a", "b", "c")]
        for channel in channels:
            await layer.group_add("test-group", channel)
        await layer.group_discard("test-group", channels[1])
        await layer.group_send("test-group", message(1))
        got = [await rest(layer, channel) for channel in channels]
        assert got == [[message(1)], [], [message(1)]]


@pytest.mark.fails("memory", because=ONE_PROCESS)
async def test_groups_basic__between_clients(open_layer: OpenLayer) -> None:
    layers = [open_layer() for _ in range(3)]
    readers = [(layer, channel) for layer in layers for channel in await members(layer, 2)]
    waiting = [asyncio.create_task(layer.receive(channel)) for layer, channel in readers]
    await layers[0].group_send("test-group", message(1))
    assert await soon(asyncio.gather(*waiting)) == [message(1)] * 6
    for layer, channel in readers:
        assert await rest(layer, channel) == []


async def test_group_add_and_discard_twice(layer: Any) -> None:
    """And discard before add."""
    channel = await layer.new_channel()
    await layer.group_discard("test-group", channel)
    for _ in range(2):
        await layer.group_add("test-group", channel)
    await layer.group_send("test-group", message(1))
    assert await rest(layer, channel) == [message(1)]
    for _ in range(2):
        await layer.group_discard("test-group", channel)
    await layer.group_send("test-group", message(2))
    assert await rest(layer, channel) == []


async def test_group_add_later_gets_only_later_messages(layer: Any) -> None:
    (early,) = await members(layer, 1)
    await layer.group_send("test-group", message(1))
    (late,) = await members(layer, 1)
    await layer.group_send("test-group", message(2))
    assert await rest(layer, late) == [message(2)]
    assert await rest(layer, early) == [message(1), message(2)]


async def test_a_channel_in_two_groups(layer: Any) -> None:
    channel = await layer.new_channel()
    await layer.group_add("one", channel)
    await layer.group_add("two", channel)
    await layer.group_send("one", message(1))
    await layer.group_send("two", message(2))
    await layer.group_discard("one", channel)
    await layer.group_send("one", message(3))
    await layer.group_send("two-2", message(3))
    await layer.group_send("two", message(4))
    assert await rest(layer, channel) == [message(1), message(2), message(4)]


async def test_group_and_direct_messages_keep_their_order(layer: Any) -> None:
    channels = await members(layer, 2)
    for number in range(0, 30, 3):
        await layer.send(channels[0], message(number))
        await layer.group_send("test-group", message(number + 1))
        await layer.send(channels[1], message(number + 2))
    assert [got["number"] % 3 for got in await rest(layer, channels[0])] == [0, 1] * 10
    assert [got["number"] % 3 for got in await rest(layer, channels[1])] == [1, 2] * 10


# Flush


async def test_flush(layer: Any) -> None:
    local = await layer.new_channel()
    for channel in ("test-channel", local):
        await layer.group_add("test-group", channel)
        await layer.send(channel, message(1))
    await layer.group_send("test-group", message(2))
    await layer.flush()
    await layer.group_send("test-group", message(3))
    assert await rest(layer, "test-channel") == []
    assert await rest(layer, local) == []


@pytest.mark.fails("memory", because="a receiver keeps waiting on the queue that flush threw away")
@pytest.mark.fails("redis", because="flush closes the connection under its receivers")
async def test_flush__receivers_go_on_waiting(layer: Any) -> None:
    channels = ["test-channel", await layer.new_channel()]
    waiting = [asyncio.create_task(layer.receive(channel)) for channel in channels]
    await asyncio.sleep(0.05)
    await layer.flush()
    for channel in channels:
        await layer.send(channel, message(1))
    assert await soon(asyncio.gather(*waiting)) == [message(1), message(1)]


@pytest.mark.fails("memory", because=ONE_PROCESS)
@pytest.mark.fails("redis", because="other clients keep what they had taken into their buffers")
async def test_flush__empties_other_clients(open_layer: OpenLayer) -> None:
    layer, other = open_layer(), open_layer()
    buffered, read = await other.new_channel(), await other.new_channel()
    await layer.send(buffered, message(1))
    await layer.send(read, message(2))
    assert await receive(other, read) == message(2)  # and took message 1 into its buffer
    await layer.flush()
    assert await rest(other, buffered) == []


# Expiry


@pytest.fixture
def brief(kind: str) -> float:
    """An expiry to configure, which is surely over after twice the time."""
    return 1 if kind == "redis" else 0.5  # whole seconds there


@pytest.mark.fails("redis", because="what it has taken into its buffers does not expire")
async def test_message_expiry__in_a_buffer(open_layer: OpenLayer, brief: float) -> None:
    """A message that a process has taken for a consumer that does not read expires as well."""
    layer = open_layer(expiry=brief)
    slow, quick = await layer.new_channel(), await layer.new_channel()
    await layer.send(slow, message(1))
    await layer.send(quick, message(2))
    assert await receive(layer, quick) == message(2)
    await asyncio.sleep(2.1 * brief)
    assert await rest(layer, slow) == []


@pytest.mark.fails("memory", because="a send does not look for expired messages")
async def test_message_expiry__frees_capacity(open_layer: OpenLayer, brief: float) -> None:
    layer = open_layer(expiry=brief, capacity=2)
    channel = await layer.new_channel()
    for number in range(2):
        await layer.send(channel, message(number))
    with pytest.raises(ChannelFull):
        await layer.send(channel, message(2))
    await asyncio.sleep(2.1 * brief)
    await layer.send(channel, message(3))
    assert await receive(layer, channel) == message(3)


@pytest.mark.fails("memory", because="a channel that lets a message expire leaves its groups")
async def test_message_expiry__members_stay(open_layer: OpenLayer, brief: float) -> None:
    """A layer may drop them, says the specification. A consumer that was busy for long would then
    hear nothing any more, and not know it.
    """
    layer = open_layer(expiry=brief)
    channels = ("test-channel", await layer.new_channel())
    for channel in channels:
        await layer.group_add("test-group", channel)
        await layer.send(channel, message(1))
    await layer.group_send("test-group", message(2))
    await asyncio.sleep(2.1 * brief)
    await layer.group_send("test-group", message(3))
    for channel in channels:
        assert await rest(layer, channel) == [message(3)]


async def test_group_expiry__counts_from_the_latest_group_add(
    open_layer: OpenLayer, kind: str
) -> None:
    layer = open_layer(group_expiry=1)
    (channel,) = await members(layer, 1)
    await asyncio.sleep(0.6)
    await layer.group_add("test-group", channel)
    await asyncio.sleep(0.6)
    await layer.group_send("test-group", message(1))
    assert await rest(layer, channel) == [message(1)]
    await asyncio.sleep(1.6 if kind in ("memory", "redis") else 0.5)  # whole seconds there
    await layer.group_send("test-group", message(2))
    assert await rest(layer, channel) == []


async def test_receive_cancel(layer: Any) -> None:
    """The others go on: the one who is cancelled may have been the one who read for all."""
    channels = ["test-channel", *[await layer.new_channel() for _ in range(4)]]
    for turn in range(5):
        waiting = [asyncio.create_task(layer.receive(channel)) for channel in channels]
        await asyncio.sleep(0.01)
        await cancel(waiting.pop(turn))
        for channel in channels:
            await layer.send(channel, message(turn))
        assert await soon(asyncio.gather(*waiting)) == [message(turn)] * 4
        assert await receive(layer, channels[turn]) == message(turn)


# Event loops


def test_double_receive(open_layer: OpenLayer) -> None:
    """Each sent from an event loop of its own, as a synchronous view does it, and so received.

    Nothing comes twice, and what one loop has read for another channel is there for the next.
    """
    layer = open_layer()
    channels = ["test-channel", *(async_to_sync(layer.new_channel)() for _ in range(2))]
    for number in range(10):
        for channel in channels:
            async_to_sync(layer.send)(channel, message(number))
    for channel in reversed(channels):
        got = [async_to_sync(receive)(layer, channel) for _ in range(10)]
        assert got == [*map(message, range(10))]


@pytest.mark.fails("redis", because="one loop at a time may receive on it")
@pytest.mark.fails("memory", because="a wake from another loop is luck", strict=False)
def test_double_receive__at_once(open_layer: OpenLayer) -> None:
    """Two event loops in two threads receive at once."""
    layer = open_layer()
    channels = [async_to_sync(layer.new_channel)() for _ in range(2)]
    got: dict[str, list[int]] = {channel: [] for channel in channels}
    listening = threading.Barrier(3)

    async def listen(channel: str) -> None:
        first = asyncio.create_task(layer.receive(channel))
        await asyncio.sleep(0.05)
        await asyncio.to_thread(listening.wait, waiting.PATIENCE)
        got[channel].append((await soon(first))["number"])
        for _ in range(9):
            got[channel].append((await receive(layer, channel))["number"])

    with threads(*[partial(asyncio.run, listen(channel)) for channel in channels]):
        listening.wait(waiting.PATIENCE)
        for number in range(10):
            for channel in channels:
                async_to_sync(layer.send)(channel, message(number))
    assert [got[channel] for channel in channels] == [[*range(10)], [*range(10)]]
