"""A receiver's ears: its bell, and for each event loop a listener with a watcher."""

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
import threading
from pathlib import Path

import msgpack
import pytest
from django.db import connections

from channels_sqlite.exceptions import WatcherUnavailable
from tests.receiving.processes import NORMAL, Open, Process, insert
from tests.rows import sql
from tests.waiting import cancel, soon, until


@pytest.mark.usefixtures("quick_heart")
async def test_a_bell_that_was_deleted_is_made_again_and_watched_by_every_loop(
    process: Process,
) -> None:
    listening, stop = process.receiver._listening, threading.Event()

    async def elsewhere() -> None:
        task = await process.begin(NORMAL)
        await until(stop.is_set)
        await cancel(task)

    thread = threading.Thread(target=asyncio.run, args=(elsewhere(),))
    thread.start()
    task = await process.begin()
    await until(lambda: len(listening) == 2)
    before = listening.bell
    shutil.rmtree(process.layer.database.files.bells)
    await until(lambda: listening.bell is not before and listening.bell is not None)
    await until(lambda: {ear.bell for ear in listening._ears.values()} == {listening.bell})
    assert len(await process.layer.readers()) == 1
    stop.set()
    await asyncio.to_thread(thread.join)
    await cancel(task)


@pytest.mark.usefixtures("quick_heart")
async def test_a_process_without_a_bell_says_so_once_and_receives(
    process: Process, database: Path, caplog: pytest.LogCaptureFixture
) -> None:
    task = await process.begin()
    listening = process.receiver._listening
    shutil.rmtree(f"{database}-bells")
    Path(f"{database}-bells").touch()  # noqa: ASYNC240
    await until(lambda: caplog.messages)
    [ear] = listening._ears.values()
    watcher = ear.watcher
    await asyncio.sleep(0.3)
    assert ear.watcher is watcher
    with sql(database) as other:
        insert(other, msgpack.packb({"number": 7}), process.channel)
    assert await soon(task) == 7
    [said] = caplog.messages
    assert "No bell can be made" in said
    os.unlink(f"{database}-bells")
    await until(lambda: listening.bell)


async def test_a_watcher_that_cannot_start_leaves_no_listener(
    open_: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = open_(watcher="inotify")
    monkeypatch.setattr("channels_sqlite._waking.watchers.sys.platform", "another")
    for _ in range(2):
        with pytest.raises(WatcherUnavailable):
            await process.receive()
    assert not process.receiver._listening


@pytest.mark.usefixtures("quick_heart")
async def test_touches_are_wanted_while_normal_channels_are_waited_for(process: Process) -> None:
    listening = process.receiver._listening
    local, normal = await process.begin(), await process.begin(NORMAL)
    assert listening._wants_touches
    await cancel(normal)
    await until(lambda: not listening._wants_touches)
    await cancel(await process.begin(NORMAL), local)
    assert listening._wants_touches


@pytest.mark.usefixtures("quick_heart")
async def test_in_memory_what_others_write_is_found_and_nobody_called_deaf(
    open_: Open, memory_alias: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Django's connection may write there; no event says so."""
    process = open_(memory_alias)
    with sqlite3.connect(connections.settings[memory_alias]["NAME"], uri=True) as other:
        for number in range(8):
            task = await process.begin()
            insert(other, msgpack.packb({"number": number}), process.channel)
            other.commit()
            assert await soon(task) == number
    other.close()
    assert caplog.messages == []
