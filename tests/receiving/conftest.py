"""Fixtures for the tests of a receiver."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.conftest import SetTimes
from tests.receiving.processes import Open, Process


@pytest.fixture
async def open_(alias: str) -> AsyncIterator[Open]:
    processes: list[Process] = []

    def open_one(alias: str = alias, **config: Any) -> Process:
        processes.append(Process(alias, **config))
        return processes[-1]

    yield open_one
    for process in processes:
        await process.layer.close()


@pytest.fixture
def process(open_: Open) -> Process:
    return open_()


@pytest.fixture
def quick_heart(set_times: SetTimes) -> None:
    set_times(heartbeat=0.05)
