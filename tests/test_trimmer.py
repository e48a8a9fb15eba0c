"""The trimmer: nothing grows without a bound, and nobody waits long for that."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import time
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from channels_sqlite import database as database_module
from channels_sqlite import store, upkeep
from channels_sqlite import trimmer as module
from channels_sqlite.exceptions import DatabaseUnavailable
from channels_sqlite.schema import MEMBERSHIP, MESSAGE, SEQUENCE
from channels_sqlite.trimmer import Trimmer
from tests.parts import Parts, locked, parts
from tests.rows import outgoing, select
from tests.waiting import soon, until

BATCH = 10


class Trimming:
    """A trimmer, and rows for it to trim."""

    def __init__(self, parts: Parts) -> None:
        self.parts = parts
        self.trimmer = Trimmer(parts.database, parts.options)
        assert parts.database.reader is not None
        self.reader: sqlite3.Connection = parts.database.reader

    async def write(self, count: int, *, expires_at: float | None = None) -> None:
        fields: dict[str, Any] = {} if expires_at is None else {"expires_at": expires_at}
        messages = [outgoing(1, "test-channel", capacity=10**6, **fields) for _ in range(count)]
        await self.parts.database.run(lambda raw: store.send(raw, messages, time.time()))

    async def join(self) -> None:
        """Into a group, for long, whatever the clock says."""
        now = time.time()
        await self.parts.database.run(
            partial(
                store.group_add,
                group="test-group",
                inbox="test-channel",
                channel="test-channel",
                now=now,
                expires_at=now + 10**6,
            )
        )

    async def deliver(self, ago: float = 0) -> None:
        """All that waits is delivered, some seconds ago."""
        await self.parts.database.run(
            lambda raw: raw.execute(
                f"update {MESSAGE} set delivered_at = ? where delivered_at is null",
                (time.time() - ago,),
            ).fetchall()
        )

    def count(self, table: str = MESSAGE) -> int:
        (found,) = select(self.reader, f"count(*) from {table}")
        assert isinstance(found, int)
        return found

    def left(self) -> tuple[int, int]:
        """How many messages, and how many members."""
        return self.count(MESSAGE), self.count(MEMBERSHIP)

    def inboxes(self) -> list[object]:
        """The inboxes that have a sequence, flushes apart."""
        return select(self.reader, f"inbox from {SEQUENCE} where inbox <> '{store.EPOCH}'")

    async def counts(self, verb: str) -> Callable[[], int]:
        """Counts the statements of a kind that run on the thread from now on."""
        ran: list[str] = []

        def note(statement: str) -> None:
            if statement.lstrip().startswith(verb):
                ran.append(statement)

        await self.parts.database.run(lambda raw: raw.set_trace_callback(note))
        return lambda: len(ran)


@pytest.fixture
async def trimming(database: Path) -> AsyncIterator[Trimming]:
    async with parts(database, trim_batch_size=BATCH, message_retention=10) as made:
        yield Trimming(made)


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything is trimmed each time, however short the last time is ago, or a trouble."""
    monkeypatch.setattr(module, "CALM", 0)
    monkeypatch.setattr(module, "SWEEP_EVERY", 0)
    monkeypatch.setattr(module, "UPKEEP_EVERY", 0)


@pytest.fixture
async def member(at_once: None, trimming: Trimming, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody in a group; and after a trouble there is no calm as long as the test runs."""
    await trimming.join()
    monkeypatch.setattr(module, "CALM", 3600)


# What


@pytest.mark.usefixtures("at_once")
async def test_delivered_messages_go_when_their_retention_is_over(trimming: Trimming) -> None:
    await trimming.write(3)
    await trimming.deliver(ago=11)
    await trimming.write(2)
    await trimming.deliver(ago=9)
    await trimming.trimmer.trim()
    assert trimming.count() == 2


@pytest.mark.usefixtures("at_once")
async def test_expired_messages_memberships_and_sequences_go(trimming: Trimming) -> None:
    now = time.time()
    await trimming.write(3, expires_at=now - 10)
    await trimming.parts.database.run(
        lambda raw: store.group_add(raw, "test-group", "a", "a", now, now - 1)
    )
    await trimming.trimmer.trim()
    assert trimming.left() == (0, 0)
    assert trimming.inboxes() == []


@pytest.mark.usefixtures("member")
async def test_a_clock_that_is_set_throws_nobody_out_of_a_group(
    trimming: Trimming, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it makes expire has not been let expire by anybody."""
    now, real = time.time(), time.time
    await trimming.write(3 * BATCH, expires_at=now + 60)
    monkeypatch.setattr(time, "time", lambda: real() + 3600)
    await trimming.trimmer.trim()
    assert trimming.left() == (0, 1)

    monkeypatch.setattr(module, "CALM", 0)
    await trimming.write(1, expires_at=now + 60)  # and now one that was left unread
    await trimming.trimmer.trim()
    assert trimming.left() == (0, 0)


@pytest.mark.usefixtures("member")
async def test_nor_does_what_was_under_way_when_it_was_set(
    trimming: Trimming, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the time of before; it is written when the rest was trimmed."""
    now, real = time.time(), time.time
    monkeypatch.setattr(time, "time", lambda: real() + 3600)
    await trimming.trimmer.trim()
    await trimming.write(1, expires_at=now + 60)
    await trimming.trimmer.trim()
    assert trimming.left() == (0, 1)


@pytest.mark.usefixtures("member")
async def test_nor_does_one_that_is_put_right_before_anything_is_trimmed(
    trimming: Trimming, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever writes by a wrong time sees that it is wrong, and right again."""
    monkeypatch.setattr(module, "SWEEP_EVERY", 3600)
    with monkeypatch.context() as wrong:
        real = time.time
        wrong.setattr(time, "time", lambda: real() - 3600)
        await trimming.write(1)
        await trimming.trimmer.wrote(1)
    monkeypatch.setattr(module, "SWEEP_EVERY", 0)
    await trimming.trimmer.trim()
    assert trimming.left() == (0, 1)


@pytest.mark.usefixtures("member")
async def test_nor_does_a_process_that_has_just_begun(trimming: Trimming) -> None:
    """It leaves to the others what may have expired because the clock was set before."""
    begun = Trimmer(trimming.parts.database, trimming.parts.options)
    await trimming.write(1, expires_at=time.time() - 10)
    await begun.trim()
    assert trimming.left() == (1, 1)


@pytest.mark.usefixtures("member")
async def test_a_lock_of_others_throws_nobody_out_of_a_group(
    trimming: Trimming, database: Path
) -> None:
    """Who has read a message could not say so."""
    await trimming.write(1, expires_at=time.time() - 10)
    with locked(database), pytest.raises(DatabaseUnavailable):
        await trimming.parts.database.run(upkeep.commit)
    await trimming.trimmer.trim()
    assert trimming.left() == (0, 1)


@pytest.mark.usefixtures("member")
async def test_a_lock_that_was_waited_for_throws_nobody_out_of_a_group(
    trimming: Trimming, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database_module, "STALL", 0.01)
    await trimming.write(1, expires_at=time.time() - 10)
    await trimming.parts.database.run(lambda _: time.sleep(0.02))
    await trimming.trimmer.trim()
    assert trimming.left() == (0, 1)


@pytest.mark.usefixtures("at_once")
async def test_what_waits_stays(trimming: Trimming) -> None:
    await trimming.write(25)
    await trimming.trimmer.trim()
    assert trimming.count() == 25
    assert trimming.inboxes() == ["test-channel"]


@pytest.mark.usefixtures("at_once")
async def test_it_trims_batch_after_batch_until_there_is_no_more(trimming: Trimming) -> None:
    """In statements of their own: between two of them others may write."""
    await trimming.write(3 * BATCH + 1)
    await trimming.deliver(ago=11)
    deletes = await trimming.counts("delete")
    await trimming.trimmer.trim()
    assert trimming.count() == 0
    assert deletes() >= 4


async def test_in_between_it_deletes_twice_what_is_written(trimming: Trimming) -> None:
    """So it catches up; and in place, where that is quicker."""
    await trimming.write(5 * BATCH)
    await trimming.deliver(ago=11)
    deletes = await trimming.counts("delete")
    await trimming.trimmer.trim()
    assert trimming.count() == 3 * BATCH
    assert deletes() == 0


async def test_a_large_batch_is_for_the_thread(
    trimming: Trimming, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "IN_PLACE", BATCH)
    await trimming.write(BATCH)
    await trimming.deliver(ago=11)
    deletes = await trimming.counts("delete")
    await trimming.trimmer.trim()
    assert trimming.count() == 0
    assert deletes() == 1


async def test_the_thread_gets_to_make_checkpoints(
    trimming: Trimming, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever is deleted in place: there, no checkpoint is made."""
    monkeypatch.setattr(module, "CHECKPOINT_EVERY", 3 * BATCH)
    commits = await trimming.counts("replace")
    for _ in range(9):
        await trimming.trimmer.wrote(BATCH)
        await trimming.trimmer._tasks.finish()
    assert commits() == 3


async def test_each_of_these_commits_writes_to_the_log_and_changes_nothing(
    trimming: Trimming, database: Path
) -> None:
    """SQLite looks whether a checkpoint is due where it has written, and nowhere else."""
    await trimming.write(3)
    await trimming.parts.database.run(store.flush)
    await trimming.parts.database.run(upkeep.commit)
    sizes, sequences = [], []
    for _ in range(3):
        sizes.append(os.stat(f"{database}-wal").st_size)
        sequences.append(await trimming.parts.database.run(sequences_of_all))
        await trimming.parts.database.run(upkeep.commit)
    assert sizes[0] < sizes[1] < sizes[2]
    assert sequences[0] == sequences[1] == sequences[2]
    assert (store.EPOCH, 3) in sequences[0]


def sequences_of_all(connection: sqlite3.Connection) -> list[tuple[str, int]]:
    query = f"select inbox, seq from {SEQUENCE} order by inbox"
    return connection.execute(query).fetchall()


async def test_it_looks_for_expired_ones_once_in_a_while(trimming: Trimming) -> None:
    """It reads all that waits to find them."""
    await trimming.trimmer.trim()
    await trimming.write(3, expires_at=time.time() - 10)
    await trimming.trimmer.trim()
    assert trimming.count() == 3


# When


async def test_it_trims_after_every_batch_that_was_written(trimming: Trimming) -> None:
    await trimming.write(5)
    await trimming.deliver(ago=11)
    for _ in range(BATCH - 1):
        await trimming.trimmer.wrote(1)
    await asyncio.sleep(0.02)
    assert trimming.count() == 5
    await trimming.trimmer.wrote(1)
    await until(lambda: trimming.count() == 0)


@pytest.mark.usefixtures("at_once")
async def test_it_trims_a_while_after_the_last_time_however_little_was_written(
    trimming: Trimming, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SWEEP_EVERY", 0.05)
    await trimming.write(1, expires_at=time.time() - 10)
    await asyncio.sleep(0.06)
    await trimming.trimmer.wrote(1)
    await until(lambda: trimming.count() == 0)


async def test_nobody_waits_for_it(trimming: Trimming, database: Path) -> None:
    await trimming.write(1)
    await trimming.deliver(ago=11)
    with locked(database):
        await soon(trimming.trimmer.wrote(BATCH))
        assert trimming.count() == 1
    await until(lambda: trimming.count() == 0)


@pytest.mark.parametrize("expired", [False, True], ids=["delivered", "expired"])
def test_it_keeps_up_with_loops_that_end_with_each_send(
    database: Path, monkeypatch: pytest.MonkeyPatch, expired: bool
) -> None:
    """They leave a task no time: who writes waits for the one after that which was cut off."""
    monkeypatch.setattr(module, "CALM", 0)
    monkeypatch.setattr(module, "SWEEP_EVERY", 0.02)
    made = Parts(database, trim_batch_size=BATCH, message_retention=0.01)

    async def write(trimmer: Trimmer) -> None:
        await made.database.run(
            lambda raw: raw.execute(
                f"insert into {MESSAGE} values (null, 'a', 'a', null, x'80', 0, 0, ?)",
                (None if expired else 0,),
            ).fetchall()
        )
        await trimmer.wrote(1)

    trimmer = Trimmer(made.database, made.options)
    most = 0
    for _ in range(30 * BATCH):
        asyncio.run(write(trimmer))
        assert made.database.reader is not None
        (count,) = select(made.database.reader, f"count(*) from {MESSAGE}")
        most = max(most, count)
    assert most <= 10 * BATCH
    asyncio.run(made.database.close())


async def test_it_does_nothing_where_it_was_switched_off(database: Path) -> None:
    async with parts(database, auto_trim=False, trim_batch_size=1, message_retention=1) as made:
        trimming = Trimming(made)
        await trimming.write(1)
        await trimming.deliver(ago=11)
        await trimming.trimmer.wrote(10**6)
        await asyncio.sleep(0.05)
        assert trimming.count() == 1


@pytest.mark.usefixtures("at_once")
async def test_one_trims_at_a_time(trimming: Trimming) -> None:
    await trimming.write(30 * BATCH)
    await trimming.deliver(ago=11)
    deletes = await trimming.counts("delete")
    await asyncio.gather(*[trimming.trimmer.wrote(BATCH) for _ in range(50)])
    await until(lambda: trimming.count() == 0)
    assert deletes() <= 30 + 5


# A steady stream


async def test_the_table_stops_growing_under_a_steady_stream(database: Path) -> None:
    """Sent, received and retained for a moment; rows and bytes stay bounded."""
    async with parts(database, trim_batch_size=100, message_retention=0.05) as made:
        trimming = Trimming(made)
        rows, pages = [], []
        for _ in range(200):
            await trimming.write(20)
            await trimming.deliver()
            await trimming.trimmer.wrote(20)
            await asyncio.sleep(0.002)
            rows.append(trimming.count())
            pages += select(trimming.reader, "page_count from pragma_page_count")
        assert sum(rows) > 0
        assert max(rows[100:]) <= 2 * max(rows[:100])
        assert max(pages[100:]) <= 2 * max(pages[:100])
        assert max(rows) < 200 * 20 / 2


# Errors


async def test_a_failure_is_said_and_tried_again(
    trimming: Trimming, database: Path, caplog: pytest.LogCaptureFixture
) -> None:
    await trimming.write(1)
    await trimming.deliver(ago=11)
    with locked(database):
        await trimming.trimmer.wrote(BATCH)
        await until(lambda: caplog.messages)
    assert trimming.count() == 1
    await trimming.trimmer.wrote(BATCH)
    await until(lambda: trimming.count() == 0)
    (said,) = caplog.messages
    assert str(database) in said
