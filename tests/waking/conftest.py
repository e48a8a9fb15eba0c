"""Fixtures for the tests of what wakes a reader."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from channels_sqlite._storing.files import Files
from tests.waking.listeners import Noting, Place


@pytest.fixture
async def listener() -> Noting:
    """A listener that is to be woken, on the test's event loop."""
    return Noting()


@pytest.fixture
def files(tmp_path: Path) -> Files:
    """The files of an empty database."""
    database = tmp_path / "channels.sqlite3"
    database.touch()
    return Files(str(database))


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    """The files to watch."""
    place = Place(tmp_path)
    yield place
    place.bell.close(remove=True)
