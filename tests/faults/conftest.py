"""Fixtures for the tests of faults."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.conftest import Start
from tests.processes import Child

StartWith = Callable[..., Start]
"""Starts processes by way of a command, such as `unshare`; by default on the test's database."""


@pytest.fixture
def start_with(database: Path) -> Iterator[StartWith]:
    with ExitStack() as children:

        def start_with_(*command: str, database: Path = database) -> Start:
            def start(function: str, /, **arguments: object) -> Child:
                child = Child.under(*command)(function, database, **arguments)
                return children.enter_context(child)

            return start

        yield start_with_
