"""Bells: a file that wakes its reader, and whose lock says that it lives."""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from channels_sqlite._storing.files import Files
from channels_sqlite._waking import bells
from channels_sqlite._waking.bells import BEING_MADE, Bell
from tests.processes import Child

OURS, THEIRS = "abcdefghijkl", "mnopqrstuvwx"


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
    """Leave the bells of readers that were killed."""
    for client in clients:
        Bell(files, client, {}).close(remove=False)


def sweep(files: Files, at_once: int = 100) -> list[str]:
    """Sweep; the clients that are told to be forgotten."""
    told: list[str] = []
    bells.remove_dead(files, told.extend, at_once)
    return sorted(told)


# Its life


def test_a_bell_says_how_its_reader_is_while_that_lives(files: Files, bell: Bell) -> None:
    assert bells.living(files) == {OURS: {"pid": 1}}
    for status in ({"pid": 1, "watcher": "inotify"}, {"pid": 1}):
        bell.say(status)
        assert bells.living(files) == {OURS: status}
    for nonsense in (b"[1]", b"{", b"\xff"):
        path(files, OURS).write_bytes(nonsense)
        assert bells.living(files) == {OURS: {}}
    assert sweep(files) == []
    assert names(files) == [OURS]


def test_a_ring_is_told_from_what_the_reader_says(bell: Bell) -> None:
    assert not bell.was_rung
    os.utime(bell.path, (1, 1))
    assert bell.was_rung
    bell.say({"channels": 1})
    assert not bell.was_rung


@pytest.mark.parametrize("mode", [0o600, 0o664])
def test_those_who_may_use_the_database_may_ring(files: Files, mode: int) -> None:
    os.chmod(files.path, mode)
    bell = Bell(files, OURS, {})
    assert stat.S_IMODE(os.stat(bell.path).st_mode) == mode
    bell.close(remove=True)


def test_a_newborn_is_not_taken_for_dead(files: Files) -> None:
    """It is locked before it has its name, and born again if a sweeper was quicker."""
    born, told = threading.Event(), list[str]()

    def keep_sweeping() -> None:
        while not born.is_set():
            told.extend(sweep(files))

    sweeper = threading.Thread(target=keep_sweeping)
    sweeper.start()
    clients = [f"newborn-{number:04}" for number in range(200)]
    alive = [Bell(files, client, {}) for client in clients]
    born.set()
    sweeper.join()
    assert all(bell.is_in(files) for bell in alive)
    assert sorted(bells.living(files)) == names(files) == clients
    assert told == []
    for bell in alive:
        bell.close(remove=True)


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


@pytest.mark.usefixtures("bell")
def test_the_dead_are_forgotten_and_then_removed(files: Files) -> None:
    def forget(clients: list[str]) -> None:
        assert {*clients} == {THEIRS, "yz0123456789"} < {*names(files)}

    leave_dead(files, THEIRS, "yz0123456789")
    assert bells.remove_dead(files, forget, 100) == 2
    assert names(files) == [OURS]
    assert sweep(files) == []


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


def test_one_that_died_while_it_was_born_is_removed_and_nobody_told(files: Files) -> None:
    leave_dead(files, THEIRS)
    os.rename(path(files, THEIRS), path(files, f"{BEING_MADE}{THEIRS}"))
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
    assert sweep(files) == []  # nor is there a directory
    assert bells.living(files) == {}
    leave_dead(files, THEIRS)
    os.rename(path(files, THEIRS), tmp_path / "precious")
    path(files, "a-symlink---").symlink_to(tmp_path / "precious")
    path(files, "a-dangling--").symlink_to(tmp_path / "nothing")
    path(files, "a-directory-").mkdir()
    os.mkfifo(path(files, "a-fifo------"))
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


@pytest.mark.parametrize("forks", [False, True], ids=["alone", "with a forked child that lives"])
def test_the_kernel_says_that_a_killed_process_is_dead(
    files: Files, database: Path, forks: bool
) -> None:
    arguments = {"path": files.path, "forks": forks}
    with Child("tests.waking.children.has_a_bell", database, **arguments) as child:
        client = child.hear()
        assert bells.living(files).keys() == {client}
        child.kill()
        assert sweep(files) == [client]
        if forks:
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
