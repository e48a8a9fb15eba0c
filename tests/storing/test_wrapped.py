"""An sqlite3 that is wrapped, as the agents of monitoring services wrap it."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from typing import Any

import pytest

from channels_sqlite.layers import SqliteChannelLayer
from tests.waiting import soon


class Proxy:
    """A connection behind an object of another class, whose statements go through a cursor."""

    def __init__(self, wrapped: sqlite3.Connection) -> None:
        self.__dict__["_wrapped"] = wrapped

    def __getattr__(self, name: str) -> Any:
        return getattr(self._wrapped, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._wrapped, name, value)

    def execute(self, sql: str, *parameters: Any) -> Any:
        return self._wrapped.cursor().execute(sql, *parameters)

    def executemany(self, sql: str, *parameters: Any) -> Any:
        return self._wrapped.cursor().executemany(sql, *parameters)


@pytest.fixture
def wrapped(monkeypatch: pytest.MonkeyPatch) -> None:
    connect: Callable[..., sqlite3.Connection] = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda *args, **kwargs: Proxy(connect(*args, **kwargs)))


@pytest.mark.usefixtures("wrapped")
async def test_messages_pass_where_sqlite3_is_wrapped(alias: str) -> None:
    layer = SqliteChannelLayer(database=alias)
    channel = await layer.new_channel()
    await layer.group_add("test-group", channel)
    waiting = [asyncio.create_task(layer.receive(each)) for each in (channel, "test-channel")]
    await layer.group_send("test-group", {"number": 1})
    await layer.send("test-channel", {"number": 2})
    assert await soon(asyncio.gather(*waiting)) == [{"number": 1}, {"number": 2}]
    await layer.group_discard("test-group", channel)
    assert (await layer.stats()).total.members == 0
    await layer.flush()
    await layer.close()
