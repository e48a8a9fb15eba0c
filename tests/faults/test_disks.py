"""Disks that are full or fail, files that only others may write, and system calls that fail: the
call says so, and the next one works.
"""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pytest

from channels_sqlite._storing.files import Files
from channels_sqlite.exceptions import this_user
from channels_sqlite.layers import SqliteChannelLayer
from tests.conftest import OpenLayer, Start
from tests.databases import alias_for
from tests.faults.peers import Peer, Refused
from tests.kinds import by_default
from tests.processes import has_namespaces, in_namespace, succeeds  # noqa: F401 - for skipif
from tests.rows import message, select, sql
from tests.waiting import soon

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no such limits here")
CHILDREN = "tests.faults.children"


namespaces = pytest.mark.skipif("not has_namespaces()", reason="no user namespaces here")


@namespaces
def test_the_disk_is_full(start: Start, migrated: Path, tmp_path: Path) -> None:
    """Sends raise, what was committed is received once and in order, nothing spins, the log gets a
    line or two; with room again it goes on, acknowledges included.
    """
    disk = tmp_path / "disk"
    disk.mkdir()
    on_small_disk = in_namespace(
        f"mount -t tmpfs -o size=4000k none {disk}; head -c 2000000 /dev/zero > {disk}/room"
    )
    files = {"directory": str(disk), "migrated": str(migrated)}
    child = start(f"{CHILDREN}.fills_the_disk", by=on_small_disk, **files)
    said = child.hear(60)
    assert child.wait() == 0
    assert len(child.errors().splitlines()) <= 4
    assert len(said["accepted"]) > 20
    assert set(said["refused"]) == {"DatabaseUnavailable"}
    assert said["received"] == said["accepted"]
    assert said["again"] == -1
    assert said["processor"] < 0.3  # of a second
    assert said["unread"] == 0
    assert said["integrity"] == "ok"


def test_the_file_may_not_grow(start: Start) -> None:
    """SQLite's I/O errors: sends raise, the connection can be used, nothing is lost or doubled."""
    child = start(f"{CHILDREN}.meets_a_limit", size=300_000)
    said = child.hear(60)
    assert child.wait() == 0
    assert set(said["refused"]) == {"DatabaseUnavailable"}
    assert said["received"] == [0, *said["accepted"], -1]


INJECT = ("strace", "-qq", "-o/dev/null", "-einject=pwrite64:error=EIO:when=1000", "true")
injected = pytest.mark.skipif("not succeeds(*INJECT)", reason="no strace here, or it may not trace")


@injected
@by_default
async def test_the_disk_reports_errors(
    open_layer: OpenLayer, start: Start, database: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """One in fifty writes of a process fails with EIO, and is tried again, or its sender is told;
    what was accepted is received once and in order, and the rest not at all, or once.
    """
    layer = open_layer(capacity=100_000)
    channel = await layer.new_channel()
    calls = database.with_name("calls")
    bad_disk = ("strace", "-fqq", f"-o{calls}", "-einject=pwrite64:error=EIO:when=30+50")
    child = start(f"{CHILDREN}.writes_whatever_happens", by=bad_disk, channel=channel)
    said = await asyncio.to_thread(child.hear, 60)
    assert await asyncio.to_thread(child.wait) == 0
    assert calls.read_text().count("(INJECTED)") > 10
    assert set(said["refused"]) <= {"DatabaseUnavailable"}
    assert len(said["accepted"]) > 100
    await layer.send(channel, {"type": "test", "number": -1})
    got = []
    while (number := (await soon(layer.receive(channel)))["number"]) != -1:
        got.append(number)
    assert got == sorted(set(got))
    assert set(said["accepted"]) <= set(got)
    with sql(database) as connection:
        assert select(connection, "integrity_check from pragma_integrity_check") == ["ok"]
    caplog.clear()


@injected
@by_default
async def test_the_log_is_deleted_while_a_slow_disk_takes_it(
    open_layer: OpenLayer, start: Start, database: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Whoever notices must not write to a database into which another process still copies."""
    layer = open_layer(capacity=100_000)
    await layer.send("jobs", {"type": "test"})
    slow = ("strace", "-fqq", "-o/dev/null", "-einject=fsync,fdatasync:delay_exit=2000000:when=1")
    child = start(f"{CHILDREN}.makes_a_checkpoint", by=slow)
    assert await asyncio.to_thread(child.hear) == "ready"
    child.tell("copy")
    assert await asyncio.to_thread(child.hear) == "posted"
    await asyncio.sleep(0.5)
    for end in ("-wal", "-shm"):
        os.unlink(f"{database}{end}")
    for number in range(1000):
        await layer.send(f"jobs-{number % 10}", {"type": "test", "text": "x" * 500})
        await asyncio.sleep(0.002)
        if number % 50 == 0 and (ours := layer.database.connections):
            ours._worker.post("A checkpoint", ours.checkpoint)
    child.tell("end")
    assert await asyncio.to_thread(child.wait) == 0
    await layer.close()
    with sql(database) as connection:
        assert select(connection, "integrity_check from pragma_integrity_check") == ["ok"]
    assert "was deleted or replaced" in caplog.text
    caplog.clear()


def unprivileged(script: str) -> Sequence[str]:
    """The command that runs another one as who has no rights but those of the file's mode."""
    without = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"] if os.getuid() == 0 else []
    return ("sh", "-ec", f'{script}; exec "$@"', "sh", *without)


@pytest.mark.skipif("os.getuid() == 0 and not shutil.which('setpriv')", reason="no setpriv here")
@pytest.mark.parametrize("modes", [(0o755, 0o444), (0o555, 0o644)], ids=["file", "directory"])
async def test_only_others_may_write(start: Start, database: Path, modes: tuple[int, int]) -> None:
    """Each use says so, with the path and what to do; given the rights, it works."""
    folder = database.parent / "folder"
    os.mkdir(folder)
    path = Path(shutil.move(database, folder))
    rights = f"chmod {modes[1]:o} {path}; chmod {modes[0]:o} {folder}"
    try:
        peer = Peer(start, by=unprivileged(rights), on=path)
        await asyncio.to_thread(check_refused, peer, path)
    finally:
        os.chmod(folder, 0o755)
        os.chmod(path, 0o644)
    with alias_for(path) as name:
        layer = SqliteChannelLayer(database=name)
        await layer.send("a", {"type": "test"})
        assert await soon(layer.receive("a")) == {"type": "test"}
        await layer.close()


def check_refused(peer: Peer, path: Path) -> None:
    """Each use raises, each time, in words that name the path and the user."""
    for _ in range(3):
        for use in (partial(peer.send, "a", message(1)), partial(peer.receive, "a")):
            with pytest.raises(Refused, match="DatabaseUnavailable") as refused:
                use()
            assert str(path) in str(refused.value)
            assert this_user() in str(refused.value)
    peer.finish()


@namespaces
def test_the_disk_is_read_only(start: Start, database: Path) -> None:
    on_read_only_disk = in_namespace(
        f"mount --bind {database.parent} {database.parent};"
        f" mount -o remount,ro,bind {database.parent}"
    )
    check_refused(Peer(start, by=on_read_only_disk), database)


# System calls that fail once, or for a while


def failing(path: Path | str, *faults: str) -> list[str]:
    """The command under which calls on the path fail, in the terms of strace's `inject`."""
    return ["strace", "-fqq", "-o/dev/null", f"-P{path}", *(f"-einject={each}" for each in faults)]


@injected
@pytest.mark.parametrize("connection", [1, 2])
def test_the_file_could_be_opened_for_reading_only(
    start: Start, database: Path, connection: int
) -> None:
    """SQLite opens it so where no descriptor was left to open it for writing, for as long as the
    connection is open: it is opened again.
    """
    peer = Peer(start, by=failing(database, f"openat:error=EMFILE:when={connection}"))
    with pytest.raises(Refused, match=r"DatabaseUnavailable.*readonly"):
        peer.send("jobs", message(1))
    peer.send("jobs", message(2))
    assert peer.receive("jobs") == message(2)
    peer.finish()


@injected
def test_the_record_cannot_be_written(start: Start, database: Path) -> None:
    """It is a precaution: the file is used without one, also another one of its name."""
    peer = Peer(start, by=failing(f"{database}-bells/.opened", "ftruncate:error=ENOSPC"))
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
def test_the_directory_cannot_be_searched_for_a_while(start: Start, database: Path) -> None:
    """A reader that can neither find its bell nor make another one still holds its lock: it lives,
    and stays a member.
    """
    folder = database.parent / "folder"
    os.mkdir(folder)
    path = Path(shutil.move(database, folder))
    reader, sender = [
        Peer(start, by=unprivileged("true"), on=path, capacity=10_000) for _ in range(2)
    ]
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
