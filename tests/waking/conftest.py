"""What the tests of what wakes a reader share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.waking.ears import Ear, Place


@pytest.fixture
async def ear() -> Ear:
    """Somebody who is to be woken, on the test's event loop."""
    return Ear()


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    """The files to watch."""
    place = Place(tmp_path)
    yield place
    place.bell.close(remove=True)
