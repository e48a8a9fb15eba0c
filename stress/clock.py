"""A wall clock that the harness can set, for all processes of a measurement at the same moment.

In a child, `time.time()` is the machine's time plus an offset, which all children read from one
mapped file. Other clocks, such as those of asyncio and of the ledger, are not changed.
"""

from __future__ import annotations

import mmap
import struct
import time
from pathlib import Path

OFFSET = struct.Struct("d")
FILE = "clock"


class Clock:
    def __init__(self, directory: Path) -> None:
        path = directory / FILE
        if not path.exists():
            path.write_bytes(OFFSET.pack(0.0))
        with path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), OFFSET.size)

    @property
    def offset(self) -> float:
        """The seconds by which it is ahead of the machine's clock."""
        offset: float = OFFSET.unpack_from(self._map)[0]
        return offset

    @offset.setter
    def offset(self, seconds: float) -> None:
        OFFSET.pack_into(self._map, 0, seconds)


def install(directory: Path) -> None:
    """Make `time.time()` of this process follow the clock in `directory`."""
    clock, machine = Clock(directory), time.time

    def shifted() -> float:
        return machine() + clock.offset

    time.time = shifted
