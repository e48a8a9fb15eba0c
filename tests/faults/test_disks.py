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
from contextlib import suppress
from functools import partial
from pathlib import Path

import psutil
import pytest

from channels_sqlite._storing.files import Files
from channels_sqlite._storing.schema import MESSAGE
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


namespaces = pytest.mark.skipif("not has_namespaces()", reason="no user namespaces here")


@namespaces
def test_the_disk_is_full(start: Start, migrated: Path, tmp_path: Path) -> None:
    """Sends raise, what was committed is received once and in order, nothing spins, the log gets a
    line or two; with room again it goes on, acknowledges included.
    """
    disk = tmp_path / "disk"
    disk.mkdir()
    on_small_disk = in_namespace(
        f"mount -t tmpfs -o size=4000k none {disk}; cp {migrated} {disk};"
        f" head -c 2000000 /dev/zero > {disk}/room"
    )
    config = {"by": on_small_disk, "on": disk / migrated.name}
    peer = Peer(start, capacity=100_000, auto_trim=False, **config)
    channel = peer.new_channel()
    accepted = peer.send_all(channel, [*range(200)], size=20_000, at_once=1)
    assert 20 < len(accepted) < 190
    seen = Path("/proc", str(peer.child.pid), "root", *disk.parts[1:])  # as the process sees it
    fill(seen / "ballast")
    peer.consume(channel)
    assert peer.heard(channel, accepted[-1]) == accepted
    peer.consume("test-channel")
    time.sleep(2.5)  # heartbeats that cannot acknowledge
    before = sum(psutil.Process(peer.child.pid).cpu_times()[:2])
    time.sleep(1)
    assert sum(psutil.Process(peer.child.pid).cpu_times()[:2]) < before + 0.3  # seconds
    for name in ("ballast", "room"):
        (seen / name).unlink()
    peer.send("test-channel", message(-1))
    assert peer.heard("test-channel", -1) == [-1]
    time.sleep(1.5)  # a heartbeat that can
    assert len(peer.log()) <= 4
    copy = shutil.copytree(seen, tmp_path / "copy")  # SQLite itself would follow root's link
    with sql(copy / migrated.name) as connection:
        assert select(connection, f"count(*) from {MESSAGE} where delivered_at is null") == [0]
        assert select(connection, "integrity_check from pragma_integrity_check") == ["ok"]


def fill(path: Path) -> None:
    """Take what room is left on the disk, to the last byte."""
    with path.open("wb", buffering=0) as file:
        for size in (65536, 4096, 1):
            with suppress(OSError):
                while True:
                    file.write(b"x" * size)


def test_the_file_may_not_grow(start: Start) -> None:
    """SQLite's I/O errors: sends raise, the connection can be used, nothing is lost or doubled."""
    peer = Peer(start, capacity=100_000, auto_trim=False)
    channel = peer.new_channel()
    peer.send(channel, message(0))
    peer.limit_files(300_000)
    accepted = peer.send_all(channel, [*range(1, 50)], size=20_000, at_once=1)
    assert len(accepted) < 40
    peer.limit_files(-1)
    peer.send(channel, message(50))
    peer.consume(channel)
    assert peer.heard(channel, 50) == [0, *accepted, 50]


INJECT = ("strace", "-qq", "-o/dev/null", "-einject=pwrite64:error=EIO:when=1000", "true")
injected = pytest.mark.skipif("not succeeds(*INJECT)", reason="no strace here, or it may not trace")


@injected
def test_the_disk_reports_errors(start: Start, database: Path) -> None:
    """One in fifty writes of a process fails with EIO, and is tried again, or its sender is told;
    what was accepted is received once and in order, and the rest not at all, or once.
    """
    calls = database.with_name("calls")
    bad_disk = ("strace", "-fqq", f"-o{calls}", "-einject=pwrite64:error=EIO:when=30+50")
    sender, reader = Peer(start, by=bad_disk, capacity=100_000), Peer(start, capacity=100_000)
    channel = reader.new_channel()
    accepted = sender.send_all(channel, [*range(300)], size=5000, at_once=1)
    assert calls.read_text().count("(INJECTED)") > 10
    assert len(accepted) > 100
    reader.send(channel, message(300))
    reader.consume(channel)
    got = reader.heard(channel, 300)
    assert got == sorted(set(got))
    assert {*accepted, 300} <= set(got)
    with sql(database) as connection:
        assert select(connection, "integrity_check from pragma_integrity_check") == ["ok"]


@injected
@by_default
async def test_the_log_is_deleted_while_a_slow_disk_takes_it(
    open_layer: OpenLayer, start: Start, database: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Whoever notices must not write to a database into which another process still copies."""
    layer = open_layer(capacity=100_000)
    await layer.send("jobs", {"type": "test"})
    slow = ("strace", "-fqq", "-o/dev/null", "-einject=fsync,fdatasync:delay_exit=2000000:when=1")
    peer = Peer(start, by=slow, capacity=100_000)
    await asyncio.to_thread(peer.send_all, "jobs", [*range(300)], size=900)
    await asyncio.to_thread(peer.checkpoint)
    await asyncio.sleep(0.5)
    for end in ("-wal", "-shm"):
        os.unlink(f"{database}{end}")
    for number in range(1000):
        await layer.send(f"jobs-{number % 10}", {"type": "test", "text": "x" * 500})
        await asyncio.sleep(0.002)
        if number % 50 == 0 and (ours := layer.database.connections):
            ours._worker.post("A checkpoint", ours.checkpoint)
    await asyncio.to_thread(peer.close)
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
