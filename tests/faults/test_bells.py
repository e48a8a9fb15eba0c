"""The directory of bells, `<database>-bells`: whatever becomes of it, messages pass and the living
stay members; and readers are born, killed and many.
"""

from __future__ import annotations

import os
import secrets
import select
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from channels_sqlite.exceptions import DatabaseUnavailable
from channels_sqlite.layers import SqliteChannelLayer
from tests.conftest import WATCHERS, Start
from tests.databases import alias_for
from tests.faults.peers import (
    AT_LENGTH,
    EXAMPLES,
    MARKS,
    Company,
    Peer,
    bell_of,
    bells,
    bells_in,
    client_of,
)
from tests.processes import succeeds  # noqa: F401 - for skipif
from tests.rows import message
from tests.waiting import soon, wait_until

pytestmark = [
    pytest.mark.skipif(sys.platform == "win32", reason="no flock here"),  # no bells without locks
    pytest.mark.timeout(120 + EXAMPLES),
]
CHILDREN = "tests.faults.bell_children"
kinds = pytest.mark.parametrize("watcher", WATCHERS if AT_LENGTH else ["auto"], indirect=True)
STALE = 10_000 if AT_LENGTH else 3_000
HANGS = 30.0  # seconds, of which only a hang takes so many


@kinds
def test_the_directory_vanishes(start: Start, database: Path, tmp_path: Path, watcher: str) -> None:
    """Deleted, or moved away: a missing bell proves nothing; each reader makes a new one.

    Or a link stands in its place: nobody makes bells in the directory that it names, or takes its
    files for bells.
    """
    company = Company(start, watcher=watcher)
    company.exchange()
    folder, elsewhere = bells(database), tmp_path / "elsewhere"
    for vanish in (shutil.rmtree, lambda folder: folder.rename(folder.with_name("away"))):
        vanish(folder)
        company.grow()
        company.check()
        for _, channel in company.members:
            wait_until(bell_of(database, channel).exists, HANGS)
    elsewhere.mkdir()
    stranger = elsewhere / secrets.token_urlsafe(9)
    stranger.write_text("hands off")
    os.utime(stranger, (1, 1))
    shutil.rmtree(folder)
    folder.symlink_to(elsewhere)
    company.sender.send(f"specific.{stranger.name}!x", message(1))
    company.grow()
    company.check()
    assert os.listdir(elsewhere) == [stranger.name]
    assert stranger.read_text() == "hands off"
    assert stranger.stat().st_mtime == 1


IS_ROOT = getattr(os, "geteuid", lambda: None)() == 0
WEAK = ("setpriv", "--inh-caps=-all", "--bounding-set=-all")
"""A command under which root, too, has only the rights of an owner."""


@kinds
def test_the_directory_is_full_of_bells_of_the_dead_and_then_read_only(
    start: Start, database: Path, watcher: str
) -> None:
    """Thousands are swept when the file is opened, while messages pass. Later, readers that have
    a bell keep it. One that comes then cannot have one, and hears all the same.
    """
    (folder := bells(database)).mkdir()
    for _ in range(STALE):
        (folder / secrets.token_urlsafe(9)).touch()
    weak = WEAK if IS_ROOT and shutil.which(WEAK[0]) else ()
    company = Company(start, by=weak, watcher=watcher)
    company.exchange()
    wait_until(lambda: len(bells_in(database)) <= 3, HANGS)
    company.check()
    for peer in (company.sender, *(peer for peer, _ in company.members)):
        assert {level for level, _ in peer.log()} <= {"INFO"}
    before = bells_in(database)
    assert {client_of(channel) for _, channel in company.members} <= before
    folder.chmod(0o555)
    try:
        if not subprocess.run([*weak, "touch", folder / "x"], capture_output=True).returncode:
            pytest.skip("root may write everywhere")
        company.grow()
        company.check()
    finally:
        folder.chmod(0o755)
    assert bells_in(database) == before


class Traps:
    """Things to put where the layer expects files of its own, and what they must not lead to."""

    kinds = ("link", "dangling link", "directory", "pipe")

    def __init__(self, elsewhere: Path) -> None:
        self._victim, self._absent = elsewhere / "victim", elsewhere / "absent"
        self._victim.write_text("hands off")
        os.utime(self._victim, (1, 1))
        self._kept: list[Path] = []

    def put(self, kind: str, path: Path) -> None:
        path.unlink(missing_ok=True)
        if kind == "link":
            path.symlink_to(self._victim)
        elif kind == "dangling link":
            path.symlink_to(self._absent)
        elif kind == "directory":
            path.mkdir()
            self._kept.append(path / "kept")
            self._kept[-1].touch()
        else:
            os.mkfifo(path)

    def check(self) -> None:
        """Nobody has followed, changed or emptied one."""
        assert self._victim.read_text() == "hands off"
        assert self._victim.stat().st_mtime == 1
        assert not self._absent.exists()
        assert [path for path in self._kept if not path.exists()] == []


@pytest.fixture
def traps(tmp_path: Path) -> Traps:
    return Traps(tmp_path)


@kinds
def test_other_things_stand_where_bells_should(
    start: Start, database: Path, traps: Traps, watcher: str
) -> None:
    """Links, directories and pipes, under the names of living readers and of strangers: nobody
    follows them, opens them for writing, or hangs.
    """
    folder = bells(database)
    company = Company(start, len(traps.kinds), watcher=watcher)
    company.exchange()
    strangers = [secrets.token_urlsafe(9) for _ in traps.kinds]
    for kind, (_, channel), stranger in zip(traps.kinds, company.members, strangers, strict=True):
        traps.put(kind, bell_of(database, channel))
        traps.put(kind, folder / stranger)
    with heard_pipe(pipe := folder / secrets.token_urlsafe(9)) as hung_up:
        for client in [*strangers, pipe.name]:
            company.sender.send(f"specific.{client}!x", message(1))
        company.grow()
        company.check()
        assert not hung_up.poll(0)
    traps.check()


@pytest.mark.parametrize("kind", Traps.kinds)
async def test_other_things_stand_where_marks_should(
    database: Path, traps: Traps, kind: str
) -> None:
    """Nobody follows them or hangs. An error may say that they are in the way."""
    for mark in MARKS:
        path = Path(shutil.copy(database, database.with_name(f"beside{mark}")))
        bells(path).mkdir()
        traps.put(kind, bells(path) / mark)
        with alias_for(path) as alias:
            layer = SqliteChannelLayer(database=alias)
            channel = await layer.new_channel()
            with suppress(DatabaseUnavailable):
                await layer.group_add("group", channel)
                await layer.group_send("group", message(1))
                assert await soon(layer.receive(channel)) == message(1)
            await layer.close()
    traps.check()


@contextmanager
def heard_pipe(path: Path) -> Iterator[select.poll]:
    """A named pipe at which the test listens. The kernel hangs up when a writer has come, even if
    it is gone.
    """
    os.mkfifo(path)
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    try:
        yield poll
    finally:
        os.close(descriptor)


def test_nobody_is_taken_for_dead_at_its_birth(start: Start, database: Path) -> None:
    """Readers begin and end, beside processes that sweep without a pause: each is a member, hears
    its group and hears what it is sent; and so do the readers that were there before.
    """
    company = Company(start)
    sweepers = [Peer(start) for _ in range(2)]
    sweepers[0].keep_sending(0.001)
    sweepers[1].keep_opening()
    cradles = [Peer(start) for _ in range(2)]
    for cradle in cradles:
        cradle.begin("births", (EXAMPLES if AT_LENGTH else 50) // len(cradles))
    company.check()
    for cradle in cradles:
        assert cradle.result(HANGS + EXAMPLES) == []
    company.check(0)


def test_killed_at_any_moment_of_their_birth(start: Start, database: Path) -> None:
    """Readers that die while they make their bells, or join a group, leave nothing."""
    count = 1000 if AT_LENGTH else 50
    nursery = start(f"{CHILDREN}.killed_while_young", count=count, within=0.05, group="doomed")
    assert nursery.hear(HANGS + count) == "killed"
    nursery.finish()
    fresh, sender = Peer(start), Peer(start)
    channel = fresh.join("group")
    sender.group_send("group", message(1))
    sender.send(channel, message(2))
    assert fresh.heard(channel, 2) == [1, 2]
    sender.keep_sending()
    # The sender has a bell as well, because it keeps sending to itself.
    wait_until(lambda: len(bells_in(database)) <= 2, HANGS)
    assert client_of(channel) in bells_in(database)
    wait_until(lambda: sender.group_count("doomed") == 0, HANGS)
    assert sender.group_channels("group") == [channel]


CONTAINER: tuple[str, ...] = ("unshare", "--mount", "--pid", "--fork", "--kill-child")
CONTAINER += () if IS_ROOT else ("--user", "--map-root-user")
WITH_VOLUME = 'mount --bind "$0" /mnt && exec "$@"'


CONTAINED = (*CONTAINER, "sh", "-c", WITH_VOLUME, "/tmp", "true")


@pytest.mark.skipif("not succeeds(*CONTAINED)", reason="no namespaces here")
def test_two_containers_share_a_directory(start: Start, database: Path) -> None:
    """Each has process ids of its own and sees the directory at another path: they hear each other,
    take each other for living while they live, and for dead when they are killed.
    """
    in_volume = Path("/mnt", database.name)
    company = Company(start, 1, by=CONTAINER)
    second = (*CONTAINER, "sh", "-c", WITH_VOLUME, str(database.parent))
    other = Peer(start, by=second, on=in_volume)
    company.members.append((other, channel := other.join(company.group)))
    for peer in (company.sender, other):
        peer.keep_sending()
    company.check()
    company.sender, sender = other, company.sender
    company.check()
    company.sender = sender
    other.child.kill()
    company.members.pop()
    wait_until(lambda: channel not in sender.group_channels(company.group), HANGS)
    company.exchange()


CROWDS = [(100, 1), (2, 50), (5, 200)] if AT_LENGTH else [(5, 10)]
FILES = 40  # descriptors of a process: connections, watches, its event loop
FILES_EACH = 3  # of each further reader in it


@pytest.mark.skipif(sys.platform != "linux", reason="no /proc here")
@pytest.mark.parametrize(("processes", "layers"), CROWDS)
def test_a_crowd_of_readers(start: Start, processes: int, layers: int) -> None:
    """All hear a message to the group that they are in; each costs a few descriptors."""
    sender = Peer(start)
    crowd = start(f"{CHILDREN}.crowd", processes=processes, layers=layers, group="crowd")
    for _ in range(processes):
        assert crowd.hear(HANGS + layers) == "joined"
    assert sender.group_count("crowd") == processes * layers
    sender.group_send("crowd", message(1))
    for _ in range(processes):
        said = crowd.hear(HANGS + layers)
        assert said["heard"] == [1] * layers
        assert said["descriptors"] <= FILES + FILES_EACH * layers
    assert crowd.wait() == 0
