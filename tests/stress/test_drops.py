"""Several members of a group in one process, and no room: layer and ledger count alike."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from stress import ledger, roles
from stress.lab import Lab
from stress.roles import Worker
from stress.verdict import check

pytestmark = pytest.mark.asyncio(loop_scope="session")

MEMBERS = 3
CAPACITY = 5
GROUP = "everybody"
LAB = {"config": {"capacity": CAPACITY}}


async def send(worker: Worker, start: int, many: int) -> None:
    for number in range(start, start + many):
        await roles.send_one(worker, "s", number, GROUP, group=True, size=130)


async def block(worker: Worker, channel: str, message: dict[str, Any]) -> None:
    """A consumer that is busy with its first message until it is let go."""
    del channel, message
    await worker.kept.setdefault("go", asyncio.Event()).wait()


async def let_go(worker: Worker) -> None:
    worker.kept["go"].set()


async def test_full_buffers(here: Lab) -> None:
    """Its process reads, and its consumers do not: each buffer drops its oldest."""
    sender, receiver = await here.start("sender", "receiver")
    await receiver.call(roles.open_channels, many=MEMBERS, group=GROUP, react=block)
    for start in range(0, 4 * CAPACITY, 2):
        await sender.call(send, start=start, many=2)
        await asyncio.sleep(0.15)  # read and acknowledged: the table has room
    await receiver.call(let_go)
    await here.settle()
    verdict = check(await here.entries())
    assert verdict.dropped > 0
    assert (verdict.examples, verdict.broken) == ([], False)
    assert verdict.owed - verdict.received >= verdict.dropped
    entries = await here.entries()
    entries.remove(next(entry for entry in entries if entry.kind == ledger.RECEIVED))
    assert check(entries).lost == 1
    # The count is what makes it balance.
    assert check(entry for entry in entries if entry.kind != ledger.DROPPED).lost > 1
