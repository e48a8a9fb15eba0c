"""The harness's faults really happen to our layer, and the ledger names them."""

from __future__ import annotations

import asyncio
import time

import pytest

from stress import faults, sabotage
from stress.clock import Clock
from stress.history import History
from stress.lab import Lab
from stress.roles import Worker
from stress.scenarios.chaos import RETENTION, ROOM, prepare, small_disks
from stress.troupe import Troupe
from stress.verdict import Verdict, check

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.usefixtures("clock")]

LAB = {"config": {**ROOM, "message_retention": RETENTION}, "durable": True, "prepare": prepare}


@pytest.fixture
def clock(here: Lab) -> Clock:
    """By which all children tell the time."""
    return Clock(here.directory)


async def after(here: Lab, *met: faults.Fault, own_disk: bool = False) -> tuple[History, Verdict]:
    """The ledger of a small troupe that met with these faults, and its verdict."""
    troupe = Troupe(here, size=130)
    await troupe.enter(2, 1, own_disk=own_disk)
    await asyncio.sleep(0.3)
    for fault in met:
        await fault(troupe)
    await asyncio.sleep(0.3)
    await troupe.leave()
    await here.settle()
    entries = await here.entries()
    return History(entries), check(entries)


async def test_nothing_is_lost_nor_excused_and_a_forked_process_takes_part(here: Lab) -> None:
    history, verdict = await after(here, faults.stop, faults.crash, faults.fork)
    assert (verdict.examples, verdict.excuses) == ([], [])
    assert verdict.received > 100
    forked = [key for key in history.messages if "-fork" in key[0]]
    assert len(forked) == 3 * faults.SENT_BY_FORK  # to two receivers, and to itself


async def test_what_a_kill_takes_with_it_is_named(here: Lab) -> None:
    history, verdict = await after(here, faults.kill)
    (victim,) = history.killed
    assert verdict.examples == []
    assert all(victim in excuse for excuse in verdict.excuses)


@pytest.mark.skipif(not small_disks(), reason="needs a tmpfs in a user namespace")
async def test_a_full_disk_is_an_error_for_senders_and_no_loss(here: Lab) -> None:
    _, verdict = await after(here, faults.fill, own_disk=True)
    assert verdict.failed > 0
    assert (verdict.examples, verdict.excuses) == ([], [])


async def test_who_loses_the_file_finds_together_again(here: Lab) -> None:
    history, verdict = await after(here, faults.replace, faults.delete)
    assert verdict.examples == []
    names = [said for _, _, said in history.faults]
    assert len(names) == 2
    assert all(any(said in excuse for said in names) for excuse in verdict.excuses)
    for _, end, _ in history.faults:
        assert [each for each in history.messages.values() if each.sent_at > end]


async def wall(worker: Worker) -> float:
    return time.time()


async def test_a_clock_that_jumped_is_right_and_doubles_nothing(here: Lab, clock: Clock) -> None:
    """It is set for all children at once."""
    children = await here.start("alice", "bob")
    for offset in (3600.0, -3600.0, 0.0):
        clock.offset = offset
        for child in children:
            assert await child.call(wall) - time.time() == pytest.approx(offset, abs=60)
    history, verdict = await after(here, faults.jump)
    assert len(history.jumps) == 1  # one of two goes forward
    assert clock.offset == 0
    assert (verdict.doubled, verdict.misordered, verdict.invented) == (0, 0, 0)


async def test_every_part_is_hit(here: Lab) -> None:
    """The beginnings of its statements are still those of the layer."""
    troupe = Troupe(here, size=130)
    await troupe.enter(1, 1, own_disk=False)
    for part in sabotage.PARTS:
        (victim,) = troupe.receivers if part in sabotage.READER else troupe.writers
        for _ in range(10):  # of two processes, either trims for both
            if hits := await victim.call(sabotage.sabotage, part=part, seconds=1.0):
                break
        assert hits > 0, part
    await troupe.leave()
    await here.settle()
    assert check(await here.entries()).examples == []
