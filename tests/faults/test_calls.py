"""System calls that fail once, or for a while: no descriptor is left, the disk reports an error, or
the kernel has no memory. The call says so, and the next one works.
"""

from __future__ import annotations

import errno
import os
import shutil
import time
from pathlib import Path

import pytest

from channels_sqlite._storing.files import Files
from tests.faults.conftest import StartWith
from tests.faults.peers import Peer, Refused
from tests.faults.test_disks import INJECT, unprivileged  # noqa: F401 - for skipif
from tests.processes import succeeds  # noqa: F401 - for skipif
from tests.rows import message

injected = pytest.mark.skipif("not succeeds(*INJECT)", reason="no strace here, or it may not trace")


def failing(path: Path | str, *faults: str) -> list[str]:
    """The command under which calls on the path fail, in the terms of strace's `inject`."""
    return ["strace", "-fqq", "-o/dev/null", f"-P{path}", *(f"-einject={each}" for each in faults)]


@injected
@pytest.mark.parametrize("connection", [1, 2])
def test_the_file_could_be_opened_for_reading_only(
    start_with: StartWith, database: Path, connection: int
) -> None:
    """SQLite opens it so where no descriptor was left to open it for writing, for as long as the
    connection is open: it is opened again.
    """
    start = start_with(*failing(database, f"openat:error=EMFILE:when={connection}"))
    peer = Peer(start)
    with pytest.raises(Refused, match=r"DatabaseUnavailable.*readonly"):
        peer.send("jobs", message(1))
    peer.send("jobs", message(2))
    assert peer.receive("jobs") == message(2)
    peer.finish()


@injected
@pytest.mark.parametrize("fault", ["ftruncate:error=ENOSPC", "pwrite64:error=ENOSPC"])
def test_the_record_cannot_be_written(start_with: StartWith, database: Path, fault: str) -> None:
    """It is a precaution: the file is used without one, also another one of its name."""
    peer = Peer(start_with(*failing(f"{database}-bells/.opened", fault)))
    copy = shutil.copy(database, f"{database}.copy")
    peer.send("jobs", message(1))
    assert peer.receive("jobs") == message(1)
    os.replace(copy, database)
    time.sleep(1.1)
    for number in range(2, 5):
        peer.send("jobs", message(number))
        assert peer.receive("jobs") == message(number)
    peer.finish()


def test_a_disk_does_not_say_whether_the_file_is_there(
    database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At exit nothing is removed then, and the database never is."""
    files = Files(str(database))
    assert files.find()
    real = os.stat
    failed: list[str] = []

    def stat(path: str, **options: bool) -> os.stat_result:
        if path == str(database) and not failed:
            failed.append(path)
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return real(path, **options)

    with monkeypatch.context() as patch:
        patch.setattr(os, "stat", stat)
        files.remove_what_is_left()
    assert failed
    assert database.exists()


@pytest.mark.skipif("os.getuid() == 0 and not shutil.which('setpriv')", reason="no setpriv here")
def test_the_directory_cannot_be_searched_for_a_while(
    start_with: StartWith, database: Path
) -> None:
    """A reader that can neither find its bell nor make another one still holds its lock: it lives,
    and stays a member.
    """
    folder = database.parent / "folder"
    os.mkdir(folder)
    path = Path(shutil.move(database, folder))
    start = start_with(*unprivileged("true"), database=path)
    reader, sender = Peer(start), Peer(start, capacity=10_000)
    channel = reader.join("company")
    sender.send("jobs", message(1))
    os.chmod(folder, 0)
    time.sleep(2.5)  # heartbeats that find no bell
    os.chmod(folder, 0o755)
    end = time.monotonic() + 2.5
    while time.monotonic() < end:  # sweeps
        sender.send("jobs", message(1))
        time.sleep(0.02)
    assert sender.group_channels("company") == [channel]
    for each in (reader, sender):
        each.finish()
