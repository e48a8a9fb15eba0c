"""Processes that fork, in each way there is: what any of them sends arrives, and arrives once.

Twenty forks here each time, and a thousand with FAULTS_FORKS=1000, as `nox -s faults` has it.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import sys
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from channels_sqlite._storing.locks import lock
from tests.children import send
from tests.conftest import Start
from tests.faults.peers import client_of
from tests.processes import PATIENCE, Child
from tests.rows import message
from tests.waiting import soon

FORKS = int(os.environ.get("FAULTS_FORKS", "20"))
CHILDREN = "tests.faults.fork_children"
CHANNEL = "test-channel"
GROUP = "test-group"

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
long = pytest.mark.timeout(120 + FORKS)


class Receiver:
    """A process that receives on the channel of the tests, and now and then closes its layer."""

    def __init__(self, child: Child, layer: Any, database: Path) -> None:
        self._child = child
        self._layer = layer
        self._database = database

    async def received(self, *sent: int) -> None:
        """It has received each of these once and nothing else, and the file is whole."""
        await soon(send(self._layer, CHANNEL, message(-1)))
        counts = Counter(await asyncio.to_thread(self._child.hear))
        await asyncio.to_thread(self._child.finish)
        wrong = {number: counts[number] for number in {*sent, *counts} if counts[number] != 1}
        assert (wrong, counts.keys() - {*sent}) == ({}, set())
        with closing(sqlite3.connect(self._database)) as connection:
            assert connection.execute("pragma integrity_check").fetchall() == [("ok",)]


@pytest.fixture
def start(start: Start) -> Start:
    """Starts functions of the children's module."""

    def start_(function: str, **arguments: Any) -> Child:
        return start(f"{CHILDREN}.{function}", **arguments)

    return start_


@pytest.fixture
async def receiver(start: Start, layer: Any, database: Path) -> Receiver:
    child = start("comes_and_goes")
    assert await asyncio.to_thread(child.hear) == "ready"
    return Receiver(child, layer, database)


@long
@pytest.mark.parametrize(
    ("how", "uses", "count"),
    [
        ("os.fork", "layer", FORKS),
        ("os.fork", "Django", FORKS),
        ("fork", "layer", FORKS // 2),
        ("forkserver", "layer", FORKS // 4),
    ],
)
async def test_a_worker_is_forked_for_each_job(
    start: Start, receiver: Receiver, how: str, uses: str, count: int
) -> None:
    """All that the workers and their children send arrives, and all that their parent does. It has
    used the layer before, or Django's connection to the same file, and closes it now and then.
    """
    parent = start("workers", how=how, uses=uses, count=count)
    statuses = await asyncio.to_thread(parent.hear, PATIENCE + FORKS)
    await asyncio.to_thread(parent.finish)  # shows what a worker has complained of
    assert statuses == [0] * count
    await receiver.received(*range(5 * count))


@long
async def test_a_thread_opens_and_closes_while_its_process_forks(
    start: Start, receiver: Receiver
) -> None:
    """No child hangs, at whatever moment of its parent's threads it was forked."""
    parent = start("beside_a_thread", count=FORKS)
    statuses = await asyncio.to_thread(parent.hear, PATIENCE + FORKS)
    await asyncio.to_thread(parent.finish)
    assert statuses == [0] * FORKS
    await receiver.received(*range(FORKS))


@pytest.mark.parametrize("of", ["atomic", "set_autocommit", "SQL"])
async def test_a_fork_in_a_transaction(of: str, start: Start, receiver: Receiver) -> None:
    """The parent's transaction goes on and is committed. A message of the child after that is
    refused or arrives.
    """
    parent = start("in_a_transaction", of=of)
    outcome = await asyncio.to_thread(parent.hear)
    assert await asyncio.to_thread(parent.hear) == 0
    await asyncio.to_thread(parent.finish)
    await receiver.received(0, 1, *([2] if outcome == "accepted" else []))


@pytest.mark.parametrize("closed", ["closed_in_a_transaction", "closed_without_django"])
async def test_a_fork_where_django_has_a_closed_connection(
    start: Start, receiver: Receiver, closed: str
) -> None:
    parent = start(closed)
    assert await asyncio.to_thread(parent.hear) == 0
    await asyncio.to_thread(parent.finish)
    await receiver.received(0, 1)


async def test_a_consumer_waits_while_its_process_forks(start: Start, layer: Any) -> None:
    """The children have channels and memberships of their own, and no part in their parent's: it
    keeps them when a child ends, and loses them when it is killed, though a child lives on.
    """
    parent = start("while_it_receives")
    channels = dict([await asyncio.to_thread(parent.hear) for _ in range(3)])
    assert len({*channels.values()}) == 3

    async def assert_heard(number: int, *names: str) -> None:
        heard = [await asyncio.to_thread(parent.hear) for _ in names]
        assert sorted(heard) == [[name, number] for name in sorted(names)]

    for number, (name, channel) in enumerate(channels.items()):
        await layer.send(channel, message(number))
        await assert_heard(number, name)
    await layer.group_send(GROUP, message(10))
    await assert_heard(10, *channels)

    await layer.send(channels["child that closes"], message(-1))
    await count_members(layer, 2)
    await layer.group_send(GROUP, message(11))
    await assert_heard(11, "parent", "child")

    parent.signal(signal.SIGKILL)
    await asyncio.to_thread(parent.wait)
    await count_members(layer, 1)
    await layer.group_send(GROUP, message(12))
    await assert_heard(12, "child")
    await layer.send(channels["child"], message(-1))
    assert await asyncio.to_thread(parent.rest) == []


async def count_members(layer: Any, count: int) -> None:
    """Exchange messages until the group has so many members."""

    async def exchange() -> None:
        while await layer.group_count(GROUP) != count:
            await layer.send("of-the-test", message(0))
            await layer.receive("of-the-test")
            await asyncio.sleep(0.05)

    await soon(exchange())


@pytest.mark.parametrize("uses", [None, "layer", "Django"])
async def test_a_fork_without_hooks(start: Start, receiver: Receiver, uses: str | None) -> None:
    """A child forked by C code has channels of its own. If nothing was open it is as good as any
    other. Otherwise it could not lock the file: every use of the layer in it raises, and says why.
    Its parent goes on.
    """
    parent = start("without_hooks", uses=uses)
    theirs, foreign, *errors = await asyncio.to_thread(parent.hear)
    ours, status = await asyncio.to_thread(parent.hear)
    await asyncio.to_thread(parent.finish)
    assert status == 0
    assert client_of(ours) != client_of(theirs)
    assert "belongs to another process" in foreign
    assert all("fork" in error if uses else error == "" for error in errors)
    await receiver.received(*([0, 1] if uses else [1, 2, 3]))


@pytest.mark.skipif(sys.platform != "linux", reason="no inotify here")
def test_a_child_that_is_forked_as_a_loop_stops_listening_has_nothing_of_it(start: Start) -> None:
    """Twenty of them."""
    assert start("forks_as_it_stops_to_listen").rest() == [[]] * 20


def test_threads_of_a_child_without_hooks_wait_until_it_has_forgotten(start: Start) -> None:
    """The parent's connections are forgotten before any thread uses them."""
    parent = start("threads_without_hooks")
    assert parent.hear() == [True, True]
    assert parent.hear() == 0


async def test_a_child_without_hooks_takes_no_leave_for_its_parent(start: Start) -> None:
    """It has not used the layer: the memberships are those of its parent, which lives."""
    parent = start("exits_without_hooks")
    assert await asyncio.to_thread(parent.hear) == 1


def fork_while_locked(parent: Child, layer: Any) -> None:
    """Have it fork while another process has the lock for opening and closing."""
    assert parent.hear() == "used"
    with open(f"{layer.database.path}-bells/.opened") as opened:
        assert lock(opened.fileno(), PATIENCE)
        parent.tell("fork")
        assert parent.hear() == "forked"


@pytest.mark.skipif(hasattr(sqlite3.Connection, "setconfig"), reason="this Python can close it")
async def test_a_child_of_a_process_that_could_not_close_is_refused(
    start: Start, receiver: Receiver, layer: Any
) -> None:
    """The connection stays open for ever, and a child that uses the file would take no lock of
    SQLite's. Its parent goes on.
    """
    parent = start("forks_without_closing")
    await asyncio.to_thread(fork_while_locked, parent, layer)
    parent.tell("the lock is free")
    assert "forked from" in await asyncio.to_thread(parent.hear)
    assert await asyncio.to_thread(parent.hear) == 0
    await asyncio.to_thread(parent.finish)
    await receiver.received(0, 1)


async def test_a_child_is_refused_while_a_thread_of_its_parent_had_a_connection_of_djangos(
    start: Start, receiver: Receiver
) -> None:
    """Django lets no thread close those of another one."""
    parent = start("beside_a_threads_connection")
    assert "another thread had one of Django's" in await asyncio.to_thread(parent.hear)
    assert await asyncio.to_thread(parent.hear) == 0
    await asyncio.to_thread(parent.finish)
    await receiver.received(1)


async def test_a_fork_is_interrupted(start: Start, receiver: Receiver, layer: Any) -> None:
    """The locks that it had taken are free again afterwards."""
    parent = start("forks_interrupted")
    await asyncio.to_thread(fork_while_locked, parent, layer)
    assert await asyncio.to_thread(parent.hear) == "sent"
    await receiver.received(0, 1)


async def test_a_process_that_forked_last_takes_its_leave(start: Start, layer: Any) -> None:
    """The fork has closed its connections; at its end it opens them once more."""
    parent = start("ends_after_a_fork")
    assert await asyncio.to_thread(parent.hear) == "joined"
    await asyncio.to_thread(parent.finish)
    assert await layer.group_count(GROUP) == 0
