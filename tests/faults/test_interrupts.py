"""Exceptions out of signal handlers, at random moments and at every call: what was interrupted may
be lost, and all the rest goes on.

A hundred random ones here, and 10,000 with FAULTS_INTERRUPTS=10000, as `nox -s faults`
has it.
"""

from __future__ import annotations

import os
import signal
import sys
from collections import Counter
from typing import Any

import pytest

from tests.conftest import Start

INTERRUPTS = int(os.environ.get("FAULTS_INTERRUPTS", "100"))
CHILDREN = "tests.faults.interrupt_children"

pytestmark = pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no timers here")


of_python = pytest.mark.skipif(
    (3, 14) <= sys.version_info < (3, 15),
    reason="a lock may stay taken: python/cpython issue 148874, mended in Python 3.15",
)


@of_python
@pytest.mark.timeout(120 + INTERRUPTS)
@pytest.mark.parametrize(
    ("way", "kind", "share"),
    [
        ("OneLoop", "KeyboardInterrupt", 0.6),
        ("OneLoop", "TimeUp", 0.2),
        ("LoopEach", "KeyboardInterrupt", 0.1),
        ("AsyncToSync", "KeyboardInterrupt", 0.1),
    ],
)
def test_calls_are_interrupted_at_random_moments(
    start: Start, way: str, kind: str, share: float
) -> None:
    """After each of them the file's lock is free, a cancelled task has ended, and what is sent is
    received, now and then on another thread, which then closes the layer; the child sees to that.
    """
    child = start(f"{CHILDREN}.interrupted", way=way, kind=kind, count=int(INTERRUPTS * share))
    check(child.hear(100 + INTERRUPTS))


@of_python
def test_each_call_is_interrupted_in_turn(start: Start) -> None:
    """The same at every call of ours, on one event loop: no moment is left to chance."""
    check(start(f"{CHILDREN}.interrupted_at_every_call").hear(100))


def check(said: dict[str, Any]) -> None:
    """Nothing came twice, and only what was in the hands of what was interrupted was lost."""
    assert said["integrity"] == "ok"
    kept, got = Counter(said["kept"]), Counter(said["got"])
    assert not [number for number, count in (kept + got).items() if count > 1]
    assert set(said["sent"]) <= set(kept) <= {*said["sent"], *said["perhaps sent"]}
    members = set(said["members"])
    assert set(said["joined"]) <= members <= {*said["joined"], *said["perhaps joined"]}


def test_the_layer_is_used_in_an_exit_handler_that_runs_after_its_own(start: Start) -> None:
    child = start(f"{CHILDREN}.in_a_late_handler")
    assert [child.hear() for _ in range(3)] == [0, 1, 2]
    assert child.wait() == 0


@pytest.mark.parametrize("size", [1, 2_000_000], ids=["in place", "on the thread"])
def test_loops_are_stopped_and_closed_in_the_middle_of_sends(start: Start, size: int) -> None:
    """The next loop works, and no call of ours complains on stderr; asyncio does of the tasks that
    the program has left.
    """
    child = start(f"{CHILDREN}.on_loops_that_end", size=size)
    assert child.hear(60) == "used"
    assert child.wait() == 0
    assert "RuntimeError" not in child.errors()
