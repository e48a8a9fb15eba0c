"""Ringing: the readers of a message are woken, in this process and in others."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import pytest

from channels_sqlite._storing.database import Database
from channels_sqlite._storing.files import Files
from channels_sqlite._waking.bells import Bell, Ringer, client_of

OURS, THEIRS = "abcdefghijkl", "mnopqrstuvwx"


@pytest.mark.parametrize(
    ("inbox", "client"),
    [
        ("specific.abcdefghijkl!", OURS),
        ("a.b.abcdef_-1234!", "abcdef_-1234"),
        ("mail", None),
        ("specific.abcdefghijkl", None),
        ("specific.short!", None),
        ("!", None),
        ("specific.../../etc/pass!", None),
        ("specific.\0bcdefghijkl!", None),
        ("specific.abcdefghijk\n!", None),
        ("specific.\u0661bcdefghijkl!", None),
    ],
)
def test_a_process_local_inbox_names_its_bell(inbox: str, client: str | None) -> None:
    assert client_of(inbox) == client


class Reader:
    """A reader in this process."""

    client = OURS
    has_bell = True
    acknowledge_now = status = leave = lambda self: pytest.fail("nobody asked for it")

    def __init__(self) -> None:
        self.rang: list[tuple[Collection[str] | None, Any]] = []

    def rung(self, inboxes: Collection[str] | None, here: Any) -> None:
        self.rang.append((inboxes, here))


class Ringing:
    """A process with one reader, another process's reader, and the log."""

    def __init__(self, name: str) -> None:
        self.database = Database("channels", name, {})
        self.ringer, self.reader = Ringer(self.database), Reader()
        self.database.readers.add(self.reader)
        self.paths: dict[str, str] = {}

    def touched(self) -> set[str]:
        """The names of the files that were touched since the last call."""
        found = {name for name, path in self.paths.items() if os.stat(path).st_mtime > 1}
        for each in self.paths.values():
            os.utime(each, (1, 1))
        return found


@pytest.fixture
def ringing(files: Files) -> Iterator[Ringing]:
    ringing, bells = Ringing(files.path), [Bell(files, client, {}) for client in (OURS, THEIRS)]
    Path(files.wal).touch()
    ringing.paths = {OURS: bells[0].path, THEIRS: bells[1].path, "log": files.wal}
    ringing.touched()
    yield ringing
    for bell in bells:
        bell.close(remove=True)


async def test_a_reader_in_this_process_is_told_and_another_rung(ringing: Ringing) -> None:
    here, (local, remote) = asyncio.get_running_loop(), (f"in.{OURS}!", f"in.{THEIRS}!")
    ringing.ringer.ring({local})
    assert ringing.touched() == set()
    ringing.ringer.ring({remote})
    assert ringing.touched() == {THEIRS}
    await asyncio.to_thread(ringing.ringer.ring, {local})
    assert ringing.reader.rang == [({local}, here), ({remote}, here), ({local}, None)]


def test_readers_of_a_normal_channel_hear_of_it_by_the_log(ringing: Ringing) -> None:
    ringing.ringer.ring({"mail", "letters"})
    assert ringing.touched() == {"log"}
    ringing.ringer.ring({"mail", f"in.{THEIRS}!"})
    assert ringing.touched() == {"log", THEIRS}


def test_a_reader_is_asked_for_room_by_its_bell(ringing: Ringing) -> None:
    assert ringing.ringer.ask(f"in.{THEIRS}!")
    assert ringing.touched() == {THEIRS}
    assert not ringing.ringer.ask("in.gone--------!")
    assert not ringing.ringer.ask("mail")
    assert ringing.touched() == set()


def test_all_are_rung_after_a_flush(ringing: Ringing) -> None:
    ringing.ringer.ring_all()
    assert ringing.touched() == {OURS, THEIRS, "log"}
    assert ringing.reader.rang == [(None, None)]


def test_ringing_makes_and_follows_nothing(ringing: Ringing, files: Files, tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.touch()
    os.utime(precious, (1, 1))
    Path(files.bells, "a-symlink---").symlink_to(precious)
    before = os.listdir(files.bells)
    ringing.ringer.ring({"in.a-symlink---!", "in.gone--------!", "in.../precious!"})
    ringing.ringer.ring_all()
    assert precious.stat().st_mtime == 1
    assert os.listdir(files.bells) == before


def test_in_memory_nothing_is_touched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    ringing = Ringing("file:some?mode=memory&cache=shared")
    ringing.ringer.ring({"mail", f"in.{THEIRS}!"})
    ringing.ringer.ring_all()
    assert not ringing.ringer.ask(f"in.{THEIRS}!")
    assert len(ringing.reader.rang) == 2
    assert os.listdir(tmp_path) == []
