"""The wall clock jumps: nothing comes twice, nobody stalls, nothing lives for ever."""

from __future__ import annotations

import asyncio
import time

import pytest
from asgiref.sync import async_to_sync

from channels_sqlite._storing.schema import MEMBERSHIP
from tests.conftest import OpenLayer, SetTimes
from tests.kinds import by_default
from tests.rows import message, select, sql
from tests.waiting import receive, soon

HOUR = 3600.0


class Clock:
    """The time of day, as somebody has set it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.ahead = 0.0
        self._time = time.time
        monkeypatch.setattr(time, "time", lambda: self._time() + self.ahead)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


@by_default
async def test_the_clock_is_set_forward(open_layer: OpenLayer, clock: Clock) -> None:
    """A message that waited in the table has expired; one that the process holds has not."""
    layer = open_layer()
    local, other = await layer.new_channel(), await layer.new_channel()
    await layer.send(local, message(1))
    await layer.send(other, message(2))
    assert await soon(layer.receive(other)) == message(2)  # and takes message 1
    await layer.send("shared", message(3))
    clock.ahead = HOUR
    assert await soon(layer.receive(local)) == message(1)
    await layer.send("shared", message(4))
    assert await soon(layer.receive("shared")) == message(4)


@by_default
async def test_the_clock_is_set_back(open_layer: OpenLayer, clock: Clock) -> None:
    """Earlier messages are delivered; in a buffer they live no longer than they would have."""
    layer = open_layer(expiry=0.5)
    local, other = await layer.new_channel(), await layer.new_channel()
    await layer.send("shared", message(1))
    await layer.send(local, message(2))
    clock.ahead = -HOUR
    assert await soon(layer.receive("shared")) == message(1)
    await layer.send(other, message(3))
    assert await soon(layer.receive(other)) == message(3)  # and takes message 2
    await asyncio.sleep(0.7)
    await layer.send(local, message(4))
    assert await soon(layer.receive(local)) == message(4)


@by_default
def test_the_clock_is_set_forward_where_no_loop_lasts(
    open_layer: OpenLayer, clock: Clock, set_times: SetTimes
) -> None:
    """As in views that use async_to_sync: it is a sweep that meets the memberships first."""
    set_times(sweep=0.01)
    layer = open_layer(group_expiry=HOUR)
    channel = async_to_sync(layer.new_channel)()
    async_to_sync(layer.group_add)("test-group", channel)
    clock.ahead = 24 * HOUR
    for number in range(3):
        async_to_sync(layer.send)("shared", message(number))
        time.sleep(0.05)
    async_to_sync(layer.group_send)("test-group", message(3))
    assert async_to_sync(receive)(layer, channel) == message(3)


@by_default
@pytest.mark.parametrize("jump", [48 * HOUR, -48 * HOUR], ids=["set forward", "set back"])
async def test_the_clock_is_set_while_a_channel_joins(
    open_layer: OpenLayer, clock: Clock, jump: float
) -> None:
    """The membership lasts for `group_expiry` all the same."""
    layer = open_layer(group_expiry=24 * HOUR)
    channel = await layer.new_channel()
    joins = asyncio.ensure_future(layer.group_add("test-group", channel))
    await asyncio.sleep(0)  # by now it opens the file
    clock.ahead = jump
    await soon(joins)
    await layer.group_send("test-group", message(1))
    assert await receive(layer, channel) == message(1)
    with sql(layer.database.path) as connection:
        (expires_at,) = select(connection, f"expires_at from {MEMBERSHIP}")
    assert expires_at - time.time() == pytest.approx(24 * HOUR, abs=HOUR)


@by_default
async def test_the_clock_is_set_back_while_a_groups_message_waits(
    open_layer: OpenLayer, clock: Clock
) -> None:
    """The message seems to be of a time at which the membership will have lapsed."""
    layer = open_layer(group_expiry=HOUR)
    channel = await layer.new_channel()
    await layer.group_add("test-group", channel)
    await layer.group_send("test-group", message(1))
    clock.ahead = -48 * HOUR
    assert await receive(layer, channel) == message(1)
