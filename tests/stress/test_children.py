"""Real child processes: spoken to, failing, killed, stopped, and never left behind."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest
import pytest_asyncio

from stress import ledger, roles
from stress.children import ChildError, Children
from stress.lab import Lab, lab
from stress.layers import LAYERS
from stress.roles import Worker
from stress.verdict import check

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def children(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Children]:
    async with Children(tmp_path_factory.mktemp("run")) as nursery:
        yield nursery


@pytest_asyncio.fixture(loop_scope="module")
async def here(tmp_path: Path, children: Children) -> AsyncIterator[Lab]:
    async with lab(LAYERS["memory"], tmp_path / "lab", None, children, {}) as place:
        yield place


async def fail(worker: Worker) -> None:
    raise LookupError(f"nothing here, says {worker.name}")


async def exchange(worker: Worker) -> None:
    (channel,) = await roles.open_channels(worker, many=1)
    await roles.send_paced(worker, "s", channel, rate=1000, seconds=0.01, size=100)


async def test_a_child_is_another_process_that_answers(here: Lab) -> None:
    (child,) = await here.start("alice")
    assert psutil.Process(child.pid).is_running()
    assert await child.call(roles.arrived) == 0


async def test_an_error_in_a_child_is_told_with_its_traceback(here: Lab) -> None:
    (child,) = await here.start("alice")
    with pytest.raises(ChildError, match="LookupError: nothing here, says alice"):
        await child.call(fail)
    assert await child.call(roles.arrived) == 0


async def test_a_childs_ledger_is_collected_and_balances(here: Lab) -> None:
    (child,) = await here.start("alice")
    await child.call(exchange)
    await here.settle(10)
    verdict = check(await here.entries())
    assert (verdict.sent, verdict.received, verdict.broken) == (10, 10, False)


async def test_a_message_the_harness_takes_away_breaks_the_ledger(here: Lab) -> None:
    (child,) = await here.start("alice")
    await child.call(exchange)
    await here.settle(10)
    entries = await here.entries()
    entries.remove(next(entry for entry in entries if entry.kind == ledger.RECEIVED))
    assert check(entries).lost == 1


async def test_whoever_waits_for_a_killed_child_is_told(here: Lab) -> None:
    (child,) = await here.start("alice")
    await child.kill()
    assert not child.alive
    with pytest.raises(ChildError, match="alice has ended"):
        await child.call(roles.arrived)


async def test_a_stopped_child_is_ended_all_the_same(tmp_path: Path, children: Children) -> None:
    async with lab(LAYERS["memory"], tmp_path / "lab", None, children, {}) as place:
        (child,) = await place.start("alice")
        process = psutil.Process(child.pid)
        child.signal(signal.SIGSTOP)
    _, alive = psutil.wait_procs([process], timeout=10)
    assert not alive
    assert not place.directory.exists()


async def test_a_child_runs_under_a_wrapper_too(here: Lab) -> None:
    child = await here.child("alice", wrapper=("env", "WRAPPED=1"))
    assert await child.call(environment, name="WRAPPED") == "1"


async def environment(worker: Worker, name: str) -> str | None:
    import os

    del worker
    return os.environ.get(name)
