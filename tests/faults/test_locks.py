"""A foreign process holds the write lock, or reads for long: the loop goes on, receivers go on,
senders are told. Readers die with what they have claimed; senders race.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from channels_sqlite._storing.opener import WAL_LIMIT
from channels_sqlite._storing.schema import MESSAGE
from channels_sqlite._tools import file_checks
from tests.conftest import OpenLayer, Start
from tests.faults.peers import Peer
from tests.kinds import by_default
from tests.rows import message, select, sql
from tests.storing.parts import locked
from tests.waiting import soon

CHILDREN = "tests.faults.children"
SECONDS = [1.0, *map(float, os.environ.get("FAULTS_LOCK_SECONDS", "").split())]
"""How long; more of them in an environment variable, for what is too long to wait for each time."""


@pytest.mark.flaky(reruns=3)  # a busy machine makes every loop late
@pytest.mark.timeout(200)
@pytest.mark.parametrize("seconds", SECONDS)
def test_the_lock_is_held(start: Start, database: Path, seconds: float) -> None:
    """A tick of 10 ms is not late by half of a sender's timeout; every sender, however many queue,
    gets its error when its own timeout is over.
    """
    timeout = seconds * 0.6
    child = start(f"{CHILDREN}.under_a_lock", patience=timeout)
    bystander = start(f"{CHILDREN}.ticks")
    assert child.hear() == bystander.hear() == "ready"
    with locked(database):
        child.tell("locked")
        begun = time.monotonic()
        assert child.hear() == [*range(20)]  # what was committed before
        time.sleep(max(0, begun + seconds - time.monotonic()))
    child.tell("free")
    said = child.hear()
    child.finish()
    bystander.tell("stop")
    assert said["latest"] < 0.3 * seconds + bystander.hear()  # which has no layer
    assert len(said["waits"]) == 140
    assert min(said["waits"]) > 0.8 * timeout
    assert max(said["waits"]) < 1.1 * timeout + 0.5
    assert said["last"] == 21


@by_default
async def test_somebody_reads_for_a_day(open_layer: OpenLayer, alias: str, database: Path) -> None:
    """Messages flow all the same; the log grows, which the system check says; when the reader has
    ended it is cut back, and the check says nothing.
    """
    layer = open_layer(message_retention=0, capacity=1000)
    channel = await layer.new_channel()
    log = f"{database}-wal"
    number = 0

    async def exchange(size: int) -> None:
        nonlocal number
        number += 1
        await layer.send(channel, {"type": "test", "number": number, "text": "x" * size})
        assert (await soon(layer.receive(channel)))["number"] == number

    with sql(database) as reader:
        reader.execute("begin")
        assert select(reader, f"count(*) from {MESSAGE}") == [0]
        while os.stat(log).st_size <= file_checks.LONG_LOG:  # each goes there more than once
            await exchange(2_000_000)
        (said,) = file_checks.long_log(alias)
        assert log in said.msg
    for _ in range(2000):
        await exchange(1000)
        if os.stat(log).st_size <= WAL_LIMIT:
            break
    assert os.stat(log).st_size <= WAL_LIMIT
    assert [*file_checks.long_log(alias)] == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_killed_with_a_claim_in_its_hands(start: Start, database: Path) -> None:
    """The claim is committed, and nobody has the message: it is lost, and nobody gets it twice."""
    survivor = Peer(start)
    for turn in range(3):
        doomed = Peer(start)
        doomed.die_at_delivery()
        survivor.send("test-channel", message(turn))
        doomed.begin("receive", "test-channel")
        assert doomed.child.wait() == -signal.SIGKILL
        survivor.send("test-channel", message(turn + 100))
        assert survivor.receive("test-channel")["number"] == turn + 100
    survivor.consume("test-channel")
    time.sleep(0.05)
    assert survivor.taken("test-channel") == []
    survivor.close()
    with sql(database) as connection:
        assert select(connection, f"count(*) from {MESSAGE} where delivered_at is null") == [0]
        assert select(connection, f"count(*) from {MESSAGE}") == [6]


def test_processes_race_for_the_last_room(start: Start) -> None:
    """Three times, three at once: what is accepted is the capacity, and not a message more."""
    racers = [Peer(start, capacity=40) for _ in range(3)]
    for turn in range(3):
        moment = time.time() + 0.05
        for racer in racers:
            racer.begin("send_all", f"race-{turn}", [*range(40)], at=moment)
        assert sum(len(racer.result()) for racer in racers) == 40
