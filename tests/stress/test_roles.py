"""The tasks of children, given to a worker in this process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from channels.layers import InMemoryChannelLayer

from stress import ledger, recorder, roles
from stress.ledger import Entry
from stress.recorder import Recorder
from stress.roles import Worker


@pytest_asyncio.fixture
async def alice(tmp_path: Path) -> AsyncIterator[Worker]:
    worker = Worker("alice", InMemoryChannelLayer(), Recorder(tmp_path / "alice.ledger"))
    yield worker
    await roles.disconnect(worker)


def written(worker: Worker, kind: str) -> list[Entry]:
    worker.recorder.write()
    return [entry for entry in recorder.read(worker.recorder.path) if entry.kind == kind]


async def test_now_and_then_each_target_gets_something_and_there_is_no_beat(alice: Worker) -> None:
    targets = await roles.open_channels(alice, many=3)
    accepted = await roles.send_now_and_then(alice, "s", targets, rate=200.0, seconds=0.5, size=100)
    sent = written(alice, ledger.SENT)
    assert accepted == len(sent) > 10
    assert [entry.number for entry in sent] == list(range(accepted))
    assert {entry.target for entry in sent} == {*targets}
    pauses = [after.at - before.at for before, after in pairwise(sent)]
    assert max(pauses) > 1.1 * min(pauses)


async def test_however_short_the_time_something_is_sent(alice: Worker) -> None:
    (target,) = await roles.open_channels(alice, many=1)
    how: Any = {"rate": 100.0, "seconds": 0.0, "size": 100}
    assert await roles.send_now_and_then(alice, "s", [target], **how) == 1
    await asyncio.sleep(0)
    assert await roles.arrived(alice) == 1


async def test_a_server_can_ask_a_pubsub_layer_for_its_counts_on_a_thread() -> None:
    pubsub = pytest.importorskip("channels_redis.pubsub")
    layer = pubsub.RedisPubSubChannelLayer(hosts=[])
    assert await asyncio.to_thread(roles.counts_of, layer) == {}
