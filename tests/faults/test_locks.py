"""A foreign process holds the write lock, or reads for long: the loop goes on, receivers go on,
senders are told.
"""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

import pytest

from channels_sqlite._storing.opener import WAL_LIMIT
from channels_sqlite._tools import file_checks
from tests.conftest import OpenLayer, Start
from tests.kinds import by_default
from tests.storing.parts import locked
from tests.waiting import soon

CHILDREN = "tests.faults.children"
SECONDS = [1.0, 3.0, *map(float, os.environ.get("FAULTS_LOCK_SECONDS", "").split())]
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
async def test_somebody_reads_for_a_day(
    open_layer: OpenLayer, start: Start, alias: str, database: Path
) -> None:
    """Messages flow all the same; the log grows, which the system check says; when the reader has
    ended it is cut back, and the check says nothing. Twice.
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

    for _ in range(2):
        reader = start(f"{CHILDREN}.reads_for_long")
        assert await asyncio.to_thread(reader.hear) == "reading"
        while os.stat(log).st_size <= file_checks.LONG_LOG:  # each goes into the log more than once
            await exchange(2_000_000)
        (said,) = file_checks.long_log(alias)
        assert log in said.msg
        reader.tell("enough")
        await asyncio.to_thread(reader.finish)
        for _ in range(2000):
            await exchange(1000)
            if os.stat(log).st_size <= WAL_LIMIT:
                break
        assert os.stat(log).st_size <= WAL_LIMIT
        assert [*file_checks.long_log(alias)] == []
