"""A nursery for the tests that start real children; they mark themselves with its loop's scope."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from itertools import count
from typing import Any

import pytest
import pytest_asyncio

from stress.children import Children
from stress.lab import Lab, lab
from stress.layers import LAYERS

_numbers = count(1)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def children(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Children]:
    async with Children(tmp_path_factory.mktemp("run")) as nursery:
        yield nursery


def new_lab(
    children: Children, layer: str = "sqlite", **options: Any
) -> AbstractAsyncContextManager[Lab]:
    """An empty lab beside the other tests', with which it shares the migrated database to copy."""
    place = children.socket.with_name(f"lab{next(_numbers)}")
    return lab(LAYERS[layer], place, None, children, options.pop("config", {}), **options)


@pytest_asyncio.fixture(loop_scope="session")
async def here(request: pytest.FixtureRequest, children: Children) -> AsyncIterator[Lab]:
    """A lab with the options that stand in the module of the test."""
    async with new_lab(children, **getattr(request.module, "LAB", {})) as place:
        yield place
