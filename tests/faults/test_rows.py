"""Rows by others: whatever SQLite lets anybody write into our tables, readers go on.

Hypothesis generates a few examples here each time, and ten thousand with FAULTS_EXAMPLES=10000, as
`nox -s faults` has it.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import sqlite3
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgpack
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from channels_sqlite._storing.schema import MEMBERSHIP, MESSAGE, SEQUENCE
from channels_sqlite.exceptions import DatabaseUnavailable
from channels_sqlite.layers import SqliteChannelLayer
from tests.rows import put, sql
from tests.waiting import cancel, soon

EXAMPLES = int(os.environ.get("FAULTS_EXAMPLES", "40"))
ROWS = 10  # of each table in one example
LARGEST_ID = 2**63 - 1

numbers = st.one_of(
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False),
    st.sampled_from([0, -1, 2**63 - 1, -(2**63), 1e308, float("inf"), float("-inf"), 1e-320]),
)
values = st.one_of(
    numbers,
    st.text(max_size=120),
    st.binary(max_size=120),
    st.sampled_from(["", "\0", "a\0b", "a!b!c", "!", "'; drop table x; --", "%", "9e999", "nan"]),
    st.binary(max_size=9).map(lambda tail: b"\xc3\x28" + tail),  # no UTF-8
)
pools = st.lists(values, min_size=30, max_size=30)


class Text(bytes):
    """Bytes to be stored as text, valid or not."""


class Hostile:
    """Writes rows whose columns hold what the pool has, and now and then what is right."""

    def __init__(self, connection: sqlite3.Connection, pool: list[Any], seed: int) -> None:
        self.connection = connection
        self.random = random.Random(seed)
        self.pool = [*pool, None]
        self.pool += [Text(value) for value in pool if isinstance(value, bytes)]

    def any(self, *right: Any) -> Any:
        return self.random.choice(right if right and self.random.random() < 0.5 else self.pool)

    def any_id(self) -> Any:
        """None but those after which there are no more: they have a test of their own."""
        found = self.any(None, None, None, -1, 2**62 + self.random.randrange(2**40))
        return None if isinstance(found, (int, float)) and found > 2**62 + 2**41 else found

    def insert(self, table: str, **columns: Any) -> None:
        """A row, where the table's constraints allow it."""
        holes = ["cast(? as text)" if isinstance(each, Text) else "?" for each in columns.values()]
        names = ", ".join(f'"{name}"' for name in columns)
        with suppress(sqlite3.IntegrityError):
            self.connection.execute(
                f"insert or replace into {table} ({names}) values ({', '.join(holes)})",
                [bytes(each) if isinstance(each, Text) else each for each in columns.values()],
            )

    def fill(self, channels: list[str], group: str) -> None:
        """As many rows of each table, for readers of these channels and members of the group."""
        now = time.time()
        inboxes = [name.partition("!")[0] + ("!" if "!" in name else "") for name in channels]
        for _ in range(ROWS):
            self.insert(
                MEMBERSHIP,
                group=self.any(group),
                inbox=self.any(*inboxes),
                channel=self.any(*channels),
                expires_at=self.any(now + 60),
                joined_after=self.any(0),
            )
            self.insert(
                MESSAGE,
                id=self.any_id(),
                inbox=self.random.choice(inboxes),
                channel=self.any(*channels, None),
                group=self.any(group, None),
                body=self.any(msgpack.packb({"type": "hostile"})),
                created_at=self.any(now),
                expires_at=self.any(now + 60),
                delivered_at=self.any(None, None, None),
            )
            self.insert(SEQUENCE, inbox=self.any(*inboxes), seq=self.any(0))


@pytest.mark.timeout(120 + EXAMPLES)
def test_whatever_others_write_readers_go_on(
    alias: str, database: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """After each ten hostile rows of every table a message that is sent arrives, and no look fails.
    That would be logged as an error; a row that cannot be read is a warning.
    """
    caplog.set_level(logging.ERROR, "channels_sqlite")
    loop = asyncio.new_event_loop()
    layer = SqliteChannelLayer(
        database=alias,
        watcher="polling",
        polling_interval=0.005,
        capacity=10_000,
        channel_capacity={"specific.*": 20},
    )
    channels = [loop.run_until_complete(layer.new_channel()) for _ in range(2)] + ["test-channel"]
    got: dict[str, int] = {}

    async def consume(channel: str) -> None:
        while True:
            message = await layer.receive(channel)
            if message.get("type") == "ours":
                got[channel] = message["number"]

    async def arrives(number: int) -> None:
        message = {"type": "ours", "number": number}
        while got.get(channels[0]) != number:  # a hostile inbox may be full for a moment
            # A membership of the same name may say that it begins in a thousand years: leave that
            # one.
            await layer.group_discard("test-group", channels[0])
            await layer.group_add("test-group", channels[0])
            await layer.group_send("test-group", message)
            await asyncio.sleep(0.02)
        while got.get(channels[2]) != number:
            await layer.send(channels[2], message)
            await asyncio.sleep(0.02)

    # Nobody reads the second channel: its buffer overflows.
    consuming = [loop.create_task(consume(channels[index])) for index in (0, 2)]
    with sql(database) as connection:
        examples = 0

        @settings(
            max_examples=EXAMPLES,
            deadline=None,
            database=None,
            phases=[Phase.generate],  # a hang would be tried again and again, to find a smaller one
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.large_base_example],
        )
        @given(pools, st.integers(0, 2**32))
        def example(pool: list[Any], seed: int) -> None:
            nonlocal examples
            examples += 1
            connection.execute("begin immediate")
            for table in (MESSAGE, MEMBERSHIP, SEQUENCE):
                connection.execute(f"delete from {table}")
            Hostile(connection, pool, seed).fill(channels, "test-group")
            connection.execute("commit")
            loop.run_until_complete(soon(arrives(examples)))
            assert caplog.messages == []

        example()
    loop.run_until_complete(cancel(*consuming))
    loop.run_until_complete(layer.close())
    loop.close()


async def test_the_largest_id_of_all(alias: str, database: Path) -> None:
    """SQLite has no greater one to give: senders are told what to do, receivers go on."""
    layer = SqliteChannelLayer(database=alias)
    channel = await layer.new_channel()
    waiting = asyncio.create_task(layer.receive(channel))
    with sql(database) as connection:
        put(connection, channel, msgpack.packb({"type": "the last"}), id=LARGEST_ID)
    assert await soon(waiting) == {"type": "the last"}
    for _ in range(3):
        with pytest.raises(DatabaseUnavailable) as raised:
            await soon(layer.send(channel, {"type": "one more"}))
        assert str(database) in str(raised.value)
        assert "migrate again" in str(raised.value)
    await layer.close()
