"""Bells: a file that wakes its reader, and whose lock says that it lives."""

from __future__ import annotations

import asyncio
import os
import socket
import stat
import threading
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import pytest

from channels_sqlite._storing.database import Database
from channels_sqlite._storing.files import Files
from channels_sqlite._waking import bells
from channels_sqlite._waking.bells import Bell, Ringer, client_of
from tests.processes import Child

OURS, THEIRS = "abcdefghijkl", "mnopqrstuvwx"


@pytest.fixture
def files(tmp_path: Path) -> Files:
    database = tmp_path / "channels.sqlite3"
    database.touch()
    return Files(str(database))


@pytest.fixture
def bell(files: Files) -> Iterator[Bell]:
    bell = Bell(files, OURS, {"pid": 1})
    yield bell
    bell.close(remove=True)


def path(files: Files, name: str) -> Path:
    return Path(files.bells, name)


def names(files: Files) -> list[str]:
    return sorted(os.listdir(files.bells))


def leave_dead(files: Files, *clients: str) -> None:
    """What readers leave that were killed."""
    for client in clients:
        Bell(files, client, {}).close(remove=False)


def sweep(files: Files, at_once: int = 100) -> list[str]:
    """Whom others are told to forget."""
    told: list[str] = []
    bells.remove_dead(files, told.extend, at_once)
    return sorted(told)


# Its life


@pytest.mark.usefixtures("bell")
def test_a_bell_is_there_and_its_reader_lives(files: Files) -> None:
    assert names(files) == [OURS]
    assert bells.living(files) == {OURS: {"pid": 1}}
    assert sweep(files) == []
    assert names(files) == [OURS]


def test_a_bell_says_how_its_reader_is(files: Files, bell: Bell) -> None:
    for status in ({"pid": 1, "watcher": "inotify"}, {"pid": 1}):
        bell.say(status)
        assert bells.living(files) == {OURS: status}
    assert path(files, OURS).stat().st_size == bells.STATUS_SIZE


def test_a_ring_is_told_from_what_the_reader_says(files: Files, bell: Bell) -> None:
    assert not bell.was_rung
    os.utime(bell.path, (1, 1))
    assert bell.was_rung
    bell.say({"channels": 1})
    assert not bell.was_rung


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o664])
def test_those_who_may_use_the_database_may_ring(files: Files, mode: int) -> None:
    os.chmod(files.path, mode)
    bell = Bell(files, OURS, {})
    assert stat.S_IMODE(os.stat(bell.path).st_mode) == mode
    bell.close(remove=True)


def test_a_newborn_is_not_taken_for_dead(files: Files) -> None:
    """It is locked before it has its name, and born again if a sweeper was quicker."""
    born = threading.Event()
    told: list[str] = []

    def keep_sweeping() -> None:
        while not born.is_set():
            told.extend(sweep(files))

    sweeper = threading.Thread(target=keep_sweeping)
    sweeper.start()
    alive = [Bell(files, f"newborn-{number:04}", {}) for number in range(200)]
    born.set()
    sweeper.join()
    assert all(bell.is_in(files) for bell in alive)
    assert bells.living(files).keys() == {f"newborn-{number:04}" for number in range(200)}
    assert names(files) == sorted(bells.living(files))
    for bell in alive:
        bell.close(remove=True)
    assert told == []


def test_a_bell_that_cannot_be_made_leaves_nothing(files: Files) -> None:
    path(files, OURS).mkdir(parents=True)
    with pytest.raises(OSError, match=OURS):
        Bell(files, OURS, {})
    assert names(files) == [OURS]
    os.rmdir(path(files, OURS))
    os.rmdir(files.bells)
    Path(files.bells).touch()
    with pytest.raises(OSError, match="bells"):
        Bell(files, OURS, {})


def test_a_reader_knows_whether_its_bell_is_still_in_its_place(
    files: Files, bell: Bell, tmp_path: Path
) -> None:
    assert bell.is_in(files)
    assert not bell.is_in(Files(str(tmp_path / "other.sqlite3")))
    os.rename(bell.path, f"{bell.path}-")
    assert not bell.is_in(files)
    Path(bell.path).touch()
    assert not bell.is_in(files)
    os.rename(f"{bell.path}-", bell.path)
    assert bell.is_in(files)
    bell.close(remove=False)
    assert not bell.is_in(files)


def test_closed_it_is_gone_and_nobody_elses_is(files: Files, bell: Bell) -> None:
    bell.close(remove=True)
    assert names(files) == []
    Path(bell.path).touch()
    bell.close(remove=True)
    bell.say({"pid": 2})
    assert Path(bell.path).read_bytes() == b""
    other = Bell(files, THEIRS, {})
    os.unlink(other.path)
    Path(other.path).touch()  # another one has its name by now
    other.close(remove=True)
    assert names(files) == [OURS, THEIRS]


# Who lives


def test_the_dead_are_forgotten_and_then_removed(files: Files, bell: Bell) -> None:
    leave_dead(files, THEIRS)
    leave_dead(files, "yz0123456789")

    def forget(clients: list[str]) -> None:
        assert {*clients} == {THEIRS, "yz0123456789"} < {*names(files)}

    assert bells.remove_dead(files, forget, 100) == 2
    assert names(files) == [OURS]
    assert bells.remove_dead(files, lambda clients: None, 100) == 0


def test_no_more_are_removed_than_may_be_open_at_once(files: Files) -> None:
    leave_dead(files, *(f"reader-{number:05}" for number in range(5)))
    assert [len(sweep(files, at_once=2)) for _ in range(4)] == [2, 2, 1, 0]


def test_one_that_cannot_be_forgotten_stays(files: Files) -> None:
    def fail(clients: list[str]) -> None:
        raise TimeoutError

    leave_dead(files, THEIRS)
    with pytest.raises(TimeoutError):
        bells.remove_dead(files, fail, 100)
    assert sweep(files) == [THEIRS]


def test_one_that_was_born_dead_is_removed_and_nobody_told(files: Files) -> None:
    leave_dead(files, THEIRS)
    os.rename(path(files, THEIRS), path(files, f"{bells.BEING_MADE}{THEIRS}"))
    assert bells.living(files) == {}
    assert sweep(files) == []
    assert names(files) == []


def test_a_bell_of_the_same_name_made_meanwhile_is_left_alone(files: Files) -> None:
    def make_another(clients: list[str]) -> None:
        os.rename(path(files, THEIRS), path(files, "elsewhere"))
        path(files, THEIRS).touch()

    leave_dead(files, THEIRS)
    bells.remove_dead(files, make_another, 100)
    assert THEIRS in names(files)


def test_what_is_no_bell_is_left_alone(files: Files, tmp_path: Path) -> None:
    leave_dead(files, THEIRS)
    os.rename(path(files, THEIRS), tmp_path / "precious")
    path(files, "a-symlink---").symlink_to(tmp_path / "precious")
    path(files, "a-dangling--").symlink_to(tmp_path / "nothing")
    path(files, "a-directory-").mkdir()
    os.mkfifo(path(files, "a-fifo------"))
    with socket.socket(socket.AF_UNIX) as unix:
        os.chdir(files.bells)  # its path may not be long
        unix.bind("a-socket----")
    for name in (".opened", ".swept", "short", "thirteen-long", "umläut------", "dots........"):
        path(files, name).touch()
    before = names(files)
    assert sweep(files) == []
    assert bells.living(files) == {}
    assert names(files) == before
    assert (tmp_path / "precious").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_one_that_cannot_be_read_is_left_alone(files: Files) -> None:
    leave_dead(files, THEIRS)
    os.chmod(path(files, THEIRS), 0)
    assert sweep(files) == []
    assert names(files) == [THEIRS]


def test_where_there_are_no_bells_nobody_lives(files: Files) -> None:
    assert bells.living(files) == {}
    assert sweep(files) == []


def test_a_reader_that_says_nonsense_lives(files: Files, bell: Bell) -> None:
    for nonsense in (b"[1]", b"{", b"\xff"):
        Path(bell.path).write_bytes(nonsense)
        assert bells.living(files) == {OURS: {}}
    assert sweep(files) == []


def test_the_kernel_says_that_a_killed_process_is_dead(files: Files, database: Path) -> None:
    with Child("tests.waking.children.has_a_bell", database, path=files.path) as child:
        client = child.hear()
        assert bells.living(files).keys() == {client}
        child.kill()
        assert sweep(files) == [client]


def test_a_forked_child_does_not_keep_its_parents_lock(files: Files, database: Path) -> None:
    with Child("tests.waking.children.has_a_bell", database, path=files.path, forks=True) as child:
        client = child.hear()
        assert child.hear() == "in the child"
        assert bells.living(files).keys() == {client}
        child.kill()
        assert sweep(files) == [client]
        child.tell("end")


def test_a_child_that_is_forked_from_a_sweeper_keeps_nothing_locked(
    files: Files, database: Path
) -> None:
    """The fork may have kept the sweeper from its work, too."""
    leave_dead(files, THEIRS)
    with Child("tests.waking.children.forks_while_sweeping", database, path=files.path) as child:
        assert child.hear() == "in the child"
        child.kill()
        assert sweep(files) == [THEIRS]
        child.tell("end")


# Ringing


@pytest.mark.parametrize(
    ("inbox", "client"),
    [
        ("specific.abcdefghijkl!", OURS),
        ("a.b.abcdef_-1234!", "abcdef_-1234"),
        ("abcdefghijkl!", OURS),
        ("mail", None),
        ("specific.abcdefghijkl", None),
        ("specific.short!", None),
        ("!", None),
        ("specific.../../etc/pass!", None),
        ("specific./etc/passwd1!", None),
        ("specific.\0bcdefghijkl!", None),
        ("specific.abcdefghijk\n!", None),
        ("specific.\u0661bcdefghijkl!", None),
    ],
)
def test_a_process_local_inbox_names_its_bell(inbox: str, client: str | None) -> None:
    assert client_of(inbox) == client


class Reader:
    """A reader in this process."""

    has_bell = True

    def __init__(self, client: str) -> None:
        self.client = client
        self.rang: list[tuple[Collection[str] | None, Any]] = []

    def rung(self, inboxes: Collection[str] | None, here: Any) -> None:
        self.rang.append((inboxes, here))

    def acknowledge_now(self) -> bool:
        return False

    def status(self) -> dict[str, Any]:
        return {}

    def leave(self) -> None:
        pass


class Ringing:
    """A process with one reader, another process's reader, and the log."""

    def __init__(self, database: Database) -> None:
        self.ringer = Ringer(database)
        self.reader = Reader(OURS)
        database.readers.add(self.reader)
        files = database.files
        self.bells = [Bell(files, client, {}) for client in (OURS, THEIRS)]
        Path(files.wal).touch()
        self.paths = {OURS: self.bells[0].path, THEIRS: self.bells[1].path, "log": files.wal}

    def touched(self) -> set[str]:
        """What was touched since the last call."""
        found = {name for name, path in self.paths.items() if os.stat(path).st_mtime > 1}
        for each in self.paths.values():
            os.utime(each, (1, 1))
        return found


@pytest.fixture
def ringing(files: Files) -> Iterator[Ringing]:
    ringing = Ringing(Database("channels", files.path, {}))
    ringing.touched()
    yield ringing
    for bell in ringing.bells:
        bell.close(remove=True)


async def test_a_reader_in_this_process_is_told_and_another_rung(ringing: Ringing) -> None:
    here, (local, remote) = asyncio.get_running_loop(), (f"in.{OURS}!", f"in.{THEIRS}!")
    ringing.ringer.ring({local})
    assert ringing.touched() == set()
    ringing.ringer.ring({remote})
    assert ringing.touched() == {THEIRS}
    assert ringing.reader.rang == [({local}, here), ({remote}, here)]
    await asyncio.to_thread(ringing.ringer.ring, {local})
    assert ringing.reader.rang[-1] == ({local}, None)


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
    path(files, "a-symlink---").symlink_to(precious)
    before = names(files)
    ringing.ringer.ring({"in.a-symlink---!", "in.gone--------!", "in.../precious!"})
    ringing.ringer.ring_all()
    assert precious.stat().st_mtime == 1
    assert names(files) == before


def test_in_memory_nothing_is_touched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    database = Database("channels", "file:some?mode=memory&cache=shared", {})
    ringer, reader = Ringer(database), Reader(OURS)
    database.readers.add(reader)
    ringer.ring({"mail", f"in.{THEIRS}!"})
    ringer.ring_all()
    assert not ringer.ask(f"in.{THEIRS}!")
    assert len(reader.rang) == 2
    assert os.listdir(tmp_path) == []
