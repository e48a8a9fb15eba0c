"""A wall clock that the harness can set, for all processes of a measurement at the same moment.

What `time.time()` says in a child is the machine's time and an offset, which all of them read from
one mapped file. Other clocks, asyncio's and the ledger's among them, are left as they are.
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
        """Seconds that it is ahead of the machine's."""
        offset: float = OFFSET.unpack_from(self._map)[0]
        return offset

    @offset.setter
    def offset(self, seconds: float) -> None:
        OFFSET.pack_into(self._map, 0, seconds)


def install(directory: Path) -> None:
    """Have this process tell the time by the clock in `directory`."""
    clock, machine = Clock(directory), time.time

    def shifted() -> float:
        return machine() + clock.offset

    time.time = shifted
