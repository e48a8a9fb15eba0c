"""Errors inside: each part fails, says so once, and goes on when the cause is gone.

SQLite raises them, by triggers, by tables that are gone and by its authorizer, and so they come
from where real ones come from.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from asgiref.sync import async_to_sync

from channels_sqlite._storing.schema import MEMBERSHIP, MESSAGE, SEQUENCE
from channels_sqlite._waking import watchfiles
from channels_sqlite.exceptions import NotMigrated
from channels_sqlite.layers import SqliteChannelLayer
from tests.conftest import OpenLayer, SetTimes, Start
from tests.faults.peers import bell_of
from tests.kinds import by_default
from tests.rows import message, sql
from tests.waiting import soon, until

DEAF = 5.0  # seconds: a heartbeat or two, and a busy machine


def records(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    """The layer's log, except of drops: another test's may be told of by now."""
    said = [each for each in caplog.records if each.name == "channels_sqlite"]
    return [each for each in said if "dropped because" not in each.getMessage()]


def failing(table: str, event: str, when: str = "1") -> str:
    """A trigger by which every such change of a table fails."""
    return (
        f"create trigger failing before {event} on {table} when {when}"
        " begin select raise(abort, 'injected'); end"
    )


async def begin(layer: Any, *channels: str) -> list[asyncio.Task[Any]]:
    """Consumers that wait."""
    receiving = [asyncio.create_task(layer.receive(each)) for each in channels]
    await until(lambda: layer._parts.receiver._queues.count_channels() == len(channels))
    return receiving


async def restored(layer: Any, channels: list[str], receiving: list[asyncio.Task[Any]]) -> float:
    """Send to consumers that wait; how many seconds they were deaf for."""
    mended = time.monotonic()
    for channel in channels:
        await layer.send(channel, message(7))
    await soon(asyncio.gather(*receiving))
    return time.monotonic() - mended


@by_default
async def test_a_reader_goes_on_after_looks_that_failed(
    open_layer: OpenLayer, database: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Each look fails, because the table of sequences is gone: one line, twice over."""
    layer = open_layer(auto_trim=False)
    local = await layer.new_channel()
    with sql(database) as connection:
        for turn in range(2):
            receiving = await begin(layer, local, "shared")
            connection.execute(f"alter table {SEQUENCE} rename to elsewhere")
            await asyncio.sleep(2.2)
            assert not any(each.done() for each in receiving)
            # A message of a moment before may be acknowledged meanwhile, which fails as well.
            (record,) = [each for each in records(caplog) if "Looking" in each.getMessage()]
            assert "no such table" in record.getMessage()
            caplog.clear()
            connection.execute(f"alter table elsewhere rename to {SEQUENCE}")
            assert await restored(layer, [local, "shared"], receiving) < DEAF, turn
    assert records(caplog) == []


@by_default
async def test_a_log_handler_may_send_to_the_layer_whose_database_cannot_be_opened(
    layer: Any, database: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As live logs do. The thread that opens the database does not wait for itself."""
    logged: list[str] = []

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            with suppress(NotMigrated):
                async_to_sync(layer.group_send)("test-group", message(1))
            logged.append(record.getMessage())

    handler = Handler()
    receiving = await begin(layer, "test-channel")  # the database is opened for those that do
    away = await asyncio.to_thread(database.rename, database.with_name("away"))
    logging.getLogger("channels_sqlite").addHandler(handler)
    try:
        layer.database.open_for_readers()
        await until(lambda: logged)
        with pytest.raises(NotMigrated):
            await soon(layer.send("test-channel", message(2)))
    finally:
        logging.getLogger("channels_sqlite").removeHandler(handler)
    await asyncio.to_thread(away.rename, database)
    await layer.send("test-channel", message(3))
    assert await soon(receiving[0]) == message(3)
    caplog.clear()


@by_default
async def test_a_reader_goes_on_after_a_bug_of_ours(
    open_layer: OpenLayer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The receiver's own code raises, for two heartbeats."""
    layer = open_layer()
    local = await layer.new_channel()
    receiving = await begin(layer, local, "shared")

    with monkeypatch.context() as bug:
        bug.setattr("channels_sqlite._receiving.reading.Reading._read", lambda *_, **__: 1 / 0)
        await layer.send(local, message(1))
        await asyncio.sleep(2.2)
        assert not receiving[0].done()
    (record,) = records(caplog)
    assert record.exc_info is not None
    caplog.clear()
    assert await restored(layer, [local, "shared"], receiving) < DEAF


@by_default
async def test_acknowledgements_go_on_after_those_that_failed(
    open_layer: OpenLayer, database: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Messages are delivered, once, though the table cannot be told; later it is told."""
    layer = open_layer(capacity=1000)
    local = await layer.new_channel()
    with sql(database) as connection:
        connection.execute(failing(MESSAGE, "update"))
        for number in range(100):
            await layer.send(local, message(number))
            assert (await soon(layer.receive(local)))["number"] == number
        await asyncio.sleep(2.2)
        assert len(records(caplog)) == 1
        caplog.clear()
        connection.execute("drop trigger failing")

        def told() -> bool:
            query = f"select count(*) from {MESSAGE} where delivered_at is null"
            return bool(connection.execute(query).fetchone() == (0,))

        await until(told)
        await layer.send(local, message(100))
        assert (await soon(layer.receive(local)))["number"] == 100
    assert records(caplog) == []


@by_default
async def test_sweeping_goes_on_after_deletes_that_failed(
    open_layer: OpenLayer, database: Path, start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    """A dead reader's memberships cannot be deleted: said once, and others are served."""
    caplog.set_level(logging.INFO, "channels_sqlite")
    layer = open_layer()
    reader = start("echo")
    channel = await asyncio.to_thread(reader.hear)
    await layer.group_add("test-group", channel)
    await until(bell_of(database, channel).exists)
    with sql(database) as connection:
        connection.execute(failing(MEMBERSHIP, "delete"))
        reader.kill()

        async def exchange() -> None:
            await layer.send("shared", message(1))
            assert await soon(layer.receive("shared")) == message(1)
            await asyncio.sleep(0.1)

        async def exchange_until(count: int) -> None:
            while await layer.group_count("test-group") > count or not records(caplog):
                await exchange()

        await soon(exchange_until(1))
        for _ in range(25):  # in which it sweeps again
            await exchange()
        assert len(records(caplog)) == 1
        caplog.clear()
        connection.execute("drop trigger failing")
        await soon(exchange_until(0))
    assert [each.levelno for each in records(caplog)] == [logging.INFO]


async def test_watching_goes_on_after_errors(
    alias: str,
    monkeypatch: pytest.MonkeyPatch,
    set_times: SetTimes,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Watching fails, again and again: heartbeats go on meanwhile, then it watches again."""
    broken, heard = threading.Event(), list[Any]()
    real = watchfiles.WatchfilesWatcher._listen

    def listen(watcher: watchfiles.WatchfilesWatcher, notify: Any) -> None:
        def watch(*arguments: Any) -> Any:
            if broken.is_set():
                raise OSError("injected")
            heard.append(changes := notify.watch(*arguments))
            return changes

        real(watcher, SimpleNamespace(watch=watch))  # type: ignore[arg-type]

    monkeypatch.setattr(watchfiles.WatchfilesWatcher, "_listen", listen)
    set_times(watch_retry=0.1)
    sender = SqliteChannelLayer(database=alias, watcher="polling")
    layer = SqliteChannelLayer(database=alias, watcher="watchfiles", polling_interval=0.01)
    local = await layer.new_channel()
    for turn in range(2):
        broken.set()
        await sender.send(local, message(-1))  # what it was watching with returns
        assert (await soon(layer.receive(local)))["number"] == -1
        for number in range(3):
            waiting = asyncio.create_task(layer.receive(local))
            await asyncio.sleep(0.1)
            begun = time.monotonic()
            await sender.send(local, message(number))
            assert (await soon(waiting))["number"] == number
            assert time.monotonic() - begun < DEAF
        (record,) = records(caplog)  # however often it was tried
        assert record.exc_info is not None, turn
        caplog.clear()
        broken.clear()
        heard.clear()
        await until(lambda: heard)
    await layer.close()
    await sender.close()
