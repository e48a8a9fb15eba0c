"""A foreign process holds the write lock: the loop goes on, receivers go on, senders are told."""

from __future__ import annotations

import os
import time

import pytest

from tests.conftest import Start

CHILDREN = "tests.faults.children"
SECONDS = [1.0, 5.0, *map(float, os.environ.get("FAULTS_LOCK_SECONDS", "").split())]
"""How long; more of them in an environment variable, for what is too long to wait for each time."""


@pytest.mark.flaky(reruns=3)  # a busy machine makes every loop late
@pytest.mark.timeout(200)
@pytest.mark.parametrize("seconds", SECONDS)
def test_the_lock_is_held(start: Start, watcher: str, seconds: float) -> None:
    """A tick of 10 ms is not late by more than 100 ms; every sender, however many queue, gets its
    error when its own timeout is over.
    """
    timeout = seconds * 0.6
    child = start(f"{CHILDREN}.under_a_lock", timeout=timeout, watcher=watcher)
    bystander = start(f"{CHILDREN}.ticks")
    assert child.hear() == bystander.hear() == "ready"
    holder = start("lock_holder")
    assert holder.hear() == "locked"
    child.tell("locked")
    begun = time.monotonic()
    assert child.hear() == [*range(20)]  # what was committed before
    time.sleep(max(0, begun + seconds - time.monotonic()))
    holder.tell("release")
    assert holder.hear() == "free"
    child.tell("free")
    said = child.hear()
    child.finish()
    bystander.tell("stop")
    assert said["latest"] < 0.1 + bystander.hear()  # which has no layer
    assert len(said["waits"]) == 140
    assert min(said["waits"]) > 0.8 * timeout
    assert max(said["waits"]) < 1.1 * timeout + 0.5
    assert said["last"] == 21
