"""What the harness does to our layer really happens to it, and the ledger says what it was."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio

from stress import faults, sabotage
from stress.children import Children
from stress.clock import Clock
from stress.history import History
from stress.lab import Lab, lab
from stress.layers import LAYERS
from stress.roles import Worker
from stress.scenarios.chaos import RETENTION, ROOM, prepare, small_disks
from stress.troupe import Troupe
from stress.verdict import Verdict, check

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(loop_scope="module")
async def here(tmp_path: Path, children: Children) -> AsyncIterator[Lab]:
    config = {**ROOM, "message_retention": RETENTION}
    layer = LAYERS["sqlite"]
    directory = tmp_path / "lab"
    async with lab(layer, directory, None, children, config, durable=True, prepare=prepare) as it:
        Clock(directory)
        yield it


@dataclass
class Outcome:
    history: History
    verdict: Verdict


async def after(fault: faults.Fault, here: Lab, *, own_disk: bool = False) -> Outcome:
    """What the ledger of a small troupe says that met with a fault."""
    troupe = Troupe(here, size=130)
    await troupe.enter(2, 1, own_disk=own_disk)
    await asyncio.sleep(0.3)
    await fault(troupe)
    await asyncio.sleep(0.3)
    await troupe.leave()
    await here.settle()
    entries = await here.entries()
    return Outcome(History(entries), check(entries))


@pytest.mark.parametrize("name", ["stop", "crash"])
async def test_nothing_is_lost_nor_excused(here: Lab, name: str) -> None:
    fault, _ = faults.FAULTS[name]
    outcome = await after(fault, here)
    assert (outcome.verdict.examples, outcome.verdict.excuses) == ([], [])
    assert outcome.verdict.received > 100


async def test_what_a_kill_takes_with_it_is_named(here: Lab) -> None:
    outcome = await after(faults.kill, here)
    (victim,) = outcome.history.killed
    assert outcome.verdict.examples == []
    assert all(victim in excuse for excuse in outcome.verdict.excuses)


async def test_a_forked_process_takes_part(here: Lab) -> None:
    outcome = await after(faults.fork, here)
    forked = [key for key in outcome.history.messages if "-fork" in key[0]]
    assert len(forked) == 3 * faults.SENT_BY_FORK  # to two receivers, and to itself
    assert not outcome.verdict.broken


@pytest.mark.skipif(not small_disks(), reason="needs a tmpfs in a user namespace")
async def test_a_full_disk_is_an_error_for_senders_and_no_loss(here: Lab) -> None:
    outcome = await after(faults.fill, here, own_disk=True)
    assert outcome.verdict.failed > 0
    assert (outcome.verdict.examples, outcome.verdict.excuses) == ([], [])


@pytest.mark.parametrize("name", ["replace", "delete"])
async def test_who_loses_the_file_finds_together_again(here: Lab, name: str) -> None:
    fault, _ = faults.FAULTS[name]
    outcome = await after(fault, here)
    ((_, end, said),) = outcome.history.faults
    assert outcome.verdict.examples == []
    assert all(said in excuse for excuse in outcome.verdict.excuses)
    later = [m for m in outcome.history.messages.values() if m.sent_at > end]
    assert later


async def test_a_clock_that_jumps_is_right_again_and_doubles_nothing(here: Lab) -> None:
    outcome = await after(faults.jump, here)
    assert len(outcome.history.jumps) == 1  # one of two goes forward
    assert Clock(here.directory).offset == 0
    verdict = outcome.verdict
    assert (verdict.doubled, verdict.misordered, verdict.invented) == (0, 0, 0)


async def wall(worker: Worker) -> float:
    del worker
    return time.time()


async def test_the_clock_of_all_children_is_set_at_once(here: Lab) -> None:
    alice, bob = await here.start("alice", "bob")
    clock = Clock(here.directory)
    for offset in (3600.0, -3600.0, 0.0):
        clock.offset = offset
        for child in (alice, bob):
            assert await child.call(wall) - time.time() == pytest.approx(offset, abs=60)


@pytest.mark.parametrize("part", list(sabotage.PARTS))
async def test_every_part_is_hit(here: Lab, part: str) -> None:
    """The beginnings of its statements are still those of the layer."""
    troupe = Troupe(here, size=130)
    await troupe.enter(1, 1, own_disk=False)
    (victim,) = troupe.receivers if part in sabotage.READER else troupe.writers
    for _ in range(10):  # of two processes, either trims for both
        if hits := await victim.call(sabotage.sabotage, part=part, seconds=1.5):
            break
    assert hits > 0
    await troupe.leave()
    await here.settle()
    assert check(await here.entries()).examples == []
