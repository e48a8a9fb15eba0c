"""The layer: Channels' rules and errors, and what it makes of CONFIG."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
import weakref
from contextvars import ContextVar
from unittest.mock import Mock

import pytest

from channels_sqlite._options import codec
from channels_sqlite._storing.schema import MESSAGE
from channels_sqlite.exceptions import InvalidOption, MessageTooLarge
from channels_sqlite.layers import IN_A_ROW, SqliteChannelLayer
from tests.conftest import OpenLayer
from tests.rows import select
from tests.waiting import cancel, members, soon, until_gone

MESSAGE_1 = {"type": "test.message", "number": 1}


# Making one


def test_a_wrong_option_is_refused_when_it_is_made() -> None:
    for key, value, words in (
        ("capacity", 0, "'capacity' is 0; allowed is .* from 1 to"),
        ("hosts", [], "'hosts'.*capacity"),
        ("serializer_format", "pickle", "'serializer_format'.*'pickle'.*msgpack"),
    ):
        with pytest.raises(InvalidOption, match=words):
            SqliteChannelLayer(**{key: value})


def test_making_one_opens_nothing_and_needs_no_database() -> None:
    """A test runner has not made it yet, nor chosen its name."""
    threads = threading.active_count()
    layer = SqliteChannelLayer(database="nowhere")
    assert threading.active_count() <= threads
    with pytest.raises(InvalidOption, match="'nowhere'"):
        asyncio.run(layer.send("test-channel", MESSAGE_1))


async def test_a_prefix_that_makes_no_valid_name_is_refused(layer: SqliteChannelLayer) -> None:
    for prefix in ("with space", "x" * 90, "a!b"):
        with pytest.raises(TypeError):
            await layer.new_channel(prefix)


# Sending and receiving


async def test_expiry_of_send_is_checked_as_that_of_config_is(layer: SqliteChannelLayer) -> None:
    for expiry in (0, -1, True, "5", 1e301, float("nan")):
        with pytest.raises(ValueError, match=r"expiry is .*; allowed is a number of seconds"):
            await layer.send("test-channel", MESSAGE_1, expiry=expiry)  # type: ignore[arg-type]


async def test_a_get_capacity_of_a_project_fails_where_it_is_wrong(
    layer: SqliteChannelLayer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And not in the sends of others, which go with it."""
    for capacity in (None, 2**63, "5"):
        monkeypatch.setattr(layer, "get_capacity", Mock(return_value=capacity))
        with pytest.raises(TypeError, match=r"get_capacity\('test-channel'\) is"):
            await layer.send("test-channel", MESSAGE_1)
    for unusual in (5.5, float("inf")):
        monkeypatch.setattr(layer, "get_capacity", Mock(return_value=unusual))
        await layer.send("test-channel", MESSAGE_1)


async def test_what_was_read_beside_the_sender_takes_up_no_room(open_layer: OpenLayer) -> None:
    """Though the table is told of it a moment later."""
    layer = open_layer(capacity=9)
    channel = await layer.new_channel()
    for _ in range(20):
        await layer.send(channel, MESSAGE_1)
        assert await soon(layer.receive(channel)) == MESSAGE_1
        await asyncio.gather(*[layer.send(channel, MESSAGE_1) for _ in range(9)])
        for _ in range(9):
            assert await soon(layer.receive(channel)) == MESSAGE_1
        await asyncio.sleep(0.06)
    assert layer.counters.refused == 0


async def test_a_message_that_no_row_can_hold_is_refused(
    layer: SqliteChannelLayer, others: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(codec, "LARGEST_BODY", 1000)
    (channel,) = await members(layer, 1)
    with pytest.raises(MessageTooLarge, match="1000"):
        await layer.send(channel, {"text": "x" * 1000})
    with pytest.raises(layer.MessageTooLarge):
        await layer.group_send("test-group", {"text": "x" * 1000})
    assert select(others, f"count(*) from {MESSAGE}") == [0]


async def test_a_member_may_change_its_message(layer: SqliteChannelLayer) -> None:
    """Each has one of its own, down to what is in it; a list in it: see test_specification.py."""
    inside = {"list": [1]}
    channels = await members(layer, 4)
    await layer.group_send("test-group", {"type": "test", "inside": inside})
    for channel in channels:
        got = await soon(layer.receive(channel))
        assert got == {"type": "test", "inside": inside}
        got["inside"].clear()
        got["added"] = "by a member"


async def test_the_serializer_is_that_of_config(
    open_layer: OpenLayer, others: sqlite3.Connection
) -> None:
    layer = open_layer(serializer_format="json")
    await layer.send("test-channel", {"type": "test", "text": "Grüße"})
    written = select(others, f"cast(body as text) from {MESSAGE}")
    assert written == ['{"type":"test","text":"Grüße"}']
    assert await soon(layer.receive("test-channel")) == {"type": "test", "text": "Grüße"}


async def test_a_task_that_only_receives_starves_nobody(layer: SqliteChannelLayer) -> None:
    for channel in ("test-channel", await layer.new_channel()):
        for _ in range(50):
            await layer.send(channel, MESSAGE_1)

        async def receive_all(channel: str = channel) -> None:
            for _ in range(50):
                await soon(layer.receive(channel))

        receiving, turns = asyncio.create_task(receive_all()), 0
        while not receiving.done():
            await asyncio.sleep(0)
            turns += 1
        assert turns >= 50 // IN_A_ROW


async def test_the_capacity_is_that_of_the_moment(
    layer: SqliteChannelLayer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For what a process sends, and for what it keeps."""
    await layer.group_add("test-group", "test-channel")
    await layer.group_send("test-group", MESSAGE_1)
    monkeypatch.setattr(layer, "get_capacity", lambda channel: 1)
    await layer.group_send("test-group", MESSAGE_1)
    assert layer.counters.dropped == 1


async def test_an_error_out_of_get_capacity_takes_no_message_from_others(
    layer: SqliteChannelLayer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A project may ask its database there."""
    channels = await members(layer, 5)
    await layer.group_send("test-group", MESSAGE_1)
    monkeypatch.setattr(layer._parts.receiver._queues, "_capacity_of", lambda channel: 1 / 0)
    for channel in channels:
        assert await soon(layer.receive(channel)) == MESSAGE_1
    assert "get_capacity" in caplog.text
    caplog.clear()


async def test_the_context_of_a_consumer_ends_with_it(layer: SqliteChannelLayer) -> None:
    """And not with the heartbeats that it has begun."""

    class Request:
        pass

    current: ContextVar[Request] = ContextVar("current")

    async def receive() -> weakref.ref[Request]:
        current.set(Request())
        await asyncio.gather(*[layer.send("test-channel", MESSAGE_1) for _ in range(3)])
        await layer.receive("test-channel")  # a timeout's timer would keep the context
        return weakref.ref(current.get())

    await soon(until_gone(await asyncio.create_task(receive())))


async def test_a_layer_that_was_closed_and_forgotten_is_gone(
    open_layer: OpenLayer, alias: str
) -> None:
    """A test suite makes one for each test."""
    layer = SqliteChannelLayer(database=alias)
    channel = await layer.new_channel()
    waiting = asyncio.create_task(layer.receive(channel))
    await asyncio.sleep(0.02)
    await cancel(waiting)
    await layer.send(channel, MESSAGE_1)
    await layer.close()
    gone = weakref.ref(layer)
    del layer, waiting
    await soon(until_gone(gone))
