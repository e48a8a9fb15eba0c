"""A database's files: which they are, who opens them, and whether they still are the same."""

from __future__ import annotations

import errno
import json
import os
import shutil
import stat
import sys
import threading
import time
from pathlib import Path
from unittest.mock import Mock

import pytest

from channels_sqlite._storing import forks, locks
from channels_sqlite._storing.files import KEPT_LOG, RECORD, RECORD_SIZE, Files
from channels_sqlite._storing.schema import MESSAGE
from tests.rows import count, sql
from tests.waiting import PATIENCE

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="open files cannot be deleted here")


@pytest.fixture
def opened(database: Path) -> Files:
    """The files of a database whose log was made, and left."""
    leave_log(database)
    files = Files(str(database))
    assert files.find()
    with files.opening_lock(0):
        files.note_opened()
    return files


def leave_log(path: Path) -> None:
    """Make a log and its index, as a process leaves them that was killed."""
    with sql(path) as connection:
        connection.execute("pragma journal_mode = wal").fetchall()
        connection.execute("insert into channels_sqlite_sequence values ('of the log', 1)")
        kept = {f"{path}{end}": Path(f"{path}{end}").read_bytes() for end in ("-wal", "-shm")}
    for name, content in kept.items():
        Path(name).write_bytes(content)


@pytest.mark.parametrize("file", ["with spaces", "100%41", "Grüße & co", "quote's", "a#b"])
def test_any_file_can_be_named(database: Path, file: str) -> None:
    path = database.rename(database.with_name(file))
    for name in ("{}", "file:{}", "file:{}?mode=rw", "file://{}?cache=private"):
        quoted = str(path) if name == "{}" else str(path).replace("%", "%25").replace("#", "%23")
        files = Files(name.format(quoted))
        assert files.find()
        assert (files.path, files.wal) == (str(path), f"{path}-wal")
        assert count(files.target, MESSAGE) == 0


def test_a_relative_uri_means_the_same_file_in_another_directory(
    database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a daemon changes it; SQLite would make an empty file there."""
    monkeypatch.chdir(database.parent)
    files = Files(f"file:{database.name}?mode=rwc")
    database.with_name("elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    assert files.find()
    assert count(files.target, MESSAGE) == 0


@pytest.mark.skipif(sys.platform == "darwin", reason="names are UTF-8 here")
def test_a_uri_may_name_a_file_that_is_not_utf_8(database: Path) -> None:
    path = database.rename(database.with_name(os.fsdecode(b"caf\xe9")))
    files = Files(f"file:{database.with_name('caf%E9')}")
    assert files.find()
    assert files.path == str(path)
    assert count(files.target, MESSAGE) == 0


@pytest.mark.skipif(not locks.SUPPORTED, reason="no flock here")
def test_a_file_system_without_locks_serves(opened: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    refuse = Mock(side_effect=OSError(errno.ENOLCK, "No locks available"))
    monkeypatch.setattr("fcntl.flock", refuse)
    with opened.opening_lock(0) as alone:
        assert alone


def test_the_directory_of_bells_has_the_rights_of_the_database(database: Path) -> None:
    """A process that may write the file may make a bell, and one that may read it may look."""
    for mode, expected in ((0o600, 0o700), (0o660, 0o770), (0o640, 0o750), (0o666, 0o777)):
        database.chmod(mode)
        files = Files(str(database))
        files.find()
        files.make_bells()
        assert stat.S_IMODE(os.stat(files.bells).st_mode) == expected
        os.rmdir(files.bells)


def test_a_link_in_place_of_the_directory_that_was_just_made_gets_no_rights(
    database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another user may put it there: root would give the directory that it names to them."""
    (elsewhere := tmp_path / "elsewhere").mkdir(mode=0o700)
    database.chmod(0o666)
    files = Files(str(database))
    files.find()
    monkeypatch.setattr(os, "mkdir", lambda path, mode: os.symlink(elsewhere, path))
    with pytest.raises(OSError, match="bells"):
        files.make_bells()
    assert stat.S_IMODE(elsewhere.stat().st_mode) == 0o700


def test_a_record_that_is_nested_too_deep_is_none(opened: Files) -> None:
    """Python 3.11 raises RecursionError, and nobody could open the database."""
    Path(opened.bells, RECORD).write_bytes(b"[" * RECORD_SIZE)
    with opened.opening_lock(0):
        opened.remove_stale_log()
    assert os.path.exists(opened.wal)


def test_what_is_not_seen_is_not_noticed(opened: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    """The open files still serve."""
    monkeypatch.setattr(os, "stat", Mock(side_effect=PermissionError))
    assert opened.replaced() == []


def test_what_is_noted_again_waits_for_who_opens_in_another_thread(opened: Files) -> None:
    """The lock of both is one descriptor; each would close the other's."""
    bells = opened.bells
    noting = threading.Thread(target=opened.note_again)
    with forks.no_fork(), opened.opening_lock(0) as alone:
        assert alone
        shutil.rmtree(bells)
        noting.start()
        noting.join(0.2)
        assert noting.is_alive()
    noting.join(PATIENCE)
    record = Path(bells, RECORD)
    inodes = [os.stat(each).st_ino for each in (opened.path, record)]
    assert json.loads(record.read_bytes()) == inodes


def test_a_log_of_the_future_was_not_written_just_now(opened: Files) -> None:
    """The wall clock was set back since."""
    os.utime(opened.wal, times=(time.time() + 3_600,) * 2)
    assert opened.log_age() > 3_000


def test_beside_a_database_that_is_gone_nothing_is_left_but_readers(opened: Files) -> None:
    opened.remove_what_is_left()
    assert os.path.exists(opened.wal)
    os.unlink(opened.path)
    bell = os.path.join(opened.bells, "abcdefgh-_12")
    Path(bell).touch()
    opened.remove_what_is_left()
    assert os.listdir(os.path.dirname(opened.path)) == [os.path.basename(opened.bells)]
    os.unlink(bell)
    opened.remove_what_is_left()
    assert os.listdir(os.path.dirname(opened.path)) == []


def test_a_link_beside_a_database_that_is_gone_is_not_followed(
    opened: Files, tmp_path: Path
) -> None:
    """Another user may put it there; a home of root's may hold names with a dot only."""
    (elsewhere := tmp_path / "elsewhere").mkdir()
    (theirs := elsewhere / KEPT_LOG).touch()
    inode = theirs.stat().st_ino
    with opened.opening_lock(0):
        shutil.rmtree(opened.bells)
        os.symlink(elsewhere, opened.bells)
        opened.note_opened()
        os.unlink(opened.wal)
        opened.note_closed()
    os.unlink(opened.path)
    opened.remove_what_is_left()
    assert os.listdir(elsewhere) == [KEPT_LOG]
    assert theirs.stat().st_ino == inode
