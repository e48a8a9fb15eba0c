"""Disks that are full, files that may not grow, and those that only others may write."""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pytest

from channels_sqlite.exceptions import this_user
from channels_sqlite.layers import SqliteChannelLayer
from tests.conftest import OpenLayer, Start
from tests.databases import alias_for
from tests.faults.conftest import StartWith
from tests.faults.peers import Peer, Refused
from tests.kinds import by_default
from tests.processes import Child, has_namespaces, in_namespace, succeeds  # noqa: F401 - for skipif
from tests.rows import message, select, sql
from tests.waiting import soon

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no such limits here")
CHILDREN = "tests.faults.children"


namespaces = pytest.mark.skipif("not has_namespaces()", reason="no user namespaces here")


@namespaces
@pytest.mark.parametrize("size", ["4000k", "5000k"])
def test_the_disk_is_full(migrated: Path, tmp_path: Path, size: str) -> None:
    """Sends raise, what was committed is received once and in order, nothing spins, the log gets a
    line or two; with room again it goes on, acknowledges included.
    """
    disk = tmp_path / "disk"
    disk.mkdir()
    on_small_disk = in_namespace(
        f"mount -t tmpfs -o size={size} none {disk}; head -c 2000000 /dev/zero > {disk}/room"
    )
    with Child.under(*on_small_disk)(
        f"{CHILDREN}.fills_the_disk", disk, directory=str(disk), migrated=str(migrated)
    ) as child:
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


@pytest.mark.parametrize("size", [300_000, 1_000_000])
def test_the_file_may_not_grow(start: Start, size: int) -> None:
    """SQLite's I/O errors: sends raise, the connection can be used, nothing is lost or doubled."""
    child = start(f"{CHILDREN}.meets_a_limit", size=size)
    said = child.hear(60)
    assert child.wait() == 0
    assert set(said["refused"]) == {"DatabaseUnavailable"}
    assert said["received"] == [0, *said["accepted"], -1]


INJECT = ("strace", "-qq", "-o/dev/null", "-einject=pwrite64:error=EIO:when=1000", "true")


@pytest.mark.skipif("not succeeds(*INJECT)", reason="no strace here, or it may not trace")
@by_default
async def test_the_disk_reports_errors(
    open_layer: OpenLayer, database: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """One in fifty writes of a process fails with EIO, and is tried again, or its sender is told;
    what was accepted is received once and in order, and the rest not at all, or once.
    """
    layer = open_layer(capacity=100_000)
    channel = await layer.new_channel()
    calls = database.with_name("calls")
    on_bad_disk = Child.under(
        "strace", "-fqq", f"-o{calls}", "-einject=pwrite64:error=EIO:when=30+50"
    )
    with on_bad_disk(f"{CHILDREN}.writes_whatever_happens", database, channel=channel) as child:
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


@pytest.mark.skipif("not succeeds(*INJECT)", reason="no strace here, or it may not trace")
@by_default
async def test_the_log_is_deleted_while_a_slow_disk_takes_it(
    open_layer: OpenLayer, database: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Whoever notices must not write to a database into which another process still copies."""
    layer = open_layer(capacity=100_000)
    await layer.send("jobs", {"type": "test"})
    on_slow_disk = Child.under(
        "strace", "-fqq", "-o/dev/null", "-einject=fsync,fdatasync:delay_exit=2000000:when=1"
    )
    with on_slow_disk(f"{CHILDREN}.makes_a_checkpoint", database) as child:
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
@pytest.mark.parametrize("what", ["file", "directory", "both"])
async def test_only_others_may_write(start_with: StartWith, database: Path, what: str) -> None:
    """Each use says so, with the path and what to do; given the rights, it works."""
    folder = database.parent / "folder"
    os.mkdir(folder)
    path = Path(shutil.move(database, folder))
    modes = {"file": (0o755, 0o444), "directory": (0o555, 0o644), "both": (0o555, 0o444)}
    rights = f"chmod {modes[what][1]:o} {path}; chmod {modes[what][0]:o} {folder}"
    try:
        peer = Peer(start_with(*unprivileged(rights), database=path))
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
def test_the_disk_is_read_only(start_with: StartWith, database: Path) -> None:
    on_read_only_disk = in_namespace(
        f"mount --bind {database.parent} {database.parent};"
        f" mount -o remount,ro,bind {database.parent}"
    )
    check_refused(Peer(start_with(*on_read_only_disk)), database)
