"""A nursery for the tests that start real children; they mark themselves with its loop's scope."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from stress.children import Children


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def children(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Children]:
    async with Children(tmp_path_factory.mktemp("run")) as nursery:
        yield nursery
