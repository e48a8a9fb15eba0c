"""What the processes of the tests of large bodies and small limits do; see tests/processes.py."""

from __future__ import annotations

import asyncio
import os
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from channels_sqlite.exceptions import DatabaseUnavailable
from channels_sqlite.layers import SqliteChannelLayer
from tests.children import main, say, use

PATIENCE = 10.0  # seconds, of which only a hang takes so many
ENOUGH = 24  # descriptors


async def has_few_descriptors() -> None:
    """Say what comes of the first use, and of reopening, for each number of free descriptors; and
    of the next use, when there are enough again.
    """
    await asyncio.wait_for(use(SqliteChannelLayer()), PATIENCE)  # imports what is imported late
    for is_open in (False, True):
        for number in range(ENOUGH):
            layer = SqliteChannelLayer()
            if is_open:
                await use(layer)
            await layer.close()
            with free_descriptors(number):
                said = await outcome(layer)
            say([said, await outcome(layer)])
            await layer.close()
    say(None)


async def outcome(layer: SqliteChannelLayer) -> str:
    """Words of an error of ours, or ""."""
    try:
        await asyncio.wait_for(use(layer), PATIENCE)
    except DatabaseUnavailable as error:
        return str(error)
    return ""


@contextmanager
def free_descriptors(number: int) -> Iterator[None]:
    """The process can open so many files, and no more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken = []
    top = max(map(int, os.listdir("/proc/self/fd")))
    while (descriptor := os.open(os.devnull, os.O_RDONLY)) < top:
        taken.append(descriptor)
    os.close(descriptor)
    resource.setrlimit(resource.RLIMIT_NOFILE, (descriptor + number, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for descriptor in taken:
            with suppress(OSError):
                os.close(descriptor)


if __name__ == "__main__":
    main(globals(), *sys.argv[1:])
