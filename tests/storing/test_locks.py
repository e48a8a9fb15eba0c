"""Locks on files: one process has it, until it gives it up or dies."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from channels_sqlite._storing import locks
from tests.processes import ROOT
from tests.waiting import PATIENCE

pytestmark = pytest.mark.skipif(not locks.SUPPORTED, reason="no flock here")

HOLDER = """
import os, sys
from channels_sqlite._storing import locks
assert locks.lock(os.open(sys.argv[1], os.O_RDWR))
print("locked", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "lock"
    path.touch()
    return path


@pytest.fixture
def descriptor(path: Path) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDWR)
    yield descriptor
    os.close(descriptor)


def test_a_lock_that_another_has_is_not_had_until_it_is_given_up(
    path: Path, descriptor: int
) -> None:
    other = os.open(path, os.O_RDWR)
    assert locks.lock(other)
    assert not locks.lock(descriptor)
    assert not locks.lock(descriptor, wait=0.02)
    os.close(other)
    assert locks.lock(descriptor)


def test_a_lock_is_given_up_by_the_kernel_when_its_process_is_killed(
    path: Path, descriptor: int
) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, path],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"locked\n"
        assert not locks.lock(descriptor)
        holder.kill()
        assert locks.lock(descriptor, wait=PATIENCE)
