"""The trimmer: nothing grows without a bound, and nobody waits for that."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import stat
import threading
import time
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from channels_sqlite._sending.trimmer import SWEPT, Trimmed, Trimmer
from channels_sqlite._storing import groups, sql
from channels_sqlite._storing.messages import LARGE
from channels_sqlite._storing.schema import MEMBERSHIP, MESSAGE
from channels_sqlite._storing.sql import Transaction
from channels_sqlite._waking.bells import Bell
from tests.conftest import SetTimes
from tests.rows import LATER, inbox_of, outgoing, put, select
from tests.sending.parts import Parts, parts
from tests.storing.parts import Gate, locked
from tests.storing.tables import acknowledge, join, send
from tests.waiting import cancel, soon, until

BATCH = 10


@pytest.fixture
async def trimming(database: Path) -> AsyncIterator[Parts]:
    async with parts(database, trim_batch_size=BATCH, message_retention=10) as made:
        await made.database.run_beside(lambda _: None)  # it has been opened, and swept
        yield made


def is_busy(trimming: Parts) -> bool:
    return "Trimming" in trimming.database._second._posted


def deliver(trimming: Parts, count: int, ago: float) -> None:
    """So many messages were delivered some seconds ago."""
    messages = [outgoing(number, "delivered", capacity=10**6) for number in range(count)]
    send(trimming.others, *messages)
    newest = sql.newest(trimming.others)
    acknowledge(trimming.others, "delivered", newest, ago=ago, keep=True)


def reader(trimming: Parts, client: str, *, alive: bool) -> tuple[Bell, str]:
    """A reader's bell, and a channel of its own."""
    bell = Bell(trimming.database.files, client, {})
    if not alive:
        bell.close(remove=False)
    return bell, f"specific.{client}!x"


async def test_what_expires_is_counted_by_its_reader_or_by_who_trims_it(trimming: Parts) -> None:
    """A reader that lives may have taken it already, and not have said so yet."""
    bell, living = reader(trimming, "living-67890", alive=True)
    _, dead = reader(trimming, "dead-4567890", alive=False)
    await soon(trimming.trimmer.trim())  # what comes for the dead from now on stays, and expires
    past = time.time() - 1
    for channel in ("jobs", "jobs.living-67890-", living, dead):
        send(trimming.others, *[outgoing(1, channel, expires_at=past)] * BATCH)
    assert await soon(trimming.trimmer.trim()) == Trimmed(expired=4 * BATCH)
    assert trimming.counters.expired == 3 * BATCH
    bell.close(remove=True)


async def test_memberships_that_have_lapsed_go_except_those_of_readers_that_live(
    trimming: Parts,
) -> None:
    """A living reader ends its own, by a clock that nobody sets; nobody else ends a channel's."""
    bell, living = reader(trimming, "living-67890", alive=True)
    for channel in ("jobs", living):
        groups.add(trimming.others, "group", inbox_of(channel), channel, time.time() - 2, 1)
        groups.add(trimming.others, "other", inbox_of(channel), channel, time.time(), LATER)
    assert await soon(trimming.trimmer.trim()) == Trimmed(memberships=1)
    left = select(trimming.others, f'"group" from {MEMBERSHIP} where channel = ?', "jobs")
    assert left == ["other"]
    assert len(select(trimming.others, f"id from {MEMBERSHIP} where channel = ?", living)) == 2
    bell.close(remove=True)


async def test_a_mark_of_another_user_hinders_no_sweeping(
    trimming: Parts, set_times: SetTimes, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_times(sweep=0)  # each time
    _, channel = reader(trimming, "dead-4567890", alive=False)
    join(trimming.others, channel)
    monkeypatch.setattr(os, "utime", Mock(side_effect=PermissionError))
    await soon(trimming.trimmer.trim())
    assert trimming.count(MEMBERSHIP) == 0


async def test_the_mark_has_the_rights_of_the_database(
    trimming: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Made by root's command, or with another umask, no process of the others could set it, and so
    each of them would sweep.
    """
    files = trimming.database.files
    os.chmod(files.path, 0o666)
    files.make_bells()
    monkeypatch.setattr(trimming.database, "swept_at", float("-inf"))
    trimming.trimmer.trim_if_due()
    mark = Path(files.bells, SWEPT)
    await until(mark.exists)
    await until(lambda: trimming.database.swept_at > 0)
    assert stat.S_IMODE(os.stat(mark).st_mode) == 0o666


async def test_one_process_trims_all_for_the_others_and_to_open_the_file_is_not_to_trim(
    trimming: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    deliver(trimming, 1, ago=11)
    mark = os.path.join(trimming.database.files.bells, SWEPT)
    with pytest.raises(FileNotFoundError):  # it has been opened
        os.stat(mark)
    monkeypatch.setattr(trimming.database, "swept_at", float("-inf"))
    # Of a layer that lives for less than a second.
    Trimmer(trimming.database, trimming.options, trimming.counters).trim_if_due(1)
    await until(lambda: trimming.count(MESSAGE) == 0)
    deliver(trimming, 1, ago=11)
    monkeypatch.setattr(trimming.database, "swept_at", float("-inf"))
    os.utime(mark)
    trimming.trimmer.trim_if_due(1)
    assert trimming.database.swept_at > 0  # no thread was asked
    assert trimming.count(MESSAGE) == 1
    sweep_all = partial(trimming.trimmer._sweep_if_due, await trimming.database.ready())
    await asyncio.to_thread(sweep_all)  # another process was first, a moment ago
    assert trimming.count(MESSAGE) == 1


async def test_a_sweep_that_fails_is_not_tried_again_at_once(
    trimming: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that is full would keep the thread busy."""
    fail = Mock(side_effect=sqlite3.OperationalError("database or disk is full"))
    monkeypatch.setattr(trimming.trimmer, "_sweep", fail)
    monkeypatch.setattr(trimming.database, "swept_at", float("-inf"))
    trimming.trimmer.trim_if_due(1)
    await until(lambda: trimming.database.swept_at > 0)
    before = trimming.database.swept_at
    for _ in range(3):
        trimming.trimmer.trim_if_due(1)
    assert trimming.database.swept_at == before
    fail.assert_called_once()


async def test_trimming_deletes_twice_what_is_written_and_one_trims_at_a_time(
    trimming: Parts,
) -> None:
    """So it catches up, after every batch. No sender waits for it."""
    deliver(trimming, 7 * BATCH, ago=11)
    for _ in range(BATCH - 1):
        trimming.trimmer.trim_if_due(1)
    assert not is_busy(trimming)
    trimming.trimmer.trim_if_due(1)
    await until(lambda: trimming.count(MESSAGE) == 5 * BATCH)
    gate = Gate()
    writing = asyncio.create_task(trimming.database.write(gate, long=True))
    await gate.entered()
    for _ in range(100):
        trimming.trimmer.trim_if_due(BATCH)
    assert trimming.count(MESSAGE) == 5 * BATCH
    gate.open()
    await soon(writing)
    await until(lambda: not is_busy(trimming))
    assert trimming.count(MESSAGE) == 3 * BATCH


async def test_trimming_does_nothing_by_itself_where_it_is_switched_off(database: Path) -> None:
    async with parts(database, auto_trim=False, trim_batch_size=1, message_retention=1) as made:
        await made.database.ready()
        deliver(made, 1, ago=11)
        made.trimmer.trim_if_due(10**6)
        assert not is_busy(made)
        assert await made.trimmer.trim() == Trimmed(delivered=1)


def sweep(trimming: Parts) -> asyncio.Task[Any]:
    trimming.database.swept_at = float("-inf")
    trimming.trimmer.trim_if_due(1)
    return asyncio.create_task(
        until(lambda: trimming.database.swept_at > 0 and not is_busy(trimming))
    )


def trim(trimming: Parts) -> asyncio.Task[Any]:
    return asyncio.create_task(trimming.trimmer.trim())


@pytest.mark.parametrize("begin", [sweep, trim])
async def test_trimming_gives_way_to_what_waits_for_its_connection(
    database: Path, begin: Callable[[Parts], asyncio.Task[Any]]
) -> None:
    """However much there is to trim: a send of a large message comes before the end of it."""
    expired = f"{MESSAGE} where inbox = 'expired'"
    async with parts(database, trim_batch_size=1) as made:
        await made.database.run_beside(lambda _: None)  # it has been opened, and swept
        with Transaction(made.others):
            for _ in range(20_000):
                put(made.others, "expired", expires_at=0)
        trimming = begin(made)
        await until(lambda: made.count(expired) < 20_000)
        large = outgoing(1, body=b"1" * (LARGE + 1))
        assert await asyncio.wait_for(made.sender.send(large), 60)
        assert made.count(expired) > 0
        assert not trimming.done()
        await cancel(trimming)


async def test_what_was_trimmed_before_the_database_was_closed_is_counted(trimming: Parts) -> None:
    deliver(trimming, 200 * BATCH, ago=11)
    task = asyncio.create_task(trimming.trimmer.trim())
    await until(lambda: trimming.count(MESSAGE) < 200 * BATCH)
    await trimming.database.close()
    assert (await soon(task)).delivered == 200 * BATCH


async def test_trimming_is_tried_again(trimming: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    """No thread could be started, or others held the lock."""
    deliver(trimming, 1, ago=11)
    trimming.database._second.stop()
    with monkeypatch.context() as full:
        full.setattr(threading.Thread, "start", Mock(side_effect=RuntimeError))
        trimming.trimmer.trim_if_due(BATCH)
    with locked(trimming.database.path):
        trimming.trimmer.trim_if_due(BATCH)
        assert is_busy(trimming)
        await until(lambda: not is_busy(trimming))
    assert trimming.count(MESSAGE) == 1
    trimming.trimmer.trim_if_due(BATCH)
    await until(lambda: trimming.count(MESSAGE) == 0)
