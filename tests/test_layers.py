"""The layer: Channels' rules and errors, and what it makes of CONFIG."""

from __future__ import annotations

import asyncio
import copy
import gc
import re
import sqlite3
import threading
import time
import weakref
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from channels.exceptions import ChannelFull
from channels.layers import BaseChannelLayer, channel_layers, get_channel_layer
from django.test import override_settings

from channels_sqlite._storing import sql as store
from channels_sqlite._storing.schema import MEMBERSHIP, MESSAGE
from channels_sqlite.exceptions import (
    ForeignChannel,
    InvalidOption,
    MessageTooLarge,
    NotMigrated,
)
from channels_sqlite.layers import SqliteChannelLayer
from tests.rows import select
from tests.waiting import cancel, soon, until

Open = Callable[..., SqliteChannelLayer]
MESSAGE_1 = {"type": "test.message", "number": 1}


@pytest.fixture
async def open_(alias: str) -> AsyncIterator[Open]:
    """Opens layers on the test's file, and closes them."""
    layers: list[SqliteChannelLayer] = []

    def make(**config: Any) -> SqliteChannelLayer:
        config = {"database": alias, "watcher": "polling", "polling_interval": 0.01, **config}
        layers.append(SqliteChannelLayer(**config))
        return layers[-1]

    yield make
    for layer in layers:
        await layer.close()


@pytest.fixture
def layer(open_: Open) -> SqliteChannelLayer:
    return open_()


def look(database: Path, what: str) -> list[Any]:
    with closing(sqlite3.connect(database)) as connection:
        return select(connection, what)


# Making one


def test_it_is_a_channel_layer_with_groups_and_flush() -> None:
    layer = SqliteChannelLayer()
    assert isinstance(layer, BaseChannelLayer)
    assert layer.extensions == ["groups", "flush"]
    assert layer.ChannelFull is ChannelFull
    assert issubclass(layer.MessageTooLarge, Exception)


def test_channels_makes_it_from_its_settings(alias: str) -> None:
    config = {"database": alias, "capacity": 7, "expiry": 8, "group_expiry": 9}
    entry = {"BACKEND": "channels_sqlite.layers.SqliteChannelLayer", "CONFIG": config}
    with override_settings(CHANNEL_LAYERS={"default": entry}):
        layer = get_channel_layer()
        assert isinstance(layer, SqliteChannelLayer)
        assert (layer.capacity, layer.expiry, layer.group_expiry) == (7, 8, 9)
        assert channel_layers["default"] is layer


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"capacity": 0}, ["'capacity'", "0", "1 or more"]),
        ({"hosts": []}, ["'hosts'", "capacity"]),
        ({"serializer_format": "pickle"}, ["'serializer_format'", "'pickle'", "msgpack"]),
    ],
    ids=["wrong", "unknown", "unregistered"],
)
def test_a_wrong_option_is_refused_when_it_is_made(
    config: dict[str, Any], words: list[str]
) -> None:
    with pytest.raises(InvalidOption) as refused:
        SqliteChannelLayer(**config)
    assert all(word in str(refused.value) for word in words)


def test_making_one_opens_nothing_and_needs_no_database() -> None:
    """A test runner has not made it yet, nor chosen its name."""
    threads = threading.active_count()
    layer = SqliteChannelLayer(database="nowhere")
    assert threading.active_count() <= threads
    with pytest.raises(InvalidOption, match="'nowhere'"):
        asyncio.run(layer.send("test-channel", MESSAGE_1))


def test_tables_that_are_missing_are_named_with_the_command(alias: str, database: Path) -> None:
    database.write_bytes(b"")
    layer = SqliteChannelLayer(database=alias)
    with pytest.raises(NotMigrated, match=f"migrate --database={alias}"):
        asyncio.run(layer.receive("test-channel"))


def test_capacity_is_that_of_the_first_pattern_that_fits() -> None:
    layer = SqliteChannelLayer(
        capacity=10,
        channel_capacity={"http.request": 1, "http*": 2, re.compile(r"^websocket\.send!.+"): 3},
    )
    names = ("http.request", "http.response", "websocket.send!x", "websocket.send")
    assert [layer.get_capacity(name) for name in names] == [1, 2, 3, 10]


# Names


async def test_a_new_channel_is_nobody_elses(open_: Open) -> None:
    one, other = open_(), open_()
    names = [await layer.new_channel() for layer in (one, other) for _ in range(100)]
    assert len(set(names)) == 200
    assert len({name.split("!")[0] for name in names}) == 2


async def test_a_new_channel_bears_its_prefix(layer: SqliteChannelLayer) -> None:
    assert (await layer.new_channel()).startswith("specific.")
    assert (await layer.new_channel("http.response")).startswith("http.response.")


async def test_a_prefix_that_makes_no_valid_name_is_refused(layer: SqliteChannelLayer) -> None:
    for prefix in ("with space", "x" * 90, "a!b"):
        with pytest.raises(TypeError):
            await layer.new_channel(prefix)


async def test_only_the_layer_that_made_a_channel_receives_on_it(open_: Open) -> None:
    """Two readers of one inbox would both get everything."""
    one, other = open_(), open_()
    with pytest.raises(ForeignChannel, match="new_channel"):
        await other.receive(await one.new_channel())
    with pytest.raises(ForeignChannel):
        await one.receive("specific.somebody!else")


# Sending and receiving


async def test_layers_of_one_process_talk_through_the_file(open_: Open) -> None:
    one, other = open_(), open_()
    channel = await other.new_channel()
    for name in (channel, "test-channel"):
        waiting = asyncio.create_task(other.receive(name))
        await asyncio.sleep(0.02)
        await one.send(name, MESSAGE_1)
        assert await soon(waiting) == MESSAGE_1


async def test_a_full_channel_says_how_full_it_is(open_: Open) -> None:
    layer = open_(capacity=2)
    for _ in range(2):
        await layer.send("test-channel", MESSAGE_1)
    with pytest.raises(ChannelFull, match="test-channel has 2 messages waiting"):
        await layer.send("test-channel", MESSAGE_1)
    assert (layer.counters.sent, layer.counters.refused) == (2, 1)


async def test_what_was_read_beside_the_sender_takes_up_no_room(open_: Open) -> None:
    """Though the table is told of it a moment later."""
    layer = open_(capacity=9)
    channel = await layer.new_channel()
    for _ in range(20):
        await layer.send(channel, MESSAGE_1)
        assert await soon(layer.receive(channel)) == MESSAGE_1
        await asyncio.gather(*[layer.send(channel, MESSAGE_1) for _ in range(9)])
        for _ in range(9):
            assert await soon(layer.receive(channel)) == MESSAGE_1
        await asyncio.sleep(0.06)
    assert layer.counters.refused == 0


async def test_process_local_channels_share_the_room_of_their_process(open_: Open) -> None:
    layer = open_(capacity=2)
    first, second, third = [await layer.new_channel() for _ in range(3)]
    await layer.send(first, MESSAGE_1)
    await layer.send(second, MESSAGE_1)
    with pytest.raises(ChannelFull):
        await layer.send(third, MESSAGE_1)
    await layer.send(await layer.new_channel("another"), MESSAGE_1)


async def test_a_message_lives_as_long_as_the_layer_says_or_its_sender(
    open_: Open, database: Path
) -> None:
    layer = open_(expiry=50)
    await layer.send("test-channel", MESSAGE_1)
    await layer.send("test-channel", MESSAGE_1, expiry=0.5)
    await layer.group_add("test-group", "test-channel")
    await layer.group_send("test-group", MESSAGE_1)
    lives = look(database, f"expires_at - created_at from {MESSAGE} order by id")
    assert lives == [pytest.approx(50, abs=1), pytest.approx(0.5, abs=1), pytest.approx(50, abs=1)]
    assert lives[1] < 1


async def test_a_membership_lasts_as_long_as_the_layer_says(open_: Open, database: Path) -> None:
    layer = open_(group_expiry=1000)
    await layer.group_add("test-group", "test-channel")
    (expires_at,) = look(database, f"expires_at from {MEMBERSHIP}")
    assert expires_at == pytest.approx(time.time() + 1000, abs=60)


async def test_a_message_that_no_row_can_hold_is_refused(
    layer: SqliteChannelLayer, database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "LARGEST_BODY", 1000)
    channel = await layer.new_channel()
    await layer.group_add("test-group", channel)
    with pytest.raises(MessageTooLarge, match="1000"):
        await layer.send(channel, {"text": "x" * 1000})
    with pytest.raises(layer.MessageTooLarge):
        await layer.group_send("test-group", {"text": "x" * 1000})
    assert look(database, f"count(*) from {MESSAGE}") == [0]


async def test_a_message_is_refused_before_its_group_is_looked_up(
    layer: SqliteChannelLayer,
) -> None:
    """Also where nobody is in it, who would have got it."""
    with pytest.raises(TypeError, match=r"message\['deep'\]\[0\]"):
        await layer.group_send("nobody", {"deep": [object()]})


@pytest.mark.parametrize(
    "message",
    [
        {
            "type": "test",
            "text": "Hi",
            "number": 1,
            "half": 0.5,
            "blob": b"x",
            "is": True,
            "no": None,
        },
        {"type": "test", "list": [1, 2]},
        {"type": "test", "dict": {"list": [1]}},
    ],
    ids=["flat", "a list", "a dict"],
)
@pytest.mark.parametrize(
    "config", [{}, {"symmetric_encryption_keys": ["key"]}], ids=["plain", "encrypted"]
)
async def test_a_member_may_change_its_message(
    open_: Open, message: dict[str, Any], config: dict[str, Any]
) -> None:
    """Each has one of its own, down to what is in it."""
    if config:
        pytest.importorskip("cryptography", reason="no cryptography here")
    layer = open_(**config)
    channels = [await layer.new_channel() for _ in range(4)]
    for channel in channels:
        await layer.group_add("test-group", channel)
    await layer.group_send("test-group", message)
    expected = copy.deepcopy(message)
    for channel in channels:
        got = await soon(layer.receive(channel))
        assert got == expected
        for value in got.values():
            if isinstance(value, (dict, list)):
                value.clear()
        got["added"] = "by a member"


@pytest.mark.parametrize("name", [["test-channel"], {}, b"test-channel", 1, None])
async def test_a_name_that_is_no_string(open_: Open, name: Any) -> None:
    """Also where it has no hash, by which names are remembered."""
    layer = open_()
    for use in (layer.send(name, MESSAGE_1), layer.receive(name), layer.group_add("group", name)):
        with pytest.raises(TypeError, match="Channel name must be a valid unicode string"):
            await soon(use)


async def test_the_serializer_is_that_of_config(open_: Open, database: Path) -> None:
    layer = open_(serializer_format="json")
    await layer.send("test-channel", {"type": "test", "text": "Grüße"})
    assert look(database, f"cast(body as text) from {MESSAGE}") == [
        '{"type":"test","text":"Grüße"}'
    ]
    assert await soon(layer.receive("test-channel")) == {"type": "test", "text": "Grüße"}


async def test_encrypted_messages_are_received(open_: Open, database: Path) -> None:
    """Direct ones, and those to a group, whose rows are read by many."""
    pytest.importorskip("cryptography", reason="no cryptography here")
    sender, reader = [open_(symmetric_encryption_keys=["key"]) for _ in range(2)]
    channels = [await reader.new_channel() for _ in range(2)]
    for channel in channels:
        await reader.group_add("test-group", channel)
    await sender.group_send("test-group", MESSAGE_1)
    await sender.send(channels[0], MESSAGE_1)
    await sender.send("test-channel", MESSAGE_1)
    for channel in (*channels, channels[0], "test-channel"):
        assert await soon(reader.receive(channel)) == MESSAGE_1
    assert not any(b"number" in body for body in look(database, f"body from {MESSAGE}"))


# Counting


async def test_each_layer_counts_its_own(open_: Open) -> None:
    sender, reader = open_(), open_()
    channels = [await reader.new_channel() for _ in range(3)]
    for channel in channels:
        await reader.group_add("test-group", channel)
    await sender.group_send("test-group", MESSAGE_1)
    for channel in channels:
        await soon(reader.receive(channel))
    await sender.send("test-channel", MESSAGE_1)
    await soon(reader.receive("test-channel"))
    assert reader.counters.received == 4
    assert reader.counters.sent == 0
    assert sender.counters.received == 0


# Flushing


async def test_flush_is_for_all_layers_on_the_file(open_: Open, database: Path) -> None:
    one, other = open_(), open_()
    channel = await other.new_channel()
    waiting = asyncio.create_task(other.receive(channel))
    await asyncio.sleep(0.02)
    await other.group_add("test-group", channel)
    await one.send("test-channel", MESSAGE_1)
    await one.flush()
    await one.group_send("test-group", MESSAGE_1)
    assert look(database, f"count(*) from {MESSAGE}") == [0]
    await one.send(channel, {"type": "after"})
    assert await soon(waiting) == {"type": "after"}


# Closing


async def test_closing_is_idempotent_and_the_layer_goes_on_afterwards(open_: Open) -> None:
    layer = open_()
    await layer.close()
    channel = await layer.new_channel()
    for _ in range(3):
        await layer.send(channel, MESSAGE_1)
        assert await soon(layer.receive(channel)) == MESSAGE_1
        await layer.close()
        await layer.close()


async def test_a_layer_that_was_closed_and_forgotten_is_gone(open_: Open, alias: str) -> None:
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

    def is_gone() -> bool:
        gc.collect()
        return gone() is None

    await until(is_gone)
