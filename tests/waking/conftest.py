"""A listener that only notes how it is woken, and the files by which that is done."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from channels_sqlite._storing.files import Files
from channels_sqlite._storing.once import Once
from channels_sqlite._waking.bells import Bell
from channels_sqlite._waking.listener import Listener
from channels_sqlite.counters import Counters

QUIET = 0.2  # seconds, in which a wake that is not to come would come
CLIENT = "abcdefghijkl"


class Noting(Listener):
    """A listener on the running loop; `heard` names what its watcher has called."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.heard: list[str] = []
        super().__init__(
            loop, lambda rung: False, lambda: False, lambda: None, lambda: 0, Once(), Counters()
        )

    def ring(self) -> None:
        self.heard.append("ring")

    def touch(self) -> None:
        self.heard.append("touch")

    def log_written(self) -> None:
        self.heard.append("write")


class Place:
    """A database's log and a reader's bell; what is in them does not matter here."""

    def __init__(self, directory: Path, name: str = "channels.sqlite3") -> None:
        database = directory / name
        database.touch()
        self.files = Files(str(database))
        self.wal = Path(self.files.wal)
        self.wal.touch()
        self.bell = Bell(self.files, CLIENT, {})


def touch(path: Path | str) -> None:
    """Ring, as after a commit."""
    os.utime(path)


def write(path: Path | str) -> None:
    """Change the file, as SQLite does before a commit can be seen."""
    with open(path, "r+b") as file:
        file.write(b"x")


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
