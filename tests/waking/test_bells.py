"""Bells: a file that wakes its reader, and whose lock says that it lives; and who is rung."""

from __future__ import annotations

import asyncio
import os
import shutil
import stat
from collections.abc import Collection, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from channels_sqlite._storing.database import Database
from channels_sqlite._storing.files import Files
from channels_sqlite._storing.locks import lock
from channels_sqlite._waking import bells
from channels_sqlite._waking.bells import BEING_MADE, STATUS_SIZE, Bell, client_of, ring
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


def sweep(files: Files) -> list[str]:
    """Sweep; the clients that are told to be forgotten."""
    told: list[str] = []
    bells.remove_dead(files, told.extend)
    return sorted(told)


# Its life


def test_a_bell_says_how_its_reader_is_while_that_lives(files: Files, bell: Bell) -> None:
    assert bells.living(files) == {OURS: {"pid": 1}}
    for status in ({"pid": 1, "watcher": "inotify"}, {"pid": 1}):
        bell.say(status)
        assert bells.living(files) == {OURS: status}
    assert not bell.was_rung
    os.utime(bell.path, (1, 1))
    assert bell.was_rung
    for nonsense in (b"[1]", b"{", b"\xff", b"[" * STATUS_SIZE):
        path(files, OURS).write_bytes(nonsense)
        assert bells.living(files) == {OURS: {}}
    assert sweep(files) == []
    assert names(files) == [OURS]


def test_a_bell_is_locked_before_it_has_its_name(
    files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise a sweeper would take a newborn for dead."""
    rename, found = os.rename, []

    def look_first(source: str, target: str, *, src_dir_fd: int, dst_dir_fd: int) -> None:
        with open(path(files, source)) as unnamed:
            found.append((target, lock(unnamed.fileno())))
        rename(source, target, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd)

    monkeypatch.setattr(os, "rename", look_first)
    Bell(files, OURS, {}).close(remove=True)
    assert found == [(OURS, False)]


def test_those_who_may_use_the_database_may_ring(files: Files) -> None:
    for mode in (0o600, 0o664):
        os.chmod(files.path, mode)
        bell = Bell(files, OURS, {})
        assert stat.S_IMODE(os.stat(bell.path).st_mode) == mode
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


def test_a_closed_bell_is_gone_and_nobody_elses_is(files: Files, bell: Bell) -> None:
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


# Living and dead readers


def test_a_link_that_comes_in_place_of_the_directory_leads_nobody_elsewhere(
    files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between any two steps, by another user: a bell would be a file of theirs where only root
    makes any, and the sweeper would delete others' files.
    """
    (elsewhere := tmp_path / "elsewhere").mkdir()
    (elsewhere / "build-script").touch()  # it might be a bell, by its name

    def swap_after(module: Any, step: str) -> None:
        do = getattr(module, step)

        def swap(*given: Any) -> Any:
            done = do(*given)
            if not os.path.islink(files.bells):
                shutil.rmtree(files.bells)
                os.symlink(elsewhere, files.bells)
            return done

        monkeypatch.setattr(module, step, swap)

    for step in ("make_bells", "has_bells"):
        with monkeypatch.context() as monkeypatch:
            swap_after(Files, step)
            with pytest.raises(OSError, match="bells"):
                Bell(files, OURS, {})
            with files.opening_lock(0) as alone:
                assert alone is None
            os.unlink(files.bells)
            os.mkdir(files.bells)
            assert sweep(files) == []
        with suppress(OSError):
            os.unlink(files.bells)
    assert os.listdir(elsewhere) == ["build-script"]


def test_a_copied_or_unfinished_bell_is_removed_and_nobody_told(files: Files, bell: Bell) -> None:
    """As a backup puts it in place of the bell. Its reader lives, and makes another one."""
    leave_dead(files, THEIRS)
    os.rename(path(files, THEIRS), path(files, f"{BEING_MADE}{THEIRS}"))
    assert bells.living(files).keys() == {OURS}
    shutil.copy(bell.path, path(files, "copy"))
    os.replace(path(files, "copy"), bell.path)
    assert sweep(files) == []
    assert names(files) == []


def test_where_a_file_system_has_no_locks_nobody_is_taken_for_dead(
    files: Files, bell: Bell, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: int) -> None:
        raise OSError

    monkeypatch.setattr("fcntl.flock", fail)
    assert sweep(files) == []
    assert names(files) == [OURS]


def test_a_bell_of_the_same_name_made_meanwhile_is_left_alone(files: Files) -> None:
    def make_another(clients: list[str]) -> None:
        os.rename(path(files, THEIRS), path(files, "elsewhere"))
        path(files, THEIRS).touch()

    leave_dead(files, THEIRS)
    bells.remove_dead(files, make_another)
    assert THEIRS in names(files)


def test_what_two_sweepers_both_begin_to_remove_keeps_neither_from_the_rest(
    files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bells, "AT_ONCE", 3)
    leave_dead(files, *(f"dead-{number}-67890" for number in range(10)))
    told: list[str] = []

    def be_overtaken(clients: list[str]) -> None:
        told.extend(clients)
        os.unlink(path(files, clients[0]))

    bells.remove_dead(files, be_overtaken)
    assert len(told) == 10
    assert names(files) == []


def test_a_child_forked_while_a_bell_is_opened_keeps_nothing_locked(
    files: Files, database: Path
) -> None:
    """Neither its parent's own bell nor that of a dead reader, at which it looks."""
    leave_dead(files, THEIRS)
    with Child(
        "tests.faults.bell_children.forks_while_bells_are_opened", database, path=files.path
    ) as parent:
        assert parent.hear() == 5
        parent.kill()
        assert sweep(files) == ["made-4567890", THEIRS]


# Ringing


def test_a_process_local_inbox_names_its_bell() -> None:
    assert client_of("specific.abcdefghijkl!") == OURS
    assert client_of("a.b.abcdef_-1234!") == "abcdef_-1234"
    others = ["specific.short!", "specific.../../etc/pass!", "specific.\0bcdefghijkl!"]
    others += ["specific.abcdefghijk\n!", "specific.\u0661bcdefghijkl!", "specific.abcdefghijkl"]
    assert {client_of(inbox) for inbox in ("mail", "!", *others)} == {None}


class Reader:
    """A reader in this process, of which nothing else is asked."""

    client = OURS

    def __init__(self) -> None:
        self.rang: list[tuple[Collection[str] | None, Any]] = []

    def rung(self, inboxes: Collection[str] | None, here: Any) -> None:
        self.rang.append((inboxes, here))


async def test_a_reader_in_this_process_is_told_another_rung_and_of_normal_channels_the_log_tells(
    files: Files, bell: Bell
) -> None:
    database, reader = Database("channels", files.path, {}), Reader()
    other = Bell(files, THEIRS, {})
    readers: Any = database.readers
    readers.add(reader)
    Path(files.wal).touch()  # noqa: ASYNC240
    paths = {OURS: bell.path, THEIRS: other.path, "log": files.wal}

    def touched(*inboxes: str) -> set[str]:
        """Which files a ring touches."""
        for each in paths.values():
            os.utime(each, (1, 1))
        ring(database, {*inboxes})
        return {name for name, path in paths.items() if os.stat(path).st_mtime > 1}

    here, local, remote = asyncio.get_running_loop(), f"in.{OURS}!", f"in.{THEIRS}!"
    assert touched(local) == set()
    assert touched(remote) == {THEIRS}
    await asyncio.to_thread(ring, database, {local})
    assert reader.rang == [({local}, here), ({remote}, here), ({local}, None)]
    assert touched("mail", "letters") == {"log"}
    assert touched("mail", remote) == {"log", THEIRS}
    other.close(remove=True)
