"""Real child processes: spoken to, failing, killed, stopped, and never left behind."""

from __future__ import annotations

import os
import signal

import psutil
import pytest

from stress import roles
from stress.children import ChildError, Children
from stress.lab import Lab
from stress.roles import Worker
from tests.stress.conftest import new_lab

pytestmark = pytest.mark.asyncio(loop_scope="session")

LAB = {"layer": "memory"}


async def fail(worker: Worker) -> None:
    raise LookupError(f"nothing here, says {worker.name}")


async def environment(worker: Worker, name: str) -> str | None:
    return os.environ.get(name)


async def test_a_child_is_another_process_that_answers_and_tells_of_errors(here: Lab) -> None:
    """Under a wrapper, too. Whoever waits for one that was killed is told."""
    child = await here.child("alice", wrapper=("env", "WRAPPED=1"))
    assert psutil.Process(child.pid).is_running()
    assert await child.call(environment, name="WRAPPED") == "1"
    with pytest.raises(ChildError, match="LookupError: nothing here, says alice"):
        await child.call(fail)
    assert await child.call(roles.arrived) == 0
    await child.kill()
    assert not child.alive
    with pytest.raises(ChildError, match="alice has ended"):
        await child.call(roles.arrived)


async def test_a_stopped_child_is_ended_all_the_same(children: Children) -> None:
    async with new_lab(children, "memory") as place:
        (child,) = await place.start("alice")
        process = psutil.Process(child.pid)
        child.signal(signal.SIGSTOP)
    _, alive = psutil.wait_procs([process], timeout=10)
    assert not alive
    assert not place.directory.exists()
